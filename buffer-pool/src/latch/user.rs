//! Who uses the latches: one thread of a process.
use super::shared::Row;
use super::{LatchError, Latches};
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::Forked;
use shm_core::sync::Ordering;
use std::sync::Arc;

/// Why a thread could not have its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// The latches were made for fewer.
    #[error(
        "the latches have rows for {seats} participants of {threads} threads each, and none for \
         thread {thread} of the one in seat {seat}"
    )]
    NoRow {
        /// The participant's seat.
        seat: u32,
        /// Which of its threads.
        thread: u32,
        /// How many seats there are.
        seats: u32,
        /// How many rows each has.
        threads: u32,
    },
    /// The member's process is the caller's parent.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// One thread's use of [`Latches`]. The member stays seated for as long.
#[derive(Clone, Debug)]
pub struct User {
    pub(super) latches: Latches,
    pub(crate) member: Arc<Member>,
    row: usize,
}

impl Latches {
    /// For thread number `thread` of `member`'s process. Two that have the same number have one
    /// row: they write the same cache line, and have fewer shares each.
    ///
    /// All members are of one table: ids of another one are nobody's here.
    ///
    /// # Errors
    /// [`UserError`].
    ///
    /// # If a process dies here
    /// The row may say that it was the dead one's, and shares nothing.
    pub fn user(&self, member: &Arc<Member>, thread: u32) -> Result<User, UserError> {
        member.check_fork()?;
        let (id, threads) = (member.id(), self.threads);
        let (seat, row) = (id.slot(), id.slot() as usize * threads as usize + thread as usize);
        let of_row = self.users.get(row).filter(|_| thread < threads);
        let seats = self.rows.len() as u32 / threads.max(1);
        let user = of_row.ok_or(UserError::NoRow { seat, thread, seats, threads })?;
        // Relaxed: the fence in `enters` comes before it counts. Whoever else is named is gone, or
        // we would not sit there.
        user.store(id.to_bits(), Ordering::Relaxed);
        Ok(User { latches: self.clone(), member: member.clone(), row })
    }
}

impl User {
    /// The latches that it uses.
    pub fn latches(&self) -> &Latches {
        &self.latches
    }

    pub(crate) fn id(&self) -> ParticipantId {
        self.member.id()
    }

    pub(super) fn row(&self) -> &Row {
        &self.latches.rows[self.row]
    }

    pub(crate) fn check_fork(&self) -> Result<(), LatchError> {
        Ok(self.member.check_fork()?)
    }

    /// Whether what it has is its own: not in a forked child, nor, in a model, where it dies.
    pub(crate) fn is_ours(&self) -> bool {
        !crate::model_unwinds() && self.member.check_fork().is_ok()
    }
}
