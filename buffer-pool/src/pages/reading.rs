//! What a pool needs besides: short reads by a closure, and pages that were written in vain.
use super::guard::ShareExclusive;
use super::{Loading, User};
use crate::latch::LatchError;
use shm_core::bytes::{Word, relaxed};
use shm_core::process::Forked;
use std::time::Instant;

impl User {
    /// What `read` reads of the page in `frame`, as [`read`](User::read): it may be called several
    /// times, and see a page that is half changed; what it reads then is void. `deadline` is asked
    /// where there is something to wait for.
    ///
    /// # Errors
    /// Those of [`share`](User::share).
    ///
    /// # If a process dies here
    /// As in [`share`](User::share).
    #[inline]
    pub fn read_with<R>(
        &self,
        frame: u32,
        deadline: impl FnOnce() -> Option<Instant>,
        mut read: impl FnMut(&[Word]) -> R,
    ) -> Result<R, LatchError> {
        self.check_fork()?;
        let page = self.pages.page(frame)?;
        match self.pages.latches.look(frame, || read(page))? {
            Some(bytes) => Ok(bytes),
            None => self.read_slowly(frame, deadline(), || read(page)),
        }
    }

    /// What `read` reads of `frame`, where nobody changes the page, or puts another one there,
    /// meanwhile; else `None`. It is for who has not pinned the page: `read` has to look whether it
    /// is there, before it reads.
    ///
    /// # Errors
    /// [`LatchError::NoSuchFrame`], [`LatchError::Forked`].
    #[inline]
    pub fn look<R>(
        &self,
        frame: u32,
        read: impl FnOnce(&[Word]) -> R,
    ) -> Result<Option<R>, LatchError> {
        self.check_fork()?;
        let page = self.pages.page(frame)?;
        self.pages.latches.look(frame, || read(page))
    }

    #[cold]
    fn read_slowly<R>(
        &self,
        frame: u32,
        deadline: Option<Instant>,
        mut read: impl FnMut() -> R,
    ) -> Result<R, LatchError> {
        self.whole(frame, deadline, || self.latches.read(frame, deadline, &mut read))
    }
}

impl Loading<'_> {
    /// Copies `out.len()` bytes from byte `at` on.
    ///
    /// # Panics
    /// Where they do not lie in the page.
    pub fn copy_out(&self, at: usize, out: &mut [u8]) {
        relaxed::copy_out(self.page, at, out);
    }
}

impl ShareExclusive<'_> {
    /// The file may not have the page as it is here, though it was written.
    ///
    /// # Errors
    /// [`Forked`]: it is the parent's.
    ///
    /// # If a process dies here
    /// It is dirty, or not.
    pub fn mark_dirty(&mut self) -> Result<(), Forked> {
        self.page.mark_dirty()
    }
}
