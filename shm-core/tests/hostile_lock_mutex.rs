//! A mutex that lies, before it is attached and while it is used: each call ends, sleepers obey
//! their deadline, and nothing but its bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{Victim, guarded, soon, with_members};
use shm_core::lock::mutex::{LockError, Mutex, MutexGuard};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId};
use shm_testkit::liar::Trials;
use std::sync::Arc;
use std::time::Instant;

const BYTES: usize = Mutex::BYTES as usize;
/// Where the word lies.
const WORD: std::ops::Range<usize> = 8..16;

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

/// Words of these, and others that are nearly such.
fn values(images: &[Vec<u8>]) -> Vec<u64> {
    let words = images.iter().map(|image| u64::from_ne_bytes(image[WORD].try_into().unwrap()));
    words.flat_map(|word| [word, word ^ 1, word ^ 1 << 32]).collect()
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

fn with_victim(test: impl Fn(Victim<'_>)) {
    with_members(images, values, use_it, test);
}

#[test]
fn a_mutex_of_lies_is_used_or_refused() {
    with_victim(|victim| victim.is_lied_to("mutex, before", 1000, 200));
}

#[test]
fn a_mutex_that_changes_all_the_time_is_used_or_refused() {
    with_victim(|victim| victim.is_lied_to_meanwhile("mutex, meanwhile", 60, 30));
}
