//! The blocks of a span: one bit each that its owner writes, and one that all others set.
use super::class::Shape;
use super::shared::{Descriptor, Owner, Page, WORDS};
use super::{Area, Place};
use shm_core::sync::Ordering;
use shm_core::sync::in_program_order;

/// A block's bit: which word, which bit of it.
#[inline]
pub(super) fn bit_of(index: u32) -> (usize, u64) {
    ((index / u64::BITS) as usize % WORDS, 1 << (index % u64::BITS))
}

impl Descriptor {
    /// The first word that has free blocks, and their bits. By the owner.
    #[inline]
    pub(super) fn find(&self, shape: &Shape) -> Option<(usize, u64)> {
        let free = |at| (at, !self.word(at) & shape.valid(at));
        (0..shape.words()).map(free).find(|(_, free)| *free != 0)
    }

    /// Which blocks of a word are allocated. By the owner.
    #[inline]
    pub(super) fn word(&self, at: usize) -> u64 {
        // Relaxed: the owner's alone; it came with the page word.
        self.allocated[at].load(Ordering::Relaxed)
    }

    /// By the owner.
    #[inline]
    pub(super) fn set_word(&self, at: usize, word: u64) {
        // Relaxed: the owner's alone; who frees the block has a pointer that was published later.
        self.allocated[at].store(word, Ordering::Relaxed);
    }

    /// Frees a block. In the name of the owner.
    pub(super) fn clear_allocated(&self, index: u32) {
        let (at, bit) = bit_of(index);
        self.set_word(at, self.word(at) & !bit);
    }

    /// Which blocks of a word others have freed. By who has a pointer to one.
    #[inline]
    pub(super) fn freed_word(&self, at: usize) -> u64 {
        // Relaxed: the pointer's way to us was ordered.
        self.freed[at].load(Ordering::Relaxed)
    }

    /// By who has a pointer to the block: whether it is allocated, and not freed.
    #[inline]
    pub(super) fn is_allocated(&self, index: u32) -> bool {
        let (at, bit) = bit_of(index);
        // Relaxed: the pointer's way to us was ordered.
        let allocated = self.allocated[at].load(Ordering::Relaxed);
        allocated & !self.freed_word(at) & bit != 0
    }

    #[inline]
    pub(super) fn allocated_bit(&self, index: u32) -> bool {
        let (at, bit) = bit_of(index);
        // Relaxed: as above.
        self.allocated[at].load(Ordering::Relaxed) & bit != 0
    }

    /// By anybody but the owner: whether it was not marked before.
    #[inline]
    pub(super) fn mark_freed(&self, index: u32) -> bool {
        let (at, bit) = bit_of(index);
        // Pairs with the Acquire in `collect`: the last use of the block, and the intent.
        self.freed[at].fetch_or(bit, Ordering::Release) & bit == 0
    }

    /// No block is allocated. By the owner.
    pub(super) fn is_empty(&self, shape: &Shape) -> bool {
        // Relaxed: the owner's alone.
        let mut words = self.allocated.iter().take(shape.words());
        words.all(|word| word.load(Ordering::Relaxed) == 0)
    }

    /// Of a span that is being made: all blocks are free.
    pub(super) fn clear(&self, shape: &Shape) {
        let words = shape.words();
        for word in self.allocated.iter().take(words).chain(self.freed.iter().take(words)) {
            // Relaxed, both: nobody has a pointer into it.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    /// By a new owner: an earlier one may have died between the two steps of `collect`, and its
    /// marks would free blocks that are allocated from now on.
    fn forget_collected(&self, shape: &Shape) {
        for (allocated, freed) in self.allocated.iter().zip(&self.freed).take(shape.words()) {
            // Relaxed: the owner's alone.
            let allocated = allocated.load(Ordering::Relaxed);
            // Relaxed: only marks of blocks that are free, which nobody has a pointer to.
            if freed.load(Ordering::Relaxed) & !allocated != 0 {
                freed.fetch_and(allocated, Ordering::Relaxed);
            }
        }
    }
}

impl Area {
    #[inline]
    pub(super) fn descriptor(&self, page: u32) -> &Descriptor {
        &self.inner.descriptors[page as usize]
    }

    /// Whether a block of the span is free. By its owner.
    pub(super) fn has_room(&self, page: u32, class: usize) -> bool {
        let shape = self.inner.classes.shape(class);
        shape.is_some_and(|shape| self.descriptor(page).find(shape).is_some())
    }

    /// Whether all blocks of the span are free. By its owner.
    pub(super) fn has_no_block(&self, page: u32, class: usize) -> bool {
        let shape = self.inner.classes.shape(class);
        shape.is_some_and(|shape| self.descriptor(page).is_empty(shape))
    }

    /// Makes free what others have freed; whether there was anything. By the owner of the span.
    ///
    /// Not what an intent of any heap names: the one who freed it may be dead, and its reaper marks
    /// the block again.
    pub(super) fn collect(&self, page: u32, class: usize) -> bool {
        let Some(shape) = self.inner.classes.shape(class) else { return false };
        let (descriptor, mut freed) = (self.descriptor(page), [0; WORDS]);
        for (freed, word) in freed.iter_mut().zip(&descriptor.freed).take(shape.words()) {
            // Pairs with the Release in `mark_freed`: the last use, and the intent.
            *freed = word.load(Ordering::Acquire);
        }
        if freed == [0; WORDS] {
            return false;
        }
        let pinned = self.pinned(page);
        let mut any = false;
        for (at, (freed, pinned)) in freed.into_iter().zip(pinned).enumerate() {
            let back = freed & !pinned;
            if back == 0 {
                continue;
            }
            any = true;
            // Relaxed, both: whoever has the block next has it from us.
            let word = &descriptor.allocated[at];
            word.store(word.load(Ordering::Relaxed) & !back, Ordering::Relaxed);
            in_program_order();
            descriptor.freed[at].fetch_and(!back, Ordering::Relaxed);
        }
        any
    }

    /// The blocks of this span that somebody is about to free, or died of it.
    fn pinned(&self, page: u32) -> [u64; WORDS] {
        let mut pinned = [0; WORDS];
        for row in self.inner.rows.iter() {
            let intent = row.intent();
            if !intent.is_free() {
                continue;
            }
            if let Ok(Place::Block { page: of, index, .. }) = self.locate(intent.block())
                && of == page
            {
                let (at, bit) = bit_of(index);
                pinned[at] |= bit;
            }
        }
        pinned
    }

    /// Takes a span that has no owner; `false`: somebody was faster.
    pub(super) fn adopt(&self, page: u32, word: Page, me: Owner) -> bool {
        let Some(shape) = self.shape(word) else { return false };
        let fits = page.checked_add(shape.pages).is_some_and(|end| end <= self.pages());
        if !fits || !self.claim(page, word, Page::span(me, word.class())) {
            return false;
        }
        self.descriptor(page).forget_collected(shape);
        true
    }

    /// Gives an empty span's pages back. By the owner, or in its name.
    pub(super) fn give_span(&self, page: u32, word: Page, owner: Owner) {
        if self.claim(page, word, Page::taken(owner)) {
            self.give_pages(page, Page::taken(owner));
        }
    }

    /// Leaves a span without an owner, for anybody to adopt. By the owner, or in its name.
    pub(super) fn leave_span(&self, page: u32, word: Page) {
        if self.release(page, word, Page::idle(word.class())) {
            // Relaxed: a hint that it is worth looking.
            self.inner.head.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }
}
