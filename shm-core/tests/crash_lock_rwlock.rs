//! A reader-writer lock outlives whoever dies in reading, writing, waiting, repairing, giving back
//! or cleaning up: the next one gets it, and is told of a death in the midst of writing.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::{Makes, shared, words_from};
use shm_core::lock::rwlock::{LockError, ReadGuard, RwLock, WriteGuard};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, ParticipantId, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SLOTS: u32 = 3;
const AT: u64 = 512;
/// Two counters that the lock guards: equal whenever nobody writes.
const GUARDED_AT: u64 = AT + RwLock::bytes_for(SLOTS);
/// In the notes: how many changes of the counters were acknowledged.
const CHANGED: usize = 0;
/// So long one sleeps that is killed asleep.
const NAP: Duration = Duration::from_secs(2);
/// A bystander reads `/proc` to join, and to learn who lives.
const BYSTANDER_MAX: usize = 500_000;

struct World {
    mapping: Arc<Mapping>,
    me: Arc<Member>,
    lock: RwLock,
}

impl World {
    fn new() -> World {
        let (_, mapping) = shared(4096);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SLOTS) }.unwrap();
        // SAFETY: as above, and the table ends before.
        let lock = unsafe { RwLock::create(&mapping, AT, SLOTS) }.unwrap();
        World { me: table.join().unwrap(), lock, mapping }
    }

    fn guarded(&self) -> [Mapped<AtomicU64>; 2] {
        [0, 8].map(|at| Mapped::new(&self.mapping, GUARDED_AT + at).unwrap())
    }

    fn look(&self, taken: Result<ReadGuard<'_>, LockError>) -> Result<u64, String> {
        let _share = taken.map_err(|error| error.to_string())?;
        let [one, other] = self.guarded().map(|word| word.load(Relaxed));
        if one == other { Ok(one) } else { Err("half changed, and nobody was told".to_owned()) }
    }

    fn change(&self, taken: Result<WriteGuard<'_>, LockError>) -> Result<(), String> {
        let _right = taken.map_err(|error| error.to_string())?;
        let [one, other] = self.guarded();
        if one.load(Relaxed) != other.load(Relaxed) {
            return Err("half changed, and nobody was told".to_owned());
        }
        one.store(one.load(Relaxed) + 1, Relaxed);
        other.store(other.load(Relaxed) + 1, Relaxed);
        Ok(())
    }

    /// Makes whole what a dead one left, if one did.
    fn repair(&self, me: &Member) -> Result<(), String> {
        if let Some(recovery) = self.lock.recover(me).map_err(|error| error.to_string())? {
            let [one, other] = self.guarded();
            other.store(one.load(Relaxed), Relaxed);
            drop(recovery.done());
        }
        Ok(())
    }

    /// Reads and writes, having repaired where told so.
    fn use_it(&self, me: &Member) -> Result<(), String> {
        let deadline = Instant::now() + 10 * NAP;
        if let Err(LockError::Abandoned { .. }) = self.lock.read_until(me, deadline).map(drop) {
            self.repair(me)?;
        }
        self.change(self.lock.write_until(me, deadline))?;
        self.look(self.lock.try_read(me).map(|share| share.expect("it is free"))).map(drop)
    }

    /// Somebody who has died with the right and a half change, or with a share.
    fn die(&self, writing: bool) {
        assert!(in_a_fork(|| {
            let me = self.me.table().join().map(std::mem::ManuallyDrop::new);
            if let Ok(me) = &me {
                if writing {
                    std::mem::forget(self.lock.write(me));
                    self.guarded()[0].store(1, Relaxed);
                } else {
                    std::mem::forget(self.lock.read(me));
                }
            }
            me.is_ok()
        }));
    }
}

/// Who has it when the operation begins.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nobody,
    ADeadReader,
    ADeadWriter,
    TheTest,
}

/// What a process does with a lock.
struct Uses {
    name: &'static str,
    operations: &'static [&'static str],
    before: Before,
    operate: fn(&World, &Arc<Member>, &Notes),
}

impl Scenario for Uses {
    type World = World;
    type Doomed = Arc<Member>;

    fn name(&self) -> String {
        format!("rwlock, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let world = World::new();
        match self.before {
            Before::Nobody => (),
            Before::ADeadReader => world.die(false),
            Before::ADeadWriter => world.die(true),
            Before::TheTest => std::mem::forget(world.lock.read(&world.me).unwrap()),
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Arc<Member> {
        world.me.table().join().unwrap()
    }

    fn operate(&self, world: &World, me: &mut Arc<Member>, notes: &Notes) {
        (self.operate)(world, me, notes);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, AT)
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        if self.before == Before::TheTest {
            world.lock.clean_up(world.me.id());
        }
        world.use_it(&world.me)?;
        world.change(world.lock.try_write(&world.me).map(|right| right.expect("it is free")))?;
        let [count, _] = world.guarded().map(|word| word.load(Relaxed));
        let least = notes.get(CHANGED) + 2;
        if count < least {
            return Err(format!("{least} changes were acknowledged, and there are {count}"));
        }
        Ok(())
    }

    /// Another participant looks, and waits for a moment: it has it or not, and comes back.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let me = world.me.table().join().map_err(|error| error.to_string())?;
            match world.lock.try_read(&me) {
                Ok(None) => (),
                Ok(Some(share)) => drop(world.look(Ok(share))?),
                Err(LockError::Abandoned { .. }) => world.repair(&me)?,
                Err(error) => return Err(error.to_string()),
            }
            match world.lock.write_until(&me, Instant::now()) {
                Err(LockError::TimedOut | LockError::Abandoned { .. }) => Ok(()),
                taken => world.change(taken),
            }
        }))
    }

    /// Another participant takes it.
    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let me = world.me.table().join().map_err(|error| error.to_string())?;
            world.use_it(&me)
        }))
    }

    fn forked(&self, world: &World, me: &mut Arc<Member>) -> Result<(), String> {
        let refused = matches!(world.lock.read(me), Err(LockError::Forked(_)))
            && matches!(world.lock.try_write(me), Err(LockError::Forked(_)))
            && matches!(world.lock.recover(me), Err(LockError::Forked(_)));
        if refused { Ok(()) } else { Err("takes it in its parent's name".to_owned()) }
    }
}

const USES: Uses =
    Uses { name: "", operations: &[], before: Before::Nobody, operate: |_, _, _| () };

fn change(world: &World, taken: Result<WriteGuard<'_>, LockError>, notes: &Notes) {
    world.change(taken).unwrap();
    notes.count(CHANGED);
}

#[test]
fn who_reads_may_die_anywhere() {
    let scenario = Uses {
        name: "read",
        operations: &[
            "shm_core::lock::rwlock::RwLock::read",
            "shm_core::lock::rwlock::RwLock::read_until",
            "shm_core::lock::rwlock::RwLock::try_read",
            "shm_core::lock::rwlock::ReadGuard::drop",
        ],
        operate: |world, me, _| {
            let both = (world.lock.read(me).unwrap(), world.lock.try_read(me).unwrap());
            world.look(world.lock.read_until(me, Instant::now() + NAP)).unwrap();
            drop(both);
        },
        ..USES
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(100).bystander_at_most(BYSTANDER_MAX).stop().passes();
    Run::new(&scenario).points(200).fork().passes();
}

#[test]
fn who_writes_may_die_anywhere() {
    let scenario = Uses {
        name: "write",
        operations: &[
            "shm_core::lock::rwlock::RwLock::write",
            "shm_core::lock::rwlock::RwLock::write_until",
            "shm_core::lock::rwlock::RwLock::try_write",
            "shm_core::lock::rwlock::WriteGuard::drop",
        ],
        operate: |world, me, notes| {
            change(world, world.lock.write(me), notes);
            change(world, world.lock.try_write(me).map(Option::unwrap), notes);
            change(world, world.lock.write_until(me, Instant::now() + NAP), notes);
        },
        ..USES
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(100).bystander_at_most(BYSTANDER_MAX).stop().passes();
    Run::new(&scenario).points(200).fork().passes();
}

/// It asks the kernel about the dead one, which takes most of its instructions.
#[test]
fn who_repairs_may_die_anywhere() {
    let scenario = Uses {
        name: "recover",
        operations: &[
            "shm_core::lock::rwlock::RwLock::recover",
            "shm_core::lock::rwlock::Recovery::drop",
        ],
        before: Before::ADeadWriter,
        operate: |world, me, _| {
            // Once given up, once done.
            drop(world.lock.recover(me).unwrap().unwrap());
            world.repair(me).unwrap();
        },
    };
    Run::new(&scenario).points(300).kill().passes();
    Run::new(&scenario).points(20).nested().passes();
}

#[test]
fn who_writes_after_a_dead_reader_may_die_anywhere() {
    let scenario = Uses {
        name: "write, after a dead reader",
        operations: &["shm_core::lock::rwlock::RwLock::write"],
        before: Before::ADeadReader,
        operate: |world, me, notes| change(world, world.lock.write(me), notes),
    };
    Run::new(&scenario).points(300).kill().passes();
}

#[test]
fn who_cleans_up_may_die_anywhere() {
    for (before, name) in
        [(Before::ADeadReader, "a reader's clean up"), (Before::ADeadWriter, "a writer's clean up")]
    {
        let scenario = Uses {
            name,
            operations: &["shm_core::lock::rwlock::RwLock::clean_up"],
            before,
            operate: |world, _, _| {
                // The first user of the second seat.
                world.lock.clean_up(ParticipantId::from_bits(1 << 22 | 1).unwrap());
            },
        };
        Run::new(&scenario).kill().passes();
    }
}

#[test]
fn one_may_die_asleep() {
    let scenario = Uses {
        name: "write_until, asleep",
        operations: &["shm_core::lock::rwlock::RwLock::write_until"],
        before: Before::TheTest,
        operate: |world, me, _| {
            let taken = world.lock.write_until(me, Instant::now() + NAP);
            assert!(matches!(taken, Err(LockError::TimedOut)));
        },
    };
    Run::new(&scenario).asleep().passes();
}

#[test]
fn its_maker_may_die_anywhere() {
    let maker = Makes {
        name: "rwlock, create",
        operations: &["shm_core::lock::rwlock::RwLock::create"],
        at: AT,
        make: |mapping| {
            // SAFETY: nobody has been told of the place.
            unsafe { RwLock::create(mapping, AT, SLOTS) }.unwrap();
        },
        check: |mapping| {
            let lock = RwLock::attach(mapping, AT).map_err(|error| error.to_string())?;
            // SAFETY: nobody else has the mapping.
            let table = unsafe { Table::create(mapping, 0, 1) }.unwrap();
            let me = table.join().unwrap();
            lock.write(&me).map(drop).map_err(|error| error.to_string())
        },
    };
    maker.may_die_anywhere();
}
