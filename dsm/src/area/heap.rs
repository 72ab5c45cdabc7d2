//! `Heap`: what one thread allocates and frees with.
use super::chunk::Growth;
use super::class::{ALIGN_MAX, Classes};
use super::config::{AllocOptions, BLOCK_MAX};
use super::error::{AllocError, AreaError, FreeError};
use super::private::{Block, Class, Own, State};
use super::reap::leave_row;
use super::shared::{Claim, Intent, Kind, Owner, Page, Row};
use super::span::bit_of;
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

/// How often to look for pages that others are about to have, a millisecond each.
const ROUNDS_MAX: u32 = if cfg!(any(shm_loom, shm_explore)) { 3 } else { 50 };

/// Own spans that are asked at a time what others have freed, before a new one is taken.
const COLLECTED_MAX: usize = 8;

/// One thread's heap of an [`Area`]: [`Area::heap`].
///
/// Dropping it leaves its blocks where they are. Spans without blocks are free then, and others are
/// adopted by heaps that need one.
#[derive(Debug)]
#[repr(align(128))] // Each is written by its thread, and they may lie side by side.
pub struct Heap {
    area: Area,
    member: Arc<Member>,
    row: Mapped<Row>,
    me: Owner,
    state: RefCell<State>,
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
        let state = State::new(self);
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
        let AllocOptions { size, align, zeroed, huge } = options;
        self.member.check_fork()?;
        // Until the end: `init` is not to come in again.
        let mut state = self.state.try_borrow_mut().map_err(|_| AllocError::Busy)?;
        let at = self.offset_of(to).map_err(AllocError::Destination)?;
        // Relaxed: nobody else writes it.
        let held = to.load(Ordering::Relaxed);
        if held != 0 {
            return Err(AllocError::Occupied(held));
        }
        let at_hand = if align == 8 { self.begin_at_hand(&mut state, size, at) } else { None };
        let block = match at_hand {
            Some(block) => block,
            None => self.begin(&mut state, (size, align, huge), at)?,
        };
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

    /// One of the blocks at hand, with the intent to link it.
    #[inline(always)]
    fn begin_at_hand(&self, state: &mut State, size: u64, at: u64) -> Option<AreaPtr> {
        let class = Classes::usual(size)?;
        self.take_at_hand(state.classes.get_mut(class)?, at)
    }

    #[inline(always)]
    fn take_at_hand(&self, class: &mut Class, at: u64) -> Option<AreaPtr> {
        let block = class.take()?;
        let (descriptor, (word, bit)) = (self.area.descriptor(block.page()), bit_of(block.index()));
        let before = descriptor.word(word);
        if before & bit != 0 {
            // Somebody has overwritten it.
            return None;
        }
        self.intend(Intent::link(block.ptr), at | 1);
        descriptor.set_word(word, before | bit);
        Some(block.ptr)
    }

    /// The block, with the intent to link it.
    #[cold]
    fn begin(
        &self,
        state: &mut State,
        (size, align, huge): (u64, u64, bool),
        at: u64,
    ) -> Result<AreaPtr, AllocError> {
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
        let inner = &*self.area.inner;
        let offset = (&raw const *word).addr().wrapping_sub(inner.base.addr().get()) as u64;
        if offset <= inner.last_word {
            return Ok(offset);
        }
        inner.mapping.region().offset_of(NonNull::from(word))
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
    fn begin_block(&self, state: &mut State, class: usize, at: u64) -> Result<AreaPtr, Growth> {
        // Each round has one span less that is ready, or finds one that has a free block; so the
        // bound is for liars.
        for _ in 0..2 * u64::from(self.area.pages()) + 2 {
            let mine = &mut state.classes[class];
            if let Some(block) = self.take_at_hand(mine, at) {
                return Ok(block);
            }
            match mine.ready.last().copied() {
                None => self.find_span(state, class)?,
                Some(page) if mine.take_from(&self.area, page) => {}
                Some(_) => state.end_ready(class),
            }
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
        state.forget(page, class);
        self.area.give_span(page, Page::span(self.me, class), self.me);
        self.after_giving(state, state.classes[class].shape.pages);
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
        let Some((block, own)) = self.own_block(&state, ptr)? else {
            return self.free_other(&mut state, ptr, from);
        };
        let (descriptor, (word, bit)) = (self.area.descriptor(block.page()), bit_of(block.index()));
        let before = descriptor.word(word);
        if before & !descriptor.freed_word(word) & bit == 0 {
            return Err(FreeError::DoubleFree(ptr.to_bits()));
        }
        self.begin_free(ptr, from);
        descriptor.set_word(word, before & !bit);
        in_program_order();
        self.row().set(Intent::NONE);
        self.after_own_free(&mut state, block, own, before == bit);
        Ok(())
    }

    /// The block, and what is known of its page, where that is ours.
    #[inline(always)]
    fn own_block(&self, state: &State, ptr: AreaPtr) -> Result<Option<(Block, Own)>, FreeError> {
        let inner = &*self.area.inner;
        let Some(offset) = ptr.offset(inner.tag) else { return Ok(None) };
        let Some(rel) = offset.checked_sub(inner.pages_at) else { return Ok(None) };
        let at = (rel >> inner.page_shift) as usize;
        let own = state.page(at);
        let Some(class) = state.classes.get(own.class()).filter(|_| own.is_ours()) else {
            return Ok(None);
        };
        let page = at - own.distance();
        match class.shape.index_inside(rel - ((page as u64) << inner.page_shift)) {
            Some(index) => Ok(Some((Block::new(ptr, page as u32, index), own))),
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

    /// The block is free; if its span has no other, and we have two more such spans, that is free.
    /// Where others of its word are left the span need not be looked at.
    #[inline(always)]
    fn after_own_free(&self, state: &mut State, block: Block, own: Own, is_last_of_word: bool) {
        let class = own.class();
        let Some(mine) = state.classes.get_mut(class) else { return };
        if is_last_of_word && mine.ready.len() > 2 && self.give_back_if_empty(state, block, class) {
            return;
        }
        state.classes[class].put(block);
        if !own.is_ready() {
            state.ready(block.page(), class);
        }
    }

    #[cold]
    fn give_back_if_empty(&self, state: &mut State, block: Block, class: usize) -> bool {
        let is_empty = self.area.has_no_block(block.page(), class);
        if is_empty {
            self.give_back(state, block.page(), class);
        }
        is_empty
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
