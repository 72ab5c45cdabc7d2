//! A heap in shared memory: blocks of any size, for all processes that map it, that survive deaths.
//!
//! An [`Area`] lies in place in a mapping. Each thread has a [`Heap`] of it, allocates from pages
//! of its own, and frees blocks of anybody's. A block is named by an [`AreaPtr`], which means the
//! same to every process. A process may be killed at any instruction: once it is
//! [reaped](Area::reap), each of its blocks is either named by the word for which it was made or is
//! free again, and every page is somebody's or free.
//!
//! ```text
//!  offset   rows, 128 B each    page map, 8 B a page   descriptors, 128 B     pages, 8 KiB each
//!  | head | heap 0 | heap 1 … | SPAN TAIL FREE RUN … | bits | – | – | – … | blocks … | … |
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
//! # Limits
//!
//! A peer that overwrites words of an area makes answers wrong: blocks may overlap or be lost. No
//! call panics, hangs, or touches what is outside the area, except that a reaper sets a word of the
//! mapping to 0 where that names the block of an intent.
mod check;
mod class;
mod error;
mod heap;
mod map;
mod order;
mod ptr;
mod reap;
mod shared;
mod span;
#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests;

pub use check::{AreaStats, Fault, Report};
pub use error::{AllocError, AreaError, FreeError};
pub use heap::Heap;
pub use ptr::AreaPtr;
pub use reap::Reaped;

use class::{ALIGN_MAX, Classes, PAGE, Shape};
use map::Place;
use ptr::{REACH, Tag};
use shared::{Descriptor, FINGERPRINT, Head, MAGIC, ROWS_MAX, Row};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use std::hash::{BuildHasher, RandomState};
use std::ptr::NonNull;
use std::sync::Arc;

/// How large an area is, and for how many threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreaConfig {
    pages: u64,
    heaps: u32,
    page_bytes: u32,
    tag: Option<u64>,
}

impl AreaConfig {
    /// With room for blocks of `bytes` in all (pages of 8 KiB), for 64 heaps.
    pub const fn new(bytes: u64) -> AreaConfig {
        let pages = bytes.div_ceil(PAGE as u64);
        AreaConfig { pages, heaps: 64, page_bytes: PAGE, tag: None }
    }

    /// For so many threads at once, of all processes: 1 to 4096.
    #[must_use]
    pub const fn heaps(self, heaps: u32) -> AreaConfig {
        AreaConfig { heaps, ..self }
    }

    /// For models: `pages` of `page_bytes`, and always the same pointers.
    #[doc(hidden)]
    #[must_use]
    pub const fn tiny(pages: u64, page_bytes: u32, heaps: u32) -> AreaConfig {
        AreaConfig { pages, heaps, page_bytes, tag: Some(7) }
    }

    fn check(&self) -> Result<(), AreaError> {
        let (heaps, page) = (u64::from(self.heaps), u64::from(self.page_bytes));
        if !(1..=ROWS_MAX).contains(&heaps) {
            return Err(AreaError::Config { what: "heaps", value: heaps });
        }
        if !(1..u64::from(u32::MAX)).contains(&self.pages) {
            return Err(AreaError::Config { what: "pages", value: self.pages });
        }
        if !page.is_power_of_two() || !(64..=u64::from(PAGE)).contains(&page) {
            return Err(AreaError::Config { what: "page size", value: page });
        }
        Ok(())
    }
}

/// Where the parts are, in the mapping.
#[derive(Clone, Copy)]
struct Plan {
    rows: u64,
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
        let map = rows.saturating_add(config.heaps as u64 * size_of::<Row>() as u64);
        let words = config.pages.saturating_mul(size_of::<AtomicU64>() as u64);
        let descriptors = round_up(map.saturating_add(words), align_of::<Descriptor>() as u64);
        let lines = config.pages.saturating_mul(size_of::<Descriptor>() as u64);
        let align = if page < ALIGN_MAX { page } else { ALIGN_MAX };
        let pages = round_up(descriptors.saturating_add(lines), align);
        let end = pages.saturating_add(config.pages.saturating_mul(page));
        Plan { rows, map, descriptors, pages, end }
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
    map: MappedSlice<AtomicU64>,
    descriptors: MappedSlice<Descriptor>,
    /// Private copies, checked once.
    base: NonNull<u8>,
    pages_at: u64,
    end: u64,
    page: u64,
    tag: Tag,
    classes: Classes,
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

    /// Makes an empty area at `offset` of `mapping`, a multiple of 128.
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
        config.check()?;
        let plan = Plan::new(config, offset);
        mapping.region().sub(offset, plan.end.saturating_sub(offset))?;
        let (rows, pages) = (u64::from(config.heaps), config.pages);
        for row in 0..rows {
            let at = plan.rows + row * size_of::<Row>() as u64;
            // SAFETY: the caller's promise.
            unsafe { Mapped::place(mapping, at, Row::new()) }?;
        }
        for page in 0..pages {
            let at = plan.map + page * size_of::<AtomicU64>() as u64;
            // SAFETY: the caller's promise.
            unsafe { Mapped::place(mapping, at, AtomicU64::new(0)) }?;
            let at = plan.descriptors + page * size_of::<Descriptor>() as u64;
            // SAFETY: the caller's promise.
            unsafe { Mapped::place(mapping, at, Descriptor::new()) }?;
        }
        let tag = Tag::of(config.tag.unwrap_or_else(|| RandomState::new().hash_one(pages)));
        let head = Head::new(pages, rows, u64::from(config.page_bytes), tag.to_word());
        // SAFETY: the caller's promise.
        unsafe { Mapped::place(mapping, offset, head) }?;
        Area::attach_in_place(mapping, offset)
    }

    /// The area at `offset` of `mapping`.
    ///
    /// # Errors
    /// [`AreaError`] where there is none.
    pub fn attach_in_place(mapping: &Arc<Mapping>, offset: u64) -> Result<Area, AreaError> {
        let head = Mapped::<Head>::new(mapping, offset)?;
        // Relaxed, all: written before the area was published.
        let [magic, layout, pages, rows, page, tag] =
            [&head.magic, &head.layout, &head.pages, &head.rows, &head.page_bytes, &head.tag]
                .map(|word| word.load(Ordering::Relaxed));
        let tag = Tag::from_word(tag).ok_or(AreaError::NotArea)?;
        if magic != MAGIC || layout != FINGERPRINT {
            return Err(AreaError::NotArea);
        }
        let config = AreaConfig {
            pages,
            heaps: u32::try_from(rows).unwrap_or(u32::MAX),
            page_bytes: u32::try_from(page).unwrap_or(u32::MAX),
            tag: None,
        };
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
                map: MappedSlice::new(mapping, plan.map, pages)?,
                descriptors: MappedSlice::new(mapping, plan.descriptors, pages)?,
                base: mapping.region().base(),
                pages_at: plan.pages,
                end: plan.end,
                page,
                tag,
                classes: Classes::new(config.page_bytes),
            }),
        })
    }

    /// Where a block is. Tag and range are checked and no shared word is read: that there is a
    /// block, and of what size, the caller knows. At least 8 bytes lie there.
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
        // SAFETY: inside the mapping, which `attach_in_place` has checked.
        Ok(unsafe { inner.base.add(offset as usize) })
    }

    /// The mapping in which it lies, and in which the destinations of blocks lie.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.inner.mapping
    }
}
