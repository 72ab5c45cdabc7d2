//! A mutex outlives whoever dies in taking it, holding it, waiting for it, repairing what it
//! guards, giving it up, or cleaning up: the next one gets it, and is told of a death inside.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;

use crash_common::{Makes, shared, without, words_from};
use shm_core::lock::mutex::{LockError, Mutex, MutexGuard};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, ParticipantId, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SLOTS: u32 = 4;
const AT: u64 = 512;
/// Two counters that the mutex guards: equal whenever it is free.
const GUARDED_AT: u64 = AT + Mutex::BYTES;
/// Where the number of the thread lies, counted from `AT`.
const THREAD: Range<usize> = 9..12;
/// In the notes: how many changes of the counters were acknowledged.
const CHANGED: usize = 0;
/// So long one sleeps that is killed asleep.
const NAP: Duration = Duration::from_secs(2);
/// A bystander reads `/proc` to join, and to learn who lives.
const BYSTANDER_MAX: usize = 500_000;

struct World {
    mapping: Arc<Mapping>,
    me: Arc<Member>,
    mutex: Mutex,
}

type Taken<'a> = Result<MutexGuard<'a>, LockError<'a>>;

impl World {
    fn new() -> World {
        let (_, mapping) = shared(4096);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SLOTS) }.unwrap();
        // SAFETY: as above, and the table ends before.
        let mutex = unsafe { Mutex::create(&mapping, AT) }.unwrap();
        World { me: table.join().unwrap(), mutex, mapping }
    }

    fn guarded(&self) -> [Mapped<AtomicU64>; 2] {
        [0, 8].map(|at| Mapped::new(&self.mapping, GUARDED_AT + at).unwrap())
    }

    /// One more change, having repaired where told so.
    fn change(&self, taken: Taken<'_>) -> Result<(), String> {
        let [one, other] = self.guarded();
        let guard = match taken {
            Ok(guard) if one.load(Relaxed) != other.load(Relaxed) => {
                drop(guard);
                return Err("half changed, and nobody was told".to_owned());
            }
            Ok(guard) => guard,
            Err(LockError::Abandoned(abandoned)) => {
                other.store(one.load(Relaxed), Relaxed);
                abandoned.recover()
            }
            Err(error) => return Err(error.to_string()),
        };
        one.store(one.load(Relaxed) + 1, Relaxed);
        other.store(other.load(Relaxed) + 1, Relaxed);
        drop(guard);
        Ok(())
    }

    /// All but the number of the thread.
    fn image(&self) -> Vec<u8> {
        without(words_from(&self.mapping, AT), &[THREAD])
    }

    /// Somebody who has died with the mutex, and a half change.
    fn die(&self) {
        assert!(in_a_fork(|| {
            let me = self.me.table().join().map(std::mem::ManuallyDrop::new);
            if let Ok(me) = &me {
                std::mem::forget(self.mutex.lock(me));
                self.guarded()[0].store(1, Relaxed);
            }
            me.is_ok()
        }));
    }
}

/// What a process does with a mutex.
struct Uses {
    name: &'static str,
    operations: &'static [&'static str],
    /// Somebody has died with it.
    has_dead: bool,
    /// The test process has it.
    is_held: bool,
    operate: fn(&World, &Arc<Member>, &Notes),
}

impl Scenario for Uses {
    type World = World;
    type Doomed = Arc<Member>;

    fn name(&self) -> String {
        format!("mutex, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let world = World::new();
        if self.has_dead {
            world.die();
        }
        if self.is_held {
            std::mem::forget(world.mutex.lock(&world.me).unwrap());
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
        world.image()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        if self.is_held {
            world.mutex.clean_up(world.me.id());
        }
        let deadline = Instant::now() + 10 * NAP;
        let taken = match world.mutex.lock_until(&world.me, deadline) {
            Err(LockError::Poisoned { .. }) => world.mutex.recover(&world.me),
            taken => taken,
        };
        world.change(taken)?;
        world.change(world.mutex.try_lock(&world.me).map(|guard| guard.expect("it is free")))?;
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
            let taken = match world.mutex.try_lock(&me) {
                Ok(None) => world.mutex.lock_until(&me, Instant::now()),
                Ok(Some(guard)) => Ok(guard),
                Err(error) => Err(error),
            };
            match taken {
                Err(LockError::TimedOut) => Ok(()),
                taken => world.change(taken),
            }
        }))
    }

    /// Another participant takes it.
    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let me = world.me.table().join().map_err(|error| error.to_string())?;
            world.change(world.mutex.recover(&me))
        }))
    }

    fn forked(&self, world: &World, me: &mut Arc<Member>) -> Result<(), String> {
        let refused = matches!(world.mutex.lock(me), Err(LockError::Forked(_)))
            && matches!(world.mutex.try_lock(me), Err(LockError::Forked(_)))
            && matches!(world.mutex.recover(me), Err(LockError::Forked(_)));
        if refused { Ok(()) } else { Err("takes it in its parent's name".to_owned()) }
    }
}

const USES: Uses =
    Uses { name: "", operations: &[], has_dead: false, is_held: false, operate: |_, _, _| () };

fn change(world: &World, taken: Taken<'_>, notes: &Notes) {
    world.change(taken).unwrap();
    notes.count(CHANGED);
}

#[test]
fn who_takes_it_and_gives_it_up_may_die_anywhere() {
    let scenario = Uses {
        name: "lock, try_lock, give up",
        operations: &[
            "shm_core::lock::mutex::Mutex::lock",
            "shm_core::lock::mutex::Mutex::lock_until",
            "shm_core::lock::mutex::Mutex::try_lock",
            "shm_core::lock::mutex::MutexGuard::drop",
        ],
        operate: |world, me, notes| {
            change(world, world.mutex.lock(me), notes);
            change(world, world.mutex.try_lock(me).map(Option::unwrap), notes);
            let deadline = Instant::now() + NAP;
            change(world, world.mutex.lock_until(me, deadline), notes);
        },
        ..USES
    };
    Run::new(&scenario).kill().passes();
    Run::new(&scenario).points(100).bystander_at_most(BYSTANDER_MAX).stop().passes();
    Run::new(&scenario).points(200).fork().passes();
}

/// It asks the kernel about the dead one, which takes most of its instructions.
#[test]
fn who_takes_over_and_repairs_may_die_anywhere() {
    let scenario = Uses {
        name: "take over, repair",
        operations: &[
            "shm_core::lock::mutex::Mutex::lock",
            "shm_core::lock::mutex::Abandoned::recover",
            "shm_core::lock::mutex::MutexGuard::drop",
        ],
        has_dead: true,
        operate: |world, me, notes| change(world, world.mutex.lock(me), notes),
        ..USES
    };
    Run::new(&scenario).points(300).kill().passes();
    Run::new(&scenario).points(20).nested().passes();
}

#[test]
fn who_poisons_and_who_heals_may_die_anywhere() {
    let scenario = Uses {
        name: "poison, recover",
        operations: &["shm_core::lock::mutex::Mutex::recover"],
        has_dead: true,
        operate: |world, me, notes| {
            let Err(LockError::Abandoned(given_up)) = world.mutex.lock(me) else { panic!("dead") };
            drop(given_up);
            let told = world.mutex.lock(me);
            assert!(matches!(told, Err(LockError::Poisoned { by }) if by == me.id()));
            change(world, world.mutex.recover(me), notes);
        },
        ..USES
    };
    Run::new(&scenario).points(300).kill().passes();
}

#[test]
fn who_cleans_up_may_die_anywhere() {
    let scenario = Uses {
        name: "clean up",
        operations: &["shm_core::lock::mutex::Mutex::clean_up"],
        has_dead: true,
        operate: |world, _, _| {
            // The first user of the second seat.
            world.mutex.clean_up(ParticipantId::from_bits(1 << 22 | 1).unwrap());
        },
        ..USES
    };
    Run::new(&scenario).kill().passes();
}

#[test]
fn one_may_die_asleep() {
    let scenario = Uses {
        name: "lock_until, asleep",
        operations: &["shm_core::lock::mutex::Mutex::lock_until"],
        is_held: true,
        operate: |world, me, _| {
            let taken = world.mutex.lock_until(me, Instant::now() + NAP);
            assert!(matches!(taken, Err(LockError::TimedOut)));
        },
        ..USES
    };
    Run::new(&scenario).asleep().passes();
}

#[test]
fn its_maker_may_die_anywhere() {
    let maker = Makes {
        name: "mutex, create",
        operations: &["shm_core::lock::mutex::Mutex::create"],
        at: AT,
        make: |mapping| {
            // SAFETY: nobody has been told of the place.
            unsafe { Mutex::create(mapping, AT) }.unwrap();
        },
        check: |mapping| {
            let lock = Mutex::attach(mapping, AT).map_err(|error| error.to_string())?;
            // SAFETY: nobody else has the mapping.
            let table = unsafe { Table::create(mapping, 0, 1) }.unwrap();
            let me = table.join().unwrap();
            lock.lock(&me).map(drop).map_err(|error| error.to_string())
        },
    };
    maker.may_die_anywhere();
}
