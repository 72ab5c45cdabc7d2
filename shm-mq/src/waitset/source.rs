//! What there is to wait for.
use shm_core::event::EventCount;
use shm_core::participants::Watch;
use shm_core::sealed::{Doorbell, Heard};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// Something that a [`WaitSet`](super::WaitSet) can wait for.
///
/// An end of a queue answers by looking at its own words, and names the bed and the peers that its
/// own blocking call would sleep on.
pub trait Source {
    /// Whether the caller's next call without waiting would do something, or say why not: there is
    /// a record, or room, an end, or an error. Never waits, and takes nothing.
    fn is_ready(&mut self) -> bool;

    /// The same, after the caller announced itself at the [bed](Source::bed), or had it
    /// [announced](Source::announce): what is said to be not there now has not come yet, and who
    /// brings it will look for sleepers.
    fn is_ready_at_last(&mut self) -> bool {
        self.is_ready()
    }

    /// Where its other side wakes who waits. Always the same, if any.
    fn bed(&self) -> Option<&EventCount> {
        None
    }

    /// Adds those whose death makes it ready.
    fn peers<'s>(&'s self, _to: &mut Vec<&'s Watch>) {}

    /// So long nobody may have woken who waits although it is ready. Asked after the
    /// [peers](Source::peers), one of which may have died between.
    fn sleep_max(&self) -> Option<Duration> {
        None
    }

    /// Says, in its own words, that the caller is about to sleep: for those who look there before
    /// they ring one of its doorbells.
    fn announce(&mut self) {}

    /// Adds what rings when a hostile peer has done something, or is gone. Who sleeps on them
    /// throws away what has come.
    ///
    /// A bell whose peer is gone is rung for good: from then on the source is to be ready.
    fn doorbells<'s>(&'s self, _to: &mut Vec<&'s Doorbell>) {}

    /// Of doorbell number `which` of these something was heard, in a sleep.
    fn heard(&mut self, _which: usize, _heard: Heard) {}

    /// A descriptor to wait for in place of all that is above.
    fn descriptor(&self) -> Option<Descriptor<'_>> {
        None
    }

    /// After a sleep, whatever ended it: before it is asked again. Takes an announcement back.
    fn woken(&mut self) {}
}

/// Ready once the peer will never act again under its id.
impl Source for Watch {
    fn is_ready(&mut self) -> bool {
        self.is_dead()
    }

    fn peers<'s>(&'s self, to: &mut Vec<&'s Watch>) {
        to.push(self);
    }
}

/// Ready from a time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    at: Option<Instant>,
}

impl Alarm {
    /// Ready from `at` on, until it is set anew.
    pub fn at(at: Instant) -> Alarm {
        Alarm { at: Some(at) }
    }

    /// Never ready.
    pub fn never() -> Alarm {
        Alarm { at: None }
    }
}

impl Source for Alarm {
    fn is_ready(&mut self) -> bool {
        self.at.is_some_and(|at| at <= Instant::now())
    }

    fn sleep_max(&self) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

/// Ready again and again.
///
/// ```
/// use shm_mq::waitset::{Interval, WaitSet};
/// use std::time::Duration;
///
/// let mut beat = Interval::every(Duration::from_millis(1));
/// let mut set = WaitSet::new();
/// for _ in 0..3 {
///     assert_eq!(set.wait(&mut [((), &mut beat)], None)?.len(), 1);
///     assert!(beat.passed() >= 1);
/// }
/// # Ok::<(), shm_mq::waitset::WaitError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    every: Duration,
    next: Instant,
}

impl Interval {
    /// Ready each time so much has passed, for the first time from now on. At least a nanosecond.
    pub fn every(every: Duration) -> Interval {
        let every = every.max(Duration::from_nanos(1));
        Interval { every, next: Instant::now() + every }
    }

    /// How many have passed since it was asked last. It is not ready then until the next one has.
    pub fn passed(&mut self) -> u64 {
        let late = Instant::now().checked_duration_since(self.next);
        let Some(late) = late else { return 0 };
        let times = late.as_nanos() / self.every.as_nanos() + 1;
        let times = u32::try_from(times).unwrap_or(u32::MAX);
        self.next += self.every.saturating_mul(times);
        times.into()
    }
}

impl Source for Interval {
    fn is_ready(&mut self) -> bool {
        self.next <= Instant::now()
    }

    fn sleep_max(&self) -> Option<Duration> {
        Some(self.next.saturating_duration_since(Instant::now()))
    }
}

/// What a descriptor is to be ready for. An error, or the other side's end, is always something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Reading.
    Readable,
    /// Writing.
    Writable,
    /// Either.
    Both,
}

/// Ready when a file descriptor is, as `poll(2)` says.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(any(shm_loom, shm_explore), allow(dead_code, reason = "models have none"))]
pub struct Descriptor<'f> {
    pub(super) fd: BorrowedFd<'f>,
    pub(super) interest: Interest,
}

impl<'f> Descriptor<'f> {
    /// Ready when `fd` is.
    pub fn new(fd: BorrowedFd<'f>, interest: Interest) -> Descriptor<'f> {
        Descriptor { fd, interest }
    }
}

impl Source for Descriptor<'_> {
    /// The set asks the kernel about all descriptors at once.
    fn is_ready(&mut self) -> bool {
        false
    }

    fn descriptor(&self) -> Option<Descriptor<'_>> {
        Some(*self)
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn an_interval_counts_what_it_missed() {
        let mut beat = Interval::every(Duration::from_millis(10));
        assert_eq!((beat.passed(), beat.is_ready()), (0, false));
        beat.next = Instant::now() - Duration::from_millis(35);
        assert!(beat.is_ready());
        assert!(beat.passed() >= 4);
        assert!(beat.next > Instant::now() - Duration::from_millis(10));
        assert_eq!(Interval::every(Duration::ZERO).every, Duration::from_nanos(1));
    }

    #[test]
    fn an_alarm_rings_until_it_is_set_anew() {
        let mut alarm = Alarm::at(Instant::now());
        assert!(alarm.is_ready() && alarm.is_ready());
        assert_eq!(alarm.sleep_max(), Some(Duration::ZERO));
        alarm = Alarm::at(Instant::now() + Duration::from_secs(3600));
        assert!(!alarm.is_ready() && alarm.sleep_max() > Some(Duration::from_secs(3000)));
        assert!(!Alarm::never().is_ready() && Alarm::never().sleep_max().is_none());
    }
}
