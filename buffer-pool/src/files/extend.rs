//! Making a file longer, and waiting until it does not get shorter.
use super::registrar::holder;
use super::word::{End, Extent, State};
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
    /// It ends elsewhere by now, or was cut off meanwhile.
    #[error("the file has {} blocks by now, and was cut off {} times", now.blocks, now.cuts)]
    End {
        /// Where.
        now: End,
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
    /// Where a file ends.
    ///
    /// # Errors
    /// [`NoSuchFile`]; also while it is being dropped.
    pub fn end(&self, number: FileNumber) -> Result<End, NoSuchFile> {
        let (_, extent) = self.look(number).ok_or(NoSuchFile(number))?;
        if extent.is_file() { Ok(extent.end()) } else { Err(NoSuchFile(number)) }
    }

    /// Makes a file that [ends](Files::end) at `from`, and was not cut off since, have `to` blocks.
    /// The new ones are the caller's to fill, as pages that it loads ([`admits`](Files::admits)): a
    /// cut may take them away again. What it did to the file behind `from` since it looked is done
    /// for who sees the new length.
    ///
    /// # Errors
    /// [`ExtendError`]; the file is as it was.
    ///
    /// # Panics
    /// Where `to` is less than it has.
    ///
    /// # If a process dies here
    /// The file has one length or the other.
    pub fn extend(&self, number: FileNumber, from: End, to: u32) -> Result<(), ExtendError> {
        assert!(from.blocks <= to, "a file is extended to more blocks than it has");
        let (row, seen) = self.look(number).ok_or(NoSuchFile(number))?;
        let blocks_max = row.span().blocks_max();
        if to > blocks_max {
            return Err(ExtendError::TooLong { blocks_max });
        }
        let (old, new) = (seen.ends_at(from), seen.ends_at(End { blocks: to, ..from }));
        // Pairs with the Acquire in `look`: what we did to the file. What was done to it before is
        // seen by who looked where it ends.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        let Err(now) = row.extent.compare_exchange(old.to_bits(), new.to_bits(), ok, err) else {
            return Ok(());
        };
        let now = Extent::from_bits(now);
        match now.state() {
            State::File if now.is_of(number) => Err(ExtendError::End { now: now.end() }),
            State::Shrinking if now.is_of(number) => {
                Err(ExtendError::Shrinking { by: self.holder() })
            }
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
                State::Shrinking => {}
                State::File => return Ok(()),
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
