//! A piece of memory that other processes may map too, and the checked doors into it.
use crate::share::ShmSync;
use bytemuck::AnyBitPattern;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::{MaybeUninit, align_of, size_of};
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

#[cfg(not(shm_explore))]
use core::sync::atomic::{AtomicU8, AtomicU64};
#[cfg(shm_explore)]
use shm_testkit::explore::{AtomicU8, AtomicU64};

/// Why a relative pointer, an offset or a range could not be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadPtr {
    /// The null pointer.
    Null,
    /// The range does not lie inside the region.
    OutOfBounds {
        /// First byte asked for, counted from the region's base.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes in the region.
        region: u64,
    },
    /// The address is not a multiple of the type's alignment.
    Misaligned {
        /// First byte asked for, counted from the region's base.
        offset: u64,
        /// The alignment the type needs, in bytes.
        align: u64,
    },
    /// The offset is too great for a compact or tagged pointer.
    TooFar {
        /// The offset that was to be stored.
        offset: u64,
        /// The first offset that does not fit.
        reach: u64,
    },
    /// The slice is longer than the buffer it was to be copied to.
    NoRoom {
        /// Elements in the slice.
        len: u64,
        /// Elements that the buffer holds.
        room: u64,
    },
}

impl core::fmt::Display for BadPtr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            BadPtr::Null => write!(f, "null relative pointer"),
            BadPtr::OutOfBounds { offset, len, region } => {
                write!(f, "{len} bytes at offset {offset} are outside a region of {region} bytes")
            }
            BadPtr::Misaligned { offset, align } => {
                write!(f, "offset {offset} is not aligned to {align} bytes")
            }
            BadPtr::TooFar { offset, reach } => {
                write!(f, "offset {offset} is out of this pointer's reach of {reach} bytes")
            }
            BadPtr::NoRoom { len, room } => {
                write!(f, "{len} elements do not fit a buffer of {room}")
            }
        }
    }
}

impl core::error::Error for BadPtr {}

/// Base, length and provenance of memory that is valid for `'a` and may be written by others.
///
/// It hands out raw pointers, copies, and references only to [`ShmSync`] types. Every door checks
/// its bounds, so that an offset which another process wrote may be passed as it is.
///
/// ```
/// use core::sync::atomic::{AtomicU64, Ordering};
/// use relptr::{BadPtr, Region};
/// # use core::ptr::NonNull;
///
/// let mut memory = [0u64; 8];
/// // SAFETY: 64 bytes that nothing else refers to while the region lives.
/// let region: Region<'_> = unsafe { Region::from_raw(NonNull::from(&mut memory).cast(), 64) };
///
/// region.share::<AtomicU64>(8)?.store(7, Ordering::Relaxed);
/// assert_eq!(region.read::<u64>(8)?, 7);
/// assert!(matches!(region.share::<AtomicU64>(60), Err(BadPtr::OutOfBounds { .. })));
/// # Ok::<(), BadPtr>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    base: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'a UnsafeCell<[u8; 0]>>,
}

// SAFETY: a region is an address range; what may be done with it is decided at each door.
unsafe impl Send for Region<'_> {}
// SAFETY: as above.
unsafe impl Sync for Region<'_> {}

impl<'a> Region<'a> {
    /// The region of `len` bytes at `base`.
    ///
    /// # Safety
    /// `base .. base + len` is one allocation or mapping, readable and writable for `'a`, and Rust
    /// references to it exist only to [`ShmSync`] types.
    pub const unsafe fn from_raw(base: NonNull<u8>, len: usize) -> Region<'a> {
        Region { base, len, memory: PhantomData }
    }

    /// Address of the first byte.
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Size in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the region has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`] where the range does not lie inside the region.
    pub fn range(&self, offset: u64, len: u64) -> Result<NonNull<u8>, BadPtr> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len as u64 => {
                // SAFETY: offset <= end <= len of this one allocation.
                Ok(unsafe { self.base.add(offset as usize) })
            }
            _ => Err(self.out_of_bounds(offset, len)),
        }
    }

    pub(crate) fn out_of_bounds(&self, offset: u64, len: u64) -> BadPtr {
        BadPtr::OutOfBounds { offset, len, region: self.len as u64 }
    }

    /// The sub-region of `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`] where the range does not lie inside the region.
    pub fn sub(&self, offset: u64, len: u64) -> Result<Region<'a>, BadPtr> {
        let base = self.range(offset, len)?;
        Ok(Region { base, len: len as usize, memory: PhantomData })
    }

    /// The address of a `T` at `offset`: in bounds and aligned.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    pub fn at<T>(&self, offset: u64) -> Result<NonNull<T>, BadPtr> {
        self.array::<T>(offset, 1)
    }

    /// The address of `count` consecutive `T` at `offset`: in bounds and aligned.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    pub fn array<T>(&self, offset: u64, count: u64) -> Result<NonNull<T>, BadPtr> {
        let len = (size_of::<T>() as u64).saturating_mul(count);
        let address = self.range(offset, len)?.cast::<T>();
        if !address.is_aligned() {
            return Err(BadPtr::Misaligned { offset, align: align_of::<T>() as u64 });
        }
        Ok(address)
    }

    /// A reference to the `T` at `offset`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    pub fn share<T: ShmSync>(&self, offset: u64) -> Result<&'a T, BadPtr> {
        let address = self.at::<T>(offset)?;
        // SAFETY: in bounds and aligned (`at`), alive for 'a (`from_raw`), any bits are a T
        // (ShmSync).
        Ok(unsafe { address.as_ref() })
    }

    /// References to `count` consecutive `T` at `offset`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    pub fn share_slice<T: ShmSync>(&self, offset: u64, count: u64) -> Result<&'a [T], BadPtr> {
        let address = self.array::<T>(offset, count)?;
        // SAFETY: in bounds and aligned (`array`), alive for 'a (`from_raw`), any bits are a T.
        Ok(unsafe { core::slice::from_raw_parts(address.as_ptr(), count as usize) })
    }

    /// The offset of the `T` at `address`: the other way round from [`at`](Region::at).
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`] where the `T` does not lie inside the region.
    pub fn offset_of<T>(&self, address: NonNull<T>) -> Result<u64, BadPtr> {
        self.offset_of_array(address, 1)
    }

    /// The offset of `count` consecutive `T` at `address`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`] where they do not all lie inside the region.
    pub fn offset_of_array<T>(&self, address: NonNull<T>, count: u64) -> Result<u64, BadPtr> {
        let offset = address.addr().get().wrapping_sub(self.base.addr().get()) as u64;
        self.range(offset, (size_of::<T>() as u64).saturating_mul(count))?;
        Ok(offset)
    }

    /// A copy of the `T` at `offset`, which need not be aligned.
    ///
    /// Nobody need stand still meanwhile: the copy is made by relaxed atomic loads. Where another
    /// process is writing these very bytes, the copy is *some* `T`, part old and part new; who
    /// needs a consistent one validates it afterwards (a version word) or owns the bytes.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`].
    pub fn read<T: AnyBitPattern>(&self, offset: u64) -> Result<T, BadPtr> {
        let from = self.range(offset, size_of::<T>() as u64)?;
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: `range` found size_of::<T>() bytes at `from`; `value` has as many, and is ours.
        unsafe { copy_racing(from, value.as_mut_ptr().cast(), size_of::<T>()) };
        // SAFETY: every byte is written, and any bits are a T (AnyBitPattern).
        Ok(unsafe { value.assume_init() })
    }

    /// Writes `value` in place at `offset` and shares it.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    ///
    /// # Safety
    /// Nobody else accesses these bytes until the returned reference has been published.
    pub unsafe fn place<T: ShmSync>(&self, offset: u64, value: T) -> Result<&'a T, BadPtr> {
        let address = self.at::<T>(offset)?;
        // SAFETY: in bounds and aligned; exclusive by the caller's promise.
        unsafe { write(address, value) };
        // SAFETY: just written; alive for 'a.
        Ok(unsafe { address.as_ref() })
    }
}

/// As [`NonNull::write`]. An explored process writes word by word, and may die in between.
unsafe fn write<T>(address: NonNull<T>, value: T) {
    #[cfg(not(shm_explore))]
    // SAFETY: the caller's promise.
    unsafe {
        address.write(value)
    };
    #[cfg(shm_explore)]
    // SAFETY: as above.
    unsafe {
        shm_testkit::explore::place(address.as_ptr(), value)
    };
}

/// Copies `len` bytes that others may be writing: words where `from` is aligned, else bytes.
///
/// # Safety
/// `from` is valid for `len` bytes of a region, `to` for as many that nobody else accesses.
pub(crate) unsafe fn copy_racing(from: NonNull<u8>, to: *mut u8, len: usize) {
    const WORD: usize = size_of::<u64>();
    let mut done = 0;
    while done < len {
        // SAFETY: done < len.
        let source = unsafe { from.add(done) };
        // SAFETY: as above.
        let target = unsafe { to.add(done) };
        if len - done >= WORD && source.cast::<u64>().is_aligned() {
            // SAFETY: aligned, and WORD bytes are left.
            let word = unsafe { AtomicU64::from_ptr(source.as_ptr().cast()) };
            let word = word.load(Ordering::Relaxed);
            // SAFETY: WORD bytes are left.
            unsafe { target.cast::<u64>().write_unaligned(word) };
            done += WORD;
        } else {
            // SAFETY: one byte is left at least.
            let byte = unsafe { AtomicU8::from_ptr(source.as_ptr()) }.load(Ordering::Relaxed);
            // SAFETY: as above.
            unsafe { target.write(byte) };
            done += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_need_not_be_aligned() {
        let bytes: [u8; 32] = core::array::from_fn(|i| i as u8);
        let mut memory: [u64; 4] = bytemuck::cast(bytes);
        // SAFETY: 32 bytes, used by nothing else.
        let region = unsafe { Region::from_raw(NonNull::from(&mut memory).cast(), 32) };
        for offset in 0..16u8 {
            let read = region.read::<[u8; 16]>(u64::from(offset));
            assert_eq!(read, Ok(core::array::from_fn(|i| offset + i as u8)));
        }
        assert_eq!(region.read::<[u8; 16]>(17), Err(region.out_of_bounds(17, 16)));
    }

    #[test]
    fn addresses_outside_have_no_offset() {
        let mut memory = [0u64; 4];
        let base = NonNull::from(&mut memory).cast::<u64>();
        // SAFETY: 32 bytes, used by nothing else.
        let whole = unsafe { Region::from_raw(base.cast(), 32) };
        let region = whole.sub(8, 16).unwrap();
        let at = |index: usize| base.map_addr(|a| a.checked_add(8 * index).unwrap_or(a));
        assert_eq!(region.offset_of(at(1)), Ok(0));
        assert_eq!(region.offset_of(at(2)), Ok(8));
        assert_eq!(region.offset_of(at(3)), Err(region.out_of_bounds(16, 8)));
        assert!(region.offset_of(at(0)).is_err(), "before the base");
    }
}
