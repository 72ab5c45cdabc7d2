//! A barrier that lies, before it is attached and while it is used: each call ends, sleepers obey
//! their deadline, and nothing but its bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{LIMIT, guarded, soon};
use shm_core::lock::barrier::{Barrier, BarrierError};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::sync::Arc;
use std::time::Instant;

const PARTIES: u32 = 3;
const BYTES: usize = Barrier::bytes_for(PARTIES) as usize;

/// Two members of a table that is honest.
fn members() -> [Arc<Member>; 2] {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    [table.join().unwrap(), table.join().unwrap()]
}

/// What a barrier holds in the course of its life.
fn images([me, peer]: &[Arc<Member>; 2]) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let barrier = unsafe { Barrier::create(&mapping, 0, PARTIES, 0) }.unwrap();
    let mut images = vec![block.outside().read()];
    let (mut mine, mut theirs) = (barrier.join(me).unwrap(), barrier.join(peer).unwrap());
    images.push(block.outside().read());
    assert_eq!(mine.arrive_and_wait_until(soon()), Err(BarrierError::TimedOut));
    images.push(block.outside().read());
    theirs.arrive_and_wait().unwrap();
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
    let attached = trials.call(seed, "attach", || Barrier::attach(mapping, 0));
    let Some(Ok(barrier)) = attached else { return false };
    trials.call(seed, "phase", || barrier.phase());
    trials.call(seed, "parties", || barrier.parties().len());
    trials.call(seed, "clean_up", || barrier.clean_up(peer.id()));
    for round in 0..2 {
        let Some(Ok(mut party)) = trials.call(seed, "join", || barrier.join(me)) else { continue };
        let deadline = soon();
        let waited = trials.call(seed, "arrive", || party.arrive_and_wait_until(deadline));
        let early = waited == Some(Err(BarrierError::TimedOut)) && Instant::now() < deadline;
        trials.check(seed, "arrive", !early, "timed out too early");
        if round == 0 {
            trials.call(seed, "leave", || party.leave());
        } else {
            trials.call(seed, "arrive_and_leave", || party.arrive_and_leave());
        }
    }
    true
}

#[test]
fn a_barrier_of_lies_is_used_or_refused() {
    let (trials, members) = (Trials::new("barrier, before", LIMIT), members());
    let images = images(&members);
    let mut attached = 0;
    for seed in trials.seeds(1000) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images), seed % 4);
        attached += u32::from(use_it(&trials, seed, &mapping, &members));
        trials.check(seed, "barrier", block.is_intact(), "wrote beside the barrier");
    }
    assert!(attached > 200, "attached {attached}");
    trials.finish();
}

#[test]
fn a_barrier_that_changes_all_the_time_is_used_or_refused() {
    let (trials, members) = (Trials::new("barrier, meanwhile", LIMIT), members());
    let images = images(&members);
    let mut attached = 0;
    for seed in trials.seeds(60) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let scribbler = Scribbler::start(block.outside(), liar(seed, &images).restoring());
        scribbler.meanwhile(1000, || {
            attached += u32::from(use_it(&trials, seed, &mapping, &members));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "barrier", block.is_intact(), "wrote beside the barrier");
    }
    assert!(attached > 30, "attached {attached}");
    trials.finish();
}
