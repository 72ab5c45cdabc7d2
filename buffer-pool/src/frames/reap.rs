//! What a dead process has claimed is nobody's again.
use super::word::Claim;
use super::{Entries, Frames};
use shm_core::participants::ParticipantId;

impl<E: Entries> Frames<E> {
    /// Puts right what `dead` has left, and clears its pins. Looks at every frame.
    ///
    /// To be called in the `cleanup` of [`Table::reap`](shm_core::participants::Table::reap) and
    /// [`Table::join_with`](shm_core::participants::Table::join_with), where the death is proven.
    /// It may be called again. For one who lives it would give away what that one has.
    ///
    /// # If a process dies here
    /// Some of it is put right, and the next reaper does the rest.
    pub fn reap(&self, dead: ParticipantId) {
        self.hazards.clear_row(dead);
        let claim = Claim::of(dead);
        for frame in 0..self.count() {
            if self.claim_of(frame) == claim {
                self.settle(frame);
                self.give_up(frame, claim);
            }
        }
    }
}
