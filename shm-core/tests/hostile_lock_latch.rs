//! A latch that lies, before it is attached and while it is used: each call ends, sleepers obey
//! their deadline, and nothing but its bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{LIMIT, guarded, soon};
use shm_core::lock::latch::{Latch, WaitError};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::sync::Arc;
use std::time::Instant;

const BYTES: usize = Latch::BYTES as usize;

/// Two members of a table that is honest.
fn members() -> [Arc<Member>; 2] {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    [table.join().unwrap(), table.join().unwrap()]
}

/// What a latch holds in the course of its life.
fn images(me: &Member) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let latch = unsafe { Latch::create(&mapping, 0) }.unwrap();
    let mut images = vec![block.outside().read()];
    assert_eq!(latch.wait(me, &[], Some(soon())), Err(WaitError::TimedOut));
    images.push(block.outside().read());
    latch.set();
    images.push(block.outside().read());
    images
}

fn liar(seed: u64, images: &[Vec<u8>]) -> Liar {
    let image = &images[seed as usize % images.len()];
    Liar::new(seed, image).with_images(images).with_values(&[0, 1, 2, 3, 4, u64::MAX, 1 << 32])
}

/// Every call there is, with a deadline where it sleeps; whether it could be attached.
fn use_it(
    trials: &Trials,
    seed: u64,
    mapping: &Arc<Mapping>,
    [me, peer]: &[Arc<Member>; 2],
) -> bool {
    let attached = trials.call(seed, "attach", || Latch::attach(mapping, 0));
    let Some(Ok(latch)) = attached else { return false };
    let watch = me.watch(peer.id());
    for _ in 0..2 {
        let deadline = soon();
        let waited = trials.call(seed, "wait", || latch.wait(me, &[&watch], Some(deadline)));
        let early = waited == Some(Err(WaitError::TimedOut)) && Instant::now() < deadline;
        trials.check(seed, "wait", !early, "timed out too early");
        trials.call(seed, "is_set", || latch.is_set());
        trials.call(seed, "reset", || latch.reset());
        trials.call(seed, "set", || latch.set());
    }
    true
}

#[test]
fn a_latch_of_lies_is_used_or_refused() {
    let (trials, members) = (Trials::new("latch, before", LIMIT), members());
    let images = images(&members[0]);
    let mut attached = 0;
    for seed in trials.seeds(1000) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images), seed % 4);
        attached += u32::from(use_it(&trials, seed, &mapping, &members));
        trials.check(seed, "latch", block.is_intact(), "wrote beside the latch");
    }
    assert!(attached > 200, "attached {attached}");
    trials.finish();
}

#[test]
fn a_latch_that_changes_all_the_time_is_used_or_refused() {
    let (trials, members) = (Trials::new("latch, meanwhile", LIMIT), members());
    let images = images(&members[0]);
    let mut attached = 0;
    for seed in trials.seeds(60) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let scribbler = Scribbler::start(block.outside(), liar(seed, &images).restoring());
        scribbler.meanwhile(1000, || {
            attached += u32::from(use_it(&trials, seed, &mapping, &members));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "latch", block.is_intact(), "wrote beside the latch");
    }
    assert!(attached > 30, "attached {attached}");
    trials.finish();
}
