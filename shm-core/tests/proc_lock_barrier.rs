//! A barrier between real processes: they go from phase to phase together; a killed one is told to
//! the others at once, and they go on; one that is stopped is not dead.
#![cfg(not(any(shm_loom, shm_explore)))]
mod participants_common;

use participants_common::{Child, WATCHDOG, World, world};
use shm_core::lock::barrier::{Barrier, BarrierError};
use shm_core::sync::Ordering::Relaxed;
use std::time::{Duration, Instant};

const BARRIER_AT: u64 = (1 << 16) + 4096;
const PARTIES: usize = 4;
const PHASES: u32 = 500;

fn barrier(world: &World, first: u32) -> Barrier {
    // SAFETY: nobody else has the mapping yet.
    unsafe { Barrier::create(&world.mapping, BARRIER_AT, PARTIES as u32 + 1, first) }.unwrap()
}

/// In each phase each adds one to its own word, and one of them is elected. One more is killed on
/// the way: all are told of it in the same phase.
#[test]
fn they_go_on_together_and_are_told_together() {
    let world = world(PARTIES as u32 + 2);
    let barrier = barrier(&world, PARTIES as u32 + 1);
    let words = &world.board.words;
    let doomed = Child::fork(|| {
        let me = world.table.join().unwrap();
        let mut party = barrier.join(&me).unwrap();
        loop {
            party.arrive_and_wait().unwrap();
            words[40].fetch_add(1, Relaxed);
        }
    });
    let others: Vec<_> = (0..PARTIES)
        .map(|at| {
            let (world, barrier) = (&world, &barrier);
            Child::fork(move || {
                let words = &world.board.words;
                let me = world.table.join().unwrap();
                let mut party = barrier.join(&me).unwrap();
                let end = Instant::now() + WATCHDOG;
                let mut told = 0;
                while words[at].load(Relaxed) < PHASES || told == 0 {
                    words[at].fetch_add(1, Relaxed);
                    match party.arrive_and_wait_until(end) {
                        Ok(true) => _ = words[50].fetch_add(1, Relaxed),
                        Ok(false) => (),
                        Err(BarrierError::Died { .. }) => {
                            told += 1;
                            words[20 + at].store(party.phase(), Relaxed);
                        }
                        Err(other) => panic!("{other}"),
                    }
                    let mine = words[at].load(Relaxed);
                    let theirs = (0..PARTIES).map(|other| words[other].load(Relaxed));
                    assert!(theirs.into_iter().all(|other| other >= mine), "one is behind");
                }
                assert_eq!(told, 1);
                party.arrive_and_leave().unwrap();
            })
        })
        .collect();
    let end = Instant::now() + WATCHDOG;
    while words[40].load(Relaxed) < 50 {
        assert!(Instant::now() < end, "they do not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(doomed);
    for mut other in others {
        assert_eq!(other.wait(), 0, "one failed");
    }
    let told: Vec<_> = (0..PARTIES).map(|at| words[20 + at].load(Relaxed)).collect();
    assert!(told.iter().all(|phase| *phase == told[0]), "told in different phases: {told:?}");
    assert!(barrier.parties().is_empty());
}

#[test]
fn a_stopped_one_is_waited_for() {
    let world = world(3);
    let barrier = barrier(&world, 2);
    let (mut child, id) = world.member_child(40);
    let me = world.table.join().unwrap();
    let mut party = barrier.join(&me).unwrap();
    let mut other = Child::fork(|| {
        let me = world.table.join().unwrap();
        let _party = barrier.join(&me).unwrap();
        world.board.words[41].store(1, Relaxed);
        loop {
            std::thread::sleep(WATCHDOG);
        }
    });
    let end = Instant::now() + WATCHDOG;
    while world.board.words[41].load(Relaxed) == 0 {
        assert!(Instant::now() < end, "it does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
    other.signal(libc::SIGSTOP);
    let soon = Instant::now() + Duration::from_millis(50);
    assert_eq!(party.arrive_and_wait_until(soon), Err(BarrierError::TimedOut));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| party.arrive_and_wait_until(end));
        std::thread::sleep(Duration::from_millis(30));
        other.kill();
        assert!(matches!(waits.join().unwrap(), Err(BarrierError::Died { by }) if by != id));
    });
    assert_eq!(party.arrive_and_wait(), Ok(true));
    child.kill();
}
