//! Waiting for who loads a page.
use super::{Entries, User};
use crate::wait::{TimedOut, Waiter};
use shm_core::process::Forked;
use std::time::Instant;

/// Why there is no use in waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The deadline passed.
    #[error("the page was not read in before the deadline")]
    TimedOut,
    /// The pins are the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

impl From<TimedOut> for WaitError {
    fn from(TimedOut: TimedOut) -> WaitError {
        WaitError::TimedOut
    }
}

impl<E: Entries> User<E> {
    /// Waits until who loads a page into `frame` is done with it, or dead, or some moments; then
    /// look again ([`find`](User::find)), or [take over](User::take_over).
    ///
    /// # Errors
    /// [`WaitError`].
    ///
    /// # If a process dies here
    /// It leaves nothing.
    #[cold]
    pub fn wait(&self, frame: u32, deadline: Option<Instant>) -> Result<(), WaitError> {
        self.check_fork()?;
        let frames = self.frames();
        let Some(at) = frames.frames.get(frame as usize) else { return Ok(()) };
        let claim = frames.claim_of(frame);
        let Some(holder) = claim.holder() else { return Ok(()) };
        let mut waiter = Waiter::new(self.member(), deadline);
        waiter.outlives(holder, &at.claim, claim.to_bits(), &at.moved);
        Ok(waiter.goes_on()?)
    }
}
