//! An area that grows and shrinks under the explorer: whoever of takers, trimmers and reapers dies
//! where, a block has memory behind it, the limit holds, and nothing is lost once somebody has
//! reaped the dead, for which nobody has to be asked; nobody waits for anybody.
#![cfg(shm_explore)]
mod area_common;

use area_common::Chunks;
use dsm::area::{Area, AreaConfig, AreaPtr, Heap};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::explore::{Me, Process, Scenario, finds, is_after_a_lie, is_deep, kernel};
use std::ptr::NonNull;
use std::sync::Arc;

const SIZE: u64 = 128;
const PAGE: u32 = 128;
const WORDS: u64 = 4;

struct World {
    members: Vec<Arc<Member>>,
    /// Of each member.
    areas: Vec<(Area, Arc<Chunks>)>,
    words: MappedSlice<AtomicU64>,
}

fn nothing(_: NonNull<u8>) {}

/// With so many members, which are the processes of the scenario and the one that checks; chunks
/// of two pages, of which `limit` may be there.
fn world(members: u32, pages: u64, limit: u64) -> World {
    let seats = members + 1;
    let words_at = Table::bytes_for(seats).next_multiple_of(128);
    let system_at = words_at + 128;
    let area_at = system_at + Chunks::BYTES;
    let config = AreaConfig::tiny(pages, PAGE, members).chunks_of(2);
    let config = config.limit(2 * limit * u64::from(PAGE));
    let mapping = Mapping::heap((area_at + Area::bytes_for(&config)) as usize);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
    area_common::create(&mapping, system_at, area_at, &config);
    let join = |pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    };
    let members: Vec<_> = (1..=members).map(join).collect();
    let attach = |member| area_common::attach(&mapping, system_at, area_at, Some(member));
    let areas = members.iter().map(attach).collect();
    World { members, areas, words: MappedSlice::new(&mapping, words_at, WORDS).unwrap() }
}

impl World {
    fn heap(&self, me: &Me) -> Option<Heap> {
        let at = me.pid() as usize - 1;
        let heap = self.areas[at].0.heap(&self.members[at]);
        assert!(heap.is_ok() || is_after_a_lie(), "{heap:?}");
        heap.ok()
    }

    /// A block for a word, with memory behind it.
    fn alloc(&self, heap: &Heap, at: usize) {
        let (area, chunks) = &self.areas[0];
        if let Ok(mine) = heap.alloc_to(&self.words[at], SIZE, nothing) {
            assert!(chunks.is_there(area, mine) || is_after_a_lie(), "a block without memory");
        }
    }

    /// By the last of the members.
    fn is_whole(&self) {
        let (area, chunks) = self.areas.last().unwrap();
        area.reap_all();
        let report = area.verify();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.stats.chunks_there, chunks.count() as u64, "memory is lost");
        assert!(report.stats.there <= report.stats.limit, "above the limit");
        let words = self.words.iter().map(|word| word.load(Relaxed));
        let mut named: Vec<_> = words.filter(|word| *word != 0).collect();
        named.sort_unstable();
        let mut blocks = Vec::new();
        area.for_each_block(|block, _| blocks.push(block.to_bits()));
        assert_eq!(blocks, named, "a block is lost, or is two words'");
        let is_there = |block| chunks.is_there(area, AreaPtr::from_bits(block));
        assert!(blocks.into_iter().all(is_there), "its memory went");
    }
}

/// Takes a block, frees it, and gives all memory back.
fn visitor(world: &World, at: usize) -> Process<'_> {
    Process::new("visitor", move |me| {
        let Some(heap) = world.heap(me) else { return };
        world.alloc(&heap, at);
        let _ = heap.free_from(&world.words[at]);
        heap.trim();
    })
    .mortal()
    .never_waits()
}

/// Takes a large block, of all pages of a chunk and one of the next, and keeps it.
fn taker(world: &World, at: usize) -> Process<'_> {
    Process::new("taker", move |me| {
        let Some(heap) = world.heap(me) else { return };
        let _ = heap.alloc_to(&world.words[at], 3 * u64::from(PAGE), nothing);
    })
    .mortal()
    .never_waits()
}

/// Finds out who is dead.
fn reaper(world: &World) -> Process<'_> {
    Process::new("reaper", |me| {
        world.areas[me.pid() as usize - 1].0.reap_all();
    })
    .mortal()
    .never_waits()
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("chunks", name).states_at_most(if is_deep() { 2_000_000 } else { 80_000 })
}

#[test]
fn memory_comes_and_goes() {
    let world = world(3, 4, 2);
    let case = scenario("two visitors, two deaths").deaths(2);
    let case = case.process(visitor(&world, 0)).process(visitor(&world, 1));
    case.preemptions_at_most(2).check(|_| world.is_whole()).explore();
}

#[test]
fn a_limit_holds() {
    let world = world(4, 6, 2);
    let case = scenario("two visitors, a taker, a limit, a death").deaths(1);
    let case = case.process(visitor(&world, 0)).process(visitor(&world, 1));
    let case = case.process(taker(&world, 2)).preemptions_at_most(2);
    case.check(|_| world.is_whole()).explore();
}

#[test]
fn whoever_comes_by_reaps() {
    let world = world(4, 4, 2);
    let case = scenario("a visitor, two reapers, three deaths").deaths(3);
    let case = case.process(visitor(&world, 0)).process(reaper(&world)).process(reaper(&world));
    case.preemptions_at_most(2).check(|_| world.is_whole()).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world(3, 4, 2);
    let case = scenario("a lie").lies(1);
    let case = case.process(visitor(&world, 0)).process(visitor(&world, 1));
    case.preemptions_at_most(1).explore();
}

/// Planted bug: memory is taken away that somebody has pages of.
#[test]
fn finds_memory_that_goes_too_early() {
    let world = world(3, 4, 2);
    let careless = Process::new("careless", |_| {
        world.areas[0].1.system.there[0].store(0, Relaxed);
    });
    let case = scenario("careless").process(taker(&world, 0)).process(careless);
    finds("", || case.check(|_| world.is_whole()).explore());
}
