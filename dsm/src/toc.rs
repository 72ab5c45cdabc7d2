//! A table of contents: from a number that both sides know to the place in the segment.
//!
//! The one who makes a segment puts things into it (a plan, a queue, an array) and files each under
//! a key; the others find it by the key alone. Entries are only ever added.
//!
//! ```text
//!  0         64            64 + 16 × entries                              total
//!  | header  | entries →   |        free        | … chunk 2 | chunk 1 | chunk 0 |
//!                                                ← chunks
//! ```
//!
//! An insertion takes two steps, each a compare-and-swap that anyone may finish or win:
//!
//! | step | word | a death after it leaves |
//! | --- | --- | --- |
//! | (allocate) | `allocated` moves | the chunk, unreachable until the segment goes |
//! | claim the key | `entry.key`: 0 → key + 1 | a key without a value: looked up, it is missing; inserted again, it is completed |
//! | publish | `entry.value`: 0 → offset + 1 | the entry |
//!
//! A key is claimed in one place only: entries fill up in order and never empty again, so two
//! inserters of one key pass the same full entries and meet at the first empty one, where one
//! compare-and-swap fails and shows the other's key.
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use shm_core::{BadPtr, Reserved, shm_sync};
use std::sync::Arc;

/// Chunks begin at multiples of this, or of what [`Toc::allocate`] was asked for if that is more.
pub const CHUNK_ALIGN: u64 = 64;
/// The largest alignment: a page, as that is all that every mapping promises.
pub const CHUNK_ALIGN_MAX: u64 = 4096;

/// Rounds in which others may allocate before us. Among honest processes nobody loses so many in a
/// row; one that overwrites the word without end shall not hold us up without end.
const ROUNDS_MAX: u32 = 1 << 20;

/// "shm-toc" and the version of the layout.
const LAYOUT: u64 = u64::from_le_bytes(*b"shm-toc\x01");

/// The header.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `magic` | creator, last | attachers, first | Release / Acquire: the fields below |
/// | `layout`, `total`, `entries` | creator | attachers, once, then private | `magic` |
/// | `allocated` | whoever allocates | the same | nothing: a chunk is published by its entry |
#[derive(Debug)]
#[repr(C, align(64))]
struct Header {
    magic: AtomicU64,
    layout: AtomicU64,
    total: AtomicU64,
    entries: AtomicU64,
    allocated: AtomicU64,
    reserved: Reserved<3>,
}

/// One entry. `key` is set once (key + 1), then `value` once (offset + 1).
#[derive(Debug)]
#[repr(C)]
struct Entry {
    key: AtomicU64,
    value: AtomicU64,
}

#[cfg(not(shm_loom))]
const _: () = assert!(size_of::<Header>() == 64 && size_of::<Entry>() == 16);

shm_sync!(Header { magic, layout, total, entries, allocated, reserved });
shm_sync!(Entry { key, value });

impl Header {
    fn new() -> Header {
        Header {
            magic: AtomicU64::new(0),
            layout: AtomicU64::new(LAYOUT),
            total: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
            reserved: Reserved::new(),
        }
    }
}

impl Entry {
    fn new() -> Entry {
        Entry { key: AtomicU64::new(0), value: AtomicU64::new(0) }
    }
}

/// Why a table of contents could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TocError {
    /// The mapping is too small for the header and the entries.
    #[error("a table of contents of {needed} bytes does not fit into {len} bytes")]
    TooSmall {
        /// Bytes that header and entries take.
        needed: u64,
        /// Bytes in the mapping.
        len: u64,
    },
    /// There is no table of contents with this magic number: nobody made one, or another program.
    #[error("table of contents has magic {found:#x}, not {expected:#x}")]
    Magic {
        /// What the caller asked for.
        expected: u64,
        /// What stands there.
        found: u64,
    },
    /// Zero cannot be a magic number, `u64::MAX` cannot be a key.
    #[error("this value is reserved")]
    Reserved,
    /// Not a power of two up to [`CHUNK_ALIGN_MAX`].
    #[error("an alignment of {align} bytes is not a power of two up to {CHUNK_ALIGN_MAX}")]
    Alignment {
        /// What the caller asked for.
        align: u64,
    },
    /// No room for a chunk.
    #[error("{size} bytes do not fit: {free} bytes are free")]
    Full {
        /// What the caller asked for.
        size: u64,
        /// Bytes left for chunks.
        free: u64,
    },
    /// No room for another key.
    #[error("all {entries} entries are taken")]
    EntriesFull {
        /// How many entries there are.
        entries: u64,
    },
    /// The key has a value already.
    #[error("key {key:#x} is in the table already")]
    Duplicate {
        /// The key.
        key: u64,
    },
    /// The chunk filed under a key would lie outside the segment's chunks.
    #[error("offset {offset} is not inside the chunks")]
    Offset {
        /// What the caller passed.
        offset: u64,
    },
    /// Another process wrote nonsense here.
    #[error("the table of contents is corrupt: {what} is {value:#x}")]
    Corrupt {
        /// Which word.
        what: &'static str,
        /// What stands in it.
        value: u64,
    },
    /// The sizes of a [`TocPlan`] add up to more than 64 bits hold.
    #[error("the sizes add up to more than 64 bits hold")]
    Overflow,
}

impl From<BadPtr> for TocError {
    fn from(bad: BadPtr) -> TocError {
        match bad {
            BadPtr::OutOfBounds { offset, len, region } => {
                TocError::TooSmall { needed: offset.saturating_add(len), len: region }
            }
            _ => TocError::Alignment { align: CHUNK_ALIGN },
        }
    }
}

/// Adds up what a table of contents and its chunks need.
///
/// ```
/// use dsm::toc::TocPlan;
/// let bytes = TocPlan::new().chunk(1000).chunk(8).keys(2).bytes().unwrap();
/// assert_eq!(bytes, 64 + 64 + 1024 + 64);
/// assert!(TocPlan::new().chunk(u64::MAX).bytes().is_err());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TocPlan {
    chunks: Option<u64>,
    keys: u64,
}

impl TocPlan {
    /// No chunk, no key.
    pub const fn new() -> TocPlan {
        TocPlan { chunks: Some(0), keys: 0 }
    }

    /// One more chunk of `size` bytes.
    pub fn chunk(self, size: u64) -> TocPlan {
        self.chunk_aligned(size, CHUNK_ALIGN)
    }

    /// One more chunk of `size` bytes that begins at a multiple of `align`.
    pub fn chunk_aligned(self, size: u64, align: u64) -> TocPlan {
        let slack = align.max(CHUNK_ALIGN) - CHUNK_ALIGN;
        let add = |sum: u64| sum.checked_add(padded(size)?)?.checked_add(slack);
        TocPlan { chunks: self.chunks.and_then(add), ..self }
    }

    /// Room for `count` more keys.
    pub fn keys(self, count: u64) -> TocPlan {
        TocPlan { keys: self.keys.saturating_add(count), ..self }
    }

    /// How many keys there is room for: what [`Toc::create`] wants to know.
    pub fn entries(&self) -> u64 {
        self.keys
    }

    /// How long the segment must be.
    ///
    /// # Errors
    /// [`TocError::Overflow`].
    pub fn bytes(&self) -> Result<u64, TocError> {
        let head = head_bytes(self.keys).ok_or(TocError::Overflow)?;
        self.chunks.and_then(|chunks| chunks.checked_add(head)).ok_or(TocError::Overflow)
    }
}

impl Default for TocPlan {
    fn default() -> TocPlan {
        TocPlan::new()
    }
}

/// What a chunk of `size` bytes takes.
fn padded(size: u64) -> Option<u64> {
    size.max(1).checked_next_multiple_of(CHUNK_ALIGN)
}

/// Bytes in front of the chunks.
fn head_bytes(entries: u64) -> Option<u64> {
    entries
        .checked_mul(size_of::<Entry>() as u64)?
        .checked_add(size_of::<Header>() as u64)?
        .checked_next_multiple_of(CHUNK_ALIGN)
}

/// The table of contents of one mapping. Offsets count from the mapping's base.
///
/// ```
/// use dsm::toc::{Toc, TocPlan};
/// use shm_core::mapping::Mapping;
///
/// const MAGIC: u64 = 0x1234;
/// const KEY_PLAN: u64 = 1;
/// let plan = TocPlan::new().chunk(100).keys(1);
/// let mapping = Mapping::heap(plan.bytes()? as usize);
///
/// let toc = Toc::create(&mapping, MAGIC, plan.entries())?;
/// let chunk = toc.allocate(100)?;
/// // … write the chunk, then show it …
/// toc.insert(KEY_PLAN, chunk)?;
///
/// let theirs = Toc::attach(&mapping, MAGIC)?;
/// assert_eq!(theirs.lookup(KEY_PLAN)?, Some(chunk));
/// # Ok::<(), dsm::toc::TocError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Toc {
    header: Mapped<Header>,
    entries: MappedSlice<Entry>,
    /// Private copies, checked against the mapping once.
    total: u64,
    head: u64,
}

impl Toc {
    /// Makes a table with room for `entries` keys over the whole of `mapping`, which nobody else
    /// uses yet.
    ///
    /// # Errors
    /// [`TocError::TooSmall`]; [`TocError::Reserved`] where `magic` is zero.
    ///
    /// # If a process dies here
    /// Nobody can attach: the magic number is written last.
    pub fn create(mapping: &Arc<Mapping>, magic: u64, entries: u64) -> Result<Toc, TocError> {
        if magic == 0 {
            return Err(TocError::Reserved);
        }
        let toc = Toc::place(mapping, entries)?;
        toc.publish(magic);
        Ok(toc)
    }

    /// Writes everything but the sizes and the magic number. Apart from `publish` for the models:
    /// loom wants its atomics made before anyone looks at them.
    #[doc(hidden)]
    pub fn place(mapping: &Arc<Mapping>, entries: u64) -> Result<Toc, TocError> {
        let len = mapping.len() as u64;
        let total = len - len % CHUNK_ALIGN;
        let head = fitting_head(entries, total)?;
        let first = size_of::<Header>() as u64;
        for entry in 0..entries {
            let offset = first + entry * size_of::<Entry>() as u64;
            // SAFETY: nobody else uses the mapping yet (magic is not written).
            unsafe { mapping.region().place(offset, Entry::new()) }?;
        }
        // SAFETY: as above.
        let header = unsafe { Mapped::place(mapping, 0, Header::new()) }?;
        Ok(Toc { header, entries: MappedSlice::new(mapping, first, entries)?, total, head })
    }

    #[doc(hidden)]
    pub fn publish(&self, magic: u64) {
        self.header.total.store(self.total, Ordering::Relaxed);
        self.header.entries.store(self.entries.len() as u64, Ordering::Relaxed);
        // Pairs with the Acquire in `attach`: the fields above.
        self.header.magic.store(magic, Ordering::Release);
    }

    /// The table that another process made in `mapping`.
    ///
    /// # Errors
    /// [`TocError::Magic`] where there is none, or one of another kind; [`TocError::Corrupt`].
    pub fn attach(mapping: &Arc<Mapping>, magic: u64) -> Result<Toc, TocError> {
        let header = Mapped::<Header>::new(mapping, 0)?;
        // Pairs with the Release in `create`: the fields below.
        let found = header.magic.load(Ordering::Acquire);
        if found != magic || magic == 0 {
            return Err(TocError::Magic { expected: magic, found });
        }
        let corrupt = |what, value| TocError::Corrupt { what, value };
        let layout = header.layout.load(Ordering::Relaxed);
        if layout != LAYOUT {
            return Err(corrupt("layout", layout));
        }
        let total = header.total.load(Ordering::Relaxed);
        if total > mapping.len() as u64 || !total.is_multiple_of(CHUNK_ALIGN) {
            return Err(corrupt("total", total));
        }
        let entries = header.entries.load(Ordering::Relaxed);
        let head = fitting_head(entries, total).map_err(|_| corrupt("entries", entries))?;
        let entries = MappedSlice::new(mapping, size_of::<Header>() as u64, entries)?;
        Ok(Toc { header, entries, total, head })
    }

    /// Takes a chunk of `size` bytes, aligned to 64: its offset. It is nobody else's from then on,
    /// and never given back. One of no bytes has a place of its own too, and so takes 64.
    ///
    /// # Errors
    /// [`TocError::Full`], [`TocError::Corrupt`].
    ///
    /// # If a process dies here
    /// A chunk that no key leads to is lost until the segment goes.
    pub fn allocate(&self, size: u64) -> Result<u64, TocError> {
        self.allocate_aligned(size, CHUNK_ALIGN)
    }

    /// As [`allocate`](Toc::allocate), at a multiple of `align` (at least 64, at most 4096).
    ///
    /// # Errors
    /// As `allocate`, and [`TocError::Alignment`].
    pub fn allocate_aligned(&self, size: u64, align: u64) -> Result<u64, TocError> {
        if !align.is_power_of_two() || align > CHUNK_ALIGN_MAX {
            return Err(TocError::Alignment { align });
        }
        let (align, relaxed) = (align.max(CHUNK_ALIGN), Ordering::Relaxed);
        let mut allocated = self.header.allocated.load(relaxed);
        for _ in 0..ROUNDS_MAX {
            let free = self.free_after(allocated)?;
            let full = TocError::Full { size, free };
            let padded = padded(size).ok_or(full)?;
            let end = self.head + free;
            let start = end.checked_sub(padded).ok_or(full)?;
            let start = start - start % align;
            if start < self.head {
                return Err(full);
            }
            let then = self.total - start;
            match self.header.allocated.compare_exchange(allocated, then, relaxed, relaxed) {
                Ok(_) => return Ok(start),
                Err(now) => allocated = now,
            }
        }
        Err(TocError::Corrupt { what: "allocated", value: allocated })
    }

    /// Bytes left for chunks.
    ///
    /// # Errors
    /// [`TocError::Corrupt`].
    pub fn free_space(&self) -> Result<u64, TocError> {
        self.free_after(self.header.allocated.load(Ordering::Relaxed))
    }

    fn free_after(&self, allocated: u64) -> Result<u64, TocError> {
        match (self.total - self.head).checked_sub(allocated) {
            Some(free) if allocated.is_multiple_of(CHUNK_ALIGN) => Ok(free),
            _ => Err(TocError::Corrupt { what: "allocated", value: allocated }),
        }
    }

    /// Files what lies at `offset` under `key`, for all to see; write it before.
    ///
    /// # Errors
    /// [`TocError::Duplicate`] where the key has a value, [`TocError::EntriesFull`],
    /// [`TocError::Offset`] where `offset` is not inside the chunks, [`TocError::Reserved`].
    ///
    /// # If a process dies here
    /// The entry is there, or its key is and has no value: then it is as if it were missing, and
    /// whoever inserts the key again completes it.
    pub fn insert(&self, key: u64, offset: u64) -> Result<(), TocError> {
        if key == u64::MAX {
            return Err(TocError::Reserved);
        }
        if !self.is_chunk(offset) {
            return Err(TocError::Offset { offset });
        }
        let entry = self.claim(key + 1)?;
        // Pairs with the Acquire in `value_of`: the chunk's contents.
        match entry.value.compare_exchange(0, offset + 1, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(TocError::Duplicate { key }),
        }
    }

    /// The entry that holds `word`, made if need be.
    fn claim(&self, word: u64) -> Result<&Entry, TocError> {
        for entry in self.entries.iter() {
            let relaxed = Ordering::Relaxed;
            match entry.key.compare_exchange(0, word, relaxed, relaxed) {
                Ok(_) => return Ok(entry),
                Err(held) if held == word => return Ok(entry),
                Err(_) => {}
            }
        }
        Err(TocError::EntriesFull { entries: self.entries.len() as u64 })
    }

    /// Where the chunk filed under `key` lies, or `None`.
    ///
    /// # Errors
    /// [`TocError::Corrupt`] where the entry points out of the segment.
    pub fn lookup(&self, key: u64) -> Result<Option<u64>, TocError> {
        let Some(word) = key.checked_add(1) else { return Ok(None) };
        for entry in self.entries.iter() {
            match entry.key.load(Ordering::Relaxed) {
                0 => return Ok(None),
                held if held == word => return self.value_of(entry),
                _ => {}
            }
        }
        Ok(None)
    }

    fn value_of(&self, entry: &Entry) -> Result<Option<u64>, TocError> {
        // Pairs with the Release in `insert`: the chunk's contents.
        match entry.value.load(Ordering::Acquire) {
            0 => Ok(None),
            value if self.is_chunk(value - 1) => Ok(Some(value - 1)),
            value => Err(TocError::Corrupt { what: "value", value }),
        }
    }

    fn is_chunk(&self, offset: u64) -> bool {
        (self.head..self.total).contains(&offset)
    }

    /// All keys that have a value, with their offsets, in the order they came.
    ///
    /// # Errors
    /// As [`lookup`](Toc::lookup).
    pub fn entries(&self) -> Result<Vec<(u64, u64)>, TocError> {
        let mut all = Vec::new();
        for entry in self.entries.iter() {
            let word = entry.key.load(Ordering::Relaxed);
            if word == 0 {
                break;
            }
            if let Some(offset) = self.value_of(entry)? {
                all.push((word - 1, offset));
            }
        }
        Ok(all)
    }
}

/// The bytes in front of the chunks, if they fit into `total`.
fn fitting_head(entries: u64, total: u64) -> Result<u64, TocError> {
    match head_bytes(entries) {
        Some(head) if head <= total => Ok(head),
        head => Err(TocError::TooSmall { needed: head.unwrap_or(u64::MAX), len: total }),
    }
}
