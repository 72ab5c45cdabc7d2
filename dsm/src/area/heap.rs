//! `Heap`: what one thread allocates and frees with.
use super::chunk::Growth;
use super::class::{ALIGN_MAX, CLASSES};
use super::config::{AllocOptions, BLOCK_MAX};
use super::error::{AllocError, AreaError, FreeError};
use super::reap::leave_row;
use super::shared::{Claim, Intent, Kind, Owner, Page, Row};
use super::{Area, AreaPtr, Place};
use shm_core::mapping::Mapped;
use shm_core::participants::Member;
use shm_core::sync::in_program_order;
use shm_core::sync::{AtomicU64, Ordering};
use std::alloc::Layout;
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// Of a page of a span of ours, in `State::pages`: distance to the span's first page 3 bits | class
/// 6 | ready 1 | own 1. 0: not ours.
const OWN: u16 = 1;
const READY: u16 = 2;
const CLASS_SHIFT: u32 = 2;
const DISTANCE_SHIFT: u32 = 8;
const _: () = assert!(CLASSES <= 1 << (DISTANCE_SHIFT - CLASS_SHIFT));

/// How often to look for pages that others are about to have, a millisecond each.
const ROUNDS_MAX: u32 = if cfg!(any(shm_loom, shm_explore)) { 3 } else { 50 };

/// Own spans that are asked at a time what others have freed, before a new one is taken.
const COLLECTED_MAX: usize = 8;

/// One thread's heap of an [`Area`]: [`Area::heap`].
///
/// Dropping it leaves its blocks where they are. Spans without blocks are free then, and others are
/// adopted by heaps that need one.
#[derive(Debug)]
pub struct Heap {
    area: Area,
    member: Arc<Member>,
    row: Mapped<Row>,
    me: Owner,
    state: RefCell<State>,
}

/// What the heap knows of its own spans, in private.
#[derive(Debug)]
struct State {
    /// For each page whether it is one of a span of ours; of its first one, whether that is in
    /// `ready`.
    pages: Vec<u16>,
    classes: Vec<Class>,
    /// Pages given back since memory was last given back to the system unasked.
    given: u64,
}

#[derive(Clone, Debug, Default)]
struct Class {
    /// All of ours.
    own: Vec<u32>,
    /// Those that have, or had, free blocks; the last one is allocated from.
    ready: Vec<u32>,
    /// Which of `own` is asked next for what others have freed.
    next: usize,
    /// `Head::given_up` when there were no spans to adopt.
    seen: u64,
}

impl Area {
    /// A heap for the calling thread: a row of the area, in the name of `member`.
    ///
    /// # Errors
    /// [`AreaError::HeapsTaken`], [`AreaError::Forked`].
    ///
    /// # If a process dies here
    /// The row is the dead one's until it is [reaped](Area::reap).
    pub fn heap(&self, member: &Arc<Member>) -> Result<Heap, AreaError> {
        member.check_fork()?;
        let rows = self.inner.rows.len() as u64;
        let row = self.take_row(member).or_else(|| {
            self.reap_unasked();
            self.take_row(member)
        });
        let row = row.ok_or(AreaError::HeapsTaken { heaps: rows })?;
        let state = State {
            pages: vec![0; self.pages() as usize],
            classes: vec![Class::default(); CLASSES],
            given: 0,
        };
        let me = Owner::new(member.id(), row);
        let at = self.inner.rows_at + (row * size_of::<Row>()) as u64;
        let row = Mapped::new(&self.inner.mapping, at)?;
        let (area, member) = (self.clone(), member.clone());
        Ok(Heap { area, member, row, me, state: RefCell::new(state) })
    }

    fn take_row(&self, member: &Member) -> Option<usize> {
        let bits = u64::from(member.id().to_bits());
        self.inner.rows.iter().position(|row| {
            // Pairs with the Release in `leave_row`: the last user's intent is settled.
            let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
            row.owner.load(Ordering::Relaxed) == 0
                && row.owner.compare_exchange(0, bits, ok, err).is_ok()
                // Anything else is a liar's; the row is lost until this process ends.
                && row.intent() == Intent::NONE
        })
    }
}

impl Heap {
    /// The area.
    pub fn area(&self) -> &Area {
        &self.area
    }

    #[inline]
    fn row(&self) -> &Row {
        &self.row
    }

    /// Allocates a block of `size` bytes, at a multiple of 8, has it initialised, and stores its
    /// pointer in `to` (Release), which held 0.
    ///
    /// `to` lies in the mapping of the area, in a block or beside the area. Until this has
    /// returned, and after a death until the reaper has been there, nobody else changes it. What
    /// `init` does not write is what an earlier user left.
    ///
    /// # Errors
    /// [`AllocError`]; then `to` is 0 still.
    ///
    /// # If a process dies here
    /// `to` names the block, or it is 0 and the reaper has freed the block.
    #[inline]
    pub fn alloc_to(
        &self,
        to: &AtomicU64,
        size: u64,
        init: impl FnOnce(NonNull<u8>),
    ) -> Result<AreaPtr, AllocError> {
        self.alloc_with(to, AllocOptions::new(size), init)
    }

    /// As [`alloc_to`](Heap::alloc_to), at a multiple of `align`: a power of two up to 4096.
    ///
    /// # Errors
    /// As there, and [`AllocError::Alignment`].
    ///
    /// # If a process dies here
    /// As there.
    #[inline]
    pub fn alloc_aligned_to(
        &self,
        to: &AtomicU64,
        size: u64,
        align: u64,
        init: impl FnOnce(NonNull<u8>),
    ) -> Result<AreaPtr, AllocError> {
        self.alloc_with(to, AllocOptions::new(size).align(align), init)
    }

    /// As [`alloc_to`](Heap::alloc_to), with options.
    ///
    /// # Errors
    /// As there, and [`AllocError::Alignment`].
    ///
    /// # If a process dies here
    /// As there.
    #[inline]
    pub fn alloc_with(
        &self,
        to: &AtomicU64,
        options: AllocOptions,
        init: impl FnOnce(NonNull<u8>),
    ) -> Result<AreaPtr, AllocError> {
        let AllocOptions { size, align, zeroed, .. } = options;
        self.member.check_fork()?;
        // Until the end: `init` is not to come in again.
        let mut state = self.state.try_borrow_mut().map_err(|_| AllocError::Busy)?;
        let block = self.begin(&mut state, to, &options)?;
        in_program_order();
        // If `init` panics, the block is free again.
        let undo = Undo(self);
        // It lies in the pages, as does all of its span or run.
        let address = self.area.address(block);
        debug_assert!(address.addr().get().is_multiple_of(align as usize) || cfg!(shm_loom));
        if zeroed {
            // SAFETY: so many bytes, and nobody else's.
            unsafe { address.write_bytes(0, size as usize) };
        }
        init(address);
        // Pairs with the caller's Acquire: the block's contents, its bit and its page's word.
        to.store(block.to_bits(), Ordering::Release);
        in_program_order();
        std::mem::forget(undo);
        self.row().set(Intent::NONE);
        Ok(block)
    }

    /// The block, with the intent to link it.
    fn begin(
        &self,
        state: &mut State,
        to: &AtomicU64,
        options: &AllocOptions,
    ) -> Result<AreaPtr, AllocError> {
        let AllocOptions { size, align, huge, .. } = *options;
        let at = self.offset_of(to).map_err(AllocError::Destination)?;
        // Relaxed: nobody else writes it.
        let held = to.load(Ordering::Relaxed);
        if held != 0 {
            return Err(AllocError::Occupied(held));
        }
        if size == 0 {
            return Err(AllocError::ZeroSize);
        }
        let inner = &*self.area.inner;
        let is_usual = align == 8;
        if !is_usual && Layout::from_size_align(size as usize, align as usize).is_err() {
            return Err(AllocError::Alignment(align));
        }
        let classes = &inner.classes;
        let class = if is_usual { classes.of_size(size) } else { classes.of_layout(size, align) };
        let block = match class {
            Some(class) => self.begin_block(state, class, at),
            None if align > ALIGN_MAX.min(inner.page) => return Err(AllocError::Alignment(align)),
            None => {
                let all = u64::from(self.area.pages()) << inner.page_shift;
                let most = if huge { all } else { all.min(BLOCK_MAX) };
                if size > most {
                    return Err(AllocError::TooLarge { size, most });
                }
                self.begin_run(state, size, at)
            }
        };
        block.map_err(|why| match why {
            Growth::Limit(limit) => AllocError::Limit { size, limit },
            Growth::NoSpace => AllocError::NoSpace { size },
            Growth::Grown | Growth::Busy | Growth::Full => AllocError::OutOfMemory { size },
        })
    }

    #[inline]
    fn offset_of(&self, word: &AtomicU64) -> Result<u64, shm_core::BadPtr> {
        self.area.inner.mapping.region().offset_of(NonNull::from(word))
    }

    /// Says what is about to be done.
    #[inline]
    fn intend(&self, intent: Intent, destination: u64) {
        // Relaxed: the reaper's, by the proof of the death.
        self.row().destination.store(destination, Ordering::Relaxed);
        in_program_order();
        self.row().set(intent);
        in_program_order();
    }

    /// A block of a span of ours, with the intent to link it.
    #[inline]
    fn begin_block(&self, state: &mut State, class: usize, at: u64) -> Result<AreaPtr, Growth> {
        let shape = self.area.inner.classes.shape(class).ok_or(Growth::Full)?;
        // Each round has one span less that is ready, or finds one that has a free block; so the
        // bound is for liars.
        for _ in 0..2 * u64::from(self.area.pages()) + 2 {
            let Some(page) = state.classes[class].ready.last().copied() else {
                self.find_span(state, class)?;
                continue;
            };
            let descriptor = self.area.descriptor(page);
            let Some(index) = descriptor.find(shape) else {
                state.classes[class].ready.pop();
                state.pages[page as usize] &= !READY;
                continue;
            };
            let block = self.area.block_at(page, shape.offset(index));
            self.intend(Intent::link(block), at | 1);
            descriptor.set_allocated(index, true);
            return Ok(block);
        }
        Err(Growth::Full)
    }

    /// A run of pages, with the intent to link it.
    fn begin_run(&self, state: &mut State, size: u64, at: u64) -> Result<AreaPtr, Growth> {
        let pages = size.div_ceil(self.area.inner.page);
        let pages = u32::try_from(pages).map_err(|_| Growth::Full)?;
        let page = self.take_pages(state, pages)?;
        let block = self.area.block_at(page, 0);
        self.intend(Intent::link(block), at | 1);
        self.area.write(page, Page::run(pages));
        Ok(block)
    }

    /// Pages, for which empty spans are given up, and the dead are reaped, if need be.
    fn take_pages(&self, state: &mut State, pages: u32) -> Result<u32, Growth> {
        let mut found = self.take_or_grow(pages);
        if found.is_err() {
            self.trim_all(state);
            found = self.take_or_grow(pages);
        }
        if found.is_err() && self.area.reap_unasked() {
            self.trim_all(state);
            found = self.take_or_grow(pages);
        }
        found
    }

    /// Pages that are free, or come.
    fn take_or_grow(&self, pages: u32) -> Result<u32, Growth> {
        for _ in 0..ROUNDS_MAX {
            if let Some(page) = self.area.take_pages(self.me, pages) {
                return Ok(page);
            }
            match self.area.grow(self.me, pages) {
                Growth::Grown => {}
                // They are at it, dead, or stopped.
                Growth::Busy if !cfg!(any(shm_loom, shm_explore)) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                why => return Err(why),
            }
        }
        self.area.take_pages(self.me, pages).ok_or(Growth::Busy)
    }

    /// A span of this class that is ready: one of ours, one without an owner, or a new one.
    #[cold]
    fn find_span(&self, state: &mut State, class: usize) -> Result<(), Growth> {
        if self.collect_some(state, class, COLLECTED_MAX) || self.adopt_some(state, class, false) {
            return Ok(());
        }
        let shape = self.area.inner.classes.shape(class).ok_or(Growth::Full)?;
        match self.take_pages(state, shape.pages) {
            Ok(page) => {
                self.area.descriptor(page).clear(shape);
                in_program_order();
                self.area.write(page, Page::span(self.me, class));
                state.own(page, class, shape.pages);
                state.ready(page, class);
                Ok(())
            }
            // The search for pages has collected everywhere, and may have freed some.
            Err(_) if !state.classes[class].ready.is_empty() => Ok(()),
            Err(_) if self.adopt_some(state, class, true) => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// Takes back what others have freed in some of our spans; whether it was anything.
    fn collect_some(&self, state: &mut State, class: usize, most: usize) -> bool {
        let own = state.classes[class].own.len();
        for _ in 0..own.min(most) {
            let next = state.classes[class].next % own;
            state.classes[class].next = next + 1;
            let page = state.classes[class].own[next];
            if self.area.collect(page, class) {
                state.ready(page, class);
                return true;
            }
        }
        false
    }

    /// Adopts a span that has a free block, if there is one.
    fn adopt_some(&self, state: &mut State, class: usize, is_urgent: bool) -> bool {
        // Relaxed: a hint that it is worth looking.
        let given_up = self.area.inner.head.given_up.load(Ordering::Relaxed);
        if state.classes[class].seen == given_up && !is_urgent {
            return false;
        }
        for (at, word) in self.area.all_pages() {
            if word != Page::idle(class) || !self.area.adopt(at, word, self.me) {
                continue;
            }
            let Some(shape) = self.area.inner.classes.shape(class) else { break };
            state.own(at, class, shape.pages);
            self.area.collect(at, class);
            if self.area.has_room(at, class) {
                state.ready(at, class);
                return true;
            }
        }
        state.classes[class].seen = given_up;
        false
    }

    /// Gives back all spans of ours, and those without an owner, that have no blocks.
    fn trim_all(&self, state: &mut State) {
        for class in 0..state.classes.len() {
            for page in state.classes[class].own.clone() {
                self.area.collect(page, class);
                if self.area.has_no_block(page, class) {
                    self.give_back(state, page, class);
                } else if self.area.has_room(page, class) {
                    state.ready(page, class);
                }
            }
        }
        for (at, word) in self.area.all_pages() {
            if word.kind() != Kind::Idle || !self.area.adopt(at, word, self.me) {
                continue;
            }
            let class = word.class();
            self.area.collect(at, class);
            let mine = Page::span(self.me, class);
            if self.area.has_no_block(at, class) {
                self.area.give_span(at, mine, self.me);
            } else {
                self.area.leave_span(at, mine);
            }
        }
    }

    /// An empty span of ours.
    fn give_back(&self, state: &mut State, page: u32, class: usize) {
        let Some(shape) = self.area.inner.classes.shape(class) else { return };
        state.forget(page, class, shape.pages);
        self.area.give_span(page, Page::span(self.me, class), self.me);
        self.after_giving(state, shape.pages);
    }

    /// Gives back the pages that hold no blocks, this heap's and those of heaps that are gone, and
    /// then to the system the memory of chunks that are free; how many bytes that was. (Unasked,
    /// some is [kept](super::AreaConfig::keep).)
    ///
    /// # If a process dies here
    /// Pages are the dead one's until it is reaped.
    pub fn trim(&self) -> u64 {
        match (self.member.check_fork(), self.state.try_borrow_mut()) {
            (Ok(()), Ok(mut state)) => {
                self.trim_all(&mut state);
                self.shrink()
            }
            _ => 0,
        }
    }

    /// The last step of `trim`.
    #[doc(hidden)]
    pub fn shrink(&self) -> u64 {
        self.area.retire_all(self.me, |_| 0)
    }

    /// The first step of whoever needs a page: for models.
    #[doc(hidden)]
    pub fn page(&self) -> Option<AreaPtr> {
        Some(self.area.block_at(self.take_or_grow(1).ok()?, 0))
    }

    /// The last step of whoever does not need it any more: for models.
    #[doc(hidden)]
    pub fn give_page(&self, page: AreaPtr) {
        self.area.page_of(page).inspect(|at| self.area.give_pages(*at, Page::taken(self.me)));
    }

    /// So many pages have been given back. Now and then half of what is free beyond what is kept
    /// goes to the system: who wants it again soon does not find it gone all at once.
    fn after_giving(&self, state: &mut State, pages: u32) {
        state.given += u64::from(pages);
        let inner = &*self.area.inner;
        if self.area.is_elastic() && state.given > (inner.keep / 2).max(1 << inner.chunk_shift) {
            state.given = 0;
            self.area.retire_all(self.me, |free| inner.keep.max((inner.keep + free) / 2));
        }
    }

    /// Frees the block that `from` names, which is 0 then. Nobody else writes `from`, the block is
    /// named nowhere else, and nobody uses it any more.
    ///
    /// # Errors
    /// [`FreeError`]; `from` is as it was.
    ///
    /// # If a process dies here
    /// `from` names the block, or it is 0 and the reaper has freed the block.
    #[inline]
    pub fn free_from(&self, from: &AtomicU64) -> Result<(), FreeError> {
        self.member.check_fork()?;
        let at = self.offset_of(from).map_err(FreeError::Destination)?;
        // Relaxed: the caller knows the block.
        let ptr = AreaPtr::from_bits(from.load(Ordering::Relaxed));
        self.free_named(ptr, Some((from, at)))
    }

    /// Frees a block that only the caller knows, and nobody uses any more.
    ///
    /// # Errors
    /// [`FreeError`].
    ///
    /// # If a process dies here
    /// The reaper frees the block, if the call had begun. See also
    /// [`free_from`](Heap::free_from).
    #[inline]
    pub fn free(&self, ptr: AreaPtr) -> Result<(), FreeError> {
        self.member.check_fork()?;
        self.free_named(ptr, None)
    }

    #[inline]
    fn free_named(&self, ptr: AreaPtr, from: Option<(&AtomicU64, u64)>) -> Result<(), FreeError> {
        let mut state = self.state.try_borrow_mut().map_err(|_| FreeError::Busy)?;
        let Some((page, class, index)) = self.own_block(&state, ptr)? else {
            return self.free_other(&mut state, ptr, from);
        };
        let descriptor = self.area.descriptor(page);
        if !descriptor.is_allocated(index) {
            return Err(FreeError::DoubleFree(ptr.to_bits()));
        }
        self.begin_free(ptr, from);
        descriptor.set_allocated(index, false);
        in_program_order();
        self.row().set(Intent::NONE);
        self.after_own_free(&mut state, page, class);
        Ok(())
    }

    /// The span, its class and the block's number there, where the span is ours.
    #[inline]
    fn own_block(
        &self,
        state: &State,
        ptr: AreaPtr,
    ) -> Result<Option<(u32, usize, u32)>, FreeError> {
        let inner = &*self.area.inner;
        let Some(offset) = ptr.offset(inner.tag) else { return Ok(None) };
        let Some(rel) = offset.checked_sub(inner.pages_at) else { return Ok(None) };
        let at = u32::try_from(rel >> inner.page_shift).unwrap_or(u32::MAX);
        let Some((page, class)) = state.span_of(at) else { return Ok(None) };
        let Some(shape) = inner.classes.shape(class) else { return Ok(None) };
        match shape.index(rel - (u64::from(page) << inner.page_shift)) {
            Some(index) => Ok(Some((page, class, index))),
            None => Err(FreeError::NotABlock(ptr.to_bits())),
        }
    }

    /// From here on the block is free, whoever dies.
    #[inline]
    fn begin_free(&self, ptr: AreaPtr, from: Option<(&AtomicU64, u64)>) {
        self.intend(Intent::free(ptr), from.map_or(0, |(_, at)| at | 1));
        if let Some((from, _)) = from {
            // Relaxed: there is nothing behind 0.
            from.store(0, Ordering::Relaxed);
            in_program_order();
        }
    }

    fn free_other(
        &self,
        state: &mut State,
        ptr: AreaPtr,
        from: Option<(&AtomicU64, u64)>,
    ) -> Result<(), FreeError> {
        match self.area.locate(ptr)? {
            Place::Block { page, index, .. } => {
                let descriptor = self.area.descriptor(page);
                if !descriptor.is_allocated(index) {
                    return Err(FreeError::DoubleFree(ptr.to_bits()));
                }
                self.begin_free(ptr, from);
                descriptor.mark_freed(index);
                in_program_order();
                self.row().set(Intent::NONE);
            }
            Place::Run { page, word } => {
                self.begin_free(ptr, from);
                let taken = Page::taken(self.me);
                let is_mine = self.area.claim(page, word, taken);
                in_program_order();
                self.row().set(Intent::NONE);
                if !is_mine {
                    return Err(FreeError::DoubleFree(ptr.to_bits()));
                }
                self.area.give_pages(page, taken);
                self.after_giving(state, word.distance());
            }
        }
        Ok(())
    }

    /// The span has a free block; if it has no other, and we have two more such spans, it is free.
    #[inline]
    fn after_own_free(&self, state: &mut State, page: u32, class: usize) {
        let Some(mine) = state.classes.get(class) else { return };
        let is_spare = mine.ready.len() > 2 && self.area.has_no_block(page, class);
        if is_spare && mine.own.contains(&page) {
            self.give_back(state, page, class);
        } else {
            state.ready(page, class);
        }
    }
}

impl State {
    fn own(&mut self, first: u32, class: usize, pages: u32) {
        for distance in 0..pages {
            let own = (distance as u16) << DISTANCE_SHIFT | (class as u16) << CLASS_SHIFT | OWN;
            self.pages[(first + distance) as usize] = own;
        }
        self.classes[class].own.push(first);
    }

    /// The first page and the class of the span of ours that this page is of.
    #[inline]
    fn span_of(&self, page: u32) -> Option<(u32, usize)> {
        let own = *self.pages.get(page as usize)?;
        let class = usize::from(own >> CLASS_SHIFT) % (1 << (DISTANCE_SHIFT - CLASS_SHIFT));
        (own & OWN != 0).then(|| (page - u32::from(own >> DISTANCE_SHIFT), class))
    }

    /// Puts it last, to be allocated from, unless it stands somewhere.
    #[inline]
    fn ready(&mut self, page: u32, class: usize) {
        let first = &mut self.pages[page as usize];
        if *first & READY == 0 {
            *first |= READY;
            self.classes[class].ready.push(page);
        }
    }

    fn forget(&mut self, page: u32, class: usize, pages: u32) {
        self.pages[page as usize..(page + pages) as usize].fill(0);
        self.classes[class].own.retain(|own| *own != page);
        self.classes[class].ready.retain(|ready| *ready != page);
    }
}

/// A block whose initialisation is under way.
struct Undo<'h>(&'h Heap);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !model_unwinds() {
            // A run is TAKEN then; its pages go with it.
            let heap = self.0;
            let block = heap.row().intent().block();
            heap.area.settle(heap.row(), heap.me);
            if let Some(page) = heap.area.page_of(block) {
                let taken = Page::taken(heap.me);
                if heap.area.page(page) == Some(taken) {
                    heap.area.give_pages(page, taken);
                }
            }
        }
    }
}

impl Drop for Heap {
    /// # If a process dies here
    /// What it had not left yet is its reaper's to leave.
    fn drop(&mut self) {
        if model_unwinds() || self.member.check_fork().is_err() {
            return;
        }
        let state = self.state.get_mut();
        for (class, spans) in state.classes.iter().enumerate() {
            for page in &spans.own {
                self.area.collect(*page, class);
                let mine = Page::span(self.me, class);
                if self.area.has_no_block(*page, class) {
                    self.area.give_span(*page, mine, self.me);
                } else {
                    self.area.leave_span(*page, mine);
                }
            }
        }
        leave_row(self.row(), Claim(self.member.id().to_bits().into()));
    }
}

/// In a model an unwind is a death, or the model has failed: destructors do nothing then.
fn model_unwinds() -> bool {
    cfg!(any(shm_loom, shm_explore)) && std::thread::panicking()
}
