//! A barrier between real processes: all come phase after phase; a death is told to who waits, at
//! once; one that is stopped is not dead; one that leaves a phase late wakes who waits for it.
#![cfg(not(any(shm_loom, shm_explore)))]
mod participants_common;

use participants_common::{Child, WATCHDOG, World, world};
use shm_core::lock::barrier::{Barrier, BarrierError};
use shm_core::sync::Ordering::Relaxed;
use std::time::{Duration, Instant};

const BARRIER_AT: u64 = (1 << 16) + 4096;
const PARTIES: u32 = 3;
const PHASES: u32 = 300;

fn barrier(world: &World, first: u32) -> Barrier {
    // SAFETY: nobody else has the mapping yet.
    unsafe { Barrier::create(&world.mapping, BARRIER_AT, 4, first) }.unwrap()
}

#[test]
fn all_come_phase_after_phase_and_one_is_elected() {
    let world = world(4);
    let barrier = barrier(&world, PARTIES);
    let words = &world.board.words;
    let (came, elected) = (&words[0], &words[1]);
    let children: Vec<_> = (0..PARTIES)
        .map(|_| {
            Child::fork(|| {
                let me = world.table.join().unwrap();
                let mut party = barrier.join(&me).unwrap();
                for phase in 0..PHASES {
                    came.fetch_add(1, Relaxed);
                    let end = Instant::now() + WATCHDOG;
                    let is_elected = party.arrive_and_wait_until(end).unwrap();
                    elected.fetch_add(u32::from(is_elected), Relaxed);
                    assert!(came.load(Relaxed) >= (phase + 1) * PARTIES);
                }
            })
        })
        .collect();
    for mut child in children {
        assert_eq!(child.wait(), 0);
    }
    assert_eq!((came.load(Relaxed), elected.load(Relaxed)), (PHASES * PARTIES, PHASES));
    assert_eq!(barrier.phase(), PHASES);
}

#[test]
fn a_killed_party_is_told_of_and_a_stopped_one_is_waited_for() {
    let world = world(4);
    let barrier = barrier(&world, 2);
    let me = world.table.join().unwrap();
    let mut party = barrier.join(&me).unwrap();
    let mut child = Child::fork(|| {
        let me = world.table.join().unwrap();
        std::mem::forget(barrier.join(&me).unwrap());
        world.set(2, me.id().to_bits());
        loop {
            std::thread::sleep(WATCHDOG);
        }
    });
    let id = world.await_word(2, |word| word != 0);
    child.signal(libc::SIGSTOP);
    let soon = Instant::now() + Duration::from_millis(50);
    assert_eq!(party.arrive_and_wait_until(soon), Err(BarrierError::TimedOut));
    std::thread::scope(|scope| {
        let end = Instant::now() + WATCHDOG;
        let waits = scope.spawn(move || (party.arrive_and_wait_until(end), party));
        std::thread::sleep(Duration::from_millis(30));
        child.kill();
        let (told, mut party) = waits.join().unwrap();
        let Err(BarrierError::Died { by }) = told else { panic!("{told:?}") };
        assert_eq!(by.to_bits(), id);
        // Alone from now on.
        assert_eq!(party.arrive_and_wait(), Ok(true));
    });
}

/// It has timed out in one phase, the other one has ended that, and waits for it in the next.
#[test]
fn one_that_leaves_a_phase_late_wakes_who_waits() {
    let world = world(2);
    let barrier = barrier(&world, 2);
    let me = world.table.join().unwrap();
    let [mut late, mut other] = [(); 2].map(|()| barrier.join(&me).unwrap());
    assert_eq!(late.arrive_and_wait_until(Instant::now()), Err(BarrierError::TimedOut));
    assert_eq!(other.arrive_and_wait(), Ok(true));
    std::thread::scope(|scope| {
        let end = Instant::now() + WATCHDOG;
        let waits = scope.spawn(move || other.arrive_and_wait_until(end));
        std::thread::sleep(Duration::from_millis(30));
        late.leave().unwrap();
        assert_eq!(waits.join().unwrap(), Ok(true));
    });
    assert_eq!(barrier.phase(), 2);
}
