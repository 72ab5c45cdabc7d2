//! What can go wrong, in one line each: the cause, and what to do about it.

use super::query::BadColumn;
use super::scan::ScanError;
use super::wire::Corrupt;
use std::io;
use std::path::PathBuf;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AggError {
    /// The file is not one to aggregate.
    #[error("{}: {problem}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: InputProblem,
    },
    /// A row is at fault, or the file could not be read to its end.
    #[error("{}: {error}", path.display())]
    Scan {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: ScanError,
    },
    /// An option has a value that will not do.
    #[error("{0}")]
    Usage(String),
    /// The system does not give what the job needs: memory, space, a directory.
    #[error("{0}")]
    Environment(String),
    /// Another of our processes sent nonsense.
    #[error("{0}; this is a bug in shmctl, or a process has written to memory that is not its own")]
    Corrupt(#[from] Corrupt),
    /// The parallel answer is not the plain one.
    #[error("the answers of the workers and of the plain pass differ in group {group:?}")]
    Differs {
        /// Key of the first group that differs.
        group: String,
    },
    /// The report could not be written.
    #[error("the report cannot be written: {0}")]
    Output(io::Error),
    /// Something failed that should not.
    #[error("{0}")]
    Internal(String),
    /// A signal asked us to stop.
    #[error("interrupted")]
    Interrupted {
        /// Number of the signal.
        signal: i32,
    },
}

/// What can be wrong with a file before its first row.
#[derive(Debug, thiserror::Error)]
pub enum InputProblem {
    /// It does not exist.
    #[error("no such file; check the path, or give none to use generated accounts")]
    Missing,
    /// It is a directory.
    #[error("is a directory; name a CSV file in it")]
    Directory,
    /// It is a pipe, a socket or a device.
    #[error("is not a regular file; write what it gives to a file first")]
    NotAFile,
    /// It may not be read.
    #[error("may not be read by this user; change its mode, or that of its directories")]
    Forbidden,
    /// The system would not open or read it.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It has no header line.
    #[error("is empty; a CSV file begins with a line of column names")]
    Empty,
    /// The header is not text.
    #[error("the header line is not UTF-8; convert the file, for example by iconv")]
    HeaderNotUtf8,
    /// The header does not end.
    #[error("the header line has no end within 64 MiB; is a closing quote missing?")]
    HeaderTooLong,
    /// A column asked for cannot be found.
    #[error(transparent)]
    Column(#[from] BadColumn),
    /// Chunks of this size are too many.
    #[error("{chunks} chunks are more than {max}; give --chunk-size {least} or more")]
    TooManyChunks {
        /// How many there would be.
        chunks: u64,
        /// How many there may be.
        max: u64,
        /// The chunk size that makes so many.
        least: u64,
    },
}

impl AggError {
    /// The exit code for this error: 2 for bad input or an unusable environment, 128 and the
    /// signal where one ended us, and otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            AggError::Input { .. }
            | AggError::Scan { .. }
            | AggError::Usage(_)
            | AggError::Environment(_) => 2,
            AggError::Interrupted { signal } => 128 + (*signal as u8 & 0x7f),
            AggError::Corrupt(_)
            | AggError::Differs { .. }
            | AggError::Output(_)
            | AggError::Internal(_) => 1,
        }
    }
}

impl From<io::Error> for InputProblem {
    fn from(error: io::Error) -> InputProblem {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => InputProblem::Missing,
            io::ErrorKind::PermissionDenied => InputProblem::Forbidden,
            _ => InputProblem::Unreadable(error),
        }
    }
}
