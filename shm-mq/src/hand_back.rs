//! How a receiver gives back the lines of a long record: as it has read them, or as its own.
//!
//! A line that both processors have read cannot be written before the other copy is gone, and the
//! sender's store waits for that, line by line. A line that the receiver has written is handed over
//! as it is. So where the processors share no cache, and the ring lies in theirs, records of a
//! kilobyte or more go round several times faster if the receiver writes a word of each line, with
//! what is in it, before it gives it back; where they share one it only costs. Nobody says which
//! it is, and it changes when the scheduler moves somebody. So both are tried now and then, for
//! some megabytes, and the faster one is kept to.
//!
//! Nothing changes in memory: who dies here has read a record, and no more.
use shm_core::bytes::{WORD_BYTES, Word};
use shm_core::mapping::MappedSlice;
use shm_core::trust::Trust;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// In explorations all that is given back is written. (loom sees no race of what follows a store at
/// once.) No model looks at a clock.
const IS_EXPLORED: bool = cfg!(shm_explore);
/// Shorter records are given back as they are.
const BYTES_MIN: usize = if IS_EXPLORED { 1 } else { 512 };
/// A line, or less.
const STEP: usize = if IS_EXPLORED { 2 } else { 64 / WORD_BYTES };
/// What one measurement is of, at least; also a ring: so long it takes until what a receiver does
/// is felt.
const WINDOW_BYTES_MIN: u64 = 1 << 20;
/// Windows between two trials: at first, and where nothing better is found again and again.
const RUN_MIN: u64 = 8;
const RUN_MAX: u64 = 256;

/// Gives lines back, of one receiver.
#[derive(Debug)]
pub(crate) struct HandBack<T> {
    words: MappedSlice<Word>,
    /// Whether lines are written.
    writes: bool,
    phase: Phase,
    /// Bytes until the phase ends.
    left: u64,
    window: u64,
    run: u64,
    level: PhantomData<T>,
}

/// `Running`, then once around: as it is, and then the other way.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Running,
    Before {
        since: Instant,
    },
    /// Until the other way is felt.
    Settling {
        before: Duration,
    },
    Trial {
        since: Instant,
        before: Duration,
    },
}

impl<T: Trust> HandBack<T> {
    /// For a ring of these words.
    pub(crate) fn new(words: &MappedSlice<Word>) -> HandBack<T> {
        let window = WINDOW_BYTES_MIN.max((words.len() * WORD_BYTES) as u64);
        HandBack {
            words: words.clone(),
            writes: IS_EXPLORED,
            phase: Phase::Running,
            left: window,
            window,
            run: RUN_MIN,
            level: PhantomData,
        }
    }

    /// Before the words from `first` on that hold `len` bytes are given back; around the end.
    ///
    /// # Safety
    /// They are the caller's, as far as a peer keeps the protocol.
    #[inline(always)]
    pub(crate) unsafe fn before(&mut self, first: usize, len: usize) {
        if len < BYTES_MIN || T::READ_ONLY {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { self.before_long(first, len) }
    }

    /// # Safety
    /// As [`before`](HandBack::before).
    unsafe fn before_long(&mut self, first: usize, len: usize) {
        if self.writes {
            let count = len.div_ceil(WORD_BYTES);
            let to_end = count.min(self.words.len() - first);
            for piece in [&self.words[first..first + to_end], &self.words[..count - to_end]] {
                // SAFETY: the caller's promise.
                piece.iter().step_by(STEP).for_each(|word| unsafe { word.rewrite() });
            }
        }
        self.left = self.left.saturating_sub(len as u64);
        if self.left == 0 && !cfg!(any(shm_loom, shm_explore)) {
            self.next_phase(Instant::now());
        }
    }

    #[cold]
    fn next_phase(&mut self, now: Instant) {
        self.left = self.window;
        self.phase = match self.phase {
            Phase::Running => Phase::Before { since: now },
            Phase::Before { since } => {
                self.writes = !self.writes;
                Phase::Settling { before: now - since }
            }
            Phase::Settling { before } => Phase::Trial { since: now, before },
            Phase::Trial { since, before } => {
                // By a tenth, at least.
                if (now - since) * 10 < before * 9 {
                    self.run = RUN_MIN;
                } else {
                    self.writes = !self.writes;
                    self.run = (self.run * 2).min(RUN_MAX);
                }
                self.left = self.window * self.run;
                Phase::Running
            }
        };
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;
    use shm_core::mapping::Mapping;
    use shm_core::trust::{Buggy, Crashing, Hostile};

    fn words(count: u64) -> MappedSlice<Word> {
        let mapping = Mapping::heap((count * 8) as usize);
        let words: MappedSlice<Word> = MappedSlice::new(&mapping, 0, count).expect("it fits");
        words.iter().zip(1..).for_each(|(word, value)| word.store(value));
        words
    }

    #[test]
    fn nothing_is_changed_around_the_end() {
        fn at_level<T: Trust>() {
            let words = words(256);
            let mut hand_back = HandBack::<T>::new(&words);
            hand_back.writes = true;
            for first in 0..256 {
                // SAFETY: the words are this test's alone.
                unsafe { hand_back.before(first, 2048) };
            }
            assert!(words.iter().zip(1..).all(|(word, value)| word.load() == value));
        }
        at_level::<Crashing>();
        at_level::<Buggy>();
        at_level::<Hostile>();
    }

    /// Goes through windows, each of which takes as long as `takes` says of how lines are given
    /// back then: whether they are written in the end, and how many windows a run has.
    fn after(windows: u64, takes: impl Fn(bool) -> u64) -> (bool, u64) {
        let mut hand_back = HandBack::<Crashing>::new(&words(256));
        let (mut now, mut left) = (Instant::now(), windows * WINDOW_BYTES_MIN);
        while left > 0 {
            let step = hand_back.left.min(left);
            now += Duration::from_nanos(takes(hand_back.writes) * step);
            hand_back.left -= step;
            left -= step;
            if hand_back.left == 0 {
                hand_back.next_phase(now);
            }
        }
        (hand_back.writes, hand_back.run)
    }

    #[test]
    fn what_is_faster_is_kept_to() {
        assert_eq!(after(1000, |writes| if writes { 20 } else { 50 }), (true, RUN_MAX));
        assert_eq!(after(1000, |writes| if writes { 50 } else { 20 }), (false, RUN_MAX));
        // Not for a little.
        assert_eq!(after(1000, |writes| if writes { 46 } else { 50 }), (false, RUN_MAX));
        // The first trial comes soon.
        assert_eq!(after(4, |writes| if writes { 20 } else { 50 }), (true, RUN_MIN));
    }
}
