//! The liar finds what it is for: of the planted ring, the one that skips a bounds check dies of a
//! guard page, in the call that skipped it; the sound one answers every lie.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;
mod planted;

use hostile_common::{LIMIT, guarded, soon};
use planted::{Bug, Ring};
use shm_core::sync::Ordering::Relaxed;
use shm_testkit::child::Child;
use shm_testkit::liar::{Liar, Scribbler, Trials};

/// A ring of so many slots ends with a cache line: so it is flush with the page behind it.
const CAPACITY: u64 = 8;

/// What the ring holds in the course of its life.
fn images() -> Vec<Vec<u8>> {
    let bytes = vec![0; Ring::bytes_for(CAPACITY) as usize];
    let (block, mapping) = guarded(&bytes, 0);
    let ring = Ring::create(&mapping, CAPACITY, Bug::None);
    let empty = block.outside().read();
    for value in 0..5 {
        ring.push(7, value).unwrap();
    }
    let used = block.outside().read();
    ring.pop();
    vec![used, empty, block.outside().read()]
}

/// Lies before the calls, and meanwhile. Prints figures; panics of findings.
fn lie_to(bug: Bug, seeds: u64) {
    let (trials, images) = (Trials::new("planted ring", LIMIT), images());
    for seed in trials.seeds(seeds) {
        let valid = &images[seed as usize % images.len()];
        let (block, mapping) = guarded(valid, seed);
        let mut liar = Liar::new(seed, valid).with_images(&images).restoring();
        let ring = Ring::attach_at(&mapping, 0, CAPACITY, bug).unwrap();
        trials.tell(&block.outside(), &mut liar, 1 + seed % 3);
        let scribbler = (seed % 4 == 3).then(|| Scribbler::start(block.outside(), liar));
        let use_it = || {
            for value in 0..6 {
                trials.call(seed, "push", || ring.push(9, value));
                trials.call(seed, "pop", || ring.pop());
                trials.call(seed, "pop_waiting", || ring.pop_waiting(Some(soon())));
            }
            trials.call(seed, "reap", || ring.reap(7));
        };
        match &scribbler {
            Some(scribbler) => scribbler.meanwhile(200, use_it),
            None => use_it(),
        }
        trials.add(scribbler.map_or(0, Scribbler::stop));
        trials.check(seed, "ring", block.is_intact(), "wrote beside the ring");
    }
    trials.finish();
}

/// Any lies at all: an index leads anywhere.
fn skips_a_bounds_check(_: &[String]) {
    lie_to(Bug::BoundsSkipped, 4000);
}

/// The smallest lie: an index that is one too large.
fn goes_one_too_far(_: &[String]) {
    let trials = Trials::new("planted ring", LIMIT);
    let (_block, mapping) = guarded(&vec![0; Ring::bytes_for(CAPACITY) as usize], 0);
    let ring = Ring::create(&mapping, CAPACITY, Bug::BoundsSkipped);
    ring.push(7, 1).unwrap();
    ring.place_word(0).store(CAPACITY, Relaxed);
    trials.call(0, "pop", || ring.pop());
}
shm_testkit::children! { skips_a_bounds_check, goes_one_too_far }

#[test]
fn one_index_too_far_touches_the_guard_page() {
    let exit = Child::spawn("goes_one_too_far", &[]).wait(2 * LIMIT);
    assert_eq!(exit.signal(), Some(libc::SIGSEGV), "{exit:?}");
    let why = "planted ring: `pop` with SHM_SEED=0: access 0 bytes behind the block of 256 bytes";
    assert!(exit.stderr.contains(why), "{exit:?}");
}

#[test]
fn a_skipped_bounds_check_is_found_by_lies() {
    let exit = Child::spawn("skips_a_bounds_check", &[]).wait(2 * LIMIT);
    // A wild index may lead to no guard page, and then AddressSanitizer speaks, where it is there.
    let sanitized = exit.stderr.contains("AddressSanitizer: SEGV");
    assert!(exit.signal() == Some(libc::SIGSEGV) || sanitized, "{exit:?}");
    let said = exit.stderr.lines().find(|line| line.starts_with("liar: planted ring: `pop"));
    println!("found: {}", said.unwrap_or_else(|| panic!("not said in which call: {exit:?}")));
}

#[test]
fn the_sound_ring_answers_every_lie() {
    lie_to(Bug::None, 400);
}
