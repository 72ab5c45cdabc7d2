//! Spinning with a bound, before sleeping.
use crate::sync;

/// Rounds of busy waiting that double in length.
const SPIN_ROUNDS: u32 = 7;
/// Rounds after those, each giving the processor away.
const YIELD_ROUNDS: u32 = 4;

/// A short wait for another process: spin, then yield, then say that it is time to sleep.
///
/// ```
/// let mut backoff = shm_core::backoff::Backoff::new();
/// let mut rounds = 0;
/// while backoff.snooze() {
///     rounds += 1;
/// }
/// assert!(rounds > 0, "it ends by itself");
/// ```
#[derive(Debug, Default)]
pub struct Backoff {
    round: u32,
}

impl Backoff {
    /// No round taken yet.
    pub const fn new() -> Backoff {
        Backoff { round: 0 }
    }

    /// Takes one round; `false` once the caller had better sleep.
    pub fn snooze(&mut self) -> bool {
        if cfg!(any(shm_loom, shm_explore)) {
            sync::yield_now();
            return false;
        }
        if self.round < SPIN_ROUNDS {
            for _ in 0..1 << self.round {
                sync::spin_loop();
            }
        } else if self.round < SPIN_ROUNDS + YIELD_ROUNDS {
            sync::yield_now();
        } else {
            return false;
        }
        self.round += 1;
        true
    }

    /// Starts over: something moved.
    pub fn reset(&mut self) {
        self.round = 0;
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn after_eleven_rounds_it_is_time_to_sleep_and_after_a_reset_again() {
        let mut backoff = Backoff::new();
        for _ in 0..2 {
            let rounds = (0..1000).take_while(|_| backoff.snooze()).count();
            assert_eq!(rounds, (SPIN_ROUNDS + YIELD_ROUNDS) as usize);
            assert!(!backoff.snooze(), "it stays so");
            backoff.reset();
        }
    }
}
