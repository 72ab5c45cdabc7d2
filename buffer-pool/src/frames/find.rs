//! Finding a page and pinning it.
use super::word::{Entry, Place};
use super::{Corrupt, Entries, Frames, PageId, ROUNDS_MAX, User, announced};
use shm_core::hazard::Slot;
use shm_core::process::Forked;
use shm_core::sync::{AtomicU64, Ordering};

/// Why a page could not be looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// There is no such page.
    #[error("there is no block {} in file {}", .0.block(), .0.file())]
    NoSuchPage(PageId),
    /// This thread has pinned as much as it can.
    #[error("this thread has as many pages pinned as it can: let go of one")]
    TooManyPins,
    /// Nonsense in shared memory.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The entry never stayed the same.
    #[error("the entry of the page changed {ROUNDS_MAX} times under us: somebody scribbles on it")]
    Restless,
    /// The pins are the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// What was found of a page.
#[derive(Debug)]
pub enum Find<'u> {
    /// It is here, and stays.
    Pinned(Pin<'u>),
    /// Somebody is reading it into this frame.
    Loading {
        /// Which one.
        frame: u32,
    },
    /// It is in no frame.
    Absent,
}

/// A page that stays where it is for as long as this lives.
#[derive(Debug)]
pub struct Pin<'u> {
    slot: Slot<'u>,
}

impl<'u> Pin<'u> {
    /// Of the frame that `slot` announces.
    #[inline]
    pub(super) fn new(slot: Slot<'u>) -> Pin<'u> {
        Pin { slot }
    }

    /// The frame that the page is in.
    #[inline]
    pub fn frame(&self) -> u32 {
        self.slot.value().map_or(u32::MAX, |number| number.get() as u32 - 1)
    }

    /// Whether nobody else has the page pinned: for who has made sure that whoever pins it from now
    /// on does not get at it. Looks at all pins.
    pub fn is_alone(&self) -> bool {
        self.slot.is_alone()
    }

    /// Whether this thread has the page pinned once more.
    pub fn is_doubled(&self) -> bool {
        self.slot.is_doubled()
    }
}

impl<E: Entries> Frames<E> {
    pub(super) fn entry(&self, page: PageId) -> Result<&AtomicU64, FindError> {
        self.entries.entry(page).ok_or(FindError::NoSuchPage(page))
    }
}

impl<E: Entries> User<E> {
    /// Pins `page` where it is in a frame.
    ///
    /// # Errors
    /// [`FindError`].
    ///
    /// # If a process dies here
    /// Its row may announce a frame, until its reaper clears it.
    #[inline]
    pub fn find(&self, page: PageId) -> Result<Find<'_>, FindError> {
        let word = self.frames.entry(page)?;
        match self.pin(word, |_| ()) {
            Some(pin) => Ok(Find::Pinned(pin)),
            None => self.find_slowly(page, word),
        }
    }

    /// Pins the page of this entry where it is in a frame, and nobody moves it; `None` also where
    /// [`find`](User::find) would have an error to tell. `before` is given the frame that the
    /// page seems to be in, ahead of the pin: what comes behind it and may unwind would have the
    /// pin in memory, to be dropped, where it is in registers else.
    ///
    /// # If a process dies here
    /// As in [`find`](User::find).
    #[inline(always)]
    pub fn pin(&self, entry: &AtomicU64, before: impl FnOnce(u32)) -> Option<Pin<'_>> {
        self.check_fork().ok()?;
        // Relaxed: it is looked at again.
        let frame =
            Entry::from_bits(entry.load(Ordering::Relaxed)).resident_in(self.frames.count())?;
        before(frame);
        let mut slot = self.protector.slot()?;
        slot.protect_here(announced(frame), || is_at(entry, frame)).then(|| Pin::new(slot))
    }

    #[cold]
    fn find_slowly(&self, page: PageId, word: &AtomicU64) -> Result<Find<'_>, FindError> {
        self.check_fork()?;
        let mut slot = self.protector.slot().ok_or(FindError::TooManyPins)?;
        for _ in 0..ROUNDS_MAX {
            // Relaxed: what is relied on is looked at again.
            let seen = word.load(Ordering::Relaxed);
            let (frame, is_leaving) = match self.frames.place(page, seen)? {
                Place::Resident(frame) => (frame, false),
                Place::Leaving(frame) => (frame, true),
                Place::Loading(frame) => return Ok(Find::Loading { frame }),
                Place::Absent => return Ok(Find::Absent),
            };
            let is_here = || if is_leaving { stays(word, frame) } else { is_at(word, frame) };
            if slot.protect_here(announced(frame), is_here) {
                return Ok(Find::Pinned(Pin::new(slot)));
            }
        }
        Err(FindError::Restless)
    }
}

#[inline]
pub(super) fn is_at(word: &AtomicU64, frame: u32) -> bool {
    // Pairs with the Release in `Loading::publish`: the bytes.
    word.load(Ordering::Acquire) == Entry::resident(frame).to_bits()
}

/// Takes the page from who would evict it: whether it was leaving.
#[cold]
pub(super) fn stays(word: &AtomicU64, frame: u32) -> bool {
    // Pairs with the Release in `Loading::publish`: the bytes. All that came after it were
    // read-modify-writes, which hand it on.
    let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
    let (from, to) = (Entry::leaving(frame).to_bits(), Entry::resident(frame).to_bits());
    word.compare_exchange(from, to, ok, err).is_ok()
}
