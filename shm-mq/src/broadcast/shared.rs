//! The words of a broadcast that lie in shared memory. The rows of its subscribers follow them, and
//! then its cells.
use super::{BroadcastConfig, Kind};
use shm_core::event::EventCount;
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU32, AtomicU64};
use shm_core::{Reserved, shm_sync};

/// "shmcast" and the version of the layout.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"shmcast\x01");

/// No record has a greater number: what says so is nonsense.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// The head of a broadcast.
///
/// | word | written by | read by | ordered by | may be stale |
/// | --- | --- | --- | --- | --- |
/// | `magic` … `fingerprint` | the creator, before anyone has the offset | who attaches | whatever handed the offset over | no |
/// | `publisher` | who takes the role, names somebody for it, or leaves it: a seat, as in `spsc` | all | Release / Acquire on itself: what its last owner did | no |
/// | `published` | the publisher, after each record | its successor, who subscribes, who was lapped, and seldom who waits | Release / Acquire on itself: the records before | one too low, where the publisher died in between |
/// | `horizon` | the publisher: only upwards | who subscribes | both change it by read-modify-writes, so one of the two sees the other's: see `rows.rs` | too high: who subscribes begins later than he need |
/// | `arrived` | sleeping subscribers, the waking publisher | | its own fences | |
/// | `left` | the sleeping publisher, waking subscribers | | its own fences | |
///
/// What the publisher writes with each record is read by who comes, or is late: a subscriber that
/// keeps up looks at the cells, and once in many looks in vain whether its cell tells the truth.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Shared {
    pub(super) magic: AtomicU64,
    pub(super) kind: AtomicU64,
    pub(super) cells: AtomicU64,
    pub(super) record_bytes: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) fingerprint: AtomicU64,
    pub(super) publisher: AtomicU64,
    pad_0: Reserved<9>,
    /// Records that were published: the number of the next one.
    pub(super) published: AtomicU64,
    /// The publisher may write records up to this one without another look at the rows.
    pub(super) horizon: AtomicU64,
    /// Subscribers sleep here until something was published, or the publisher came or went.
    pub(super) arrived: EventCount,
    pad_1: AtomicU32,
    pad_2: Reserved<13>,
    /// The publisher sleeps here until a record was read by all, or a subscriber went.
    pub(super) left: EventCount,
    pad_3: AtomicU32,
    pad_4: Reserved<15>,
}

/// One subscriber, or the place of one.
///
/// | word | written by | read by | ordered by | may be stale |
/// | --- | --- | --- | --- | --- |
/// | `claim` | see [`Claim`]: by one compare-and-swap | all | Release / Acquire on itself: the words beside, and the owner's seat | no |
/// | `position` | its owner | the publisher, where subscribers hold it back; who asks how they are | Release / Acquire on itself: the owner's last look at the records before | too low |
/// | `missed` | its owner | who asks how it is | nothing: a figure | too low |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Row {
    pub(super) claim: AtomicU64,
    /// The number of the record that it reads next.
    pub(super) position: AtomicU64,
    pub(super) missed: AtomicU64,
    pad: Reserved<13>,
}

shm_sync!(Shared {
    magic,
    kind,
    cells,
    record_bytes,
    rows,
    fingerprint,
    publisher,
    pad_0,
    published,
    horizon,
    arrived,
    pad_1,
    pad_2,
    left,
    pad_3,
    pad_4,
});
shm_sync!(Row { claim, position, missed, pad });

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Shared>() == 384 && align_of::<Shared>() == 64);
    assert!(offset_of!(Shared, published) == 128 && offset_of!(Shared, left) == 256);
    assert!(size_of::<Row>() == 128 && align_of::<Row>() == 64);
};

/// Where the rows, and the cells, of a broadcast at `offset` begin.
pub(super) const fn parts(offset: u64, rows: u64) -> (u64, u64) {
    let rows_at = offset + size_of::<Shared>() as u64;
    (rows_at, rows_at + rows * size_of::<Row>() as u64)
}

impl Shared {
    pub(super) fn new(config: &BroadcastConfig) -> Shared {
        Shared {
            magic: AtomicU64::new(MAGIC),
            kind: AtomicU64::new(config.kind.to_bits()),
            cells: AtomicU64::new(config.cells.into()),
            record_bytes: AtomicU64::new(config.record_bytes),
            rows: AtomicU64::new(config.subscribers.into()),
            fingerprint: AtomicU64::new(config.fingerprint),
            publisher: AtomicU64::new(0),
            pad_0: Reserved::new(),
            published: AtomicU64::new(0),
            horizon: AtomicU64::new(0),
            arrived: EventCount::new(),
            pad_1: AtomicU32::new(0),
            pad_2: Reserved::new(),
            left: EventCount::new(),
            pad_3: AtomicU32::new(0),
            pad_4: Reserved::new(),
        }
    }
}

impl Row {
    pub(super) fn new() -> Row {
        Row {
            claim: AtomicU64::new(Claim::Free.to_bits()),
            position: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            pad: Reserved::new(),
        }
    }
}

impl Kind {
    pub(super) const fn to_bits(self) -> u64 {
        match self {
            Kind::Lossless => 1,
            Kind::Lossy => 2,
        }
    }

    /// `None` where it is nonsense.
    pub(super) const fn from_bits(bits: u64) -> Option<Kind> {
        match bits {
            1 => Some(Kind::Lossless),
            2 => Some(Kind::Lossy),
            _ => None,
        }
    }
}

/// What stands in [`Row::claim`]: state 32 bits | participant 32 bits.
///
/// ```text
///   free ──► joining(s) ──► open(s) ──► free                by s
///     ▲           │            │  └───► struck(s) ──► free  by the publisher, then by s
///     └───────────┴────────────┴────────────┘               by anybody, once s is dead
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Claim {
    Free,
    /// Its position is not there yet.
    Joining(ParticipantId),
    /// It holds a lossless publisher back.
    Open(ParticipantId),
    /// Its position made no sense, and nobody waits for it.
    Struck(ParticipantId),
}

const JOINING: u64 = 1;
const OPEN: u64 = 2;
const STRUCK: u64 = 3;

impl Claim {
    /// What a word says; nonsense is free.
    pub(super) fn from_bits(bits: u64) -> Claim {
        match (ParticipantId::from_bits(bits as u32), bits >> 32) {
            (Some(id), JOINING) => Claim::Joining(id),
            (Some(id), OPEN) => Claim::Open(id),
            (Some(id), STRUCK) => Claim::Struck(id),
            _ => Claim::Free,
        }
    }

    pub(super) fn to_bits(self) -> u64 {
        let (state, id) = match self {
            Claim::Free => return 0,
            Claim::Joining(id) => (JOINING, id),
            Claim::Open(id) => (OPEN, id),
            Claim::Struck(id) => (STRUCK, id),
        };
        state << 32 | u64::from(id.to_bits())
    }

    pub(super) fn owner(self) -> Option<ParticipantId> {
        match self {
            Claim::Free => None,
            Claim::Joining(id) | Claim::Open(id) | Claim::Struck(id) => Some(id),
        }
    }
}

/// What the first word of a cell says: twice the number of a record, and 1 where it is being
/// written, 2 where it is there.
///
/// | word | meaning |
/// | --- | --- |
/// | 0 | nothing was ever here |
/// | 2n + 1 | record n is being written, or its publisher died at it |
/// | 2n + 2 | record n is here |
///
/// It never comes to say again what it has said before: 64 bits do not come around.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark(u64);

impl Mark {
    pub(super) const EMPTY: Mark = Mark(0);

    #[inline]
    pub(super) const fn writing(number: u64) -> Mark {
        Mark(2 * number + 1)
    }

    #[inline]
    pub(super) const fn there(number: u64) -> Mark {
        Mark(2 * number + 2)
    }

    #[inline]
    pub(super) const fn from_bits(bits: u64) -> Mark {
        Mark(bits)
    }

    #[inline]
    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// The record that is here, or being written.
    pub(super) const fn number(self) -> Option<u64> {
        match self.0.checked_sub(1) {
            None => None,
            Some(twice) => Some(twice / 2),
        }
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_claim_says_what_was_put_into_it() {
        let me = ParticipantId::from_bits(7).unwrap();
        for claim in [Claim::Free, Claim::Joining(me), Claim::Open(me), Claim::Struck(me)] {
            assert_eq!(Claim::from_bits(claim.to_bits()), claim);
        }
        assert_eq!(Claim::from_bits(u64::MAX), Claim::Free);
    }

    #[test]
    fn a_mark_says_which_record_and_whether_it_is_there() {
        assert_eq!(Mark::EMPTY.number(), None);
        for number in [0, 1, 7, NUMBER_MAX] {
            let (writing, there) = (Mark::writing(number), Mark::there(number));
            assert_eq!((writing.number(), there.number()), (Some(number), Some(number)));
            assert!(
                writing.bits() < there.bits() && there.bits() < Mark::writing(number + 1).bits()
            );
        }
        assert!(Mark::from_bits(u64::MAX).number() > Some(NUMBER_MAX));
    }
}
