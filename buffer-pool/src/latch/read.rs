//! Reading: without a latch, or with a share.
use super::guard::Share;
use super::shared::Latch;
use super::word::{Shared, State, Word};
use super::{LatchError, Latches, User, wait_for};
use crate::wait::Waiter;
use shm_core::event::announced;
use shm_core::sync::{AtomicU64, Ordering, fence, spin_loop};
use std::time::Instant;

/// After so many looks in vain who reads takes a share.
const LOOKS_MAX: u32 = 3;

impl Latches {
    /// What `read` reads of the page in `frame`, where nobody changes it meanwhile; else `None`.
    ///
    /// `read` may see a page that is half changed: it loads and copies, and believes nothing. It
    /// reads by relaxed loads, as [`relaxed::copy_out`](shm_core::bytes::relaxed::copy_out) does.
    ///
    /// # Errors
    /// [`LatchError::NoSuchFrame`].
    #[inline]
    pub fn look<R>(&self, frame: u32, read: impl FnOnce() -> R) -> Result<Option<R>, LatchError> {
        let version = &self.latch(frame)?.version;
        // Pairs with the Release in `Change::done`: the bytes.
        let before = version.load(Ordering::Acquire);
        if before & 1 == 1 {
            return Ok(None);
        }
        let bytes = read();
        // Pairs with the fence in `Change::begin`: who has read a byte of the change sees that
        // it has begun.
        fence(Ordering::Acquire);
        Ok((version.load(Ordering::Relaxed) == before).then_some(bytes))
    }
}

impl User {
    /// What `read` reads of the page in `frame`: by [looks](Latches::look), and with a share where
    /// others change it all the time. `read` may be called again, and what it read before is void.
    ///
    /// # Errors
    /// Those of [`share`](User::share).
    ///
    /// # If a process dies here
    /// As in [`share`](User::share).
    #[inline]
    pub fn read<R>(
        &self,
        frame: u32,
        deadline: Option<Instant>,
        mut read: impl FnMut() -> R,
    ) -> Result<R, LatchError> {
        for _ in 0..LOOKS_MAX {
            if let Some(bytes) = self.latches.look(frame, &mut read)? {
                return Ok(bytes);
            }
            spin_loop();
        }
        let _share = self.share(frame, deadline)?;
        let bytes = read();
        // A child that `read` has forked does not share it.
        self.check_fork()?;
        Ok(bytes)
    }

    /// Takes a share, for as long as the guard lives; waits, until `deadline`, for who has the
    /// latch exclusively.
    ///
    /// # Errors
    /// [`LatchError`].
    ///
    /// # If a process dies here
    /// Its row names it and the frame. Who waits for it proves the death and empties the row.
    #[inline]
    pub fn share(&self, frame: u32, deadline: Option<Instant>) -> Result<Share<'_>, LatchError> {
        self.check_fork()?;
        let latch = self.latches.latch(frame)?;
        match self.enters(latch, frame)? {
            Some(share) => Ok(share),
            None => self.share_slowly(latch, frame, deadline),
        }
    }

    /// A share, where nobody has or wants the latch exclusively. A dead one is taken for a slow
    /// one until it was cleaned up after, or waited for.
    ///
    /// # Errors
    /// Those of [`share`](User::share).
    ///
    /// # If a process dies here
    /// As in [`share`](User::share).
    #[inline]
    pub fn try_share(&self, frame: u32) -> Result<Option<Share<'_>>, LatchError> {
        self.check_fork()?;
        let latch = self.latches.latch(frame)?;
        let share = self.enters(latch, frame)?;
        if share.is_none() {
            self.obstacle(latch)?;
        }
        Ok(share)
    }

    #[cold]
    fn share_slowly<'u>(
        &'u self,
        latch: &'u Latch,
        frame: u32,
        deadline: Option<Instant>,
    ) -> Result<Share<'u>, LatchError> {
        let mut waiter = Waiter::new(&self.member, deadline);
        loop {
            if let Some(share) = self.enters(latch, frame)? {
                return Ok(share);
            }
            match self.obstacle(latch)? {
                (word, State::Exclusive(owner)) => wait_for(&mut waiter, latch, word, owner)?,
                _ => waiter.goes_on()?,
            }
        }
    }

    /// Who is in the way of a share.
    fn obstacle(&self, latch: &Latch) -> Result<(Word, State), LatchError> {
        let word = Word::from_bits(latch.word.load(Ordering::Relaxed));
        match word.state().ok_or(LatchError::Corrupt)? {
            State::Torn(by) => Err(LatchError::Torn { by }),
            state => Ok((word, state)),
        }
    }

    /// Announces the share, and looks whether somebody exclusive was before it.
    #[inline]
    fn enters<'u>(&'u self, latch: &'u Latch, frame: u32) -> Result<Option<Share<'u>>, LatchError> {
        // Who sees him beforehand does not make him wait for an announcement in vain.
        if !Word::from_bits(latch.word.load(Ordering::Relaxed)).lets_in() {
            return Ok(None);
        }
        let share = Share::new(self, latch, self.announce(frame)?);
        // Pairs with the fence in `drain`: our row before the word.
        announced();
        // Pairs with the Releases in `moves` and `settle`: the bytes.
        let word = Word::from_bits(latch.word.load(Ordering::Acquire));
        Ok(word.lets_in().then_some(share))
    }

    /// A word of our row, which may still name an earlier user of the seat: that one is gone for
    /// good, or we would not sit there.
    #[inline]
    fn announce(&self, frame: u32) -> Result<&AtomicU64, LatchError> {
        let (me, mine) = (Some(self.id()), Shared::new(self.id(), frame).to_bits());
        let takes = |share: &&AtomicU64| {
            let seen = share.load(Ordering::Relaxed);
            // Relaxed: as a read-modify-write it hands on what the word's last share released.
            let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
            Shared::from_bits(seen).owner() != me
                && share.compare_exchange(seen, mine, ok, err).is_ok()
        };
        self.row().shares.iter().find(takes).ok_or(LatchError::TooManyShares)
    }
}
