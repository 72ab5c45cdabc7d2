//! The cleanup lock in weak memory, made of pins and a latch: what was found under a share is there
//! for as long as the page is pinned; of two who want it, one has it; and whoever has died and was
//! reaped holds nobody up.
//!
//! The page is two cells whose unordered accesses fail the model: whether there is an item, and the
//! item.
#![cfg(all(shm_loom, not(shm_shuttle)))]
mod frames_common;

use buffer_pool::frames::{Find, Frames, Pin, User};
use buffer_pool::latch::{self, Latches, Shape};
use frames_common::{Array, page};
use shm_core::hazard::{Hazards, Protected};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_testkit::model::{self, Life, UnsafeCell};
use std::sync::Arc;

const SEATS: u32 = 3;
const FRAME: u32 = 0;
const ITEM: u64 = 77;

/// Whether there is an item, and the item.
struct Page([UnsafeCell<u64>; 2]);
// SAFETY: loom checks that every access is ordered.
unsafe impl Sync for Page {}
// SAFETY: as above.
unsafe impl Send for Page {}

impl Page {
    fn read(&self, at: usize) -> u64 {
        // SAFETY: loom checks that nobody writes meanwhile.
        self.0[at].with(|cell| unsafe { *cell })
    }

    fn write(&self, at: usize, value: u64) {
        // SAFETY: loom checks that nobody reads meanwhile.
        self.0[at].with_mut(|cell| unsafe { *cell = value });
    }
}

struct World {
    table: Table,
    frames: Frames<Array>,
    latches: Latches,
    page: Page,
    /// Processes 1, 2 and 3.
    members: [Arc<Member>; SEATS as usize],
}

/// The page is in its frame, with an item.
fn world() -> Arc<World> {
    let mapping = Mapping::heap(Table::bytes_for(SEATS) as usize);
    // SAFETY: nobody else has the mapping yet, here and below.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    let mapping = Mapping::heap(Hazards::bytes_for(SEATS, 1) as usize);
    // SAFETY: as above.
    let hazards = unsafe { Hazards::create(&mapping, 0, SEATS, 1) }.unwrap();
    let words = Mapping::heap(Frames::<Array>::entry_bytes_for(1) as usize);
    // SAFETY: as above.
    unsafe { Frames::<Array>::create_entries(&words, 0, 1) }.unwrap();
    let entries = Array(MappedSlice::new(&words, 0, 1).unwrap());
    let mapping = Mapping::heap(Frames::<Array>::bytes_for(1) as usize);
    // SAFETY: as above.
    unsafe { Frames::<Array>::create(&mapping, 0, 1) }.unwrap();
    let frames = Frames::attach(&mapping, 0, 1, entries, hazards).unwrap();
    let shape = Shape { frames: 1, seats: SEATS, threads: 1 };
    let mapping = Mapping::heap(Latches::bytes_for(shape) as usize);
    // SAFETY: as above.
    unsafe { Latches::create(&mapping, 0, shape) }.unwrap();
    let latches = Latches::attach(&mapping, 0, shape).unwrap();
    let members = std::array::from_fn(|at| {
        become_process(at as u32 + 1);
        table.join().unwrap()
    });
    become_process(1);
    let page = Page([1, ITEM].map(UnsafeCell::new));
    let world = World { table, frames, latches, page, members };
    load(&world);
    Arc::new(world)
}

fn load(world: &World) {
    let user = world.frames.users(&world.members[0]).unwrap().user().unwrap();
    let (mut protected, mut free) = (Protected::default(), Vec::new());
    user.evict(&[FRAME], &mut protected, &mut free, |_, _| true).unwrap();
    let loading = free.pop().unwrap().load(page(0)).unwrap().unwrap();
    drop(loading.publish().unwrap().unwrap());
}

type IsAlone = fn(&Pin<'_>) -> bool;
type LetsGo = fn(Pin<'_>, latch::Exclusive<'_>);

/// What one process has of the world.
struct Process {
    world: Arc<World>,
    user: User<Array>,
    latches: latch::User,
}

impl World {
    fn enter(self: &Arc<World>, at: usize) -> Process {
        Process {
            user: self.frames.users(&self.members[at]).unwrap().user().unwrap(),
            latches: self.latches.user(&self.members[at], 0).unwrap(),
            world: self.clone(),
        }
    }
}

impl Process {
    fn pin(&self) -> Pin<'_> {
        match self.user.find(page(0)).unwrap() {
            Find::Pinned(pin) => pin,
            other => panic!("{other:?}"),
        }
    }

    /// Looks for the item under a share, and comes back to it by the pin alone.
    fn visit(&self) {
        let pin = self.pin();
        let share = self.latches.share(FRAME, None).unwrap();
        let is_there = self.world.page.read(0) == 1;
        drop(share);
        if is_there {
            assert_eq!(self.world.page.read(1), ITEM, "taken away from under a pin");
        }
        drop(pin);
    }

    /// Takes the item away, where nobody else is at the page: whether that was so. As
    /// `Page::cleanup` does it, once.
    fn clean(&self, is_alone: IsAlone, lets_go: LetsGo) -> bool {
        let pin = self.pin();
        let held = self.latches.exclusive(FRAME, None).unwrap();
        let is_alone = is_alone(&pin);
        if is_alone {
            self.world.page.write(0, 0);
            self.world.page.write(1, 0);
        }
        lets_go(pin, held);
        is_alone
    }
}

/// Process `at + 1` does this once, and the kernel buries it if it dies of that.
fn lives<R>(world: &Arc<World>, at: usize, life: &Life, work: fn(&Process) -> R) -> Option<R> {
    let process = become_process(at as u32 + 1);
    let me = world.enter(at);
    let end = life.run(|| work(&me));
    if end.is_none() {
        process_ends(&world.table, process);
        std::mem::forget(me);
    }
    end
}

/// Every pin but its own is looked at.
fn is_alone(pin: &Pin<'_>) -> bool {
    pin.is_alone()
}

fn of_the_pin_first(pin: Pin<'_>, held: latch::Exclusive<'_>) {
    drop(pin);
    drop(held);
}

fn cleans(me: &Process) -> bool {
    me.clean(is_alone, of_the_pin_first)
}

/// Once nobody is there but process 1, it cleans up.
fn end(world: &Arc<World>) {
    become_process(1);
    world.table.reap(|dead| {
        world.latches.clean_up(dead);
        world.frames.reap(dead);
    });
    let me = world.enter(0);
    assert!(cleans(&me), "somebody who has died is there");
    std::mem::forget(me);
}

fn visits_and_cleans([one, other]: [Life; 2]) {
    let world = world();
    let theirs = world.clone();
    let visitor = model::thread::spawn(move || _ = lives(&theirs, 1, &one, Process::visit));
    lives(&world, 2, &other, cleans);
    visitor.join().unwrap();
    end(&world);
}

fn both_clean(lives_of: [Life; 2]) {
    both_do(cleans, lives_of);
}

fn both_do(cleans: fn(&Process) -> bool, [one, other]: [Life; 2]) {
    let world = world();
    let theirs = world.clone();
    let cleaner = model::thread::spawn(move || lives(&theirs, 1, &one, cleans));
    let mine = lives(&world, 2, &other, cleans);
    if let (Some(mine), Some(other)) = (mine, cleaner.join().unwrap()) {
        assert!(mine || other, "each has waited for the other");
    }
    end(&world);
}

#[test]
fn what_was_found_is_there_as_long_as_the_page_is_pinned() {
    println!("visit and clean: {:?}", model::every_death_of(1, visits_and_cleans));
    let alive = || visits_and_cleans([Life::endless(), Life::endless()]);
    println!("visit and clean, alive: {:?}", model::check(alive));
}

#[test]
fn of_two_who_want_it_one_has_it() {
    println!("both clean: {:?}", model::every_death_of(1, both_clean));
    println!(
        "both clean, alive: {:?}",
        model::check(|| both_clean([Life::endless(), Life::endless()]))
    );
}

/// What a pin hands on that is gone, and a row that is given back. The scan's fence is not needed
/// here: there is one in taking the latch.
#[test]
fn every_ordering_of_the_scan_matters() {
    let found = model::every_ordering_matters(&["src/hazard/scan.rs"], || {
        model::check(|| visits_and_cleans([Life::endless(), Life::endless()]));
    });
    // An Acquire each.
    assert_eq!(found, 2);
}

fn finds(reason: &str, visit: fn(&Process), is_alone: IsAlone) {
    model::finds(reason, || {
        model::check(move || {
            let world = world();
            let theirs = world.clone();
            let visitor = model::thread::spawn(move || {
                become_process(2);
                let me = theirs.enter(1);
                visit(&me);
                std::mem::forget(me);
            });
            become_process(3);
            let me = world.enter(2);
            me.clean(is_alone, of_the_pin_first);
            visitor.join().unwrap();
            std::mem::forget(me);
        });
    });
}

/// Planted bug: who has the latch does not look at the pins.
#[test]
fn finds_one_who_does_not_look_at_the_pins() {
    finds("Causality violation", Process::visit, |_| true);
}

/// Planted bug: who comes looks for the item without a share.
#[test]
fn finds_one_who_relies_on_the_pin_from_the_beginning() {
    let visit = |me: &Process| {
        let pin = me.pin();
        if me.world.page.read(0) == 1 {
            assert_eq!(me.world.page.read(1), ITEM);
        }
        drop(pin);
    };
    finds("Causality violation", visit, is_alone);
}

/// Planted bug: who does not have it lets go of the latch before the pin.
#[test]
fn finds_two_who_see_each_others_pins() {
    fn cleans(me: &Process) -> bool {
        me.clean(is_alone, |pin, held| drop((held, pin)))
    }
    model::finds("each has waited for the other", || {
        model::check(|| both_do(cleans, [Life::endless(), Life::endless()]));
    });
}
