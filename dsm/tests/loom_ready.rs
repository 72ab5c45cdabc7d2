//! Ready segments: two create in pages of one chunk while another gives its memory back; whoever
//! dies where, each has a page of his own with memory behind it.
#![cfg(all(shm_loom, not(shm_shuttle)))]
mod ready_common;

use ready_common::World;
use shm_core::mapping::Mapped;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::model::{self, Life};

const A: u32 = 0;
const B: u32 = 1;
const OUTSIDER: u32 = 2;

/// A creates and destroys; B gives back what is not used, and then creates too.
fn one_creates_one_empties([a, b]: [Life; 2]) {
    let world = World::new(OUTSIDER);
    // There is memory, and nobody has used it since the last look.
    let handle = world.create(OUTSIDER).unwrap();
    world.destroy(OUTSIDER, handle);
    world.actor(OUTSIDER).empty_unused(1);
    let (theirs, life) = (world.clone(), b.clone());
    let other = model::thread::spawn(move || {
        let lived = life.run(|| {
            theirs.actor(B).empty_unused(0);
            let handle = theirs.create(B);
            handle.into_iter().for_each(|handle| theirs.destroy(B, handle));
        });
        lived.is_some()
    });
    let mine = a.run(|| {
        let handle = world.create(A);
        handle.into_iter().for_each(|handle| world.destroy(A, handle));
    });
    let theirs = other.join().unwrap();
    for (who, lived) in [(A, mine.is_some()), (B, theirs)] {
        if !lived {
            world.clean_up(who);
        }
    }
    world.assert_all_free(OUTSIDER);
}

/// Both create in pages without memory.
fn two_create([a, b]: [Life; 2]) {
    let world = World::new(OUTSIDER);
    let (theirs, life) = (world.clone(), b.clone());
    let other = model::thread::spawn(move || life.run(|| theirs.create(B)).flatten());
    let mine = a.run(|| world.create(A)).flatten();
    let others = other.join().unwrap();
    assert!(mine.is_none() || mine != others, "two have the same page");
    world.clean_up(A);
    world.clean_up(B);
    world.assert_all_free(OUTSIDER);
}

fn sweep(name: &str, scenario: impl Fn([Life; 2]) + Clone + Send + Sync + 'static) {
    let bound = model::preemption_bound();
    let tried = model::every_death_of(bound - 1, scenario.clone());
    println!("ready, {name}, one death: {tried:?}");
    let tried = model::every_two_deaths(bound - 2, scenario);
    println!("ready, {name}, two deaths: {tried:?}");
}

#[test]
fn who_creates_and_who_empties_may_die_anywhere() {
    sweep("one creates, one empties", one_creates_one_empties);
}

#[test]
fn two_creators_may_die_anywhere() {
    sweep("two create", two_create);
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["dsm/src/control/ready.rs"], || {
        model::check(|| two_create([Life::endless(), Life::endless()]));
    });
    assert_eq!(found, 2, "of the bit: set, and seen");
}

/// Planted: a filler who owns no slot of the chunk says that there is memory, which another one may
/// have given back meanwhile.
#[test]
fn finds_a_filler_without_a_slot() {
    model::finds("no memory behind the page", || {
        model::check(|| {
            let world = World::new(OUTSIDER);
            let theirs = world.clone();
            let other = model::thread::spawn(move || {
                let handle = theirs.create(B).unwrap();
                theirs.destroy(B, handle);
                theirs.actor(B).empty_unused(0);
                theirs.actor(B).empty_unused(0);
            });
            // `Head::filled`, the fourth word.
            let filled =
                Mapped::<AtomicU64>::new(&world.mapping, 3 * size_of::<AtomicU64>() as u64)
                    .unwrap();
            world.system.memory.store(1, Ordering::Relaxed);
            filled.fetch_or(1, Ordering::Release);
            if let Some(handle) = world.create(A) {
                world.destroy(A, handle);
            }
            other.join().unwrap();
        });
    });
}
