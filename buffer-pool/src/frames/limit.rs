//! How many of the frames may have pages.
use super::{Entries, Free};
use shm_core::mapping::Mapped;
use shm_core::sync::{AtomicU32, Ordering};

/// The frames below a limit may have pages: a word in shared memory, of the caller's.
///
/// | who takes a frame | who lowers the limit |
/// | --- | --- |
/// | (A) claims it | (C) publishes the limit |
/// | (B) [asks](Limit::admits); else gives it back | (D) claims each frame behind it, and waits for those that are claimed |
///
/// A frame's claim changes hands by read-modify-writes only. So of (A) and (D) one comes first: (D)
/// finds the frame claimed, or with the page that came to it, and waits, or evicts that page; or
/// (A) finds what (D) has given back, and (B) sees the limit that was published before. Until it
/// gives them back the frames behind the limit are of one who may do with their bytes as it likes;
/// and afterwards nobody touches them, until the limit is raised.
#[derive(Clone, Debug)]
pub struct Limit {
    word: Mapped<AtomicU32>,
    max: u32,
}

impl Limit {
    /// That in this word, which is at most `max`, whatever the word says.
    pub fn new(word: Mapped<AtomicU32>, max: u32) -> Limit {
        Limit { word, max }
    }

    /// So many frames.
    #[inline]
    pub fn get(&self) -> u32 {
        // Relaxed: for who has claimed a frame the claim orders it, for others it is a hint.
        self.word.load(Ordering::Relaxed).min(self.max)
    }

    /// So many from now on. One at a time sets it.
    ///
    /// # If a process dies here
    /// It is set or it is not.
    pub fn set(&self, frames: u32) {
        // Relaxed: the claims order it, of which none is given back before.
        self.word.store(frames, Ordering::Relaxed);
    }

    /// Whether a page may come to this frame.
    #[inline]
    pub fn admits<E: Entries>(&self, free: &Free<'_, E>) -> bool {
        free.frame() < self.get()
    }
}
