//! Locks, and what else processes wait at: owners are named, and a dead owner is reported to the
//! next taker.
//!
//! | module | for | PostgreSQL's |
//! | --- | --- | --- |
//! | [`mutex`] | one at a time | exclusive `LWLock` |
//! | [`rwlock`] | many who read, or one who writes | `LWLock` |
//! | [`latch`] | "there is something to do" | `Latch` |
//! | [`condvar`] | what a mutex guards has changed | `ConditionVariable` |
//!
//! All of them sleep as everything here does: a short spin, then one `futex_waitv` on the lock's
//! event *and* on the life word of the one waited for, so that its death wakes who sleeps, at once.
//! A process that is stopped, not dead, holds up those who wait for it, until their deadlines, and
//! nobody else.
pub mod condvar;
pub mod latch;
pub mod mutex;
pub mod rwlock;

use crate::backoff::Backoff;
use crate::sync::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A sleeper looks for itself at the word after so long: see [`slice_of`].
const SLICE: Duration = Duration::from_secs(1);

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

/// How long one sleep on the way to `deadline` lasts.
///
/// Who changes a word and is then *stopped* for ever, not killed, before it has woken anybody wakes
/// nobody by its death either. So a sleeper looks for itself now and then. A model has no clock,
/// and goes without this net.
fn slice_of(deadline: Option<Instant>) -> Option<Instant> {
    if cfg!(any(shm_loom, shm_explore)) {
        return deadline;
    }
    let slice = Instant::now() + SLICE;
    Some(deadline.map_or(slice, |deadline| deadline.min(slice)))
}

/// Whether a sleep to [`slice_of`] that timed out was the last one.
fn is_over(deadline: Option<Instant>) -> bool {
    cfg!(any(shm_loom, shm_explore)) || is_past(deadline)
}
