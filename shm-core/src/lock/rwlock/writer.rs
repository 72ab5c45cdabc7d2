//! Taking the exclusive right, and recovering it.
use super::shared::{Holders, Row, State, Word};
use super::{
    Asks, LockError, ROUNDS_MAX, Recovery, RwLock, WriteGuard, is_changed_soon, is_over, is_past,
    slice_of,
};
use crate::event::announced;
use crate::participants::{Member, Outcome, wait};
use crate::sync::Ordering;
use std::time::Instant;

impl RwLock {
    /// Takes the exclusive right, for as long as the guard lives; waits for readers and writers.
    ///
    /// # Errors
    /// [`LockError::Abandoned`] where the last writer ended while it held the lock;
    /// [`LockError::NoRow`], [`LockError::Forked`], [`LockError::Corrupt`].
    ///
    /// # If a process dies here
    /// Waiting, its claim is withdrawn by whoever waits for it; holding, the lock is abandoned.
    pub fn write<'a>(&'a self, me: &'a Member) -> Result<WriteGuard<'a>, LockError> {
        self.write_before(me, None)
    }

    /// As [`write`](RwLock::write), until `deadline`.
    ///
    /// # Errors
    /// Those of [`write`](RwLock::write), and [`LockError::TimedOut`].
    ///
    /// # If a process dies here
    /// As in [`write`](RwLock::write).
    pub fn write_until<'a>(
        &'a self,
        me: &'a Member,
        deadline: Instant,
    ) -> Result<WriteGuard<'a>, LockError> {
        self.write_before(me, Some(deadline))
    }

    /// The exclusive right, if nobody has a share and no writer is before the caller.
    ///
    /// A dead one is not taken for a slow one: its life word says so, and ten times a second the
    /// kernel is asked about those found all the same.
    ///
    /// # Errors
    /// Those of [`write`](RwLock::write).
    ///
    /// # If a process dies here
    /// As in [`write`](RwLock::write).
    pub fn try_write<'a>(&'a self, me: &'a Member) -> Result<Option<WriteGuard<'a>>, LockError> {
        self.row(me)?;
        // Once more where a dead writer's claim was withdrawn.
        for _ in 0..2 {
            let word = Word::from_bits(self.head.writer.load(Ordering::Relaxed));
            match word.state().ok_or(LockError::Corrupt)? {
                State::Abandoned(by) => return Err(LockError::Abandoned { by }),
                State::Claimed(owner) | State::Held(owner) => {
                    if !self.is_settled_now(me, word, owner, self.asks()) {
                        return Ok(None);
                    }
                }
                // Who finds a reader beforehand does not turn the next ones away for nothing.
                State::Free if !self.drains_now(me)? => return Ok(None),
                State::Free if self.claims(me) => {
                    announced(); // as in `drain`
                    return match self.drains_now(me) {
                        Ok(true) => self.holds(me).map(Some),
                        Ok(false) => {
                            self.withdraw(me);
                            Ok(None)
                        }
                        Err(e) => {
                            self.withdraw(me);
                            Err(e)
                        }
                    };
                }
                State::Free => (),
            }
        }
        match Word::from_bits(self.head.writer.load(Ordering::Relaxed)).state() {
            Some(State::Abandoned(by)) => Err(LockError::Abandoned { by }),
            _ => Ok(None),
        }
    }

    /// Takes the exclusive right of an abandoned lock, to look at what it guards and to repair it.
    /// `None` where it is not abandoned (any more): take it as usual.
    ///
    /// # Errors
    /// [`LockError::NoRow`], [`LockError::Forked`], [`LockError::Corrupt`].
    ///
    /// # If a process dies here
    /// The lock is abandoned again, by the one who recovered it.
    pub fn recover<'a>(&'a self, me: &'a Member) -> Result<Option<Recovery<'a>>, LockError> {
        self.row(me)?;
        let word = Word::from_bits(self.head.writer.load(Ordering::Relaxed));
        let (by, dead) = match word.state().ok_or(LockError::Corrupt)? {
            State::Abandoned(by) => (by, word),
            // Nobody has asked for it since: the first to notice may be the one who repairs.
            State::Held(by) if self.is_settled_now(me, word, by, Asks::Kernel) => {
                (by, Word::abandoned(by))
            }
            _ => return Ok(None),
        };
        // Pairs with the Release in `settle` and in `Recovery`: the last words of who abandoned it.
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        let held = Word::held(me.id()).bits();
        // Nobody has a share: none was left when it was held, and nobody has entered since.
        let ours = self.head.writer.compare_exchange(dead.bits(), held, ok, err).is_ok();
        Ok(ours.then(|| Recovery::new(self, me, by)))
    }

    fn write_before<'a>(
        &'a self,
        me: &'a Member,
        deadline: Option<Instant>,
    ) -> Result<WriteGuard<'a>, LockError> {
        self.row(me)?;
        while !self.claims(me) {
            let word = Word::from_bits(self.head.writer.load(Ordering::Relaxed));
            match word.state().ok_or(LockError::Corrupt)? {
                State::Free if is_past(deadline) => return Err(LockError::TimedOut),
                State::Free => (),
                State::Abandoned(by) => return Err(LockError::Abandoned { by }),
                State::Claimed(owner) | State::Held(owner) => {
                    self.wait_for(me, word, owner, deadline)?;
                }
            }
        }
        match self.drain(me, deadline) {
            Ok(()) => self.holds(me),
            Err(e) => {
                self.withdraw(me);
                Err(e)
            }
        }
    }

    /// From here on no reader enters.
    fn claims(&self, me: &Member) -> bool {
        let (free, claimed) = (Word::FREE.bits(), Word::claimed(me.id()).bits());
        // What the last writer wrote comes with the fence that follows in each caller.
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        self.head.writer.compare_exchange(free, claimed, ok, err).is_ok()
    }

    /// All readers have gone.
    fn holds<'a>(&'a self, me: &'a Member) -> Result<WriteGuard<'a>, LockError> {
        let (claimed, held) = (Word::claimed(me.id()).bits(), Word::held(me.id()).bits());
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        match self.head.writer.compare_exchange(claimed, held, ok, err) {
            Ok(_) => Ok(WriteGuard::new(self, me)),
            Err(_) => Err(LockError::Corrupt),
        }
    }

    /// Takes the claim back. What earlier writers released stays so: a swap goes on with the chain.
    fn withdraw(&self, me: &Member) {
        let (claimed, free) = (Word::claimed(me.id()).bits(), Word::FREE.bits());
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        let _ = self.head.writer.compare_exchange(claimed, free, ok, err);
        self.head.freed.notify();
    }

    /// Waits until each row was empty once, or its owner dead.
    fn drain(&self, me: &Member, deadline: Option<Instant>) -> Result<(), LockError> {
        // Pairs with the fence in `enters`: our claim before the rows. And with the Release of the
        // last writer (`WriteGuard`), whose word our claim replaced: what it wrote.
        announced();
        let mut timed_out = false;
        for (seat, row) in self.rows.iter().enumerate() {
            while let Some(holders) = checked(row, seat)? {
                if timed_out {
                    return Err(LockError::TimedOut);
                }
                timed_out = self.wait_for_readers(me, row, holders, deadline)?;
            }
        }
        Ok(())
    }

    /// Whether all rows are empty, those of the dead too, without waiting.
    fn drains_now(&self, me: &Member) -> Result<bool, LockError> {
        let mut asks = None;
        for (seat, row) in self.rows.iter().enumerate() {
            for _ in 0..ROUNDS_MAX {
                let Some(holders) = checked(row, seat)? else { break };
                let owner = holders.owner().ok_or(LockError::Corrupt)?;
                if !asks.get_or_insert_with(|| self.asks()).is_dead(me, owner) {
                    return Ok(false);
                }
                self.bury(row, holders);
            }
        }
        Ok(true)
    }

    /// Waits until the row is no longer as it was, or empties it; whether the deadline is over.
    #[cold]
    fn wait_for_readers(
        &self,
        me: &Member,
        row: &Row,
        holders: Holders,
        deadline: Option<Instant>,
    ) -> Result<bool, LockError> {
        let owner = holders.owner().ok_or(LockError::Corrupt)?;
        if is_changed_soon(&row.holders, holders.bits()) {
            return Ok(is_past(deadline));
        }
        let ticket = self.head.drained.prepare();
        let wanted = holders.wanted();
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        if row.holders.compare_exchange(holders.bits(), wanted.bits(), ok, err).is_err() {
            return Ok(is_past(deadline));
        }
        let watch = me.watch(owner);
        let outcome = wait(&self.head.drained, ticket, &[&watch], slice_of(deadline));
        let now = Holders::from_bits(row.holders.load(Ordering::Relaxed));
        if !now.is_nobody() && now.are_of(owner) && watch.is_dead() {
            self.bury(row, now);
        }
        Ok(outcome == Outcome::TimedOut && is_over(deadline) || is_past(deadline))
    }
}

/// Who holds shares in the row of `seat`; an error where it is nobody who could.
fn checked(row: &Row, seat: usize) -> Result<Option<Holders>, LockError> {
    // Pairs with the Release in `leave` and in `bury`: what was read there before our writes.
    let holders = Holders::from_bits(row.holders.load(Ordering::Acquire));
    if holders.is_nobody() {
        return Ok(None);
    }
    let at_home = holders.owner().is_some_and(|owner| owner.slot() as usize == seat);
    if at_home { Ok(Some(holders)) } else { Err(LockError::Corrupt) }
}
