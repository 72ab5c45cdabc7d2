//! The table of participants outlives whoever dies in making it, in joining and leaving, in reaping
//! and in waiting: the dead are found dead, are reaped, and every seat can be taken again.
//!
//! Claims and life words name processes and threads, so shared bytes are not compared; the notes
//! are. A member's keeper is a thread, whose timing differs: some points are missed.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::shared;
use shm_core::event::EventCount;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Outcome, ParticipantId, Table, wait};
use shm_core::process::Liveness;
use shm_testkit::killpoint::{End, Notes, Run, Scenario};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SLOTS: u32 = 3;
const POINTS: usize = 150;
/// In the notes: steps that are done, bits of the id that it joined with, cleanings up.
const DONE: usize = 0;
const ID: usize = 1;
const CLEANED: usize = 2;

struct World {
    mapping: Arc<Mapping>,
    table: Option<Table>,
    survivor: Option<Arc<Member>>,
    dead: Option<ParticipantId>,
}

impl World {
    fn empty() -> World {
        let (_, mapping) = shared(Table::bytes_for(SLOTS) + 64);
        World { mapping, table: None, survivor: None, dead: None }
    }

    fn with_table() -> World {
        let mut world = World::empty();
        world.table = Some(world.create());
        world
    }

    /// Somebody who joined has died.
    fn with_dead() -> World {
        let mut world = World::with_table();
        // SAFETY: the child joins by itself and ends.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let code = i32::from(world.table().join().map(std::mem::forget).is_err());
            // SAFETY: ends the child, as if it were killed with its seat.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: our own child, and a place for its status.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0);
        world.dead = Some(world.table().snapshot()[0].id);
        world
    }

    fn create(&self) -> Table {
        // SAFETY: nobody has published the table, or uses it.
        unsafe { Table::create(&self.mapping, 0, SLOTS) }.unwrap()
    }

    fn table(&self) -> &Table {
        self.table.as_ref().unwrap()
    }

    fn event(&self) -> Mapped<EventCount> {
        Mapped::new(&self.mapping, Table::bytes_for(SLOTS)).unwrap()
    }

    /// The dead are reaped, and all seats can be taken.
    fn go_on(self) -> Result<u64, String> {
        let (table, mut cleaned) = (self.table.as_ref().ok_or("no table")?, 0);
        table.reap(|_| cleaned += 1);
        let mine = usize::from(self.survivor.is_some());
        if table.snapshot().len() != mine {
            return Err(format!("after reaping there are {:?}", table.snapshot()));
        }
        let joined: Result<Vec<_>, _> = (mine..SLOTS as usize).map(|_| table.join()).collect();
        let joined = joined.map_err(|error| format!("not every seat is usable: {error}"))?;
        if table.join().is_ok() {
            return Err("there is a seat too many".into());
        }
        drop((joined, self.survivor));
        match table.snapshot().len() {
            0 => Ok(cleaned),
            _ => Err("all have left, and there is somebody".into()),
        }
    }
}

/// One sequence of calls.
struct Case {
    name: &'static str,
    operations: &'static [&'static str],
    world: fn() -> World,
    prepare: fn(&World) -> Option<Arc<Member>>,
    operate: fn(&World, &mut Option<Arc<Member>>, &Notes),
    expect: fn(&mut World, &Notes, End) -> Result<(), String>,
}

impl Scenario for Case {
    type World = World;
    type Doomed = Option<Arc<Member>>;

    fn name(&self) -> String {
        format!("participants, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        (self.world)()
    }

    fn prepare(&self, world: &World, _: &Notes) -> Option<Arc<Member>> {
        (self.prepare)(world)
    }

    fn operate(&self, world: &World, member: &mut Option<Arc<Member>>, notes: &Notes) {
        (self.operate)(world, member, notes);
    }

    fn image(&self, _: &World) -> Vec<u8> {
        Vec::new()
    }

    fn check(&self, mut world: World, notes: &Notes, end: End) -> Result<(), String> {
        (self.expect)(&mut world, notes, end)?;
        let had_dead = world.dead.is_some();
        let cleaned = world.go_on()?;
        if had_dead && cleaned + notes.get(CLEANED) == 0 {
            return Err("a dead one's seat is free, and nobody has cleaned up after it".into());
        }
        Ok(())
    }
}

const CREATE: Case = Case {
    name: "create",
    operations: &["shm_core::participants::Table::create"],
    world: World::empty,
    prepare: |_| None,
    operate: |world, _, notes| {
        world.create();
        notes.set(DONE, 1);
    },
    // Published or not is the caller's to know: what was not is made again.
    expect: |world, notes, _| {
        world.table = Some(match notes.get(DONE) {
            1 => Table::attach(&world.mapping, 0).map_err(|error| error.to_string())?,
            _ => world.create(),
        });
        Ok(())
    },
};

const JOIN_AND_LEAVE: Case = Case {
    name: "join, leave",
    operations: &[
        "shm_core::participants::Table::join",
        "shm_core::participants::Table::join_with",
        "shm_core::participants::Member::drop",
    ],
    world: World::with_table,
    prepare: |_| None,
    operate: |world, _, notes| {
        let member = world.table().join().unwrap();
        notes.set(ID, u64::from(member.id().to_bits()));
        drop(member);
        notes.set(DONE, 1);
    },
    expect: |world, notes, _| {
        if notes.get(DONE) == 1 && !world.table().snapshot().is_empty() {
            return Err("it was told that it has left".into());
        }
        match ParticipantId::from_bits(notes.get(ID) as u32) {
            Some(id) if world.table().liveness(id) != Liveness::Dead => {
                Err(format!("{id} is dead, and the table does not know it"))
            }
            _ => Ok(()),
        }
    },
};

const REAP: Case = Case {
    name: "reap",
    operations: &["shm_core::participants::Table::reap"],
    world: World::with_dead,
    prepare: |_| None,
    operate: |world, _, notes| {
        let reaped = world.table().reap(|_| notes.count(CLEANED));
        assert_eq!(reaped, 1);
        notes.set(DONE, 1);
    },
    expect: |world, notes, _| match notes.get(DONE) {
        1 if !world.table().snapshot().is_empty() => Err("it was told that it has reaped".into()),
        _ => Ok(()),
    },
};

const WAIT: Case = Case {
    name: "wait for an event or a death",
    operations: &["shm_core::participants::wait"],
    world: || {
        let mut world = World::with_dead();
        world.survivor = Some(world.table().join().unwrap());
        world
    },
    prepare: |world| Some(world.table().join().unwrap()),
    operate: |world, member, notes| {
        let (me, event) = (member.as_ref().unwrap(), world.event());
        let living = me.watch(world.survivor.as_ref().unwrap().id());
        let soon = Some(Instant::now() + Duration::from_millis(1));
        assert_eq!(wait(&event, event.prepare(), &[&living], soon), Outcome::TimedOut);
        notes.set(DONE, 1);
        let dead = me.watch(world.dead.unwrap());
        assert_eq!(wait(&event, event.prepare(), &[&dead, &living], None), Outcome::Woken);
        notes.set(DONE, 2);
    },
    // What the dead sleeper left behind wakes nobody in vain for ever, and hides no wake-up.
    expect: |world, _, end| {
        let event = world.event();
        let ticket = event.prepare();
        event.notify();
        let deadline = Some(Instant::now() + Duration::from_secs(20));
        if wait(&event, ticket, &[], deadline) == Outcome::TimedOut {
            return Err("an event that was notified after a death wakes nobody".into());
        }
        let others = world.table().snapshot().len();
        let gone = end == End::Finished && others == 2;
        if gone || others == 3 { Ok(()) } else { Err(format!("{others} seats are taken")) }
    },
};

fn run(case: &Case, missed: usize) {
    let deep = std::env::var_os("SHM_DEEP").is_some_and(|deep| deep == "1");
    let missed = if deep { usize::MAX } else { missed };
    Run::new(case).points(POINTS).allow_missed(missed).allow_drifted(missed).kill().passes();
}

#[test]
fn its_creator_may_die_anywhere() {
    run(&CREATE, 0);
}

#[test]
fn who_joins_and_leaves_may_die_anywhere() {
    run(&JOIN_AND_LEAVE, POINTS / 5);
}

#[test]
fn who_reaps_may_die_anywhere() {
    run(&REAP, POINTS / 10);
}

#[test]
fn who_waits_may_die_anywhere() {
    run(&WAIT, POINTS / 5);
}
