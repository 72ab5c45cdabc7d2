//! A heap in shared memory: blocks of any size, taken and freed by several processes.
//!
//! ```text
//! | head | rows: one a heap | page map: one word a page | descriptors | pages …                    |
//!          intent, destination   FREE SPAN(me) TAIL …     groups        [ span: blocks of one size ]
//! ```
//!
//! A [`Heap`] is one thread's. It owns *spans*, pages cut into blocks of one size, and the page map
//! says so: the word of a span's first page names its owner. Only the owner takes blocks of a span,
//! and marks them in words that nobody else writes, by plain stores. Whoever else frees such a
//! block sets a bit beside them, which the owner takes back when it needs blocks. So in the common
//! path nothing is shared, and a magazine is not needed: the span is it. Large blocks are runs of
//! pages. What there is of free pages is what the page map says, and nothing else.
//!
//! # A block that is not linked belongs to its maker
//!
//! | step | words of the owner | a death after it leaves | its reaper |
//! | --- | --- | --- | --- |
//! | [take](Heap::alloc) | `held`, then `allocated` | a held block | frees it |
//! | [publish](Block::publish) | the row's `destination`, then `intent` | an intent, perhaps not carried out | looks whether the block is linked; if not, frees it |
//! | | *the destination* | an intent, carried out | leaves it |
//! | | `held` cleared | the same | the same |
//! | | `intent` cleared | nothing | |
//! | [free from](Heap::free_from) | `destination`, then `intent` | an intent: the destination holds the block | leaves it linked |
//! | | *the destination* | an intent, carried out | frees the block, if that is not done |
//! | | `allocated`, or `freed` by another | the same | finds it done |
//! | | `intent` cleared | nothing | |
//!
//! A large block is held while its page is TAKEN, and linked when that is RUN.
//!
//! **Why the reaper does not free a block that somebody uses.** It frees one whose destination does
//! not hold it, unless: 1. somebody has [settled](Heap::settle) it, as everyone does who is going
//! to take a block out of its destination; 2. somebody has freed it (`freed`); 3. somebody's
//! intent says that he is about to. Whoever frees from a destination says so *before* he changes
//! it, and takes it back *after* the block is marked; the reaper looks at the destination first.
//!
//! **Why it does not free one twice.** While an intent to free a block stands, nobody takes that
//! block back: who collects `freed` leaves the bits of blocks that an intent names. So a bit that
//! is set is the one that the dead one set. What an owner itself frees, it alone could take again,
//! and it is dead. A run that is being freed is TAKEN by who frees it until the intent is gone.
//!
//! The order of an owner's stores matters to nobody who lives, but to its reaper, who finds what
//! was done up to one instruction: hence [`in_program_order`](shm_core::sync::in_program_order).
mod block;
mod class;
mod heap;
mod pages;
mod ptr;
mod reap;
mod report;
mod shared;
mod span;

pub use block::{Block, LinkError, NotLinked};
pub use heap::{AllocError, AllocFlags, FreeError, Heap, HeapError};
pub use ptr::AreaPtr;
pub use reap::{Reaped, Unsettled};
pub use report::{AreaStats, ClassStats, Fault, Report};

use class::Classes;
use ptr::{REACH, Tag};
use shared::{Descriptor, FINGERPRINT, Head, MAGIC, ROWS_MAX, Row};
use shm_core::BadPtr;
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use std::hash::{BuildHasher, RandomState};
use std::ptr::NonNull;
use std::sync::Arc;

/// How an area is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreaConfig {
    /// So many bytes of blocks at most, rounded up to whole pages.
    pub limit_bytes: u64,
    /// So many heaps at once, one a thread: 1 to 4096.
    pub heaps: u32,
    /// What large blocks are rounded up to: a power of two from 64 to 65,536.
    pub page_bytes: u32,
    /// Tells the area from earlier ones in the same place; chosen at random if `None`.
    pub tag: Option<u64>,
}

impl AreaConfig {
    /// An area of up to `limit_bytes`, for 128 heaps, with pages of 8 KiB.
    pub fn new(limit_bytes: u64) -> AreaConfig {
        AreaConfig { limit_bytes, heaps: 128, page_bytes: 8192, tag: None }
    }
}

/// Why an area could not be made or attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AreaError {
    /// The configuration asks for the impossible.
    #[error("an area cannot have {what} = {value}: {allowed}")]
    Config {
        /// Which field.
        what: &'static str,
        /// What it says.
        value: u64,
        /// What it may say.
        allowed: &'static str,
    },
    /// The memory does not hold an area here.
    #[error("no area fits here: {0}")]
    BadPlace(#[from] BadPtr),
    /// The words in shared memory are not those of an area.
    #[error("the memory at this offset holds no area: {what} is {value:#x}")]
    NotAnArea {
        /// Which word.
        what: &'static str,
        /// What it says.
        value: u64,
    },
}

/// Why a pointer cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{ptr:?} is no pointer into this area")]
pub struct NotOfThisArea {
    /// The pointer.
    pub ptr: AreaPtr,
}

/// Where the parts of an area lie.
#[derive(Clone, Copy, Debug)]
struct Plan {
    rows: u64,
    words: u64,
    descriptors: u64,
    data: u64,
    end: u64,
}

impl Plan {
    fn at(offset: u64, pages: u64, rows: u64, page_bytes: u64) -> Option<Plan> {
        let after = |at: u64, count: u64, bytes: usize| {
            count.checked_mul(bytes as u64)?.checked_add(at)?.checked_next_multiple_of(64)
        };
        let first = after(offset, 1, size_of::<Head>())?;
        let words = after(first, rows, size_of::<Row>())?;
        let descriptors = after(words, pages, size_of::<AtomicU64>())?;
        let data = after(descriptors, pages, size_of::<Descriptor>())?;
        // The base of a mapping is a multiple of 4096 at most.
        let data = data.checked_next_multiple_of(page_bytes.clamp(64, 4096))?;
        let end = data.checked_add(pages.checked_mul(page_bytes)?)?;
        Some(Plan { rows: first, words, descriptors, data, end })
    }
}

/// An area as one process sees it. Clones are the same area.
#[derive(Clone, Debug)]
pub struct Area {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mapping: Arc<Mapping>,
    head: Mapped<Head>,
    rows: MappedSlice<Row>,
    words: MappedSlice<AtomicU64>,
    descriptors: MappedSlice<Descriptor>,
    /// Private copies, checked against the mapping once.
    base: NonNull<u8>,
    data: u64,
    end: u64,
    page_shift: u32,
    tag: Tag,
    classes: Classes,
}

// SAFETY: `base` is the mapping's, which is Send and Sync; what is read and written through it is
// decided where that is done.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Area {
    /// Bytes that such an area takes, its own words included; `u64::MAX` where that is too much.
    pub fn bytes_for(config: &AreaConfig) -> u64 {
        let (page, rows) = (u64::from(config.page_bytes.max(1)), u64::from(config.heaps));
        let plan = Plan::at(0, config.limit_bytes.div_ceil(page), rows, page);
        plan.map_or(u64::MAX, |plan| plan.end)
    }

    /// Makes an empty area at `offset` of `mapping`, which is a multiple of 128 (of 4096, for large
    /// blocks to be aligned to their pages).
    ///
    /// ```
    /// use dsm::area::{Area, AreaConfig};
    /// use shm_core::mapping::Mapping;
    /// use shm_core::participants::Table;
    /// use shm_core::sync::{AtomicU64, Ordering};
    ///
    /// let config = AreaConfig::new(1 << 20);
    /// let mapping = Mapping::heap((4096 + Area::bytes_for(&config)) as usize);
    /// // SAFETY: nobody else has the mapping.
    /// let table = unsafe { Table::create(&mapping, 0, 8) }?;
    /// // SAFETY: as above.
    /// let area = unsafe { Area::create_in_place(&mapping, 4096, &config) }?;
    ///
    /// let member = table.join()?;
    /// let heap = area.heap(&member)?;
    /// let root = mapping.region().share::<AtomicU64>(2048)?; // where others find the block
    /// let block = heap.alloc(100)?; // ours alone until it is linked
    /// // SAFETY: 100 bytes that nobody else has.
    /// unsafe { block.address().write_bytes(7, 100) };
    /// let ptr = block.publish(root)?;
    /// assert_eq!(root.load(Ordering::Acquire), ptr.to_bits());
    /// heap.free_from(root)?;
    /// assert_eq!(area.stats().live_blocks, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AreaError::Config`], [`AreaError::BadPlace`].
    ///
    /// # Safety
    /// Nobody else accesses [`bytes_for`](Area::bytes_for) bytes at `offset` until the caller
    /// publishes the place, and they hold zeros or what was there is done with.
    ///
    /// # If a process dies here
    /// The place was not published; whoever owns the memory makes the area again.
    pub unsafe fn create_in_place(
        mapping: &Arc<Mapping>,
        offset: u64,
        config: &AreaConfig,
    ) -> Result<Area, AreaError> {
        let wrong = |what, value, allowed| AreaError::Config { what, value, allowed };
        let (page, rows) = (u64::from(config.page_bytes), u64::from(config.heaps));
        if !page.is_power_of_two() || !(64..=65536).contains(&page) {
            return Err(wrong("page_bytes", page, "a power of two from 64 to 65536"));
        }
        if !(1..=ROWS_MAX).contains(&rows) {
            return Err(wrong("heaps", rows, "1 to 4096"));
        }
        let pages = config.limit_bytes.div_ceil(page);
        let plan = Plan::at(offset, pages, rows, page).filter(|plan| plan.end <= REACH);
        let Some(plan) = plan.filter(|_| (1..=PAGES_MAX).contains(&pages)) else {
            return Err(wrong("limit_bytes", config.limit_bytes, "1 byte to 1 TiB in 2^32 pages"));
        };
        let region = mapping.region();
        region.range(offset, plan.end - offset)?;
        for row in 0..rows {
            // SAFETY: exclusive by the caller's promise.
            unsafe { region.place(plan.rows + row * size_of::<Row>() as u64, Row::new())? };
        }
        for page in 0..pages {
            let at = plan.words + page * size_of::<AtomicU64>() as u64;
            // SAFETY: exclusive by the caller's promise.
            unsafe { region.place(at, AtomicU64::new(0))? };
            let at = plan.descriptors + page * size_of::<Descriptor>() as u64;
            // SAFETY: exclusive by the caller's promise.
            unsafe { region.place(at, Descriptor::new())? };
        }
        let tag = Tag::of(config.tag.unwrap_or_else(|| RandomState::new().hash_one(offset)));
        let head = Head::new(pages, rows, page, tag.to_word());
        // SAFETY: exclusive by the caller's promise.
        unsafe { region.place(offset, head)? };
        Area::attach_in_place(mapping, offset)
    }

    /// The area that somebody made at `offset` of `mapping`.
    ///
    /// # Errors
    /// [`AreaError::NotAnArea`], [`AreaError::BadPlace`].
    pub fn attach_in_place(mapping: &Arc<Mapping>, offset: u64) -> Result<Area, AreaError> {
        let head = Mapped::<Head>::new(mapping, offset)?;
        let wrong = |what, value| AreaError::NotAnArea { what, value };
        let word = |what, word: &AtomicU64, is_right: &dyn Fn(u64) -> bool| {
            let value = word.load(Ordering::Relaxed);
            if is_right(value) { Ok(value) } else { Err(wrong(what, value)) }
        };
        word("magic", &head.magic, &|magic| magic == MAGIC)?;
        word("layout", &head.layout, &|layout| layout == FINGERPRINT)?;
        let rows = word("rows", &head.rows, &|rows| (1..=ROWS_MAX).contains(&rows))?;
        let page = word("page_bytes", &head.page_bytes, &|page| {
            page.is_power_of_two() && (64..=65536).contains(&page)
        })?;
        let pages = word("pages", &head.pages, &|pages| (1..=PAGES_MAX).contains(&pages))?;
        let tag = head.tag.load(Ordering::Relaxed);
        let tag = Tag::from_word(tag).ok_or(wrong("tag", tag))?;
        let plan = Plan::at(offset, pages, rows, page).filter(|plan| plan.end <= REACH);
        let plan = plan.ok_or(wrong("pages", pages))?;
        mapping.region().range(plan.data, plan.end - plan.data)?;
        let inner = Inner {
            rows: MappedSlice::new(mapping, plan.rows, rows)?,
            words: MappedSlice::new(mapping, plan.words, pages)?,
            descriptors: MappedSlice::new(mapping, plan.descriptors, pages)?,
            base: mapping.region().base(),
            data: plan.data,
            end: plan.end,
            page_shift: page.trailing_zeros(),
            tag,
            classes: Classes::new(page as u32),
            mapping: mapping.clone(),
            head,
        };
        Ok(Area { inner: Arc::new(inner) })
    }

    /// The address of a block. Which area and whether it lies in it is checked, and no shared word
    /// read: 8 bytes there are the area's; whether they are still a block is the caller's affair.
    ///
    /// # Errors
    /// [`NotOfThisArea`].
    #[inline]
    pub fn resolve(&self, ptr: AreaPtr) -> Result<NonNull<u8>, NotOfThisArea> {
        self.resolve_len(ptr, 8)
    }

    /// The same for `len` bytes.
    ///
    /// # Errors
    /// [`NotOfThisArea`].
    #[inline]
    pub fn resolve_len(&self, ptr: AreaPtr, len: u64) -> Result<NonNull<u8>, NotOfThisArea> {
        match ptr.offset(self.inner.tag) {
            Some(at) if at >= self.inner.data && len <= self.inner.end.saturating_sub(at) => {
                Ok(self.inner.address(at))
            }
            _ => Err(NotOfThisArea { ptr }),
        }
    }

    /// The pointer to a word of the mapping in which the area lies, inside of a block or not: what
    /// an intent calls its destination.
    pub fn place_of(&self, word: &AtomicU64) -> Option<AreaPtr> {
        let at = std::ptr::from_ref(word).addr().checked_sub(self.inner.base.addr().get())?;
        let end = at.checked_add(size_of::<AtomicU64>())?;
        let is_inside = end <= self.inner.mapping.len() && (at as u64) < REACH;
        is_inside.then(|| AreaPtr::new(self.inner.tag, at as u64))
    }

    /// The word at such a place.
    pub fn word_at(&self, place: AreaPtr) -> Option<&AtomicU64> {
        self.inner.mapping.region().share(place.offset(self.inner.tag)?).ok()
    }

    /// Bytes of blocks that it has room for.
    pub fn limit_bytes(&self) -> u64 {
        self.inner.end - self.inner.data
    }
}

/// A tail's distance has 32 bits.
const PAGES_MAX: u64 = 1 << 32;

impl Inner {
    #[inline]
    fn address(&self, offset: u64) -> NonNull<u8> {
        debug_assert!(offset < self.end);
        // SAFETY: inside of the mapping, which reaches to `end` at least.
        unsafe { self.base.add(offset as usize) }
    }

    /// Offset of a page's first byte.
    #[inline]
    fn page_offset(&self, page: usize) -> u64 {
        self.data + ((page as u64) << self.page_shift)
    }

    fn ptr(&self, offset: u64) -> AreaPtr {
        AreaPtr::new(self.tag, offset)
    }

    /// The page that a pointer leads into, and how far.
    #[inline]
    fn page_of(&self, ptr: AreaPtr) -> Option<(usize, u64)> {
        let at = ptr.offset(self.tag)?.checked_sub(self.data)?;
        let page = (at >> self.page_shift) as usize;
        (page < self.words.len()).then_some((page, at & ((1 << self.page_shift) - 1)))
    }
}
