//! What can go wrong.
use super::ROWS_MAX;
use shm_core::BadPtr;
use shm_core::process::Forked;

/// Why there is no area, or no heap of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AreaError {
    /// It does not fit into the mapping.
    #[error("the area does not lie in the mapping: {0}")]
    Place(#[from] BadPtr),
    /// A size that no area has.
    #[error("an area has 1 to {ROWS_MAX} heaps and 1 to 2^32 - 1 pages: {what} is {value}")]
    Config {
        /// Which.
        what: &'static str,
        /// What the caller, or whoever wrote the head, asked for.
        value: u64,
    },
    /// The words in shared memory are not those of an area.
    #[error("the memory at this offset holds no area, or one of another version")]
    NotArea,
    /// All rows belong to heaps.
    #[error("all {heaps} heaps of the area are in use; make an area with more")]
    HeapsTaken {
        /// How many there are.
        heaps: u64,
    },
    /// The system has no memory for what is to be there from the beginning.
    #[error("there is no memory for the beginning of the area")]
    NoSpace,
    /// The member's process is the caller's parent.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// Why there is no block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AllocError {
    /// A block has at least one byte.
    #[error("a block has at least one byte")]
    ZeroSize,
    /// More than the whole area can have, or more than a block may that is not huge.
    #[error("a block of {size} bytes is too large: it can have {most}")]
    TooLarge {
        /// What the caller asked for.
        size: u64,
        /// The most that it could be.
        most: u64,
    },
    /// More than a mapping promises.
    #[error("a block cannot begin at a multiple of {0}")]
    Alignment(u64),
    /// It is full, or in pieces.
    #[error("the area has no room for a block of {size} bytes")]
    OutOfMemory {
        /// What the caller asked for.
        size: u64,
    },
    /// The limit allows no more memory.
    #[error("the area has no room for a block of {size} bytes: its limit of {limit} is reached")]
    Limit {
        /// What the caller asked for.
        size: u64,
        /// See [`Area::set_limit`](super::Area::set_limit).
        limit: u64,
    },
    /// The system has no more memory.
    #[error(
        "the area has no room for a block of {size} bytes, and the system has no memory for it: \
         make room where the domain's segments are"
    )]
    NoSpace {
        /// What the caller asked for.
        size: u64,
    },
    /// The destination is not in the area's mapping: whoever recovers could not find it.
    #[error("the destination does not lie in the area's mapping: {0}")]
    Destination(BadPtr),
    /// The destination names something already.
    #[error("the destination holds {0:#x}, not 0")]
    Occupied(u64),
    /// Called from within a block's initialisation.
    #[error("this heap is initialising a block")]
    Busy,
    /// The heap is the caller's parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// Why a pointer leads nowhere, or a block was not freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FreeError {
    /// Null, of another area, of an earlier one in its place, or outside the pages.
    #[error("this is no pointer of the area: {0:#x}")]
    NotOfArea(u64),
    /// Into the middle of a block, or where there are none.
    #[error("no block begins at {0:#x}")]
    NotABlock(u64),
    /// It is free already.
    #[error("the block at {0:#x} is free already")]
    DoubleFree(u64),
    /// The destination is not in the area's mapping.
    #[error("the destination does not lie in the area's mapping: {0}")]
    Destination(BadPtr),
    /// Called from within a block's initialisation.
    #[error("this heap is initialising a block")]
    Busy,
    /// Another process wrote nonsense here.
    #[error("the area is corrupt: page {page} holds {word:#x}")]
    Corrupt {
        /// Which page.
        page: u32,
        /// What its word holds.
        word: u64,
    },
    /// The heap is the caller's parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}
