//! A barrier outlives whoever dies in joining, arriving, leaving or cleaning up: who is left goes on,
//! and is told of one that was missing.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::{shared, words_from};
use shm_core::lock::barrier::{Barrier, BarrierError, Party};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::killpoint::{End, Notes, Run, Scenario};
use std::sync::Arc;
use std::time::{Duration, Instant};

const AT: u64 = 1024;
const ROWS: u32 = 3;
/// In the notes: how many steps were acknowledged.
const STEPS: usize = 0;
const LIMIT: Duration = Duration::from_secs(20);

struct World {
    mapping: Arc<Mapping>,
    me: Arc<Member>,
    barrier: Barrier,
}

fn barrier(mapping: &Arc<Mapping>) -> Barrier {
    // SAFETY: nobody has been told of the place.
    unsafe { Barrier::create(mapping, AT, ROWS, 0) }.unwrap()
}

/// What a process does with a barrier.
struct Uses {
    name: &'static str,
    operations: &'static [&'static str],
    operate: fn(&World, &Arc<Member>, &Notes),
}

impl Scenario for Uses {
    type World = World;
    type Doomed = Arc<Member>;

    fn name(&self) -> String {
        format!("barrier, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let (_, mapping) = shared(4096);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 4) }.unwrap();
        World { me: table.join().unwrap(), barrier: barrier(&mapping), mapping }
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

    fn check(&self, world: World, _: &Notes, _: End) -> Result<(), String> {
        let mut party = world.barrier.join(&world.me).map_err(|e| e.to_string())?;
        let me = world.me.id();
        // A dead one is told of in this phase or in the next, and then it is gone.
        let mut is_owed = false;
        for _ in 0..3 {
            match party.arrive_and_wait_until(Instant::now() + LIMIT) {
                Ok(true) if !is_owed => (),
                // The dead one was elected: that is told in the next phase.
                Ok(false) if !is_owed => is_owed = true,
                Err(BarrierError::Died { by }) if by != me => is_owed = false,
                other => return Err(format!("who is left does not go on: {other:?}, {is_owed}")),
            }
        }
        let left = world.barrier.parties();
        if left == [me] { Ok(()) } else { Err(format!("the dead is a party still: {left:?}")) }
    }

    fn forked(&self, world: &World, me: &mut Arc<Member>) -> Result<(), String> {
        match world.barrier.join(me) {
            Err(BarrierError::Forked(_)) => Ok(()),
            other => Err(format!("joins in its parent's name: {other:?}")),
        }
    }
}

fn joined(world: &World, me: &Arc<Member>, notes: &Notes) -> Party {
    let party = world.barrier.join(me).unwrap();
    notes.count(STEPS);
    party
}

#[test]
fn who_joins_arrives_and_leaves_may_die_anywhere() {
    let scenario = Uses {
        name: "join, arrive, leave",
        operations: &[
            "shm_core::lock::barrier::Barrier::join",
            "shm_core::lock::barrier::party::Party::arrive_and_wait",
            "shm_core::lock::barrier::party::Party::arrive_and_wait_until",
            "shm_core::lock::barrier::party::Party::arrive_and_leave",
            "shm_core::lock::barrier::party::Party::arrive_and_leave_except_last",
            "shm_core::lock::barrier::party::Party::leave",
        ],
        operate: |world, me, notes| {
            let mut party = joined(world, me, notes);
            assert_eq!(party.arrive_and_wait(), Ok(true));
            notes.count(STEPS);
            assert_eq!(party.arrive_and_wait_until(Instant::now() + LIMIT), Ok(true));
            notes.count(STEPS);
            assert_eq!(party.arrive_and_leave_except_last(), Ok(true));
            assert_eq!(party.arrive_and_leave(), Ok(true));
            notes.count(STEPS);
            joined(world, me, notes).leave().unwrap();
            drop(joined(world, me, notes));
        },
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(100).fork().passes();
}

#[test]
fn who_cleans_up_may_die_anywhere() {
    let scenario = Uses {
        name: "clean up",
        operations: &["shm_core::lock::barrier::Barrier::clean_up"],
        operate: |world, me, notes| {
            std::mem::forget(joined(world, me, notes));
            world.barrier.clean_up(me.id());
            notes.count(STEPS);
        },
    };
    Run::new(&scenario).kill().passes();
}

/// The maker of a barrier that nobody has been told of.
struct Makes;

impl Scenario for Makes {
    type World = Arc<Mapping>;
    type Doomed = ();

    fn name(&self) -> String {
        "barrier, create".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["shm_core::lock::barrier::Barrier::create"]
    }

    fn world(&self) -> Arc<Mapping> {
        shared(4096).1
    }

    fn prepare(&self, _: &Arc<Mapping>, _: &Notes) {}

    fn operate(&self, mapping: &Arc<Mapping>, (): &mut (), notes: &Notes) {
        barrier(mapping);
        notes.count(STEPS);
    }

    fn image(&self, mapping: &Arc<Mapping>) -> Vec<u8> {
        words_from(mapping, AT)
    }

    fn check(&self, mapping: Arc<Mapping>, notes: &Notes, _: End) -> Result<(), String> {
        let made = notes.get(STEPS) == 1;
        let barrier = if made { Barrier::attach(&mapping, AT).unwrap() } else { barrier(&mapping) };
        let is_new = barrier.phase() == 0 && barrier.parties().is_empty();
        if is_new { Ok(()) } else { Err("it is in use from the beginning".to_owned()) }
    }
}

#[test]
fn its_maker_may_die_anywhere() {
    Run::new(&Makes).kill().passes();
}
