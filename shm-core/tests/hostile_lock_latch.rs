//! A latch that lies, before it is attached and while it is used: each call ends, sleepers obey
//! their deadline, and nothing but its bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{Victim, guarded, soon, with_members};
use shm_core::lock::latch::{Latch, WaitError};
use shm_core::mapping::Mapping;
use shm_core::participants::Member;
use shm_testkit::liar::Trials;
use std::sync::Arc;
use std::time::Instant;

const BYTES: usize = Latch::BYTES as usize;

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

fn with_victim(test: impl Fn(Victim<'_>)) {
    with_members(
        |members| images(&members[0]),
        |_| vec![0, 1, 2, 3, 4, u64::MAX, 1 << 32],
        use_it,
        test,
    );
}

#[test]
fn a_latch_of_lies_is_used_or_refused() {
    with_victim(|victim| victim.is_lied_to("latch, before", 1000, 200));
}

#[test]
fn a_latch_that_changes_all_the_time_is_used_or_refused() {
    with_victim(|victim| victim.is_lied_to_meanwhile("latch, meanwhile", 60, 30));
}
