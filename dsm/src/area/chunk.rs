//! Memory behind chunks of pages: put there before the first page is handed out, and given back.
//!
//! A chunk's memory comes and goes under a claim that names who is at it (see `Chunk` in
//! `shared.rs`). Nobody waits for him but who finds the limit reached by what he is about to have,
//! and he only for a moment: others take another chunk.
use super::Area;
use super::error::AreaError;
use super::shared::{Chunk, Descriptor, Owner, Page, Stage};
use shm_core::sync::{AtomicU64, Ordering};
use std::fmt;
use std::ops::Range;

/// The memory behind an area that grows and shrinks. Tests put their own there.
pub trait Memory: fmt::Debug + Send + Sync {
    /// Puts memory behind these bytes of the mapping, zero where there was none. `false` where
    /// there is not enough; then perhaps behind some.
    fn populate(&self, bytes: Range<u64>) -> bool;

    /// Takes it away from whole pages of the system among these bytes. `false` where the system
    /// cannot.
    fn punch(&self, bytes: Range<u64>) -> bool;
}

/// What came of an attempt to have more pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Growth {
    /// There are more, or others were faster: look again.
    Grown,
    /// Others are at what would be needed.
    Busy,
    /// So many bytes are the limit.
    Limit(u64),
    /// The system has no memory.
    NoSpace,
    /// There are no pages to come.
    Full,
}

impl Area {
    #[inline]
    fn chunk_of(&self, page: u32) -> usize {
        (page >> self.inner.chunk_shift) as usize
    }

    /// The pages of a chunk; the last chunk may have fewer.
    pub(super) fn pages_of(&self, chunk: usize) -> Range<u32> {
        let (first, pages) = ((chunk as u64) << self.inner.chunk_shift, u64::from(self.pages()));
        let end = (first + (1 << self.inner.chunk_shift)).min(pages);
        first.min(pages) as u32..end as u32
    }

    /// Where the chunk of this page ends; of a fixed area, the whole.
    pub(super) fn end_of_chunk(&self, page: u32) -> u32 {
        if self.is_elastic() { self.pages_of(self.chunk_of(page)).end } else { self.pages() }
    }

    #[inline]
    pub(super) fn chunk(&self, chunk: usize) -> Chunk {
        // Pairs with the Release in `step`: the memory is there.
        self.inner
            .chunks
            .get(chunk)
            .map_or(Chunk::there(), |word| Chunk(word.load(Ordering::Acquire)))
    }

    /// Whether an area's memory comes and goes.
    #[inline]
    pub(super) fn is_elastic(&self) -> bool {
        !self.inner.chunks.is_empty()
    }

    /// Whether memory stands behind the page.
    #[inline]
    pub(super) fn is_there(&self, page: u32) -> bool {
        !self.is_elastic() || self.chunk(self.chunk_of(page)).is_there()
    }

    /// Whether there is a word of the page map for it, and a descriptor.
    #[inline]
    pub(super) fn is_mapped(&self, page: u32) -> bool {
        !self.is_elastic() || self.chunk(self.chunk_of(page)).is_mapped()
    }

    /// Whether memory stands behind each of these.
    pub(super) fn all_there(&self, pages: Range<u32>) -> Result<(), u32> {
        let mut at = pages.start;
        while self.is_elastic() && at < pages.end {
            if !self.is_there(at) {
                return Err(at);
            }
            at = self.pages_of(self.chunk_of(at)).end;
        }
        Ok(())
    }

    /// The first page from `at` on whose chunk is one of which `is_one` holds.
    pub(super) fn next_in(&self, mut at: u32, is_one: impl Fn(Chunk) -> bool) -> u32 {
        while self.is_elastic() && at < self.pages() && !is_one(self.chunk(self.chunk_of(at))) {
            at = self.pages_of(self.chunk_of(at)).end;
        }
        at
    }

    /// Every page that has a word in the page map.
    pub(super) fn all_pages(&self) -> impl Iterator<Item = (u32, Page)> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            at = self.next_in(at, Chunk::is_mapped);
            let found = (at, self.page(at)?);
            at += 1;
            Some(found)
        })
    }

    /// One word from one value to another.
    fn step(&self, chunk: usize, from: Chunk, to: Chunk) -> bool {
        let Some(word) = self.inner.chunks.get(chunk) else { return false };
        // Pairs with the Acquire in `chunk`: the memory is there, or the last one is done with it.
        word.compare_exchange(from.0, to.0, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// The bytes of the mapping in which a chunk's pages lie.
    fn bytes_of(&self, chunk: usize) -> Range<u64> {
        let (pages, inner) = (self.pages_of(chunk), &*self.inner);
        let at = |page: u32| inner.pages_at + u64::from(page) * inner.page;
        at(pages.start)..at(pages.end)
    }

    /// Puts memory behind all of a chunk.
    pub(super) fn populate(&self, chunk: usize, memory: &dyn Memory) -> bool {
        let (pages, inner) = (self.pages_of(chunk), &*self.inner);
        let of = |at: u64, size: usize| {
            at + u64::from(pages.start) * size as u64..at + u64::from(pages.end) * size as u64
        };
        memory.populate(of(inner.map_at, size_of::<AtomicU64>()))
            && memory.populate(of(inner.descriptors_at, size_of::<Descriptor>()))
            && memory.populate(self.bytes_of(chunk))
    }

    /// Memory behind the first pages, of an area that nobody else has seen yet.
    pub(super) fn begin(&self, pages: u64) -> Result<(), AreaError> {
        let Some(memory) = self.inner.memory.as_deref() else { return Ok(()) };
        let count = (pages >> self.inner.chunk_shift) as usize;
        let count = count + usize::from(pages > (count as u64) << self.inner.chunk_shift);
        for chunk in 0..count.min(self.inner.chunks.len()) {
            if !self.populate(chunk, memory) {
                return Err(AreaError::NoSpace);
            }
            self.step(chunk, Chunk(0), Chunk::there());
        }
        Ok(())
    }

    /// From now on there is memory behind so many bytes of pages at most, in whole chunks. What is
    /// there above that goes when it is free, and somebody [trims](super::Heap::trim). An area in
    /// place has all of its memory, whatever the limit.
    ///
    /// # If a process dies here
    /// The limit is the old or the new one.
    pub fn set_limit(&self, bytes: u64) {
        // Relaxed: the next one to grow goes by it.
        self.inner.head.limit.store(bytes, Ordering::Relaxed);
    }

    /// The bytes of the mapping in which a chunk's pages lie.
    #[doc(hidden)]
    pub fn chunk_bytes(&self, chunk: usize) -> Range<u64> {
        self.bytes_of(chunk)
    }

    pub(super) fn limit_bytes(&self) -> u64 {
        // Relaxed: the next one to grow goes by it.
        self.inner.head.limit.load(Ordering::Relaxed)
    }

    pub(super) fn chunks(&self) -> usize {
        self.inner.chunks.len()
    }

    /// More memory for `count` pages in a row.
    pub(super) fn grow(&self, me: Owner, count: u32) -> Growth {
        let memory = self.inner.memory.as_deref().filter(|_| self.is_elastic());
        let Some(memory) = memory else { return Growth::Full };
        let gap = match self.find_gap(count) {
            Ok(gap) => gap,
            Err(growth) => return growth,
        };
        let mut at = gap.start;
        while at < gap.end {
            let chunk = self.chunk_of(at);
            at = self.pages_of(chunk).end;
            let now = self.chunk(chunk);
            if now.is_there() {
                continue;
            }
            match self.commit(me, chunk, now, memory) {
                Growth::Grown => {}
                growth => return growth,
            }
        }
        Growth::Grown
    }

    /// The first pages in a row that are free or could come.
    fn find_gap(&self, count: u32) -> Result<Range<u32>, Growth> {
        let (mut first, mut at, mut is_busy) = (0, 0, false);
        while at < self.pages() {
            let end = self.pages_of(self.chunk_of(at)).end;
            match self.chunk(self.chunk_of(at)).stage() {
                Stage::Gone => at = end,
                Stage::There if self.page(at) == Some(Page::FREE) => at += 1,
                Stage::There => (first, at) = (at + 1, at + 1),
                stage => {
                    is_busy |= stage != Stage::Nonsense;
                    (first, at) = (end, end);
                }
            }
            if at - first >= count {
                return Ok(first..first + count);
            }
        }
        Err(if is_busy { Growth::Busy } else { Growth::Full })
    }

    /// Puts memory behind a chunk that is GONE.
    fn commit(&self, me: Owner, chunk: usize, gone: Chunk, memory: &dyn Memory) -> Growth {
        let coming = gone.coming(me);
        if gone.stage() != Stage::Gone || !self.step(chunk, gone, coming) {
            // Somebody else is at it: the next look finds another one.
            return Growth::Grown;
        }
        // Pairs with itself: of two who claim, the second sees both claims, so never both stay
        // above the limit.
        self.inner.head.growths.fetch_add(1, Ordering::AcqRel);
        let (there, moving) = self.count_chunks();
        let limit = self.limit_bytes() >> self.inner.page_shift;
        if there + moving > limit {
            self.step(chunk, coming, gone);
            let mine = self.pages_of(chunk).len() as u64;
            let is_busy = moving > mine && there + mine <= limit;
            return if is_busy { Growth::Busy } else { Growth::Limit(self.limit_bytes()) };
        }
        if !self.populate(chunk, memory) {
            memory.punch(self.bytes_of(chunk));
            self.step(chunk, coming, gone);
            return Growth::NoSpace;
        }
        if self.step(chunk, coming, Chunk::there()) { Growth::Grown } else { Growth::Busy }
    }

    /// Pages of chunks that are there, and of those that are coming or going.
    pub(super) fn count_chunks(&self) -> (u64, u64) {
        let (mut there, mut moving) = (0, 0);
        for chunk in 0..self.inner.chunks.len() {
            let pages = self.pages_of(chunk).len() as u64;
            match self.chunk(chunk).stage() {
                Stage::There => there += pages,
                Stage::Coming | Stage::Going => moving += pages,
                Stage::Gone | Stage::Nonsense => {}
            }
        }
        (there, moving)
    }

    /// Gives the memory of chunks back that nobody has a page of, the last first; how many bytes.
    /// `keep` says how many pages of such chunks stay, of so many.
    pub(super) fn retire_all(&self, me: Owner, keep: impl Fn(u64) -> u64) -> u64 {
        let Some(memory) = self.inner.memory.as_deref() else { return 0 };
        let is_free = |chunk: &usize| {
            let mut pages = self.pages_of(*chunk);
            self.chunk(*chunk).is_there() && pages.all(|page| self.page(page) == Some(Page::FREE))
        };
        let free: Vec<usize> = (0..self.inner.chunks.len()).filter(is_free).collect();
        let of = |chunk: usize| self.pages_of(chunk).len() as u64;
        let (mut kept, mut given) = (free.iter().map(|chunk| of(*chunk)).sum::<u64>(), 0);
        let keep = keep(kept);
        for chunk in free.into_iter().rev() {
            if kept < keep + of(chunk) {
                break;
            }
            if self.retire(me, chunk, memory) {
                kept -= of(chunk);
                given += of(chunk) * self.inner.page;
            }
        }
        given
    }

    /// Gives a chunk's memory back, if nobody has a page of it.
    fn retire(&self, me: Owner, chunk: usize, memory: &dyn Memory) -> bool {
        let (pages, taken) = (self.pages_of(chunk), Page::taken(me));
        if self.take(me, pages.start, pages.len() as u32).is_err() {
            return false;
        }
        let going = Chunk::going(me);
        let is_ours = self.step(chunk, Chunk::there(), going);
        let is_gone = is_ours && memory.punch(self.bytes_of(chunk));
        self.give_pages(pages.start, taken);
        if is_ours {
            self.step(chunk, going, if is_gone { going.gone() } else { Chunk::there() });
        }
        is_gone
    }

    /// After the death of `owner`: what it was putting somewhere, or giving back, is given back.
    pub(super) fn reap_chunks(&self, owner: Owner) -> u64 {
        let mut reaped = 0;
        for chunk in 0..self.inner.chunks.len() {
            let now = self.chunk(chunk);
            let is_moving = matches!(now.stage(), Stage::Coming | Stage::Going);
            if !is_moving || now.owner() != owner {
                continue;
            }
            let punched = self.inner.memory.as_deref().map(|m| m.punch(self.bytes_of(chunk)));
            // Another one may have taken pages here, and be about to see that nothing is there.
            let first = self.pages_of(chunk).start;
            if self.page(first) == Some(Page::taken(owner)) {
                self.give_pages(first, Page::taken(owner));
            }
            let is_kept = punched == Some(false) && now.stage() == Stage::Going;
            self.step(chunk, now, if is_kept { Chunk::there() } else { now.gone() });
            reaped += 1;
        }
        reaped
    }
}
