//! The page map: whose pages are, by one compare-and-swap each.
use super::error::FreeError;
use super::ptr::AreaPtr;
use super::shared::{Chunk, Kind, Owner, Page};
use super::{Area, Shape};
use shm_core::sync::Ordering;

/// Takers who are faster than we are, in one search. Among honest ones nobody loses so often.
const LOST_MAX: u32 = 1 << 10;

/// What a pointer leads to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// A block of the span that begins at `page`, which holds `word`.
    Block {
        page: u32,
        word: Page,
        index: u32,
    },
    Run {
        page: u32,
        word: Page,
    },
}

impl Area {
    #[inline]
    pub(super) fn page(&self, page: u32) -> Option<Page> {
        let word = self.inner.map.get(page as usize)?;
        // Relaxed: who follows a pointer has it from its maker, after this word; who takes pages
        // goes by the compare-and-swap.
        Some(if self.is_mapped(page) { Page(word.load(Ordering::Relaxed)) } else { Page::FREE })
    }

    #[inline]
    pub(super) fn pages(&self) -> u32 {
        self.inner.map.len() as u32
    }

    /// One word from one value to another; the previous users of the page go before.
    pub(super) fn claim(&self, page: u32, from: Page, to: Page) -> bool {
        let Some(word) = self.inner.map.get(page as usize) else { return false };
        // Pairs with the Release in `release`: what was done with the page, and its
        // descriptor, by whoever had it before.
        word.compare_exchange(from.0, to.0, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// The same, by who lets the next one have it.
    pub(super) fn release(&self, page: u32, from: Page, to: Page) -> bool {
        let Some(word) = self.inner.map.get(page as usize) else { return false };
        // Pairs with the Acquire in `claim`: what was done with the page.
        word.compare_exchange(from.0, to.0, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// A word of a page that is ours.
    pub(super) fn write(&self, page: u32, word: Page) {
        // Relaxed: whoever looks at it has a pointer that was published later.
        self.inner.map[page as usize].store(word.0, Ordering::Relaxed);
    }

    /// So many pages in a row: TAKEN, then tails.
    pub(super) fn take_pages(&self, me: Owner, count: u32) -> Option<u32> {
        let (pages, mut lost) = (self.pages(), 0);
        // Relaxed: a hint.
        let start = (self.inner.head.hint.load(Ordering::Relaxed) % u64::from(pages)) as u32;
        let wrapped = start.saturating_add(count - 1).min(pages);
        let found = self.search(me, count, start..pages, &mut lost);
        let first = found.or_else(|| self.search(me, count, 0..wrapped, &mut lost))?;
        self.inner.head.hint.store(u64::from(first) + u64::from(count), Ordering::Relaxed);
        Some(first)
    }

    fn search(
        &self,
        me: Owner,
        count: u32,
        among: std::ops::Range<u32>,
        lost: &mut u32,
    ) -> Option<u32> {
        let (mut first, mut at, mut end) = (among.start, among.start, among.start);
        while at < among.end && *lost < LOST_MAX {
            if at >= end {
                let there = self.next_in(at, Chunk::is_there);
                if there > at {
                    (first, at) = (there, there);
                }
                end = self.end_of_chunk(at);
                continue;
            }
            let is_free = self.page(at) == Some(Page::FREE);
            at += 1;
            if !is_free {
                first = at;
            } else if at - first == count {
                match self.take(me, first, count) {
                    Ok(()) => return Some(first),
                    Err(taken) => (first, at, *lost) = (taken + 1, taken + 1, *lost + 1),
                }
            }
        }
        None
    }

    /// These very pages; or which of them was not to be had.
    pub(super) fn take(&self, me: Owner, first: u32, count: u32) -> Result<(), u32> {
        if !self.claim(first, Page::FREE, Page::taken(me)) {
            return Err(first);
        }
        for distance in 1..count {
            if !self.claim(first + distance, Page::FREE, Page::tail(distance)) {
                self.give_pages(first, Page::taken(me));
                return Err(first + distance);
            }
        }
        // Who has given the memory back had these pages before us: we see that it is gone.
        let there = self.all_there(first..first + count);
        if there.is_err() {
            self.give_pages(first, Page::taken(me));
        }
        there
    }

    /// Frees pages that are TAKEN by us, or by one that is dead: the last tail first, so that a
    /// death leaves fewer pages that are taken.
    pub(super) fn give_pages(&self, first: u32, taken: Page) {
        let mut end = first + 1;
        while self.page(end) == Some(Page::tail(end - first)) {
            end += 1;
        }
        for page in (first + 1..end).rev() {
            self.release(page, Page::tail(page - first), Page::FREE);
        }
        self.release(first, taken, Page::FREE);
        // Relaxed: a hint.
        let hint = &self.inner.head.hint;
        if hint.load(Ordering::Relaxed) > u64::from(first) {
            hint.store(u64::from(first), Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn block_at(&self, page: u32, offset: u64) -> AreaPtr {
        let at = self.inner.pages_at + (u64::from(page) << self.inner.page_shift) + offset;
        AreaPtr::new(self.inner.tag, at)
    }

    /// The page in which it points.
    pub(super) fn page_of(&self, ptr: AreaPtr) -> Option<u32> {
        let rel = ptr.offset(self.inner.tag)?.checked_sub(self.inner.pages_at)?;
        u32::try_from(rel >> self.inner.page_shift).ok()
    }

    /// The block that begins where `ptr` points.
    #[inline]
    pub(super) fn locate(&self, ptr: AreaPtr) -> Result<Place, FreeError> {
        let not_of_area = FreeError::NotOfArea(ptr.to_bits());
        let offset = ptr.offset(self.inner.tag).ok_or(not_of_area)?;
        let rel = offset.checked_sub(self.inner.pages_at).ok_or(not_of_area)?;
        let at = u32::try_from(rel >> self.inner.page_shift).map_err(|_| not_of_area)?;
        let mut word = self.page(at).ok_or(not_of_area)?;
        let mut page = at;
        if word.kind() == Kind::Tail {
            let corrupt = FreeError::Corrupt { page: at, word: word.0 };
            page = at.checked_sub(word.distance()).filter(|head| *head < at).ok_or(corrupt)?;
            word = self.page(page).ok_or(corrupt)?;
        }
        let within = rel - (u64::from(page) << self.inner.page_shift);
        match word.kind() {
            Kind::Span | Kind::Idle => {
                let shape = self.shape(word);
                let shape = shape.ok_or(FreeError::Corrupt { page, word: word.0 })?;
                let index = shape.index(within).ok_or(FreeError::NotABlock(ptr.to_bits()))?;
                Ok(Place::Block { page, word, index })
            }
            Kind::Run if within == 0 => Ok(Place::Run { page, word }),
            Kind::Free | Kind::Taken if within == 0 => Err(FreeError::DoubleFree(ptr.to_bits())),
            Kind::Nonsense | Kind::Tail => Err(FreeError::Corrupt { page, word: word.0 }),
            Kind::Run | Kind::Free | Kind::Taken => Err(FreeError::NotABlock(ptr.to_bits())),
        }
    }

    /// How a span with this page word is laid out.
    #[inline]
    pub(super) fn shape(&self, word: Page) -> Option<&Shape> {
        self.inner.classes.shape(word.class())
    }
}
