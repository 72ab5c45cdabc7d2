//! Changing: insert, update, delete, by one step of one cell.
//!
//! A key has one place, or none: it is inserted where its window ends, in the first empty cell, so
//! that two who insert it meet there; from then on its entry is replaced, moved or deleted by
//! changing that cell. In a table that is being left nobody inserts: the key's window is moved
//! first, and what is to be done is done in the next table.
use super::HashError;
use super::core::{Core, Shields, Stop};
use super::entry::Entry;
use super::find::Probe;
use super::ground::Ground;
use super::migrate::Move;
use super::row::{At, Owned, Place, ROUNDS_MAX, Step, Which};
use super::table::{LINE, LINES_LOG2_MAX, Table};
use super::word::Word;
use shm_core::sync::Ordering;

/// What is to become of a key.
#[derive(Clone, Copy)]
pub(super) enum Change<'v> {
    /// This value, if it has none.
    Insert(&'v [u8]),
    /// This value, if it has one.
    Update(&'v [u8]),
    /// This value.
    Upsert(&'v [u8]),
    /// The second value, if it has the first.
    Replace(&'v [u8], &'v [u8]),
    Delete,
    /// Nothing, if it has this value.
    DeleteIf(&'v [u8]),
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Changed {
    /// It had no value, and has now.
    Inserted,
    /// It had a value, and it has been replaced or deleted.
    Replaced,
    /// Nothing: it has no value.
    Absent,
    /// Nothing: it has a value, and for `Replace` and `DeleteIf` another one.
    Present,
}

/// A change under way: what, of which key, by whom.
struct Task<'g, 'k> {
    change: Change<'k>,
    key: &'k [u8],
    hash: u64,
    by: Owned<'g>,
}

/// Lines that an insertion looks at before the table is said to be crowded.
const WINDOW: u64 = 16;

/// Lines that are looked at to see how full a table is.
const SAMPLE: u64 = 16;

impl<'v> Change<'v> {
    /// What the key's value is to be.
    fn value(&self) -> Option<&'v [u8]> {
        match *self {
            Change::Insert(value) | Change::Update(value) | Change::Upsert(value) => Some(value),
            Change::Replace(_, value) => Some(value),
            Change::Delete | Change::DeleteIf(_) => None,
        }
    }

    /// Whether the entry that the key has is to go.
    fn takes(&self, entry: &Entry<'_>) -> bool {
        match self {
            Change::Insert(_) => false,
            Change::Replace(had, _) | Change::DeleteIf(had) => entry.has_value(had),
            Change::Update(_) | Change::Upsert(_) | Change::Delete => true,
        }
    }

    fn inserts(&self) -> bool {
        matches!(self, Change::Insert(_) | Change::Upsert(_))
    }
}

impl<G: Ground> Core<G> {
    /// Does `change` to `key`, by the row `by`.
    pub(super) fn change(
        &self,
        by: u32,
        key: &[u8],
        change: Change<'_>,
    ) -> Result<Changed, HashError> {
        let task = Task { change, key, hash: self.ground.hash(key, self.seed), by: self.row(by)? };
        self.shape.check_key(key)?;
        change.value().map_or(Ok(()), |value| self.shape.check_value(value))?;
        self.make_room(&task.by, 2)?;
        let mut shields = self.shields()?;
        let mut end = Err(HashError::Busy);
        for _ in 0..ROUNDS_MAX {
            match self.change_once(&mut shields, &task) {
                Ok(changed) => end = Ok(changed),
                Err(Stop::Again) => continue,
                Err(Stop::Error(error)) => end = Err(error),
            }
            break;
        }
        if task.by.row.entry.fresh.load(Ordering::Relaxed) != 0 {
            self.ground.give(&task.by.row.entry.fresh)?;
        }
        end
    }

    fn change_once<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        task: &Task<'g, '_>,
    ) -> Result<Changed, Stop> {
        self.load_settled(&self.head()?.root)?;
        let table = self.enter(shields)?;
        if self.load_settled(&table.head.next)?.is_empty() {
            return self.change_in(shields, &table, None, task);
        }
        let Some(to) = self.next(shields, &table)? else { return Err(Stop::Again) };
        let them = Move { from: table, to, by: task.by };
        self.move_window(shields, &them, task.hash)?;
        self.move_chunk(shields, &them)?;
        self.change_in(shields, &to, Some(&them), task)
    }

    /// Does it in `table`: the root's, or the one that is moved to.
    fn change_in<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        table: &Table<'g>,
        them: Option<&Move<'g>>,
        task: &Task<'g, '_>,
    ) -> Result<Changed, Stop> {
        let (home, inserts) = (table.home(task.hash), task.change.inserts());
        let most = if inserts { WINDOW.min(table.lines()) } else { table.lines() };
        for step in 0..most {
            let line = table.line_after(home, step);
            let cells = match table.line(&self.ground, line)? {
                Some(cells) => cells,
                None if inserts => self.line_made(table, line, &task.by)?,
                None => return Ok(Changed::Absent),
            };
            for (at, word) in cells.iter().enumerate() {
                let at = At::Cell(line * LINE as u64 + at as u64);
                let place = Place { word, block: table.block, at };
                if let Some(changed) = self.change_cell(shields, place, task)? {
                    if them.is_none() {
                        self.look_after(table, task, changed, step)?;
                    }
                    return Ok(changed);
                }
            }
        }
        match them {
            _ if !inserts => Ok(Changed::Absent),
            Some(them) => self.move_all(shields, them),
            None => {
                self.begin_move(table, &task.by, table.lines_log2 + 1)?;
                Err(Stop::Again)
            }
        }
    }

    /// Does it in this cell; `None` where the key is not here, but may be further on.
    fn change_cell<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        place: Place<'g>,
        task: &Task<'g, '_>,
    ) -> Result<Option<Changed>, Stop> {
        // Pairs with the Releases of all who write cells: the entry.
        let mut seen = Word::from_bits(place.word.load(Ordering::Acquire));
        for _ in 0..ROUNDS_MAX {
            if seen.is_marked() {
                seen = self.help(place.word, seen)?;
                continue;
            }
            if seen.is_frozen() || seen.is_moved() {
                return Err(Stop::Again);
            }
            if !seen.is_empty() {
                if !seen.may_be(task.hash) {
                    return Ok(None);
                }
                let probe = self.probe(shields, place.word, seen, task.key, task.hash)?;
                let (now, entry) = match probe {
                    Probe::Is(now, entry) => (now, entry),
                    Probe::IsNot => return Ok(None),
                    Probe::Moved(_) => return Err(Stop::Again),
                };
                if now != seen {
                    seen = now;
                    continue;
                }
                if !task.change.takes(&entry) {
                    return Ok(Some(Changed::Present));
                }
            } else if !task.change.inserts() {
                return Ok(Some(Changed::Absent));
            }
            seen = match self.put(place, seen, task)? {
                Ok(()) if seen.is_empty() => return Ok(Some(Changed::Inserted)),
                Ok(()) => return Ok(Some(Changed::Replaced)),
                Err(now) => now,
            };
        }
        Err(HashError::Busy.into())
    }

    /// Takes the step of the task, where `seen` still stands in its place; otherwise, what does.
    fn put(
        &self,
        place: Place<'_>,
        seen: Word,
        task: &Task<'_, '_>,
    ) -> Result<Result<(), Word>, HashError> {
        let old = if seen.is_block() { seen.value() } else { 0 };
        let Some(value) = task.change.value() else {
            let step = Step { expected: seen, last: Word::TOMB, old };
            return Ok(task.by.step(Which::Entry, place, step));
        };
        let fresh = &task.by.row.entry.fresh;
        let name = fresh.load(Ordering::Relaxed);
        let block = if name == 0 {
            self.shape.make(&self.ground, fresh, task.key, value)?
        } else {
            self.ground.block_of(name)
        };
        let step = Step { expected: seen, last: Word::block(block, task.hash), old };
        Ok(task.by.step(Which::Entry, place, step))
    }

    /// The next table is crowded before it is the root's: moves all that is left, at once.
    #[cold]
    fn move_all<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        them: &Move<'g>,
    ) -> Result<Changed, Stop> {
        let most = 2 * them.from.chunks() + u64::from(ROUNDS_MAX);
        for _ in 0..most {
            if !self.is_root(them.from.block) {
                return Err(Stop::Again);
            }
            self.move_chunk(shields, them)?;
        }
        Err(HashError::Busy.into())
    }

    /// After a change of the root's table: whether it is to be left for a larger or smaller one.
    fn look_after(
        &self,
        table: &Table<'_>,
        task: &Task<'_, '_>,
        changed: Changed,
        step: u64,
    ) -> Result<(), HashError> {
        // Not at home: some tenth of the insertions when the table is half full. And one deletion
        // in so many.
        let crowded = changed == Changed::Inserted && step > 0;
        let thinned = changed == Changed::Replaced
            && task.change.value().is_none()
            && task.hash >> 16 & 0x1f == 0;
        if !crowded && !thinned {
            return Ok(());
        }
        // Lines that have nothing to do with the key's.
        let from = table.home(task.hash.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let sample = self.sample(table, from)?;
        let lines_log2 = match sample.wish(table.lines_log2) {
            Some(lines_log2) if lines_log2 >= table.lines_log2 => lines_log2,
            // A second look, before the table shrinks.
            Some(smaller) => {
                let there = table.line_after(from, table.lines() / 2);
                match self.sample(table, there)?.wish(table.lines_log2) {
                    Some(again) if again <= smaller => smaller,
                    _ => return Ok(()),
                }
            }
            None => return Ok(()),
        };
        match self.begin_move(table, &task.by, lines_log2) {
            // It was only a wish.
            Err(HashError::OutOfMemory { .. } | HashError::Full) => Ok(()),
            end => end,
        }
    }

    /// Looks at a few lines from `from` on.
    fn sample(&self, table: &Table<'_>, from: u64) -> Result<Sample, HashError> {
        let mut sample = Sample { cells: 0, taken: 0, live: 0 };
        for step in 0..SAMPLE.min(table.lines()) {
            sample.cells += LINE as u64;
            let line = table.line_after(from, step);
            let Some(cells) = table.line(&self.ground, line)? else { continue };
            for cell in cells {
                let word = Word::from_bits(cell.load(Ordering::Relaxed));
                sample.taken += u64::from(!word.is_empty());
                sample.live += u64::from(word.is_block());
            }
        }
        Ok(sample)
    }
}

/// How full a few lines are.
#[derive(Clone, Copy, Debug)]
struct Sample {
    cells: u64,
    taken: u64,
    live: u64,
}

impl Sample {
    /// The size that the table should have; `None` where it is right as it is.
    fn wish(&self, lines_log2: u32) -> Option<u32> {
        let smaller = lines_log2.saturating_sub(1);
        if self.taken * 8 > self.cells * 5 {
            // Too full: of entries, or of tombs.
            return Some(match () {
                () if self.live * 5 > self.cells * 2 => (lines_log2 + 1).min(LINES_LOG2_MAX),
                () if self.live * 8 < self.cells => smaller,
                () => lines_log2,
            });
        }
        (self.live * 10 < self.cells && smaller < lines_log2).then_some(smaller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_says_how_large_a_table_should_be() {
        let wish = |taken, live| Sample { cells: 128, taken, live }.wish(10);
        assert_eq!(wish(64, 60), None);
        assert_eq!(wish(90, 80), Some(11));
        assert_eq!(wish(90, 40), Some(10));
        assert_eq!(wish(90, 10), Some(9));
        assert_eq!(wish(20, 10), Some(9));
        assert_eq!(Sample { cells: 128, taken: 0, live: 0 }.wish(0), None);
    }
}
