//! The latch: whatever was left to do before it was set is seen by who resets it and then looks,
//! whichever of the setters and the sleepers die where; who sleeps is woken.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::ShmSync;
use shm_core::lock::latch::{Latch, WaitError};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table, Watch, process_ends};
use shm_core::process::model::become_process;
use shm_core::sync::{AtomicU32, Ordering};
use shm_testkit::model::thread::{JoinHandle, spawn};
use shm_testkit::model::{self, Life};
use std::sync::Arc;

/// What there is to do: accessed Relaxed, for the latch must order it.
struct Board {
    left: [AtomicU32; 2],
}
// SAFETY: modelled atomics.
unsafe impl ShmSync for Board {}

struct World {
    latch: Latch,
    board: Mapped<Board>,
    table: Table,
    /// Of processes 1, 2, 3.
    members: [Arc<Member>; 3],
}

fn world() -> Arc<World> {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, 3) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let latch = unsafe { Latch::create(&mapping, 2048) }.unwrap();
    let board = Board { left: [AtomicU32::new(0), AtomicU32::new(0)] };
    // SAFETY: as above, and the latch ends before.
    let board = unsafe { Mapped::place(&mapping, 3072, board) }.unwrap();
    let members = std::array::from_fn(|at| {
        become_process(at as u32 + 1);
        table.join().unwrap()
    });
    become_process(1);
    Arc::new(World { latch, board, table, members })
}

impl World {
    /// Process `pid` does `action`, and the kernel buries it if it dies of that.
    fn live(&self, pid: u32, life: &Life, action: impl FnOnce()) {
        let process = become_process(pid);
        if life.run(action).is_none() {
            process_ends(&self.table, process);
        }
    }

    /// Waits until each of the setters has left something, or is dead.
    fn wait_for(&self, me: &Member, setters: usize) {
        let watches: Vec<Watch> =
            (0..setters).map(|at| me.watch(self.members[at + 1].id())).collect();
        let mut waits_for: Vec<usize> = (0..setters).collect();
        while !waits_for.is_empty() {
            let peers: Vec<&Watch> = waits_for.iter().map(|at| &watches[*at]).collect();
            let dead = match self.latch.wait(me, &peers, None) {
                Ok(()) => {
                    self.latch.reset();
                    None
                }
                Err(WaitError::Died { by }) => Some(by),
                Err(other) => panic!("{other}"),
            };
            waits_for.retain(|at| {
                let seen = self.board.left[*at].load(Ordering::Relaxed) != 0;
                !seen && dead != Some(self.members[at + 1].id())
            });
        }
    }
}

/// Leaves something to do, and says so.
fn setter(world: &Arc<World>, at: usize, life: Life) -> JoinHandle<()> {
    let world = world.clone();
    spawn(move || {
        world.live(at as u32 + 2, &life, || {
            world.board.left[at].store(1, Ordering::Relaxed);
            world.latch.set();
        });
    })
}

fn one_sets([waiter, one]: [Life; 2]) {
    let world = world();
    let thread = setter(&world, 0, one);
    world.live(1, &waiter, || world.wait_for(&world.members[0], 1));
    thread.join().unwrap();
    std::mem::forget(world);
}

fn two_set([one, other]: [Life; 2]) {
    let world = world();
    let threads = [setter(&world, 0, one), setter(&world, 1, other)];
    world.wait_for(&world.members[0], 2);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    std::mem::forget(world);
}

#[test]
fn who_sets_and_who_waits_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("latch, one sets, one death: {:?}", model::every_death_of(bound, one_sets));
    println!("latch, one sets, two deaths: {:?}", model::every_two_deaths(bound - 1, one_sets));
    println!("latch, two set: {:?}", model::every_death_of(bound - 1, two_set));
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["src/lock/latch/"], || {
        model::check(|| one_sets([Life::endless(), Life::endless()]));
        looks(|latch| latch.is_set());
        looks(|latch| latch.reset());
    });
    println!("latch: {found} weakened orderings found");
    assert_eq!(found, 3, "set, reset, is_set");
}

/// One looks without having waited.
fn looks(is_set: fn(&Latch) -> bool) {
    model::check(move || {
        let world = world();
        let thread = setter(&world, 0, Life::endless());
        if is_set(&world.latch) {
            assert_eq!(world.board.left[0].load(Ordering::Relaxed), 1, "set, and nothing left");
        }
        thread.join().unwrap();
        std::mem::forget(world);
    });
}

/// Planted bug: set by a store, which throws away what an earlier one released.
#[test]
fn finds_a_setting_by_a_store() {
    model::finds("left, and not seen", || {
        model::check(|| {
            let world = world();
            let set = Arc::new(AtomicU32::new(0));
            let setters = [0, 1].map(|at| {
                let (world, set) = (world.clone(), set.clone());
                spawn(move || {
                    world.board.left[at].store(1, Ordering::Relaxed);
                    set.store(1, Ordering::Release);
                })
            });
            let seen = || world.board.left.each_ref().map(|word| word.load(Ordering::Relaxed));
            let before = if set.swap(0, Ordering::Acquire) == 1 { seen() } else { [0, 0] };
            setters.into_iter().for_each(|setter| drop(setter.join()));
            let is_set = set.load(Ordering::Relaxed) == 1;
            std::mem::forget(world.clone());
            assert!(is_set || before == [1, 1], "left, and not seen");
        });
    });
}
