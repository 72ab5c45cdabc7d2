//! An area that grows and shrinks: a page that is used has memory behind it, whoever gives back
//! what meanwhile and dies where; a limit holds; what the dead were at is given back.
#![cfg(all(shm_loom, not(shm_shuttle)))]
mod area_common;

use area_common::Chunks;
use dsm::area::{Area, AreaConfig, AreaPtr, Heap};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::process::model::become_process;
use shm_core::sync::Ordering;
use shm_testkit::model::{self, Life};
use std::cell::Cell;
use std::sync::Arc;

/// A page is a chunk.
const PAGE: u32 = 128;
const SYSTEM_AT: u64 = 0;
const AREA_AT: u64 = SYSTEM_AT + Chunks::BYTES;

#[derive(Clone)]
struct World {
    area: Area,
    chunks: Arc<Chunks>,
}

/// Two members, in the processes 2 and 3, and an area of two chunks, of which `limit` may be there,
/// and so many are.
fn world(limit: u64, initial: u64) -> (World, [Arc<Member>; 2]) {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    let members = [2, 3].map(|process| {
        become_process(process);
        table.join().unwrap()
    });
    become_process(1);
    let config = AreaConfig::tiny(2, PAGE, 2).chunks_of(1).limit(limit * u64::from(PAGE));
    let config = config.initial(initial * u64::from(PAGE));
    let mapping = Mapping::heap((AREA_AT + Area::bytes_for(&config)) as usize);
    let (area, chunks) = area_common::create(&mapping, SYSTEM_AT, AREA_AT, &config);
    for chunk in 0..initial as usize {
        chunks.system.there[chunk].store(1, Ordering::Relaxed);
    }
    (World { area, chunks }, members)
}

impl World {
    fn heap(&self, member: &Arc<Member>, process: u32) -> Heap {
        become_process(process);
        let heap = self.area.heap(member).unwrap();
        become_process(1);
        heap
    }

    /// A page, behind which there is memory.
    fn take(&self, heap: &Heap) -> bool {
        let Some(page) = heap.page() else { return false };
        assert!(self.chunks.is_there(&self.area, page), "a page without memory");
        true
    }

    /// Once the dead are reaped: there is memory behind what is there, and behind nothing else.
    fn is_whole(&self) {
        let report = self.area.verify();
        assert!(report.faults.is_empty(), "{report:?}");
        assert_eq!(report.stats.chunks_there, self.chunks.count() as u64, "memory is lost");
        assert!(report.stats.there <= report.stats.limit, "above the limit");
    }

    /// What is done in the processes 2 and 3, and the dead are reaped. What each said.
    fn run(
        &self,
        [one, other]: [Arc<Member>; 2],
        [first, second]: [Life; 2],
        prepare: impl FnOnce(&Heap),
        mine: impl FnOnce(&World, &Heap) -> bool,
    ) -> [Option<bool>; 2] {
        let (heap, theirs) = (self.heap(&one, 2), self.heap(&other, 3));
        become_process(2);
        prepare(&heap);
        let there = self.clone();
        let thread = model::thread::spawn(move || {
            become_process(3);
            let got = second.run(|| there.take(&theirs));
            std::mem::forget(theirs);
            got
        });
        become_process(2);
        let got = [first.run(|| mine(self, &heap)), thread.join().unwrap()];
        for (got, id) in got.iter().zip([one.id(), other.id()]) {
            if got.is_none() {
                self.area.reap(id);
            }
        }
        self.is_whole();
        std::mem::forget((heap, one, other));
        got
    }
}

/// Two heaps want a page, and both chunks may be there.
fn two_grow(lives: [Life; 2]) {
    let (world, members) = world(2, 0);
    let got = world.run(members, lives, |_| (), World::take);
    // In a model who finds another one at it does not wait, so one of them may be refused.
    assert!(got != [Some(false); 2], "there is room for one");
}

/// One gives a free chunk back while another wants a page.
fn shrink_and_take(lives: [Life; 2]) {
    let (world, members) = world(1, 1);
    world.run(members, lives, |_| (), |_, heap| heap.shrink() > 0);
}

/// One gives its chunk back and wants one again, while another wants one, and one may be there.
fn shrink_and_grow(lives: [Life; 2]) {
    let (world, members) = world(1, 1);
    let page = Cell::new(AreaPtr::NULL);
    let prepare = |heap: &Heap| page.set(heap.page().unwrap());
    world.run(members, lives, prepare, |world, heap| {
        heap.give_page(page.get());
        heap.shrink();
        world.take(heap)
    });
}

fn endless<const N: usize>() -> [Life; N] {
    std::array::from_fn(|_| Life::endless())
}

#[test]
fn who_grows_may_die_anywhere() {
    let bound = model::preemption_bound().saturating_sub(2);
    println!("chunks, grow: {:?}", model::every_death_of(bound, two_grow));
}

#[test]
fn a_limit_holds() {
    let tried = model::check_bounded(Some(0), || shrink_and_grow(endless()));
    println!("chunks, limit, given back: {tried:?}");
}

#[test]
fn who_shrinks_may_die_anywhere() {
    let bound = model::preemption_bound() - 1;
    println!("chunks, shrink: {:?}", model::every_death_of(bound, shrink_and_take));
}

/// Planted bug: memory goes that somebody may have a page of.
#[test]
fn finds_memory_that_goes_too_early() {
    model::finds("memory", || {
        model::check(|| {
            let (world, members) = world(1, 1);
            world.run(
                members,
                endless(),
                |_| (),
                |world, _| {
                    world.chunks.system.there[0].store(0, Ordering::Relaxed);
                    true
                },
            );
        });
    });
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["src/area/chunk.rs"], || {
        model::check_bounded(Some(1), || two_grow(endless()));
        model::check(|| shrink_and_take(endless()));
        model::check_bounded(Some(0), || shrink_and_grow(endless()));
    });
    assert_eq!(found, 4);
}
