//! What can go wrong.
use super::config::{ConfigError, PoolConfig};
use crate::files::FileNumber;
use crate::frames::{Corrupt, FindError, WaitError};
use crate::latch::LatchError;
use crate::pages::{self, WriteError};
use shm_core::hazard::{HazardsError, ProtectorError, RowError};
use shm_core::header;
use shm_core::participants::{JoinError, ParticipantId, TableError};
use shm_core::process::Forked;
use std::io;
use std::path::PathBuf;

/// Why a pool could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There can be no such pool.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The memory is too small for it.
    #[error("the pool takes {needs} bytes of memory, and there are {has}")]
    TooSmall {
        /// Bytes it takes.
        needs: u64,
        /// Bytes there are.
        has: u64,
    },
    /// It was made for something else.
    #[error(
        "the pool was made with {found:?}, not with {asked:?}: all who open it ask for the same"
    )]
    OtherConfig {
        /// What it was made with.
        found: Box<PoolConfig>,
        /// What the caller asked for.
        asked: Box<PoolConfig>,
    },
    /// What lies there is no pool, or one of another release.
    #[error(transparent)]
    Header(header::OpenError<MakeError>),
    /// There is not enough memory for it.
    #[error("there is not enough memory for the pool: ask for fewer frames")]
    NoMemory,
    /// There is none.
    #[error("there is no pool here: nobody has made it yet")]
    NotMade,
    /// The memory holds nonsense.
    #[error("the pool's {0} were overwritten: make it anew")]
    Corrupt(&'static str),
    /// There is no seat for this process.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The system does not say who we are.
    #[error("cannot tell from /proc who this process is: {0}")]
    Proc(io::Error),
}

/// Why nobody has made a pool where there was none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MakeError {
    /// The caller does not make one.
    #[error("nobody has made it yet")]
    NotMade,
    /// There is not enough memory.
    #[error("there is not enough memory")]
    NoMemory,
}

impl From<header::OpenError<MakeError>> for OpenError {
    fn from(error: header::OpenError<MakeError>) -> OpenError {
        match error {
            header::OpenError::Init(MakeError::NotMade) => OpenError::NotMade,
            header::OpenError::Init(MakeError::NoMemory) => OpenError::NoMemory,
            error => OpenError::Header(error),
        }
    }
}

impl From<TableError> for OpenError {
    fn from(_: TableError) -> OpenError {
        OpenError::Corrupt("participants")
    }
}

impl From<HazardsError> for OpenError {
    fn from(_: HazardsError) -> OpenError {
        OpenError::Corrupt("pins")
    }
}

impl From<RowError> for OpenError {
    fn from(_: RowError) -> OpenError {
        OpenError::Corrupt("pins")
    }
}

/// Why a thread could not use a pool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// All are in use that the pool was made for.
    #[error("this process uses the pool in {0} threads already, for which it was made")]
    TooMany(u32),
    /// The pins are in use.
    #[error(transparent)]
    Pins(#[from] ProtectorError),
    /// The latches were made for fewer, or those who died have left too much.
    #[error(transparent)]
    Pages(#[from] pages::UserError),
    /// The pool is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// Its policy was overwritten.
    #[error("the pool's policy was overwritten: make the pool anew")]
    Corrupt,
}

/// Why a page could not be had, read, changed or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// There is no file of this number (any more).
    #[error("the pool has no file {0:?}: it was dropped, or never registered")]
    NoSuchFile(FileNumber),
    /// The file is shorter.
    #[error("there is no block {block} in {}, which has {blocks}", path.display())]
    PastEnd {
        /// The file's.
        path: PathBuf,
        /// The block that was asked for.
        block: u32,
        /// How many there are.
        blocks: u32,
    },
    /// The bytes asked for are not all of the page's body.
    #[error(
        "there are no {len} bytes at {at} of a page for users: it has {page_bytes}, and the first \
         {} are the pool's",
        crate::HEADER_BYTES
    )]
    OutOfPage {
        /// Where they begin.
        at: usize,
        /// How many they are.
        len: usize,
        /// Bytes of a page.
        page_bytes: u32,
    },
    /// All frames are in use.
    #[error("every frame of the pool is in use: unpin some pages, or make the pool larger")]
    NoUnpinned,
    /// This thread has pinned as much as it can.
    #[error("this thread has as many pages pinned as it can: let go of one")]
    TooManyPins,
    /// This thread would wait for itself.
    #[error("this thread has the page pinned more than once: let go of the others")]
    PinnedTwice,
    /// What was waited for was not done in time.
    #[error("another process kept the page from us until the deadline")]
    TimedOut,
    /// The file could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file's.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The page could not be read.
    #[error("cannot read block {block} of {}: {source}", path.display())]
    Read {
        /// The file's.
        path: PathBuf,
        /// Which block.
        block: u32,
        /// What the system says.
        source: io::Error,
    },
    /// The file ends in the page, or before it.
    #[error(
        "{} ends {missing} bytes before the end of block {block}: it was cut off",
        path.display()
    )]
    Short {
        /// The file's.
        path: PathBuf,
        /// Which block.
        block: u32,
        /// So many bytes are not there.
        missing: usize,
    },
    /// The page is not as it was written.
    #[error(
        "block {block} of {} is damaged: its checksum is {found:#010x}, and its bytes say \
         {expected:#010x}",
        path.display()
    )]
    Checksum {
        /// The file's.
        path: PathBuf,
        /// Which block.
        block: u32,
        /// What it says.
        found: u32,
        /// What its bytes say.
        expected: u32,
    },
    /// The page could not be written. It is in the pool still, and dirty.
    #[error("cannot write block {block} of {}: {source}", path.display())]
    Write {
        /// The file's.
        path: PathBuf,
        /// Which block.
        block: u32,
        /// What the system says.
        source: io::Error,
    },
    /// The file could not be lengthened, cut off or synced.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// The file's.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// It may be read only.
    #[error("{} may only be read", .0.display())]
    ReadOnly(PathBuf),
    /// Others use pages that should go.
    #[error("{} has pages that are in use", .0.display())]
    InUse(PathBuf),
    /// Too much at once.
    #[error("{0} ranges of bytes are more than are changed at once")]
    TooManyRanges(usize),
    /// Somebody overwrote what was to be written before a death: the page is half changed.
    #[error("participant {by} was changing the page when it ended, and what it wrote is lost")]
    Torn {
        /// Who.
        by: ParticipantId,
    },
    /// Nonsense in shared memory.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// Nonsense in shared memory, in what is not a page's entry.
    #[error("the pool's {0} were overwritten")]
    Overwritten(&'static str),
    /// The pool is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

impl From<WaitError> for PageError {
    fn from(error: WaitError) -> PageError {
        match error {
            WaitError::TimedOut => PageError::TimedOut,
            WaitError::Forked(forked) => forked.into(),
        }
    }
}

impl From<FindError> for PageError {
    fn from(error: FindError) -> PageError {
        match error {
            FindError::NoSuchPage(page) => {
                PageError::NoSuchFile(FileNumber::from_bits(page.file()))
            }
            FindError::TooManyPins => PageError::TooManyPins,
            FindError::Corrupt(corrupt) => corrupt.into(),
            FindError::Restless => PageError::Overwritten("entries"),
            FindError::Forked(forked) => forked.into(),
        }
    }
}

impl From<LatchError> for PageError {
    fn from(error: LatchError) -> PageError {
        match error {
            LatchError::TimedOut => PageError::TimedOut,
            LatchError::Torn { by } => PageError::Torn { by },
            LatchError::TooManyShares => PageError::TooManyPins,
            LatchError::NoSuchFrame(_) | LatchError::Corrupt => PageError::Overwritten("latches"),
            LatchError::Forked(forked) => forked.into(),
        }
    }
}

impl PageError {
    /// What came of reading a block, of which so many bytes were missing.
    pub(super) fn of_read(
        read: io::Result<usize>,
        block: u32,
        path: impl FnOnce() -> PathBuf,
    ) -> Result<(), PageError> {
        match read {
            Ok(0) => Ok(()),
            Ok(missing) => Err(PageError::Short { path: path(), block, missing }),
            Err(source) => Err(PageError::Read { path: path(), block, source }),
        }
    }

    /// Of a page of so many bytes.
    pub(super) fn of_write(error: WriteError, page_bytes: u32) -> PageError {
        match error {
            WriteError::TooManyRanges(ranges) => PageError::TooManyRanges(ranges),
            WriteError::OutsideThePage { at, len } => PageError::OutOfPage { at, len, page_bytes },
            WriteError::Forked(forked) => forked.into(),
        }
    }
}
