//! What is pinned, for who chooses victims and who shows it.
use super::{Entries, Frames, announced};
use shm_core::hazard::Protected;

/// The frames that were pinned at some moment: see [`Frames::pinned`].
#[derive(Debug, Default)]
pub struct Pinned {
    protected: Protected,
}

impl Pinned {
    /// Whether somebody had pinned the page in `frame`.
    pub fn has(&self, frame: u32) -> bool {
        self.protected.contains(announced(frame).get())
    }

    /// How many frames there were.
    pub fn len(&self) -> usize {
        self.protected.len()
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.protected.is_empty()
    }
}

impl<E: Entries> Frames<E> {
    /// Looks at all pins, into `pinned`, which it empties first. Who has announced a frame and not
    /// looked at its entry yet counts, too.
    pub fn pinned(&self, pinned: &mut Pinned) {
        self.hazards.snapshot_into(&mut pinned.protected);
    }
}
