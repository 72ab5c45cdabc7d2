//! The segment table that grows, under the explorer: with several deaths on one way, each slot has
//! one owner, and none is lost.
#![cfg(shm_explore)]
mod grow_common;

use grow_common::{assert_all_free, attach, clean_up, create, enter, table};
use shm_testkit::explore::{End, Me, Process, Scenario, is_deep};

const OUTSIDER: u32 = 3;

#[test]
fn three_that_grow_it_may_die_anywhere() {
    let mapping = table();
    assert!(enter(&attach(&mapping), OUTSIDER));
    let creator = || {
        let process = Process::new("creator", |me: &Me| {
            // Its own view of the table, as a process has it that has just come in.
            let (control, who) = (attach(&mapping), me.pid() - 1);
            create(&control, who);
            clean_up(&control, who);
        });
        process.mortal().never_waits()
    };
    let deaths = if is_deep() { 3 } else { 2 };
    let scenario = Scenario::new("segment table", &format!("three grow, {deaths} deaths"));
    let scenario = scenario.deaths(deaths).process(creator()).process(creator()).process(creator());
    let scenario = scenario.states_at_most(if is_deep() { 1_000_000 } else { 200_000 });
    scenario
        .check(|end: &End<'_>| {
            let control = attach(&mapping);
            for who in (0..3).filter(|who| end.is_dead(*who)) {
                clean_up(&control, who as u32);
            }
            assert_all_free(&control, OUTSIDER);
        })
        .preemptions_at_most(2)
        .explore();
}
