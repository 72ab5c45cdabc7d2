//! What can go wrong, in one line each: the cause, and what to do about it.
use buffer_pool::files::FileKey;
use buffer_pool::policy::PolicyError;
use buffer_pool::pool::{DumpError, LoadError, OpenError, PageError, SessionError};
use std::io;
use std::path::PathBuf;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The file is not a trace.
    #[error("{}: {problem}", path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: BadTrace,
    },
    /// An option has a value that will not do.
    #[error("{0}")]
    Usage(String),
    /// There is no policy for such a pool.
    #[error("{0}: choose another --pool")]
    Policy(#[from] PolicyError),
    /// Nobody has made it, or all have left it.
    #[error(
        "there is no domain {domain}: name that of a program that runs, and its kind of memory in \
         DYNAMIC_SHARED_MEMORY_TYPE"
    )]
    NoDomain {
        /// Its name.
        domain: String,
    },
    /// We cannot come into the domain.
    #[error(transparent)]
    Domain(#[from] dsm::OpenError),
    /// A segment could not be attached.
    #[error(transparent)]
    Segment(#[from] dsm::AttachError),
    /// No segment has a pool in it.
    #[error("there is no pool in the domain {domain}: its program has not made one yet")]
    NoPool {
        /// The domain's name.
        domain: String,
    },
    /// No such segment has one.
    #[error(
        "there is no pool {name} in the domain {domain}: `shmctl pool list --domain {domain}` \
         shows those that there are"
    )]
    NoSuchPool {
        /// The domain's name.
        domain: String,
        /// The segment's.
        name: String,
    },
    /// More than one segment has one.
    #[error("there are several pools in the domain {domain}: give --pool, one of {names}")]
    Several {
        /// The domain's name.
        domain: String,
        /// The segments'.
        names: String,
    },
    /// The pool does not know the file.
    #[error(
        "the pool has no file {},{}: `shmctl pool files` shows those that it has",
        .0.id, .0.fork
    )]
    NoSuchFile(FileKey),
    /// The pool could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Or not used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A page could not be had or written.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The pages could not be written down.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// They could not be read in again.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The report could not be written.
    #[error("the report cannot be written: {0}")]
    Output(io::Error),
}

/// What can be wrong with a trace.
#[derive(Debug, thiserror::Error)]
pub enum BadTrace {
    /// It could not be opened or read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It begins with other bytes.
    #[error("is no .pgt trace: it should begin with `PGT1`; name another file, or --generate one")]
    NotATrace,
    /// Its accesses are no zlib stream, or one that ends early.
    #[error("is damaged ({0}): record it again")]
    Damaged(io::Error),
    /// Its head promises another number of accesses.
    #[error("is damaged: its head says {head} accesses, and more follow; record it again")]
    TooLong {
        /// What the head says.
        head: u32,
    },
    /// More accesses than are simulated.
    #[error("has {0} accesses, and {max} are the most: cut it", max = super::trace::ACCESSES_MAX)]
    TooMany(u32),
    /// No access.
    #[error("has no access in it: record a longer one")]
    Empty,
}
