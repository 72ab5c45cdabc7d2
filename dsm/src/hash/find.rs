//! Finding: the old window first, then the next table.
//!
//! While a table is being moved to the next one, its cells that have not moved are still the truth,
//! frozen or not; one that has moved says where to. An empty cell that is not frozen says that the
//! key is in neither table: who inserts into the next one has first frozen the key's window here,
//! up to and with its first empty cell.
use super::HashError;
use super::core::{Core, Shields, Stop};
use super::entry::Entry;
use super::ground::{Ground, Shield};
use super::row::ROUNDS_MAX;
use super::table::{LINE, Table};
use super::word::Word;
use shm_core::sync::{AtomicU64, Ordering};

/// What a cell holds, as far as one key is concerned.
pub(super) enum Probe<'g> {
    /// The key's entry, protected by `shields.entry`, and the word that led to it.
    Is(Word, Entry<'g>),
    /// Something else, for ever.
    IsNot,
    /// It was moved meanwhile.
    Moved(Word),
}

/// Where a search of one table ended.
pub(super) enum Found<'g> {
    Here(Entry<'g>),
    /// Nowhere, in this table and the next.
    Nowhere,
    /// Not in this table, which is being left.
    NotHere,
    /// Not in this table, which has no empty cell.
    Full,
}

impl<G: Ground> Core<G> {
    /// The entry of `key`, protected by `shields.entry`.
    #[inline(always)]
    pub(super) fn find<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        key: &[u8],
    ) -> Result<Option<Entry<'g>>, HashError> {
        self.shape.check_key(key)?;
        let hash = self.ground.hash(key, self.seed);
        for _ in 0..ROUNDS_MAX {
            match self.find_once(shields, key, hash) {
                Ok(found) => return Ok(found),
                Err(Stop::Again) => {}
                Err(Stop::Error(error)) => return Err(error),
            }
        }
        Err(HashError::Busy)
    }

    #[inline(always)]
    fn find_once<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        key: &[u8],
        hash: u64,
    ) -> Result<Option<Entry<'g>>, Stop> {
        let table = self.enter(shields)?;
        if let Some(entry) = self.find_at_home(shields, &table, key, hash)? {
            return Ok(Some(entry));
        }
        self.find_anywhere(shields, &table, key, hash)
    }

    /// The common case: the first cell of the home line with this tag, settled and not frozen, has
    /// the key's entry. All cells are compared without a branch, so that the processor can go on to
    /// the entry, and beyond, before it has the line.
    #[inline(always)]
    fn find_at_home<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        table: &Table<'g>,
        key: &[u8],
        hash: u64,
    ) -> Result<Option<Entry<'g>>, Stop> {
        let Some(cells) = table.line(&self.ground, table.home(hash))? else { return Ok(None) };
        let mut same = 0u32;
        for cell in &cells[..LINE] {
            // Nothing is done with it before it has been looked at again.
            let seen = Word::from_bits(cell.load(Ordering::Relaxed));
            same = same << 1 | u32::from(seen.is_settled_with(hash));
        }
        if same == 0 {
            return Ok(None);
        }
        let first = same.leading_zeros() as usize + LINE - 32;
        let cell = &cells[first % LINE];
        let seen = Word::from_bits(cell.load(Ordering::Relaxed));
        let is_still = || {
            // Pairs with the Releases of all who write cells: the entry.
            Word::from_bits(cell.load(Ordering::Acquire)).is_same_block(seen)
        };
        if !seen.is_block() || !shields.entry.protect(seen.value(), is_still)? {
            return Ok(None);
        }
        let entry = self.shape.entry(&self.ground, seen.value())?;
        Ok(entry.has_key(key).then_some(entry))
    }

    /// In the table that the root names or the next one; or nowhere.
    #[cold]
    fn find_anywhere<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        table: &Table<'g>,
        key: &[u8],
        hash: u64,
    ) -> Result<Option<Entry<'g>>, Stop> {
        match self.search(shields, table, None, key, hash)? {
            Found::Here(entry) => Ok(Some(entry)),
            Found::Nowhere => Ok(None),
            Found::NotHere | Found::Full => self.find_next(shields, table, key, hash),
        }
    }

    #[cold]
    fn find_next<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        table: &Table<'g>,
        key: &[u8],
        hash: u64,
    ) -> Result<Option<Entry<'g>>, Stop> {
        let Some(next) = self.next(shields, table)? else { return Ok(None) };
        match self.search(shields, &next, Some(table), key, hash)? {
            Found::Here(entry) => Ok(Some(entry)),
            Found::Nowhere | Found::Full => Ok(None),
            // It is being left itself, so the root has moved on to it.
            Found::NotHere => Err(Stop::Again),
        }
    }

    /// Looks for `key` in `table`: the root's, or with `left` the one that is moved to from there.
    fn search<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        table: &Table<'g>,
        left: Option<&Table<'g>>,
        key: &[u8],
        hash: u64,
    ) -> Result<Found<'g>, Stop> {
        let home = table.home(hash);
        for step in 0..table.lines() {
            let line = table.line_after(home, step);
            let Some(cells) = table.line(&self.ground, line)? else { return Ok(Found::Nowhere) };
            for cell in &cells[..LINE] {
                // Pairs with the Releases of all who write cells: the entry.
                let seen = Word::from_bits(cell.load(Ordering::Acquire));
                if seen.may_be(hash) {
                    let entry = match self.probe(shields, cell, seen, key, hash)? {
                        Probe::Is(_, entry) => Some(entry),
                        Probe::IsNot => None,
                        Probe::Moved(_) if left.is_some() => return Err(Stop::Again),
                        Probe::Moved(to) => self.follow(shields, table, to, key, hash)?,
                    };
                    if let Some(entry) = entry {
                        return Ok(Found::Here(entry));
                    }
                } else if seen.is_empty() {
                    return Ok(Found::Nowhere);
                } else if seen.is_frozen_empty() {
                    return Ok(Found::NotHere);
                }
            }
        }
        Ok(Found::Full)
    }

    /// Whether `cell`, in which `seen` was, has the entry of `key`.
    #[inline(always)]
    pub(super) fn probe<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        cell: &AtomicU64,
        mut seen: Word,
        key: &[u8],
        hash: u64,
    ) -> Result<Probe<'g>, HashError> {
        for _ in 0..ROUNDS_MAX {
            if seen.is_moved() {
                return Ok(Probe::Moved(seen));
            }
            if !seen.is_block() {
                return Ok(Probe::IsNot);
            }
            let mut now = seen;
            // Retired only after another word has taken this one's place.
            let is_still = || {
                // Pairs with the Releases of all who write cells: the entry.
                now = Word::from_bits(cell.load(Ordering::Acquire));
                now.is_same_block(seen)
            };
            if shields.entry.protect(seen.value(), is_still)? {
                let entry = self.shape.entry(&self.ground, seen.value())?;
                return Ok(if entry.has_key(key) { Probe::Is(now, entry) } else { Probe::IsNot });
            }
            seen = now;
            if !(seen.may_be(hash) || seen.is_pending()) {
                return Ok(Probe::IsNot);
            }
        }
        Err(HashError::Busy)
    }

    /// Looks where a cell of the root's table has moved to.
    #[cold]
    fn follow<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        table: &Table<'g>,
        moved: Word,
        key: &[u8],
        hash: u64,
    ) -> Result<Option<Entry<'g>>, Stop> {
        let Some(next) = self.next(shields, table)? else {
            return Err(HashError::corrupt("a moved cell", moved.bits()).into());
        };
        let Some(cell) = next.cell(&self.ground, moved.value())? else {
            return Err(HashError::corrupt("a moved cell", moved.bits()).into());
        };
        // Pairs with the Releases of all who write cells: the entry.
        let seen = Word::from_bits(cell.load(Ordering::Acquire));
        match self.probe(shields, cell, seen, key, hash)? {
            Probe::Is(_, entry) => Ok(Some(entry)),
            Probe::IsNot => Ok(None),
            Probe::Moved(_) => Err(Stop::Again),
        }
    }
}
