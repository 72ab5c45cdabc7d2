//! A process is killed at each instruction of protecting, letting go, scanning and cleaning up:
//! what it was told is protected stays so until it is reaped, then nothing is, and its seat's row
//! serves the next.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::{shared, words_from};
use shm_core::hazard::{HazardRow, Hazards, Protector};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, ParticipantInfo, Seat, Table};
use shm_core::sync::AtomicU64;
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::num::NonZeroU64;
use std::sync::Arc;

const SEATS: u32 = 3;
const GROUPS: u32 = 2;
const ROWS_AT: u64 = Table::bytes_for(SEATS);
/// In the notes: what the doomed one was told is protected; that it is done.
const PROTECTED: usize = 0;
const DONE: usize = 1;
const THING: u64 = 4096;
const OTHER: NonZeroU64 = NonZeroU64::new(8192).unwrap();

struct World {
    mapping: Arc<Mapping>,
    me: Arc<Member>,
    place: Mapped<AtomicU64>,
}

impl World {
    fn empty() -> World {
        let place_at = ROWS_AT + Hazards::bytes_for(SEATS, GROUPS);
        let (_, mapping) = shared(place_at + 64);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
        // SAFETY: as above, and the rows end before.
        let place = unsafe { Mapped::place(&mapping, place_at, AtomicU64::new(THING)) }.unwrap();
        World { me: table.join().unwrap(), mapping, place }
    }

    fn with_rows() -> World {
        let world = World::empty();
        world.create();
        world
    }

    fn create(&self) -> Hazards {
        // SAFETY: nobody has published the rows, or uses them.
        unsafe { Hazards::create(&self.mapping, ROWS_AT, SEATS, GROUPS) }.unwrap()
    }

    fn hazards(&self) -> Hazards {
        Hazards::attach(&self.mapping, ROWS_AT).unwrap()
    }

    fn reap(&self) -> usize {
        let hazards = self.hazards();
        self.me.table().reap(|dead| hazards.clear_row(dead))
    }

    /// Every seat's row can be had, and protects, and lets go.
    fn go_on(&self) -> Result<(), String> {
        let (hazards, table) = (self.hazards(), self.me.table());
        let what = |error: &dyn std::fmt::Display| format!("a row is of no use: {error}");
        let members: Result<Vec<_>, _> = (1..SEATS).map(|_| table.join()).collect();
        for member in members.map_err(|error| what(&error))? {
            let row = hazards.row(&member).map_err(|error| what(&error))?;
            let protector = row.protector().map_err(|error| what(&error))?;
            let mut slot = protector.slot().ok_or("a group without a slot")?;
            slot.protect_word(&self.place, |word| word).map_err(|error| what(&error))?;
            let protected = hazards.snapshot();
            if protected.iter().collect::<Vec<_>>() != [THING] {
                return Err(format!("{protected:?} is protected"));
            }
        }
        let protected = hazards.snapshot();
        if protected.is_empty() { Ok(()) } else { Err(format!("{protected:?} is left")) }
    }
}

/// A process that has announced something and died.
fn die(world: &World) {
    assert!(in_a_fork(|| {
        let (member, row) = sit(world);
        let protector = row.protector().unwrap();
        let mut slot = protector.slot().unwrap();
        let announced = slot.protect(OTHER, || true).is_ok();
        std::mem::forget(slot);
        std::mem::forget(protector);
        std::mem::forget((member, row));
        announced
    }));
}

fn sit(world: &World) -> (Arc<Member>, HazardRow) {
    let member = world.me.table().join().unwrap();
    let row = world.hazards().row(&member).unwrap();
    (member, row)
}

/// What the process has that is killed.
#[derive(Default)]
struct Doomed {
    member: Option<Arc<Member>>,
    row: Option<HazardRow>,
    protector: Option<Protector>,
}

/// What a process does with the rows.
struct AtRows {
    name: &'static str,
    operations: &'static [&'static str],
    prepare: fn(&World) -> Doomed,
    operate: fn(&World, &mut Doomed, &Notes),
    /// Somebody has died before, whose row is not cleared yet.
    has_dead: bool,
}

const AT_ROWS: AtRows = AtRows {
    name: "",
    operations: &[],
    prepare: |_| Doomed::default(),
    operate: |_, _, _| (),
    has_dead: false,
};

impl Scenario for AtRows {
    type World = World;
    type Doomed = Doomed;

    fn name(&self) -> String {
        format!("hazard, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let world = World::with_rows();
        if self.has_dead {
            die(&world);
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Doomed {
        (self.prepare)(world)
    }

    fn operate(&self, world: &World, doomed: &mut Doomed, notes: &Notes) {
        (self.operate)(world, doomed, notes);
        notes.set(DONE, 1);
    }

    /// The rows alone: the table names processes.
    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, ROWS_AT)
    }

    fn check(&self, world: World, notes: &Notes, end: End) -> Result<(), String> {
        let before = world.hazards().snapshot();
        let told = notes.get(PROTECTED);
        // Who recovered may have begun to clean up after it.
        let dead = |info: &ParticipantInfo| info.id != world.me.id() && info.seat == Seat::Live;
        let is_dead = end == End::Killed && world.me.table().snapshot().iter().any(dead);
        if is_dead && told != 0 && !before.contains(told) {
            return Err(format!("{told} was protected, and is not: {before:?}"));
        }
        let reaped = world.reap();
        let after = world.hazards().snapshot();
        if !after.is_empty() {
            return Err(format!("{reaped} were reaped, and {after:?} is still protected"));
        }
        world.go_on()
    }

    /// Scans, and finds what has been there all the time.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let protected = world.hazards().snapshot();
            let known = protected.iter().all(|value| value == THING || value == OTHER.get());
            if known { Ok(()) } else { Err(format!("{protected:?} is protected")) }
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.reap();
            Ok(())
        }))
    }

    fn forked(&self, world: &World, doomed: &mut Doomed) -> Result<(), String> {
        let refuses = |member: &Arc<Member>| world.hazards().row(member).is_err();
        let mut refused = refuses(&world.me) && doomed.member.as_ref().is_none_or(refuses);
        refused &= doomed.row.as_ref().is_none_or(|row| row.protector().is_err());
        if let Some(mut slot) = doomed.protector.as_ref().and_then(Protector::slot) {
            refused &= slot.protect(OTHER, || true).is_err();
            refused &= slot.protect_word(&world.place, |word| word).is_err();
            slot.clear();
        }
        if refused { Ok(()) } else { Err("protects in its parent's row".to_owned()) }
    }
}

/// With a group, which is as good as new.
fn with_a_group(world: &World) -> Doomed {
    let (member, row) = sit(world);
    let protector = row.protector().unwrap();
    Doomed { member: Some(member), row: Some(row), protector: Some(protector) }
}

/// Protects one thing, then another in its place, and lets go.
fn protect(world: &World, doomed: &mut Doomed, notes: &Notes) {
    let protector = doomed.protector.as_ref().unwrap();
    let mut slot = protector.slot().unwrap();
    assert_eq!(slot.protect_word(&world.place, |word| word), Ok(THING));
    notes.set(PROTECTED, THING);
    notes.set(PROTECTED, 0);
    assert_eq!(slot.protect(OTHER, || true), Ok(true));
    notes.set(PROTECTED, OTHER.get());
    let mut second = protector.slot().unwrap();
    assert_eq!(second.protect(NonZeroU64::new(THING).unwrap(), || false), Ok(false));
    notes.set(PROTECTED, 0);
    slot.clear();
    assert_eq!(slot.protect_word(&world.place, |word| word), Ok(THING));
    drop((second, slot));
}

#[test]
fn one_may_die_protecting() {
    let scenario = AtRows {
        name: "protect, let go",
        operations: &[
            "shm_core::hazard::Slot::protect",
            "shm_core::hazard::Slot::protect_here",
            "shm_core::hazard::Slot::protect_word",
            "shm_core::hazard::Slot::clear",
            "shm_core::hazard::Slot::clear_here",
            "shm_core::hazard::Slot::drop",
        ],
        prepare: with_a_group,
        operate: protect,
        ..AT_ROWS
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(300).stop().passes();
    Run::new(&scenario).points(300).fork().passes();
    Run::new(&scenario).nested().passes();
}

#[test]
fn one_may_die_taking_a_row_and_leaving_it() {
    let scenario = AtRows {
        name: "take a row and groups, give them back",
        operations: &[
            "shm_core::hazard::Hazards::row",
            "shm_core::hazard::HazardRow::protector",
            "shm_core::hazard::Protector::drop",
            "shm_core::hazard::Row::drop",
        ],
        prepare: |world| Doomed {
            member: Some(world.me.table().join().unwrap()),
            ..Doomed::default()
        },
        operate: |world, doomed, notes| {
            let row = world.hazards().row(doomed.member.as_ref().unwrap()).unwrap();
            let (first, second) = (row.protector().unwrap(), row.protector().unwrap());
            let mut slot = second.slot().unwrap();
            assert_eq!(slot.protect(OTHER, || true), Ok(true));
            // Forgotten: what it protects goes with its group.
            std::mem::forget(slot);
            notes.set(PROTECTED, OTHER.get());
            drop(first);
            notes.set(PROTECTED, 0);
            drop(second);
            drop(row);
        },
        ..AT_ROWS
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(300).fork().passes();
}

#[test]
fn one_may_die_scanning_and_cleaning_up() {
    let scenario = AtRows {
        name: "scan, clear the row of a dead one",
        operations: &[
            "shm_core::hazard::Hazards::snapshot",
            "shm_core::hazard::Hazards::snapshot_into",
            "shm_core::hazard::Hazards::clear_row",
        ],
        has_dead: true,
        operate: |world, _, _| {
            let hazards = world.hazards();
            let mut protected = hazards.snapshot();
            let dead = world.me.table().snapshot();
            let dead = dead.iter().map(|info| info.id).find(|id| *id != world.me.id()).unwrap();
            hazards.clear_row(dead);
            hazards.snapshot_into(&mut protected);
            assert!(protected.is_empty());
        },
        ..AT_ROWS
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).nested().passes();
}

/// The rows' creator.
struct Create;

impl Scenario for Create {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        "hazard, create".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["shm_core::hazard::Hazards::create"]
    }

    fn world(&self) -> World {
        World::empty()
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        world.create();
        notes.set(DONE, 1);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, ROWS_AT)
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        if notes.get(DONE) == 0 {
            world.create();
        }
        world.go_on()
    }
}

#[test]
fn their_creator_may_die_anywhere() {
    Run::new(&Create).kill().passes();
}
