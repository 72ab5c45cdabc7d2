//! The words of a queue that lie in shared memory. Its lines follow them.
use shm_core::event::EventCount;
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering, in_program_order};
use shm_core::{Reserved, shm_sync};

/// "shmspsc" and the version of the layout.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"shmspsc\x01");

/// The head of a queue.
///
/// | word | written by | read by | ordered by | may be stale |
/// | --- | --- | --- | --- | --- |
/// | `magic` … `fingerprint` | the creator, before anyone has the offset | who attaches | whatever handed the offset over | no |
/// | `sender`, `receiver` | who takes the role, names somebody for it, or leaves it: see [`Seat`] | both sides | Release / Acquire on itself: what its last owner did | no |
/// | `sent` | the sender, now and then | its successor | the proof of the sender's death | yes: the successor goes on from there |
/// | `arrived` | sleeping receiver, waking sender | | its own fences | |
/// | `released` | the receiver | the sender, and the receiver's successor | Release / Acquire on its position: the receiver's last look at the words before it | yes: the sender sees less room |
/// | `left` | sleeping sender, waking receiver | | its own fences | |
///
/// Each side keeps its own position privately. The two hot parts stand 128 bytes apart.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Shared {
    pub(super) magic: AtomicU64,
    pub(super) lines: AtomicU64,
    pub(super) fingerprint: AtomicU64,
    pub(super) sender: AtomicU64,
    pub(super) receiver: AtomicU64,
    pad_0: Reserved<11>,
    pub(super) sent: Progress,
    /// The receiver sleeps here until something was published, or the sender came or went.
    pub(super) arrived: EventCount,
    pad_1: AtomicU32,
    pad_2: Reserved<10>,
    pub(super) released: Progress,
    /// The sender sleeps here until something was released, or the receiver came or went.
    pub(super) left: EventCount,
    pad_3: AtomicU32,
    pad_4: Reserved<10>,
}

/// How far one side is: a position, in words since the beginning, and how many records lie before
/// it. Who says so may die between any two of the stores: the mark counts that has the position.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Progress {
    pub(super) position: AtomicU64,
    marks: [Mark; 2],
}

#[derive(Debug)]
#[repr(C)]
struct Mark {
    position: AtomicU64,
    records: AtomicU64,
}

/// What a [`Progress`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Told {
    pub(super) position: u64,
    pub(super) records: u64,
    /// The mark that says so.
    mark: usize,
}

shm_sync!(Mark { position, records });
shm_sync!(Progress { position, marks });
shm_sync!(Shared {
    magic,
    lines,
    fingerprint,
    sender,
    receiver,
    pad_0,
    sent,
    arrived,
    pad_1,
    pad_2,
    released,
    left,
    pad_3,
    pad_4,
});

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Shared>() == 384 && align_of::<Shared>() == 64);
    assert!(offset_of!(Shared, sent) == 128 && offset_of!(Shared, released) == 256);
    assert!(offset_of!(Shared, arrived) == 168 && offset_of!(Shared, left) == 296);
};

impl Progress {
    fn new() -> Progress {
        let mark = || Mark { position: AtomicU64::new(0), records: AtomicU64::new(0) };
        Progress { position: AtomicU64::new(0), marks: [mark(), mark()] }
    }

    /// Says how far its owner is, who said `told` last.
    #[inline]
    pub(super) fn tell(&self, told: &mut Told, position: u64, records: u64) {
        let mark = 1 - told.mark;
        self.marks[mark].position.store(position, Ordering::Relaxed);
        self.marks[mark].records.store(records, Ordering::Relaxed);
        in_program_order();
        // Pairs with the Acquire in `Sender::refresh`: our last look at the words before.
        self.position.store(position, Ordering::Release);
        // Nor is the other mark written before, or a word of the ring anew.
        in_program_order();
        *told = Told { position, records, mark };
    }

    /// Says that its next owner begins here, with record 0: by one who cleans up, while nobody
    /// reads it.
    pub(super) fn begin(&self, position: u64) {
        for mark in &self.marks {
            mark.records.store(0, Ordering::Relaxed);
            // A mark that has the position says 0.
            in_program_order();
            mark.position.store(position, Ordering::Relaxed);
        }
        self.position.store(position, Ordering::Relaxed);
    }

    /// How far its owner was, who is no more; `None` where that is nonsense.
    pub(super) fn last(&self) -> Option<Told> {
        // The proof of its death orders what it did.
        let position = self.position.load(Ordering::Relaxed);
        self.marks.iter().enumerate().find_map(|(mark, at)| {
            let is_it = at.position.load(Ordering::Relaxed) == position;
            is_it.then(|| Told { position, records: at.records.load(Ordering::Relaxed), mark })
        })
    }
}

impl Shared {
    pub(super) fn new(lines: u64, fingerprint: u64) -> Shared {
        Shared {
            magic: AtomicU64::new(MAGIC),
            lines: AtomicU64::new(lines),
            fingerprint: AtomicU64::new(fingerprint),
            sender: AtomicU64::new(0),
            receiver: AtomicU64::new(0),
            pad_0: Reserved::new(),
            sent: Progress::new(),
            arrived: EventCount::new(),
            pad_1: AtomicU32::new(0),
            pad_2: Reserved::new(),
            released: Progress::new(),
            left: EventCount::new(),
            pad_3: AtomicU32::new(0),
            pad_4: Reserved::new(),
        }
    }
}

/// What stands in a role's word: state 32 bits | participant 32 bits.
///
/// ```text
///   free ──► given(p) ──► open(p) ──► left(p)         by p, or who names it
///     └────────────────────▲  ▲ ▲        │
///              given(d), open(d)┘ └──────┘            by p, after d's death or anybody's leaving
/// ```
///
/// The sender of a lane may be dropped: see [`fan_in`](crate::fan_in).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seat {
    Free,
    /// Named for it, and not yet there.
    Given(ParticipantId),
    Open(ParticipantId),
    Left(ParticipantId),
    /// Of a lane only: its sender wrote nonsense, and may still write.
    Dropped(ParticipantId),
    /// The same, and has left since.
    Gone(ParticipantId),
}

const GIVEN: u64 = 1;
const OPEN: u64 = 2;
const LEFT: u64 = 3;
const DROPPED: u64 = 4;
const GONE: u64 = 5;

impl Seat {
    /// What a word says; nonsense is free.
    #[inline]
    pub(crate) fn from_bits(bits: u64) -> Seat {
        match (ParticipantId::from_bits(bits as u32), bits >> 32) {
            (Some(id), GIVEN) => Seat::Given(id),
            (Some(id), OPEN) => Seat::Open(id),
            (Some(id), LEFT) => Seat::Left(id),
            (Some(id), DROPPED) => Seat::Dropped(id),
            (Some(id), GONE) => Seat::Gone(id),
            _ => Seat::Free,
        }
    }

    /// Who is named.
    pub(crate) fn id(self) -> Option<ParticipantId> {
        ParticipantId::from_bits(self.to_bits() as u32)
    }

    pub(crate) fn to_bits(self) -> u64 {
        let (state, id) = match self {
            Seat::Free => return 0,
            Seat::Given(id) => (GIVEN, id),
            Seat::Open(id) => (OPEN, id),
            Seat::Left(id) => (LEFT, id),
            Seat::Dropped(id) => (DROPPED, id),
            Seat::Gone(id) => (GONE, id),
        };
        state << 32 | u64::from(id.to_bits())
    }
}
