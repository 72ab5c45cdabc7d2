//! The barrier: nobody goes on before all have come, each sees what the others did before, one of
//! them is elected, and a death of one that is missing is told to all who waited, whoever dies where.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::ShmSync;
use shm_core::lock::barrier::{Barrier, BarrierError, Party};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_testkit::model::thread::spawn;
use shm_testkit::model::{self, Life, UnsafeCell};
use std::sync::Arc;
use std::time::Instant;

const BARRIER_AT: u64 = 2048;

/// A cell a party: written before the barrier by that one, read after it by the others.
struct Cells([UnsafeCell<u32>; 3]);
// SAFETY: ordered by the barrier, as the model checks.
unsafe impl Sync for Cells {}
// SAFETY: as above.
unsafe impl Send for Cells {}

struct World<const N: usize> {
    barrier: Barrier,
    cells: Cells,
    table: Table,
    members: [Arc<Member>; N],
}

/// A seat for each of the processes 1, 2, …
fn world<const N: usize>(rows: u32, first: u32) -> Arc<World<N>> {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, N as u32) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let barrier = unsafe { Barrier::create(&mapping, BARRIER_AT, rows, first) }.unwrap();
    let members = std::array::from_fn(|at| {
        become_process(at as u32 + 1);
        table.join().unwrap()
    });
    become_process(1);
    let cells = Cells(std::array::from_fn(|_| UnsafeCell::new(0)));
    Arc::new(World { barrier, cells, table, members })
}

/// What one of the parties came to.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Dead,
    /// It went on, and was elected or not.
    WentOn(bool),
    Told,
}

impl<const N: usize> World<N> {
    fn writes(&self, at: usize) {
        // SAFETY: nobody reads it before we have arrived, as the model checks.
        self.cells.0[at].with_mut(|cell| unsafe { *cell += 1 });
    }

    fn reads(&self, at: usize) -> u32 {
        // SAFETY: who writes it has arrived, as the model checks.
        self.cells.0[at].with(|cell: *const u32| unsafe { *cell })
    }

    /// Comes to the barrier once.
    fn comes(&self, party: &mut Party, at: usize, others: &[usize]) -> End {
        self.writes(at);
        match party.arrive_and_wait() {
            Ok(elected) => {
                let all = others.iter().all(|other| self.reads(*other) > 0);
                assert!(all, "one went on before another had come");
                End::WentOn(elected)
            }
            Err(BarrierError::Died { by }) => {
                let dead = self.members.iter().any(|member| member.id() == by);
                assert!(dead && by != self.members[at].id(), "the wrong one is dead");
                End::Told
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Process `at + 1` does `work`, and the kernel buries it if it dies of that.
    fn lives(&self, at: usize, life: &Life, work: impl FnOnce() -> End) -> End {
        let process = become_process(at as u32 + 1);
        life.run(work).unwrap_or_else(|| {
            process_ends(&self.table, process);
            End::Dead
        })
    }
}

/// Seats are not left: a model that ends has no kernel any more.
fn end<const N: usize>(world: Arc<World<N>>) {
    std::mem::forget(world);
}

/// Of those who went on in one phase one is elected; who is told is told of a dead one.
fn is_right(ends: &[End]) {
    let count = |what: &dyn Fn(&End) -> bool| ends.iter().filter(|end| what(end)).count();
    let (told, dead) = (count(&|end| *end == End::Told), count(&|end| *end == End::Dead));
    let elected = count(&|end| *end == End::WentOn(true));
    let went_on = count(&|end| matches!(end, End::WentOn(_)));
    assert!(told == 0 || (dead > 0 && went_on == 0), "not all the same: {ends:?}");
    assert!(elected <= 1 && (went_on == 0 || elected + dead >= 1), "nobody elected: {ends:?}");
}

/// Two parties come once each; both are there from the beginning.
fn two_come([one, other]: [Life; 2]) {
    let world = world::<2>(2, 2);
    let [mut mine, mut theirs] = [0, 1].map(|at| {
        become_process(at as u32 + 1);
        world.barrier.join(&world.members[at]).unwrap()
    });
    let with = world.clone();
    let thread = spawn(move || {
        let end = with.lives(1, &other, || with.comes(&mut theirs, 1, &[0]));
        std::mem::forget(theirs);
        end
    });
    let end_of_one = world.lives(0, &one, || world.comes(&mut mine, 0, &[1]));
    let end_of_other = thread.join().unwrap();
    is_right(&[end_of_one, end_of_other]);
    // Who is left goes on alone.
    if end_of_one != End::Dead && end_of_other == End::Dead {
        become_process(1);
        let alone = mine.arrive_and_wait();
        assert!(matches!(alone, Ok(true) | Err(BarrierError::Died { .. })), "{alone:?}");
        if alone.is_err() {
            assert_eq!(mine.arrive_and_wait(), Ok(true));
        }
    }
    std::mem::forget(mine);
    end(world);
}

/// One is there, another one joins, comes and leaves. The first phase waits for so many.
fn one_joins(first: u32) -> impl Fn([Life; 2]) + Send + Sync + Copy + 'static {
    move |[one, other]| {
        let world = world::<2>(2, first);
        let mut mine = world.barrier.join(&world.members[0]).unwrap();
        let with = world.clone();
        let thread = spawn(move || {
            with.lives(1, &other, || {
                with.writes(1);
                let party = with.barrier.join(&with.members[1]).unwrap();
                let joined_in = party.phase();
                assert_eq!(with.barrier.phase(), joined_in, "the phase ended without it");
                if joined_in == 1 {
                    assert_eq!(with.reads(0), 1);
                }
                party.arrive_and_leave().unwrap();
                End::WentOn(joined_in == 0)
            })
        });
        // Where the first phase waits for two, it sees what the other one did before it left.
        let others: &[usize] = if first == 2 { &[1] } else { &[] };
        world.lives(0, &one, || world.comes(&mut mine, 0, others));
        thread.join().unwrap();
        std::mem::forget(mine);
        end(world);
    }
}

/// One comes, two come and leave: who goes on sees what both others did, though one of them may have
/// seen it first and ended the phase.
fn two_leave() {
    let world = world::<3>(3, 3);
    let mut parties: Vec<Party> = (0..3)
        .map(|at| {
            become_process(at as u32 + 1);
            world.barrier.join(&world.members[at]).unwrap()
        })
        .collect();
    let mut mine = parties.remove(0);
    let leavers = parties.into_iter().zip(1..).map(|(party, at)| {
        let with = world.clone();
        spawn(move || {
            become_process(at as u32 + 1);
            with.writes(at);
            party.arrive_and_leave().unwrap();
        })
    });
    let leavers: Vec<_> = leavers.collect();
    become_process(1);
    assert_eq!(world.comes(&mut mine, 0, &[1, 2]), End::WentOn(true));
    leavers.into_iter().for_each(|leaver| leaver.join().unwrap());
    std::mem::forget(mine);
    end(world);
}

/// One has timed out in a phase that the other one has ended since. It leaves, while the other one
/// waits for it in the next.
fn one_leaves_late([waits, leaves]: [Life; 2]) {
    let world = world::<2>(2, 2);
    let [mut mine, mut late] = [0, 1].map(|at| {
        become_process(at as u32 + 1);
        world.barrier.join(&world.members[at]).unwrap()
    });
    assert_eq!(late.arrive_and_wait_until(Instant::now()), Err(BarrierError::TimedOut));
    become_process(1);
    assert_eq!(mine.arrive_and_wait(), Ok(true));
    let with = world.clone();
    let thread = spawn(move || {
        with.lives(1, &leaves, || {
            late.leave().unwrap();
            End::Told
        })
    });
    world.lives(0, &waits, || world.comes(&mut mine, 0, &[]));
    thread.join().unwrap();
    std::mem::forget(mine);
    end(world);
}

/// Both leave. One of them at most is told that it was the last, and if nobody dies one is.
fn both_leave(stays: bool) -> impl Fn([Life; 2]) + Send + Sync + Copy + 'static {
    move |[one, other]| {
        let world = world::<2>(2, 2);
        let [mine, theirs] = [0, 1].map(|at| {
            become_process(at as u32 + 1);
            world.barrier.join(&world.members[at]).unwrap()
        });
        let leave = move |mut party: Party| {
            if !stays {
                return End::WentOn(party.arrive_and_leave().unwrap());
            }
            let last = party.arrive_and_leave_except_last().unwrap();
            assert!(!last || party.phase() == 1);
            std::mem::forget(party);
            End::WentOn(last)
        };
        let with = world.clone();
        let thread = spawn(move || with.lives(1, &other, || leave(theirs)));
        let ends = [world.lives(0, &one, || leave(mine)), thread.join().unwrap()];
        is_right(&ends);
        end(world);
    }
}

/// One has died before it came. Another one cleans up after it, and may die of that, while a third
/// one waits.
fn one_cleans_up([cleaner, waits]: [Life; 2]) {
    let world = world::<3>(2, 2);
    become_process(3);
    let mut theirs = world.barrier.join(&world.members[2]).unwrap();
    become_process(1);
    std::mem::forget(world.barrier.join(&world.members[0]).unwrap());
    let with = world.clone();
    let thread = spawn(move || {
        let end = with.lives(2, &waits, || with.comes(&mut theirs, 2, &[]));
        std::mem::forget(theirs);
        end
    });
    process_ends(&world.table, become_process(1));
    world.lives(1, &cleaner, || {
        world.table.reap(|dead| world.barrier.clean_up(dead));
        End::Told
    });
    let end_of_waiter = thread.join().unwrap();
    assert!(matches!(end_of_waiter, End::Told | End::Dead), "{end_of_waiter:?}");
    end(world);
}

#[test]
fn who_comes_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("barrier, two come, one death: {:?}", model::every_death_of(bound, two_come));
    println!("barrier, two come, two deaths: {:?}", model::every_two_deaths(bound - 1, two_come));
}

#[test]
fn who_joins_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("barrier, one joins: {:?}", model::every_death_of(bound, one_joins(1)));
}

#[test]
fn who_leaves_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("barrier, one leaves late: {:?}", model::every_death_of(bound, one_leaves_late));
    for stays in [false, true] {
        println!("barrier, both leave: {:?}", model::every_death_of(bound, both_leave(stays)));
    }
}

#[test]
fn who_cleans_up_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("barrier, one cleans up: {:?}", model::every_death_of(bound - 1, one_cleans_up));
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["src/lock/barrier/"], || {
        let alive = || [Life::endless(), Life::endless()];
        model::check(move || two_come(alive()));
        for first in [1, 2] {
            model::check(move || one_joins(first)(alive()));
        }
        model::check_bounded(Some(1), two_leave);
        for stays in [false, true] {
            model::check(move || both_leave(stays)(alive()));
        }
        model::check(move || one_cleans_up(alive()));
        model::every_death_of(1, two_come);
    });
    println!("barrier: {found} weakened orderings found");
    assert!(found >= 4, "found {found}");
}

/// Two words, each party's own. All zero at first.
struct Rows([AtomicU32; 2]);
// SAFETY: modelled atomics.
unsafe impl ShmSync for Rows {}

/// Planted bug: each arrives and looks whether it is the last, with no fence in between.
#[test]
fn finds_an_arrival_without_a_fence() {
    model::finds("nobody is the last", || {
        model::check(|| {
            let mapping = Mapping::heap(4096);
            let rows = Rows([AtomicU32::new(0), AtomicU32::new(0)]);
            // SAFETY: nobody else has the mapping yet.
            let rows = unsafe { Mapped::place(&mapping, 0, rows) }.unwrap();
            let theirs = rows.clone();
            let arrives = |rows: &Rows, me: usize| {
                rows.0[me].store(1, Relaxed);
                rows.0[1 - me].load(Relaxed) == 1
            };
            let other = spawn(move || arrives(&theirs, 1));
            let one = arrives(&rows, 0);
            assert!(other.join().unwrap() || one, "nobody is the last");
        });
    });
}
