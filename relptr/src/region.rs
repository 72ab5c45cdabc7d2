//! A piece of memory that other processes may map too, and the checked doors into it.
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::ptr::NonNull;

/// Types that are sound to share by reference while other processes read and write them.
///
/// # Safety
/// Every byte of the type that anyone writes after creation is inside an atomic (or padding), any
/// bit pattern is a valid value of each field, and dropping the value does nothing.
pub unsafe trait ShmSync: Sync {}

macro_rules! shm_sync {
    ($($t:ident),*) => { $(
        // SAFETY: an atomic integer: shared mutation is its purpose and all bit patterns are valid.
        unsafe impl ShmSync for core::sync::atomic::$t {}
    )* };
}
shm_sync!(AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicI32, AtomicI64);
// SAFETY: an array of shareable values holds nothing else.
unsafe impl<T: ShmSync, const N: usize> ShmSync for [T; N] {}

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
        }
    }
}

impl core::error::Error for BadPtr {}

/// Base, length and provenance of memory that is valid for `'a` and may be written by others.
///
/// It hands out raw pointers, and references only to [`ShmSync`] types.
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
        let region = self.len as u64;
        match offset.checked_add(len) {
            Some(end) if end <= region => {
                // SAFETY: offset <= end <= len of this one allocation.
                Ok(unsafe { self.base.add(offset as usize) })
            }
            _ => Err(BadPtr::OutOfBounds { offset, len, region }),
        }
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
        let region = self.len as u64;
        let len = (size_of::<T>() as u64).checked_mul(count).ok_or(BadPtr::OutOfBounds {
            offset,
            len: u64::MAX,
            region,
        })?;
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
        // SAFETY: in bounds and aligned (`at`), alive for 'a (`from_raw`), any bits are a T (ShmSync).
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
        unsafe { address.write(value) };
        // SAFETY: just written; alive for 'a.
        Ok(unsafe { address.as_ref() })
    }
}
