//! A condition variable outlives whoever dies in waiting or notifying, with the mutex or without
//! it: the next one gets the mutex, and the next notification wakes the next waiter.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::{Makes, shared, without, words_from};
use shm_core::lock::condvar::{Condvar, Woke};
use shm_core::lock::mutex::{LockError, Mutex, MutexGuard};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MUTEX_AT: u64 = 512;
const AT: u64 = MUTEX_AT + Mutex::BYTES;
/// Where the number of the thread lies, counted from `MUTEX_AT`.
const THREAD: Range<usize> = 9..12;
const DONE: usize = 0;
const NAP: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(20);
/// A bystander reads `/proc` to join, and to learn who lives.
const BYSTANDER_MAX: usize = 500_000;

struct World {
    mapping: Arc<Mapping>,
    me: Arc<Member>,
    mutex: Mutex,
    changed: Condvar,
}

fn condvar(mapping: &Arc<Mapping>) -> Condvar {
    // SAFETY: nobody has been told of the place.
    unsafe { Condvar::create(mapping, AT) }.unwrap()
}

fn world() -> World {
    let (_, mapping) = shared(4096);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 4) }.unwrap();
    // SAFETY: as above, and the table ends before.
    let mutex = unsafe { Mutex::create(&mapping, MUTEX_AT) }.unwrap();
    World { me: table.join().unwrap(), mutex, changed: condvar(&mapping), mapping }
}

/// Nothing is half changed here.
fn recovered<'a>(
    taken: Result<MutexGuard<'a>, LockError<'a>>,
) -> Result<MutexGuard<'a>, LockError<'a>> {
    match taken {
        Err(LockError::Abandoned(abandoned)) => Ok(abandoned.recover()),
        other => other,
    }
}

/// What a process does with a condition variable.
struct Uses {
    name: &'static str,
    operations: &'static [&'static str],
    operate: fn(&World, &Member, &Notes),
}

impl Scenario for Uses {
    type World = World;
    type Doomed = Arc<Member>;

    fn name(&self) -> String {
        format!("condvar, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        world()
    }

    fn prepare(&self, world: &World, _: &Notes) -> Arc<Member> {
        world.me.table().join().unwrap()
    }

    fn operate(&self, world: &World, me: &mut Arc<Member>, notes: &Notes) {
        (self.operate)(world, me, notes);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        without(words_from(&world.mapping, MUTEX_AT), &[THREAD])
    }

    fn check(&self, world: World, _: &Notes, _: End) -> Result<(), String> {
        let end = Instant::now() + LIMIT;
        let taken = recovered(world.mutex.lock_until(&world.me, end));
        let guard = taken.map_err(|error| format!("the mutex: {error}"))?;
        let notifier = std::thread::spawn({
            let (mutex, changed, me) =
                (world.mutex.clone(), world.changed.clone(), world.me.clone());
            move || {
                // Not before the other one waits.
                drop(mutex.lock(&me).unwrap());
                changed.notify_one();
            }
        });
        let woken = world.changed.wait_until(guard, &[], end).map(|(_, woke)| woke);
        let told = match woken {
            Ok(Woke::Notified) => Ok(()),
            other => Err(format!("after a death nobody is woken: {other:?}")),
        };
        let _ = notifier.join();
        told
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let me = world.me.table().join().map_err(|error| error.to_string())?;
            world.changed.notify_all();
            match recovered(world.mutex.lock_until(&me, Instant::now())) {
                Ok(_) | Err(LockError::TimedOut) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        }))
    }

    fn forked(&self, world: &World, me: &mut Arc<Member>) -> Result<(), String> {
        let refused = matches!(world.mutex.lock(me), Err(LockError::Forked(_)));
        if refused { Ok(()) } else { Err("takes the mutex in its parent's name".to_owned()) }
    }
}

#[test]
fn who_waits_and_who_notifies_may_die_anywhere() {
    let scenario = Uses {
        name: "wait_until, notify",
        operations: &[
            "shm_core::lock::condvar::Condvar::wait_until",
            "shm_core::lock::condvar::Condvar::notify_one",
            "shm_core::lock::condvar::Condvar::notify_all",
        ],
        operate: |world, me, notes| {
            let guard = world.mutex.lock(me).unwrap();
            let (guard, woke) = world.changed.wait_until(guard, &[], Instant::now()).unwrap();
            assert_eq!(woke, Woke::TimedOut);
            notes.count(DONE);
            world.changed.notify_one();
            drop(guard);
            world.changed.notify_all();
            notes.count(DONE);
        },
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(60).bystander_at_most(BYSTANDER_MAX).stop().passes();
    Run::new(&scenario).points(100).fork().passes();
}

/// It names a peer that has gone, so it sleeps not at all, and takes the mutex again.
#[test]
fn who_waits_for_one_that_is_gone_may_die_anywhere() {
    let scenario = Uses {
        name: "wait for one that is gone",
        operations: &["shm_core::lock::condvar::Condvar::wait"],
        operate: |world, me, _| {
            // The last seat: nobody's.
            let id = shm_core::participants::ParticipantId::from_bits(3 << 22 | 1).unwrap();
            let gone = me.watch(id);
            let guard = world.mutex.lock(me).unwrap();
            let (_guard, woke) = world.changed.wait(guard, &[&gone]).unwrap();
            assert_eq!(woke, Woke::Died { by: id });
        },
    };
    Run::new(&scenario).kill().passes();
}

#[test]
fn one_may_die_asleep() {
    let scenario = Uses {
        name: "wait_until, asleep",
        operations: &["shm_core::lock::condvar::Condvar::wait_until"],
        operate: |world, me, _| {
            let peer = me.watch(world.me.id());
            let guard = world.mutex.lock(me).unwrap();
            let _ = world.changed.wait_until(guard, &[&peer], Instant::now() + NAP);
        },
    };
    Run::new(&scenario).asleep().passes();
}

#[test]
fn its_maker_may_die_anywhere() {
    let maker = Makes {
        name: "condvar, create",
        operations: &["shm_core::lock::condvar::Condvar::create"],
        at: AT,
        make: |mapping| drop(condvar(mapping)),
        check: |mapping| Condvar::attach(mapping, AT).map(drop).map_err(|error| error.to_string()),
    };
    maker.may_die_anywhere();
}
