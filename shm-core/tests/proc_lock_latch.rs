//! A latch between real processes: a setting wakes who sleeps, at once; so does a peer's death; one
//! that is stopped is not dead.
#![cfg(not(any(shm_loom, shm_explore)))]
mod participants_common;

use participants_common::{Child, WATCHDOG, World, world};
use shm_core::lock::latch::{Latch, WaitError};
use shm_core::sync::Ordering::Relaxed;
use std::time::{Duration, Instant};

const LATCH_AT: u64 = (1 << 16) + 4096;
const SETTERS: usize = 3;
const ROUNDS: u32 = 2_000;

fn latch(world: &World) -> Latch {
    // SAFETY: nobody else has the mapping yet.
    unsafe { Latch::create(&world.mapping, LATCH_AT) }.unwrap()
}

/// Each leaves things to do and sets the latch; nothing is overlooked, though one is killed.
#[test]
fn nothing_that_was_left_is_overlooked() {
    let world = world(4);
    let latch = latch(&world);
    let words = &world.board.words;
    let setters: Vec<_> = (0..SETTERS)
        .map(|at| {
            Child::fork(|| {
                for _ in 0..ROUNDS {
                    words[at].fetch_add(1, Relaxed);
                    latch.set();
                }
                loop {
                    std::thread::sleep(WATCHDOG);
                }
            })
        })
        .collect();
    // One who sets all the time, and is killed of it.
    let sets = || -> () {
        loop {
            latch.set();
        }
    };
    let mut doomed = Some(Child::fork(sets));
    let me = world.table.join().unwrap();
    let end = Instant::now() + WATCHDOG;
    let mut seen = 0;
    while seen < SETTERS as u32 * ROUNDS {
        latch.wait(&me, &[], Some(end)).expect("there is more to do");
        assert!(latch.reset());
        seen = (0..SETTERS).map(|at| words[at].load(Relaxed)).sum();
        if seen > ROUNDS {
            // Killed, the first time.
            drop(doomed.take());
        }
    }
    drop(setters);
}

#[test]
fn a_killed_peer_wakes_who_sleeps_and_a_stopped_one_does_not() {
    let world = world(4);
    let latch = latch(&world);
    let me = world.table.join().unwrap();
    let (mut child, id) = world.member_child(40);
    let watch = me.watch(id);
    child.signal(libc::SIGSTOP);
    let deadline = Instant::now() + Duration::from_millis(50);
    assert_eq!(latch.wait(&me, &[&watch], Some(deadline)), Err(WaitError::TimedOut));
    let end = Some(Instant::now() + WATCHDOG);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| latch.wait(&me, &[&watch], end));
        std::thread::sleep(Duration::from_millis(30));
        child.kill();
        assert_eq!(sleeper.join().unwrap(), Err(WaitError::Died { by: id }));
    });
    // What it set before it died counts.
    latch.set();
    assert_eq!(latch.wait(&me, &[&watch], None), Ok(()));
}
