//! What can go wrong in a domain, verb by verb.
use super::Domain;
use super::config::{NAME_LEN_MAX, SEGMENTS_MAX};
use crate::backend::{BackendError, UnknownBackend};
use crate::handle::SegmentHandle;
use shm_core::header;
use shm_core::participants::{JoinError, SLOTS_MAX, TableError};
use shm_core::process::{Forked, ProcessId};
use std::fmt;

/// Why a domain could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No possible name.
    #[error("{name:?} cannot name a domain: use 1 to {NAME_LEN_MAX} letters, digits, `-`, `_`")]
    Name {
        /// The name.
        name: String,
    },
    /// No possible mode.
    #[error("a domain has mode 600, or 660 for a group, not {mode:03o}")]
    Mode {
        /// What was asked for.
        mode: u32,
    },
    /// No possible number of participants.
    #[error("a domain has room for 1 to {SLOTS_MAX} participants, not {asked}")]
    Participants {
        /// What was asked for.
        asked: u32,
    },
    /// No possible number of segments.
    #[error("a domain has room for 1 to {SEGMENTS_MAX} segments, not {asked}")]
    Segments {
        /// What was asked for.
        asked: u32,
    },
    /// `DYNAMIC_SHARED_MEMORY_TYPE` is wrong.
    #[error(transparent)]
    UnknownBackend(#[from] UnknownBackend),
    /// The control segment could not be had.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// What stands under the name is not this domain's control segment, or not yet.
    #[error("domain `{name}`: {source}")]
    Header {
        /// The domain.
        name: String,
        /// What is wrong with it.
        source: header::OpenError<TableError>,
    },
    /// The control segment contradicts itself.
    #[error("the control segment of domain `{name}` is corrupt ({what} is {value}): remove it")]
    Corrupt {
        /// The domain.
        name: String,
        /// Which word.
        what: &'static str,
        /// What stands in it.
        value: u64,
    },
    /// The table of participants cannot be used.
    #[error("domain `{name}`: {source}")]
    Table {
        /// The domain.
        name: String,
        /// Why not.
        source: TableError,
    },
    /// No seat.
    #[error("domain `{name}`: {source}")]
    Join {
        /// The domain.
        name: String,
        /// Why not.
        source: JoinError,
    },
    /// Each time we came, it was being closed.
    #[error("domain `{name}` was being closed each time we tried to enter it: try again")]
    Busy {
        /// The domain.
        name: String,
    },
    /// This process is in a domain of that name, and the name leads to it no more.
    #[error(
        "this process is in the domain `{name}`, whose name somebody has removed (by hand, or \
         RemoveIPC at a log-out): leave it (or abandon it, if it was cut off too) before you open \
         the name again, which is another domain"
    )]
    Unnamed {
        /// The domain.
        name: String,
    },
    /// The environment does not say which domain.
    #[error(
        "the environment variable {variable} {problem}: start this program as a domain's worker"
    )]
    Environment {
        /// Its name.
        variable: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Why no segment was created. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// All slots are taken, by segments that are in use.
    #[error(
        "too many segments: all {segments} are in use; detach some, or make the domain with a \
         larger `segments_max`"
    )]
    Full {
        /// How many there can be.
        segments: u32,
    },
    /// The memory could not be had.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Another process has overwritten the control segment.
    #[error("the control segment is corrupt: slot of segment {0}")]
    Corrupt(SegmentHandle),
    /// In a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// Why a segment that is there could not be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// This process has it.
    #[error("segment {0} is attached already: use `find_mapping`")]
    AlreadyAttached(SegmentHandle),
    /// This process has it read-only.
    #[error("segment {0} is attached read-only here: let go of that first")]
    AttachedReadOnly(SegmentHandle),
    /// The table has it, and the system does not. Who has it mapped keeps it;
    /// [`Domain::names`](crate::Domain::names) tells what else is lost.
    #[error(
        "segment {0} has lost its name, so nobody can attach to it any more: somebody removed it \
         (by hand, or RemoveIPC at a log-out)"
    )]
    Missing(SegmentHandle),
    /// It is to be one that can grow, and does not begin as such.
    #[error("the head of the growable segment {0} is corrupt: somebody has overwritten it")]
    Corrupt(SegmentHandle),
    /// It was cut off.
    #[error("segment {handle} has {len} bytes of {expected}: it was cut off")]
    Truncated {
        /// The segment.
        handle: SegmentHandle,
        /// Bytes it has.
        len: u64,
        /// Bytes it was made with.
        expected: u64,
    },
    /// `memfd` segments have no names.
    #[error(
        "this process has no file descriptor of segment {0}: inherit it, or take it from a socket \
         (`Domain::send`, `Domain::receive`)"
    )]
    NoDescriptor(SegmentHandle),
    /// The memory could not be mapped.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// In a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// Why a segment could not be handed over, or taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandOverError {
    /// This process does not have it.
    #[error("segment {0} is not attached here, so it cannot be handed over")]
    NotAttached(SegmentHandle),
    /// The peer left, or sent something else.
    #[error("the socket brought no segment: {0}")]
    Socket(#[from] std::io::Error),
    /// The descriptor could not be passed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// In a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// Why a domain was not destroyed. It gives the domain back.
#[derive(Debug)]
#[non_exhaustive]
pub enum DestroyError {
    /// Others are in it.
    InUse {
        /// The domain.
        domain: Box<Domain>,
        /// Who.
        by: Vec<ProcessId>,
    },
    /// In a forked child.
    Forked(Forked),
}

impl fmt::Display for DestroyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DestroyError::InUse { domain, by } => {
                write!(f, "domain `{}` is in use by process", domain.name())?;
                by.iter().try_for_each(|process| write!(f, " {}", process.pid()))
            }
            DestroyError::Forked(forked) => forked.fmt(f),
        }
    }
}

impl std::error::Error for DestroyError {}
