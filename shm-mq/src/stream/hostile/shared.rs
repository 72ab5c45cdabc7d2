//! The words that one side of a hostile stream writes. In the sender's memory the ring follows.
use shm_core::event::Announcement;
use shm_core::sync::{AtomicU32, AtomicU64};
use shm_core::{Reserved, shm_sync};

/// "shmhsnd" and the version of the protocol: what the sender says first, and its memory begins
/// with.
pub(super) const SENDER: u64 = u64::from_be_bytes(*b"shmhsnd\x01");
/// "shmhrcv" and the version: the same of the receiver.
pub(super) const RECEIVER: u64 = u64::from_be_bytes(*b"shmhrcv\x01");

/// The handle is there.
pub(super) const OPEN: u32 = 1;
/// The handle is gone.
pub(super) const DETACHED: u32 = 2;

/// What one side says to the other: it writes all of it, and the other can only read.
///
/// | word | the sender's says | the receiver's says | read by the other | may be stale |
/// | --- | --- | --- | --- | --- |
/// | `magic` | `SENDER` | `RECEIVER` | once, when they come together | no |
/// | `ring_bytes` | size of the ring | 0 | once | no |
/// | `message_bytes_max` | 0 | the longest message it takes | once | no |
/// | `state` | `OPEN`, later `DETACHED` | the same | by each call; its last position before `DETACHED` (Release, and an Acquire fence) | yes |
/// | `position` | `written`: bytes ever published | `read`: bytes ever given back | when the last look says "empty" or "full" (Release, and an Acquire fence) | yes |
/// | `asleep` | number of its present sleep, or 0 | the same | by each publication, behind a fence | yes: a ring in vain |
///
/// The first four are written before the memory is handed over, `state` once more at the end. What
/// the writer needs of its own words later it keeps in private; it never reads them back. The
/// reader takes each word as a claim, loads it once, checks it, and keeps what it took. Positions
/// run freely from 0 and are multiples of 8.
///
/// Loads are `Relaxed` ones and an Acquire fence behind, because that is what is sure to work on
/// memory that cannot be written.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Half {
    pub(super) magic: AtomicU64,
    pub(super) ring_bytes: AtomicU64,
    pub(super) message_bytes_max: AtomicU64,
    pub(super) state: AtomicU32,
    pad_0: AtomicU32,
    pad_1: Reserved<12>,
    pub(super) position: AtomicU64,
    pad_2: Reserved<15>,
    pub(super) asleep: Announcement,
    pad_3: Reserved<15>,
}

shm_sync!(Half {
    magic,
    ring_bytes,
    message_bytes_max,
    state,
    pad_0,
    pad_1,
    position,
    pad_2,
    asleep,
    pad_3,
});

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Half>() == 384 && align_of::<Half>() == 64);
    assert!(offset_of!(Half, ring_bytes) == 8 && offset_of!(Half, message_bytes_max) == 16);
    assert!(offset_of!(Half, state) == 24 && offset_of!(Half, position) == 128);
    assert!(offset_of!(Half, asleep) == 256);
};

/// Bytes before the ring.
pub(super) const HALF_BYTES: u64 = size_of::<Half>() as u64;

impl Half {
    pub(super) fn new(magic: u64, ring_bytes: u64, message_bytes_max: u64) -> Half {
        Half {
            magic: AtomicU64::new(magic),
            ring_bytes: AtomicU64::new(ring_bytes),
            message_bytes_max: AtomicU64::new(message_bytes_max),
            state: AtomicU32::new(OPEN),
            pad_0: AtomicU32::new(0),
            pad_1: Reserved::new(),
            position: AtomicU64::new(0),
            pad_2: Reserved::new(),
            asleep: Announcement::new(),
            pad_3: Reserved::new(),
        }
    }
}
