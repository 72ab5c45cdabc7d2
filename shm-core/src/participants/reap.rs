//! Cleaning up after the dead.
use super::Table;
use super::claim::{Claim, Seat};
use super::id::{Generation, ParticipantId};
use super::shared::Slot;
use crate::process::{Liveness, ProcessId};
use crate::sync::Ordering;

impl Table {
    /// Frees the slots of dead participants, having run `cleanup` for each; how many.
    ///
    /// While `cleanup` runs for a participant no other process cleans up after it, and its slot is
    /// not in use. Where an earlier reaper died, `cleanup` runs again: it must be idempotent. Where
    /// it panics, the slot stays in this process's hands until the process ends. A member's own
    /// other slots are not looked at, and from another pid namespace, or without `/proc`, nothing
    /// is reaped.
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
        let mine = Claim::new(Seat::Reaping, me);
        if !take(slot, dead, mine) {
            return false;
        }
        let generation = Generation::from_word(slot.generation.load(Ordering::Relaxed));
        cleanup(ParticipantId::new(index, generation));
        slot.vacate(mine);
        true
    }
}

/// The claim names exactly one process, which is dead and does not come back: if the word is still
/// that, the slot is still the dead one's.
fn take(slot: &Slot, dead: Claim, mine: Claim) -> bool {
    let (from, to) = (dead.to_bits(), mine.to_bits());
    // Pairs with the Acquire in `Table::liveness`: who sees it being reaped knows what we know.
    slot.claim.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed).is_ok()
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_has_changed_hands_is_not_taken() {
        let me = ProcessId::me();
        let (dead, live) = (Claim::new(Seat::Reaping, me), Claim::new(Seat::Live, me));
        let slot = Slot::new();
        assert!(!take(&slot, dead, live), "it is free by now");
        assert_eq!(slot.claim.load(Ordering::Relaxed), Claim::FREE.to_bits());
        slot.claim.store(dead.to_bits(), Ordering::Relaxed);
        assert!(take(&slot, dead, live));
        assert_eq!(slot.claim.load(Ordering::Relaxed), live.to_bits());
    }
}
