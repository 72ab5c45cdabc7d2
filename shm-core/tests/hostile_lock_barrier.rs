//! A barrier that lies, before it is attached and while it is used: each call ends, sleepers obey
//! their deadline, and nothing but its bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{Victim, guarded, soon, with_members};
use shm_core::lock::barrier::{Barrier, BarrierError};
use shm_core::mapping::Mapping;
use shm_core::participants::Member;
use shm_testkit::liar::Trials;
use std::sync::Arc;
use std::time::Instant;

const PARTIES: u32 = 3;
const BYTES: usize = Barrier::bytes_for(PARTIES) as usize;

/// What a barrier holds in the course of its life.
fn images([me, peer]: &[Arc<Member>; 2]) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let barrier = unsafe { Barrier::create(&mapping, 0, PARTIES, 2) }.unwrap();
    let mut images = vec![block.outside().read()];
    let mut mine = barrier.join(me).unwrap();
    images.push(block.outside().read());
    assert_eq!(mine.arrive_and_wait_until(soon()), Err(BarrierError::TimedOut));
    let theirs = barrier.join(peer).unwrap();
    images.push(block.outside().read());
    assert_eq!(theirs.arrive_and_leave(), Ok(false));
    assert_eq!(mine.arrive_and_wait(), Ok(true));
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
    let attached = trials.call(seed, "attach", || Barrier::attach(mapping, 0));
    let Some(Ok(barrier)) = attached else { return false };
    trials.call(seed, "phase", || barrier.phase());
    trials.call(seed, "parties", || barrier.parties());
    for member in [me, peer] {
        let Some(Ok(mut party)) = trials.call(seed, "join", || barrier.join(member)) else {
            continue;
        };
        let deadline = soon();
        let waited = trials.call(seed, "wait", || party.arrive_and_wait_until(deadline));
        let early = waited == Some(Err(BarrierError::TimedOut)) && Instant::now() < deadline;
        trials.check(seed, "wait", !early, "timed out too early");
        match seed % 3 {
            0 => _ = trials.call(seed, "leave", || party.leave()),
            1 => _ = trials.call(seed, "arrive and leave", || party.arrive_and_leave()),
            _ => _ = trials.call(seed, "drop", || drop(party)),
        }
    }
    trials.call(seed, "clean up", || barrier.clean_up(peer.id()));
    true
}

fn with_victim(test: impl Fn(Victim<'_>)) {
    with_members(images, |_| vec![0, 1, 2, 3, 1 << 32, 2 << 32, u64::MAX], use_it, test);
}

#[test]
fn a_barrier_of_lies_is_used_or_refused() {
    with_victim(|victim| victim.is_lied_to("barrier, before", 500, 100));
}

#[test]
fn a_barrier_that_changes_all_the_time_is_used_or_refused() {
    with_victim(|victim| victim.is_lied_to_meanwhile("barrier, meanwhile", 40, 20));
}
