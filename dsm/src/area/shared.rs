//! The words of an area.
use super::AreaConfig;
use super::ptr::{AreaPtr, MARKS};
use shm_core::participants::ParticipantId;
use shm_core::sync::AtomicU64;
use shm_core::sync::Ordering;
use shm_core::{Reserved, shm_sync};

pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"shmkarea");

/// The head of an area; the heaps' rows follow, then the chunk words, the page map, the
/// descriptors, and the pages.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `magic`, `layout`, `pages`, `rows`, `page_bytes`, `tag`, `chunk_pages`, `keep` | the creator, before the place is published | all, once, at attach | checked there, private from then on |
/// | `given_up` | who has left spans without an owner: one more | whoever looks for such spans | nothing: whether it is worth looking |
/// | `hint` | who has taken pages, or given some back | whoever looks for pages: where to begin | nothing: it may be anything |
/// | `limit` | the creator; anyone | who puts memory behind a chunk | nothing: the next to do so goes by it |
/// | `growths` | who has claimed a chunk: one more | the same | AcqRel on itself: of two who claim, the second sees both claims |
/// | `root` | whoever uses the area: a destination of theirs | the same, and reapers | the users' affair |
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Head {
    pub(super) magic: AtomicU64,
    pub(super) layout: AtomicU64,
    pub(super) pages: AtomicU64,
    pub(super) rows: AtomicU64,
    pub(super) page_bytes: AtomicU64,
    pub(super) tag: AtomicU64,
    pub(super) chunk_pages: AtomicU64,
    pub(super) keep: AtomicU64,
    pub(super) given_up: AtomicU64,
    pub(super) hint: AtomicU64,
    pub(super) limit: AtomicU64,
    pub(super) growths: AtomicU64,
    pub(super) root: AtomicU64,
    spare: Reserved<3>,
}

/// A heap: one thread of a participant.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `owner` | by compare-and-swap from 0: who takes the row; from a dead owner: its reaper, who adds its own name; 0: either, at the end | all | Release / Acquire on itself: `intent` |
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

shm_sync!(Head {
    magic,
    layout,
    pages,
    rows,
    page_bytes,
    tag,
    chunk_pages,
    keep,
    given_up,
    hint,
    limit,
    growths,
    root,
    spare,
});
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
        chunk_pages: AtomicU64,
        keep: AtomicU64,
        given_up: AtomicU64,
        hint: AtomicU64,
        limit: AtomicU64,
        growths: AtomicU64,
        root: AtomicU64,
        spare: Reserved<3>,
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
    pub(super) fn new(config: &AreaConfig, tag: u64) -> Head {
        Head {
            magic: AtomicU64::new(MAGIC),
            layout: AtomicU64::new(FINGERPRINT),
            pages: AtomicU64::new(config.pages),
            rows: AtomicU64::new(config.heaps.into()),
            page_bytes: AtomicU64::new(config.page_bytes.into()),
            tag: AtomicU64::new(tag),
            chunk_pages: AtomicU64::new(config.chunk_pages.into()),
            keep: AtomicU64::new(config.keep),
            given_up: AtomicU64::new(1),
            hint: AtomicU64::new(0),
            limit: AtomicU64::new(config.limit),
            growths: AtomicU64::new(0),
            root: AtomicU64::new(0),
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

    #[inline]
    pub(super) fn intent(&self) -> Intent {
        // Pairs with the Release in `set`: the bit that was set under the intent before this one.
        Intent(self.intent.load(Ordering::Acquire))
    }

    #[inline]
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

    #[inline]
    pub(super) fn link(block: AreaPtr) -> Intent {
        Intent(block.to_bits() & !MARKS | Intent::LINK)
    }

    #[inline]
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

    pub(super) fn row(self) -> usize {
        (self.0 >> 32) as usize
    }
}

/// Whose a row is, and who cleans up after it: reaper 32 bits | owner 32, `ParticipantId`s.
///
/// | from | to | by whom | a death leaves |
/// | --- | --- | --- | --- |
/// | 0 | owner | who takes a heap | its row |
/// | owner, or owner and a reaper that is dead | owner, reaper | who has the owner's death proven | the row, with its name |
/// | owner | 0 | the owner | |
/// | owner, reaper | 0 | the reaper | |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Claim(pub(super) u64);

impl Claim {
    pub(super) fn owner(self) -> Option<ParticipantId> {
        ParticipantId::from_bits(self.0 as u32)
    }

    pub(super) fn reaper(self) -> Option<ParticipantId> {
        ParticipantId::from_bits((self.0 >> 32) as u32)
    }

    pub(super) fn reaped_by(self, me: ParticipantId) -> Claim {
        Claim(u64::from(self.0 as u32) | u64::from(me.to_bits()) << 32)
    }
}

/// What stands behind a chunk, which is so many pages: kind 4 bits | mapped 1 | – 15 | row 12 |
/// participant 32.
///
/// *Mapped*: there is memory behind the chunk's part of the page map and of the descriptors, and
/// there always will be. Only of a chunk that is THERE a page may be used, by who has taken the
/// page and seen so then; and who makes it GOING has taken all of its pages.
///
/// | from | to | by whom | a death leaves |
/// | --- | --- | --- | --- |
/// | GONE | COMING(me) | who finds no pages | COMING(dead), with some memory: its reaper takes that away |
/// | COMING(me) | THERE, mapped | the same, with memory behind all of it | |
/// | COMING(me) | GONE | the same, without | |
/// | THERE | GOING(me) | who has all of its pages | GOING(dead): its reaper goes on |
/// | GOING(me) | GONE | the same, when the memory is given back, and the pages are free | |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Chunk(pub(super) u64);

/// What stands behind a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Gone,
    Coming,
    There,
    Going,
    /// What nobody has written.
    Nonsense,
}

impl Chunk {
    const MAPPED: u64 = 1 << 59;

    pub(super) fn there() -> Chunk {
        Chunk(2 << 60 | Chunk::MAPPED)
    }

    /// The same memory behind page map and descriptors.
    pub(super) fn gone(self) -> Chunk {
        Chunk(self.0 & Chunk::MAPPED)
    }

    pub(super) fn coming(self, owner: Owner) -> Chunk {
        Chunk(1 << 60 | self.0 & Chunk::MAPPED | owner.0)
    }

    pub(super) fn going(owner: Owner) -> Chunk {
        Chunk(3 << 60 | Chunk::MAPPED | owner.0)
    }

    #[inline]
    pub(super) fn stage(self) -> Stage {
        match self.0 >> 60 {
            0 => Stage::Gone,
            1 => Stage::Coming,
            2 => Stage::There,
            3 => Stage::Going,
            _ => Stage::Nonsense,
        }
    }

    #[inline]
    pub(super) fn is_there(self) -> bool {
        self.0 >> 60 == 2
    }

    #[inline]
    pub(super) fn is_mapped(self) -> bool {
        self.0 & Chunk::MAPPED != 0
    }

    /// Who is at it, of a chunk that is coming or going.
    pub(super) fn owner(self) -> Owner {
        Owner(self.0 & ((1 << Owner::BITS) - 1))
    }
}

impl Page {
    pub(super) const FREE: Page = Page(0);
    const CLASS_SHIFT: u32 = Owner::BITS;

    #[inline]
    pub(super) fn taken(owner: Owner) -> Page {
        Page(1 << 60 | owner.0)
    }

    #[inline]
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
