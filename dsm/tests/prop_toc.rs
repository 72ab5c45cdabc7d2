//! Any sequence of allocations, insertions and look-ups agrees with a map; nonsense in the memory
//! is an error.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::toc::{CHUNK_ALIGN, Toc, TocError, TocPlan};
use proptest::prelude::*;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::depth::cases;
use std::collections::BTreeMap;

const MAGIC: u64 = 0x50;
const LEN: u64 = 2048;
const ENTRIES: u64 = 6;

#[derive(Clone, Debug)]
enum Op {
    Allocate {
        size: u64,
        align: u64,
    },
    /// Inserts the last chunk allocated.
    Insert {
        key: u64,
    },
    Lookup {
        key: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let key = || prop_oneof![0..8u64, Just(u64::MAX - 1), Just(u64::MAX)];
    let size = prop_oneof![0..300u64, Just(u64::MAX), Just(LEN)];
    prop_oneof![
        (size, 0..14u32).prop_map(|(size, bits)| Op::Allocate { size, align: 1 << bits }),
        key().prop_map(|key| Op::Insert { key }),
        key().prop_map(|key| Op::Lookup { key }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn agrees_with_a_map(ops in prop::collection::vec(op(), 0..60)) {
        let mapping = Mapping::heap(LEN as usize);
        let toc = Toc::create(&mapping, MAGIC, ENTRIES).unwrap();
        let mut plain = BTreeMap::new();
        let mut chunks: Vec<(u64, u64)> = Vec::new();
        for op in ops {
            match op {
                Op::Allocate { size, align } => {
                    let free = toc.free_space().unwrap();
                    match toc.allocate_aligned(size, align) {
                        Ok(start) => {
                            prop_assert!(start % align.max(CHUNK_ALIGN) == 0);
                            prop_assert!(start + size <= LEN);
                            let apart = |&(at, len): &(u64, u64)| {
                                start + size <= at || at + len <= start
                            };
                            prop_assert!(chunks.iter().all(apart));
                            chunks.push((start, size));
                        }
                        Err(TocError::Alignment { .. }) => prop_assert!(align > 4096),
                        Err(TocError::Full { free: left, .. }) => {
                            prop_assert_eq!(left, free);
                            prop_assert!(size > free || free - size < align.max(CHUNK_ALIGN));
                        }
                        Err(other) => prop_assert!(false, "{}", other),
                    }
                }
                Op::Insert { key } => {
                    let offset = chunks.last().map_or(0, |chunk| chunk.0);
                    let expected = if key == u64::MAX {
                        Err(TocError::Reserved)
                    } else if offset == 0 || offset == LEN {
                        Err(TocError::Offset { offset })
                    } else if plain.contains_key(&key) {
                        Err(TocError::Duplicate { key })
                    } else if plain.len() as u64 == ENTRIES {
                        Err(TocError::EntriesFull { entries: ENTRIES })
                    } else {
                        plain.insert(key, offset);
                        Ok(())
                    };
                    prop_assert_eq!(toc.insert(key, offset), expected);
                }
                Op::Lookup { key } => {
                    let theirs = Toc::attach(&mapping, MAGIC).unwrap();
                    prop_assert_eq!(theirs.lookup(key).unwrap(), plain.get(&key).copied());
                }
            }
        }
        let mut all = toc.entries().unwrap();
        all.sort_unstable();
        prop_assert_eq!(all, plain.into_iter().collect::<Vec<_>>());
    }

    /// What the plan says is enough, in whatever order the chunks are taken.
    #[test]
    fn a_plan_is_enough(
        chunks in prop::collection::vec((0..5000u64, 0..13u32), 0..10), keys in 0..20u64,
    ) {
        let plan = chunks.iter().fold(TocPlan::new().keys(keys), |plan, &(size, bits)| {
            plan.chunk_aligned(size, 1 << bits)
        });
        let mapping = Mapping::heap(plan.bytes().unwrap() as usize);
        let toc = Toc::create(&mapping, MAGIC, plan.entries()).unwrap();
        for (size, bits) in chunks {
            toc.allocate_aligned(size, 1 << bits).unwrap();
        }
    }

    /// Arbitrary words in place of a table: errors, and nothing outside the mapping.
    #[test]
    fn nonsense_is_an_error(
        words in prop::collection::vec(prop_oneof![any::<u64>(), 0..5000u64, Just(64)], 64),
        keep_layout: bool,
    ) {
        let mapping = Mapping::heap(words.len() * 8);
        Toc::create(&mapping, MAGIC, 4).unwrap();
        for (at, word) in words.iter().enumerate().skip(if keep_layout { 2 } else { 1 }) {
            let place = Mapped::<AtomicU64>::new(&mapping, at as u64 * 8).unwrap();
            place.store(*word, Ordering::Relaxed);
        }
        let Ok(toc) = Toc::attach(&mapping, MAGIC) else { return Ok(()) };
        for key in words.iter().map(|word| word.wrapping_sub(1)) {
            if let Ok(Some(offset)) = toc.lookup(key) {
                prop_assert!(offset < mapping.len() as u64);
            }
        }
        if let Ok(offset) = toc.allocate(64) {
            prop_assert!(offset + 64 <= mapping.len() as u64);
        }
        let _ = toc.insert(1, 500);
        let _ = toc.entries();
    }
}

#[test]
fn another_magic_is_refused() {
    let mapping = Mapping::heap(LEN as usize);
    let nothing = Toc::attach(&mapping, MAGIC).unwrap_err();
    assert_eq!(nothing, TocError::Magic { expected: MAGIC, found: 0 });
    Toc::create(&mapping, MAGIC, 1).unwrap();
    let other = Toc::attach(&mapping, MAGIC + 1).unwrap_err();
    assert_eq!(other, TocError::Magic { expected: MAGIC + 1, found: MAGIC });
    assert_eq!(Toc::create(&mapping, 0, 1).unwrap_err(), TocError::Reserved);
}

#[test]
fn too_many_entries_for_the_mapping() {
    let mapping = Mapping::heap(128);
    let error = Toc::create(&mapping, MAGIC, 5).unwrap_err();
    assert_eq!(error, TocError::TooSmall { needed: 192, len: 128 });
    assert!(Toc::create(&mapping, MAGIC, u64::MAX).is_err());
}

#[test]
fn a_chunk_of_no_bytes_has_a_place_of_its_own() {
    let plan = TocPlan::new().chunk(0).chunk(0).keys(2);
    let mapping = Mapping::heap(plan.bytes().unwrap() as usize);
    let toc = Toc::create(&mapping, MAGIC, plan.entries()).unwrap();
    let (first, second) = (toc.allocate(0).unwrap(), toc.allocate(0).unwrap());
    assert_ne!(first, second);
    assert_eq!((toc.insert(1, first), toc.insert(2, second)), (Ok(()), Ok(())));
}
