//! The condition variable under the explorer: no change that was notified is slept through,
//! whichever of several waiters and notifiers die or time out, with the mutex or without it.
//!
//! Where two sleep on one peer's life, and that one dies, and then the one whom the kernel woke,
//! the other is woken after a second (see `participants`), and a model has no clock: so one of
//! three dies.
#![cfg(shm_explore)]
use shm_core::ShmSync;
use shm_core::event::EventCount;
use shm_core::lock::condvar::{Condvar, Woke};
use shm_core::lock::mutex::{LockError, Mutex, MutexGuard};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::sync::Arc;
use std::time::Instant;

/// What the mutex guards. All zero at first.
#[repr(C)]
struct Board {
    /// Things to take.
    things: AtomicU32,
    /// Who is inside.
    inside: AtomicU32,
    event: EventCount,
    spare: AtomicU32,
}
// SAFETY: atomics only.
unsafe impl ShmSync for Board {}

struct World {
    mutex: Mutex,
    changed: Condvar,
    board: Mapped<Board>,
    /// Those of processes 1, 2, …
    members: Vec<Arc<Member>>,
}

fn world(seats: u32) -> World {
    let mutex_at = Table::bytes_for(seats);
    let condvar_at = mutex_at + Mutex::BYTES;
    let board_at = condvar_at + Condvar::BYTES;
    let mapping = Mapping::heap(board_at as usize + size_of::<Board>());
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let mutex = unsafe { Mutex::create(&mapping, mutex_at) }.unwrap();
    // SAFETY: as above, and the mutex ends before.
    let changed = unsafe { Condvar::create(&mapping, condvar_at) }.unwrap();
    let members = (1..=seats).map(|pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    });
    let members = members.collect();
    kernel::become_process(kernel::BUILDER);
    World { mutex, changed, board: Mapped::new(&mapping, board_at).unwrap(), members }
}

impl World {
    fn member(&self, me: &Me) -> &Member {
        &self.members[me.pid() as usize - 1]
    }

    /// Whoever died inside is not inside any more.
    fn repaired<'a>(
        &self,
        taken: Result<MutexGuard<'a>, LockError<'a>>,
        pid: u32,
    ) -> MutexGuard<'a> {
        let guard = match taken {
            Ok(guard) => guard,
            Err(LockError::Abandoned(abandoned)) => {
                self.board.inside.store(0, Relaxed);
                abandoned.recover()
            }
            Err(other) => panic!("{other}"),
        };
        self.enter(pid);
        guard
    }

    fn enter(&self, pid: u32) {
        assert_eq!(self.board.inside.swap(pid, Relaxed), 0, "two have the mutex");
    }

    fn leave(&self) {
        self.board.inside.store(0, Relaxed);
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("condvar", name).states_at_most(70_000)
}

/// Waits for a thing and takes it, or until the maker is dead.
fn takes(world: &World, maker: usize) -> Process<'_> {
    Process::new("takes", move |me| {
        let (member, pid) = (world.member(me), me.pid());
        let maker = member.watch(world.members[maker].id());
        let mut guard = world.repaired(world.mutex.lock(member), pid);
        while world.board.things.load(Relaxed) == 0 && !maker.is_dead() {
            world.leave();
            let woken = world.changed.wait(guard, &[&maker]);
            guard = world.repaired(woken.map(|(guard, _)| guard), pid);
        }
        let things = world.board.things.load(Relaxed);
        if things > 0 {
            world.board.things.store(things - 1, Relaxed);
            me.say(1);
        }
        world.leave();
        drop(guard);
    })
}

/// Makes a thing, so often.
fn makes(world: &World, times: u32) -> Process<'_> {
    Process::new("makes", move |me| {
        for _ in 0..times {
            let guard = world.repaired(world.mutex.lock(world.member(me)), me.pid());
            world.board.things.fetch_add(1, Relaxed);
            world.leave();
            drop(guard);
            world.changed.notify_one();
        }
    })
}

#[test]
fn a_waiter_and_a_notifier_may_die_anywhere() {
    let world = world(2);
    for (deaths, lingers) in [(1, true), (2, false)] {
        let scenario = scenario(&format!("one waits, {deaths} deaths, lingering {lingers}"));
        let scenario = if lingers { scenario.lingering() } else { scenario };
        let scenario = scenario.deaths(deaths).preemptions_at_most(3);
        let done = |end: &End<'_>| {
            assert!(end.deaths() > 0 || end.said(0) == [1], "it got nothing");
        };
        let scenario = scenario.process(takes(&world, 1).mortal());
        scenario.process(makes(&world, 1).mortal()).check(done).explore();
    }
}

/// Two wait for two things, and one of the two dies: the other one gets its own.
#[test]
fn a_waiter_that_dies_takes_no_notification_along() {
    let world = world(3);
    let done = |end: &End<'_>| assert_eq!(end.said(0), [1], "it got nothing");
    let scenario = scenario("two wait").deaths(1).preemptions_at_most(1).check(done);
    let scenario = scenario.process(takes(&world, 2)).process(takes(&world, 2).mortal());
    scenario.process(makes(&world, 2)).explore();
}

/// One waits for some time only, and comes back with the mutex or without it.
#[test]
fn a_waiter_that_times_out_takes_no_notification_along() {
    let world = world(3);
    let impatient = Process::new("impatient", |me| {
        let member = world.member(me);
        let guard = world.repaired(world.mutex.lock(member), me.pid());
        world.leave();
        match world.changed.wait_until(guard, &[], Instant::now()) {
            Err(LockError::TimedOut) => (),
            Ok((guard, woke)) => {
                assert!(!matches!(woke, Woke::Died { .. }), "it named nobody");
                world.enter(me.pid());
                world.leave();
                drop(guard);
            }
            Err(other) => {
                drop(world.repaired(Err(other), me.pid()));
                unreachable!("nobody dies with the mutex");
            }
        }
    });
    let done = |end: &End<'_>| assert_eq!(end.said(1), [1], "it got nothing");
    let scenario = scenario("one is impatient").preemptions_at_most(1).check(done);
    let scenario = scenario.process(impatient).process(takes(&world, 2));
    scenario.process(makes(&world, 1)).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world(2);
    let lies = if is_deep() { 3 } else { 2 };
    let any = |guard: Result<MutexGuard<'_>, LockError<'_>>| match guard {
        Ok(guard) => drop(guard),
        Err(LockError::Abandoned(abandoned)) => drop(abandoned.recover()),
        Err(_) => (),
    };
    let waits = Process::new("waits", |me| {
        let member = world.member(me);
        let Ok(guard) = world.mutex.lock_until(member, Instant::now()) else { return };
        let woken = world.changed.wait_until(guard, &[], Instant::now());
        any(woken.map(|(guard, _)| guard));
    });
    let notifies = Process::new("notifies", |me| {
        any(world.mutex.lock_until(world.member(me), Instant::now()));
        world.changed.notify_all();
    });
    let scenario = scenario(&format!("{lies} lies")).lies(lies).preemptions_at_most(2);
    scenario.process(waits).process(notifies).explore();
}

/// Planted bug: it gives the mutex up first, and announces itself afterwards.
#[test]
fn finds_one_that_announces_itself_too_late() {
    let world = world(2);
    let late = Process::new("waits", |me| {
        loop {
            let guard = world.repaired(world.mutex.lock(world.member(me)), me.pid());
            let is_there = world.board.things.load(Relaxed) > 0;
            world.leave();
            drop(guard);
            if is_there {
                return;
            }
            let ticket = world.board.event.prepare();
            world.board.event.wait(ticket, None);
        }
    });
    let notifies = Process::new("notifies", |me| {
        let guard = world.repaired(world.mutex.lock(world.member(me)), me.pid());
        world.board.things.store(1, Relaxed);
        world.leave();
        drop(guard);
        world.board.event.notify();
    });
    let scenario = scenario("late").process(late).process(notifies).preemptions_at_most(2);
    finds("everybody waits", || scenario.explore());
}
