//! Ending all that a participant has in the table.
use super::Objects;
use super::life::{Actor, change, now};
use super::word::Word;
use shm_core::sync::Ordering;

impl<O: Objects> Actor<'_, O> {
    /// Ends whatever this participant was doing, and its attachments, that to the domain last.
    ///
    /// For a dead one this is run by its reaper, as the dead one: who owns its place at the table
    /// of participants acts in its name, alone. So nothing changes hands, and if he dies too, the
    /// next reaper finds the same name and does the same.
    ///
    /// # If a process dies here
    /// The next reaper begins anew: each step may be done twice.
    pub fn clean_up(&self) {
        for index in 0..self.control.slots.len() {
            self.clear(index);
            self.finish_own(index);
            self.destroy_if_last(index);
        }
    }

    /// Tries again to destroy the segments whose objects this participant could not remove when it
    /// was the last one out (no descriptor was free, say).
    ///
    /// # If a process dies here
    /// The reaper tries again.
    pub fn retry(&self) {
        for (index, slot) in self.control.slots.iter().enumerate() {
            // Ours alone to change, so it needs no order.
            let word = Word(slot.state.load(Ordering::Relaxed));
            if word == word.moribund(self.me.to_bits()) && word.generation() != 0 {
                self.finish(index, word.generation());
            }
        }
    }

    /// A segment half created or half destroyed by this participant: away with it.
    pub(super) fn finish_own(&self, index: usize) {
        let slot = &self.control.slots[index];
        let word = now(slot);
        let owner = self.me.to_bits();
        if word.is_owned_by(owner) && word.generation() != 0 {
            let moribund = word.moribund(owner);
            if word == moribund || change(slot, word, moribund).is_ok() {
                self.finish(index, word.generation());
            }
        }
    }
}
