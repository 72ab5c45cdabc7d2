//! Blocks and announcements for models and the explorer: few steps, and a death at any of them is
//! made good by [`Model::reap`], as the area does.
#![allow(dead_code)] // each test uses its part

use dsm::hash::ground::{Ground, Shield};
use dsm::hash::{Hash, HashConfig, HashError, Size};
use shm_core::ShmSync;
use shm_core::mapping::Mapping;
use shm_core::process::{ForkGuard, Forked};
use shm_core::sync::{AtomicU64, Ordering, Ordering::Relaxed};
use std::cell::Cell;
use std::sync::Arc;

const PEOPLE: u64 = 4;
const SHIELDS: u64 = 8;
pub(crate) const THREADS: u32 = 4;
/// Words of a row, with its retired ones.
pub(crate) const ROW: u64 = RETIRED + THREADS as u64 * 5 + BATCH;
/// Words of a hash's head with so many rows.
const HEAD: u64 = FIRST_ROW + THREADS as u64 * ROW;
const BATCH: u64 = if MODELS { 2 } else { 32 };
/// Entries: a key and a value.
const SMALL: u64 = 2;
const SMALLS: u64 = if MODELS { 8 } else { 40 };
const MODELS: bool = cfg!(any(shm_loom, shm_explore));
/// In models pieces have two cells, elsewhere up to 64.
const PIECE: u64 = if MODELS { 2 } else { 64 };
const PIECES: u64 = 7;
/// Heads of small tables, of 10 to 13 words.
const TABLE: u64 = 8 + 4 + 1;
const TABLES: u64 = 4;
/// Heads of tables of up to 128 lines, in models that ask for them.
const LARGE: u64 = 8 + 128 + 2;
const LARGES: u64 = 2;
const BLOCKS: u64 = 1 + SMALLS + PIECES + TABLES + LARGES;
pub(crate) const POISON: u64 = 0xdead_dead_dead_dead;
/// What stands in pieces before they are taken, in models that ask for it: no word of a cell.
const OLD: u64 = 0xbfff_ffff_ffff_ffff;

const WORD: u64 = size_of::<AtomicU64>() as u64;
const PLACE: u64 = 0;
/// One for all, or one for each of the people.
const FENCES: u64 = 1;
const STATES: u64 = FENCES + PEOPLE;
const ANNOUNCED: u64 = STATES + BLOCKS;
const DATA: u64 = (ANNOUNCED + PEOPLE * SHIELDS).next_multiple_of(8);
pub(crate) const END: u64 = DATA + HEAD + SMALLS * SMALL + PIECES * PIECE + TABLES * TABLE;

const FREE: u64 = 0;
const USED: u64 = 1;
/// Zeroed once, and never used again.
const GONE: u64 = 2;
const TAKING: u64 = 3;
const GIVING: u64 = 4;

/// status 3 bits | whose 8 bits | number of the word that names it
fn under_way(status: u64, me: u32, word: u64) -> u64 {
    status | u64::from(me) << 3 | word << 11
}

/// Words of a head, and of a table.
pub(crate) const ROOT: u64 = 7;
pub(crate) const FIRST_ROW: u64 = 8;
pub(crate) const SHAPE: u64 = 0;
pub(crate) const NEXT: u64 = 1;
pub(crate) const CURSOR: u64 = 2;
pub(crate) const SWEPT: u64 = 3;
pub(crate) const DIRECTORY: u64 = 8;

/// Words of a row; behind the state come the others of its descriptor, the fresh block first.
pub(crate) const ENTRY_STATE: u64 = 2;
pub(crate) const RETIRED: u64 = 16;

/// Kinds of words: see `dsm/src/hash/word.rs`.
pub(crate) const TOMB: u64 = 4;
pub(crate) const MOVED: u64 = 6;
pub(crate) const BLOCK: u64 = 8;
pub(crate) const FROZEN: u64 = 9;
pub(crate) const PENDING: u64 = 10;
pub(crate) const MARKED: u64 = 11;

pub(crate) fn kind(word: u64) -> u64 {
    word >> 60
}

pub(crate) fn value_of(word: u64) -> u64 {
    word & ((1 << 47) - 1)
}

pub(crate) struct Model {
    mapping: Arc<Mapping>,
    /// Pieces have to be zeroed.
    is_used: bool,
    /// Who announces meets others who announce.
    is_strong: bool,
    /// Whom nobody tells what is announced.
    uninformed: std::sync::atomic::AtomicU32,
}

impl Model {
    pub(crate) fn new() -> Arc<Model> {
        Model::over(Mapping::heap((END * WORD) as usize))
    }

    /// Over memory that nobody else has yet, of [`END`] words.
    pub(crate) fn over(mapping: Arc<Mapping>) -> Arc<Model> {
        Model::with(mapping, END, 0, true)
    }

    /// With announcements that order nothing between two who announce, so that the fences do no
    /// other ordering's work. There are many more cases then.
    pub(crate) fn weak() -> Arc<Model> {
        Model::with(Mapping::heap((END * WORD) as usize), END, 0, false)
    }

    /// The same, with room for two tables of 128 lines.
    pub(crate) fn large() -> Arc<Model> {
        let end = END + LARGES * LARGE;
        Model::with(Mapping::heap((end * WORD) as usize), end, 0, false)
    }

    /// The same, in memory that has been used: pieces are full of nonsense, until who takes one
    /// zeroes it.
    pub(crate) fn used_before() -> Arc<Model> {
        Model::with(Mapping::heap((END * WORD) as usize), END, OLD, false)
    }

    fn with(mapping: Arc<Mapping>, end: u64, old: u64, is_strong: bool) -> Arc<Model> {
        let pieces = DATA + HEAD + SMALLS * SMALL;
        for at in 0..end {
            let is_piece = (pieces..pieces + PIECES * PIECE).contains(&at);
            let word = AtomicU64::new(if is_piece { old } else { 0 });
            // SAFETY: nobody else has the mapping yet.
            unsafe { mapping.region().place(at * WORD, word) }.unwrap();
        }
        Arc::new(Model { mapping, is_used: old != 0, is_strong, uninformed: 0.into() })
    }

    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    fn word(&self, at: u64) -> &AtomicU64 {
        self.mapping.region().share(at * WORD).unwrap()
    }

    /// Of this and a `heavy_fence` the second sees what was done before the first.
    fn light_fence(&self, me: u32) {
        if !cfg!(shm_explore) {
            let which = if self.is_strong { 0 } else { u64::from(me) - 1 };
            self.word(FENCES + which).fetch_add(1, Ordering::AcqRel);
        }
    }

    /// As if each of the people executed a fence.
    fn heavy_fence(&self) {
        let most = if self.is_strong { 1 } else { PEOPLE as u32 };
        (1..=most).for_each(|me| self.light_fence(me));
    }

    /// From now on `me` cannot find out what is announced, and so gives nothing back.
    pub(crate) fn uninform(&self, me: u32) {
        self.uninformed.store(me, std::sync::atomic::Ordering::Relaxed);
    }

    /// A word of a block, for who looks on.
    pub(crate) fn peek(&self, block: u64, at: u64) -> &AtomicU64 {
        let (first, words) = Model::extent(block).unwrap();
        assert!(at < words);
        self.word(first + at)
    }

    /// The table that the root names.
    pub(crate) fn table(&self) -> u64 {
        value_of(self.peek(value_of(self.place().load(Relaxed)), ROOT).load(Relaxed))
    }

    /// A cell of a table, by its number; in models, and where its piece is there.
    pub(crate) fn cell(&self, table: u64, index: u64) -> &AtomicU64 {
        let piece = value_of(self.peek(table, DIRECTORY + index / 2).load(Relaxed));
        self.peek(piece, index % 2)
    }

    /// The word that names the hash.
    pub(crate) fn place(&self) -> &AtomicU64 {
        self.word(PLACE)
    }

    fn number(&self, word: &AtomicU64) -> u64 {
        let base = self.mapping.region().base().addr().get();
        (std::ptr::from_ref(word).addr() - base) as u64 / WORD
    }

    /// First word and words of a block.
    fn extent(block: u64) -> Option<(u64, u64)> {
        let mut index = block.checked_sub(1)?;
        let mut first = DATA;
        let kinds = [(HEAD, 1), (SMALL, SMALLS), (PIECE, PIECES), (TABLE, TABLES), (LARGE, LARGES)];
        for (words, count) in kinds {
            if index < count {
                return Some((first + index * words, words));
            }
            (index, first) = (index - count, first + count * words);
        }
        None
    }

    fn state(&self, block: u64) -> &AtomicU64 {
        self.word(STATES + block - 1)
    }

    fn end_state(block: u64) -> u64 {
        if (2..2 + SMALLS).contains(&block) { FREE } else { GONE }
    }

    /// What `dead` was taking or giving back.
    pub(crate) fn reap(&self, dead: u32) {
        for block in 1..=BLOCKS {
            let state = self.state(block).load(Ordering::Acquire);
            if matches!(state & 7, TAKING | GIVING) && (state >> 3 & 0xff) as u32 == dead {
                let is_named = self.word(state >> 11).load(Ordering::Acquire) == block;
                let end = if is_named { USED } else { Model::end_state(block) };
                self.state(block).store(end, Ordering::Release);
            }
        }
    }

    /// What `dead` announced.
    pub(crate) fn forget(&self, dead: u32) {
        for slot in 0..SHIELDS {
            self.word(ANNOUNCED + u64::from(dead - 1) * SHIELDS + slot).store(0, Ordering::Release);
        }
    }

    /// Every block that is taken.
    pub(crate) fn used(&self) -> Vec<u64> {
        let state = |block: &u64| self.state(*block).load(Ordering::Acquire);
        (1..=BLOCKS).filter(|block| !matches!(state(block), FREE | GONE)).collect()
    }

    pub(crate) fn ground(self: &Arc<Model>, me: u32) -> ModelGround {
        assert!((1..=PEOPLE as u32).contains(&me));
        ModelGround { model: self.clone(), me, taken: Cell::new(0), guard: None }
    }

    /// One that is refused to a child of the calling process.
    pub(crate) fn guarded(self: &Arc<Model>, me: u32) -> ModelGround {
        ModelGround { guard: Some(ForkGuard::new()), ..self.ground(me) }
    }

    /// Takes a block for nobody, until somebody names it: for a world that is written by hand.
    pub(crate) fn take_by_hand(self: &Arc<Model>, words: u64) -> u64 {
        let name = self.peek(1 + SMALLS, 0);
        let block = self.ground(PEOPLE as u32).take(words, true, name).unwrap();
        name.store(0, Relaxed);
        block
    }
}

/// Keys and values of one word each; a key is its own hash.
pub(crate) fn config(lines_log2: u32) -> HashConfig {
    HashConfig { threads: THREADS, lines_log2, ..HashConfig::new(Size::Fixed(8), Size::Fixed(8)) }
}

/// A handle for participant `me`, which makes the hash if there is none.
pub(crate) fn handle(model: &Arc<Model>, me: u32, lines_log2: u32) -> Hash<ModelGround> {
    let (config, place) = (config(lines_log2), model.place());
    match place.load(Ordering::Acquire) {
        0 => Hash::create(model.ground(me), place, &config).unwrap(),
        block => Hash::attach(model.ground(me), block, &config).unwrap(),
    }
}

/// One process's.
pub(crate) struct ModelGround {
    model: Arc<Model>,
    me: u32,
    taken: Cell<u32>,
    guard: Option<ForkGuard>,
}

pub(crate) struct ModelShield<'g> {
    ground: &'g ModelGround,
    slot: u32,
    is_set: bool,
}

impl ModelShield<'_> {
    fn word(&self) -> &AtomicU64 {
        let row = u64::from(self.ground.me - 1) * SHIELDS;
        self.ground.model.word(ANNOUNCED + row + u64::from(self.slot))
    }
}

impl Shield for ModelShield<'_> {
    fn protect(&mut self, block: u64, is_still: impl FnOnce() -> bool) -> Result<bool, Forked> {
        self.ground.check_fork()?;
        self.is_set = true;
        self.word().store(block, Ordering::Release);
        self.ground.model.light_fence(self.ground.me);
        Ok(is_still())
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_set) {
            self.word().store(0, Ordering::Release);
        }
    }
}

impl Drop for ModelShield<'_> {
    fn drop(&mut self) {
        // First: a stopped process does not come back from its next access.
        self.ground.taken.set(self.ground.taken.get() & !(1 << self.slot));
        self.clear();
    }
}

impl Ground for ModelGround {
    type Shield<'g> = ModelShield<'g>;

    fn shield(&self) -> Result<ModelShield<'_>, HashError> {
        let slot = self.taken.get().trailing_ones();
        assert!(u64::from(slot) < SHIELDS, "more announcements than said");
        self.taken.set(self.taken.get() | 1 << slot);
        Ok(ModelShield { ground: self, slot, is_set: false })
    }

    fn protected(&self, all: &mut Vec<u64>) -> Result<(), HashError> {
        if self.model.uninformed.load(std::sync::atomic::Ordering::Relaxed) == self.me {
            return Err(HashError::Busy);
        }
        self.model.heavy_fence();
        for at in ANNOUNCED..ANNOUNCED + PEOPLE * SHIELDS {
            let block = self.model.word(at).load(Ordering::Acquire);
            if block != 0 {
                all.push(block);
            }
        }
        all.sort_unstable();
        Ok(())
    }

    fn take(&self, words: u64, zeroed: bool, to: &AtomicU64) -> Result<u64, HashError> {
        let (first, count) = match (words, zeroed) {
            (HEAD, _) => (1, 1),
            (_, false) => (2, SMALLS),
            (10..=TABLE, _) => (2 + SMALLS + PIECES, TABLES),
            (words, _) if MODELS && words > TABLE => (2 + SMALLS + PIECES + TABLES, LARGES),
            _ => (2 + SMALLS, PIECES),
        };
        let mine = under_way(TAKING, self.me, self.model.number(to));
        // Each begins elsewhere, so that they seldom meet.
        let begin = u64::from(self.me - 1) * 2;
        for index in 0..count {
            let block = first + (begin + index) % count;
            let state = self.model.state(block);
            let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
            if state.compare_exchange(FREE, mine, ok, err).is_ok() {
                if self.model.is_used && first == 2 + SMALLS {
                    (0..PIECE)
                        .for_each(|at| self.model.peek(block, at).store(0, Ordering::Relaxed));
                }
                to.store(block, Ordering::Release);
                state.store(USED, Ordering::Release);
                return Ok(block);
            }
        }
        Err(HashError::OutOfMemory { bytes: words * 8 })
    }

    fn give(&self, from: &AtomicU64) -> Result<(), HashError> {
        let block = from.load(Ordering::Relaxed);
        let Some((at, _)) = Model::extent(block) else {
            return Err(HashError::Corrupt { what: "a block to give back", value: block });
        };
        let giving = under_way(GIVING, self.me, self.model.number(from));
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        let state = self.model.state(block);
        if state.compare_exchange(USED, giving, ok, err).is_err() {
            let lied = shm_testkit_lied();
            assert!(lied, "block {block} is given back twice");
            return Err(HashError::Corrupt { what: "a block to give back", value: block });
        }
        if Model::end_state(block) == FREE {
            self.model.word(at).store(POISON, Ordering::Relaxed);
            self.model.word(at + 1).store(POISON, Ordering::Relaxed);
        }
        from.store(0, Ordering::Release);
        state.store(Model::end_state(block), Ordering::Release);
        Ok(())
    }

    fn share<T: ShmSync>(&self, block: u64, at: u64) -> Result<&T, HashError> {
        let nonsense = HashError::Corrupt { what: "a block", value: block };
        let Some((first, words)) = Model::extent(block) else { return Err(nonsense) };
        let is_inside =
            at.checked_mul(WORD).is_some_and(|at| at + size_of::<T>() as u64 <= words * WORD);
        if !is_inside {
            return Err(nonsense);
        }
        self.model.mapping.region().share((first + at) * WORD).map_err(|_| nonsense)
    }

    fn words(&self, block: u64, at: u64, count: u64) -> Result<&[AtomicU64], HashError> {
        let nonsense = HashError::Corrupt { what: "a block", value: block };
        let Some((first, words)) = Model::extent(block) else { return Err(nonsense) };
        if at.checked_add(count).is_none_or(|end| end > words) {
            return Err(nonsense);
        }
        let region = self.model.mapping.region();
        region.share_slice((first + at) * WORD, count).map_err(|_| nonsense)
    }

    fn name_of(&self, block: u64) -> u64 {
        block
    }

    fn block_of(&self, name: u64) -> u64 {
        name
    }

    fn hash(&self, key: &[u8], _: u64) -> u64 {
        let key = u64::from_le_bytes(key.try_into().expect("keys of a word"));
        assert!(key != POISON || shm_testkit_lied(), "read after it was given back");
        key
    }

    fn check_fork(&self) -> Result<(), Forked> {
        self.guard.map_or(Ok(()), |guard| guard.check())
    }

    fn me(&self) -> u32 {
        self.me
    }
}

#[cfg(shm_explore)]
fn shm_testkit_lied() -> bool {
    shm_testkit::explore::is_after_a_lie()
}

#[cfg(not(shm_explore))]
fn shm_testkit_lied() -> bool {
    false
}
