//! What can go wrong, each with its cause and its remedy.
use super::{Backend, Rights, pages};
use rustix::io::Errno;
use std::io;

/// A word that names no backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown backend `{0}`: use posix, sysv, mmap, memfd, portable or none")]
pub struct UnknownBackend(pub String);

/// Why shared memory could not be had, found or removed. Each message names cause and remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The backend is [`Backend::None`].
    #[error(
        "dynamic shared memory is switched off (backend `none`): choose posix, sysv, mmap or \
         memfd, in the configuration or by DYNAMIC_SHARED_MEMORY_TYPE"
    )]
    Disabled,
    /// The backend cannot do this, here or at all.
    #[error("the backend `{backend}` cannot do this: {reason}")]
    Unsupported {
        /// The backend asked.
        backend: Backend,
        /// Why, and what to do instead.
        reason: &'static str,
    },
    /// The name is taken.
    #[error("shared memory `{name}` exists already: choose another name")]
    AlreadyExists {
        /// The name.
        name: String,
    },
    /// Not enough room.
    #[error(
        "no room for {size} bytes of shared memory in {location} ({} bytes free): free or enlarge \
         it, or choose another backend", free.map_or("unknown".to_owned(), |free| free.to_string())
    )]
    NoSpace {
        /// The file system's directory, or "memory".
        location: String,
        /// Bytes asked for.
        size: u64,
        /// Bytes that were free, where the system tells.
        free: Option<u64>,
    },
    /// A limit of the process or the system.
    #[error("shared memory `{name}`: the limit {limit} is reached: {remedy}")]
    LimitReached {
        /// The name.
        name: String,
        /// The limit's name.
        limit: &'static str,
        /// How to raise it, or do with less.
        remedy: &'static str,
    },
    /// The system refuses access.
    #[error(
        "shared memory `{name}`: {call} is not permitted: check owner, group, mode and sandbox (a \
         member of its group may use it, and in /dev/shm only its owner may remove it)"
    )]
    Denied {
        /// The system call.
        call: &'static str,
        /// The name.
        name: String,
    },
    /// It belongs to somebody else.
    #[error(
        "shared memory `{name}` belongs to user {uid}, not to us: choose another name, or share \
         it with a group (mode 660) that both configure"
    )]
    ForeignOwner {
        /// The name.
        name: String,
        /// Whose it is.
        uid: u32,
    },
    /// Others have access to it than are to.
    #[error(
        "shared memory `{name}` has mode {mode:03o} and group {gid}, open to others than we want \
         ({allowed}): configure what it has, change its mode or group, or remove it"
    )]
    OpenToOthers {
        /// The name.
        name: String,
        /// Its permission bits.
        mode: u32,
        /// Its group.
        gid: u32,
        /// What it may have.
        allowed: Rights,
    },
    /// A symbolic link stands in its place.
    #[error("`{name}` is a symbolic link, not shared memory: remove it")]
    Symlink {
        /// The name.
        name: String,
    },
    /// Something other than a regular file stands in its place.
    #[error("`{name}` is not a regular file, hence not shared memory: remove it")]
    NotAFile {
        /// The name.
        name: String,
    },
    /// Shorter than it has to be.
    #[error("shared memory `{name}` has {len} bytes of {expected}: it was cut off, remove it")]
    Truncated {
        /// The name.
        name: String,
        /// Bytes it has.
        len: u64,
        /// Bytes it should have at least.
        expected: u64,
    },
    /// No possible name.
    #[error(
        "{name:?} cannot name shared memory: use 1 to 200 letters, digits, `.`, `_`, `-`, the \
         first not a dot"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// No possible size.
    #[error(
        "{size} bytes is no size for shared memory: at least 1, and what fits the address space"
    )]
    BadSize {
        /// Bytes asked for.
        size: u64,
    },
    /// The directory cannot hold shared memory.
    #[error("the directory {directory} {reason}: make it usable or name another one")]
    BadDirectory {
        /// The directory.
        directory: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Another process stands in the middle of removing it.
    #[error("shared memory `{name}` is being removed by a process that does not get on: try later")]
    Busy {
        /// The name.
        name: String,
    },
    /// A file descriptor of something that its sender could cut off later.
    #[error("the file descriptor received is no sealed memfd: only those are safe to map")]
    Unsealed,
    /// The socket brought no file descriptor.
    #[error("the socket brought no file descriptor: the peer left or sent something else")]
    NoDescriptor,
    /// Anything else.
    #[error("shared memory `{name}`: {call} failed: {source}")]
    Os {
        /// The system call.
        call: &'static str,
        /// The name.
        name: String,
        /// What it answered.
        source: io::Error,
    },
}

impl BackendError {
    /// What `errno` from `call` means wherever it comes up. What depends on the place (no space,
    /// the name is taken) is for the caller to tell first.
    pub(super) fn from_errno(call: &'static str, name: &str, errno: Errno) -> BackendError {
        let name = name.to_owned();
        let limit = |name, limit, remedy| BackendError::LimitReached { name, limit, remedy };
        match errno {
            Errno::ACCESS | Errno::PERM => BackendError::Denied { call, name },
            Errno::MFILE => limit(name, "RLIMIT_NOFILE", "raise it with `ulimit -n`"),
            Errno::NFILE => limit(name, "fs.file-max", "raise it with `sysctl`"),
            Errno::NOMEM if pages::limit_of(libc::RLIMIT_AS).is_some() => {
                limit(name, "RLIMIT_AS", "raise it with `ulimit -v`, or ask for less")
            }
            Errno::NOMEM => limit(
                name,
                "of memory or vm.max_map_count",
                "ask for less, free memory, or raise it with `sysctl`",
            ),
            errno => BackendError::Os { call, name, source: errno.into() },
        }
    }
}
