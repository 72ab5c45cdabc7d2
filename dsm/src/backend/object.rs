//! One piece of shared memory, mapped.
use super::{BackendError, Place, file, pages, sysv};
use shm_core::mapping::Mapping;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Which object it is, whatever bears its name now. As long as an object is mapped, no other gets
/// its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Identity {
    /// A file: `posix`, `mmap`, `memfd`.
    File {
        /// The file system.
        device: u64,
        /// The file in it.
        inode: u64,
    },
    /// A System V segment.
    Sysv {
        /// What `shmget` returned.
        id: i32,
    },
    /// Nothing but the name: `portable`.
    Name,
}

/// A piece of shared memory, mapped for as long as somebody holds [`mapping`](Object::mapping).
#[derive(Debug)]
pub struct Object {
    pub(super) mapping: Arc<Mapping>,
    pub(super) identity: Identity,
    pub(super) place: Place,
    pub(super) name: String,
    /// Kept by `memfd`, whose objects can be reached in no other way.
    pub(super) fd: Option<OwnedFd>,
}

impl Object {
    /// The memory.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Never: an object has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.mapping.is_empty()
    }

    /// Which object it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The name it was made or found under; for `memfd` a mere label.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it was made or found, with the rights that it has.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The file descriptor of a `memfd` object, for handing over; the others hold none.
    ///
    /// It is closed on exec. For a child process, `dup2` it to a number of your choice between
    /// fork and exec: the copy is open in that child and in no other.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Puts memory behind the first `len` bytes of what a killed creator left: he may have wanted
    /// less there, and a System V segment has its key before it has its pages.
    pub(crate) fn populate(&self, len: u64) -> Result<(), BackendError> {
        match (sysv::populate(self, len), self.identity) {
            (Err(BackendError::NoSpace { .. }), _) => Err(self.no_space(len)),
            // Where it is forbidden, objects are made without holes.
            (Err(_), Identity::File { .. } | Identity::Name) => Ok(()),
            (populated, _) => populated,
        }
    }

    /// There was no memory for `size` more bytes of it.
    pub(crate) fn no_space(&self, size: u64) -> BackendError {
        BackendError::NoSpace { location: pages::location(&self.place), size, free: None }
    }

    /// Removes this object, and not another that bears its name now. Returns whether it was there;
    /// `memfd` has nothing to remove.
    ///
    /// # Errors
    /// As [`remove`](super::remove).
    ///
    /// # If a process dies here
    /// The object is removed, or is not.
    pub fn remove_exact(&self) -> Result<bool, BackendError> {
        match self.identity {
            Identity::Sysv { id } => sysv::remove_id(&self.place, &self.name, id),
            Identity::File { .. } if self.fd.is_some() => Ok(false),
            Identity::File { .. } => file::remove_exact(&self.place, &self.name, self.identity),
            Identity::Name => super::remove(&self.place, &self.name),
        }
    }
}
