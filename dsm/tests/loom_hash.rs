//! The hash in weak memory: what is found is whole, what was acknowledged is there, what is given
//! back is nobody's, whoever dies at which access.
#![cfg(all(shm_loom, not(shm_shuttle)))]
#[path = "hash_common/model.rs"]
mod model;

use dsm::hash::Hash;
use model::{Model, ModelGround, POISON};
use shm_testkit::model::thread::JoinHandle;
use shm_testkit::model::{self as checker, Life};
use std::sync::Arc;

/// In the upper half of the hashes: another line, where there are two.
const HIGH: u64 = 1 << 63;
/// No deletion of such a key looks how full the table is.
const KEY: u64 = 1 << 16;
const REAPER: u32 = 3;

type Handle = Hash<ModelGround>;

fn value(key: u64, version: u64) -> [u8; 8] {
    (key ^ version << 32).to_le_bytes()
}

fn version(hash: &mut Handle, key: u64) -> Option<u64> {
    let mut out = [0; 8];
    let found = hash.get(&key.to_le_bytes(), &mut out).unwrap();
    let value = u64::from_le_bytes(out);
    assert_ne!(value, POISON, "read after it was given back");
    assert!(found.is_none() || (value ^ key) & 0xffff_ffff == 0, "not its value: {value:#x}");
    found.map(|_| (value ^ key) >> 32)
}

/// A hash with these keys, and the handles of three.
fn world(keys: &[u64]) -> (Arc<Model>, [Handle; 3]) {
    let model = Model::new();
    let mut handles = [1, 2, REAPER].map(|me| model::handle(&model, me, 0));
    for key in keys {
        assert!(handles[2].insert(&key.to_le_bytes(), &value(*key, 0)).unwrap());
    }
    (model, handles)
}

/// One process, which may die: what it says, and its handle, which is not dropped.
fn run<R: 'static>(
    mut hash: Handle,
    life: Life,
    work: impl FnOnce(&mut Handle) -> R + 'static,
) -> JoinHandle<Option<R>> {
    checker::thread::spawn(move || {
        let end = life.run(|| work(&mut hash));
        std::mem::forget(hash);
        end
    })
}

/// The dead are reaped; nothing has leaked.
fn end(model: &Arc<Model>, hash: &mut Handle, dead: &[bool]) {
    for (index, _) in dead.iter().enumerate().filter(|(_, dead)| **dead) {
        let dead = index as u32 + 1;
        model.reap(dead);
        hash.reap(dead).unwrap();
        model.forget(dead);
    }
    let report = hash.verify().unwrap();
    assert_eq!(report.faults, Vec::<String>::new());
    assert_eq!(report.blocks, model.used(), "leaked, or lost");
}

/// Two insert one key.
fn inserts([one, other]: [Life; 2]) {
    let (model, [first, second, mut reaper]) = world(&[]);
    let insert = |version| {
        move |hash: &mut Handle| hash.insert(&KEY.to_le_bytes(), &value(KEY, version)).unwrap()
    };
    let first = run(first, one, insert(1));
    let second = run(second, other, insert(2));
    let ends = [first.join().unwrap(), second.join().unwrap()];
    end(&model, &mut reaper, &ends.map(|end| end.is_none()));
    let found = version(&mut reaper, KEY);
    assert!(ends != [Some(true), Some(true)], "both have inserted it");
    assert!(found.is_some() || ends == [None, None], "inserted, and not there");
    std::mem::forget(reaper);
}

/// One updates a key, which gives the old entry back, and one finds it.
fn finds([one, other]: [Life; 2]) {
    let (model, [first, second, mut reaper]) = world(&[KEY]);
    let first = run(first, one, |hash| {
        assert!(hash.update(&KEY.to_le_bytes(), &value(KEY, 1)).unwrap());
        hash.tidy().unwrap();
    });
    let second = run(second, other, |hash| version(hash, KEY).expect("it is there"));
    let (first, second) = (first.join().unwrap(), second.join().unwrap());
    assert!(second.is_none_or(|version| version < 2));
    end(&model, &mut reaper, &[first.is_none(), second.is_none()]);
    assert!(first.is_none() || version(&mut reaper, KEY) == Some(1));
    std::mem::forget(reaper);
}

/// The table is full: one inserts and moves it, the other finds, or deletes.
fn moves([one, other]: [Life; 2], deletes: bool) {
    let keys = [KEY, HIGH | KEY];
    let (model, [first, second, mut reaper]) = world(&keys);
    let third = KEY | 1;
    let first = run(first, one, move |hash| {
        assert!(hash.insert(&third.to_le_bytes(), &value(third, 1)).unwrap());
    });
    let second = run(second, other, move |hash| {
        if deletes {
            assert!(hash.delete(&keys[0].to_le_bytes()).unwrap());
        } else {
            assert_eq!(version(hash, keys[0]), Some(0));
        }
    });
    let (first, second) = (first.join().unwrap(), second.join().unwrap());
    end(&model, &mut reaper, &[first.is_none(), second.is_none()]);
    assert!(first.is_none() || version(&mut reaper, third) == Some(1));
    assert_eq!(version(&mut reaper, keys[1]), Some(0));
    if deletes {
        assert!(second.is_none() || version(&mut reaper, keys[0]).is_none());
    }
    std::mem::forget(reaper);
}

fn lives() -> [Life; 2] {
    [Life::endless(), Life::endless()]
}

#[test]
fn two_who_insert_one_key_meet() {
    let bound = checker::preemption_bound();
    println!("hash, inserts: {:?}", checker::every_death_of(bound - 1, inserts));
}

#[test]
fn what_is_found_is_not_given_back() {
    let bound = checker::preemption_bound();
    println!("hash, finds: {:?}", checker::every_death_of(bound - 1, finds));
}

#[test]
fn a_table_is_moved_while_it_is_used() {
    let bound = checker::preemption_bound();
    for deletes in [false, true] {
        let tried = checker::every_death_of(bound - 2, move |lives| moves(lives, deletes));
        println!("hash, moves: {tried:?}");
    }
}

/// Of the orderings with which a change is made and found, each is weakened in turn, and a model
/// fails. (Those of moving, of attaching and of helping meet no model yet that needs them.)
#[test]
fn every_ordering_matters() {
    checker::every_ordering_matters(&["dsm/src/hash/change.rs"], || {
        checker::check_bounded(Some(1), || finds(lives()));
        checker::check_bounded(Some(1), || inserts(lives()));
    });
}
