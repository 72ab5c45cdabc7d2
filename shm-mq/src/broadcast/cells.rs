//! The cells of a broadcast, and a place in them.
//!
//! A cell is a mark, a length, and bytes. What is in it may be written over while somebody reads it
//! who was lapped: then the words move as `Relaxed` ones, and two fences let the reader see, by the
//! mark, that they did not stay (Boehm, "Can seqlocks get along with programming language memory
//! models?", 2012):
//!
//! | publisher, of record m | reader, of record n < m in the same cell |
//! | --- | --- |
//! | (A) the mark: m is being written | (a) the mark, Acquire: n is there |
//! | Release fence | (b) the words |
//! | (B) the words | Acquire fence |
//! | (C) the mark, Release: m is there | (c) the mark |
//!
//! 1. All words that (b) loads are n's: they come after their publication by (a).
//! 2. A word that (b) loads is m's, of a (B): the fences pair by it, and so (A) is before (c),
//!    which finds that the mark is not n's any more.
//! 3. (c) says n, and so no word was m's, by 2.
use super::shared::{Mark, NUMBER_MAX};
use super::{BroadcastConfig, Kind, Lapped};
use shm_core::BadPtr;
use shm_core::bytes::{Draft, View, WORD_BYTES, Word, relaxed};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::sync::{Ordering, fence};
use shm_core::trust::Trust;
use std::marker::PhantomData;
use std::sync::Arc;

/// Words of a cell before its bytes: mark, length.
const HEAD_WORDS: u64 = 2;

/// A cell is a multiple of so many words: a cache line of them.
#[cfg(not(any(shm_loom, shm_explore)))]
const LINE_WORDS: u64 = 8;
/// Few, in models.
#[cfg(any(shm_loom, shm_explore))]
const LINE_WORDS: u64 = 1;

/// Words of a cell for records of so many bytes.
pub(super) const fn cell_words(record_bytes: u64) -> u64 {
    (HEAD_WORDS + record_bytes.div_ceil(WORD_BYTES as u64)).next_multiple_of(LINE_WORDS)
}

/// Bytes of mapping for such cells (a model's words are larger than 8 bytes).
pub(super) const fn mapped_bytes(config: &BroadcastConfig) -> u64 {
    config.cells as u64 * cell_words(config.record_bytes) * size_of::<Word>() as u64
}

/// The cells as this process has them mapped. Bytes are moved as `T` says, unless who reads them
/// may be lapped.
///
/// The functions are sound only if who uses the cells keeps the protocol. That the others keep it
/// too, they need at the level `Crashing` only, and there only where nobody is lapped.
#[derive(Clone, Debug)]
pub(super) struct Cells<T> {
    words: MappedSlice<Word>,
    count: u64,
    cell_words: usize,
    record_bytes: usize,
    is_lossy: bool,
    level: PhantomData<T>,
}

impl<T: Trust> Cells<T> {
    /// Writes each word of new cells, so that no page of them is touched for the first time later.
    ///
    /// # Safety
    /// Nobody else uses these bytes.
    pub(super) unsafe fn create(
        m: &Arc<Mapping>,
        at: u64,
        config: &BroadcastConfig,
    ) -> Result<(), BadPtr> {
        for word in 0..u64::from(config.cells) * cell_words(config.record_bytes) {
            // SAFETY: the caller's promise.
            unsafe { Mapped::place(m, at + word * size_of::<Word>() as u64, Word::new()) }?;
        }
        Ok(())
    }

    pub(super) fn attach(
        m: &Arc<Mapping>,
        at: u64,
        kind: Kind,
        count: u64,
        record_bytes: u64,
    ) -> Result<Self, BadPtr> {
        let words = MappedSlice::new(m, at, count * cell_words(record_bytes))?;
        Ok(Cells::of(words, kind, count, record_bytes))
    }

    /// The cells whose words these are: so many as they take.
    pub(super) fn of(
        words: MappedSlice<Word>,
        kind: Kind,
        count: u64,
        record_bytes: u64,
    ) -> Cells<T> {
        Cells {
            words,
            count,
            cell_words: cell_words(record_bytes) as usize,
            record_bytes: record_bytes as usize,
            is_lossy: kind == Kind::Lossy,
            level: PhantomData,
        }
    }

    /// The same cells at another level.
    pub(super) fn at_level<U: Trust>(&self) -> Cells<U> {
        let Cells { count, cell_words, record_bytes, is_lossy, .. } = *self;
        let words = self.words.clone();
        Cells { words, count, cell_words, record_bytes, is_lossy, level: PhantomData }
    }

    #[inline]
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    #[inline]
    pub(super) fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// Whether who reads may be lapped.
    #[inline]
    pub(super) fn is_lossy(&self) -> bool {
        self.is_lossy
    }

    /// Whether records are written and read where they lie.
    #[inline]
    pub(super) fn is_in_place(&self) -> bool {
        T::IN_PLACE && !self.is_lossy
    }

    /// The words of a cell.
    #[inline]
    fn cell(&self, at: Place) -> &[Word] {
        let first = at.cell as usize * self.cell_words;
        &self.words[first..first + self.cell_words]
    }

    /// What is at `at`.
    #[inline]
    pub(super) fn look(&self, at: Place) -> Mark {
        // Pairs with the Release in `publish`: the record's words.
        Mark::from_bits(T::load_published(self.cell(at)[0].atomic()))
    }

    /// The oldest record that is still there, of so many that were published.
    pub(super) fn oldest(&self, published: u64) -> u64 {
        let Some(oldest) = published.checked_sub(self.count) else { return 0 };
        // The cell that is written next may be in work, or have been.
        let is_there = self.look(Place::of(oldest, self.count)) == Mark::there(oldest);
        oldest + u64::from(!is_there)
    }

    /// Where one goes on who was to read the record at `at`, and found that it is gone: `None`
    /// where what is there instead, or how many the publisher says are `published`, is nonsense.
    pub(super) fn after_lap(
        &self,
        at: Place,
        lapped: Lapped,
        published: impl FnOnce() -> Option<u64>,
    ) -> Option<u64> {
        let seen = self.look(at).number().filter(|seen| {
            let ahead = seen.checked_sub(at.number).filter(|ahead| *ahead > 0);
            *seen <= NUMBER_MAX && ahead.is_some_and(|ahead| ahead.is_multiple_of(self.count))
        })?;
        // Who writes a record has said how many there were before, and then passed the fence of the
        // wake-up, which pairs with the Acquire in `look`.
        let published = published().filter(|published| seen <= *published)?;
        let oldest = published.max(seen + 1) - self.count;
        Some(match lapped {
            Lapped::Oldest => oldest,
            Lapped::Newest => oldest.max(published - 1),
        })
    }

    /// Whether the record that `look` has found at `at` is still there: all words that were looked
    /// at in between were its own.
    #[inline]
    pub(super) fn is_still_there(&self, at: Place) -> bool {
        // Pairs with the fence in `begin`, by a word that was written after it: its mark.
        fence(Ordering::Acquire);
        let mark = Mark::from_bits(self.cell(at)[0].atomic().load(Ordering::Relaxed));
        mark == Mark::there(at.number)
    }

    /// Says that the record of this place is being written: the one before is no more.
    #[inline]
    pub(super) fn begin(&self, at: Place) {
        let mark = Mark::writing(at.number).bits();
        self.cell(at)[0].atomic().store(mark, Ordering::Relaxed);
        // Pairs with the fence in `is_still_there`: the mark before the words.
        fence(Ordering::Release);
    }

    /// Lets all see the record that was written at `at`.
    #[inline]
    pub(super) fn publish(&self, at: Place, len: usize) {
        let cell = self.cell(at);
        cell[1].store(len as u64);
        // Pairs with the Acquire in `look`: the record's words.
        cell[0].atomic().store(Mark::there(at.number).bits(), Ordering::Release);
    }

    /// The length of the record at `at`; `None` where it is nonsense.
    #[inline]
    pub(super) fn len(&self, at: Place) -> Option<usize> {
        let len = self.cell(at)[1].load();
        (len <= self.record_bytes as u64).then_some(len as usize)
    }

    fn bytes(&self, at: Place) -> &[Word] {
        &self.cell(at)[HEAD_WORDS as usize..]
    }

    /// Writes a record's bytes.
    ///
    /// # Safety
    /// The caller is the publisher, and nobody reads this cell who cannot be lapped.
    #[inline]
    pub(super) unsafe fn write(&self, at: Place, from: &[u8]) {
        if self.is_lossy {
            relaxed::copy_in(self.bytes(at), 0, from);
        } else {
            // SAFETY: nobody else looks at a cell that all have read.
            unsafe { T::copy_in(self.bytes(at), 0, from) }
        }
    }

    /// A record's bytes, to be written where they lie.
    ///
    /// # Safety
    /// As [`write`](Cells::write), for as long as the draft lives; and `is_in_place`.
    #[inline]
    pub(super) unsafe fn draft(&self, at: Place, len: usize) -> Draft<'_> {
        // SAFETY: nobody else looks at a cell that all have read.
        unsafe { Draft::new(self.bytes(at), 0, len) }
    }

    /// A record's bytes where they lie.
    ///
    /// # Safety
    /// The record is there, a row that is the caller's says that it reads it; and `is_in_place`.
    #[inline]
    pub(super) unsafe fn view(&self, at: Place, len: usize) -> View<'_> {
        // SAFETY: nobody writes a cell that somebody has not read.
        unsafe { View::new(self.bytes(at), 0, len) }
    }

    /// Makes `to` a copy of a record's bytes, each word looked at once, for those who do not look
    /// at them in place. They are the record's if it [is still there](Cells::is_still_there).
    #[inline]
    pub(super) fn copy(&self, at: Place, len: usize, to: &mut Vec<u8>) {
        to.resize(len, 0);
        relaxed::copy_out(self.bytes(at), 0, to);
    }
}

/// The number of a record, and its cell: kept together, so that nobody divides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Place {
    pub(super) number: u64,
    /// Less than there are.
    cell: u64,
}

impl Place {
    /// The place of a record, among so many cells.
    pub(super) fn of(number: u64, cells: u64) -> Place {
        Place { number, cell: number % cells }
    }

    /// The next one.
    #[inline]
    pub(super) fn next(self, cells: u64) -> Place {
        let cell = self.cell + 1;
        Place { number: self.number + 1, cell: if cell == cells { 0 } else { cell } }
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_whole_lines() {
        assert_eq!([0, 48, 49, 112].map(cell_words), [8, 8, 16, 16]);
    }

    #[test]
    fn the_cell_is_the_number_modulo_the_count() {
        let mut place = Place::default();
        for number in 0..20 {
            assert_eq!(place, Place::of(number, 3));
            place = place.next(3);
        }
    }
}
