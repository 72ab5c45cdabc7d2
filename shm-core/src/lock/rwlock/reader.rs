//! Taking a share.
use super::shared::{Holders, Row, State, Word};
use super::{LockError, ROUNDS_MAX, ReadGuard, RwLock, is_past};
use crate::event::announced;
use crate::participants::{Member, ParticipantId};
use crate::sync::Ordering;
use std::time::Instant;

impl RwLock {
    /// Takes a share, for as long as the guard lives; waits for a writer.
    ///
    /// # Errors
    /// [`LockError::Abandoned`] where the last writer ended while it held the lock;
    /// [`LockError::NoRow`], [`LockError::Forked`], [`LockError::Corrupt`].
    ///
    /// # If a process dies here
    /// Its row names it. A writer that waits for it proves the death and empties the row.
    #[inline]
    pub fn read<'a>(&'a self, me: &'a Member) -> Result<ReadGuard<'a>, LockError> {
        let row = self.row(me)?;
        if self.enters(row, me.id())? {
            return Ok(ReadGuard::new(self, row, me));
        }
        self.read_slowly(row, me, None)
    }

    /// As [`read`](RwLock::read), until `deadline`.
    ///
    /// # Errors
    /// Those of [`read`](RwLock::read), and [`LockError::TimedOut`].
    ///
    /// # If a process dies here
    /// As in [`read`](RwLock::read).
    pub fn read_until<'a>(
        &'a self,
        me: &'a Member,
        deadline: Instant,
    ) -> Result<ReadGuard<'a>, LockError> {
        let row = self.row(me)?;
        if self.enters(row, me.id())? {
            return Ok(ReadGuard::new(self, row, me));
        }
        self.read_slowly(row, me, Some(deadline))
    }

    /// A share, if no writer has or wants the lock.
    ///
    /// A dead writer is not taken for a slow one: its life word says so, and ten times a second the
    /// kernel is asked all the same.
    ///
    /// # Errors
    /// Those of [`read`](RwLock::read).
    ///
    /// # If a process dies here
    /// As in [`read`](RwLock::read).
    pub fn try_read<'a>(&'a self, me: &'a Member) -> Result<Option<ReadGuard<'a>>, LockError> {
        let row = self.row(me)?;
        // Once more where a dead writer's claim was withdrawn.
        for _ in 0..2 {
            if self.enters(row, me.id())? {
                return Ok(Some(ReadGuard::new(self, row, me)));
            }
            let word = Word::from_bits(self.head.writer.load(Ordering::Relaxed));
            match word.state().ok_or(LockError::Corrupt)? {
                State::Free => (),
                State::Abandoned(by) => return Err(LockError::Abandoned { by }),
                State::Claimed(owner) | State::Held(owner) => {
                    if !self.is_settled_now(me, word, owner, self.asks()) {
                        return Ok(None);
                    }
                }
            }
        }
        match Word::from_bits(self.head.writer.load(Ordering::Relaxed)).state() {
            Some(State::Abandoned(by)) => Err(LockError::Abandoned { by }),
            _ => Ok(None),
        }
    }

    #[cold]
    fn read_slowly<'a>(
        &'a self,
        row: &'a Row,
        me: &'a Member,
        deadline: Option<Instant>,
    ) -> Result<ReadGuard<'a>, LockError> {
        loop {
            let word = Word::from_bits(self.head.writer.load(Ordering::Relaxed));
            match word.state().ok_or(LockError::Corrupt)? {
                State::Free => {
                    if self.enters(row, me.id())? {
                        return Ok(ReadGuard::new(self, row, me));
                    }
                    if is_past(deadline) {
                        return Err(LockError::TimedOut);
                    }
                }
                State::Abandoned(by) => return Err(LockError::Abandoned { by }),
                State::Claimed(owner) | State::Held(owner) => {
                    self.wait_for(me, word, owner, deadline)?;
                }
            }
        }
    }

    /// Announces the caller, and looks whether a writer was before it.
    #[inline]
    fn enters(&self, row: &Row, me: ParticipantId) -> Result<bool, LockError> {
        let (writer, free) = (&self.head.writer, Word::FREE.bits());
        // Who sees a writer beforehand does not make it wait for an announcement in vain.
        if writer.load(Ordering::Relaxed) != free {
            return Ok(false);
        }
        announce(row, me)?;
        // Pairs with the fence in `drain`: our row before the writer's claim.
        announced();
        // Pairs with the Release of the writer that gave it back (`WriteGuard`): what it wrote.
        if writer.load(Ordering::Acquire) == free {
            return Ok(true);
        }
        self.leave(row, me);
        Ok(false)
    }

    /// One thread of `me` less. The last one wakes who waits for it.
    #[inline]
    pub(super) fn leave(&self, row: &Row, me: ParticipantId) {
        let mut holders = Holders::from_bits(row.holders.load(Ordering::Relaxed));
        for _ in 0..ROUNDS_MAX {
            if !holders.are_of(me) || holders.is_nobody() {
                return; // somebody scribbles
            }
            let next = holders.but_one();
            // Pairs with the Acquire in `is_empty`: what was read before the writer's writes.
            let (ok, err) = (Ordering::Release, Ordering::Relaxed);
            match row.holders.compare_exchange(holders.bits(), next.bits(), ok, err) {
                Ok(_) => {
                    // Pairs, by its fences, with the writer's: it announced its sleep before it
                    // set the bit that we have just found.
                    if next.is_nobody() && holders.are_wanted() {
                        self.head.drained.notify();
                    }
                    return;
                }
                Err(now) => holders = Holders::from_bits(now),
            }
        }
    }
}

/// One thread of `me` more in its row, which may still name an earlier user of the seat: that one
/// is gone for good, or we would not sit there.
#[inline]
fn announce(row: &Row, me: ParticipantId) -> Result<(), LockError> {
    let mut holders = Holders::from_bits(row.holders.load(Ordering::Relaxed));
    for _ in 0..ROUNDS_MAX {
        let next = match holders.are_of(me) {
            true => holders.and_one().ok_or(LockError::Corrupt)?,
            false => Holders::one_of(me),
        };
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        match row.holders.compare_exchange(holders.bits(), next.bits(), ok, err) {
            Ok(_) => return Ok(()),
            Err(now) => holders = Holders::from_bits(now),
        }
    }
    Err(LockError::Corrupt)
}
