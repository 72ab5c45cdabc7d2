//! The barrier under the explorer: nobody goes on before all have come, of those who go on one is
//! elected, a death is told to all who waited or to none, and nobody who sleeps is forgotten,
//! whichever of several parties die, and wherever.
#![cfg(shm_explore)]
use shm_core::ShmSync;
use shm_core::lock::barrier::{Barrier, BarrierError, Party};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Instant;

/// How often each party has come. All zero at first.
#[repr(C)]
struct Board {
    came: [AtomicU32; 4],
}
// SAFETY: atomics only.
unsafe impl ShmSync for Board {}

struct World {
    barrier: Barrier,
    board: Mapped<Board>,
    /// Of processes 1, 2, …
    members: Vec<Arc<Member>>,
    /// Those who are there from the beginning.
    parties: Vec<Party>,
}

/// Seats and rows for so many, of whom the first `there` have joined.
fn world(parties: u32, there: usize) -> World {
    let barrier_at = Table::bytes_for(parties).next_multiple_of(128);
    let board_at = barrier_at + Barrier::bytes_for(parties);
    let mapping = Mapping::heap(board_at as usize + size_of::<Board>());
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, parties) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let barrier = unsafe { Barrier::create(&mapping, barrier_at, parties, 0) }.unwrap();
    let members = (1..=parties).map(|pid| {
        kernel::become_process(pid);
        table.join().unwrap()
    });
    let members: Vec<_> = members.collect();
    let parties = (0..there).map(|at| {
        kernel::become_process(at as u32 + 1);
        barrier.join(&members[at]).unwrap()
    });
    let parties = parties.collect();
    kernel::become_process(kernel::BUILDER);
    World { barrier, board: Mapped::new(&mapping, board_at).unwrap(), members, parties }
}

const WENT_ON: u64 = 1;
const ELECTED: u64 = 2;
const TOLD: u64 = 3;

impl Drop for World {
    /// They have nobody to leave: what they are in is over.
    fn drop(&mut self) {
        self.parties.drain(..).for_each(std::mem::forget);
    }
}

impl World {
    fn at(&self, me: &Me) -> usize {
        me.pid() as usize - 1
    }

    /// The process's own: each way that is explored begins with it as it was made.
    fn party(&self, me: &Me) -> ManuallyDrop<Party> {
        // SAFETY: a copy that is never dropped, of one that lives as long as the world.
        ManuallyDrop::new(unsafe { std::ptr::read(&raw const self.parties[self.at(me)]) })
    }

    /// Comes once, and looks that those who went on with it came as often.
    fn comes(&self, me: &Me, party: &mut Party, others: &[usize]) {
        let at = self.at(me);
        let times = self.board.came[at].load(Relaxed) + 1;
        self.board.came[at].store(times, Relaxed);
        match party.arrive_and_wait() {
            Ok(elected) => {
                let came = |other: &usize| self.board.came[*other].load(Relaxed) >= times;
                assert!(others.iter().all(came), "one went on before another had come");
                me.say(if elected { ELECTED } else { WENT_ON });
            }
            Err(BarrierError::Died { by }) => {
                assert_ne!(by, self.members[at].id(), "told of its own death");
                me.say(TOLD);
            }
            Err(other) => panic!("{other}"),
        }
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    // Most cases have more. Deep runs, which have no end, go twenty times as far.
    Scenario::new("barrier", name).states_at_most(if is_deep() { 120_000 } else { 60_000 })
}

/// Comes `times` times to a barrier that it is at from the beginning.
fn party<'a>(world: &'a World, others: &'static [usize], times: u32) -> Process<'a> {
    Process::new("party", move |me| {
        let mut party = world.party(me);
        for _ in 0..times {
            world.comes(me, &mut party, others);
        }
        me.say(0);
    })
}

/// All of those who live came to an end; where nobody died all went on together.
fn is_right(end: &End<'_>, processes: usize, times: usize) {
    let alive: Vec<_> = (0..processes).filter(|at| !end.is_dead(*at)).collect();
    for at in &alive {
        let said = end.said(*at);
        assert_eq!((said.len(), said.last()), (times + 1, Some(&0)), "one did not end: {said:?}");
        assert!(alive.len() < processes || !said.contains(&TOLD), "told, and nobody has died");
    }
    for nth in 0..times {
        let elected = alive.iter().filter(|at| end.said(**at)[nth] == ELECTED).count();
        let told = alive.iter().filter(|at| end.said(**at)[nth] == TOLD).count();
        assert!(elected <= 1, "two are elected");
        assert!(told == 0 || elected == 0, "one was told and another one was elected");
        assert!(alive.len() < processes || elected == 1, "nobody is elected");
    }
}

#[test]
fn parties_may_die_anywhere() {
    for (times, deaths, preemptions) in [(1, 1, 2), (2, 1, 1), (1, 2, 1)] {
        let world = world(2, 2);
        let name = format!("two come {times} times, {deaths} deaths");
        let scenario = scenario(&name).deaths(deaths).preemptions_at_most(preemptions).lingering();
        let scenario = scenario.process(party(&world, &[1], times).mortal());
        let scenario = scenario.process(party(&world, &[0], times).mortal());
        scenario.check(|end| is_right(end, 2, times as usize)).explore();
    }
}

#[test]
fn of_three_parties_one_may_die_anywhere() {
    let deaths = if is_deep() { 2 } else { 1 };
    let world = world(3, 3);
    let scenario = scenario(&format!("three come, {deaths} deaths"));
    let scenario = scenario.deaths(deaths).preemptions_at_most(1);
    let scenario = scenario.process(party(&world, &[1, 2], 1).mortal());
    let scenario = scenario.process(party(&world, &[0, 2], 1).mortal());
    let scenario = scenario.process(party(&world, &[0, 1], 1));
    scenario.check(|end| is_right(end, 3, 1)).explore();
}

/// One comes, others join when they like, and leave, in each of the three ways.
#[test]
fn who_joins_and_leaves_may_die_anywhere() {
    let world = world(3, 1);
    let comes = comes_alone(&world);
    let world = &world;
    let leaves = |how: u32| {
        let process = Process::new("leaves", move |me: &Me| {
            let mut party = world.barrier.join(&world.members[world.at(me)]).unwrap();
            match how {
                0 => party.leave().unwrap(),
                1 => drop(party.arrive_and_leave().unwrap()),
                _ => drop(party.arrive_and_leave_except_last().unwrap()),
            }
            me.say(0);
        });
        process.mortal()
    };
    for how in 0..3 {
        let scenario = scenario(&format!("one comes, one leaves, way {how}")).deaths(1);
        let scenario = scenario.preemptions_at_most(2).process(comes_alone(world));
        scenario.process(leaves(how)).explore();
    }
    let scenario = scenario("one comes, two leave").deaths(1).preemptions_at_most(1);
    scenario.process(comes).process(leaves(0)).process(leaves(1)).explore();
}

fn comes_alone(world: &World) -> Process<'_> {
    party(world, &[], 1)
}

/// A wait with a limit ends by itself; the party has arrived all the same.
#[test]
fn one_that_times_out_has_arrived() {
    let world = world(2, 2);
    let impatient = Process::new("impatient", |me| {
        let mut party = world.party(me);
        match party.arrive_and_wait_until(Instant::now()) {
            Ok(_) | Err(BarrierError::TimedOut | BarrierError::Died { .. }) => (),
            Err(other) => panic!("{other}"),
        }
    });
    let scenario = scenario("one is impatient").deaths(1).preemptions_at_most(3);
    let scenario = scenario.process(impatient.mortal()).process(party(&world, &[], 1));
    scenario.explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = world(2, 2);
    let lies = if is_deep() { 3 } else { 2 };
    let comes = || {
        Process::new("comes", |me| {
            let Ok(mut party) = world.barrier.join(&world.members[world.at(me)]) else { return };
            let _ = party.arrive_and_wait_until(Instant::now());
            let _ = party.leave();
        })
    };
    let scenario = scenario(&format!("{lies} lies")).lies(lies).preemptions_at_most(1);
    scenario.process(comes()).process(comes()).explore();
}

/// Planted bug: who arrives last wakes nobody.
#[test]
fn finds_a_barrier_that_wakes_nobody() {
    let world = world(2, 2);
    let silent = Process::new("silent", |me: &Me| {
        let board = &world.board.came;
        board[world.at(me)].store(1, Relaxed);
    });
    let waits = Process::new("waits", |me: &Me| {
        let _ = world.party(me).arrive_and_wait();
    });
    let scenario = scenario("silent").process(waits).process(silent);
    finds("everybody waits", || scenario.explore());
}
