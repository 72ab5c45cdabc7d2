//! Ending all that a participant has in the table.
use super::Objects;
use super::life::{Actor, change, now};
use super::word::Word;
use shm_core::participants::ParticipantId;
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
        for index in (0..self.control.known()).chain([self.control.segment_slots()]) {
            self.clear(index);
            self.finish_own(index);
            self.destroy_if_last(index);
        }
    }

    /// Tries again to destroy the segments whose objects would not go (no descriptor was free,
    /// say): this participant's own, and those of participants that [have left][Table::has_left]
    /// since. A dead one's reaper that could not remove an object left it so, in the dead one's
    /// name.
    ///
    /// `has_left` shows the caller all that was done in that name.
    ///
    /// # If a process dies here
    /// What it has taken over is its own: its reaper tries again.
    ///
    /// [Table::has_left]: shm_core::participants::Table::has_left
    pub fn retry(&self, has_left: impl Fn(ParticipantId) -> bool) {
        for (index, slot) in self.control.slots() {
            // Our own is ours alone to change, so it needs no order; and one who takes over what is
            // another's changes exactly this word.
            let word = Word(slot.state.load(Ordering::Relaxed));
            let Some(executor) = word.executor().filter(|_| word.generation() != 0) else {
                continue;
            };
            let mine = word.moribund(self.me.to_bits());
            if executor == self.me || has_left(executor) && change(slot, word, mine).is_ok() {
                self.finish(index, word.generation());
            }
        }
    }

    /// A segment half created or half destroyed by this participant: away with it.
    pub(super) fn finish_own(&self, index: usize) {
        let slot = self.control.at(index);
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
