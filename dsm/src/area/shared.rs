//! The words of an area.
use super::ptr::{AreaPtr, MARKS};
use shm_core::participants::ParticipantId;
use shm_core::sync::AtomicU64;
use shm_core::sync::Ordering;
use shm_core::{Reserved, shm_sync};

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"shmkarea");

/// The head of an area; the heaps' rows follow, then the page map, then the descriptors, then the
/// pages.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `magic`, `layout`, `pages`, `rows`, `page_bytes`, `tag` | the creator, before the place is published | all, once, at attach | checked there, private from then on |
/// | `given_up` | who has left spans without an owner: one more | whoever looks for such spans | nothing: whether it is worth looking |
/// | `hint` | who has taken pages, or given some back | whoever looks for pages: where to begin | nothing: it may be anything |
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Head {
    pub(super) magic: AtomicU64,
    pub(super) layout: AtomicU64,
    pub(super) pages: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) page_bytes: AtomicU64,
    pub(super) tag: AtomicU64,
    reserved: Reserved<2>,
    pub(super) given_up: AtomicU64,
    pub(super) hint: AtomicU64,
    spare: Reserved<6>,
}

/// A heap: one thread of a participant.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `owner` | by compare-and-swap from 0: who takes the row; 0: the same, or its reaper, at the end | all | Release / Acquire on itself: `intent` |
/// | `intent` | the owner, or its reaper | who collects blocks that others freed; reapers | FREE: by the `freed` bit that is set after it; the next value: Release / Acquire on itself, the same bit |
/// | `destination` | the owner, before `intent` | its reaper | the proof of its death |
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Row {
    pub(super) owner: AtomicU64,
    intent: AtomicU64,
    pub(super) destination: AtomicU64,
    reserved: Reserved<13>,
}

/// Words of a bitmap: a span has at most 512 blocks.
pub(super) const WORDS: usize = 8;

/// What stands beside the page map for each page. Only that of a span's first page is used: a bit
/// each block.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `allocated` | the span's owner, plainly | who frees: whether the block is allocated | the block's way to the reader; the page word, when the owner changes |
/// | `freed` | any but the owner sets; the owner clears what it has taken back | the owner | Release / Acquire on itself: the last use of the block, and the freer's `intent` |
///
/// A block is free where its `allocated` bit is 0; one with both bits is about to be.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Descriptor {
    pub(super) allocated: [AtomicU64; WORDS],
    pub(super) freed: [AtomicU64; WORDS],
}

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Head>() == 128);
    assert!(offset_of!(Head, given_up) == 64);
    assert!(size_of::<Row>() == 128);
    assert!(size_of::<Descriptor>() == 128);
    assert!(offset_of!(Descriptor, freed) == 64);
};

shm_sync!(Head { magic, layout, pages, rows, page_bytes, tag, reserved, given_up, hint, spare });
shm_sync!(Row { owner, intent, destination, reserved });
shm_sync!(Descriptor { allocated, freed });

/// Tells this layout from others.
pub(super) const FINGERPRINT: u64 = shm_core::layout::combine(&[
    shm_core::fingerprint!(Head {
        magic: AtomicU64,
        layout: AtomicU64,
        pages: AtomicU64,
        rows: AtomicU64,
        page_bytes: AtomicU64,
        tag: AtomicU64,
        reserved: Reserved<2>,
        given_up: AtomicU64,
        hint: AtomicU64,
        spare: Reserved<6>,
    }),
    shm_core::fingerprint!(Row {
        owner: AtomicU64,
        intent: AtomicU64,
        destination: AtomicU64,
        reserved: Reserved<13>,
    }),
    shm_core::fingerprint!(Descriptor { allocated: [AtomicU64; WORDS], freed: [AtomicU64; WORDS] }),
]);

impl Head {
    pub(super) fn new(pages: u64, rows: u64, page_bytes: u64, tag: u64) -> Head {
        Head {
            magic: AtomicU64::new(MAGIC),
            layout: AtomicU64::new(FINGERPRINT),
            pages: AtomicU64::new(pages),
            rows: AtomicU64::new(rows),
            page_bytes: AtomicU64::new(page_bytes),
            tag: AtomicU64::new(tag),
            reserved: Reserved::new(),
            given_up: AtomicU64::new(1),
            hint: AtomicU64::new(0),
            spare: Reserved::new(),
        }
    }
}

impl Row {
    pub(super) fn new() -> Row {
        Row {
            owner: AtomicU64::new(0),
            intent: AtomicU64::new(Intent::NONE.0),
            destination: AtomicU64::new(0),
            reserved: Reserved::new(),
        }
    }

    pub(super) fn intent(&self) -> Intent {
        // Pairs with the Release in `set`: the bit that was set under the intent before this one.
        Intent(self.intent.load(Ordering::Acquire))
    }

    pub(super) fn set(&self, intent: Intent) {
        // Pairs with the Acquire in `intent`: the bit that a reaper has set (again) before it ends
        // the intent of a dead one, and the row's next user.
        self.intent.store(intent.0, Ordering::Release);
    }
}

impl Descriptor {
    pub(super) fn new() -> Descriptor {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Descriptor { allocated: zeros(), freed: zeros() }
    }
}

/// What a heap is about to do: block 61 bits | kind 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Intent(pub(super) u64);

impl Intent {
    pub(super) const NONE: Intent = Intent(0);
    const LINK: u64 = 1;
    const FREE: u64 = 2;

    pub(super) fn link(block: AreaPtr) -> Intent {
        Intent(block.to_bits() & !MARKS | Intent::LINK)
    }

    pub(super) fn free(block: AreaPtr) -> Intent {
        Intent(block.to_bits() & !MARKS | Intent::FREE)
    }

    pub(super) fn is_link(self) -> bool {
        self.0 & MARKS == Intent::LINK
    }

    pub(super) fn is_free(self) -> bool {
        self.0 & MARKS == Intent::FREE
    }

    pub(super) fn block(self) -> AreaPtr {
        AreaPtr::from_bits(self.0 & !MARKS)
    }
}

/// What a page is, and whose: kind 4 bits | – 8 | class 8 | row 12 | participant 32.
///
/// | from | to | by whom | a death leaves |
/// | --- | --- | --- | --- |
/// | FREE | TAKEN(me) | anyone | TAKEN(dead): its reaper frees it and its tails |
/// | FREE | TAIL(n) | who has TAKEN the page n before it | the same |
/// | TAKEN(me) | SPAN(me), RUN | the same | |
/// | TAKEN(me), with tails | FREE, the last tail first | the same | TAKEN(dead), with fewer tails |
/// | SPAN(me) | TAKEN(me), IDLE | the same, or its reaper | SPAN(dead): its reaper makes it IDLE |
/// | IDLE | SPAN(me) | anyone | the same |
/// | RUN | TAKEN(me) | who frees the run | TAKEN(dead) |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Page(pub(super) u64);

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Nobody's.
    Free,
    /// Somebody's who is making or ending something.
    Taken,
    /// The first page of a span.
    Span,
    /// The first page of a span without an owner.
    Idle,
    /// The first page of a large block.
    Run,
    /// A later page of any of these.
    Tail,
    /// What nobody has written.
    Nonsense,
}

/// A heap as page words name it: row 12 bits | participant 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Owner(u64);

pub(super) const ROWS_MAX: u64 = 1 << 12;

impl Owner {
    const BITS: u32 = 44;

    pub(super) fn new(who: ParticipantId, row: usize) -> Owner {
        Owner((row as u64) << 32 | u64::from(who.to_bits()))
    }

    pub(super) fn participant(self) -> u32 {
        self.0 as u32
    }
}

impl Page {
    pub(super) const FREE: Page = Page(0);
    const CLASS_SHIFT: u32 = Owner::BITS;

    pub(super) fn taken(owner: Owner) -> Page {
        Page(1 << 60 | owner.0)
    }

    pub(super) fn span(owner: Owner, class: usize) -> Page {
        Page(2 << 60 | (class as u64) << Page::CLASS_SHIFT | owner.0)
    }

    pub(super) fn idle(class: usize) -> Page {
        Page(3 << 60 | (class as u64) << Page::CLASS_SHIFT)
    }

    pub(super) fn run(pages: u32) -> Page {
        Page(4 << 60 | u64::from(pages))
    }

    pub(super) fn tail(distance: u32) -> Page {
        Page(5 << 60 | u64::from(distance))
    }

    #[inline]
    pub(super) fn kind(self) -> Kind {
        match self.0 >> 60 {
            0 => Kind::Free,
            1 => Kind::Taken,
            2 => Kind::Span,
            3 => Kind::Idle,
            4 => Kind::Run,
            5 => Kind::Tail,
            _ => Kind::Nonsense,
        }
    }

    #[inline]
    pub(super) fn class(self) -> usize {
        (self.0 >> Page::CLASS_SHIFT & 0xff) as usize
    }

    #[inline]
    pub(super) fn owner(self) -> Owner {
        Owner(self.0 & ((1 << Owner::BITS) - 1))
    }

    /// Of a tail: how many pages before it its head is. Of a run: how many pages it has.
    #[inline]
    pub(super) fn distance(self) -> u32 {
        self.0 as u32
    }
}
