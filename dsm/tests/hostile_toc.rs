//! A table of contents that lies, before it is attached and while it is used: each call ends, what
//! it gives lies inside the mapping, and nothing else is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;
use dsm::toc::{CHUNK_ALIGN_MAX, Toc};
use hostile_common::{LIMIT, guarded};
use shm_core::mapping::Mapping;
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::sync::Arc;

const MAGIC: u64 = 0x50;
const LEN: usize = 1024;
const ENTRIES: u64 = 6;

/// What the table holds in the course of its life: full of keys, half full, empty, not made.
fn images() -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; LEN], 0);
    let mut images = vec![block.outside().read()];
    let toc = Toc::create(&mapping, MAGIC, ENTRIES).unwrap();
    images.push(block.outside().read());
    for key in 0..ENTRIES {
        toc.insert(key, toc.allocate(64).unwrap()).unwrap();
        if key % 3 == 2 {
            images.push(block.outside().read());
        }
    }
    images.reverse();
    images
}

fn liar(seed: u64, images: &[Vec<u8>]) -> Liar {
    // The head of the mapping is where the words are.
    let head = 64 + 16 * ENTRIES as usize;
    Liar::new(seed, &images[seed as usize % images.len()])
        .with_images(images)
        .with_values(&[MAGIC, 64, LEN as u64, LEN as u64 - 64, 1, 7, ENTRIES])
        .about(0..head)
}

/// Every call there is; whether the table could be attached.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>) -> bool {
    let inside = |at: u64, size: u64| at.checked_add(size).is_some_and(|end| end <= LEN as u64);
    let attached = trials.call(seed, "attach", || Toc::attach(mapping, MAGIC));
    let Some(Ok(toc)) = attached else { return false };
    trials.call(seed, "free_space", || toc.free_space());
    for (size, align) in
        [(0, 64), (64, 64), (100, CHUNK_ALIGN_MAX), (LEN as u64, 64), (u64::MAX, 64)]
    {
        let chunk = trials.call(seed, "allocate", || toc.allocate_aligned(size, align));
        if let Some(Ok(at)) = chunk {
            trials.check(seed, "allocate", inside(at, size), "gave a chunk outside the mapping");
            trials.call(seed, "insert", || toc.insert(seed % 9, at));
        }
    }
    for key in [0, 3, 5, 99, u64::MAX - 1, u64::MAX] {
        if let Some(Ok(Some(at))) = trials.call(seed, "lookup", || toc.lookup(key)) {
            trials.check(seed, "lookup", inside(at, 1), "gave an offset outside the mapping");
        }
        trials.call(seed, "insert", || toc.insert(key, LEN as u64 - 64));
    }
    if let Some(Ok(entries)) = trials.call(seed, "entries", || toc.entries()) {
        let sane = entries.iter().all(|(_, at)| inside(*at, 1));
        trials.check(seed, "entries", sane, "gave an offset outside the mapping");
    }
    true
}

#[test]
fn a_table_of_lies_is_read_or_refused() {
    let (trials, images) = (Trials::new("toc, before", LIMIT), images());
    let mut attached = 0;
    for seed in trials.seeds(3000) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images), seed % 5);
        attached += u32::from(use_it(&trials, seed, &mapping));
        trials.check(seed, "toc", block.is_intact(), "wrote beside the mapping");
    }
    assert!(attached > 300, "attached {attached}");
    trials.finish();
}

#[test]
fn a_table_that_changes_all_the_time_is_read_or_refused() {
    let (trials, images) = (Trials::new("toc, meanwhile", LIMIT), images());
    let mut attached = 0;
    for seed in trials.seeds(60) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let scribbler = Scribbler::start(block.outside(), liar(seed, &images).restoring());
        scribbler.meanwhile(400, || {
            attached += u32::from(use_it(&trials, seed, &mapping));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "toc", block.is_intact(), "wrote beside the mapping");
    }
    assert!(attached > 30, "attached {attached}");
    trials.finish();
}
