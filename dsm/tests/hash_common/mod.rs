//! What a hash stands on, in tests: blocks and announcements that say when they are misused.
#![allow(dead_code)] // each test uses its part

use dsm::hash::HashError;
use dsm::hash::ground::{Ground, Shield};
use shm_core::ShmSync;
use shm_core::mapping::Mapping;
use shm_core::process::Forked;
use shm_core::sync::{AtomicU64, Ordering};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Words of a line: blocks begin at a multiple of them.
const LINE: u64 = 8;
const SHIELDS: usize = 16;
const THREADS: usize = 32;
/// What stands in a block that nobody has.
const POISON: u64 = 0xf0f0_f0f0_f0f0_f0f0;

/// Blocks of one mapping, and who announces which; for the threads of one process.
pub(crate) struct Plain {
    mapping: Arc<Mapping>,
    blocks: Mutex<Blocks>,
    announced: Vec<AtomicU64>,
    fence: AtomicU64,
    /// Blocks that may still be taken.
    left: AtomicU64,
    /// What is given back may be nonsense.
    lies: bool,
}

#[derive(Default)]
struct Blocks {
    end: u64,
    free: HashMap<u64, Vec<u64>>,
    used: HashMap<u64, u64>,
}

/// One thread's.
#[derive(Clone)]
pub(crate) struct PlainGround {
    plain: Arc<Plain>,
    thread: usize,
    taken: std::rc::Rc<std::cell::Cell<u32>>,
    scramble: bool,
}

impl Plain {
    pub(crate) fn new(bytes: usize) -> Arc<Plain> {
        Plain::over(Mapping::heap(bytes), false)
    }

    /// Over this memory, which may be full of `lies`.
    pub(crate) fn over(mapping: Arc<Mapping>, lies: bool) -> Arc<Plain> {
        let announced = (0..THREADS * SHIELDS).map(|_| AtomicU64::new(0)).collect();
        let blocks = Mutex::new(Blocks { end: LINE, ..Blocks::default() });
        let (fence, left) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Arc::new(Plain { mapping, blocks, announced, fence, left, lies })
    }

    pub(crate) fn ground(self: &Arc<Plain>, thread: usize) -> PlainGround {
        assert!(thread < THREADS);
        PlainGround { plain: self.clone(), thread, taken: Default::default(), scramble: true }
    }

    /// Keys of eight bytes are their own hashes.
    pub(crate) fn unhashed(self: &Arc<Plain>, thread: usize) -> PlainGround {
        PlainGround { scramble: false, ..self.ground(thread) }
    }

    /// What is taken and what is free, as it was in the other one.
    pub(crate) fn copy_blocks(&self, of: &Plain) {
        let of = of.blocks.lock().unwrap();
        *self.blocks.lock().unwrap() =
            Blocks { end: of.end, free: of.free.clone(), used: of.used.clone() };
    }

    /// Every block that is taken, sorted.
    pub(crate) fn used(&self) -> Vec<u64> {
        let mut used: Vec<u64> = self.blocks.lock().unwrap().used.keys().copied().collect();
        used.sort_unstable();
        used
    }

    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// From now on so many blocks can be taken.
    pub(crate) fn only(&self, blocks: u64) {
        self.left.store(blocks, Ordering::Relaxed);
    }

    fn word(&self, at: u64) -> &AtomicU64 {
        self.mapping.region().share(at * 8).unwrap()
    }
}

/// See [`Shield`].
pub(crate) struct PlainShield<'g> {
    ground: &'g PlainGround,
    slot: u32,
}

impl Shield for PlainShield<'_> {
    fn protect(&mut self, block: u64, is_still: impl FnOnce() -> bool) -> Result<bool, Forked> {
        let word = &self.ground.plain.announced[self.at()];
        word.store(block, Ordering::Release);
        // As a fence: of this and the one in `protected` one comes first.
        self.ground.plain.fence.fetch_add(1, Ordering::AcqRel);
        Ok(is_still())
    }

    fn clear(&mut self) {
        self.ground.plain.announced[self.at()].store(0, Ordering::Release);
    }
}

impl PlainShield<'_> {
    fn at(&self) -> usize {
        self.ground.thread * SHIELDS + self.slot as usize
    }
}

impl Drop for PlainShield<'_> {
    fn drop(&mut self) {
        self.clear();
        let taken = &self.ground.taken;
        taken.set(taken.get() & !(1 << self.slot));
    }
}

impl Ground for PlainGround {
    type Shield<'g> = PlainShield<'g>;

    fn shield(&self) -> Result<PlainShield<'_>, HashError> {
        let slot = self.taken.get().trailing_ones();
        if slot as usize >= SHIELDS {
            return Err(HashError::Busy);
        }
        self.taken.set(self.taken.get() | 1 << slot);
        Ok(PlainShield { ground: self, slot })
    }

    fn protected(&self, all: &mut Vec<u64>) -> Result<(), HashError> {
        // Pairs with the one in `protect`.
        self.plain.fence.fetch_add(1, Ordering::AcqRel);
        let announced = self.plain.announced.iter().map(|word| word.load(Ordering::Acquire));
        all.extend(announced.filter(|block| *block != 0));
        all.sort_unstable();
        Ok(())
    }

    fn take(&self, words: u64, zeroed: bool, to: &AtomicU64) -> Result<u64, HashError> {
        let before = to.load(Ordering::Relaxed);
        assert!(before == 0 || self.plain.lies, "it names another block: {before:#x}");
        let out_of_memory = HashError::OutOfMemory { bytes: words * 8 };
        let mut blocks = self.plain.blocks.lock().unwrap();
        let left = self.plain.left.load(Ordering::Relaxed);
        self.plain.left.store(left.checked_sub(1).ok_or(out_of_memory)?, Ordering::Relaxed);
        let block = match blocks.free.get_mut(&words).and_then(Vec::pop) {
            Some(block) => block,
            None => {
                let block = blocks.end;
                let end = (block + words).next_multiple_of(LINE);
                if end * 8 > self.plain.mapping.len() as u64 {
                    return Err(out_of_memory);
                }
                blocks.end = end;
                block
            }
        };
        for word in block..block + if zeroed { words } else { 0 } {
            self.plain.word(word).store(0, Ordering::Relaxed);
        }
        assert!(blocks.used.insert(block, words).is_none());
        to.store(block, Ordering::Relaxed);
        Ok(block)
    }

    fn give(&self, from: &AtomicU64) -> Result<(), HashError> {
        let mut blocks = self.plain.blocks.lock().unwrap();
        let block = from.swap(0, Ordering::Relaxed);
        let Some(words) = blocks.used.remove(&block) else {
            assert!(self.plain.lies, "given back, and nobody had it: {block:#x}");
            return Err(HashError::Corrupt { what: "a block to give back", value: block });
        };
        for word in block..block + words {
            self.plain.word(word).store(POISON, Ordering::Relaxed);
        }
        blocks.free.entry(words).or_default().push(block);
        Ok(())
    }

    fn share<T: ShmSync>(&self, block: u64, at: u64) -> Result<&T, HashError> {
        let nonsense = |_| HashError::Corrupt { what: "a block", value: block };
        let at = block.wrapping_add(at).wrapping_mul(8);
        self.plain.mapping.region().share(at).map_err(nonsense)
    }

    fn words(&self, block: u64, at: u64, count: u64) -> Result<&[AtomicU64], HashError> {
        let nonsense = |_| HashError::Corrupt { what: "a block", value: block };
        let at = block.wrapping_add(at).wrapping_mul(8);
        self.plain.mapping.region().share_slice(at, count).map_err(nonsense)
    }

    fn name_of(&self, block: u64) -> u64 {
        block
    }

    fn block_of(&self, name: u64) -> u64 {
        name
    }

    fn hash(&self, key: &[u8], seed: u64) -> u64 {
        match key.try_into() {
            Ok(bytes) if !self.scramble => u64::from_le_bytes(bytes),
            _ => key.iter().fold(seed, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
            }),
        }
    }

    fn check_fork(&self) -> Result<(), Forked> {
        Ok(())
    }

    fn me(&self) -> u32 {
        self.thread as u32 + 1
    }
}
