//! The bytes of the ring, and a place in them.
use crate::hand_back::HandBack;
use shm_core::BadPtr;
use shm_core::bytes::{View, WORD_BYTES, Word};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::poison;
use shm_core::trust::Trust;
use std::marker::PhantomData;
use std::sync::Arc;

/// Positions, frames and rings are multiples of this.
pub(super) const WORD: u64 = WORD_BYTES as u64;

/// The payload words, as this process has them mapped. They are moved as `T` says.
///
/// The functions are sound only if who uses the ring keeps the protocol. That the peer keeps it
/// too, they need at the level `Crashing` only.
#[derive(Clone, Debug)]
pub(super) struct Ring<T> {
    words: MappedSlice<Word>,
    level: PhantomData<T>,
}

impl<T: Trust> Ring<T> {
    /// Bytes of mapping for a ring of `bytes` (a model's words are larger than 8 bytes).
    pub(super) const fn mapped_bytes(bytes: u64) -> u64 {
        (bytes / WORD).saturating_mul(size_of::<Word>() as u64)
    }

    /// Writes each word of a new ring, so that no page of it is touched for the first time later.
    ///
    /// # Safety
    /// Nobody else uses these bytes.
    pub(super) unsafe fn create(m: &Arc<Mapping>, offset: u64, bytes: u64) -> Result<Self, BadPtr> {
        for word in 0..bytes / WORD {
            let offset = offset + Self::mapped_bytes(word * WORD);
            // SAFETY: the caller's promise.
            unsafe { Mapped::place(m, offset, Word::new()) }?;
        }
        Self::attach(m, offset, bytes)
    }

    pub(super) fn attach(m: &Arc<Mapping>, offset: u64, bytes: u64) -> Result<Self, BadPtr> {
        Ok(Ring::of(MappedSlice::new(m, offset, bytes / WORD)?))
    }

    pub(super) fn of(words: MappedSlice<Word>) -> Self {
        Ring { words, level: PhantomData }
    }

    /// The same ring at another level.
    pub(super) fn at_level<U: Trust>(self) -> Ring<U> {
        Ring::of(self.words)
    }

    /// Whose bytes are whose, for a sanitizer.
    #[inline]
    pub(super) fn owned(&self) -> poison::Ring {
        poison::Ring::of(&self.words)
    }

    /// What gives its words back.
    pub(super) fn hand_back(&self) -> HandBack<T> {
        HandBack::new(&self.words)
    }

    #[inline]
    pub(super) fn bytes(&self) -> u64 {
        self.words.len() as u64 * WORD
    }

    /// The header word at `at`.
    ///
    /// # Safety
    /// The frame at `at` is published and not given back, and the caller is the receiver.
    #[inline]
    pub(super) unsafe fn header(&self, at: Place) -> u64 {
        // SAFETY: nobody writes a published frame.
        unsafe { T::get(&self.words[at.offset as usize / WORD_BYTES]) }
    }

    /// Writes the header word at `at`.
    ///
    /// # Safety
    /// The word at `at` has been given back and is not published again, and the caller is the
    /// sender.
    #[inline]
    pub(super) unsafe fn set_header(&self, at: Place, word: u64) {
        // SAFETY: nobody else looks at what has been given back.
        unsafe { T::set(&self.words[at.offset as usize / WORD_BYTES], word) }
    }

    /// Writes `from` from `at` on, around the end if need be.
    ///
    /// # Safety
    /// As [`set_header`](Ring::set_header), for all the bytes.
    #[inline]
    pub(super) unsafe fn write(&self, at: Place, from: &[u8]) {
        let to_end = (self.bytes() - at.offset) as usize;
        if from.len() <= to_end {
            // SAFETY: nobody else looks at what has been given back.
            return unsafe { T::copy_in(&self.words, at.offset as usize, from) };
        }
        let (end, start) = from.split_at(to_end);
        // SAFETY: as above.
        unsafe { T::copy_in(&self.words, at.offset as usize, end) };
        // SAFETY: as above.
        unsafe { T::copy_in(&self.words, 0, start) };
    }

    /// Appends the `len` bytes from `at` on to `to`, around the end if need be.
    ///
    /// # Safety
    /// As [`header`](Ring::header), for all the bytes.
    pub(super) unsafe fn append(&self, at: Place, len: usize, to: &mut Vec<u8>) {
        let to_end = ((self.bytes() - at.offset) as usize).min(len);
        for (offset, len) in [(at.offset as usize, to_end), (0, len - to_end)] {
            // SAFETY: nobody writes a published frame.
            unsafe { T::append(&self.words, offset, len, to) };
        }
    }

    /// Whether the `len` bytes from `at` on lie in one piece.
    #[inline]
    pub(super) fn is_contiguous(&self, at: Place, len: usize) -> bool {
        len as u64 <= self.bytes() - at.offset
    }

    /// The `len` bytes from `at` on, which lie in one piece.
    ///
    /// # Safety
    /// As [`header`](Ring::header), for all the bytes and for as long as the view lives; and
    /// `T::IN_PLACE`.
    #[inline]
    pub(super) unsafe fn view(&self, at: Place, len: usize) -> View<'_> {
        // SAFETY: nobody writes a published frame before it is given back.
        unsafe { View::new(&self.words, at.offset as usize, len) }
    }
}

/// A position, and where it is in the ring: kept together, so that nobody divides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Place {
    /// Runs freely.
    pub(super) position: u64,
    /// Less than the ring's size.
    offset: u64,
}

impl Place {
    /// The word it is in.
    #[inline]
    pub(super) fn word(self) -> usize {
        self.offset as usize / WORD_BYTES
    }

    /// The place `distance` bytes on: at most the ring's size, `ring`.
    #[inline]
    pub(super) fn plus(self, distance: u64, ring: u64) -> Place {
        debug_assert!(distance <= ring);
        let position = self.position.wrapping_add(distance);
        let offset = self.offset + distance;
        Place { position, offset: if offset >= ring { offset - ring } else { offset } }
    }
}

/// How far `ahead` is of `behind`, one of which another process says: between 0 and `ring` and a
/// multiple of 8, or nonsense.
#[inline]
pub(super) fn checked_distance(ahead: u64, behind: u64, ring: u64) -> Option<u64> {
    let distance = ahead.wrapping_sub(behind);
    (distance <= ring && distance.is_multiple_of(WORD)).then_some(distance)
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;
    use shm_core::trust::{Buggy, Crashing};

    #[test]
    fn the_offset_is_the_position_modulo_the_ring() {
        for ring in (8..80).step_by(8) {
            let mut place = Place::default();
            for step in (0..500).map(|i| i * 4 % (ring + 4)) {
                place = place.plus(step, ring);
                assert_eq!(place.offset, place.position % ring);
            }
        }
    }

    #[test]
    fn a_foreign_position_is_within_one_ring() {
        assert_eq!(checked_distance(64, 64, 16), Some(0));
        assert_eq!(checked_distance(80, 64, 16), Some(16));
        assert_eq!(checked_distance(88, 64, 16), None, "more than the ring");
        assert_eq!(checked_distance(60, 64, 16), None, "behind");
        assert_eq!(checked_distance(70, 64, 16), None, "in the middle of a word");
        assert_eq!(checked_distance(8, u64::MAX - 7, 16), Some(16), "positions may wrap");
    }

    #[test]
    fn bytes_go_around_the_end() {
        go_around::<Crashing>();
        go_around::<Buggy>();
    }

    fn go_around<T: Trust>() {
        let mapping = Mapping::heap(4096);
        // SAFETY: the mapping is this test's alone.
        let ring = unsafe { Ring::<T>::create(&mapping, 0, 24) }.unwrap();
        for offset in (0..24).step_by(4) {
            let at = Place::default().plus(offset, 24);
            let bytes: Vec<u8> = (1..=20).collect();
            let mut out = vec![0];
            // SAFETY: the ring is this test's alone.
            unsafe { ring.write(at, &bytes) };
            // SAFETY: as above.
            unsafe { ring.append(at, 20, &mut out) };
            assert_eq!(out[1..], bytes);
        }
    }
}
