//! Real processes at one reader-writer lock: killed and stopped while they have it or wait for it.
//! A writer is alone, every death of a writer is told, and nobody waits for the dead.
#![cfg(not(any(shm_loom, shm_explore)))]
mod participants_common;

use participants_common::{Child, WATCHDOG, World, world};
use shm_core::lock::rwlock::{LockError, RwLock};
use shm_core::participants::{Member, ParticipantId};
use shm_core::sync::Ordering::Relaxed;
use std::time::{Duration, Instant};

const LOCK_AT: u64 = (1 << 16) + 4096;
const PROCESSES: u32 = 4;
const SEATS: u32 = PROCESSES + 2;
const TIME: Duration = Duration::from_secs(2);

/// Words of the board: changes, twice; repairs; violations; reads.
const ONE: usize = 0;
const OTHER: usize = 1;
const REPAIRED: usize = 2;
const VIOLATED: usize = 3;
const READ: usize = 4;
const READY: usize = 5;

fn lock(world: &World) -> RwLock {
    // SAFETY: nobody else has the mapping yet.
    unsafe { RwLock::create(&world.mapping, LOCK_AT, SEATS) }.unwrap()
}

/// Makes whole what a dead one left, unless somebody else is at it.
fn repair(world: &World, lock: &RwLock, me: &Member) {
    if let Some(recovery) = lock.recover(me).unwrap() {
        world.board.words[REPAIRED].fetch_add(1, Relaxed);
        world.board.words[OTHER].store(world.board.words[ONE].load(Relaxed), Relaxed);
        drop(recovery.done());
    }
}

fn look(world: &World, lock: &RwLock, me: &Member) {
    let words = &world.board.words;
    match lock.read(me) {
        Ok(_share) => {
            let (one, other) = (words[ONE].load(Relaxed), words[OTHER].load(Relaxed));
            if one != other || words[ONE].load(Relaxed) != one {
                words[VIOLATED].fetch_add(1, Relaxed);
            }
            words[READ].fetch_add(1, Relaxed);
        }
        Err(LockError::Abandoned { .. }) => repair(world, lock, me),
        Err(other) => panic!("{other}"),
    }
}

fn change(world: &World, lock: &RwLock, me: &Member) -> bool {
    let words = &world.board.words;
    match lock.write(me) {
        Ok(_right) => {
            let one = words[ONE].load(Relaxed);
            if words[OTHER].load(Relaxed) != one {
                words[VIOLATED].fetch_add(1, Relaxed);
            }
            words[ONE].store(one + 1, Relaxed);
            std::hint::spin_loop();
            if words[OTHER].swap(one + 1, Relaxed) != one {
                words[VIOLATED].fetch_add(1, Relaxed);
            }
            true
        }
        Err(LockError::Abandoned { .. }) => {
            repair(world, lock, me);
            false
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn killed_ones_are_told_of_and_nobody_waits_for_them() {
    let world = world(SEATS);
    let lock = lock(&world);
    let mut seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let spawn = || {
        Child::fork(|| {
            let me = world.table.join().unwrap();
            loop {
                (0..5).for_each(|_| look(&world, &lock, &me));
                change(&world, &lock, &me);
            }
        })
    };
    let mut children: Vec<_> = (0..PROCESSES).map(|_| spawn()).collect();
    let (end, mut kills) = (Instant::now() + TIME, 0);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(500 + random(4000)));
        let at = random(children.len() as u64) as usize;
        if random(3) == 0 {
            children[at].signal(libc::SIGSTOP);
            std::thread::sleep(Duration::from_micros(random(1000)));
        }
        children[at].kill();
        kills += 1;
        world.table.reap(|dead| {
            if random(2) == 0 {
                lock.clean_up(dead)
            }
        });
        children[at] = spawn();
    }
    drop(children);
    let me = world.table.join().unwrap();
    while !change(&world, &lock, &me) {}
    let [changes, other] = [ONE, OTHER].map(|at| world.word(at));
    let (reads, repaired) = (world.word(READ), world.word(REPAIRED));
    println!("{changes} changes, {reads} reads, {kills} killed, {repaired} repaired");
    assert_eq!((world.word(VIOLATED), changes), (0, other));
    assert!(changes > 500 && reads > 500 && kills > 10);
}

/// Of the two who sleep one writes and one reads.
#[test]
fn a_killed_holder_wakes_who_sleeps_for_it() {
    for writing in [false, true] {
        let world = world(SEATS);
        let lock = lock(&world);
        let mut child = Child::fork(|| {
            let me = world.table.join().unwrap();
            let guards = match writing {
                true => (None, Some(lock.write(&me).unwrap())),
                false => (Some(lock.read(&me).unwrap()), None),
            };
            world.set(READY, 1);
            std::thread::sleep(WATCHDOG);
            drop(guards);
        });
        world.await_word(READY, |word| word == 1);
        let [me, other] = [world.table.join().unwrap(), world.table.join().unwrap()];
        std::thread::scope(|scope| {
            let writes = scope.spawn(|| {
                loop {
                    match lock.write_until(&me, Instant::now() + WATCHDOG) {
                        Ok(_) => return,
                        Err(LockError::Abandoned { .. }) => repair(&world, &lock, &me),
                        Err(other) => panic!("{other}"),
                    }
                }
            });
            let reads = scope.spawn(|| {
                loop {
                    std::thread::sleep(Duration::from_millis(10));
                    match lock.read_until(&other, Instant::now() + WATCHDOG) {
                        Ok(_) => return,
                        Err(LockError::Abandoned { .. }) => repair(&world, &lock, &other),
                        Err(other) => panic!("{other}"),
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(50));
            child.kill();
            writes.join().unwrap();
            reads.join().unwrap();
        });
        assert_eq!(world.word(REPAIRED), u32::from(writing));
    }
}

#[test]
fn a_stopped_holder_holds_up_who_waits_until_the_deadline_and_no_longer() {
    let world = world(SEATS);
    let lock = lock(&world);
    let child = Child::fork(|| {
        let me = world.table.join().unwrap();
        let share = lock.read(&me).unwrap();
        world.set(READY, 1);
        world.await_word(READY, |word| word == 2);
        drop(share);
        std::thread::sleep(WATCHDOG);
    });
    world.await_word(READY, |word| word == 1);
    child.signal(libc::SIGSTOP);
    let me = world.table.join().unwrap();
    let deadline = Instant::now() + Duration::from_millis(100);
    assert!(matches!(lock.write_until(&me, deadline), Err(LockError::TimedOut)));
    assert!(Instant::now() >= deadline);
    assert!(lock.try_write(&me).unwrap().is_none(), "it is not dead");
    drop(lock.read_until(&me, Instant::now() + WATCHDOG).unwrap());
    world.set(READY, 2);
    child.signal(libc::SIGCONT);
    drop(lock.write_until(&me, Instant::now() + WATCHDOG).unwrap());
}

/// Who tries believes life words, but not for ever.
#[test]
fn who_tries_learns_of_a_death_whose_mark_is_missing() {
    for writing in [false, true] {
        let world = world(SEATS);
        let lock = lock(&world);
        let mut child = Child::fork(|| {
            let me = world.table.join().unwrap();
            match writing {
                true => std::mem::forget(lock.write(&me).unwrap()),
                false => std::mem::forget(lock.read(&me).unwrap()),
            }
            world.set(READY, me.id().to_bits());
            std::thread::sleep(WATCHDOG);
        });
        let holder = world.await_word(READY, |word| word != 0);
        let life = world.life(ParticipantId::from_bits(holder).unwrap());
        let (me, alive) = (world.table.join().unwrap(), life.load(Relaxed));
        let found = |result: Result<bool, LockError>| match (writing, result) {
            (false, Ok(is_ours)) => is_ours,
            (true, Err(LockError::Abandoned { by })) => by.to_bits() == holder,
            (_, other) => other.unwrap(),
        };
        assert!(!found(lock.try_write(&me).map(|right| right.is_some())));
        child.kill();
        life.store(alive, Relaxed);
        let end = Instant::now() + WATCHDOG;
        while !found(lock.try_write(&me).map(|right| right.is_some())) {
            assert!(Instant::now() < end, "a dead one is taken for a slow one");
        }
        if writing {
            assert!(matches!(lock.try_read(&me), Err(LockError::Abandoned { .. })));
        }
    }
}

/// Threads of two processes: each change counts, and nobody is refused.
#[test]
fn threads_of_several_processes_share_it() {
    const ROUNDS: u32 = 5_000;
    let world = world(SEATS);
    let lock = lock(&world);
    let work = || {
        let me = world.table.join().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        look(&world, &lock, &me);
                        assert!(change(&world, &lock, &me));
                    }
                });
            }
        });
    };
    let mut child = Child::fork(work);
    work();
    assert_eq!(child.wait(), 0);
    assert_eq!((world.word(ONE), world.word(VIOLATED)), (4 * ROUNDS, 0));
}
