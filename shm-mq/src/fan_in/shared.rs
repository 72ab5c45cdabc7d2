//! The words of a fan-in that lie in shared memory. Its lanes follow them.
use shm_core::event::EventCount;
use shm_core::sync::{AtomicU32, AtomicU64};
use shm_core::{Reserved, shm_sync};

/// "shmfan", and the version of the layout.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"shmfan\0\x01");

/// Words of bits, one for each lane.
#[cfg(not(shm_loom))]
pub(super) const WORDS: usize = 15;
/// Few, in models.
#[cfg(shm_loom)]
pub(super) const WORDS: usize = 1;

/// The head of a fan-in.
///
/// | word | written by | read by | ordered by | may be stale |
/// | --- | --- | --- | --- | --- |
/// | `magic` … `fingerprint` | the creator, before anyone has the offset | who attaches | whatever handed the offset over | no |
/// | `receiver` | who takes the role, names somebody for it, or leaves it: see `Seat` of [`spsc`](crate::spsc) | all | Release / Acquire on itself: what its last owner did | no |
/// | `arrived` | sleeping receiver, waking senders | | its own fences | |
/// | `busy` | a bit: its sender sets it; the receiver clears it | the receiver, and the senders | the fences of `Bell` | yes: a hint, where to look |
///
/// With each record a sender reads `receiver`, `arrived` and its word of `busy`: two lines, or
/// three in lanes from 448 on, which nobody writes while the bits of those in use are set and the
/// receiver is awake.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Shared {
    pub(super) magic: AtomicU64,
    pub(super) lanes: AtomicU64,
    /// Of each lane's ring.
    pub(super) lines: AtomicU64,
    pub(super) fingerprint: AtomicU64,
    pub(super) receiver: AtomicU64,
    pad_0: Reserved<11>,
    /// The receiver sleeps here until something is in a lane, or its sender came or went.
    pub(super) arrived: EventCount,
    pad_1: AtomicU32,
    pub(super) busy: [AtomicU64; WORDS],
}

shm_sync!(Shared { magic, lanes, lines, fingerprint, receiver, pad_0, arrived, pad_1, busy });

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Shared>() == 256 && align_of::<Shared>() == 64);
    assert!(offset_of!(Shared, arrived) == 128 && offset_of!(Shared, busy) == 136);
};

impl Shared {
    pub(super) fn new(lanes: u32, lines: u64, fingerprint: u64) -> Shared {
        Shared {
            magic: AtomicU64::new(MAGIC),
            lanes: AtomicU64::new(lanes.into()),
            lines: AtomicU64::new(lines),
            fingerprint: AtomicU64::new(fingerprint),
            receiver: AtomicU64::new(0),
            pad_0: Reserved::new(),
            arrived: EventCount::new(),
            pad_1: AtomicU32::new(0),
            busy: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}
