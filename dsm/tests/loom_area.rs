//! The area: a block that another heap frees is the owner's again, and never two users' at once,
//! whoever dies where and is reaped when; pages have one taker; spans change owners whole.
//!
//! Each block has a cell whose unordered accesses fail the model.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use dsm::area::{Area, AreaConfig, AreaPtr, Heap};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::process::model::become_process;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::model::{self, Life, UnsafeCell};
use std::ptr::NonNull;
use std::sync::Arc;

/// A page has two blocks of so many bytes.
const SIZE: u64 = 64;
const PAGE: u32 = 128;
const WORDS: u64 = 4;
const WORDS_AT: u64 = 0;
const AREA_AT: u64 = 1024;

/// What is in the blocks, by the order of their addresses.
struct Cells([UnsafeCell<u64>; 4]);
// SAFETY: loom checks that every access is ordered.
unsafe impl Sync for Cells {}
// SAFETY: as above.
unsafe impl Send for Cells {}

#[derive(Clone)]
struct World {
    area: Area,
    words: MappedSlice<AtomicU64>,
    cells: Arc<Cells>,
    first: u64,
}

fn nothing(_: NonNull<u8>) {}

/// Two members, in the processes 2 and 3, and an area of so many pages.
fn world(pages: u64, heaps: u32) -> (World, [Arc<Member>; 2]) {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    let members = [2, 3].map(|process| {
        become_process(process);
        table.join().unwrap()
    });
    become_process(1);
    let config = AreaConfig::tiny(pages, PAGE, heaps);
    let mapping = Mapping::heap((AREA_AT + Area::bytes_for(&config)) as usize);
    for word in 0..WORDS {
        let at = WORDS_AT + word * size_of::<AtomicU64>() as u64;
        // SAFETY: as above.
        unsafe { mapping.region().place(at, AtomicU64::new(0)) }.unwrap();
    }
    // SAFETY: as above.
    let area = unsafe { Area::create_in_place(&mapping, AREA_AT, &config) }.unwrap();
    let words = MappedSlice::new(&mapping, WORDS_AT, WORDS).unwrap();
    let cells = Arc::new(Cells([0, 0, 0, 0].map(UnsafeCell::new)));
    (World { area, words, cells, first: 0 }, members)
}

impl World {
    fn heap(&self, member: &Arc<Member>, process: u32) -> Heap {
        become_process(process);
        let heap = self.area.heap(member).unwrap();
        become_process(1);
        heap
    }

    fn cell(&self, block: AreaPtr) -> &UnsafeCell<u64> {
        let at = (block.to_bits() - self.first) / SIZE;
        &self.cells.0[at as usize]
    }

    /// Allocates for a word and writes to the block.
    fn alloc(&self, heap: &Heap, at: usize) -> Option<AreaPtr> {
        let block = heap.alloc_to(&self.words[at], SIZE, nothing).ok()?;
        // SAFETY: loom checks that nobody reads or writes meanwhile.
        self.cell(block).with_mut(|cell| unsafe { *cell = block.to_bits() });
        Some(block)
    }

    /// Reads the block that a word names, if it names one, and frees it.
    fn free(&self, heap: &Heap, at: usize) {
        let block = AreaPtr::from_bits(self.words[at].load(Ordering::Acquire));
        if !block.is_null() {
            // SAFETY: loom checks that nobody writes meanwhile.
            let held = self.cell(block).with(|cell| unsafe { *cell });
            assert_eq!(held, block.to_bits(), "somebody else wrote to the block");
            heap.free_from(&self.words[at]).unwrap();
        }
    }

    /// Every block is named by one word, and nobody is in the middle of anything.
    fn is_whole(&self) {
        let report = self.area.verify();
        assert!(report.is_clean(), "{report:?}");
        let words = self.words.iter().map(|word| word.load(Ordering::Relaxed));
        let mut named: Vec<_> = words.filter(|word| *word != 0).collect();
        named.sort_unstable();
        let mut blocks = Vec::new();
        self.area.for_each_block(|block, _| blocks.push(block.to_bits()));
        assert_eq!(blocks, named, "a block is lost, or is two words'");
    }

    /// Where blocks begin: by the first one that was ever allocated.
    fn begin(&mut self, heap: &Heap) {
        heap.alloc_to(&self.words[0], SIZE, nothing).unwrap();
        self.first = self.words[0].load(Ordering::Relaxed);
        // SAFETY: nobody else has it.
        self.cell(AreaPtr::from_bits(self.first)).with_mut(|cell| unsafe { *cell = self.first });
    }
}

/// One frees a block of another's span, who wants it again at once. Whoever died is reaped while
/// the other goes on.
fn free_and_take_back([freer, reaper, owner]: [Life; 3]) {
    let (mut world, [one, other]) = world(1, 2);
    let (mine, theirs) = (world.heap(&one, 2), world.heap(&other, 3));
    world.begin(&mine);
    world.alloc(&mine, 1).unwrap();
    let (there, id) = (world.clone(), other.id());
    let thread = model::thread::spawn(move || {
        become_process(3);
        let lived = freer.run(|| there.free(&theirs, 0)).is_some();
        if !lived {
            reaper.run(|| there.area.reap(id));
        }
        std::mem::forget(theirs);
        lived
    });
    become_process(2);
    let lived = owner.run(|| world.alloc(&mine, 2)).is_some();
    let freer_lived = thread.join().unwrap();
    if !freer_lived {
        world.area.reap(id);
    }
    if !lived {
        world.area.reap(one.id());
    }
    world.is_whole();
    std::mem::forget((mine, one, other));
}

/// Two heaps want the only page.
fn one_page([first, second]: [Life; 2]) {
    let (world, [one, other]) = world(1, 2);
    let (mine, theirs) = (world.heap(&one, 2), world.heap(&other, 3));
    let there = world.clone();
    let thread = model::thread::spawn(move || {
        become_process(3);
        let got = second.run(|| theirs.alloc_to(&there.words[1], SIZE, nothing).is_ok());
        std::mem::forget(theirs);
        got
    });
    become_process(2);
    let got = first.run(|| mine.alloc_to(&world.words[0], SIZE, nothing).is_ok());
    let theirs = thread.join().unwrap();
    assert!(got != Some(true) || theirs != Some(true), "both have the page");
    let is_had = got == Some(true) || theirs == Some(true);
    assert!(is_had || got.is_none() || theirs.is_none(), "nobody has the page");
    for (lived, id) in [(got.is_some(), one.id()), (theirs.is_some(), other.id())] {
        if !lived {
            world.area.reap(id);
        }
    }
    world.is_whole();
    std::mem::forget((mine, one, other));
}

/// A heap leaves, and another one, whose row it may be, adopts its span, or takes its page.
fn leave_and_adopt(blocks: usize) {
    let (mut world, [one, other]) = world(1, 1);
    let mine = world.heap(&one, 2);
    world.begin(&mine);
    let there = world.clone();
    let thread = model::thread::spawn(move || {
        become_process(2);
        if blocks == 0 {
            there.free(&mine, 0);
        }
        drop(mine);
        std::mem::forget(one);
    });
    become_process(3);
    let heap = world.area.heap(&other);
    if let Ok(heap) = &heap {
        world.alloc(heap, 1);
    }
    thread.join().unwrap();
    let is_taken = u64::from(heap.is_ok());
    assert_eq!(world.area.stats().heaps, is_taken, "the row seems to be in the middle of a call");
    std::mem::forget(heap);
    world.is_whole();
    std::mem::forget(other);
}

/// A heap leaves, and another one, of another row, wants its page or its span.
fn leave_and_take(blocks: usize) {
    let (mut world, [one, other]) = world(1, 2);
    let (mine, theirs) = (world.heap(&one, 2), world.heap(&other, 3));
    world.begin(&mine);
    let there = world.clone();
    let thread = model::thread::spawn(move || {
        become_process(2);
        if blocks == 0 {
            there.free(&mine, 0);
        }
        drop(mine);
        std::mem::forget(one);
    });
    become_process(3);
    world.alloc(&theirs, 1);
    thread.join().unwrap();
    world.is_whole();
    std::mem::forget((theirs, other));
}

/// What one has allocated another one finds, initialised, and frees.
fn hand_over() {
    let (mut world, [one, other]) = world(1, 2);
    let (mine, theirs) = (world.heap(&one, 2), world.heap(&other, 3));
    world.begin(&mine);
    let there = world.clone();
    let thread = model::thread::spawn(move || {
        become_process(3);
        let block = AreaPtr::from_bits(there.words[1].load(Ordering::Acquire));
        if !block.is_null() {
            // SAFETY: loom checks that it was written before.
            let held = there.cell(block).with(|cell| unsafe { *cell });
            assert_eq!(held, 7, "it is not initialised");
            theirs.free_from(&there.words[1]).unwrap();
        }
        std::mem::forget(theirs);
    });
    become_process(2);
    let second = world.first + SIZE;
    let init = |_| {
        // SAFETY: the block is ours alone.
        world.cell(AreaPtr::from_bits(second)).with_mut(|cell| unsafe { *cell = 7 });
    };
    mine.alloc_to(&world.words[1], SIZE, init).unwrap();
    thread.join().unwrap();
    world.is_whole();
    std::mem::forget((mine, one, other));
}

fn endless<const N: usize>() -> [Life; N] {
    std::array::from_fn(|_| Life::endless())
}

#[test]
fn a_freer_and_an_owner_may_die_anywhere() {
    let bound = model::preemption_bound() - 1;
    println!("area, free: {:?}", model::every_death_of(bound, free_and_take_back));
}

#[test]
fn a_freer_and_its_reaper_may_die_anywhere() {
    let bound = model::preemption_bound() - 2;
    println!("area, free, two deaths: {:?}", model::every_two_deaths(bound, free_and_take_back));
}

#[test]
fn a_taker_of_pages_may_die_anywhere() {
    let bound = model::preemption_bound() - 1;
    println!("area, one page: {:?}", model::every_death_of(bound, one_page));
}

#[test]
fn spans_and_pages_change_hands_whole() {
    for blocks in [0, 1] {
        println!("area, row {blocks}: {:?}", model::check(move || leave_and_adopt(blocks)));
        println!("area, page {blocks}: {:?}", model::check(move || leave_and_take(blocks)));
    }
    println!("area, hand over: {:?}", model::check(hand_over));
}

/// Planted bug: a block is freed while it is in use.
#[test]
fn finds_a_block_that_is_freed_too_early() {
    model::finds("Causality violation", || {
        model::check(|| {
            let (mut world, [one, other]) = world(1, 2);
            let (mine, theirs) = (world.heap(&one, 2), world.heap(&other, 3));
            world.begin(&mine);
            world.alloc(&mine, 1).unwrap();
            let there = world.clone();
            let thread = model::thread::spawn(move || {
                become_process(3);
                let block = AreaPtr::from_bits(there.first);
                theirs.free_from(&there.words[0]).unwrap();
                // SAFETY: loom finds that somebody writes meanwhile.
                there.cell(block).with(|cell| unsafe { *cell });
                std::mem::forget(theirs);
            });
            become_process(2);
            world.alloc(&mine, 2);
            thread.join().unwrap();
            std::mem::forget((mine, one, other));
        });
    });
}

/// A death of the freer after so many accesses, and its reaper beside the owner.
fn a_death(fuel: u32) {
    model::check_bounded(Some(2), move || {
        let (mut world, [one, other]) = world(1, 2);
        let (mine, theirs) = (world.heap(&one, 2), world.heap(&other, 3));
        world.begin(&mine);
        world.alloc(&mine, 1).unwrap();
        let (there, id) = (world.clone(), other.id());
        let thread = model::thread::spawn(move || {
            become_process(3);
            if model::mortal(fuel, || there.free(&theirs, 0)).is_none() {
                there.area.reap(id);
            }
            std::mem::forget(theirs);
        });
        become_process(2);
        world.alloc(&mine, 2);
        thread.join().unwrap();
        world.area.reap(id);
        world.is_whole();
        std::mem::forget((mine, one, other));
    });
}

/// The block is used again only when its freer's intent is settled.
#[test]
fn a_block_is_not_freed_twice_by_a_reaper() {
    (1..16).for_each(a_death);
}

#[test]
fn every_ordering_matters() {
    // Not those of the intent, in `shared.rs`: what they forbid is that a thread's store passes its
    // earlier read-modify-write of another word, and loom executes both as they are written.
    let files = ["heap.rs", "map.rs", "reap.rs", "span.rs"].map(|file| format!("src/area/{file}"));
    let files = files.each_ref().map(|file| file.as_str());
    let found = model::every_ordering_matters(&files, || {
        model::check(hand_over);
        for blocks in [0, 1] {
            model::check(move || leave_and_take(blocks));
            model::check(move || leave_and_adopt(blocks));
        }
        model::check_bounded(Some(2), || free_and_take_back(endless()));
    });
    assert_eq!(found, 7);
}
