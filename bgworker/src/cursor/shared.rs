//! The words of a work cursor.
use super::{PIECES_MAX, PieceState};
use shm_core::event::EventCount;
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_core::{Reserved, shm_sync};

const MAGIC: u64 = u64::from_le_bytes(*b"shmkwork");

/// The head of a cursor; the pieces, one [`AtomicU64`] each, follow it.
///
/// | field | written by | read by | order, staleness |
/// | --- | --- | --- | --- |
/// | `magic`, `count` | the leader, before the place is published | all, once, at attach | checked there, private from then on |
/// | `hint` | who claims or gives back, the last one wins | all | Relaxed; stale or wrong is harmless: it is only where a claim begins to look |
/// | `finished` | the leader, once | all | Relaxed; `work` wakes who sleeps |
/// | `work` | who sleeps, and the leader | | an event count |
/// | a piece | by compare-and-swap: free to claimed and claimed to committed by a worker, claimed to done or free by the leader | all | the word is the whole truth; committed: Release / Acquire, what was written for the piece |
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Shared {
    pub(super) magic: AtomicU64,
    pub(super) count: AtomicU64,
    pub(super) finished: AtomicU32,
    pub(super) work: EventCount,
    pub(super) hint: AtomicU64,
    reserved: Reserved<12>,
}

#[cfg(not(shm_loom))]
const _: () = {
    assert!(size_of::<Shared>() == 128);
    assert!(core::mem::offset_of!(Shared, hint) == 24);
};

shm_sync!(Shared { magic, count, finished, work, hint, reserved });

impl Shared {
    pub(super) fn new(count: u64) -> Shared {
        Shared {
            magic: AtomicU64::new(MAGIC),
            count: AtomicU64::new(count),
            finished: AtomicU32::new(0),
            work: EventCount::new(),
            hint: AtomicU64::new(0),
            reserved: Reserved::new(),
        }
    }

    pub(super) fn checked_count(&self) -> Option<u64> {
        let count = self.count.load(Ordering::Relaxed);
        (self.magic.load(Ordering::Relaxed) == MAGIC && count <= PIECES_MAX).then_some(count)
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed) != 0
    }

    pub(super) fn finish(&self) {
        self.finished.store(1, Ordering::Relaxed);
    }
}

/// The state of a piece: bits 0..2 the state, bits 32..64 the worker that claimed or committed it.
#[derive(Clone, Copy)]
pub(super) struct Piece(u64);

const CLAIMED: u64 = 1;
const COMMITTED: u64 = 3;

impl Piece {
    pub(super) const FREE: Piece = Piece(0);
    pub(super) const DONE: Piece = Piece(2);

    pub(super) fn claimed_by(worker: ParticipantId) -> Piece {
        Piece(u64::from(worker.to_bits()) << 32 | CLAIMED)
    }

    pub(super) fn committed_by(worker: ParticipantId) -> Piece {
        Piece(u64::from(worker.to_bits()) << 32 | COMMITTED)
    }

    /// A word that may be anybody's.
    pub(super) const fn from_bits(bits: u64) -> Piece {
        Piece(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// What it says; `None` where that is nonsense.
    pub(super) fn state(self) -> Option<PieceState> {
        let worker = ParticipantId::from_bits((self.0 >> 32) as u32);
        match (self.0 as u32, worker) {
            (0, None) => Some(PieceState::Free),
            (2, None) => Some(PieceState::Done),
            (1, Some(worker)) => Some(PieceState::Claimed(worker)),
            (3, Some(worker)) => Some(PieceState::Committed(worker)),
            _ => None,
        }
    }
}
