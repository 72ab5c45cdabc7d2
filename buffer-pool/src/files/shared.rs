//! The words in the segment.
use super::Shape;
use super::word::{FILES_MAX, LINE, Span};
use shm_core::bytes::Word;
use shm_core::event::EventCount;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_core::{Reserved, shm_sync};

/// What the first eight bytes say: "shmfile", version 3.
const MAGIC: u64 = 0x7368_6d66_696c_6503;

/// So many words of path a file has: with its length 1 KiB. Fewer in models.
const PATH_WORDS: usize = if cfg!(any(shm_loom, shm_explore)) { 1 } else { 127 };

/// A path has at most so many bytes.
pub(super) const PATH_BYTES_MAX: usize = PATH_WORDS * 8;

/// The most entries: as many lines as [`Span`] can name.
const ENTRIES_MAX: u64 = LINE << 32;

/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `magic`, `files`, `entries` | who makes it, before the place is published | all, once, at attach | checked there, private from then on |
/// | `registrar` | by compare-and-swap: nobody's, or one's who is dead or has left, to mine; mine, or a dead one's, to nobody's | who would register, drop or shrink; who waits for a file that shrinks | Release / Acquire on itself |
/// | `serial`: files registered so far | the registrar | the registrar | `registrar` |
/// | `moved` | who gives the registrar's word up, and who has made a file as short as it is to be | who waits for one of the two, and for the life of the registrar | an event count |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Head {
    magic: AtomicU64,
    files: AtomicU32,
    pub(super) moved: EventCount,
    entries: AtomicU64,
    pub(super) registrar: AtomicU64,
    pub(super) serial: AtomicU64,
    reserved: Reserved<3>,
}

/// What is known of one file, but for its path. All that a page is found by is in this line.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `extent` | the registrar; who extends the file; by compare-and-swap but for a row that is free: see [`Extent`] and the table of the module | all | Release / Acquire on itself; against the entries by the fence pair |
/// | `span`, `id`, `fork`, and the path | the registrar, while `extent` says free | all, between two looks at `extent` | `extent`, and the fences around the writes and the reads; who looks once at `span` may see an older or a later file's: see the module |
/// | `serial` | as `span` | the same | the same |
/// | `sync_failures` | who could not sync the file | who syncs it | nothing: a count |
/// | `cut_from` | the registrar, before `extent` says that the file shrinks | the registrar | `registrar` |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Row {
    pub(super) extent: AtomicU64,
    pub(super) span: AtomicU64,
    pub(super) id: AtomicU64,
    pub(super) fork: AtomicU32,
    pub(super) cut_from: AtomicU32,
    pub(super) serial: AtomicU64,
    pub(super) sync_failures: AtomicU64,
    reserved: Reserved<2>,
}

/// The path of one file. Written and read as [`Row::span`].
#[derive(Debug)]
#[repr(C)]
pub(super) struct Name {
    pub(super) bytes: AtomicU64,
    pub(super) path: [Word; PATH_WORDS],
}

shm_sync!(Head { magic, files, moved, entries, registrar, serial, reserved });
shm_sync!(Row { extent, span, id, fork, cut_from, serial, sync_failures, reserved });
shm_sync!(Name { bytes, path });

#[cfg(not(any(shm_loom, shm_explore)))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Head>() == 64);
    assert!(offset_of!(Head, registrar) == 24);
    assert!(size_of::<Row>() == 64);
    assert!(offset_of!(Row, span) == 8);
    assert!(offset_of!(Row, cut_from) == 28);
    assert!(size_of::<Name>() == 1024);
};

impl Head {
    pub(super) fn new(shape: Shape) -> Head {
        Head {
            magic: AtomicU64::new(MAGIC),
            files: AtomicU32::new(shape.files),
            moved: EventCount::new(),
            entries: AtomicU64::new(shape.entries),
            registrar: AtomicU64::new(0),
            serial: AtomicU64::new(0),
            reserved: Reserved::new(),
        }
    }

    /// What it was made for; `None` where that is nonsense.
    pub(super) fn checked(&self) -> Option<Shape> {
        let files = self.files.load(Ordering::Relaxed);
        let shape = Shape { files, entries: self.entries.load(Ordering::Relaxed) };
        let is_ours = self.magic.load(Ordering::Relaxed) == MAGIC;
        (is_ours && shape.is_possible()).then_some(shape)
    }
}

impl Shape {
    pub(super) fn is_possible(self) -> bool {
        (1..=FILES_MAX).contains(&self.files) && (1..=ENTRIES_MAX).contains(&self.entries)
    }
}

impl Row {
    pub(super) fn new() -> Row {
        Row {
            extent: AtomicU64::new(0),
            span: AtomicU64::new(Span::new(0, 0).to_bits()),
            id: AtomicU64::new(0),
            fork: AtomicU32::new(0),
            cut_from: AtomicU32::new(0),
            serial: AtomicU64::new(0),
            sync_failures: AtomicU64::new(0),
            reserved: Reserved::new(),
        }
    }
}

impl Name {
    pub(super) fn new() -> Name {
        Name { bytes: AtomicU64::new(0), path: std::array::from_fn(|_| Word::new()) }
    }
}

/// An entry that says that its page is in no frame.
pub(super) fn absent() -> AtomicU64 {
    AtomicU64::new(ABSENT)
}

/// What an entry says of a page that is in no frame, as `frames` has it.
pub(super) const ABSENT: u64 = 0;
