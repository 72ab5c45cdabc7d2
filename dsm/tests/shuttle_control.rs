//! The segment table with four participants, each of which may die: a sample of schedules, for loom
//! cannot finish so many.
//!
//! Whoever dies is cleaned up after by its own thread, while the others go on.
#![cfg(all(shm_loom, shm_shuttle))]
mod control_common;

use control_common::World;
use dsm::SegmentHandle;
use shm_core::sync::Ordering::Relaxed;
use shm_testkit::model::{self, Choice, Deaths, chance_of_death};

const PEOPLE: usize = 4;
const CHOICES: [Choice; 2] = [Choice::Random, Choice::Priorities(3)];

impl World {
    /// Attaches to the segment that there is, or makes one: and detaches.
    fn use_a_segment(&self, who: usize) {
        let there = SegmentHandle::from_bits(self.system.object.load(Relaxed));
        let handle = there.filter(|handle| self.attach(who, *handle));
        if let Some(handle) = handle.or_else(|| self.create(who)) {
            self.detach(who, handle);
        }
    }

    /// Runs `act` as each of the four, each in a thread. The dead are cleaned up after, if that is
    /// what `reaps` says.
    fn four(
        &self,
        reaps: bool,
        deaths: &Deaths,
        act: impl Fn(&World, usize) + Copy + Send + 'static,
    ) {
        let run = |who| {
            let (world, deaths, fuel) = (self.clone(), deaths.clone(), chance_of_death(60));
            model::thread::spawn(move || {
                if model::mortal(fuel, || act(&world, who)).is_none() {
                    deaths.died();
                    if reaps {
                        world.leave(who);
                    }
                }
            })
        };
        let threads: Vec<_> = (0..PEOPLE).map(run).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Four attach, create and detach in turn, in a domain that somebody else keeps open.
fn four_use_segments(reaps: bool, deaths: &Deaths) {
    let world = World::new();
    world.four(reaps, deaths, |world, who| (0..3).for_each(|_| world.use_a_segment(who)));
    world.assert_empty();
}

/// Four come, use segments and leave: the last one out takes the domain away.
fn four_leave(deaths: &Deaths) {
    let world = World::empty();
    assert!(world.enter(0));
    world.four(true, deaths, |world, who| {
        if who == 0 || world.enter(who) {
            world.use_a_segment(who);
            world.leave(who);
        }
    });
    world.assert_closed();
}

fn sample(name: &str, scenario: impl Fn(&Deaths) + Copy + Send + Sync + 'static) {
    for choice in CHOICES {
        let tried = model::sample(choice, 5_000, scenario);
        println!("control, {name}: {tried:?}");
        assert!(tried.deaths > 0);
    }
}

#[test]
fn four_that_use_segments_may_die_anywhere() {
    sample("four use segments", |deaths| four_use_segments(true, deaths));
}

#[test]
fn four_that_leave_may_die_anywhere() {
    sample("four leave", four_leave);
}

/// Where nobody reaps the dead, what they held is left over: the check sees that.
#[test]
fn finds_dead_ones_that_nobody_reaped() {
    for choice in CHOICES {
        model::finds("is left over", || {
            model::sample(choice, 5_000, |deaths| four_use_segments(false, deaths));
        });
    }
}
