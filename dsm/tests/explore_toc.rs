//! The table of contents under the explorer: a key has one value, which is whole; chunks are
//! nobody else's; what a death leaves half done is completed by who inserts the key again.
#![cfg(shm_explore)]
use dsm::toc::{Toc, TocError, TocPlan};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, is_deep};
use std::sync::Arc;

const MAGIC: u64 = 77;

fn mapping() -> Arc<Mapping> {
    let plan = TocPlan::new().chunk(64).chunk(64).chunk(64).keys(2);
    Mapping::heap(plan.bytes().unwrap() as usize)
}

struct World {
    mapping: Arc<Mapping>,
    toc: Toc,
}

fn world() -> World {
    let mapping = mapping();
    let toc = Toc::create(&mapping, MAGIC, 2).unwrap();
    World { mapping, toc }
}

impl World {
    fn chunk(&self, offset: u64) -> Mapped<AtomicU64> {
        Mapped::new(&self.mapping, offset).unwrap()
    }

    /// Files a chunk of its own under `key`, and says so if it was the one.
    fn insert(&self, me: &Me, key: u64) {
        let chunk = self.toc.allocate(8).expect("there is room for three");
        self.chunk(chunk).store(key, Relaxed);
        match self.toc.insert(key, chunk) {
            Ok(()) => me.say(key),
            Err(TocError::Duplicate { key: same }) => assert_eq!(same, key),
            Err(other) => panic!("{other}"),
        }
    }

    /// A key that is found leads to a whole chunk, and to the same one ever after.
    fn look(&self, key: u64) {
        let first = self.toc.lookup(key).unwrap();
        if let Some(chunk) = first {
            assert_eq!(self.chunk(chunk).load(Relaxed), key, "filed before it was written");
            assert_eq!(self.toc.lookup(key).unwrap(), first, "it has moved");
        }
    }

    fn check(&self, end: &End<'_>, inserters: &[u64]) {
        let entries = self.toc.entries().unwrap();
        let mut keys: Vec<u64> = entries.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        assert!(keys.is_sorted_by(|a, b| a < b), "a key in two places: {entries:?}");
        for key in inserters {
            let of_key = |p: &usize| inserters[*p] == *key;
            let won = (0..inserters.len()).filter(of_key).filter(|p| !end.said(*p).is_empty());
            assert!(won.count() <= 1, "two have filed {key}");
            self.look(*key);
            let finished = (0..inserters.len()).filter(of_key).any(|p| end.has_finished(p));
            let found = self.toc.lookup(*key).unwrap();
            assert!(found.is_some() || !finished, "filed, and not found");
        }
        for key in inserters {
            if self.toc.lookup(*key).unwrap().is_none() {
                // It may be half there. Its place is not lost.
                self.toc.insert(*key, self.mapping.len() as u64 - 64).expect("it is completed");
            }
        }
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("table of contents", name)
}

fn inserter(world: &World, key: u64) -> Process<'_> {
    Process::new("inserter", move |me| world.insert(me, key)).mortal().never_waits()
}

fn reader<'a>(world: &'a World, keys: &'a [u64]) -> Process<'a> {
    Process::new("reader", |_| keys.iter().for_each(|key| world.look(*key))).never_waits()
}

#[test]
fn inserters_may_die_anywhere() {
    let world = world();
    const KEYS: &[u64] = &[1, 1, 2];
    let deaths = if is_deep() { 3 } else { 2 };
    let mut scenario = scenario(&format!("two of one key, one of another, {deaths} deaths"));
    for key in KEYS {
        scenario = scenario.process(inserter(&world, *key));
    }
    let scenario = scenario.process(reader(&world, &[1])).deaths(deaths);
    let preemptions = if is_deep() { 3 } else { 2 };
    scenario.check(|end| world.check(end, KEYS)).preemptions_at_most(preemptions).explore();
}

#[test]
fn a_key_is_found_whole_or_not_at_all() {
    let world = world();
    let scenario = scenario("one key, two readers").process(inserter(&world, 1)).deaths(1);
    let scenario = scenario.process(reader(&world, &[1])).process(reader(&world, &[1, 2]));
    scenario.check(|end| world.check(end, &[1])).explore();
}

/// The maker may die half-way; who attaches finds all or nothing.
#[test]
fn a_table_is_there_as_a_whole() {
    let mapping = mapping();
    let makes = Process::new("makes", |_| {
        let toc = Toc::create(&mapping, MAGIC, 2).unwrap();
        let chunk = toc.allocate(8).unwrap();
        toc.insert(1, chunk).unwrap();
    });
    let attaches = Process::new("attaches", |_| match Toc::attach(&mapping, MAGIC) {
        Ok(toc) => {
            toc.free_space().unwrap();
            toc.lookup(1).unwrap();
        }
        Err(TocError::Magic { found: 0, .. }) => {}
        Err(other) => panic!("{other}"),
    });
    let scenario = scenario("one makes it").deaths(1).process(makes.mortal().never_waits());
    scenario.process(attaches.never_waits()).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world();
    let uses = |key: u64| {
        let world = &world;
        Process::new("uses", move |_| {
            let Ok(toc) = Toc::attach(&world.mapping, MAGIC) else { return };
            let _ = (toc.free_space(), toc.lookup(key), toc.entries());
            if let Ok(chunk) = toc.allocate(64) {
                world.chunk(chunk).store(key, Relaxed);
                let _ = toc.insert(key, chunk);
            }
            let _ = toc.lookup(key);
        })
        .never_waits()
    };
    let (lies, preemptions) = if is_deep() { (3, 3) } else { (2, 2) };
    let scenario = scenario(&format!("{lies} lies")).lies(lies).preemptions_at_most(preemptions);
    scenario.process(uses(1)).process(uses(1)).explore();
}
