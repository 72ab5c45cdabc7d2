//! A member is killed at each instruction of joining, leaving, reaping and waiting: its slot is
//! found and freed, who cleans up begins again, and who sleeps is still woken.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::shared;
use shm_core::event::EventCount;
use shm_core::futex::Wake;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{self, Member, Outcome, ParticipantId, Table, Watch};
use shm_core::process::Liveness;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SLOTS: u32 = 3;
/// In the notes: the doomed one was told that it is done.
const DONE: usize = 0;
/// So long one sleeps that is killed asleep.
const NAP: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(60);

struct World {
    memory: SharedMemory,
    me: Arc<Member>,
    event: Mapped<EventCount>,
    /// Set by who cleans up, once or more.
    cleaned: Mapped<AtomicU64>,
    _mapping: Arc<Mapping>,
}

impl World {
    fn new() -> World {
        let event_at = Table::bytes_for(SLOTS);
        let (memory, mapping) = shared(event_at + 128);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SLOTS) }.unwrap();
        // SAFETY: as above, and the table ends before.
        let event = unsafe { Mapped::place(&mapping, event_at, EventCount::new()) }.unwrap();
        // SAFETY: as above, and the event ends before.
        let cleaned = unsafe { Mapped::place(&mapping, event_at + 64, AtomicU64::new(0)) }.unwrap();
        World { memory, me: table.join().unwrap(), event, cleaned, _mapping: mapping }
    }

    fn table(&self) -> &Table {
        self.me.table()
    }

    /// All shared bytes, but for who is who: pids, start times and thread ids.
    fn image(&self) -> Vec<u8> {
        let mut bytes = self.memory.copy();
        for slot in 0..SLOTS {
            let at = Table::bytes_for(slot) as usize;
            // The seat's state stands in the topmost bits.
            bytes[at..at + 7].fill(0);
            bytes[at + 7] &= 0xc0;
            bytes[at + 12..at + 16].fill(0);
        }
        bytes
    }

    /// Marks what it cleans up after; how many slots that freed.
    fn reap(&self) -> usize {
        self.table().reap(|_| self.cleaned.store(1, Ordering::Relaxed))
    }

    /// Everybody can sit down again, and be woken.
    fn go_on(&self) -> Result<(), String> {
        let seats: Result<Vec<_>, _> = (1..SLOTS).map(|_| self.table().join()).collect();
        let seats = seats.map_err(|error| format!("a seat leaked: {error}"))?;
        let watch = self.me.watch(seats[0].id());
        let (ticket, end) = (self.event.prepare(), Instant::now() + LIMIT);
        self.event.notify();
        let outcome = participants::wait(&self.event, ticket, &[&watch], Some(end));
        if outcome != Outcome::Woken {
            return Err(format!("a wake-up was lost: {outcome:?}"));
        }
        Ok(())
    }
}

type Doomed = Option<(Arc<Member>, Watch)>;

/// What a process does at its table.
struct AtTable {
    name: &'static str,
    operations: &'static [&'static str],
    joins_first: bool,
    /// Somebody has died before.
    has_dead: bool,
    operate: fn(&World, &mut Doomed),
    /// Seats that may be dead, and are then reaped by the survivors.
    dead_max: usize,
}

fn join(world: &World) -> Doomed {
    let me = world.table().join().unwrap();
    let watch = me.watch(world.me.id());
    Some((me, watch))
}

/// A process that has joined and died.
fn die(world: &World) {
    assert!(in_a_fork(|| world.table().join().map(std::mem::forget).is_ok()));
}

impl Scenario for AtTable {
    type World = World;
    type Doomed = Doomed;

    fn name(&self) -> String {
        format!("participants, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let world = World::new();
        if self.has_dead {
            die(&world);
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Doomed {
        if self.joins_first { join(world) } else { None }
    }

    fn operate(&self, world: &World, doomed: &mut Doomed, notes: &Notes) {
        (self.operate)(world, doomed);
        notes.set(DONE, 1);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.image()
    }

    fn check(&self, world: World, notes: &Notes, end: End) -> Result<(), String> {
        let cleaned_before = world.cleaned.load(Ordering::Relaxed) == 1;
        if self.has_dead && notes.get(DONE) == 1 && !cleaned_before {
            return Err("it was told that it has cleaned up".to_owned());
        }
        let reaped = world.reap();
        if reaped > self.dead_max || (end == End::Finished && reaped > 0) {
            return Err(format!("{reaped} seats were reaped after {end:?}"));
        }
        if self.has_dead && world.cleaned.load(Ordering::Relaxed) == 0 {
            return Err("nobody has cleaned up after the dead one".to_owned());
        }
        let living = world.table().snapshot();
        if living.iter().any(|info| info.id != world.me.id() || info.liveness != Liveness::Alive) {
            return Err(format!("after all were reaped there are {living:?}"));
        }
        world.go_on()
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.event.notify();
            Ok(())
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.reap();
            Ok(())
        }))
    }

    /// Where it was about to sit down, or has got up, there is no seat of its own to look at.
    fn forked(&self, world: &World, doomed: &mut Doomed) -> Result<(), String> {
        let refuses = |me: &Arc<Member>| me.check_fork().is_err();
        let refused = doomed.as_ref().is_none_or(|(me, _)| refuses(me)) && refuses(&world.me);
        if refused { Ok(()) } else { Err("sits in its parent's seat".to_owned()) }
    }
}

const AT_TABLE: AtTable = AtTable {
    name: "",
    operations: &[],
    joins_first: true,
    has_dead: false,
    operate: |_, _| (),
    dead_max: 1,
};

#[test]
fn one_may_die_joining() {
    let scenario = AtTable {
        name: "join",
        operations: &[
            "shm_core::participants::Table::join",
            "shm_core::participants::Table::join_with",
        ],
        joins_first: false,
        operate: |world, doomed| *doomed = join(world),
        ..AT_TABLE
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).fork().passes();
}

#[test]
fn one_may_die_leaving() {
    let scenario = AtTable {
        name: "leave",
        operations: &["shm_core::participants::Member::drop"],
        operate: |_, doomed| drop(doomed.take()),
        ..AT_TABLE
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).fork().passes();
}

#[test]
fn one_may_die_reaping() {
    let scenario = AtTable {
        name: "reap",
        operations: &["shm_core::participants::Table::reap"],
        has_dead: true,
        operate: |world, _| {
            world.reap();
        },
        dead_max: 2,
        ..AT_TABLE
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(60).nested().passes();
}

/// Waits for the test process, or until then.
fn wait(world: &World, doomed: &Doomed, until: Instant) {
    let (_, watch) = doomed.as_ref().unwrap();
    let ticket = world.event.prepare();
    participants::wait(&world.event, ticket, &[watch], Some(until));
}

#[test]
fn one_may_die_waiting() {
    let scenario = AtTable {
        name: "wait for an event and a peer",
        operations: &["shm_core::participants::wait"],
        operate: |world, doomed| wait(world, doomed, Instant::now()),
        ..AT_TABLE
    };
    Run::new(&scenario).points(300).kill().passes();
    Run::new(&scenario).points(300).fork().passes();
}

#[test]
fn one_may_die_asleep() {
    let scenario = AtTable {
        name: "wait for an event and a peer, asleep",
        operations: &["shm_core::participants::wait"],
        operate: |world, doomed| wait(world, doomed, Instant::now() + NAP),
        ..AT_TABLE
    };
    Run::new(&scenario).asleep().passes();
    let scenario = AtTable {
        name: "an event, asleep",
        operations: &["shm_core::event::EventCount::wait"],
        operate: |world, _| {
            let ticket = world.event.prepare();
            assert_eq!(world.event.wait(ticket, Some(Instant::now() + NAP)), Wake::TimedOut);
        },
        ..AT_TABLE
    };
    Run::new(&scenario).asleep().passes();
}

/// Announced, woken, and asleep until a deadline that has passed.
#[test]
fn one_may_die_at_an_event() {
    let scenario = AtTable {
        name: "prepare, notify and sleep at an event",
        operations: &[
            "shm_core::event::EventCount::prepare",
            "shm_core::event::EventCount::notify",
            "shm_core::event::EventCount::wait",
        ],
        operate: |world, _| {
            let ticket = world.event.prepare();
            world.event.notify();
            assert_eq!(world.event.wait(ticket, None), Wake::Woken);
            let ticket = world.event.prepare();
            world.event.wait(ticket, Some(Instant::now()));
        },
        ..AT_TABLE
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).stop().passes();
}

#[test]
fn a_dead_ones_id_is_dead_for_good() {
    let world = World::new();
    die(&world);
    let dead: Vec<ParticipantId> = world.table().snapshot().iter().map(|info| info.id).collect();
    world.reap();
    world.go_on().unwrap();
    let gone = dead.into_iter().filter(|id| *id != world.me.id());
    assert!(gone.clone().count() == 1);
    assert!(gone.map(|id| world.table().liveness(id)).all(|is| is == Liveness::Dead));
}
