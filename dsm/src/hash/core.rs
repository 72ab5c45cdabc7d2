//! `Core`: the hash as one thread sees it, and the doors into what is shared.
use super::HashError;
use super::entry::Shape;
use super::ground::{Ground, Shield};
use super::row::{At, Owned, ROUNDS_MAX};
use super::shared::{HEAD_WORDS, Head, ROW_WORDS, Row};
use super::table::{LINE, Table};
use super::word::Word;
use shm_core::process::Forked;
use shm_core::sync::{AtomicU64, Ordering};

/// What a thread knows of a hash; checked once, when it attached.
#[derive(Debug)]
pub(super) struct Core<G> {
    pub(super) ground: G,
    pub(super) block: u64,
    pub(super) shape: Shape,
    pub(super) seed: u64,
    pub(super) rows: u32,
    pub(super) retired: u64,
}

/// What one operation announces: the table that the root names, the next one, the entry that it
/// reads, and the entry that it moves.
pub(super) struct Shields<'g, G: Ground + 'g> {
    ground: &'g G,
    pub(super) root: G::Shield<'g>,
    pub(super) entry: G::Shield<'g>,
    /// Only where a table is being moved.
    next: Option<G::Shield<'g>>,
    moving: Option<G::Shield<'g>>,
}

impl<'g, G: Ground> Shields<'g, G> {
    fn next(&mut self) -> Result<&mut G::Shield<'g>, HashError> {
        lazily(self.ground, &mut self.next)
    }

    /// Nothing is announced any more, by who calls within one call on the hash.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.entry.clear();
        self.root.clear();
    }

    pub(super) fn moving(&mut self) -> Result<&mut G::Shield<'g>, HashError> {
        lazily(self.ground, &mut self.moving)
    }
}

fn lazily<'g, 's, G: Ground>(
    ground: &'g G,
    shield: &'s mut Option<G::Shield<'g>>,
) -> Result<&'s mut G::Shield<'g>, HashError> {
    if shield.is_none() {
        *shield = Some(ground.shield()?);
    }
    shield.as_mut().ok_or(HashError::Busy)
}

/// Announcements that one thread has at most in one hash: those of [`Shields`], and of a block
/// whose mark it takes away.
pub(super) const SHIELDS: u64 = 5;

/// Why a look through the tables ended early.
pub(super) enum Stop {
    /// The root has moved on: begin again.
    Again,
    Error(HashError),
}

impl From<HashError> for Stop {
    fn from(error: HashError) -> Stop {
        Stop::Error(error)
    }
}

impl From<Forked> for Stop {
    fn from(forked: Forked) -> Stop {
        Stop::Error(forked.into())
    }
}

impl<G: Ground> Core<G> {
    #[inline(always)]
    pub(super) fn head(&self) -> Result<&Head, HashError> {
        self.ground.share(self.block, 0)
    }

    pub(super) fn row(&self, index: u32) -> Result<Owned<'_>, HashError> {
        if index >= self.rows {
            return Err(HashError::corrupt("a row's number", index.into()));
        }
        let at = HEAD_WORDS + u64::from(index) * (ROW_WORDS + self.retired);
        let row: &Row = self.ground.share(self.block, at)?;
        let retired = self.ground.words(self.block, at + ROW_WORDS, self.retired)?;
        Ok(Owned { index, row, retired })
    }

    /// What one call on the hash announces by: nothing in a forked child, whose row it is not.
    #[inline(always)]
    pub(super) fn shields(&self) -> Result<Shields<'_, G>, HashError> {
        let ground = &self.ground;
        ground.check_fork()?;
        let (root, entry) = (ground.shield()?, ground.shield()?);
        Ok(Shields { ground, root, entry, next: None, moving: None })
    }

    /// The table that the root names, protected.
    #[inline(always)]
    pub(super) fn enter<'g>(&'g self, shields: &mut Shields<'g, G>) -> Result<Table<'g>, Stop> {
        let head = self.head()?;
        for _ in 0..ROUNDS_MAX {
            // Pairs with the Release in `Owned::step`: the table's head.
            let root = Word::from_bits(head.root.load(Ordering::Acquire));
            if !root.is_block() {
                return Err(HashError::corrupt("the root", root.bits()).into());
            }
            // A table is retired after the root has left it.
            if shields.root.protect(root.value(), || self.is_root(root.value()))? {
                return Ok(Table::open(&self.ground, root.value())?);
            }
        }
        Err(HashError::Busy.into())
    }

    /// Whether the root names this table.
    #[inline(always)]
    pub(super) fn is_root(&self, block: u64) -> bool {
        // Pairs with the Release in `Owned::step`: what its retirer had seen before.
        self.head()
            .is_ok_and(|head| Word::from_bits(head.root.load(Ordering::Acquire)).value() == block)
    }

    /// The table that `table`, the root's, is being moved to, protected.
    pub(super) fn next<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        table: &Table<'g>,
    ) -> Result<Option<Table<'g>>, Stop> {
        // Pairs with the Release in `Owned::step`: the table's head.
        let next = Word::from_bits(table.head.next.load(Ordering::Acquire));
        if next.is_empty() {
            return Ok(None);
        }
        if !next.is_block() {
            return Err(HashError::corrupt("a next table", next.bits()).into());
        }
        // Until the root has left this one the next one is not retired.
        if !shields.next()?.protect(next.value(), || self.is_root(table.block))? {
            return Err(Stop::Again);
        }
        Ok(Some(Table::open(&self.ground, next.value())?))
    }

    /// Calls `with` with the word that stands at a place, unless the table is one that the root has
    /// left, or nothing is there yet.
    pub(super) fn with_place(
        &self,
        block: u64,
        at: At,
        with: impl Fn(&AtomicU64) -> Result<(), HashError>,
    ) -> Result<(), HashError> {
        if at == At::Root {
            return with(&self.head()?.root);
        }
        for _ in 0..ROUNDS_MAX {
            match self.find_table(&mut self.shields()?, block) {
                Ok(Some(table)) => return self.in_table(&table, at, with),
                Ok(None) => return Ok(()),
                Err(Stop::Again) => {}
                Err(Stop::Error(error)) => return Err(error),
            }
        }
        Err(HashError::Busy)
    }

    fn find_table<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        block: u64,
    ) -> Result<Option<Table<'g>>, Stop> {
        let table = self.enter(shields)?;
        if table.block == block {
            return Ok(Some(table));
        }
        let next = self.next(shields, &table)?;
        Ok(next.filter(|next| next.block == block))
    }

    fn in_table(
        &self,
        table: &Table<'_>,
        at: At,
        with: impl Fn(&AtomicU64) -> Result<(), HashError>,
    ) -> Result<(), HashError> {
        let word = match at {
            // The place is in a table that is no more, and whose block another one has now.
            At::Cell(index) if index >= table.lines() * LINE as u64 => None,
            At::Cell(index) => table.cell(&self.ground, index)?,
            At::Piece(index) => table.pieces().get(index as usize),
            At::Next => Some(&table.head.next),
            At::Root => None,
        };
        word.map_or(Ok(()), with)
    }
}
