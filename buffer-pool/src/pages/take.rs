//! Taking pages: as the latch is taken, and whole.
use super::User;
use super::guard::{Exclusive, Page, Share, ShareExclusive};
use crate::latch::LatchError;
use crate::wait::Waiter;
use shm_core::bytes::relaxed;
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
        let page = self.pages.page(frame)?;
        self.whole(frame, deadline, || {
            self.latches.read(frame, deadline, || relaxed::copy_out(page, at, out))
        })
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

    fn page(&self, frame: u32) -> Result<Page<'_>, LatchError> {
        Ok(Page::new(self, frame, self.pages.page(frame)?, self.pages.line(frame)?))
    }

    #[inline]
    pub(super) fn whole<T>(
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
