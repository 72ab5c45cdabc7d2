//! When to ask the kernel about peers although their life words look held.
use crate::sync::{AtomicU64, Ordering};

/// In nanoseconds.
const EVERY: u64 = 100_000_000;

/// The threads of one process that ask one watch, or try one lock, share it. Relaxed: that two of
/// them ask the kernel at once is harmless.
///
/// Not in models, and it needs none. "Due" makes a watch ask the kernel, whose answer is right at
/// any time; "not due" makes it believe a life word, as it does in models always. So whatever is
/// read here, in whatever order, the answer is right; it may come later, and a model has no clock.
#[derive(Debug)]
pub(crate) struct Recheck {
    /// By the coarse clock, which is read without a system call; at first 0: long ago.
    last: AtomicU64,
}

impl Recheck {
    pub(crate) fn new() -> Recheck {
        Recheck { last: AtomicU64::new(0) }
    }

    /// At most once in 100 ms, and the first time.
    pub(crate) fn is_due(&self) -> bool {
        let now = now();
        let due = now.saturating_sub(self.last.load(Ordering::Relaxed)) >= EVERY;
        if due {
            self.last.store(now, Ordering::Relaxed);
        }
        due
    }
}

/// Of another handle: it has asked nobody yet.
impl Clone for Recheck {
    fn clone(&self) -> Recheck {
        Recheck::new()
    }
}

fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test may be stopped for 100 ms between two lines, but not each time.
    #[test]
    fn due_once_and_not_again_at_once() {
        let once = || {
            let recheck = Recheck::new();
            assert!(recheck.is_due(), "at first");
            !recheck.is_due()
        };
        assert!((0..1000).any(|_| once()));
    }
}
