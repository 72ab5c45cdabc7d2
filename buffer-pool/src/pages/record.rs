//! A change, written down before it is made.
use super::WriteError;
use super::shared::{Intent, RANGES_MAX};
use super::word::{Head, Range};
use shm_core::bytes::{WORD_BYTES, Word, relaxed};
use shm_core::sync::Ordering;
#[cfg(not(shm_loom))]
use shm_core::trust::Buggy as Level;
#[cfg(shm_loom)]
use shm_core::trust::Crashing as Level;
use shm_core::trust::Trust;

/// An intent and its image. One process at a time has the image: it moves by relaxed copies for the
/// sake of liars, and in a model by plain ones, which fail where two have it.
pub(super) struct Record<'p> {
    pub(super) intent: &'p Intent,
    pub(super) image: &'p [Word],
}

impl Record<'_> {
    /// Says what is to be in the page of `frame`. Where it fails it says nothing.
    pub(super) fn write(&self, frame: u32, ranges: &[(usize, &[u8])]) -> Result<(), WriteError> {
        let Record { intent, image } = self;
        if ranges.len() > RANGES_MAX {
            return Err(WriteError::TooManyRanges(ranges.len()));
        }
        for (word, &(at, bytes)) in intent.ranges.iter().zip(ranges) {
            let range = Range::new(at, bytes.len(), image.len() * WORD_BYTES);
            let range = range.ok_or(WriteError::OutsideThePage { at, len: bytes.len() })?;
            // Relaxed, here and below: see the ledger of `Intent`.
            word.store(range.to_bits(), Ordering::Relaxed);
            // SAFETY: there is nothing to promise; in a model the image is ours.
            unsafe { Level::copy_in(image, at, bytes) };
        }
        intent.head.store(Head::new(frame, ranges.len()).to_bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Makes `page`, that of `frame`, as was said; `None` where that is nonsense, and the page is
    /// changed in part.
    pub(super) fn redo(&self, frame: u32, page: &[Word]) -> Option<()> {
        let Record { intent, image } = self;
        let head = Head::from_bits(intent.head.load(Ordering::Relaxed));
        let ranges = intent.ranges.get(..head.ranges()).filter(|_| head.frame() == frame)?;
        let mut bytes = Vec::new();
        for word in ranges {
            let range = word.load(Ordering::Relaxed);
            let range = Range::from_bits(range, page.len() * WORD_BYTES)?;
            bytes.clear();
            // SAFETY: there is nothing to promise; in a model its owner is dead.
            unsafe { Level::append(image, range.at(), range.len(), &mut bytes) };
            relaxed::copy_in(page, range.at(), &bytes);
        }
        Some(())
    }
}
