//! A slot's bytes, lent to who owns it: where they lie among peers that only crash, as a private
//! copy among peers that may write anywhere.
use shm_core::bytes::{Draft, View, Word, relaxed};
use shm_core::trust::Trust;
use std::ops::{Deref, DerefMut};

/// Bytes to be written.
pub(crate) enum Lent<'a> {
    InPlace(Draft<'a>),
    Private(Vec<u8>),
}

impl<'a> Lent<'a> {
    /// The first `len` bytes of `words`.
    ///
    /// # Safety
    /// Nobody else accesses them for as long as this lives, if they are to be written in place.
    #[inline(always)]
    pub(crate) unsafe fn new(words: &'a [Word], len: usize, is_in_place: bool) -> Lent<'a> {
        if is_in_place {
            // SAFETY: the caller's promise.
            Lent::InPlace(unsafe { Draft::new(words, 0, len) })
        } else {
            Lent::Private(vec![0; len])
        }
    }

    /// They are written, and stand in `words`, which are those of [`new`](Lent::new).
    #[inline(always)]
    pub(crate) fn finish(self, words: &[Word]) {
        match self {
            Lent::InPlace(draft) => draft.finish(),
            Lent::Private(bytes) => relaxed::copy_in(words, 0, &bytes),
        }
    }
}

impl Deref for Lent<'_> {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        match self {
            Lent::InPlace(draft) => draft,
            Lent::Private(bytes) => bytes,
        }
    }
}

impl DerefMut for Lent<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Lent::InPlace(draft) => draft,
            Lent::Private(bytes) => bytes,
        }
    }
}

/// The first `len` bytes of `words`, to be read: there, or in `copy`.
///
/// # Safety
/// A peer that keeps the protocol does not write them for `'a`.
pub(crate) unsafe fn view<'a, T: Trust>(
    words: &'a [Word],
    len: usize,
    copy: &'a mut Vec<u8>,
) -> View<'a> {
    if T::IN_PLACE {
        // SAFETY: the caller's promise; at this level all peers keep the protocol.
        return unsafe { View::new(words, 0, len) };
    }
    copy.clear();
    // SAFETY: the caller's promise.
    unsafe { T::append(words, 0, len, copy) };
    View::from(copy.as_slice())
}

/// Words for a slot's bytes: each slot's begin with a cache line.
pub(crate) const fn words_for(bytes: u64) -> u64 {
    bytes.div_ceil(size_of::<u64>() as u64).next_multiple_of(8)
}
