//! An event count whose word is overwritten all the time: sleepers obey their deadline, notifiers
//! come back, and nothing but the four bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{LIMIT, guarded, soon};
use shm_core::event::EventCount;
use shm_core::futex::{Futex, Wake, waitv_works};
use shm_core::mapping::Mapped;
use shm_core::sync::Ordering::Relaxed;
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::time::Instant;

/// A word with every bit that has a meaning, and some without.
const VALUES: [u64; 6] = [0, 1, 2, 3, 4, 0xffff_fffe];
const BYTES: usize = 64;

/// Where the event lies: flush with the guard page.
fn at(seed: u64) -> u64 {
    if seed.is_multiple_of(2) { BYTES as u64 - 4 } else { 0 }
}

/// Every call that an event and a futex have, with a deadline where they sleep.
fn use_it(trials: &Trials, seed: u64, event: &EventCount, futex: &Futex) {
    let ticket = trials.call(seed, "prepare", || event.prepare());
    let Some(ticket) = ticket else { return };
    trials.call(seed, "notify", || event.notify());
    let deadline = soon();
    let wake = trials.call(seed, "wait", || event.wait(ticket, Some(deadline)));
    let early = wake == Some(Wake::TimedOut) && Instant::now() < deadline;
    trials.check(seed, "wait", !early, "timed out too early");
    let other = Futex::new(5);
    let others: &[_] = if waitv_works() { &[(&other, 5)] } else { &[] };
    trials.call(seed, "wait_any", || event.wait_any(ticket, others, Some(soon())));
    trials.call(seed, "Futex::wait", || futex.wait(futex.load(Relaxed), Some(soon())));
    trials.call(seed, "Futex::wake_one", || futex.wake_one());
    trials.call(seed, "Futex::wake_all", || futex.wake_all());
}

#[test]
fn an_event_of_lies_hangs_nobody() {
    let trials = Trials::new("event, before", LIMIT);
    for seed in trials.seeds(400) {
        let (block, mapping) = guarded(&[0; BYTES], seed);
        let event = Mapped::<EventCount>::new(&mapping, at(seed)).unwrap();
        let futex = Mapped::<Futex>::new(&mapping, at(seed)).unwrap();
        let mut liar = Liar::new(seed, &[0; BYTES]).with_values(&VALUES);
        trials.tell(&block.outside(), &mut liar, 3);
        use_it(&trials, seed, &event, &futex);
        trials.check(seed, "event", block.is_intact(), "wrote beside the event");
    }
    trials.finish();
}

#[test]
fn an_event_that_changes_all_the_time_hangs_nobody() {
    let trials = Trials::new("event, meanwhile", LIMIT);
    for seed in trials.seeds(40) {
        let (block, mapping) = guarded(&[0; BYTES], seed);
        let event = Mapped::<EventCount>::new(&mapping, at(seed)).unwrap();
        let futex = Mapped::<Futex>::new(&mapping, at(seed)).unwrap();
        let bytes = at(seed) as usize..at(seed) as usize + 4;
        let liar = Liar::new(seed, &[0; BYTES]).about(bytes).with_values(&VALUES);
        let scribbler = Scribbler::start(block.outside(), liar);
        scribbler.meanwhile(20_000, || use_it(&trials, seed, &event, &futex));
        trials.add(scribbler.stop());
    }
    trials.finish();
}
