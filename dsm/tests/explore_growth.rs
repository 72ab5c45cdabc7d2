//! The length of a growable segment under the explorer, with several deaths on one way, and lies:
//! the pages that it counts are there, and the next to change it finishes what the dead left.
#![cfg(shm_explore)]
mod growth_common;

use dsm::GrowError;
use growth_common::{Care, PAGES_MAX, World, id};
use shm_core::participants::ParticipantId;
use shm_core::sync::Ordering::Relaxed;
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_deep, kernel};

/// Seats are process numbers.
fn has_left(id: ParticipantId) -> bool {
    kernel::is_dead(id.slot())
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("growth", name)
}

fn say(me: &Me, changed: Result<u32, GrowError>) {
    match changed {
        Ok(pages) => me.say(u64::from(pages)),
        Err(GrowError::Busy { .. } | GrowError::Backend(_)) => {}
        Err(other) => panic!("{other}"),
    }
}

fn grows(world: &World, pages: u32) -> Process<'_> {
    Process::new("grows", move |me: &Me| {
        say(me, world.growth.grow(id(me.pid()), pages, has_left, world));
    })
    .mortal()
    .never_waits()
}

fn shrinks(world: &World, pages: u32) -> Process<'_> {
    Process::new("shrinks", move |me: &Me| {
        say(me, world.growth.shrink(id(me.pid()), pages, has_left, world));
    })
    .mortal()
    .never_waits()
}

/// The dead have left: whoever comes makes it as long as he likes, and nothing else is there.
fn finish(world: &World, end: &End<'_>) {
    let pages = world.look();
    if end.deaths() == 0 {
        world.assert_exact();
    }
    for wanted in [pages.min(PAGES_MAX - 1) + 1, 1, PAGES_MAX, 2] {
        assert_eq!(world.change(9, wanted, has_left).unwrap(), wanted);
        world.look();
    }
    world.assert_exact();
}

#[test]
fn who_changes_it_may_die_anywhere() {
    let deaths = if is_deep() { 3 } else { 2 };
    let world = World::new(2, Care::Deaths);
    let scenario =
        scenario(&format!("two grow it, one shrinks it, {deaths} deaths")).deaths(deaths);
    let scenario = scenario.process(grows(&world, 3)).process(grows(&world, 4));
    let scenario = scenario.process(shrinks(&world, 1));
    scenario.check(|end| finish(&world, end)).preemptions_at_most(4).explore();
}

#[test]
fn nobody_is_at_it_beside_another() {
    let world = World::new(2, Care::AloneToo);
    let again = |first: u32, second: u32| {
        let world = &world;
        Process::new("changes", move |me: &Me| say(me, world.change(me.pid(), first, has_left)))
            .then(move |me: &Me| say(me, world.change(me.pid(), second, has_left)))
            .never_waits()
    };
    let scenario = scenario("three change it twice");
    let scenario = scenario.process(again(3, 1)).process(again(1, 4)).process(again(2, 3));
    scenario.check(|end| finish(&world, end)).preemptions_at_most(4).explore();
}

#[test]
fn who_finds_no_memory_leaves_it_as_it_was() {
    let world = World::new(2, Care::Deaths);
    world.memory.refusals.store(1, Relaxed);
    let scenario = scenario("one is refused").deaths(1);
    let scenario = scenario.process(grows(&world, 4)).process(shrinks(&world, 1));
    let end = |end: &End<'_>| {
        world.memory.refusals.store(0, Relaxed);
        finish(&world, end);
    };
    scenario.check(end).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let world = World::new(2, Care::Deaths);
    let uses = |pages: u32| {
        let world = &world;
        Process::new("uses", move |me: &Me| {
            let _ = world.growth.pages();
            let _ = world.change(me.pid(), pages, has_left);
        })
        .never_waits()
    };
    let lies = if is_deep() { 3 } else { 2 };
    let scenario = scenario(&format!("{lies} lies")).lies(lies).preemptions_at_most(3);
    scenario.process(uses(3)).process(uses(1)).explore();
}

/// Planted bug: a claim is taken from one who lives.
#[test]
fn finds_a_claim_taken_from_the_living() {
    let world = World::new(2, Care::Deaths);
    let robs = |pages: u32| {
        let world = &world;
        Process::new("robs", move |me: &Me| {
            let _ = world.growth.grow(id(me.pid()), pages, |_| true, world);
        })
        .never_waits()
    };
    let scenario = scenario("robbed").process(robs(3)).process(robs(4));
    finds("a page that", || scenario.check(|_| world.assert_exact()).explore());
}
