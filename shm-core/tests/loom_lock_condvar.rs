//! The condition variable: a change that is notified is never slept through, whoever dies where; a
//! waiter takes the mutex again, and is told where somebody died with it.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::lock::condvar::Condvar;
use shm_core::lock::mutex::{LockError, Mutex, MutexGuard};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table, process_ends};
use shm_core::process::model::become_process;
use shm_testkit::model::thread::{JoinHandle, spawn};
use shm_testkit::model::{self, Life, UnsafeCell};
use std::sync::Arc;

/// What the mutex guards: how many things there are to take.
struct Guarded(UnsafeCell<u32>);
// SAFETY: guarded by the mutex, as the model checks.
unsafe impl Sync for Guarded {}
// SAFETY: as above.
unsafe impl Send for Guarded {}

impl Guarded {
    fn get(&self) -> u32 {
        // SAFETY: guarded by the mutex, as the model checks.
        self.0.with(|cell| unsafe { *cell })
    }

    fn set(&self, value: u32) {
        // SAFETY: as above.
        self.0.with_mut(|cell| unsafe { *cell = value });
    }
}

struct World {
    mutex: Mutex,
    changed: Condvar,
    things: Guarded,
    table: Table,
    /// Of processes 1, 2, 3.
    members: [Arc<Member>; 3],
}

fn world() -> Arc<World> {
    let mapping = Mapping::heap(4096);
    // SAFETY: nobody else has the mapping yet.
    let table = unsafe { Table::create(&mapping, 0, 3) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let mutex = unsafe { Mutex::create(&mapping, 2048) }.unwrap();
    // SAFETY: as above, and the mutex ends before.
    let changed = unsafe { Condvar::create(&mapping, 3072) }.unwrap();
    let members = std::array::from_fn(|at| {
        become_process(at as u32 + 1);
        table.join().unwrap()
    });
    become_process(1);
    let things = Guarded(UnsafeCell::new(0));
    Arc::new(World { mutex, changed, things, table, members })
}

type Result<'a, T> = std::result::Result<T, LockError<'a>>;

/// A death with the mutex leaves nothing half changed here.
fn recovered<'a, T>(taken: Result<'a, T>, or: impl FnOnce(MutexGuard<'a>) -> T) -> T {
    match taken {
        Ok(taken) => taken,
        Err(LockError::Abandoned(abandoned)) => or(abandoned.recover()),
        Err(other) => panic!("{other}"),
    }
}

impl World {
    fn live(&self, pid: u32, life: &Life, action: impl FnOnce()) {
        let process = become_process(pid);
        if life.run(action).is_none() {
            process_ends(&self.table, process);
        }
    }

    /// Waits until there is a thing and takes it; or until process 2, which makes one, is dead.
    fn take(&self, me: &Member) {
        let maker = me.watch(self.members[1].id());
        let mut guard = recovered(self.mutex.lock(me), |guard| guard);
        while self.things.get() == 0 && !maker.is_dead() {
            let woken = self.changed.wait(guard, &[&maker]).map(|(guard, _)| guard);
            guard = recovered(woken, |guard| guard);
        }
        let things = self.things.get();
        if things > 0 {
            self.things.set(things - 1);
        }
        drop(guard);
    }

    fn make(&self, me: &Member, things: u32) {
        let guard = recovered(self.mutex.lock(me), |guard| guard);
        self.things.set(self.things.get() + things);
        drop(guard);
        self.changed.notify_one();
    }
}

fn maker(world: &Arc<World>, things: u32, life: Life) -> JoinHandle<()> {
    let world = world.clone();
    spawn(move || world.live(2, &life, || world.make(&world.members[1], things)))
}

fn one_waits([waiter, other]: [Life; 2]) {
    let world = world();
    let thread = maker(&world, 1, other);
    world.live(1, &waiter, || world.take(&world.members[0]));
    thread.join().unwrap();
    std::mem::forget(world);
}

/// One of those who wait may die, be it of the only notification: the other one gets its thing.
fn two_wait([mortal]: [Life; 1]) {
    let world = world();
    let theirs = world.clone();
    let other = spawn(move || theirs.live(3, &mortal, || theirs.take(&theirs.members[2])));
    let making = maker(&world, 2, Life::endless());
    become_process(1);
    world.take(&world.members[0]);
    making.join().unwrap();
    other.join().unwrap();
    std::mem::forget(world);
}

#[test]
fn who_waits_and_who_notifies_may_die_anywhere() {
    let bound = model::preemption_bound();
    println!("condvar, one waits, one death: {:?}", model::every_death_of(bound, one_waits));
    println!("condvar, one waits, two deaths: {:?}", model::every_two_deaths(bound - 2, one_waits));
}

#[test]
fn one_that_dies_takes_no_notification_along() {
    let bound = model::preemption_bound();
    println!("condvar, two wait: {:?}", model::every_death_of(bound - 1, two_wait));
}

/// The models pass, and the code has no ordering but those of mutex and event count.
#[test]
fn no_ordering_is_needed() {
    model::finds("no ordering site met", || {
        model::every_ordering_matters(&["src/lock/condvar/"], || {
            model::check(|| one_waits([Life::endless(), Life::endless()]));
        });
    });
}

/// Planted bug: it gives the mutex up first, and announces itself afterwards.
#[test]
fn finds_one_that_announces_itself_too_late() {
    model::finds("deadlock", || {
        model::check(|| {
            let mapping = Mapping::heap(4096);
            // SAFETY: nobody else has the mapping yet.
            let event = unsafe {
                let event = shm_core::event::EventCount::new();
                shm_core::mapping::Mapped::place(&mapping, 0, event)
            };
            let (event, world) = (event.unwrap(), world());
            let (theirs, notified) = (world.clone(), event.clone());
            let thread = spawn(move || {
                become_process(2);
                let guard = theirs.mutex.lock(&theirs.members[1]).unwrap();
                theirs.things.set(1);
                drop(guard);
                notified.notify();
            });
            loop {
                let guard = world.mutex.lock(&world.members[0]).unwrap();
                let is_there = world.things.get() > 0;
                drop(guard);
                if is_there {
                    break;
                }
                let ticket = event.prepare();
                event.wait(ticket, None);
            }
            thread.join().unwrap();
            std::mem::forget(world);
        });
    });
}
