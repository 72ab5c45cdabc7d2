//! The processes that share one control segment, and the segments they share.
//!
//! ```text
//!  shm.NAME.control           header | settings | participants | names | segment table | pages
//!  shm.NAME.NONCE.HANDLE      a segment, as its creator fills it
//! ```
//!
//! **Coming in** ([`Domain::open`]): find the control segment or make it; whoever claims its header
//! first writes the tables; take a seat; enter. Where the last one out has closed it meanwhile,
//! finish removing it and begin again. Once inside, clean up after the dead.
//!
//! **Leaving** (dropping the domain, and all that is mapped of it): clean up after the dead, take
//! back one's own bits, and, as the last one out, remove what there is, the control segment last. A
//! pinned segment keeps the domain for the next one to come.
//!
//! What a death leaves, and who finishes it:
//!
//! | dead | it leaves | who finishes |
//! | --- | --- | --- |
//! | making the control segment | an object without, or with half a header | the next to open takes over |
//! | with a seat | seat, bits, segments half made | whoever opens next, finds it full, or calls [`Domain::reap`] |
//! | as the last one out | a closed control segment, perhaps segments | the next to open removes them |
//! | as the last one, not leaving | the domain as it was | the next to open is in it, and reaps |
//!
//! Segments whose control segment is lost (somebody removed it by hand) are removed by the next to
//! make the domain, where the backend can list them (`posix`, `mmap`). Those inside can ask
//! ([`Domain::is_named`], [`Domain::names`]) and are kept from splitting in two (`names.rs`).
mod config;
mod error;
mod held;
mod inherit;
mod names;
mod open;
mod presence;
mod shared;
mod system;

use crate::backend::Backend;
use crate::control::{PinError, SegmentInfo};
use crate::handle::SegmentHandle;
use crate::registry::Registry;
use crate::segment::{self, CheckError, ReadOnlySegment, Segment, SegmentOptions};
use presence::Presence;
use shm_core::participants::{Member, ParticipantInfo};
use std::fmt;
use std::sync::{Arc, PoisonError};

pub use config::{DomainConfig, NAME_LEN_MAX, SEGMENTS_MAX};
pub use error::{AttachError, CreateError, DestroyError, HandOverError, OpenError};
pub use inherit::Inheritance;
pub use names::{NameState, Names};

/// A domain that this process is in. See the [crate] for an example.
///
/// Dropping it lets go of the segments kept by [`Segment::pin_mapping`], the newest first. The
/// process leaves when neither the domain nor any segment's memory is held here any more.
///
/// A process that ends without dropping it (`std::process::exit`) is as one that was killed.
///
/// After a `fork`, the child's copy refuses to work and releases nothing: open the domain anew
/// there.
pub struct Domain {
    presence: Arc<Presence>,
    hashes: crate::shared_hash::Here,
}

impl Domain {
    fn new(presence: Presence) -> Domain {
        Domain { presence: Arc::new(presence), hashes: Default::default() }
    }

    /// The hashes that this process has.
    pub(crate) fn hashes(&self) -> &crate::shared_hash::Here {
        &self.hashes
    }

    /// Comes into the domain; makes it if it is not there. With `memfd`, always makes one, which
    /// others come into by [`Domain::from_env`].
    ///
    /// # Errors
    /// [`OpenError`]. Nothing is left behind.
    ///
    /// # If a process dies here
    /// The next to open the domain takes over, or cleans up.
    pub fn open(config: DomainConfig) -> Result<Domain, OpenError> {
        open::open(&config).map(Domain::new)
    }

    /// Comes into the domain if it is there.
    ///
    /// # Errors
    /// As [`open`](Domain::open); with `memfd`, always.
    pub fn open_existing(config: DomainConfig) -> Result<Option<Domain>, OpenError> {
        Ok(open::open_existing(&config)?.map(Domain::new))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.presence.system.domain
    }

    /// What its memory is.
    pub fn backend(&self) -> Backend {
        self.presence.system.place.backend
    }

    /// This process's seat in it.
    pub fn member(&self) -> &Arc<Member> {
        &self.presence.member
    }

    /// Creates a segment of `size` bytes, rounded up to whole pages, zero; this process is
    /// attached. One of up to a page lies in the domain's own memory, as long as there is room
    /// ([`DomainConfig::ready_max`]): it takes no call of the system.
    ///
    /// # Errors
    /// [`CreateError`]. Nothing is left behind.
    ///
    /// # If a process dies here
    /// The slot names it; who cleans up after it removes what was made.
    pub fn create_segment(&self, size: u64) -> Result<Segment, CreateError> {
        self.presence.create(size, self.presence.options())
    }

    /// As [`create_segment`](Domain::create_segment), with options. One that can grow
    /// ([`Segment::grow`]) has a page of its own before the first byte.
    ///
    /// # Errors
    /// [`CreateError`]; [`BackendError::Unsupported`](crate::backend::BackendError::Unsupported)
    /// where the backend cannot do what was asked. Nothing is left behind.
    ///
    /// # If a process dies here
    /// As in [`create_segment`](Domain::create_segment).
    pub fn create_segment_with(
        &self,
        size: u64,
        options: SegmentOptions,
    ) -> Result<Segment, CreateError> {
        self.presence.create(size, options)
    }

    /// See [`Presence::create_sparse`].
    pub(crate) fn create_sparse(&self, size: u64, len: u64) -> Result<Segment, CreateError> {
        self.presence.create_sparse(size, len)
    }

    /// Where its segments are.
    pub(crate) fn place(&self) -> &crate::backend::Place {
        &self.presence.system.place
    }

    /// Attaches to a segment by its handle alone; `None` where it is gone.
    ///
    /// # Errors
    /// [`AttachError`].
    ///
    /// # If a process dies here
    /// It counts as attached until it is cleaned up after.
    pub fn attach(&self, handle: SegmentHandle) -> Result<Option<Segment>, AttachError> {
        self.presence.attach(handle)
    }

    /// Attaches to a segment without the right to write it; `None` where it is gone. A process has
    /// a segment in one way at a time.
    ///
    /// ```
    /// use dsm::{Domain, DomainConfig};
    /// # let name = format!("doc-read-only-{}", std::process::id());
    /// let writer = Domain::open(DomainConfig::new(&name))?;
    /// let segment = writer.create_segment(4096)?;
    /// let reader = Domain::open(DomainConfig::new(&name))?;
    /// let theirs = reader.attach_read_only(segment.handle())?.expect("it is there");
    /// assert_eq!(theirs.view().load_u64(0)?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AttachError`].
    ///
    /// # If a process dies here
    /// As in [`attach`](Domain::attach).
    pub fn attach_read_only(
        &self,
        handle: SegmentHandle,
    ) -> Result<Option<ReadOnlySegment>, AttachError> {
        self.presence.attach_read_only(handle)
    }

    /// The segment, if this process is attached to it, and not read-only.
    pub fn find_mapping(&self, handle: SegmentHandle) -> Option<Segment> {
        self.presence.find(handle)
    }

    /// Takes a segment's pin away, attached or not; where nobody is attached, it is destroyed.
    ///
    /// # Errors
    /// [`PinError`].
    ///
    /// # If a process dies here
    /// Who cleans up after it destroys the segment, if nobody is attached.
    pub fn unpin(&self, handle: SegmentHandle) -> Result<(), PinError> {
        self.presence.unpin(handle)
    }

    /// Finishes what dead processes left; how many there were. Opening, and whoever finds no room,
    /// does so too. Tries again to remove segments that this process could not remove.
    ///
    /// # If a process dies here
    /// The next one to reap begins anew.
    pub fn reap(&self) -> usize {
        match self.presence.member.check_fork() {
            Ok(()) => self.presence.reap(),
            Err(_) => 0,
        }
    }

    /// The segments that are alive, and who is attached to each.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.presence.control().segments()
    }

    /// The processes in the domain.
    pub fn participants(&self) -> Vec<ParticipantInfo> {
        self.presence.table.snapshot()
    }

    /// What names lead to.
    pub(crate) fn registry(&self) -> &Registry {
        &self.presence.system.registry
    }

    /// Asks the system whether the control segment is all there, as [`Segment::check`] does. Where
    /// it was cut off, nothing of this domain works any more, dropping it included:
    /// [`abandon`](Domain::abandon) it.
    ///
    /// # Errors
    /// [`CheckError`].
    pub fn check(&self) -> Result<(), CheckError> {
        let region = self.presence.system.object.mapping().region();
        let reached = self.presence.control().reached_bytes();
        segment::check(region.sub(0, reached).unwrap_or(region))
    }

    /// Gives the domain up without leaving it, which needs the control segment: for one that was
    /// [cut off](Domain::check). It touches nothing that is shared, keeps what is mapped until this
    /// process ends, and lets the process open the name again.
    pub fn abandon(self) {
        self.presence.ticket.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::mem::forget(self);
    }

    /// Ends the domain, pinned segments included, if nobody else is in it. What is still mapped
    /// here goes when it is unmapped.
    ///
    /// # Errors
    /// [`DestroyError::InUse`], which gives the domain back.
    ///
    /// # If a process dies here
    /// The next one to open the domain is in it, with the segments that were not destroyed yet.
    pub fn destroy(self) -> Result<(), DestroyError> {
        if let Err(forked) = self.presence.member.check_fork() {
            return Err(DestroyError::Forked(forked));
        }
        self.reap();
        let me = self.presence.member.id().slot();
        let others: Vec<u32> =
            self.presence.control().present().into_iter().filter(|slot| *slot != me).collect();
        if !others.is_empty() {
            let participants = self.participants().into_iter();
            let by = participants.filter(|who| others.contains(&who.id.slot()));
            let by = by.map(|who| who.process).collect();
            return Err(DestroyError::InUse { domain: Box::new(self), by });
        }
        for segment in self.segments().into_iter().filter(|segment| segment.pinned) {
            // Nobody else is here to have been faster.
            let _ = self.unpin(segment.handle);
        }
        Ok(())
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        match self.presence.member.check_fork() {
            Ok(()) => self.presence.home.release(),
            Err(_) => self.presence.home.release_in_child(),
        }
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("name", &self.name())
            .field("backend", &self.backend())
            .field("member", self.member())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests;
