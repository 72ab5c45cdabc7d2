//! A barrier outlives whoever dies in joining, arriving, waiting, leaving or cleaning up: the
//! others are told where it had not come, and go on without it.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::{Makes, shared, words_from};
use shm_core::lock::barrier::{Barrier, BarrierError, Party};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SEATS: u32 = 4;
const AT: u64 = 512;
/// In the notes: how many steps were acknowledged.
const DONE: usize = 0;
/// So long one sleeps that is killed asleep.
const NAP: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(20);
/// A bystander reads `/proc` to join, and to learn who lives.
const BYSTANDER_MAX: usize = 500_000;

struct World {
    mapping: Arc<Mapping>,
    me: Arc<Member>,
    barrier: Barrier,
    /// This test's party, where it has one.
    party: Mutex<Option<Party>>,
}

impl World {
    fn new(first: u32, with_party: bool) -> World {
        let (_, mapping) = shared(4096);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
        // SAFETY: as above, and the table ends before.
        let barrier = unsafe { Barrier::create(&mapping, AT, SEATS, first) }.unwrap();
        let me = table.join().unwrap();
        let party = with_party.then(|| barrier.join(&me).unwrap());
        World { me, barrier, party: Mutex::new(party), mapping }
    }

    /// Goes on alone, whatever one who is dead has left: told at most once of it.
    fn go_on(&self) -> Result<(), String> {
        let party = self.party.lock().map_err(|error| error.to_string())?.take();
        let party = party.map_or_else(|| self.barrier.join(&self.me), Ok);
        let mut party = party.map_err(|error| format!("cannot join: {error}"))?;
        let (mut told, mut is_owed) = (0, false);
        for phase in 0..4 {
            match party.arrive_and_wait_until(Instant::now() + LIMIT) {
                Ok(true) if !is_owed => (),
                // The dead one was elected, which is told in the next phase.
                Ok(false) if !is_owed => is_owed = true,
                Err(BarrierError::Died { by }) if by != self.me.id() => {
                    (told, is_owed) = (told + 1, false);
                }
                other => return Err(format!("in the next phase but {phase}: {other:?}")),
            }
        }
        if told > 1 {
            return Err(format!("one death is told {told} times"));
        }
        match self.barrier.parties().len() {
            1 => party.leave().map_err(|error| error.to_string()),
            parties => Err(format!("of one party there are {parties}")),
        }
    }
}

/// What a process does at a barrier.
struct Uses {
    name: &'static str,
    operations: &'static [&'static str],
    world: fn() -> World,
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
        (self.world)()
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

    fn check(&self, world: World, _: &Notes, end: End) -> Result<(), String> {
        if end == End::Killed {
            world.me.table().reap(|dead| world.barrier.clean_up(dead));
        }
        world.go_on()
    }

    /// Another one joins and leaves meanwhile.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let me = world.me.table().join().map_err(|error| error.to_string())?;
            let party = world.barrier.join(&me).map_err(|error| error.to_string())?;
            party.arrive_and_leave().map(drop).map_err(|error| error.to_string())
        }))
    }

    fn forked(&self, world: &World, me: &mut Arc<Member>) -> Result<(), String> {
        match world.barrier.join(me) {
            Err(BarrierError::Forked(_)) => Ok(()),
            other => Err(format!("joins in its parent's name: {other:?}")),
        }
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.me.table().reap(|dead| world.barrier.clean_up(dead));
            Ok(())
        }))
    }
}

/// Alone, or the last to come: nothing to sleep for.
const COMES: Uses = Uses {
    name: "join, arrive, leave",
    operations: &[
        "shm_core::lock::barrier::Barrier::join",
        "shm_core::lock::barrier::Party::arrive_and_wait",
        "shm_core::lock::barrier::Party::leave",
        "shm_core::lock::barrier::Party::drop",
        "shm_core::lock::barrier::Barrier::clean_up",
    ],
    world: || World::new(0, false),
    operate: |world, me, notes| {
        let mut party = world.barrier.join(me).unwrap();
        notes.count(DONE);
        party.arrive_and_wait().unwrap();
        notes.count(DONE);
        drop(party);
        world.barrier.join(me).unwrap().leave().unwrap();
        notes.count(DONE);
    },
};

const LEAVES: Uses = Uses {
    name: "arrive with another one, and leave",
    operations: &[
        "shm_core::lock::barrier::Party::arrive_and_wait_until",
        "shm_core::lock::barrier::Party::arrive_and_leave",
        "shm_core::lock::barrier::Party::arrive_and_leave_except_last",
    ],
    world: || World::new(1, true),
    operate: |world, me, notes| {
        let mut party = world.barrier.join(me).unwrap();
        let waited = party.arrive_and_wait_until(Instant::now());
        assert!(matches!(waited, Ok(_) | Err(BarrierError::TimedOut)), "{waited:?}");
        notes.count(DONE);
        party.arrive_and_leave().unwrap();
        notes.count(DONE);
        let mut party = world.barrier.join(me).unwrap();
        assert!(!party.arrive_and_leave_except_last().unwrap());
        notes.count(DONE);
    },
};

#[test]
fn who_comes_and_leaves_may_die_anywhere() {
    for scenario in [&COMES, &LEAVES] {
        Run::new(scenario).points(600).kill().passes();
        Run::new(scenario).points(40).bystander_at_most(BYSTANDER_MAX).stop().passes();
        Run::new(scenario).points(60).fork().passes();
    }
}

#[test]
fn who_cleans_up_may_die_too() {
    Run::new(&COMES).points(30).nested().passes();
}

#[test]
fn one_may_die_asleep() {
    let scenario = Uses {
        name: "arrive, asleep",
        operations: &["shm_core::lock::barrier::Party::arrive_and_wait_until"],
        world: || World::new(1, true),
        operate: |world, me, _| {
            let mut party = ManuallyDrop::new(world.barrier.join(me).unwrap());
            let waited = party.arrive_and_wait_until(Instant::now() + NAP);
            assert_eq!(waited, Err(BarrierError::TimedOut));
        },
    };
    Run::new(&scenario).asleep().passes();
}

#[test]
fn its_maker_may_die_anywhere() {
    let maker = Makes {
        name: "barrier, create",
        operations: &["shm_core::lock::barrier::Barrier::create"],
        at: AT,
        make: |mapping| {
            // SAFETY: nobody has been told of the place.
            unsafe { Barrier::create(mapping, AT, SEATS, 0) }.unwrap();
        },
        check: |mapping| {
            let barrier = Barrier::attach(mapping, AT).map_err(|error| error.to_string())?;
            let is_new = barrier.phase() == 0 && barrier.parties().is_empty();
            if is_new { Ok(()) } else { Err(format!("it is not new: {barrier:?}")) }
        },
    };
    maker.may_die_anywhere();
}
