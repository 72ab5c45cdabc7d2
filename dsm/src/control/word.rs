//! The state word of a segment slot.
use crate::handle::GENERATION_MAX;
use shm_core::participants::ParticipantId;

const STATE: u64 = 0b11;
const FREE: u64 = 0;
const CREATING: u64 = 1;
const ALIVE: u64 = 2;
const MORIBUND: u64 = 3;
const PINNED: u64 = 1 << 2;
const GENERATION_SHIFT: u32 = 3;
const HIGH_SHIFT: u32 = 32;

/// All that may be true of a segment, in one word:
///
/// ```text
///  63           32 31          3      2      1   0
///  | epoch/owner  | generation | pinned | state |
/// ```
///
/// | state | upper half | next state, by whom |
/// | --- | --- | --- |
/// | free | 0 | creating: whoever wins the slot |
/// | creating | owner | alive or moribund: its owner, or for a dead one its reaper |
/// | alive | epoch | alive, epoch + 1: an attacher · (un)pinned: anyone · moribund: who finds the set empty |
/// | moribund | owner | free, generation + 1: the same · moribund, of another owner: anyone, once the old one has left |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    fn new(state: u64, generation: u32, high: u32) -> Word {
        Word(u64::from(high) << HIGH_SHIFT | u64::from(generation) << GENERATION_SHIFT | state)
    }

    pub(crate) fn free(generation: u32) -> Word {
        Word::new(FREE, generation, 0)
    }

    /// The word as found, where a slot that has had no segment yet begins with `first`.
    pub(crate) fn or_first(self, first: u32) -> Word {
        if self.0 == 0 { Word::free(first) } else { self }
    }

    /// The slot after this segment: free, for the next generation.
    pub(crate) fn freed(self) -> Word {
        let next = if self.generation() == GENERATION_MAX { 1 } else { self.generation() + 1 };
        Word::free(next)
    }

    pub(crate) fn creating(self, owner: u32) -> Word {
        Word::new(CREATING, self.generation(), owner)
    }

    pub(crate) fn alive(self) -> Word {
        Word::new(ALIVE, self.generation(), 0)
    }

    pub(crate) fn moribund(self, owner: u32) -> Word {
        Word::new(MORIBUND, self.generation(), owner)
    }

    pub(crate) fn next_epoch(self) -> Word {
        Word(self.0.wrapping_add(1 << HIGH_SHIFT))
    }

    pub(crate) fn pinned(self) -> Word {
        Word(self.0 | PINNED)
    }

    pub(crate) fn unpinned(self) -> Word {
        Word(self.0 & !PINNED)
    }

    pub(crate) fn is_free(self) -> bool {
        self.0 & STATE == FREE
    }

    pub(crate) fn is_alive(self) -> bool {
        self.0 & STATE == ALIVE
    }

    pub(crate) fn is_alive_as(self, generation: u32) -> bool {
        self.is_alive() && self.generation() == generation
    }

    pub(crate) fn is_pinned(self) -> bool {
        self.0 & PINNED != 0
    }

    /// Creating or moribund, in the hands of `owner`.
    pub(crate) fn is_owned_by(self, owner: u32) -> bool {
        matches!(self.0 & STATE, CREATING | MORIBUND) && self.high() == owner
    }

    /// Who is to destroy it.
    pub(crate) fn executor(self) -> Option<ParticipantId> {
        let owner = (self.0 & STATE == MORIBUND).then(|| self.high());
        owner.and_then(ParticipantId::from_bits)
    }

    fn high(self) -> u32 {
        (self.0 >> HIGH_SHIFT) as u32
    }

    pub(crate) fn generation(self) -> u32 {
        self.0 as u32 >> GENERATION_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_generation_is_followed_by_the_first() {
        assert_eq!(Word::free(GENERATION_MAX).alive().freed(), Word::free(1));
    }

    #[test]
    fn the_epoch_wraps_without_touching_the_rest() {
        let last = Word(Word::free(7).alive().pinned().0 | 0xffff_ffff << HIGH_SHIFT);
        assert_eq!(last.next_epoch(), Word::free(7).alive().pinned());
    }

    #[test]
    fn an_epoch_is_not_an_owner() {
        let alive = Word::free(1).alive().next_epoch();
        assert!(!alive.is_owned_by(1));
        assert!(Word::free(1).creating(9).is_owned_by(9));
        assert!(!Word::free(1).moribund(9).is_owned_by(8));
        let executor = |word: Word| word.executor().map(ParticipantId::to_bits);
        assert_eq!(executor(Word::free(1).moribund(9)), Some(9));
        assert_eq!(executor(Word::free(1).moribund(0)), None);
        assert_eq!(executor(Word::free(1).creating(9)), None);
    }
}
