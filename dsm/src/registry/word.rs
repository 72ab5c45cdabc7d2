//! The state word of a row.
use shm_core::participants::ParticipantId;

const STATE_BITS: u32 = 3;
const GENERATION_BITS: u32 = 29;
const GENERATION_MAX: u32 = (1 << GENERATION_BITS) - 1;

/// What a row is, for whom, and for the how manieth time:
///
/// ```text
///  63     32 31          3 2     0
///  | owner  | generation  | state |
/// ```
///
/// | state | owner | next state, by whom |
/// | --- | --- | --- |
/// | free | 0 | claimed: whoever wins the row |
/// | claimed | who writes the name | shown: its owner · free: its owner, or its reaper |
/// | shown | the same | initialising: its owner, which has found no other row of this name · claimed: who shows this name in a row further in front · free: its owner, or anyone once that one is dead |
/// | initialising | the initialiser | ready: its owner · clearing: its owner, or anyone once that one is dead |
/// | ready | 0 | clearing: who removes the name |
/// | clearing | who does it | free, one generation further: its owner, or its reaper |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Word(u64);

/// What a row is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Free,
    Claimed,
    Shown,
    Initialising,
    Ready,
    Clearing,
    /// Somebody scribbled on it.
    Nonsense,
}

impl Word {
    pub(super) fn from_bits(bits: u64) -> Word {
        Word(bits)
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }

    fn new(state: State, generation: u32, owner: u32) -> Word {
        Word(u64::from(owner) << 32 | u64::from(generation) << STATE_BITS | state as u64)
    }

    pub(super) fn free(generation: u32) -> Word {
        Word::new(State::Free, generation, 0)
    }

    /// The row after this use of it.
    pub(super) fn freed(self) -> Word {
        Word::free(if self.generation() == GENERATION_MAX { 1 } else { self.generation() + 1 })
    }

    pub(super) fn ready(self) -> Word {
        Word::new(State::Ready, self.generation(), 0)
    }

    /// Another state, of this owner.
    pub(super) fn owned(self, state: State, owner: ParticipantId) -> Word {
        Word::new(state, self.generation(), owner.to_bits())
    }

    pub(super) fn state(self) -> State {
        match self.0 & ((1 << STATE_BITS) - 1) {
            0 => State::Free,
            1 => State::Claimed,
            2 => State::Shown,
            3 => State::Initialising,
            4 => State::Ready,
            5 => State::Clearing,
            _ => State::Nonsense,
        }
    }

    fn generation(self) -> u32 {
        (self.0 >> STATE_BITS) as u32 & GENERATION_MAX
    }

    /// Whose it is; `None` for nobody, and for nonsense.
    pub(super) fn owner(self) -> Option<ParticipantId> {
        ParticipantId::from_bits((self.0 >> 32) as u32)
    }

    /// Whether others find the row by its name.
    pub(super) fn is_shown(self) -> bool {
        matches!(self.state(), State::Shown | State::Initialising | State::Ready)
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_for_whom_and_when() {
        let id = ParticipantId::from_bits(5 << 22 | 9).unwrap();
        let free = Word::free(GENERATION_MAX);
        for state in [State::Claimed, State::Shown, State::Initialising, State::Clearing] {
            let word = Word::from_bits(free.owned(state, id).bits());
            assert_eq!((word.state(), word.owner()), (state, Some(id)));
            assert_eq!(word.freed(), Word::free(1), "generations start over");
        }
        let ready = free.owned(State::Initialising, id).ready();
        assert_eq!((ready.state(), ready.owner(), ready.is_shown()), (State::Ready, None, true));
        assert_eq!((free.state(), free.owner(), free.is_shown()), (State::Free, None, false));
        assert_eq!(Word::free(7).freed(), Word::free(8));
        for nonsense in [6, 7] {
            assert_eq!(Word::from_bits(nonsense).state(), State::Nonsense);
        }
    }
}
