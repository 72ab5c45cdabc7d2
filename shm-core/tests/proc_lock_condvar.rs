//! A condition variable between real processes: things are made and taken while takers are killed,
//! also with the mutex, and none waits for ever.
#![cfg(not(any(shm_loom, shm_explore)))]
mod participants_common;

use participants_common::{Child, WATCHDOG, World, world};
use shm_core::lock::condvar::{Condvar, Woke};
use shm_core::lock::mutex::{LockError, Mutex, MutexGuard};
use shm_core::participants::Member;
use shm_core::sync::Ordering::Relaxed;
use std::time::{Duration, Instant};

const MUTEX_AT: u64 = (1 << 16) + 4096;
const TAKERS: u32 = 3;
const TIME: Duration = Duration::from_millis(1500);

/// Words of the board: things there are, made, taken; a lower and an upper count of the taken.
const THINGS: usize = 0;
const MADE: usize = 1;
const TAKEN: usize = 2;

struct Shared {
    mutex: Mutex,
    changed: Condvar,
}

fn shared(world: &World) -> Shared {
    // SAFETY: nobody else has the mapping yet.
    let mutex = unsafe { Mutex::create(&world.mapping, MUTEX_AT) }.unwrap();
    // SAFETY: as above, and the mutex ends before.
    let changed = unsafe { Condvar::create(&world.mapping, MUTEX_AT + Mutex::BYTES) }.unwrap();
    Shared { mutex, changed }
}

/// Who died inside had perhaps taken one, and not said so: the words are made to agree.
fn repaired<'a>(world: &World, taken: Result<MutexGuard<'a>, LockError<'a>>) -> MutexGuard<'a> {
    match taken {
        Ok(guard) => guard,
        Err(LockError::Abandoned(abandoned)) => {
            let words = &world.board.words;
            let left = words[MADE].load(Relaxed) - words[THINGS].load(Relaxed);
            words[TAKEN].store(left, Relaxed);
            abandoned.recover()
        }
        Err(other) => panic!("{other}"),
    }
}

fn take(world: &World, shared: &Shared, me: &Member) {
    let words = &world.board.words;
    let mut guard = repaired(world, shared.mutex.lock(me));
    while words[THINGS].load(Relaxed) == 0 {
        let woken = shared.changed.wait(guard, &[]).map(|(guard, _)| guard);
        guard = repaired(world, woken);
    }
    words[THINGS].fetch_sub(1, Relaxed);
    words[TAKEN].fetch_add(1, Relaxed);
    drop(guard);
}

#[test]
fn things_are_taken_though_takers_are_killed() {
    let world = world(TAKERS + 2);
    let shared = shared(&world);
    let spawn = || {
        Child::fork(|| {
            let me = world.table.join().unwrap();
            loop {
                take(&world, &shared, &me);
            }
        })
    };
    let mut takers: Vec<_> = (0..TAKERS).map(|_| spawn()).collect();
    let me = world.table.join().unwrap();
    let words = &world.board.words;
    let (end, mut kills, mut made) = (Instant::now() + TIME, 0, 0);
    while Instant::now() < end {
        for _ in 0..100 {
            let guard = repaired(&world, shared.mutex.lock(&me));
            words[MADE].fetch_add(1, Relaxed);
            words[THINGS].fetch_add(1, Relaxed);
            drop(guard);
            shared.changed.notify_one();
            made += 1;
        }
        let at = kills % TAKERS as usize;
        takers[at].kill();
        kills += 1;
        world.table.reap(|_| ());
        takers[at] = spawn();
    }
    // Those who live take all that is left.
    let limit = Instant::now() + WATCHDOG;
    loop {
        let guard = repaired(&world, shared.mutex.lock(&me));
        let left = words[THINGS].load(Relaxed);
        drop(guard);
        if left == 0 {
            break;
        }
        assert!(Instant::now() < limit, "{left} things are left, and nobody takes them");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(takers);
    let guard = repaired(&world, shared.mutex.lock(&me));
    println!("{made} made, {kills} killed");
    assert_eq!((words[MADE].load(Relaxed), words[TAKEN].load(Relaxed)), (made, made));
    drop(guard);
    assert!(kills > 5);
}

#[test]
fn a_killed_peer_wakes_who_waits() {
    let world = world(4);
    let shared = shared(&world);
    let me = world.table.join().unwrap();
    let (mut child, id) = world.member_child(40);
    let watch = me.watch(id);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let guard = shared.mutex.lock(&me).unwrap();
            let end = Instant::now() + WATCHDOG;
            shared.changed.wait_until(guard, &[&watch], end).map(|(_, woke)| woke).unwrap()
        });
        std::thread::sleep(Duration::from_millis(30));
        child.kill();
        assert_eq!(waiter.join().unwrap(), Woke::Died { by: id });
    });
}
