//! Under the models: bytes to be written where they lie, which get there in the end.
use super::{Word, copy_in};
use std::ops::{Deref, DerefMut};

/// Bytes to be written where they lie.
#[derive(Debug)]
pub struct Draft<'a> {
    words: &'a [Word],
    at: usize,
    bytes: Vec<u8>,
}

impl<'a> Draft<'a> {
    /// The `len` bytes at byte `at` of `words`.
    ///
    /// # Safety
    /// None here: a model fails instead.
    pub unsafe fn new(words: &'a [Word], at: usize, len: usize) -> Draft<'a> {
        Draft { words, at, bytes: vec![0; len] }
    }

    /// They are written.
    #[track_caller]
    pub fn finish(self) {
        // SAFETY: nothing to promise here.
        unsafe { copy_in(self.words, self.at, &self.bytes) };
    }
}

impl Deref for Draft<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Draft<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}
