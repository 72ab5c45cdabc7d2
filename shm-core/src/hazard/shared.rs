//! The words in the segment.
use crate::participants::ParticipantId;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use relptr::{Reserved, shm_sync};

/// Slots of a group: what one thread can protect at a time. One cache line.
pub const GROUP_SLOTS: usize = 8;

/// A row has at most so many groups.
pub const GROUPS_MAX: u32 = 256;

/// "shmkhaz" and the version of the layout.
const MAGIC: u64 = u64::from_le_bytes(*b"shmkhaz\x02");

/// The head; a `u64` a seat follows ([`Holder`]), and then the groups of each seat.
///
/// All of it is written at creation, before the rows are published, and never again. Each process
/// reads it once, when it attaches, and works with its own copy.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Head {
    magic: AtomicU64,
    seats: AtomicU32,
    groups: AtomicU32,
    spare: Reserved<6>,
}

shm_sync!(Head { magic, seats, groups, spare });

/// What one thread has announced.
///
/// | word | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | a holder | the process whose seat it is; after its death the seat's reaper (0) | who scans | Release / Acquire on itself; for who announces, the fences |
/// | `slots` | the one thread that has the group; after its process's death the seat's reaper (0) | who scans | Release / Acquire on itself: what was read under the announcement before it went; for who announces, the fences |
///
/// A reader may see any of them late, but not an announcement that was validated before its
/// fence.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Group {
    pub(super) slots: [AtomicU64; GROUP_SLOTS],
}

shm_sync!(Group { slots });

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Head>() == 64);
    assert!(offset_of!(Head, seats) == 8);
    assert!(size_of::<Group>() == 64);
};

/// Tells this layout from others.
pub(super) const FINGERPRINT: u64 = crate::layout::combine(&[
    MAGIC,
    crate::fingerprint!(Head {
        magic: AtomicU64,
        seats: AtomicU32,
        groups: AtomicU32,
        spare: Reserved<6>,
    }),
    crate::fingerprint!(Group { slots: [AtomicU64; GROUP_SLOTS] }),
]);

impl Head {
    pub(super) fn new(seats: u32, groups: u32) -> Head {
        Head {
            magic: AtomicU64::new(MAGIC),
            seats: AtomicU32::new(seats),
            groups: AtomicU32::new(groups),
            spare: Reserved::new(),
        }
    }

    /// Seats and groups a seat, as somebody wrote them; `None` where that is no head.
    pub(super) fn read(&self) -> Option<(u32, u32)> {
        // Relaxed: written before the rows were published.
        if self.magic.load(Ordering::Relaxed) != MAGIC {
            return None;
        }
        Some((self.seats.load(Ordering::Relaxed), self.groups.load(Ordering::Relaxed)))
    }
}

impl Group {
    pub(super) fn new() -> Group {
        Group { slots: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Takes every announcement back, in the name of who made them or of one who is dead.
    pub(super) fn clear(&self) {
        for slot in &self.slots {
            // Pairs with the Acquire in `Hazards::announced`: what was read under the
            // announcement, before it is gone.
            slot.store(0, Ordering::Release);
        }
    }
}

/// Whose a row is: groups used so far 32 bits | participant 32 bits. All zero: nobody's.
///
/// Who scans looks at so many groups of the row, and at most at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Holder(u64);

impl Holder {
    pub(super) const NOBODY: Holder = Holder(0);

    pub(super) fn new(id: ParticipantId, groups: u32) -> Holder {
        Holder(u64::from(groups) << 32 | u64::from(id.to_bits()))
    }

    pub(super) fn from_bits(bits: u64) -> Holder {
        Holder(bits)
    }

    pub(super) fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) fn is(self, id: ParticipantId) -> bool {
        self.0 as u32 == id.to_bits()
    }

    /// As somebody wrote it: any number.
    pub(super) fn groups(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_holder_reads_as_it_was_written() {
        let id = ParticipantId::from_bits(7 << 22 | 3).unwrap();
        let holder = Holder::from_bits(Holder::new(id, 200).to_bits());
        assert_eq!((holder.is(id), holder.groups()), (true, 200));
        let other = ParticipantId::from_bits(7 << 22 | 4).unwrap();
        assert!(!holder.is(other) && !Holder::NOBODY.is(id));
        assert_eq!(Holder::NOBODY.groups(), 0);
    }

    #[test]
    fn a_head_of_nonsense_is_none() {
        let head = Head::new(3, 4);
        assert_eq!(head.read(), Some((3, 4)));
        head.magic.store(MAGIC + 1, Ordering::Relaxed);
        assert_eq!(head.read(), None);
    }
}
