//! What can go wrong, in one line each: the cause, and what to do about it.
use crate::format::Nonsense;
use crate::heap::Row;
use crate::pages::PageId;
use buffer_pool::policy::PolicyError;
use std::io;
use std::path::PathBuf;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no room for the files.
    #[error("no temporary directory: {0}; give --dir")]
    NoDirectory(io::Error),
    /// A file cannot be made or opened.
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: io::Error },
    /// A page cannot be read.
    #[error("{page} cannot be read: {problem}")]
    Unreadable { page: PageId, problem: io::Error },
    /// A page says what it cannot mean.
    #[error("{page} {problem}; remove the file, and it is built anew")]
    Damaged { page: PageId, problem: Nonsense },
    /// A row is not what was loaded.
    #[error("account {aid} is {found:?}, and was loaded as {loaded:?}", loaded = Row::loaded(*aid))]
    WrongRow { aid: u32, found: Row },
    /// No policy for such a pool.
    #[error("{0}; choose another --pool")]
    Policy(#[from] PolicyError),
    /// The model cannot say how often a page was used.
    #[error("--through model: only with --policy clock5")]
    NoModel,
    /// What the pool, or its domain, says.
    #[error("{0}")]
    Pool(String),
    /// A client could not be started or heard.
    #[error("client {client}: {problem}")]
    Client { client: u32, problem: io::Error },
    /// A client ended without a result. It has said why.
    #[error("client {client} has ended early")]
    Lost { client: u32 },
    /// The report could not be written.
    #[error("the report cannot be written: {0}")]
    Output(io::Error),
}

impl Error {
    /// Of the pool, or of what it lies in.
    pub(crate) fn pool(error: impl std::fmt::Display) -> Error {
        Error::Pool(error.to_string())
    }
}
