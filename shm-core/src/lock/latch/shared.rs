//! The words of a latch.
use crate::event::EventCount;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use relptr::{Reserved, shm_sync};

/// Its last byte is the version.
const MAGIC: u64 = u64::from_le_bytes(*b"shmklat1");

/// A latch.
///
/// | field | written by | read by | order, staleness |
/// | --- | --- | --- | --- |
/// | `magic` | the creator, before the place is published | all, once, at attach | checked there |
/// | `set` | 1 by who sets, 0 by who resets, each by a swap | who waits | Release by who sets, Acquire by who looks and who resets; swaps, so that a reset sees what *all* who set before had to say |
/// | `changed` | who sleeps, who sets | | an event count |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Shared {
    pub(super) magic: AtomicU64,
    pub(super) set: AtomicU32,
    pub(super) changed: EventCount,
    reserved: Reserved<6>,
}

#[cfg(not(shm_loom))]
const _: () = {
    assert!(size_of::<Shared>() == 64);
    assert!(core::mem::offset_of!(Shared, set) == 8);
    assert!(core::mem::offset_of!(Shared, changed) == 12);
};

/// Of the layout, to be [combined](crate::layout::combine) with those of what lies around it.
#[cfg(not(shm_loom))]
pub(super) const FINGERPRINT: u64 = crate::fingerprint!(Shared {
    magic: AtomicU64,
    set: AtomicU32,
    changed: EventCount,
    reserved: Reserved<6>,
});

shm_sync!(Shared { magic, set, changed, reserved });

impl Shared {
    pub(super) fn new() -> Shared {
        Shared {
            magic: AtomicU64::new(MAGIC),
            set: AtomicU32::new(0),
            changed: EventCount::new(),
            reserved: Reserved::new(),
        }
    }

    pub(super) fn is_latch(&self) -> bool {
        self.magic.load(Ordering::Relaxed) == MAGIC
    }
}
