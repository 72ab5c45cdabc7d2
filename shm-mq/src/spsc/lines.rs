//! The lines of a queue, and a place in them.
use super::shared::Shared;
use crate::hand_back::HandBack;
use shm_core::BadPtr;
use shm_core::bytes::{Draft, View, WORD_BYTES, Word};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use shm_core::trust::Trust;
use std::marker::PhantomData;
use std::sync::Arc;

/// Words in a line: a cache line of them.
#[cfg(not(any(shm_loom, shm_explore)))]
const LINE_WORDS: usize = 8;
/// Few, in models.
#[cfg(any(shm_loom, shm_explore))]
const LINE_WORDS: usize = 2;

/// So many lines are made ready for the next record, at most.
const READY_LINES_MAX: u64 = 8;

/// Bytes of ring in a line.
pub const LINE_BYTES: u64 = (LINE_WORDS * WORD_BYTES) as u64;

/// A record needs its own words, one for the header behind it, and what is passed over before it,
/// at the end of the ring or of a line: at most as many as it has, less one. Half the ring is
/// enough.
pub(super) const LINES_MIN: u64 = 2;

/// The longest record of a ring of so many lines.
pub(super) const fn record_bytes_max(lines: u64) -> u64 {
    let bytes = (lines / 2) * LINE_BYTES - WORD_BYTES as u64;
    // What a header can say.
    if bytes < Header::LEN_END as u64 { bytes } else { Header::LEN_END as u64 - 1 }
}

/// Words that a record takes.
#[inline(always)]
pub(super) const fn words_for(len: usize) -> u64 {
    1 + (len as u64).div_ceil(WORD_BYTES as u64)
}

/// What the first word of a record says: number of the record, its last 32 bits | length + 1.
///
/// | word | meaning |
/// | --- | --- |
/// | 0 | nothing is here yet |
/// | n, length + 1 | the n-th record; its bytes follow |
/// | n, 2^32 - 2 | the n-th record stands at the beginning of the next line |
/// | n, 2^32 - 1 | the n-th record stands at the beginning of the ring |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Header {
    Nothing,
    Record { number: u32, len: usize },
    NextLine { number: u32 },
    AtTheBeginning { number: u32 },
}

impl Header {
    const LEN_END: u32 = Self::NEXT_LINE - 1;
    const NEXT_LINE: u32 = u32::MAX - 1;

    #[inline(always)]
    pub(super) fn from_bits(bits: u64) -> Header {
        let number = (bits >> 32) as u32;
        match bits as u32 {
            0 => Header::Nothing,
            Self::NEXT_LINE => Header::NextLine { number },
            u32::MAX => Header::AtTheBeginning { number },
            len => Header::Record { number, len: len as usize - 1 },
        }
    }

    #[inline(always)]
    pub(super) fn to_bits(self) -> u64 {
        match self {
            Header::Nothing => 0,
            Header::NextLine { number } => u64::from(number) << 32 | u64::from(Self::NEXT_LINE),
            Header::AtTheBeginning { number } => u64::from(number) << 32 | u64::from(u32::MAX),
            Header::Record { number, len } => u64::from(number) << 32 | (len as u64 + 1),
        }
    }
}

/// The ring as this process has it mapped. Bytes are moved as `T` says.
///
/// The functions are sound only if who uses the ring keeps the protocol. That the peer keeps it
/// too, they need at the level `Crashing` only.
#[derive(Clone, Debug)]
pub(super) struct Lines<T> {
    words: MappedSlice<Word>,
    level: PhantomData<T>,
}

impl<T: Trust> Lines<T> {
    /// Bytes of mapping for so many lines (a model's words are larger than 8 bytes).
    pub(super) const fn mapped_bytes(lines: u64) -> u64 {
        lines.saturating_mul((LINE_WORDS * size_of::<Word>()) as u64)
    }

    /// Writes each word of a new ring, so that no page of it is touched for the first time later.
    ///
    /// # Safety
    /// Nobody else uses these bytes.
    pub(super) unsafe fn create(m: &Arc<Mapping>, at: u64, lines: u64) -> Result<Self, BadPtr> {
        for word in 0..lines * LINE_WORDS as u64 {
            // SAFETY: the caller's promise.
            unsafe { Mapped::place(m, at + word * size_of::<Word>() as u64, Word::new()) }?;
        }
        Self::attach(m, at, lines)
    }

    pub(super) fn attach(m: &Arc<Mapping>, at: u64, lines: u64) -> Result<Self, BadPtr> {
        Ok(Lines::of(MappedSlice::new(m, at, lines * LINE_WORDS as u64)?))
    }

    /// A ring of these words, in whole lines.
    pub(super) fn of(words: MappedSlice<Word>) -> Self {
        Lines { words, level: PhantomData }
    }

    /// The same ring at another level.
    pub(super) fn at_level<U: Trust>(self) -> Lines<U> {
        Lines::of(self.words)
    }

    /// What gives its words back.
    pub(super) fn hand_back(&self) -> HandBack<T> {
        HandBack::new(&self.words)
    }

    /// Words of the ring.
    #[inline(always)]
    pub(super) fn count(&self) -> u64 {
        self.words.len() as u64
    }

    /// The longest record, in bytes.
    pub(super) fn record_bytes_max(&self) -> usize {
        record_bytes_max((self.words.len() / LINE_WORDS) as u64) as usize
    }

    /// The word in which the header of a record at `at` stands.
    #[inline(always)]
    fn header(&self, at: Place) -> &AtomicU64 {
        self.words[at.word as usize].atomic()
    }

    /// What is at `at`, where a record begins, or will.
    #[inline(always)]
    pub(super) fn look(&self, at: Place) -> Header {
        // Pairs with the Release in `publish`: the record, and the end behind it.
        Header::from_bits(T::load_published(self.header(at)))
    }

    /// Says that nothing is at `at` yet. Nobody looks there before the next record is published.
    #[inline(always)]
    pub(super) fn end_at(&self, at: Place) {
        // Ordered by the Release in `publish`.
        self.header(at).store(Header::Nothing.to_bits(), Ordering::Relaxed);
    }

    /// Writes a header to where nobody looks before another record is published.
    #[inline(always)]
    pub(super) fn put(&self, at: Place, header: Header) {
        // Ordered by the Release in `publish`.
        self.header(at).store(header.to_bits(), Ordering::Relaxed);
    }

    /// Writes a word of each line behind the first of the `words` from `at` on, for this processor
    /// to have these lines once a record comes there: where they are few.
    ///
    /// # Safety
    /// As [`write`](Lines::write), for words that do not go beyond the end of the ring.
    #[inline(always)]
    pub(super) unsafe fn get_ready(&self, at: Place, words: u64) {
        let (first, end) = (at.word + at.to_next_line(), at.word + words);
        if end - at.word <= READY_LINES_MAX * LINE_WORDS as u64 {
            for word in (first..end).step_by(LINE_WORDS) {
                // SAFETY: the caller's promise.
                unsafe { T::set(&self.words[word as usize], 0) };
            }
        }
    }

    /// Lets the receiver see what is at `at`, and what was put behind it.
    #[inline(always)]
    pub(super) fn publish(&self, at: Place, header: Header) {
        // Pairs with the Acquire in `look`: the record, and the end behind it.
        self.header(at).store(header.to_bits(), Ordering::Release);
    }

    /// The first byte of a record at `at`.
    #[inline(always)]
    fn bytes_at(at: Place) -> usize {
        (at.word as usize + 1) * WORD_BYTES
    }

    /// Writes a record's bytes.
    ///
    /// # Safety
    /// The words have been released, or never used, and the caller is the sender.
    #[inline(always)]
    pub(super) unsafe fn write(&self, at: Place, from: &[u8]) {
        // SAFETY: nobody else looks at what has been released.
        unsafe { T::copy_in(&self.words, Self::bytes_at(at), from) }
    }

    /// A record's bytes, to be written where they lie.
    ///
    /// # Safety
    /// As [`write`](Lines::write), for as long as the draft lives; and `T::IN_PLACE`.
    #[inline(always)]
    pub(super) unsafe fn draft(&self, at: Place, len: usize) -> Draft<'_> {
        // SAFETY: nobody else looks at what has been released.
        unsafe { Draft::new(&self.words, Self::bytes_at(at), len) }
    }

    /// A record's bytes where they lie.
    ///
    /// # Safety
    /// The record is published and not released, the caller is the receiver; and `T::IN_PLACE`.
    #[inline(always)]
    pub(super) unsafe fn view(&self, at: Place, len: usize) -> View<'_> {
        // SAFETY: nobody writes a published record before it is released.
        unsafe { View::new(&self.words, Self::bytes_at(at), len) }
    }

    /// Appends a record's bytes to `to`.
    ///
    /// # Safety
    /// As [`view`](Lines::view), but at any level.
    pub(super) unsafe fn append(&self, at: Place, len: usize, to: &mut Vec<u8>) {
        // SAFETY: nobody writes a published record.
        unsafe { T::append(&self.words, Self::bytes_at(at), len, to) }
    }
}

/// A position, and where it is in the ring: kept together, so that nobody divides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Place {
    /// Words since the beginning.
    pub(super) position: u64,
    /// Less than the ring has.
    word: u64,
}

impl Place {
    /// The place with this position, in a ring of so many words.
    pub(super) fn at(position: u64, count: u64) -> Place {
        Place { position, word: position % count }
    }

    /// The place `distance` words on, of a ring of `count`: at most [`to_end`](Place::to_end).
    #[inline(always)]
    pub(super) fn plus(self, distance: u64, count: u64) -> Place {
        let word = self.word + distance;
        let position = self.position.wrapping_add(distance);
        Place { position, word: if word >= count { 0 } else { word } }
    }

    /// The word behind the header, if the ring does not end there.
    #[inline(always)]
    pub(super) fn first_word(self) -> usize {
        self.word as usize + 1
    }

    /// Words from here to the end of a ring.
    #[inline(always)]
    pub(super) fn to_end(self, count: u64) -> u64 {
        count - self.word
    }

    /// Words from here to the end of the line.
    #[inline(always)]
    pub(super) fn to_next_line(self) -> u64 {
        LINE_WORDS as u64 - self.word % LINE_WORDS as u64
    }

    /// Whether so many words from here on lie in as few lines as from the beginning of one.
    #[inline(always)]
    pub(super) fn is_compact(self, words: u64) -> bool {
        let last = (words - 1) % LINE_WORDS as u64;
        last < self.to_next_line()
    }
}

/// Where the ring of a queue at `offset` begins.
pub(super) const fn ring_at(offset: u64) -> u64 {
    offset + size_of::<Shared>() as u64
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_was_put_into_it() {
        for header in [
            Header::Nothing,
            Header::Record { number: 0, len: 0 },
            Header::Record { number: u32::MAX, len: Header::LEN_END as usize - 1 },
            Header::NextLine { number: 9 },
            Header::AtTheBeginning { number: 7 },
        ] {
            assert_eq!(Header::from_bits(header.to_bits()), header);
        }
    }

    #[test]
    fn a_record_takes_its_header_and_its_bytes() {
        let words: Vec<u64> = [0, 1, 8, 9, 56, 57].into_iter().map(words_for).collect();
        assert_eq!(words, [1, 2, 2, 3, 8, 9]);
        assert_eq!((record_bytes_max(2), record_bytes_max(5)), (56, 120));
        assert_eq!(record_bytes_max(1 << 40), u64::from(Header::LEN_END) - 1);
    }

    #[test]
    fn the_word_is_the_position_modulo_the_ring() {
        let mut place = Place::default();
        for step in 0..100 {
            let distance = (step % 3).min(place.to_end(5));
            place = place.plus(distance, 5);
            assert_eq!(place, Place::at(place.position, 5));
        }
    }

    #[test]
    fn what_is_compact_touches_no_line_that_it_need_not() {
        for (start, words) in
            (0..16_u64).flat_map(|start| (1..40_u64).map(move |words| (start, words)))
        {
            let lines = (start + words).div_ceil(8) - start / 8;
            let is_compact = Place::at(start, 80).is_compact(words);
            assert_eq!(is_compact, lines == words.div_ceil(8), "{words} words from {start} on");
        }
    }
}
