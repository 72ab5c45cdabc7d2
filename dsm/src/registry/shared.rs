//! The words of the registry in the control segment.
use super::name::{NAME_WORDS, Name};
use super::word::Word;
use shm_core::event::EventCount;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_core::{Reserved, shm_sync};

/// The head; the rows follow.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `turns` | who has shown a row, before it looks at the others | the same | AcqRel: see [`Head::take_turn`] |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Head {
    turns: AtomicU64,
    reserved: Reserved<7>,
}

shm_sync!(Head { turns, reserved });

/// One name, or none.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `state` | see [`Word`]; every change is one compare-and-swap | all | it orders the rest |
/// | `name`, `size`, `fingerprint`, `kind` | who claims the row, before it shows it | all, between two looks at `state` | `state`; Release / Acquire on themselves, for who reads while the row changes hands |
/// | `handle` | who claims the row (0); its initialiser, before it pins the segment; who clears it (0) | the same, and who clears the row | the same |
/// | `event` | who waits, and whoever changes `state` away from a state that others wait on | | an event count |
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Row {
    pub(super) state: AtomicU64,
    pub(super) handle: AtomicU64,
    pub(super) size: AtomicU64,
    pub(super) fingerprint: AtomicU64,
    pub(super) kind: AtomicU64,
    pub(super) name: [AtomicU64; NAME_WORDS],
    pub(super) event: EventCount,
    spare: AtomicU32,
    reserved: Reserved<2>,
}

shm_sync!(Row { state, handle, size, fingerprint, kind, name, event, spare, reserved });

#[cfg(not(shm_loom))]
const _: () = {
    assert!(size_of::<Head>() == 64);
    assert!(size_of::<Row>() == 128);
    assert!(core::mem::offset_of!(Row, event) == 104);
    assert!(core::mem::offset_of!(Row, name) == 40);
};

/// Tells this layout from others.
pub(crate) const FINGERPRINT: u64 = shm_core::layout::combine(&[
    shm_core::fingerprint!(Head { turns: AtomicU64, reserved: Reserved<7> }),
    shm_core::fingerprint!(Row {
        state: AtomicU64,
        handle: AtomicU64,
        size: AtomicU64,
        fingerprint: AtomicU64,
        kind: AtomicU64,
        name: [AtomicU64; NAME_WORDS],
        event: EventCount,
        spare: AtomicU32,
        reserved: Reserved<2>,
    }),
]);

impl Head {
    pub(super) fn new() -> Head {
        Head { turns: AtomicU64::new(0), reserved: Reserved::new() }
    }

    /// Between showing a row and looking at the others. Whoever has the later turn sees what was
    /// shown before the earlier one. What the word says, nobody believes.
    pub(super) fn take_turn(&self) {
        // Pairs with itself.
        self.turns.fetch_add(1, Ordering::AcqRel);
    }
}

impl Row {
    pub(super) fn new() -> Row {
        Row {
            state: AtomicU64::new(Word::free(1).bits()),
            handle: AtomicU64::new(0),
            size: AtomicU64::new(0),
            fingerprint: AtomicU64::new(0),
            kind: AtomicU64::new(0),
            name: std::array::from_fn(|_| AtomicU64::new(0)),
            event: EventCount::new(),
            spare: AtomicU32::new(0),
            reserved: Reserved::new(),
        }
    }

    /// What the row is, and all that was written before it became that.
    pub(super) fn seen(&self) -> Word {
        // Pairs with `change`.
        Word::from_bits(self.state.load(Ordering::Acquire))
    }

    /// Whether the row is still what it was when it was [seen](Row::seen); what was [read](get)
    /// in between was then all of one time.
    pub(super) fn is_still(&self, word: Word) -> bool {
        self.state.load(Ordering::Relaxed) == word.bits()
    }

    /// Changes hands; whether it was still as the caller [saw](Row::seen) it, or made it: so there
    /// is nothing to learn from it.
    pub(super) fn change(&self, from: Word, to: Word) -> bool {
        // Pairs with `seen`.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        self.state.compare_exchange(from.bits(), to.bits(), ok, err).is_ok()
    }

    /// Whether the name in the row is this one; a word that is being changed is some word.
    pub(super) fn has(&self, name: &Name) -> bool {
        name.words().zip(&self.name).all(|(word, stored)| get(stored) == word)
    }

    pub(super) fn set_name(&self, name: &Name) {
        for (word, stored) in name.words().zip(&self.name) {
            put(stored, word);
        }
    }

    /// The name, if there is one in the row.
    pub(super) fn name(&self) -> Option<Name> {
        Name::from_words(|index| get(&self.name[index]))
    }
}

/// One who reads this sees that the row had been claimed.
pub(super) fn put(word: &AtomicU64, value: u64) {
    // Pairs with `get`.
    word.store(value, Ordering::Release);
}

/// What is read is not older than what `state` says afterwards.
pub(super) fn get(word: &AtomicU64) -> u64 {
    // Pairs with `put`.
    word.load(Ordering::Acquire)
}
