//! Memory shared with other processes, and typed views that keep it mapped.
use relptr::{BadPtr, Region, ShmSync};
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

/// How a [`Mapping`] is given back when the last view of it is gone.
pub type Unmap = Box<dyn FnOnce(NonNull<u8>, usize) + Send + Sync>;

/// A range of memory, mapped for as long as this lives.
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    unmap: Option<Unmap>,
}

// SAFETY: an address range; access goes through `Region`, which decides what may be shared.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Takes charge of `len` bytes at `base`, given back by `unmap`.
    ///
    /// # Safety
    /// The range is one mapping or allocation, aligned to 64 bytes, readable and writable until
    /// `unmap` is called, and referred to by nobody else in this process. One that is only readable
    /// must not come into safe hands.
    pub unsafe fn from_raw(base: NonNull<u8>, len: usize, unmap: Unmap) -> Arc<Mapping> {
        Arc::new(Mapping { base, len, unmap: Some(unmap) })
    }

    /// Zeroed private memory of this process, aligned to 4096 bytes: for models and thread tests.
    ///
    /// # Panics
    /// Where `len` is zero or the memory cannot be had.
    pub fn heap(len: usize) -> Arc<Mapping> {
        assert!(len > 0, "a mapping has at least one byte");
        let (base, unmap) = allocate(len);
        // SAFETY: our own fresh allocation of `len` bytes.
        unsafe { Mapping::from_raw(base, len, unmap) }
    }

    /// The mapped bytes.
    pub fn region(&self) -> Region<'_> {
        // SAFETY: valid for as long as self (`from_raw`).
        unsafe { Region::from_raw(self.base, self.len) }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a mapping has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Zeroed memory of this process, and how to give it back.
#[cfg(not(shm_explore))]
fn allocate(len: usize) -> (NonNull<u8>, Unmap) {
    let layout = std::alloc::Layout::from_size_align(len, 4096).expect("a sane size");
    // SAFETY: the layout is not empty, for the caller has looked.
    let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).expect("memory");
    let unmap: Unmap = Box::new(move |base, _| {
        // loom's objects may still be looked at while a failed model unwinds: leak them then.
        if cfg!(shm_loom) && std::thread::panicking() {
            return;
        }
        // SAFETY: allocated above with this layout, and no view is left.
        unsafe { std::alloc::dealloc(base.as_ptr(), layout) }
    });
    (base, unmap)
}

/// The same from the explorer, which saves it and puts it back between the steps of processes.
#[cfg(shm_explore)]
fn allocate(len: usize) -> (NonNull<u8>, Unmap) {
    let arena = shm_testkit::explore::Arena::new(len);
    (arena.base(), Box::new(move |_, _| drop(arena)))
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("base", &self.base).field("len", &self.len).finish()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(unmap) = self.unmap.take() {
            crate::poison::forget(self.base.addr().get(), self.len);
            unmap(self.base, self.len);
        }
    }
}

/// A `T` in a mapping, which stays mapped for as long as this lives.
#[derive(Debug)]
pub struct Mapped<T> {
    value: NonNull<T>,
    mapping: Arc<Mapping>,
}

// SAFETY: a shared reference to a `T: ShmSync`, which is Sync (the constructors see to it).
unsafe impl<T: Sync> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Mapped<T> {}

impl<T: ShmSync> Mapped<T> {
    /// The `T` at `offset` of `mapping`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    pub fn new(mapping: &Arc<Mapping>, offset: u64) -> Result<Mapped<T>, BadPtr> {
        let value = NonNull::from(mapping.region().share::<T>(offset)?);
        Ok(Mapped { value, mapping: mapping.clone() })
    }

    /// Writes `value` at `offset` of `mapping`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    ///
    /// # Safety
    /// As [`Region::place`]: nobody else accesses these bytes until they are published.
    pub unsafe fn place(
        mapping: &Arc<Mapping>,
        offset: u64,
        value: T,
    ) -> Result<Mapped<T>, BadPtr> {
        // SAFETY: the caller's promise.
        let value = NonNull::from(unsafe { mapping.region().place(offset, value)? });
        Ok(Mapped { value, mapping: mapping.clone() })
    }

    /// The mapping it lies in.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// A part of it, which keeps the whole mapped.
    ///
    /// ```
    /// # use shm_core::{mapping::{Mapped, Mapping}, sync::{AtomicU64, Ordering}};
    /// # struct Pair { one: AtomicU64, other: AtomicU64 }
    /// # shm_core::shm_sync!(Pair { one, other });
    /// let pair = Mapped::<Pair>::new(&Mapping::heap(16), 0)?;
    /// let other = pair.part(|pair| &pair.other);
    /// other.store(7, Ordering::Relaxed);
    /// assert_eq!(pair.other.load(Ordering::Relaxed), 7);
    /// # Ok::<(), shm_core::BadPtr>(())
    /// ```
    pub fn part<U: ShmSync>(&self, of: impl FnOnce(&T) -> &U) -> Mapped<U>
    where
        T: 'static,
    {
        // `of` knows of no lifetime but that it may be any: what it gives lives as long as the `T`
        // may, for as long as it is mapped.
        Mapped { value: NonNull::from(of(self)), mapping: self.mapping.clone() }
    }
}

impl<T> Clone for Mapped<T> {
    fn clone(&self) -> Mapped<T> {
        Mapped { value: self.value, mapping: self.mapping.clone() }
    }
}

impl<T: ShmSync> Deref for Mapped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: checked by `Region` when made, and mapped for as long as self.
        unsafe { self.value.as_ref() }
    }
}

/// Consecutive `T`s in a mapping, which stays mapped for as long as this lives.
#[derive(Debug)]
pub struct MappedSlice<T> {
    values: NonNull<[T]>,
    mapping: Arc<Mapping>,
}

// SAFETY: as `Mapped`.
unsafe impl<T: Sync> Send for MappedSlice<T> {}
// SAFETY: as `Mapped`.
unsafe impl<T: Sync> Sync for MappedSlice<T> {}

impl<T: ShmSync> MappedSlice<T> {
    /// The `count` values at `offset` of `mapping`.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    pub fn new(mapping: &Arc<Mapping>, offset: u64, count: u64) -> Result<MappedSlice<T>, BadPtr> {
        let values = NonNull::from(mapping.region().share_slice::<T>(offset, count)?);
        Ok(MappedSlice { values, mapping: mapping.clone() })
    }

    /// The mapping they lie in.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

impl<T> MappedSlice<T> {
    /// Address and size in bytes.
    pub(crate) fn extent(&self) -> (usize, usize) {
        (self.values.addr().get(), self.values.len() * size_of::<T>())
    }
}

impl<T> Clone for MappedSlice<T> {
    fn clone(&self) -> MappedSlice<T> {
        MappedSlice { values: self.values, mapping: self.mapping.clone() }
    }
}

impl<T: ShmSync> Deref for MappedSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: checked by `Region` when made, and mapped for as long as self.
        unsafe { self.values.as_ref() }
    }
}

/// Rows of consecutive `T`s in a mapping, one every so many bytes. It stays mapped for as long as
/// this lives.
///
/// ```
/// # use shm_core::{mapping::{Mapping, MappedRows}, sync::{AtomicU64, Ordering}};
/// let mapping = Mapping::heap(200);
/// // Two words of each cache line.
/// let rows = MappedRows::<AtomicU64>::new(&mapping, 8, 64, 3, 2)?;
/// rows.row(2)[1].store(7, Ordering::Relaxed);
/// assert_eq!(mapping.region().share::<AtomicU64>(8 + 2 * 64 + 8)?.load(Ordering::Relaxed), 7);
/// # Ok::<(), shm_core::BadPtr>(())
/// ```
#[derive(Debug)]
pub struct MappedRows<T> {
    first: NonNull<T>,
    stride: usize,
    rows: usize,
    each: usize,
    mapping: Arc<Mapping>,
}

// SAFETY: as `Mapped`.
unsafe impl<T: Sync> Send for MappedRows<T> {}
// SAFETY: as `Mapped`.
unsafe impl<T: Sync> Sync for MappedRows<T> {}

impl<T: ShmSync> MappedRows<T> {
    /// So many rows of `each` values, the first at `offset` of `mapping`, the next `stride` bytes
    /// later.
    ///
    /// # Errors
    /// [`BadPtr::OutOfBounds`], [`BadPtr::Misaligned`].
    pub fn new(
        mapping: &Arc<Mapping>,
        offset: u64,
        stride: u64,
        rows: u64,
        each: u64,
    ) -> Result<MappedRows<T>, BadPtr> {
        let region = mapping.region();
        let first = NonNull::from(region.share_slice::<T>(offset, each)?).cast();
        // Where the second one is aligned all are.
        for row in [1, rows.saturating_sub(1)].into_iter().filter(|row| *row < rows) {
            region.share_slice::<T>(offset.saturating_add(row.saturating_mul(stride)), each)?;
        }
        let [stride, rows, each] = [stride, rows, each].map(|figure| figure as usize);
        Ok(MappedRows { first, stride, rows, each, mapping: mapping.clone() })
    }

    /// How many there are.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The values of one row.
    ///
    /// # Panics
    /// Where there is no such row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &[T] {
        assert!(row < self.rows, "there is no such row");
        // SAFETY: the last row was checked by `Region` when this was made, and no other lies behind
        // it.
        let first = unsafe { self.first.byte_add(row * self.stride) };
        // SAFETY: as above, aligned as the first one; mapped for as long as self.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), self.each) }
    }
}

impl<T> Clone for MappedRows<T> {
    fn clone(&self) -> MappedRows<T> {
        MappedRows { mapping: self.mapping.clone(), ..*self }
    }
}

#[cfg(all(test, not(shm_loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_mapping_says_its_size() {
        let mapping = Mapping::heap(100);
        assert_eq!((mapping.len(), mapping.is_empty()), (100, false));
        let text = format!("{mapping:?}");
        assert!(text.starts_with("Mapping {") && text.contains("len: 100"), "{text}");
        // SAFETY: no byte of it is ever looked at.
        let empty = unsafe { Mapping::from_raw(NonNull::dangling(), 0, Box::new(|_, _| ())) };
        assert!(empty.is_empty());
    }

    #[test]
    fn a_slice_says_where_it_is() {
        use crate::sync::AtomicU64;
        let mapping = Mapping::heap(100);
        let slice = MappedSlice::<AtomicU64>::new(&mapping, 16, 3).unwrap();
        assert_eq!(slice.extent(), (mapping.region().base().addr().get() + 16, 24));
    }

    #[test]
    fn rows_that_do_not_fit_are_none() {
        use crate::sync::AtomicU64;
        let mapping = Mapping::heap(256);
        let rows = |offset, stride, rows, each| {
            MappedRows::<AtomicU64>::new(&mapping, offset, stride, rows, each).map(|it| it.rows())
        };
        assert_eq!((rows(0, 64, 4, 8), rows(248, 64, 1, 1)), (Ok(4), Ok(1)));
        assert_eq!(rows(0, u64::MAX, 0, 0), Ok(0));
        for outside in [rows(0, 64, 5, 1), rows(8, 64, 4, 8), rows(0, 1 << 62, 5, 1)] {
            assert!(matches!(outside, Err(BadPtr::OutOfBounds { .. })), "{outside:?}");
        }
        for odd in [rows(4, 64, 1, 1), rows(0, 4, 2, 1), rows(0, 12, 3, 1)] {
            assert!(matches!(odd, Err(BadPtr::Misaligned { .. })), "{odd:?}");
        }
    }

    #[test]
    fn the_last_view_gives_the_memory_back() {
        static GIVEN_BACK: AtomicUsize = AtomicUsize::new(0);
        let unmap = Box::new(|_, len| GIVEN_BACK.store(len, Ordering::Relaxed));
        // SAFETY: no byte of it is ever looked at.
        let mapping = unsafe { Mapping::from_raw(NonNull::dangling(), 64, unmap) };
        let second = mapping.clone();
        drop(mapping);
        assert_eq!(GIVEN_BACK.load(Ordering::Relaxed), 0);
        drop(second);
        assert_eq!(GIVEN_BACK.load(Ordering::Relaxed), 64);
    }
}
