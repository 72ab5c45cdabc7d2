//! The records of one thread, in the order in which they were made.
//!
//! ```text
//!   | LSN u64 | length u32 | checksum u32 | what it says …, and zeroes up to 8 bytes |
//! ```
//!
//! This is a record as it stands in the log's file, too. Its length is that of all of it but for
//! the zeroes; a length with the highest bit set is of a record that says nothing. The checksum is
//! of what it says, of the log's number, its LSN and its length.
use super::Lsn;
use shm_core::bytes::{WORD_BYTES, Word};
#[cfg(not(shm_loom))]
use shm_core::trust::Buggy as Level;
#[cfg(shm_loom)]
use shm_core::trust::Crashing as Level;
use shm_core::trust::Trust;

/// So many bytes of a record come before what it says.
pub const HEADER: usize = 16;
/// Set in the length of a record that says nothing.
const VOID: u32 = 1 << 31;

/// A lane's bytes. Offsets in it count on for ever; the bytes are used again.
#[derive(Clone, Copy)]
pub(super) struct Lane<'t> {
    pub(super) words: &'t [Word],
}

/// What a record says of itself before the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) lsn: Lsn,
    pub(super) length: u32,
    pub(super) checksum: u32,
}

impl Header {
    /// Of a record that says `said` bytes, whose sum is `sum`, in the log of this number.
    pub(super) fn new(log: u64, lsn: Lsn, said: usize, sum: u32) -> Header {
        let length = (HEADER + said) as u32;
        Header { lsn, length, checksum: seal(sum, log, lsn, length) }
    }

    fn to_words(self) -> [u64; 2] {
        [self.lsn.0.to_le(), (u64::from(self.checksum) << 32 | u64::from(self.length)).to_le()]
    }

    fn from_words(words: [u64; 2]) -> Header {
        let [lsn, rest] = words.map(u64::from_le);
        Header { lsn: Lsn(lsn), length: rest as u32, checksum: (rest >> 32) as u32 }
    }

    /// How many bytes it takes; `None` where that is nonsense.
    fn space(self) -> Option<u64> {
        let length = self.length & !VOID;
        (length as usize >= HEADER).then(|| space_for(length))
    }
}

/// Bytes that a record of this length takes.
pub(super) fn space_for(length: u32) -> u64 {
    u64::from(length).next_multiple_of(WORD_BYTES as u64)
}

/// What the record in `bytes`, which begins at `lsn` of the log, says, and how many bytes it takes;
/// `None` where there is no such record.
pub fn parse(log: u64, lsn: Lsn, bytes: &[u8]) -> Option<(Said<'_>, u64)> {
    let (words, _) = bytes.first_chunk::<HEADER>()?.as_chunks::<WORD_BYTES>();
    let header = Header::from_words([u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1])]);
    let space = header.space().filter(|_| header.lsn == lsn)?;
    let said = bytes.get(HEADER..(header.length & !VOID) as usize)?;
    let is_whole = seal(sum(0, said), log, lsn, header.length) == header.checksum;
    let said = if header.length & VOID == 0 { Said::Something(said) } else { Said::Nothing };
    is_whole.then_some((said, space))
}

/// How long the record in `bytes` says that it is, before anybody has looked whether it is one:
/// so many bytes [`parse`] wants. `None` where there are less than [`HEADER`].
pub fn length_of(bytes: &[u8]) -> Option<usize> {
    let length = bytes.first_chunk::<HEADER>()?.as_chunks::<4>().0[2];
    Some((u32::from_le_bytes(length) & !VOID) as usize)
}

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said<'b> {
    /// This.
    Something(&'b [u8]),
    /// It stands where one was damaged before it came into the file.
    Nothing,
}

/// Appends a record that says nothing and takes `space` bytes.
pub(super) fn append_void(log: u64, lsn: Lsn, space: u64, out: &mut Vec<u8>) {
    let said = vec![0; space as usize - HEADER];
    let length = space as u32 | VOID;
    let header = Header { lsn, length, checksum: seal(sum(0, &said), log, lsn, length) };
    header.to_words().iter().for_each(|word| out.extend(word.to_ne_bytes()));
    out.extend(said);
}

/// Adds `bytes` to a sum.
#[cfg(not(any(shm_loom, shm_explore)))]
pub(super) fn sum(sum: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(sum, bytes)
}

/// Adds `bytes` to a sum. In a model nothing is damaged but by a fault in the protocol.
#[cfg(any(shm_loom, shm_explore))]
pub(super) fn sum(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)))
}

/// The checksum of a record whose words have the sum `said`.
fn seal(said: u32, log: u64, lsn: Lsn, length: u32) -> u32 {
    let rest = [log, lsn.0, u64::from(length)];
    rest.iter().fold(said, |all, word| sum(all, &word.to_le_bytes()))
}

impl<'t> Lane<'t> {
    pub(super) fn bytes(self) -> u64 {
        (self.words.len() * WORD_BYTES) as u64
    }

    fn word(self, at: u64) -> &'t Word {
        &self.words[at as usize / WORD_BYTES % self.words.len()]
    }

    /// Copies `bytes` to `at`, by the lane's own thread, where there is room.
    pub(super) fn copy_in(self, at: u64, bytes: &[u8]) {
        let at = (at % self.bytes()) as usize;
        let (one, other) = bytes.split_at(bytes.len().min(self.words.len() * WORD_BYTES - at));
        // SAFETY: there is nothing to promise; in a model nobody looks at these bytes: the cursor
        // has passed them.
        unsafe { Level::copy_in(self.words, at, one) };
        // SAFETY: as above.
        unsafe { Level::copy_in(self.words, 0, other) };
    }

    /// Puts a record's header at `at`, as above.
    pub(super) fn put(self, at: u64, header: Header) {
        for (index, word) in (0..).zip(header.to_words()) {
            // SAFETY: as above.
            unsafe { Level::set(self.word(at + index * WORD_BYTES as u64), word) };
        }
    }

    /// The header at `at`, of a record that has taken its slot.
    fn header(self, at: u64) -> Header {
        // SAFETY: there is nothing to promise; in a model its thread writes none of it before the
        // cursor has passed it.
        let word = |at| unsafe { Level::get(self.word(at)) };
        // Wrapping: of a liar `at` may be any.
        Header::from_words([word(at), word(at.wrapping_add(WORD_BYTES as u64))])
    }

    /// Appends the record that begins at `lsn` of the log and takes `space` bytes there, to be
    /// found at `from` or behind it: where it ends in the lane; `None` where it is not there, or
    /// damaged.
    pub(super) fn append(
        self,
        log: u64,
        lsn: Lsn,
        space: u64,
        from: u64,
        out: &mut Vec<u8>,
    ) -> Option<u64> {
        let mut at = from;
        loop {
            let header = self.header(at);
            let its = header.space()?;
            // Each step is forward, and a lane has not so many records.
            let end = at.checked_add(its).filter(|end| end - from <= self.bytes())?;
            if header.lsn == lsn && its == space {
                let before = out.len();
                self.append_bytes(at, space as usize, out);
                // Its length may be another one meanwhile, if somebody writes there.
                if parse(log, lsn, &out[before..]).is_some_and(|(_, whole)| whole == space) {
                    return Some(end);
                }
                out.truncate(before);
                return None;
            }
            // Who wrote that one out died before it said so in the row.
            if header.lsn >= lsn {
                return None;
            }
            at = end;
        }
    }

    fn append_bytes(self, at: u64, len: usize, out: &mut Vec<u8>) {
        let at = (at % self.bytes()) as usize;
        let first = len.min(self.words.len() * WORD_BYTES - at);
        // SAFETY: as in `header`.
        unsafe { Level::append(self.words, at, first, out) };
        // SAFETY: as in `header`.
        unsafe { Level::append(self.words, 0, len - first, out) };
    }
}
