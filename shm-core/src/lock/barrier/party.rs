//! `Party`: one that the others wait for.
use super::shared::Word;
use super::{Barrier, BarrierError, Missing};
use crate::event::announced;
use crate::lock::model_unwinds;
use crate::participants::Member;
use crate::sync::Ordering;
use std::sync::Arc;
use std::time::Instant;

/// One that the others wait for. Dropped, it leaves.
///
/// ```compile_fail,E0277
/// // Two threads are two parties.
/// fn is_clone<T: Clone>() {}
/// is_clone::<shm_core::lock::barrier::Party>();
/// ```
#[derive(Debug)]
pub struct Party {
    barrier: Barrier,
    me: Arc<Member>,
    row: usize,
    /// What its row says.
    word: Word,
    /// The phase that it is in.
    phase: u32,
    /// It has arrived in this phase, and not been told of its end.
    waits: bool,
}

impl Party {
    pub(super) fn new(barrier: &Barrier, me: &Arc<Member>, row: usize, phase: u32) -> Party {
        let word = Word::working(me.id());
        Party { barrier: barrier.clone(), me: me.clone(), row, word, phase, waits: false }
    }

    /// The phase it is in: the one that it joined in, and one more for each that has ended.
    pub fn phase(&self) -> u32 {
        self.phase
    }

    /// Arrives, and waits until all parties have. `true` for exactly one of them: the elected one,
    /// for what is to be done once.
    ///
    /// # Errors
    /// [`BarrierError::Died`]: the phase is over, and one that it waited for is dead;
    /// [`BarrierError::Forked`], [`BarrierError::Corrupt`].
    ///
    /// # If a process dies here
    /// Before it has arrived, the others are told so in this phase, afterwards in the next.
    pub fn arrive_and_wait(&mut self) -> Result<bool, BarrierError> {
        self.arrive()?;
        self.wait(None)
    }

    /// As [`arrive_and_wait`](Party::arrive_and_wait), until `deadline`. Once that is over, the party
    /// has arrived all the same; the next call goes on waiting.
    ///
    /// # Errors
    /// Those of [`arrive_and_wait`](Party::arrive_and_wait), and [`BarrierError::TimedOut`].
    ///
    /// # If a process dies here
    /// As in [`arrive_and_wait`](Party::arrive_and_wait).
    pub fn arrive_and_wait_until(&mut self, deadline: Instant) -> Result<bool, BarrierError> {
        self.arrive()?;
        self.wait(Some(deadline))
    }

    /// Arrives for the last time, and leaves without waiting. `true`: it was the last party.
    ///
    /// # Errors
    /// [`BarrierError::Forked`], [`BarrierError::Corrupt`].
    ///
    /// # If a process dies here
    /// As in [`arrive_and_wait`](Party::arrive_and_wait), or it has left.
    pub fn arrive_and_leave(mut self) -> Result<bool, BarrierError> {
        self.me.check_fork()?;
        self.go()?;
        let turn = self.barrier.turn();
        match self.barrier.look(turn)? {
            Missing::Empty => {
                if turn.phase() == self.phase {
                    self.barrier.advance(turn);
                }
                Ok(self.barrier.is_elected(self.me.id(), self.phase))
            }
            _ => self.barrier.advance_if_complete().map(|()| false),
        }
    }

    /// Arrives, and leaves without waiting unless it is the last party: then it stays, alone, in the
    /// next phase, and `true` is returned.
    ///
    /// Those who are dead are not waited for, and do not count. After `false` there is nothing to be
    /// done with it any more.
    ///
    /// # Errors
    /// [`BarrierError::Forked`], [`BarrierError::Corrupt`].
    ///
    /// # If a process dies here
    /// As in [`arrive_and_wait`](Party::arrive_and_wait), or it has left.
    pub fn arrive_and_leave_except_last(&mut self) -> Result<bool, BarrierError> {
        self.me.check_fork()?;
        let leaving = Word::leaving(self.me.id(), self.phase);
        self.becomes(leaving)?;
        // Pairs with itself, in the others who leave so: our row before theirs.
        announced();
        let mut is_last = !self.has_company();
        if is_last {
            // First: the death of one that is elected is told in the next phase, that of one who
            // leaves is not.
            self.becomes(Word::arrived(self.me.id(), self.phase))?;
            is_last = self.barrier.is_elected(self.me.id(), self.phase);
        }
        if !is_last {
            self.go()?;
            return self.barrier.advance_if_complete().map(|()| false);
        }
        // One that has joined meanwhile is waited for, as ever.
        self.barrier.wait_for_end(&self.me, self.phase, None)?;
        self.phase = self.phase.wrapping_add(1);
        Ok(true)
    }

    /// Leaves. Others who have all arrived go on.
    ///
    /// # Errors
    /// [`BarrierError::Forked`], [`BarrierError::Corrupt`].
    ///
    /// # If a process dies here
    /// It has left, or is missing: then the others are told.
    pub fn leave(mut self) -> Result<(), BarrierError> {
        self.me.check_fork()?;
        self.go()?;
        self.barrier.advance_if_complete()
    }

    fn arrive(&mut self) -> Result<(), BarrierError> {
        self.me.check_fork()?;
        if !self.waits {
            self.becomes(Word::arrived(self.me.id(), self.phase))?;
            self.waits = true;
        }
        Ok(())
    }

    /// Its fence, that of `EventCount::prepare`, pairs with those of the others who arrive or leave:
    /// our row before theirs.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<bool, BarrierError> {
        self.barrier.wait_for_end(&self.me, self.phase, deadline)?;
        let over = self.phase;
        (self.waits, self.phase) = (false, over.wrapping_add(1));
        self.barrier.outcome(self.me.id(), over)
    }

    /// Its row says so from now on.
    fn becomes(&mut self, word: Word) -> Result<(), BarrierError> {
        // Pairs with the Acquire in `look`: what was done before.
        if self.word == Word::NOBODY
            || !self.barrier.change(self.row, self.word, word, Ordering::Release)
        {
            self.word = Word::NOBODY;
            return Err(BarrierError::Corrupt);
        }
        self.word = word;
        Ok(())
    }

    /// It is a party no more.
    fn go(&mut self) -> Result<(), BarrierError> {
        let word = std::mem::replace(&mut self.word, Word::NOBODY);
        if word != Word::NOBODY && self.barrier.vacate(self.row, word) {
            Ok(())
        } else {
            Err(BarrierError::Corrupt)
        }
    }

    /// Whether there is another party that lives, and is not about to leave in the same way.
    fn has_company(&self) -> bool {
        (0..self.barrier.rows.len()).filter(|row| *row != self.row).any(|row| {
            // Pairs with the Release in `bury`, `vacate` and `becomes`: what the party did.
            let word = self.barrier.word(row, Ordering::Acquire);
            let Some(owner) = word.owner() else { return false };
            if word.is_leaving() && word.has_arrived(self.phase) {
                return false;
            }
            let is_dead = self.me.watch(owner).is_dead();
            if is_dead && !word.has_arrived(self.phase) {
                self.barrier.bury(row, word);
            }
            !is_dead
        })
    }
}

impl Drop for Party {
    /// # If a process dies here
    /// As in [`leave`](Party::leave).
    fn drop(&mut self) {
        if self.word != Word::NOBODY
            && !model_unwinds()
            && self.me.check_fork().is_ok()
            && self.go().is_ok()
        {
            // What is corrupt the others see for themselves.
            let _ = self.barrier.advance_if_complete();
        }
    }
}
