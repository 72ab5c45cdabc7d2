//! A heap in shared memory: blocks of any size, for all processes that map it, that survive deaths.
//!
//! An [`Area`] lies in place in a mapping. Each thread has a [`Heap`] of it, allocates from pages
//! of its own, and frees blocks of anybody's. A block is named by an [`AreaPtr`], which means the
//! same to every process. A process may be killed at any instruction: once it is
//! [reaped](Area::reap), each of its blocks is either named by the word for which it was made or is
//! free again, and every page is somebody's or free.
//!
//! ```text
//!  offset   rows, 128 B each     page map, 8 B a page   descriptors, 128 B     pages, 8 KiB each
//!  | head | heap 0 … | chunks | SPAN TAIL FREE RUN … | bits | – | – | – … | blocks … | … |
//! ```
//!
//! A *span* is one or a few pages of blocks of one size, and belongs to one heap; a *run* is one
//! large block. Pages are taken by compare-and-swap, one by one, to words that name the taker
//! (see `Page` in `shared.rs`), so the pages of a dead one are found by reading the page map.
//!
//! # Blocks
//!
//! Which blocks of its span are allocated only the span's owner writes, with plain stores. Whoever
//! else frees a block sets its bit in `freed`, and the owner takes such blocks back when it runs
//! out of others.
//!
//! | step of `alloc_to` | a death after it |
//! | --- | --- |
//! | `destination`, then `intent` = LINK block | the destination does not name it: its reaper clears the `allocated` bit |
//! | the `allocated` bit (of a run: TAKEN → RUN) | the same |
//! | the block is initialised | the same |
//! | the destination names the block | it is the destination's |
//! | `intent` = 0 | |
//!
//! | step of `free_from` | a death after it |
//! | --- | --- |
//! | `destination`, then `intent` = FREE block | its reaper does the rest |
//! | the destination is 0 | the same |
//! | own span: the `allocated` bit goes; another's: the `freed` bit; a run: RUN → TAKEN | the same, again: it makes no difference |
//! | `intent` = 0 | |
//!
//! That doing it again makes no difference has two reasons. The dead one's own spans are nobody
//! else's before all its intents are settled. And a block in another's span is not taken back by
//! the span's owner while any intent says FREE about it: the owner sees the `freed` bit, and with
//! it (Release, Acquire) the intent that was set before; and if it sees a later intent, the bit
//! will not be set again. So until then the bit stays, and setting it again is nothing.
//!
//! What a reaper sees are the stores that the dead one has executed, in the order of its program,
//! which the compiler is kept from changing (`order.rs`).
//!
//! # Deaths
//!
//! | death of | leaves | repaired by |
//! | --- | --- | --- |
//! | who takes or gives back pages | TAKEN by the dead one, with some of the tails | [`Area::reap`] |
//! | who allocates or frees | an intent | the same |
//! | who takes back what others freed | blocks that are free and still marked | whoever adopts the span |
//! | a heap's thread, otherwise | spans of the dead one | the same: without an owner they are anybody's, or free if empty |
//! | that reaper | a part of it done | the next one, from the beginning |
//!
//! A process that is stopped keeps its spans, and in the middle of a free one block; others have
//! all the other pages.
//!
//! # Chunks
//!
//! An area in a [domain](Area::create) has its greatest size from the beginning, as a file with a
//! hole. Memory stands behind those *chunks* of its pages that are THERE, and is put there before
//! the first page is handed out, so that a full file system is an error and no signal. An address
//! is the base and an offset, whatever comes and goes. Whoever finds no pages claims a chunk that
//! is GONE, puts memory behind it, and says so; whoever has all pages of one may give its memory
//! back. Page map and descriptors of a chunk stay once they are there, so that they can be read at
//! any time.
//!
//! | death of | leaves | repaired by |
//! | --- | --- | --- |
//! | who puts memory behind a chunk | COMING, by the dead one, with some memory | [`Area::reap`]: it is GONE, without |
//! | who gives it back | GOING, by the dead one, who has its pages | the same |
//!
//! # Limits
//!
//! A peer that overwrites words of an area makes answers wrong: blocks may overlap or be lost. No
//! call panics, hangs, or touches what is outside the area, except that a reaper sets a word of the
//! mapping to 0 where that names the block of an intent.
mod check;
mod chunk;
mod class;
mod config;
mod error;
mod heap;
mod map;
mod private;
mod ptr;
mod reap;
mod shared;
mod span;
#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests;

pub use check::{AreaStats, ClassStats, Fault, Report};
#[doc(hidden)]
pub use chunk::Memory;
pub use config::{AllocOptions, AreaConfig, BLOCK_MAX};
pub use error::{AllocError, AreaError, FreeError};
pub use heap::Heap;
pub use ptr::AreaPtr;
pub use reap::Reaped;

use crate::handle::SegmentHandle;
use class::{ALIGN_MAX, Classes, Shape};
use map::Place;
use ptr::{REACH, Tag};
use shared::{Descriptor, FINGERPRINT, Head, MAGIC, ROWS_MAX, Row};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::Member;
use shm_core::sync::{AtomicU64, Ordering};
use std::hash::{BuildHasher, RandomState};
use std::ptr::NonNull;
use std::sync::Arc;

/// Where the parts are, in the mapping.
#[derive(Clone, Copy)]
struct Plan {
    rows: u64,
    chunks: u64,
    map: u64,
    descriptors: u64,
    pages: u64,
    end: u64,
}

impl Plan {
    /// `config` was checked, so only `offset` can be too large: then the end is beyond all reach.
    const fn new(config: &AreaConfig, offset: u64) -> Plan {
        let page = config.page_bytes as u64;
        let rows = offset.saturating_add(size_of::<Head>() as u64);
        let chunks = rows.saturating_add(config.heaps as u64 * size_of::<Row>() as u64);
        let map = chunks.saturating_add(config.chunks() * size_of::<AtomicU64>() as u64);
        let words = config.pages.saturating_mul(size_of::<AtomicU64>() as u64);
        let descriptors = round_up(map.saturating_add(words), align_of::<Descriptor>() as u64);
        let lines = config.pages.saturating_mul(size_of::<Descriptor>() as u64);
        let align = if page < ALIGN_MAX { page } else { ALIGN_MAX };
        let pages = round_up(descriptors.saturating_add(lines), align);
        let end = pages.saturating_add(config.pages.saturating_mul(page));
        Plan { rows, chunks, map, descriptors, pages, end }
    }
}

const fn round_up(offset: u64, align: u64) -> u64 {
    match offset.checked_next_multiple_of(align) {
        Some(rounded) => rounded,
        None => u64::MAX,
    }
}

/// A shared heap, seen by one process. Clones are the same one. See the [module](self).
///
/// ```
/// use dsm::area::{Area, AreaConfig};
/// use shm_core::mapping::{Mapped, Mapping};
/// use shm_core::participants::Table;
/// use shm_core::sync::{AtomicU64, Ordering};
///
/// // In real life all three lie in one shared mapping; the root does in any case.
/// let mapping = Mapping::heap(Table::bytes_for(4) as usize);
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 4)? };
/// let config = AreaConfig::new(1 << 20);
/// let mapping = Mapping::heap(128 + Area::bytes_for(&config) as usize);
/// // SAFETY: as above.
/// let root = unsafe { Mapped::place(&mapping, 0, AtomicU64::new(0))? };
/// // SAFETY: as above.
/// let area = unsafe { Area::create_in_place(&mapping, 128, &config)? };
///
/// let heap = area.heap(&table.join()?)?;
/// let block = heap.alloc_to(&root, 100, |address| {
///     // SAFETY: 100 bytes, ours alone until this returns.
///     unsafe { address.write_bytes(7, 100) }
/// })?;
/// assert_eq!(root.load(Ordering::Acquire), block.to_bits());
/// let address = area.resolve(block)?;
/// # let _ = address;
///
/// heap.free_from(&root)?;
/// assert_eq!(root.load(Ordering::Relaxed), 0);
/// assert_eq!(area.stats().blocks, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Area {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mapping: Arc<Mapping>,
    head: Mapped<Head>,
    rows: MappedSlice<Row>,
    /// None where all memory is there for good.
    chunks: MappedSlice<AtomicU64>,
    map: MappedSlice<AtomicU64>,
    descriptors: MappedSlice<Descriptor>,
    /// Private copies, checked once.
    base: NonNull<u8>,
    last_word: u64,
    rows_at: u64,
    map_at: u64,
    descriptors_at: u64,
    pages_at: u64,
    end: u64,
    page: u64,
    page_shift: u32,
    chunk_shift: u32,
    keep: u64,
    tag: Tag,
    classes: Classes,
    memory: Option<Arc<dyn Memory>>,
    census: Option<Arc<Member>>,
    handle: Option<SegmentHandle>,
}

/// What an area in a domain has beside its mapping.
#[doc(hidden)]
#[derive(Clone, Debug, Default)]
pub struct Support {
    /// What is behind the mapping, where that comes and goes.
    pub memory: Option<Arc<dyn Memory>>,
    /// This process, among those who use the area: then the dead are known, and reaped whenever
    /// there is no room.
    pub census: Option<Arc<Member>>,
    /// The segment in which it lies.
    pub handle: Option<SegmentHandle>,
}

// SAFETY: `base` is the mapping's, which is kept; access goes through `Region` or is the caller's.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Area {
    /// Memory that an area takes.
    pub const fn bytes_for(config: &AreaConfig) -> u64 {
        // Wherever it begins, its pages begin at a multiple of their alignment.
        Plan::new(config, 0).end.saturating_add(ALIGN_MAX)
    }

    /// Bytes at the beginning that an area needs before it has a single page.
    pub(crate) const fn bytes_fixed(config: &AreaConfig) -> u64 {
        Plan::new(config, 0).map
    }

    /// Makes an empty area at `offset` of `mapping`, a multiple of 128, with all of its pages.
    ///
    /// # Errors
    /// [`AreaError`]. The mapping is as it was, or has a part of the area in it.
    ///
    /// # Safety
    /// Nobody else accesses these bytes until the caller has published the area.
    ///
    /// # If a process dies here
    /// The area is not published, and its creator's successor makes it again.
    pub unsafe fn create_in_place(
        mapping: &Arc<Mapping>,
        offset: u64,
        config: &AreaConfig,
    ) -> Result<Area, AreaError> {
        // SAFETY: the caller's promise.
        unsafe { Area::create_over(mapping, offset, &config.fixed(), Support::default()) }
    }

    /// As [`create_in_place`](Area::create_in_place); where the memory comes and goes, all bytes
    /// are zero, and memory stands behind the first [`bytes_fixed`](Area::bytes_fixed).
    #[doc(hidden)]
    pub unsafe fn create_over(
        mapping: &Arc<Mapping>,
        offset: u64,
        config: &AreaConfig,
        support: Support,
    ) -> Result<Area, AreaError> {
        config.check()?;
        let plan = Plan::new(config, offset);
        mapping.region().sub(offset, plan.end.saturating_sub(offset))?;
        let place = |at: u64, index: u64| {
            let at = at + index * size_of::<AtomicU64>() as u64;
            // SAFETY: the caller's promise.
            unsafe { Mapped::place(mapping, at, AtomicU64::new(0)) }
        };
        for row in 0..u64::from(config.heaps) {
            let at = plan.rows + row * size_of::<Row>() as u64;
            // SAFETY: the caller's promise.
            unsafe { Mapped::place(mapping, at, Row::new()) }?;
        }
        for chunk in 0..config.chunks() {
            place(plan.chunks, chunk)?;
        }
        let is_zero = config.chunks() > 0 && !cfg!(any(shm_loom, shm_explore));
        for page in (0..config.pages).filter(|_| !is_zero) {
            place(plan.map, page)?;
            let at = plan.descriptors + page * size_of::<Descriptor>() as u64;
            // SAFETY: the caller's promise.
            unsafe { Mapped::place(mapping, at, Descriptor::new()) }?;
        }
        let tag = Tag::of(config.tag.unwrap_or_else(|| RandomState::new().hash_one(config.pages)));
        // SAFETY: the caller's promise.
        unsafe { Mapped::place(mapping, offset, Head::new(config, tag.to_word())) }?;
        let area = Area::attach_over(mapping, offset, support)?;
        area.begin(config.initial)?;
        Ok(area)
    }

    /// The area at `offset` of `mapping`. One whose memory comes and goes gets no more of it here.
    ///
    /// # Errors
    /// [`AreaError`] where there is none.
    pub fn attach_in_place(mapping: &Arc<Mapping>, offset: u64) -> Result<Area, AreaError> {
        Area::attach_over(mapping, offset, Support::default())
    }

    #[doc(hidden)]
    pub fn attach_over(
        mapping: &Arc<Mapping>,
        offset: u64,
        support: Support,
    ) -> Result<Area, AreaError> {
        let head = Mapped::<Head>::new(mapping, offset)?;
        // Relaxed, all: written before the area was published.
        let [magic, layout, pages, rows, page, tag, chunk, keep] = [
            &head.magic,
            &head.layout,
            &head.pages,
            &head.rows,
            &head.page_bytes,
            &head.tag,
            &head.chunk_pages,
            &head.keep,
        ]
        .map(|word| word.load(Ordering::Relaxed));
        let tag = Tag::from_word(tag).ok_or(AreaError::NotArea)?;
        if magic != MAGIC || layout != FINGERPRINT {
            return Err(AreaError::NotArea);
        }
        let config = AreaConfig::found(pages, rows, page, chunk);
        config.check()?;
        let plan = Plan::new(&config, offset);
        mapping.region().sub(offset, plan.end.saturating_sub(offset))?;
        if plan.end > REACH {
            return Err(AreaError::Config { what: "end", value: plan.end });
        }
        Ok(Area {
            inner: Arc::new(Inner {
                mapping: mapping.clone(),
                head,
                rows: MappedSlice::new(mapping, plan.rows, rows)?,
                chunks: MappedSlice::new(mapping, plan.chunks, config.chunks())?,
                map: MappedSlice::new(mapping, plan.map, pages)?,
                descriptors: MappedSlice::new(mapping, plan.descriptors, pages)?,
                base: mapping.region().base(),
                last_word: (mapping.len() - size_of::<AtomicU64>()) as u64,
                rows_at: plan.rows,
                map_at: plan.map,
                descriptors_at: plan.descriptors,
                pages_at: plan.pages,
                end: plan.end,
                page,
                page_shift: config.page_bytes.trailing_zeros(),
                chunk_shift: if chunk == 0 { 0 } else { chunk.trailing_zeros() },
                keep,
                tag,
                classes: Classes::new(config.page_bytes),
                memory: support.memory,
                census: support.census,
                handle: support.handle,
            }),
        })
    }

    /// Where a block is. Tag and range are checked, and where memory comes and goes that there is
    /// some: that there is a block, and of what size, the caller knows. At least 8 bytes lie there.
    ///
    /// # Errors
    /// [`FreeError::NotOfArea`], [`FreeError::NotABlock`] where it is not at a multiple of 8.
    #[inline]
    pub fn resolve(&self, ptr: AreaPtr) -> Result<NonNull<u8>, FreeError> {
        self.resolve_len(ptr, 8)
    }

    /// As [`resolve`](Area::resolve), for `len` bytes, which all lie in the area's pages.
    ///
    /// # Errors
    /// As `resolve`.
    #[inline]
    pub fn resolve_len(&self, ptr: AreaPtr, len: u64) -> Result<NonNull<u8>, FreeError> {
        let inner = &*self.inner;
        let not_of_area = FreeError::NotOfArea(ptr.to_bits());
        let offset = ptr.offset(inner.tag).ok_or(not_of_area)?;
        let end = offset.checked_add(len).ok_or(not_of_area)?;
        if offset < inner.pages_at || end > inner.end {
            return Err(not_of_area);
        }
        if !offset.is_multiple_of(8) {
            return Err(FreeError::NotABlock(ptr.to_bits()));
        }
        if !self.is_there(((offset - inner.pages_at) >> inner.page_shift) as u32) {
            return Err(not_of_area);
        }
        // SAFETY: inside the mapping, which `attach_in_place` has checked.
        Ok(unsafe { inner.base.add(offset as usize) })
    }

    /// Where `len` bytes from `offset` on lie, of this area's pages.
    #[inline(always)]
    pub(crate) fn resolve_offset(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        let inner = &*self.inner;
        let room = inner.end.checked_sub(len)?;
        if offset < inner.pages_at || offset > room {
            return None;
        }
        if !self.is_there(((offset - inner.pages_at) >> inner.page_shift) as u32) {
            return None;
        }
        // SAFETY: inside the mapping, which `attach_in_place` has checked.
        Some(unsafe { inner.base.add(offset as usize) })
    }

    /// Where a block of ours lies.
    #[inline]
    fn address(&self, block: AreaPtr) -> NonNull<u8> {
        // SAFETY: inside the mapping, as `Plan` has laid it out.
        unsafe { self.inner.base.add((block.to_bits() & (REACH - 1)) as usize) }
    }

    /// A word of the area in which its users may name a block that leads to all others; 0 at first.
    pub fn root(&self) -> &AtomicU64 {
        &self.inner.head.root
    }

    /// By what others attach to it; `None` for one in place.
    pub fn handle(&self) -> Option<SegmentHandle> {
        self.inner.handle
    }

    /// The mapping in which it lies, and in which the destinations of blocks lie.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.inner.mapping
    }
}
