//! An entry: the bytes of a key and of a value in a block, never written once it is published.
//!
//! ```text
//!   lengths, where one of them varies: key 32 bits | value 32 bits     key     value
//! ```
//!
//! Both begin at a word, and the last word of each is filled up with zeroes.
use super::HashError;
use super::ground::Ground;
use shm_core::sync::{AtomicU64, Ordering};

/// How long keys, or values, are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// All so many bytes.
    Fixed(u32),
    /// At most so many bytes, each as many as it has.
    UpTo(u32),
}

/// Keys and values have at most so many bytes.
pub const SIZE_MAX: u32 = 1 << 28;

const VARIES: u64 = 1 << 32;

impl Size {
    pub(crate) fn to_bits(self) -> u64 {
        match self {
            Size::Fixed(bytes) => u64::from(bytes),
            Size::UpTo(bytes) => VARIES | u64::from(bytes),
        }
    }

    pub(super) fn is_sane(self) -> bool {
        self.max() <= SIZE_MAX
    }

    #[inline(always)]
    pub(super) fn max(self) -> u32 {
        match self {
            Size::Fixed(bytes) | Size::UpTo(bytes) => bytes,
        }
    }

    #[inline(always)]
    fn varies(self) -> bool {
        matches!(self, Size::UpTo(_))
    }

    #[inline(always)]
    fn admits(self, len: u64) -> bool {
        match self {
            Size::Fixed(bytes) => len == u64::from(bytes),
            Size::UpTo(bytes) => len <= u64::from(bytes),
        }
    }
}

/// What the entries of a hash look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    pub(super) key: Size,
    pub(super) value: Size,
}

/// The words of one entry, which is protected or nobody else's.
#[derive(Clone, Copy)]
pub(super) struct Entry<'g> {
    key: &'g [AtomicU64],
    key_len: usize,
    value: &'g [AtomicU64],
    value_len: usize,
}

fn words_for(bytes: u64) -> u64 {
    bytes.div_ceil(8)
}

impl Shape {
    #[inline(always)]
    fn head_words(&self) -> u64 {
        u64::from(self.key.varies() || self.value.varies())
    }

    #[inline(always)]
    pub(super) fn check_key(&self, key: &[u8]) -> Result<(), HashError> {
        let admits = self.key.admits(key.len() as u64);
        if admits { Ok(()) } else { Err(HashError::KeyLength { len: key.len(), size: self.key }) }
    }

    pub(super) fn check_value(&self, value: &[u8]) -> Result<(), HashError> {
        let (len, size) = (value.len(), self.value);
        if size.admits(len as u64) { Ok(()) } else { Err(HashError::ValueLength { len, size }) }
    }

    /// Words of an entry of this key and this value.
    fn words(&self, key: &[u8], value: &[u8]) -> u64 {
        let (key, value) = (words_for(key.len() as u64), words_for(value.len() as u64));
        // A block has at least a word.
        (self.head_words() + key + value).max(1)
    }

    /// Writes an entry into a block of its own, which `fresh` names from then on.
    pub(super) fn make<G: Ground>(
        &self,
        ground: &G,
        fresh: &AtomicU64,
        key: &[u8],
        value: &[u8],
    ) -> Result<u64, HashError> {
        let count = self.words(key, value);
        let block = ground.take(count, false, fresh)?;
        let words = ground.words(block, 0, count)?;
        let (head, rest) = words.split_at(self.head_words() as usize);
        if let Some(head) = head.first() {
            // What leads to the entry is written later, with Release.
            head.store(key.len() as u64 | (value.len() as u64) << 32, Ordering::Relaxed);
        }
        let (keys, values) = rest.split_at(words_for(key.len() as u64) as usize);
        copy_in(keys, key);
        copy_in(values, value);
        Ok(block)
    }

    /// The entry in `block`, as its writer said.
    #[inline(always)]
    pub(super) fn entry<'g, G: Ground>(
        &self,
        ground: &'g G,
        block: u64,
    ) -> Result<Entry<'g>, HashError> {
        let (mut key_len, mut value_len) = (u64::from(self.key.max()), u64::from(self.value.max()));
        let head = self.head_words();
        if head != 0 {
            // Ordered by the word that led here.
            let lens = ground.words(block, 0, head)?[0].load(Ordering::Relaxed);
            (key_len, value_len) = (lens & u64::from(u32::MAX), lens >> 32);
            if !self.key.admits(key_len) || !self.value.admits(value_len) {
                return Err(HashError::corrupt("an entry's lengths", lens));
            }
        }
        let (keys, values) = (words_for(key_len), words_for(value_len));
        let words = ground.words(block, head, keys + values)?;
        let (key, value) = words.split_at(keys as usize);
        Ok(Entry { key, key_len: key_len as usize, value, value_len: value_len as usize })
    }
}

impl Entry<'_> {
    #[inline(always)]
    pub(super) fn has_key(&self, key: &[u8]) -> bool {
        self.key_len == key.len() && is_equal(self.key, key)
    }

    pub(super) fn has_value(&self, value: &[u8]) -> bool {
        self.value_len == value.len() && is_equal(self.value, value)
    }

    pub(super) fn key(&self) -> Vec<u8> {
        to_vec(self.key, self.key_len)
    }

    pub(super) fn value(&self) -> Vec<u8> {
        to_vec(self.value, self.value_len)
    }

    /// Whether it is the same one, at the same place.
    pub(super) fn is_at(&self, other: &Entry<'_>) -> bool {
        std::ptr::eq(self.key.as_ptr(), other.key.as_ptr())
    }

    #[inline(always)]
    pub(super) fn value_len(&self) -> usize {
        self.value_len
    }

    /// The value's first bytes, as many as `out` has room for and there are.
    #[inline(always)]
    pub(super) fn copy_value(&self, out: &mut [u8]) {
        let len = out.len().min(self.value_len);
        copy_out(self.value, &mut out[..len]);
    }

    /// Calls `with` with the key, in private memory.
    pub(super) fn with_key<R>(&self, with: impl FnOnce(&[u8]) -> R) -> R {
        let mut short = [0; 64];
        match short.get_mut(..self.key_len) {
            Some(key) => {
                copy_out(self.key, key);
                with(key)
            }
            None => with(&self.key()),
        }
    }
}

/// The word that holds up to eight bytes.
#[inline(always)]
fn word_of(bytes: &[u8]) -> u64 {
    match bytes.try_into() {
        Ok(whole) => u64::from_le_bytes(whole),
        Err(_) => {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        }
    }
}

// The bytes move by relaxed words, so that a peer that writes what is not its own makes nonsense,
// and no data race.
#[inline(always)]
fn is_equal(words: &[AtomicU64], bytes: &[u8]) -> bool {
    // The common case stands apart, so that it is one comparison.
    if let ([word], Ok(whole)) = (words, <[u8; 8]>::try_from(bytes)) {
        return word.load(Ordering::Relaxed) == u64::from_le_bytes(whole);
    }
    let pairs = words.iter().zip(bytes.chunks(8));
    pairs.fold(true, |same, (word, part)| same & (word.load(Ordering::Relaxed) == word_of(part)))
}

fn copy_in(words: &[AtomicU64], bytes: &[u8]) {
    for (word, part) in words.iter().zip(bytes.chunks(8)) {
        word.store(word_of(part), Ordering::Relaxed);
    }
}

#[inline(always)]
fn copy_out(words: &[AtomicU64], out: &mut [u8]) {
    if let ([word], Ok(whole)) = (words, <&mut [u8; 8]>::try_from(&mut *out)) {
        *whole = word.load(Ordering::Relaxed).to_le_bytes();
        return;
    }
    for (word, part) in words.iter().zip(out.chunks_mut(8)) {
        let bytes = word.load(Ordering::Relaxed).to_le_bytes();
        part.copy_from_slice(&bytes[..part.len()]);
    }
}

fn to_vec(words: &[AtomicU64], len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    copy_out(words, &mut out);
    out
}
