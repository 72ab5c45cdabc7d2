//! What an area holds, counted by walking everything.
use super::class::{CLASSES, Shape};
use super::ptr::AreaPtr;
use super::shared::{Kind, Page};
use super::{Area, Inner};
use shm_core::sync::Ordering;

/// Blocks of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStats {
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Spans, and those of them that no heap owns.
    pub spans: u64,
    /// Of them.
    pub idle_spans: u64,
    /// Blocks that the spans have room for.
    pub room: u64,
    /// Blocks that are linked.
    pub live: u64,
    /// Blocks that their makers alone know.
    pub held: u64,
    /// Blocks that have been freed and not been taken back yet.
    pub freed: u64,
}

/// What an area holds. While others use it, each number was true at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AreaStats {
    /// Pages in all.
    pub pages: u64,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Pages that are nobody's.
    pub free_pages: u64,
    /// The longest run of those: the largest block that can be had.
    pub longest_free: u64,
    /// Large blocks that are linked, and their pages.
    pub runs: u64,
    /// Of them.
    pub run_pages: u64,
    /// Heaps in use.
    pub heaps: u64,
    /// Blocks that are linked, large ones included.
    pub live_blocks: u64,
    /// Blocks that their makers alone know, large ones included.
    pub held_blocks: u64,
    /// By size; sizes without a span are left out.
    pub classes: Vec<ClassStats>,
}

/// What is wrong with an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A page's word says nothing that it may say.
    Nonsense {
        /// Which page.
        page: u64,
        /// Its word.
        word: u64,
    },
    /// A page that belongs to no run, or a span with too few pages: lost.
    Lost {
        /// Which page.
        page: u64,
    },
    /// Its owner has no heap: nobody will ever give it back.
    Orphan {
        /// Which page.
        page: u64,
    },
    /// Bits of blocks that are not there, or that are held and not allocated.
    Bits {
        /// Which span.
        page: u64,
        /// Which group of it.
        group: u32,
    },
}

/// What [`Area::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong. While others use the area, something may only look so.
    pub faults: Vec<Fault>,
    /// All linked blocks: pointer and size.
    pub live: Vec<(AreaPtr, u64)>,
    /// Blocks that their makers alone know.
    pub held: u64,
}

impl Report {
    /// The linked blocks that are not among `reachable`: leaked, if nobody uses the area.
    pub fn leaked(&self, reachable: &[AreaPtr]) -> Vec<AreaPtr> {
        let live = self.live.iter().map(|(ptr, _)| *ptr);
        live.filter(|ptr| !reachable.contains(ptr)).collect()
    }
}

impl Area {
    /// Counts what the area holds.
    pub fn stats(&self) -> AreaStats {
        let inner = &*self.inner;
        let mut stats = AreaStats {
            pages: inner.words.len() as u64,
            page_bytes: 1 << inner.page_shift,
            ..AreaStats::default()
        };
        let mut classes = [ClassStats::default(); CLASSES];
        let mut free = 0;
        for page in 0..inner.words.len() {
            let word = inner.page(page);
            free = if word == Page::FREE { free + 1 } else { 0 };
            stats.longest_free = stats.longest_free.max(free);
            match word.kind() {
                Kind::Free => stats.free_pages += 1,
                Kind::Taken => stats.held_blocks += 1,
                Kind::Run => {
                    stats.runs += 1;
                    stats.run_pages += inner.run_len(page) as u64;
                }
                Kind::Span | Kind::Idle => inner.count_span(page, word, &mut classes),
                Kind::Tail | Kind::Nonsense => {}
            }
        }
        let sum = |of: fn(&ClassStats) -> u64| classes.iter().map(of).sum::<u64>();
        stats.live_blocks = stats.runs + sum(|class| class.live);
        stats.held_blocks += sum(|class| class.held);
        stats.heaps = inner.rows.iter().map(|row| row.owner.load(Ordering::Relaxed).min(1)).sum();
        stats.classes = classes.into_iter().filter(|class| class.spans > 0).collect();
        stats
    }

    /// Walks everything: what is wrong, and every block.
    pub fn verify(&self) -> Report {
        let (inner, mut report) = (&*self.inner, Report::default());
        let mut page = 0;
        while page < inner.words.len() {
            let word = inner.page(page);
            let len = if word.kind() == Kind::Free { 1 } else { inner.run_len(page) };
            match word.kind() {
                Kind::Free => {}
                Kind::Tail => report.faults.push(Fault::Lost { page: page as u64 }),
                Kind::Nonsense => {
                    report.faults.push(Fault::Nonsense { page: page as u64, word: word.0 });
                }
                Kind::Taken => report.held += 1,
                Kind::Run => {
                    let bytes = (len as u64) << inner.page_shift;
                    report.live.push((inner.ptr(inner.page_offset(page)), bytes));
                }
                Kind::Span | Kind::Idle => inner.verify_span(page, word, len, &mut report),
            }
            let owner = word.owner();
            let row = inner.rows.get(owner.row()).map(|row| row.owner.load(Ordering::Relaxed));
            let has_owner = matches!(word.kind(), Kind::Taken | Kind::Span);
            if has_owner && row != Some(owner.participant()) {
                report.faults.push(Fault::Orphan { page: page as u64 });
            }
            page += len;
        }
        report
    }
}

impl Inner {
    fn count_span(&self, head: usize, word: Page, classes: &mut [ClassStats]) {
        let Some(shape) = self.classes.shape(word.class()) else { return };
        let class = &mut classes[word.class()];
        class.block_bytes = u64::from(shape.size);
        class.spans += 1;
        class.idle_spans += u64::from(word.kind() == Kind::Idle);
        class.room += u64::from(shape.count);
        for (_, group) in self.groups(head, shape) {
            let allocated = group.allocated.load(Ordering::Relaxed);
            let held = group.held.load(Ordering::Relaxed) & allocated;
            let freed = group.freed.load(Ordering::Relaxed) & allocated;
            class.live += u64::from((allocated & !held & !freed).count_ones());
            class.held += u64::from((held & !freed).count_ones());
            class.freed += u64::from(freed.count_ones());
        }
    }

    fn verify_span(&self, head: usize, word: Page, len: usize, report: &mut Report) {
        let Some(shape) = self.classes.shape(word.class()) else {
            return report.faults.push(Fault::Nonsense { page: head as u64, word: word.0 });
        };
        if len != shape.pages as usize {
            return report.faults.push(Fault::Lost { page: head as u64 });
        }
        for (index, group) in self.groups(head, shape) {
            let allocated = group.allocated.load(Ordering::Relaxed);
            let held = group.held.load(Ordering::Relaxed);
            let freed = group.freed.load(Ordering::Relaxed);
            if (allocated | held | freed) & !shape.valid(index) != 0 || held & !allocated != 0 {
                report.faults.push(Fault::Bits { page: head as u64, group: index });
            }
            report.held += u64::from((held & allocated).count_ones());
            let live = allocated & !held & !freed & shape.valid(index);
            report.live.extend(self.blocks(head, shape, index, live));
        }
    }

    fn blocks(
        &self,
        head: usize,
        shape: &Shape,
        group: u32,
        bits: u64,
    ) -> impl Iterator<Item = (AreaPtr, u64)> {
        let start = self.page_offset(head) + shape.offset(group * super::class::GROUP);
        let size = u64::from(shape.size);
        let indices = (0..64).filter(move |bit| bits >> bit & 1 == 1);
        indices.map(move |bit| (self.ptr(start + bit * size), size))
    }
}
