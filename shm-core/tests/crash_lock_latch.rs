//! A latch outlives whoever dies in setting, resetting or waiting: what was acknowledged as set is
//! set, and the next one to wait is woken.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::{Makes, shared, words_from};
use shm_core::lock::latch::{Latch, WaitError};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};

const AT: u64 = 512;
/// In the notes: the last thing that was acknowledged.
const SET: usize = 0;
const NAP: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(20);
/// A bystander reads `/proc` to join.
const BYSTANDER_MAX: usize = 500_000;

struct World {
    mapping: Arc<Mapping>,
    me: Arc<Member>,
    latch: Latch,
}

fn latch(mapping: &Arc<Mapping>) -> Latch {
    // SAFETY: nobody has been told of the place.
    unsafe { Latch::create(mapping, AT) }.unwrap()
}

fn world() -> World {
    let (_, mapping) = shared(4096);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 4) }.unwrap();
    World { me: table.join().unwrap(), latch: latch(&mapping), mapping }
}

/// What a process does with a latch.
struct Uses {
    name: &'static str,
    operations: &'static [&'static str],
    operate: fn(&World, &Member, &Notes),
}

impl Scenario for Uses {
    type World = World;
    type Doomed = Arc<Member>;

    fn name(&self) -> String {
        format!("latch, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        world()
    }

    fn prepare(&self, world: &World, _: &Notes) -> Arc<Member> {
        world.me.table().join().unwrap()
    }

    fn operate(&self, world: &World, me: &mut Arc<Member>, notes: &Notes) {
        (self.operate)(world, me, notes);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, AT)
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let (is_set, steps) = (world.latch.is_set(), notes.get(SET));
        // Steps 1 and 3 set it, step 2 resets it; what comes next may have been done.
        if steps == 3 && !is_set {
            return Err(format!("after step {steps} it is set: {is_set}"));
        }
        world.latch.reset();
        let setter = std::thread::spawn({
            let latch = world.latch.clone();
            move || latch.set()
        });
        let woken = world.latch.wait(&world.me, &[], Some(Instant::now() + LIMIT));
        let _ = setter.join();
        woken.map_err(|error| format!("after a death nobody is woken: {error}"))
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let me = world.me.table().join().map_err(|error| error.to_string())?;
            world.latch.set();
            world.latch.wait(&me, &[], Some(Instant::now() + LIMIT)).map_err(|e| e.to_string())
        }))
    }

    fn forked(&self, world: &World, me: &mut Arc<Member>) -> Result<(), String> {
        match world.latch.wait(me, &[], Some(Instant::now())) {
            Err(WaitError::Forked(_)) => Ok(()),
            other => Err(format!("waits in its parent's name: {other:?}")),
        }
    }
}

#[test]
fn who_sets_resets_and_waits_may_die_anywhere() {
    let scenario = Uses {
        name: "set, wait, reset",
        operations: &[
            "shm_core::lock::latch::Latch::set",
            "shm_core::lock::latch::Latch::reset",
            "shm_core::lock::latch::Latch::wait",
        ],
        operate: |world, me, notes| {
            world.latch.set();
            notes.count(SET);
            world.latch.wait(me, &[], None).unwrap();
            assert!(world.latch.reset());
            notes.count(SET);
            // A sign that says "somebody sleeps", and a wake-up in vain; unless a bystander has
            // set it.
            let past = world.latch.wait(me, &[], Some(Instant::now()));
            assert!(matches!(past, Ok(()) | Err(WaitError::TimedOut)), "{past:?}");
            world.latch.set();
            notes.count(SET);
        },
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(60).bystander_at_most(BYSTANDER_MAX).stop().passes();
    Run::new(&scenario).points(100).fork().passes();
}

#[test]
fn one_may_die_asleep() {
    let scenario = Uses {
        name: "wait, asleep",
        operations: &["shm_core::lock::latch::Latch::wait"],
        operate: |world, me, _| {
            let peer = me.watch(world.me.id());
            let waited = world.latch.wait(me, &[&peer], Some(Instant::now() + NAP));
            assert_eq!(waited, Err(WaitError::TimedOut));
        },
    };
    Run::new(&scenario).asleep().passes();
}

#[test]
fn its_maker_may_die_anywhere() {
    let maker = Makes {
        name: "latch, create",
        operations: &["shm_core::lock::latch::Latch::create"],
        at: AT,
        make: |mapping| drop(latch(mapping)),
        check: |mapping| {
            let latch = Latch::attach(mapping, AT).map_err(|error| error.to_string())?;
            if latch.is_set() { Err("it is set from the beginning".to_owned()) } else { Ok(()) }
        },
    };
    maker.may_die_anywhere();
}
