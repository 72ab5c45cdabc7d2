//! The planted ring with more producers and messages than loom can finish: a sample of schedules,
//! with random deaths. Each bug that sequentially consistent memory can show is found.
#![cfg(all(shm_loom, shm_shuttle))]
mod planted;
#[path = "planted/scenes.rs"]
mod scenes;

use planted::Bug;
use scenes::{Producer, Scene, Verdict};
use shm_testkit::model::{self, Choice, Deaths, chance_of_death};

/// Four producers, each of which may die, send more than the ring holds.
fn four_producers(bug: Bug, verdict: Verdict, deaths: &Deaths) {
    let producers = [2, 3, 4, 5].map(|pid| {
        let fuel = chance_of_death(60);
        Producer { pid, messages: 4, fuel }
    });
    Scene { bug, verdict, capacity: 3, producers: &producers, looks: 30 }.play(deaths);
}

/// Two producers on a ring with room for one message: its slot changes hands all the time.
fn two_producers(bug: Bug, verdict: Verdict, messages: u64, deaths: &Deaths) {
    let producers = [2, 3].map(|pid| Producer { pid, messages, fuel: chance_of_death(30) });
    Scene { bug, verdict, capacity: 1, producers: &producers, looks: 3 * messages }.play(deaths);
}

/// A consumer that may die among six messages.
fn a_consumer_dies(bug: Bug, deaths: &Deaths) {
    scenes::consumer_dies(bug, 2, 6, chance_of_death(60), deaths);
}

fn a_sleeper(bug: Bug, deaths: &Deaths) {
    scenes::sleeper(bug, chance_of_death(20), deaths);
}

const CHOICES: [Choice; 2] = [Choice::Random, Choice::Priorities(3)];
const SCHEDULES: usize = 5_000;

fn sample(name: &str, scene: impl Fn(&Deaths) + Copy + Send + Sync + 'static) {
    for choice in CHOICES {
        let tried = model::sample(choice, SCHEDULES, scene);
        println!("planted, {name}: {tried:?}");
        assert!(tried.deaths > 0);
    }
}

fn finds(reason: &str, scene: impl Fn(&Deaths) + Copy + Send + Sync + 'static) {
    for choice in CHOICES {
        model::finds(reason, || {
            model::sample(choice, SCHEDULES, scene);
        });
    }
}

#[test]
fn four_producers_may_die_anywhere() {
    sample("producers", |deaths| four_producers(Bug::None, Verdict::Certified, deaths));
    sample("two producers", |deaths| two_producers(Bug::None, Verdict::Certified, 4, deaths));
    sample("producers, parents", |deaths| four_producers(Bug::None, Verdict::Parent, deaths));
}

#[test]
fn a_consumer_may_die_anywhere() {
    sample("consumer", |deaths| a_consumer_dies(Bug::None, deaths));
}

#[test]
fn a_sleepers_producer_may_die_anywhere() {
    sample("sleeper", |deaths| a_sleeper(Bug::None, deaths));
}

#[test]
fn finds_a_claim_that_names_nobody() {
    finds("is lost", |deaths| four_producers(Bug::AnonymousClaim, Verdict::Certified, deaths));
}

#[test]
fn finds_a_tail_that_is_not_helped() {
    finds("no room can be had: Stuck", |deaths| {
        let producers = &[Producer { pid: 2, messages: 2, fuel: chance_of_death(30) }];
        let (bug, verdict) = (Bug::TailNotHelped, Verdict::Certified);
        Scene { bug, verdict, capacity: 2, producers, looks: 1 }.play(deaths);
    });
}

#[test]
fn finds_a_head_moved_before_its_slot_is_free() {
    finds("room is lost for good", |deaths| a_consumer_dies(Bug::HeadBeforeFree, deaths));
}

#[test]
fn finds_a_forgotten_wake_up() {
    finds("deadlock", |deaths| a_sleeper(Bug::WakeForgotten, deaths));
}

/// loom says of the same scene that two are at one payload; here it is seen what comes of it.
#[test]
fn finds_a_verdict_that_was_guessed() {
    model::finds("the zombie's payload arrived as somebody else's", || {
        model::sample(Choice::Priorities(3), 4 * SCHEDULES, |deaths| {
            let producers = &[Producer { pid: 2, messages: 1, fuel: scenes::FOR_EVER }];
            let (bug, verdict) = (Bug::None, Verdict::Guessed);
            Scene { bug, verdict, capacity: 1, producers, looks: 4 }.play(deaths);
        });
    });
}

/// Memory is sequentially consistent here: what needs a stale read is loom's to find.
#[test]
fn does_not_find_a_relaxed_publication() {
    sample("published Relaxed", |deaths| {
        four_producers(Bug::PublishRelaxed, Verdict::Certified, deaths);
    });
}

/// One seed is one run: the same schedules, the same deaths, and the same failure.
#[test]
fn a_seed_is_one_run() {
    let run = |choice, bug| {
        let scene = move |deaths: &Deaths| four_producers(bug, Verdict::Certified, deaths);
        model::sample_seeded(7, choice, 200, scene)
    };
    for choice in CHOICES {
        assert_eq!(run(choice, Bug::None), run(choice, Bug::None));
    }
}

/// The least case whole, without a sample: one sends, the other looks once.
#[test]
fn every_schedule_of_one_message() {
    let mut all = model::Tried::default();
    for fuel in 0.. {
        let tried = model::every_schedule(move |deaths| {
            let producers = &[Producer { pid: 2, messages: 1, fuel }];
            let verdict = Verdict::Certified;
            Scene { bug: Bug::None, verdict, capacity: 1, producers, looks: 1 }.play(deaths);
        });
        all.executions += tried.executions;
        all.deaths += tried.deaths;
        if tried.deaths == 0 {
            break;
        }
        all.kill_points += 1;
    }
    println!("planted, one message: {all:?}");
    assert!(all.deaths > 0);
}
