//! Hazard rows under the explorer: nothing that is protected is freed, whichever of readers, freers
//! and reapers die where; what the dead protected is free once they are reaped; nobody waits.
#![cfg(shm_explore)]
use shm_core::ShmSync;
use shm_core::hazard::{HazardRow, Hazards, Protected};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_after_a_lie, is_deep, kernel};
use std::num::NonZeroU64;
use std::sync::Arc;

const THINGS: usize = 3;

/// What the things are kept in.
#[repr(C)]
struct Store {
    /// Which thing is in place: 1, and later 2 and 3.
    place: AtomicU64,
    /// For each whether it was freed.
    freed: [AtomicU64; THINGS],
}
// SAFETY: atomics only.
unsafe impl ShmSync for Store {}

struct World {
    table: Table,
    hazards: Hazards,
    store: Mapped<Store>,
    members: Vec<Arc<Member>>,
}

/// With so many members, which are the first processes of the scenario.
fn world(members: u32, groups: u32) -> World {
    let seats = members + 1;
    let hazards_at = Table::bytes_for(seats);
    let store_at = hazards_at + Hazards::bytes_for(seats, groups);
    let mapping = Mapping::heap(store_at as usize + size_of::<Store>());
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let hazards = unsafe { Hazards::create(&mapping, hazards_at, seats, groups) }.unwrap();
    let store: Mapped<Store> = Mapped::new(&mapping, store_at).unwrap();
    store.place.store(1, Relaxed);
    let join = |pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    };
    let members = (1..=members).map(join).collect();
    World { table, hazards, store, members }
}

impl World {
    fn row(&self, me: &Me) -> Option<HazardRow> {
        let row = self.hazards.row(&self.members[me.pid() as usize - 1]);
        assert!(row.is_ok() || is_after_a_lie(), "{row:?}");
        row.ok()
    }

    /// Uses a thing, which must not have been freed.
    fn look_at(&self, thing: u64) {
        if let Some(freed) = self.store.freed.get(thing as usize - 1) {
            let is_freed = freed.load(Relaxed) != 0;
            assert!(!is_freed || is_after_a_lie(), "thing {thing} was freed");
        }
    }

    /// Frees those of `out`, which were taken out, that nobody protects.
    fn free(&self, out: &mut Vec<u64>, protected: &mut Protected) {
        self.hazards.snapshot_into(protected);
        out.retain(|thing| {
            let is_free = !protected.contains(*thing);
            if is_free {
                self.store.freed[*thing as usize - 1].store(1, Relaxed);
            }
            !is_free
        });
    }
}

/// Protects what is in place and uses it, so many times in a row.
fn reader(world: &World, times: u32) -> Process<'_> {
    Process::new("reader", move |me| {
        let Some(row) = world.row(me) else { return };
        let Ok(protector) = row.protector() else { return };
        let mut slot = protector.slot().unwrap();
        for _ in 0..times {
            let thing = slot.protect_word(&world.store.place, |thing| thing).unwrap();
            world.look_at(thing.max(1));
        }
    })
    .mortal()
    .never_waits()
}

/// Hand over hand: the second is protected before the first is let go, by a look of its own.
fn hand_over_hand(world: &World) -> Process<'_> {
    Process::new("hand over hand", |me| {
        let Some(row) = world.row(me) else { return };
        let Ok(protector) = row.protector() else { return };
        let (mut one, mut other) = (protector.slot().unwrap(), protector.slot().unwrap());
        for _ in 0..2 {
            let thing = world.store.place.load(Relaxed);
            let Some(announced) = NonZeroU64::new(thing) else { return };
            let is_still = || world.store.place.load(Relaxed) == thing;
            if other.protect(announced, is_still).unwrap() {
                world.look_at(thing);
                if let Some(before) = one.value() {
                    world.look_at(before.get());
                }
                std::mem::swap(&mut one, &mut other);
            }
        }
    })
    .mortal()
    .never_waits()
}

/// Puts a new thing in place, so many times, and frees the old ones when it may.
fn replacer(world: &World, times: u64) -> Process<'_> {
    Process::new("replacer", move |me| {
        let (mut out, mut protected) = (Vec::new(), Protected::default());
        for new in 2..2 + times {
            world.store.place.store(new, Relaxed);
            out.push(new - 1);
            world.free(&mut out, &mut protected);
        }
        me.say(out.len() as u64);
    })
    .mortal()
    .never_waits()
}

/// Cleans up after who is dead by now.
fn reaper(world: &World) -> Process<'_> {
    let reaps = |_: &Me| {
        world.table.reap(|dead| world.hazards.clear_row(dead));
    };
    Process::new("reaper", reaps).mortal().never_waits()
}

/// When all have ended or died and the dead are cleaned up after, nothing is protected.
fn nothing_is_left(world: &World) -> impl Fn(&End<'_>) {
    |_| {
        world.table.reap(|dead| world.hazards.clear_row(dead));
        assert!(world.hazards.snapshot().is_empty(), "somebody protects for ever");
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("hazard", name).states_at_most(250_000)
}

#[test]
fn what_is_protected_is_not_freed() {
    let world = world(2, 1);
    let case = scenario("two readers, a replacer, a death").deaths(1);
    let case = case.process(reader(&world, 1)).process(reader(&world, 1));
    case.process(replacer(&world, 1)).check(nothing_is_left(&world)).explore();
}

#[test]
fn of_several_things_none_that_is_protected_is_freed() {
    let world = world(1, 1);
    let case = scenario("a reader, two replacements, two deaths").deaths(2);
    let case = case.process(reader(&world, 3)).process(replacer(&world, 2));
    case.check(nothing_is_left(&world)).explore();
    let case = scenario("hand over hand, two replacements, two deaths").deaths(2);
    let case = case.process(hand_over_hand(&world)).process(replacer(&world, 2));
    case.check(nothing_is_left(&world)).explore();
}

/// The dead are cleaned up after while others scan, and by reapers who die of it.
#[test]
fn the_dead_protect_nothing_once_they_are_reaped() {
    let world = world(1, 1);
    let deaths = if is_deep() { 3 } else { 2 };
    let case = scenario(&format!("a reader, a replacer, two reapers, {deaths} deaths"));
    let case = case.deaths(deaths).process(reader(&world, 1)).process(replacer(&world, 1));
    let case = case.process(reaper(&world)).process(reaper(&world));
    case.preemptions_at_most(3).check(nothing_is_left(&world)).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world(1, 1);
    let lies = if is_deep() { 3 } else { 2 };
    let case = scenario(&format!("{lies} lies")).lies(lies);
    let case = case.process(reader(&world, 1)).process(replacer(&world, 1));
    case.preemptions_at_most(1).explore();
}

/// Planted bug: it looks before it announces.
#[test]
fn finds_an_announcement_that_is_not_validated() {
    let world = world(1, 1);
    let hasty = Process::new("hasty", |me| {
        let protector = world.row(me).unwrap().protector().unwrap();
        let mut slot = protector.slot().unwrap();
        let thing = world.store.place.load(Relaxed);
        slot.protect(NonZeroU64::new(thing).unwrap(), || true).unwrap();
        world.look_at(thing);
    });
    let case = scenario("looks too early").process(hasty).process(replacer(&world, 1));
    finds("was freed", || case.explore());
}

/// Planted bug: it scans before it takes the thing out.
#[test]
fn finds_a_scan_that_comes_too_early() {
    let world = world(1, 1);
    let hasty = Process::new("hasty", |_| {
        let protected = world.hazards.snapshot();
        world.store.place.store(2, Relaxed);
        if !protected.contains(1) {
            world.store.freed[0].store(1, Relaxed);
        }
    });
    let case = scenario("scans too early").process(reader(&world, 1)).process(hasty);
    finds("was freed", || case.explore());
}

/// Planted bug: a seat is cleared whose user only seems dead.
#[test]
fn finds_a_death_that_was_guessed() {
    let world = world(1, 1);
    let guesses = Process::new("guesses", |_| world.hazards.clear_row(world.members[0].id()));
    let case = scenario("guesses").process(reader(&world, 1)).process(replacer(&world, 1));
    finds("was freed", || case.process(guesses).explore());
}
