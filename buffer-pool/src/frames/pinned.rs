//! What is pinned, for who chooses victims and who shows it.
use super::{Entries, Frames, announced};
use shm_core::hazard::Protected;
use shm_core::participants::ParticipantId;

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

    /// Who has pinned what: each frame with each participant that has its page pinned, once, in
    /// order. A hint, for who shows it; the participants are such as the pins name, living or dead.
    pub fn pins(&self) -> Vec<(u32, ParticipantId)> {
        let mut pins = Vec::new();
        for seat in 0..self.hazards.seats() {
            let Some(who) = self.hazards.holder(seat) else { continue };
            let frames =
                self.hazards.row_values(seat).filter_map(|value| self.frame_announced(value));
            pins.extend(frames.map(|frame| (frame, who)));
        }
        pins.sort_unstable();
        pins.dedup();
        pins
    }

    /// The frame that a hazard slot says; `None` where there is no such frame.
    fn frame_announced(&self, value: u64) -> Option<u32> {
        let frame = u32::try_from(value.checked_sub(1)?).ok()?;
        (frame < self.count()).then_some(frame)
    }
}
