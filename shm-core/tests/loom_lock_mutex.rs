//! The mutex: one at a time has it, sees what the last one wrote, and is told where that one died;
//! who sleeps for it is woken, whoever dies where.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::ShmSync;
use shm_core::event::EventCount;
use shm_core::lock::mutex::{LockError, Mutex, MutexGuard};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_testkit::model::thread::{JoinHandle, spawn};
use shm_testkit::model::{self, Life, UnsafeCell};
use std::sync::Arc;

const MUTEX_AT: u64 = 2048;

/// What the mutex guards: two counters that are equal whenever it is free.
struct Guarded([UnsafeCell<u32>; 2]);
// SAFETY: guarded by the mutex, as the model checks.
unsafe impl Sync for Guarded {}
// SAFETY: as above.
unsafe impl Send for Guarded {}

struct World<const N: usize> {
    mutex: Mutex,
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
    let mutex = unsafe { Mutex::create(&mapping, MUTEX_AT) }.unwrap();
    let members = std::array::from_fn(|at| {
        become_process(at as u32 + 1);
        table.join().unwrap()
    });
    become_process(1);
    let guarded = Arc::new(Guarded([UnsafeCell::new(0), UnsafeCell::new(0)]));
    Arc::new(World { mutex, guarded, table, members })
}

/// Repairs where told so, and counts one more.
fn count(result: Result<MutexGuard<'_>, LockError<'_>>, guarded: &Guarded) {
    let guard = match result {
        Ok(guard) => {
            let [one, other] = guarded.read();
            assert_eq!(one, other, "half changed, and nobody said so");
            guard
        }
        Err(LockError::Abandoned(abandoned)) => {
            let [one, _] = guarded.read();
            guarded.write(1, one);
            abandoned.recover()
        }
        Err(other) => panic!("{other}"),
    };
    let [one, _] = guarded.read();
    guarded.write(0, one + 1);
    guarded.write(1, one + 1);
    drop(guard);
}

impl Guarded {
    fn read(&self) -> [u32; 2] {
        // SAFETY: guarded by the mutex, as the model checks.
        [0, 1].map(|at| self.0[at].with(|cell: *const u32| unsafe { *cell }))
    }

    fn write(&self, at: usize, value: u32) {
        // SAFETY: as above.
        self.0[at].with_mut(|cell| unsafe { *cell = value });
    }
}

impl<const N: usize> World<N> {
    /// Process `at + 1` takes it once, and the kernel buries it if it dies of that.
    fn take(&self, at: usize, life: &Life) -> bool {
        let process = become_process(at as u32 + 1);
        let lived = life.run(|| {
            count(self.mutex.lock(&self.members[at]), &self.guarded);
        });
        if lived.is_none() {
            process_ends(&self.table, process);
        }
        lived.is_some()
    }
}

fn taker<const N: usize>(world: &Arc<World<N>>, at: usize, life: Life) -> JoinHandle<bool> {
    let world = world.clone();
    spawn(move || world.take(at, &life))
}

/// Seats are not left: a model that ends has no kernel any more.
fn end<const N: usize>(world: Arc<World<N>>) {
    std::mem::forget(world);
}

/// Two take it, each once, and the one who lives must get it.
fn two_take([one, other]: [Life; 2]) {
    let world = world::<3>();
    let thread = taker(&world, 1, other);
    let mut lived = u32::from(world.take(0, &one));
    lived += u32::from(thread.join().unwrap());
    // Whoever comes later gets it, and finds what the living did.
    become_process(3);
    count(world.mutex.lock(&world.members[2]), &world.guarded);
    let [count, same] = world.guarded.read();
    assert!(count == same && count > lived, "{count} after {lived} lived");
    end(world);
}

fn nobody_dies() {
    two_take([Life::endless(), Life::endless()]);
}

/// One has it already, dies or gives it up; two wait for it.
fn two_wait([holder, first, second]: [Life; 3]) {
    let world = world::<3>();
    let guard = world.mutex.lock(&world.members[0]).unwrap();
    let threads = [taker(&world, 1, first), taker(&world, 2, second)];
    let process = become_process(1);
    if holder.run(|| drop(guard)).is_none() {
        process_ends(&world.table, process);
    }
    for thread in threads {
        thread.join().unwrap();
    }
    end(world);
}

/// The holder dies, the one who takes over dies before it has repaired, or gives up: poisoned, or
/// told again, and `recover` heals both.
fn a_repair([holder, repairer]: [Life; 2]) {
    let world = world::<3>();
    let theirs = world.clone();
    let first = spawn(move || {
        let process = become_process(2);
        let lived = holder.run(|| {
            let guard = theirs.mutex.lock(&theirs.members[1]).unwrap();
            theirs.guarded.write(0, 7);
            theirs.guarded.write(1, 7);
            drop(guard);
        });
        if lived.is_none() {
            process_ends(&theirs.table, process);
        }
    });
    first.join().unwrap();
    let theirs = world.clone();
    let second = spawn(move || {
        let process = become_process(3);
        let lived = repairer.run(|| match theirs.mutex.lock(&theirs.members[2]) {
            Err(LockError::Abandoned(given_up)) => drop(given_up),
            Ok(guard) => drop(guard),
            Err(other) => panic!("{other}"),
        });
        if lived.is_none() {
            process_ends(&theirs.table, process);
        }
    });
    // Meanwhile, and after.
    become_process(1);
    for _ in 0..2 {
        match world.mutex.recover(&world.members[0]) {
            Err(LockError::Abandoned(abandoned)) => {
                let [one, _] = world.guarded.read();
                world.guarded.write(1, one);
                drop(abandoned.recover());
            }
            Ok(guard) => {
                let [one, other] = world.guarded.read();
                assert_eq!(one, other, "half changed, and nobody said so");
                drop(guard);
            }
            Err(other) => panic!("{other}"),
        }
    }
    second.join().unwrap();
    end(world);
}

#[test]
fn whoever_takes_it_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("mutex, two take it, one death: {:?}", model::every_death_of(bound, two_take));
    println!("mutex, two take it, two deaths: {:?}", model::every_two_deaths(bound - 1, two_take));
}

#[test]
fn whoever_waits_is_woken_and_one_that_dies_takes_no_wake_up_along() {
    let bound = model::preemption_bound();
    println!("mutex, two wait: {:?}", model::every_death_of(bound - 1, two_wait));
}

#[test]
fn who_repairs_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("mutex, repair: {:?}", model::every_two_deaths(bound - 1, a_repair));
}

/// Somebody joins and takes the mutex: who has just come is not taken for dead.
fn one_comes() {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let mutex = unsafe { Mutex::create(&mapping, MUTEX_AT) }.unwrap();
    become_process(1);
    let (me, theirs) = (table.join().unwrap(), mutex.clone());
    let comes = spawn(move || {
        become_process(2);
        let member = table.join().unwrap();
        std::mem::forget(theirs.lock(&member).expect("nobody died"));
        std::mem::forget(member);
    });
    drop(mutex.try_lock(&me).expect("it lives"));
    comes.join().unwrap();
}

#[test]
fn who_has_just_come_lives() {
    model::check(one_comes);
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["src/lock/mutex/"], || {
        model::check(nobody_dies);
        model::check(|| a_repair([Life::endless(), Life::endless()]));
    });
    println!("mutex: {found} weakened orderings found");
    assert!(found >= 2, "found {found}");
}

/// A lock whose word does not say who has it. All zero at first.
struct Anonymous {
    word: AtomicU32,
    freed: EventCount,
}
// SAFETY: modelled atomics.
unsafe impl ShmSync for Anonymous {}

impl Anonymous {
    fn take(&self) {
        loop {
            let ticket = self.freed.prepare();
            if self.word.compare_exchange(0, 1, Relaxed, Relaxed).is_ok() {
                break;
            }
            self.freed.wait(ticket, None);
        }
        self.word.store(0, Relaxed);
        self.freed.notify();
    }
}

/// Planted bug: a claim that names nobody. Its owner dies, and the other one sleeps for ever.
#[test]
fn finds_a_claim_that_names_nobody() {
    model::finds("deadlock", || {
        model::every_death(|fuel, deaths| {
            let mapping = Mapping::heap(4096);
            let lock = Anonymous { word: AtomicU32::new(0), freed: EventCount::new() };
            // SAFETY: nobody else has the mapping yet.
            let lock = unsafe { Mapped::place(&mapping, 0, lock) }.unwrap();
            let (theirs, deaths) = (lock.clone(), deaths.clone());
            let mortal = spawn(move || {
                if model::mortal(fuel, || theirs.take()).is_none() {
                    deaths.died();
                }
            });
            lock.take();
            mortal.join().unwrap();
        });
    });
}
