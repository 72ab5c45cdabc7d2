//! `Slot`: one announcement.
use super::fence;
use super::row::Protector;
use crate::process::Forked;
use crate::sync::{AtomicU64, Ordering};
use std::num::NonZeroU64;

/// Rounds in which the word may change while it is being protected. Among honest processes each is
/// somebody's success; one that overwrites the word without end shall not hold us up so long.
const ROUNDS_MAX: u32 = 1 << 20;

/// Why a word's value could not be protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtectError {
    /// The slot is the caller's parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The word never stayed the same for long enough.
    #[error("the word to protect changed {ROUNDS_MAX} times under us: somebody scribbles on it")]
    Restless,
}

/// A place for one announcement; dropped, it announces nothing.
///
/// To go from thing to thing, hand over hand, use two and `std::mem::swap` them.
#[derive(Debug)]
pub struct Slot<'p> {
    protector: &'p Protector,
    index: usize,
    /// What the word in shared memory says, which only we write; 0 for nothing.
    value: u64,
}

impl<'p> Slot<'p> {
    #[inline]
    pub(super) fn new(protector: &'p Protector, index: usize) -> Slot<'p> {
        Slot { protector, index, value: 0 }
    }

    /// Announces `value` and asks `is_still`: whether it can still be found where it was found.
    /// Where it can, nobody who scans after having taken it out frees it, until the slot is
    /// [cleared](Slot::clear), used again or dropped. Where it cannot, the slot is cleared.
    ///
    /// `is_still` looks at shared memory anew: an answer that was known before the call proves
    /// nothing. It loads with Acquire what the value was published by. What the slot protected
    /// before is not protected any more, and was not from the beginning of the call.
    ///
    /// # Errors
    /// [`Forked`]: the slot is the parent's, and as it was.
    ///
    /// # If a process dies here
    /// Its row may announce the value, until its reaper clears it.
    #[inline]
    pub fn protect(
        &mut self,
        value: NonZeroU64,
        is_still: impl FnOnce() -> bool,
    ) -> Result<bool, Forked> {
        self.protector.guard.check()?;
        Ok(self.protect_here(value, is_still))
    }

    /// As [`protect`](Slot::protect), for a caller who has asked since it was last handed control
    /// whether it is a forked child ([`Protector::check_fork`]): nothing in between can fork this
    /// thread. In a child it would announce in the parent's name.
    ///
    /// # If a process dies here
    /// As in [`protect`](Slot::protect).
    #[inline]
    pub fn protect_here(&mut self, value: NonZeroU64, is_still: impl FnOnce() -> bool) -> bool {
        self.announce(value);
        let found = is_still();
        if !found {
            self.clear_here();
        }
        found
    }

    /// Protects the thing that `word` names, and returns the word: `what` says which thing that is,
    /// for a word that has more in it. Where it says 0 there is nothing to protect, and the slot is
    /// cleared.
    ///
    /// The word was the same before and after the announcement: whoever takes the thing out changes
    /// it first. Who sees the thing sees what was written before the word was (Release).
    ///
    /// # Errors
    /// [`ProtectError`]; nothing is protected then.
    ///
    /// # If a process dies here
    /// Its row may announce any value that the word had, until its reaper clears it.
    #[inline]
    pub fn protect_word(
        &mut self,
        word: &AtomicU64,
        what: impl Fn(u64) -> u64,
    ) -> Result<u64, ProtectError> {
        self.protector.guard.check()?;
        let mut seen = word.load(Ordering::Relaxed);
        for _ in 0..ROUNDS_MAX {
            let Some(value) = NonZeroU64::new(what(seen)) else {
                self.clear();
                return Ok(seen);
            };
            self.announce(value);
            // Pairs with the Release of who published the thing: what it is made of.
            let now = word.load(Ordering::Acquire);
            if now == seen {
                return Ok(seen);
            }
            seen = now;
        }
        self.clear();
        Err(ProtectError::Restless)
    }

    /// What it announces.
    #[inline]
    pub fn value(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.value)
    }

    /// Whether this slot alone announces what it announces: for who would do to the thing what
    /// nobody else may see, and has made sure that whoever announces it from now on does not get at
    /// it. It sees what was read under the announcements that are gone. Looks at every row in use.
    pub fn is_alone(&self) -> bool {
        let hazards = self.protector.hazards();
        !hazards.is_announced_beside(self.protector.word(self.index), self.value)
    }

    /// Whether this thread announces the same by another slot, too.
    pub fn is_doubled(&self) -> bool {
        self.protector.count(self.value) > 1
    }

    /// Takes the announcement back. In a forked child it does nothing: it is the parent's.
    ///
    /// # If a process dies here
    /// Its row announces it, or not.
    #[inline]
    pub fn clear(&mut self) {
        if self.value != 0 && self.protector.guard.check().is_ok() {
            self.clear_here();
        }
    }

    /// As [`clear`](Slot::clear), for who may call [`protect_here`](Slot::protect_here).
    ///
    /// # If a process dies here
    /// As in [`clear`](Slot::clear).
    #[inline]
    pub fn clear_here(&mut self) {
        if self.value != 0 {
            self.value = 0;
            // Pairs with the Acquire in `Hazards::announced`: what was read under the
            // announcement, before it is gone.
            self.protector.word(self.index).store(0, Ordering::Release);
        }
    }

    #[inline]
    fn announce(&mut self, value: NonZeroU64) {
        self.value = value.get();
        let word = self.protector.word(self.index);
        #[cfg(shm_loom)]
        if self.protector.is_unfenced() {
            // Pairs with the Acquire in `Hazards::announced`.
            return word.store(value.get(), Ordering::Release);
        }
        fence::announce(word, value.get());
    }
}

impl Drop for Slot<'_> {
    /// # If a process dies here
    /// As in [`clear`](Slot::clear).
    #[inline]
    fn drop(&mut self) {
        self.clear();
        self.protector.take_back(self.index);
    }
}
