//! A hash table that several processes share: found without a lock, changed without a lock.
//!
//! ```text
//!   head: root ──► table: directory ──► piece: lines of 8 cells     each cell: EMPTY | entry | …
//!         rows        │                                 │
//!          │          └ next ──► the table that this    └──► block of the area: key, value
//!          │                     one is being moved to
//!          └ one a thread: what it is doing, and what it has to give back
//! ```
//!
//! Open addressing: a find reads the root, the key's line of cells and the entry, and writes only
//! its own announcements ([`hazard`](shm_core::hazard) pointers). Entries never move and are never
//! written again; an update replaces the entry. A table grows, shrinks, and is freed of tombs by
//! being moved to a next one, a few lines with each change, by whoever changes something; finds
//! look into both meanwhile, and nobody waits for anybody.
//!
//! | part | where |
//! | --- | --- |
//! | the words, and who writes them | `shared.rs`, `word.rs` |
//! | one step, on record, helped by all | `row.rs` |
//! | lines, pieces, windows | `table.rs` |
//! | moving | `migrate.rs` |
//! | finding, changing, walking | `find.rs`, `change.rs`, `walk.rs` |
//!
//! What a death leaves: a step that happened, which anybody calls done who meets its mark, and
//! whose garbage the reaper finds on record; or one that did not, whose fresh block the reaper
//! finds on record. A copy in the next table that nobody vouches for is looked past.
//!
//! Limits: 2^24 lines, so some 80 million entries; keys and values of [`SIZE_MAX`] bytes;
//! [`ROWS_MAX`] threads at a time. The hash is seeded, and the seed is readable to all who share
//! the table: it spreads keys, and is no defence against participants.
mod change;
mod core;
mod entry;
mod find;
#[doc(hidden)]
pub mod ground;
mod guest;
mod handle;
mod member;
mod migrate;
mod row;
mod shared;
mod table;
mod walk;
mod word;

pub use entry::{SIZE_MAX, Size};
pub(crate) use guest::Guest;
pub use handle::{Hash, HashConfig, Ref};
pub use member::{MemberGround, MemberShield};
pub use walk::{HashReport, Walk};

use shm_core::process::Forked;

/// At most so many threads use one hash at a time.
pub const ROWS_MAX: u32 = word::DESCRIPTORS_MAX / 2;

/// Why a call on a hash failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// Not between 1 and [`ROWS_MAX`], or not what a key or value can be.
    #[error("a hash cannot be made with {what} of {value}")]
    Config {
        /// Which figure.
        what: &'static str,
        /// What it is.
        value: u64,
    },
    /// There is no hash, or not yet.
    #[error("there is no hash here")]
    NotAHash,
    /// It is one for other keys or values, or of another version.
    #[error("the hash has {what} {found:#x}, not {expected:#x}")]
    Other {
        /// What differs.
        what: &'static str,
        /// What the caller's is.
        expected: u64,
        /// What the hash's is.
        found: u64,
    },
    /// No key of this hash is so long.
    #[error("a key of {len} bytes, where they are {size:?}")]
    KeyLength {
        /// The key's bytes.
        len: usize,
        /// What the hash takes.
        size: Size,
    },
    /// No value of this hash is so long.
    #[error("a value of {len} bytes, where they are {size:?}")]
    ValueLength {
        /// The value's bytes.
        len: usize,
        /// What the hash takes.
        size: Size,
    },
    /// The area has no room.
    #[error("the area has no room for {bytes} bytes")]
    OutOfMemory {
        /// What was asked for.
        bytes: u64,
    },
    /// The word that is to name the hash does not lie in the mapping of the area.
    #[error("the place of a hash is a word in the mapping of its area")]
    Place,
    /// The largest table is crowded.
    #[error("the hash is full")]
    Full,
    /// Every row is taken.
    #[error("all {rows} rows of the hash are taken: it was made for so many threads")]
    RowsTaken {
        /// How many there are.
        rows: u32,
    },
    /// Others changed the same words all the time, or protect all that could be given back.
    #[error("others keep the hash too busy: try again")]
    Busy,
    /// The handle is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// Another process wrote nonsense.
    #[error("the hash is corrupt: {what} is {value:#x}")]
    Corrupt {
        /// Which word.
        what: &'static str,
        /// What stands in it.
        value: u64,
    },
}

impl HashError {
    #[cold]
    fn corrupt(what: &'static str, value: u64) -> HashError {
        HashError::Corrupt { what, value }
    }
}
