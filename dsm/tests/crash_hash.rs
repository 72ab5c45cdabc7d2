//! A hash outlives those who change it, at every instruction: what was acknowledged is there, what
//! was not is there wholly or not at all, and no block leaks or is given back twice.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;
#[path = "hash_common/model.rs"]
mod model;

use crash_common::{shared, words_from};
use dsm::hash::{Hash, HashError};
use model::{END, Model, ModelGround};
use shm_core::process::Forked;
use shm_core::sync::Ordering::Acquire;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

const DOOMED: u32 = 1;
const RECOVERER: u32 = 2;
const SURVIVOR: u32 = 3;
/// In the notes: operations that have returned.
const DONE: usize = 0;
/// Another line of a table of two, and none of the deletions that look how full it is.
const HIGH: u64 = 1 << 63;
const KEY: u64 = 1 << 16;

fn key(key: u64) -> [u8; 8] {
    key.to_le_bytes()
}

type Map = BTreeMap<u64, u64>;

/// One operation: on the hash, on the map that it should be, and its name.
#[derive(Clone, Copy)]
enum Op {
    Insert(u64, u64),
    Upsert(u64, u64),
    Update(u64, u64),
    CompareUpdate(u64, u64, u64),
    Delete(u64),
    CompareDelete(u64, u64),
    Find(u64),
    Tidy,
    Settle,
}

impl Op {
    fn apply(self, hash: &mut Hash<ModelGround>) {
        match self {
            Op::Insert(k, v) => drop(hash.insert(&key(k), &key(v)).unwrap()),
            Op::Upsert(k, v) => drop(hash.upsert(&key(k), &key(v)).unwrap()),
            Op::Update(k, v) => assert!(hash.update(&key(k), &key(v)).unwrap()),
            Op::CompareUpdate(k, had, v) => {
                assert!(hash.compare_update(&key(k), &key(had), &key(v)).unwrap());
            }
            Op::Delete(k) => assert!(hash.delete(&key(k)).unwrap()),
            Op::CompareDelete(k, had) => {
                assert!(hash.compare_delete(&key(k), &key(had)).unwrap());
            }
            Op::Find(k) => assert!(hash.find(&key(k)).unwrap().is_some()),
            Op::Tidy => hash.tidy().unwrap(),
            Op::Settle => hash.settle().unwrap(),
        }
    }

    fn apply_to(self, map: &mut Map) {
        match self {
            Op::Insert(k, v) => drop(map.entry(k).or_insert(v)),
            Op::Upsert(k, v) | Op::Update(k, v) | Op::CompareUpdate(k, _, v) => {
                map.insert(k, v);
            }
            Op::Delete(k) | Op::CompareDelete(k, _) => drop(map.remove(&k)),
            Op::Find(_) | Op::Tidy | Op::Settle => {}
        }
    }
}

/// The hash, in the survivors' hands.
struct World {
    model: Arc<Model>,
    survivor: RefCell<Hash<ModelGround>>,
    recoverer: RefCell<Hash<ModelGround>>,
}

/// Operations by one who is killed; before them others, by a survivor.
struct Case {
    name: &'static str,
    covers: &'static [&'static str],
    before: Vec<Op>,
    ops: Vec<Op>,
}

impl Case {
    /// What the hash holds after so many of the operations.
    fn map(&self, done: u64) -> Map {
        let mut map = Map::new();
        let ops = self.ops.iter().take(done as usize);
        self.before.iter().chain(ops).for_each(|op| op.apply_to(&mut map));
        map
    }
}

fn recover(world: &World, by: &mut Hash<ModelGround>) -> Result<(), String> {
    world.model.reap(DOOMED);
    by.reap(DOOMED).map_err(|error| format!("reaping: {error}"))?;
    world.model.forget(DOOMED);
    Ok(())
}

impl Scenario for Case {
    type World = World;
    type Doomed = Option<Hash<ModelGround>>;

    fn name(&self) -> String {
        format!("hash, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.covers
    }

    fn world(&self) -> World {
        let (_, mapping) = shared(END * 8);
        let model = Model::over(mapping);
        let mut survivor = model::handle(&model, SURVIVOR, 0);
        let recoverer = model::handle(&model, RECOVERER, 0);
        for op in &self.before {
            op.apply(&mut survivor);
        }
        World { model, survivor: RefCell::new(survivor), recoverer: RefCell::new(recoverer) }
    }

    fn prepare(&self, world: &World, _: &Notes) -> Self::Doomed {
        let (ground, config) = (world.model.guarded(DOOMED), model::config(0));
        Some(Hash::attach(ground, world.model.place().load(Acquire), &config).unwrap())
    }

    fn operate(&self, _: &World, doomed: &mut Self::Doomed, notes: &Notes) {
        let hash = doomed.as_mut().unwrap();
        for op in &self.ops {
            op.apply(hash);
            notes.count(DONE);
        }
        // Leaving is part of it.
        drop(doomed.take());
    }

    fn image(&self, world: &World) -> Vec<u8> {
        words_from(world.model.mapping(), 0)
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let mut hash = world.survivor.borrow_mut();
        // It may have died in the midst of recovery, and given nothing back yet in its own name.
        world.model.reap(RECOVERER);
        recover(&world, &mut hash)?;
        hash.reap(RECOVERER).map_err(|error| error.to_string())?;
        world.model.forget(RECOVERER);
        let report = hash.verify().map_err(|error| error.to_string())?;
        if !report.faults.is_empty() {
            return Err(format!("{:?}", report.faults));
        }
        if report.blocks != world.model.used() {
            return Err(format!("{:?} are its own, {:?} used", report.blocks, world.model.used()));
        }
        let done = notes.get(DONE);
        let (least, most) = (self.map(done), self.map(done + 1));
        let mut all = Map::new();
        let keys: std::collections::BTreeSet<_> = least.keys().chain(most.keys()).collect();
        for name in keys {
            let mut out = [0; 8];
            let found = hash.get(&key(*name), &mut out).map_err(|error| error.to_string())?;
            if found.is_some() {
                all.insert(*name, u64::from_le_bytes(out));
            }
        }
        let others = u64::from(hash.find(&key(HIGH | 99)).is_ok_and(|found| found.is_some()));
        let is_right = all == least || all == most;
        if !is_right || report.entries != all.len() as u64 + others {
            return Err(format!("after {done} operations it holds {all:?}, {report:?}"));
        }
        hash.insert(&key(HIGH | 77), &key(1)).map_err(|error| format!("going on: {error}"))?;
        drop(hash);
        drop(world.survivor);
        std::mem::forget(world.recoverer);
        // SAFETY: nobody else is attached.
        let end = unsafe { Hash::destroy(world.model.ground(SURVIVOR), world.model.place()) };
        end.map_err(|error| format!("destroying: {error}"))?;
        match &world.model.used()[..] {
            [] => Ok(()),
            left => Err(format!("{left:?} are left")),
        }
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(move || {
            let mut hash = world.survivor.borrow_mut();
            hash.find(&key(KEY | 2)).map_err(|error| error.to_string())?;
            hash.upsert(&key(HIGH | 99), &key(3)).map_err(|error| error.to_string())?;
            Ok(())
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(move || recover(world, &mut world.recoverer.borrow_mut())))
    }

    fn forked(&self, _: &World, doomed: &mut Self::Doomed) -> Result<(), String> {
        // It may have left in the meantime.
        let Some(hash) = doomed else { return Ok(()) };
        let (name, forked) = (key(KEY | 1), HashError::Forked(Forked));
        let refused = hash.insert(&name, &name) == Err(forked)
            && hash.update(&name, &name) == Err(forked)
            && hash.delete(&name) == Err(forked)
            && hash.get(&name, &mut [0; 8]) == Err(forked)
            && hash.reap(SURVIVOR) == Err(forked)
            && hash.tidy() == Err(forked)
            && hash.settle() == Err(forked);
        drop(doomed.take());
        if refused { Ok(()) } else { Err("uses its parent's row".to_owned()) }
    }
}

/// Changes of one table.
fn changes() -> Case {
    Case {
        name: "changes",
        covers: &[
            "dsm::hash::Hash::insert",
            "dsm::hash::Hash::upsert",
            "dsm::hash::Hash::update",
            "dsm::hash::Hash::compare_update",
            "dsm::hash::Hash::compare_delete",
            "dsm::hash::Hash::delete",
            "dsm::hash::Hash::find",
            "dsm::hash::Hash::tidy",
        ],
        before: vec![Op::Insert(KEY | 1, 10), Op::Insert(KEY | 2, 20)],
        ops: vec![
            Op::Insert(KEY | 3, 30),
            Op::Update(KEY | 1, 11),
            Op::CompareUpdate(KEY | 1, 11, 12),
            Op::Delete(KEY | 2),
            Op::Upsert(KEY | 2, 21),
            Op::CompareDelete(KEY | 1, 12),
            Op::Find(KEY | 3),
            Op::Tidy,
        ],
    }
}

/// The eight cells are full: the ninth key moves the table.
fn moves() -> Case {
    Case {
        name: "moves",
        covers: &["dsm::hash::Hash::insert", "dsm::hash::Hash::settle"],
        before: (0..8).map(|n| Op::Insert((n % 2 * HIGH) | KEY | n, n)).collect(),
        ops: vec![Op::Insert(KEY | 8, 8), Op::Delete(HIGH | KEY | 1), Op::Settle],
    }
}

/// One who joins, changes something and leaves.
fn joins() -> Case {
    Case {
        name: "joins",
        covers: &["dsm::hash::Hash::attach"],
        before: vec![Op::Insert(KEY | 1, 10)],
        ops: vec![Op::Upsert(KEY | 1, 11)],
    }
}

/// The same, joining in the operation.
struct Joins(Case);

impl Scenario for Joins {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        self.0.name()
    }

    fn operations(&self) -> &'static [&'static str] {
        self.0.covers
    }

    fn world(&self) -> World {
        self.0.world()
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        let mut hash = Some(model::handle(&world.model, DOOMED, 0));
        self.0.operate(world, &mut hash, notes);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        self.0.image(world)
    }

    fn check(&self, world: World, notes: &Notes, end: End) -> Result<(), String> {
        self.0.check(world, notes, end)
    }
}

/// One makes a hash, cleans up after somebody, and takes the hash away.
struct Lives;

impl Scenario for Lives {
    type World = Arc<Model>;
    type Doomed = ();

    fn name(&self) -> String {
        "hash, create, reap, destroy".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["dsm::hash::Hash::create", "dsm::hash::Hash::reap", "dsm::hash::Hash::destroy"]
    }

    fn world(&self) -> Arc<Model> {
        let (_, mapping) = shared(END * 8);
        Model::over(mapping)
    }

    fn prepare(&self, _: &Arc<Model>, _: &Notes) {}

    fn operate(&self, model: &Arc<Model>, (): &mut (), notes: &Notes) {
        let mut hash = model::handle(model, DOOMED, 0);
        for name in 0..9 {
            hash.insert(&key((name % 2 * HIGH) | KEY | name), &key(name)).unwrap();
        }
        let mut other = model::handle(model, RECOVERER, 0);
        other.delete(&key(KEY)).unwrap();
        std::mem::forget(other);
        assert_eq!(hash.reap(RECOVERER), Ok(1));
        notes.count(DONE);
        drop(hash);
        // SAFETY: nobody else is attached.
        unsafe { Hash::destroy(model.ground(DOOMED), model.place()) }.unwrap();
    }

    fn image(&self, model: &Arc<Model>) -> Vec<u8> {
        words_from(model.mapping(), 0)
    }

    fn check(&self, model: Arc<Model>, _: &Notes, _: End) -> Result<(), String> {
        for dead in [DOOMED, RECOVERER] {
            model.reap(dead);
            model.forget(dead);
        }
        // SAFETY: nobody else is attached.
        let end = unsafe { Hash::destroy(model.ground(SURVIVOR), model.place()) };
        end.map_err(|error| format!("destroying: {error}"))?;
        match &model.used()[..] {
            [] => Ok(()),
            left => Err(format!("{left:?} are left")),
        }
    }
}

#[test]
fn who_changes_may_die_anywhere() {
    Run::new(&changes()).kill().passes();
}

#[test]
fn who_moves_may_die_anywhere() {
    Run::new(&moves()).kill().passes();
}

#[test]
fn who_joins_may_die_anywhere() {
    Run::new(&Joins(joins())).kill().passes();
}

#[test]
fn who_makes_it_cleans_up_or_takes_it_away_may_die_anywhere() {
    Run::new(&Lives).kill().passes();
}

#[test]
fn who_cleans_up_may_die_too() {
    Run::new(&changes()).nested().passes();
    // With every second death it takes hours.
    Run::new(&moves()).deep_at_most(10_000).nested().passes();
}

#[test]
fn a_forked_child_uses_no_row_of_its_parent() {
    Run::new(&changes()).points(60).fork().passes();
    Run::new(&moves()).points(30).fork().passes();
}

#[test]
fn who_stands_still_hinders_nobody() {
    Run::new(&changes()).points(60).stop().passes();
    Run::new(&moves()).points(30).bystander_at_most(50_000).stop().passes();
}
