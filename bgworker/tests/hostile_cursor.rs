//! A work cursor that lies, before a process attaches and while it claims: each call ends, sleepers
//! obey their deadline, pieces have numbers that exist, and nothing but its bytes is touched.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;
use bgworker::cursor::{Claim, PIECES_MAX, WorkCursor};
use hostile_common::{LIMIT, guarded};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_testkit::liar::{Liar, Scribbler, Trials};
use std::sync::Arc;
use std::time::{Duration, Instant};

const COUNT: u64 = 16;
const BYTES: usize = WorkCursor::bytes_for(COUNT) as usize;

/// A worker and its leader, in a table that is honest.
fn members() -> [Arc<Member>; 2] {
    let mapping = Mapping::heap(Table::bytes_for(2) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }.unwrap();
    [table.join().unwrap(), table.join().unwrap()]
}

/// What the cursor holds in the course of its life.
fn images(worker: &Member) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&[0; BYTES], 0);
    // SAFETY: nobody else has the mapping.
    let cursor = unsafe { WorkCursor::create(&mapping, 0, COUNT) }.unwrap();
    let mut images = vec![block.outside().read()];
    for _ in 0..COUNT {
        let Ok(Claim::Piece(piece)) = cursor.claim(worker) else { panic!("a free piece") };
        if piece % 3 == 0 {
            cursor.complete(piece, worker.id());
            images.push(block.outside().read());
        }
    }
    cursor.finish();
    images.push(block.outside().read());
    images
}

/// Every call there is; whether it could be attached.
fn use_it(
    trials: &Trials,
    seed: u64,
    mapping: &Arc<Mapping>,
    [worker, leader]: &[Arc<Member>; 2],
) -> bool {
    let attached = trials.call(seed, "attach", || WorkCursor::attach(mapping, 0));
    let Some(Ok(cursor)) = attached else { return false };
    trials.check(seed, "attach", cursor.count() <= COUNT, "more pieces than there is room for");
    let watch = worker.watch(leader.id());
    for _ in 0..4 {
        let claim = trials.call(seed, "claim", || cursor.claim(worker));
        if let Some(Ok(Claim::Piece(piece))) = claim {
            trials.check(seed, "claim", piece < cursor.count(), "gave a piece that is not there");
            trials.call(seed, "commit", || cursor.commit(piece, worker));
            trials.call(seed, "complete", || cursor.complete(piece, worker.id()));
        }
        let soon = Instant::now() + Duration::from_micros(300);
        trials.call(seed, "wait_for_work", || cursor.wait_for_work(&watch, Some(soon)));
    }
    for piece in [0, COUNT, PIECES_MAX, u64::MAX] {
        trials.call(seed, "complete", || cursor.complete(piece, leader.id()));
        trials.call(seed, "commit", || cursor.commit(piece, worker));
        trials.call(seed, "state", || cursor.state(piece));
    }
    let back = trials.call(seed, "release", || cursor.release(worker.id()));
    let bounded = back.is_none_or(|back| back <= cursor.count());
    trials.check(seed, "release", bounded, "gave back more than there is");
    trials.call(seed, "finish", || cursor.finish());
    true
}

fn liar(seed: u64, images: &[Vec<u8>], worker: &Member) -> Liar {
    let claimed = u64::from(worker.id().to_bits()) << 32 | 1;
    let committed = claimed | 2;
    Liar::new(seed, &images[seed as usize % images.len()]).with_images(images).with_values(&[
        0,
        1,
        2,
        claimed,
        committed,
        COUNT,
        COUNT + 1,
        PIECES_MAX,
        PIECES_MAX + 1,
    ])
}

#[test]
fn a_cursor_of_lies_is_used_or_refused() {
    let (trials, members) = (Trials::new("cursor, before", LIMIT), members());
    let images = images(&members[0]);
    let mut attached = 0;
    for seed in trials.seeds(1000) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        trials.tell(&block.outside(), &mut liar(seed, &images, &members[0]), seed % 5);
        attached += u32::from(use_it(&trials, seed, &mapping, &members));
        trials.check(seed, "cursor", block.is_intact(), "wrote beside the cursor");
    }
    assert!(attached > 200, "attached {attached}");
    trials.finish();
}

#[test]
fn a_cursor_that_changes_all_the_time_is_used_or_refused() {
    let (trials, members) = (Trials::new("cursor, meanwhile", LIMIT), members());
    let images = images(&members[0]);
    let mut attached = 0;
    for seed in trials.seeds(60) {
        let (block, mapping) = guarded(&images[seed as usize % images.len()], seed);
        let liar = liar(seed, &images, &members[0]).restoring();
        let scribbler = Scribbler::start(block.outside(), liar);
        scribbler.meanwhile(400, || {
            attached += u32::from(use_it(&trials, seed, &mapping, &members));
        });
        trials.add(scribbler.stop());
        trials.check(seed, "cursor", block.is_intact(), "wrote beside the cursor");
    }
    assert!(attached > 30, "attached {attached}");
    trials.finish();
}
