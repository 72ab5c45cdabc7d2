//! Under `--cfg shm_loom`: each word a cell of loom's, each access a step of the process.
use super::WORD_BYTES;
use crate::sync::{AtomicU64, Ordering};
use relptr::ShmSync;
use shm_testkit::model::{self, Effect, UnsafeCell};
use std::cell::OnceCell;
use std::ops::Deref;

/// Eight payload bytes in shared memory, owned by whoever the protocol says.
#[derive(Debug)]
pub struct Word {
    /// What plain accesses see.
    cell: UnsafeCell<u64>,
    /// What relaxed ones see: loom has no memory that is both.
    atomic: AtomicU64,
}

// SAFETY: loom's cell reports each unordered access itself.
unsafe impl Sync for Word {}
// SAFETY: a model's stand-in for the production word.
unsafe impl ShmSync for Word {}

impl Word {
    /// A word of zeros.
    pub fn new() -> Word {
        Word { cell: UnsafeCell::new(0), atomic: AtomicU64::new(0) }
    }

    /// Reads the word.
    ///
    /// # Safety
    /// None here: a model fails instead.
    pub unsafe fn get(&self) -> u64 {
        match model::step() {
            // SAFETY: loom has checked that no write is concurrent.
            Effect::Happens => self.cell.with(|word| unsafe { *word }),
            Effect::Dropped => 0,
        }
    }

    /// Writes the word.
    ///
    /// # Safety
    /// None here: a model fails instead.
    pub unsafe fn set(&self, value: u64) {
        if let Effect::Happens = model::step() {
            // SAFETY: loom has checked that no access is concurrent.
            self.cell.with_mut(|word| unsafe { *word = value });
        }
    }

    /// Writes the word with what is in it.
    ///
    /// # Safety
    /// None here: a model fails instead.
    pub unsafe fn rewrite(&self) {
        // SAFETY: as above.
        unsafe { self.set(self.get()) };
    }

    /// Reads the word, whoever writes it meanwhile: `Relaxed`.
    #[track_caller]
    pub fn load(&self) -> u64 {
        self.atomic.load(Ordering::Relaxed)
    }

    /// Writes the word, whoever accesses it meanwhile: `Relaxed`.
    #[track_caller]
    pub fn store(&self, value: u64) {
        self.atomic.store(value, Ordering::Relaxed);
    }

    /// The word as an atomic, for one that is a header at times and payload at others.
    pub fn atomic(&self) -> &AtomicU64 {
        &self.atomic
    }
}

impl Default for Word {
    fn default() -> Word {
        Word::new()
    }
}

/// The pieces of `len` bytes at byte `at`: a word's number, the first byte in it, how many bytes.
fn pieces(words: &[Word], at: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let end = words.len() * WORD_BYTES;
    assert!(at <= end && len <= end - at, "bytes outside the words");
    let mut here = at;
    std::iter::from_fn(move || {
        let from = here % WORD_BYTES;
        let count = (WORD_BYTES - from).min(at + len - here);
        let piece = (count > 0).then_some((here / WORD_BYTES, from, count));
        here += count;
        piece
    })
}

/// Copies `bytes` into `words`, at byte `at`.
///
/// # Safety
/// None here: a model fails instead.
///
/// # Panics
/// Where they do not lie inside `words`.
pub unsafe fn copy_in(words: &[Word], at: usize, bytes: &[u8]) {
    let mut left = bytes;
    for (word, from, count) in pieces(words, at, bytes.len()) {
        let (now, rest) = left.split_at(count);
        if let Effect::Happens = model::step() {
            words[word].cell.with_mut(|word| {
                // SAFETY: loom has checked that no access is concurrent.
                let word = unsafe { &mut *word };
                let mut eight = word.to_ne_bytes();
                eight[from..from + count].copy_from_slice(now);
                *word = u64::from_ne_bytes(eight);
            });
        }
        left = rest;
    }
}

/// Copies `out.len()` bytes from byte `at` of `words`.
///
/// # Safety
/// None here: a model fails instead.
///
/// # Panics
/// Where they do not lie inside `words`.
pub unsafe fn copy_out(words: &[Word], at: usize, out: &mut [u8]) {
    let mut done = 0;
    for (word, from, count) in pieces(words, at, out.len()) {
        // SAFETY: nothing to promise here.
        let eight = unsafe { words[word].get() }.to_ne_bytes();
        out[done..done + count].copy_from_slice(&eight[from..from + count]);
        done += count;
    }
}

/// Bytes where they lie, in shared memory or in a private buffer.
///
/// A model cannot refer into loom's cells: it copies at the first look, and looks again when the
/// view ends, so that a peer that overwrites borrowed bytes is found out.
#[derive(Debug)]
pub struct View<'a> {
    words: &'a [Word],
    at: usize,
    len: usize,
    copy: OnceCell<Vec<u8>>,
}

impl<'a> View<'a> {
    /// The `len` bytes at byte `at` of `words`.
    ///
    /// # Safety
    /// None here: a model fails instead.
    ///
    /// # Panics
    /// Where they do not lie inside `words`, once looked at.
    pub unsafe fn new(words: &'a [Word], at: usize, len: usize) -> View<'a> {
        View { words, at, len, copy: OnceCell::new() }
    }

    fn look(&self) -> Vec<u8> {
        let mut copy = vec![0; self.len];
        // SAFETY: nothing to promise here.
        unsafe { copy_out(self.words, self.at, &mut copy) };
        copy
    }
}

impl<'a> From<&'a [u8]> for View<'a> {
    fn from(bytes: &'a [u8]) -> View<'a> {
        View { words: &[], at: 0, len: 0, copy: OnceCell::from(bytes.to_vec()) }
    }
}

impl Deref for View<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.copy.get_or_init(|| self.look())
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.look();
        }
    }
}
