//! The words of a reader-writer lock.
use crate::event::EventCount;
use crate::participants::{ParticipantId, SLOTS_MAX};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use relptr::{Reserved, shm_sync};

const MAGIC: u64 = u64::from_le_bytes(*b"shmkrwlk");

/// The head of a lock; one [`Row`] a seat of the table follows it.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `magic`, `seats` | the creator, before the place is published | all, once, at attach | private from then on |
/// | `drained` | a pending writer that sleeps, a reader that goes and is waited for | | an event count |
/// | `writer` | by compare-and-swap only: see [`Word`] | all | Release / Acquire on itself; against the rows by the fence pair |
/// | `freed` | who waits for `writer`, and who changes it | | an event count |
///
/// Readers write none of it in their common path.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Head {
    pub(super) magic: AtomicU64,
    pub(super) seats: AtomicU32,
    pub(super) drained: EventCount,
    pub(super) writer: AtomicU64,
    pub(super) freed: EventCount,
    spare: AtomicU32,
    reserved: Reserved<12>,
}

shm_sync!(Head { magic, seats, drained, writer, freed, spare, reserved });

/// Of the layout, to be [combined](crate::layout::combine) with those of what lies around it.
#[cfg(not(shm_loom))]
pub(super) const FINGERPRINT: u64 = crate::layout::combine(&[
    crate::fingerprint!(Head {
        magic: AtomicU64,
        seats: AtomicU32,
        drained: EventCount,
        writer: AtomicU64,
        freed: EventCount,
        spare: AtomicU32,
        reserved: Reserved<12>,
    }),
    crate::fingerprint!(Row { holders: AtomicU64, reserved: Reserved<15> }),
]);

/// One seat's shared holders.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `holders` | the seat's process, by compare-and-swap; a writer that waits for it (`WANTED`); who proved its owner dead (to nobody) | that process, and writers that have claimed | Release / Acquire on itself; against `writer` by the fence pair |
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Row {
    pub(super) holders: AtomicU64,
    reserved: Reserved<15>,
}

shm_sync!(Row { holders, reserved });

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Head>() == 128);
    assert!(offset_of!(Head, seats) == 8);
    assert!(offset_of!(Head, drained) == 12);
    assert!(offset_of!(Head, writer) == 16);
    assert!(offset_of!(Head, freed) == 24);
    assert!(size_of::<Row>() == 128);
    assert!(offset_of!(Row, holders) == 0);
};

impl Head {
    pub(super) fn new(seats: u32) -> Head {
        Head {
            magic: AtomicU64::new(MAGIC),
            seats: AtomicU32::new(seats),
            drained: EventCount::new(),
            writer: AtomicU64::new(Word::FREE.bits()),
            freed: EventCount::new(),
            spare: AtomicU32::new(0),
            reserved: Reserved::new(),
        }
    }

    pub(super) fn checked_seats(&self) -> Option<u32> {
        let seats = self.seats.load(Ordering::Relaxed);
        let is_one = self.magic.load(Ordering::Relaxed) == MAGIC;
        (is_one && (1..=SLOTS_MAX).contains(&seats)).then_some(seats)
    }
}

impl Row {
    pub(super) fn new() -> Row {
        Row { holders: AtomicU64::new(Holders::NOBODY.bits()), reserved: Reserved::new() }
    }
}

/// The exclusive right: `ParticipantId` in bits 32–63, state in bits 0–1. All zero: free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word(u64);

/// What a [`Word`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Free,
    /// A writer waits for the readers to go. None enters any more.
    Claimed(ParticipantId),
    Held(ParticipantId),
    /// It died, or panicked, holding the right: nobody has it.
    Abandoned(ParticipantId),
}

impl Word {
    pub(super) const FREE: Word = Word(0);

    pub(super) fn claimed(by: ParticipantId) -> Word {
        Word(u64::from(by.to_bits()) << 32 | 1)
    }

    pub(super) fn held(by: ParticipantId) -> Word {
        Word(u64::from(by.to_bits()) << 32 | 2)
    }

    pub(super) fn abandoned(by: ParticipantId) -> Word {
        Word(u64::from(by.to_bits()) << 32 | 3)
    }

    pub(super) const fn from_bits(bits: u64) -> Word {
        Word(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// `None` where somebody wrote nonsense.
    pub(super) fn state(self) -> Option<State> {
        if self == Word::FREE {
            return Some(State::Free);
        }
        let who = ParticipantId::from_bits((self.0 >> 32) as u32)?;
        match self.0 as u32 {
            1 => Some(State::Claimed(who)),
            2 => Some(State::Held(who)),
            3 => Some(State::Abandoned(who)),
            _ => None,
        }
    }
}

/// Who of one seat holds shares: `ParticipantId` in bits 32–63, `WANTED` in bit 31, and how many
/// of that process's threads in bits 0–30. All zero: nobody.
///
/// The number is of one process: it cannot be left wrong by a death, for that ends them all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Holders(u64);

impl Holders {
    pub(super) const NOBODY: Holders = Holders(0);
    const WANTED: u64 = 1 << 31;
    const COUNT: u64 = Holders::WANTED - 1;

    pub(super) const fn from_bits(bits: u64) -> Holders {
        Holders(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    pub(super) fn one_of(who: ParticipantId) -> Holders {
        Holders(u64::from(who.to_bits()) << 32 | 1)
    }

    pub(super) const fn is_nobody(self) -> bool {
        self.0 & Holders::COUNT == 0
    }

    pub(super) fn are_of(self, who: ParticipantId) -> bool {
        self.owner() == Some(who)
    }

    /// `None` where it is nobody, or nonsense.
    pub(super) fn owner(self) -> Option<ParticipantId> {
        ParticipantId::from_bits((self.0 >> 32) as u32)
    }

    /// A writer sleeps until they have gone.
    pub(super) const fn are_wanted(self) -> bool {
        self.0 & Holders::WANTED != 0
    }

    pub(super) const fn wanted(self) -> Holders {
        Holders(self.0 | Holders::WANTED)
    }

    /// One thread more. `None` where there is no room.
    pub(super) const fn and_one(self) -> Option<Holders> {
        if self.0 & Holders::COUNT == Holders::COUNT { None } else { Some(Holders(self.0 + 1)) }
    }

    /// One thread less; where there is one at least.
    pub(super) const fn but_one(self) -> Holders {
        if self.0 & Holders::COUNT <= 1 { Holders::NOBODY } else { Holders(self.0 - 1) }
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_it_was_made_of() {
        let who = ParticipantId::from_bits(3 << 22 | 7).unwrap();
        assert_eq!(Word::FREE.state(), Some(State::Free));
        assert_eq!(Word::claimed(who).state(), Some(State::Claimed(who)));
        assert_eq!(Word::held(who).state(), Some(State::Held(who)));
        assert_eq!(Word::abandoned(who).state(), Some(State::Abandoned(who)));
        for nonsense in [1, 2, 4, u64::from(who.to_bits()) << 32, Word::held(who).bits() | 4] {
            assert_eq!(Word::from_bits(nonsense).state(), None, "{nonsense:x}");
        }
    }

    #[test]
    fn holders_are_counted_and_the_last_one_leaves_nothing() {
        let who = ParticipantId::from_bits(3 << 22 | 7).unwrap();
        let two = Holders::one_of(who).and_one().unwrap().wanted();
        assert!(two.are_of(who) && two.are_wanted() && !two.is_nobody());
        let one = two.but_one();
        assert!(one.are_of(who) && one.are_wanted() && !one.is_nobody());
        assert_eq!(one.but_one(), Holders::NOBODY);
        assert_eq!(Holders::from_bits(two.bits() | Holders::COUNT).and_one(), None);
    }
}
