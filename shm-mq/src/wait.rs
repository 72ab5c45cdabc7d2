//! Waiting for another process: why it does nothing, and sleeping until it does something.
use shm_core::backoff::Backoff;
use shm_core::event::EventCount;
use shm_core::participants::Watch;
use shm_core::sealed::Doorbell;
use std::time::{Duration, Instant};

/// Why the other side does nothing any more, or not yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    TimedOut,
    Detached,
    Died,
}

/// Who waits, in the steps of a [`Pause`].
pub trait Waiter {
    /// What sleeping needs, from before the last look at the condition.
    type Ticket;

    /// Announces that this side is about to sleep. Look at the condition once more after this.
    fn prepare(&mut self) -> Self::Ticket;

    /// Sleeps until the peer does something or dies: `false` once the deadline has passed.
    fn sleep(&mut self, ticket: Self::Ticket, deadline: Option<Instant>) -> bool;
}

/// Who waits beside others, in a [`WaitSet`](crate::waitset::WaitSet) or as a task: of a
/// [`Source`](crate::waitset::Source) all but whether it is ready.
pub trait Sleeps {
    /// Where the peer wakes who waits.
    fn bed(&self) -> Option<&EventCount> {
        None
    }

    /// Adds those whose death is to wake it.
    fn peers<'s>(&'s self, _to: &mut Vec<&'s Watch>) {}

    /// So long it may sleep at most.
    fn sleep_max(&self) -> Option<Duration> {
        None
    }

    /// Announces, where there is no bed, that this side is about to sleep.
    fn announce(&mut self) {}

    /// Adds what its peer rings.
    fn doorbells<'s>(&'s self, _to: &mut Vec<&'s Doorbell>) {}

    /// After a sleep that was announced.
    fn woken(&mut self) {}
}

/// In an `impl Source`: sleeps as this field does, by [`Sleeps`], or as a source itself.
macro_rules! sleeps_by {
    ($($link:ident).+) => {
        fn bed(&self) -> Option<&shm_core::event::EventCount> {
            self.$($link).+.bed()
        }

        fn peers<'s>(&'s self, to: &mut Vec<&'s shm_core::participants::Watch>) {
            self.$($link).+.peers(to);
        }

        fn sleep_max(&self) -> Option<std::time::Duration> {
            self.$($link).+.sleep_max()
        }

        fn announce(&mut self) {
            self.$($link).+.announce();
        }

        fn doorbells<'s>(&'s self, to: &mut Vec<&'s shm_core::sealed::Doorbell>) {
            self.$($link).+.doorbells(to);
        }

        fn woken(&mut self) {
            self.$($link).+.woken();
        }
    };
}
pub(crate) use sleeps_by;

/// One wait, in steps between which the caller looks: spin, announce, sleep.
pub(crate) struct Pause<T> {
    deadline: Option<Instant>,
    backoff: Backoff,
    ticket: Option<T>,
}

impl<T> Pause<T> {
    pub(crate) fn new(deadline: Option<Instant>) -> Pause<T> {
        Pause { deadline, backoff: Backoff::new(), ticket: None }
    }

    /// One step, after the caller looked in vain: `false` once the deadline has passed.
    pub(crate) fn step(&mut self, waiter: &mut impl Waiter<Ticket = T>) -> bool {
        if let Some(ticket) = self.ticket.take() {
            self.backoff.reset();
            return waiter.sleep(ticket, self.deadline);
        }
        if !self.backoff.snooze() {
            self.ticket = Some(waiter.prepare());
        }
        true
    }
}
