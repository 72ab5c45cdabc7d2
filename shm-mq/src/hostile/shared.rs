//! The words that one side of a hostile queue writes. In the sender's memory the ring follows, or
//! the cells of a broadcast.
use shm_core::event::Announcement;
use shm_core::sync::{AtomicU32, AtomicU64};
use shm_core::{Reserved, shm_sync};

/// The handle is there.
pub(super) const OPEN: u32 = 1;
/// The handle is gone.
pub(crate) const DETACHED: u32 = 2;

/// What one side says to the other: it writes all of it, and the other can only read.
///
/// | word | the sender's says | the receiver's says | read by the other | may be stale |
/// | --- | --- | --- | --- | --- |
/// | `magic` | the number of its [`Kind`] | likewise | once, when they come together | no |
/// | `ring_bytes` | size of the ring, or of all cells | 0 | once | no |
/// | `message_bytes_max` | 0; a publisher's: the longest record | the longest message it takes | once | no |
/// | `fingerprint` | what its records are; 0: bytes | likewise | once | no |
/// | `state` | `OPEN`, later `DETACHED` | the same | by each call; its last position before `DETACHED` (Release, and an Acquire fence) | yes |
/// | `position` | `written`: bytes ever published (of records 0: their headers tell); a publisher's: records | `read`, or `released`: bytes, or words of records, ever given back; a subscriber's: one more than the record that it reads next, or 0 | when the last look says "empty" or "full" (Release, and an Acquire fence) | yes |
/// | `asleep` | number of its present sleep, or 0 | the same | by each publication, behind a fence | yes: a ring in vain |
///
/// The first five are written before the memory is handed over, `state` once more at the end. What
/// the writer needs of its own words later it keeps in private; it never reads them back. The
/// reader takes each word as a claim, loads it once, checks it, and keeps what it took. Positions
/// run freely from 0.
///
/// Loads are `Relaxed` ones and an Acquire fence behind, because that is what is sure to work on
/// memory that cannot be written.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Half {
    pub(super) magic: AtomicU64,
    pub(super) ring_bytes: AtomicU64,
    pub(super) message_bytes_max: AtomicU64,
    pub(crate) state: AtomicU32,
    pad_0: AtomicU32,
    pub(super) fingerprint: AtomicU64,
    pad_1: Reserved<11>,
    pub(crate) position: AtomicU64,
    pad_2: Reserved<15>,
    pub(crate) asleep: Announcement,
    pad_3: Reserved<15>,
}

shm_sync!(Half {
    magic,
    ring_bytes,
    message_bytes_max,
    state,
    pad_0,
    fingerprint,
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
    assert!(offset_of!(Half, state) == 24 && offset_of!(Half, fingerprint) == 32);
    assert!(offset_of!(Half, position) == 128 && offset_of!(Half, asleep) == 256);
};

/// Bytes before the ring.
pub(crate) const HALF_BYTES: u64 = size_of::<Half>() as u64;

impl Half {
    pub(super) fn new(
        magic: u64,
        ring_bytes: u64,
        message_bytes_max: u64,
        fingerprint: u64,
    ) -> Half {
        Half {
            magic: AtomicU64::new(magic),
            ring_bytes: AtomicU64::new(ring_bytes),
            message_bytes_max: AtomicU64::new(message_bytes_max),
            state: AtomicU32::new(OPEN),
            pad_0: AtomicU32::new(0),
            fingerprint: AtomicU64::new(fingerprint),
            pad_1: Reserved::new(),
            position: AtomicU64::new(0),
            pad_2: Reserved::new(),
            asleep: Announcement::new(),
            pad_3: Reserved::new(),
        }
    }
}
