//! The words in the segment.
use super::word::{Claim, Entry, PageId};
use shm_core::event::EventCount;
use shm_core::sync::{AtomicU32, AtomicU64};
use shm_core::{Reserved, shm_sync};

/// What is known of one frame, apart from its bytes.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `claim` | by compare-and-swap: nobody's, or one's who is dead or has left, to mine; mine, or a dead one's, to nobody's | who would move a page, who waits for one, reapers | Release / Acquire on itself |
/// | `page` | the claim's holder, before an entry names the frame | the claim's holder, reapers | `claim`; a reaper may see another one, of which no entry, or a later claimer's, names the frame: see the module |
/// | `moved` | who gives the claim up | who waits for a page, and for the life of the claim's holder, who may die before it notifies | an event count |
///
/// The frame is in use by whoever announces its number in a [hazard](shm_core::hazard) slot.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Frame {
    pub(super) claim: AtomicU64,
    pub(super) page: AtomicU64,
    pub(super) moved: EventCount,
    spare: AtomicU32,
    reserved: Reserved<5>,
}

shm_sync!(Frame { claim, page, moved, spare, reserved });

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Frame>() == 64);
    assert!(offset_of!(Frame, page) == 8);
    assert!(offset_of!(Frame, moved) == 16);
};

impl Frame {
    pub(super) fn new() -> Frame {
        Frame {
            claim: AtomicU64::new(Claim::NOBODY.to_bits()),
            page: AtomicU64::new(PageId::NOWHERE.to_bits()),
            moved: EventCount::new(),
            spare: AtomicU32::new(0),
            reserved: Reserved::new(),
        }
    }
}

/// An entry that says that its page is in no frame.
pub(super) fn absent() -> AtomicU64 {
    AtomicU64::new(Entry::ABSENT.to_bits())
}
