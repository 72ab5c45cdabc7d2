//! Under `--cfg shm_explore`: each word an atomic of the explorer's, each word copied a step.
use super::WORD_BYTES;
use crate::sync::{AtomicU64, Ordering};
use relptr::shm_sync;
use std::cell::OnceCell;
use std::ops::Deref;

/// Eight payload bytes in shared memory, owned by whoever the protocol says.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Word {
    word: AtomicU64,
}

shm_sync!(Word { word });

impl Word {
    /// A word of zeros.
    pub const fn new() -> Word {
        Word { word: AtomicU64::new(0) }
    }

    /// Reads the word.
    ///
    /// # Safety
    /// None here.
    #[track_caller]
    pub unsafe fn get(&self) -> u64 {
        self.word.load(Ordering::Relaxed)
    }

    /// Writes the word.
    ///
    /// # Safety
    /// None here.
    #[track_caller]
    pub unsafe fn set(&self, value: u64) {
        self.word.store(value, Ordering::Relaxed);
    }

    /// Writes the word with what is in it.
    ///
    /// # Safety
    /// None here.
    #[track_caller]
    pub unsafe fn rewrite(&self) {
        self.store(self.load());
    }

    /// Reads the word, whoever writes it meanwhile: `Relaxed`.
    #[track_caller]
    pub fn load(&self) -> u64 {
        self.word.load(Ordering::Relaxed)
    }

    /// Writes the word, whoever accesses it meanwhile: `Relaxed`.
    #[track_caller]
    pub fn store(&self, value: u64) {
        self.word.store(value, Ordering::Relaxed);
    }

    /// The word as an atomic, for one that is a header at times and payload at others.
    pub fn atomic(&self) -> &AtomicU64 {
        &self.word
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
/// None here.
///
/// # Panics
/// Where they do not lie inside `words`.
#[track_caller]
pub unsafe fn copy_in(words: &[Word], at: usize, bytes: &[u8]) {
    let mut left = bytes;
    for (word, from, count) in pieces(words, at, bytes.len()) {
        let (now, rest) = left.split_at(count);
        words[word].word.patch(from, now);
        left = rest;
    }
}

/// Copies `out.len()` bytes from byte `at` of `words`.
///
/// # Safety
/// None here.
///
/// # Panics
/// Where they do not lie inside `words`.
#[track_caller]
pub unsafe fn copy_out(words: &[Word], at: usize, out: &mut [u8]) {
    let mut done = 0;
    for (word, from, count) in pieces(words, at, out.len()) {
        let eight = words[word].word.load(Ordering::Relaxed).to_ne_bytes();
        out[done..done + count].copy_from_slice(&eight[from..from + count]);
        done += count;
    }
}

/// Bytes where they lie, in shared memory or in a private buffer.
///
/// It copies at the first look, and looks again when it ends, so that a peer that overwrites
/// borrowed bytes is found out.
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
    /// None here.
    ///
    /// # Panics
    /// Where they do not lie inside `words`, once looked at.
    pub unsafe fn new(words: &'a [Word], at: usize, len: usize) -> View<'a> {
        View { words, at, len, copy: OnceCell::new() }
    }

    /// What stands there now, unless this process is gone.
    fn look_again(&self) -> Option<Vec<u8>> {
        let mut all = Vec::with_capacity(self.len);
        for (word, from, count) in pieces(self.words, self.at, self.len) {
            let eight = self.words[word].word.look_again()?.to_ne_bytes();
            all.extend_from_slice(&eight[from..from + count]);
        }
        Some(all)
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
        self.copy.get_or_init(|| {
            let mut copy = vec![0; self.len];
            // SAFETY: nothing to promise here.
            unsafe { copy_out(self.words, self.at, &mut copy) };
            copy
        })
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if self.len == 0 || std::thread::panicking() {
            return;
        }
        if let (Some(seen), Some(now)) = (self.copy.get(), self.look_again()) {
            let unchanged = *seen == now || shm_testkit::explore::is_after_a_lie();
            assert!(unchanged, "borrowed bytes were overwritten: {seen:?} by {now:?}");
        }
    }
}
