//! `Heap`: one thread's way into an area.
use super::block::Block;
use super::class::{CLASSES, GROUP, Shape};
use super::ptr::{AreaPtr, MARKS};
use super::shared::{Group, Intent, Kind, Owner, Page, Row};
use super::span::Spot;
use super::{Area, Inner};
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::Forked;
use shm_core::sync::{AtomicU64, Ordering, in_program_order};
use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

/// So many spans are looked at for a free block before fresh pages are taken.
const LOOK: usize = 4;
/// So many empty spans a heap keeps, and no more than a part of the area: what it frees and takes
/// again in batches.
const KEEP: usize = 32;
const KEEP_PART: usize = 64;
/// Blocks of so many bytes must be asked for as huge.
const HUGE: u64 = 1 << 30;
/// A run that somebody settles and somebody frees changes twice under us.
const ROUNDS_MAX: u32 = 8;

/// Why there is no heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeapError {
    /// All rows are taken.
    #[error("all {heaps} heaps of the area are in use: create it with more")]
    Full {
        /// How many there are.
        heaps: usize,
    },
    /// In a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// Why there is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocError {
    /// The area's limit is reached.
    #[error("{size} bytes do not fit any more into an area limited to {limit}")]
    Limit {
        /// Bytes asked for.
        size: u64,
        /// Bytes of the area.
        limit: u64,
    },
    /// No bytes were asked for.
    #[error("a block has at least one byte")]
    ZeroSize,
    /// A gibibyte or more, and not said to be meant.
    #[error("{size} bytes: a block of 1 GiB or more must be asked for as huge")]
    Huge {
        /// Bytes asked for.
        size: u64,
    },
    /// No block is aligned so.
    #[error("no block of this area is aligned to {align} bytes")]
    Alignment {
        /// What was asked for.
        align: u64,
    },
    /// The destination is no word of the mapping in which the area lies.
    #[error("the destination does not lie in the mapping of the area")]
    Destination,
    /// In a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// Why a block was not freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FreeError {
    /// Null, of another area, of an earlier one in the same place, or nonsense.
    #[error("{0:?} is no pointer into this area")]
    NotOfThisArea(AreaPtr),
    /// No block begins there.
    #[error("{0:?} does not lead to the beginning of a block")]
    NotABlock(AreaPtr),
    /// It has been freed, or was never allocated.
    #[error("the block at {0:?} is free already")]
    DoubleFree(AreaPtr),
    /// Its maker has not linked it; it is freed by dropping it.
    #[error("the block at {0:?} is its maker's alone")]
    Held(AreaPtr),
    /// The destination is no word of the mapping in which the area lies.
    #[error("the destination does not lie in the mapping of the area")]
    Destination,
    /// In a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// What may be asked of a block.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct AllocFlags {
    /// Its bytes are zero.
    pub zeroed: bool,
    /// A gibibyte or more is meant.
    pub huge: bool,
}

/// The group from which blocks of one class are taken.
#[derive(Clone, Copy)]
struct Current {
    group: Option<NonNull<Group>>,
    head: usize,
    valid: u64,
    /// Offset of its first block.
    start: u64,
    size: u64,
}

const NOTHING: Current = Current { group: None, head: usize::MAX, valid: 0, start: 0, size: 0 };

/// What a heap remembers of its spans. All of it may be out of date: the page map is the truth.
#[derive(Default)]
struct Memory {
    /// Spans of each class, and which is looked at next.
    spans: Vec<(Vec<u32>, usize)>,
    /// Of each page: the class under which it stands in `spans`, plus one.
    listed: Vec<u8>,
    /// Of each class: up to which page, and at which state of `Head::given_up`, spans without an
    /// owner were looked for.
    looked: Vec<(usize, u64)>,
    /// Where free pages are looked for.
    rover: usize,
    empty: usize,
}

/// One thread's heap: takes and frees blocks of an [`Area`].
///
/// It may move to another thread, and not be used by two at once:
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<dsm::area::Heap>();
/// ```
pub struct Heap {
    area: Area,
    member: Option<Arc<Member>>,
    owner: Owner,
    current: [Cell<Current>; CLASSES],
    memory: RefCell<Memory>,
}

// SAFETY: what it points to lies in the mapping, which the area keeps.
unsafe impl Send for Heap {}

impl Area {
    /// A heap for the calling thread, in the name of `member`.
    ///
    /// # Errors
    /// [`HeapError`].
    ///
    /// # If a process dies here
    /// The row names it, and is reaped.
    pub fn heap(&self, member: &Arc<Member>) -> Result<Heap, HeapError> {
        member.check_fork()?;
        let mut heap = self.heap_of(member.id())?;
        heap.member = Some(member.clone());
        Ok(heap)
    }

    /// The same without a seat: for models.
    #[doc(hidden)]
    pub fn heap_of(&self, who: ParticipantId) -> Result<Heap, HeapError> {
        let rows = &self.inner.rows;
        let take = |row: &Row| {
            // Pairs with the Release in `free_row`: its last user is done.
            let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
            let name = u64::from(who.to_bits());
            row.owner.load(Ordering::Relaxed) == 0
                && row.owner.compare_exchange(0, name, ok, err).is_ok()
        };
        let row = rows.iter().position(take).ok_or(HeapError::Full { heaps: rows.len() })?;
        let classes = self.inner.classes.used();
        let memory = Memory {
            spans: vec![Default::default(); classes],
            listed: vec![0; self.inner.words.len()],
            looked: vec![Default::default(); classes],
            ..Memory::default()
        };
        Ok(Heap {
            area: self.clone(),
            member: None,
            owner: Owner::new(who, row),
            current: [const { Cell::new(NOTHING) }; CLASSES],
            memory: RefCell::new(memory),
        })
    }
}

/// What a pointer to be freed leads to.
enum Target<'a> {
    Block { word: Page, shape: &'a Shape, spot: Spot, group: &'a Group },
    Run { head: usize },
}

impl Heap {
    /// The area.
    pub fn area(&self) -> &Area {
        &self.area
    }

    #[inline]
    pub(super) fn inner(&self) -> &Inner {
        &self.area.inner
    }

    #[inline]
    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    #[inline]
    pub(super) fn check_fork(&self) -> Result<(), Forked> {
        self.member.as_ref().map_or(Ok(()), |member| member.check_fork())
    }

    /// A block of `size` bytes, aligned to 8. It is this heap's alone until it is linked
    /// ([`Block::publish`]), and goes back when it is dropped, and when the process dies.
    ///
    /// # Errors
    /// [`AllocError`].
    ///
    /// # If a process dies here
    /// The block is held, or not taken.
    #[inline]
    pub fn alloc(&self, size: u64) -> Result<Block<'_>, AllocError> {
        self.check_fork()?;
        match self.inner().classes.of_size(size) {
            Some(class) if size != 0 => self.alloc_class(class, size),
            _ => self.alloc_run(size, 1, AllocFlags::default()),
        }
    }

    /// A block for such a layout. The alignment is at most that of a page, 4096 if that is less.
    ///
    /// # Errors
    /// [`AllocError`].
    ///
    /// # If a process dies here
    /// As in [`alloc`](Heap::alloc).
    pub fn alloc_layout(&self, layout: Layout, flags: AllocFlags) -> Result<Block<'_>, AllocError> {
        self.check_fork()?;
        let (size, align) = (layout.size() as u64, layout.align() as u64);
        let class = self.inner().classes.of_layout(size, align).filter(|_| size != 0);
        let block = match class {
            Some(class) => self.alloc_class(class, size)?,
            None => self.alloc_run(size, align, flags)?,
        };
        if flags.zeroed {
            // SAFETY: the block has so many bytes, and is ours alone.
            unsafe { block.address().write_bytes(0, layout.size()) };
        }
        Ok(block)
    }

    /// Takes a block, has `init` fill it, and links it at `destination`, which the caller alone
    /// changes, by one store.
    ///
    /// # Errors
    /// [`AllocError`].
    ///
    /// # If a process dies here
    /// The destination holds the block, or the block is free again once the dead one is reaped.
    #[inline]
    pub fn alloc_to(
        &self,
        destination: &AtomicU64,
        size: u64,
        init: impl FnOnce(NonNull<u8>),
    ) -> Result<AreaPtr, AllocError> {
        let block = self.alloc(size)?;
        init(block.address());
        block.publish(destination).map_err(|_| AllocError::Destination)
    }

    #[inline]
    fn alloc_class(&self, class: usize, size: u64) -> Result<Block<'_>, AllocError> {
        loop {
            let current = self.current[class].get();
            if let Some(group) = current.group {
                // SAFETY: a group of a span of ours, in the mapping that the area keeps.
                let group = unsafe { group.as_ref() };
                let allocated = group.allocated.load(Ordering::Relaxed);
                let free = current.valid & !(allocated | group.freed.load(Ordering::Relaxed));
                if free != 0 {
                    let index = free.trailing_zeros();
                    let offset = current.start + u64::from(index) * current.size;
                    self.hold(group, allocated, 1 << index);
                    let size = current.size;
                    return Ok(Block::of_span(self, group, class, 1 << index, offset, size));
                }
            }
            if !self.refill(class) {
                return Err(AllocError::Limit { size, limit: self.area.limit_bytes() });
            }
        }
    }

    #[inline]
    fn hold(&self, group: &Group, allocated: u64, bit: u64) {
        if group.reached.load(Ordering::Relaxed) & bit != 0 {
            group.reached.fetch_and(!bit, Ordering::Relaxed);
        }
        let held = group.held.load(Ordering::Relaxed);
        group.held.store(held | bit, Ordering::Relaxed);
        in_program_order();
        group.allocated.store(allocated | bit, Ordering::Relaxed);
    }

    #[cold]
    fn alloc_run(&self, size: u64, align: u64, flags: AllocFlags) -> Result<Block<'_>, AllocError> {
        let inner = self.inner();
        let page = 1 << inner.page_shift;
        if size == 0 {
            return Err(AllocError::ZeroSize);
        }
        if align > 64 && !inner.data.is_multiple_of(align) || align > page {
            return Err(AllocError::Alignment { align });
        }
        if size >= HUGE && !flags.huge {
            return Err(AllocError::Huge { size });
        }
        let count = usize::try_from(size.div_ceil(page)).unwrap_or(usize::MAX);
        match self.take_pages(count) {
            Some(head) => Ok(Block::of_run(self, head, count as u64 * page)),
            None => Err(AllocError::Limit { size, limit: self.area.limit_bytes() }),
        }
    }

    fn take_pages(&self, count: usize) -> Option<usize> {
        let rover = self.memory.borrow().rover;
        let taken = self.inner().take_pages(self.owner, count, rover);
        let taken = taken.or_else(|| {
            let freed = self.trim() > 0;
            freed.then(|| self.inner().take_pages(self.owner, count, 0)).flatten()
        })?;
        self.memory.borrow_mut().rover = taken + count;
        Some(taken)
    }

    /// Makes a group with a free block the current one of its class.
    #[cold]
    fn refill(&self, class: usize) -> bool {
        let owned = self.memory.borrow().spans[class].0.len();
        self.use_current(class)
            || self.use_owned(class, LOOK.min(owned))
            || self.use_idle(class)
            || self.use_fresh(class)
            || self.use_owned(class, owned)
            || self.use_idle_whatever(class)
    }

    fn use_current(&self, class: usize) -> bool {
        let current = self.current[class].get();
        current.group.is_some() && self.use_span(class, current.head)
    }

    /// Looks at the next spans of its own.
    fn use_owned(&self, class: usize, count: usize) -> bool {
        for _ in 0..count {
            let Some(head) = self.next_owned(class) else { return false };
            if self.use_span(class, head) {
                return true;
            }
        }
        false
    }

    /// The next span of ours; what is no span of ours any more is forgotten.
    fn next_owned(&self, class: usize) -> Option<usize> {
        let mut memory = self.memory.borrow_mut();
        let Memory { spans, listed, .. } = &mut *memory;
        let (list, next) = &mut spans[class];
        while !list.is_empty() {
            *next = if *next < list.len() { *next } else { 0 };
            let head = list[*next] as usize;
            if self.inner().page(head) == Page::span(self.owner, class) {
                *next += 1;
                return Some(head);
            }
            list.swap_remove(*next);
            if listed[head] == class as u8 + 1 {
                listed[head] = 0;
            }
        }
        None
    }

    /// Adopts spans that nobody owns, if any have been given up since we looked.
    fn use_idle(&self, class: usize) -> bool {
        let given_up = self.inner().head.given_up.load(Ordering::Relaxed);
        let (from, seen) = self.memory.borrow().looked[class];
        let from = if seen == given_up { from } else { 0 };
        let idle = Page::idle(class);
        for page in from..self.inner().words.len() {
            if self.inner().page(page) == idle && self.inner().adopt_span(self.owner, page, class) {
                self.remember(page, class);
                if self.use_span(class, page) {
                    self.memory.borrow_mut().looked[class] = (page + 1, given_up);
                    return true;
                }
            }
        }
        self.memory.borrow_mut().looked[class] = (self.inner().words.len(), given_up);
        false
    }

    fn use_idle_whatever(&self, class: usize) -> bool {
        self.memory.borrow_mut().looked[class] = (0, 0);
        self.use_idle(class)
    }

    fn use_fresh(&self, class: usize) -> bool {
        let inner = self.inner();
        let Some(shape) = inner.classes.shape(class) else { return false };
        let Some(head) = self.take_pages(shape.pages as usize) else { return false };
        inner.make_span(self.owner, head, class, shape);
        self.remember(head, class);
        self.use_span(class, head)
    }

    fn remember(&self, head: usize, class: usize) {
        let mut memory = self.memory.borrow_mut();
        if memory.listed[head] != class as u8 + 1 {
            memory.listed[head] = class as u8 + 1;
            memory.spans[class].0.push(head as u32);
        }
    }

    /// Makes a group of this span the current one, if one has a free block.
    fn use_span(&self, class: usize, head: usize) -> bool {
        let inner = self.inner();
        let Some(shape) = inner.classes.shape(class) else { return false };
        for (index, group) in inner.groups(head, shape) {
            inner.collect(head, shape, index);
            let taken =
                group.allocated.load(Ordering::Relaxed) | group.freed.load(Ordering::Relaxed);
            let valid = shape.valid(index);
            if valid & !taken != 0 {
                let start = inner.page_offset(head) + shape.offset(index * GROUP);
                let (group, size) = (Some(NonNull::from(group)), u64::from(shape.size));
                if inner.is_empty_span(head, shape) {
                    let mut memory = self.memory.borrow_mut();
                    memory.empty = memory.empty.saturating_sub(1);
                }
                self.current[class].set(Current { group, head, valid, start, size });
                return true;
            }
        }
        false
    }

    /// Frees a block that nobody reaches any more and nobody else frees.
    ///
    /// # Errors
    /// [`FreeError`].
    ///
    /// # If a process dies here
    /// The block is free, or nobody knows of it any more: where it stands in a word, use
    /// [`free_from`](Heap::free_from).
    #[inline]
    pub fn free(&self, ptr: AreaPtr) -> Result<(), FreeError> {
        self.check_fork()?;
        match self.look(ptr)? {
            Target::Block { word, shape, spot, group } => {
                self.free_block(ptr, word, shape, spot, group)
            }
            Target::Run { head } => self.free_run(ptr, head, || ()),
        }
    }

    /// Empties `destination`, which the caller alone changes, and frees the block that it holds.
    ///
    /// # Errors
    /// [`FreeError`]; the destination is as it was.
    ///
    /// # If a process dies here
    /// The destination holds the block, or it is empty and the block is free once the dead one is
    /// reaped.
    #[inline]
    pub fn free_from(&self, destination: &AtomicU64) -> Result<(), FreeError> {
        self.check_fork()?;
        let place = self.area.place_of(destination).ok_or(FreeError::Destination)?;
        let ptr = AreaPtr::from_bits(destination.load(Ordering::Relaxed) & !MARKS);
        let target = self.look(ptr)?;
        self.intend(Intent::free(ptr), place);
        // Pairs with the Acquire in `Unsettled::is_at_destination`: who sees that we have unlinked
        // it sees our intent.
        destination.store(0, Ordering::Release);
        in_program_order();
        let freed = match target {
            Target::Block { word, shape, spot, group } => {
                self.free_block(ptr, word, shape, spot, group)
            }
            // While it is ours nobody else has it: now the intent may go.
            Target::Run { head } => return self.free_run(ptr, head, || self.clear_intent()),
        };
        self.clear_intent();
        freed
    }

    #[inline]
    fn look(&self, ptr: AreaPtr) -> Result<Target<'_>, FreeError> {
        let inner = self.inner();
        let (page, within) = inner.page_of(ptr).ok_or(FreeError::NotOfThisArea(ptr))?;
        let (head, word) = inner.head_of(page).ok_or(FreeError::NotABlock(ptr))?;
        match word.kind() {
            Kind::Span | Kind::Idle => {
                let shape = inner.classes.shape(word.class()).ok_or(FreeError::NotABlock(ptr))?;
                let spot = inner.spot(head, shape, page, within);
                let spot = spot.ok_or(FreeError::NotABlock(ptr))?;
                let group = inner.group(head, shape, spot.group);
                let bit = spot.bit;
                if (group.allocated.load(Ordering::Relaxed) & !group.freed.load(Ordering::Relaxed))
                    & bit
                    == 0
                {
                    return Err(FreeError::DoubleFree(ptr));
                }
                Ok(Target::Block { word, shape, spot, group })
            }
            Kind::Free => Err(FreeError::DoubleFree(ptr)),
            Kind::Taken if word.is_of(self.owner) => Err(FreeError::Held(ptr)),
            Kind::Run | Kind::Taken if page == head && within == 0 => Ok(Target::Run { head }),
            _ => Err(FreeError::NotABlock(ptr)),
        }
    }

    #[inline]
    fn free_block(
        &self,
        ptr: AreaPtr,
        word: Page,
        shape: &Shape,
        spot: Spot,
        group: &Group,
    ) -> Result<(), FreeError> {
        if word != Page::span(self.owner, word.class()) {
            let freed = self.inner().free_for_owner(group, spot.bit);
            return if freed { Ok(()) } else { Err(FreeError::DoubleFree(ptr)) };
        }
        if group.held.load(Ordering::Relaxed) & spot.bit != 0 {
            return Err(FreeError::Held(ptr));
        }
        if self.put_back(group, spot.bit) == 0 && self.current[word.class()].get().head != spot.head
        {
            self.emptied(spot.head, shape);
        }
        Ok(())
    }

    /// Owner: the block is free. What is left of its group.
    #[inline]
    pub(super) fn put_back(&self, group: &Group, bit: u64) -> u64 {
        let left = group.allocated.load(Ordering::Relaxed) & !bit;
        group.allocated.store(left, Ordering::Relaxed);
        in_program_order();
        left
    }

    /// The same for a block that is held.
    #[inline]
    pub(super) fn put_back_held(&self, group: &Group, class: usize, bit: u64, at: u64) {
        let left = self.put_back(group, bit);
        let held = group.held.load(Ordering::Relaxed);
        group.held.store(held & !bit, Ordering::Relaxed);
        if left == 0 && self.current[class].get().group != Some(NonNull::from(group)) {
            self.emptied_at(class, at);
        }
    }

    #[cold]
    fn emptied_at(&self, class: usize, at: u64) {
        let inner = self.inner();
        let spot = inner.span_of(inner.ptr(at)).map(|(_, shape, spot)| (shape, spot.head));
        if let Some((shape, head)) =
            spot.filter(|(_, head)| *head != self.current[class].get().head)
        {
            self.emptied(head, shape);
        }
    }

    /// A group has no block any more. If the span has none either, and we have enough of those, its
    /// pages are free.
    #[cold]
    fn emptied(&self, head: usize, shape: &Shape) {
        let inner = self.inner();
        if !inner.is_empty_span(head, shape) {
            return;
        }
        let mut memory = self.memory.borrow_mut();
        if memory.empty >= KEEP.min(inner.words.len() / KEEP_PART) {
            memory.rover = memory.rover.min(head);
            inner.free_span(self.owner, head);
        } else {
            memory.empty += 1;
        }
    }

    /// Makes a linked run ours, and then free pages.
    #[cold]
    fn free_run(&self, ptr: AreaPtr, head: usize, taken: impl Fn()) -> Result<(), FreeError> {
        let inner = self.inner();
        let is_ours = (0..ROUNDS_MAX).any(|_| {
            let word = inner.page(head);
            let is_linked = matches!(word.kind(), Kind::Run | Kind::Taken);
            is_linked && inner.change_page(head, word, Page::taken(self.owner))
        });
        in_program_order();
        taken();
        in_program_order();
        if !is_ours {
            return Err(FreeError::DoubleFree(ptr));
        }
        self.free_own_run(head);
        Ok(())
    }

    pub(super) fn free_own_run(&self, head: usize) {
        self.inner().free_run_of(head);
        let mut memory = self.memory.borrow_mut();
        memory.rover = memory.rover.min(head);
    }

    /// Says that the block at `ptr` is linked, where its maker has not said so yet: for whoever has
    /// reached it and is about to take it out of its destination, by unlinking it or by putting
    /// something else there. Then its maker's reaper does not take it for one that nobody reaches.
    ///
    /// # Errors
    /// [`FreeError`], if there is no such block.
    ///
    /// # If a process dies here
    /// It is said, or not.
    #[inline]
    pub fn settle(&self, ptr: AreaPtr) -> Result<(), FreeError> {
        match self.look(ptr)? {
            // Whoever has reached the block sees it held, or that it is not any more.
            Target::Block { spot, group, .. } => {
                if group.held.load(Ordering::Relaxed) & spot.bit != 0 {
                    group.reached.fetch_or(spot.bit, Ordering::Relaxed);
                }
            }
            Target::Run { head } => {
                let word = self.inner().page(head);
                if word.kind() == Kind::Taken {
                    self.inner().change_page(head, word, Page::RUN);
                }
            }
        }
        Ok(())
    }

    #[inline]
    pub(super) fn intend(&self, intent: Intent, destination: AreaPtr) {
        let row = &self.inner().rows[self.owner.row()];
        row.destination.store(destination.to_bits(), Ordering::Relaxed);
        in_program_order();
        row.intent.store(intent.0, Ordering::Relaxed);
        in_program_order();
    }

    #[inline]
    pub(super) fn clear_intent(&self) {
        in_program_order();
        let row = &self.inner().rows[self.owner.row()];
        // Pairs with the Acquire in `is_being_freed`: the block is freed.
        row.intent.store(Intent::NONE.0, Ordering::Release);
    }

    /// Makes free pages of the spans that are empty, this heap's and those that nobody owns: how
    /// many pages.
    ///
    /// # If a process dies here
    /// Its reaper does the rest.
    pub fn trim(&self) -> usize {
        let inner = self.inner();
        let mut freed = 0;
        for head in 0..inner.words.len() {
            let word = inner.page(head);
            let is_ours = word.kind() == Kind::Span && word.is_of(self.owner);
            let Some(shape) = inner.classes.shape(word.class()) else { continue };
            let adopts = || inner.adopt_span(self.owner, head, word.class());
            if !is_ours && !(word.kind() == Kind::Idle && adopts()) {
                continue;
            }
            (0..shape.groups()).for_each(|index| inner.collect(head, shape, index));
            if inner.is_empty_span(head, shape) {
                let current = &self.current[word.class()];
                if current.get().head == head {
                    current.set(NOTHING);
                }
                freed += inner.run_len(head);
                inner.free_span(self.owner, head);
            } else if !is_ours {
                inner.give_up_span(head, word.class());
            }
        }
        let mut memory = self.memory.borrow_mut();
        (memory.empty, memory.rover) = (0, 0);
        freed
    }
}

impl Drop for Heap {
    /// # If a process dies here
    /// The row still names it, and is reaped.
    fn drop(&mut self) {
        let model_unwinds = cfg!(any(shm_loom, shm_explore)) && std::thread::panicking();
        if model_unwinds || self.check_fork().is_err() {
            return;
        }
        self.inner().give_back(self.owner, |_| false);
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("owner", &self.owner).finish_non_exhaustive()
    }
}
