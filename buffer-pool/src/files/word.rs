//! The words' values: which file, how long it is, and where its entries are.
use crate::frames::PageId;
use std::ops::Range;

/// There are at most so many rows.
pub const FILES_MAX: u32 = 1 << ROW_BITS;

const ROW_BITS: u32 = 12;
const GENERATION_BITS: u32 = 32 - ROW_BITS;
const GENERATION_MAX: u32 = (1 << GENERATION_BITS) - 1;

/// A range of entries begins at a multiple of so many: no two files have a cache line in common.
/// One in models, which have no cache lines.
pub(super) const LINE: u64 = if cfg!(any(shm_loom, shm_explore)) { 1 } else { 8 };

/// The number of a file, as [`PageId::file`] says it: row 12 bits | which file of the row 20 bits.
///
/// It is one file's for as long as that is registered, and nobody's once it was dropped, until the
/// row has had 2^20 others. Who may have kept a number for so long looks for the file anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileNumber(u32);

impl FileNumber {
    pub(super) fn new(row: usize, generation: u32) -> FileNumber {
        FileNumber((row as u32) << GENERATION_BITS | generation)
    }

    /// The file that a page is of.
    pub fn of(page: PageId) -> FileNumber {
        FileNumber(page.file())
    }

    /// Reads a word that may be anybody's.
    pub fn from_bits(bits: u32) -> FileNumber {
        FileNumber(bits)
    }

    /// As one word.
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// A page of this file; `None` for a block that no file has.
    pub fn page(self, block: u32) -> Option<PageId> {
        PageId::new(self.0, block)
    }

    pub(super) fn row(self) -> usize {
        (self.0 >> GENERATION_BITS) as usize
    }

    fn generation(self) -> u32 {
        self.0 & GENERATION_MAX
    }
}

/// How long a file is, and what is done to it:
///
/// ```text
///  63  54 53   52 51        32 31      0
///  | cuts | state | generation | blocks |
/// ```
///
/// Cuts are counted so that a length that comes back is told from one that stayed; where 1024 of
/// them go by while somebody [extends](super::Files::extend) the file, that one is not told.
///
/// All zero: a row that nobody has used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent(u64);

/// Where a file ends: what it is [extended](super::Files::extend) from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// How many blocks it has.
    pub blocks: u32,
    /// How often it was cut off: a number from 0 to 1023, and then 0 again.
    pub cuts: u32,
}

/// What an [`Extent`] says of its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Nobody's: the generation is the next file's.
    Free = 0,
    File = 1,
    /// A file that is this short already, and whose pages behind that are evicted.
    Shrinking = 2,
    /// No file any more; its pages are evicted.
    Dropping = 3,
}

impl Extent {
    const FILE: u32 = (State::File as u32) << GENERATION_BITS;
    const SHRINKING: u32 = (State::Shrinking as u32) << GENERATION_BITS;
    const DROPPING: u32 = (State::Dropping as u32) << GENERATION_BITS;

    /// The row's next file, of so many blocks.
    pub(super) fn file(generation: u32, blocks: u32) -> Extent {
        Extent::new(State::File, generation, End { blocks, cuts: 0 })
    }

    fn new(state: State, generation: u32, end: End) -> Extent {
        let generation = u64::from(generation & GENERATION_MAX);
        let upper = u64::from(end.cuts) << 54 | (state as u64) << 52;
        Extent(upper | generation << 32 | u64::from(end.blocks))
    }

    pub(super) const fn from_bits(bits: u64) -> Extent {
        Extent(bits)
    }

    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) fn state(self) -> State {
        match self.0 >> 52 & 0b11 {
            0 => State::Free,
            1 => State::File,
            2 => State::Shrinking,
            _ => State::Dropping,
        }
    }

    pub(super) fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & GENERATION_MAX
    }

    #[inline]
    pub(super) fn blocks(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn end(self) -> End {
        End { blocks: self.blocks(), cuts: (self.0 >> 54) as u32 }
    }

    /// Whether users have it.
    pub(super) fn is_file(self) -> bool {
        matches!(self.state(), State::File | State::Shrinking)
    }

    /// Whether the row is that file's.
    #[inline]
    pub(super) fn is_of(self, number: FileNumber) -> bool {
        matches!(self.state_of(number), Self::FILE | Self::SHRINKING | Self::DROPPING)
    }

    /// Whether the row is that file's, and users have it.
    #[inline]
    pub(super) fn is_file_of(self, number: FileNumber) -> bool {
        matches!(self.state_of(number), Self::FILE | Self::SHRINKING)
    }

    /// Its state, as `FILE` and the others have it, where the row is that file's; else none of
    /// them.
    #[inline]
    fn state_of(self, number: FileNumber) -> u32 {
        ((self.0 >> 32) as u32 ^ number.generation()) & ((1 << 22) - 1)
    }

    /// The same file, as nobody cuts it off, with that end.
    pub(super) fn ends_at(self, end: End) -> Extent {
        Extent::new(State::File, self.generation(), end)
    }

    /// The same file, as it is cut off there.
    pub(super) fn cutting(self, state: State, blocks: u32) -> Extent {
        Extent::new(state, self.generation(), End { blocks, ..self.end() })
    }

    /// The file once it was cut off.
    pub(super) fn cut(self) -> Extent {
        let end = self.end();
        self.ends_at(End { cuts: end.cuts + 1, ..end })
    }

    /// The row once the file is gone.
    pub(super) fn freed(self) -> Extent {
        Extent::new(State::Free, self.generation() + 1, End { blocks: 0, cuts: 0 })
    }
}

/// Where the entries of a file are: first line in bits 32–63, how many entries in bits 0–31.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span(u64);

impl Span {
    pub(super) fn new(first_line: u32, blocks_max: u32) -> Span {
        Span(u64::from(first_line) << 32 | u64::from(blocks_max))
    }

    pub(super) const fn from_bits(bits: u64) -> Span {
        Span(bits)
    }

    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) fn blocks_max(self) -> u32 {
        self.0 as u32
    }

    /// Its lines.
    pub(super) fn lines(self) -> Range<u64> {
        let first = self.0 >> 32;
        first..first + u64::from(self.blocks_max()).div_ceil(LINE)
    }

    /// Its entries.
    pub(super) fn entries(self) -> Range<u64> {
        let first = (self.0 >> 32) * LINE;
        first..first + u64::from(self.blocks_max())
    }

    /// Which entry is that of a block; `None` for a block that the file never has.
    #[inline]
    pub(super) fn entry_of(self, block: u32) -> Option<u64> {
        (block < self.blocks_max()).then_some((self.0 >> 32) * LINE + u64::from(block))
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_row_and_a_generation() {
        let number = FileNumber::new(4095, GENERATION_MAX);
        assert_eq!((number.row(), number.generation()), (4095, GENERATION_MAX));
        assert_eq!(FileNumber::from_bits(number.to_bits()), number);
        assert_eq!(FileNumber::of(number.page(7).unwrap()), number);
        assert_eq!(FileNumber::new(1, 0).to_bits(), 1 << 20);
    }

    #[test]
    fn an_extent_says_what_was_written() {
        let end = End { blocks: u32::MAX, cuts: 1023 };
        for state in [State::Free, State::File, State::Shrinking, State::Dropping] {
            let extent = Extent::new(state, GENERATION_MAX, end);
            assert_eq!((extent.state(), extent.end()), (state, end));
            assert_eq!(extent.generation(), GENERATION_MAX);
        }
        assert_eq!(Extent::from_bits(0).state(), State::Free);
    }

    #[test]
    fn a_cut_is_counted() {
        let shrinking = Extent::file(5, 7).cutting(State::Shrinking, 7);
        assert_eq!(shrinking.end(), Extent::file(5, 7).end());
        assert_eq!(shrinking.cut().end(), End { blocks: 7, cuts: 1 });
        let last = shrinking.ends_at(End { blocks: 7, cuts: 1023 });
        assert_eq!(last.cut(), Extent::file(5, 7), "they come round");
    }

    #[test]
    fn a_row_that_was_freed_is_no_longer_the_files() {
        let number = FileNumber::new(3, GENERATION_MAX);
        let file = Extent::file(GENERATION_MAX, 7);
        assert!(file.is_of(number) && file.is_file_of(number));
        let dropping = file.cutting(State::Dropping, 0);
        assert!(dropping.is_of(number) && !dropping.is_file_of(number));
        assert!(!file.freed().is_of(number));
        assert_eq!(file.freed(), Extent::from_bits(0), "generations come round");
        assert!(!Extent::file(0, 7).is_of(number));
    }

    #[test]
    fn a_span_has_whole_lines() {
        let span = Span::new(2, 9);
        assert_eq!((span.lines(), span.entries()), (2..4, 16..25));
        assert_eq!((span.entry_of(8), span.entry_of(9)), (Some(24), None));
        assert_eq!(Span::from_bits(span.to_bits()).blocks_max(), 9);
    }
}
