//! The words in the segment.
use super::word::{Shared, Word};
use shm_core::event::EventCount;
use shm_core::sync::{AtomicU32, AtomicU64};
use shm_core::{Reserved, shm_sync};

/// So many shares a thread can have at a time. One cache line; fewer in models, which try them all.
pub(super) const SHARES: usize = if cfg!(shm_loom) { 2 } else { 8 };

/// The latch of one frame.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `word` | by compare-and-swap only: see [`Word`] and the table of the module | all | Release / Acquire on itself; against the rows by the fence pair |
/// | `version` | who has the latch exclusively: odd before it changes the page, even after | readers without a latch, before and after; who proved its holder dead | Release / Acquire on itself and the fences around the reads and the writes |
/// | `freed` | who waits for `word`, and who changes it | | an event count |
/// | `drained` | an exclusive one that waits for readers, and readers that go | | an event count |
///
/// Who shares, or reads without a latch, writes none of it.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Latch {
    pub(super) word: AtomicU64,
    pub(super) version: AtomicU64,
    pub(super) freed: EventCount,
    pub(super) drained: EventCount,
    reserved: Reserved<5>,
}

shm_sync!(Latch { word, version, freed, drained, reserved });

/// What one thread shares.
///
/// | word | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `shares` | the thread, by compare-and-swap from nothing, or from an earlier user of the seat, to its own, and by a store back; who proved its owner dead (to nothing) | who takes a latch exclusively | Release / Acquire on itself; against a latch's `word` by the fence pair |
/// | the row's user | the process whose seat it is; who cleans up after it (0) | the same | Release / Acquire on itself; the fence pair |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Row {
    pub(super) shares: [AtomicU64; SHARES],
}

shm_sync!(Row { shares });

#[cfg(not(any(shm_loom, shm_explore)))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Latch>() == 64);
    assert!(offset_of!(Latch, version) == 8);
    assert!(offset_of!(Latch, freed) == 16);
    assert!(offset_of!(Latch, drained) == 20);
    assert!(size_of::<Row>() == 64);
};

impl Latch {
    pub(super) fn new() -> Latch {
        Latch {
            word: AtomicU64::new(Word::FREE.to_bits()),
            version: AtomicU64::new(0),
            freed: EventCount::new(),
            drained: EventCount::new(),
            reserved: Reserved::new(),
        }
    }
}

impl Row {
    pub(super) fn new() -> Row {
        Row { shares: std::array::from_fn(|_| AtomicU64::new(Shared::NOTHING.to_bits())) }
    }
}

/// A row's user: nobody.
pub(super) fn no_user() -> AtomicU32 {
    AtomicU32::new(0)
}
