//! Real processes at one mutex: killed and stopped while they have it or wait for it. One at a time
//! is inside, every death inside is told to exactly one, and nobody waits for the dead.
#![cfg(not(any(shm_loom, shm_explore)))]
mod participants_common;

use participants_common::{Child, WATCHDOG, World, world};
use shm_core::lock::mutex::{LockError, Mutex};
use shm_core::participants::Member;
use shm_core::sync::Ordering::Relaxed;
use std::time::{Duration, Instant};

const MUTEX_AT: u64 = (1 << 16) + 4096;
const PROCESSES: u32 = 4;
const TIME: Duration = Duration::from_secs(2);

/// Words of the board: who is inside; changes, twice; how many were told of a death; violations.
const INSIDE: usize = 0;
const ONE: usize = 1;
const OTHER: usize = 2;
const TOLD: usize = 3;
const VIOLATED: usize = 4;
const READY: usize = 5;

fn mutex(world: &World) -> Mutex {
    // SAFETY: nobody else has the mapping yet.
    unsafe { Mutex::create(&world.mapping, MUTEX_AT) }.unwrap()
}

/// Takes it once, repairs where told so, and changes both words.
fn change(world: &World, mutex: &Mutex, me: &Member, process: u32) {
    let words = &world.board.words;
    let guard = match mutex.lock(me) {
        Ok(guard) => guard,
        Err(LockError::Abandoned(abandoned)) => {
            words[TOLD].fetch_add(1, Relaxed);
            words[INSIDE].store(0, Relaxed);
            words[OTHER].store(words[ONE].load(Relaxed), Relaxed);
            abandoned.recover()
        }
        Err(other) => panic!("{other}"),
    };
    let alone = words[INSIDE].swap(process, Relaxed) == 0;
    let whole = words[ONE].load(Relaxed) == words[OTHER].load(Relaxed);
    if !alone || !whole {
        words[VIOLATED].fetch_add(1, Relaxed);
    }
    words[ONE].fetch_add(1, Relaxed);
    words[OTHER].fetch_add(1, Relaxed);
    words[INSIDE].store(0, Relaxed);
    drop(guard);
}

#[test]
fn killed_ones_are_told_of_and_nobody_waits_for_them() {
    let world = world(PROCESSES + 2);
    let mutex = mutex(&world);
    let mut seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let spawn = |process: u32| {
        Child::fork(|| {
            let me = world.table.join().unwrap();
            loop {
                change(&world, &mutex, &me, process);
            }
        })
    };
    let mut children: Vec<_> = (1..=PROCESSES).map(spawn).collect();
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
                mutex.clean_up(dead)
            }
        });
        children[at] = spawn(PROCESSES + kills);
    }
    drop(children);
    let me = world.table.join().unwrap();
    change(&world, &mutex, &me, u32::MAX);
    let [changes, other] = [ONE, OTHER].map(|at| world.word(at));
    println!("{changes} changes, {kills} killed, {} told", world.word(TOLD));
    assert_eq!(world.word(VIOLATED), 0);
    assert_eq!(changes, other);
    assert!(changes > 1000 && kills > 10);
}

#[test]
fn a_killed_holder_wakes_who_sleeps_for_it() {
    let world = world(4);
    let mutex = mutex(&world);
    let mut child = Child::fork(|| {
        let me = world.table.join().unwrap();
        let _guard = mutex.lock(&me).unwrap();
        world.set(READY, 1);
        std::thread::sleep(WATCHDOG);
    });
    world.await_word(READY, |word| word == 1);
    let me = world.table.join().unwrap();
    std::thread::scope(|scope| {
        // Both sleep; one takes over, the other gets it from that one.
        let sleepers = [(); 2].map(|()| {
            scope.spawn(|| {
                let taken = mutex.lock_until(&me, Instant::now() + WATCHDOG);
                match taken {
                    Ok(_) => 0,
                    Err(LockError::Abandoned(abandoned)) => {
                        drop(abandoned.recover());
                        1
                    }
                    Err(other) => panic!("{other}"),
                }
            })
        });
        std::thread::sleep(Duration::from_millis(50));
        child.kill();
        let told: i32 = sleepers.into_iter().map(|sleeper| sleeper.join().unwrap()).sum();
        assert_eq!(told, 1, "one is told, and once");
    });
}

#[test]
fn a_stopped_holder_holds_up_who_waits_until_the_deadline_and_no_longer() {
    let world = world(4);
    let mutex = mutex(&world);
    let child = Child::fork(|| {
        let me = world.table.join().unwrap();
        let guard = mutex.lock(&me).unwrap();
        world.set(READY, 1);
        world.await_word(READY, |word| word == 2);
        drop(guard);
        std::thread::sleep(WATCHDOG);
    });
    world.await_word(READY, |word| word == 1);
    child.signal(libc::SIGSTOP);
    let me = world.table.join().unwrap();
    let deadline = Instant::now() + Duration::from_millis(100);
    assert!(matches!(mutex.lock_until(&me, deadline), Err(LockError::TimedOut)));
    assert!(Instant::now() >= deadline);
    assert!(mutex.try_lock(&me).unwrap().is_none(), "it is not dead");
    world.set(READY, 2);
    child.signal(libc::SIGCONT);
    drop(mutex.lock_until(&me, Instant::now() + WATCHDOG).unwrap());
}

/// Threads of two processes: each change counts, and nobody is refused.
#[test]
fn threads_of_several_processes_take_turns() {
    const ROUNDS: u32 = 20_000;
    let world = world(4);
    let mutex = mutex(&world);
    let work = |process: u32| {
        let me = world.table.join().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..ROUNDS).for_each(|_| change(&world, &mutex, &me, process)));
            }
        });
    };
    let mut child = Child::fork(|| work(1));
    work(2);
    assert_eq!(child.wait(), 0);
    assert_eq!((world.word(ONE), world.word(VIOLATED)), (4 * ROUNDS, 0));
}
