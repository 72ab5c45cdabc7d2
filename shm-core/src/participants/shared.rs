//! The words in the segment.
use super::claim::Claim;
use super::id::{Generation, ParticipantId};
use crate::futex::Futex;
use crate::process::Namespaces;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use relptr::{Reserved, shm_sync};

/// The head of a table; its slots follow.
///
/// All of it is written at creation, before the table is published, and never again. Each process
/// reads it once, when it attaches, and works with its own copy.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Head {
    pub(super) slots: AtomicU32,
    reserved: AtomicU32,
    pub(super) pid_namespace: AtomicU64,
    pub(super) time_namespace: AtomicU64,
    spare: Reserved<5>,
}

shm_sync!(Head { slots, reserved, pid_namespace, time_namespace, spare });

/// One participant.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `claim` | the process it names; anyone by CAS where it is FREE or names a dead one | all | it orders the rest |
/// | `generation` | who holds the claim, once, just before freeing | all | Release / Acquire on itself; for the next holder, `claim` |
/// | `life` | the keeper (its thread id), sleepers (`WAITERS`), the kernel (`OWNER_DIED`), who frees (0) | sleepers | Release / Acquire on itself |
///
/// A reader may see any of them late, but not a new claim with an old generation.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Slot {
    pub(super) claim: AtomicU64,
    pub(super) generation: AtomicU32,
    pub(super) life: Futex,
    reserved: Reserved<6>,
}

shm_sync!(Slot { claim, generation, life, reserved });

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Head>() == 64);
    assert!(offset_of!(Head, slots) == 0);
    assert!(offset_of!(Head, pid_namespace) == 8);
    assert!(offset_of!(Head, time_namespace) == 16);
    assert!(size_of::<Slot>() == 64);
    assert!(offset_of!(Slot, claim) == 0);
    assert!(offset_of!(Slot, generation) == 8);
    assert!(offset_of!(Slot, life) == 12);
};

impl Head {
    pub(super) fn new(slots: u32, home: Namespaces) -> Head {
        Head {
            slots: AtomicU32::new(slots),
            reserved: AtomicU32::new(0),
            pid_namespace: AtomicU64::new(home.pid),
            time_namespace: AtomicU64::new(home.time),
            spare: Reserved::new(),
        }
    }
}

impl Slot {
    pub(super) fn new() -> Slot {
        Slot {
            claim: AtomicU64::new(Claim::FREE.to_bits()),
            generation: AtomicU32::new(Generation::FIRST.to_word()),
            life: Futex::new(Life::NOBODY.0),
            reserved: Reserved::new(),
        }
    }

    /// Whether nobody has freed the slot since it was `id`'s.
    pub(super) fn is_still(&self, id: ParticipantId) -> bool {
        // Pairs with the Release in `vacate`: the last words of who left or died, before the news.
        Generation::from_word(self.generation.load(Ordering::Acquire)) == Generation::of(id)
    }

    /// Frees the slot, which `mine` says is ours, and lets those who sleep on its life know.
    pub(super) fn vacate(&self, mine: Claim) {
        let old = Generation::from_word(self.generation.load(Ordering::Relaxed));
        // Pairs with the Acquire in `is_still`. From here on the old id is nobody's.
        self.generation.store(old.next().to_word(), Ordering::Release);
        let life = self.life.word().swap(Life::NOBODY.0, Ordering::Relaxed);
        if Life(life).has_sleepers() {
            self.life.wake_all();
        }
        let (mine, free) = (mine.to_bits(), Claim::FREE.to_bits());
        // Pairs with the Acquire in `Table::take_free`: all this before the next one's beginning.
        // It can fail only where somebody scribbled on a word that was ours.
        let _ = self.claim.compare_exchange(mine, free, Ordering::Release, Ordering::Relaxed);
    }
}

/// A robust futex word as the kernel knows it: thread id 30 bits | OWNER_DIED | WAITERS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Life(pub(super) u32);

impl Life {
    pub(super) const NOBODY: Life = Life(0);
    pub(super) const WAITERS: u32 = 1 << 31;
    const OWNER_DIED: u32 = 1 << 30;

    /// A thread holds it, and has not ended as far as the kernel has said.
    pub(super) fn is_held(self) -> bool {
        self.0 & !Life::WAITERS != 0 && !self.is_marked()
    }

    /// The kernel has said that the thread which held it ended.
    pub(super) fn is_marked(self) -> bool {
        self.0 & Life::OWNER_DIED != 0
    }

    pub(super) fn has_sleepers(self) -> bool {
        self.0 & Life::WAITERS != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_word_reads_as_the_kernel_writes_it() {
        let (waiters, died) = (libc::FUTEX_WAITERS, libc::FUTEX_OWNER_DIED);
        // Held, marked, with sleepers.
        let cases = [
            (0, (false, false, false)),
            (7, (true, false, false)),
            (7 | waiters, (true, false, true)),
            (waiters, (false, false, true)),
            (died, (false, true, false)),
            (died | 7, (false, true, false)),
            (died | waiters, (false, true, true)),
        ];
        for (word, expected) in cases {
            let life = Life(word);
            let said = (life.is_held(), life.is_marked(), life.has_sleepers());
            assert_eq!(said, expected, "{word:x}");
        }
    }
}
