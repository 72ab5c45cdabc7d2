//! Ready segments, under the explorer: with several deaths on one way, whoever has a page has
//! memory behind it and shares it with nobody, and no slot is lost.
#![cfg(shm_explore)]
mod ready_common;

use ready_common::World;
use shm_testkit::explore::{End, Me, Process, Scenario, is_deep};

const OUTSIDER: u32 = 3;

#[test]
fn who_creates_and_who_empties_may_die_anywhere() {
    let world = World::new(OUTSIDER);
    let creator = || {
        let process = Process::new("creator", |me: &Me| {
            let who = me.pid() - 1;
            let handle = world.create(who);
            handle.into_iter().for_each(|handle| world.destroy(who, handle));
        });
        process.mortal().never_waits()
    };
    let emptier = Process::new("emptier", |me: &Me| {
        let actor = world.actor(me.pid() - 1);
        actor.empty_unused(0);
        actor.empty_unused(0);
    });
    let deaths = if is_deep() { 3 } else { 2 };
    let scenario = Scenario::new("ready", &format!("two create, one empties, {deaths} deaths"));
    let scenario = scenario.deaths(deaths).process(creator()).process(creator());
    let scenario = scenario.states_at_most(if is_deep() { 1_000_000 } else { 300_000 });
    scenario
        .process(emptier.mortal().never_waits())
        .check(|end: &End<'_>| {
            for who in (0..3).filter(|who| end.is_dead(*who)) {
                world.clean_up(who as u32);
            }
            world.assert_all_free(OUTSIDER);
        })
        .preemptions_at_most(2)
        .explore();
}
