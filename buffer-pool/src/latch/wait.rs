//! Waiting for somebody who may die.
use super::shared::Latch;
use super::word::Word;
use super::{LatchError, User, settle};
use shm_core::backoff::Backoff;
use shm_core::event::EventCount;
use shm_core::participants::{ParticipantId, SLOTS_MAX, Sleeper};
use shm_core::sync::{AtomicU64, Ordering};
use std::time::Instant;

/// One who waits, until its deadline.
pub(super) struct Waiter<'u> {
    user: &'u User,
    deadline: Option<Instant>,
    sleeper: Sleeper,
    /// How often it has given up what a dead one had.
    buried: u32,
}

impl<'u> Waiter<'u> {
    pub(super) fn new(user: &'u User, deadline: Option<Instant>) -> Waiter<'u> {
        Waiter { user, deadline, sleeper: Sleeper::new(), buried: 0 }
    }

    /// Whether there is time left. The clock is looked at after each wake-up in vain, too; a model
    /// has none.
    pub(super) fn goes_on(&self) -> Result<(), LatchError> {
        let has_clock = !cfg!(any(shm_loom, shm_explore));
        match self.deadline.is_some_and(|end| has_clock && end <= Instant::now()) {
            true => Err(LatchError::TimedOut),
            false => Ok(()),
        }
    }

    /// Waits until the latch is no longer as `owner` has it, or gives up what that one has, where
    /// it is dead.
    #[cold]
    pub(super) fn wait_for(
        &mut self,
        latch: &Latch,
        seen: Word,
        owner: ParticipantId,
    ) -> Result<(), LatchError> {
        if self.outlives(owner, &latch.word, seen.to_bits(), &latch.freed) {
            settle(latch, seen);
            return self.goes_on_from_the_dead();
        }
        self.goes_on()
    }

    /// As [`goes_on`](Waiter::goes_on), after a death: who comes after its deadline may learn of as
    /// many as there are seats, and one who writes names of the dead without end does not hold it
    /// up.
    pub(super) fn goes_on_from_the_dead(&mut self) -> Result<(), LatchError> {
        self.buried = self.buried.saturating_add(1);
        if self.buried <= SLOTS_MAX { Ok(()) } else { self.goes_on() }
    }

    /// Waits until `word`, which `owner` wrote, is not `bits` any more, or some moments, or until
    /// the deadline. Whether it is, and the owner is dead.
    pub(super) fn outlives(
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
        let watch = self.user.member.watch(owner);
        // A sleep on a life word ends within a second: who was stopped before it woke us does not
        // hold us up for longer.
        if let Some(night) = self.sleeper.lie_down(&[(event, ticket)], &[&watch]) {
            night.sleep(self.deadline);
        }
        is_still() && watch.is_dead()
    }
}
