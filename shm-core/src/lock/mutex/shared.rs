//! The words of a mutex.
use crate::event::EventCount;
use crate::participants::ParticipantId;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use relptr::{Reserved, shm_sync};

/// Its last byte is the version.
const MAGIC: u64 = u64::from_le_bytes(*b"shmkmtx1");

/// A mutex.
///
/// | field | written by | read by | order, staleness |
/// | --- | --- | --- | --- |
/// | `magic` | the creator, before the place is published | all, once, at attach | checked there |
/// | `word` | by compare-and-swap: free to held by anyone; held to free, left, poisoned by the holder; held by a dead one to held (broken) or left by anyone; the bit WAITERS by who goes to sleep | all | Release by who gives it up, Acquire by who takes it; the word is the whole truth |
/// | `freed` | who sleeps, who gives up | | an event count |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Shared {
    pub(super) magic: AtomicU64,
    pub(super) word: AtomicU64,
    pub(super) freed: EventCount,
    spare: AtomicU32,
    reserved: Reserved<5>,
}

#[cfg(not(shm_loom))]
const _: () = {
    assert!(size_of::<Shared>() == 64);
    assert!(core::mem::offset_of!(Shared, word) == 8);
    assert!(core::mem::offset_of!(Shared, freed) == 16);
};

/// Of the layout, to be [combined](crate::layout::combine) with those of what lies around it.
#[cfg(not(shm_loom))]
pub(super) const FINGERPRINT: u64 = crate::fingerprint!(Shared {
    magic: AtomicU64,
    word: AtomicU64,
    freed: EventCount,
    spare: AtomicU32,
    reserved: Reserved<5>,
});

shm_sync!(Shared { magic, word, freed, spare, reserved });

impl Shared {
    pub(super) fn new() -> Shared {
        Shared {
            magic: AtomicU64::new(MAGIC),
            word: AtomicU64::new(Word::FREE.bits()),
            freed: EventCount::new(),
            spare: AtomicU32::new(0),
            reserved: Reserved::new(),
        }
    }

    pub(super) fn is_mutex(&self) -> bool {
        self.magic.load(Ordering::Relaxed) == MAGIC
    }
}

/// participant 32 bits | thread 22 | 0 | state 3 | WAITERS 1. All zero: free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word(u64);

/// What a word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Nobody has it.
    Free,
    /// This thread of this participant has it.
    Held(ParticipantId, u32),
    /// The same, and the holder before it did not give it up: not repaired yet.
    Broken(ParticipantId, u32),
    /// Nobody has it; this one did, and panicked, or its death was noticed by who cleaned up.
    Left(ParticipantId),
    /// Nobody has it; this one was told of a death and did not repair.
    Poisoned(ParticipantId),
}

const WAITERS: u64 = 1;
const STATE_AT: u32 = 1;
const STATE_MASK: u64 = 7;
const THREAD_AT: u32 = 10;
const THREAD_MASK: u64 = (1 << 22) - 1;
const OWNER_AT: u32 = 32;

impl Word {
    pub(super) const FREE: Word = Word(0);

    pub(super) fn new(state: State) -> Word {
        let (number, who, thread) = match state {
            State::Free => return Word::FREE,
            State::Held(who, thread) => (1, who, thread),
            State::Broken(who, thread) => (2, who, thread),
            State::Left(who) => (3, who, 0),
            State::Poisoned(who) => (4, who, 0),
        };
        let thread = (u64::from(thread) & THREAD_MASK) << THREAD_AT;
        Word(u64::from(who.to_bits()) << OWNER_AT | thread | number << STATE_AT)
    }

    /// A word that may be anybody's.
    pub(super) fn from_bits(bits: u64) -> Word {
        Word(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// `None` for nonsense.
    pub(super) fn state(self) -> Option<State> {
        let thread = (self.0 >> THREAD_AT & THREAD_MASK) as u32;
        let state = match (self.0 >> STATE_AT & STATE_MASK, self.owner()) {
            (0, None) => State::Free,
            (1, Some(who)) => State::Held(who, thread),
            (2, Some(who)) => State::Broken(who, thread),
            (3, Some(who)) => State::Left(who),
            (4, Some(who)) => State::Poisoned(who),
            _ => return None,
        };
        (Word::new(state) == self.without_waiters()).then_some(state)
    }

    fn owner(self) -> Option<ParticipantId> {
        ParticipantId::from_bits((self.0 >> OWNER_AT) as u32)
    }

    /// Somebody may sleep until it changes.
    pub(super) fn has_waiters(self) -> bool {
        self.0 & WAITERS != 0
    }

    pub(super) fn with_waiters(self) -> Word {
        Word(self.0 | WAITERS)
    }

    fn without_waiters(self) -> Word {
        Word(self.0 & !WAITERS)
    }

    /// `next`, with the sign that this word has.
    pub(super) fn followed_by(self, next: Word) -> Word {
        Word(next.0 | self.0 & WAITERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ParticipantId {
        ParticipantId::from_bits(1023 << 22 | 4_194_303).unwrap()
    }

    #[test]
    fn a_word_says_what_was_put_into_it() {
        for thread in [0, 1, (1 << 22) - 1] {
            for state in [
                State::Free,
                State::Held(id(), thread),
                State::Broken(id(), thread),
                State::Left(id()),
                State::Poisoned(id()),
            ] {
                let word = Word::new(state);
                assert_eq!((word.state(), word.has_waiters()), (Some(state), false));
                let word = word.with_waiters();
                assert_eq!((word.state(), word.has_waiters()), (Some(state), true));
                assert_eq!(word.followed_by(Word::FREE), Word::FREE.with_waiters());
            }
        }
        assert_eq!(Word::FREE.followed_by(Word::FREE), Word::FREE);
    }

    #[test]
    fn nonsense_says_nothing() {
        let owner = u64::from(id().to_bits()) << OWNER_AT;
        let held = Word::new(State::Held(id(), 7)).bits();
        let left = Word::new(State::Left(id())).bits();
        for bits in [owner, 1 << STATE_AT, owner | 5 << STATE_AT, owner | 7 << STATE_AT] {
            assert_eq!(Word::from_bits(bits).state(), None, "{bits:x}");
        }
        for bits in [held | 1 << 4, held | 1 << 9, left | 1 << THREAD_AT, 1 << THREAD_AT] {
            assert_eq!(Word::from_bits(bits).state(), None, "{bits:x}");
        }
        assert_eq!(Word::from_bits(1 << 54 | 1 << STATE_AT).state(), None, "generation 0");
    }
}
