//! The reader-writer lock: a writer is alone, a reader sees what the last writer wrote, and is told
//! where that one died; who sleeps for it is woken, whoever dies where.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::ShmSync;
use shm_core::lock::rwlock::{LockError, RwLock};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_testkit::depth::is_deep;
use shm_testkit::model::thread::{JoinHandle, spawn};
use shm_testkit::model::{self, Life, UnsafeCell};
use std::sync::Arc;

const LOCK_AT: u64 = 2048;

/// What the lock guards: two counters that are equal whenever nobody writes.
struct Guarded([UnsafeCell<u32>; 2]);
// SAFETY: guarded by the lock, as the model checks.
unsafe impl Sync for Guarded {}
// SAFETY: as above.
unsafe impl Send for Guarded {}

impl Guarded {
    fn read(&self) -> [u32; 2] {
        // SAFETY: guarded by the lock, as the model checks.
        [0, 1].map(|at| self.0[at].with(|cell: *const u32| unsafe { *cell }))
    }

    fn write(&self, at: usize, value: u32) {
        // SAFETY: as above.
        self.0[at].with_mut(|cell| unsafe { *cell = value });
    }

    fn look(&self) -> u32 {
        let [one, other] = self.read();
        assert_eq!(one, other, "half changed, and nobody said so");
        one
    }

    fn count(&self) {
        let one = self.look();
        self.write(0, one + 1);
        self.write(1, one + 1);
    }
}

struct World<const N: usize> {
    lock: RwLock,
    guarded: Arc<Guarded>,
    table: Table,
    members: [Arc<Member>; N],
}

/// A seat for each of the processes 1, 2, …
fn world<const N: usize>() -> Arc<World<N>> {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, N as u32) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let lock = unsafe { RwLock::create(&mapping, LOCK_AT, N as u32) }.unwrap();
    let members = std::array::from_fn(|at| {
        become_process(at as u32 + 1);
        table.join().unwrap()
    });
    become_process(1);
    let guarded = Arc::new(Guarded([UnsafeCell::new(0), UnsafeCell::new(0)]));
    Arc::new(World { lock, guarded, table, members })
}

#[derive(Clone, Copy)]
enum Does {
    Read,
    Write,
    TryRead,
    TryWrite,
}

impl<const N: usize> World<N> {
    /// Makes whole what a dead one left; `false` where somebody else is at it, or was.
    fn repair(&self, me: &Member) {
        if let Some(recovery) = self.lock.recover(me).unwrap() {
            let [one, _] = self.guarded.read();
            self.guarded.write(1, one);
            drop(recovery.done());
        }
    }

    fn does(&self, me: &Member, what: Does) {
        loop {
            let done = match what {
                Does::Read => self.lock.read(me).map(|_share| _ = self.guarded.look()),
                Does::Write => self.lock.write(me).map(|_right| self.guarded.count()),
                Does::TryRead => self.lock.try_read(me).map(|share| {
                    if share.is_some() {
                        self.guarded.look();
                    }
                }),
                Does::TryWrite => self.lock.try_write(me).map(|right| {
                    if right.is_some() {
                        self.guarded.count();
                    }
                }),
            };
            match done {
                Ok(()) => return,
                Err(LockError::Abandoned { .. }) => self.repair(me),
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Process `at + 1` does it once, and the kernel buries it if it dies of that.
    fn take(&self, at: usize, what: Does, life: &Life) -> bool {
        let process = become_process(at as u32 + 1);
        let lived = life.run(|| self.does(&self.members[at], what));
        if lived.is_none() {
            process_ends(&self.table, process);
        }
        lived.is_some()
    }
}

fn taker<const N: usize>(
    world: &Arc<World<N>>,
    at: usize,
    what: Does,
    life: Life,
) -> JoinHandle<bool> {
    let world = world.clone();
    spawn(move || world.take(at, what, &life))
}

/// Seats are not left: a model that ends has no kernel any more.
fn end<const N: usize>(world: Arc<World<N>>) {
    std::mem::forget(world);
}

/// Two use it, each once; who lives must get it. Whoever is left then has it for itself.
fn two_use(what: [Does; 2]) -> impl Fn([Life; 2]) + Send + Sync + Copy + 'static {
    move |[one, other]| {
        let world = world::<2>();
        let thread = taker(&world, 1, what[1], other);
        let lived = world.take(0, what[0], &one);
        let other_lived = thread.join().unwrap();
        if lived || other_lived {
            let at = usize::from(!lived);
            become_process(at as u32 + 1);
            world.does(&world.members[at], Does::Write);
            assert!(world.guarded.look() > 0);
        }
        end(world);
    }
}

/// One has a share or the right already, and dies or gives it back; the other one waits for it.
fn one_waits(holds: Does) -> impl Fn([Life; 2]) + Send + Sync + Copy + 'static {
    move |[holder, waiter]| {
        let world = world::<2>();
        let lock = world.lock.clone();
        let guards = match holds {
            Does::Read => (Some(lock.read(&world.members[0]).unwrap()), None),
            _ => (None, Some(lock.write(&world.members[0]).unwrap())),
        };
        let thread = taker(&world, 1, Does::Write, waiter);
        let process = become_process(1);
        if holder.run(|| drop(guards)).is_none() {
            process_ends(&world.table, process);
        }
        thread.join().unwrap();
        end(world);
    }
}

/// One dies with a share or with the right. Another one cleans up after it, and may die of that,
/// while a third one writes, who may learn of the death from what the second one wrote.
fn one_cleans_up(held: Does) -> impl Fn([Life; 2]) + Send + Sync + Copy + 'static {
    move |[cleaner, writer]| {
        let world = world::<3>();
        let thread = taker(&world, 2, Does::Write, writer);
        let (lock, me) = (&world.lock, &world.members[0]);
        let process = become_process(1);
        if let Does::Read = held {
            let share = lock.read(me);
            let _ = world.guarded.read();
            std::mem::forget(share);
        } else if let Ok(right) = lock.write(me) {
            world.guarded.write(0, 7);
            std::mem::forget(right);
        }
        process_ends(&world.table, process);
        let process = become_process(2);
        let cleans_up = || world.table.reap(|dead| world.lock.clean_up(dead));
        if cleaner.run(cleans_up).is_none() {
            process_ends(&world.table, process);
        }
        thread.join().unwrap();
        end(world);
    }
}

#[test]
fn who_cleans_up_may_die_anywhere() {
    let bound = model::preemption_bound();
    for held in [Does::Read, Does::Write] {
        let told = model::every_death_of(bound - 1, one_cleans_up(held));
        println!("rwlock, one cleans up: {told:?}");
    }
}

#[test]
fn a_reader_and_a_writer_may_die_anywhere() {
    let bound = model::preemption_bound();
    let told = model::every_death_of(bound, two_use([Does::Read, Does::Write]));
    println!("rwlock, one reads and one writes, one death: {told:?}");
    // Two deaths are many runs: no preemption, and with `SHM_DEEP=1` one less than elsewhere.
    let bound = if is_deep() { bound - 1 } else { 0 };
    let told = model::every_two_deaths(bound, two_use([Does::Read, Does::Write]));
    println!("rwlock, one reads and one writes, two deaths: {told:?}");
}

#[test]
fn two_writers_may_die_anywhere() {
    let bound = model::preemption_bound();
    let told = model::every_death_of(bound - 1, two_use([Does::Write, Does::Write]));
    println!("rwlock, two write: {told:?}");
}

#[test]
fn who_does_not_wait_may_die_anywhere() {
    let bound = model::preemption_bound();
    for what in [[Does::TryRead, Does::Write], [Does::Read, Does::TryWrite]] {
        println!("rwlock, one tries: {:?}", model::every_death_of(bound - 1, two_use(what)));
    }
}

#[test]
fn whoever_waits_is_woken() {
    let bound = model::preemption_bound();
    for holds in [Does::Read, Does::Write] {
        println!("rwlock, one waits: {:?}", model::every_death_of(bound, one_waits(holds)));
    }
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["src/lock/rwlock/"], || {
        for what in [[Does::Read, Does::Write], [Does::Write, Does::Write]] {
            model::check(move || two_use(what)([Life::endless(), Life::endless()]));
        }
        for held in [Does::Read, Does::Write] {
            model::check(move || one_cleans_up(held)([Life::endless(), Life::endless()]));
        }
        model::every_death_of(1, two_use([Does::Read, Does::Write]));
    });
    println!("rwlock: {found} weakened orderings found");
    assert!(found >= 5, "found {found}");
}

/// Two words, each side's own. All zero at first.
struct Pair([AtomicU32; 2]);
// SAFETY: modelled atomics.
unsafe impl ShmSync for Pair {}

/// Planted bug: each announces itself and looks at the other, with no fence in between.
#[test]
fn finds_an_announcement_without_a_fence() {
    model::finds("both are in", || {
        model::check(|| {
            let mapping = Mapping::heap(4096);
            let pair = Pair([AtomicU32::new(0), AtomicU32::new(0)]);
            // SAFETY: nobody else has the mapping yet.
            let pair = unsafe { Mapped::place(&mapping, 0, pair) }.unwrap();
            let theirs = pair.clone();
            let enters = |pair: &Pair, me: usize| {
                pair.0[me].store(1, Relaxed);
                pair.0[1 - me].load(Relaxed) == 0
            };
            let other = spawn(move || enters(&theirs, 1));
            let one = enters(&pair, 0);
            assert!(!(other.join().unwrap() && one), "both are in");
        });
    });
}
