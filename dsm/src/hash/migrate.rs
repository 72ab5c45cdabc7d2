//! Moving: from one table to the next, a few lines at a time, by whoever writes.
//!
//! ```text
//!   cell here     empty -> empty, frozen
//!                 block -> block, frozen -----------------------> moved(place)
//!   cell there                    empty -> block, pending             -> block
//! ```
//!
//! The step to *moved* decides. Two who move one cell may choose different places in the next
//! table, where one of them was late; only the place that *moved* names counts, and a pending copy
//! elsewhere is nobody's: who made it turns it into a tomb, and where it has died first, all look
//! past it. Who copies protects the entry meanwhile, so that no new entry in the same block can be
//! mistaken for it.
//!
//! A window that was frozen up to and with its first empty cell can take in no key any more; from
//! then on the next table has its truth. When every chunk has its bit, the root swings.
use super::HashError;
use super::core::{Core, Shields, Stop};
use super::ground::{Ground, Shield};
use super::row::{At, Owned, Place, ROUNDS_MAX, Step, TABLE, Which};
use super::table::{CHUNK_LINES, LINE, LINES_LOG2_MAX, Table, head_words};
use super::word::Word;
use shm_core::sync::{AtomicU64, Ordering, prefetch};
use std::ops::Range;

/// A table that is being left, the one that it is moved to, and by whom.
#[derive(Clone, Copy)]
pub(super) struct Move<'g> {
    pub(super) from: Table<'g>,
    pub(super) to: Table<'g>,
    pub(super) by: Owned<'g>,
}

impl<G: Ground> Core<G> {
    /// Makes a next table of 2^`lines_log2` lines for `table`, the root's, unless it has one.
    pub(super) fn begin_move<'g>(
        &'g self,
        table: &Table<'g>,
        by: &Owned<'g>,
        lines_log2: u32,
    ) -> Result<(), HashError> {
        // Pairs with the Release in `Owned::step`; who goes on looks at what is behind it.
        if table.head.next.load(Ordering::Acquire) != 0 {
            return Ok(());
        }
        if lines_log2 > LINES_LOG2_MAX {
            return Err(HashError::Full);
        }
        let fresh = &by.row.table.fresh;
        let block = self.ground.take(head_words(lines_log2), true, fresh)?;
        Table::make(&self.ground, block, lines_log2)?;
        let place = Place { word: &table.head.next, block: table.block, at: At::Next };
        let step = Step { expected: Word::EMPTY, last: Word::block(block, 0), old: 0 };
        if by.step(Which::Table, place, step).is_ok() { Ok(()) } else { self.ground.give(fresh) }
    }

    /// The cells of `line`, whose piece is made if need be.
    pub(super) fn line_made<'g>(
        &'g self,
        table: &Table<'g>,
        line: u64,
        by: &Owned<'g>,
    ) -> Result<&'g [AtomicU64], HashError> {
        for _ in 0..ROUNDS_MAX {
            let (number, word) = table.piece_of(line);
            let piece = self.load_settled(word)?;
            if piece.is_block() {
                return table.line_in(&self.ground, piece, line);
            }
            if !piece.is_empty() {
                return Err(HashError::corrupt("a piece", piece.bits()));
            }
            let fresh = &by.row.table.fresh;
            let block = self.ground.take(table.piece_words(), true, fresh)?;
            let place = Place { word, block: table.block, at: At::Piece(number) };
            let step = Step { expected: Word::EMPTY, last: Word::block(block, 0), old: 0 };
            if by.step(Which::Table, place, step).is_err() {
                self.ground.give(fresh)?;
            }
        }
        Err(HashError::Busy)
    }

    /// Moves the window of `hash`: all cells in which its key could be.
    pub(super) fn move_window<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        them: &Move<'g>,
        hash: u64,
    ) -> Result<(), Stop> {
        let home = them.from.home(hash);
        self.fetch_entries(&them.from, home..home + 1)?;
        for step in 0..them.from.lines() {
            let line = them.from.line_after(home, step);
            for cell in self.line_made(&them.from, line, &them.by)? {
                if self.move_cell(shields, them, cell)?.is_frozen_empty() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Moves the next chunk; where none is left, lets the root swing.
    pub(super) fn move_chunk<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        them: &Move<'g>,
    ) -> Result<(), Stop> {
        let (chunks, cursor) = (them.from.chunks(), &them.from.head.cursor);
        if cursor.load(Ordering::Relaxed) < chunks {
            let chunk = cursor.fetch_add(1, Ordering::Relaxed);
            if chunk < chunks {
                return self.move_this(shields, them, chunk);
            }
        }
        match self.first_left(&them.from)? {
            Some(chunk) => self.move_this(shields, them, chunk),
            None => Ok(self.swing(them)?),
        }
    }

    fn move_this<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        them: &Move<'g>,
        chunk: u64,
    ) -> Result<(), Stop> {
        let end = ((chunk + 1) * CHUNK_LINES).min(them.from.lines());
        self.fetch_entries(&them.from, chunk * CHUNK_LINES..end)?;
        for line in chunk * CHUNK_LINES..end {
            for cell in self.line_made(&them.from, line, &them.by)? {
                self.move_cell(shields, them, cell)?;
            }
        }
        let done = them.from.done(&self.ground)?;
        // Pairs with the Acquire in `first_left`: the cells of this chunk.
        done[(chunk / 64) as usize].fetch_or(1 << (chunk % 64), Ordering::Release);
        Ok(())
    }

    /// Has the processor fetch the entries of `lines`, all at once: their keys say where they are
    /// to go, and each would be waited for alone.
    fn fetch_entries(&self, table: &Table<'_>, lines: Range<u64>) -> Result<(), HashError> {
        // Models have no caches, and would look at each of these accesses.
        if cfg!(any(shm_loom, shm_explore)) {
            return Ok(());
        }
        for line in lines {
            for cell in table.line(&self.ground, line)?.into_iter().flatten() {
                let seen = Word::from_bits(cell.load(Ordering::Relaxed));
                if seen.is_block() {
                    // Nothing is read of what may be gone.
                    let entry = self.ground.words(seen.value(), 0, 1).ok();
                    entry.and_then(<[_]>::first).map(prefetch);
                }
            }
        }
        Ok(())
    }

    /// A chunk that nobody has moved, or whose mover has not said so.
    fn first_left(&self, table: &Table<'_>) -> Result<Option<u64>, HashError> {
        let done = table.done(&self.ground)?;
        // Pairs with the Release below: all bits before.
        let swept = table.head.swept.load(Ordering::Acquire);
        for (at, word) in done.iter().enumerate().skip(swept as usize) {
            // Pairs with the Release in `move_this`: the cells of those chunks.
            let left = !word.load(Ordering::Acquire);
            let chunk = at as u64 * 64 + u64::from(left.trailing_zeros());
            if left != 0 && chunk < table.chunks() {
                if at as u64 > swept {
                    // Pairs with the Acquire above.
                    table.head.swept.store(at as u64, Ordering::Release);
                }
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    /// Every cell has moved: the root leaves the table, and the table is garbage.
    fn swing(&self, them: &Move<'_>) -> Result<(), HashError> {
        let root = &self.head()?.root;
        self.load_settled(&them.from.head.next)?;
        if self.load_settled(root)?.value() != them.from.block {
            return Ok(());
        }
        self.make_room(&them.by, 2)?;
        let step = Step {
            expected: Word::block(them.from.block, 0),
            last: Word::block(them.to.block, 0),
            old: them.from.block | TABLE,
        };
        let place = Place { word: root, block: 0, at: At::Root };
        // Fails where somebody else was first.
        let _ = them.by.step(Which::Table, place, step);
        Ok(())
    }

    /// Moves what is in `cell`; what stands there afterwards, for good.
    pub(super) fn move_cell<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        them: &Move<'g>,
        cell: &AtomicU64,
    ) -> Result<Word, Stop> {
        // Pairs with the Releases of all who write cells: the entry.
        let mut seen = Word::from_bits(cell.load(Ordering::Acquire));
        for _ in 0..ROUNDS_MAX {
            seen = if seen.is_marked() {
                self.help(cell, seen)?
            } else if seen.is_frozen_empty() || seen.is_tomb() || seen.is_pending() {
                return Ok(seen);
            } else if seen.is_moved() {
                self.settle_copy(them, seen)?;
                return Ok(seen);
            } else if seen.is_frozen() {
                self.copy_cell(shields, them, cell, seen)?
            } else if seen.is_empty() || seen.is_block() {
                // Pairs with the Acquire of who finds it frozen and then finds the next table: it
                // is there. Fails where somebody else was first, and then reads the entry.
                let (ok, err) = (Ordering::Release, Ordering::Acquire);
                let frozen = seen.frozen();
                match cell.compare_exchange(seen.bits(), frozen.bits(), ok, err) {
                    Ok(_) => frozen,
                    Err(now) => Word::from_bits(now),
                }
            } else {
                return Err(HashError::corrupt("a cell", seen.bits()).into());
            };
        }
        Err(HashError::Busy.into())
    }

    /// Puts a copy of the frozen `seen` into the next table, and says in `cell` where. What stands
    /// in the cell then.
    fn copy_cell<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        them: &Move<'g>,
        cell: &AtomicU64,
        seen: Word,
    ) -> Result<Word, Stop> {
        let mut now = seen;
        let is_still = || {
            // Pairs with the Release of the step to `moved`: the copy.
            now = Word::from_bits(cell.load(Ordering::Acquire));
            now == seen
        };
        if !shields.moving()?.protect(seen.value(), is_still)? {
            return Ok(now);
        }
        let entry = self.shape.entry(&self.ground, seen.value())?;
        let hash = entry.with_key(|key| self.ground.hash(key, self.seed));
        let copy = self.place_copy(them, seen, hash)?;
        // Where there is no copy, the cell was moved meanwhile: a swap reads what stands there.
        let moved = copy.map_or(seen, |(index, _)| seen.moved(index));
        // Pairs with the Acquires of all who follow it: the copy.
        let (ok, err) = (Ordering::Release, Ordering::Acquire);
        match (cell.compare_exchange(seen.bits(), moved.bits(), ok, err), copy) {
            (Ok(_), _) => Ok(moved),
            (Err(now), Some((_, copy))) if now != moved.bits() => {
                let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
                let _ = copy.compare_exchange(seen.pending().bits(), Word::TOMB.bits(), ok, err);
                Ok(Word::from_bits(now))
            }
            (Err(now), _) => Ok(Word::from_bits(now)),
        }
    }

    /// The place in the next table where a pending copy of `seen` is now; `None` where the cell has
    /// been moved meanwhile.
    fn place_copy<'g>(
        &'g self,
        them: &Move<'g>,
        seen: Word,
        hash: u64,
    ) -> Result<Option<(u64, &'g AtomicU64)>, Stop> {
        let home = them.to.home(hash);
        let pending = seen.pending();
        for step in 0..them.to.lines() {
            let line = them.to.line_after(home, step);
            let cells = self.line_made(&them.to, line, &them.by)?;
            for (at, cell) in cells.iter().enumerate() {
                // Pairs with the Release of who settled it: then the cell here is found moved.
                let mut there = Word::from_bits(cell.load(Ordering::Acquire));
                if there.is_empty() {
                    // Pairs with the Acquires of all who read cells: the entry.
                    let (ok, err) = (Ordering::Release, Ordering::Acquire);
                    match cell.compare_exchange(there.bits(), pending.bits(), ok, err) {
                        Ok(_) => there = pending,
                        Err(now) => there = Word::from_bits(now),
                    }
                }
                if there == pending {
                    return Ok(Some((line * LINE as u64 + at as u64, cell)));
                }
                // A pending one under another tag was nobody's when the block was another entry.
                let is_settled = there.is_same_block(seen) && !there.is_pending();
                if is_settled || there.is_frozen_empty() {
                    return Ok(None);
                }
            }
        }
        Err(HashError::Full.into())
    }

    /// The copy that a moved cell names is not pending any more.
    fn settle_copy(&self, them: &Move<'_>, moved: Word) -> Result<(), HashError> {
        let Some(cell) = them.to.cell(&self.ground, moved.value())? else {
            return Err(HashError::corrupt("a moved cell", moved.bits()));
        };
        // The copy is older than the moved cell that led here.
        let seen = Word::from_bits(cell.load(Ordering::Relaxed));
        if seen.is_pending() {
            // Pairs with the Acquires of all who read cells: the entry. Fails where others did it.
            let (ok, err) = (Ordering::Release, Ordering::Relaxed);
            let _ = cell.compare_exchange(seen.bits(), seen.settled().bits(), ok, err);
        }
        Ok(())
    }
}
