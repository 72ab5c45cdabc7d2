//! Any sequence of joining, leaving, dying and reaping gives what a plain model gives; and a table
//! full of nonsense gives errors.
//!
//! What forks does so in a process of its own: among other tests' threads one may hold a lock at
//! that moment, and nobody unlocks the copy.
#![cfg(not(any(shm_loom, shm_explore)))]
mod participants_common;

use participants_common::{Child, World, shared_mapping, world};
use proptest::prelude::*;
use shm_core::participants::{JoinError, JoinOptions, Member, ParticipantId, Table};
use shm_core::process::Liveness;
use shm_testkit::depth::cases;
use std::sync::Arc;
use std::time::Duration;

const SLOTS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Join,
    /// A child process joins and is killed.
    JoinAndDie,
    /// The member in this slot leaves, if it is one of ours.
    Leave(usize),
    Reap,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Join),
        2 => Just(Step::JoinAndDie),
        2 => (0..SLOTS).prop_map(Step::Leave),
        1 => Just(Step::Reap),
    ];
    prop::collection::vec(step, 1..16)
}

enum Seat {
    Free,
    Dead,
    Ours { _member: Arc<Member> },
}

/// The model: seats and how often each was used. The lowest free one is taken.
struct Plain {
    seats: Vec<Seat>,
    generations: Vec<u32>,
}

impl Plain {
    fn free(&mut self, slot: usize) {
        self.seats[slot] = Seat::Free;
        self.generations[slot] += 1;
    }

    /// The ids of the dead, whose slots are then free.
    fn reap(&mut self) -> Vec<(u32, u32)> {
        let dead: Vec<_> =
            (0..SLOTS).filter(|slot| matches!(self.seats[*slot], Seat::Dead)).collect();
        let ids = dead.iter().map(|slot| (*slot as u32, self.generations[*slot])).collect();
        dead.into_iter().for_each(|slot| self.free(slot));
        ids
    }

    fn lowest_free(&self) -> Option<usize> {
        self.seats.iter().position(|seat| matches!(seat, Seat::Free))
    }
}

fn pair(id: ParticipantId) -> (u32, u32) {
    (id.slot(), id.generation())
}

fn join(world: &World, plain: &mut Plain) -> Result<(), TestCaseError> {
    let mut cleaned = Vec::new();
    let joined = world.table.join_with(JoinOptions::default(), |dead| cleaned.push(pair(dead)));
    let expected = if plain.lowest_free().is_none() { plain.reap() } else { Vec::new() };
    prop_assert_eq!(cleaned, expected);
    match (joined, plain.lowest_free()) {
        (Ok(member), Some(slot)) => {
            prop_assert_eq!(pair(member.id()), (slot as u32, plain.generations[slot]));
            plain.seats[slot] = Seat::Ours { _member: member };
        }
        (Err(JoinError::Full { .. }), None) => (),
        (joined, free) => prop_assert!(false, "{:?} though {:?} is free", joined, free),
    }
    Ok(())
}

fn join_and_die(world: &World, plain: &mut Plain) {
    let Some(slot) = plain.lowest_free() else { return };
    let mut child = Child::fork(|| {
        std::mem::forget(world.table.join().unwrap());
        // SAFETY: ends this child.
        unsafe { libc::raise(libc::SIGKILL) };
    });
    assert_eq!(child.wait(), -libc::SIGKILL);
    plain.seats[slot] = Seat::Dead;
}

fn agree(world: &World, plain: &Plain) -> Result<(), TestCaseError> {
    let seats: Vec<_> =
        world.table.snapshot().into_iter().map(|seat| (pair(seat.id), seat.liveness)).collect();
    let expected: Vec<_> = (0..SLOTS)
        .filter_map(|slot| {
            let id = (slot as u32, plain.generations[slot]);
            match plain.seats[slot] {
                Seat::Free => None,
                Seat::Dead => Some((id, Liveness::Dead)),
                Seat::Ours { .. } => Some((id, Liveness::Alive)),
            }
        })
        .collect();
    prop_assert_eq!(seats, expected);
    prop_assert_eq!(world.table.is_empty(), plain.seats.iter().all(|s| matches!(s, Seat::Free)));
    for slot in 0..SLOTS {
        for generation in 1..plain.generations[slot] {
            let old = ParticipantId::from_bits((slot as u32) << 22 | generation).unwrap();
            prop_assert_eq!(world.table.liveness(old), Liveness::Dead, "{} is of the past", old);
        }
    }
    Ok(())
}

fn agrees(_: &[String]) {
    agrees_with_a_plain_model();
}
shm_testkit::children! { agrees }

#[test]
fn a_table_agrees_with_a_plain_model() {
    let mut child = shm_testkit::child::Child::spawn("agrees", &[]);
    child.wait(Duration::from_secs(550)).assert_success();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(64),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    fn agrees_with_a_plain_model(steps in steps()) {
        let world = world(SLOTS as u32);
        let mut plain = Plain {
            seats: (0..SLOTS).map(|_| Seat::Free).collect(),
            generations: vec![1; SLOTS],
        };
        for step in steps {
            match step {
                Step::Join => join(&world, &mut plain)?,
                Step::JoinAndDie => join_and_die(&world, &mut plain),
                Step::Leave(slot) => {
                    if matches!(plain.seats[slot], Seat::Ours { .. }) {
                        plain.free(slot);
                    }
                }
                Step::Reap => {
                    let mut cleaned = Vec::new();
                    world.table.reap(|dead| cleaned.push(pair(dead)));
                    prop_assert_eq!(cleaned, plain.reap());
                }
            }
            agree(&world, &plain)?;
        }
    }

    /// Whatever stands in the table: an answer, and nobody outside the slots is touched.
    #[test]
    fn nonsense_is_survived(
        words in prop::collection::vec(any::<u64>(), 8 * 4..=8 * 4),
        ids: [u32; 4],
    ) {
        let mapping = shared_mapping(4096);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 4) }.unwrap();
        let region = mapping.region();
        for (index, word) in words.iter().enumerate() {
            let at = Table::bytes_for(0) + 8 * index as u64;
            let word_there = region.share::<shm_core::sync::AtomicU64>(at).unwrap();
            word_there.store(*word, shm_core::sync::Ordering::Relaxed);
        }
        let _ = table.snapshot();
        let _ = table.reap(|id| assert!(id.slot() < 4));
        for id in ids.into_iter().filter_map(ParticipantId::from_bits) {
            let _ = table.liveness(id);
        }
        if let Ok(member) = table.join() {
            for id in ids.into_iter().filter_map(ParticipantId::from_bits) {
                let _ = member.watch(id).is_dead();
            }
        }
    }

    #[test]
    fn a_head_of_nonsense_is_refused(slots in any::<u32>()) {
        let mapping = shared_mapping(4096);
        let word = mapping.region();
        word.share::<shm_core::sync::AtomicU32>(0).unwrap()
            .store(slots, shm_core::sync::Ordering::Relaxed);
        let fits = slots >= 1 && Table::bytes_for(slots.min(1024)) <= 4096 && slots <= 1024;
        prop_assert_eq!(Table::attach(&mapping, 0).is_ok(), fits);
    }
}
