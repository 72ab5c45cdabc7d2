//! The words' values: who has a frame's latch, and who shares it.
use shm_core::participants::ParticipantId;

/// Who has a latch: `ParticipantId` in bits 32–63, state in bits 0–1. All zero: free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word(u64);

/// What a [`Word`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Free,
    /// Somebody may write the page out; readers go on.
    ShareExclusive(ParticipantId),
    /// It has it alone, or waits for readers to go. None enters any more.
    Exclusive(ParticipantId),
    /// It ended while it changed the page: nobody has the latch.
    Torn(ParticipantId),
}

impl Word {
    pub(super) const FREE: Word = Word(0);

    pub(super) fn share_exclusive(by: ParticipantId) -> Word {
        Word(u64::from(by.to_bits()) << 32 | 1)
    }

    pub(super) fn exclusive(by: ParticipantId) -> Word {
        Word(u64::from(by.to_bits()) << 32 | 2)
    }

    pub(super) fn torn(by: ParticipantId) -> Word {
        Word(u64::from(by.to_bits()) << 32 | 3)
    }

    pub(super) const fn from_bits(bits: u64) -> Word {
        Word(bits)
    }

    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }

    /// `None` where somebody wrote nonsense.
    #[inline]
    pub(super) fn state(self) -> Option<State> {
        if self == Word::FREE {
            return Some(State::Free);
        }
        let who = ParticipantId::from_bits((self.0 >> 32) as u32)?;
        match self.0 as u32 {
            1 => Some(State::ShareExclusive(who)),
            2 => Some(State::Exclusive(who)),
            3 => Some(State::Torn(who)),
            _ => None,
        }
    }

    /// Whether readers may enter.
    #[inline]
    pub(super) fn lets_in(self) -> bool {
        matches!(self.state(), Some(State::Free | State::ShareExclusive(_)))
    }

    /// Whether `who` has it.
    pub(super) fn is_of(self, who: ParticipantId) -> bool {
        self == Word::share_exclusive(who) || self == Word::exclusive(who)
    }
}

/// Who shares which frame: `ParticipantId` in bits 32–63, frame in bits 0–31. All zero: no share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shared(u64);

impl Shared {
    pub(super) const NOTHING: Shared = Shared(0);

    pub(super) fn new(who: ParticipantId, frame: u32) -> Shared {
        Shared(u64::from(who.to_bits()) << 32 | u64::from(frame))
    }

    pub(super) const fn from_bits(bits: u64) -> Shared {
        Shared(bits)
    }

    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whose it is; `None` for nobody's, and for nonsense.
    #[inline]
    pub(super) fn owner(self) -> Option<ParticipantId> {
        ParticipantId::from_bits((self.0 >> 32) as u32)
    }

    #[inline]
    pub(super) const fn frame(self) -> u32 {
        self.0 as u32
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_it_was_made_of() {
        let who = ParticipantId::from_bits(3 << 22 | 7).unwrap();
        let other = ParticipantId::from_bits(3 << 22 | 8).unwrap();
        let (sx, x) = (Word::share_exclusive(who), Word::exclusive(who));
        assert_eq!(Word::FREE.state(), Some(State::Free));
        assert_eq!(sx.state(), Some(State::ShareExclusive(who)));
        assert_eq!(x.state(), Some(State::Exclusive(who)));
        assert_eq!(Word::torn(who).state(), Some(State::Torn(who)));
        for nonsense in [1, 2, 4, u64::from(who.to_bits()) << 32, x.to_bits() | 4] {
            assert_eq!(Word::from_bits(nonsense).state(), None, "{nonsense:x}");
            assert!(!Word::from_bits(nonsense).lets_in());
        }
        assert!(Word::FREE.lets_in() && sx.lets_in());
        assert!(!x.lets_in() && !Word::torn(who).lets_in());
        assert!(sx.is_of(who) && x.is_of(who) && !x.is_of(other));
        assert!(!Word::torn(who).is_of(who), "it has it no more");
    }

    #[test]
    fn a_share_names_its_owner_and_its_frame() {
        let who = ParticipantId::from_bits(3 << 22 | 7).unwrap();
        for frame in [0, 1, u32::MAX] {
            let share = Shared::from_bits(Shared::new(who, frame).to_bits());
            assert_eq!((share.owner(), share.frame()), (Some(who), frame));
        }
        assert_eq!(Shared::NOTHING.owner(), None);
        assert_eq!(Shared::from_bits(5).owner(), None);
    }
}
