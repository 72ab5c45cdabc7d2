//! The operating system's objects behind a domain, and their names.
use crate::backend::{self, Backend, BackendError, Object, POSIX_DIRECTORY, Place, pages};
use crate::control::{CHUNK, Control, Objects};
use crate::growth::page_size;
use crate::handle::SegmentHandle;
use crate::registry::Registry;
use shm_core::participants::ParticipantId;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

/// `shm.NAME.control`: what a domain is found by.
pub(super) fn control_name(domain: &str) -> String {
    format!("shm.{domain}.control")
}

/// The control segment, as mapped here, and where its segments are.
pub(super) struct System {
    pub(super) place: Place,
    pub(super) domain: String,
    pub(super) nonce: u64,
    pub(super) object: Object,
    pub(super) control: Control,
    pub(super) registry: Registry,
    /// Where in the control segment the pages of ready segments begin.
    pub(super) pages: u64,
}

impl System {
    /// `shm.NAME.NONCE.HANDLE`: names of the domain hold no dot, so this is nobody else's.
    pub(super) fn segment_name(&self, handle: SegmentHandle) -> String {
        format!("{}{handle}", self.segment_prefix())
    }

    fn segment_prefix(&self) -> String {
        format!("shm.{}.{:016x}.", self.domain, self.nonce)
    }

    /// Finishes whatever `dead` was doing: what a reaper of the table of participants is to run.
    pub(super) fn clean_up(&self, dead: ParticipantId) {
        let actor = self.control.actor(dead, self);
        // Names first: they may have pinned segments that are then nobody's.
        self.registry.reap(dead, &|handle| _ = actor.unpin(handle));
        actor.clean_up();
    }

    /// Removes what earlier domains of this name left whose control segment is lost.
    ///
    /// Not if ours is the lost one: a later domain is made only after our name is gone, so what was
    /// listed before we saw that we still have it belongs to no later domain.
    pub(super) fn remove_orphans(&self) -> Result<(), BackendError> {
        let (mine, control) = (self.segment_prefix(), control_name(&self.domain));
        let mut names = backend::list(&self.place, &format!("shm.{}.", self.domain))?;
        names.retain(|name| !name.starts_with(&mine) && *name != control);
        if !names.is_empty() && self.is_found()? {
            for name in names {
                self.remove_named(&name);
            }
        }
        Ok(())
    }

    /// As [`Objects::remove_domain`]; why the control segment is still there.
    pub(super) fn try_remove_domain(&self) -> Result<(), BackendError> {
        let leftovers = self.control.leftovers().into_iter();
        let stay = leftovers.filter(|handle| !self.remove(*handle)).count();
        if stay > 0 && !self.place.backend.can_list() {
            // Nothing but the control segment says that they are there. The next to open the domain
            // finds it closed, and tries again.
            return Ok(());
        }
        match backend::list(&self.place, &self.segment_prefix()) {
            Ok(names) => {
                for name in names {
                    self.remove_named(&name);
                }
            }
            Err(error) => tracing::warn!(domain = self.domain, %error, "cannot list segments"),
        }
        let removed = self.object.remove_exact().map(drop);
        removed.inspect_err(|error| {
            tracing::warn!(domain = self.domain, %error, "cannot remove the control segment");
        })
    }

    /// Why the segment table could not be given more memory.
    pub(super) fn cannot_grow(&self, error: io::Error) -> BackendError {
        match error.raw_os_error() {
            Some(libc::EFAULT | libc::ENOMEM) => self.object.no_space(self.control.piece_bytes()),
            _ => BackendError::Os {
                call: "madvise",
                name: control_name(&self.domain),
                source: error,
            },
        }
    }

    /// Whether segments here can have holes that are filled and made.
    pub(super) fn check_holes(&self) -> Result<(), BackendError> {
        let backend = self.place.backend;
        if backend.has_holes() || backend == Backend::None {
            return Ok(());
        }
        Err(BackendError::Unsupported {
            backend,
            reason: "its segments have one size for good: use posix, mmap or memfd to grow",
        })
    }

    /// The page of a ready segment's slot; `None` for a slot that has none.
    pub(super) fn page(&self, handle: SegmentHandle) -> Option<NonNull<u8>> {
        let Range { start, end } = self.page_range(handle);
        let is_there = handle.slot() < self.control.ready();
        let at = || self.object.mapping().region().range(start, end - start).ok();
        is_there.then(at).flatten()
    }

    /// Where in the control segment that page lies.
    pub(super) fn page_range(&self, handle: SegmentHandle) -> Range<u64> {
        let start = self.pages + u64::from(handle.slot()) * page_size();
        start..start + page_size()
    }

    /// Where the pages of a chunk lie.
    fn chunk(&self, chunk: u32) -> Range<u64> {
        let len = u64::from(CHUNK) * page_size();
        let begin = self.pages + u64::from(chunk) * len;
        begin..begin + len
    }

    /// Whether the control segment's name leads to ours.
    fn is_found(&self) -> Result<bool, BackendError> {
        let found = backend::open(&self.place, &control_name(&self.domain))?;
        Ok(found.is_some_and(|found| found.identity() == self.object.identity()))
    }

    fn remove_named(&self, name: &str) -> bool {
        is_gone(name, backend::remove(&self.place, name))
    }

    /// The file of a segment of this domain, where segments are files.
    fn segment_file(&self, name: &str) -> Option<PathBuf> {
        match self.place.backend {
            Backend::Posix => Some(Path::new(POSIX_DIRECTORY).join(name)),
            Backend::Mmap => Some(self.place.directory.join(name)),
            _ => None,
        }
    }
}

impl Objects for System {
    fn remove(&self, handle: SegmentHandle) -> bool {
        if self.control.is_ready(handle) {
            return true;
        }
        let name = self.segment_name(handle);
        if self.place.backend == Backend::Sysv && !self.control.is_made(handle) {
            return is_gone(&name, backend::sysv::remove_unused(&self.place, &name));
        }
        let Some(file) = self.segment_file(&name) else { return self.remove_named(&name) };
        // No other object ever bears this name, so we need no lock, and thus no descriptor: there
        // may be none left.
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                warn_of(&name, &error);
                false
            }
            _ => true,
        }
    }

    fn fill(&self, chunk: u32) -> bool {
        let Range { start, end } = self.chunk(chunk);
        pages::touch_range(self.object.mapping(), start, end).is_ok()
    }

    fn empty(&self, chunk: u32) -> bool {
        pages::punch(self.object.mapping(), self.chunk(chunk), &self.place).is_ok()
    }

    /// Whatever the table still lists first, so that the control segment, which says where they
    /// are, goes last. Then what the table does not know of: temporary names of killed creators.
    fn remove_domain(&self) {
        // It has been told, and stays known: who opens the domain finds it closed.
        let _ = self.try_remove_domain();
    }
}

/// Whether it is gone. A failure leaves an object behind, which is worth a warning.
fn is_gone(name: &str, removed: Result<bool, BackendError>) -> bool {
    removed.inspect_err(|error| warn_of(name, error)).is_ok()
}

fn warn_of(name: &str, error: impl Display) {
    tracing::warn!(name, %error, "cannot remove shared memory");
}
