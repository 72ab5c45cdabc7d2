//! The use bytes: how they are read and changed.
use super::shared::{FRAMES_A_WORD, Use, byte_of, with_byte};
use shm_core::mapping::MappedSlice;
use shm_core::sync::{AtomicU64, Ordering};

/// So often a change is tried; where the neighbours change all the time it is not made.
const TRIES: u32 = 8;

/// One byte a frame, 64 frames to a cache line.
#[derive(Clone, Debug)]
pub(super) struct Uses {
    pub(super) words: MappedSlice<AtomicU64>,
}

impl Uses {
    /// What `frame`'s byte says; of a frame that there is not, nothing.
    #[inline]
    pub(super) fn get(&self, frame: u32) -> Option<Use> {
        let word = self.words.get((frame / FRAMES_A_WORD) as usize)?;
        Some(byte_of(word.load(Ordering::Relaxed), frame % FRAMES_A_WORD))
    }

    /// Changes `frame`'s byte to what `change` makes of it, if it makes anything. Returns what the
    /// byte was when `change` had the last word.
    ///
    /// It is a compare-and-swap of eight bytes, and no plain store, so that no neighbour's use is
    /// undone. A byte is advice: where eight tries meet eight changes of the neighbours, this one
    /// is not made.
    pub(super) fn change(&self, frame: u32, change: impl Fn(Use) -> Option<Use>) -> Option<Use> {
        let word = self.words.get((frame / FRAMES_A_WORD) as usize)?;
        let index = frame % FRAMES_A_WORD;
        let mut now = word.load(Ordering::Relaxed);
        for _ in 0..TRIES {
            let byte = byte_of(now, index);
            let Some(to) = change(byte) else { return Some(byte) };
            // Nothing passes with this word: it is the whole truth about itself.
            let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
            match word.compare_exchange(now, with_byte(now, index, to), ok, err) {
                Ok(_) => return Some(byte),
                Err(other) => now = other,
            }
        }
        None
    }

    pub(super) fn set(&self, frame: u32, byte: Use) {
        self.change(frame, |_| Some(byte));
    }
}
