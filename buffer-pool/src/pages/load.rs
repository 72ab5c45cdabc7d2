//! Putting another page into a frame.
use super::User;
use super::word::State;
use crate::latch::{Change, LatchError};
use shm_core::bytes::{Word, relaxed};
use shm_core::process::Forked;
use shm_core::sync::Ordering;

/// A frame that another page is put into. Dropped without having been [`done`](Loading::done), it
/// has none, and is to be loaded again.
#[derive(Debug)]
#[must_use = "dropped, the frame has no page"]
pub struct Loading<'u> {
    page: &'u [Word],
    change: Change<'u>,
}

impl User {
    /// Takes `frame` to put another page into it: clean, whatever was there. `None` where one who
    /// lives has the latch: it mends the page that was there, say.
    ///
    /// For who has the frame to itself: it has claimed it, and nobody has it pinned (see
    /// [`frames`](crate::frames)); what others may know of the page that was there is void. Whoever
    /// lies about that can spoil the page, and touches nothing else.
    ///
    /// # Errors
    /// [`LatchError::NoSuchFrame`], [`LatchError::Forked`].
    ///
    /// # If a process dies here
    /// The frame has no page that could be used; whoever has it to itself next loads one.
    pub fn load(&self, frame: u32) -> Result<Option<Loading<'_>>, LatchError> {
        let (page, line) = (self.pages.page(frame)?, self.pages.line(frame)?);
        let Some(change) = self.latches.reclaim(frame)? else { return Ok(None) };
        // Relaxed: the latch orders it.
        line.state.store(State::CLEAN.to_bits(), Ordering::Relaxed);
        Ok(Some(Loading { page, change }))
    }
}

impl Loading<'_> {
    /// Copies `bytes` into the page, at byte `at`. System calls write to where
    /// [`Pages::bytes_of`](super::Pages::bytes_of) says.
    ///
    /// # Panics
    /// Where they do not lie in the page.
    pub fn copy_in(&mut self, at: usize, bytes: &[u8]) {
        relaxed::copy_in(self.page, at, bytes);
    }

    /// Copies `out.len()` bytes from byte `at` on.
    ///
    /// # Panics
    /// Where they do not lie in the page.
    pub fn copy_out(&self, at: usize, out: &mut [u8]) {
        relaxed::copy_out(self.page, at, out);
    }

    /// The page is there, and anybody may take it.
    ///
    /// # Errors
    /// [`Forked`]: the parent is loading it.
    ///
    /// # If a process dies here
    /// It is there, and nobody was told; or the frame is to be loaded again.
    pub fn done(self) -> Result<(), Forked> {
        self.change.done().map(drop)
    }
}
