//! Who uses the frames: a process, and its threads.
use super::word::Claim;
use super::{Entries, Frames};
use shm_core::hazard::{HazardRow, Protector, ProtectorError, RowError};
use shm_core::participants::Member;
use shm_core::process::Forked;
use std::sync::Arc;

/// One process's use of [`Frames`]: it has its row of pins. Clones are the same.
#[derive(Clone, Debug)]
pub struct Users<E> {
    frames: Frames<E>,
    row: HazardRow,
}

/// One thread's use of [`Frames`].
#[derive(Debug)]
pub struct User<E> {
    pub(super) frames: Frames<E>,
    row: HazardRow,
    pub(super) protector: Protector,
}

impl<E: Entries + Clone> Frames<E> {
    /// As `member` uses them, which has its row of pins once.
    ///
    /// # Errors
    /// [`RowError`].
    ///
    /// # If a process dies here
    /// The row may say that it was the dead one's, and pins nothing; its reaper clears it.
    pub fn users(&self, member: &Arc<Member>) -> Result<Users<E>, RowError> {
        Ok(Users { row: self.hazards.row(member)?, frames: self.clone() })
    }
}

impl<E: Entries + Clone> Users<E> {
    /// For one thread. Keep it: it is taken from a pool behind a lock.
    ///
    /// # Errors
    /// [`ProtectorError`].
    ///
    /// # If a process dies here
    /// The row says that one more thread uses it, which pins nothing.
    pub fn user(&self) -> Result<User<E>, ProtectorError> {
        let (protector, row) = (self.row.protector()?, self.row.clone());
        Ok(User { frames: self.frames.clone(), row, protector })
    }
}

impl<E: Entries> User<E> {
    /// The frames that it uses.
    pub fn frames(&self) -> &Frames<E> {
        &self.frames
    }

    pub(super) fn member(&self) -> &Member {
        self.row.member()
    }

    #[inline]
    pub(super) fn check_fork(&self) -> Result<(), Forked> {
        self.protector.check_fork()
    }

    /// Claims a frame that is nobody's: of none, of one who has left and forgot it, of nonsense.
    pub(super) fn claim(&self, frame: u32) -> bool {
        let seen = self.frames.claim_of(frame);
        let is_left = |id| self.member().table().has_left(id);
        let is_free = seen.holder().is_none_or(is_left);
        is_free && self.frames.take(frame, seen, self.mine())
    }

    pub(super) fn mine(&self) -> Claim {
        Claim::of(self.member().id())
    }

    /// Gives up a claim of ours.
    pub(super) fn release(&self, frame: u32) {
        self.frames.give_up(frame, self.mine());
    }

    /// Whether what it has claimed is its own: not in a forked child, nor, in a model, where it
    /// dies.
    pub(super) fn is_ours(&self) -> bool {
        !crate::model_unwinds() && self.check_fork().is_ok()
    }
}
