//! A segment as this process has it: attached, for as long as anybody here uses its memory.
use crate::backend::{BackendError, HugePages, PageUsage, huge, pages};
use crate::control::{Control, PinError};
use crate::handle::SegmentHandle;
use shm_core::Region;
use shm_core::mapping::Mapping;
use shm_core::process::ForkGuard;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
// private: the segments of one process.
use std::sync::atomic::{AtomicU32, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub(crate) mod elastic;
mod options;
mod read;

use elastic::Elastic;
pub use options::SegmentOptions;
pub use read::ReadOnlySegment;

/// A segment, attached.
///
/// Clones are the same attachment, and so is what
/// [`Domain::find_mapping`](crate::Domain::find_mapping) returns. When the last of them is dropped,
/// the callbacks of [`on_detach`](Segment::on_detach) run, the newest first, and the memory is
/// unmapped as soon as nobody here uses it: queues and tables made in [`mapping`](Segment::mapping)
/// keep it, and with it the attachment. The last process to detach destroys the segment, unless it
/// is pinned.
///
/// ```
/// use dsm::{Domain, DomainConfig};
/// # let name = format!("doc-segment-{}", std::process::id());
/// let domain = Domain::open(DomainConfig::new(&name))?;
/// let segment = domain.create_segment(10_000)?;
/// assert!(segment.len() >= 10_000);
/// segment.on_detach(|handle| println!("{handle} is let go"));
/// drop(segment);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// After a `fork`, the child's copy unmaps and does nothing else: it detaches nobody, runs no
/// callbacks, takes none, and pins nothing.
pub struct Segment {
    attachment: Arc<Attachment>,
    /// Unmapping it ends the attachment: that is the domain's affair. Of one that can grow, a view
    /// of what it has mapped.
    mapping: Arc<Mapping>,
}

/// Why shared memory that is mapped cannot be relied on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// Somebody has cut its file off.
    #[error(
        "shared memory of {len} bytes was cut off by somebody while it was mapped: touch it no \
         more (that sends SIGBUS), keep it mapped, and make it anew"
    )]
    CutOff {
        /// Bytes that it had.
        len: u64,
    },
    /// The system does not tell.
    #[error("cannot tell whether shared memory is all there (`madvise`, since Linux 5.14): {0}")]
    Unknown(std::io::Error),
}

/// Asks the system whether all of `region` is there.
pub(crate) fn check(region: Region<'_>) -> Result<(), CheckError> {
    match pages::is_whole(region) {
        Ok(true) => Ok(()),
        Ok(false) => Err(CheckError::CutOff { len: region.len() as u64 }),
        Err(errno) => Err(CheckError::Unknown(errno.into())),
    }
}

/// Names one callback of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallbackId(u64);

type Callback = Box<dyn FnOnce(SegmentHandle) + Send>;

#[derive(Default)]
struct Callbacks {
    /// Oldest first.
    list: Vec<(CallbackId, Callback)>,
    made: u64,
}

/// What all `Segment`s of an attachment share. Where it is mapped still, the domain keeps it for
/// the next attachment.
pub(crate) struct Attachment {
    handle: SegmentHandle,
    /// How many `Segment`s there are | `CALLED`.
    segments: AtomicU32,
    home: Arc<Home>,
    callbacks: Mutex<Callbacks>,
    /// Of one that can grow: what its views keep, and the first of them.
    elastic: Option<Box<(Weak<Elastic>, Weak<Mapping>)>>,
}

/// There has been a callback. Whoever drops the last `Segment` may be running it, so this is not
/// used again.
const CALLED: u32 = 1 << 31;

/// What the attachments of a domain share.
pub(crate) struct Home {
    control: Control,
    guard: ForkGuard,
    /// Attachments that stay until the process leaves the domain. `None` once it has.
    kept: Mutex<Option<Vec<Segment>>>,
}

impl Home {
    pub(crate) fn new(control: Control) -> Home {
        Home { control, guard: ForkGuard::new(), kept: Mutex::new(Some(Vec::new())) }
    }

    /// Lets go what was kept, the newest first.
    pub(crate) fn release(&self) {
        let mut list = lock(&self.kept).take().unwrap_or_default();
        while let Some(segment) = list.pop() {
            drop(segment);
        }
    }

    /// Unmaps it in a forked child, which must not wait for a lock that a thread of its parent
    /// had: where one had it, it stays mapped.
    pub(crate) fn release_in_child(&self) {
        let list = self.kept.try_lock().ok().and_then(|mut list| list.take());
        drop(list);
    }
}

impl Segment {
    /// One of those that `attachment` counts already.
    pub(crate) fn new(attachment: Arc<Attachment>, mapping: Arc<Mapping>) -> Segment {
        Segment { attachment, mapping }
    }

    /// What other processes attach to it by.
    pub fn handle(&self) -> SegmentHandle {
        self.attachment.handle
    }

    /// Size in bytes: what was asked for, rounded up to whole pages. Of one that can grow, what it
    /// had when this process attached; [`current`](Segment::current) says what it has.
    pub fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Never: a segment has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.mapping.is_empty()
    }

    /// The memory, [`len`](Segment::len) bytes. Whoever holds it keeps the segment attached.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Asks the system whether all of it is there, by one system call. Files of `posix` and `mmap`
    /// can be cut off by any program of this user (`memfd` is sealed against it, and System V
    /// segments have one size); who then touches what is gone gets SIGBUS.
    ///
    /// It tells of the moment when it was asked. A file that was cut off and made longer again is
    /// there, with zeroes in it.
    ///
    /// ```
    /// # let name = format!("doc-check-{}", std::process::id());
    /// let domain = dsm::Domain::open(dsm::DomainConfig::new(&name))?;
    /// let segment = domain.create_segment(10_000)?;
    /// segment.check()?;
    /// domain.check()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CheckError`].
    pub fn check(&self) -> Result<(), CheckError> {
        check(self.region())
    }

    /// Makes the page tables' entries for all of it, so that no first touch takes a page fault in
    /// this process. Its memory is there in any case.
    ///
    /// # Errors
    /// [`BackendError`] where the system cannot (before Linux 5.14, for one).
    pub fn prefault(&self) -> Result<(), BackendError> {
        huge::prefault(self.view().region())
    }

    /// How much of it is mapped in this process now, and in what pages: what came of
    /// [`SegmentOptions::huge_pages`] and [`SegmentOptions::prefault`]. Reads `/proc/self/smaps`.
    /// (Of one in the domain's own memory it tells what is mapped of all that.)
    ///
    /// ```
    /// use dsm::backend::HugePages;
    /// use dsm::{Domain, DomainConfig, SegmentOptions};
    /// # let name = format!("doc-usage-{}", std::process::id());
    /// let domain = Domain::open(DomainConfig::new(&name))?;
    /// let options = SegmentOptions { huge_pages: HugePages::Advised, ..Default::default() };
    /// let segment = domain.create_segment_with(4 << 20, options)?;
    /// segment.prefault()?;
    /// let usage = segment.page_usage()?;
    /// println!("{} bytes in huge pages", usage.transparent + usage.pool);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Where there is no `/proc`.
    pub fn page_usage(&self) -> std::io::Result<PageUsage> {
        huge::usage(self.view().region())
    }

    /// What there is of it now, as far as its head can be believed.
    fn view(&self) -> Arc<Mapping> {
        self.current().unwrap_or_else(|_corrupt| self.mapping.clone())
    }

    /// As the options say, and as far as the system goes along.
    pub(crate) fn set_up(&self, pages: HugePages, prefault: bool) {
        if pages != HugePages::Unasked {
            huge::advise(self.view().region());
        }
        if prefault && let Err(error) = self.prefault() {
            tracing::warn!(segment = %self.handle(), %error, "cannot prefault");
        }
    }

    /// The memory, for as long as the segment is held.
    pub fn region(&self) -> Region<'_> {
        self.mapping.region()
    }

    /// Keeps the segment when nobody is attached, until somebody calls
    /// [`Domain::unpin`](crate::Domain::unpin).
    ///
    /// # Errors
    /// [`PinError::AlreadyPinned`].
    ///
    /// # If a process dies here
    /// It is pinned or it is not.
    pub fn pin(&self) -> Result<(), PinError> {
        self.attachment.home.guard.check()?;
        self.attachment.home.control.pin(self.handle())
    }

    /// Keeps the attachment until the [`Domain`](crate::Domain) is dropped, whatever becomes of
    /// `self`. Twice is as once.
    pub fn pin_mapping(&self) {
        if self.is_copy() {
            return;
        }
        if let Some(kept) = lock(&self.attachment.home.kept).as_mut()
            && !kept.iter().any(|kept| self.is_same(kept))
        {
            kept.push(self.clone());
        }
    }

    /// Takes that back: the attachment ends with the last `Segment`.
    pub fn unpin_mapping(&self) {
        if self.is_copy() {
            return;
        }
        if let Some(kept) = lock(&self.attachment.home.kept).as_mut() {
            kept.retain(|kept| !self.is_same(kept));
        }
    }

    /// Has `callback` run when the last `Segment` is dropped, before the memory is unmapped.
    ///
    /// The newest runs first. One that panics is reported and the next one runs. It must not hold
    /// this segment, which would then never be dropped.
    pub fn on_detach(&self, callback: impl FnOnce(SegmentHandle) + Send + 'static) -> CallbackId {
        if self.is_copy() {
            return CallbackId(0);
        }
        // Relaxed: the drop of this `Segment` comes after it.
        self.attachment.segments.fetch_or(CALLED, Relaxed);
        let mut callbacks = lock(&self.attachment.callbacks);
        callbacks.made += 1;
        let id = CallbackId(callbacks.made);
        callbacks.list.push((id, Box::new(callback)));
        id
    }

    /// Takes a callback back; `false` where it is not there any more.
    pub fn cancel_on_detach(&self, id: CallbackId) -> bool {
        if self.is_copy() {
            return false;
        }
        let mut callbacks = lock(&self.attachment.callbacks);
        let found = callbacks.list.iter().position(|(other, _)| *other == id);
        let cancelled = found.map(|at| callbacks.list.remove(at));
        drop(callbacks);
        cancelled.is_some()
    }

    /// Forgets all callbacks without running or dropping them. A forked child, which must not act
    /// for its parent, does so by itself.
    pub fn reset_on_detach(&self) {
        if !self.is_copy() {
            std::mem::forget(std::mem::take(&mut lock(&self.attachment.callbacks).list));
        }
    }

    fn is_same(&self, other: &Segment) -> bool {
        Arc::ptr_eq(&self.attachment, &other.attachment)
    }

    /// Whether this is a forked child's, which must not wait for a lock that a thread of its parent
    /// may have had.
    fn is_copy(&self) -> bool {
        self.attachment.home.guard.check().is_err()
    }
}

impl Attachment {
    /// With one `Segment`.
    pub(crate) fn new(
        handle: SegmentHandle,
        home: Arc<Home>,
        elastic: Option<(&Arc<Elastic>, &Arc<Mapping>)>,
    ) -> Attachment {
        let weak = |(elastic, first)| Box::new((Arc::downgrade(elastic), Arc::downgrade(first)));
        let (segments, callbacks) = (AtomicU32::new(1), Mutex::default());
        Attachment { handle, segments, home, callbacks, elastic: elastic.map(weak) }
    }

    /// Of one that can grow, for as long as there is a `Segment`.
    pub(crate) fn elastic(&self) -> Option<Arc<Elastic>> {
        self.elastic.as_ref()?.0.upgrade()
    }

    /// The first view of it, for as long.
    pub(crate) fn first_view(&self) -> Option<Arc<Mapping>> {
        self.elastic.as_ref()?.1.upgrade()
    }

    /// Whether there is a `Segment`.
    pub(crate) fn is_used(&self) -> bool {
        self.segments.load(Relaxed) & !CALLED > 0
    }

    /// One more `Segment`, where there is one. Under the domain's lock, as what follows.
    pub(crate) fn join(&self) -> bool {
        let one_more = |count| (count & !CALLED > 0).then_some(count + 1);
        self.segments.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    /// Begins again with one `Segment`, if this can be used again: of which there is none, and no
    /// callback that may be running. One that can grow is as long as it is then.
    pub(crate) fn begin_again(&self) -> bool {
        // Pairs with the AcqRel in `drop`: the last one is done with it.
        let is_idle = self.segments.load(Acquire) == 0 && self.elastic.is_none();
        if is_idle {
            self.segments.store(1, Relaxed);
        }
        is_idle
    }

    /// Runs the callbacks, each taken from the list first, so that none runs twice.
    #[cold]
    fn run_callbacks(&self) {
        loop {
            let next = lock(&self.callbacks).list.pop();
            let Some((_, callback)) = next else { return };
            if catch_unwind(AssertUnwindSafe(|| callback(self.handle))).is_err() {
                tracing::warn!(segment = %self.handle, "a detach callback panicked");
            }
        }
    }
}

impl Clone for Segment {
    fn clone(&self) -> Segment {
        // Relaxed: there is one, which is ours.
        self.attachment.segments.fetch_add(1, Relaxed);
        Segment { attachment: self.attachment.clone(), mapping: self.mapping.clone() }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let attachment = &*self.attachment;
        // Pairs with itself: whoever drops the last one runs what others have given. And with the
        // Acquire in `begin_again`.
        let before = attachment.segments.fetch_sub(1, AcqRel);
        if before == 1 | CALLED && attachment.home.guard.check().is_ok() {
            attachment.run_callbacks();
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.home.guard.check().is_err() {
            // A thread of the parent may have held the lock, and they are the parent's to run.
            let callbacks = self.callbacks.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget(std::mem::take(callbacks));
        }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("handle", &self.handle())
            .field("mapping", &self.mapping)
            .finish_non_exhaustive()
    }
}

/// What a panic in a callback left half done is a list of callbacks: as good as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::{Domain, DomainConfig};

    /// Both locks are held when it forks: by another thread, as far as the child is concerned.
    #[test]
    fn a_forked_child_waits_for_no_lock() {
        let config =
            DomainConfig { backend: Some(Backend::Memfd), ..DomainConfig::new("forked_locks") };
        let domain = Domain::open(config).unwrap();
        let segment = domain.create_segment(1).unwrap();
        let id = segment.on_detach(|_| ());
        let locks = (lock(&segment.attachment.callbacks), lock(&segment.attachment.home.kept));
        // SAFETY: the child calls what takes no lock, and `_exit`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: ends the child should it wait.
            unsafe { libc::alarm(10) };
            segment.pin_mapping();
            segment.unpin_mapping();
            segment.on_detach(|_| ());
            let cancelled = segment.cancel_on_detach(id);
            segment.reset_on_detach();
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(cancelled)) };
        }
        let mut status = 0;
        // SAFETY: our own child, and a place for its status.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0, "it waited for a lock (14), or took a callback back (256)");
        drop(locks);
        assert!(segment.cancel_on_detach(id));
    }
}
