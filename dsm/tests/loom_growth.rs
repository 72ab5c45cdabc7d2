//! The length of a growable segment: whoever dies where, the pages that it counts are there, nobody
//! else's change is undone, and the next to change it finishes.
#![cfg(all(shm_loom, not(shm_shuttle)))]
mod growth_common;

use dsm::GrowError;
use growth_common::{Care, World, id};
use shm_core::sync::Ordering;
use shm_testkit::model::{self, Life};

fn nobody(_: shm_core::participants::ParticipantId) -> bool {
    false
}

/// The new length, or that somebody else was at it.
fn told(changed: Result<u32, GrowError>) -> Option<u32> {
    match changed {
        Ok(pages) => Some(pages),
        Err(GrowError::Busy { .. }) => None,
        Err(other) => panic!("{other}"),
    }
}

/// Two make it longer, a third uses what is there.
fn growing([one, other, reader]: [Life; 3], care: Care) {
    let world = World::new(1, care);
    let theirs = world.clone();
    let other = model::thread::spawn(move || {
        other.run(|| told(theirs.growth.grow(id(1), 3, nobody, &theirs)))
    });
    let theirs = world.clone();
    let reader = model::thread::spawn(move || reader.run(|| theirs.look()));
    let mine = one.run(|| told(world.growth.grow(id(0), 2, nobody, &world)));
    let (seen, theirs) = (reader.join().unwrap(), other.join().unwrap());

    let now = world.look();
    for told in [mine.flatten(), theirs.flatten(), seen].into_iter().flatten() {
        assert!(told <= now, "it has become shorter");
    }
    let all_live = mine.is_some() && theirs.is_some();
    assert!(!all_live || now > 1, "each gave way to the other");
    // Who comes later finishes, whoever died.
    assert_eq!(told(world.change(2, 4, |_| true)), Some(4));
    assert_eq!(told(world.change(2, 2, |_| true)), Some(2));
    world.assert_exact();
}

/// One makes it shorter and longer again, another longer.
fn shrinking([one, other]: [Life; 2], care: Care) {
    let world = World::new(2, care);
    let theirs = world.clone();
    let other = model::thread::spawn(move || {
        other.run(|| {
            let shrunk = told(theirs.growth.shrink(id(1), 1, nobody, &theirs));
            shrunk.and_then(|_| told(theirs.growth.grow(id(1), 2, nobody, &theirs)))
        })
    });
    let mine = one.run(|| told(world.growth.grow(id(0), 3, nobody, &world)));
    let theirs = other.join().unwrap();
    let now = world.look();
    if mine.is_some() && theirs.is_some() {
        world.assert_exact();
        assert!(now >= 1);
    }
    assert_eq!(told(world.change(2, 4, |_| true)), Some(4));
    world.assert_exact();
}

fn sweep<const N: usize>(name: &str, scenario: impl Fn([Life; N]) + Clone + Send + Sync + 'static) {
    let bound = model::preemption_bound();
    println!("growth, {name}, one death: {:?}", model::every_death_of(bound, scenario.clone()));
    println!("growth, {name}, two deaths: {:?}", model::every_two_deaths(bound - 1, scenario));
}

#[test]
fn one_of_two_that_grow_it_may_die_anywhere() {
    sweep("grow", |all| growing(all, Care::Deaths));
}

#[test]
fn who_shrinks_it_may_die_anywhere() {
    sweep("shrink", |all| shrinking(all, Care::Deaths));
}

fn nobody_dies<const N: usize>() -> [Life; N] {
    std::array::from_fn(|_| Life::endless())
}

#[test]
fn every_ordering_matters() {
    let found = model::every_ordering_matters(&["growth/mod.rs"], || {
        model::check(|| growing(nobody_dies(), Care::AloneToo));
        model::check(|| shrinking(nobody_dies(), Care::AloneToo));
    });
    assert_eq!(found, 3);
}

/// Planted bug: the new length is shown before the pages are there.
#[test]
fn finds_a_length_published_too_early() {
    model::finds("a page that is not there", || {
        model::check(|| {
            let world = World::new(1, Care::Deaths);
            let theirs = world.clone();
            let early = model::thread::spawn(move || {
                let claimed = theirs.growth.grow(id(1), 2, nobody, &Nothing);
                theirs.memory.page[1].store(1, Ordering::Relaxed);
                claimed.unwrap();
            });
            world.look();
            early.join().unwrap();
        });
    });
}

/// Pages that come later.
struct Nothing;

impl dsm::growth::Pages for Nothing {
    fn reserve(&self, _: std::ops::Range<u32>) -> Result<(), dsm::backend::BackendError> {
        Ok(())
    }
    fn release(&self, _: std::ops::Range<u32>) -> Result<(), dsm::backend::BackendError> {
        Ok(())
    }
}
