//! The head of a growable segment that lies, before it is attached and while it is used: each call
//! ends, no page outside is touched or counted.
#![cfg(not(any(shm_loom, shm_explore)))]
mod growth_common;
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;

use dsm::growth::Growth;
use growth_common::{Care, PAGES_MAX, World, id};
use hostile_common::{LIMIT, guarded};
use shm_core::mapping::Mapping;
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::sync::Arc;

const LEN: usize = 64;

/// Settled, claimed by one who lives, by one who is dead; not made.
fn images() -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; LEN], 0);
    let mut images = vec![block.outside().read()];
    for pages in 1..=PAGES_MAX {
        // SAFETY: nobody else has it.
        unsafe { Growth::create(&mapping, 0, pages, PAGES_MAX) }.unwrap();
        images.push(block.outside().read());
        let mut claimed = block.outside().read();
        claimed[12..16].copy_from_slice(&id(3 + pages % 2).to_bits().to_le_bytes());
        images.push(claimed);
    }
    images
}

fn liar(seed: u64, images: &[Vec<u8>]) -> Liar {
    let claim = |pages: u64| u64::from(id(4).to_bits()) << 32 | pages;
    Liar::new(seed, &images[seed as usize % images.len()])
        .with_images(images)
        .with_values(&[0, 1, 4, 5, claim(0), claim(2), claim(5), 1 << 32 | 2, u64::MAX])
        .about(0..16)
}

/// Every call there is, with memory of its own; whether there was a length.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>) -> bool {
    let mut world = World::new(2, Care::Deaths);
    let growth = Growth::attach(mapping, 0, PAGES_MAX).unwrap();
    world.growth = growth.clone();
    let pages = trials.call(seed, "pages", || growth.pages());
    for wanted in [0, 1, 3, PAGES_MAX, PAGES_MAX + 1, u32::MAX] {
        let has_left = |who: shm_core::participants::ParticipantId| who.slot() == 4;
        let grown = trials.call(seed, "grow", || growth.grow(id(0), wanted, has_left, &world));
        let shrunk = trials.call(seed, "shrink", || growth.shrink(id(0), wanted, has_left, &world));
        for told in [grown, shrunk].into_iter().flatten().flatten() {
            let is_sane = (1..=PAGES_MAX).contains(&told);
            trials.check(seed, "growth", is_sane, "says a length that there cannot be");
        }
    }
    matches!(pages, Some(Ok(_)))
}

#[test]
fn a_head_of_lies_is_read_or_refused() {
    let (trials, images) = (Trials::new("growth, before", LIMIT), images());
    let mut sane = 0;
    for seed in trials.seeds(3000) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images), seed % 3);
        sane += u32::from(use_it(&trials, seed, &mapping));
        trials.check(seed, "growth", block.is_intact(), "wrote beside the mapping");
    }
    assert!(sane > 300, "{sane} were sane");
    trials.finish();
}

#[test]
fn a_head_that_changes_all_the_time_is_read_or_refused() {
    let (trials, images) = (Trials::new("growth, meanwhile", LIMIT), images());
    let mut sane = 0;
    for seed in trials.seeds(60) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let scribbler = Scribbler::start(block.outside(), liar(seed, &images).restoring());
        scribbler.meanwhile(400, || {
            sane += u32::from(use_it(&trials, seed, &mapping));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "growth", block.is_intact(), "wrote beside the mapping");
    }
    assert!(sane > 30, "{sane} were sane");
    trials.finish();
}
