//! Taking a latch share-exclusively or exclusively, and repairing a torn page.
use super::guard::{Change, Exclusive, Right, ShareExclusive};
use super::word::{Shared, State, Word};
use super::{LatchError, User, settle, wait_for};
use crate::wait::Waiter;
use shm_core::event::announced;
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering};
use std::time::Instant;

impl User {
    /// Takes the latch share-exclusively, for as long as the guard lives: readers go on, and nobody
    /// changes the page. Waits, until `deadline`, for who has it so, or exclusively.
    ///
    /// # Errors
    /// [`LatchError`].
    ///
    /// # If a process dies here
    /// The word names it, and the page is whole: whoever waits for it frees it.
    pub fn share_exclusive(
        &self,
        frame: u32,
        deadline: Option<Instant>,
    ) -> Result<ShareExclusive<'_>, LatchError> {
        let right = self.right(frame)?;
        right.takes_before(Word::share_exclusive(self.id()), deadline)?;
        Ok(ShareExclusive::new(right))
    }

    /// As [`share_exclusive`](User::share_exclusive), where nobody has it so, or exclusively. A
    /// dead one is taken for a slow one until it was cleaned up after, or waited for.
    ///
    /// # Errors
    /// Those of [`share_exclusive`](User::share_exclusive).
    ///
    /// # If a process dies here
    /// As in [`share_exclusive`](User::share_exclusive).
    pub fn try_share_exclusive(
        &self,
        frame: u32,
    ) -> Result<Option<ShareExclusive<'_>>, LatchError> {
        let right = self.right(frame)?;
        let is_taken = right.takes(Word::share_exclusive(self.id()))?.is_none();
        Ok(is_taken.then(|| ShareExclusive::new(right)))
    }

    /// Takes the latch exclusively, for as long as the guard lives. Waits, until `deadline`, for
    /// who has it; then for readers, and from then on none enters.
    ///
    /// # Errors
    /// [`LatchError`].
    ///
    /// # If a process dies here
    /// The word names it, and the page is whole until it begins a [`Change`]: whoever waits for it
    /// frees it.
    pub fn exclusive(
        &self,
        frame: u32,
        deadline: Option<Instant>,
    ) -> Result<Exclusive<'_>, LatchError> {
        let right = self.right(frame)?;
        right.takes_before(Word::exclusive(self.id()), deadline)?;
        let exclusive = Exclusive::new(right);
        right.drain(deadline)?;
        Ok(exclusive)
    }

    /// As [`exclusive`](User::exclusive), where nobody has it and nobody shares it. A dead one is
    /// taken for a slow one until it was cleaned up after, or waited for.
    ///
    /// # Errors
    /// Those of [`exclusive`](User::exclusive).
    ///
    /// # If a process dies here
    /// As in [`exclusive`](User::exclusive).
    pub fn try_exclusive(&self, frame: u32) -> Result<Option<Exclusive<'_>>, LatchError> {
        let right = self.right(frame)?;
        // Who finds a reader beforehand does not turn the next ones away for nothing.
        if !right.is_drained() || right.takes(Word::exclusive(self.id()))?.is_some() {
            return Ok(None);
        }
        let exclusive = Exclusive::new(right);
        Ok(right.is_drained().then_some(exclusive))
    }

    /// Takes the latch of a torn page, to make the page whole. `None` where it is not torn (any
    /// more): take it as usual.
    ///
    /// # Errors
    /// [`LatchError::NoSuchFrame`], [`LatchError::Forked`], [`LatchError::Corrupt`].
    ///
    /// # If a process dies here
    /// The page is torn, left by the one before or by the one that repaired it.
    pub fn repair(&self, frame: u32) -> Result<Option<Change<'_>>, LatchError> {
        let right = self.right(frame)?;
        let word = &right.latch.word;
        let seen = Word::from_bits(word.load(Ordering::Relaxed));
        let by = match seen.state().ok_or(LatchError::Corrupt)? {
            State::Torn(by) => by,
            // Nobody has asked for it since: the first to notice may be the one who repairs.
            State::Exclusive(by) if self.member.watch(by).is_dead() => {
                settle(right.latch, seen);
                by
            }
            _ => return Ok(None),
        };
        let (torn, mine) = (Word::torn(by), Word::exclusive(self.id()));
        // Pairs with the Releases in `settle` and `moves`: the last words of who left it so.
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        // Nobody has a share: none was left when the change began, and nobody has entered since.
        let is_ours = word.compare_exchange(torn.to_bits(), mine.to_bits(), ok, err).is_ok();
        Ok(is_ours.then(|| Change::begin(right, by)))
    }

    pub(super) fn right(&self, frame: u32) -> Result<Right<'_>, LatchError> {
        self.check_fork()?;
        Ok(Right::new(self, self.latches.latch(frame)?, frame))
    }
}

impl Right<'_> {
    /// Takes a latch that is free; else what its word says, and who has it.
    fn takes(&self, mine: Word) -> Result<Option<(Word, ParticipantId)>, LatchError> {
        // Pairs with the Releases in `moves` and `settle`: the bytes.
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        let (free, mine) = (Word::FREE.to_bits(), mine.to_bits());
        let Err(seen) = self.latch.word.compare_exchange(free, mine, ok, err) else {
            return Ok(None);
        };
        let seen = Word::from_bits(seen);
        match seen.state() {
            Some(State::ShareExclusive(owner) | State::Exclusive(owner)) => Ok(Some((seen, owner))),
            Some(State::Torn(by)) => Err(LatchError::Torn { by }),
            // It was not free.
            Some(State::Free) | None => Err(LatchError::Corrupt),
        }
    }

    fn takes_before(&self, mine: Word, deadline: Option<Instant>) -> Result<(), LatchError> {
        let mut waiter = Waiter::new(&self.user.member, deadline);
        while let Some((seen, owner)) = self.takes(mine)? {
            wait_for(&mut waiter, self.latch, seen, owner)?;
        }
        Ok(())
    }

    /// Waits until each row did not name the frame once, or its owner was dead.
    pub(super) fn drain(&self, deadline: Option<Instant>) -> Result<(), LatchError> {
        // Pairs with the fence in `enters`: our word before the rows.
        announced();
        let (latches, mut waiter) = (&self.user.latches, Waiter::new(&self.user.member, deadline));
        for share in latches.shares() {
            while let Some((seen, owner)) = self.sharer(share) {
                if waiter.outlives(owner, share, seen.to_bits(), &self.latch.drained) {
                    latches.bury(share, seen);
                    waiter.goes_on_from_the_dead()?;
                } else {
                    waiter.goes_on()?;
                }
            }
        }
        Ok(())
    }

    /// Whether no row names the frame.
    pub(super) fn is_drained(&self) -> bool {
        // Pairs with the fence in `enters`, as in `drain`.
        announced();
        self.user.latches.shares().all(|share| self.sharer(share).is_none())
    }

    /// Who shares the frame by this word of a row.
    fn sharer(&self, share: &AtomicU64) -> Option<(Shared, ParticipantId)> {
        // Pairs with the Releases in `Share::drop` and `bury`: what was read under the share.
        let seen = Shared::from_bits(share.load(Ordering::Acquire));
        let owner = seen.owner()?;
        (seen.frame() == self.frame).then_some((seen, owner))
    }
}
