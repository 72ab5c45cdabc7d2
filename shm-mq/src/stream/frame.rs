//! What lies in the ring: frames, each one fragment of a message.
//!
//! A frame is one header word, then the fragment's bytes, padded to whole words. A fragment of up
//! to 4 bytes lies in the header word itself, so a frame of 8 bytes carries something: that is
//! what makes the smallest ring, of one word, work.
//!
//! ```text
//!   bit 31    30     29 .. 0      bytes 4..8        bytes 8..
//!  +-------+------+-------------+-----------------+-------------------------+
//!  | FIRST | LAST | length      | the bytes, if   | the bytes, if more      |
//!  |       |      | of fragment | 4 or fewer      | than 4, padded to 8     |
//!  +-------+------+-------------+-----------------+-------------------------+
//! ```
use super::ring::WORD;

/// The longest message: 1 GiB - 1.
pub const MESSAGE_BYTES_MAX: usize = LENGTH as usize;

const FIRST: u32 = 1 << 31;
const LAST: u32 = 1 << 30;
const LENGTH: u32 = LAST - 1;
/// A fragment of so many bytes lies in the header word.
const INLINE_BYTES_MAX: usize = 4;

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header(u32);

impl Header {
    /// Of a fragment of `len` bytes, which begins a message, ends it, or both.
    #[inline]
    pub(super) fn new(len: usize, first: bool, last: bool) -> Header {
        debug_assert!(len <= MESSAGE_BYTES_MAX);
        let first = if first { FIRST } else { 0 };
        let last = if last { LAST } else { 0 };
        Header(len as u32 | first | last)
    }

    /// Out of the header word: its first four bytes, in little-endian order.
    #[inline]
    pub(super) fn from_word(word: u64) -> Header {
        Header(u64::from_le(word) as u32)
    }

    /// The header word, its upper half still empty.
    #[inline]
    pub(super) fn to_word(self) -> u64 {
        u64::from(self.0).to_le()
    }

    /// Bytes of the fragment.
    #[inline]
    pub(super) fn len(self) -> usize {
        (self.0 & LENGTH) as usize
    }

    /// It begins a message; one that was begun before and not ended is abandoned.
    #[inline]
    pub(super) fn is_first(self) -> bool {
        self.0 & FIRST != 0
    }

    /// It ends its message.
    #[inline]
    pub(super) fn is_last(self) -> bool {
        self.0 & LAST != 0
    }
}

/// Bytes of ring that a fragment of `len` bytes takes: 8, or 8 more than `len` rounded up to 8.
///
/// So many bytes [`Sender::free_space`](super::Sender::free_space) must show for
/// [`Sender::try_send`](super::Sender::try_send) to take a message of `len` bytes.
#[inline]
pub const fn frame_bytes(len: usize) -> u64 {
    if len <= INLINE_BYTES_MAX { WORD } else { WORD + (len as u64).next_multiple_of(WORD) }
}

/// The longest fragment whose frame takes at most `space` bytes: a multiple of 8, not 0.
#[inline]
pub(super) const fn fragment_bytes_max(space: u64) -> usize {
    if space <= WORD { INLINE_BYTES_MAX } else { (space - WORD) as usize }
}

/// How far behind the header's first byte a fragment of `len` bytes begins.
#[inline]
pub(super) const fn payload_distance(len: usize) -> u64 {
    if len <= INLINE_BYTES_MAX { 4 } else { WORD }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn the_longest_message_is_postgres_one() {
        assert_eq!(MESSAGE_BYTES_MAX, (1 << 30) - 1);
        let header = Header::new(MESSAGE_BYTES_MAX, false, false);
        assert_eq!(
            (header.len(), header.is_first(), header.is_last()),
            (0x3fff_ffff, false, false)
        );
    }

    #[test]
    fn a_header_keeps_what_it_was_made_of() {
        for (first, last) in [(false, false), (false, true), (true, false), (true, true)] {
            let header = Header::from_word(Header::new(77, first, last).to_word());
            assert_eq!((header.len(), header.is_first(), header.is_last()), (77, first, last));
        }
    }

    #[test]
    fn a_frame_costs_no_more_than_postgres_one() {
        let postgres = |len: u64| 8 + len.next_multiple_of(8);
        for len in 0..5 {
            assert_eq!(frame_bytes(len), 8);
        }
        for len in 5..100 {
            assert_eq!(frame_bytes(len), postgres(len as u64));
        }
    }

    #[test]
    fn the_longest_fragment_fits_and_the_next_longer_does_not() {
        for space in (8..200).step_by(8) {
            let len = fragment_bytes_max(space);
            assert!(frame_bytes(len) <= space, "{len} bytes in {space}");
            assert!(frame_bytes(len + 1) > space, "{} bytes in {space}", len + 1);
        }
    }
}
