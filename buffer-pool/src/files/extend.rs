//! Making a file longer, and waiting until it does not get shorter.
use super::registrar::holder;
use super::word::{Extent, State};
use super::{FileNumber, Files, NoSuchFile};
use crate::wait::{TimedOut, Waiter};
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::Forked;
use shm_core::sync::Ordering;
use std::time::Instant;

/// Why a file was not extended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtendError {
    /// It has another length by now.
    #[error("the file has {now} blocks by now")]
    Length {
        /// Which.
        now: u32,
    },
    /// It has entries for fewer blocks.
    #[error("the file was registered for at most {blocks_max} blocks")]
    TooLong {
        /// How many.
        blocks_max: u32,
    },
    /// Somebody makes it shorter: [wait](Files::wait_shrinking).
    #[error("the file is being shortened: wait until that is done")]
    Shrinking {
        /// Who; `None`: one who did not finish it, as who registers next is
        /// [told](super::Registrar::unfinished).
        by: Option<ParticipantId>,
    },
    /// It is gone.
    #[error(transparent)]
    NoSuchFile(#[from] NoSuchFile),
}

/// Why nobody need wait, or can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The deadline passed.
    #[error("the file was still being shortened at the deadline")]
    TimedOut,
    /// Who shortened it is dead, or gave up: become the registrar, and finish it.
    #[error("who shortened the file did not finish: do so as the registrar")]
    Unfinished,
    /// It is gone.
    #[error(transparent)]
    NoSuchFile(#[from] NoSuchFile),
    /// The member's process is the caller's parent.
    #[error(transparent)]
    Forked(#[from] Forked),
}

impl From<TimedOut> for WaitError {
    fn from(TimedOut: TimedOut) -> WaitError {
        WaitError::TimedOut
    }
}

impl Files {
    /// Makes a file that has `from` blocks have `to`. The new blocks are the caller's to fill, as
    /// pages that it loads ([`admits`](Files::admits)): a cut may take them away again.
    ///
    /// What the caller did to the file before is done for who sees the new length; but it may have
    /// been undone by a cut between the two, for a length may come back.
    ///
    /// # Errors
    /// [`ExtendError`]; the file is as it was.
    ///
    /// # Panics
    /// Where `to` is less than `from`.
    ///
    /// # If a process dies here
    /// The file has one length or the other.
    pub fn extend(&self, number: FileNumber, from: u32, to: u32) -> Result<(), ExtendError> {
        assert!(from <= to, "a file is extended to more blocks than it has");
        let (row, seen) = self.look(number).ok_or(NoSuchFile(number))?;
        let blocks_max = row.span().blocks_max();
        if to > blocks_max {
            return Err(ExtendError::TooLong { blocks_max });
        }
        let length = |blocks| seen.becomes(State::File, blocks).to_bits();
        // Acquire: pairs with the Release in `done`: what was done to the file that was longer.
        // Release: pairs with the Acquire in `look`: what we did to it.
        let (ok, err) = (Ordering::AcqRel, Ordering::Relaxed);
        let Err(now) = row.extent.compare_exchange(length(from), length(to), ok, err) else {
            return Ok(());
        };
        let now = Extent::from_bits(now);
        match now.state().filter(|_| now.is_of(number)) {
            Some(State::File) => Err(ExtendError::Length { now: now.blocks() }),
            Some(State::Shrinking) => Err(ExtendError::Shrinking { by: self.holder() }),
            _ => Err(NoSuchFile(number).into()),
        }
    }

    /// Waits, until `deadline`, while somebody makes the file shorter. A thread that does so itself
    /// waits for itself.
    ///
    /// # Errors
    /// [`WaitError`].
    ///
    /// # If a process dies here
    /// A bit of an event count may say that somebody sleeps, which costs a wake-up in vain.
    pub fn wait_shrinking(
        &self,
        number: FileNumber,
        member: &Member,
        deadline: Option<Instant>,
    ) -> Result<(), WaitError> {
        member.check_fork()?;
        let mut waiter = Waiter::new(member, deadline);
        loop {
            let (row, extent) = self.look(number).ok_or(NoSuchFile(number))?;
            match extent.state() {
                Some(State::Shrinking) => {}
                Some(State::File) => return Ok(()),
                _ => return Err(NoSuchFile(number).into()),
            }
            let is_left = self.holder().is_none_or(|by| {
                let event = &self.head.moved;
                let is_dead = waiter.outlives(by, &row.extent, extent.to_bits(), event);
                // Where another one has taken over meanwhile, that one is waited for.
                is_dead && self.holder() == Some(by)
            });
            // It may have finished before it left.
            if is_left && row.look() == extent {
                return Err(WaitError::Unfinished);
            }
            waiter.goes_on()?;
        }
    }

    /// The registrar.
    fn holder(&self) -> Option<ParticipantId> {
        // Pairs with the Release in `give_up`: what it has finished.
        holder(self.head.registrar.load(Ordering::Acquire))
    }
}
