//! Real processes allocate, free each other's blocks and are killed: nothing is lost, nothing is
//! two users', and what a stopped one holds hinders nobody.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/participants_common/mod.rs"]
mod participants_common;

use dsm::area::{AllocError, Area, AreaConfig, AreaPtr, FreeError, Heap};
use participants_common::{Child, World, shared_mapping, world};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::Member;
use shm_core::sync::{AtomicU64, Ordering};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEATS: u32 = 8;
const TIME: Duration = Duration::from_millis(1500);
/// Each process has so many words in which it names blocks, and as many in which another one names
/// blocks for it to free.
const WORDS: usize = 64;
const PROCESSES: usize = 3;
const CONFIG: AreaConfig = AreaConfig::new(2 << 20).heaps(16);
/// Sets of words a process.
const OWN: usize = 0;
const GIVEN: usize = 1;
const READY: usize = 2;
const AREA_AT: u64 = (PROCESSES * 3 * WORDS * 8) as u64;

fn area_of(mapping: &Arc<Mapping>) -> Area {
    Area::attach_in_place(mapping, AREA_AT).unwrap()
}

fn memory() -> Arc<Mapping> {
    let mapping = shared_mapping((AREA_AT + Area::bytes_for(&CONFIG)) as usize);
    // SAFETY: nobody else has the mapping yet.
    unsafe { Area::create_in_place(&mapping, AREA_AT, &CONFIG) }.unwrap();
    mapping
}

/// Words that process `who` writes (its own), or that are given to it, which of these it may free.
fn words(mapping: &Arc<Mapping>, who: usize, set: usize) -> MappedSlice<AtomicU64> {
    let at = (who * 3 + set) * WORDS * 8;
    MappedSlice::new(mapping, at as u64, WORDS as u64).unwrap()
}

fn sit(world: &World, area: &Area) -> (Arc<Member>, Heap) {
    let member = world.table.join_with(Default::default(), |dead| {
        area.reap(dead);
    });
    let member = member.unwrap();
    let heap = area.heap(&member).unwrap();
    (member, heap)
}

/// A block holds its own name in its first and last word while it is in use.
fn stamp(area: &Area, block: AreaPtr, size: u64) -> [bool; 2] {
    [0, size - 8].map(|at| {
        let address = area.resolve_len(AreaPtr::from_bits(block.to_bits() + at), 8).unwrap();
        // SAFETY: 8 bytes of the area, which nobody accesses but by atomics.
        let word = unsafe { AtomicU64::from_ptr(address.as_ptr().cast()) };
        word.load(Ordering::Relaxed) == block.to_bits()
    })
}

fn size_of_word(at: usize) -> u64 {
    [16, 48, 128, 520, 3000, 20_000][at % 6]
}

/// One process of those that churn.
struct Churner<'w> {
    world: &'w World,
    area: Area,
    heap: Heap,
}

impl Churner<'_> {
    fn alloc(&self, to: &AtomicU64, size: u64) {
        let stamp = |address: NonNull<u8>| {
            let offset = self.area.mapping().region().offset_of(address).unwrap();
            for at in [0, size - 8] {
                // SAFETY: inside the block, aligned, and nobody else's yet.
                let word = unsafe { address.as_ptr().add(at as usize).cast() };
                // SAFETY: as above.
                let word = unsafe { AtomicU64::from_ptr(word) };
                word.store(NAME.get().unwrap() + offset, Ordering::Relaxed);
            }
        };
        match self.heap.alloc_to(to, size, stamp) {
            Ok(_) | Err(AllocError::OutOfMemory { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn free(&self, from: &AtomicU64, size: u64) {
        let block = AreaPtr::from_bits(from.load(Ordering::Acquire));
        if block.is_null() {
            return;
        }
        if stamp(&self.area, block, size) != [true, true] {
            self.world.board.words[41].fetch_add(1, Ordering::Relaxed);
        }
        self.heap.free_from(from).unwrap();
    }
}

/// Allocates and frees until it is killed. What is given to the next one it may free once we say
/// that it is ready: while a word is being filled nobody else may change it.
fn churn(world: &World, mapping: &Arc<Mapping>, who: usize) {
    let area = area_of(mapping);
    let (_member, heap) = sit(world, &area);
    let me = Churner { world, area, heap };
    let next = (who + 1) % PROCESSES;
    let [own, given, ready] = [OWN, GIVEN, READY].map(|set| words(mapping, who, set));
    let [to_next, next_ready] = [GIVEN, READY].map(|set| words(mapping, next, set));
    let mut seed = u64::from(std::process::id()) | 1;
    loop {
        for _ in 0..200 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (at, is_own) = ((seed >> 33) as usize % WORDS, seed >> 60 < 8);
            let size = size_of_word(at);
            if is_own && own[at].load(Ordering::Relaxed) == 0 {
                me.alloc(&own[at], size);
            } else if is_own {
                me.free(&own[at], size);
            } else if next_ready[at].load(Ordering::Acquire) == 0 {
                if to_next[at].load(Ordering::Relaxed) == 0 {
                    me.alloc(&to_next[at], size);
                }
                if to_next[at].load(Ordering::Relaxed) != 0 {
                    next_ready[at].store(1, Ordering::Release);
                }
            }
            if ready[at].load(Ordering::Acquire) != 0 {
                me.free(&given[at], size);
                ready[at].store(0, Ordering::Release);
            }
        }
        world.board.words[40].fetch_add(1, Ordering::Relaxed);
    }
}

/// The bits of a pointer that are the same in all.
static NAME: std::sync::OnceLock<u64> = std::sync::OnceLock::new();

#[test]
fn nothing_is_lost_whoever_is_killed() {
    let (world, mapping) = (world(SEATS), memory());
    let area = area_of(&mapping);
    {
        let (_member, heap) = sit(&world, &area);
        let word = &words(&mapping, 0, 0)[0];
        let block = heap.alloc_to(word, 8, |_| ()).unwrap().to_bits();
        let offset = mapping.region().offset_of(area.resolve(AreaPtr::from_bits(block)).unwrap());
        NAME.set(block - offset.unwrap()).unwrap();
        heap.free_from(word).unwrap();
    }
    let start = |who: usize| {
        let (world, mapping) = (&world, &mapping);
        Child::fork(move || churn(world, mapping, who))
    };
    let mut children: Vec<_> = (0..PROCESSES).map(start).collect();
    let (end, mut kills) = (Instant::now() + TIME, 0);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(15));
        let victim = kills % PROCESSES;
        children[victim].kill();
        kills += 1;
        world.table.reap(|dead| {
            area.reap(dead);
        });
        children[victim] = start(victim);
    }
    drop(children);
    world.table.reap(|dead| {
        area.reap(dead);
    });
    let rounds = world.word(40);
    println!("{rounds} hundreds of rounds, {kills} killed, {:?}", area.stats());
    assert_eq!(world.word(41), 0, "blocks were overwritten");
    let report = area.verify();
    assert!(report.is_clean(), "{report:?}");
    let all = (0..PROCESSES * 2).map(|at| words(&mapping, at / 2, [OWN, GIVEN][at % 2]));
    let mut named: Vec<u64> = all
        .flat_map(|words| words.iter().map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>())
        .filter(|word| *word != 0)
        .collect();
    named.sort_unstable();
    let mut blocks = Vec::new();
    area.for_each_block(|block, _| blocks.push(block.to_bits()));
    assert_eq!(blocks, named, "a block is lost, or is two words'");
    assert!(rounds > 0 && kills > 3);
}

#[test]
fn one_that_is_stopped_hinders_nobody_and_a_forked_child_is_nobody() {
    let (world, mapping) = (world(SEATS), memory());
    let area = area_of(&mapping);
    let child = Child::fork(|| {
        let (_member, heap) = sit(&world, &area);
        // SAFETY: signals this process.
        let stop = |_| unsafe { assert_eq!(libc::raise(libc::SIGSTOP), 0) };
        let _ = heap.alloc_to(&words(&mapping, 1, 0)[0], 100, stop);
    });
    let (_member, heap) = sit(&world, &area);
    let own = words(&mapping, 0, 0);
    let end = Instant::now() + participants_common::WATCHDOG;
    while area.stats().intents == 0 {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
    for (at, word) in own.iter().enumerate() {
        heap.alloc_to(word, size_of_word(at), |_| ()).unwrap();
    }
    let mut forked = Child::fork(|| {
        assert!(matches!(heap.free_from(&own[0]), Err(FreeError::Forked(_))));
        let got = heap.alloc_to(&words(&mapping, 2, 0)[0], 8, |_| ());
        assert!(matches!(got, Err(AllocError::Forked(_))));
    });
    assert_eq!(forked.wait(), 0);
    own.iter().for_each(|word| heap.free_from(word).unwrap());
    drop(child);
    world.table.reap(|dead| {
        area.reap(dead);
    });
    let report = area.verify();
    assert!(report.is_clean() && report.stats.blocks == 0, "{report:?}");
}
