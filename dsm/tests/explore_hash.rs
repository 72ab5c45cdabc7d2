//! The hash under the explorer: a key has one value, which is whole; what was acknowledged is
//! there; no block leaks or is given back twice, whoever dies where; no call waits for anybody.
#![cfg(shm_explore)]
#[path = "hash_common/model.rs"]
mod model;

use dsm::hash::Hash;
use model::{
    BLOCK, DIRECTORY, ENTRY_STATE, FIRST_ROW, FROZEN, MARKED, MOVED, Model, ModelGround, NEXT,
    PENDING, POISON, RETIRED, ROW, SHAPE, TOMB, kind, value_of,
};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::cell::RefCell;
use std::sync::Arc;

/// In the upper half of the hashes: another line, where there are two.
const HIGH: u64 = 1 << 63;
/// No deletion of such a key looks how full the table is.
const KEY: u64 = 1 << 16;

struct World {
    model: Arc<Model>,
    /// Of the processes 1 to 3, and of who cleans up.
    handles: Vec<RefCell<Hash<ModelGround>>>,
}

fn world(lines_log2: u32, keys: &[u64], people: u32) -> World {
    let model = Model::new();
    let first = model::handle(&model, 1, lines_log2);
    let rest = (2..=people).map(|me| model::handle(&model, me, lines_log2));
    let handles = std::iter::once(first).chain(rest).map(RefCell::new).collect();
    let world = World { model, handles };
    for key in keys {
        let mut hash = world.handles[0].borrow_mut();
        assert!(hash.insert(&key.to_le_bytes(), &value(*key, 0)).unwrap());
    }
    world
}

/// Values say whose they are.
fn value(key: u64, version: u64) -> [u8; 8] {
    (key ^ version << 32).to_le_bytes()
}

fn version_of(key: u64, value: &[u8]) -> u64 {
    let value = u64::from_le_bytes(value.try_into().unwrap());
    assert_ne!(value, POISON, "read after it was given back");
    let version = (value ^ key) >> 32;
    assert_eq!((value ^ key) & 0xffff_ffff, 0, "another key's value: {value:#x}");
    version
}

impl World {
    fn hash(&self, me: &Me) -> std::cell::RefMut<'_, Hash<ModelGround>> {
        self.handles[me.pid() as usize - 1].borrow_mut()
    }

    /// The version that the key has.
    fn find(&self, me: &Me, key: u64) -> Option<u64> {
        let mut out = [0; 8];
        let found = self.hash(me).get(&key.to_le_bytes(), &mut out).unwrap();
        found.map(|_| version_of(key, &out))
    }

    /// After all is over: the dead are reaped, nothing leaks, the figures are right.
    fn end(&self, end: &End<'_>, reaper: u32) {
        let mut hash = self.handles[reaper as usize - 1].borrow_mut();
        let dead = (0..self.handles.len() - 1).filter(|process| end.is_dead(*process));
        let dead: Vec<u32> = dead.map(|process| process as u32 + 1).collect();
        // The area first: one of them may have been giving back what was another's.
        dead.iter().for_each(|dead| self.model.reap(*dead));
        for dead in dead {
            hash.reap(dead).unwrap();
            self.model.forget(dead);
        }
        let report = hash.verify().unwrap();
        assert_eq!(report.faults, Vec::<String>::new());
        assert_eq!(report.blocks, self.model.used(), "leaked, or lost");
    }

    fn version(&self, reaper: u32, key: u64) -> Option<u64> {
        let mut out = [0; 8];
        let mut hash = self.handles[reaper as usize - 1].borrow_mut();
        let found = hash.get(&key.to_le_bytes(), &mut out).unwrap();
        found.map(|_| version_of(key, &out))
    }
}

fn reaps(world: &World, dead: u32) -> Process<'_> {
    let reap = move |me: &Me| {
        if kernel::is_dead(dead) {
            world.model.reap(dead);
            world.hash(me).reap(dead).unwrap();
            world.model.forget(dead);
        }
    };
    Process::new("reaps", reap).mortal().never_waits()
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("hash", name).states_at_most(300_000).alone_at_most(3000)
}

fn inserts(world: &World, key: u64) -> Process<'_> {
    let insert = move |me: &Me| {
        let version = u64::from(me.pid());
        if world.hash(me).insert(&key.to_le_bytes(), &value(key, version)).unwrap() {
            me.say(key);
        }
    };
    Process::new("inserts", insert).mortal().never_waits()
}

fn deletes(world: &World, key: u64) -> Process<'_> {
    let delete = move |me: &Me| {
        me.say(world.hash(me).delete(&key.to_le_bytes()).unwrap().into());
    };
    Process::new("deletes", delete).mortal().never_waits()
}

fn updates(world: &World, key: u64) -> Process<'_> {
    let update = move |me: &Me| {
        let version = u64::from(me.pid());
        me.say(world.hash(me).update(&key.to_le_bytes(), &value(key, version)).unwrap().into());
    };
    Process::new("updates", update).mortal().never_waits()
}

#[test]
fn two_who_insert_one_key_meet() {
    let world = world(0, &[], 3);
    let key = KEY;
    let deaths = if is_deep() { 2 } else { 1 };
    let scenario = scenario(&format!("two insert one key, {deaths} deaths")).deaths(deaths);
    let scenario = scenario.process(inserts(&world, key)).process(inserts(&world, key));
    let check = |end: &End<'_>| {
        world.end(end, 3);
        let won = end.said(0).len() + end.said(1).len();
        assert!(won <= 1, "both have inserted it");
        let is_there = world.version(3, key).is_some();
        let finished = end.has_finished(0) || end.has_finished(1);
        assert!(is_there || !finished, "inserted, and not there");
    };
    scenario.check(check).preemptions_at_most(if is_deep() { 3 } else { 2 }).explore();
}

#[test]
fn who_finds_sees_a_whole_value_or_none() {
    let world = world(0, &[KEY], 4);
    let finds = || {
        Process::new("finds", |me| {
            me.say(world.find(me, KEY).map_or(100, |version| version));
        })
        .never_waits()
    };
    let scenario = scenario("one updates, one deletes, one finds").deaths(1);
    let scenario = scenario.process(updates(&world, KEY)).process(deletes(&world, KEY));
    let check = |end: &End<'_>| {
        world.end(end, 4);
        if end.has_finished(1) {
            assert_eq!(end.said(1), [1], "it was there to delete");
            assert_eq!(world.version(4, KEY), None);
        }
        assert!(matches!(end.said(2), [0 | 1 | 100]), "{:?}", end.said(2));
    };
    scenario.process(finds()).check(check).preemptions_at_most(2).explore();
}

/// The table is full: who inserts a third key moves it, and the other two are found all the while.
#[test]
fn a_key_is_found_while_its_table_is_moved() {
    let (first, second, third) = (KEY, HIGH | KEY, KEY | 1);
    let world = world(0, &[first, second], 3);
    let finds = Process::new("finds", |me| {
        assert_eq!(world.find(me, first), Some(0));
        assert_eq!(world.find(me, second), Some(0));
    });
    let scenario = scenario("one inserts and moves, one finds").deaths(1);
    let scenario = scenario.process(inserts(&world, third)).process(finds.never_waits());
    let check = |end: &End<'_>| {
        world.end(end, 3);
        let there = world.version(3, third).is_some();
        assert!(there || !end.has_finished(0), "inserted, and not there");
        for key in [first, second] {
            assert_eq!(world.version(3, key), Some(0));
        }
    };
    scenario.check(check).preemptions_at_most(2).explore();
}

#[test]
fn two_move_a_table_and_either_may_die() {
    let (first, second, third, fourth) = (KEY, HIGH | KEY, KEY | 1, HIGH | KEY | 1);
    let world = world(0, &[first, second], 3);
    let deaths = if is_deep() { 2 } else { 1 };
    let scenario = scenario(&format!("two insert and move, {deaths} deaths")).deaths(deaths);
    let scenario = scenario.process(inserts(&world, third)).process(inserts(&world, fourth));
    let check = |end: &End<'_>| {
        world.end(end, 3);
        for (process, key) in [(0, third), (1, fourth)] {
            let there = world.version(3, key).is_some();
            assert!(there || !end.has_finished(process), "inserted, and not there");
        }
        for key in [first, second] {
            assert_eq!(world.version(3, key), Some(0));
        }
    };
    let scenario = scenario.states_at_most(60_000);
    scenario.check(check).preemptions_at_most(1).explore();
}

#[test]
fn a_key_is_updated_and_deleted_while_its_table_is_moved() {
    let (first, second, third) = (KEY, HIGH | KEY, KEY | 1);
    let world = world(0, &[first, second], 4);
    let scenario = scenario("one inserts and moves, one deletes, one updates").deaths(1);
    let scenario = scenario
        .process(inserts(&world, third))
        .process(deletes(&world, first))
        .process(updates(&world, second));
    let check = |end: &End<'_>| {
        world.end(end, 4);
        if end.has_finished(1) {
            assert_eq!((end.said(1), world.version(4, first)), (&[1][..], None));
        }
        if end.has_finished(2) {
            assert_eq!((end.said(2), world.version(4, second)), (&[1][..], Some(3)));
        }
        assert!(world.version(4, second).is_some());
    };
    let scenario = scenario.states_at_most(30_000);
    scenario.check(check).preemptions_at_most(0).explore();
}

/// Somebody dies, and is cleaned up after while another goes on; who cleans up may die as well.
#[test]
fn the_dead_are_reaped_while_others_go_on() {
    let world = world(0, &[KEY], 4);
    let scenario = scenario("one updates, one deletes, one reaps, two deaths").deaths(2);
    let scenario = scenario
        .process(updates(&world, KEY))
        .process(deletes(&world, KEY))
        .process(reaps(&world, 1));
    let check = |end: &End<'_>| {
        world.end(end, 4);
        if end.has_finished(1) {
            assert_eq!((end.said(1), world.version(4, KEY)), (&[1][..], None));
        }
    };
    let scenario = scenario.states_at_most(80_000);
    scenario.check(check).preemptions_at_most(1).explore();
}

/// One helps and is late: the mark that it has seen has gone and come back, for the block was given
/// back meanwhile and taken again by the same one, who dies before it says that its step is done.
#[test]
fn who_helps_late_takes_no_other_mark_away() {
    let model = Model::new();
    // Who makes entry after entry takes its blocks from the beginning; the first key is another's.
    let handles = [1, 2, 3].map(|me| RefCell::new(model::handle(&model, me, 0)));
    let world = World { model, handles: handles.into() };
    assert!(world.handles[1].borrow_mut().insert(&KEY.to_le_bytes(), &value(KEY, 0)).unwrap());
    let update = |me: &Me, version| {
        assert!(world.hash(me).update(&KEY.to_le_bytes(), &value(KEY, version)).unwrap());
    };
    let updates = Process::new("updates", |me: &Me| update(me, 1))
        .then(|me| update(me, 2))
        .then(|me| world.hash(me).tidy().unwrap())
        .then(|me| update(me, 3));
    // It changes nothing: it helps, where it finds a mark at once.
    let helps = Process::new("helps", |me: &Me| {
        let cell = world.model.cell(world.model.table(), 0).load(Relaxed);
        if kind(cell) == MARKED {
            let key = KEY.to_le_bytes();
            assert!(!world.hash(me).insert(&key, &value(KEY, 9)).unwrap());
        }
    });
    let scenario = scenario("one helps late").deaths(1).states_at_most(1_000_000);
    let scenario = scenario.process(updates.mortal()).process(helps);
    let check = |end: &End<'_>| {
        world.end(end, 3);
        assert!(world.version(3, KEY).is_some());
    };
    scenario.check(check).preemptions_at_most(2).explore();
}

/// In a next table there is a copy of which no cell knows: who made it came too late, and died. Its
/// entry has been deleted, and its block is taken again for a key of the same tag, by one who had
/// seen no next table, and so puts it into the old one. That is moved, past the copy or into it.
#[test]
fn a_copy_of_an_entry_that_is_no_more_is_no_copy_of_the_next() {
    let world = world(0, &[KEY], 3);
    let (model, second) = (&world.model, KEY | 1 << 20);
    let (from, to, piece) = (model.table(), model.take_by_hand(11), model.take_by_hand(2));
    // A table of two lines.
    let shape = model.peek(from, SHAPE).load(Relaxed);
    model.peek(to, SHAPE).store(shape | 1 << 56, Relaxed);
    model.peek(to, DIRECTORY).store(BLOCK << 60 | piece, Relaxed);
    let block = value_of(model.cell(from, 0).load(Relaxed));
    let [settled, frozen, pending] = [BLOCK, FROZEN, PENDING].map(|kind| kind << 60 | block);
    let moved = MOVED << 60;
    // What others do: as far as nobody is faster.
    let others = Process::new("others", |me: &Me| {
        let swap =
            |word: &AtomicU64, from, to| word.compare_exchange(from, to, Relaxed, Relaxed).is_ok();
        let (cell, [first, next]) = (model.cell(from, 0), [0, 1].map(|at| model.cell(to, at)));
        let is_deleted = swap(model.peek(from, NEXT), 0, BLOCK << 60 | to)
            && swap(cell, settled, frozen)
            && swap(first, 0, pending)
            && swap(cell, frozen, moved)
            && swap(first, pending, settled)
            && swap(next, 0, pending)
            && swap(first, settled, TOMB << 60);
        if is_deleted {
            let row = FIRST_ROW + u64::from(me.pid() - 1) * ROW;
            let head = value_of(model.place().load(Relaxed));
            model.peek(head, row + RETIRED).store(block, Relaxed);
            world.hash(me).tidy().unwrap();
            me.say(1);
        }
        world.hash(me).settle().unwrap();
    });
    let scenario = scenario("a copy that nobody knows, its block taken again").deaths(1);
    let scenario = scenario.process(inserts(&world, second)).process(others);
    let check = |end: &End<'_>| {
        world.end(end, 3);
        let is_deleted = !end.said(1).is_empty();
        assert_eq!(world.version(3, KEY), if is_deleted { None } else { Some(0) });
        let is_there = world.version(3, second).is_some();
        assert!(is_there || !end.has_finished(0), "inserted, and not there");
    };
    scenario.check(check).preemptions_at_most(2).states_at_most(60_000).explore();
}

/// One has died with its mark in a cell. While another one settles that, a third one moves the
/// table twice.
#[test]
fn who_cleans_up_finds_the_table_gone() {
    let (first, second) = (KEY, KEY | 1);
    let world = world(0, &[first, second], 4);
    let update = |version| {
        let mut hash = world.handles[0].borrow_mut();
        assert!(hash.update(&first.to_le_bytes(), &value(first, version)).unwrap());
    };
    // Its last update, as it was after the step.
    let (model, row) = (&world.model, value_of(world.model.place().load(Relaxed)));
    update(1);
    let (cell, word) = (model.cell(model.table(), 0), |at| model.peek(row, FIRST_ROW + at));
    let block = value_of(cell.load(Relaxed));
    let state = word(ENTRY_STATE).load(Relaxed);
    word(ENTRY_STATE).store(state - 4 | 1, Relaxed);
    word(ENTRY_STATE + 1).store(block, Relaxed);
    word(RETIRED).store(0, Relaxed);
    cell.store(MARKED << 60 | block, Relaxed);
    let insert = |me: &Me, key: u64| {
        assert!(world.hash(me).insert(&key.to_le_bytes(), &value(key, 0)).unwrap());
    };
    let settle = |me: &Me| world.hash(me).settle().unwrap();
    let moves = Process::new("moves", |me: &Me| insert(me, KEY | 2)).then(settle);
    let moves = moves.then(|me| insert(me, KEY | 3)).then(settle);
    let reap = |me: &Me| {
        model.reap(1);
        world.hash(me).reap(1).unwrap();
        model.forget(1);
    };
    let scenario = scenario("one settles what two swings have left").alone_at_most(5000);
    let scenario = scenario.process(Process::new("nobody", |_| ())).process(moves);
    let check = |end: &End<'_>| {
        world.end(end, 4);
        assert_eq!(world.version(4, first), Some(1));
        for key in [second, KEY | 2, KEY | 3] {
            assert_eq!(world.version(4, key), Some(0));
        }
    };
    let scenario = scenario.process(Process::new("reaps", reap)).check(check);
    scenario.preemptions_at_most(1).states_at_most(60_000).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world(0, &[KEY, HIGH | KEY], 2);
    let uses = |key: u64| {
        let world = &world;
        Process::new("uses", move |me| {
            let (mut hash, key, mut out) = (world.hash(me), key.to_le_bytes(), [0; 8]);
            let _ = hash.get(&key, &mut out);
            let _ = hash.insert(&key, &out);
            let _ = hash.delete(&key);
            let _ = hash.settle();
        })
        .never_waits()
    };
    let scenario = scenario("one lie").lies(1).alone_at_most(30_000).states_at_most(20_000);
    scenario.process(uses(KEY | 1)).process(uses(KEY)).preemptions_at_most(1).explore();
}

/// Planted bug: a cell that was found empty is taken by a store.
#[test]
fn finds_a_cell_that_two_take() {
    let mapping = Mapping::heap(8);
    let cell: Mapped<AtomicU64> = Mapped::new(&mapping, 0).unwrap();
    let takes = || {
        Process::new("takes", |me: &Me| {
            if cell.load(Relaxed) == 0 {
                cell.store(me.pid().into(), Relaxed);
                me.say(1);
            }
        })
    };
    let once = |end: &End<'_>| assert!(end.said(0).len() + end.said(1).len() == 1, "two have it");
    let scenario = scenario("in short").process(takes()).process(takes()).check(once);
    finds("two have it", || scenario.explore());
}

/// Planted bug: a copy in the next table counts at once, and not only where the old cell names it.
/// One who is late copies what has been moved and deleted meanwhile, and it is there again.
#[test]
fn finds_a_copy_that_nobody_vouches_for() {
    let mapping = Mapping::heap(24);
    let word = |at: u64| Mapped::<AtomicU64>::new(&mapping, at * 8).unwrap();
    let (old, first, second) = (word(0), word(1), word(2));
    const ENTRY: u64 = 7;
    const MOVED: u64 = 8;
    const TOMB: u64 = 9;
    old.store(ENTRY, Relaxed);
    let moves = || {
        Process::new("moves", |_| {
            if old.load(Relaxed) != ENTRY {
                return;
            }
            for place in [&first, &second] {
                match place.compare_exchange(0, ENTRY, Relaxed, Relaxed) {
                    Ok(_) | Err(ENTRY) => break,
                    Err(_) => {}
                }
            }
            old.store(MOVED, Relaxed);
        })
    };
    let deletes = Process::new("deletes", |me: &Me| {
        if first.compare_exchange(ENTRY, TOMB, Relaxed, Relaxed).is_ok() {
            me.say(1);
        }
    });
    let check = |end: &End<'_>| {
        let there = [&first, &second].iter().any(|place| place.load(Relaxed) == ENTRY);
        assert!(end.said(2).is_empty() || !there, "deleted, and there again");
    };
    let scenario = scenario("in short").process(moves()).process(moves()).process(deletes);
    finds("deleted, and there again", || scenario.check(check).explore());
}
