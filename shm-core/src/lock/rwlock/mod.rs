//! A reader-writer lock between processes: readers are a set, a writer is named.
//!
//! For what is read often and by many: a reader writes its own cache line and no other, so that
//! readers of different processes do not disturb each other; a writer looks at every row.
//! Uncontended, no side makes a system call.
//!
//! ```text
//! writer [ free | claimed by w | held by w | abandoned by w ]
//! row 0  [ participant | WANTED | threads ]   own cache line
//! row 1  [ participant | WANTED | threads ]   …
//! ```
//!
//! # The protocol
//!
//! | reader | writer |
//! | --- | --- |
//! | (A) writes its row | (C) free → claimed(me) |
//! | fence | fence |
//! | (B) looks at `writer`: free, and it is in; else it takes its row back | (D) looks at each row, and waits until it is empty or its owner is dead; then claimed → held |
//!
//! Of two fences one comes first: either (B) sees the claim and the reader is not in, or (D) sees
//! the row. A row that was found empty after (C) need not be looked at again: who writes it later
//! sees the claim. From (C) on no reader enters, so a writer waits for those who are in, and not
//! for those who come: it is not starved by them. Waiting readers and writers are equals: whoever
//! comes first after a writer has gone. (So writers without pause can starve readers, as with
//! PostgreSQL's lightweight locks.)
//!
//! A thread that has a share and asks for another, while a writer waits, waits for itself; so does
//! one that has the lock, and asks for it again. The threads of a process are told apart by nobody
//! but themselves.
//!
//! # Deaths
//!
//! | who dies | leaves | repaired by |
//! | --- | --- | --- |
//! | a reader, in or about to be | its row, which names it | the writer that waits for the row and proves the death; [`clean_up`](RwLock::clean_up) |
//! | a writer, claimed | a claim that names it; nothing was changed | whoever waits for it, or tries, withdraws it |
//! | a writer, holding | `held`, and what it was changing | who finds it says *abandoned*; from then on each taker of either kind is told [`Abandoned`](LockError::Abandoned), until one [recovers](RwLock::recover) |
//! | one who recovers | the same | the same, with its name |
//! | any of them, between a change of a word and its wake-up | sleepers | each sleeper sleeps on the life word of the one it waits for, too; and, for one that is stopped there, looks for itself once a second |
//!
//! Who waits for a process that is stopped waits until its deadline; the others are not concerned.
//!
//! A writer that panics has abandoned it, too (as a poisoned lock of the standard library); and a
//! recovery given up leaves it abandoned. Guards keep their member seated. One that is forgotten
//! (`mem::forget`) stays until the member's seat is given up.
mod guard;
mod reader;
mod shared;
mod writer;

pub use guard::{ReadGuard, Recovery, WriteGuard};

use super::{ROUNDS_MAX, is_changed_soon, is_over, is_past, model_unwinds, slice_of};
use crate::mapping::{Mapped, MappedSlice, Mapping};
use crate::participants::{Member, Outcome, ParticipantId, Recheck, SLOTS_MAX, wait};
use crate::process::{Forked, Liveness};
use crate::sync::Ordering;
use relptr::BadPtr;
use shared::{Head, Holders, Row, State, Word};
use std::sync::Arc;
use std::time::Instant;

/// Why a lock could not be made or attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RwLockError {
    /// Not between 1 and [`SLOTS_MAX`].
    #[error(
        "a reader-writer lock has 1 to {SLOTS_MAX} seats, as many as the table of participants; \
         not {0}"
    )]
    Seats(u32),
    /// The memory does not hold a lock here.
    #[error("no reader-writer lock here: {0}")]
    BadPlace(#[from] BadPtr),
    /// The words in shared memory are not those of a lock.
    #[error("the memory at this offset holds no reader-writer lock")]
    NotALock,
}

/// Why a lock was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The deadline passed.
    #[error("the lock was not free before the deadline")]
    TimedOut,
    /// Its last writer died, or panicked, holding it: what it guards may be half changed.
    /// [`RwLock::recover`], look, repair.
    #[error("participant {by} held the lock exclusively when it ended: recover it")]
    Abandoned {
        /// Who held it.
        by: ParticipantId,
    },
    /// A word of the lock is nonsense.
    #[error("the lock's words were overwritten")]
    Corrupt,
    /// The caller's seat has no row: the lock was made for a smaller table.
    #[error("the lock was made for {seats} seats, and this participant has number {seat}")]
    NoRow {
        /// The caller's.
        seat: u32,
        /// Rows there are.
        seats: u32,
    },
    /// The seat is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// A reader-writer lock in shared memory. See the [module](self).
///
/// ```
/// use shm_core::lock::rwlock::RwLock;
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::Table;
///
/// let mapping = Mapping::heap(4096);
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
/// // SAFETY: as above, and the table ends before.
/// let lock = unsafe { RwLock::create(&mapping, 1024, table.capacity()) }.unwrap();
/// let me = table.join().unwrap();
/// {
///     let (one, other) = (lock.read(&me).unwrap(), lock.read(&me).unwrap());
///     assert!(lock.try_write(&me).unwrap().is_none(), "two read");
///     drop((one, other));
/// }
/// let writes = lock.write(&me).unwrap();
/// assert!(lock.try_read(&me).unwrap().is_none(), "one writes");
/// drop(writes);
/// ```
#[derive(Debug, Clone)]
pub struct RwLock {
    head: Mapped<Head>,
    rows: MappedSlice<Row>,
    /// When who tries, and finds somebody, asks the kernel about him.
    recheck: Recheck,
}

/// How one who does not wait learns whether somebody is dead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    /// Some system calls.
    Kernel,
    /// Some loads; the kernel only where that one does not look alive.
    LifeWord,
}

impl Asks {
    fn is_dead(self, me: &Member, owner: ParticipantId) -> bool {
        let trusted = self == Asks::LifeWord && me.table().looks_alive(owner);
        !trusted && me.table().liveness(owner) == Liveness::Dead
    }
}

impl RwLock {
    /// Of the layout, to be [combined](crate::layout::combine) with those of what lies around it.
    #[cfg(not(shm_loom))]
    pub const FINGERPRINT: u64 = shared::FINGERPRINT;

    /// Bytes of a lock for a table of so many seats.
    pub const fn bytes_for(seats: u32) -> u64 {
        size_of::<Head>() as u64 + seats as u64 * size_of::<Row>() as u64
    }

    /// Makes a free lock at `offset`, a multiple of 128, for members of a table of `seats` seats.
    ///
    /// # Errors
    /// [`RwLockError`].
    ///
    /// # Safety
    /// Nobody else accesses [`bytes_for`](RwLock::bytes_for)`(seats)` bytes at `offset` until the
    /// caller publishes the place.
    ///
    /// # If a process dies here
    /// The place was not published; whoever owns the memory makes the lock again.
    pub unsafe fn create(
        mapping: &Arc<Mapping>,
        offset: u64,
        seats: u32,
    ) -> Result<RwLock, RwLockError> {
        if !(1..=SLOTS_MAX).contains(&seats) {
            return Err(RwLockError::Seats(seats));
        }
        mapping.region().range(offset, RwLock::bytes_for(seats))?;
        for seat in 0..seats {
            // SAFETY: exclusive by the caller's promise.
            unsafe { mapping.region().place(offset + RwLock::bytes_for(seat), Row::new())? };
        }
        // SAFETY: exclusive by the caller's promise.
        unsafe { mapping.region().place(offset, Head::new(seats))? };
        RwLock::attach(mapping, offset)
    }

    /// Attaches to the lock at `offset`.
    ///
    /// # Errors
    /// [`RwLockError::NotALock`], [`RwLockError::BadPlace`].
    pub fn attach(mapping: &Arc<Mapping>, offset: u64) -> Result<RwLock, RwLockError> {
        let head = Mapped::<Head>::new(mapping, offset)?;
        let seats = head.checked_seats().ok_or(RwLockError::NotALock)?;
        let rows = MappedSlice::new(mapping, offset + RwLock::bytes_for(0), u64::from(seats))?;
        Ok(RwLock { head, rows, recheck: Recheck::new() })
    }

    /// Rows there are.
    pub fn seats(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Gives up what `gone` had: its share, its claim; what it held is abandoned.
    ///
    /// For who cleans up after the dead ([`Table::reap`](crate::participants::Table::reap)), or
    /// after itself ([`Member::on_leave`]): a participant that will never act again. Without it the
    /// next one to wait does the same.
    ///
    /// # If a process dies here
    /// The next one to clean up, or to wait, does the rest.
    pub fn clean_up(&self, gone: ParticipantId) {
        let word = Word::from_bits(self.head.writer.load(Ordering::Relaxed));
        if let Some(State::Claimed(who) | State::Held(who)) = word.state()
            && who == gone
        {
            self.settle(word);
        }
        let Some(row) = self.rows.get(gone.slot() as usize) else { return };
        let holders = Holders::from_bits(row.holders.load(Ordering::Relaxed));
        if holders.are_of(gone) {
            self.bury(row, holders);
        }
    }

    /// The exclusive right that a dead one claimed or held: withdrawn, or abandoned.
    #[cold]
    fn settle(&self, word: Word) {
        let next = match word.state() {
            Some(State::Held(dead)) => Word::abandoned(dead),
            _ => Word::FREE,
        };
        // Pairs with the Acquire in `recover`: the last words of the dead, which its proof has
        // shown us. (What an earlier writer released stands at the head of this chain of swaps.)
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        // Where it fails somebody else did it. Its sleepers know of the death by themselves.
        let _ = self.head.writer.compare_exchange(word.bits(), next.bits(), ok, err);
        self.head.freed.notify();
    }

    /// A dead one's row, emptied.
    #[cold]
    fn bury(&self, row: &Row, holders: Holders) {
        let nobody = Holders::NOBODY.bits();
        // Pairs with the Acquire of the writer that finds the row empty: what the dead one read.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        // Where it fails somebody else did it.
        let _ = row.holders.compare_exchange(holders.bits(), nobody, ok, err);
        self.head.drained.notify();
    }

    /// Waits until the exclusive right is no longer as `word` says, in the name of `owner`.
    #[cold]
    fn wait_for(
        &self,
        me: &Member,
        word: Word,
        owner: ParticipantId,
        deadline: Option<Instant>,
    ) -> Result<(), LockError> {
        let writer = &self.head.writer;
        let changed = || if is_past(deadline) { Err(LockError::TimedOut) } else { Ok(()) };
        if is_changed_soon(writer, word.bits()) {
            return changed();
        }
        let ticket = self.head.freed.prepare();
        if writer.load(Ordering::Relaxed) != word.bits() {
            return changed();
        }
        let watch = me.watch(owner);
        let outcome = wait(&self.head.freed, ticket, &[&watch], slice_of(deadline));
        let now = writer.load(Ordering::Relaxed);
        if now == word.bits() && watch.is_dead() {
            self.settle(word);
            return Ok(());
        }
        let timed_out = outcome == Outcome::TimedOut && is_over(deadline) || is_past(deadline);
        match Word::from_bits(now).state() {
            Some(State::Claimed(_) | State::Held(_)) if timed_out => Err(LockError::TimedOut),
            _ => Ok(()),
        }
    }

    /// For who does not wait: withdraws or abandons what a dead owner has, and says whether it did.
    #[cold]
    fn is_settled_now(&self, me: &Member, word: Word, owner: ParticipantId, asks: Asks) -> bool {
        let dead = asks.is_dead(me, owner);
        if dead {
            self.settle(word);
        }
        dead
    }

    /// How one who tries, and found somebody, learns whether that one is dead.
    #[cold]
    fn asks(&self) -> Asks {
        if self.recheck.is_due() { Asks::Kernel } else { Asks::LifeWord }
    }

    /// The caller's row.
    #[inline]
    fn row(&self, me: &Member) -> Result<&Row, LockError> {
        me.check_fork()?;
        let (seat, seats) = (me.id().slot(), self.seats());
        self.rows.get(seat as usize).ok_or(LockError::NoRow { seat, seats })
    }
}
