//! What a heap knows of its own spans, in private. It goes with its process: to find out what is
//! whose, nothing in it is needed.
use super::class::{CLASSES, Shape};
use super::{Area, AreaPtr};

/// Blocks of a class at hand, at most. In models, where spans are small, few.
const AT_HAND_MAX: usize = if cfg!(any(shm_loom, shm_explore)) { 2 } else { 32 };

#[derive(Debug)]
pub(super) struct State {
    /// For each page whether it is one of a span of ours.
    pages: Box<[Own]>,
    pub(super) classes: Box<[Class]>,
    /// Pages given back since memory was last given back to the system unasked.
    pub(super) given: u64,
}

/// Of a page of a span of ours: distance to the span's first page 3 bits | class 6 | ready 1 |
/// own 1. 0: not ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own(u16);

#[derive(Debug)]
#[repr(align(128))] // As the heap.
pub(super) struct Class {
    /// As the area has it.
    pub(super) shape: Shape,
    /// Blocks that are free, of spans that are in `ready`: the last one is allocated next. The
    /// bitmaps say what is free; this saves looking there.
    at_hand: [Block; AT_HAND_MAX],
    count: usize,
    /// All of ours.
    pub(super) own: Vec<u32>,
    /// Those that have, or had, free blocks; the last one is allocated from when none is at hand.
    pub(super) ready: Vec<u32>,
    /// Which of `own` is asked next for what others have freed.
    pub(super) next: usize,
    /// `Head::given_up` when there were no spans to adopt.
    pub(super) seen: u64,
}

/// A block of a span of ours. Two words, so that it is passed in registers: put together in memory
/// from smaller ones, it would be waited for where it is copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) ptr: AreaPtr,
    /// The span's first page 32 bits | which of its blocks 32.
    place: u64,
}

impl Block {
    #[inline(always)]
    pub(super) fn new(ptr: AreaPtr, page: u32, index: u32) -> Block {
        Block { ptr, place: u64::from(page) << 32 | u64::from(index) }
    }

    /// The span's first page.
    #[inline(always)]
    pub(super) fn page(self) -> u32 {
        (self.place >> 32) as u32
    }

    /// Which of the span's blocks.
    #[inline(always)]
    pub(super) fn index(self) -> u32 {
        self.place as u32
    }
}

impl Own {
    const NOT: Own = Own(0);
    const OWN: u16 = 1;
    const READY: u16 = 2;
    const CLASS_SHIFT: u32 = 2;
    const DISTANCE_SHIFT: u32 = 8;

    fn new(distance: u32, class: usize) -> Own {
        const { assert!(CLASSES <= 1 << (Own::DISTANCE_SHIFT - Own::CLASS_SHIFT)) };
        let (distance, class) = (distance as u16, class as u16);
        Own(distance << Own::DISTANCE_SHIFT | class << Own::CLASS_SHIFT | Own::OWN)
    }

    #[inline]
    pub(super) fn is_ours(self) -> bool {
        self.0 & Own::OWN != 0
    }

    /// Whether the span stands in `ready`.
    #[inline]
    pub(super) fn is_ready(self) -> bool {
        self.0 & Own::READY != 0
    }

    #[inline]
    pub(super) fn class(self) -> usize {
        usize::from(self.0 >> Own::CLASS_SHIFT) % (1 << (Own::DISTANCE_SHIFT - Own::CLASS_SHIFT))
    }

    #[inline]
    pub(super) fn distance(self) -> usize {
        usize::from(self.0 >> Own::DISTANCE_SHIFT)
    }
}

impl State {
    pub(super) fn new(area: &Area) -> State {
        let classes = area.inner.classes.shapes().iter().map(|shape| Class::new(*shape)).collect();
        let pages = vec![Own::NOT; area.pages() as usize].into();
        State { pages, classes, given: 0 }
    }

    pub(super) fn own(&mut self, first: u32, class: usize, pages: u32) {
        for distance in 0..pages {
            self.pages[(first + distance) as usize] = Own::new(distance, class);
        }
        self.classes[class].own.push(first);
    }

    /// What is known of a page.
    #[inline]
    pub(super) fn page(&self, page: usize) -> Own {
        self.pages.get(page).copied().unwrap_or(Own::NOT)
    }

    /// Puts it last, to be allocated from, unless it stands somewhere.
    pub(super) fn ready(&mut self, page: u32, class: usize) {
        if !self.pages[page as usize].is_ready() {
            self.mark(page, class, Own::READY);
            self.classes[class].ready.push(page);
        }
    }

    /// The last one has no free block.
    pub(super) fn end_ready(&mut self, class: usize) {
        if let Some(page) = self.classes[class].ready.pop() {
            self.mark(page, class, 0);
        }
    }

    /// All pages of a span say the same: so whoever looks at one need not look at the first.
    fn mark(&mut self, page: u32, class: usize, ready: u16) {
        let pages = self.classes[class].shape.pages;
        for own in &mut self.pages[page as usize..(page + pages) as usize] {
            own.0 = own.0 & !Own::READY | ready;
        }
    }

    pub(super) fn forget(&mut self, page: u32, class: usize) {
        let class = &mut self.classes[class];
        self.pages[page as usize..(page + class.shape.pages) as usize].fill(Own::NOT);
        class.own.retain(|own| *own != page);
        class.ready.retain(|ready| *ready != page);
        class.forget(page);
    }
}

impl Class {
    fn new(shape: Shape) -> Class {
        let at_hand = [Block::new(AreaPtr::NULL, 0, 0); AT_HAND_MAX];
        Class { shape, at_hand, count: 0, own: Vec::new(), ready: Vec::new(), next: 0, seen: 0 }
    }

    /// A block to allocate, if one is at hand.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Block> {
        let last = self.count.wrapping_sub(1);
        let block = *self.at_hand.get(last)?;
        self.count = last;
        Some(block)
    }

    /// A block that was freed. For which there is no room, the bitmap tells.
    #[inline]
    pub(super) fn put(&mut self, block: Block) {
        if let Some(place) = self.at_hand.get_mut(self.count) {
            *place = block;
            self.count += 1;
        }
    }

    /// Takes free blocks of a span of ours to hand, when there are none; `false`: nor has it.
    pub(super) fn take_from(&mut self, area: &Area, page: u32) -> bool {
        let shape = self.shape;
        let Some((word, mut free)) = area.descriptor(page).find(&shape) else { return false };
        // The first one last.
        let bits = free.count_ones().min(AT_HAND_MAX as u32);
        for place in self.at_hand[..bits as usize].iter_mut().rev() {
            let index = word as u32 * u64::BITS + free.trailing_zeros();
            *place = Block::new(area.block_at(page, shape.offset(index)), page, index);
            free &= free - 1;
        }
        self.count = bits as usize;
        true
    }

    fn forget(&mut self, page: u32) {
        let at_hand = self.at_hand;
        let kept = at_hand.iter().take(std::mem::take(&mut self.count));
        kept.filter(|block| block.page() != page).for_each(|block| self.put(*block));
    }
}
