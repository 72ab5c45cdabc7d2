//! Names under the explorer: one process makes what a name leads to, whichever of several die or
//! stand still; nobody waits for what will not come; no pin is left where no name is.
#![cfg(shm_explore)]
mod registry_common;

use dsm::registry::{Name, Registry, Step};
use registry_common::{Asked, World};
use shm_core::participants::Member;
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_after_a_lie, is_deep, kernel};
use std::sync::Arc;

struct Case {
    world: World,
    members: Vec<Arc<Member>>,
}

fn case(names: u32, members: u32) -> Case {
    let world = World::new(names);
    let join = |pid| {
        kernel::become_process(pid);
        world.table.join().unwrap()
    };
    let members = (1..=members).map(join).collect();
    Case { world, members }
}

impl Case {
    fn member(&self, me: &Me) -> &Arc<Member> {
        &self.members[me.pid() as usize - 1]
    }
}

/// Asks for the name until it has it.
fn asker<'a>(case: &'a Case, name: &'a str) -> Process<'a> {
    Process::new("asks", move |me| match case.world.ask(case.member(me), name, me.pid()) {
        Asked::Made(handle) => me.say(handle.to_bits() << 1 | 1),
        Asked::Found(handle) => me.say(handle.to_bits() << 1),
        Asked::Nothing => assert!(is_after_a_lie(), "no name, or half a segment"),
    })
    .mortal()
}

/// Asks once, and where it is to make it gives the name back.
fn fails<'a>(case: &'a Case, name: &'a str) -> Process<'a> {
    Process::new("fails", move |me| {
        if let Step::Mine(claim) = case.world.step(case.member(me), name) {
            claim.give_up(&|handle| case.world.unpin(handle));
        }
    })
    .mortal()
    .never_waits()
}

fn remover<'a>(case: &'a Case, name: &'a str) -> Process<'a> {
    Process::new("removes", move |me| {
        case.world.remove(case.member(me), name);
    })
    .mortal()
    .never_waits()
}

fn reaper(case: &Case) -> Process<'_> {
    Process::new("reaps", |_| case.world.reap()).mortal().never_waits()
}

/// When all is over and the dead are reaped: as many pins as names, at most one of them this.
fn whole(case: &Case) -> impl Fn(&End<'_>) {
    |_| {
        case.world.reap();
        let (pinned, names) = case.world.count();
        assert!(pinned == names && names <= 1, "{pinned} pins, {names} names");
    }
}

/// As [`whole`]: and who made it and lived was the only one, unless the name was removed.
fn made_once(case: &Case, askers: usize) -> impl Fn(&End<'_>) {
    move |end: &End<'_>| {
        whole(case)(end);
        let said: Vec<u64> = (0..askers).flat_map(|asker| end.said(asker).to_vec()).collect();
        let made = said.iter().filter(|said| **said & 1 == 1).count();
        assert!(made <= 1, "made {made} times");
        let first = said.first().map_or(0, |said| said >> 1);
        assert!(said.iter().all(|said| said >> 1 == first), "two segments of one name: {said:?}");
    }
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("registry", name).states_at_most(60_000)
}

#[test]
fn one_makes_it_whoever_dies() {
    let two = case(2, 2);
    let asks = scenario("two ask, a death").deaths(1).preemptions_at_most(3);
    let asks = asks.process(asker(&two, "a")).process(asker(&two, "a"));
    asks.check(made_once(&two, 2)).explore();
    let three = case(3, 3);
    let asks = scenario("three ask, two deaths").deaths(2).preemptions_at_most(1);
    let asks = asks.process(asker(&three, "a")).process(asker(&three, "a"));
    asks.process(asker(&three, "a")).check(made_once(&three, 3)).explore();
}

#[test]
fn who_waits_makes_what_another_did_not() {
    let case = case(2, 2);
    let deaths = if is_deep() { 2 } else { 1 };
    let asks = scenario("one asks, one fails, a reaper").deaths(deaths).preemptions_at_most(2);
    let asks = asks.process(asker(&case, "a")).process(fails(&case, "a"));
    asks.process(reaper(&case)).check(whole(&case)).explore();
}

#[test]
fn a_name_is_removed_whoever_dies() {
    let case = case(1, 3);
    let asks = scenario("asked for and removed, two deaths").deaths(2).preemptions_at_most(2);
    let asks = asks.process(asker(&case, "a")).process(remover(&case, "a"));
    asks.process(reaper(&case)).check(whole(&case)).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let case = case(2, 2);
    let asks = Process::new("steps", |me: &Me| {
        if let Step::Mine(claim) = case.world.step(case.member(me), "a") {
            case.world.make(claim, me.pid());
        }
    });
    let asks = asks.never_waits();
    let lies = scenario("a lie").lies(1).preemptions_at_most(1).alone_at_most(200_000);
    lies.process(asks).process(remover(&case, "a")).explore();
}

/// Planted bug: it shows its name, and makes it without a look at the others.
#[test]
fn finds_a_name_that_two_make() {
    let case = case(2, 2);
    let name = Name::new("a").unwrap();
    let hasty = || {
        Process::new("hasty", |me: &Me| {
            let registry: &Registry = &case.world.registry;
            if registry.look(&name).is_none() {
                me.say(1);
                case.world.ask(case.member(me), "a", me.pid());
            }
        })
    };
    let both = |end: &End<'_>| {
        assert!(end.said(0).len() + end.said(1).len() < 2, "two would make it");
    };
    let scenario = scenario("hasty").process(hasty()).process(hasty()).check(both);
    finds("two would make it", || scenario.explore());
}
