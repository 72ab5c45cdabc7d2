//! The reader-writer lock under the explorer: a writer is alone, a death in its midst is told to
//! the next one, nobody who sleeps is forgotten, whichever of several readers and writers die, and
//! wherever.
#![cfg(shm_explore)]
use shm_core::ShmSync;
use shm_core::lock::rwlock::{LockError, ReadGuard, RwLock, WriteGuard};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::sync::Arc;
use std::time::Instant;

/// What the lock guards. All zero at first.
#[repr(C)]
struct Board {
    /// Who writes.
    inside: AtomicU32,
    spare: AtomicU32,
}
// SAFETY: atomics only.
unsafe impl ShmSync for Board {}

struct World {
    lock: RwLock,
    board: Mapped<Board>,
    /// Those of processes 1, 2, … and of the check.
    members: Vec<Arc<Member>>,
}

/// Seats for so many processes, and for the check that comes last.
fn world(processes: u32) -> World {
    let seats = processes + 1;
    let lock_at = Table::bytes_for(seats).next_multiple_of(128);
    let board_at = lock_at + RwLock::bytes_for(seats);
    let mapping = Mapping::heap(board_at as usize + size_of::<Board>());
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let lock = unsafe { RwLock::create(&mapping, lock_at, seats) }.unwrap();
    let members = (1..=seats).map(|pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    });
    let members = members.collect();
    kernel::become_process(kernel::BUILDER);
    World { lock, board: Mapped::new(&mapping, board_at).unwrap(), members }
}

impl World {
    fn member(&self, me: &Me) -> &Member {
        &self.members[me.pid() as usize - 1]
    }

    /// Whoever was inside is not any more.
    fn repair(&self, me: &Member) {
        if let Some(recovery) = self.lock.recover(me).unwrap() {
            self.board.inside.store(0, Relaxed);
            drop(recovery.done());
        }
    }

    fn read<'a>(&'a self, me: &'a Member) -> ReadGuard<'a> {
        loop {
            match self.lock.read(me) {
                Ok(share) => return share,
                Err(LockError::Abandoned { .. }) => self.repair(me),
                Err(other) => panic!("{other}"),
            }
        }
    }

    fn write<'a>(&'a self, me: &'a Member) -> WriteGuard<'a> {
        loop {
            match self.lock.write(me) {
                Ok(right) => return right,
                Err(LockError::Abandoned { .. }) => self.repair(me),
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Writes for a moment.
    fn is_alone(&self, pid: u32) {
        assert_eq!(self.board.inside.swap(pid, Relaxed), 0, "two write, or nobody was told");
        assert_eq!(self.board.inside.swap(0, Relaxed), pid, "two write");
    }

    /// Reads for a moment.
    fn is_still(&self) {
        assert_eq!(self.board.inside.load(Relaxed), 0, "one writes beside a reader");
        assert_eq!(self.board.inside.load(Relaxed), 0, "one writes beside a reader");
    }

    /// Whoever comes last gets it.
    fn can_be_had(&self, processes: u32) {
        let me = &self.members[processes as usize];
        drop(self.write(me));
        drop(self.read(me));
        self.is_still();
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    // Most cases have more. Deep runs, which have no end, go twenty times as far.
    Scenario::new("rwlock", name).states_at_most(if is_deep() { 120_000 } else { 60_000 })
}

fn reads(world: &World) -> Process<'_> {
    Process::new("reads", |me| {
        let share = world.read(world.member(me));
        world.is_still();
        drop(share);
        me.say(1);
    })
}

fn writes(world: &World) -> Process<'_> {
    Process::new("writes", |me| {
        let right = world.write(world.member(me));
        world.is_alone(me.pid());
        drop(right);
        me.say(1);
    })
}

#[derive(Clone, Copy, Debug)]
enum Impatient {
    LooksOnce,
    WaitsToRead,
    WaitsToWrite,
}

const IMPATIENT: [Impatient; 3] =
    [Impatient::LooksOnce, Impatient::WaitsToRead, Impatient::WaitsToWrite];

/// Looks once, both ways, or waits for some time.
fn tries(world: &World, how: Impatient) -> Process<'_> {
    Process::new("tries", move |me| {
        let member = world.member(me);
        let share = match how {
            Impatient::LooksOnce => world.lock.try_read(member),
            Impatient::WaitsToRead => world.lock.read_until(member, Instant::now()).map(Some),
            Impatient::WaitsToWrite => Ok(None),
        };
        match share {
            Ok(Some(share)) => {
                world.is_still();
                drop(share);
            }
            Ok(None) | Err(LockError::TimedOut | LockError::Abandoned { .. }) => (),
            Err(other) => panic!("{other}"),
        }
        let right = match how {
            Impatient::LooksOnce => world.lock.try_write(member),
            Impatient::WaitsToRead => Ok(None),
            Impatient::WaitsToWrite => world.lock.write_until(member, Instant::now()).map(Some),
        };
        match right {
            Ok(Some(right)) => {
                world.is_alone(me.pid());
                drop(right);
            }
            Ok(None) | Err(LockError::TimedOut | LockError::Abandoned { .. }) => (),
            Err(other) => panic!("{other}"),
        }
    })
}

fn users_die(readers: u32, writers: u32, deaths: u32, preemptions: u32, lingers: bool) {
    let processes = readers + writers;
    let world = world(processes);
    let name = format!("{readers} read, {writers} write, {deaths} deaths, lingering {lingers}");
    let mut scenario = scenario(&name).deaths(deaths).preemptions_at_most(preemptions);
    if lingers {
        scenario = scenario.lingering();
    }
    for _ in 0..readers {
        scenario = scenario.process(reads(&world).mortal());
    }
    for _ in 0..writers {
        scenario = scenario.process(writes(&world).mortal());
    }
    let done = |end: &End<'_>| {
        let alive = (0..processes as usize).filter(|at| !end.is_dead(*at));
        assert!(alive.map(|at| end.said(at)).all(|said| said == [1]), "one did not get it");
        world.can_be_had(processes);
    };
    scenario.check(done).explore();
}

#[test]
fn a_reader_and_a_writer_may_die_anywhere() {
    users_die(1, 1, 1, 3, true);
    users_die(1, 1, 2, 3, false);
}

#[test]
fn two_writers_may_die_anywhere() {
    users_die(0, 2, 1, 3, true);
    users_die(0, 2, 2, 3, false);
}

#[test]
fn three_may_die_anywhere() {
    users_die(2, 1, 1, 1, false);
    users_die(1, 2, 1, 1, false);
}

/// One tries, or waits for some time; nobody's haste hurts the others.
#[test]
fn one_that_times_out_takes_no_wake_up_along() {
    for how in IMPATIENT {
        let world = world(3);
        let scenario = scenario(&format!("one is impatient, {how:?}")).deaths(1);
        let scenario = scenario.process(tries(&world, how).mortal());
        let scenario = scenario.process(writes(&world)).process(reads(&world).mortal());
        let done = |_: &End<'_>| world.can_be_had(3);
        scenario.preemptions_at_most(1).check(done).explore();
    }
}

/// One stands still with a share, or with the right, for ever: who waits with a deadline comes
/// back, and so does who tries.
#[test]
fn one_that_stands_still_holds_up_only_who_waits_for_it() {
    for writing in [false, true] {
        let world = world(3);
        let stands = Process::new("stands still", |me| {
            let member = world.member(me);
            if writing {
                let _right = world.write(member);
                me.stay();
            } else {
                let _share = world.read(member);
                me.stay();
            }
        });
        let scenario = scenario(&format!("one stands still, writing {writing}")).deaths(1);
        let scenario = scenario.process(stands).process(tries(&world, IMPATIENT[2]).mortal());
        let other = IMPATIENT[usize::from(writing)];
        scenario.process(tries(&world, other)).preemptions_at_most(2).explore();
    }
}

/// Somebody cleans up after the dead, while others take over by themselves.
#[test]
fn cleaning_up_is_harmless_at_any_time() {
    let world = world(3);
    let cleaner = Process::new("cleans up", |me| {
        world.member(me).table().reap(|dead| world.lock.clean_up(dead));
    })
    .never_waits();
    let scenario = scenario("cleaning up").deaths(1).preemptions_at_most(2);
    let scenario = scenario.process(reads(&world).mortal()).process(writes(&world));
    scenario.process(cleaner).check(|_| world.can_be_had(3)).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world(2);
    let lies = if is_deep() { 3 } else { 2 };
    let waits = Process::new("waits", |me| {
        let member = world.member(me);
        drop(world.lock.read_until(member, Instant::now()));
        drop(world.lock.write_until(member, Instant::now()));
        if let Ok(Some(recovery)) = world.lock.recover(member) {
            drop(recovery.done());
        }
    });
    let tries = Process::new("tries", |me| {
        let member = world.member(me);
        drop(world.lock.try_write(member));
        drop(world.lock.try_read(member));
        world.lock.clean_up(world.members[0].id());
    });
    let scenario = scenario(&format!("{lies} lies")).lies(lies).preemptions_at_most(2);
    scenario.process(waits).process(tries.never_waits()).explore();
}

/// Planted bug: the writer looks for readers before it has claimed.
#[test]
fn finds_a_look_before_the_claim() {
    let world = world(2);
    let board = &world.board;
    let writes = Process::new("writes", |_| {
        if board.spare.load(Relaxed) == 0 && board.inside.swap(1, Relaxed) == 0 {
            assert_eq!(board.spare.load(Relaxed), 0, "one reads beside a writer");
            board.inside.store(0, Relaxed);
        }
    });
    let reads = Process::new("reads", |_| {
        board.spare.store(1, Relaxed);
        let entered = board.inside.load(Relaxed) == 0;
        if !entered {
            board.spare.store(0, Relaxed);
        }
    });
    let scenario = scenario("in short").process(writes).process(reads);
    finds("one reads beside a writer", || scenario.explore());
}
