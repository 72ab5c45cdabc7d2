//! The words in the segment.
use super::word::{Owner, State};
use shm_core::sync::AtomicU64;
use shm_core::{Reserved, shm_sync};

/// So many ranges one change can have; fewer in models, which try them all.
pub(super) const RANGES_MAX: usize = if cfg!(shm_loom) { 2 } else { 64 };

/// What is known of the page in one frame.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `state` | who has the latch exclusively, before it changes the page; who has it (share-)exclusively, once the page is in its file; who loads a page | who mends the page, who gives an intent back, who would write the page out | the latch, and the fence in taking it exclusively; as a hint, by nothing |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Line {
    pub(super) state: AtomicU64,
    reserved: Reserved<7>,
}

shm_sync!(Line { state, reserved });

/// What one thread is about to change: ranges of a page, whose bytes stand in the intent's image,
/// where they stand in the page.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `owner` | by compare-and-swap: nobody's to mine, mine to nobody's; a dead one's to nobody's, by anyone, where no torn page needs it | who looks for an intent | Release on itself / the fence in taking a page exclusively: the rest |
/// | `head`, `ranges`, and the image | the owner, while no page that it changes is in change | who mends the page that it left torn | the proof of the death, and the latch |
/// | `head` | the same | who gives it back after a death | the proof of the death |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Intent {
    pub(super) owner: AtomicU64,
    pub(super) head: AtomicU64,
    reserved: Reserved<6>,
    pub(super) ranges: [AtomicU64; RANGES_MAX],
}

shm_sync!(Intent { owner, head, reserved, ranges });

#[cfg(not(any(shm_loom, shm_explore)))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Line>() == 64);
    assert!(size_of::<Intent>() == 576);
    assert!(offset_of!(Intent, head) == 8);
    assert!(offset_of!(Intent, ranges) == 64);
};

impl Line {
    pub(super) fn new() -> Line {
        Line { state: AtomicU64::new(State::CLEAN.to_bits()), reserved: Reserved::new() }
    }
}

impl Intent {
    pub(super) fn new() -> Intent {
        Intent {
            owner: AtomicU64::new(Owner::NOBODY.to_bits()),
            head: AtomicU64::new(0),
            reserved: Reserved::new(),
            ranges: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}
