//! Victims, a few at a time.

/// At most so many victims at a time.
pub const BATCH_MAX: usize = 64;

/// The frames that a call of [`Policy::victims`](super::Policy::victims) found; no frame is in it
/// twice.
#[derive(Clone, Debug)]
pub struct Batch {
    frames: [u32; BATCH_MAX],
    len: usize,
    room: usize,
}

impl Batch {
    /// An empty one, for at most `room` frames: from 1 to [`BATCH_MAX`], or the nearest of them.
    pub fn new(room: usize) -> Batch {
        Batch { frames: [0; BATCH_MAX], len: 0, room: room.clamp(1, BATCH_MAX) }
    }

    /// The frames, in the order in which they were found.
    pub fn frames(&self) -> &[u32] {
        &self.frames[..self.len]
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// How many more it takes.
    pub(super) fn room_left(&self) -> usize {
        self.room - self.len
    }

    pub(super) fn contains(&self, frame: u32) -> bool {
        self.frames().contains(&frame)
    }

    pub(super) fn push(&mut self, frame: u32) {
        debug_assert!(self.room_left() > 0 && !self.contains(frame));
        self.frames[self.len] = frame;
        self.len += 1;
    }
}
