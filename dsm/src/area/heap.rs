//! `Heap`: what one thread allocates and frees with.
use super::class::{ALIGN_MAX, CLASSES};
use super::error::{AllocError, AreaError, FreeError};
use super::order::in_order;
use super::reap::leave_row;
use super::shared::{Intent, Kind, Owner, Page, Row};
use super::{Area, AreaPtr, Place};
use shm_core::participants::Member;
use shm_core::sync::{AtomicU64, Ordering};
use std::alloc::Layout;
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bits of `State::flags`.
const OWN: u8 = 1;
const READY: u8 = 2;

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
    row: usize,
    me: Owner,
    state: RefCell<State>,
}

/// What the heap knows of its own spans, in private.
#[derive(Debug)]
struct State {
    /// For each page whether it begins a span of ours, and whether that is in `ready`.
    flags: Vec<u8>,
    classes: Vec<Class>,
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
        let (rows, bits) = (&self.inner.rows, u64::from(member.id().to_bits()));
        let row = rows.iter().position(|row| {
            // Pairs with the Release in `leave_row`: the last user's intent is settled.
            let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
            row.owner.load(Ordering::Relaxed) == 0
                && row.owner.compare_exchange(0, bits, ok, err).is_ok()
                // Anything else is a liar's; the row is lost until this process ends.
                && row.intent() == Intent::NONE
        });
        let row = row.ok_or(AreaError::HeapsTaken { heaps: rows.len() as u64 })?;
        let state = State {
            flags: vec![0; self.pages() as usize],
            classes: vec![Class::default(); CLASSES],
        };
        let me = Owner::new(member.id(), row);
        let (area, member) = (self.clone(), member.clone());
        Ok(Heap { area, member, row, me, state: RefCell::new(state) })
    }
}

impl Heap {
    /// The area.
    pub fn area(&self) -> &Area {
        &self.area
    }

    fn row(&self) -> &Row {
        &self.area.inner.rows[self.row]
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
    pub fn alloc_to(
        &self,
        to: &AtomicU64,
        size: u64,
        init: impl FnOnce(NonNull<u8>),
    ) -> Result<AreaPtr, AllocError> {
        self.alloc_aligned_to(to, size, 8, init)
    }

    /// As [`alloc_to`](Heap::alloc_to), at a multiple of `align`: a power of two up to 4096.
    ///
    /// # Errors
    /// As there, and [`AllocError::Alignment`].
    ///
    /// # If a process dies here
    /// As there.
    pub fn alloc_aligned_to(
        &self,
        to: &AtomicU64,
        size: u64,
        align: u64,
        init: impl FnOnce(NonNull<u8>),
    ) -> Result<AreaPtr, AllocError> {
        self.member.check_fork()?;
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
        if !align.is_power_of_two()
            || Layout::from_size_align(size as usize, align as usize).is_err()
        {
            return Err(AllocError::Alignment(align));
        }
        let most = u64::from(self.area.pages()) * inner.page;
        if size > most {
            return Err(AllocError::TooLarge { size, most });
        }
        let mut state = self.state.try_borrow_mut().map_err(|_| AllocError::Busy)?;
        let block = match inner.classes.of_layout(size, align) {
            Some(class) => self.begin_block(&mut state, class, at),
            None if align > ALIGN_MAX.min(inner.page) => return Err(AllocError::Alignment(align)),
            None => self.begin_run(&mut state, size, at),
        };
        let block = block.ok_or(AllocError::OutOfMemory { size })?;
        in_order();
        // If `init` panics, the block is free again.
        let undo = Undo(self);
        // It lies in the pages, as does all of its span or run.
        let address = self.area.resolve_len(block, size);
        let address = address.map_err(|_| AllocError::OutOfMemory { size })?;
        init(address);
        // Pairs with the caller's Acquire: the block's contents, its bit and its page's word.
        to.store(block.to_bits(), Ordering::Release);
        in_order();
        std::mem::forget(undo);
        self.row().set(Intent::NONE);
        Ok(block)
    }

    fn offset_of(&self, word: &AtomicU64) -> Result<u64, shm_core::BadPtr> {
        self.area.inner.mapping.region().offset_of(NonNull::from(word))
    }

    /// Says what is about to be done.
    fn intend(&self, intent: Intent, destination: u64) {
        // Relaxed: the reaper's, by the proof of the death.
        self.row().destination.store(destination, Ordering::Relaxed);
        in_order();
        self.row().set(intent);
        in_order();
    }

    /// A block of a span of ours, with the intent to link it.
    fn begin_block(&self, state: &mut State, class: usize, at: u64) -> Option<AreaPtr> {
        let shape = self.area.inner.classes.shape(class)?;
        // Each round has one span less that is ready, or one more that is new and has free blocks.
        for _ in 0..=self.area.pages() {
            let Some(page) = state.classes[class].ready.last().copied() else {
                self.find_span(state, class)?;
                continue;
            };
            let descriptor = self.area.descriptor(page);
            let Some(index) = descriptor.find(shape) else {
                state.classes[class].ready.pop();
                state.flags[page as usize] &= !READY;
                continue;
            };
            let block = self.area.block_at(page, shape.offset(index));
            self.intend(Intent::link(block), at | 1);
            descriptor.set_allocated(index, true);
            return Some(block);
        }
        None
    }

    /// A run of pages, with the intent to link it.
    fn begin_run(&self, state: &mut State, size: u64, at: u64) -> Option<AreaPtr> {
        let pages = u32::try_from(size.div_ceil(self.area.inner.page)).ok()?;
        let page = self.take_pages(state, pages)?;
        let block = self.area.block_at(page, 0);
        self.intend(Intent::link(block), at | 1);
        self.area.write(page, Page::run(pages));
        Some(block)
    }

    /// Pages, for which empty spans are given up if need be.
    fn take_pages(&self, state: &mut State, pages: u32) -> Option<u32> {
        let area = &self.area;
        area.take_pages(self.me, pages).or_else(|| {
            self.trim_all(state);
            area.take_pages(self.me, pages)
        })
    }

    /// A span of this class that is ready: one of ours, one without an owner, or a new one.
    fn find_span(&self, state: &mut State, class: usize) -> Option<()> {
        if self.collect_some(state, class, COLLECTED_MAX) || self.adopt_some(state, class, false) {
            return Some(());
        }
        let shape = self.area.inner.classes.shape(class)?;
        match self.take_pages(state, shape.pages) {
            Some(page) => {
                self.area.descriptor(page).clear(shape);
                in_order();
                self.area.write(page, Page::span(self.me, class));
                state.own(page, class);
                state.ready(page, class);
                Some(())
            }
            // The search for pages has collected everywhere, and may have freed some.
            None if !state.classes[class].ready.is_empty() => Some(()),
            None => self.adopt_some(state, class, true).then_some(()),
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
        for at in 0..self.area.pages() {
            let Some(word) = self.area.page(at) else { break };
            if word != Page::idle(class) || !self.area.adopt(at, word, self.me) {
                continue;
            }
            state.own(at, class);
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
        for at in 0..self.area.pages() {
            let Some(word) = self.area.page(at) else { break };
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
    }

    /// Gives back the pages that hold no blocks: this heap's, and those of heaps that are gone.
    ///
    /// # If a process dies here
    /// Pages are the dead one's until it is reaped.
    pub fn trim(&self) {
        if let (Ok(()), Ok(mut state)) = (self.member.check_fork(), self.state.try_borrow_mut()) {
            self.trim_all(&mut state);
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
    pub fn free(&self, ptr: AreaPtr) -> Result<(), FreeError> {
        self.member.check_fork()?;
        self.free_named(ptr, None)
    }

    fn free_named(&self, ptr: AreaPtr, from: Option<(&AtomicU64, u64)>) -> Result<(), FreeError> {
        let mut state = self.state.try_borrow_mut().map_err(|_| FreeError::Busy)?;
        let place = self.area.locate(ptr)?;
        if let Place::Block { page, index, .. } = place
            && !self.area.descriptor(page).is_allocated(index)
        {
            return Err(FreeError::DoubleFree(ptr.to_bits()));
        }
        self.intend(Intent::free(ptr), from.map_or(0, |(_, at)| at | 1));
        if let Some((from, _)) = from {
            // Relaxed: there is nothing behind 0.
            from.store(0, Ordering::Relaxed);
            in_order();
        }
        match place {
            Place::Block { page, word, index } => {
                let is_own = state.flags[page as usize] & OWN != 0;
                let descriptor = self.area.descriptor(page);
                if is_own {
                    descriptor.set_allocated(index, false);
                } else {
                    descriptor.mark_freed(index);
                }
                in_order();
                self.row().set(Intent::NONE);
                if is_own {
                    self.after_own_free(&mut state, page, word.class());
                }
            }
            Place::Run { page, word } => {
                let taken = Page::taken(self.me);
                let is_mine = self.area.claim(page, word, taken);
                in_order();
                self.row().set(Intent::NONE);
                if !is_mine {
                    return Err(FreeError::DoubleFree(ptr.to_bits()));
                }
                self.area.give_pages(page, taken);
            }
        }
        Ok(())
    }

    /// The span has a free block; if it has no other, and we have two more such spans, it is free.
    fn after_own_free(&self, state: &mut State, page: u32, class: usize) {
        // A liar's class is not that under which we have it.
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
    fn own(&mut self, page: u32, class: usize) {
        self.flags[page as usize] = OWN;
        self.classes[class].own.push(page);
    }

    /// Puts it last, to be allocated from, unless it stands somewhere.
    fn ready(&mut self, page: u32, class: usize) {
        let flags = &mut self.flags[page as usize];
        if *flags & READY == 0 {
            *flags |= READY;
            self.classes[class].ready.push(page);
        }
    }

    fn forget(&mut self, page: u32, class: usize) {
        self.flags[page as usize] = 0;
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
        leave_row(self.row(), self.member.id());
    }
}

/// In a model an unwind is a death, or the model has failed: destructors do nothing then.
fn model_unwinds() -> bool {
    cfg!(any(shm_loom, shm_explore)) && std::thread::panicking()
}
