//! Waiting for another process: why it does nothing, and sleeping until it does something.
use shm_core::backoff::Backoff;
use shm_core::event::{EventCount, Ticket};
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

/// Who sleeps on an event count.
pub(crate) trait Sleeper {
    /// Where it sleeps.
    fn bed(&self) -> &EventCount;

    /// Sleeps until it is woken, or somebody dies: `false` once the deadline has passed.
    fn sleep(&self, ticket: Ticket, deadline: Option<Instant>) -> bool;
}

impl<S: Sleeper> Waiter for &S {
    type Ticket = Ticket;

    fn prepare(&mut self) -> Ticket {
        self.bed().prepare()
    }

    fn sleep(&mut self, ticket: Ticket, deadline: Option<Instant>) -> bool {
        Sleeper::sleep(*self, ticket, deadline)
    }
}

/// One wait, in steps between which the caller looks: spin, announce, sleep.
pub(crate) struct Pause<T = Ticket> {
    deadline: Option<Instant>,
    backoff: Backoff,
    ticket: Option<T>,
}

impl<T> Pause<T> {
    pub(crate) fn new(deadline: Option<Instant>) -> Pause<T> {
        Pause { deadline, backoff: Backoff::new(), ticket: None }
    }

    /// One step, after the caller looked in vain: `false` once the deadline has passed.
    pub(crate) fn step_of(&mut self, waiter: &mut impl Waiter<Ticket = T>) -> bool {
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

impl Pause {
    /// As [`step_of`](Pause::step_of).
    pub(crate) fn step(&mut self, mut sleeper: &impl Sleeper) -> bool {
        self.step_of(&mut sleeper)
    }
}
