//! How far the other side of a structure is trusted: the levels of the crash model, as types.
//!
//! | level | the peer | so that | is paid with |
//! | --- | --- | --- | --- |
//! | [`Crashing`] | may die or stop anywhere; until then it keeps the protocol | bytes are moved by plain copies, and lent where they lie | – |
//! | [`Buggy`] | may also write nonsense into any word of the structure at any time, by accident | words are checked, bytes move as relaxed words into private memory | one more copy of what is received |
//! | [`Hostile`] | may run any code it likes, against us | each side writes a mapping of its own, which the other has read-only, sealed and checked; who lives says the kernel | that, two mappings, a socket |
//!
//! A structure takes the level as a type parameter with the default [`Crashing`], and moves payload
//! only through the functions of [`Trust`]. The level is one side's own affair: it changes nothing
//! that lies in shared memory between `Crashing` and `Buggy`, so that a careful receiver can serve
//! a sender that knows nothing of it. `docs/crash-model.md` says what each level is promised.
use crate::bytes::{self, View, Word, relaxed};
use crate::sync::{AtomicU64, Ordering, fence};
use std::fmt::Debug;

mod private {
    pub trait Sealed {}
}

/// A level of trust in the peer: [`Crashing`], [`Buggy`] or [`Hostile`].
///
/// The functions move payload bytes as the level demands. Their promises are worded for
/// `Crashing`; at the others nothing that a peer does makes them unsound.
pub trait Trust: private::Sealed + Copy + Debug + Send + Sync + 'static {
    /// Whether received bytes may be looked at where they lie, as a `&[u8]`.
    const IN_PLACE: bool;

    /// Whether what a peer writes is mapped read-only here: no loads but `Relaxed` ones are sure to
    /// work then.
    const READ_ONLY: bool;

    /// Reads a word, once.
    ///
    /// # Safety
    /// A peer that keeps the protocol does not write it meanwhile.
    unsafe fn get(word: &Word) -> u64;

    /// Reads a word with which a peer publishes what it did before: all of that is seen.
    #[inline(always)]
    #[track_caller]
    fn load_published(word: &AtomicU64) -> u64 {
        if !Self::READ_ONLY {
            // Pairs with the Release that the caller names.
            return word.load(Ordering::Acquire);
        }
        let value = word.load(Ordering::Relaxed);
        // Pairs with the same.
        fence(Ordering::Acquire);
        value
    }

    /// Writes a word.
    ///
    /// # Safety
    /// A peer that keeps the protocol does not access it meanwhile.
    unsafe fn set(word: &Word, value: u64);

    /// Copies `from` into `words`, at byte `at`.
    ///
    /// # Safety
    /// A peer that keeps the protocol does not access these bytes meanwhile.
    ///
    /// # Panics
    /// Where they do not lie inside `words`.
    unsafe fn copy_in(words: &[Word], at: usize, from: &[u8]);

    /// Appends the `len` bytes from byte `at` of `words` on to `to`, each word looked at once.
    ///
    /// # Safety
    /// A peer that keeps the protocol does not write these bytes meanwhile.
    ///
    /// # Panics
    /// Where they do not lie inside `words`.
    unsafe fn append(words: &[Word], at: usize, len: usize, to: &mut Vec<u8>);
}

/// Peers that may die or be stopped at any instruction, and keep the protocol until then.
#[derive(Clone, Copy, Debug)]
pub enum Crashing {}

/// Peers that may also write nonsense into what they share with us, at any time, by accident.
#[derive(Clone, Copy, Debug)]
pub enum Buggy {}

/// Peers that may do whatever their kernel lets them, to harm us.
#[derive(Clone, Copy, Debug)]
pub enum Hostile {}

impl private::Sealed for Crashing {}
impl private::Sealed for Buggy {}
impl private::Sealed for Hostile {}

impl Trust for Crashing {
    const IN_PLACE: bool = true;
    const READ_ONLY: bool = false;

    #[inline]
    unsafe fn get(word: &Word) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { word.get() }
    }

    #[inline]
    unsafe fn set(word: &Word, value: u64) {
        // SAFETY: the caller's promise.
        unsafe { word.set(value) }
    }

    #[inline]
    unsafe fn copy_in(words: &[Word], at: usize, from: &[u8]) {
        // SAFETY: the caller's promise.
        unsafe { bytes::copy_in(words, at, from) }
    }

    #[inline]
    unsafe fn append(words: &[Word], at: usize, len: usize, to: &mut Vec<u8>) {
        // SAFETY: the caller's promise, while the view lives.
        to.extend_from_slice(&unsafe { View::new(words, at, len) });
    }
}

/// The two levels that believe nobody move bytes in the same way.
macro_rules! moves_relaxed_words {
    ($level:ty, $read_only:literal) => {
        impl Trust for $level {
            const IN_PLACE: bool = false;
            const READ_ONLY: bool = $read_only;

            #[inline]
            unsafe fn get(word: &Word) -> u64 {
                word.load()
            }

            #[inline]
            unsafe fn set(word: &Word, value: u64) {
                word.store(value);
            }

            #[inline]
            unsafe fn copy_in(words: &[Word], at: usize, from: &[u8]) {
                relaxed::copy_in(words, at, from);
            }

            #[inline]
            unsafe fn append(words: &[Word], at: usize, len: usize, to: &mut Vec<u8>) {
                let before = to.len();
                to.resize(before + len, 0);
                relaxed::copy_out(words, at, &mut to[before..]);
            }
        }
    };
}
moves_relaxed_words!(Buggy, false);
moves_relaxed_words!(Hostile, true);
