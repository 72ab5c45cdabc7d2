//! Copies for bytes that a peer may be writing: each word moves as one `Relaxed` access.
//!
//! So a peer that writes at the same time is no data race: it makes nonsense of what is copied,
//! and no more. Nothing is looked at twice, and the copy is private, so that what was checked in
//! it stays checked. Both ends of a structure have to move its words like this or both by plain
//! copies: in a model the two kinds are different memory.
use super::{WORD_BYTES, Word};

/// Where a run of bytes begins: its first word, and the first byte in that word.
fn begin(words: &[Word], at: usize, len: usize) -> (usize, usize) {
    let end = words.len() * WORD_BYTES;
    assert!(at <= end && len <= end - at, "bytes outside the words");
    (at / WORD_BYTES, at % WORD_BYTES)
}

/// Copies `bytes` into `words`, at byte `at`.
///
/// A word that is only partly overwritten is loaded and stored: who copies in is the only honest
/// writer of these words.
///
/// ```
/// use shm_core::bytes::{Word, relaxed};
/// let words = [Word::new(), Word::new()];
/// relaxed::copy_in(&words, 3, b"around the");
/// let mut out = [0; 10];
/// relaxed::copy_out(&words, 3, &mut out);
/// assert_eq!(&out, b"around the");
/// ```
///
/// # Panics
/// Where they do not lie inside `words`.
#[inline]
pub fn copy_in(words: &[Word], at: usize, bytes: &[u8]) {
    let (mut index, from) = begin(words, at, bytes.len());
    let mut rest = bytes;
    if from > 0 && !bytes.is_empty() {
        let (head, behind) = bytes.split_at((WORD_BYTES - from).min(bytes.len()));
        merge(&words[index], from, head);
        (rest, index) = (behind, index + 1);
    }
    let (eights, tail) = rest.as_chunks::<WORD_BYTES>();
    for (word, eight) in words[index..].iter().zip(eights) {
        word.store(u64::from_ne_bytes(*eight));
    }
    if !tail.is_empty() {
        merge(&words[index + eights.len()], 0, tail);
    }
}

/// Overwrites a part of a word.
#[inline]
fn merge(word: &Word, from: usize, bytes: &[u8]) {
    let mut eight = word.load().to_ne_bytes();
    eight[from..from + bytes.len()].copy_from_slice(bytes);
    word.store(u64::from_ne_bytes(eight));
}

/// Copies `out.len()` bytes from byte `at` of `words`.
///
/// # Panics
/// Where they do not lie inside `words`.
#[inline]
pub fn copy_out(words: &[Word], at: usize, out: &mut [u8]) {
    let (mut index, from) = begin(words, at, out.len());
    let mut rest = out;
    if from > 0 && !rest.is_empty() {
        let len = (WORD_BYTES - from).min(rest.len());
        let (head, behind) = rest.split_at_mut(len);
        head.copy_from_slice(&words[index].load().to_ne_bytes()[from..from + len]);
        (rest, index) = (behind, index + 1);
    }
    let (eights, tail) = rest.as_chunks_mut::<WORD_BYTES>();
    for (word, eight) in words[index..].iter().zip(eights.iter_mut()) {
        *eight = word.load().to_ne_bytes();
    }
    if !tail.is_empty() {
        let last = words[index + eights.len()].load().to_ne_bytes();
        tail.copy_from_slice(&last[..tail.len()]);
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_in_at_any_offset_comes_out_again_and_touches_nothing_beside() {
        for at in 0..32 {
            for len in 0..=32 - at {
                let words: Vec<Word> = (0..4).map(|_| Word::new()).collect();
                let mut model = [0xAA; 32];
                copy_in(&words, 0, &model);
                let bytes: Vec<u8> = (0..len).map(|i| (at * 37 + i) as u8).collect();
                copy_in(&words, at, &bytes);
                model[at..at + len].copy_from_slice(&bytes);
                let (mut all, mut part) = ([0; 32], vec![0; len]);
                copy_out(&words, 0, &mut all);
                copy_out(&words, at, &mut part);
                assert_eq!((all, part), (model, bytes));
            }
        }
    }

    #[test]
    fn they_lie_in_memory_as_plain_copies_put_them() {
        let words = [Word::new(), Word::new()];
        copy_in(&words, 5, b"in order");
        let mut out = [0; 8];
        // SAFETY: the words are this test's alone.
        unsafe { super::super::copy_out(&words, 5, &mut out) };
        assert_eq!(&out, b"in order");
    }

    #[test]
    #[should_panic(expected = "outside the words")]
    fn a_copy_past_the_end_panics() {
        copy_in(&[Word::new()], 4, &[0; 5]);
    }
}
