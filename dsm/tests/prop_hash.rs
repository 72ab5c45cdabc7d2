//! Any sequence of insertions, updates, deletions and finds agrees with a plain map, through
//! growth, shrinking and every state of a move; nothing leaks; a walk sees all.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hash_common;

use dsm::hash::{Hash, HashConfig, HashError, Size, Walk};
use hash_common::{Plain, PlainGround};
use proptest::prelude::*;
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::depth::cases;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Op {
    Insert(u16, u8),
    Upsert(u16, u8),
    Update(u16, u8),
    CompareUpdate(u16, u8, u8),
    Delete(u16),
    CompareDelete(u16, u8),
    Find(u16),
    /// So many keys from there on, inserted or deleted.
    Fill(u16, u16),
    Empty(u16, u16),
    Walk,
    Tidy,
    Settle,
    Verify,
}

fn op() -> impl Strategy<Value = Op> {
    let key = || prop_oneof![3 => 0..40u16, 1 => 0..2000u16];
    let value = || 0..4u8;
    prop_oneof![
        4 => (key(), value()).prop_map(|(key, value)| Op::Insert(key, value)),
        3 => (key(), value()).prop_map(|(key, value)| Op::Upsert(key, value)),
        2 => (key(), value()).prop_map(|(key, value)| Op::Update(key, value)),
        2 => (key(), value(), value()).prop_map(|(key, a, b)| Op::CompareUpdate(key, a, b)),
        4 => key().prop_map(Op::Delete),
        2 => (key(), value()).prop_map(|(key, value)| Op::CompareDelete(key, value)),
        3 => key().prop_map(Op::Find),
        2 => (0..2000u16, 0..300u16).prop_map(|(from, count)| Op::Fill(from, count)),
        2 => (0..2000u16, 0..400u16).prop_map(|(from, count)| Op::Empty(from, count)),
        1 => Just(Op::Walk),
        1 => Just(Op::Tidy),
        1 => Just(Op::Settle),
        1 => Just(Op::Verify),
    ]
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// A hash, the map that it should be, and how keys and values look.
struct Pair {
    plain: Arc<Plain>,
    hash: Hash<PlainGround>,
    map: Map,
    varies: bool,
}

impl Pair {
    fn key(&self, key: u16) -> Vec<u8> {
        if self.varies { vec![key as u8; key as usize % 100] } else { key.to_le_bytes().to_vec() }
    }

    fn value(&self, value: u8) -> Vec<u8> {
        if self.varies { vec![value; value as usize * 9] } else { vec![value] }
    }

    fn apply(&mut self, op: &Op) -> Result<(), HashError> {
        match *op {
            Op::Insert(key, value) => {
                let (key, value) = (self.key(key), self.value(value));
                let is_new = !self.map.contains_key(&key);
                assert_eq!(self.hash.insert(&key, &value)?, is_new);
                self.map.entry(key).or_insert(value);
            }
            Op::Upsert(key, value) => {
                let (key, value) = (self.key(key), self.value(value));
                let is_new = !self.map.contains_key(&key);
                assert_eq!(self.hash.upsert(&key, &value)?, is_new);
                self.map.insert(key, value);
            }
            Op::Update(key, value) => {
                let (key, value) = (self.key(key), self.value(value));
                assert_eq!(self.hash.update(&key, &value)?, self.map.contains_key(&key));
                self.map.entry(key).and_modify(|had| *had = value);
            }
            Op::CompareUpdate(key, had, new) => {
                let (key, had, new) = (self.key(key), self.value(had), self.value(new));
                let is_right = self.map.get(&key) == Some(&had);
                assert_eq!(self.hash.compare_update(&key, &had, &new)?, is_right);
                if is_right {
                    self.map.insert(key, new);
                }
            }
            Op::Delete(key) => {
                let key = self.key(key);
                assert_eq!(self.hash.delete(&key)?, self.map.remove(&key).is_some());
            }
            Op::CompareDelete(key, had) => {
                let (key, had) = (self.key(key), self.value(had));
                let is_right = self.map.get(&key) == Some(&had);
                assert_eq!(self.hash.compare_delete(&key, &had)?, is_right);
                if is_right {
                    self.map.remove(&key);
                }
            }
            Op::Find(key) => {
                let key = self.key(key);
                let found = self.hash.find(&key)?.map(|found| found.to_vec());
                assert_eq!(found.as_ref(), self.map.get(&key));
            }
            Op::Fill(from, count) => {
                for key in from..from + count {
                    self.apply(&Op::Insert(key, key as u8 % 4))?;
                }
            }
            Op::Empty(from, count) => {
                for key in from..from + count {
                    self.apply(&Op::Delete(key))?;
                }
            }
            Op::Walk => assert_eq!(self.walk()?, self.map),
            Op::Tidy => self.hash.tidy()?,
            Op::Settle => self.hash.settle()?,
            Op::Verify => {
                let report = self.hash.verify()?;
                assert_eq!(report.faults, Vec::<String>::new());
                assert_eq!(report.entries, self.map.len() as u64);
                assert_eq!(report.blocks, self.plain.used(), "leaked, or lost");
            }
        }
        Ok(())
    }

    fn walk(&mut self) -> Result<Map, HashError> {
        let (mut walk, mut all) = (Walk::new(), Map::new());
        while let Some((key, value)) = walk.next(&mut self.hash)? {
            assert!(all.insert(key, value).is_none(), "seen twice");
        }
        Ok(all)
    }
}

fn config(varies: bool, lines_log2: u32) -> HashConfig {
    let (key, value) = match varies {
        true => (Size::UpTo(100), Size::UpTo(50)),
        false => (Size::Fixed(2), Size::Fixed(1)),
    };
    HashConfig { threads: 2, lines_log2, ..HashConfig::new(key, value) }
}

fn run(ops: &[Op], varies: bool, lines_log2: u32) {
    let plain = Plain::new(4 << 20);
    let place = AtomicU64::new(0);
    let hash = Hash::create(plain.ground(0), &place, &config(varies, lines_log2)).unwrap();
    let mut pair = Pair { plain, hash, map: Map::new(), varies };
    for op in ops {
        pair.apply(op).unwrap_or_else(|error| panic!("{op:?}: {error}"));
    }
    pair.apply(&Op::Verify).unwrap();
    pair.apply(&Op::Walk).unwrap();
    let Pair { plain, hash, .. } = pair;
    drop(hash);
    // SAFETY: nobody else is attached.
    unsafe { Hash::destroy(plain.ground(0), &place) }.unwrap();
    assert_eq!(plain.used(), Vec::<u64>::new(), "leaked");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(100)))]

    #[test]
    fn agrees_with_a_map(
        ops in prop::collection::vec(op(), 0..60), varies: bool, lines_log2 in 0..4u32,
    ) {
        run(&ops, varies, lines_log2);
    }
}

#[test]
fn grows_and_shrinks_and_keeps_all() {
    let plain = Plain::new(64 << 20);
    let place = AtomicU64::new(0);
    let config = HashConfig { threads: 2, ..HashConfig::new(Size::Fixed(8), Size::Fixed(8)) };
    let mut hash = Hash::create(plain.ground(0), &place, &config).unwrap();
    const COUNT: u64 = 100_000;
    for key in 0..COUNT {
        assert!(hash.insert(&key.to_le_bytes(), &(key * 3).to_le_bytes()).unwrap());
    }
    let grown = hash.verify().unwrap();
    assert_eq!((grown.entries, grown.faults.len()), (COUNT, 0));
    assert!(grown.cells >= COUNT && grown.cells <= 8 * COUNT, "{}", grown.cells);
    let mut value = [0; 8];
    for key in 0..COUNT {
        assert_eq!(hash.get(&key.to_le_bytes(), &mut value).unwrap(), Some(8));
        assert_eq!(u64::from_le_bytes(value), key * 3);
    }
    for key in 10..COUNT {
        assert!(hash.delete(&key.to_le_bytes()).unwrap());
    }
    let shrunk = hash.verify().unwrap();
    assert_eq!((shrunk.entries, shrunk.faults.len()), (10, 0));
    assert!(shrunk.cells < grown.cells / 8, "{} of {}", shrunk.cells, grown.cells);
}

/// One has died behind its step, in a table that has been left since, and whose block is the head
/// of a smaller one now, without a cell of that number.
#[test]
fn who_cleans_up_may_find_another_table_in_the_block() {
    let (plain, place) = (Plain::new(4 << 20), AtomicU64::new(0));
    let config = HashConfig::new(Size::Fixed(8), Size::Fixed(8));
    let config = HashConfig { threads: 2, lines_log2: 9, ..config };
    let mut dead = Hash::create(plain.unhashed(0), &place, &config).unwrap();
    let name = place.load(Relaxed);
    let mut hash = Hash::attach(plain.unhashed(1), name, &config).unwrap();
    let (last, other) = (u64::MAX.to_le_bytes(), (1u64 << 40).to_le_bytes());
    assert!(dead.insert(&last, &[0; 8]).unwrap() && dead.update(&last, &[1; 8]).unwrap());
    // As it was when the mark had been taken away: nothing retired, a fresh block on record.
    let row = |at: u64| -> &AtomicU64 { plain.mapping().region().share((name + at) * 8).unwrap() };
    row(8 + 2).store((row(8 + 2).load(Relaxed) - 4) | 2, Relaxed);
    row(8 + 3).store(row(8 + 4).load(Relaxed) & ((1 << 47) - 1), Relaxed);
    row(8 + 16).store(0, Relaxed);
    std::mem::forget(dead);
    // It shrinks twice: to another block, and back to that of the first.
    for _ in 0..2 {
        assert!(hash.insert(&other, &other).unwrap() && hash.delete(&other).unwrap());
        hash.settle().unwrap();
        hash.tidy().unwrap();
    }
    assert_eq!(hash.reap(1), Ok(1));
    let report = hash.verify().unwrap();
    assert_eq!((report.cells, report.faults), (128 * 8, Vec::new()));
    assert_eq!(report.blocks, plain.used());
    assert_eq!(hash.get(&last, &mut [0; 8]), Ok(Some(8)));
}
