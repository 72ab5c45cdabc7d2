//! A distance from a region's base.
use crate::region::{BadPtr, Region};
use crate::share::ShmSync;
use bytemuck::{AnyBitPattern, Pod, Zeroable};
use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;
use core::mem::align_of;
use core::ptr::NonNull;

/// A pointer to a `T` in shared memory: its distance from the region's base, plus one; 0 is null.
///
/// Plus one, so that the base itself can be pointed at (PostgreSQL's `relptr` once could not). Any
/// 64 bits are a valid value; whether they lead anywhere is checked when the pointer is followed,
/// against the region the caller names. It may therefore be read from memory that others write.
///
/// It is a plain integer: in memory that others may write at the same time it stands inside an
/// [`AtomicRelPtr`](crate::AtomicRelPtr), or is read by [`Region::read`].
///
/// ```
/// use core::sync::atomic::AtomicU64;
/// use relptr::{BadPtr, Region, RelPtr};
/// # let mut memory = [0u64; 8];
/// # // SAFETY: 64 bytes that nothing else refers to while the region lives.
/// # let region = unsafe { Region::from_raw(core::ptr::NonNull::from(&mut memory).cast(), 64) };
/// let counter: &AtomicU64 = region.share(16)?;
/// let pointer = RelPtr::from_ref(region, counter)?;
/// assert_eq!(pointer.offset(), Some(16));
/// assert!(core::ptr::eq(pointer.share(region)?, counter));
///
/// let wild = RelPtr::<AtomicU64>::from_bits(0xdead_beef);
/// assert!(matches!(wild.share(region), Err(BadPtr::OutOfBounds { .. })));
/// # Ok::<(), BadPtr>(())
/// ```
///
/// A reference is given only to what is sound to share:
///
/// ```compile_fail,E0277
/// # fn region() -> relptr::Region<'static> { unimplemented!() }
/// let plain: &u64 = relptr::RelPtr::<u64>::from_offset(0).share(region()).unwrap();
/// ```
#[repr(transparent)]
pub struct RelPtr<T> {
    /// 0, or offset + 1.
    word: u64,
    target: PhantomData<fn() -> T>,
}

impl<T> RelPtr<T> {
    /// Points nowhere. It is what zeroed memory holds.
    pub const NULL: RelPtr<T> = RelPtr::from_bits(0);

    /// The pointer to `offset`.
    ///
    /// `u64::MAX` cannot be stored and becomes the offset before it: both are outside every region.
    pub const fn from_offset(offset: u64) -> RelPtr<T> {
        RelPtr::from_bits(offset.saturating_add(1))
    }

    /// The pointer to `target`, which lies in `region`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`] where it does not.
    pub fn from_ref(region: Region<'_>, target: &T) -> Result<RelPtr<T>, BadPtr> {
        RelPtr::from_addr(region, NonNull::from(target))
    }

    /// The pointer to the `T` at `address`, which lies in `region`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`] where it does not.
    pub fn from_addr(region: Region<'_>, address: NonNull<T>) -> Result<RelPtr<T>, BadPtr> {
        region.offset_of(address).map(RelPtr::from_offset)
    }

    /// The pointer that [`to_bits`](RelPtr::to_bits) gave; any other bits will do as well.
    pub const fn from_bits(word: u64) -> RelPtr<T> {
        RelPtr { word, target: PhantomData }
    }

    /// What is stored: 0 for null, else offset + 1.
    pub const fn to_bits(self) -> u64 {
        self.word
    }

    /// Whether it points nowhere.
    pub const fn is_null(self) -> bool {
        self.word == 0
    }

    /// The distance from the base in bytes; `None` for null.
    pub const fn offset(self) -> Option<u64> {
        self.word.checked_sub(1)
    }

    /// The same place, taken for a `U`.
    pub const fn cast<U>(self) -> RelPtr<U> {
        RelPtr::from_bits(self.word)
    }

    /// The address it means in `region`: in bounds and aligned.
    ///
    /// # Errors
    /// [`BadPtr::Null`], [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    pub fn resolve(self, region: Region<'_>) -> Result<NonNull<T>, BadPtr> {
        region.at(self.offset().ok_or(BadPtr::Null)?)
    }

    /// A reference to its target.
    ///
    /// # Errors
    /// As [`resolve`](RelPtr::resolve).
    pub fn share(self, region: Region<'_>) -> Result<&T, BadPtr>
    where
        T: ShmSync,
    {
        region.share(self.offset().ok_or(BadPtr::Null)?)
    }

    /// A copy of its target, which need not be aligned and may be torn: see [`Region::read`].
    ///
    /// # Errors
    /// [`BadPtr::Null`], [`BadPtr::OutOfBounds`].
    pub fn read(self, region: Region<'_>) -> Result<T, BadPtr>
    where
        T: AnyBitPattern,
    {
        region.read(self.offset().ok_or(BadPtr::Null)?)
    }
}

/// A [`RelPtr`] in four bytes: its distance in units of `T`'s alignment, plus one; 0 is null.
///
/// It reaches [`REACH`](RelPtr32::REACH) bytes from the base: 4 GiB times the alignment of `T`, so
/// 32 GiB for a `u64` and 256 GiB for what is aligned to a cache line.
///
/// ```
/// use relptr::{BadPtr, RelPtr32};
/// let pointer = RelPtr32::<u64>::from_offset(8 << 30)?;
/// assert_eq!(pointer.widen().offset(), Some(8 << 30));
/// assert!(matches!(RelPtr32::<u64>::from_offset(1 << 40), Err(BadPtr::TooFar { .. })));
/// # Ok::<(), BadPtr>(())
/// ```
#[repr(transparent)]
pub struct RelPtr32<T> {
    /// 0, or offset / align + 1.
    word: u32,
    target: PhantomData<fn() -> T>,
}

impl<T> RelPtr32<T> {
    const UNIT: u64 = align_of::<T>() as u64;

    /// The first offset that does not fit.
    pub const REACH: u64 = u32::MAX as u64 * Self::UNIT;

    /// Points nowhere. It is what zeroed memory holds.
    pub const NULL: RelPtr32<T> = RelPtr32::from_bits(0);

    /// The pointer to `offset`.
    ///
    /// # Errors
    /// [`BadPtr::TooFar`] from [`REACH`](RelPtr32::REACH) on; [`BadPtr::Misaligned`].
    pub const fn from_offset(offset: u64) -> Result<RelPtr32<T>, BadPtr> {
        if offset >= Self::REACH {
            return Err(BadPtr::TooFar { offset, reach: Self::REACH });
        }
        if !offset.is_multiple_of(Self::UNIT) {
            return Err(BadPtr::Misaligned { offset, align: Self::UNIT });
        }
        Ok(RelPtr32::from_bits((offset / Self::UNIT) as u32 + 1))
    }

    /// The pointer that [`to_bits`](RelPtr32::to_bits) gave; any other bits will do as well.
    pub const fn from_bits(word: u32) -> RelPtr32<T> {
        RelPtr32 { word, target: PhantomData }
    }

    /// What is stored.
    pub const fn to_bits(self) -> u32 {
        self.word
    }

    /// Whether it points nowhere.
    pub const fn is_null(self) -> bool {
        self.word == 0
    }

    /// The same pointer in eight bytes, which can be followed.
    pub const fn widen(self) -> RelPtr<T> {
        match self.word.checked_sub(1) {
            Some(units) => RelPtr::from_offset(units as u64 * Self::UNIT),
            None => RelPtr::NULL,
        }
    }
}

impl<T> From<RelPtr32<T>> for RelPtr<T> {
    fn from(pointer: RelPtr32<T>) -> RelPtr<T> {
        pointer.widen()
    }
}

impl<T> TryFrom<RelPtr<T>> for RelPtr32<T> {
    type Error = BadPtr;

    fn try_from(pointer: RelPtr<T>) -> Result<RelPtr32<T>, BadPtr> {
        pointer.offset().map_or(Ok(RelPtr32::NULL), RelPtr32::from_offset)
    }
}

/// What derives would do, but whatever `T` is.
macro_rules! plain_word {
    ($($name:ident),*) => { $(
        impl<T> Clone for $name<T> {
            fn clone(&self) -> $name<T> {
                *self
            }
        }
        impl<T> Copy for $name<T> {}
        impl<T> PartialEq for $name<T> {
            fn eq(&self, other: &$name<T>) -> bool {
                self.word == other.word
            }
        }
        impl<T> Eq for $name<T> {}
        impl<T> Hash for $name<T> {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.word.hash(state);
            }
        }
        impl<T> Default for $name<T> {
            fn default() -> $name<T> {
                $name::NULL
            }
        }
        // SAFETY: one integer (transparent), for which 0 is valid.
        unsafe impl<T> Zeroable for $name<T> {}
        // SAFETY: one integer (transparent): no padding, any bits are valid, no pointer.
        unsafe impl<T: 'static> Pod for $name<T> {}
    )* };
}
plain_word!(RelPtr, RelPtr32);

impl<T> fmt::Debug for RelPtr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset() {
            Some(offset) => write!(f, "RelPtr(+{offset:#x})"),
            None => f.write_str("RelPtr(null)"),
        }
    }
}

impl<T> fmt::Debug for RelPtr32<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.widen().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;

    #[test]
    fn a_pointer_to_the_base_is_not_null() {
        let base = RelPtr::<u64>::from_offset(0);
        assert!(!base.is_null());
        assert_eq!((base.to_bits(), base.offset()), (1, Some(0)));
        let compact = RelPtr32::try_from(base).unwrap();
        assert!(!compact.is_null());
        assert_eq!(compact.widen(), base);
    }

    #[test]
    fn zeroed_memory_holds_null() {
        assert!(RelPtr::<u64>::zeroed().is_null());
        assert!(RelPtr32::<u64>::zeroed().widen().is_null());
        assert_eq!(RelPtr32::try_from(RelPtr::<u64>::NULL), Ok(RelPtr32::NULL));
    }

    #[test]
    fn the_last_offset_is_not_null_either() {
        assert!(!RelPtr::<u8>::from_offset(u64::MAX).is_null());
    }

    #[test]
    fn the_compact_form_ends_at_its_reach() {
        let last = RelPtr32::<u32>::REACH - 4;
        assert_eq!(RelPtr32::<u32>::from_offset(last).unwrap().widen().offset(), Some(last));
        let reach = last + 4;
        let too_far = Err(BadPtr::TooFar { offset: reach, reach });
        assert_eq!(RelPtr32::<u32>::from_offset(reach), too_far);
        let odd = Err(BadPtr::Misaligned { offset: 6, align: 4 });
        assert_eq!(RelPtr32::<u32>::from_offset(6), odd);
    }

    #[test]
    fn debug_needs_nothing_of_the_target() {
        struct Opaque;
        assert_eq!(format!("{:?}", RelPtr::<Opaque>::from_offset(64)), "RelPtr(+0x40)");
        assert_eq!(format!("{:?}", RelPtr32::<Opaque>::NULL), "RelPtr(null)");
    }
}
