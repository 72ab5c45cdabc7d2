//! Frames put by for the pages that will be wanted next.
use super::word::Claim;
use super::{Entries, Free, User};
use shm_core::sync::Ordering;

/// Frames that have no page, as numbers: see [`User::put_by`].
#[derive(Debug, Default)]
pub struct Stock {
    frames: Vec<u32>,
}

impl Stock {
    /// How many there are, but for those that others have taken.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

impl<E: Entries> User<E> {
    /// Keeps a frame for later: for this one first, and for anybody who wants it.
    ///
    /// # If a process dies here
    /// The frame is free, or will be once it was reaped.
    pub fn put_by(&self, stock: &mut Stock, free: Free<'_, E>) {
        let frame = free.frame();
        if self.check_fork().is_err() {
            return;
        }
        free.forget_page();
        std::mem::forget(free);
        let claim = &self.frames.frames[frame as usize].claim;
        let (mine, by) = (self.mine().to_bits(), Claim::put_by(self.member().id()).to_bits());
        // Pairs with the Acquire in `take`: what its last holder did.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        // It fails where somebody scribbles: then it is not ours.
        if claim.compare_exchange(mine, by, ok, err).is_ok() {
            stock.frames.push(frame);
        }
    }

    /// One of those that were put by, the last first; `None` where there is none that nobody else
    /// has taken.
    ///
    /// # If a process dies here
    /// The frame is free, or will be once it was reaped.
    pub fn take_from(&self, stock: &mut Stock) -> Option<Free<'_, E>> {
        self.check_fork().ok()?;
        let by = Claim::put_by(self.member().id());
        let is_there =
            |frame: &u32| *frame < self.frames.count() && self.frames.take(*frame, by, self.mine());
        std::iter::from_fn(|| stock.frames.pop()).find(is_there).map(|frame| Free::new(self, frame))
    }
}
