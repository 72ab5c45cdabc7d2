//! Walking: all entries in the order of their hashes, a report of what there is, and the end of it.
//!
//! Home lines are named by the highest bits of the hash, so a position among hashes means the same
//! in every table, whatever its size. A step of the walk collects all entries whose home is one
//! line of the smaller of the two tables, from both, once each, and then goes on behind it.
use super::HashError;
use super::core::{Core, Shields, Stop};
use super::entry::{Entry, Shape, Size};
use super::find::Probe;
use super::ground::{Ground, Shield};
use super::handle::Hash;
use super::row::{ROUNDS_MAX, TABLE};
use super::shared::Head;
use super::table::Table;
use super::word::Word;
use shm_core::sync::{AtomicU64, Ordering};
use std::collections::HashSet;

fn read(word: &AtomicU64) -> Word {
    // Pairs with the Releases of all who write such words: the table, the piece or the entry.
    Word::from_bits(word.load(Ordering::Acquire))
}

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// A walk through a hash: every entry that is there from the walk's beginning to its end is seen
/// exactly once; one that comes, goes or is moved to another table meanwhile, at most once.
#[derive(Debug)]
pub struct Walk {
    position: Option<u64>,
    found: Vec<Pair>,
}

impl Walk {
    /// At the beginning.
    pub fn new() -> Walk {
        Walk { position: Some(0), found: Vec::new() }
    }

    /// The next entry, copied: key and value. `None` at the end.
    ///
    /// # Errors
    /// As [`Hash::find`].
    pub fn next<G: Ground>(&mut self, hash: &mut Hash<G>) -> Result<Option<Pair>, HashError> {
        while self.found.is_empty() {
            let Some(position) = self.position else { return Ok(None) };
            let (found, next) = hash.core.gather(position)?;
            (self.found, self.position) = (found, next);
        }
        Ok(self.found.pop())
    }
}

impl Default for Walk {
    fn default() -> Walk {
        Walk::new()
    }
}

/// The hashes of one step of a walk, and what has been found.
struct Gathered {
    first: u64,
    last: u64,
    keys: HashSet<Vec<u8>>,
    found: Vec<Pair>,
}

impl Gathered {
    fn add(&mut self, hash: u64, entry: &Entry<'_>) {
        if !(self.first..=self.last).contains(&hash) {
            return;
        }
        let key = entry.key();
        if self.keys.insert(key.clone()) {
            self.found.push((key, entry.value()));
        }
    }
}

impl<G: Ground> Core<G> {
    /// The entries of one line from hash `first` on, and where to go on.
    fn gather(&self, first: u64) -> Result<(Vec<Pair>, Option<u64>), HashError> {
        let mut shields = self.shields()?;
        for _ in 0..ROUNDS_MAX {
            match self.gather_once(&mut shields, first) {
                Ok(gathered) => return Ok((gathered.found, gathered.last.checked_add(1))),
                Err(Stop::Again) => {}
                Err(Stop::Error(error)) => return Err(error),
            }
        }
        Err(HashError::Busy)
    }

    fn gather_once<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        first: u64,
    ) -> Result<Gathered, Stop> {
        let table = self.enter(shields)?;
        let next = self.next(shields, &table)?;
        let coarse = next.filter(|next| next.lines_log2 < table.lines_log2).unwrap_or(table);
        let line = coarse.home(first);
        let last = match line + 1 {
            end if end == coarse.lines() => u64::MAX,
            end => coarse.first_hash(end) - 1,
        };
        let mut gathered = Gathered { first, last, keys: HashSet::new(), found: Vec::new() };
        for home in table.home(first)..=table.home(last) {
            self.gather_home(shields, &table, None, home, &mut gathered)?;
        }
        if let Some(next) = next {
            for home in next.home(first)..=next.home(last) {
                self.gather_home(shields, &next, Some(&table), home, &mut gathered)?;
            }
        }
        Ok(gathered)
    }

    /// What stands between the line `home` and the first empty cell from there on.
    fn gather_home<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        table: &Table<'g>,
        left: Option<&Table<'g>>,
        home: u64,
        gathered: &mut Gathered,
    ) -> Result<(), Stop> {
        for step in 0..table.lines() {
            let line = table.line_after(home, step);
            let Some(cells) = table.line(&self.ground, line)? else { return Ok(()) };
            for cell in cells {
                let seen = read(cell);
                if seen.is_empty() || seen.is_frozen_empty() && left.is_none() {
                    return Ok(());
                }
                if left.is_some() && (seen.is_moved() || seen.is_frozen_empty()) {
                    return Err(Stop::Again);
                }
                if seen.is_pending() {
                    continue;
                }
                let held = match self.hold(shields, cell, seen)? {
                    Probe::Moved(_) if left.is_some() => return Err(Stop::Again),
                    Probe::Moved(to) => self.hold_moved(shields, table, to)?,
                    held => held,
                };
                if let Probe::Is(_, entry) = held {
                    let hash = entry.with_key(|key| self.ground.hash(key, self.seed));
                    gathered.add(hash, &entry);
                }
            }
        }
        Ok(())
    }

    /// The entry in `cell`, whoever's it is, protected by `shields.entry`.
    fn hold<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        cell: &AtomicU64,
        mut seen: Word,
    ) -> Result<Probe<'g>, HashError> {
        for _ in 0..ROUNDS_MAX {
            if seen.is_moved() {
                return Ok(Probe::Moved(seen));
            }
            if !seen.is_block() {
                return Ok(Probe::IsNot);
            }
            let mut now = seen;
            let is_still = || {
                now = read(cell);
                now.is_same_block(seen)
            };
            if shields.entry.protect(seen.value(), is_still)? {
                return Ok(Probe::Is(now, self.shape.entry(&self.ground, seen.value())?));
            }
            seen = now;
        }
        Err(HashError::Busy)
    }

    fn hold_moved<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        table: &Table<'g>,
        moved: Word,
    ) -> Result<Probe<'g>, Stop> {
        let nonsense = || Stop::from(HashError::corrupt("a moved cell", moved.bits()));
        let next = self.next(shields, table)?.ok_or_else(nonsense)?;
        let cell = next.cell(&self.ground, moved.value())?.ok_or_else(nonsense)?;
        let seen = read(cell);
        match self.hold(shields, cell, seen)? {
            Probe::Moved(_) => Err(Stop::Again),
            held => Ok(held),
        }
    }
}

/// What [`Hash::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HashReport {
    /// Entries.
    pub entries: u64,
    /// Cells that deletions have left, in the table that is in use.
    pub tombs: u64,
    /// Cells of that table.
    pub cells: u64,
    /// It is being moved to another one.
    pub is_moving: bool,
    /// Every block of the area that is the hash's, once for each name it has: sorted.
    pub blocks: Vec<u64>,
    /// What is wrong.
    pub faults: Vec<String>,
}

impl<G: Ground> Hash<G> {
    /// Looks at everything. While others change the hash its figures are those of various moments,
    /// and it may report faults that are none.
    ///
    /// # Errors
    /// As [`find`](Hash::find).
    pub fn verify(&mut self) -> Result<HashReport, HashError> {
        let mut report = HashReport::default();
        let core = &self.core;
        let mut shields = core.shields()?;
        let (table, next) = loop {
            let end = core.enter(&mut shields);
            match end.and_then(|table| Ok((table, core.next(&mut shields, &table)?))) {
                Ok(tables) => break tables,
                Err(Stop::Again) => {}
                Err(Stop::Error(error)) => return Err(error),
            }
        };
        report.cells = table.lines() * super::table::LINE as u64;
        report.is_moving = next.is_some();
        report.blocks.push(core.block);
        core.verify_table(&mut report, &table, next.as_ref())?;
        if let Some(next) = &next {
            core.verify_next(&mut report, next)?;
        }
        core.verify_rows(&mut report)?;
        report.blocks.sort_unstable();
        for pair in report.blocks.windows(2).filter(|pair| pair[0] == pair[1]) {
            report.faults.push(format!("block {:#x} has two names", pair[0]));
        }
        Ok(report)
    }
}

impl<G: Ground> Core<G> {
    fn table_blocks(&self, report: &mut HashReport, table: &Table<'_>) {
        report.blocks.push(table.block);
        let pieces = table.pieces().iter();
        let pieces = pieces.map(read);
        report.blocks.extend(pieces.filter(|piece| piece.is_block()).map(Word::value));
    }

    /// All cells of the root's table.
    fn verify_table(
        &self,
        report: &mut HashReport,
        table: &Table<'_>,
        next: Option<&Table<'_>>,
    ) -> Result<(), HashError> {
        self.table_blocks(report, table);
        self.each_cell(table, |at, cell| {
            let word = read(cell);
            report.tombs += u64::from(word.is_tomb());
            if word.is_frozen() && next.is_none() {
                report.faults.push(format!("cell {at} is {word:?}, and nothing moves"));
            }
            if word.is_moved() {
                let there = match next {
                    Some(next) => next.cell(&self.ground, word.value())?,
                    None => None,
                };
                match there.map(read) {
                    Some(copy) if copy.is_pending() => self.verify_entry(report, at, copy)?,
                    Some(copy) if copy.is_block() || copy.is_tomb() => {}
                    copy => report.faults.push(format!("cell {at} is {word:?}: {copy:?}")),
                }
            } else if word.is_block() && !word.is_pending() {
                self.verify_entry(report, at, word)?;
            } else if !word.is_sane() {
                report.faults.push(format!("cell {at} is {word:?}"));
            }
            Ok(())
        })
    }

    /// All cells of the next table: those that no old cell has to vouch for.
    fn verify_next(&self, report: &mut HashReport, next: &Table<'_>) -> Result<(), HashError> {
        self.table_blocks(report, next);
        self.each_cell(next, |at, cell| {
            let word = read(cell);
            if word.is_block() && !word.is_pending() {
                self.verify_entry(report, at, word)?;
            }
            Ok(())
        })
    }

    fn each_cell(
        &self,
        table: &Table<'_>,
        mut with: impl FnMut(u64, &AtomicU64) -> Result<(), HashError>,
    ) -> Result<(), HashError> {
        for line in 0..table.lines() {
            for (at, cell) in table.line(&self.ground, line)?.unwrap_or_default().iter().enumerate()
            {
                with(line * super::table::LINE as u64 + at as u64, cell)?;
            }
        }
        Ok(())
    }

    /// An entry is found by its key, and there alone.
    fn verify_entry(&self, report: &mut HashReport, at: u64, word: Word) -> Result<(), HashError> {
        report.entries += 1;
        report.blocks.push(word.value());
        let entry = self.shape.entry(&self.ground, word.value())?;
        let mut shields = self.shields()?;
        let found = entry.with_key(|key| self.find(&mut shields, key))?;
        if !found.is_some_and(|found| found.is_at(&entry)) {
            report.faults.push(format!("the entry of cell {at} is not found: {word:?}"));
        }
        Ok(())
    }

    fn verify_rows(&self, report: &mut HashReport) -> Result<(), HashError> {
        for index in 0..self.rows {
            let own = self.row(index)?;
            let names = [&own.row.out, &own.row.entry.fresh, &own.row.table.fresh];
            for name in names.map(|name| read(name).bits()) {
                if name != 0 {
                    report.blocks.push(self.ground.block_of(name));
                }
            }
            for word in own.retired.iter().map(|word| read(word).bits()) {
                if word & TABLE != 0 {
                    self.table_blocks(report, &Table::open(&self.ground, word & !TABLE)?);
                } else if word != 0 {
                    report.blocks.push(word);
                }
            }
        }
        Ok(())
    }
}

/// See [`Hash::destroy`].
pub(super) fn destroy<G: Ground>(ground: G, place: &AtomicU64) -> Result<(), HashError> {
    ground.check_fork()?;
    let name = read(place).bits();
    if name == 0 {
        return Ok(());
    }
    let block = ground.adopt(name)?;
    let head: &Head = ground.share(block, 0)?;
    // Nobody attaches any more.
    head.magic.store(0, Ordering::Relaxed);
    let (rows, retired) = (head.rows.load(Ordering::Relaxed), head.retired.load(Ordering::Relaxed));
    let is_sane = rows <= u64::from(super::ROWS_MAX)
        && retired <= super::handle::retired_for(super::ROWS_MAX);
    if !is_sane {
        return Err(HashError::corrupt("the number of rows", rows));
    }
    let rows = if retired == 0 { 0 } else { rows as u32 };
    // No entry is looked into.
    let shape = Shape { key: Size::UpTo(0), value: Size::UpTo(0) };
    let core = Core { ground, block, shape, seed: 0, rows, retired };
    if rows > 0 {
        core.empty()?;
    }
    core.ground.give(place)
}

impl<G: Ground> Core<G> {
    /// Gives back all but the head.
    fn empty(&self) -> Result<(), HashError> {
        let (own, root) = (self.row(0)?, &self.head()?.root);
        let tables = || -> Result<(Option<Table<'_>>, Option<Table<'_>>), HashError> {
            let Some(table) = self.table_in(root)? else { return Ok((None, None)) };
            Ok((Some(table), self.table_in(&table.head.next)?))
        };
        // An earlier attempt may have died in giving something back.
        let out = own.row.out.load(Ordering::Relaxed);
        if out != 0 {
            let out = self.ground.block_of(out);
            let (table, next) = tables()?;
            for table in [table, next].into_iter().flatten() {
                self.each_name(&table, |word| {
                    let seen = Word::from_bits(word.load(Ordering::Relaxed));
                    if seen.is_block() && !seen.is_pending() && seen.value() == out {
                        word.store(0, Ordering::Relaxed);
                    }
                    Ok(())
                })?;
            }
            // It may have been one of the tables; the second goes first.
            if let (Some(table), Some(next)) = (table, next)
                && next.block == out
            {
                table.head.next.store(0, Ordering::Relaxed);
            }
            if table.is_some_and(|table| table.block == out) {
                root.store(0, Ordering::Relaxed);
            }
        }
        for index in 0..self.rows {
            self.clean(&self.row(index)?)?;
        }
        let (table, next) = tables()?;
        if let (Some(table), Some(next)) = (table, next) {
            self.vouch(&table, &next)?;
        }
        let end = [next.map(|t| (t, &table.unwrap_or(t).head.next)), table.map(|t| (t, root))];
        for (table, name) in end.into_iter().flatten() {
            self.each_name(&table, |word| {
                let seen = Word::from_bits(word.load(Ordering::Relaxed));
                if seen.is_block() && !seen.is_pending() {
                    self.give_from(&own, word, seen.value())?;
                }
                Ok(())
            })?;
            self.give_from(&own, name, table.block)?;
        }
        Ok(())
    }

    fn table_in(&self, word: &AtomicU64) -> Result<Option<Table<'_>>, HashError> {
        let word = read(word);
        if word.is_block() { Table::open(&self.ground, word.value()).map(Some) } else { Ok(None) }
    }

    /// All words of a table that can name a block: cells, then pieces.
    fn each_name(
        &self,
        table: &Table<'_>,
        mut with: impl FnMut(&AtomicU64) -> Result<(), HashError>,
    ) -> Result<(), HashError> {
        self.each_cell(table, |_, cell| with(cell))?;
        table.pieces().iter().try_for_each(with)
    }

    /// No copy that a moved cell names is pending any more.
    fn vouch(&self, table: &Table<'_>, next: &Table<'_>) -> Result<(), HashError> {
        self.each_cell(table, |_, cell| {
            let word = read(cell);
            let copy = if word.is_moved() { next.cell(&self.ground, word.value())? } else { None };
            let Some(copy) = copy else { return Ok(()) };
            let seen = read(copy);
            if seen.is_pending() {
                copy.store(seen.settled().bits(), Ordering::Relaxed);
            }
            Ok(())
        })
    }
}
