//! A page that nobody else has pinned: for who moves or takes away what others may have found.
//!
//! A pin alone keeps what was found in a page. Who goes through a page's items shares its latch as
//! it looks for them, and comes back to each of them later by the pin alone; so who tidies up in
//! the page has to know that nobody is in the midst of that. It is PostgreSQL's cleanup lock.
//!
//! | who cleans up | who uses what it finds |
//! | --- | --- |
//! | (A) has the page pinned, and takes its latch exclusively | (D) pins the page |
//! | fence | fence |
//! | (B) looks at all pins: its own is the only one; else it gives the latch back | (E) shares its latch, and looks for something |
//! | (C) moves it, or takes it away | (F) comes back to it by the pin alone |
//!
//! Where (B) does not see the pin of (D):
//!
//! 1. It was let go of before. What (F) reads has been read then, and (C) comes after it: the pin
//!    is given back by a Release, and looked at by an Acquire.
//! 2. It comes later. Then the fence in (E), of who has announced its share, is the later of the
//!    two, and (E) sees the latch taken in (A), and waits. Until (C) is over it finds nothing that
//!    it could come back to.
//! 3. It reads without a latch ([`Page::read`], [`Session::read`]). The latch does not keep it out
//!    until a change begins: it may read, whole, what (C) moves a moment later. So what was found
//!    by such a read alone is void when the read is over, pinned or not.
//!
//! Who evicts sees our own pin, and lets the page be.
//!
//! Two who want to clean up a page and wait with their pins would wait for each other. So who waits
//! has neither: it lets go of its pin, and then of the latch, in this order, so that the next one
//! to have the latch does not see the pin; and pins the page again once it sees nobody there. Of
//! those who wait for the latch, each with its pin, the last one has it alone. While it waits the
//! page may leave its frame, and is read in again.
//!
//! A pin makes nobody wake up who waits for it: that would cost each pin a line that others write.
//! So who waits looks again after a while, and reaps, so that no dead one holds it up.
use super::PageError;
use super::page::{Page, PageView};
use super::session::Session;
use crate::frames::PageId;
use crate::pages;
use std::time::{Duration, Instant};

/// How long to rest between two looks at the pins of others: from so long, twice as long each time.
const RESTS: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(10)];

/// A page that this thread alone has pinned and changes. Whoever pins it now finds nothing in it
/// but by short reads, until this is dropped.
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct Cleanup<'s> {
    /// Given back before the pin.
    held: pages::Exclusive<'s>,
    page: Page<'s>,
}

impl<'s> Page<'s> {
    /// The page, for this thread to move or to take away what others may have found in it under a
    /// [`Share`](super::Share): where nobody has its latch, and nobody else has it pinned; else the
    /// page as it was. The other pins of this session, and those of other sessions of this process,
    /// are such of others. A dead one is taken for a slow one until somebody has reaped it.
    ///
    /// # Errors
    /// As [`exclusive`](Page::exclusive); the page is let go of.
    ///
    /// # If a process dies here
    /// The page is as it was.
    pub fn try_cleanup(self) -> Result<Result<Cleanup<'s>, Page<'s>>, PageError> {
        let session = self.session;
        session.inner.check_fork()?;
        session.has_open(self.file())?;
        // Who sees others beforehand does not turn readers away for nothing.
        if !self.pin.is_alone() {
            return Ok(Err(self));
        }
        match session.pages.try_exclusive(self.frame())? {
            Some(held) if self.pin.is_alone() => Ok(Ok(Cleanup { held, page: self })),
            _ => Ok(Err(self)),
        }
    }

    /// As [`try_cleanup`](Page::try_cleanup), but waits for those who have the page's latch, or the
    /// page pinned. While it waits it has let go of the page, and what it had found there is void.
    ///
    /// # Errors
    /// [`PageError::PinnedTwice`] where this session has the page pinned once more: it would wait
    /// for itself. [`PageError::TimedOut`]; those of [`exclusive`](Page::exclusive), and of
    /// [`Session::page`]. The page is let go of.
    ///
    /// # If a process dies here
    /// The page is as it was.
    pub fn cleanup(self) -> Result<Cleanup<'s>, PageError> {
        let (session, file, block) = (self.session, self.file(), self.block());
        session.inner.check_fork()?;
        session.has_open(file)?;
        if self.pin.is_doubled() {
            return Err(PageError::PinnedTwice);
        }
        let deadline = session.inner.deadline();
        let mut page = self;
        loop {
            let held = session.pages.exclusive(page.frame(), deadline)?;
            if page.pin.is_alone() {
                return Ok(Cleanup { held, page });
            }
            let id = page.id;
            drop(page);
            drop(held);
            session.wait_for_pins(id, deadline)?;
            page = session.page(file, block)?;
        }
    }
}

impl Session {
    /// Until nobody is seen to have the page pinned: not even we have.
    fn wait_for_pins(&self, page: PageId, deadline: Option<Instant>) -> Result<(), PageError> {
        let [mut rest, longest] = RESTS;
        loop {
            if deadline.is_some_and(|end| Instant::now() >= end) {
                return Err(PageError::TimedOut);
            }
            std::thread::sleep(rest);
            rest = longest.min(2 * rest);
            self.pool().reap();
            let frames = self.user.frames();
            let pinned = &mut self.reserve().pinned;
            frames.pinned(pinned);
            if !frames.frame_of(page).is_some_and(|frame| pinned.has(frame)) {
                return Ok(());
            }
        }
    }
}

impl<'s> Cleanup<'s> {
    /// The page's bytes.
    pub fn view(&self) -> PageView<'_> {
        PageView::new(self.held.words())
    }

    /// The page that it is of.
    pub fn page(&self) -> &Page<'s> {
        &self.page
    }

    /// As [`Exclusive::write`](super::Exclusive::write).
    ///
    /// # Errors
    /// As there.
    ///
    /// # If a process dies here
    /// As there.
    pub fn write(&mut self, changes: &[(usize, &[u8])]) -> Result<(), PageError> {
        self.page.write(&mut self.held, changes)
    }

    /// The page, with its pin alone.
    pub fn into_page(self) -> Page<'s> {
        self.page
    }
}
