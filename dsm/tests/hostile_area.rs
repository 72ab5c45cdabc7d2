//! Areas of lies, before a process attaches and while it allocates, frees and reaps: each call
//! ends, an address lies in the pages, and nothing but the mapping is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;

use dsm::area::{Area, AreaConfig, AreaPtr, Heap, Memory, Support};
use hostile_common::{LIMIT, guarded};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::ptr::NonNull;
use std::sync::Arc;

const PAGES: u64 = 8;
const PAGE: u32 = 256;
const WORDS: u64 = 16;
const AREA_AT: u64 = 8 * WORDS;
const FIXED: AreaConfig = AreaConfig::tiny(PAGES, PAGE, 3);
/// Memory comes and goes, so to say: all is there.
const ELASTIC: AreaConfig = FIXED.chunks_of(2).limit(8 * PAGE as u64);
const BYTES: usize = (AREA_AT + Area::bytes_for(&ELASTIC)) as usize;

#[derive(Debug)]
struct Plenty;

impl Memory for Plenty {
    fn populate(&self, _: std::ops::Range<u64>) -> bool {
        true
    }

    fn punch(&self, _: std::ops::Range<u64>) -> bool {
        true
    }
}

fn support() -> Support {
    Support { memory: Some(Arc::new(Plenty)), ..Support::default() }
}

/// Two seats of this process, in a table that is honest.
fn members() -> [Arc<Member>; 2] {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    [table.join().unwrap(), table.join().unwrap()]
}

/// What an area holds in the course of its life, and pointers into it.
fn images(members: &[Arc<Member>]) -> (Vec<Vec<u8>>, Vec<u64>) {
    let (mut images, mut pointers) = images_of(members, &FIXED);
    let (more, others) = images_of(members, &ELASTIC);
    images.extend(more);
    pointers.extend(others);
    (images, pointers)
}

fn images_of(members: &[Arc<Member>], config: &AreaConfig) -> (Vec<Vec<u8>>, Vec<u64>) {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let area = unsafe { Area::create_over(&mapping, AREA_AT, config, support()) }.unwrap();
    let words: MappedSlice<AtomicU64> = MappedSlice::new(&mapping, 0, WORDS).unwrap();
    let mut images = vec![block.outside().read()];
    let heap = area.heap(&members[0]).unwrap();
    for (word, size) in words.iter().zip([16, 64, 100, 600, 24]) {
        let look = |_| images.push(block.outside().read());
        heap.alloc_to(word, size, look).unwrap();
    }
    let pointers = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    images.push(block.outside().read());
    let other = area.heap(&members[1]).unwrap();
    words.iter().take(3).for_each(|word| other.free_from(word).unwrap());
    images.push(block.outside().read());
    drop(heap);
    images.push(block.outside().read());
    std::mem::forget(other);
    (images, pointers)
}

fn liar(seed: u64, images: &[Vec<u8>], pointers: &[u64], members: &[Arc<Member>]) -> Liar {
    let ids = members.iter().map(|member| u64::from(member.id().to_bits()));
    let mut values: Vec<u64> = ids.clone().collect();
    // Page words of each kind, of several classes and owners, and with tails of all lengths.
    for kind in 0..8u64 {
        values.extend(ids.clone().map(|id| kind << 60 | (seed % 64) << 44 | id));
        values.extend([1, 2, 7, 200, u64::from(u32::MAX)].map(|low| kind << 60 | low));
    }
    // Chunks that are there, and that somebody is at.
    values.push(2 << 60 | 1 << 59);
    values.extend(ids.clone().flat_map(|id| [1, 3].map(|kind| kind << 60 | 1 << 59 | id)));
    // Intents and destinations.
    for pointer in pointers {
        values.extend([0, 1, 2, 8, 64].map(|add| pointer.wrapping_add(add)));
    }
    values.extend([0, 1, BYTES as u64, u64::MAX, PAGES, u64::from(PAGE)]);
    let image = &images[seed as usize % images.len()];
    Liar::new(seed, image).with_images(images).with_values(&values)
}

fn use_heap(trials: &Trials, seed: u64, heap: &Heap, words: &[AtomicU64]) {
    let write = |address: NonNull<u8>| {
        // SAFETY: at least so many bytes are asked for below.
        unsafe { address.write_bytes(0x55, 8) };
    };
    for (at, word) in words.iter().enumerate() {
        let size = [8, 24, 64, 200, 700, 2000][(at + seed as usize) % 6];
        let bits = word.load(Ordering::Relaxed);
        trials.call(seed, "resolve", || {
            heap.area().resolve_len(AreaPtr::from_bits(bits), 64).is_ok()
        });
        match (at as u64 + seed) % 3 {
            0 => drop(trials.call(seed, "alloc_to", || heap.alloc_to(word, size, write))),
            1 => drop(trials.call(seed, "free_from", || heap.free_from(word))),
            _ => drop(trials.call(seed, "free", || heap.free(AreaPtr::from_bits(bits)))),
        }
    }
    trials.call(seed, "trim", || heap.trim());
}

/// Every call there is; whether there was an area.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>, members: &[Arc<Member>]) -> bool {
    let attached = trials.call(seed, "attach", || Area::attach_over(mapping, AREA_AT, support()));
    let Some(Ok(area)) = attached else { return false };
    let words: MappedSlice<AtomicU64> = MappedSlice::new(mapping, 0, WORDS).unwrap();
    trials.call(seed, "verify", || area.verify());
    for round in 0..2 {
        let member = &members[(seed as usize + round) % 2];
        let heap = trials.call(seed, "heap", || area.heap(member));
        if let Some(Ok(heap)) = heap {
            use_heap(trials, seed, &heap, &words);
            if seed.is_multiple_of(3) {
                std::mem::forget(heap);
            } else {
                trials.call(seed, "leave", || drop(heap));
            }
        }
        trials.call(seed, "reap", || area.reap(member.id()));
    }
    trials.call(seed, "set_limit", || area.set_limit(seed));
    trials.call(seed, "classes", || area.classes());
    trials.call(seed, "for_each_block", || area.for_each_block(|_, _| ()));
    true
}

#[test]
fn areas_of_lies_are_used_or_refused() {
    let (trials, members) = (Trials::new("area, before", LIMIT), members());
    let (images, pointers) = images(&members);
    let mut attached = 0;
    for seed in trials.seeds(2500) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images, &pointers, &members), seed % 6);
        attached += u32::from(use_it(&trials, seed, &mapping, &members));
        trials.check(seed, "area", block.is_intact(), "wrote beside the mapping");
    }
    assert!(attached > 300, "attached {attached}");
    trials.finish();
}

#[test]
fn areas_that_change_all_the_time_are_used_or_refused() {
    let (trials, members) = (Trials::new("area, meanwhile", LIMIT), members());
    let (images, pointers) = images(&members);
    let mut attached = 0;
    for seed in trials.seeds(120) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let liar = liar(seed, &images, &pointers, &members).restoring();
        let scribbler = Scribbler::start(block.outside(), liar);
        scribbler.meanwhile(300, || {
            attached += u32::from(use_it(&trials, seed, &mapping, &members));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "area", block.is_intact(), "wrote beside the mapping");
    }
    assert!(attached > 40, "attached {attached}");
    trials.finish();
}
