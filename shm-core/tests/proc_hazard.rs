//! Real processes: what one protects another does not free, the killed protect until they are
//! reaped, the stopped for as long as they are stopped; a forked child is nobody.
#![cfg(not(any(shm_loom, shm_explore)))]
mod participants_common;

use participants_common::{Child, WATCHDOG, World, world};
use shm_core::hazard::{HazardRow, Hazards, Protected, ProtectorError, RowError, Slot};
use shm_core::mapping::Mapped;
use shm_core::participants::Member;
use shm_core::process::Forked;
use shm_core::sync::{AtomicU64, Ordering};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEATS: u32 = 6;
const ROWS_AT: u64 = 1 << 14;
const STORE_AT: u64 = 1 << 15;
const THINGS: u64 = 32;
const THING: NonZeroU64 = NonZeroU64::new(4096).unwrap();
const TIME: Duration = Duration::from_secs(1);

/// Words of the board: readers seen to read, and what they found freed.
const READ: usize = 40;
const VIOLATED: usize = 41;

fn rows(world: &World) -> Hazards {
    // SAFETY: nobody else has these bytes yet; the table ends before, the board begins after.
    unsafe { Hazards::create(&world.mapping, ROWS_AT, SEATS, 2) }.unwrap()
}

fn sit(world: &World) -> (Arc<Member>, HazardRow) {
    let hazards = Hazards::attach(&world.mapping, ROWS_AT).unwrap();
    let cleanup = |dead| hazards.clear_row(dead);
    let member = world.table.join_with(Default::default(), cleanup).unwrap();
    let row = hazards.row(&member).unwrap();
    (member, row)
}

fn announce(slot: &mut Slot<'_>) {
    assert_eq!(slot.protect(THING, || true), Ok(true));
}

/// A child that protects a thing, says so in word 0, and then waits to be killed.
fn protecting_child(world: &World) -> Child {
    let child = Child::fork(|| {
        let (_member, row) = sit(world);
        let protector = row.protector().unwrap();
        announce(&mut protector.slot().unwrap());
        let mut slot = protector.slot().unwrap();
        announce(&mut slot);
        world.set(0, 1);
        std::thread::sleep(WATCHDOG);
    });
    world.await_word(0, |word| word == 1);
    child
}

#[test]
fn the_stopped_and_the_killed_protect_until_they_are_reaped() {
    let world = world(SEATS);
    let hazards = rows(&world);
    let mut child = protecting_child(&world);
    child.signal(libc::SIGSTOP);
    assert!(hazards.snapshot().contains(THING.get()), "it is stopped");
    assert_eq!(world.table.reap(|_| panic!("it is alive")), 0);
    child.kill();
    assert!(hazards.snapshot().contains(THING.get()), "it is not reaped");
    assert_eq!(world.table.reap(|dead| hazards.clear_row(dead)), 1);
    assert!(hazards.snapshot().is_empty());
}

#[test]
fn a_forked_child_is_nobody() {
    let world = world(SEATS);
    let hazards = rows(&world);
    let (member, row) = sit(&world);
    let (protector, second) = (row.protector().unwrap(), row.protector().unwrap());
    let mut slot = protector.slot();
    slot.iter_mut().for_each(announce);
    // What the child takes out of these it drops; the parent keeps its own.
    let (mut second, mut held) = (Some(second), Some((row.clone(), member.clone())));
    let mut child = Child::fork(|| {
        assert_eq!(hazards.row(&member).unwrap_err(), RowError::Forked(Forked));
        assert_eq!(row.protector().unwrap_err(), ProtectorError::Forked(Forked));
        if let Some(mut slot) = slot.take() {
            assert_eq!(slot.protect(THING, || true), Err(Forked));
            assert!(slot.protect_word(&AtomicU64::new(1), |word| word).is_err());
            slot.clear();
        }
        drop((second.take(), held.take()));
        // It can become somebody.
        let (_member, row) = sit(&world);
        announce(&mut row.protector().unwrap().slot().unwrap());
    });
    assert_eq!(child.wait(), 0);
    assert!(hazards.snapshot().contains(THING.get()), "the parent still has it");
}

fn word(world: &World, at: u64) -> Mapped<AtomicU64> {
    Mapped::new(&world.mapping, STORE_AT + at * 8).unwrap()
}

/// Reads the thing in place until it is killed. A thing that was freed holds 0.
fn read(world: &World) {
    let (_member, row) = sit(world);
    let protector = row.protector().unwrap();
    let (mut one, mut other) = (protector.slot().unwrap(), protector.slot().unwrap());
    let place = word(world, 0);
    let things: Vec<_> = (0..=THINGS).map(|number| word(world, number)).collect();
    loop {
        for _ in 0..100 {
            let number = one.protect_word(&place, |word| word).unwrap();
            for _ in 0..4 {
                if things[number as usize].load(Ordering::Relaxed) != number {
                    world.board.words[VIOLATED].fetch_add(1, Ordering::Relaxed);
                }
            }
            std::mem::swap(&mut one, &mut other);
        }
        world.board.words[READ].fetch_add(1, Ordering::Relaxed);
    }
}

/// Readers are killed all the time; who replaces the thing reaps them, and frees what it may.
#[test]
fn nothing_is_freed_too_early_whoever_is_killed() {
    let world = world(SEATS);
    let hazards = rows(&world);
    let place = word(&world, 0);
    word(&world, 1).store(1, Ordering::Relaxed);
    place.store(1, Ordering::Release);
    let mut children: Vec<_> = (0..3).map(|_| Child::fork(|| read(&world))).collect();
    let mut free: Vec<u64> = (2..=THINGS).collect();
    let (mut out, mut protected) = (Vec::new(), Protected::default());
    let (end, mut kills, mut freed) = (Instant::now() + TIME, 0, 0);
    while Instant::now() < end {
        for _ in 0..200 {
            if let Some(number) = free.pop() {
                word(&world, number).store(number, Ordering::Relaxed);
                out.push(place.swap(number, Ordering::Release));
            }
            hazards.snapshot_into(&mut protected);
            let may = |number: &u64| !protected.contains(*number);
            for number in out.extract_if(.., |number| may(number)) {
                word(&world, number).store(0, Ordering::Relaxed);
                free.push(number);
                freed += 1;
            }
        }
        let victim = kills % children.len();
        children[victim].kill();
        kills += 1;
        world.table.reap(|dead| hazards.clear_row(dead));
        children[victim] = Child::fork(|| read(&world));
    }
    drop(children);
    world.table.reap(|dead| hazards.clear_row(dead));
    assert!(hazards.snapshot().is_empty());
    let read = world.word(READ);
    println!("{read} hundreds read, {freed} freed, {kills} killed");
    assert_eq!(world.word(VIOLATED), 0, "things were freed while somebody used them");
    assert!(read > 0 && freed > 10 && kills > 3);
}
