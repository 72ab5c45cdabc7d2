//! `Hash`: the hash in the hands of one thread.
use super::HashError;
use super::change::{Change, Changed};
use super::core::{Core, SHIELDS, Shields, Stop};
use super::entry::{Entry, Shape, Size};
use super::ground::Ground;
use super::row::{At, Owned, Place, ROUNDS_MAX, Step, Which};
use super::shared::{HEAD_WORDS, Head, LAYOUT, MAGIC, ROW_WORDS};
use super::table::{LINES_LOG2_MAX, Table, head_words};
use super::word::Word;
use super::{ROWS_MAX, walk};
use shm_core::sync::{AtomicU64, Ordering};
use std::fmt;

/// What a hash is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashConfig {
    /// How long keys are.
    pub key: Size,
    /// How long values are.
    pub value: Size,
    /// How many threads use it at a time, of all processes together.
    pub threads: u32,
    /// The first table has so many lines of 8 cells, as a power of two. It grows by itself.
    pub lines_log2: u32,
    /// Spreads the keys.
    pub seed: u64,
}

impl HashConfig {
    /// For keys and values of these sizes, and up to 64 threads.
    pub fn new(key: Size, value: Size) -> HashConfig {
        HashConfig { key, value, threads: 64, lines_log2: 3, seed: 0x5eed }
    }

    fn check(&self) -> Result<(), HashError> {
        let bad = |what, value: u32| Err(HashError::Config { what, value: value.into() });
        if !(1..=ROWS_MAX).contains(&self.threads) {
            return bad("threads", self.threads);
        }
        if self.lines_log2 > LINES_LOG2_MAX {
            return bad("lines", self.lines_log2);
        }
        for (what, size) in [("keys", self.key), ("values", self.value)] {
            if !size.is_sane() {
                return bad(what, size.max());
            }
        }
        Ok(())
    }
}

/// Retired blocks that a row has room for: more than everybody together can announce, so that
/// some can be given back when there is no room.
pub(super) fn retired_for(threads: u32) -> u64 {
    u64::from(threads) * SHIELDS + BATCH
}

/// So many blocks, at least, are given back at a time.
const BATCH: u64 = if cfg!(any(shm_loom, shm_explore)) { 2 } else { 32 };

/// A shared hash as one thread has it. See the [module](super).
///
/// ```
/// use dsm::area::{Area, AreaConfig};
/// use dsm::hash::{Hash, HashConfig, MemberGround, Size, Walk};
/// use shm_core::hazard::Hazards;
/// use shm_core::mapping::{Mapped, Mapping};
/// use shm_core::participants::Table;
/// use shm_core::sync::{AtomicU64, Ordering};
///
/// // Four things in one piece of shared memory: who takes part, what they announce, a heap, and
/// // the word that names the hash.
/// let (seats, heap) = (4, AreaConfig::new(1 << 20));
/// let hazards_at = Table::bytes_for(seats).next_multiple_of(128);
/// let name_at = (hazards_at + Hazards::bytes_for(seats, 4)).next_multiple_of(128);
/// let area_at = name_at + 4096;
/// let mapping = Mapping::heap((area_at + Area::bytes_for(&heap)) as usize);
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, seats) }?;
/// // SAFETY: as above.
/// let hazards = unsafe { Hazards::create(&mapping, hazards_at, seats, 4) }?;
/// // SAFETY: as above.
/// let area = unsafe { Area::create_in_place(&mapping, area_at, &heap) }?;
/// let name: Mapped<AtomicU64> = Mapped::new(&mapping, name_at)?;
///
/// let member = table.join()?;
/// let row = hazards.row(&member)?;
/// let config = HashConfig::new(Size::Fixed(4), Size::UpTo(100));
/// let mut hash = Hash::create(MemberGround::new(&area, &row)?, &name, &config)?;
/// assert!(hash.insert(b"king", b"pawn to e4")?);
/// assert!(!hash.insert(b"king", b"resigns")?, "it has a value");
///
/// // Another thread, here or in another process, attaches by the name.
/// let ground = MemberGround::new(&area, &row)?;
/// let mut theirs = Hash::attach(ground, name.load(Ordering::Acquire), &config)?;
/// let found = theirs.find(b"king")?.expect("it is there");
/// assert_eq!(found.to_vec(), b"pawn to e4");
/// drop(found);
/// assert!(theirs.compare_update(b"king", b"pawn to e4", b"knight to f3")?);
///
/// let mut walk = Walk::new();
/// let (key, value) = walk.next(&mut hash)?.expect("one entry");
/// assert_eq!((&key[..], &value[..]), (&b"king"[..], &b"knight to f3"[..]));
/// assert!(hash.delete(b"king")? && walk.next(&mut hash)?.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Hash<G: Ground> {
    pub(super) core: Core<G>,
    row: u32,
}

impl<G: Ground> Hash<G> {
    /// Makes a hash. `place` names its head from the beginning, and attachers find it there once it
    /// is whole.
    ///
    /// # Errors
    /// [`HashError::Config`], [`HashError::OutOfMemory`].
    ///
    /// # If a process dies here
    /// Nobody can attach; [`destroy`](Hash::destroy) takes away what there is.
    pub fn create(ground: G, place: &AtomicU64, config: &HashConfig) -> Result<Hash<G>, HashError> {
        config.check()?;
        ground.check_fork()?;
        let retired = retired_for(config.threads);
        let words = HEAD_WORDS + u64::from(config.threads) * (ROW_WORDS + retired);
        let block = ground.take(words, true, place)?;
        let (me, shape) = (ground.me(), Shape { key: config.key, value: config.value });
        let (rows, seed) = (config.threads, config.seed);
        let core = Core { ground, block, shape, seed, rows, retired };
        let head = core.head()?;
        head.layout.store(LAYOUT, Ordering::Relaxed);
        head.seed.store(seed, Ordering::Relaxed);
        head.key_bytes.store(config.key.to_bits(), Ordering::Relaxed);
        head.value_bytes.store(config.value.to_bits(), Ordering::Relaxed);
        head.rows.store(rows.into(), Ordering::Relaxed);
        head.retired.store(retired, Ordering::Relaxed);
        let own = core.row(0)?;
        own.row.claim.store(me.into(), Ordering::Relaxed);
        let fresh = &own.row.table.fresh;
        let table = core.ground.take(head_words(config.lines_log2), true, fresh)?;
        Table::make(&core.ground, table, config.lines_log2)?;
        let root = Place { word: &head.root, block: 0, at: At::Root };
        let step = Step { expected: Word::EMPTY, last: Word::block(table, 0), old: 0 };
        own.step(Which::Table, root, step)
            .map_err(|now| HashError::corrupt("the root", now.bits()))?;
        // Pairs with the Acquire in `attach`: all this.
        head.magic.store(MAGIC, Ordering::Release);
        Ok(Hash { core, row: 0 })
    }

    /// The hash that `name` names, which its creator's place holds, for this thread.
    ///
    /// # Errors
    /// [`HashError::NotAHash`], [`HashError::Other`], [`HashError::RowsTaken`].
    ///
    /// # If a process dies here
    /// It has a row, or none; the row comes back when it is reaped.
    pub fn attach(ground: G, name: u64, config: &HashConfig) -> Result<Hash<G>, HashError> {
        let core = Hash::look(ground, name, config)?;
        let row = core.take_row()?;
        Ok(Hash { core, row })
    }

    /// What `attach` checks.
    pub(super) fn look(ground: G, name: u64, config: &HashConfig) -> Result<Core<G>, HashError> {
        config.check()?;
        ground.check_fork()?;
        if name == 0 {
            return Err(HashError::NotAHash);
        }
        let block = ground.adopt(name)?;
        let head: &Head = ground.share(block, 0)?;
        // Pairs with the Release in `create`: all the rest.
        if head.magic.load(Ordering::Acquire) != MAGIC {
            return Err(HashError::NotAHash);
        }
        let same = |what, word: &AtomicU64, expected: u64| {
            let found = word.load(Ordering::Relaxed);
            if found == expected { Ok(()) } else { Err(HashError::Other { what, expected, found }) }
        };
        same("layout", &head.layout, LAYOUT)?;
        same("key size", &head.key_bytes, config.key.to_bits())?;
        same("value size", &head.value_bytes, config.value.to_bits())?;
        let rows = head.rows.load(Ordering::Relaxed);
        let retired = head.retired.load(Ordering::Relaxed);
        if !(1..=u64::from(ROWS_MAX)).contains(&rows) {
            return Err(HashError::corrupt("the number of rows", rows));
        }
        let rows = rows as u32;
        if retired != retired_for(rows) {
            return Err(HashError::corrupt("the retired words of a row", retired));
        }
        let seed = head.seed.load(Ordering::Relaxed);
        let shape = Shape { key: config.key, value: config.value };
        Ok(Core { ground, block, shape, seed, rows, retired })
    }

    /// What others attach by.
    pub fn name(&self) -> u64 {
        self.core.ground.name_of(self.core.block)
    }

    /// The value of `key`, for as long as the [`Ref`] lives.
    ///
    /// # Errors
    /// [`HashError::KeyLength`], [`HashError::Busy`], [`HashError::Forked`],
    /// [`HashError::Corrupt`].
    ///
    /// # If a process dies here
    /// What it looked at is given back once it has been reaped.
    #[inline]
    pub fn find(&mut self, key: &[u8]) -> Result<Option<Ref<'_, G>>, HashError> {
        let mut shields = self.core.shields()?;
        let found = self.core.find(&mut shields, key)?;
        Ok(found.map(|entry| Ref { entry, _shields: shields }))
    }

    /// Copies the first bytes of the value of `key` to `out`, as many as there is room for; says
    /// how long the value is.
    ///
    /// # Errors
    /// As [`find`](Hash::find).
    #[inline]
    pub fn get(&mut self, key: &[u8], out: &mut [u8]) -> Result<Option<usize>, HashError> {
        let mut shields = self.core.shields()?;
        let len = self.core.find(&mut shields, key)?.map(|entry| {
            entry.copy_value(out);
            entry.value_len()
        });
        shields.clear();
        Ok(len)
    }

    /// Gives `key` this value, unless it has one. Says whether it did.
    ///
    /// # Errors
    /// [`HashError::KeyLength`], [`HashError::ValueLength`], [`HashError::OutOfMemory`],
    /// [`HashError::Full`], and as [`find`](Hash::find). The hash is as it was.
    ///
    /// # If a process dies here
    /// The key has the value or not; nothing leaks.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<bool, HashError> {
        Ok(self.change(key, Change::Insert(value))? == Changed::Inserted)
    }

    /// Gives `key` this value. Says whether it had none before.
    ///
    /// # Errors
    /// As [`insert`](Hash::insert).
    ///
    /// # If a process dies here
    /// The key has this value, or what it had before; nothing leaks.
    pub fn upsert(&mut self, key: &[u8], value: &[u8]) -> Result<bool, HashError> {
        Ok(self.change(key, Change::Upsert(value))? == Changed::Inserted)
    }

    /// Gives `key` this value, if it has one. Says whether it did.
    ///
    /// # Errors
    /// As [`insert`](Hash::insert).
    ///
    /// # If a process dies here
    /// The key has this value, or what it had before; nothing leaks.
    pub fn update(&mut self, key: &[u8], value: &[u8]) -> Result<bool, HashError> {
        Ok(self.change(key, Change::Update(value))? == Changed::Replaced)
    }

    /// Gives `key` the value `new`, if it has the value `had`. Says whether it did.
    ///
    /// # Errors
    /// As [`insert`](Hash::insert).
    ///
    /// # If a process dies here
    /// The key has this value, or what it had before; nothing leaks.
    pub fn compare_update(
        &mut self,
        key: &[u8],
        had: &[u8],
        new: &[u8],
    ) -> Result<bool, HashError> {
        Ok(self.change(key, Change::Replace(had, new))? == Changed::Replaced)
    }

    /// Deletes `key`. Says whether it had a value.
    ///
    /// # Errors
    /// As [`find`](Hash::find), and [`HashError::OutOfMemory`] while the table is being moved.
    ///
    /// # If a process dies here
    /// The key has its value, or none; nothing leaks.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, HashError> {
        Ok(self.change(key, Change::Delete)? == Changed::Replaced)
    }

    /// Deletes `key`, if it has the value `had`. Says whether it did.
    ///
    /// # Errors
    /// As [`delete`](Hash::delete).
    ///
    /// # If a process dies here
    /// The key has its value, or none; nothing leaks.
    pub fn compare_delete(&mut self, key: &[u8], had: &[u8]) -> Result<bool, HashError> {
        Ok(self.change(key, Change::DeleteIf(had))? == Changed::Replaced)
    }

    #[inline]
    fn change(&mut self, key: &[u8], change: Change<'_>) -> Result<Changed, HashError> {
        self.core.ground.check_fork()?;
        self.core.change(self.row, key, change)
    }

    /// Finishes or undoes what a dead participant was doing, and gives its rows back. How many.
    ///
    /// Call it once the participant is known to be dead, where nobody else does so at the same
    /// time (in the clean-up of [`Table::reap`](shm_core::participants::Table::reap)); after the
    /// area was reaped, and before its announcements are taken back.
    ///
    /// # Errors
    /// As [`find`](Hash::find). What is left to be done is done by the next call.
    ///
    /// # If a process dies here
    /// The next one to reap goes on.
    pub fn reap(&mut self, dead: u32) -> Result<u32, HashError> {
        self.core.ground.check_fork()?;
        self.core.reap(dead)
    }

    /// Gives back what deletions have left and nobody looks at any more.
    ///
    /// # Errors
    /// [`HashError::Busy`], [`HashError::Forked`], [`HashError::Corrupt`].
    ///
    /// # If a process dies here
    /// The rest is given back when it has been reaped.
    pub fn tidy(&mut self) -> Result<(), HashError> {
        self.core.ground.check_fork()?;
        let own = self.core.row(self.row)?;
        self.core.collect(&own)
    }

    /// Goes on with the move to another table, if there is one, until it is complete.
    ///
    /// # Errors
    /// As [`insert`](Hash::insert).
    ///
    /// # If a process dies here
    /// Others go on.
    pub fn settle(&mut self) -> Result<(), HashError> {
        self.core.ground.check_fork()?;
        self.core.finish_move(self.row)
    }

    /// Takes a hash away that nobody uses any more; `place` names its head, and 0 afterwards.
    ///
    /// # Errors
    /// [`HashError::Corrupt`].
    ///
    /// # Safety
    /// Nobody else is attached to it, or attaches.
    ///
    /// # If a process dies here
    /// Call it again.
    pub unsafe fn destroy(ground: G, place: &AtomicU64) -> Result<(), HashError> {
        walk::destroy(ground, place)
    }
}

impl<G: Ground> Core<G> {
    fn take_row(&self) -> Result<u32, HashError> {
        for index in 0..self.rows {
            let own = self.row(index)?;
            // Pairs with the Release of who gave it back: all the rest of it.
            let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
            let me = self.ground.me().into();
            if own.row.claim.load(Ordering::Relaxed) == 0
                && own.row.claim.compare_exchange(0, me, ok, err).is_ok()
            {
                return Ok(index);
            }
        }
        Err(HashError::RowsTaken { rows: self.rows })
    }

    /// See [`Hash::reap`].
    pub(super) fn reap(&self, dead: u32) -> Result<u32, HashError> {
        let mut rows = 0;
        for index in 0..self.rows {
            let own = self.row(index)?;
            // Pairs with the Release of who took it.
            if own.row.claim.load(Ordering::Acquire) == u64::from(dead) && dead != 0 {
                self.clean(&own)?;
                self.give_row(&own);
                rows += 1;
            }
        }
        Ok(rows)
    }

    pub(super) fn clean(&self, own: &Owned<'_>) -> Result<(), HashError> {
        self.finish_giving(own)?;
        self.settle(own, Which::Table)?;
        self.settle(own, Which::Entry)?;
        self.collect(own)
    }

    fn give_row(&self, own: &Owned<'_>) {
        // Pairs with the Acquire in `take_row`: the rest of the row.
        own.row.claim.store(0, Ordering::Release);
    }

    /// Moves what is left of the root's table, until the root has left it.
    fn finish_move(&self, by: u32) -> Result<(), HashError> {
        let by = self.row(by)?;
        let mut shields = self.shields()?;
        // Twice as many rounds as it has chunks: somebody may be at one of them.
        let (mut block, mut left) = (0, u64::from(ROUNDS_MAX));
        while left > 0 {
            left -= 1;
            match self.move_some(&mut shields, by) {
                Ok(Some(from)) if block == 0 => {
                    block = from.block;
                    left += 2 * from.chunks();
                }
                Ok(Some(from)) if from.block == block => {}
                Err(Stop::Again) => {}
                Ok(_) => return Ok(()),
                Err(Stop::Error(error)) => return Err(error),
            }
        }
        Err(HashError::Busy)
    }

    /// Moves a chunk of the root's table, if that is being left.
    fn move_some<'g>(
        &'g self,
        shields: &mut Shields<'g, G>,
        by: Owned<'g>,
    ) -> Result<Option<Table<'g>>, Stop> {
        self.load_settled(&self.head()?.root)?;
        let from = self.enter(shields)?;
        if self.load_settled(&from.head.next)?.is_empty() {
            return Ok(None);
        }
        let Some(to) = self.next(shields, &from)? else { return Err(Stop::Again) };
        self.move_chunk(shields, &super::migrate::Move { from, to, by })?;
        Ok(Some(from))
    }
}

impl<G: Ground> Drop for Hash<G> {
    fn drop(&mut self) {
        // In a forked child the row is the parent's.
        if self.core.ground.check_fork().is_err() {
            return;
        }
        let Ok(own) = self.core.row(self.row) else { return };
        // What is still looked at stays in the row, for its next owner.
        let _ = self.core.collect(&own);
        self.core.give_row(&own);
    }
}

impl<G: Ground> fmt::Debug for Hash<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hash").field("block", &self.core.block).field("row", &self.row).finish()
    }
}

/// A value that was found, which is not given back while this lives.
pub struct Ref<'h, G: Ground + 'h> {
    entry: Entry<'h>,
    _shields: Shields<'h, G>,
}

impl<G: Ground> Ref<'_, G> {
    /// A copy of the value.
    pub fn to_vec(&self) -> Vec<u8> {
        self.entry.value()
    }

    /// Bytes of the value.
    pub fn len(&self) -> usize {
        self.entry.value_len()
    }

    /// Whether the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the value's first bytes, as many as `out` has room for.
    pub fn copy_to(&self, out: &mut [u8]) {
        self.entry.copy_value(out);
    }
}

impl<G: Ground> fmt::Debug for Ref<'_, G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ref").field("len", &self.len()).finish()
    }
}
