//! The words in the segment.
use super::word::Slot;
use shm_core::sync::AtomicU64;
use shm_core::{Reserved, shm_sync};

/// What all have in common.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `next` | who has taken a slot | who wants one | nothing: it is a hint of where to look |
/// | `done` | who writes out | the next one | the mutex; a hint, too |
/// | `written` | who writes out | the same; who wants room in its lane; who waits for it | the mutex; Release / Acquire: the file, and who wrote them out does not look at the records any more |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Head {
    pub(super) next: AtomicU64,
    apart: Reserved<7>,
    pub(super) done: AtomicU64,
    pub(super) written: AtomicU64,
    reserved: Reserved<6>,
}

shm_sync!(Head { next, apart, done, written, reserved });

/// The place of one record in the order of all.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `word` | free to taken, taken to ready by compare-and-swap of a row's thread; free again, in the next lap, by who writes out | all | Release / Acquire on itself: the row and its lane, or `end` |
/// | `end` | raised by the same | who wants the next slot; who writes out | `word`; who has read one of a later lap is shown by Release / Acquire fence that `word` is another |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Place {
    pub(super) word: AtomicU64,
    pub(super) end: AtomicU64,
    reserved: Reserved<6>,
}

shm_sync!(Place { word, end, reserved });

/// What one thread has to say of its records.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `number`, `end`, `behind`, `begin` | its thread, before it takes a slot | who wants the next slot, who writes out, who asks whether it took it; the next thread to have the row | the slot's `word`; who has read a later one's is shown by Release / Acquire fence that the slot is another's; the seat's hand-over |
/// | `head` | its thread, after it took a slot | the next thread to have the row | the seat's hand-over |
/// | `taken` | who writes out | who asks whether a slot was taken | the slot's `word` |
/// | `cursor` | raised by who writes out, and by its thread once all was written | both | Release / Acquire: the lane's bytes before it are not looked at any more |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Row {
    /// Of the slot that it wants, or took last.
    pub(super) number: AtomicU64,
    /// Where that record ends in the log.
    pub(super) end: AtomicU64,
    /// Where that record ends in the lane.
    pub(super) behind: AtomicU64,
    /// Where the last record that took its slot ends in the lane.
    pub(super) head: AtomicU64,
    /// Where the record begins in the log.
    pub(super) begin: AtomicU64,
    apart: Reserved<3>,
    /// The number of its last slot whose record was written out.
    pub(super) taken: AtomicU64,
    /// Where the records in the lane begin that were not written out.
    pub(super) cursor: AtomicU64,
    reserved: Reserved<6>,
}

shm_sync!(Row { number, end, behind, head, begin, apart, taken, cursor, reserved });

#[cfg(not(any(shm_loom, shm_explore)))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Head>() == 128);
    assert!(offset_of!(Head, done) == 64);
    assert!(size_of::<Place>() == 64);
    assert!(size_of::<Row>() == 128);
    assert!(offset_of!(Row, taken) == 64);
};

impl Head {
    pub(super) fn new(first: u64, start: u64) -> Head {
        Head {
            next: AtomicU64::new(first),
            apart: Reserved::new(),
            done: AtomicU64::new(first),
            written: AtomicU64::new(start),
            reserved: Reserved::new(),
        }
    }
}

impl Place {
    /// In its first lap, as if a record had ended at `end` before.
    pub(super) fn new(end: u64) -> Place {
        let word = AtomicU64::new(Slot::free(1).to_bits());
        Place { word, end: AtomicU64::new(end), reserved: Reserved::new() }
    }
}

impl Row {
    pub(super) fn new() -> Row {
        let zero = || AtomicU64::new(0);
        Row {
            number: zero(),
            end: zero(),
            behind: zero(),
            head: zero(),
            begin: zero(),
            apart: Reserved::new(),
            taken: zero(),
            cursor: zero(),
            reserved: Reserved::new(),
        }
    }
}
