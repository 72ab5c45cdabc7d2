//! The hash in weak memory: what is found is whole, what was acknowledged is there, what is given
//! back is nobody's, whoever dies at which access.
#![cfg(all(shm_loom, not(shm_shuttle)))]
#[path = "hash_common/model.rs"]
mod model;

use dsm::hash::{Hash, HashError, Walk};
use model::{
    CURSOR, DIRECTORY, FROZEN, MARKED, MOVED, Model, ModelGround, NEXT, PENDING, POISON, SWEPT,
    kind, value_of,
};
use shm_core::sync::Ordering::{Acquire, Relaxed};
use shm_testkit::model::thread::{JoinHandle, spawn};
use shm_testkit::model::{self as checker, Life, mortal};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    world_in(Model::new(), keys)
}

fn world_in(model: Arc<Model>, keys: &[u64]) -> (Arc<Model>, [Handle; 3]) {
    let mut handles = [1, 2, REAPER].map(|me| model::handle(&model, me, 0));
    keys.iter().for_each(|key| inserts_one(&mut handles[2], *key));
    (model, handles)
}

fn inserts_one(hash: &mut Handle, key: u64) {
    assert!(hash.insert(&key.to_le_bytes(), &value(key, 0)).unwrap());
}

fn updates_one(hash: &mut Handle, key: u64, version: u64) {
    assert!(hash.update(&key.to_le_bytes(), &value(key, version)).unwrap());
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

#[test]
fn two_who_insert_one_key_meet() {
    let bound = checker::preemption_bound();
    // Which of the two dies makes no difference.
    let one_dies = |[one]: [Life; 1]| inserts([one, Life::endless()]);
    println!("hash, inserts: {:?}", checker::every_death_of(bound - 1, one_dies));
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

/// The least fuel with which one who does `work` in a world of `make` dies where `is_there`.
fn fuel_until(
    make: impl Fn() -> (Arc<Model>, Handle) + Clone + Send + Sync + 'static,
    work: fn(&mut Handle),
    is_there: fn(&Model) -> bool,
) -> u32 {
    let reached = Arc::new(AtomicBool::new(false));
    for fuel in 0..1000 {
        let (make, reaches) = (make.clone(), reached.clone());
        checker::check_bounded(Some(0), move || {
            let (model, mut hash) = make();
            assert!(mortal(fuel, || work(&mut hash)).is_none(), "it is never there");
            reaches.fetch_or(is_there(&model), Ordering::Relaxed);
            std::mem::forget(hash);
        });
        if reached.load(Ordering::Relaxed) {
            return fuel;
        }
    }
    panic!("it is never there");
}

/// Does `work` in a process of its own, and gives the handle back.
fn lend<R: 'static>(
    mut hash: Handle,
    work: impl FnOnce(&mut Handle) -> R + 'static,
) -> JoinHandle<(Handle, R)> {
    spawn(move || {
        let end = work(&mut hash);
        (hash, end)
    })
}

/// Dies with so much fuel in the midst of `work`.
fn dies(mut hash: Handle, fuel: u32, work: fn(&mut Handle)) {
    assert_eq!(mortal(fuel, || work(&mut hash)), None);
    std::mem::forget(hash);
}

/// Two insert one key.
fn two_insert() {
    let (model, [first, second, mut reaper]) = world_in(Model::weak(), &[]);
    let insert = |hash: &mut Handle| hash.insert(&KEY.to_le_bytes(), &value(KEY, 0)).unwrap();
    let (first, second) = (lend(first, insert), lend(second, insert));
    let (first, second) = (first.join().unwrap(), second.join().unwrap());
    assert!(first.1 != second.1, "one of them inserts it");
    std::mem::forget((first, second));
    end(&model, &mut reaper, &[]);
    assert_eq!(version(&mut reaper, KEY), Some(0));
    std::mem::forget(reaper);
}

/// The entry was in its block before, and its value is a new one.
fn is_found_again() {
    let (model, [mut first, second, mut reaper]) = world_in(Model::weak(), &[]);
    inserts_one(&mut first, KEY);
    let first = lend(first, |hash| {
        updates_one(hash, KEY, 1);
        hash.tidy().unwrap();
        updates_one(hash, KEY, 2);
    });
    let second = lend(second, |hash| assert!(version(hash, KEY).expect("it is there") < 3));
    std::mem::forget((first.join().unwrap(), second.join().unwrap()));
    end(&model, &mut reaper, &[]);
    std::mem::forget(reaper);
}

fn updates_thrice(hash: &mut Handle) {
    updates_one(hash, KEY, 1);
    hash.tidy().unwrap();
    updates_one(hash, KEY, 2);
    hash.tidy().unwrap();
    updates_one(hash, KEY, 3);
}

fn a_key_of_the_first() -> (Arc<Model>, Handle) {
    let (model, [mut first, second, reaper]) = world_in(Model::weak(), &[]);
    inserts_one(&mut first, KEY);
    std::mem::forget((second, reaper));
    (model, first)
}

/// One updates three times and dies with its mark in the cell: the same that it put there with the
/// first. Another one has seen that, and helps.
fn a_mark_is_there_again(fuel: u32) {
    let (model, [mut first, second, mut reaper]) = world_in(Model::weak(), &[]);
    inserts_one(&mut first, KEY);
    let first = spawn(move || dies(first, fuel, updates_thrice));
    let second = lend(second, |hash| updates_one(hash, KEY, 9));
    first.join().unwrap();
    std::mem::forget(second.join().unwrap());
    end(&model, &mut reaper, &[true]);
    let found = version(&mut reaper, KEY);
    assert!(matches!(found, Some(1..=3 | 9)), "{found:?}");
    std::mem::forget(reaper);
}

fn marked_a_third_time(model: &Model) -> bool {
    let seen = model.cell(model.table(), 0).load(Relaxed);
    kind(seen) == MARKED && model.peek(value_of(seen), 1).load(Relaxed) == KEY ^ 3 << 32
}

fn updates_once(hash: &mut Handle) {
    updates_one(hash, KEY, 1);
}

fn is_marked(model: &Model) -> bool {
    kind(model.cell(model.table(), 0).load(Relaxed)) == MARKED
}

/// One has died with its mark in the cell. Another one helps, and a third one cleans up.
fn one_helps_while_one_reaps(fuel: u32) {
    let (model, [mut first, second, reaper]) = world_in(Model::weak(), &[]);
    inserts_one(&mut first, KEY);
    dies(first, fuel, updates_once);
    let with = model.clone();
    let second = lend(second, |hash| updates_one(hash, KEY, 2));
    let third = lend(reaper, move |hash| {
        with.reap(1);
        hash.reap(1).unwrap();
        with.forget(1);
    });
    std::mem::forget(second.join().unwrap());
    let (mut reaper, ()) = third.join().unwrap();
    end(&model, &mut reaper, &[]);
    assert_eq!(version(&mut reaper, KEY), Some(2));
    std::mem::forget(reaper);
}

/// The table is full: one inserts a third key, and so moves it; another one looks for that key.
fn looks_meanwhile() {
    let (model, [first, second, mut reaper]) = world_in(Model::weak(), &[KEY, HIGH | KEY]);
    let first = lend(first, inserts_a_third);
    let second =
        lend(second, |hash| assert!(version(hash, KEY | 1).is_none_or(|version| version == 0)));
    std::mem::forget((first.join().unwrap(), second.join().unwrap()));
    end(&model, &mut reaper, &[]);
    for key in [KEY, HIGH | KEY, KEY | 1] {
        assert_eq!(version(&mut reaper, key), Some(0));
    }
    std::mem::forget(reaper);
}

fn walks(hash: &mut Handle) {
    let (mut walk, mut seen) = (Walk::new(), BTreeMap::new());
    while let Some((key, bytes)) = walk.next(hash).unwrap() {
        let key = u64::from_le_bytes(key.try_into().unwrap());
        let version = (u64::from_le_bytes(bytes.try_into().unwrap()) ^ key) >> 32;
        assert!(seen.insert(key, version).is_none(), "twice: {key:#x}");
        assert!(version < 2, "not its value");
    }
    assert!(seen.contains_key(&KEY) && seen.contains_key(&(HIGH | KEY)), "{seen:?}");
}

fn settles(hash: &mut Handle) {
    hash.settle().unwrap();
    for key in [KEY, HIGH | KEY] {
        assert_eq!(version(hash, key), Some(0));
    }
}

/// One updates a key, and one walks.
fn walks_meanwhile() {
    let (model, [first, second, mut reaper]) = world_in(Model::weak(), &[KEY, HIGH | KEY]);
    let first = lend(first, |hash| updates_one(hash, KEY, 1));
    let second = lend(second, walks);
    std::mem::forget((first.join().unwrap(), second.join().unwrap()));
    end(&model, &mut reaper, &[]);
    std::mem::forget(reaper);
}

fn inserts_a_third(hash: &mut Handle) {
    inserts_one(hash, KEY | 1);
}

fn a_full_table() -> (Arc<Model>, Handle) {
    let (model, [first, second, reaper]) = world_in(Model::weak(), &[KEY, HIGH | KEY]);
    std::mem::forget((second, reaper));
    (model, first)
}

/// The first cell has moved, and nobody has said so in the next table.
fn a_copy_is_pending(model: &Model) -> bool {
    let from = model.table();
    let (seen, to) =
        (model.cell(from, 0).load(Relaxed), value_of(model.peek(from, NEXT).load(Relaxed)));
    kind(seen) == MOVED && kind(model.cell(to, value_of(seen)).load(Relaxed)) == PENDING
}

/// One has moved a cell and dies; another one goes on.
fn one_goes_on_moving(fuel: u32) {
    let (model, [first, second, mut reaper]) = world_in(Model::weak(), &[KEY, HIGH | KEY]);
    let first = spawn(move || dies(first, fuel, inserts_a_third));
    let second = lend(second, settles);
    first.join().unwrap();
    std::mem::forget(second.join().unwrap());
    end(&model, &mut reaper, &[true]);
    for key in [KEY, HIGH | KEY] {
        assert_eq!(version(&mut reaper, key), Some(0));
    }
    std::mem::forget(reaper);
}

/// A table of 128 lines that is being moved: of the 64 chunks of its first word of done bits the
/// first is left, with its key, and the last one of the second word.
fn a_large_table() -> (Arc<Model>, [Handle; 3]) {
    let model = Model::large();
    let mut handles = [1, 2, REAPER].map(|me| model::handle(&model, me, 7));
    inserts_one(&mut handles[0], KEY);
    let (second_line, other) = (1 << 57, (1 << 57 | 1u64).to_le_bytes());
    inserts_one(&mut handles[0], second_line | 1);
    assert!(handles[0].delete(&other).unwrap());
    let table = model.table();
    assert_ne!(model.peek(table, NEXT).load(Relaxed), 0, "it shrinks");
    // As if all others had been moved.
    model.peek(table, CURSOR).store(128, Relaxed);
    model.peek(table, DIRECTORY + 128).store(!1, Relaxed);
    model.peek(table, DIRECTORY + 129).store(!0 >> 1, Relaxed);
    (model, handles)
}

/// Moves one chunk.
fn deletes_nothing(hash: &mut Handle) {
    assert!(!hash.delete(&(1 << 57 | KEY).to_le_bytes()).unwrap());
}

fn a_chunk_is_left() -> (Arc<Model>, Handle) {
    let (model, [mut first, second, reaper]) = a_large_table();
    deletes_nothing(&mut first);
    std::mem::forget((first, reaper));
    (model, second)
}

fn the_first_word_is_full(model: &Model) -> bool {
    model.peek(model.table(), SWEPT).load(Relaxed) == 1
}

/// One moves the first chunk; one sees that, says that all of the first word are moved, and dies;
/// one moves the rest, which is of the second word, and lets the root swing.
fn three_move(fuel: u32) {
    let (model, [first, second, reaper]) = a_large_table();
    let first = lend(first, deletes_nothing);
    let second = spawn(move || dies(second, fuel, deletes_nothing));
    let third = lend(reaper, |hash| {
        hash.settle().unwrap();
        assert_eq!(version(hash, KEY), Some(0));
    });
    std::mem::forget(first.join().unwrap());
    second.join().unwrap();
    let (mut reaper, ()) = third.join().unwrap();
    end(&model, &mut reaper, &[false, true]);
    std::mem::forget(reaper);
}

/// The same, of two chunks of one word: one moves the one, and one moves the other and lets the
/// root swing.
fn two_move() {
    let (model, [first, second, mut reaper]) = a_large_table();
    model.peek(model.table(), DIRECTORY + 129).store(!0, Relaxed);
    let first = lend(first, deletes_nothing);
    let second = lend(second, |hash| {
        hash.settle().unwrap();
        assert_eq!(version(hash, KEY), Some(0));
    });
    std::mem::forget((first.join().unwrap(), second.join().unwrap()));
    end(&model, &mut reaper, &[]);
    std::mem::forget(reaper);
}

/// Two insert into a line that one of them makes, in memory that was something else before.
fn a_piece_is_zeroed() {
    let model = Model::used_before();
    let [first, second, mut reaper] = [1, 2, REAPER].map(|me| model::handle(&model, me, 0));
    let first = lend(first, |hash| inserts_one(hash, KEY));
    let second = lend(second, |hash| inserts_one(hash, KEY | 1));
    std::mem::forget((first.join().unwrap(), second.join().unwrap()));
    end(&model, &mut reaper, &[]);
    for key in [KEY, KEY | 1] {
        assert_eq!(version(&mut reaper, key), Some(0));
    }
    std::mem::forget(reaper);
}

/// One makes a hash, and one attaches to it.
fn one_attaches() {
    let model = Model::weak();
    let (makes, attaches) = (model.clone(), model.clone());
    let first = spawn(move || model::handle(&makes, 1, 0));
    let second = spawn(move || {
        let name = attaches.place().load(Acquire);
        match Hash::attach(attaches.ground(2), name, &model::config(0)) {
            Ok(mut hash) => {
                assert_eq!(version(&mut hash, KEY), None);
                Some(hash)
            }
            Err(HashError::NotAHash) => None,
            Err(error) => panic!("{error}"),
        }
    });
    let mut first = first.join().unwrap();
    std::mem::forget(second.join().unwrap());
    end(&model, &mut first, &[]);
    std::mem::forget(first);
}

/// One leaves its row, with what it could not give back, and another one takes it.
fn a_row_changes_hands() {
    let (model, [mut first, second, mut reaper]) = world_in(Model::weak(), &[]);
    inserts_one(&mut first, KEY);
    let last = model::handle(&model, 4, 0);
    let block = model.place().load(Relaxed);
    model.uninform(1);
    let first = spawn(move || {
        let mut first = first;
        updates_one(&mut first, KEY, 1);
        drop(first);
    });
    let takes = model.clone();
    let second = spawn(move || {
        std::mem::forget(second);
        match Hash::attach(takes.ground(2), block, &model::config(0)) {
            Ok(mut hash) => {
                updates_one(&mut hash, KEY, 2);
                Some(hash)
            }
            Err(HashError::RowsTaken { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    });
    first.join().unwrap();
    std::mem::forget(second.join().unwrap());
    end(&model, &mut reaper, &[]);
    std::mem::forget((reaper, last));
}

/// The first cell is frozen.
fn a_cell_is_frozen(model: &Model) -> bool {
    kind(model.cell(model.table(), 0).load(Relaxed)) == FROZEN
}

/// One has begun to move a table and dies; another one, that wants to change a key there, finds the
/// next table.
fn one_finds_it_frozen(fuel: u32) {
    let (model, [first, second, mut reaper]) = world_in(Model::weak(), &[KEY, HIGH | KEY]);
    let first = spawn(move || dies(first, fuel, inserts_a_third));
    let second = lend(second, |hash| updates_one(hash, KEY, 1));
    first.join().unwrap();
    std::mem::forget(second.join().unwrap());
    end(&model, &mut reaper, &[true]);
    assert_eq!(version(&mut reaper, KEY), Some(1));
    std::mem::forget(reaper);
}

/// Orderings that no model can need; docs/memory-model.md says why.
const NOT_NEEDED: [&str; 16] = [
    "enter: let root =",
    "is_root: .is_ok_and(",
    "begin_move: if table.head.next.load",
    "follow: let seen =",
    "failure of copy_cell: match (cell.compare_exchange",
    "place_copy: let mut there =",
    "place_copy: match cell.compare_exchange",
    "failure of place_copy: match cell.compare_exchange",
    "settle_copy: let _ = cell.compare_exchange",
    "step: descriptor.last.store",
    "help: let last =",
    "failure of step: if let Err(now) =",
    "step: let _ = place.word.compare_exchange",
    "failure of step: let _ = place.word.compare_exchange",
    "failure of take_mark: match word.compare_exchange",
    "reap: if own.row.claim.load",
];

/// Each ordering is weakened in turn, and a model fails; but for those that docs/memory-model.md
/// says no model can need.
#[test]
fn every_ordering_matters() {
    let third = fuel_until(a_key_of_the_first, updates_thrice, marked_a_third_time);
    let marked = fuel_until(a_key_of_the_first, updates_once, is_marked);
    let pending = fuel_until(a_full_table, inserts_a_third, a_copy_is_pending);
    let frozen = fuel_until(a_full_table, inserts_a_third, a_cell_is_frozen);
    let full = fuel_until(a_chunk_is_left, deletes_nothing, the_first_word_is_full);
    let found = checker::every_ordering_matters_but(&["dsm/src/hash/"], &NOT_NEEDED, || {
        let scenes: [fn(); 8] = [
            two_insert,
            is_found_again,
            looks_meanwhile,
            walks_meanwhile,
            two_move,
            a_piece_is_zeroed,
            one_attaches,
            a_row_changes_hands,
        ];
        for scene in scenes {
            checker::check_bounded(Some(0), scene);
        }
        checker::check_bounded(Some(0), move || one_helps_while_one_reaps(marked));
        checker::check_bounded(Some(0), move || one_goes_on_moving(pending));
        checker::check_bounded(Some(0), move || one_finds_it_frozen(frozen));
        checker::check_bounded(Some(0), move || three_move(full));
        checker::check_bounded(Some(1), move || a_mark_is_there_again(third));
    });
    assert!(found >= 28, "{found}: where are the others?");
}
