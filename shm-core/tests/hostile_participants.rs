//! A table of participants that lies, before a process attaches and while it sits in it: each call
//! ends, sleepers obey their deadline, and nothing but the table's bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
mod hostile_common;

use hostile_common::{LIMIT, guarded, soon};
use shm_core::event::EventCount;
use shm_core::mapping::Mapping;
use shm_core::participants::{JoinOptions, Member, ParticipantId, Table, Waiting, wait};
use shm_core::process::ProcessId;
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::sync::Arc;

const SLOTS: u32 = 4;
const BYTES: usize = Table::bytes_for(SLOTS) as usize;

/// What the table holds in the course of its life.
fn images() -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, SLOTS) }.unwrap();
    let empty = block.outside().read();
    let members: Vec<_> = (0..3).map(|_| table.join().unwrap()).collect();
    let full = block.outside().read();
    drop(members);
    vec![empty, full, block.outside().read()]
}

/// Words with a meaning for the table: claims of the dead, of this process and of nobody, and life
/// words with every bit.
fn values() -> Vec<u64> {
    let claims = [ProcessId::me(), ProcessId::new((1 << 22) - 1, 7).unwrap()];
    let claims =
        claims.into_iter().flat_map(|who| (0..4).map(move |seat| seat << 62 | who.to_bits()));
    let lives = [1u64 << 63, 1 << 62, 3 << 62, 1 << 31, 1 << 30, 3 << 30];
    claims.chain(lives).collect()
}

fn liar(seed: u64, images: &[Vec<u8>]) -> Liar {
    Liar::new(seed, &images[seed as usize % images.len()])
        .with_images(images)
        .with_values(&values())
}

/// Every call on the table that waits for nobody.
fn look(trials: &Trials, seed: u64, table: &Table) {
    trials.call(seed, "snapshot", || table.snapshot());
    trials.call(seed, "is_empty", || table.is_empty());
    for bits in [1, 1 << 22 | 1, 3 << 22 | 2, u32::MAX, 1023 << 22 | 1] {
        let id = ParticipantId::from_bits(bits).unwrap();
        trials.call(seed, "liveness", || table.liveness(id));
    }
    let mut cleaned = 0;
    let reaped = trials.call(seed, "reap", || table.reap(|_| cleaned += 1));
    let bounded = reaped.is_none_or(|reaped| reaped <= SLOTS as usize && reaped == cleaned);
    trials.check(seed, "reap", bounded, "reaped more than there are slots");
}

/// Every call of a member, with a deadline where it sleeps.
fn sit(trials: &Trials, seed: u64, member: &Arc<Member>) {
    let event = EventCount::new();
    let ids = (0..SLOTS + 1).map(|slot| ParticipantId::from_bits(slot << 22 | 1).unwrap());
    let watches: Vec<_> =
        ids.filter_map(|id| trials.call(seed, "watch", || member.watch(id))).collect();
    for watch in &watches {
        trials.call(seed, "is_dead", || watch.is_dead());
        let ticket = event.prepare();
        trials.call(seed, "wait", || wait(&event, ticket, &[watch], Some(soon())));
    }
    let all: Vec<_> = watches.iter().collect();
    let ticket = event.prepare();
    trials.call(seed, "wait for all", || wait(&event, ticket, &all, Some(soon())));
}

fn join(trials: &Trials, seed: u64, table: &Table) -> Option<Arc<Member>> {
    let waiting = if seed.is_multiple_of(3) { Waiting::Bounded } else { Waiting::Waitv };
    let options = JoinOptions { waiting: Some(waiting) };
    trials.call(seed, "join", || table.join_with(options, |_| ()))?.ok()
}

fn attach(trials: &Trials, seed: u64, mapping: &Arc<Mapping>) -> Option<Table> {
    let attached = trials.call(seed, "attach", || Table::attach(mapping, 0))?;
    attached.ok()
}

#[test]
fn a_table_of_lies_is_used_or_refused() {
    let (trials, images) = (Trials::new("participants, before", LIMIT), images());
    let (mut attached, mut joined) = (0, 0);
    for seed in trials.seeds(800) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images), seed % 5);
        let Some(table) = attach(&trials, seed, &mapping) else { continue };
        attached += 1;
        look(&trials, seed, &table);
        if let Some(member) = join(&trials, seed, &table) {
            joined += 1;
            trials.tell(&block.outside(), &mut liar(!seed, &images), seed % 3);
            sit(&trials, seed, &member);
            trials.call(seed, "leave", || drop(member));
        }
        trials.check(seed, "table", block.is_intact(), "wrote beside the table");
    }
    assert!(attached > 100 && joined > 50, "attached {attached}, joined {joined}");
    trials.finish();
}

#[test]
fn a_table_that_changes_all_the_time_is_used_or_refused() {
    let (trials, images) = (Trials::new("participants, meanwhile", LIMIT), images());
    let mut joined = 0;
    for seed in trials.seeds(60) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let scribbler = Scribbler::start(block.outside(), liar(seed, &images).restoring());
        scribbler.meanwhile(1000, || {
            let Some(table) = attach(&trials, seed, &mapping) else { return };
            look(&trials, seed, &table);
            if let Some(member) = join(&trials, seed, &table) {
                joined += 1;
                sit(&trials, seed, &member);
                trials.call(seed, "leave", || drop(member));
            }
        });
        trials.add(scribbler.stop());
        trials.check(seed, "table", block.is_intact(), "wrote beside the table");
    }
    assert!(joined > 10, "joined {joined}");
    trials.finish();
}
