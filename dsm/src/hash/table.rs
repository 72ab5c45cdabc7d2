//! A table: lines of cells, in pieces that are made when they are first needed.
//!
//! ```text
//!   head | directory: a word a piece | done: a bit a chunk        piece: lines of cells
//! ```
//!
//! The home line of a key is named by the highest bits of its hash; from there lines are looked at
//! one after the other, and cells in their order, to the first that is empty. A cell that is not
//! empty never becomes empty again, so no key stands behind its first empty cell.
use super::HashError;
use super::ground::Ground;
use super::shared::{TABLE_WORDS, TableHead};
use super::word::Word;
use shm_core::sync::{AtomicU64, Ordering};

/// Cells in a line: a cache line of them.
#[cfg(not(any(shm_loom, shm_explore)))]
pub(super) const LINE: usize = 8;
/// Few, in models.
#[cfg(any(shm_loom, shm_explore))]
pub(super) const LINE: usize = 2;

/// Lines in a piece, unless the table is smaller: 256 KiB.
#[cfg(not(any(shm_loom, shm_explore)))]
const PIECE_LOG2: u32 = 12;
#[cfg(any(shm_loom, shm_explore))]
const PIECE_LOG2: u32 = 0;

/// Lines that one operation moves, besides those it needs itself.
#[cfg(not(any(shm_loom, shm_explore)))]
pub(super) const CHUNK_LINES: u64 = 8;
#[cfg(any(shm_loom, shm_explore))]
pub(super) const CHUNK_LINES: u64 = 1;

/// The largest table has 2^24 lines.
pub(super) const LINES_LOG2_MAX: u32 = 24;

const SHAPE: u64 = u64::from_le_bytes(*b"shmktab\0");

/// A table that this thread has protected, or that nobody else knows.
#[derive(Clone, Copy)]
pub(super) struct Table<'g> {
    pub(super) block: u64,
    pub(super) head: &'g TableHead,
    pub(super) lines_log2: u32,
    directory: &'g [AtomicU64],
}

/// Words of the head block of a table of 2^`lines_log2` lines.
pub(super) fn head_words(lines_log2: u32) -> u64 {
    TABLE_WORDS + pieces_of(lines_log2) + done_words(lines_log2)
}

#[inline(always)]
fn pieces_of(lines_log2: u32) -> u64 {
    1 << lines_log2.saturating_sub(PIECE_LOG2)
}

fn done_words(lines_log2: u32) -> u64 {
    chunks_of(lines_log2).div_ceil(64)
}

fn chunks_of(lines_log2: u32) -> u64 {
    (1u64 << lines_log2).div_ceil(CHUNK_LINES)
}

impl<'g> Table<'g> {
    /// Says of a fresh, zeroed block of [`head_words`] that it is a table.
    pub(super) fn make<G: Ground>(
        ground: &'g G,
        block: u64,
        lines_log2: u32,
    ) -> Result<(), HashError> {
        let head: &TableHead = ground.share(block, 0)?;
        // What leads to the table is written later, with Release.
        head.shape.store(SHAPE | u64::from(lines_log2) << 56, Ordering::Relaxed);
        Ok(())
    }

    #[inline(always)]
    pub(super) fn open<G: Ground>(ground: &'g G, block: u64) -> Result<Table<'g>, HashError> {
        let head: &TableHead = ground.share(block, 0)?;
        // Ordered by the word that led here.
        let shape = head.shape.load(Ordering::Relaxed);
        let lines_log2 = (shape >> 56) as u32;
        if shape << 8 != SHAPE << 8 || lines_log2 > LINES_LOG2_MAX {
            return Err(HashError::corrupt("a table's shape", shape));
        }
        let directory = ground.words(block, TABLE_WORDS, pieces_of(lines_log2))?;
        Ok(Table { block, head, lines_log2, directory })
    }

    #[inline(always)]
    pub(super) fn lines(&self) -> u64 {
        1 << self.lines_log2
    }

    pub(super) fn chunks(&self) -> u64 {
        chunks_of(self.lines_log2)
    }

    #[inline(always)]
    pub(super) fn home(&self, hash: u64) -> u64 {
        (hash >> 1) >> (63 - self.lines_log2)
    }

    /// The smallest hash whose home is `line`.
    pub(super) fn first_hash(&self, line: u64) -> u64 {
        line << (63 - self.lines_log2) << 1
    }

    /// The `step`th line to look at, beginning with `home`.
    #[inline(always)]
    pub(super) fn line_after(&self, home: u64, step: u64) -> u64 {
        (home + step) & (self.lines() - 1)
    }

    pub(super) fn pieces(&self) -> &'g [AtomicU64] {
        self.directory
    }

    #[inline(always)]
    #[allow(clippy::unnecessary_min_or_max, reason = "in a model a piece is one line")]
    fn piece_log2(&self) -> u32 {
        self.lines_log2.min(PIECE_LOG2)
    }

    /// Words of one piece.
    pub(super) fn piece_words(&self) -> u64 {
        (LINE as u64) << self.piece_log2()
    }

    /// The directory's word for the piece with `line`, and its number.
    #[inline(always)]
    pub(super) fn piece_of(&self, line: u64) -> (u64, &'g AtomicU64) {
        let number = line >> self.piece_log2();
        (number, &self.directory[number as usize & (self.directory.len() - 1)])
    }

    /// The cells of `line`; `None` where its piece was not needed yet, and all are empty.
    #[inline(always)]
    pub(super) fn line<G: Ground>(
        &self,
        ground: &'g G,
        line: u64,
    ) -> Result<Option<&'g [AtomicU64]>, HashError> {
        let (_, word) = self.piece_of(line);
        // Pairs with the Release in `Owned::step`: zeroes.
        let piece = Word::from_bits(word.load(Ordering::Acquire));
        if piece.is_empty() {
            return Ok(None);
        }
        self.line_in(ground, piece, line).map(Some)
    }

    #[inline(always)]
    pub(super) fn line_in<G: Ground>(
        &self,
        ground: &'g G,
        piece: Word,
        line: u64,
    ) -> Result<&'g [AtomicU64], HashError> {
        let first = (line & ((1 << self.piece_log2()) - 1)) * LINE as u64;
        ground.words(piece.value(), first, LINE as u64)
    }

    /// The cell with this number, counted over all lines.
    pub(super) fn cell<G: Ground>(
        &self,
        ground: &'g G,
        index: u64,
    ) -> Result<Option<&'g AtomicU64>, HashError> {
        let line = index / LINE as u64;
        if line >= self.lines() {
            return Err(HashError::corrupt("a cell's number", index));
        }
        Ok(self.line(ground, line)?.map(|cells| &cells[index as usize % LINE]))
    }

    /// The bits of the chunks that have been moved.
    pub(super) fn done<G: Ground>(&self, ground: &'g G) -> Result<&'g [AtomicU64], HashError> {
        let at = TABLE_WORDS + self.directory.len() as u64;
        ground.words(self.block, at, done_words(self.lines_log2))
    }
}
