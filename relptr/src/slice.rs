//! A distance and a length: slices and strings.
use crate::ptr::RelPtr;
use crate::region::{BadPtr, Region, copy_racing};
use crate::share::ShmSync;
use bytemuck::{AnyBitPattern, NoUninit, Pod, Zeroable};
use core::fmt;
use core::mem::size_of;
use core::ptr::NonNull;

/// A slice of `T` in shared memory: a [`RelPtr`] and a number of elements.
///
/// Any bits are a valid value: both halves are checked when it is followed. Zeroed memory holds the
/// null slice, which is an error to follow; an empty one that points somewhere is not.
///
/// ```
/// use relptr::{BadPtr, Region, RelPtr, RelSlice};
/// # let mut memory = [1u64, 2, 3, 4];
/// # // SAFETY: 32 bytes that nothing else refers to while the region lives.
/// # let region = unsafe { Region::from_raw(core::ptr::NonNull::from(&mut memory).cast(), 32) };
/// let slice = RelSlice::<u64>::new(RelPtr::from_offset(8), 2);
/// assert_eq!(slice.read(region, 1)?, 3);
/// let mut copy = [0; 8];
/// assert_eq!(slice.copy_to(region, &mut copy)?, [2, 3]);
/// # Ok::<(), BadPtr>(())
/// ```
#[repr(C)]
pub struct RelSlice<T> {
    start: RelPtr<T>,
    len: u64,
}

const _: () = assert!(size_of::<RelSlice<u8>>() == 16);

impl<T> RelSlice<T> {
    /// `len` elements from `start` on.
    pub const fn new(start: RelPtr<T>, len: u64) -> RelSlice<T> {
        RelSlice { start, len }
    }

    /// The slice at the addresses of `target`, which lies in `region`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`] where it does not.
    pub fn from_addr(region: Region<'_>, target: NonNull<[T]>) -> Result<RelSlice<T>, BadPtr> {
        let len = target.len() as u64;
        let start = region.offset_of_array(target.cast::<T>(), len)?;
        Ok(RelSlice::new(RelPtr::from_offset(start), len))
    }

    /// The pointer to the first element.
    pub const fn start(self) -> RelPtr<T> {
        self.start
    }

    /// Elements it claims to have.
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Whether it claims to have none.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The addresses it means in `region`: in bounds and aligned.
    ///
    /// # Errors
    /// [`BadPtr::Null`], [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    pub fn resolve(self, region: Region<'_>) -> Result<NonNull<[T]>, BadPtr> {
        let first = region.array::<T>(self.start_offset()?, self.len)?;
        Ok(NonNull::slice_from_raw_parts(first, self.len as usize))
    }

    /// References to its elements.
    ///
    /// # Errors
    /// As [`resolve`](RelSlice::resolve).
    pub fn share(self, region: Region<'_>) -> Result<&[T], BadPtr>
    where
        T: ShmSync,
    {
        region.share_slice(self.start_offset()?, self.len)
    }

    /// A copy of one element, as [`Region::read`].
    ///
    /// # Errors
    /// [`BadPtr::Null`]; [`BadPtr::OutOfBounds`], also where the slice has no element `index`.
    pub fn read(self, region: Region<'_>, index: u64) -> Result<T, BadPtr>
    where
        T: AnyBitPattern,
    {
        let size = size_of::<T>() as u64;
        let elements = region.sub(self.start_offset()?, size.saturating_mul(self.len))?;
        elements.read(size.saturating_mul(index))
    }

    /// Copies its elements to the front of `buffer` and returns that part, as [`Region::read`].
    ///
    /// # Errors
    /// [`BadPtr::NoRoom`] where `buffer` is shorter than the slice; [`BadPtr::Null`],
    /// [`BadPtr::OutOfBounds`].
    pub fn copy_to<'b>(self, region: Region<'_>, buffer: &'b mut [T]) -> Result<&'b mut [T], BadPtr>
    where
        T: AnyBitPattern + NoUninit,
    {
        let no_room = BadPtr::NoRoom { len: self.len, room: buffer.len() as u64 };
        let len = usize::try_from(self.len).map_err(|_| no_room)?;
        let part = buffer.get_mut(..len).ok_or(no_room)?;
        let bytes = size_of_val(part);
        let from = region.range(self.start_offset()?, bytes as u64)?;
        // SAFETY: `range` found that many bytes at `from`; `part` has as many, and is ours.
        unsafe { copy_racing(from, part.as_mut_ptr().cast(), bytes) };
        Ok(part)
    }

    fn start_offset(self) -> Result<u64, BadPtr> {
        self.start.offset().ok_or(BadPtr::Null)
    }
}

impl<T> Clone for RelSlice<T> {
    fn clone(&self) -> RelSlice<T> {
        *self
    }
}
impl<T> Copy for RelSlice<T> {}
impl<T> PartialEq for RelSlice<T> {
    fn eq(&self, other: &RelSlice<T>) -> bool {
        (self.start, self.len) == (other.start, other.len)
    }
}
impl<T> Eq for RelSlice<T> {}
impl<T> fmt::Debug for RelSlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelSlice({:?}, {})", self.start, self.len)
    }
}
// SAFETY: two integers (C), for which 0 is valid.
unsafe impl<T> Zeroable for RelSlice<T> {}
// SAFETY: two integers of one size (C): no padding, any bits are valid, no pointer.
unsafe impl<T: 'static> Pod for RelSlice<T> {}

/// A string in shared memory: a [`RelSlice`] of bytes that ought to be UTF-8.
///
/// It is checked on a private copy, for a `&str` to bytes that somebody may still change would not
/// stay one.
///
/// ```
/// use relptr::{BadStr, Region, RelPtr, RelStr};
/// # let mut memory = *b"pgbench accounts";
/// # // SAFETY: 16 bytes that nothing else refers to while the region lives.
/// # let region = unsafe { Region::from_raw(core::ptr::NonNull::from(&mut memory).cast(), 16) };
/// let name = RelStr::new(RelPtr::from_offset(8), 8);
/// let mut buffer = [0; 64];
/// assert_eq!(name.copy_to(region, &mut buffer)?, "accounts");
/// # Ok::<(), BadStr>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(transparent)]
pub struct RelStr {
    bytes: RelSlice<u8>,
}

/// Why a [`RelStr`] could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadStr {
    /// Its bytes could not be had.
    Ptr(BadPtr),
    /// Its bytes are no UTF-8.
    NotUtf8 {
        /// The first byte that is not.
        at: u64,
    },
}

impl fmt::Display for BadStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadStr::Ptr(error) => error.fmt(f),
            BadStr::NotUtf8 { at } => write!(f, "no UTF-8 from byte {at} on"),
        }
    }
}

impl core::error::Error for BadStr {}

impl From<BadPtr> for BadStr {
    fn from(error: BadPtr) -> BadStr {
        BadStr::Ptr(error)
    }
}

impl RelStr {
    /// The `len` bytes from `start` on.
    pub const fn new(start: RelPtr<u8>, len: u64) -> RelStr {
        RelStr { bytes: RelSlice::new(start, len) }
    }

    /// Its bytes, unchecked.
    pub const fn bytes(self) -> RelSlice<u8> {
        self.bytes
    }

    /// Copies it to the front of `buffer` and returns it from there.
    ///
    /// # Errors
    /// [`BadStr::NotUtf8`], and [`BadStr::Ptr`] as [`RelSlice::copy_to`].
    pub fn copy_to<'b>(self, region: Region<'_>, buffer: &'b mut [u8]) -> Result<&'b str, BadStr> {
        let copy: &'b [u8] = self.bytes.copy_to(region, buffer)?;
        core::str::from_utf8(copy).map_err(|e| BadStr::NotUtf8 { at: e.valid_up_to() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(memory: &mut [u64; 4]) -> Region<'_> {
        // SAFETY: 32 bytes, borrowed for as long as the region lives.
        unsafe { Region::from_raw(NonNull::from(memory).cast(), 32) }
    }

    #[test]
    fn zeroed_memory_holds_the_null_slice() {
        let memory = &mut [0; 4];
        let null = RelSlice::<u64>::zeroed();
        assert_eq!(null.resolve(region(memory)), Err(BadPtr::Null));
        assert_eq!(null.read(region(memory), 0), Err(BadPtr::Null));
        assert!(RelSlice::<u64>::new(RelPtr::from_offset(32), 0).resolve(region(memory)).is_ok());
    }

    #[test]
    fn a_length_that_overflows_is_refused() {
        let memory = &mut [0; 4];
        let huge = RelSlice::<u64>::new(RelPtr::from_offset(8), u64::MAX / 8 + 2);
        assert!(matches!(huge.resolve(region(memory)), Err(BadPtr::OutOfBounds { .. })));
        assert!(huge.read(region(memory), 0).is_err());
        assert!(matches!(huge.copy_to(region(memory), &mut [0; 2]), Err(BadPtr::NoRoom { .. })));
    }

    #[test]
    fn elements_beyond_the_slice_are_refused() {
        let memory = &mut [1, 2, 3, 4];
        let slice = RelSlice::<u64>::new(RelPtr::from_offset(8), 2);
        assert_eq!(slice.read(region(memory), 1), Ok(3));
        assert!(slice.read(region(memory), 2).is_err());
        assert!(slice.read(region(memory), u64::MAX).is_err());
    }

    #[test]
    fn a_slice_is_found_again_by_its_addresses() {
        let memory = &mut [1, 2, 3, 4];
        let region = region(memory);
        let slice = RelSlice::<u64>::new(RelPtr::from_offset(8), 3);
        let addresses = slice.resolve(region).unwrap();
        assert_eq!(RelSlice::from_addr(region, addresses), Ok(slice));
        let inner = region.sub(8, 16).unwrap();
        assert!(RelSlice::from_addr(inner, addresses).is_err(), "its end lies outside");
    }

    #[test]
    fn bytes_that_are_no_utf8_are_refused() {
        let memory = &mut [u64::from_ne_bytes(*b"abc\xff\xfedef"), 0, 0, 0];
        let text = RelStr::new(RelPtr::from_offset(0), 8);
        assert_eq!(text.copy_to(region(memory), &mut [0; 8]), Err(BadStr::NotUtf8 { at: 3 }));
        let front = RelStr::new(RelPtr::from_offset(0), 3);
        assert_eq!(front.copy_to(region(memory), &mut [0; 8]), Ok("abc"));
        let room = BadStr::Ptr(BadPtr::NoRoom { len: 3, room: 2 });
        assert_eq!(front.copy_to(region(memory), &mut [0; 2]), Err(room));
    }
}
