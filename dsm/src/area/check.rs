//! What is in an area, and whether it fits together.
use super::class::Shape;
use super::shared::{Chunk, Kind, Owner, Page, Stage, WORDS};
use super::{Area, AreaPtr};
use shm_core::sync::Ordering;

/// What is in an area. While others use it, each number is of some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct AreaStats {
    /// All pages.
    pub pages: u64,
    /// Pages that are nobody's.
    pub free_pages: u64,
    /// Groups of pages that somebody is taking or giving back.
    pub taken: u64,
    /// Groups of pages of blocks of one size.
    pub spans: u64,
    /// Those of them without an owner.
    pub idle_spans: u64,
    /// Blocks that are allocated.
    pub blocks: u64,
    /// What these take.
    pub bytes: u64,
    /// Blocks that were freed by others than the owner of their span, who takes them back when it
    /// needs them.
    pub freed: u64,
    /// Rows of heaps that are in use.
    pub heaps: u64,
    /// Heaps that are in the middle of a call, or died there.
    pub intents: u64,
    /// Chunks of pages, of an area whose memory comes and goes.
    pub chunks: u64,
    /// Those of them behind which there is memory.
    pub chunks_there: u64,
    /// Those behind which somebody puts memory, or whose memory somebody gives back.
    pub chunks_moving: u64,
    /// Bytes of pages behind which there is memory.
    pub there: u64,
    /// So many there may be; see [`Area::set_limit`].
    pub limit: u64,
}

/// What is in an area of blocks of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ClassStats {
    /// Bytes of each.
    pub size: u64,
    /// Groups of pages that hold such blocks.
    pub spans: u64,
    /// Pages of these.
    pub pages: u64,
    /// Blocks for which there is room in them.
    pub room: u64,
    /// Blocks that are allocated.
    pub blocks: u64,
}

/// What does not fit together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// A tail behind nothing that has so many pages.
    StrayTail(u32),
    /// A span or run without all its tails.
    MissingTail(u32),
    /// A word of no meaning.
    Nonsense(u32),
    /// Bits of an owner's map that stand for no block.
    Bits(u32),
    /// A span or a group of pages whose owner has no heap (any more).
    NoOwner(u32),
    /// Something in a page behind which there is no memory.
    NotThere(u32),
    /// The word of a chunk has no meaning, or names nobody who has a heap.
    Chunk(u32),
}

/// What [`Area::verify`] found. The faults are of an area at rest; while it is in use some are only
/// seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// What there is.
    pub stats: AreaStats,
    /// What is wrong; at most 64 are told.
    pub faults: Vec<Fault>,
}

const FAULTS_MAX: usize = 64;

impl Report {
    /// Nothing is wrong, and nobody is or died in the middle of something.
    pub fn is_clean(&self) -> bool {
        let AreaStats { taken, intents, chunks_moving, .. } = self.stats;
        self.faults.is_empty() && [taken, intents, chunks_moving] == [0; 3]
    }

    fn fault(&mut self, fault: Fault) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

impl Area {
    /// What is in it.
    pub fn stats(&self) -> AreaStats {
        self.verify().stats
    }

    /// Looks at every page and every row.
    pub fn verify(&self) -> Report {
        self.walk(|_, _| ())
    }

    /// Every allocated block, with its size in memory. In an area at rest.
    pub fn for_each_block(&self, each: impl FnMut(AreaPtr, u64)) {
        self.walk(each);
    }

    fn walk(&self, mut each: impl FnMut(AreaPtr, u64)) -> Report {
        let mut report = Report::default();
        report.stats.pages = u64::from(self.pages());
        report.stats.limit = self.limit_bytes();
        let mut owners = Vec::new();
        for (row, words) in self.inner.rows.iter().enumerate() {
            // Relaxed, here and below: a look.
            let owner = words.owner.load(Ordering::Relaxed);
            if let Some(id) = super::shared::Claim(owner).owner() {
                owners.push(Owner::new(id, row));
                report.stats.heaps += 1;
            }
            report.stats.intents += u64::from(words.intent() != super::shared::Intent::NONE);
        }
        owners.sort_unstable();
        self.walk_chunks(&owners, &mut report);
        let mut at = self.next_in(0, Chunk::is_mapped);
        while let Some(word) = self.page(at) {
            let kind = word.kind();
            if kind != Kind::Free && !self.is_there(at) {
                report.fault(Fault::NotThere(at));
            }
            let of_nobody = || owners.binary_search(&word.owner()).is_err();
            if matches!(kind, Kind::Taken | Kind::Span) && of_nobody() {
                report.fault(Fault::NoOwner(at));
            }
            let expected = match kind {
                Kind::Free => {
                    report.stats.free_pages += 1;
                    1
                }
                Kind::Taken => {
                    report.stats.taken += 1;
                    1 + self.tails(at)
                }
                Kind::Span | Kind::Idle => self.walk_span(at, word, &mut report, &mut each),
                Kind::Run => {
                    report.stats.blocks += 1;
                    let bytes = u64::from(word.distance()) * self.inner.page;
                    report.stats.bytes = report.stats.bytes.saturating_add(bytes);
                    each(self.block_at(at, 0), bytes);
                    word.distance()
                }
                Kind::Tail => {
                    report.fault(Fault::StrayTail(at));
                    1
                }
                Kind::Nonsense => {
                    report.fault(Fault::Nonsense(at));
                    1
                }
            };
            let found =
                if matches!(kind, Kind::Tail | Kind::Free) { 1 } else { 1 + self.tails(at) };
            if found < expected {
                report.fault(Fault::MissingTail(at));
            }
            // Others' tails are looked at by themselves: strays.
            at = self.next_in(at + found.min(expected).max(1), Chunk::is_mapped);
        }
        report
    }

    fn walk_chunks(&self, owners: &[Owner], report: &mut Report) {
        for chunk in 0..self.chunks() {
            let (now, pages) = (self.chunk(chunk), self.pages_of(chunk).len() as u64);
            report.stats.chunks += 1;
            match now.stage() {
                Stage::Gone => {}
                Stage::There if now.is_mapped() => {
                    report.stats.chunks_there += 1;
                    report.stats.there += pages * self.inner.page;
                }
                Stage::Coming | Stage::Going if owners.binary_search(&now.owner()).is_ok() => {
                    report.stats.chunks_moving += 1;
                }
                _ => report.fault(Fault::Chunk(chunk as u32)),
            }
        }
        if !self.is_elastic() {
            report.stats.there = report.stats.pages * self.inner.page;
        }
    }

    /// What there is of blocks of each size; large ones have pages of their own, and are left out.
    pub fn classes(&self) -> Vec<ClassStats> {
        let shapes = self.inner.classes.shapes();
        let new = |shape: &Shape| ClassStats { size: shape.size.into(), ..Default::default() };
        let mut all: Vec<ClassStats> = shapes.iter().map(new).collect();
        for (at, word) in self.all_pages() {
            let is_span = matches!(word.kind(), Kind::Span | Kind::Idle);
            let Some(shape) = self.shape(word).filter(|_| is_span) else { continue };
            let class = &mut all[word.class()];
            let descriptor = self.descriptor(at);
            for word in 0..shape.words() {
                // Relaxed: a look.
                let allocated = descriptor.allocated[word].load(Ordering::Relaxed);
                let freed = descriptor.freed[word].load(Ordering::Relaxed);
                let blocks = allocated & !freed & shape.valid(word);
                class.blocks += u64::from(blocks.count_ones());
            }
            class.spans += 1;
            class.pages += u64::from(shape.pages);
            class.room += u64::from(shape.count);
        }
        all
    }

    /// Tails behind this page that are its own.
    fn tails(&self, first: u32) -> u32 {
        let mut count = 0;
        while self.page(first + count + 1) == Some(Page::tail(count + 1)) {
            count += 1;
        }
        count
    }

    /// The pages that it should have.
    fn walk_span(
        &self,
        at: u32,
        word: Page,
        report: &mut Report,
        each: &mut impl FnMut(AreaPtr, u64),
    ) -> u32 {
        let Some(shape) = self.shape(word) else {
            report.fault(Fault::Nonsense(at));
            return 1;
        };
        report.stats.spans += 1;
        report.stats.idle_spans += u64::from(word.kind() == Kind::Idle);
        let descriptor = self.descriptor(at);
        for word in 0..WORDS {
            let allocated = descriptor.allocated[word].load(Ordering::Relaxed);
            let freed = descriptor.freed[word].load(Ordering::Relaxed);
            let valid = if word < shape.words() { shape.valid(word) } else { 0 };
            if allocated & !valid != 0 {
                report.fault(Fault::Bits(at));
            }
            report.stats.freed += u64::from((allocated & freed & valid).count_ones());
            let mut left = allocated & !freed & valid;
            while left != 0 {
                let index = word as u32 * u64::BITS + left.trailing_zeros();
                left &= left - 1;
                report.stats.blocks += 1;
                report.stats.bytes += u64::from(shape.size);
                each(self.block_at(at, shape.offset(index)), u64::from(shape.size));
            }
        }
        shape.pages
    }
}
