//! The words of a barrier.
use crate::event::EventCount;
use crate::participants::ParticipantId;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use relptr::{Reserved, shm_sync};

const MAGIC: u64 = u64::from_le_bytes(*b"shmkbar1");

/// A barrier has room for so many parties at most.
pub const PARTIES_MAX: u32 = 1024;

/// The head of a barrier; a [`Row`] for each party follows it.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `magic`, `rows`, `first` | the creator, before the place is published | all, once, at attach | private from then on |
/// | `turn` | by compare-and-swap: who joins (one more join), who has seen that nobody is missing (the next phase) | all | Release / Acquire on itself: what all did before the phase ended |
/// | `broken`, of even phases and of odd ones | by compare-and-swap: who finds a party missing and dead, before it takes it out | who waited for that phase, once it has ended | `turn` |
/// | `elected` | by compare-and-swap: one of those who waited, once the phase has ended; who was the last to leave | the same | nothing: one of them wins |
/// | `advanced` | | | an event count |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Head {
    pub(super) magic: AtomicU64,
    pub(super) rows: AtomicU32,
    pub(super) first: AtomicU32,
    pub(super) turn: AtomicU64,
    pub(super) broken: [AtomicU64; 2],
    pub(super) elected: AtomicU64,
    pub(super) advanced: EventCount,
    spare: AtomicU32,
    reserved: Reserved<1>,
}

shm_sync!(Head { magic, rows, first, turn, broken, elected, advanced, spare, reserved });

/// A party.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `party` | see [`Word`]; every change is a compare-and-swap | all who look who is missing | Release / Acquire on itself: what the party did before it arrived; against the others' rows by a pair of fences |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Row {
    pub(super) party: AtomicU64,
    reserved: Reserved<7>,
}

shm_sync!(Row { party, reserved });

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Head>() == 64);
    assert!(offset_of!(Head, turn) == 16);
    assert!(offset_of!(Head, advanced) == 48);
    assert!(size_of::<Row>() == 64);
    assert!(offset_of!(Row, party) == 0);
};

impl Head {
    pub(super) fn new(rows: u32, first: u32) -> Head {
        Head {
            magic: AtomicU64::new(MAGIC),
            rows: AtomicU32::new(rows),
            first: AtomicU32::new(first),
            turn: AtomicU64::new(0),
            broken: [AtomicU64::new(0), AtomicU64::new(0)],
            elected: AtomicU64::new(0),
            advanced: EventCount::new(),
            spare: AtomicU32::new(0),
            reserved: Reserved::new(),
        }
    }

    /// Rows there are, and how many joins end the first phase; `None` where that is no barrier.
    pub(super) fn checked(&self) -> Option<(u32, u32)> {
        let rows = self.rows.load(Ordering::Relaxed);
        let first = self.first.load(Ordering::Relaxed);
        let is_one = self.magic.load(Ordering::Relaxed) == MAGIC;
        (is_one && (1..=PARTIES_MAX).contains(&rows) && first <= rows).then_some((rows, first))
    }
}

impl Row {
    pub(super) fn new() -> Row {
        Row { party: AtomicU64::new(Word::NOBODY.bits()), reserved: Reserved::new() }
    }
}

/// Which phase it is 32 bits | how many have joined so far 32 bits.
///
/// So a phase does not end behind the back of one who joins: who joins writes its row, and then
/// moves the number; who ends the phase looks at the rows, and then swaps that very word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Turn(u64);

impl Turn {
    pub(super) const fn from_bits(bits: u64) -> Turn {
        Turn(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    pub(super) const fn phase(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) const fn joins(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn one_joined(self) -> Turn {
        Turn(u64::from(self.phase()) << 32 | u64::from(self.joins().wrapping_add(1)))
    }

    pub(super) fn next_phase(self) -> Turn {
        Turn(u64::from(self.phase().wrapping_add(1)) << 32 | u64::from(self.joins()))
    }
}

/// Of which phase something is said, as that phase's number and one: 32 bits | of whom 32 bits. All
/// zero: of none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Said(u64);

impl Said {
    pub(super) fn of(phase: u32, who: ParticipantId) -> Said {
        Said(u64::from(phase.wrapping_add(1)) << 32 | u64::from(who.to_bits()))
    }

    pub(super) const fn from_bits(bits: u64) -> Said {
        Said(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    pub(super) const fn is_of(self, phase: u32) -> bool {
        self.0 != 0 && (self.0 >> 32) as u32 == phase.wrapping_add(1)
    }

    /// Of this phase, or of a later one.
    pub(super) fn is_of_or_after(self, phase: u32) -> bool {
        let ahead = ((self.0 >> 32) as u32).wrapping_sub(phase.wrapping_add(1));
        self.0 != 0 && ahead < 1 << 31
    }

    pub(super) fn who(self) -> Option<ParticipantId> {
        ParticipantId::from_bits(self.0 as u32)
    }
}

/// A party: `ParticipantId` 32 bits | the phase in which it arrived last 30 bits | state 2 bits. All
/// zero: nobody.
///
/// | from | to | by whom | a death leaves |
/// | --- | --- | --- | --- |
/// | nobody | working(me) | who joins | working(dead): missing in its phase, and told |
/// | working(me), arrived(me, an earlier phase) | arrived(me, this phase) | the same | arrived(dead): missing in the next phase, and told |
/// | the same | leaving(me, this phase) | the same, before it knows whether it is the last | leaving(dead): taken out, and not told |
/// | leaving(me) | arrived(me), nobody | the same | |
/// | any of mine | nobody | the same | nobody |
/// | any of a dead one that is missing | nobody | who has proved the death, once it is told in `broken` | nobody |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word(u64);

const PHASE_BITS: u32 = 30;
const PHASES: u32 = 1 << PHASE_BITS;
const WORKING: u64 = 1;
const ARRIVED: u64 = 2;
const LEAVING: u64 = 3;

impl Word {
    pub(super) const NOBODY: Word = Word(0);

    fn new(who: ParticipantId, phase: u32, state: u64) -> Word {
        Word(u64::from(who.to_bits()) << 32 | u64::from(phase % PHASES) << 2 | state)
    }

    pub(super) fn working(who: ParticipantId) -> Word {
        Word::new(who, 0, WORKING)
    }

    pub(super) fn arrived(who: ParticipantId, phase: u32) -> Word {
        Word::new(who, phase, ARRIVED)
    }

    pub(super) fn leaving(who: ParticipantId, phase: u32) -> Word {
        Word::new(who, phase, LEAVING)
    }

    pub(super) const fn from_bits(bits: u64) -> Word {
        Word(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    /// `None` where it is nobody, or nonsense.
    pub(super) fn owner(self) -> Option<ParticipantId> {
        ParticipantId::from_bits((self.0 >> 32) as u32)
    }

    /// It is not waited for in this phase.
    pub(super) const fn has_arrived(self, phase: u32) -> bool {
        self.0 & 2 != 0 && (self.0 as u32) >> 2 == phase % PHASES
    }

    pub(super) const fn is_leaving(self) -> bool {
        self.0 & 3 == LEAVING
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_it_was_made_of() {
        let who = ParticipantId::from_bits(3 << 22 | 7).unwrap();
        let working = Word::working(who);
        assert!(!working.has_arrived(0) && !working.is_leaving());
        for phase in [0, 7, PHASES - 1, PHASES, u32::MAX] {
            let (arrived, leaving) = (Word::arrived(who, phase), Word::leaving(who, phase));
            assert!(arrived.has_arrived(phase) && !arrived.has_arrived(phase.wrapping_add(1)));
            assert!(leaving.has_arrived(phase) && leaving.is_leaving() && !arrived.is_leaving());
            assert_eq!((arrived.owner(), leaving.owner()), (Some(who), Some(who)));
        }
        assert_eq!((Word::NOBODY.owner(), working.owner()), (None, Some(who)));
    }

    #[test]
    fn what_is_said_is_of_one_phase() {
        let who = ParticipantId::from_bits(3 << 22 | 7).unwrap();
        for phase in [0, 7, u32::MAX - 1, u32::MAX] {
            let said = Said::of(phase, who);
            assert_eq!((said.is_of(phase), said.who()), (true, Some(who)));
            assert!(!said.is_of(phase.wrapping_add(1)) && !said.is_of(phase.wrapping_sub(1)));
            assert!(said.is_of_or_after(phase) && said.is_of_or_after(phase.wrapping_sub(1)));
            assert!(!said.is_of_or_after(phase.wrapping_add(1)));
        }
        assert!(!Said::from_bits(0).is_of(u32::MAX));
    }

    #[test]
    fn a_turn_counts_joins_and_phases_apart() {
        let turn = Turn::from_bits(0).one_joined().one_joined().next_phase();
        assert_eq!((turn.phase(), turn.joins()), (1, 2));
        let full = Turn::from_bits(u64::MAX);
        assert_eq!(full.one_joined().phase(), u32::MAX);
        assert_eq!((full.next_phase().phase(), full.next_phase().joins()), (0, u32::MAX));
    }
}
