//! Frames that may have no page, which come before all others.
use super::shared::Shared;
use shm_core::mapping::MappedSlice;
use shm_core::sync::{AtomicU64, Ordering};

/// Frames to a word.
pub(super) const FRAMES_A_WORD: u32 = 64;

/// A bit a frame, and where the first of them is.
#[derive(Debug)]
pub(super) struct Vacant {
    pub(super) words: MappedSlice<AtomicU64>,
}

/// What the first position says where there are none.
const NONE: u64 = u64::MAX;

/// The word of the frames from `64 * index` on, of `frames`, where none has a page.
pub(super) fn all_of(index: u64, frames: u32) -> u64 {
    let left = u64::from(frames).saturating_sub(index * u64::from(FRAMES_A_WORD));
    if left >= 64 { u64::MAX } else { (1 << left) - 1 }
}

impl Vacant {
    /// Takes the first; `None` where there seems to be none.
    #[inline]
    pub(super) fn take(&self, shared: &Shared) -> Option<u32> {
        let first = shared.vacant.load(Ordering::Relaxed);
        if first == NONE { None } else { self.take_from(shared, first as usize) }
    }

    #[cold]
    fn take_from(&self, shared: &Shared, first: usize) -> Option<u32> {
        for index in first..self.words.len() {
            let word = &self.words[index];
            let mut seen = word.load(Ordering::Relaxed);
            while seen != 0 {
                let bit = seen & seen.wrapping_neg();
                if word.fetch_and(!bit, Ordering::Relaxed) & bit != 0 {
                    if index > first {
                        shared.vacant.store(index as u64, Ordering::Relaxed);
                    }
                    return Some(index as u32 * FRAMES_A_WORD + bit.trailing_zeros());
                }
                seen = word.load(Ordering::Relaxed);
            }
        }
        shared.vacant.store(NONE, Ordering::Relaxed);
        None
    }

    /// Puts one back.
    pub(super) fn put(&self, shared: &Shared, frame: u32) {
        let index = u64::from(frame / FRAMES_A_WORD);
        let Some(word) = self.words.get(index as usize) else { return };
        word.fetch_or(1 << (frame % FRAMES_A_WORD), Ordering::Relaxed);
        // Where others change it at this moment the frame may be found later: by the hand.
        if index < shared.vacant.load(Ordering::Relaxed) {
            shared.vacant.store(index, Ordering::Relaxed);
        }
    }
}
