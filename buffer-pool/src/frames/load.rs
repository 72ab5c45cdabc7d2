//! Reading a page in, and taking over from one who died at it.
use super::word::{Entry, Place};
use super::{Entries, FindError, PageId, Pin, User, announced};
use shm_core::process::Liveness;
use shm_core::sync::Ordering;

/// A frame of ours that has no page. Dropped, it is anybody's.
#[derive(Debug)]
pub struct Free<'u, E: Entries> {
    user: &'u User<E>,
    frame: u32,
}

/// A page that is being read into a frame of ours. Dropped, it is in no frame.
///
/// What reads it has to end with the process: a system call does, what the kernel was only asked
/// for (`io_uring`) may write into the frame when another process has it.
#[derive(Debug)]
pub struct Loading<'u, E: Entries> {
    free: Free<'u, E>,
    page: PageId,
}

impl<'u, E: Entries> Free<'u, E> {
    /// One that we have claimed.
    pub(super) fn new(user: &'u User<E>, frame: u32) -> Free<'u, E> {
        Free { user, frame }
    }

    /// Which frame.
    pub fn frame(&self) -> u32 {
        self.frame
    }

    /// The frame is for no page any more.
    pub(super) fn forget_page(&self) {
        let page = &self.user.frames.frames[self.frame as usize].page;
        // Relaxed: as in `load`.
        page.store(PageId::NOWHERE.to_bits(), Ordering::Relaxed);
    }

    /// Begins to read `page` into this frame; gives the frame back where somebody was first.
    ///
    /// # Errors
    /// [`FindError::NoSuchPage`]: the frame is anybody's then. [`FindError::Forked`]: it is the
    /// parent's.
    ///
    /// # If a process dies here
    /// Its frame is free, or it dies with the page [`Loading`].
    pub fn load(self, page: PageId) -> Result<Result<Loading<'u, E>, Free<'u, E>>, FindError> {
        let frames = &self.user.frames;
        self.user.check_fork()?;
        // Relaxed: for who has the claim after us, for reapers, and, by the fence in `admits`, for
        // who ends pages.
        frames.frames[self.frame as usize].page.store(page.to_bits(), Ordering::Relaxed);
        if !frames.entries.admits(page) {
            self.forget_page();
            return Err(FindError::NoSuchPage(page));
        }
        let word = frames.entry(page)?;
        let (from, to) = (Entry::ABSENT.to_bits(), Entry::loading(self.frame).to_bits());
        // Pairs with the Release in `leaves`: what was written to the file.
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        match word.compare_exchange(from, to, ok, err) {
            Ok(_) => Ok(Ok(Loading { free: self, page })),
            Err(_) => Ok(Err(self)),
        }
    }
}

impl<E: Entries> Drop for Free<'_, E> {
    /// # If a process dies here
    /// The frame is free, or will be once it was reaped.
    fn drop(&mut self) {
        if self.user.is_ours() {
            self.user.release(self.frame);
        }
    }
}

impl<'u, E: Entries> Loading<'u, E> {
    /// The frame: its bytes are this process's alone.
    pub fn frame(&self) -> u32 {
        self.free.frame
    }

    /// The page is here: its bytes are in the frame. It is pinned, and whoever waits for it finds
    /// it. Where the entry was overwritten meanwhile, or a reaper thought it was the one of a dead
    /// process, the frame is given back, and the page is to be looked for again.
    ///
    /// # Errors
    /// [`FindError::TooManyPins`]: the page is in no frame. [`FindError::Forked`]: the parent is
    /// loading it.
    ///
    /// # If a process dies here
    /// The page is here; or it is in no frame.
    pub fn publish(self) -> Result<Result<Pin<'u>, Free<'u, E>>, FindError> {
        let frame = self.free.frame;
        let mut slot = self.free.user.protector.slot().ok_or(FindError::TooManyPins)?;
        let is_published =
            slot.protect(announced(frame), || self.moves_to(Entry::resident(frame)))?;
        let free = self.into_free();
        if !is_published {
            return Ok(Err(free));
        }
        drop(free);
        Ok(Ok(Pin::new(slot)))
    }

    fn moves_to(&self, to: Entry) -> bool {
        let frame = self.free.frame;
        let Ok(word) = self.free.user.frames.entry(self.page) else { return false };
        // Pairs with the Acquires in `find`: the bytes.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        word.compare_exchange(Entry::loading(frame).to_bits(), to.to_bits(), ok, err).is_ok()
    }

    /// The frame alone, whatever the entry says.
    fn into_free(self) -> Free<'u, E> {
        let free = Free::new(self.free.user, self.free.frame);
        std::mem::forget(self);
        free
    }
}

impl<E: Entries> Drop for Loading<'_, E> {
    /// # If a process dies here
    /// The page is in no frame, or will be once the process was reaped.
    fn drop(&mut self) {
        if self.free.user.is_ours() {
            self.moves_to(Entry::ABSENT);
        }
    }
}

impl<E: Entries> User<E> {
    /// Goes on for the one who was reading `page` into `frame`, where it is dead: the bytes are to
    /// be read anew. `None` where it lives, or is done, or another has taken its place: look again.
    ///
    /// # Errors
    /// [`FindError`].
    ///
    /// # If a process dies here
    /// The page is being loaded by a dead process, as before.
    pub fn take_over(&self, page: PageId, frame: u32) -> Result<Option<Loading<'_, E>>, FindError> {
        let frames = &self.frames;
        self.check_fork()?;
        let entry = frames.entry(page)?;
        if frame >= frames.count() {
            return Ok(None);
        }
        let before = frames.claim_of(frame);
        let is_dead = |id| self.member().table().liveness(id) == Liveness::Dead;
        // Nobody's, too, where an entry says that somebody loads the page: then nobody does.
        if !before.holder().is_none_or(is_dead) || !frames.take(frame, before, self.mine()) {
            return Ok(None);
        }
        let free = Free::new(self, frame);
        // Relaxed: the claim orders it, or the proof of the death; others do not move it now.
        let now = frames.place(page, entry.load(Ordering::Relaxed));
        if now == Ok(Place::Loading(frame)) {
            if frames.page_in(frame) == Some(page) {
                return Ok(Some(Loading { free, page }));
            }
            // One of us came too late: the entry is another file's by now, or the dead one's was.
            // Nobody would find it by what the frame says. Relaxed: as in `settle`.
            let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
            let (from, to) = (Entry::loading(frame).to_bits(), Entry::ABSENT.to_bits());
            // Where it fails somebody scribbles.
            let _ = entry.compare_exchange(from, to, ok, err);
        }
        frames.settle(frame);
        now.map(|_| None).map_err(FindError::from)
    }
}
