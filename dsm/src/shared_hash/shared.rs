//! What stands before the area in the segment of a hash.
use shm_core::participants::ParticipantId;
use shm_core::sync::AtomicU64;
use shm_core::{Reserved, shm_sync};

/// "shmhash", version 1.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"shmhash1");

/// The head; the seats' words follow, then the announcements, then the area.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `magic`, `layout`, `seats`, `groups` | the creator, before the segment is published | all, once, at attach | checked there, private from then on |
/// | `place` | the hash's creator, by way of its heap | who attaches | Release / Acquire of the hash's own head |
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Head {
    pub(super) magic: AtomicU64,
    pub(super) layout: AtomicU64,
    pub(super) seats: AtomicU64,
    pub(super) groups: AtomicU64,
    pub(super) place: AtomicU64,
    reserved: Reserved<11>,
}

#[cfg(not(shm_loom))]
const _: () = assert!(size_of::<Head>() == 128);

shm_sync!(Head { magic, layout, seats, groups, place, reserved });

/// Tells this layout from others.
pub(super) const FINGERPRINT: u64 = shm_core::layout::combine(&[
    shm_core::fingerprint!(Head {
        magic: AtomicU64,
        layout: AtomicU64,
        seats: AtomicU64,
        groups: AtomicU64,
        place: AtomicU64,
        reserved: Reserved<11>,
    }),
    shm_core::hazard::FINGERPRINT,
]);

impl Head {
    pub(super) fn new(seats: u32, groups: u32) -> Head {
        Head {
            magic: AtomicU64::new(MAGIC),
            layout: AtomicU64::new(FINGERPRINT),
            seats: AtomicU64::new(seats.into()),
            groups: AtomicU64::new(groups.into()),
            place: AtomicU64::new(0),
            reserved: Reserved::new(),
        }
    }
}

/// A seat's word: who is at the seat's announcements, for whom: by 32 bits | for 32,
/// `ParticipantId`s; 0: nobody.
///
/// Whoever takes the seat's row of announcements, or reaps one who had it, has the word meanwhile.
///
/// | from | to | by whom | a death leaves |
/// | --- | --- | --- | --- |
/// | 0, or one whose `by` is dead | for, by | who has `for`'s death proven, or is it | the word, with its name |
/// | for, by | 0 | the same | |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Care(pub(super) u64);

impl Care {
    pub(super) fn new(whom: ParticipantId, by: ParticipantId) -> Care {
        Care(u64::from(by.to_bits()) << 32 | u64::from(whom.to_bits()))
    }

    pub(super) fn whom(self) -> Option<ParticipantId> {
        ParticipantId::from_bits(self.0 as u32)
    }

    pub(super) fn by(self) -> Option<ParticipantId> {
        ParticipantId::from_bits((self.0 >> 32) as u32)
    }
}
