//! The length of a growable segment: longer or shorter while others use it, whoever dies at it.
//!
//! ```text
//!   | head | pages that are there … | pages to come …            |
//!   0      4096                     length                  the most
//! ```
//!
//! The object has its greatest size from the beginning, as a file with a hole, and is mapped as a
//! whole; so growing moves nothing, and needs nothing of those who have it mapped. *There* are only
//! the pages that the `length` word counts: memory stands behind each, and touching them cannot
//! fail. It never gets shorter as a file either: shrinking punches the hole anew, and who reads
//! there late finds zeroes; and a SIGBUS only where the system has no page left to put there.
//!
//! **Growing**: claim the word, which keeps its length and names the claimer; put memory behind the
//! new pages; publish the new length, without a name. **Shrinking**: claim the word with the new
//! length, so that nobody new relies on what goes; give the pages back; take the name away.
//!
//! What a death leaves, and who finishes it:
//!
//! | dead | it leaves | who finishes |
//! | --- | --- | --- |
//! | growing, claimed | the old length, a name, some pages with memory behind | the next to grow or shrink takes the word over once its owner has left, and gives those pages back first |
//! | growing, published | the new length | – |
//! | shrinking, claimed | the new length, a name, some pages not given back | the same |
//! | shrinking, all given back | the same | the same |
//!
//! A claimer who is stopped holds up whoever else wants another length, and nobody else; they are
//! told by an error who it is. It cannot be otherwise: a system call of his that gives pages back
//! may be under way, and what was published meanwhile it would take away again.
mod shared;

use crate::backend::BackendError;
pub(crate) use shared::FINGERPRINT;
use shared::{Length, MAGIC, Shared};
use shm_core::BadPtr;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::process::Forked;
use shm_core::sync::Ordering;
use std::ops::Range;
use std::sync::Arc;

/// Rounds in which the word may change under us before we give up: among honest processes each is
/// another one's success.
const ROUNDS_MAX: u32 = 1 << 20;

/// The memory behind pages. Tests put their own there.
pub trait Pages {
    /// Puts memory behind these pages, zero; on an error perhaps behind some.
    ///
    /// # Errors
    /// Where there is not enough.
    fn reserve(&self, pages: Range<u32>) -> Result<(), BackendError>;

    /// Takes it away from these, where there is any.
    ///
    /// # Errors
    /// Where the system cannot.
    fn release(&self, pages: Range<u32>) -> Result<(), BackendError>;
}

/// Why a segment is not longer, or shorter. It is as long as before, and works.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrowError {
    /// It was made with one size.
    #[error("this segment cannot grow or shrink: create it with `SegmentOptions::max_bytes`")]
    Fixed,
    /// More than it was made for, or nothing.
    #[error("{bytes} bytes is no length for this segment, which has from 1 to {max} bytes")]
    Length {
        /// Bytes asked for.
        bytes: u64,
        /// The most there can be.
        max: u64,
    },
    /// Another process is at changing its length.
    #[error("participant {by} is changing this segment's length: if it is stopped, continue it")]
    Busy {
        /// Who.
        by: ParticipantId,
    },
    /// Another process has overwritten its head.
    #[error("the segment's length is corrupt ({value:#x})")]
    Corrupt {
        /// What stands there.
        value: u64,
    },
    /// The memory could not be had, or not be given back.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// In a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// The length of one segment. Clones are the same one.
///
/// One thread of a process at a time changes it.
#[derive(Clone, Debug)]
pub struct Growth {
    shared: Mapped<Shared>,
    pages_max: u32,
}

impl Growth {
    /// Makes the head at `offset` of `mapping`: `pages` of `pages_max` are there.
    ///
    /// # Errors
    /// [`BadPtr`] where it does not fit or `offset` is not aligned.
    ///
    /// # Safety
    /// Nobody else accesses these bytes until they have been published.
    pub unsafe fn create(
        mapping: &Arc<Mapping>,
        offset: u64,
        pages: u32,
        pages_max: u32,
    ) -> Result<Growth, BadPtr> {
        // SAFETY: the caller's promise.
        let shared = unsafe { Mapped::place(mapping, offset, Shared::new(pages)) }?;
        Ok(Growth { shared, pages_max })
    }

    /// The head that somebody made at `offset` of `mapping`, where there is room for `pages_max`.
    ///
    /// # Errors
    /// [`BadPtr`] where it does not fit or `offset` is not aligned.
    pub fn attach(mapping: &Arc<Mapping>, offset: u64, pages_max: u32) -> Result<Growth, BadPtr> {
        Ok(Growth { shared: Mapped::new(mapping, offset)?, pages_max })
    }

    /// Whether there is a head at all.
    pub(crate) fn is_made(&self) -> bool {
        self.shared.magic.load(Ordering::Relaxed) == MAGIC && self.pages().is_ok()
    }

    /// Pages that are there.
    ///
    /// # Errors
    /// [`GrowError::Corrupt`].
    pub fn pages(&self) -> Result<u32, GrowError> {
        Ok(self.look()?.pages())
    }

    /// The most pages there can be.
    pub fn pages_max(&self) -> u32 {
        self.pages_max
    }

    /// Makes it at least `pages` long, for `me`; as long as it is then.
    ///
    /// # Errors
    /// [`GrowError`], and it is as long as before.
    ///
    /// # If a process dies here
    /// It is as long as before, or as was asked. What memory there is behind its end is given back
    /// by the next to change its length.
    pub fn grow(
        &self,
        me: ParticipantId,
        pages: u32,
        has_left: impl Fn(ParticipantId) -> bool,
        memory: &impl Pages,
    ) -> Result<u32, GrowError> {
        self.check(pages)?;
        let claim = |now: Length| (now.pages() < pages).then_some(now.pages());
        let old = match self.claim(me, has_left, claim)? {
            Claimed::Not(pages) => return Ok(pages),
            Claimed::From(old) => old.pages(),
        };
        // What one who died, or wrote behind the end, has left there: the new pages are zero.
        let begun = memory.release(old..self.pages_max);
        let grown = begun.and_then(|()| memory.reserve(old..pages));
        if let Err(error) = grown {
            // The first error is the one to tell.
            let _ = memory.release(old..self.pages_max);
            self.settle(me, old, old)?;
            return Err(error.into());
        }
        self.settle(me, old, pages)?;
        Ok(pages)
    }

    /// Makes it at most `pages` long, for `me`; as long as it is then.
    ///
    /// # Errors
    /// [`GrowError`]. After [`GrowError::Backend`] it is as short as was asked, and its memory is
    /// not given back yet.
    ///
    /// # If a process dies here
    /// It is as long as before, or as was asked. What memory was not given back yet is, by the next
    /// to change its length.
    pub fn shrink(
        &self,
        me: ParticipantId,
        pages: u32,
        has_left: impl Fn(ParticipantId) -> bool,
        memory: &impl Pages,
    ) -> Result<u32, GrowError> {
        self.check(pages)?;
        let claim = |now: Length| (now.pages() > pages).then_some(pages);
        if let Claimed::Not(pages) = self.claim(me, has_left, claim)? {
            return Ok(pages);
        }
        let released = memory.release(pages..self.pages_max);
        self.settle(me, pages, pages)?;
        released?;
        Ok(pages)
    }

    fn check(&self, pages: u32) -> Result<(), GrowError> {
        let in_bytes = |pages: u32| u64::from(pages) * page_size();
        let is_possible = (1..=self.pages_max).contains(&pages);
        let error = GrowError::Length { bytes: in_bytes(pages), max: in_bytes(self.pages_max) };
        if is_possible { Ok(()) } else { Err(error) }
    }

    /// The checked door.
    fn look(&self) -> Result<Length, GrowError> {
        // Pairs with the Release in `settle`: the pages are there.
        let now = Length(self.shared.length.load(Ordering::Acquire));
        let is_sane = (1..=self.pages_max).contains(&now.pages());
        let names_somebody = now.is_settled() || now.owner().is_some();
        if is_sane && names_somebody { Ok(now) } else { Err(GrowError::Corrupt { value: now.0 }) }
    }

    /// Takes the word, with the length that `next` says; `None` from it: there is nothing to do.
    fn claim(
        &self,
        me: ParticipantId,
        has_left: impl Fn(ParticipantId) -> bool,
        next: impl Fn(Length) -> Option<u32>,
    ) -> Result<Claimed, GrowError> {
        let mut now = self.look()?;
        for _ in 0..ROUNDS_MAX {
            let Some(pages) = next(now) else { return Ok(Claimed::Not(now.pages())) };
            // Our own claim is one that a panic of ours has left.
            if let Some(by) = now.owner().filter(|owner| *owner != me && !has_left(*owner)) {
                return Err(GrowError::Busy { by });
            }
            // Pairs with the Release in `settle`: what its last owner did to the pages. What a dead
            // one did is done because he is dead.
            let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
            let mine = Length::claimed(pages, me);
            match self.shared.length.compare_exchange(now.0, mine.0, ok, err) {
                Ok(_) => return Ok(Claimed::From(now)),
                Err(_) => now = self.look()?,
            }
        }
        Err(GrowError::Corrupt { value: now.0 })
    }

    /// Publishes the length, and lets the word go.
    fn settle(&self, me: ParticipantId, claimed: u32, pages: u32) -> Result<(), GrowError> {
        let (mine, settled) = (Length::claimed(claimed, me), Length::settled(pages));
        // Pairs with the Acquire in `look`, and in `claim`: what we did to the pages.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        let changed = self.shared.length.compare_exchange(mine.0, settled.0, ok, err);
        // It fails only where another process has overwritten our claim.
        changed.map(drop).map_err(|value| GrowError::Corrupt { value })
    }
}

enum Claimed {
    /// It is as it should be: so long.
    Not(u32),
    /// From this.
    From(Length),
}

/// The unit of the `length` word, and of what the system gives and takes.
pub(crate) fn page_size() -> u64 {
    rustix::param::page_size() as u64
}
