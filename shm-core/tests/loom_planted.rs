//! The planted ring under every interleaving, with a death at each access: each bug is found for
//! what it is, and the sound ring passes, needing each of its orderings.
//!
//! Two kinds of wrong verdict as well: a producer that is late is taken for dead and goes on
//! writing (found), and one that the kernel says is dead (nothing to find).
#![cfg(all(shm_loom, not(shm_shuttle)))]
mod planted;
#[path = "planted/scenes.rs"]
mod scenes;

use planted::Bug;
use scenes::{FOR_EVER, Producer, Scene, Verdict};
use shm_testkit::model::{self, Deaths};

/// One producer may die; who consumes is a producer too, and lives.
fn a_producer_dies(bug: Bug, verdict: Verdict, fuel: u32, deaths: &Deaths) {
    let producers = &[Producer { pid: 2, messages: 1, fuel }];
    Scene { bug, verdict, capacity: 1, producers, looks: 3 }.play(deaths);
}

/// The same on a ring with room for both.
fn a_producer_dies_beside(bug: Bug, fuel: u32, deaths: &Deaths) {
    let producers = &[Producer { pid: 2, messages: 1, fuel }];
    Scene { bug, verdict: Verdict::Certified, capacity: 2, producers, looks: 2 }.play(deaths);
}

/// The least in which a publication matters: one sends, the other looks.
fn a_message_is_sent(bug: Bug) {
    let producers = &[Producer { pid: 2, messages: 1, fuel: FOR_EVER }];
    let verdict = Verdict::Certified;
    Scene { bug, verdict, capacity: 1, producers, looks: 1 }.play(&Deaths::default());
}

fn a_consumer_dies(bug: Bug, fuel: u32, deaths: &Deaths) {
    scenes::consumer_dies(bug, 1, 2, fuel, deaths);
}

fn sweep(name: &str, scene: impl Fn(u32, &Deaths) + Clone + Send + Sync + 'static) {
    sweep_bounded(name, model::preemption_bound(), scene);
}

fn sweep_bounded(
    name: &str,
    bound: usize,
    scene: impl Fn(u32, &Deaths) + Clone + Send + Sync + 'static,
) {
    let tried = model::every_death_bounded(Some(bound), scene);
    println!("planted, {name}: {tried:?}");
    assert!(tried.deaths > 0);
}

/// The long scene, on a slot that is used three times, has one preemption less.
fn long_bound() -> usize {
    model::preemption_bound() - 1
}

fn nobody_dies(bug: Bug) {
    model::check(move || {
        a_producer_dies(bug, Verdict::Certified, FOR_EVER, &Deaths::default());
    });
}

#[test]
fn a_producer_may_die_anywhere() {
    for verdict in [Verdict::Certified, Verdict::Parent] {
        sweep_bounded("producer", long_bound(), move |fuel, deaths| {
            a_producer_dies(Bug::None, verdict, fuel, deaths);
        });
    }
    sweep("producer beside", |fuel, deaths| a_producer_dies_beside(Bug::None, fuel, deaths));
}

#[test]
fn a_consumer_may_die_anywhere() {
    sweep("consumer", |fuel, deaths| a_consumer_dies(Bug::None, fuel, deaths));
}

#[test]
fn a_sleepers_producer_may_die_anywhere() {
    sweep("sleeper", |fuel, deaths| scenes::sleeper(Bug::None, fuel, deaths));
}

#[test]
fn finds_a_claim_that_names_nobody() {
    model::finds("room is lost for good", || {
        model::every_death(|fuel, deaths| {
            a_producer_dies(Bug::AnonymousClaim, Verdict::Certified, fuel, deaths);
        });
    });
}

#[test]
fn finds_a_relaxed_publication() {
    model::finds("Causality violation", || nobody_dies(Bug::PublishRelaxed));
}

#[test]
fn finds_a_head_moved_before_its_slot_is_free() {
    model::finds("room is lost for good", || {
        model::every_death(|fuel, deaths| a_consumer_dies(Bug::HeadBeforeFree, fuel, deaths));
    });
}

#[test]
fn finds_a_tail_that_is_not_helped() {
    model::finds("no room can be had: Stuck", || {
        model::every_death(|fuel, deaths| {
            a_producer_dies(Bug::TailNotHelped, Verdict::Certified, fuel, deaths);
        });
    });
}

#[test]
fn finds_a_forgotten_wake_up() {
    model::finds("deadlock", || {
        model::every_death(|fuel, deaths| scenes::sleeper(Bug::WakeForgotten, fuel, deaths));
    });
}

#[test]
fn finds_a_verdict_that_was_guessed() {
    model::finds("Concurrent", || {
        model::check(|| {
            a_producer_dies(Bug::None, Verdict::Guessed, FOR_EVER, &Deaths::default());
        });
    });
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["tests/planted/mod.rs"], || {
        for verdict in [Verdict::Parent, Verdict::Certified] {
            model::every_death_bounded(Some(long_bound()), move |fuel, deaths| {
                a_producer_dies(Bug::None, verdict, fuel, deaths);
            });
        }
    });
    assert_eq!(found, 5, "claim, publish, pop, free, reap");
}

/// What loom alone does not see of this ring: the consumer's own look at the slot hides the
/// producer's from it. Where this fails after an update of loom, the shadow may go.
#[test]
fn without_its_shadow_a_relaxed_publication_passes() {
    let tried = model::without_shadow(|| {
        model::check_bounded(None, || a_message_is_sent(Bug::PublishRelaxed))
    });
    println!("planted, published Relaxed, without a shadow: {tried:?}");
    model::finds("Causality violation", || {
        model::check(|| a_message_is_sent(Bug::PublishRelaxed));
    });
}
