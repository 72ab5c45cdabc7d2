//! Taking pages: as the latch is taken, and whole.
use super::User;
use super::guard::{Exclusive, Page, Share, ShareExclusive};
use crate::latch::LatchError;
use crate::wait::Waiter;
use shm_core::bytes::{Word, relaxed};
use std::time::Instant;

impl User {
    /// Copies `out.len()` bytes from byte `at` of the page in `frame`: for short reads, which write
    /// nothing but where others change the page all the time.
    ///
    /// # Errors
    /// Those of [`share`](User::share).
    ///
    /// # Panics
    /// Where the bytes do not lie in the page.
    ///
    /// # If a process dies here
    /// As in [`share`](User::share).
    pub fn read(
        &self,
        frame: u32,
        at: usize,
        out: &mut [u8],
        deadline: Option<Instant>,
    ) -> Result<(), LatchError> {
        self.read_slowly(frame, deadline, |page| relaxed::copy_out(page, at, out))
    }

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
        match self.look(frame, &mut read)? {
            Some(bytes) => Ok(bytes),
            None => self.read_slowly(frame, deadline(), read),
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
        mut read: impl FnMut(&[Word]) -> R,
    ) -> Result<R, LatchError> {
        let page = self.pages.page(frame)?;
        self.whole(frame, deadline, || self.latches.read(frame, deadline, || read(page)))
    }

    /// Shares the page in `frame` for as long as the guard lives, as
    /// [`latch::User::share`](crate::latch::User::share).
    ///
    /// # Errors
    /// [`LatchError`]; [`LatchError::Torn`] only where nobody says what is to be in the page: read
    /// it again from its file.
    ///
    /// # If a process dies here
    /// As there; or as in [`mend`](User::mend).
    pub fn share(&self, frame: u32, deadline: Option<Instant>) -> Result<Share<'_>, LatchError> {
        let latch = self.whole(frame, deadline, || self.latches.share(frame, deadline))?;
        Ok(Share::new(latch, self.page(frame)?))
    }

    /// Takes the page in `frame` to write it to its file, as
    /// [`latch::User::share_exclusive`](crate::latch::User::share_exclusive).
    ///
    /// # Errors
    /// Those of [`share`](User::share).
    ///
    /// # If a process dies here
    /// As there; or as in [`mend`](User::mend).
    pub fn share_exclusive(
        &self,
        frame: u32,
        deadline: Option<Instant>,
    ) -> Result<ShareExclusive<'_>, LatchError> {
        let take = || self.latches.share_exclusive(frame, deadline);
        let latch = self.whole(frame, deadline, take)?;
        Ok(ShareExclusive::new(latch, self.page(frame)?))
    }

    /// As [`share_exclusive`](User::share_exclusive), where nobody has it so, or exclusively.
    ///
    /// # Errors
    /// Those of [`share`](User::share).
    ///
    /// # If a process dies here
    /// As in [`share_exclusive`](User::share_exclusive).
    pub fn try_share_exclusive(
        &self,
        frame: u32,
    ) -> Result<Option<ShareExclusive<'_>>, LatchError> {
        let now = Some(Instant::now());
        let latch = self.whole(frame, now, || self.latches.try_share_exclusive(frame))?;
        let page = self.page(frame)?;
        Ok(latch.map(|latch| ShareExclusive::new(latch, page)))
    }

    /// Takes the page in `frame` to change it, as
    /// [`latch::User::exclusive`](crate::latch::User::exclusive).
    ///
    /// # Errors
    /// Those of [`share`](User::share).
    ///
    /// # If a process dies here
    /// As there; or as in [`mend`](User::mend).
    pub fn exclusive(
        &self,
        frame: u32,
        deadline: Option<Instant>,
    ) -> Result<Exclusive<'_>, LatchError> {
        let latch = self.whole(frame, deadline, || self.latches.exclusive(frame, deadline))?;
        Ok(Exclusive::new(latch, self.page(frame)?))
    }

    /// As [`exclusive`](User::exclusive), where nobody has it and nobody shares it.
    ///
    /// # Errors
    /// Those of [`share`](User::share).
    ///
    /// # If a process dies here
    /// As in [`exclusive`](User::exclusive).
    pub fn try_exclusive(&self, frame: u32) -> Result<Option<Exclusive<'_>>, LatchError> {
        let now = Some(Instant::now());
        let latch = self.whole(frame, now, || self.latches.try_exclusive(frame))?;
        let page = self.page(frame)?;
        Ok(latch.map(|latch| Exclusive::new(latch, page)))
    }

    fn page(&self, frame: u32) -> Result<Page<'_>, LatchError> {
        Ok(Page::new(self, frame, self.pages.page(frame)?, self.pages.line(frame)?))
    }

    #[inline]
    fn whole<T>(
        &self,
        frame: u32,
        deadline: Option<Instant>,
        mut take: impl FnMut() -> Result<T, LatchError>,
    ) -> Result<T, LatchError> {
        match take() {
            Err(LatchError::Torn { .. }) => self.mended(frame, deadline, take),
            taken => taken,
        }
    }

    #[cold]
    fn mended<T>(
        &self,
        frame: u32,
        deadline: Option<Instant>,
        mut take: impl FnMut() -> Result<T, LatchError>,
    ) -> Result<T, LatchError> {
        let mut waiter = Waiter::new(&self.latches.member, deadline);
        loop {
            self.mend(frame)?;
            match take() {
                // Another one has died of it meanwhile.
                Err(LatchError::Torn { .. }) => waiter.goes_on_from_the_dead()?,
                taken => return taken,
            }
        }
    }
}
