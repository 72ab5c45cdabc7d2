//! The segment table that grows: two that find it full at once each get a slot of their own,
//! whoever dies where; what one has done in a piece that is new, those who come after him find.
#![cfg(all(shm_loom, not(shm_shuttle)))]
mod grow_common;

use grow_common::{assert_all_free, attach, clean_up, create, enter, id, table};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::model::{self, Life};
use std::sync::Arc;

const A: u32 = 0;
const B: u32 = 1;
const C: u32 = 2;

/// A and B make a segment each; whoever dies is cleaned up after by C, who has not heard of the new
/// piece before.
fn two_grow([a, b]: [Life; 2]) {
    let mapping = table();
    assert!(enter(&attach(&mapping), C));
    let (theirs, life) = (attach(&mapping), b.clone());
    let other = model::thread::spawn(move || life.run(|| create(&theirs, B)).map(Option::unwrap));
    let mine = attach(&mapping);
    let made = a.run(|| create(&mine, A)).map(Option::unwrap);
    let others = other.join().unwrap();
    assert!(made.is_none() || made != others, "two have the same slot");
    let control = attach(&mapping);
    for (who, made) in [(A, made), (B, others)] {
        if let Some(handle) = made {
            assert!(control.is_alive(handle), "a segment is not found");
        }
        clean_up(&control, who);
    }
    assert_all_free(&control, C);
}

/// A makes a segment in a new piece, pins it, and leaves while B leaves: the domain stays.
fn a_pin_in_a_new_piece([a, b]: [Life; 2]) {
    let mapping = table();
    let (mine, theirs) = (attach(&mapping), attach(&mapping));
    assert!(enter(&mine, A) && enter(&theirs, B));
    create(&mine, A).unwrap();
    let life = b.clone();
    let other = model::thread::spawn(move || life.run(|| clean_up(&theirs, B)).is_none());
    let pinned = a.run(|| {
        let handle = create(&mine, A).unwrap();
        mine.pin(handle).unwrap();
        handle
    });
    let control = attach(&mapping);
    if pinned.is_some() {
        a.run(|| clean_up(&mine, A));
    }
    if other.join().unwrap() {
        clean_up(&control, B);
    }
    clean_up(&control, A);
    assert!(pinned.is_none() || control.is_open(), "closed with a pinned segment in it");
    if let Some(handle) = pinned {
        assert!(control.is_alive(handle));
        control.actor(id(C), &grow_common::NoObjects).unpin(handle).unwrap();
    }
}

fn sweep(name: &str, scenario: impl Fn([Life; 2]) + Clone + Send + Sync + 'static) {
    let bound = model::preemption_bound();
    let tried = model::every_death_of(bound - 1, scenario.clone());
    println!("control, {name}, one death: {tried:?}");
    let tried = model::every_two_deaths(bound - 2, scenario);
    println!("control, {name}, two deaths: {tried:?}");
}

#[test]
fn two_that_grow_it_may_die_anywhere() {
    sweep("two grow", two_grow);
}

#[test]
fn a_pin_in_a_new_piece_is_found_by_who_closes() {
    sweep("a pin in a new piece", a_pin_in_a_new_piece);
}

/// Planted: whoever grows the table writes free slots there, where another one may have been faster
/// and may have taken one, which he then cannot publish.
#[test]
fn finds_a_grower_that_writes_the_slots() {
    model::finds("actor.publish(handle, 1)", || {
        model::check(|| {
            let mapping = table();
            assert!(enter(&attach(&mapping), C));
            create(&attach(&mapping), C).unwrap();
            let writes_and_creates = |mapping: &Arc<Mapping>, who| {
                let control = attach(mapping);
                control.grow().unwrap();
                let word = size_of::<AtomicU64>() as u64;
                // Head, the domain's slot and set; the first slot and set; the second slot.
                let head = (5 * word + 24).next_multiple_of(64);
                let second = (head + 3 * word).next_multiple_of(64) + 3 * word;
                let state = Mapped::<AtomicU64>::new(mapping, second).unwrap();
                state.store(0, Ordering::Relaxed);
                create(&control, who)
            };
            let theirs = mapping.clone();
            let other = model::thread::spawn(move || writes_and_creates(&theirs, B));
            let (mine, others) = (writes_and_creates(&mapping, A), other.join().unwrap());
            assert!(mine.is_none() || mine != others, "two have the same slot");
        });
    });
}
