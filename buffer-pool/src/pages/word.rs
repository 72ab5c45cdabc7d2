//! The words' values: who has an intent, what it says, and what a frame's page is.
use shm_core::participants::ParticipantId;

/// Who has an intent: `ParticipantId` in bits 32–63, its thread in bits 0–31. All zero: nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner(u64);

impl Owner {
    pub(super) const NOBODY: Owner = Owner(0);

    pub(super) fn new(who: ParticipantId, thread: u32) -> Owner {
        Owner(u64::from(who.to_bits()) << 32 | u64::from(thread))
    }

    pub(super) const fn from_bits(bits: u64) -> Owner {
        Owner(bits)
    }

    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whose it is; `None` for nobody's, and for nonsense.
    pub(super) fn who(self) -> Option<ParticipantId> {
        ParticipantId::from_bits((self.0 >> 32) as u32)
    }
}

/// What a frame's page is: 0 as in its file, or one more than the number of the intent by which it
/// was changed last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State(u64);

impl State {
    pub(super) const CLEAN: State = State(0);

    pub(super) fn changed_by(intent: usize) -> State {
        State(intent as u64 + 1)
    }

    pub(super) const fn from_bits(bits: u64) -> State {
        State(bits)
    }

    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) fn is_dirty(self) -> bool {
        self != State::CLEAN
    }

    /// The intent by which it was changed last; `None` for a clean one. A claim: any number.
    pub(super) fn intent(self) -> Option<usize> {
        usize::try_from(self.0.checked_sub(1)?).ok()
    }
}

/// What an intent is about: the frame in bits 32–63, how many ranges in bits 0–31.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head(u64);

impl Head {
    pub(super) fn new(frame: u32, ranges: usize) -> Head {
        Head(u64::from(frame) << 32 | ranges as u64)
    }

    pub(super) const fn from_bits(bits: u64) -> Head {
        Head(bits)
    }

    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) const fn frame(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) const fn ranges(self) -> usize {
        self.0 as u32 as usize
    }
}

/// Bytes of a page: the first one in bits 32–63, how many in bits 0–31.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range(u64);

impl Range {
    /// Of `len` bytes at byte `at` of a page of `page_bytes`; `None` where they do not lie in it.
    pub(super) fn new(at: usize, len: usize, page_bytes: usize) -> Option<Range> {
        let is_inside = at <= page_bytes && len <= page_bytes - at;
        is_inside.then_some(Range((at as u64) << 32 | len as u64))
    }

    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }

    /// What somebody wrote; `None` where it does not lie in the page.
    pub(super) fn from_bits(bits: u64, page_bytes: usize) -> Option<Range> {
        Range::new((bits >> 32) as usize, bits as u32 as usize, page_bytes)
    }

    pub(super) const fn at(self) -> usize {
        (self.0 >> 32) as usize
    }

    pub(super) const fn len(self) -> usize {
        self.0 as u32 as usize
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_who_was_named() {
        let who = ParticipantId::from_bits(3 << 22 | 7).unwrap();
        for thread in [0, 1, u32::MAX] {
            assert_eq!(Owner::from_bits(Owner::new(who, thread).to_bits()).who(), Some(who));
        }
        assert_eq!((Owner::NOBODY.who(), Owner::from_bits(5).who()), (None, None));
    }

    #[test]
    fn a_page_is_clean_or_names_its_last_intent() {
        assert_eq!((State::CLEAN.is_dirty(), State::CLEAN.intent()), (false, None));
        for intent in [0, 7] {
            let state = State::from_bits(State::changed_by(intent).to_bits());
            assert_eq!((state.is_dirty(), state.intent()), (true, Some(intent)));
        }
    }

    #[test]
    fn a_head_says_what_it_was_made_of() {
        let head = Head::from_bits(Head::new(u32::MAX, 64).to_bits());
        assert_eq!((head.frame(), head.ranges()), (u32::MAX, 64));
    }

    #[test]
    fn a_range_lies_in_its_page() {
        for (at, len) in [(0, 0), (0, 1024), (1023, 1), (1024, 0)] {
            let bits = Range::new(at, len, 1024).unwrap().to_bits();
            let range = Range::from_bits(bits, 1024).unwrap();
            assert_eq!((range.at(), range.len()), (at, len));
            assert_eq!(Range::from_bits(bits, 512).is_some(), at + len <= 512);
        }
        for (at, len) in [(0, 1025), (1024, 1), (1025, 0), (usize::MAX, 1), (1, usize::MAX)] {
            assert_eq!(Range::new(at, len, 1024), None);
        }
        assert_eq!(Range::from_bits(u64::MAX, 1024), None);
    }
}
