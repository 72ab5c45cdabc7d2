//! The pool in the hands of one thread.
use super::stats::{Count, Tally};
use super::{Inner, PageError, Pool, PoolStats, SessionError};
use crate::files::{FileNumber, Files, Finder};
use crate::frames::{Pinned, Stock, User};
use crate::pages;
use crate::policy::{Batch, Policy};
use shm_core::hazard::Protected;
use shm_core::mapping::Mapped;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// A pool, as one thread uses it: [`Pool::session`].
///
/// ```compile_fail,E0277
/// fn is_sync<T: Sync>() {}
/// // Its pins are announced by one thread.
/// is_sync::<buffer_pool::pool::Session>();
/// ```
pub struct Session {
    pub(super) inner: Arc<Inner>,
    /// Hits find their entries by it.
    pub(super) finder: Finder,
    pub(super) user: User<Files>,
    pub(super) pages: pages::User,
    pub(super) policy: Policy,
    /// Frames whose memory stays: that of others may be gone as it is read, unless it is pinned.
    pub(super) frames_kept: u32,
    pub(super) tally: Tally,
    reserve: RefCell<Reserve>,
    /// The file that it has changed last, which this process has open.
    changed: Cell<Option<FileNumber>>,
    /// Of each file that it has changed: which it was of all, and how often somebody could not sync
    /// it before; or by the time it was told.
    failures: RefCell<HashMap<FileNumber, (u64, u64)>>,
    /// Given back last.
    _thread: Thread,
}

/// What a session has for misses and for writing out.
pub(super) struct Reserve {
    pub(super) policy: Policy,
    pub(super) batch: Batch,
    pub(super) protected: Protected,
    pub(super) pinned: Pinned,
    pub(super) stock: Stock,
    /// A page, on its way to its file.
    pub(super) page: PageBuffer,
}

/// A page's bytes, aligned as direct writes want them.
pub(super) struct PageBuffer {
    blocks: Vec<Block>,
    len: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Block([u8; 4096]);

impl PageBuffer {
    pub(super) fn new(len: usize) -> PageBuffer {
        PageBuffer { blocks: vec![Block([0; 4096]); len.div_ceil(4096)], len }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let bytes = self.blocks.as_mut_ptr().cast::<u8>();
        // SAFETY: so many bytes at least are in the vector, which is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(bytes, self.len) }
    }
}

/// The number of a thread, given back.
struct Thread {
    inner: Arc<Inner>,
    number: u32,
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.inner.check_fork().is_ok() {
            self.inner.give_back_thread(self.number);
        }
    }
}

impl Session {
    pub(super) fn new(pool: &Pool) -> Result<Session, SessionError> {
        let inner = pool.inner.clone();
        inner.check_fork()?;
        let too_many = SessionError::TooMany(inner.config.sessions);
        let number = inner.take_thread().ok_or(too_many)?;
        let thread = Thread { inner: inner.clone(), number };
        let policy = || {
            let policy = Policy::attach(&inner.mapping, inner.parts.policy);
            let policy = policy.map_err(|_| SessionError::Corrupt)?;
            let is_ours = policy.frames() == inner.config.frames_max;
            if is_ours { Ok(policy) } else { Err(SessionError::Corrupt) }
        };
        let row = inner.member.id().slot() * inner.config.sessions + number;
        let at = inner.parts.counts + u64::from(row) * size_of::<super::Counts>() as u64;
        let row = Mapped::new(&inner.mapping, at).map_err(|_| SessionError::Corrupt)?;
        let reserve = Reserve {
            policy: policy()?,
            batch: Batch::new(batch_of(inner.config.frames)),
            protected: Protected::default(),
            pinned: Pinned::default(),
            stock: Stock::default(),
            page: PageBuffer::new(inner.config.page_bytes as usize),
        };
        Ok(Session {
            finder: inner.files.finder(),
            user: inner.users.user()?,
            pages: inner.pages.user(&inner.member, number)?,
            policy: policy()?,
            frames_kept: inner.config.frames,
            tally: Tally::new(row),
            reserve: RefCell::new(reserve),
            changed: Cell::new(None),
            failures: RefCell::default(),
            _thread: thread,
            inner,
        })
    }

    /// The pool that it uses.
    pub fn pool(&self) -> Pool {
        Pool { inner: self.inner.clone() }
    }

    /// What this session has done, and those before it that had the same row of counts.
    pub fn stats(&self) -> PoolStats {
        self.tally.stats()
    }

    /// No call that has it calls another one that wants it.
    pub(super) fn reserve(&self) -> RefMut<'_, Reserve> {
        self.reserve.borrow_mut()
    }

    #[inline]
    pub(super) fn count(&self, count: Count) {
        self.tally.add(count, 1);
    }

    /// Opens a file that is to be changed, if this process has not done so. Where the system cannot
    /// write what it has of a file, it tells each who had it open by then, and nobody else.
    #[inline]
    pub(super) fn has_open(&self, file: FileNumber) -> Result<(), PageError> {
        if self.changed.get() == Some(file) { Ok(()) } else { self.opens(file) }
    }

    #[cold]
    fn opens(&self, file: FileNumber) -> Result<(), PageError> {
        let files = &self.inner.files;
        let serial = files.serial(file).ok_or(PageError::NoSuchFile(file))?;
        let now = (serial, files.sync_failures(file));
        self.inner.open_file(file)?;
        let mut failures = self.failures.borrow_mut();
        let known = failures.entry(file).or_insert(now);
        if known.0 != serial {
            *known = now;
        }
        self.changed.set(Some(file));
        Ok(())
    }

    /// How often somebody could not sync the file before this session changed it, or was told.
    pub(super) fn failures_before(&self, file: FileNumber) -> u64 {
        let (files, known) = (&self.inner.files, self.failures.borrow());
        let of_it = known.get(&file).filter(|(serial, _)| files.serial(file) == Some(*serial));
        of_it.map_or_else(|| files.sync_failures(file), |(_, failures)| *failures)
    }

    /// It was told of so many.
    pub(super) fn was_told(&self, file: FileNumber, count: u64) {
        if let Some((_, failures)) = self.failures.borrow_mut().get_mut(&file) {
            *failures = count;
        }
    }

    /// The page's bytes for users, where these are such.
    pub(super) fn check_range(&self, at: usize, len: usize) -> Result<(), PageError> {
        let page_bytes = self.inner.config.page_bytes;
        let is_inside = at <= page_bytes as usize && len <= page_bytes as usize - at;
        if is_inside { Ok(()) } else { Err(PageError::OutOfPage { at, len, page_bytes }) }
    }
}

/// So many victims are looked for at a time: what a session puts by is not to be missed.
fn batch_of(frames: u32) -> usize {
    (frames as usize / 2048).clamp(1, 32)
}

impl Drop for Session {
    /// # If a process dies here
    /// What it has is taken back when it is reaped.
    fn drop(&mut self) {
        let mut stock = std::mem::take(&mut self.reserve.get_mut().stock);
        while let Some(free) = self.user.take_from(&mut stock) {
            self.give_back(free);
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("config", &self.inner.config).finish_non_exhaustive()
    }
}
