//! A process is killed at each instruction of publishing a record, and of taking a block from a
//! free list and giving it back: what others find is whole, and a death costs one block at most.
#![cfg(not(any(shm_loom, shm_explore)))]

use relptr::{AtomicRelPtr, AtomicTaggedRelPtr, Region, RelPtr, TaggedRelPtr};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory, Work};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

const BLOCKS: u64 = 4;
const NEWEST_AT: u64 = 0;
const FREE_AT: u64 = 8;
const BLOCK_BYTES: u64 = 64;
/// In the notes: what the doomed one was told is done.
const PUBLISHED: usize = 0;
const TAKEN: usize = 1;
const GIVEN_BACK: usize = 2;

/// At 0 the newest record, at 8 the list of free blocks, from 64 on the blocks; the first word of a
/// free one leads to the next.
struct World(SharedMemory);

type Next = AtomicRelPtr<AtomicU64>;

impl World {
    fn new() -> World {
        let world = World(SharedMemory::new(4096));
        for block in 1..=BLOCKS {
            world.give_back(RelPtr::from_offset(block * BLOCK_BYTES)).unwrap();
        }
        world
    }

    fn region(&self) -> Region<'_> {
        // SAFETY: whole pages, mapped as long as self, and accessed by atomics only.
        unsafe { Region::from_raw(self.0.base(), self.0.len()) }
    }

    fn newest(&self) -> &AtomicRelPtr<AtomicU64> {
        self.region().share(NEWEST_AT).unwrap()
    }

    fn free(&self) -> &AtomicTaggedRelPtr<AtomicU64> {
        self.region().share(FREE_AT).unwrap()
    }

    fn next_of(&self, block: RelPtr<AtomicU64>) -> Result<&Next, String> {
        let offset = block.offset().ok_or("no block")?;
        self.region().share::<Next>(offset).map_err(|error| error.to_string())
    }

    fn take(&self) -> Result<Option<RelPtr<AtomicU64>>, String> {
        loop {
            let head = self.free().load(Ordering::Acquire);
            if head.ptr().is_null() {
                return Ok(None);
            }
            let next = self.next_of(head.ptr())?.load(Ordering::Relaxed);
            let next = head.advance(next).map_err(|error| error.to_string())?;
            if self.swap(head, next) {
                return Ok(Some(head.ptr()));
            }
        }
    }

    fn give_back(&self, block: RelPtr<AtomicU64>) -> Result<(), String> {
        loop {
            let head = self.free().load(Ordering::Acquire);
            self.next_of(block)?.store(head.ptr(), Ordering::Relaxed);
            if self.swap(head, head.advance(block).map_err(|error| error.to_string())?) {
                return Ok(());
            }
        }
    }

    fn swap(&self, from: TaggedRelPtr<AtomicU64>, to: TaggedRelPtr<AtomicU64>) -> bool {
        self.free().compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// A record's word, and its double behind it.
    fn record(&self, block: RelPtr<AtomicU64>) -> Result<[&AtomicU64; 2], String> {
        let offset = block.offset().ok_or("no block")?;
        let share = |at| self.region().share::<AtomicU64>(at).map_err(|error| error.to_string());
        Ok([share(offset + 8)?, share(offset + 16)?])
    }
}

/// Takes a block, publishes a record in it, takes another and gives that back.
struct PublishAndGiveBack;

impl Scenario for PublishAndGiveBack {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        "atomic pointers, publish and give back".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "relptr::AtomicRelPtr::store",
            "relptr::AtomicRelPtr::load",
            "relptr::AtomicTaggedRelPtr::load",
            "relptr::AtomicTaggedRelPtr::compare_exchange",
        ]
    }

    fn world(&self) -> World {
        World::new()
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        let block = world.take().unwrap().unwrap();
        notes.count(TAKEN);
        for word in world.record(block).unwrap() {
            word.store(42, Ordering::Relaxed);
        }
        world.newest().store(block, Ordering::Release);
        notes.set(PUBLISHED, 1);
        let Some(other) = world.take().unwrap() else { return };
        notes.count(TAKEN);
        world.give_back(other).unwrap();
        notes.set(GIVEN_BACK, 1);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.0.copy()
    }

    fn check(&self, world: World, notes: &Notes, end: End) -> Result<(), String> {
        let newest = world.newest().load(Ordering::Acquire);
        if !newest.is_null() {
            let record = world.record(newest)?.map(|word| word.load(Ordering::Relaxed));
            if record != [42, 42] {
                return Err(format!("a torn record: {record:?}"));
            }
        } else if notes.get(PUBLISHED) == 1 {
            return Err("what was published is lost".to_owned());
        }
        let mut found = BTreeSet::new();
        while let Some(block) = world.take()? {
            if block == newest || !found.insert(block.offset()) {
                return Err(format!("block {block:?} is free and in use"));
            }
        }
        // The record's, and one that the dead one had in its hands, are not free.
        let least = BLOCKS as usize - if end == End::Killed { 2 } else { 1 };
        let most = BLOCKS as usize - usize::from(notes.get(TAKEN) > 0);
        if !(least..=most).contains(&found.len()) {
            return Err(format!("{} blocks are free, of {least} to {most}", found.len()));
        }
        Ok(())
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let block = world.take()?.ok_or("no block is free")?;
            world.give_back(block)
        }))
    }
}

#[test]
fn one_may_die_publishing_and_with_a_block_in_its_hands() {
    Run::new(&PublishAndGiveBack).kill().passes();
}

#[test]
fn who_is_stopped_holds_nobody_up() {
    Run::new(&PublishAndGiveBack).stop().passes();
}
