//! Work shared out in numbered pieces, each done once, whoever dies.
//!
//! The leader makes a cursor over `count` pieces, and workers claim them. A worker hands its result
//! to the leader, which says that the piece is complete; or it leaves the result in shared memory,
//! in its own name, and *commits* the piece itself: from then on, and not before, what was left in
//! its name for that piece counts. What a dead worker had claimed and nobody completed goes back,
//! and somebody else claims it.
//!
//! ```text
//!   FREE --claim (worker)--> CLAIMED(worker) --complete (leader)--> DONE
//!     ^                           |  |
//!     |                           |  +-------commit (worker)------> COMMITTED(worker)
//!     +----- release (leader) ----+    once the worker is dead and its results are drained
//! ```
//!
//! Beside the pieces stands a hint: where to look for a free one first. It is never believed: a
//! claim that finds nothing from there to the end looks at all pieces before it says so. Hence it
//! may be stale, lost or anybody's nonsense, and no claim has to be ordered with it; the word of
//! the piece is the whole truth. Wake-ups are the event count's affair.
//!
//! What a death leaves: a worker before its claim, nothing; after it, a piece that names the dead
//! worker, which [`release`](WorkCursor::release) finds; after its commit, a piece that counts, and
//! says whose result it is ([`state`](WorkCursor::state)). The leader's death ends the job, and its
//! workers notice by its life word.
mod shared;

use shared::{Piece, Shared};
use shm_core::event::EventCount;
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::{self, Member, ParticipantId, Watch};
use shm_core::process::Forked;
use shm_core::sync::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Instant;

/// At most so many pieces in one cursor: a claim that finds none has looked at them all.
pub const PIECES_MAX: u64 = 1 << 24;

/// Why a cursor could not be made or attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CursorError {
    /// More pieces than [`PIECES_MAX`].
    #[error(
        "{count} pieces of work are more than the {PIECES_MAX} a cursor holds: make them larger"
    )]
    TooMany {
        /// Pieces asked for.
        count: u64,
    },
    /// The memory does not hold a cursor here.
    #[error("no work cursor here: {0}")]
    BadPlace(#[from] shm_core::BadPtr),
    /// The words in shared memory are not those of a cursor.
    #[error("the memory at this offset holds no work cursor")]
    NotACursor,
}

/// What [`WorkCursor::claim`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// This piece is now the caller's to do.
    Piece(u64),
    /// Nothing is free now; a piece may come back.
    NothingFree,
    /// All pieces are complete, or the leader has called the job off.
    Finished,
}

/// How a piece stands: see [`WorkCursor::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceState {
    /// Nobody's.
    Free,
    /// Some worker does it.
    Claimed(ParticipantId),
    /// The leader has its result.
    Done,
    /// What this worker has left in shared memory, in its own name, is its result.
    Committed(ParticipantId),
}

/// The pieces of a job, in shared memory.
#[derive(Debug, Clone)]
pub struct WorkCursor {
    shared: Mapped<Shared>,
    pieces: MappedSlice<AtomicU64>,
}

impl WorkCursor {
    /// Bytes that a cursor over `count` pieces takes.
    pub const fn bytes_for(count: u64) -> u64 {
        (size_of::<Shared>() as u64).saturating_add(count.saturating_mul(PIECE_BYTES))
    }

    /// Makes a cursor over `count` free pieces at `offset`, which is a multiple of 128.
    ///
    /// # Errors
    /// [`CursorError::TooMany`], [`CursorError::BadPlace`].
    ///
    /// # Safety
    /// Nobody else accesses [`bytes_for`](WorkCursor::bytes_for)`(count)` bytes at `offset` until
    /// the caller publishes the place.
    ///
    /// # If a process dies here
    /// The place was not published; whoever owns the memory makes the cursor again.
    pub unsafe fn create(
        mapping: &Arc<Mapping>,
        offset: u64,
        count: u64,
    ) -> Result<WorkCursor, CursorError> {
        if count > PIECES_MAX {
            return Err(CursorError::TooMany { count });
        }
        mapping.region().range(offset, WorkCursor::bytes_for(count))?;
        for index in 0..count {
            let at = offset + size_of::<Shared>() as u64 + index * PIECE_BYTES;
            // SAFETY: exclusive by the caller's promise.
            unsafe { mapping.region().place(at, AtomicU64::new(Piece::FREE.bits()))? };
        }
        // SAFETY: exclusive by the caller's promise.
        unsafe { mapping.region().place(offset, Shared::new(count))? };
        WorkCursor::attach(mapping, offset)
    }

    /// Attaches to the cursor at `offset`.
    ///
    /// # Errors
    /// [`CursorError::NotACursor`], [`CursorError::BadPlace`].
    pub fn attach(mapping: &Arc<Mapping>, offset: u64) -> Result<WorkCursor, CursorError> {
        let shared = Mapped::<Shared>::new(mapping, offset)?;
        let count = shared.checked_count().ok_or(CursorError::NotACursor)?;
        let pieces = MappedSlice::new(mapping, offset + size_of::<Shared>() as u64, count)?;
        Ok(WorkCursor { shared, pieces })
    }

    /// Pieces in all.
    pub fn count(&self) -> u64 {
        self.pieces.len() as u64
    }

    /// Claims a free piece for `me`: lock-free, and one compare-and-swap in the common case.
    ///
    /// Where it says [`Claim::NothingFree`] it has looked at every piece.
    ///
    /// # Errors
    /// [`Forked`]: the seat is the parent's, whose pieces a child must not take.
    ///
    /// # If a process dies here
    /// It holds the piece or not, by one word; the leader gives back what it held.
    pub fn claim(&self, me: &Member) -> Result<Claim, Forked> {
        me.check_fork()?;
        if self.shared.is_finished() {
            return Ok(Claim::Finished);
        }
        let mine = Piece::claimed_by(me.id()).bits();
        for index in self.hint_first() {
            let free = Piece::FREE.bits();
            // Only the piece's number passes with this word; the work lies in private memory.
            let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
            let piece = &self.pieces[index];
            if piece.load(Ordering::Relaxed) == free
                && piece.compare_exchange(free, mine, ok, err).is_ok()
            {
                self.shared.hint.store(index as u64 + 1, Ordering::Relaxed);
                return Ok(Claim::Piece(index as u64));
            }
        }
        Ok(Claim::NothingFree)
    }

    /// All pieces once, beginning at the hint.
    fn hint_first(&self) -> impl Iterator<Item = usize> {
        let hint = self.shared.hint.load(Ordering::Relaxed);
        let (count, hint) = (self.pieces.len(), hint.min(self.count()) as usize);
        (hint..count).chain(0..hint)
    }

    /// Leader: `index` is complete, as done by `worker`. Says whether it counts: `false` where the
    /// piece is not this worker's, so that no piece counts twice.
    ///
    /// # If a process dies here
    /// The leader's death ends the job.
    pub fn complete(&self, index: u64, worker: ParticipantId) -> bool {
        let Some(piece) = self.pieces.get(index as usize) else { return false };
        let claimed = Piece::claimed_by(worker).bits();
        // The result travelled by other means, before this.
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        piece.compare_exchange(claimed, Piece::DONE.bits(), ok, err).is_ok()
    }

    /// Worker: `index` is complete, and what `me` has written for it to shared memory before this
    /// is its result. Says whether it counts: `false` where the piece is not `me`'s.
    ///
    /// # Errors
    /// [`Forked`]: the seat is the parent's.
    ///
    /// # If a process dies here
    /// The piece counts or it goes back, by one word, which whoever reads what was written for it
    /// asks ([`state`](WorkCursor::state)).
    pub fn commit(&self, index: u64, me: &Member) -> Result<bool, Forked> {
        me.check_fork()?;
        let Some(piece) = self.pieces.get(index as usize) else { return Ok(false) };
        let [claimed, committed] = [Piece::claimed_by, Piece::committed_by].map(|by| by(me.id()));
        // Pairs with the Acquire in `state`: what was written for the piece.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        Ok(piece.compare_exchange(claimed.bits(), committed.bits(), ok, err).is_ok())
    }

    /// How a piece stands; `None` where there is no such piece, or its word is nonsense.
    ///
    /// `Done` and `Committed` are for good, and so is it that a piece which a dead worker had
    /// claimed, and which was given back, is never that worker's again.
    pub fn state(&self, index: u64) -> Option<PieceState> {
        let piece = self.pieces.get(usize::try_from(index).ok()?)?;
        // Pairs with the Release in `commit`.
        Piece::from_bits(piece.load(Ordering::Acquire)).state()
    }

    /// Leader: gives back what `dead` holds, and wakes workers that wait for work. Returns how
    /// many pieces came back.
    ///
    /// Call it once the worker is known to be dead and its last results have been taken.
    pub fn release(&self, dead: ParticipantId) -> u64 {
        let claimed = Piece::claimed_by(dead).bits();
        let (mut back, mut lowest) = (0, None);
        for (index, piece) in self.pieces.iter().enumerate() {
            let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
            if piece.compare_exchange(claimed, Piece::FREE.bits(), ok, err).is_ok() {
                back += 1;
                lowest.get_or_insert(index as u64);
            }
        }
        if let Some(lowest) = lowest {
            let hint = self.shared.hint.load(Ordering::Relaxed).min(lowest);
            self.shared.hint.store(hint, Ordering::Relaxed);
            self.shared.work.notify();
        }
        back
    }

    /// Leader: the job is over, done or called off; everyone's next claim says so.
    pub fn finish(&self) {
        self.shared.finish();
        self.shared.work.notify();
    }

    /// Worker: sleeps until [`claim`](WorkCursor::claim) may say something new, the leader has
    /// died, or `deadline`.
    pub fn wait_for_work(
        &self,
        leader: &Watch,
        deadline: Option<Instant>,
    ) -> participants::Outcome {
        let event: &EventCount = &self.shared.work;
        let ticket = event.prepare();
        if self.shared.is_finished() || self.something_free() || leader.is_dead() {
            return participants::Outcome::Woken;
        }
        participants::wait(event, ticket, &[leader], deadline)
    }

    fn something_free(&self) -> bool {
        // The fence in `prepare` orders this: what was given back before the last notification is
        // seen here, and what comes back later notifies.
        self.hint_first()
            .any(|index| self.pieces[index].load(Ordering::Relaxed) == Piece::FREE.bits())
    }
}

const PIECE_BYTES: u64 = size_of::<AtomicU64>() as u64;
