//! Hazard rows: what is protected is not freed, whoever dies where; and what a dead one protected
//! is free once its seat is reaped, and not before.
//!
//! Things are cells whose unordered accesses fail the model: a reader reads them under protection,
//! and who has taken one out writes to it once a scan does not show it.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::hazard::{HazardRow, Hazards};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::model::{self, Life, UnsafeCell};
use std::num::NonZeroU64;
use std::sync::Arc;

const SEATS: u32 = 3;

/// Number 0 is no thing. What a thing holds is its number; freed, it holds 0.
struct Things([UnsafeCell<u64>; 3]);
// SAFETY: loom checks that every access is ordered.
unsafe impl Sync for Things {}
// SAFETY: as above.
unsafe impl Send for Things {}

impl Things {
    fn read(&self, thing: u64) {
        // SAFETY: loom checks that nobody writes meanwhile.
        let held = self.0[thing as usize].with(|cell| unsafe { *cell });
        assert_eq!(held, thing, "it was freed");
    }

    fn write(&self, thing: u64, value: u64) {
        // SAFETY: loom checks that nobody reads meanwhile.
        self.0[thing as usize].with_mut(|cell| unsafe { *cell = value });
    }
}

#[derive(Clone)]
struct World {
    table: Table,
    hazards: Hazards,
    /// Where the one thing in use is found.
    word: Mapped<AtomicU64>,
    things: Arc<Things>,
}

/// Thing 1 is in place.
fn world(groups: u32) -> World {
    let mapping = Mapping::heap(Table::bytes_for(SEATS) as usize);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    let mapping = Mapping::heap(Hazards::bytes_for(SEATS, groups) as usize);
    // SAFETY: as above.
    let hazards = unsafe { Hazards::create(&mapping, 0, SEATS, groups) }.unwrap();
    let mapping = Mapping::heap(64);
    // SAFETY: as above.
    let word = unsafe { Mapped::place(&mapping, 0, AtomicU64::new(1)) }.unwrap();
    let things = Arc::new(Things([0, 1, 0].map(UnsafeCell::new)));
    World { table, hazards, word, things }
}

impl World {
    fn join(&self, process: u32) -> Arc<Member> {
        become_process(process);
        let member = self.table.join().unwrap();
        become_process(1);
        member
    }

    /// Puts thing 2 in the place of thing 1, and frees that if nobody protects it.
    fn replace(&self) -> bool {
        self.things.write(2, 2);
        self.word.store(2, Ordering::Release);
        self.free()
    }

    /// Frees thing 1, which was taken out, if nobody protects it.
    fn free(&self) -> bool {
        let is_free = !self.hazards.snapshot().contains(1);
        if is_free {
            self.things.write(1, 0);
        }
        is_free
    }

    /// Protects what is in place and looks at it, twice with one slot, and lets go of it.
    fn read_twice(&self, row: &HazardRow) {
        let protector = row.protector().unwrap();
        let mut slot = protector.slot().unwrap();
        for _ in 0..2 {
            let thing = slot.protect_word(&self.word, |word| word).unwrap();
            self.things.read(thing);
        }
    }
}

/// A reader, and one who replaces the thing that it reads. After a death the third one frees it.
fn read_and_replace([reader, replacer]: [Life; 2]) {
    let world = world(1);
    let member = world.join(2);
    let process = member.process();
    let theirs = world.clone();
    let thread = model::thread::spawn(move || {
        become_process(2);
        let lived = reader.run(|| {
            let row = theirs.hazards.row(&member).unwrap();
            theirs.read_twice(&row);
        });
        if lived.is_none() {
            process_ends(&theirs.table, process);
        }
        std::mem::forget(member);
        lived.is_some()
    });
    let freed = replacer.run(|| world.replace());
    let lived = thread.join().unwrap();
    // Whoever died, nothing is protected once it was cleaned up after.
    if !lived {
        world.table.reap(|dead| world.hazards.clear_row(dead));
    }
    assert!(world.hazards.snapshot().is_empty());
    if freed == Some(false) {
        assert!(world.free());
    }
}

/// A reader that has read and died; its reaper, which may die, and one who frees meanwhile.
fn a_dead_reader([reaper, freer]: [Life; 2]) {
    let world = world(1);
    let (member, theirs) = (world.join(2), world.clone());
    // Not joined before the end: what it did must be known by the row's words.
    let dead = model::thread::spawn(move || {
        become_process(2);
        let row = theirs.hazards.row(&member).unwrap();
        let protector = row.protector().unwrap();
        let mut slot = protector.slot().unwrap();
        let thing = slot.protect_word(&theirs.word, |word| word).unwrap();
        theirs.things.read(thing);
        let process = member.process();
        std::mem::forget((slot, row, member));
        std::mem::forget(protector);
        process_ends(&theirs.table, process);
    });
    let theirs = world.clone();
    let reaping = model::thread::spawn(move || {
        become_process(3);
        let me = theirs.table.join().unwrap();
        let process = me.process();
        let lived = reaper.run(|| theirs.table.reap(|dead| theirs.hazards.clear_row(dead)));
        if lived.is_none() {
            process_ends(&theirs.table, process);
        }
        std::mem::forget(me);
    });
    let freed = freer.run(|| world.replace());
    dead.join().unwrap();
    reaping.join().unwrap();
    // One more reaper, for the one who died or came too early.
    world.table.reap(|dead| world.hazards.clear_row(dead));
    assert!(world.hazards.snapshot().is_empty());
    if freed == Some(false) {
        assert!(world.free());
    }
}

/// A row's user used its second group and left; the next uses the first alone.
fn a_row_that_is_taken_again() {
    let world = world(2);
    let (member, theirs) = (world.join(2), world.clone());
    let thread = model::thread::spawn(move || {
        become_process(2);
        let row = theirs.hazards.row(&member).unwrap();
        let first = row.protector().unwrap();
        theirs.read_twice(&row);
        drop((first, row));
        let row = theirs.hazards.row(&member).unwrap();
        let first = row.protector().unwrap();
        std::mem::forget(member);
        drop((first, row));
    });
    world.replace();
    thread.join().unwrap();
}

/// A reader that looks for itself, and announces another thing in the same slot.
fn looks_for_itself() {
    let world = world(1);
    let (member, theirs) = (world.join(2), world.clone());
    let thread = model::thread::spawn(move || {
        become_process(2);
        let row = theirs.hazards.row(&member).unwrap();
        let protector = row.protector().unwrap();
        let mut slot = protector.slot().unwrap();
        let is_still = || theirs.word.load(Ordering::Acquire) == 1;
        if slot.protect(NonZeroU64::MIN, is_still).unwrap() {
            theirs.things.read(1);
        }
        let other = NonZeroU64::new(7).unwrap();
        slot.protect(other, || true).unwrap();
        std::mem::forget(member);
    });
    world.replace();
    thread.join().unwrap();
}

/// A reader, and one who takes the thing out, and then puts it in place anew: the reader may have
/// seen it before, and have fenced before it was new.
fn reads_what_is_new() {
    let world = world(1);
    let (member, theirs) = (world.join(2), world.clone());
    let thread = model::thread::spawn(move || {
        become_process(2);
        let row = theirs.hazards.row(&member).unwrap();
        theirs.read_twice(&row);
        std::mem::forget(member);
    });
    if world.replace() {
        world.things.write(1, 1);
        world.word.store(1, Ordering::Release);
    }
    thread.join().unwrap();
}

#[test]
fn a_reader_and_who_frees_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("hazard, one death: {:?}", model::every_death_of(bound, read_and_replace));
    println!("hazard, two deaths: {:?}", model::every_two_deaths(bound - 1, read_and_replace));
}

#[test]
fn a_reaper_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("hazard, reaper: {:?}", model::every_death_of(bound - 1, a_dead_reader));
}

#[test]
fn what_earlier_users_read_is_known_to_who_frees() {
    println!("hazard, again: {:?}", model::check(a_row_that_is_taken_again));
    println!("hazard, own look: {:?}", model::check(looks_for_itself));
    println!("hazard, new: {:?}", model::check(reads_what_is_new));
}

#[test]
fn every_ordering_of_the_rows_matters() {
    let found = model::every_ordering_matters(&["src/hazard/"], || {
        model::check(|| read_and_replace([Life::endless(), Life::endless()]));
        model::check(looks_for_itself);
        model::check(|| a_dead_reader([Life::endless(), Life::endless()]));
        model::check(a_row_that_is_taken_again);
        model::check(reads_what_is_new);
    });
    // The two fences as AcqRel and taken away; three Acquires, six Releases.
    assert_eq!(found, 13);
}

/// Planted bug: it looks before it announces.
#[test]
fn finds_an_announcement_that_is_not_validated() {
    model::finds("Causality violation", || {
        model::check(|| {
            let world = world(1);
            let (member, theirs) = (world.join(2), world.clone());
            let thread = model::thread::spawn(move || {
                become_process(2);
                let row = theirs.hazards.row(&member).unwrap();
                let protector = row.protector().unwrap();
                let mut slot = protector.slot().unwrap();
                let thing = NonZeroU64::new(theirs.word.load(Ordering::Acquire)).unwrap();
                slot.protect(thing, || true).unwrap();
                theirs.things.read(thing.get());
                std::mem::forget(member);
            });
            world.replace();
            thread.join().unwrap();
        });
    });
}

/// Planted bug: the row of one who only seems dead is cleared.
#[test]
fn finds_a_death_that_was_guessed() {
    model::finds("Causality violation", || {
        model::check(|| {
            let world = world(1);
            let (member, theirs) = (world.join(2), world.clone());
            let slow = member.id();
            let thread = model::thread::spawn(move || {
                become_process(2);
                let row = theirs.hazards.row(&member).unwrap();
                theirs.read_twice(&row);
                std::mem::forget(member);
            });
            world.hazards.clear_row(slow);
            world.replace();
            thread.join().unwrap();
        });
    });
}
