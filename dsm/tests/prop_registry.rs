//! Any sequence of asking for names, failing, removing and dying agrees with a plain map.
#![cfg(not(any(shm_loom, shm_explore)))]
mod registry_common;

use dsm::registry::{Entry, Kind, Name, Registry, Step};
use proptest::prelude::*;
use registry_common::{Asked, World, entry};
use shm_core::mapping::Mapping;
use shm_testkit::depth::cases;
use std::collections::BTreeMap;

const NAMES: u32 = 3;

#[derive(Debug, Clone, Copy)]
enum Op {
    /// Asked for, and made by one who succeeds.
    Ask(usize),
    /// Asked for, and given up, with a segment or without.
    Fail {
        name: usize,
        with_segment: bool,
    },
    /// Asked for, and left to the reaper.
    Die {
        name: usize,
        with_segment: bool,
    },
    Remove(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0..5usize;
    prop_oneof![
        3 => name.clone().prop_map(Op::Ask),
        1 => (name.clone(), any::<bool>())
            .prop_map(|(name, with_segment)| Op::Fail { name, with_segment }),
        1 => (name.clone(), any::<bool>())
            .prop_map(|(name, with_segment)| Op::Die { name, with_segment }),
        2 => name.prop_map(Op::Remove),
    ]
}

const TEXTS: [&str; 5] = ["a", "b", "a longer name than a word", "täglich", "12345678"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(1_000)))]

    #[test]
    fn agrees_with_a_map(ops in proptest::collection::vec(op(), 0..50)) {
        let world = World::new(NAMES);
        let mut me = world.table.join().unwrap();
        let mut plain: BTreeMap<&str, u32> = BTreeMap::new();
        for op in ops {
            // A segment that no name has: there is one more than names.
            let free = (1..5).find(|number| plain.values().all(|used| used != number)).unwrap();
            let is_full = plain.len() == NAMES as usize;
            match op {
                Op::Ask(name) => {
                    let asked = world.ask(&me, TEXTS[name], free);
                    match plain.get(TEXTS[name]) {
                        Some(number) => {
                            let Asked::Found(handle) = asked else { panic!("{asked:?}") };
                            prop_assert_eq!(handle.to_bits() & 0xff, u64::from(*number));
                        }
                        None if is_full => prop_assert_eq!(asked, Asked::Nothing),
                        None => {
                            prop_assert!(matches!(asked, Asked::Made(_)), "{:?}", asked);
                            plain.insert(TEXTS[name], free);
                        }
                    }
                }
                Op::Fail { name, with_segment } | Op::Die { name, with_segment } => {
                    let step = world.step(&me, TEXTS[name]);
                    let is_there = plain.contains_key(TEXTS[name]);
                    prop_assert_eq!(matches!(step, Step::Ready(_)), is_there);
                    prop_assert_eq!(matches!(step, Step::Full), is_full && !is_there);
                    let Step::Mine(claim) = step else { continue };
                    if with_segment {
                        let handle = 1 << 24 | u64::from(free);
                        claim.set_segment(dsm::SegmentHandle::from_bits(handle).unwrap());
                        let pinned = &world.system.pinned[free as usize];
                        pinned.store(1, shm_core::sync::Ordering::Relaxed);
                    }
                    if matches!(op, Op::Fail { .. }) {
                        claim.give_up(&|handle| world.unpin(handle));
                    } else {
                        drop(claim);
                        prop_assert!(matches!(world.step(&me, TEXTS[name]), Step::Busy(_)));
                        // What a reaper would do, and twice.
                        for _ in 0..2 {
                            world.registry.reap(me.id(), &|handle| world.unpin(handle));
                        }
                        drop(me);
                        me = world.table.join().unwrap();
                    }
                }
                Op::Remove(name) => {
                    let removed = world.remove(&me, TEXTS[name]);
                    prop_assert_eq!(removed, plain.remove(TEXTS[name]).is_some());
                }
            }
            prop_assert_eq!(world.count(), (plain.len(), plain.len()));
            let listed = world.registry.entries().into_iter();
            let listed: BTreeMap<String, u64> = listed
                .map(|found| (found.entry.name.to_string(), found.handle.unwrap().to_bits() & 0xff))
                .collect();
            let expected = plain.iter();
            let expected = expected.map(|(name, number)| (name.to_string(), u64::from(*number)));
            prop_assert_eq!(listed, expected.collect());
        }
    }

    #[test]
    fn any_words_are_rows_of_some_kind(words in proptest::collection::vec(any::<u64>(), 40)) {
        let mapping = Mapping::heap(Registry::bytes_for(2) as usize);
        for (at, word) in words.iter().enumerate() {
            let address = mapping.region().at::<u64>(at as u64 * 8).unwrap();
            // SAFETY: aligned, in bounds, and only this thread has the mapping.
            unsafe { address.write(*word) };
        }
        let registry = Registry::attach(&mapping, 0, 2).unwrap();
        prop_assert!(registry.entries().len() <= 2);
        for found in registry.entries() {
            // Bytes behind a name may be nonsense too: then it is not found by it.
            let looked = registry.look(&found.entry.name);
            prop_assert!(looked.is_none_or(|looked| looked.entry.name == found.entry.name));
        }
    }
}

#[test]
fn a_row_says_what_was_asked_for() {
    let world = World::new(1);
    let me = world.table.join().unwrap();
    let wanted = Entry {
        name: Name::new("tables").unwrap(),
        kind: Kind::Hash,
        size: u64::MAX,
        fingerprint: 77,
    };
    let step = world.with_hand(&me, |hand| world.registry.step(hand, &wanted));
    let Step::Mine(claim) = step else { panic!("{step:?}") };
    let Step::Busy(found) = world.step(&me, "tables") else { panic!("it is being made") };
    assert_eq!((found.entry, found.owner(), found.handle), (wanted, Some(me.id()), None));
    assert!(claim.publish());
    let Step::Ready(found) = world.step(&me, "tables") else { panic!("it is made") };
    assert_eq!((found.entry, found.owner(), found.is_ready()), (wanted, None, true));
    assert!(matches!(world.step(&me, "another"), Step::Full));
    assert_eq!(world.registry.capacity(), 1);
    assert_eq!(entry("x").kind, Kind::Segment);
}
