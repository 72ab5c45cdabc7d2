//! A mutex that lies, before it is attached and while it is used: each call ends, sleepers obey
//! their deadline, and nothing but its bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{LIMIT, guarded, soon};
use shm_core::lock::mutex::{LockError, Mutex, MutexGuard};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::sync::Arc;
use std::time::Instant;

const BYTES: usize = Mutex::BYTES as usize;
/// Where the word lies.
const WORD: std::ops::Range<usize> = 8..16;

/// Two members of a table that is honest.
fn members() -> [Arc<Member>; 2] {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    [table.join().unwrap(), table.join().unwrap()]
}

/// What a mutex holds in the course of its life.
fn images([me, peer]: &[Arc<Member>; 2]) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let mutex = unsafe { Mutex::create(&mapping, 0) }.unwrap();
    let mut images = vec![block.outside().read()];
    let held = mutex.lock(me).unwrap();
    images.push(block.outside().read());
    assert!(matches!(mutex.lock_until(peer, soon()), Err(LockError::TimedOut)));
    images.push(block.outside().read());
    drop(held);
    std::mem::forget(mutex.lock(me).unwrap());
    mutex.clean_up(me.id());
    images.push(block.outside().read());
    let Err(LockError::Abandoned(abandoned)) = mutex.lock(peer) else { panic!("it was left") };
    images.push(block.outside().read());
    drop(abandoned);
    images.push(block.outside().read());
    images
}

fn liar(seed: u64, images: &[Vec<u8>]) -> Liar {
    let words = images.iter().map(|image| u64::from_ne_bytes(image[WORD].try_into().unwrap()));
    let words: Vec<u64> = words.flat_map(|word| [word, word ^ 1, word ^ 1 << 32]).collect();
    Liar::new(seed, &images[seed as usize % images.len()]).with_images(images).with_values(&words)
}

/// Holds it for a moment, if it has it.
fn hold(trials: &Trials, seed: u64, taken: Option<Result<MutexGuard<'_>, LockError<'_>>>) {
    let guard = match taken {
        Some(Ok(guard)) => guard,
        Some(Err(LockError::Abandoned(abandoned))) => {
            if seed.is_multiple_of(3) {
                trials.call(seed, "give up", || drop(abandoned));
                return;
            }
            let Some(guard) = trials.call(seed, "Abandoned::recover", || abandoned.recover())
            else {
                return;
            };
            guard
        }
        _ => return,
    };
    trials.call(seed, "drop", || drop(guard));
}

/// Every call there is, with a deadline where it sleeps; whether it could be attached.
fn use_it(
    trials: &Trials,
    seed: u64,
    mapping: &Arc<Mapping>,
    [me, peer]: &[Arc<Member>; 2],
) -> bool {
    let attached = trials.call(seed, "attach", || Mutex::attach(mapping, 0));
    let Some(Ok(mutex)) = attached else { return false };
    for who in [me, peer] {
        let deadline = soon();
        let taken = trials.call(seed, "lock_until", || mutex.lock_until(who, deadline));
        let early = matches!(taken, Some(Err(LockError::TimedOut))) && Instant::now() < deadline;
        trials.check(seed, "lock_until", !early, "timed out too early");
        hold(trials, seed, taken);
        let taken = trials.call(seed, "try_lock", || mutex.try_lock(who));
        hold(trials, seed, taken.and_then(Result::transpose));
    }
    for bits in [1, 1 << 22 | 1, u32::MAX] {
        let id = ParticipantId::from_bits(bits).unwrap();
        trials.call(seed, "clean_up", || mutex.clean_up(id));
    }
    true
}

#[test]
fn a_mutex_of_lies_is_used_or_refused() {
    let (trials, members) = (Trials::new("mutex, before", LIMIT), members());
    let images = images(&members);
    let mut attached = 0;
    for seed in trials.seeds(1000) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images), seed % 4);
        attached += u32::from(use_it(&trials, seed, &mapping, &members));
        trials.check(seed, "mutex", block.is_intact(), "wrote beside the mutex");
    }
    assert!(attached > 200, "attached {attached}");
    trials.finish();
}

#[test]
fn a_mutex_that_changes_all_the_time_is_used_or_refused() {
    let (trials, members) = (Trials::new("mutex, meanwhile", LIMIT), members());
    let images = images(&members);
    let mut attached = 0;
    for seed in trials.seeds(60) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let scribbler = Scribbler::start(block.outside(), liar(seed, &images).restoring());
        scribbler.meanwhile(1000, || {
            attached += u32::from(use_it(&trials, seed, &mapping, &members));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "mutex", block.is_intact(), "wrote beside the mutex");
    }
    assert!(attached > 30, "attached {attached}");
    trials.finish();
}
