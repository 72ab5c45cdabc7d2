//! Processes join, leave and are killed for a while: never are two in one slot, and every dead
//! one's slot is cleaned up before it is used again.
#![cfg(not(any(shm_loom, shm_explore)))]
mod participants_common;

use participants_common::{Child, World, world};
use shm_core::participants::{JoinError, JoinOptions, Member};
use shm_core::sync::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SLOTS: u32 = 6;
const PROCESSES: u32 = 8;
const TIME: Duration = Duration::from_secs(2);

/// Words 0..SLOTS: whose the slot is, by its own account. Then three counters.
const JOINED: usize = 32;
const CLEANED: usize = 33;
const VIOLATED: usize = 34;

fn count(world: &World, word: usize) {
    world.board.words[word].fetch_add(1, Ordering::Relaxed);
}

/// Takes a seat; its word must have been given up by whoever had it before.
fn join(world: &World, me: u32) -> Option<Arc<Member>> {
    let cleanup = |dead: shm_core::participants::ParticipantId| {
        world.board.words[dead.slot() as usize].store(0, Ordering::Relaxed);
        count(world, CLEANED);
    };
    let member = match world.table.join_with(JoinOptions::default(), cleanup) {
        Ok(member) => member,
        Err(JoinError::Full { .. }) => return None,
        Err(e) => panic!("{e}"),
    };
    let word = member.id().slot() as usize;
    if world.board.words[word].swap(me, Ordering::Relaxed) != 0 {
        count(world, VIOLATED);
    }
    count(world, JOINED);
    let board = world.board.clone();
    member.on_leave(move |_| {
        if board.words[word].swap(0, Ordering::Relaxed) != me {
            board.words[VIOLATED].fetch_add(1, Ordering::Relaxed);
        }
    });
    Some(member)
}

#[test]
fn no_slot_is_shared_and_none_is_lost() {
    let world = world(SLOTS);
    let mut seed = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let spawn = |me: u32| {
        Child::fork(|| {
            loop {
                let member = join(&world, me);
                std::thread::yield_now();
                drop(member);
            }
        })
    };
    let mut children: Vec<_> = (1..=PROCESSES).map(spawn).collect();
    let (end, mut kills) = (Instant::now() + TIME, 0);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_micros(random(3000)));
        let index = random(children.len() as u64) as usize;
        children[index].kill();
        kills += 1;
        children[index] = spawn(PROCESSES + kills);
    }
    drop(children);
    world.table.reap(|dead| {
        world.board.words[dead.slot() as usize].store(0, Ordering::Relaxed);
    });
    let (joined, cleaned) = (world.word(JOINED), world.word(CLEANED));
    println!("{joined} joined, {kills} killed, {cleaned} cleaned up after");
    assert_eq!(world.word(VIOLATED), 0);
    assert!(world.table.is_empty(), "{:?}", world.table.snapshot());
    assert!(joined > 100 && kills > 10 && cleaned > 0);
    assert_eq!((0..SLOTS as usize).map(|slot| world.word(slot)).max(), Some(0));
}
