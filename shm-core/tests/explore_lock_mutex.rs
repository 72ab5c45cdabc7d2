//! The mutex under the explorer: one at a time has it, a death is told to the next one, nobody who
//! sleeps is forgotten, whichever of several takers, repairers and sleepers die, and wherever.
//!
//! Where two sleep on one holder's life, and that one dies, and then the one whom the kernel woke
//! dies too, the other is woken after a second (see `participants`), and a model has no clock. So
//! with two deaths there are two takers only.
#![cfg(shm_explore)]
use shm_core::ShmSync;
use shm_core::event::EventCount;
use shm_core::lock::mutex::{LockError, Mutex, MutexGuard};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::sync::Arc;
use std::time::Instant;

const PROCESSES: u32 = 4;

/// What the mutex guards. All zero at first.
#[repr(C)]
struct Board {
    /// Who is inside.
    inside: AtomicU32,
    freed: EventCount,
}
// SAFETY: atomics only.
unsafe impl ShmSync for Board {}

struct World {
    mutex: Mutex,
    board: Mapped<Board>,
    /// Those of processes 1, 2, … and of the check.
    members: Vec<Arc<Member>>,
}

/// Seats for so many processes, and for the check that comes last.
fn world(processes: u32) -> World {
    let seats = processes + 1;
    let mutex_at = Table::bytes_for(seats);
    let board_at = mutex_at + Mutex::BYTES;
    let mapping = Mapping::heap(board_at as usize + size_of::<Board>());
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let mutex = unsafe { Mutex::create(&mapping, mutex_at) }.unwrap();
    let members = (1..=seats).map(|pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    });
    let members = members.collect();
    kernel::become_process(kernel::BUILDER);
    World { mutex, board: Mapped::new(&mapping, board_at).unwrap(), members }
}

type Result<'a> = std::result::Result<MutexGuard<'a>, LockError<'a>>;

impl World {
    fn member(&self, me: &Me) -> &Member {
        &self.members[me.pid() as usize - 1]
    }

    /// Repairs where told so: whoever was inside is not any more.
    fn repaired<'a>(&self, taken: Result<'a>) -> MutexGuard<'a> {
        match taken {
            Ok(guard) => guard,
            Err(LockError::Abandoned(abandoned)) => {
                self.board.inside.store(0, Relaxed);
                abandoned.recover()
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Is inside for a moment.
    fn is_alone(&self, pid: u32) {
        assert_eq!(self.board.inside.swap(pid, Relaxed), 0, "two have it, or nobody was told");
        self.board.inside.store(0, Relaxed);
    }

    /// Whoever comes last gets it.
    fn can_be_had(&self, processes: u32) {
        let guard = self.repaired(self.mutex.recover(&self.members[processes as usize]));
        self.is_alone(processes + 1);
        drop(guard);
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    // More than any case has in ordinary runs; deep ones, which have no end, go ten times as far.
    Scenario::new("mutex", name).states_at_most(60_000)
}

fn locks(world: &World) -> Process<'_> {
    Process::new("locks", |me| {
        let guard = world.repaired(world.mutex.lock(world.member(me)));
        world.is_alone(me.pid());
        drop(guard);
        me.say(1);
    })
}

/// Looks once, or waits for some time.
fn tries(world: &World, waits: bool) -> Process<'_> {
    Process::new("tries", move |me| {
        let member = world.member(me);
        let taken = if waits {
            world.mutex.lock_until(member, Instant::now()).map(Some)
        } else {
            world.mutex.try_lock(member)
        };
        let guard = match taken {
            Ok(None) | Err(LockError::TimedOut) => return,
            Ok(Some(guard)) => guard,
            Err(other) => world.repaired(Err(other)),
        };
        world.is_alone(me.pid());
        drop(guard);
    })
}

fn takers_die(processes: u32, deaths: u32, preemptions: u32, lingers: bool) {
    let world = world(processes);
    let name = format!("{processes} take it, {deaths} deaths, lingering {lingers}");
    let mut scenario = scenario(&name).deaths(deaths).preemptions_at_most(preemptions);
    if lingers {
        scenario = scenario.lingering();
    }
    for _ in 0..processes {
        scenario = scenario.process(locks(&world).mortal());
    }
    let done = |end: &End<'_>| {
        let alive = (0..processes as usize).filter(|at| !end.is_dead(*at));
        assert!(alive.map(|at| end.said(at)).all(|said| said == [1]), "one did not get it");
        world.can_be_had(processes);
    };
    scenario.check(done).explore();
}

#[test]
fn takers_may_die_anywhere() {
    takers_die(2, 1, 3, true);
    takers_die(2, 2, 3, false);
    takers_die(3, 1, 1, false);
}

/// One tries, one waits for some time, one waits: nobody's haste hurts the others.
#[test]
fn one_that_times_out_takes_no_wake_up_along() {
    for waits in [false, true] {
        let world = world(3);
        let scenario = scenario(&format!("one is impatient, waits {waits}")).deaths(1);
        let scenario = scenario.process(tries(&world, waits).mortal());
        let scenario = scenario.process(locks(&world)).process(locks(&world).mortal());
        let done = |_: &End<'_>| world.can_be_had(3);
        scenario.preemptions_at_most(1).check(done).explore();
    }
}

/// One stands still with it for ever: who waits with a deadline comes back, and so does who tries.
#[test]
fn one_that_stands_still_holds_up_only_who_waits_for_it() {
    let world = world(3);
    let stands = Process::new("stands still", |me| {
        let _guard = world.repaired(world.mutex.lock(world.member(me)));
        me.stay();
    });
    let scenario = scenario("one stands still").deaths(1);
    let scenario = scenario.process(stands).process(tries(&world, true).mortal());
    scenario.process(tries(&world, false)).preemptions_at_most(3).explore();
}

/// Gives up without having repaired, so that it is poisoned for all but those who recover.
#[test]
fn a_poisoned_one_is_healed_by_who_recovers() {
    let world = world(3);
    let gives_up = || {
        Process::new("gives up", |me| match world.mutex.lock(world.member(me)) {
            Ok(guard) => {
                world.is_alone(me.pid());
                drop(guard);
            }
            Err(LockError::Abandoned(given_up)) => drop(given_up),
            Err(LockError::Poisoned { .. }) => me.say(1),
            Err(other) => panic!("{other}"),
        })
        .mortal()
    };
    let recovers = Process::new("recovers", |me| {
        let guard = world.repaired(world.mutex.recover(world.member(me)));
        world.is_alone(me.pid());
        drop(guard);
    });
    let scenario = scenario("poisoned").deaths(1).preemptions_at_most(1);
    let scenario = scenario.process(gives_up()).process(gives_up()).process(recovers);
    scenario.check(|_| world.can_be_had(3)).explore();
}

/// Somebody cleans up after the dead, while others take over by themselves.
#[test]
fn cleaning_up_is_harmless_at_any_time() {
    let world = world(3);
    let cleaner = Process::new("cleans up", |me| {
        world.member(me).table().reap(|dead| world.mutex.clean_up(dead));
    })
    .never_waits();
    let scenario = scenario("cleaning up").deaths(1).preemptions_at_most(2);
    let scenario = scenario.process(locks(&world).mortal()).process(locks(&world));
    scenario.process(cleaner).check(|_| world.can_be_had(3)).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world(2);
    let lies = if is_deep() { 3 } else { 2 };
    let any = |taken: Result<'_>| match taken {
        Ok(guard) => drop(guard),
        Err(LockError::Abandoned(abandoned)) => drop(abandoned.recover()),
        Err(_) => (),
    };
    let waits = Process::new("waits", |me| {
        any(world.mutex.lock_until(world.member(me), Instant::now()));
        any(world.mutex.recover(world.member(me)));
    });
    let tries = Process::new("tries", |me| {
        if let Err(LockError::Abandoned(abandoned)) = world.mutex.try_lock(world.member(me)) {
            drop(abandoned.recover());
        }
        world.mutex.clean_up(world.members[0].id());
    });
    let scenario = scenario(&format!("{lies} lies")).lies(lies).preemptions_at_most(2);
    scenario.process(waits).process(tries.never_waits()).explore();
}

/// Planted bug: it is found dead by who looked at it before, and taken by a store.
#[test]
fn finds_one_that_two_take_over() {
    let world = world(PROCESSES - 1);
    let board = &world.board;
    let dies = Process::new("dies", |me| board.inside.store(me.pid(), Relaxed)).mortal();
    let takes_over = || {
        Process::new("takes over", |me| {
            let owner = board.inside.load(Relaxed);
            if owner == 1 && kernel::is_dead(owner) {
                board.inside.store(me.pid(), Relaxed);
                assert_eq!(board.inside.load(Relaxed), me.pid(), "two have it");
            }
        })
    };
    let scenario = scenario("in short").deaths(1).process(dies);
    finds("two have it", || scenario.process(takes_over()).process(takes_over()).explore());
}

/// Planted bug: who gives up takes the sign of those who sleep away, and does not wake.
#[test]
fn finds_a_sign_that_is_taken_away() {
    let world = world(2);
    let board = &world.board;
    let locks = || {
        Process::new("locks", |_| {
            while board.inside.compare_exchange(0, 1, Relaxed, Relaxed).is_err() {
                let ticket = board.freed.prepare();
                let signed = board.inside.compare_exchange(1, 3, Relaxed, Relaxed);
                if signed.is_ok() || signed == Err(3) {
                    board.freed.wait(ticket, None);
                }
            }
            // The bit is looked at before the exchange, not by it.
            let waited_for = board.inside.load(Relaxed) == 3;
            board.inside.store(0, Relaxed);
            if waited_for {
                board.freed.notify();
            }
        })
    };
    let scenario = scenario("a sign lost").process(locks()).process(locks());
    finds("everybody waits", || scenario.explore());
}
