//! Real processes at the latches of one pool: killed and stopped while they have a page or wait for
//! it. Who changes it is alone, what is read is whole, every death in a change is told, and nobody
//! waits for the dead.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/participants_common/mod.rs"]
mod participants_common;

use buffer_pool::latch::{LatchError, Latches, Shape, User};
use participants_common::{Child, WATCHDOG, World, world};
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_testkit::random;
use std::time::{Duration, Instant};

const LATCHES_AT: u64 = (1 << 16) + 4096;
const PROCESSES: u32 = 4;
const SHAPE: Shape = Shape { frames: 2, seats: PROCESSES + 2, threads: 2 };
const TIME: Duration = Duration::from_secs(2);
/// The frame that it is about, and one that nobody else wants.
const FRAME: u32 = 0;
const OTHER: u32 = 1;

/// Words of the board: two that are the page; then repairs, violations, reads, a signal.
const PAGE: std::ops::Range<usize> = 0..2;
const REPAIRED: usize = 2;
const VIOLATED: usize = 3;
const READ: usize = 4;
const READY: usize = 5;

fn latches(world: &World) -> Latches {
    // SAFETY: nobody else has the mapping yet.
    unsafe { Latches::create(&world.mapping, LATCHES_AT, SHAPE) }.unwrap();
    Latches::attach(&world.mapping, LATCHES_AT, SHAPE).unwrap()
}

fn sit(world: &World, latches: &Latches) -> User {
    latches.user(&world.table.join().unwrap(), 0).unwrap()
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + WATCHDOG)
}

fn page(world: &World) -> &[AtomicU32] {
    &world.board.words[PAGE]
}

fn words(world: &World) -> [u32; 2] {
    [0, 1].map(|at| page(world)[at].load(Relaxed))
}

fn is_whole([one, other]: [u32; 2], world: &World) {
    world.board.words[VIOLATED].fetch_add(u32::from(one != other), Relaxed);
}

/// Makes whole what a dead one left, unless somebody else is at it.
fn repair(world: &World, user: &User) {
    if let Some(change) = user.repair(FRAME).unwrap() {
        world.board.words[REPAIRED].fetch_add(1, Relaxed);
        let [one, _] = words(world);
        page(world)[1].store(one, Relaxed);
        drop(change.done().unwrap());
    }
}

/// By looks, or with a share.
fn read(world: &World, user: &User, shares: bool) {
    let read = match shares {
        true => user.share(FRAME, soon()).map(|_share| words(world)),
        false => user.read(FRAME, soon(), || words(world)),
    };
    match read {
        Ok(words) => {
            is_whole(words, world);
            world.board.words[READ].fetch_add(1, Relaxed);
        }
        Err(LatchError::Torn { .. }) => repair(world, user),
        Err(other) => panic!("{other}"),
    }
}

/// At once, or from share-exclusive on; whether it was not torn.
fn change(world: &World, user: &User, upgrades: bool) -> bool {
    let latch = match upgrades {
        true => user.share_exclusive(FRAME, soon()).and_then(|latch| {
            is_whole(words(world), world);
            latch.upgrade(soon()).map_err(|(_, why)| why)
        }),
        false => user.exclusive(FRAME, soon()),
    };
    match latch {
        Ok(latch) => {
            let (change, [one, other]) = (latch.change().unwrap(), words(world));
            is_whole([one, other], world);
            page(world)[0].store(one + 1, Relaxed);
            std::hint::spin_loop();
            is_whole([page(world)[1].swap(one + 1, Relaxed), other], world);
            drop(change.done().unwrap());
            true
        }
        Err(LatchError::Torn { .. }) => {
            repair(world, user);
            false
        }
        Err(other) => panic!("{other}"),
    }
}

fn works(world: &World, user: &User, upgrades: bool) -> bool {
    (0..5).for_each(|round| read(world, user, round == 0));
    change(world, user, upgrades)
}

#[test]
fn killed_ones_are_told_of_and_nobody_waits_for_them() {
    let world = world(SHAPE.seats);
    let latches = latches(&world);
    let mut state = random::seed();
    let mut random = |below: u64| random::next(&mut state) % below;
    let spawn = || {
        Child::fork(|| {
            let user = sit(&world, &latches);
            loop {
                works(&world, &user, true);
                works(&world, &user, false);
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
                latches.clean_up(dead);
            }
        });
        children[at] = spawn();
    }
    drop(children);
    let user = sit(&world, &latches);
    while !change(&world, &user, true) {}
    let [changes, other] = words(&world);
    let (reads, repaired) = (world.word(READ), world.word(REPAIRED));
    println!("{changes} changes, {reads} reads, {kills} killed, {repaired} repaired");
    assert_eq!((world.word(VIOLATED), changes), (0, other));
    assert!(changes > 500 && reads > 500 && kills > 10);
}

/// What a holder has that is killed or stopped.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Has {
    Share,
    ShareExclusive,
    Exclusive,
    Change,
}

/// One that has it, until it is told to give it back.
fn holder(world: &World, latches: &Latches, has: Has) -> Child {
    let child = Child::fork(|| {
        let user = sit(world, latches);
        let (mut share, mut alone, mut exclusive, mut change) = (None, None, None, None);
        match has {
            Has::Share => share = user.share(FRAME, None).ok(),
            Has::ShareExclusive => alone = user.share_exclusive(FRAME, None).ok(),
            Has::Exclusive => exclusive = user.exclusive(FRAME, None).ok(),
            Has::Change => change = user.exclusive(FRAME, None).unwrap().change().ok(),
        }
        world.set(READY, 1);
        world.await_word(READY, |word| word == 2);
        drop((share, alone, exclusive, change.map(|change| change.done())));
        std::thread::sleep(WATCHDOG);
    });
    world.await_word(READY, |word| word == 1);
    child
}

#[test]
fn a_killed_holder_wakes_who_sleeps_for_it() {
    for has in [Has::Share, Has::ShareExclusive, Has::Exclusive, Has::Change] {
        let world = world(SHAPE.seats);
        let latches = latches(&world);
        let mut child = holder(&world, &latches, has);
        let [me, other] = [(); 2].map(|()| sit(&world, &latches));
        let is_torn = has == Has::Change;
        std::thread::scope(|scope| {
            let changes = scope.spawn(|| change(&world, &me, false));
            let reads = scope.spawn(|| read(&world, &other, true));
            std::thread::sleep(Duration::from_millis(50));
            let killed = Instant::now();
            child.kill();
            // It may come after the other one has made it whole.
            assert!(changes.join().unwrap() || is_torn, "{has:?}");
            reads.join().unwrap();
            assert!(killed.elapsed() < WATCHDOG / 2);
        });
        assert_eq!(world.word(REPAIRED), u32::from(is_torn), "{has:?}");
        assert_eq!(world.word(VIOLATED), 0);
    }
}

#[test]
fn a_stopped_holder_holds_up_who_wants_its_latch_until_the_deadline_and_nobody_else() {
    for has in [Has::Share, Has::ShareExclusive, Has::Exclusive, Has::Change] {
        let world = world(SHAPE.seats);
        let latches = latches(&world);
        let child = holder(&world, &latches, has);
        child.signal(libc::SIGSTOP);
        let user = sit(&world, &latches);
        let deadline = Instant::now() + Duration::from_millis(100);
        assert_eq!(user.exclusive(FRAME, Some(deadline)).unwrap_err(), LatchError::TimedOut);
        assert!(Instant::now() >= deadline);
        assert!(user.try_exclusive(FRAME).unwrap().is_none(), "it is not dead");
        let may_share = matches!(has, Has::Share | Has::ShareExclusive);
        assert_eq!(user.try_share(FRAME).unwrap().is_some(), may_share);
        let looks = latches.look(FRAME, || words(&world)).unwrap();
        assert_eq!(looks.is_some(), has != Has::Change);
        drop(user.exclusive(OTHER, soon()).unwrap());
        world.set(READY, 2);
        child.signal(libc::SIGCONT);
        drop(user.exclusive(FRAME, soon()).unwrap());
    }
}

/// Threads of two processes, each with a row of its own: each change counts, and nobody is refused.
#[test]
fn threads_of_several_processes_share_it() {
    const ROUNDS: u32 = 2_000;
    let world = world(SHAPE.seats);
    let latches = latches(&world);
    let work = || {
        let me = world.table.join().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..SHAPE.threads {
                let user = latches.user(&me, thread).unwrap();
                let world = &world;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        assert!(works(world, &user, round % 2 == 0));
                    }
                });
            }
        });
    };
    let mut child = Child::fork(work);
    work();
    assert_eq!(child.wait(), 0);
    assert_eq!((words(&world)[0], world.word(VIOLATED)), (4 * ROUNDS, 0));
}

/// What reads may fork: the child has no share, and may have read half of what came since.
#[test]
fn a_child_that_reads_on_is_told() {
    let world = world(SHAPE.seats);
    let latches = latches(&world);
    let member = world.table.join().unwrap();
    let [reader, writer] = [0, 1].map(|thread| latches.user(&member, thread).unwrap());
    let (mut looks, mut child) = (0, None);
    let told = reader.read(FRAME, None, || {
        looks += 1;
        // A look is in vain where the page is changed meanwhile; what comes then is a share.
        match writer.try_exclusive(FRAME).unwrap() {
            Some(latch) => drop(latch.change().unwrap().done().unwrap()),
            // SAFETY: the child only leaves the closure, and ends.
            None => child = Some(unsafe { libc::fork() }),
        }
    });
    if child == Some(0) {
        let is_told = matches!(told, Err(LatchError::Forked(_)));
        // SAFETY: it ends here.
        unsafe { libc::_exit(i32::from(!is_told)) };
    }
    assert!(told.is_ok() && looks > 1, "{told:?} after {looks} looks");
    let mut status = -1;
    // SAFETY: our child, and a place for its status.
    unsafe { libc::waitpid(child.unwrap(), &raw mut status, 0) };
    assert_eq!(status, 0, "the child was not told");
}
