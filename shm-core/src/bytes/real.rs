//! Production: a run of words is a run of bytes.
use super::WORD_BYTES;
use crate::sync::{AtomicU64, Ordering};
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use relptr::ShmSync;

/// Eight payload bytes in shared memory, owned by whoever the protocol says.
#[derive(Debug)]
#[repr(transparent)]
pub struct Word {
    cell: UnsafeCell<u64>,
}

// SAFETY: a word is only accessed through unsafe functions whose caller owns it by protocol.
unsafe impl Sync for Word {}
// SAFETY: as above; any bits are a u64.
unsafe impl ShmSync for Word {}

impl Word {
    /// A word of zeros.
    pub const fn new() -> Word {
        Word { cell: UnsafeCell::new(0) }
    }

    /// Reads the word.
    ///
    /// # Safety
    /// Nobody writes it meanwhile.
    #[inline]
    pub unsafe fn get(&self) -> u64 {
        // SAFETY: valid and aligned, a field of self; unwritten meanwhile, the caller says.
        unsafe { self.cell.get().read() }
    }

    /// Writes the word.
    ///
    /// # Safety
    /// Nobody else accesses it meanwhile.
    #[inline]
    pub unsafe fn set(&self, value: u64) {
        // SAFETY: valid and aligned as a field of self; exclusive by the caller's promise.
        unsafe { self.cell.get().write(value) }
    }

    /// Writes the word with what is in it: its line is this processor's own then.
    ///
    /// # Safety
    /// Nobody else writes it meanwhile, or what he writes may be undone.
    #[inline(always)]
    pub unsafe fn rewrite(&self) {
        // Relaxed accesses, for plain ones would be left out.
        self.store(self.load());
    }

    /// Reads the word, whoever writes it meanwhile: `Relaxed`.
    #[inline]
    pub fn load(&self) -> u64 {
        self.atomic().load(Ordering::Relaxed)
    }

    /// Writes the word, whoever accesses it meanwhile: `Relaxed`.
    #[inline]
    pub fn store(&self, value: u64) {
        self.atomic().store(value, Ordering::Relaxed);
    }

    /// The word as an atomic, for one that is a header at times and payload at others.
    #[inline]
    pub fn atomic(&self) -> &AtomicU64 {
        // SAFETY: valid and aligned, a field of self; who accesses it plainly promises (`get`,
        // `set`, the copies) that this does not happen meanwhile.
        unsafe { AtomicU64::from_ptr(self.cell.get()) }
    }
}

impl Default for Word {
    fn default() -> Word {
        Word::new()
    }
}

/// The address of `len` bytes at byte `at` of `words`.
#[inline]
fn range(words: &[Word], at: usize, len: usize) -> *mut u8 {
    let end = words.len() * WORD_BYTES;
    assert!(at <= end && len <= end - at, "bytes outside the words");
    // The cast is allowed to write: the words are cells.
    // SAFETY: at <= the size of the words.
    unsafe { words.as_ptr().cast::<u8>().cast_mut().add(at) }
}

/// Copies `bytes` into `words`, at byte `at`.
///
/// # Safety
/// Nobody else accesses these bytes meanwhile.
///
/// # Panics
/// Where they do not lie inside `words`.
#[inline]
pub unsafe fn copy_in(words: &[Word], at: usize, bytes: &[u8]) {
    let to = range(words, at, bytes.len());
    // SAFETY: in range, and nobody else's by the caller's promise.
    unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
}

/// Copies `out.len()` bytes from byte `at` of `words`.
///
/// # Safety
/// Nobody writes these bytes meanwhile.
///
/// # Panics
/// Where they do not lie inside `words`.
#[inline]
pub unsafe fn copy_out(words: &[Word], at: usize, out: &mut [u8]) {
    let from = range(words, at, out.len());
    // SAFETY: in range, and unwritten meanwhile by the caller's promise.
    unsafe { from.copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) }
}

/// Bytes where they lie, in shared memory or in a private buffer.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// No reference: a receiver that moves or drops what it has may write there, once nobody looks.
    bytes: *const [u8],
    life: PhantomData<&'a [u8]>,
}

// SAFETY: a `&[u8]`, as far as others see.
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// The `len` bytes at byte `at` of `words`, not copied.
    ///
    /// # Safety
    /// Nobody writes these bytes as long as somebody looks at it.
    ///
    /// # Panics
    /// Where they do not lie inside `words`.
    #[inline]
    pub unsafe fn new(words: &'a [Word], at: usize, len: usize) -> View<'a> {
        let from = range(words, at, len).cast_const();
        View { bytes: core::ptr::slice_from_raw_parts(from, len), life: PhantomData }
    }
}

/// Bytes to be written where they lie.
#[derive(Debug)]
pub struct Draft<'a> {
    bytes: &'a mut [u8],
}

impl<'a> Draft<'a> {
    /// The `len` bytes at byte `at` of `words`: whatever stands there.
    ///
    /// # Safety
    /// Nobody else accesses these bytes for `'a`.
    ///
    /// # Panics
    /// Where they do not lie inside `words`.
    #[inline]
    pub unsafe fn new(words: &'a [Word], at: usize, len: usize) -> Draft<'a> {
        let to = range(words, at, len);
        // SAFETY: in range, initialised, and nobody else's for 'a by the caller's promise.
        Draft { bytes: unsafe { core::slice::from_raw_parts_mut(to, len) } }
    }

    /// They are written.
    #[inline]
    pub fn finish(self) {}
}

impl Deref for Draft<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl DerefMut for Draft<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

impl<'a> From<&'a [u8]> for View<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> View<'a> {
        View { bytes, life: PhantomData }
    }
}

impl Deref for View<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: in range, initialised, and unwritten by the promise of `new`, or a slice for 'a.
        unsafe { &*self.bytes }
    }
}
