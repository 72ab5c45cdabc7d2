//! The latch under the explorer: nothing that was left to do before a setting is overlooked, and
//! nobody sleeps though it is set, whichever of several setters and sleepers die.
#![cfg(shm_explore)]
use shm_core::ShmSync;
use shm_core::lock::latch::{Latch, WaitError};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table, Watch};
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_testkit::explore::{Me, Process, Scenario, finds, is_deep, kernel};
use std::sync::Arc;
use std::time::Instant;

const SETTERS: usize = 2;

/// What there is to do: each setter has its own. All zero at first.
#[repr(C)]
struct Board {
    left: [AtomicU32; SETTERS],
}
// SAFETY: atomics only.
unsafe impl ShmSync for Board {}

struct World {
    latch: Latch,
    board: Mapped<Board>,
    /// Of processes 1, 2, …; the setters are the last ones.
    members: Vec<Arc<Member>>,
}

fn world(seats: u32) -> World {
    let latch_at = Table::bytes_for(seats);
    let board_at = latch_at + Latch::BYTES;
    let mapping = Mapping::heap(board_at as usize + size_of::<Board>());
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let latch = unsafe { Latch::create(&mapping, latch_at) }.unwrap();
    let members = (1..=seats).map(|pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    });
    let members = members.collect();
    kernel::become_process(kernel::BUILDER);
    World { latch, board: Mapped::new(&mapping, board_at).unwrap(), members }
}

impl World {
    fn member(&self, me: &Me) -> &Member {
        &self.members[me.pid() as usize - 1]
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    // More than most cases have in ordinary runs; deep ones, which have no end, go ten times as
    // far.
    Scenario::new("latch", name).states_at_most(100_000)
}

/// Leaves something to do and sets the latch, so often.
fn sets(world: &World, at: usize, times: u32) -> Process<'_> {
    Process::new("sets", move |_| {
        for _ in 0..times {
            world.board.left[at].fetch_add(1, Relaxed);
            world.latch.set();
        }
    })
    .never_waits()
}

/// Waits until each of the setters, processes `first` and on, has left so much, or is dead.
fn waits(world: &World, first: usize, setters: usize, wanted: u32) -> Process<'_> {
    Process::new("waits", move |me| {
        let member = world.member(me);
        let watches: Vec<Watch> =
            (0..setters).map(|at| member.watch(world.members[first + at - 1].id())).collect();
        let mut waits_for: Vec<usize> = (0..setters).collect();
        while !waits_for.is_empty() {
            let peers: Vec<&Watch> = waits_for.iter().map(|at| &watches[*at]).collect();
            let dead = match world.latch.wait(member, &peers, None) {
                Ok(()) => {
                    world.latch.reset();
                    None
                }
                Err(WaitError::Died { by }) => Some(by),
                Err(other) => panic!("{other}"),
            };
            waits_for.retain(|at| {
                let seen = world.board.left[*at].load(Relaxed) >= wanted;
                !seen && dead != Some(watches[*at].peer())
            });
        }
        me.say(1);
    })
}

#[test]
fn setters_and_the_waiter_may_die_anywhere() {
    let world = world(3);
    let deaths = if is_deep() { 3 } else { 2 };
    let one = scenario(&format!("one sets twice, {deaths} deaths")).deaths(deaths).lingering();
    let one = one.process(waits(&world, 2, 1, 2).mortal());
    one.process(sets(&world, 0, 2).mortal()).explore();
    let two = scenario("two set, one death").deaths(1).preemptions_at_most(3);
    let two = two.process(waits(&world, 2, 2, 1).mortal());
    two.process(sets(&world, 0, 1).mortal()).process(sets(&world, 1, 1).mortal()).explore();
}

/// Waits only, and leaves the setting to others.
fn sleeps(world: &World) -> Process<'_> {
    Process::new("sleeps", |me| {
        world.latch.wait(world.member(me), &[], None).unwrap();
        me.say(1);
    })
}

/// Nobody resets: all who wait come back, though one of them dies in waiting, and one setter in
/// setting.
#[test]
fn all_who_wait_are_woken() {
    let world = world(4);
    let scenario = scenario("two sleep, two set").deaths(2).preemptions_at_most(3);
    let scenario = scenario.process(sleeps(&world)).process(sleeps(&world).mortal());
    scenario.process(sets(&world, 0, 1).mortal()).process(sets(&world, 1, 1)).explore();
}

/// A sleep with a limit ends by itself, and takes no wake-up away.
#[test]
fn one_that_times_out_takes_no_wake_up_along() {
    let world = world(3);
    let impatient = Process::new("impatient", |me| {
        match world.latch.wait(world.member(me), &[], Some(Instant::now())) {
            Ok(()) | Err(WaitError::TimedOut) => (),
            Err(other) => panic!("{other}"),
        }
    });
    let scenario = scenario("one is impatient").deaths(1);
    let scenario = scenario.process(impatient.mortal()).process(sleeps(&world));
    scenario.process(sets(&world, 0, 2)).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world(2);
    let lies = if is_deep() { 4 } else { 3 };
    let waits = Process::new("waits", |me| {
        let member = world.member(me);
        let peer = member.watch(world.members[1].id());
        let _ = world.latch.wait(member, &[&peer], Some(Instant::now()));
        world.latch.reset();
    });
    let scenario = scenario(&format!("{lies} lies")).lies(lies);
    scenario.process(waits).process(sets(&world, 0, 2)).explore();
}

/// Planted bug: it looks for what there is to do, and resets afterwards.
#[test]
fn finds_a_reset_that_comes_too_late() {
    let world = world(2);
    let late = Process::new("waits", |me| {
        loop {
            world.latch.wait(world.member(me), &[], None).unwrap();
            let is_there = world.board.left[0].load(Relaxed) == 2;
            world.latch.reset();
            if is_there {
                return;
            }
        }
    });
    let scenario = scenario("late").process(late).process(sets(&world, 0, 2));
    finds("everybody waits", || scenario.explore());
}
