//! The area under the explorer: whoever of allocators, freers and reapers dies where, no block is
//! two users' and none is lost once the dead are reaped; nobody waits for anybody.
#![cfg(shm_explore)]
use dsm::area::{Area, AreaConfig, Heap};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::explore::{Me, Process, Scenario, finds, is_after_a_lie, is_deep, kernel};
use std::ptr::NonNull;
use std::sync::Arc;

const SIZE: u64 = 64;
const PAGE: u32 = 128;
const WORDS: u64 = 8;

struct World {
    table: Table,
    area: Area,
    words: MappedSlice<AtomicU64>,
    /// For each word whether its block may be freed: its maker's call has returned.
    made: MappedSlice<AtomicU64>,
    members: Vec<Arc<Member>>,
}

fn nothing(_: NonNull<u8>) {}

/// With so many members, which are the first processes of the scenario.
fn world(members: u32, pages: u64, heaps: u32) -> World {
    let seats = members + 1;
    let words_at = Table::bytes_for(seats).next_multiple_of(128);
    let area_at = words_at + 2 * 8 * WORDS;
    let config = AreaConfig::tiny(pages, PAGE, heaps);
    let mapping = Mapping::heap((area_at + Area::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
    // SAFETY: as above, and the words end before.
    let area = unsafe { Area::create_in_place(&mapping, area_at, &config) }.unwrap();
    let words = MappedSlice::new(&mapping, words_at, WORDS).unwrap();
    let made = MappedSlice::new(&mapping, words_at + 8 * WORDS, WORDS).unwrap();
    let join = |pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    };
    let members = (1..=members).map(join).collect();
    World { table, area, words, made, members }
}

impl World {
    fn heap(&self, me: &Me) -> Option<Heap> {
        let heap = self.area.heap(&self.members[me.pid() as usize - 1]);
        assert!(heap.is_ok() || is_after_a_lie(), "{heap:?}");
        heap.ok()
    }

    /// A block for a word: nobody else's.
    fn alloc(&self, heap: &Heap, at: usize) {
        if let Ok(mine) = heap.alloc_to(&self.words[at], SIZE, nothing) {
            let mine = mine.to_bits();
            let others = self.words.iter().enumerate().filter(|(other, _)| *other != at);
            let is_twice = others.map(|(_, word)| word.load(Relaxed)).any(|word| word == mine);
            assert!(!is_twice || is_after_a_lie(), "a block is two words'");
            self.made[at].store(1, Relaxed);
        }
    }

    fn reap(&self) {
        self.table.reap(|dead| {
            self.area.reap(dead);
        });
    }

    fn is_whole(&self) {
        self.reap();
        let report = self.area.verify();
        assert!(report.is_clean(), "{report:?}");
        let words = self.words.iter().map(|word| word.load(Relaxed));
        let mut named: Vec<_> = words.filter(|word| *word != 0).collect();
        named.sort_unstable();
        let mut blocks = Vec::new();
        self.area.for_each_block(|block, _| blocks.push(block.to_bits()));
        assert_eq!(blocks, named, "a block is lost, or is two words'");
    }
}

/// Allocates two blocks, has one freed (the other process does), and wants it again.
fn owner(world: &World) -> Process<'_> {
    Process::new("owner", |me| {
        let Some(heap) = world.heap(me) else { return };
        world.alloc(&heap, 0);
        world.alloc(&heap, 1);
        world.alloc(&heap, 2);
    })
    .mortal()
    .never_waits()
}

/// Frees what the first words name, if they do.
fn freer(world: &World) -> Process<'_> {
    Process::new("freer", |me| {
        let Some(heap) = world.heap(me) else { return };
        for (word, made) in world.words.iter().zip(world.made.iter()).take(2) {
            let freed = made.load(Relaxed) == 0 || heap.free_from(word).is_ok();
            assert!(freed || is_after_a_lie());
        }
    })
    .mortal()
    .never_waits()
}

/// Allocates a block and a run, and frees them.
fn visitor(world: &World, first: usize) -> Process<'_> {
    Process::new("visitor", move |me| {
        let Some(heap) = world.heap(me) else { return };
        world.alloc(&heap, first);
        let _ = heap.alloc_to(&world.words[first + 1], 300, nothing);
        let _ = heap.free_from(&world.words[first]);
        let _ = heap.free_from(&world.words[first + 1]);
    })
    .mortal()
    .never_waits()
}

fn reaper(world: &World) -> Process<'_> {
    Process::new("reaper", |_| world.reap()).mortal().never_waits()
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("area", name).states_at_most(if is_deep() { 2_000_000 } else { 70_000 })
}

#[test]
fn a_block_that_another_frees_is_not_lost_and_not_two_users() {
    let world = world(2, 1, 2);
    let case = scenario("an owner, a freer, a reaper, two deaths").deaths(2);
    let case = case.process(owner(&world)).process(freer(&world)).process(reaper(&world));
    case.preemptions_at_most(3).check(|_| world.is_whole()).explore();
}

#[test]
fn pages_have_one_taker() {
    let world = world(2, 4, 2);
    let case = scenario("two visitors, a reaper, two deaths").deaths(2);
    let case = case.process(visitor(&world, 0)).process(visitor(&world, 2));
    let case = case.process(reaper(&world)).preemptions_at_most(3);
    case.check(|_| world.is_whole()).explore();
}

#[test]
fn reapers_may_die_one_after_another() {
    let world = world(1, 4, 1);
    let case = scenario("a visitor, two reapers, three deaths").deaths(3);
    let case = case.process(visitor(&world, 0)).process(reaper(&world)).process(reaper(&world));
    case.preemptions_at_most(3).check(|_| world.is_whole()).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world(2, 2, 2);
    let case = scenario("two lies").lies(2);
    let case = case.process(owner(&world)).process(freer(&world)).process(reaper(&world));
    case.preemptions_at_most(1).explore();
}

/// Planted bug: one that only seems dead is reaped.
#[test]
fn finds_a_death_that_was_guessed() {
    let world = world(1, 1, 1);
    let guesses = Process::new("guesses", |_| {
        world.area.reap(world.members[0].id());
    });
    let case = scenario("guesses").process(owner(&world)).process(guesses);
    finds("", || case.check(|_| world.is_whole()).explore());
}
