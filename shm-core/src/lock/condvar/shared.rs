//! The words of a condition variable.
use crate::event::EventCount;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use relptr::{Reserved, shm_sync};

/// Its last byte is the version.
const MAGIC: u64 = u64::from_le_bytes(*b"shmkcnd1");

/// A condition variable.
///
/// | field | written by | read by | order, staleness |
/// | --- | --- | --- | --- |
/// | `magic` | the creator, before the place is published | all, once, at attach | checked there |
/// | `changed` | who waits, who notifies | | an event count; the condition itself is ordered by the mutex |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Shared {
    pub(super) magic: AtomicU64,
    pub(super) changed: EventCount,
    spare: AtomicU32,
    reserved: Reserved<6>,
}

#[cfg(not(shm_loom))]
const _: () = {
    assert!(size_of::<Shared>() == 64);
    assert!(core::mem::offset_of!(Shared, changed) == 8);
};

/// Of the layout, to be [combined](crate::layout::combine) with those of what lies around it.
#[cfg(not(shm_loom))]
pub(super) const FINGERPRINT: u64 = crate::fingerprint!(Shared {
    magic: AtomicU64,
    changed: EventCount,
    spare: AtomicU32,
    reserved: Reserved<6>,
});

shm_sync!(Shared { magic, changed, spare, reserved });

impl Shared {
    pub(super) fn new() -> Shared {
        Shared {
            magic: AtomicU64::new(MAGIC),
            changed: EventCount::new(),
            spare: AtomicU32::new(0),
            reserved: Reserved::new(),
        }
    }

    pub(super) fn is_condvar(&self) -> bool {
        self.magic.load(Ordering::Relaxed) == MAGIC
    }
}
