//! Cleaning up after the dead.
use super::claim::{Claim, Seat};
use super::id::{Generation, ParticipantId};
use super::shared::Slot;
use super::{Table, model_unwinds};
use crate::process::{Liveness, ProcessId};
use crate::sync::Ordering;

impl Table {
    /// Frees the slots of dead participants, having run `cleanup` for each; how many.
    ///
    /// While `cleanup` runs for a participant no other process cleans up after it, and its slot is
    /// not in use. Where an earlier reaper died, `cleanup` runs again: it must be idempotent. Where
    /// it panics, the slot is left to the next reaper. A member's own other slots are not looked
    /// at, and from another pid namespace, or without `/proc`, nothing is reaped.
    ///
    /// # If a process dies here
    /// The slot it was reaping names it, and the next reaper cleans up from the beginning.
    pub fn reap(&self, mut cleanup: impl FnMut(ParticipantId)) -> usize {
        let Ok(me) = ProcessId::try_me() else { return 0 };
        (0..self.capacity()).filter(|index| self.reap_slot(*index, me, &mut cleanup)).count()
    }

    fn reap_slot(
        &self,
        index: u32,
        me: ProcessId,
        cleanup: &mut impl FnMut(ParticipantId),
    ) -> bool {
        let slot = &self.slots()[index as usize];
        // Relaxed: what we need to see of its owner we see by the proof of its death.
        let dead = Claim::from_bits(slot.claim.load(Ordering::Relaxed));
        let Some(owner) = dead.process() else { return false };
        if owner == me || self.certify(owner) != Liveness::Dead {
            return false;
        }
        let Some(taken) = Taken::take(slot, dead, Claim::new(Seat::Reaping, me)) else {
            return false;
        };
        let generation = Generation::from_word(slot.generation.load(Ordering::Relaxed));
        cleanup(ParticipantId::new(index, generation));
        taken.free();
        true
    }
}

/// A dead one's slot while we clean up; dropped, it is the dead one's again.
struct Taken<'a> {
    slot: &'a Slot,
    dead: Claim,
    mine: Claim,
}

impl<'a> Taken<'a> {
    /// The claim names exactly one process, which is dead and does not come back: if the word is
    /// still that, the slot is still the dead one's.
    fn take(slot: &'a Slot, dead: Claim, mine: Claim) -> Option<Taken<'a>> {
        let (from, to) = (dead.to_bits(), mine.to_bits());
        // Pairs with the Acquire in `Table::liveness`: who sees it being reaped knows what we know.
        slot.claim.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed).ok()?;
        Some(Taken { slot, dead, mine })
    }

    fn free(self) {
        self.slot.vacate(self.mine);
        std::mem::forget(self);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if model_unwinds() {
            return;
        }
        let (from, to) = (self.mine.to_bits(), self.dead.to_bits());
        // Pairs with the Acquire in `Table::liveness`, as in `take`.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        let _ = self.slot.claim.compare_exchange(from, to, ok, err);
    }
}
