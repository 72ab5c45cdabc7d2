//! The killer must find each planted bug that a death can show, for its reason, and nothing in the
//! ring without one.
//!
//! A producer or a consumer is killed at each instruction; the others clean up, receive everything
//! that was acknowledged, and can use the whole capacity again.
#![cfg(not(any(shm_loom, shm_explore)))]
mod crash_common;
mod planted;

use crash_common::shared;
use planted::{Bug, Pop, Ring};
use shm_core::mapping::Mapping;
use shm_testkit::killpoint::{End, Notes, Report, Run, Scenario, SharedMemory, Work};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const CAPACITY: u64 = 4;
const DOOMED: u32 = 7;
const OTHER: u32 = 2;
const BYSTANDER: u32 = 3;
/// In the notes: how many values the doomed one was told are sent, or received.
const DONE: usize = 0;
/// What a helper has done.
const BY_PUSHING: u64 = 1;
const BY_POPPING: u64 = 2;

struct World {
    memory: SharedMemory,
    ring: Ring,
    _mapping: Arc<Mapping>,
    sleeper: Option<Receiver<Pop>>,
}

impl World {
    fn new(bug: Bug) -> World {
        let (memory, mapping) = shared(Ring::bytes_for(CAPACITY) + 8);
        let ring = Ring::create(&mapping, CAPACITY, bug);
        World { memory, ring, _mapping: mapping, sleeper: None }
    }

    /// The last word of the page: whether a helper has been at work.
    fn helped(&self) -> &AtomicU64 {
        let last = self.memory.len() / 8 - 1;
        let word = self.memory.base().cast::<AtomicU64>().as_ptr().wrapping_add(last);
        // SAFETY: a word of the mapping, behind the ring, and mapped as long as self.
        unsafe { &*word }
    }

    fn push(&self, me: u32, value: u64) -> Result<(), String> {
        self.ring.push(me, value).map_err(|error| format!("{me} cannot push {value}: {error:?}"))
    }

    /// Everything there is.
    fn drain(&self) -> Result<Vec<u64>, String> {
        let mut got = Vec::new();
        loop {
            match self.ring.pop() {
                Pop::Got(value) => got.push(value),
                Pop::Empty => return Ok(got),
                other => return Err(format!("after {got:?} came {other:?}")),
            }
        }
    }

    /// What another producer does meanwhile.
    fn stand_by(&self) -> Result<(), String> {
        self.push(BYSTANDER, 30)?;
        self.helped().store(BY_PUSHING, Ordering::Relaxed);
        Ok(())
    }

    /// What anybody does who learns of the death, and then the whole ring is usable.
    fn go_on(&self) -> Result<(), String> {
        for value in 0..CAPACITY {
            self.push(OTHER, value).map_err(|what| format!("not the whole capacity: {what}"))?;
        }
        let (got, all) = (self.drain()?, (0..CAPACITY).collect::<Vec<_>>());
        if got == all { Ok(()) } else { Err(format!("of {all:?} sent only {got:?} came")) }
    }

    /// Whether the first slot holds a message, looked at from outside.
    fn has_message(&self) -> bool {
        const READY: u64 = 2;
        let place = std::ptr::from_ref(self.ring.place_word(0)) as usize;
        let at = place - self.memory.base().as_ptr() as usize - 8;
        u64::from(self.memory.copy()[at]) & 3 == READY
    }
}

/// A producer sends two values.
struct Push {
    bug: Bug,
}

impl Scenario for Push {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        format!("planted ring, push, {:?}", self.bug)
    }

    fn operations(&self) -> &'static [&'static str] {
        &["planted::Ring::push"]
    }

    fn world(&self) -> World {
        let world = World::new(self.bug);
        world.push(OTHER, 10).unwrap();
        world
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        for value in [20, 21] {
            if world.ring.push(DOOMED, value).is_ok() {
                notes.count(DONE);
            }
        }
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.memory.copy()
    }

    fn check(&self, world: World, notes: &Notes, end: End) -> Result<(), String> {
        world.ring.reap(DOOMED);
        let mut got = world.drain()?;
        if world.helped().load(Ordering::Relaxed) == BY_PUSHING {
            let at = got.iter().position(|value| *value == 30);
            got.remove(at.ok_or(format!("the bystander's value is not in {got:?}"))?);
        }
        let sent = notes.get(DONE) as usize;
        assert!(end == End::Killed || sent == 2);
        // What was not acknowledged may be there or not.
        let least = &[10, 20, 21][..1 + sent];
        let is_right = got.starts_with(least) && [10, 20, 21].starts_with(&got);
        if !is_right {
            return Err(format!("at least {least:?} was sent, and {got:?} came"));
        }
        world.go_on()
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| world.stand_by()))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.ring.reap(DOOMED);
            Ok(())
        }))
    }
}

/// A consumer takes two of three.
struct TakeTwo {
    bug: Bug,
}

impl Scenario for TakeTwo {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        format!("planted ring, pop, {:?}", self.bug)
    }

    fn operations(&self) -> &'static [&'static str] {
        &["planted::Ring::pop"]
    }

    fn world(&self) -> World {
        let world = World::new(self.bug);
        for value in [10, 11, 12] {
            world.push(OTHER, value).unwrap();
        }
        world
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        for value in [10, 11] {
            assert_eq!(world.ring.pop(), Pop::Got(value));
            notes.count(DONE);
        }
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.memory.copy()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let mut got = world.drain()?;
        let helped = world.helped().load(Ordering::Relaxed);
        if helped == BY_PUSHING && got.pop() != Some(30) {
            return Err(format!("the bystander's value did not come last, but {got:?}"));
        }
        // Each consumer that died may have taken one along.
        let rest = &[10, 11, 12][notes.get(DONE) as usize..];
        let lost_max = if helped == BY_POPPING { 2 } else { 1 };
        if !rest.ends_with(&got) || rest.len() - got.len() > lost_max {
            return Err(format!("of {rest:?} came {got:?}"));
        }
        world.go_on()
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| world.stand_by()))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.helped().store(BY_POPPING, Ordering::Relaxed);
            world.ring.pop();
            Ok(())
        }))
    }
}

/// A producer sends to a consumer that sleeps.
struct Wake {
    bug: Bug,
    /// After this a consumer counts as asleep for good.
    limit: Duration,
}

impl Scenario for Wake {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        format!("planted ring, push to a sleeper, {:?}", self.bug)
    }

    fn operations(&self) -> &'static [&'static str] {
        &["planted::Ring::push", "planted::Ring::pop_waiting"]
    }

    fn world(&self) -> World {
        let mut world = World::new(self.bug);
        let (ring, (told, hears), before) = (world.ring.clone(), channel(), world.memory.copy());
        std::thread::spawn(move || {
            let mut pop = ring.pop_waiting(None);
            // Its owner is at it, or will be found dead.
            while let Pop::Pending { .. } = pop {
                std::thread::yield_now();
                pop = ring.pop_waiting(None);
            }
            told.send(pop)
        });
        while world.memory.copy() == before {
            std::thread::yield_now();
        }
        world.sleeper = Some(hears);
        world
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        world.push(DOOMED, 20).unwrap();
        notes.set(DONE, 1);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.memory.copy()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let (sleeper, ready) = (world.sleeper.as_ref().unwrap(), world.has_message());
        world.ring.reap(DOOMED);
        let mut woken = sleeper.recv_timeout(Duration::ZERO);
        if ready || notes.get(DONE) == 1 {
            woken = woken.or_else(|_| sleeper.recv_timeout(self.limit));
        }
        if let Ok(pop) = woken {
            return if pop == Pop::Got(20) { Ok(()) } else { Err(format!("it got {pop:?}")) };
        }
        // Ends the sleeper, whether it should have been woken before or not.
        world.push(OTHER, 30)?;
        let pop =
            sleeper.recv_timeout(Duration::from_secs(20)).map_err(|error| error.to_string())?;
        match pop {
            _ if ready => Err(format!("with a message in the ring, the consumer slept ({pop:?})")),
            Pop::Got(20 | 30) => Ok(()),
            pop => Err(format!("it got {pop:?}")),
        }
    }
}

fn killed_pushing(bug: Bug) -> Report {
    Run::new(&Push { bug }).kill()
}

#[test]
fn a_claim_before_its_owner_is_named_is_found() {
    killed_pushing(Bug::AnonymousClaim).finds("not the whole capacity: 2 cannot push 3");
}

#[test]
fn a_head_moved_before_the_slot_is_freed_is_found() {
    let report = Run::new(&TakeTwo { bug: Bug::HeadBeforeFree }).kill();
    report.finds("not the whole capacity");
}

#[test]
fn a_tail_that_nobody_helps_is_found() {
    killed_pushing(Bug::TailNotHelped).finds("cannot push 0: Stuck");
}

#[test]
fn a_wake_up_forgotten_after_a_death_is_found() {
    let scenario = Wake { bug: Bug::WakeForgotten, limit: Duration::from_millis(50) };
    let report = Run::new(&scenario).kill();
    report.finds("with a message in the ring, the consumer slept");
}

#[test]
fn nothing_is_found_where_nothing_was_planted() {
    let bug = Bug::None;
    Run::new(&Push { bug }).kill().passes();
    Run::new(&Push { bug }).stop().passes();
    Run::new(&Push { bug }).nested().passes();
    Run::new(&TakeTwo { bug }).kill().passes();
    Run::new(&TakeTwo { bug }).stop().passes();
    Run::new(&TakeTwo { bug }).nested().passes();
    // The consumer, once woken, changes what is shared too.
    let wake = Wake { bug, limit: Duration::from_secs(20) };
    Run::new(&wake).allow_drifted(usize::MAX).kill().passes();
}
