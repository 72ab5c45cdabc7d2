//! Making a pool larger or smaller while others use it.
//!
//! ```text
//!   frames  | in use … | no more pages come here | to come …          |
//!           0        limit                    backed          the most there can be
//!           |------------ memory ---------------|
//! ```
//!
//! All that is known of a frame is there for each frame that there can ever be; only the bytes of
//! its page come and go. *In use* are the frames below the limit, and memory stands behind those
//! below `backed`. Who has the right to register files has that to resize, too: one at a time,
//! taken over from the dead.
//!
//! **Growing**: put memory behind the new frames; publish `backed`, then the limit; say of the new
//! frames that they are vacant. **Shrinking**: publish the limit; then evict, frame by frame, what
//! is behind it, which is written to its file where it is dirty; take the memory away from the
//! frames that are ours then; publish `backed`, if these were all; give the frames back.
//!
//! Who takes a frame claims it, and then looks whether it is below the limit
//! ([`Limit`](crate::frames::Limit)). Memory is taken away only from frames that the one who
//! shrinks has claimed: nobody writes there. It is a change of the frame, as loading a page is: so
//! who reads there without a pin learns of it. From the frames that the pool was made with it is
//! never taken: in the others [`Session::read`] takes a pin, for who reads where no memory is may
//! find that there is none to be had.
//!
//! | dead | it leaves | put right |
//! | --- | --- | --- |
//! | growing | memory behind frames that nobody uses; or the new limit, and frames that nobody knows to be vacant | whoever resizes next; who cleans up after it says which frames are vacant |
//! | either, between the two places of the limit | one that the policy does not have | who looks for a victim next |
//! | shrinking | the new limit, `backed` as it was, frames that are its own | who cleans up gives the frames back; whoever resizes next takes the memory away |
//!
//! A frame that somebody uses all the time keeps its memory, and its page, until somebody resizes
//! again: the rest is given back at once.
use super::config::FRAMES_MIN;
use super::session::Session;
use super::{FileError, Inner, PageError, Pool};
use crate::files::Files;
use crate::frames::Free;
use shm_core::process::Forked;
use shm_core::sync::Ordering;
use std::ops::Range;
use std::time::Instant;

/// Why a pool has not the size that was asked for. It works.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResizeError {
    /// Too few, or too many.
    #[error("the pool can have {FRAMES_MIN} to {max} frames, not {frames}")]
    Range {
        /// So many were asked for.
        frames: u32,
        /// The most there can be.
        max: u32,
    },
    /// The memory could not be had. It is as large as it was.
    #[error("there is no memory for so many frames")]
    NoMemory,
    /// Somebody else resizes, or changes which files there are, and was not done in time.
    #[error(transparent)]
    Busy(#[from] FileError),
    /// A page could not be written to its file, and stays.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The pool is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Resized {
    /// So many frames are in use from now on.
    pub frames: u32,
    /// Frames behind them that others were using all the time: their pages stay there, and their
    /// memory, until somebody resizes again.
    pub in_use: u32,
}

impl Pool {
    /// How many frames are in use.
    pub fn frames(&self) -> u32 {
        self.inner.limit.get()
    }
}

impl Inner {
    /// So many have memory.
    pub(super) fn backed(&self) -> u32 {
        // Relaxed: the registrar's word orders it; for others it is a hint.
        self.head.backed.load(Ordering::Relaxed).clamp(self.limit.get(), self.config.frames_max)
    }
}

impl Session {
    /// Has the pool have so many frames from now on, while others use it. What is dirty in frames
    /// that go is written to its file; the memory goes back to the system, but for that of as many
    /// frames as the pool was made with.
    ///
    /// # Errors
    /// [`ResizeError`].
    ///
    /// # If a process dies here
    /// The pool has one size or the other; whoever resizes next finishes what was begun.
    pub fn resize(&self, frames: u32) -> Result<Resized, ResizeError> {
        let inner = &*self.inner;
        inner.check_fork()?;
        let max = inner.config.frames_max;
        if !(FRAMES_MIN..=max).contains(&frames) {
            return Err(ResizeError::Range { frames, max });
        }
        let _right = self.registrar(|_| false)?;
        if frames > inner.limit.get() {
            self.grow(frames)?;
        }
        let in_use = self.shrink(frames)?;
        Ok(Resized { frames, in_use })
    }

    fn grow(&self, frames: u32) -> Result<(), ResizeError> {
        let (inner, from, backed) = (&*self.inner, self.inner.limit.get(), self.inner.backed());
        if let Some(memory) = &inner.options.memory {
            // First, so that whoever shrinks after our death finds it. Those behind the limit, too:
            // who shrank before may not have come to an end.
            inner.head.backed.store(backed.max(frames), Ordering::Relaxed);
            let pages = |of| inner.parts.pages_of(of, inner.config.page_bytes);
            if !memory.populate(pages(from..frames)) {
                self.punch(backed..frames);
                inner.head.backed.store(backed, Ordering::Relaxed);
                return Err(ResizeError::NoMemory);
            }
        }
        inner.head.backed.store(backed.max(frames), Ordering::Relaxed);
        inner.limit.set(frames);
        self.policy.set_limit(frames);
        (from..frames).for_each(|frame| self.policy.vacate(frame));
        Ok(())
    }

    /// How many frames keep their pages, because others use them.
    fn shrink(&self, frames: u32) -> Result<u32, ResizeError> {
        let inner = &*self.inner;
        let behind = frames..inner.backed();
        if behind.is_empty() {
            return Ok(0);
        }
        self.policy.set_limit(frames);
        inner.limit.set(frames);
        let deadline = inner.deadline_of_users();
        let (mut ours, mut failed) = (Vec::new(), None);
        for frame in behind.clone() {
            if let Some(free) = self.clear(frame, deadline, &mut failed)?
                // Who reads there without a pin learns of it, as of any change.
                && let Some(bytes) = self.pages.load(frame).map_err(PageError::from)?
            {
                ours.push((bytes, free));
            }
        }
        self.take_memory(ours.iter().map(|(_, free)| free.frame()));
        let in_use = behind.len() - ours.len();
        if in_use == 0 {
            inner.head.backed.store(frames, Ordering::Relaxed);
        }
        for (bytes, free) in ours {
            bytes.done()?;
            drop(free);
        }
        failed.map_or(Ok(in_use as u32), |error| Err(error.into()))
    }

    /// Has a frame without a page; `None` where others use it until the deadline, or its page
    /// cannot be written.
    fn clear(
        &self,
        frame: u32,
        deadline: Option<Instant>,
        failed: &mut Option<PageError>,
    ) -> Result<Option<Free<'_, Files>>, ResizeError> {
        loop {
            let mut error = None;
            let free = self.take_frame(frame, |frame, page| {
                self.is_written(frame, page, &mut self.reserve().page, &mut error)
            })?;
            if free.is_some() {
                return Ok(free);
            }
            if error.is_some() || !self.has_moments_left(deadline) {
                *failed = failed.take().or(error);
                return Ok(None);
            }
        }
    }

    /// Takes the memory away from frames of ours, which come in their order.
    fn take_memory(&self, frames: impl Iterator<Item = u32>) {
        let mut run = 0..0;
        for frame in frames {
            if frame != run.end {
                self.punch(run);
                run = frame..frame;
            }
            run.end = frame + 1;
        }
        self.punch(run);
    }

    /// Takes the memory away from frames that nobody has but us: not from the first ones, which may
    /// be read at any time without a pin, and where that might find neither a page nor memory for
    /// one.
    fn punch(&self, frames: Range<u32>) {
        let config = &self.inner.config;
        let frames = frames.start.max(config.frames)..frames.end;
        if let (Some(memory), false) = (&self.inner.options.memory, frames.is_empty()) {
            // Where it cannot be taken away it stays, and the memory says so.
            memory.punch(self.inner.parts.pages_of(frames, config.page_bytes));
        }
    }
}
