//! The segment table under the explorer, with several deaths on one way, reapers' included: nobody
//! is attached to a segment that has been destroyed, each is destroyed once, and none is left over.
#![cfg(shm_explore)]
mod control_common;

use control_common::{SIZE, World, first_handle, id};
use dsm::SegmentHandle;
use dsm::control::Objects;
use shm_core::sync::Ordering::Relaxed;
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};

/// Processes 1 to 4 are the people 0 to 3 of the world; the check is another.
fn who(me: &Me) -> usize {
    me.pid() as usize - 1
}

const CHECK: usize = 4;

/// A reaper that nobody kills cleans up after all dead.
fn reap(world: &World, end: &End<'_>, processes: usize) {
    for who in (0..processes).filter(|who| end.is_dead(*who)) {
        world.leave(who);
        world.vacate(who);
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("segment table", name)
}

/// Attaches by handle, and detaches.
fn guest(world: &World) -> Process<'_> {
    Process::new("guest", |me: &Me| {
        if world.attach(who(me), first_handle()) {
            world.detach(who(me), first_handle());
        }
    })
    .mortal()
    .never_waits()
}

/// Creates a segment and detaches.
fn creator(world: &World) -> Process<'_> {
    Process::new("creator", |me: &Me| {
        if let Some(handle) = world.create(who(me)) {
            world.detach(who(me), handle);
        }
    })
    .mortal()
    .never_waits()
}

#[test]
fn creators_and_guests_may_die_anywhere() {
    let world = World::new();
    let deaths = if is_deep() { 3 } else { 2 };
    let one = scenario(&format!("a creator, two guests, {deaths} deaths")).deaths(deaths);
    let one = one.process(creator(&world)).process(guest(&world)).process(guest(&world));
    let end = |end: &End<'_>| {
        reap(&world, end, 3);
        world.assert_empty();
    };
    one.check(end).preemptions_at_most(2).explore();
    let two = scenario("two creators, a guest").deaths(1);
    let two = two.process(creator(&world)).process(creator(&world)).process(guest(&world));
    two.check(end).preemptions_at_most(2).explore();
}

/// The creator is dead, and a reaper does what it can, or dies doing so, while a guest comes.
#[test]
fn reapers_may_die_anywhere() {
    let world = World::new();
    kernel::become_process(1);
    world.create(0).unwrap();
    let dies = Process::new("creator", |_| ()).mortal();
    let reaps = Process::new("reaper", |_| {
        if kernel::is_dead(1) {
            world.leave(0);
        }
    });
    let scenario = scenario("a creator, a guest, a reaper").deaths(3).process(dies);
    let scenario = scenario.process(guest(&world)).process(reaps.mortal().never_waits());
    scenario
        .check(|end| {
            reap(&world, end, 3);
            if end.is_dead(0) {
                world.assert_empty();
            }
        })
        .explore();
}

/// The third has died destroying a segment, his reaper could not remove the object, and his seat is
/// free. Two take the removal over, of which the first fails.
#[test]
fn who_takes_over_a_removal_may_die_anywhere() {
    let world = World::refusing(3);
    let handle = world.create(2).unwrap();
    world.detach(2, handle);
    world.leave(2);
    world.vacate(2);
    assert_eq!(world.control.leftovers(), [handle]);
    let tries = || {
        let tries = Process::new("tries", |me: &Me| world.retry(who(me)));
        tries.then(|me: &Me| world.retry(who(me))).mortal().never_waits()
    };
    let uses = Process::new("uses the slot", |_| {
        if let Some(next) = world.create(3) {
            world.detach(3, next);
        }
    });
    let scenario = scenario("a removal taken over").deaths(2).process(tries()).process(tries());
    let scenario = scenario.process(uses.never_waits());
    scenario
        .check(|end| {
            world.system.refusals.store(0, Relaxed);
            reap(&world, end, 2);
            world.retry(CHECK);
            world.assert_empty();
        })
        .explore();
}

/// Planted bug: the removal is taken over without saying so.
#[test]
fn finds_a_removal_taken_over_in_silence() {
    let world = World::refusing(2);
    let handle = world.create(2).unwrap();
    world.detach(2, handle);
    world.leave(2);
    let removes = || {
        Process::new("removes", |_| {
            if world.control.leftovers() == [handle] {
                world.remove(handle);
            }
        })
    };
    let scenario = scenario("in silence").process(removes()).process(removes());
    let once = |_: &End<'_>| assert_eq!(world.system.destroyed.load(Relaxed), 1, "destroyed twice");
    finds("destroyed twice", || scenario.check(once).explore());
}

/// A pin that comes and goes, while the last one attached leaves.
#[test]
fn a_pinned_segment_stays_and_an_unpinned_goes() {
    let world = World::new();
    let handle = world.create(0).unwrap();
    world.control.pin(handle).unwrap();
    let creator = Process::new("creator", |me| world.detach(who(me), handle)).mortal();
    let unpins = Process::new("unpins", |me| {
        if world.actor(who(me)).unpin(handle).is_ok() {
            me.say(1);
        }
    });
    let scenario = scenario("a pin").deaths(2).process(creator);
    let scenario = scenario.process(unpins.mortal().never_waits()).process(guest(&world));
    scenario
        .check(|end| {
            reap(&world, end, 3);
            let pinned = world.control.is_alive(handle);
            assert!(!pinned || end.is_dead(1), "unpinned, and still there");
            if pinned {
                world.actor(CHECK).unpin(handle).expect("it is pinned, or it would be gone");
            }
            world.assert_empty();
        })
        .explore();
}

/// Several come into the domain and leave it. The last one out takes it away, once.
#[test]
fn the_last_one_out_may_die_anywhere() {
    let world = World::empty();
    let visits = || {
        Process::new("visitor", |me: &Me| {
            if world.enter(who(me)) {
                world.leave(who(me));
            }
        })
        .mortal()
        .never_waits()
    };
    let closes = Process::new("closes", |_| {
        if world.control.close_if_empty() {
            world.remove_domain();
        }
    });
    let scenario = scenario("two visitors, one who closes").deaths(2);
    let scenario = scenario.process(visits()).process(visits());
    let scenario = scenario.process(closes.mortal().never_waits()).preemptions_at_most(2);
    scenario
        .check(|end| {
            reap(&world, end, 3);
            assert!(world.control.present().is_empty(), "somebody is still in it");
            let removed = world.system.domain_removed.load(Relaxed) > 0;
            // One who closed it and died, or was overtaken by a death, is followed by who comes.
            assert!(removed || end.deaths() > 0, "the domain is left over");
            assert!(!removed || !world.enter(CHECK), "came into a domain that is no more");
        })
        .explore();
}

/// Objects that are just there, for processes that are told nonsense.
struct Blind;

impl Objects for Blind {
    fn remove(&self, _: SegmentHandle) -> bool {
        true
    }
    fn remove_domain(&self) {}
}

#[test]
fn a_lie_does_no_harm() {
    let world = World::new();
    let lies = if is_deep() { 2 } else { 1 };
    let acts = || {
        Process::new("acts", |me: &Me| {
            let actor = world.control.actor(id(who(me)), &Blind);
            if let Some(handle) = actor.claim() {
                if actor.publish(handle, SIZE) {
                    let _ = world.control.pin(handle);
                    let _ = actor.unpin(handle);
                }
                actor.detach(handle);
            }
            actor.retry(|_| true);
            actor.clean_up();
        })
        .never_waits()
    };
    let comes = Process::new("comes", |me: &Me| {
        let actor = world.control.actor(id(who(me)), &Blind);
        if actor.attach(first_handle()).is_some() {
            actor.detach(first_handle());
        }
        let _ = (world.control.segments(), world.control.leftovers(), world.control.present());
        world.control.close_if_empty();
    });
    let scenario = scenario(&format!("{lies} lies")).lies(lies).preemptions_at_most(2);
    scenario.process(acts()).process(comes.never_waits()).explore();
}

/// Planted bug: of two that leave each looks at the set before it has cleared its own bit.
#[test]
fn finds_two_that_each_think_the_other_is_left() {
    let world = World::new();
    let set = &world.system.mapped;
    let leaves = |mine: usize, other: usize| {
        Process::new("leaves", move |me: &Me| {
            let other_is_in = set[other].load(Relaxed) == 1;
            set[mine].store(0, Relaxed);
            me.say(u64::from(!other_is_in));
        })
    };
    set[0].store(1, Relaxed);
    set[1].store(1, Relaxed);
    let scenario = scenario("in short").process(leaves(0, 1)).process(leaves(1, 0));
    let last = |end: &End<'_>| assert!(end.said(0) != [0] || end.said(1) != [0], "none is last");
    finds("none is last", || scenario.check(last).explore());
}
