//! Waiting for another process: why it does nothing, and sleeping until it does something.
use shm_core::backoff::Backoff;
use std::time::Instant;

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
