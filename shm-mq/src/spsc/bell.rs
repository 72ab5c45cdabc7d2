//! By what the receiver of many lanes learns which of them it is to look at.
use shm_core::event::{EventCount, announced};
use shm_core::mapping::Mapped;
use shm_core::sync::{AtomicU64, Ordering};

/// One bit of a word: somebody did something in this lane.
///
/// | who did something | the receiver |
/// | --- | --- |
/// | (A) does it | (C) clears the bit |
/// | fence | fence |
/// | (B) looks at the bit, and sets it where it is clear | (D) looks at the lane |
///
/// Of two fences one comes first: either (D) sees what was done, or (B) sees the cleared bit. So a
/// bit that stays clear is that of a lane in which the receiver has seen all; and while few lanes
/// are in use their bits stand, and nobody writes the word. The receiver that finds something at
/// (D) sets the bit again, for more may be behind it.
///
/// A sleeper, likewise: it announces itself, fence, looks at each lane, whatever the bits say.
/// After (B), and so after the same fence, who did something looks whether anybody sleeps: either
/// it sees the sleeper, or the sleeper saw what was done.
///
/// # If a process dies here
/// After (A) the bit may be clear: the receiver looks at each lane of whom it learns that he died,
/// and at all before it sleeps. After (C) it may be clear too: who takes the receiver's role sets
/// all.
#[derive(Clone, Debug)]
pub(crate) struct Bell {
    word: Mapped<AtomicU64>,
    bit: u64,
}

impl Bell {
    pub(crate) fn new(word: Mapped<AtomicU64>, bit: u64) -> Bell {
        Bell { word, bit }
    }

    /// Something was done: says so, and wakes who sleeps on `bed`.
    #[inline]
    pub(crate) fn ring(&self, bed: &EventCount) {
        // Pairs with the fences in `hush` and `EventCount::prepare`: what was done before the bit,
        // and before the sleeper.
        announced();
        if !self.is_set() {
            self.set();
        }
        bed.notify_seen();
    }

    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.word.load(Ordering::Relaxed) & self.bit != 0
    }

    pub(crate) fn set(&self) {
        self.word.fetch_or(self.bit, Ordering::Relaxed);
    }

    /// Clears the bit. The receiver looks at the lane after this.
    pub(crate) fn hush(&self) {
        self.word.fetch_and(!self.bit, Ordering::Relaxed);
        // Pairs with the fence in `ring`: the bit before what was done.
        announced();
    }
}
