//! Locks, and what else processes wait at: owners are named, and a dead owner is reported to the
//! next taker.
//!
//! | module | for | PostgreSQL's |
//! | --- | --- | --- |
//! | [`mutex`] | one at a time | exclusive `LWLock` |
//! | [`barrier`] | all go on together | `Barrier` |
//! | [`rwlock`] | many who read, or one who writes | `LWLock` |
//!
//! All of them sleep as everything here does: a short spin, then one `futex_waitv` on the lock's
//! event *and* on the life word of the one waited for, so that its death wakes who sleeps, at once.
//! A process that is stopped, not dead, holds up those who wait for it, until their deadlines, and
//! nobody else.
pub mod barrier;
pub mod mutex;
pub mod rwlock;

use crate::backoff::Backoff;
use crate::sync::{AtomicU64, Ordering};
use std::time::Instant;

/// How often a word may change under a compare-and-swap. Among honest processes each time is
/// somebody's success; one that overwrites the word without end shall not hold us up so long.
const ROUNDS_MAX: u32 = 1 << 20;

/// In a model an unwind is a death, or the model has failed: destructors do nothing then.
#[inline]
fn model_unwinds() -> bool {
    cfg!(any(shm_loom, shm_explore)) && std::thread::panicking()
}

/// The clock is looked at after each wake-up in vain, too. A model has none.
fn is_past(deadline: Option<Instant>) -> bool {
    !cfg!(any(shm_loom, shm_explore)) && deadline.is_some_and(|end| end <= Instant::now())
}

/// Spins a moment; whether the word is another now.
fn is_changed_soon(word: &AtomicU64, bits: u64) -> bool {
    let mut backoff = Backoff::new();
    while !cfg!(any(shm_loom, shm_explore)) && backoff.snooze() {
        if word.load(Ordering::Relaxed) != bits {
            return true;
        }
    }
    false
}
