//! A process is killed at each instruction of sharing, writing out, changing, repairing and
//! cleaning up: whoever comes next gets the latch, and is told of a death in the midst of a change,
//! and of no other. One that is stopped holds up nobody but who wants its latch.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use buffer_pool::latch::{Change, Exclusive, LatchError, Latches, Shape, User};
use crash_common::{said, shared, words_from};
use shm_core::mapping::Mapping;
use shm_core::participants::{ParticipantId, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SHAPE: Shape = Shape { frames: 2, seats: 3, threads: 1 };
const LATCHES_AT: u64 = Table::bytes_for(SHAPE.seats).next_multiple_of(64);
/// The page of each frame: two counters that are equal whenever nobody changes them.
const PAGES_AT: u64 = (LATCHES_AT + Latches::bytes_for(SHAPE)).next_multiple_of(8);
const END_AT: u64 = PAGES_AT + SHAPE.frames as u64 * 16;
/// The frame that it is about, and the one that nobody else wants.
const FRAME: u32 = 0;
const OTHER: u32 = 1;
/// In the notes: how many changes of the page were acknowledged.
const CHANGED: usize = 0;
/// So long one sleeps that is killed asleep.
const NAP: Duration = Duration::from_secs(2);
/// A bystander reads `/proc` to join, and to learn who lives.
const BYSTANDER_MAX: usize = 500_000;

struct World {
    mapping: Arc<Mapping>,
    table: Table,
    id: ParticipantId,
    me: User,
}

impl World {
    fn new() -> World {
        let (_, mapping) = shared(END_AT);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SHAPE.seats) }.unwrap();
        // SAFETY: as above, and the table ends before.
        unsafe { Latches::create(&mapping, LATCHES_AT, SHAPE) }.unwrap();
        let latches = Latches::attach(&mapping, LATCHES_AT, SHAPE).unwrap();
        let member = table.join().unwrap();
        World { me: latches.user(&member, 0).unwrap(), id: member.id(), table, mapping }
    }

    /// A new participant.
    fn sit(&self) -> Result<User, String> {
        let member = self.table.join_with(Default::default(), |dead| self.latches().clean_up(dead));
        self.latches().user(&member.map_err(said)?, 0).map_err(said)
    }

    fn latches(&self) -> &Latches {
        self.me.latches()
    }

    fn page(&self, frame: u32) -> &[AtomicU64] {
        self.mapping.region().share_slice(PAGES_AT + u64::from(frame) * 16, 2).unwrap()
    }

    fn words(&self, frame: u32) -> [u64; 2] {
        [0, 1].map(|at| self.page(frame)[at].load(Relaxed))
    }

    fn is_whole(&self, frame: u32) -> Result<u64, String> {
        let [one, other] = self.words(frame);
        if one == other { Ok(one) } else { Err("half changed, and nobody was told".to_owned()) }
    }

    fn writes(&self, frame: u32, change: Change<'_>) -> Result<(), String> {
        let one = self.is_whole(frame)?;
        self.page(frame).iter().for_each(|word| word.store(one + 1, Relaxed));
        change.done().map(drop).map_err(said)
    }

    fn change(&self, frame: u32, latch: Result<Exclusive<'_>, LatchError>) -> Result<(), String> {
        self.writes(frame, latch.map_err(said)?.change().map_err(said)?)
    }

    /// Makes whole what a dead one left, if one did; whether it was torn.
    fn repair(&self, user: &User) -> Result<bool, String> {
        let Some(change) = user.repair(FRAME).map_err(said)? else { return Ok(false) };
        let [one, _] = self.words(FRAME);
        self.page(FRAME)[1].store(one, Relaxed);
        change.done().map(drop).map_err(said)?;
        Ok(true)
    }

    /// Reads and changes the page in each way, having repaired it where told so; whether it was.
    fn use_it(&self, user: &User) -> Result<bool, String> {
        let deadline = Some(Instant::now() + 10 * NAP);
        let is_torn = match user.share(FRAME, deadline).map(drop) {
            Err(LatchError::Torn { .. }) => self.repair(user)?,
            share => share.map(|()| false).map_err(said)?,
        };
        let latch = user.share_exclusive(FRAME, deadline).map_err(said)?;
        self.change(FRAME, latch.upgrade(deadline).map_err(|(_, why)| why))?;
        self.change(FRAME, user.try_exclusive(FRAME).map(|latch| latch.expect("it is free")))?;
        let [one, other] = user.read(FRAME, deadline, || self.words(FRAME)).map_err(said)?;
        if one != other {
            return Err("read half of a change".to_owned());
        }
        Ok(is_torn)
    }

    /// Somebody who has died with what `before` says.
    fn die(&self, before: Before) {
        assert!(in_a_fork(|| {
            let user = std::mem::ManuallyDrop::new(self.sit().unwrap());
            match before {
                Before::ADeadSharer => std::mem::forget(user.share(FRAME, None)),
                Before::ADeadWriterOut => std::mem::forget(user.share_exclusive(FRAME, None)),
                _ => {
                    std::mem::forget(user.exclusive(FRAME, None).unwrap().change());
                    self.page(FRAME)[0].store(1, Relaxed);
                }
            }
            true
        }));
    }
}

/// Who has it when the operation begins.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nobody,
    ADeadSharer,
    ADeadWriterOut,
    ADeadChanger,
    TheTest,
}

/// What a process does with a latch.
struct Uses {
    name: &'static str,
    operations: &'static [&'static str],
    before: Before,
    /// Whether a death in it may leave the page torn.
    changes: bool,
    operate: fn(&World, &User, &Notes),
}

impl Scenario for Uses {
    type World = World;
    type Doomed = User;

    fn name(&self) -> String {
        format!("latch, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let world = World::new();
        match self.before {
            Before::Nobody => (),
            Before::TheTest => std::mem::forget(world.me.share(FRAME, None).unwrap()),
            before => world.die(before),
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> User {
        world.sit().unwrap()
    }

    fn operate(&self, world: &World, user: &mut User, notes: &Notes) {
        (self.operate)(world, user, notes);
    }

    /// Without the table, which names processes.
    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, LATCHES_AT)
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        if self.before == Before::TheTest {
            world.latches().clean_up(world.id);
        }
        let is_torn = world.use_it(&world.me)?;
        if is_torn && !self.changes {
            return Err("torn, and nobody has changed it".to_owned());
        }
        world.change(OTHER, world.me.exclusive(OTHER, Some(Instant::now())))?;
        let (count, least) = (world.is_whole(FRAME)?, notes.get(CHANGED) + 2);
        if count < least {
            return Err(format!("{least} changes were acknowledged, and there are {count}"));
        }
        Ok(())
    }

    /// Another participant looks, and waits for a moment: it has it or not, and comes back. What
    /// the doomed one has nothing to do with it has.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            let user = world.sit()?;
            world.change(OTHER, user.exclusive(OTHER, None))?;
            match user.read(FRAME, Some(Instant::now()), || world.words(FRAME)) {
                Ok([one, other]) if one != other => return Err("read half of a change".to_owned()),
                Ok(_) | Err(LatchError::TimedOut) => {}
                Err(LatchError::Torn { .. }) => _ = world.repair(&user)?,
                Err(error) => return Err(said(error)),
            }
            match user.exclusive(FRAME, Some(Instant::now())) {
                Err(LatchError::TimedOut | LatchError::Torn { .. }) => Ok(()),
                latch => world.change(FRAME, latch),
            }
        }))
    }

    /// Another participant cleans up; where it may leave the page torn, too, it also uses it.
    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.table.reap(|dead| world.latches().clean_up(dead));
            if self.changes {
                world.use_it(&world.sit()?)?;
            }
            Ok(())
        }))
    }

    fn forked(&self, _: &World, user: &mut User) -> Result<(), String> {
        let is_forked = |error| matches!(error, Some(LatchError::Forked(_)));
        let refused = is_forked(user.share(FRAME, None).err())
            && is_forked(user.try_exclusive(FRAME).err())
            && is_forked(user.repair(FRAME).err());
        if refused { Ok(()) } else { Err("takes it in its parent's name".to_owned()) }
    }
}

const USES: Uses = Uses {
    name: "",
    operations: &[],
    before: Before::Nobody,
    changes: false,
    operate: |_, _, _| (),
};

fn change(world: &World, latch: Result<Exclusive<'_>, LatchError>, notes: &Notes) {
    world.change(FRAME, latch).unwrap();
    notes.count(CHANGED);
}

/// At every instruction: killed, stopped, and forked.
fn passes(scenario: &Uses) {
    Run::new(scenario).kill().passes();
    Run::new(scenario).points(100).bystander_at_most(BYSTANDER_MAX).stop().passes();
    Run::new(scenario).points(200).fork().passes();
}

#[test]
fn who_shares_may_die_anywhere() {
    passes(&Uses {
        name: "share",
        operations: &[
            "buffer_pool::latch::User::share",
            "buffer_pool::latch::User::try_share",
            "buffer_pool::latch::User::read",
            "buffer_pool::latch::Share::drop",
        ],
        operate: |world, user, _| {
            let both = (user.share(FRAME, None).unwrap(), user.try_share(FRAME).unwrap());
            world.is_whole(FRAME).unwrap();
            drop(both);
            user.read(FRAME, None, || world.words(FRAME)).unwrap();
        },
        ..USES
    });
}

#[test]
fn who_writes_out_may_die_anywhere() {
    passes(&Uses {
        name: "share-exclusive",
        operations: &[
            "buffer_pool::latch::User::share_exclusive",
            "buffer_pool::latch::User::try_share_exclusive",
            "buffer_pool::latch::ShareExclusive::drop",
        ],
        operate: |world, user, _| {
            let latch = user.share_exclusive(FRAME, None).unwrap();
            world.is_whole(FRAME).unwrap();
            drop(latch);
            drop(user.try_share_exclusive(FRAME).unwrap().unwrap());
        },
        ..USES
    });
}

#[test]
fn who_has_it_alone_and_changes_nothing_may_die_anywhere() {
    passes(&Uses {
        name: "exclusive",
        operations: &[
            "buffer_pool::latch::User::exclusive",
            "buffer_pool::latch::User::try_exclusive",
            "buffer_pool::latch::ShareExclusive::upgrade",
            "buffer_pool::latch::ShareExclusive::try_upgrade",
            "buffer_pool::latch::Exclusive::drop",
        ],
        operate: |_, user, _| {
            drop(user.exclusive(FRAME, None).unwrap());
            drop(user.try_exclusive(FRAME).unwrap().unwrap());
            let latch = user.share_exclusive(FRAME, None).unwrap();
            drop(latch.upgrade(None).unwrap());
            let latch = user.share_exclusive(FRAME, None).unwrap();
            drop(latch.try_upgrade().unwrap());
        },
        ..USES
    });
}

#[test]
fn who_changes_may_die_anywhere() {
    passes(&Uses {
        name: "change",
        operations: &["buffer_pool::latch::Exclusive::change", "buffer_pool::latch::Change::done"],
        changes: true,
        operate: |world, user, notes| {
            change(world, user.exclusive(FRAME, None), notes);
            change(world, user.exclusive(FRAME, None), notes);
        },
        ..USES
    });
}

/// It asks the kernel about the dead one, which takes most of its instructions.
#[test]
fn who_repairs_may_die_anywhere() {
    let scenario = Uses {
        name: "repair",
        operations: &["buffer_pool::latch::User::repair", "buffer_pool::latch::Change::drop"],
        before: Before::ADeadChanger,
        changes: true,
        operate: |world, user, _| {
            // Once given up, once done.
            drop(user.repair(FRAME).unwrap().unwrap());
            assert!(world.repair(user).unwrap());
        },
    };
    Run::new(&scenario).points(300).kill().passes();
    Run::new(&scenario).points(20).nested().passes();
}

#[test]
fn who_waits_for_a_dead_one_may_die_anywhere() {
    for (before, name) in [
        (Before::ADeadSharer, "exclusive, after a dead sharer"),
        (Before::ADeadWriterOut, "exclusive, after a dead one who wrote out"),
    ] {
        let scenario = Uses {
            name,
            operations: &["buffer_pool::latch::User::exclusive"],
            before,
            operate: |_, user, _| drop(user.exclusive(FRAME, None).unwrap()),
            ..USES
        };
        Run::new(&scenario).points(300).kill().passes();
    }
}

#[test]
fn who_cleans_up_may_die_anywhere() {
    for (before, name) in [
        (Before::ADeadSharer, "a sharer's clean up"),
        (Before::ADeadWriterOut, "a clean up of one who wrote out"),
        (Before::ADeadChanger, "a changer's clean up"),
    ] {
        let scenario = Uses {
            name,
            operations: &["buffer_pool::latch::Latches::clean_up"],
            before,
            changes: before == Before::ADeadChanger,
            operate: |world, _, _| {
                // The first user of the second seat.
                world.latches().clean_up(ParticipantId::from_bits(1 << 22 | 1).unwrap());
            },
        };
        Run::new(&scenario).kill().passes();
        Run::new(&scenario).nested().passes();
    }
}

#[test]
fn one_may_die_asleep() {
    let scenario = Uses {
        name: "exclusive, asleep",
        operations: &["buffer_pool::latch::User::exclusive"],
        before: Before::TheTest,
        operate: |_, user, _| {
            let latch = user.exclusive(FRAME, Some(Instant::now() + NAP));
            assert_eq!(latch.unwrap_err(), LatchError::TimedOut);
        },
        ..USES
    };
    Run::new(&scenario).asleep().passes();
}
