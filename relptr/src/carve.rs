//! Handing out a region piece by piece.
use crate::region::{BadPtr, Region};
use crate::share::ShmSync;
use core::mem::align_of;
use core::ptr::NonNull;

/// A cursor that hands out consecutive, aligned pieces of a region.
///
/// Padding depends on offsets alone, so whoever takes the same pieces in the same order gets them
/// at the same offsets, wherever the region is mapped. A refused piece does not move the cursor.
///
/// ```
/// use core::sync::atomic::{AtomicU32, AtomicU64};
/// # use relptr::{BadPtr, Region};
/// # let mut memory = [0u64; 8];
/// # // SAFETY: 64 bytes that nothing else refers to while the region lives.
/// # let region = unsafe { Region::from_raw(core::ptr::NonNull::from(&mut memory).cast(), 64) };
/// let mut carver = region.carve();
/// let flags: &AtomicU32 = carver.share()?;
/// let slots: &[AtomicU64] = carver.share_slice(3)?;
/// assert_eq!((carver.used(), slots.len()), (32, 3));
/// let bytes: Region<'_> = carver.rest();
/// assert_eq!(bytes.len(), 32);
/// # Ok::<(), BadPtr>(())
/// ```
#[derive(Debug)]
pub struct Carver<'a> {
    region: Region<'a>,
    /// At most `region.len()`.
    used: u64,
}

impl<'a> Region<'a> {
    /// Starts handing out pieces, from offset 0.
    pub const fn carve(&self) -> Carver<'a> {
        Carver { region: *self, used: 0 }
    }
}

impl<'a> Carver<'a> {
    /// The offset of the first byte not handed out yet.
    pub const fn used(&self) -> u64 {
        self.used
    }

    /// The address of the next `T`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`] where too little is left; [`BadPtr::Misaligned`] where the region's
    /// base is less aligned than `T`.
    pub fn take<T>(&mut self) -> Result<NonNull<T>, BadPtr> {
        self.take_array(1)
    }

    /// The address of the next `count` consecutive `T`.
    ///
    /// # Errors
    /// As [`take`](Carver::take).
    pub fn take_array<T>(&mut self, count: u64) -> Result<NonNull<T>, BadPtr> {
        let offset = self.aligned(align_of::<T>() as u64)?;
        let address = self.region.array::<T>(offset, count)?;
        // In bounds, hence no overflow.
        self.used = offset + size_of::<T>() as u64 * count;
        Ok(address)
    }

    /// A reference to the next `T`.
    ///
    /// # Errors
    /// As [`take`](Carver::take).
    pub fn share<T: ShmSync>(&mut self) -> Result<&'a T, BadPtr> {
        let address = self.take::<T>()?;
        // SAFETY: in bounds and aligned (`take`), alive for 'a, any bits are a T (ShmSync).
        Ok(unsafe { address.as_ref() })
    }

    /// References to the next `count` consecutive `T`.
    ///
    /// # Errors
    /// As [`take`](Carver::take).
    pub fn share_slice<T: ShmSync>(&mut self, count: u64) -> Result<&'a [T], BadPtr> {
        let address = self.take_array::<T>(count)?;
        // SAFETY: in bounds and aligned (`take_array`), alive for 'a, any bits are a T.
        Ok(unsafe { core::slice::from_raw_parts(address.as_ptr(), count as usize) })
    }

    /// The next `len` bytes, from an offset that is a multiple of `align`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`] where too little is left.
    ///
    /// # Panics
    /// Where `align` is not a power of two.
    pub fn region(&mut self, len: u64, align: u64) -> Result<Region<'a>, BadPtr> {
        assert!(align.is_power_of_two(), "an alignment is a power of two, and {align} is not");
        let offset = self.aligned(align)?;
        let piece = self.region.sub(offset, len)?;
        self.used = offset + len;
        Ok(piece)
    }

    /// All that is left.
    pub fn rest(self) -> Region<'a> {
        let left = self.region.len() as u64 - self.used;
        match self.region.sub(self.used, left) {
            Ok(rest) => rest,
            Err(_) => unreachable!("used <= len"),
        }
    }

    fn aligned(&self, align: u64) -> Result<u64, BadPtr> {
        let padded = self.used.checked_next_multiple_of(align);
        padded.ok_or_else(|| self.region.out_of_bounds(self.used, align))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU8, AtomicU64};

    #[test]
    fn a_refused_piece_leaves_the_cursor() {
        let mut memory = [0u64; 2];
        // SAFETY: 16 bytes, used by nothing else.
        let region = unsafe { Region::from_raw(NonNull::from(&mut memory).cast(), 16) };
        let mut carver = region.carve();
        assert!(carver.share::<AtomicU8>().is_ok());
        assert!(carver.take_array::<u64>(2).is_err());
        assert!(carver.take_array::<u64>(u64::MAX).is_err());
        assert!(carver.region(1, 1 << 63).is_err());
        assert_eq!(carver.used(), 1);
        assert!(carver.share::<AtomicU64>().is_ok());
        assert_eq!(carver.used(), 16);
        assert!(carver.rest().is_empty());
    }

    #[test]
    fn offsets_do_not_depend_on_the_base() {
        let mut memory = [0u64; 4];
        let base = NonNull::from(&mut memory).cast::<u8>();
        // SAFETY: 32 bytes, used by nothing else.
        let whole = unsafe { Region::from_raw(base, 32) };
        let region = whole.sub(4, 28).unwrap();
        let mut carver = region.carve();
        assert_eq!(carver.take::<u32>(), Ok(base.map_addr(|a| a.checked_add(4).unwrap()).cast()));
        assert_eq!(carver.take::<u64>(), Err(BadPtr::Misaligned { offset: 8, align: 8 }));
    }
}
