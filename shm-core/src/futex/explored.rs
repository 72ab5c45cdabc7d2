//! The kernel of an exploration: who sleeps is part of the state. See
//! [`shm_testkit::explore::kernel`].
use super::{Futex, Wake};
use shm_testkit::explore::kernel::{self, Slept};
use std::time::Instant;

#[track_caller]
pub(super) fn wait(futex: &Futex, expected: u32, deadline: Option<Instant>) -> Wake {
    wait_any(&[(futex, expected)], deadline)
}

#[track_caller]
pub(super) fn wait_any(words: &[(&Futex, u32)], deadline: Option<Instant>) -> Wake {
    let words: Vec<_> = words.iter().map(|(futex, expected)| (&futex.word, *expected)).collect();
    match kernel::sleep(&words, deadline.is_some()) {
        Slept::Woken => Wake::Woken,
        Slept::TimedOut => Wake::TimedOut,
    }
}

#[track_caller]
pub(super) fn wake(futex: &Futex, count: u32) {
    kernel::wake(&futex.word, count);
}

/// The explorer's kernel always can.
pub fn waitv_works() -> bool {
    true
}

/// In a model no time passes.
pub fn now_ms() -> u64 {
    0
}
