//! A barrier between processes: nobody goes on before all have come, and a death is told.
//!
//! ```text
//! turn: phase 3 | 4 have joined      broken: phase 2, by participant 1.4
//! row 0 [ participant 0.1 | arrived in 3 ]
//! row 1 [ participant 2.1 | arrived in 2 ]     missing: phase 3 waits for it
//! row 2 [ nobody                         ]
//! ```
//!
//! Phases are counted from 0. A *party* joins ([`Barrier::join`]) and learns the phase, arrives and
//! waits for the others, again and again, and leaves. A process may have several parties, one a
//! thread. Where the number of parties is known beforehand ([`Barrier::create`], `first`), phase 0
//! does not end before so many have joined; with 0, parties come and go as they like. So far this is
//! PostgreSQL's `Barrier` (`storage/ipc/barrier.c`), whose parties are a count; here they are a set,
//! which a death cannot leave wrong.
//!
//! # The protocol
//!
//! | who arrives, or leaves | who joins |
//! | --- | --- |
//! | (A) its row: arrived in this phase, or nobody's | (E) its row: working |
//! | fence | |
//! | (B) reads `turn` | (F) moves the number of joins in `turn` |
//! | (C) looks at each row: is anybody missing? | |
//! | (D) if not, swaps `turn`: the next phase | |
//!
//! Of the fences of the last two who arrive one comes first, so one of the two sees both rows, and
//! ends the phase. (D) fails where somebody joined since (B), and then it looks again. Who ends the
//! phase wakes the others; who dies before that was missing when they looked, so they sleep on its
//! life word too.
//!
//! # Deaths
//!
//! | death of a party | in that phase | then |
//! | --- | --- | --- |
//! | missing: it has not arrived | all who wait for the phase get [`Died`](BarrierError::Died), naming one of the missing dead, as soon as all others have arrived | it is taken out |
//! | arrived, and waiting | nothing: it had arrived | it is missing in the next phase: told there |
//! | in the midst of joining | as missing: somebody with its name began and is gone | it is taken out |
//! | in the midst of leaving | nothing, or as missing, where it had not got so far | it is taken out |
//!
//! Exactly one of those who return from a phase without an error is told that it is the elected one;
//! if that one dies before it says so to anybody, that is a death in the next phase.
//!
//! A phase is broken once, for all: `broken` is written before a dead one is taken out, and the phase
//! cannot end before it is. Who is late with it finds the row empty; or, where it has looked at the
//! row before that, somebody else's word in `broken`, which its swap does not replace. There is one
//! for even phases and one for odd ones. A party is never more than one phase behind, for the phase
//! after does not end without it; so what is said of a phase stands until all who waited for it have
//! read it.
//!
//! Who is stopped holds up the phase, and the others until their deadlines. One that is stopped
//! after it has ended the phase, and before it has woken anybody, does not: sleepers look for
//! themselves once a second.
mod party;
mod shared;

pub use party::Party;
pub use shared::PARTIES_MAX;

use super::{ROUNDS_MAX, is_changed_soon, is_over, is_past, slice_of};
use crate::event::announced;
use crate::mapping::{Mapped, MappedSlice, Mapping};
use crate::participants::{Member, Outcome, ParticipantId, Watch, wait};
use crate::process::{Forked, Liveness};
use crate::sync::{AtomicU64, Ordering};
use relptr::BadPtr;
use shared::{Head, Row, Said, Turn, Word};
use std::sync::Arc;
use std::time::Instant;

/// So many of the missing are watched at a time; the last ones come last.
const WATCHED_MAX: usize = 16;

/// Why a barrier could not be made, attached or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// Not between 1 and [`PARTIES_MAX`], or more of the first than of all.
    #[error(
        "a barrier has room for 1 to {PARTIES_MAX} parties, and waits for at most as many first; \
         not {parties} and {first}"
    )]
    Parties {
        /// Room asked for.
        parties: u32,
        /// How many the first phase waits for.
        first: u32,
    },
    /// The memory does not hold a barrier here.
    #[error("no barrier here: {0}")]
    BadPlace(#[from] BadPtr),
    /// The words in shared memory are not those of a barrier.
    #[error("the memory at this offset holds no barrier")]
    NotABarrier,
    /// No room for another party.
    #[error("the barrier has its {parties} parties: make it for more, or wait until one leaves")]
    Full {
        /// Room there is.
        parties: u32,
    },
    /// Of those that the phase waited for, this one died. The phase is over, for all.
    #[error("participant {by} died before it had come to the barrier")]
    Died {
        /// Who.
        by: ParticipantId,
    },
    /// The deadline passed. The party has arrived all the same: wait again.
    #[error("the others had not come to the barrier before the deadline")]
    TimedOut,
    /// The party was taken out, though its process lives: another one took it for dead, or a word
    /// was overwritten.
    #[error("the barrier's words were overwritten")]
    Corrupt,
    /// The party is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// A barrier in shared memory. See the [module](self).
///
/// ```
/// use shm_core::lock::barrier::Barrier;
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::Table;
///
/// let mapping = Mapping::heap(4096);
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
/// // SAFETY: as above, and the table ends before.
/// let barrier = unsafe { Barrier::create(&mapping, 1024, 2, 2) }.unwrap();
/// let me = table.join().unwrap();
/// // Two parties: here two threads, in real life two processes.
/// let elected: i32 = std::thread::scope(|scope| {
///     let threads = [(); 2].map(|()| {
///         scope.spawn(|| {
///             let mut party = barrier.join(&me).unwrap();
///             i32::from(party.arrive_and_wait().unwrap())
///         })
///     });
///     threads.into_iter().map(|thread| thread.join().unwrap()).sum()
/// });
/// assert_eq!((elected, barrier.phase()), (1, 1));
/// ```
#[derive(Debug, Clone)]
pub struct Barrier {
    head: Mapped<Head>,
    rows: MappedSlice<Row>,
    first: u32,
}

/// What a look at all rows came to.
enum Missing {
    /// These, or some of them; none where the first phase waits for who has not joined yet.
    Some(Vec<(usize, Word)>),
    /// All have arrived.
    Nobody,
    /// There is no party at all.
    Empty,
}

impl Barrier {
    /// Bytes of a barrier with room for so many parties.
    pub const fn bytes_for(parties: u32) -> u64 {
        size_of::<Head>() as u64 + parties as u64 * size_of::<Row>() as u64
    }

    /// Makes a barrier at `offset`, a multiple of 64, with room for so many `parties`. Its first
    /// phase does not end before `first` have joined; 0 for whoever comes.
    ///
    /// # Errors
    /// [`BarrierError::Parties`], [`BarrierError::BadPlace`].
    ///
    /// # Safety
    /// Nobody else accesses [`bytes_for`](Barrier::bytes_for)`(parties)` bytes at `offset` until the
    /// caller publishes the place.
    ///
    /// # If a process dies here
    /// The place was not published; whoever owns the memory makes the barrier again.
    pub unsafe fn create(
        mapping: &Arc<Mapping>,
        offset: u64,
        parties: u32,
        first: u32,
    ) -> Result<Barrier, BarrierError> {
        if !(1..=PARTIES_MAX).contains(&parties) || first > parties {
            return Err(BarrierError::Parties { parties, first });
        }
        mapping.region().range(offset, Barrier::bytes_for(parties))?;
        for row in 0..parties {
            // SAFETY: exclusive by the caller's promise.
            unsafe { mapping.region().place(offset + Barrier::bytes_for(row), Row::new())? };
        }
        // SAFETY: exclusive by the caller's promise.
        unsafe { mapping.region().place(offset, Head::new(parties, first))? };
        Barrier::attach(mapping, offset)
    }

    /// Attaches to the barrier at `offset`.
    ///
    /// # Errors
    /// [`BarrierError::NotABarrier`], [`BarrierError::BadPlace`].
    pub fn attach(mapping: &Arc<Mapping>, offset: u64) -> Result<Barrier, BarrierError> {
        let head = Mapped::<Head>::new(mapping, offset)?;
        let (rows, first) = head.checked().ok_or(BarrierError::NotABarrier)?;
        let rows = MappedSlice::new(mapping, offset + Barrier::bytes_for(0), u64::from(rows))?;
        Ok(Barrier { head, rows, first })
    }

    /// The phase it is in.
    pub fn phase(&self) -> u32 {
        self.turn().phase()
    }

    /// Who is a party now, by participants; one that has several appears as often.
    pub fn parties(&self) -> Vec<ParticipantId> {
        let words = self.rows.iter().map(|row| Word::from_bits(row.party.load(Ordering::Relaxed)));
        words.filter_map(Word::owner).collect()
    }

    /// One party more, of `me`. The phase in which it joins does not end without it.
    ///
    /// # Errors
    /// [`BarrierError::Full`], [`BarrierError::Corrupt`], [`BarrierError::Forked`].
    ///
    /// # If a process dies here
    /// It is no party, or one that is missing: the others are told, and go on without it.
    pub fn join(&self, me: &Arc<Member>) -> Result<Party, BarrierError> {
        me.check_fork()?;
        let row = self.claim_row(me)?;
        for _ in 0..ROUNDS_MAX {
            let turn = self.turn();
            let joined = turn.one_joined();
            // Pairs with the Acquire in `turn`: our row, for who looks at the rows after that.
            let (ok, err) = (Ordering::Release, Ordering::Relaxed);
            let next = joined.bits();
            if self.head.turn.compare_exchange(turn.bits(), next, ok, err).is_ok() {
                return Ok(Party::new(self, me, row, joined.phase()));
            }
        }
        self.vacate(row, Word::working(me.id()));
        Err(BarrierError::Corrupt)
    }

    /// Takes out the parties of `gone`: those that are missing are told of.
    ///
    /// For who cleans up after the dead ([`Table::reap`](crate::participants::Table::reap)), or
    /// after itself: a participant that will never act again. Without it those who wait do the same.
    /// One that has arrived stays until the phase has ended, and is told of in the next.
    ///
    /// # If a process dies here
    /// The next one to clean up, or to wait, does the rest.
    pub fn clean_up(&self, gone: ParticipantId) {
        let mut is_changed = false;
        for row in 0..self.rows.len() {
            let word = self.word(row, Ordering::Relaxed);
            if word.owner() == Some(gone) && !word.has_arrived(self.phase()) {
                self.bury(row, word);
                is_changed = true;
            }
        }
        if is_changed {
            // Who sleeps looks again, and at whom it waits for now.
            self.head.advanced.notify();
        }
    }

    fn turn(&self) -> Turn {
        // Pairs with the Release in `advance`: what all did before the phase ended; and with that in
        // `join`: the row.
        Turn::from_bits(self.head.turn.load(Ordering::Acquire))
    }

    fn word(&self, row: usize, order: Ordering) -> Word {
        self.rows.get(row).map_or(Word::NOBODY, |row| Word::from_bits(row.party.load(order)))
    }

    /// A row that nobody has, or one that a dead one left.
    fn claim_row(&self, me: &Member) -> Result<usize, BarrierError> {
        let working = Word::working(me.id());
        for is_last_try in [false, true] {
            for row in 0..self.rows.len() {
                if self.change(row, Word::NOBODY, working, Ordering::Relaxed) {
                    return Ok(row);
                }
            }
            if !is_last_try {
                self.bury_the_dead(me);
            }
        }
        Err(BarrierError::Full { parties: self.rows.len() as u32 })
    }

    fn bury_the_dead(&self, me: &Member) {
        for row in 0..self.rows.len() {
            let word = self.word(row, Ordering::Relaxed);
            if let Some(owner) = word.owner()
                && !word.has_arrived(self.phase())
                && me.table().liveness(owner) == Liveness::Dead
            {
                self.bury(row, word);
            }
        }
    }

    fn change(&self, row: usize, from: Word, to: Word, order: Ordering) -> bool {
        let Some(row) = self.rows.get(row) else { return false };
        row.party.compare_exchange(from.bits(), to.bits(), order, Ordering::Relaxed).is_ok()
    }

    /// The row of a party that is one no more.
    fn vacate(&self, row: usize, word: Word) -> bool {
        // Pairs with the Acquire in `look`: what it did before it left.
        let left = self.change(row, word, Word::NOBODY, Ordering::Release);
        // Pairs with the fences of others who arrive or leave: our row before theirs.
        announced();
        left
    }

    /// A dead one that is missing: told, and taken out.
    #[cold]
    fn bury(&self, row: usize, word: Word) {
        let Some(owner) = word.owner() else { return };
        for _ in 0..ROUNDS_MAX {
            let turn = self.turn();
            let slot = self.broken(turn.phase());
            let said = Said::from_bits(slot.load(Ordering::Relaxed));
            let is_missing = self.word(row, Ordering::Relaxed) == word;
            if !is_missing || word.has_arrived(turn.phase()) {
                return; // somebody else has taken it out
            }
            if word.is_leaving() || said.is_of_or_after(turn.phase()) {
                break;
            }
            let next = Said::of(turn.phase(), owner);
            let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
            if slot.compare_exchange(said.bits(), next.bits(), ok, err).is_ok() {
                break;
            }
        }
        // Pairs with the Acquire in `look`: what is said in `broken`, before the row is empty.
        self.change(row, word, Word::NOBODY, Ordering::Release);
    }

    /// Where it is said whether this phase is broken.
    fn broken(&self, phase: u32) -> &AtomicU64 {
        &self.head.broken[phase as usize % 2]
    }

    /// Who is missing in the phase of `turn`, which was read before.
    fn look(&self, turn: Turn) -> Result<Missing, BarrierError> {
        let (mut missing, mut is_empty) = (Vec::new(), true);
        for row in 0..self.rows.len() {
            // Pairs with the Release in `Party::arrive`, `vacate` and `bury`: what the party did.
            let word = self.word(row, Ordering::Acquire);
            if word == Word::NOBODY {
                continue;
            }
            is_empty = false;
            if word.has_arrived(turn.phase()) {
                continue;
            }
            word.owner().ok_or(BarrierError::Corrupt)?;
            if missing.len() < WATCHED_MAX {
                missing.push((row, word));
            }
        }
        let waits_for_joins = turn.phase() == 0 && turn.joins() < self.first;
        Ok(match missing.is_empty() && !waits_for_joins {
            true if is_empty => Missing::Empty,
            true => Missing::Nobody,
            false => Missing::Some(missing),
        })
    }

    /// Ends the phase, unless somebody joined meanwhile or it has ended.
    fn advance(&self, turn: Turn) -> bool {
        // Pairs with the Acquire in `turn`: what all did before they arrived.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        let next = turn.next_phase().bits();
        let advanced = self.head.turn.compare_exchange(turn.bits(), next, ok, err).is_ok();
        if advanced {
            self.head.advanced.notify();
        }
        advanced
    }

    /// Ends the phase if all parties have arrived; for who has left, be it a phase late. Who sleeps
    /// for one who leaves looks for whom it waits now.
    fn advance_if_complete(&self) -> Result<(), BarrierError> {
        for _ in 0..ROUNDS_MAX {
            let turn = self.turn();
            match self.look(turn)? {
                Missing::Nobody if self.advance(turn) => return Ok(()),
                Missing::Nobody => (),
                Missing::Some(_) => {
                    self.head.advanced.notify();
                    return Ok(());
                }
                Missing::Empty => return Ok(()),
            }
        }
        Err(BarrierError::Corrupt)
    }

    /// Until `phase`, in which the caller has arrived, is over.
    fn wait_for_end(
        &self,
        me: &Member,
        phase: u32,
        deadline: Option<Instant>,
    ) -> Result<(), BarrierError> {
        let mut timed_out = false;
        loop {
            let ticket = self.head.advanced.prepare();
            let turn = self.turn();
            if turn.phase() != phase {
                return Ok(());
            }
            let missing = match self.look(turn)? {
                Missing::Some(missing) => missing,
                Missing::Nobody => {
                    self.advance(turn);
                    continue;
                }
                // It should at least have found us.
                Missing::Empty => return Err(BarrierError::Corrupt),
            };
            if timed_out {
                return Err(BarrierError::TimedOut);
            }
            if is_changed_soon(&self.head.turn, turn.bits()) {
                continue;
            }
            let watches =
                missing.iter().filter_map(|(_, word)| word.owner().map(|id| me.watch(id)));
            let watches: Vec<Watch> = watches.collect();
            let peers: Vec<&Watch> = watches.iter().collect();
            let outcome = wait(&self.head.advanced, ticket, &peers, slice_of(deadline));
            timed_out = outcome == Outcome::TimedOut && is_over(deadline) || is_past(deadline);
            self.bury_missing(turn, &missing, &watches);
        }
    }

    /// Those who are still missing, and dead.
    fn bury_missing(&self, turn: Turn, missing: &[(usize, Word)], watches: &[Watch]) {
        for ((row, word), watch) in missing.iter().zip(watches) {
            let is_missing = self.turn() == turn && self.word(*row, Ordering::Relaxed) == *word;
            if is_missing && watch.is_dead() {
                self.bury(*row, *word);
            }
        }
    }

    /// Whether the caller is the one that is elected, of those who ask after the end of `phase`.
    fn is_elected(&self, me: ParticipantId, phase: u32) -> bool {
        let mut said = Said::from_bits(self.head.elected.load(Ordering::Relaxed));
        for _ in 0..ROUNDS_MAX {
            if said.is_of_or_after(phase) {
                return false;
            }
            let (mine, ok, err) = (Said::of(phase, me), Ordering::Relaxed, Ordering::Relaxed);
            match self.head.elected.compare_exchange(said.bits(), mine.bits(), ok, err) {
                Ok(_) => return true,
                Err(now) => said = Said::from_bits(now),
            }
        }
        false
    }

    /// What became of `phase`, which is over.
    fn outcome(&self, me: ParticipantId, phase: u32) -> Result<bool, BarrierError> {
        // After `turn`, whose Acquire shows what was said before the phase ended.
        let said = Said::from_bits(self.broken(phase).load(Ordering::Relaxed));
        match said.who() {
            Some(by) if said.is_of(phase) => Err(BarrierError::Died { by }),
            _ => Ok(self.is_elected(me, phase)),
        }
    }
}
