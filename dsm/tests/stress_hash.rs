//! Threads at one hash for a while: what each has put there it finds, whatever moves meanwhile;
//! counters that all raise lose nothing; a walk sees every key that stays, once; nothing leaks.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hash_common;

use dsm::hash::{Hash, HashConfig, HashError, Size, Walk};
use hash_common::{Plain, PlainGround};
use shm_core::sync::AtomicU64;
use shm_testkit::watchdog::within;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const TIME: Duration = Duration::from_millis(1500);
const THREADS: u64 = 4;
/// Keys that stay for ever.
const LASTING: u64 = 200;
const COUNTERS: u64 = 8;

fn config() -> HashConfig {
    HashConfig { threads: 8, ..HashConfig::new(Size::Fixed(8), Size::Fixed(8)) }
}

type Handle = Hash<PlainGround>;

fn again<R>(mut call: impl FnMut() -> Result<R, HashError>) -> R {
    for _ in 0..1000 {
        match call() {
            Err(HashError::Busy) => std::thread::yield_now(),
            end => return end.unwrap(),
        }
    }
    panic!("busy all the time");
}

fn get(hash: &mut Handle, key: u64) -> Option<u64> {
    let mut out = [0; 8];
    let found = again(|| hash.get(&key.to_le_bytes(), &mut out));
    found.map(|_| u64::from_le_bytes(out))
}

/// Inserts, updates and deletes keys of its own, many and few by turns, and raises the counters:
/// by how much.
fn changes(hash: &mut Handle, thread: u64, end: Instant) -> u64 {
    let (mut random, mut raised) = (thread + 1, 0);
    let mut own: HashMap<u64, u64> = HashMap::new();
    while Instant::now() < end {
        for _ in 0..200 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
            let key = 1 << 40 | thread << 32 | ((random >> 40) % 3000);
            let value = random >> 3;
            let bytes = (key.to_le_bytes(), value.to_le_bytes());
            // Thousands of operations of growth, and then of shrinking.
            match (random >> 33) % 8 + if own.len() > 2000 { 3 } else { 0 } {
                0..4 => {
                    let is_new = again(|| hash.upsert(&bytes.0, &bytes.1));
                    assert_eq!(own.insert(key, value).is_none(), is_new, "key {key:#x}");
                }
                4..6 => assert_eq!(get(hash, key), own.get(&key).copied(), "key {key:#x}"),
                _ => {
                    let was_there = again(|| hash.delete(&bytes.0));
                    assert_eq!(own.remove(&key).is_some(), was_there, "key {key:#x}");
                }
            }
        }
        let counter = ((1 << 50) | (random % COUNTERS)).to_le_bytes();
        let had = get(hash, u64::from_le_bytes(counter)).unwrap();
        let new = (had + 1).to_le_bytes();
        raised += u64::from(again(|| hash.compare_update(&counter, &had.to_le_bytes(), &new)));
    }
    for (key, value) in &own {
        assert_eq!(get(hash, *key), Some(*value), "key {key:#x}");
        assert!(again(|| hash.delete(&key.to_le_bytes())));
    }
    raised
}

/// Walks, again and again: how often.
fn walks(hash: &mut Handle, end: Instant) -> u64 {
    let mut count = 0;
    while Instant::now() < end {
        let (mut walk, mut seen) = (Walk::new(), HashMap::new());
        while let Some((key, value)) = again(|| walk.next(hash)) {
            let key = u64::from_le_bytes(key.try_into().unwrap());
            assert!(seen.insert(key, value).is_none(), "{key:#x} is seen twice");
        }
        for key in 0..LASTING {
            assert_eq!(seen.get(&key), Some(&key.to_le_bytes().to_vec()), "{key} is not seen");
        }
        count += 1;
    }
    count
}

fn attach(plain: &Arc<Plain>, thread: u64, name: u64) -> Handle {
    Hash::attach(plain.ground(thread as usize + 1), name, &config()).unwrap()
}

#[test]
fn many_change_it_and_one_walks() {
    within(LIMIT, many_change);
}

fn many_change() {
    let plain = Plain::new(64 << 20);
    let place = AtomicU64::new(0);
    let mut hash = Hash::create(plain.ground(0), &place, &config()).unwrap();
    for key in (0..LASTING).chain((0..COUNTERS).map(|counter| 1 << 50 | counter)) {
        let value = if key < LASTING { key } else { 0 };
        hash.insert(&key.to_le_bytes(), &value.to_le_bytes()).unwrap();
    }
    let (name, end) = (hash.name(), Instant::now() + TIME);
    let mut raised = 0;
    std::thread::scope(|scope| {
        let changers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let plain = &plain;
                scope.spawn(move || changes(&mut attach(plain, thread, name), thread, end))
            })
            .collect();
        let walker = scope.spawn(|| walks(&mut attach(&plain, THREADS, name), end));
        raised = changers.into_iter().map(|thread| thread.join().unwrap()).sum();
        println!("{raised} raises, {} walks", walker.join().unwrap());
    });
    let counted: u64 = (0..COUNTERS).map(|at| get(&mut hash, 1 << 50 | at).unwrap()).sum();
    assert_eq!(counted, raised, "an increment was lost");
    let report = hash.verify().unwrap();
    assert_eq!((report.entries, report.faults.len()), (LASTING + COUNTERS, 0));
    assert_eq!(report.blocks, plain.used(), "leaked, or lost");
}
