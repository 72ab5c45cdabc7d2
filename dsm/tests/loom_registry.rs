//! Names: one process makes what a name leads to, whoever dies at it; who finds it finds it whole;
//! and no pin is left where no name is.
#![cfg(all(shm_loom, not(shm_shuttle)))]
mod registry_common;

use dsm::registry::{Name, Step};
use registry_common::{Asked, World};
use shm_core::participants::{Member, process_ends};
use shm_core::process::model::become_process;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::model::thread::JoinHandle;
use shm_testkit::model::{self, Life};
use std::sync::Arc;

/// A member of process 2 or 3.
fn join(world: &World, process: u32) -> Arc<Member> {
    become_process(process);
    let member = world.table.join().unwrap();
    become_process(1);
    member
}

/// Process `number` does something, and may die of it.
fn process<R: 'static>(
    world: &World,
    number: u32,
    life: Life,
    act: impl FnOnce(&World, &Arc<Member>) -> R + 'static,
) -> JoinHandle<Option<R>> {
    let (member, world) = (join(world, number), world.clone());
    model::thread::spawn(move || {
        become_process(number);
        let done = life.run(|| act(&world, &member));
        if done.is_none() {
            process_ends(&world.table, member.process());
        }
        std::mem::forget(member);
        done
    })
}

/// After all: what the dead left is cleared, the name can be had, and nothing else is pinned.
fn afterwards(world: &World) -> Asked {
    world.reap();
    let me = world.table.join().unwrap();
    let asked = world.ask(&me, "a", 4);
    assert_ne!(asked, Asked::Nothing, "a name that cannot be had, or leads to half a segment");
    assert_eq!(world.count(), (1, 1), "pins, names");
    std::mem::forget(me);
    asked
}

/// Two ask for a name that is not there.
fn two_ask(lives: [Life; 2]) {
    let world = World::new(2);
    let [one, other] = lives;
    let asks =
        |number, life| process(&world, number, life, move |world, me| world.ask(me, "a", number));
    let (one, other) = (asks(2, one), asks(3, other));
    let told = [one.join().unwrap(), other.join().unwrap()];
    let made = told.iter().flatten().filter(|asked| matches!(asked, Asked::Made(_))).count();
    assert!(made <= 1, "two have made it: {told:?}");
    assert!(!told.contains(&Some(Asked::Nothing)), "{told:?}");
    let after = afterwards(&world);
    if made == 1 {
        assert!(matches!(after, Asked::Found(_)), "what was made is gone: {told:?}");
    }
}

/// One removes a name, and another one asks for it, and for another name in the same row.
fn removed_and_asked([remover, asker]: [Life; 2]) {
    let world = World::new(1);
    let me = world.table.join().unwrap();
    assert!(matches!(world.ask(&me, "a", 1), Asked::Made(_)));
    std::mem::forget(me);
    let removes = process(&world, 2, remover, |world, me| {
        assert!(world.remove(me, "a"));
        match world.step(me, "b") {
            Step::Mine(claim) => world.make(claim, 2),
            _ => Asked::Nothing,
        }
    });
    let looks = process(&world, 3, asker, |world, _| {
        for (name, number) in [("b", 2), ("a", 1)] {
            let found = world.registry.look(&Name::new(name).unwrap());
            let Some(found) = found.filter(|found| found.is_ready()) else { continue };
            let Asked::Found(handle) = world.look_at(&found) else { panic!("half a segment") };
            assert_eq!(handle.to_bits() & 0xff, number, "{name} leads to the other one's");
        }
    });
    let removed = removes.join().unwrap();
    looks.join().unwrap();
    world.reap();
    let (pinned, names) = world.count();
    assert_eq!(pinned, names, "pins, names");
    assert!(removed.is_none() || names == 1);
}

/// The maker gives up or dies; who waits for it makes it, and the first may ask again.
fn one_fails([maker, waiter]: [Life; 2]) {
    let world = World::new(2);
    let fails = process(&world, 2, maker, |world, me| {
        if let Step::Mine(claim) = world.step(me, "a") {
            claim.give_up(&|handle| world.unpin(handle));
        }
    });
    let asks = process(&world, 3, waiter, |world, me| world.ask(me, "a", 3));
    fails.join().unwrap();
    assert_ne!(asks.join().unwrap(), Some(Asked::Nothing));
    afterwards(&world);
}

#[test]
fn of_two_who_ask_one_makes_it_whoever_dies() {
    let bound = model::preemption_bound();
    let lives = || [Life::endless(), Life::endless()];
    println!(
        "registry, two ask: {:?}",
        model::check_bounded(Some(bound - 1), move || two_ask(lives()))
    );
    println!("registry, two ask, one death: {:?}", model::every_death_of(bound - 2, two_ask));
}

#[test]
fn a_name_is_removed_whoever_dies() {
    let bound = model::preemption_bound();
    println!("registry, removed: {:?}", model::every_death_of(bound - 1, removed_and_asked));
}

#[test]
fn who_waits_makes_what_another_did_not() {
    let bound = model::preemption_bound();
    println!("registry, one fails: {:?}", model::every_death_of(bound - 2, one_fails));
}

#[test]
fn every_ordering_of_the_registry_matters() {
    let endless = || [Life::endless(), Life::endless()];
    let found = model::every_ordering_matters(&["src/registry/"], move || {
        model::check_bounded(Some(1), move || two_ask(endless()));
        model::check_bounded(Some(1), move || removed_and_asked(endless()));
    });
    // The turn's two; what a row is, and what is in it, written and read.
    assert_eq!(found, 6);
}

/// Planted bug: who has shown its name does not look whether another has.
#[test]
fn finds_a_name_that_two_make() {
    model::finds("two make it", || {
        model::check_bounded(Some(1), || {
            // In small: what each has shown, and no turn between showing and looking.
            let shown = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
            let makes = |shown: &[AtomicU64; 2], mine: usize| {
                shown[mine].store(1, Ordering::Release);
                shown[1 - mine].load(Ordering::Acquire) == 0
            };
            let theirs = shown.clone();
            let other = model::thread::spawn(move || makes(&theirs, 1));
            let mine = makes(&shown, 0);
            assert!(!(mine & other.join().unwrap()), "two make it");
        });
    });
}
