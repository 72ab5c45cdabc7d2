//! `Name`: what things are found by.
use std::fmt;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// A byte for the length, and the name.
pub(super) const NAME_WORDS: usize = (NAME_BYTES_MAX + 1) / 8;

/// Why a text is no name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// It has no bytes.
    #[error("a name has at least one byte")]
    Empty,
    /// It has more bytes than fit.
    #[error("a name has at most {NAME_BYTES_MAX} bytes, not {0}")]
    TooLong(usize),
}

/// A name of 1 to [`NAME_BYTES_MAX`] bytes of UTF-8.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// Length, bytes, zeroes.
    bytes: [u8; NAME_BYTES_MAX + 1],
}

impl Name {
    /// The name `text`.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn new(text: &str) -> Result<Name, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        let mut bytes = [0; NAME_BYTES_MAX + 1];
        let room = bytes.get_mut(1..=text.len()).ok_or(NameError::TooLong(text.len()))?;
        room.copy_from_slice(text.as_bytes());
        bytes[0] = text.len() as u8;
        Ok(Name { bytes })
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        let text = self.bytes.get(1..=usize::from(self.bytes[0])).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }

    /// As many words as it takes: the first has its length in it.
    pub(super) fn words(&self) -> impl Iterator<Item = u64> + '_ {
        let count = usize::from(self.bytes[0]) / 8 + 1;
        let words = self.bytes.chunks_exact(8).take(count);
        words.map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
    }

    /// Reads what may be anybody's; `None` where it is no name.
    pub(super) fn from_words(word: impl Fn(usize) -> u64) -> Option<Name> {
        let mut bytes = [0; NAME_BYTES_MAX + 1];
        bytes[..8].copy_from_slice(&word(0).to_le_bytes());
        let length = usize::from(bytes[0]);
        for index in 1..=(length / 8).min(NAME_WORDS - 1) {
            bytes[index * 8..][..8].copy_from_slice(&word(index).to_le_bytes());
        }
        let text = bytes.get(1..=length)?;
        Name::new(std::str::from_utf8(text).ok()?).ok()
    }

    /// Where to begin to look for it.
    pub(super) fn hash(&self) -> u64 {
        shm_core::layout::fnv1a(self.as_str().as_bytes())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_63_bytes() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new(&"é".repeat(32)), Err(NameError::TooLong(64)));
        for text in ["a", "1234567", "12345678", "täglich", &"x".repeat(63)] {
            let name = Name::new(text).unwrap();
            let words: Vec<u64> = name.words().collect();
            assert_eq!(words.len(), text.len() / 8 + 1);
            let word = |index: usize| words.get(index).copied().unwrap_or(u64::MAX);
            assert_eq!(Name::from_words(word), Some(name), "only its own words are looked at");
            assert_eq!((name.as_str(), name.to_string()), (text, text.to_owned()));
        }
    }

    #[test]
    fn nonsense_is_no_name() {
        for words in [[0; 8], [u64::MAX; 8], [64; 8], [0xff01; 8]] {
            assert_eq!(Name::from_words(|index| words[index]), None);
        }
    }
}
