//! Waiting for somebody who may die.
use shm_core::backoff::Backoff;
use shm_core::event::EventCount;
use shm_core::participants::{Member, ParticipantId, SLOTS_MAX, Sleeper};
use shm_core::sync::{AtomicU64, Ordering};
use std::time::Instant;

/// The deadline passed.
pub(crate) struct TimedOut;

/// One who waits, until its deadline.
pub(crate) struct Waiter<'m> {
    member: &'m Member,
    deadline: Option<Instant>,
    sleeper: Sleeper,
    /// How often it has put right what a dead one had.
    buried: u32,
}

impl<'m> Waiter<'m> {
    pub(crate) fn new(member: &'m Member, deadline: Option<Instant>) -> Waiter<'m> {
        Waiter { member, deadline, sleeper: Sleeper::new(), buried: 0 }
    }

    /// Whether there is time left. The clock is looked at after each wake-up in vain, too; a model
    /// has none.
    pub(crate) fn goes_on(&self) -> Result<(), TimedOut> {
        let has_clock = !cfg!(any(shm_loom, shm_explore));
        match self.deadline.is_some_and(|end| has_clock && end <= Instant::now()) {
            true => Err(TimedOut),
            false => Ok(()),
        }
    }

    /// As [`goes_on`](Waiter::goes_on), after a death: who comes after its deadline may learn of as
    /// many as there are seats, and one who writes names of the dead without end does not hold it
    /// up.
    pub(crate) fn goes_on_from_the_dead(&mut self) -> Result<(), TimedOut> {
        self.buried = self.buried.saturating_add(1);
        if self.buried <= SLOTS_MAX { Ok(()) } else { self.goes_on() }
    }

    /// Waits until `word`, which `owner` wrote, is not `bits` any more, or some moments, or until
    /// the deadline. Whether it is, and the owner is dead.
    pub(crate) fn outlives(
        &mut self,
        owner: ParticipantId,
        word: &AtomicU64,
        bits: u64,
        event: &EventCount,
    ) -> bool {
        let is_still = || word.load(Ordering::Relaxed) == bits;
        let mut backoff = Backoff::new();
        while !cfg!(any(shm_loom, shm_explore)) && backoff.snooze() {
            if !is_still() {
                return false;
            }
        }
        let ticket = event.prepare();
        if !is_still() {
            return false;
        }
        let watch = self.member.watch(owner);
        // A sleep on a life word ends within a second: who was stopped before it woke us does not
        // hold us up for longer.
        if let Some(night) = self.sleeper.lie_down(&[(event, ticket)], &[&watch]) {
            night.sleep(self.deadline);
        }
        is_still() && watch.is_dead()
    }
}
