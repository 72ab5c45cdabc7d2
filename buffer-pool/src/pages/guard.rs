//! Pages that were taken, and giving them back.
use super::User;
use super::shared::Line;
use super::word::State;
use crate::latch;
use shm_core::bytes::{Word, relaxed};
use shm_core::process::Forked;
use shm_core::sync::{Ordering, in_program_order};
use std::fmt;
use std::ops::Deref;

/// Why a page was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// More ranges than an intent can have.
    #[error("{0} ranges are more than are changed at once")]
    TooManyRanges(usize),
    /// A range is not in the page.
    #[error("{len} bytes at byte {at} do not lie in the page")]
    OutsideThePage {
        /// Its first byte.
        at: usize,
        /// How many bytes.
        len: usize,
    },
    /// The page is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// The page of a guard: nobody changes it but by the guard.
pub struct Page<'u> {
    user: &'u User,
    frame: u32,
    words: &'u [Word],
    line: &'u Line,
}

/// A page that nobody changes.
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct Share<'u> {
    page: Page<'u>,
    _latch: latch::Share<'u>,
}

/// A page that nobody changes, and that this one alone writes to its file.
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct ShareExclusive<'u> {
    page: Page<'u>,
    _latch: latch::ShareExclusive<'u>,
}

/// A page that this one alone has.
#[derive(Debug)]
#[must_use = "it is given back when dropped"]
pub struct Exclusive<'u> {
    page: Page<'u>,
    /// `None` where a change of it could not be ended, in a forked child.
    latch: Option<latch::Exclusive<'u>>,
}

impl<'u> Page<'u> {
    pub(super) fn new(user: &'u User, frame: u32, words: &'u [Word], line: &'u Line) -> Page<'u> {
        Page { user, frame, words, line }
    }

    /// The frame that it is in.
    pub fn frame(&self) -> u32 {
        self.frame
    }

    /// Its words, to be [loaded](Word::load).
    pub fn words(&self) -> &[Word] {
        self.words
    }

    /// Copies `out.len()` bytes from byte `at` on.
    ///
    /// # Panics
    /// Where they do not lie in the page.
    pub fn copy_out(&self, at: usize, out: &mut [u8]) {
        relaxed::copy_out(self.words, at, out);
    }

    /// Whether it may differ from its file. With a share alone this is a hint.
    pub fn is_dirty(&self) -> bool {
        self.user.pages.is_dirty(self.frame)
    }

    /// Of who has it (share-)exclusively.
    fn mark(&self, state: State) -> Result<(), Forked> {
        self.user.check_fork()?;
        // Relaxed: the latch orders it.
        self.line.state.store(state.to_bits(), Ordering::Relaxed);
        Ok(())
    }
}

impl fmt::Debug for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (frame, line) = (self.frame, self.line);
        f.debug_struct("Page").field("frame", &frame).field("line", line).finish_non_exhaustive()
    }
}

impl<'u> Share<'u> {
    pub(super) fn new(latch: latch::Share<'u>, page: Page<'u>) -> Share<'u> {
        Share { page, _latch: latch }
    }
}

impl<'u> ShareExclusive<'u> {
    pub(super) fn new(latch: latch::ShareExclusive<'u>, page: Page<'u>) -> ShareExclusive<'u> {
        ShareExclusive { page, _latch: latch }
    }

    /// The page is in its file as it is here.
    ///
    /// # Errors
    /// [`Forked`]: it is the parent's.
    ///
    /// # If a process dies here
    /// It is clean, or dirty and written out again.
    pub fn mark_clean(&mut self) -> Result<(), Forked> {
        self.page.mark(State::CLEAN)
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
        // While the page is whole it does not matter which intent.
        self.page.mark(State::changed_by(self.page.user.intent))
    }
}

impl<'u> Exclusive<'u> {
    pub(super) fn new(latch: latch::Exclusive<'u>, page: Page<'u>) -> Exclusive<'u> {
        Exclusive { page, latch: Some(latch) }
    }

    /// Writes each of these bytes at its place in the page: all of them or none, whoever dies. Of
    /// two that overlap the later one counts. At most 64 at a time. The page is dirty.
    ///
    /// # Errors
    /// [`WriteError`]; nothing is written.
    ///
    /// # If a process dies here
    /// Nothing is written; or whoever comes next writes the rest.
    pub fn write(&mut self, ranges: &[(usize, &[u8])]) -> Result<(), WriteError> {
        let Page { user, frame, words, line } = self.page;
        user.check_fork()?;
        // Our last change is over before its record is overwritten.
        in_program_order();
        user.record().write(frame, ranges)?;
        // Relaxed: the latch orders it, and its fence for `needs`.
        line.state.store(State::changed_by(user.intent).to_bits(), Ordering::Relaxed);
        // It is said before it is begun.
        in_program_order();
        if let Some(latch) = self.latch.take() {
            let change = latch.change()?;
            ranges.iter().for_each(|(at, bytes)| relaxed::copy_in(words, *at, bytes));
            self.latch = Some(change.done()?);
        }
        Ok(())
    }

    /// The page is in its file as it is here.
    ///
    /// # Errors
    /// [`Forked`]: it is the parent's.
    ///
    /// # If a process dies here
    /// It is clean, or dirty and written out again.
    pub fn mark_clean(&mut self) -> Result<(), Forked> {
        self.page.mark(State::CLEAN)
    }
}

macro_rules! leads_to_its_page {
    ($($guard:ident),*) => {$(
        impl<'u> Deref for $guard<'u> {
            type Target = Page<'u>;

            fn deref(&self) -> &Page<'u> {
                &self.page
            }
        }
    )*};
}
leads_to_its_page!(Share, ShareExclusive, Exclusive);
