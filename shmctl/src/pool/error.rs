//! What can go wrong, in one line each: the cause, and what to do about it.
use buffer_pool::policy::PolicyError;
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
