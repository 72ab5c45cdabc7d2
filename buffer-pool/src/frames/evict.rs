//! Taking frames from pages that nobody uses.
use super::find::stays;
use super::word::{Entry, Place};
use super::{Entries, Frames, Free, PageId, User, announced};
use shm_core::hazard::Protected;
use shm_core::process::Forked;
use shm_core::sync::{AtomicU64, Ordering};

impl<E: Entries> User<E> {
    /// Has `candidates` give up their pages, as far as nobody uses or moves these; the frames are
    /// ours, behind what `free` has. Take many at once: one scan looks for all of them.
    ///
    /// Of each page that nobody uses `let_go` is asked, before it is in no frame: it writes the
    /// page to its file, where that is older, from the frame itself, and says whether it may go.
    /// Others may find it meanwhile, and then it stays.
    ///
    /// # Errors
    /// [`Forked`] in a forked child: all is as it was, apart from frames that had no page.
    ///
    /// # If a process dies here
    /// Pages are where they were, or in no frame; the frames are free once it was reaped.
    pub fn evict<'u>(
        &'u self,
        candidates: &[u32],
        protected: &mut Protected,
        free: &mut Vec<Free<'u, E>>,
        mut let_go: impl FnMut(u32, PageId) -> bool,
    ) -> Result<(), Forked> {
        let frames = &self.frames;
        self.check_fork()?;
        let mut leaving = Vec::with_capacity(candidates.len());
        for &frame in candidates.iter().filter(|frame| **frame < frames.count()) {
            if self.claim(frame) {
                let claimed = Free::new(self, frame);
                match frames.leave(frame) {
                    Leave::Leaving(page, entry) => leaving.push((claimed, page, entry)),
                    Leave::Empty => free.push(claimed),
                }
            }
        }
        if leaving.is_empty() {
            return Ok(());
        }
        frames.hazards.snapshot_into(protected);
        for (claimed, page, entry) in leaving {
            let frame = claimed.frame();
            let may_go = !protected.contains(announced(frame).get()) && let_go(frame, page);
            // In a child that `let_go` has forked it is not ours to move.
            self.check_fork()?;
            if !may_go {
                // Where it is not leaving any more somebody has found it.
                stays(entry, frame);
            } else if leaves(entry, frame) {
                free.push(claimed);
            }
        }
        Ok(())
    }
}

/// What a frame of ours had.
enum Leave<'e> {
    /// This page, whose entry says now that it is leaving.
    Leaving(PageId, &'e AtomicU64),
    /// No page: no entry names the frame.
    Empty,
}

impl<E: Entries> Frames<E> {
    /// Has the page in a frame of ours leave.
    fn leave(&self, frame: u32) -> Leave<'_> {
        // Relaxed: the claim orders it.
        let page = self.frames[frame as usize].page.load(Ordering::Relaxed);
        let page = PageId::from_bits(page);
        // It has had none, or one of a file that is gone.
        let Some(word) = self.entries.entry(page) else { return Leave::Empty };
        // Relaxed: as read-modify-writes they hand on what was published; the fence of the scan
        // comes after them.
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        let (from, to) = (Entry::resident(frame).to_bits(), Entry::leaving(frame).to_bits());
        match word.compare_exchange(from, to, ok, err) {
            Ok(_) => Leave::Leaving(page, word),
            // Its last claimer panicked as it let go of the page.
            Err(seen) if seen == to => Leave::Leaving(page, word),
            // Where it says that the frame is being loaded somebody wrote that: we do not.
            Err(_) => {
                self.settle(frame);
                Leave::Empty
            }
        }
    }

    /// Puts right what one who is dead, or who scribbles, has left of a frame. It has no effect on
    /// a frame that another has taken over meanwhile but those that the module names.
    pub(super) fn settle(&self, frame: u32) {
        // Relaxed: the proof of the death orders what the dead one did.
        let page = PageId::from_bits(self.frames[frame as usize].page.load(Ordering::Relaxed));
        let Some(word) = self.entries.entry(page) else { return };
        let seen = word.load(Ordering::Relaxed);
        match Entry::from_bits(seen).place(self.count()) {
            Some(Place::Loading(named)) if named == frame => {
                // Relaxed: it hands on what it found, and nothing was done to the file.
                let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
                if word.compare_exchange(seen, Entry::ABSENT.to_bits(), ok, err).is_ok() {
                    self.frames[frame as usize].moved.notify();
                }
            }
            Some(Place::Leaving(named)) if named == frame => _ = stays(word, frame),
            _ => {}
        }
    }
}

/// Nobody uses it: whether it is in no frame now.
fn leaves(word: &AtomicU64, frame: u32) -> bool {
    // Pairs with the Acquire in `Free::load`: what was written to the file.
    let (ok, err) = (Ordering::Release, Ordering::Relaxed);
    let (from, to) = (Entry::leaving(frame).to_bits(), Entry::ABSENT.to_bits());
    word.compare_exchange(from, to, ok, err).is_ok()
}
