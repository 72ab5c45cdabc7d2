//! Spans: their groups of blocks, and how they change hands.
use super::Inner;
use super::class::{GROUP, Shape};
use super::ptr::AreaPtr;
use super::shared::{Group, Intent, Kind, Owner, Page};
use shm_core::sync::{Ordering, in_program_order};

/// One block of a span.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) head: usize,
    pub(super) group: u32,
    pub(super) bit: u64,
}

impl Inner {
    /// A group of the span that begins at `head`.
    #[inline]
    pub(super) fn group(&self, head: usize, shape: &Shape, group: u32) -> &Group {
        if !shape.is_inline {
            return &self.descriptors[head].group;
        }
        let at = self.page_offset(head) + u64::from(group) * size_of::<Group>() as u64;
        let group = self.address(at).cast::<Group>();
        // SAFETY: `group < shape.groups()`, so that it lies in the page; aligned, for pages begin
        // at multiples of 64; any bits are a group.
        unsafe { group.as_ref() }
    }

    pub(super) fn groups<'a>(
        &'a self,
        head: usize,
        shape: &'a Shape,
    ) -> impl Iterator<Item = (u32, &'a Group)> {
        (0..shape.groups()).map(move |index| (index, self.group(head, shape, index)))
    }

    /// The block of a span at `within` bytes of `page`, which is the span's head or behind it.
    #[inline]
    pub(super) fn spot(
        &self,
        head: usize,
        shape: &Shape,
        page: usize,
        within: u64,
    ) -> Option<Spot> {
        let offset = ((page - head) as u64) << self.page_shift | within;
        let index = shape.index(offset)?;
        Some(Spot { head, group: index / GROUP, bit: 1 << (index % GROUP) })
    }

    /// The span of which `ptr` is a block, and the block.
    pub(super) fn span_of(&self, ptr: AreaPtr) -> Option<(Page, &Shape, Spot)> {
        let (page, within) = self.page_of(ptr)?;
        let (head, word) = self.head_of(page)?;
        if !matches!(word.kind(), Kind::Span | Kind::Idle) {
            return None;
        }
        let shape = self.classes.shape(word.class())?;
        Some((word, shape, self.spot(head, shape, page, within)?))
    }

    /// Makes pages that are `owner`'s a span of its own.
    pub(super) fn make_span(&self, owner: Owner, head: usize, class: usize, shape: &Shape) {
        for (_, group) in self.groups(head, shape) {
            for word in [&group.allocated, &group.held, &group.freed, &group.reached] {
                word.store(0, Ordering::Relaxed);
            }
        }
        in_program_order();
        self.set_page(head, Page::span(owner, class));
    }

    /// Leaves a span without an owner, for anyone who needs blocks of its class.
    pub(super) fn give_up_span(&self, head: usize, class: usize) {
        // Pairs with the Acquire in `adopt_span`: the groups.
        self.words[head].store(Page::idle(class).0, Ordering::Release);
    }

    /// Takes a span that has no owner, if all of it is there.
    pub(super) fn adopt_span(&self, owner: Owner, head: usize, class: usize) -> bool {
        let pages = self.classes.shape(class).map(|shape| shape.pages as usize);
        if pages != Some(self.run_len(head)) {
            return false;
        }
        let (from, to) = (Page::idle(class), Page::span(owner, class));
        // Pairs with the Release in `give_up_span`: the groups.
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        self.words[head].compare_exchange(from.0, to.0, ok, err).is_ok()
    }

    /// Owner: takes back the blocks that others have freed, but for those that an intent still
    /// names.
    pub(super) fn collect(&self, head: usize, shape: &Shape, index: u32) {
        let group = self.group(head, shape, index);
        // Pairs with the Release in `free_for_owner`: the last use of each block, and the intent.
        let freed = group.freed.load(Ordering::Acquire);
        if freed == 0 {
            return;
        }
        let take = freed & !self.being_freed(head, index);
        group.allocated.store(group.allocated.load(Ordering::Relaxed) & !take, Ordering::Relaxed);
        // Nobody takes a block of which `freed` is set; so it goes last.
        in_program_order();
        group.freed.fetch_and(!take, Ordering::Relaxed);
    }

    /// The blocks of a group that somebody is about to free.
    fn being_freed(&self, head: usize, group: u32) -> u64 {
        let intents = self.rows.iter().map(|row| Intent(row.intent.load(Ordering::Relaxed)));
        intents.filter(|intent| intent.is_free()).fold(0, |bits, intent| {
            let spot = self.span_of(intent.block()).map(|(_, _, spot)| spot);
            let spot = spot.filter(|spot| spot.head == head && spot.group == group);
            bits | spot.map_or(0, |spot| spot.bit)
        })
    }

    /// Whether somebody is about to free the block.
    pub(super) fn is_being_freed(&self, block: AreaPtr) -> bool {
        // Pairs with the Release in `Heap::clear_intent`: who has taken it back has freed the block.
        self.rows.iter().any(|row| row.intent.load(Ordering::Acquire) == Intent::free(block).0)
    }

    /// Frees a block of a span that is another's: whether it was not free already.
    pub(super) fn free_for_owner(&self, group: &Group, bit: u64) -> bool {
        // Pairs with the Acquire in `collect`: our last use of it, and our intent.
        group.freed.fetch_or(bit, Ordering::Release) & bit == 0
    }

    /// Owner: whether no block of the span is allocated.
    pub(super) fn is_empty_span(&self, head: usize, shape: &Shape) -> bool {
        self.groups(head, shape).all(|(_, group)| group.allocated.load(Ordering::Relaxed) == 0)
    }

    /// Owner: makes an empty span free pages.
    ///
    /// # If a process dies here
    /// The pages are still in its name.
    pub(super) fn free_span(&self, owner: Owner, head: usize) {
        self.set_page(head, Page::taken(owner));
        in_program_order();
        self.free_run_of(head);
    }
}
