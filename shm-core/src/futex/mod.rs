//! A 32-bit word that processes can sleep on.
//!
//! The word and its sleeping are one type, so that a model can put its own kernel behind it. The
//! futex is a shared one (no `FUTEX_PRIVATE_FLAG`): it works across processes at any address.
use crate::sync::{AtomicU32, Ordering};
use relptr::shm_sync;
use std::time::Instant;

#[cfg(not(any(shm_loom, shm_explore)))]
#[path = "linux.rs"]
mod kernel;
#[cfg(shm_loom)]
#[path = "modelled.rs"]
mod kernel;
#[cfg(shm_explore)]
#[path = "explored.rs"]
mod kernel;

pub use kernel::{now_ms, waitv_works};

/// At most so many words can be slept on in one call.
pub const WAIT_WORDS_MAX: usize = 128;

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Woken, or a word had changed already, or for no reason: look again.
    Woken,
    /// The deadline passed.
    TimedOut,
}

/// A word to sleep on. 4 bytes in production.
#[derive(Debug)]
#[repr(transparent)]
pub struct Futex {
    word: AtomicU32,
}

shm_sync!(Futex { word });

impl Futex {
    /// A word holding `value`.
    #[cfg(not(shm_loom))]
    pub const fn new(value: u32) -> Futex {
        Futex { word: AtomicU32::new(value) }
    }

    /// A word holding `value`.
    #[cfg(shm_loom)]
    pub fn new(value: u32) -> Futex {
        Futex { word: AtomicU32::new(value) }
    }

    /// The word itself, for loads and stores.
    #[inline]
    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// Sleeps while the word is `expected`, until woken or `deadline`.
    ///
    /// # If a process dies here
    /// Nothing: a sleeper leaves no trace in shared memory.
    #[track_caller]
    pub fn wait(&self, expected: u32, deadline: Option<Instant>) -> Wake {
        kernel::wait(self, expected, deadline)
    }

    /// Sleeps while every word is as expected, until one of them is woken or `deadline`.
    ///
    /// Needs `futex_waitv` where there is more than one word: ask [`waitv_works`] first.
    ///
    /// # Panics
    /// Where `words` is empty or longer than [`WAIT_WORDS_MAX`].
    #[track_caller]
    pub fn wait_any(words: &[(&Futex, u32)], deadline: Option<Instant>) -> Wake {
        assert!(!words.is_empty() && words.len() <= WAIT_WORDS_MAX, "1 to 128 words to sleep on");
        match words {
            [(futex, expected)] => kernel::wait(futex, *expected, deadline),
            _ => kernel::wait_any(words, deadline),
        }
    }

    /// Wakes one sleeper, if any.
    #[track_caller]
    pub fn wake_one(&self) {
        kernel::wake(self, 1);
    }

    /// Wakes all sleepers.
    #[track_caller]
    pub fn wake_all(&self) {
        kernel::wake(self, i32::MAX as u32);
    }

    /// Loads the word.
    #[inline]
    #[track_caller]
    pub fn load(&self, order: Ordering) -> u32 {
        self.word.load(order)
    }
}
