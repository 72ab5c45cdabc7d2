//! Rows that lie, before a process attaches and while it protects and scans: each call ends, an
//! answer is no longer than the rows, and nothing but their bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{LIMIT, guarded};
use shm_core::hazard::{GROUP_SLOTS, GROUPS_MAX, HazardRow, Hazards, Protected};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, ParticipantId, Table};
use shm_core::sync::AtomicU64;
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::num::NonZeroU64;
use std::sync::Arc;

const SEATS: u32 = 4;
const GROUPS: u32 = 3;
const BYTES: usize = Hazards::bytes_for(SEATS, GROUPS) as usize;
const VALUES_MAX: usize = (SEATS * GROUPS) as usize * GROUP_SLOTS;

/// Two seats of this process, in a table that is honest.
fn members() -> [Arc<Member>; 2] {
    let mapping = Mapping::heap(Table::bytes_for(SEATS) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
    [table.join().unwrap(), table.join().unwrap()]
}

/// What the rows hold in the course of their life.
fn images(members: &[Arc<Member>]) -> Vec<Vec<u8>> {
    let mut images = Vec::new();
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let hazards = unsafe { Hazards::create(&mapping, 0, SEATS, GROUPS) }.unwrap();
    images.push(block.outside().read());
    let row = hazards.row(&members[0]).unwrap();
    let protectors = [row.protector().unwrap(), row.protector().unwrap()];
    let mut slots = protectors.each_ref().map(|protector| protector.slot().unwrap());
    for (slot, value) in slots.iter_mut().zip([7, 9]) {
        slot.protect(NonZeroU64::new(value).unwrap(), || true).unwrap();
    }
    images.push(block.outside().read());
    images
}

fn liar(seed: u64, images: &[Vec<u8>], members: &[Arc<Member>]) -> Liar {
    let id = u64::from(members[0].id().to_bits());
    let groups = [0, 1, GROUPS, GROUPS + 1, GROUPS_MAX + 1, u32::MAX];
    let mut values: Vec<u64> = groups.iter().map(|groups| u64::from(*groups) << 32 | id).collect();
    // Seats and groups of the head, in one word.
    values.extend([0, 1, 1024, u64::MAX].map(|seats| seats | u64::from(GROUPS) << 32));
    values.extend(groups.map(|groups| u64::from(groups) << 32 | u64::from(SEATS)));
    let image = &images[seed as usize % images.len()];
    Liar::new(seed, image).with_images(images).with_values(&values)
}

/// Everything a thread does with its group.
fn protect(trials: &Trials, seed: u64, row: &HazardRow) {
    let Some(Ok(protector)) = trials.call(seed, "protector", || row.protector()) else { return };
    let place = AtomicU64::new(seed | 1);
    let mut slots: Vec<_> = (0..GROUP_SLOTS).filter_map(|_| protector.slot()).collect();
    trials.check(seed, "slot", protector.slot().is_none(), "gave out more slots than there are");
    for slot in &mut slots {
        let word = trials.call(seed, "protect_word", || slot.protect_word(&place, |word| word));
        trials.check(seed, "protect_word", word == Some(Ok(seed | 1)), "protects something else");
        trials.call(seed, "protect", || slot.protect(NonZeroU64::MIN, || false));
        trials.call(seed, "protect", || slot.protect(NonZeroU64::MAX, || true));
        trials.call(seed, "is_alone", || (slot.is_alone(), slot.is_doubled()));
    }
    trials.call(seed, "clear", || slots.iter_mut().step_by(2).for_each(|slot| slot.clear()));
    slots.truncate(5);
    slots.into_iter().for_each(std::mem::forget);
    trials.call(seed, "drop", || drop(protector));
}

/// Every call there is; whether there were rows.
fn use_it(trials: &Trials, seed: u64, mapping: &Arc<Mapping>, members: &[Arc<Member>]) -> bool {
    let attached = trials.call(seed, "attach", || Hazards::attach(mapping, 0));
    let Some(Ok(hazards)) = attached else { return false };
    let fits = Hazards::bytes_for(hazards.seats(), hazards.groups()) <= BYTES as u64;
    trials.check(seed, "attach", fits, "more rows than there is room for");
    let mut protected = Protected::default();
    let row = trials.call(seed, "row", || hazards.row(&members[seed as usize % 2]));
    if let Some(Ok(row)) = &row {
        protect(trials, seed, row);
    }
    for _ in 0..3 {
        let scanned = trials.call(seed, "snapshot", || hazards.snapshot_into(&mut protected));
        let bounded = protected.len() <= VALUES_MAX && protected.iter().all(|value| value != 0);
        trials.check(seed, "snapshot", bounded, "saw what there is no room for");
        let all = protected.iter().all(|value| protected.contains(value));
        trials.check(seed, "contains", all || scanned.is_none(), "forgot what it has");
    }
    for slot in [0, 1, SEATS, 1023] {
        let seen = trials.call(seed, "row_values", || hazards.row_values(slot).count());
        let bounded = seen.is_none_or(|seen| seen <= VALUES_MAX);
        trials.check(seed, "row_values", bounded, "saw what there is no room for");
        let dead = ParticipantId::from_bits(slot << 22 | 1).unwrap();
        trials.call(seed, "clear_row", || hazards.clear_row(dead));
    }
    trials.call(seed, "leave", || drop(row));
    true
}

#[test]
fn rows_of_lies_are_used_or_refused() {
    let (trials, members) = (Trials::new("hazard, before", LIMIT), members());
    let images = images(&members);
    let mut attached = 0;
    for seed in trials.seeds(2000) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images, &members), seed % 5);
        attached += u32::from(use_it(&trials, seed, &mapping, &members));
        trials.check(seed, "hazard", block.is_intact(), "wrote beside the rows");
    }
    assert!(attached > 200, "attached {attached}");
    trials.finish();
}

#[test]
fn rows_that_change_all_the_time_are_used_or_refused() {
    let (trials, members) = (Trials::new("hazard, meanwhile", LIMIT), members());
    let images = images(&members);
    let mut attached = 0;
    for seed in trials.seeds(150) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let liar = liar(seed, &images, &members).restoring();
        let scribbler = Scribbler::start(block.outside(), liar);
        scribbler.meanwhile(400, || {
            attached += u32::from(use_it(&trials, seed, &mapping, &members));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "hazard", block.is_intact(), "wrote beside the rows");
    }
    assert!(attached > 40, "attached {attached}");
    trials.finish();
}
