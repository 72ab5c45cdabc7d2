//! A condition variable that lies, before it is attached and while it is used: each call ends, who
//! waits obeys its deadline, and nothing but its bytes is touched. (A mutex that lies:
//! `hostile_lock_mutex`.)
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{Victim, guarded, soon};
use shm_core::lock::condvar::{Condvar, Woke};
use shm_core::lock::mutex::Mutex;
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::liar::Trials;
use std::sync::Arc;
use std::time::Instant;

const BYTES: usize = Condvar::BYTES as usize;

/// Of a table and with a mutex that are honest.
struct Honest {
    me: Arc<Member>,
    peer: Arc<Member>,
    mutex: Mutex,
}

fn honest() -> Honest {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let mutex = unsafe { Mutex::create(&mapping, 1024) }.unwrap();
    Honest { me: table.join().unwrap(), peer: table.join().unwrap(), mutex }
}

/// What a condition variable holds in the course of its life.
fn images(honest: &Honest) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let changed = unsafe { Condvar::create(&mapping, 0) }.unwrap();
    let mut images = vec![block.outside().read()];
    let guard = honest.mutex.lock(&honest.me).unwrap();
    drop(changed.wait_until(guard, &[], soon()).unwrap());
    images.push(block.outside().read());
    changed.notify_all();
    images.push(block.outside().read());
    images
}

/// Every call there is, with a deadline where it sleeps; whether it could be attached.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>, honest: &Honest) -> bool {
    let attached = trials.call(seed, "attach", || Condvar::attach(mapping, 0));
    let Some(Ok(changed)) = attached else { return false };
    let watch = honest.me.watch(honest.peer.id());
    for _ in 0..2 {
        let Ok(guard) = honest.mutex.lock(&honest.me) else { panic!("the mutex is honest") };
        let deadline = soon();
        let woken =
            trials.call(seed, "wait_until", || changed.wait_until(guard, &[&watch], deadline));
        let timed_out = matches!(woken, Some(Ok((_, Woke::TimedOut))));
        let early = timed_out && Instant::now() < deadline;
        trials.check(seed, "wait_until", !early, "timed out too early");
        drop(woken);
        trials.call(seed, "notify_one", || changed.notify_one());
        trials.call(seed, "notify_all", || changed.notify_all());
    }
    true
}

fn with_victim(test: impl Fn(Victim<'_>)) {
    let honest = honest();
    let images = images(&honest);
    let values = vec![0, 1, 2, 3, 4, u64::MAX];
    let use_it =
        |trials: &Trials, seed, mapping: &Arc<Mapping>| use_it(trials, seed, mapping, &honest);
    test(Victim { images, values, use_it: &use_it });
}

#[test]
fn a_condvar_of_lies_is_used_or_refused() {
    with_victim(|victim| victim.is_lied_to("condvar, before", 1000, 200));
}

#[test]
fn a_condvar_that_changes_all_the_time_is_used_or_refused() {
    with_victim(|victim| victim.is_lied_to_meanwhile("condvar, meanwhile", 60, 30));
}
