//! Rings, through a pool over a file in memory:
//!
//! 1. Who goes over a large file with a ring leaves what others use where it is, and takes no more
//!    frames than the ring has.
//! 2. A frame that somebody else wants is left to the pool, and another one takes its place.
//! 3. What was changed is written by the rings that write, and left by the one that reads.
//! 4. Whatever two sessions do, through rings or not: each page holds what was written last.
#![cfg(not(any(shm_loom, shm_explore)))]
mod pool_common;

use buffer_pool::HEADER_BYTES;
use buffer_pool::policy::Kind;
use buffer_pool::pool::{PageError, Prewarm, Strategy as Ring, StreamOptions};
use pool_common::numbered::{PAGE, World, full, value, write};
use proptest::prelude::*;
use shm_testkit::depth::cases;
use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;

const FRAMES: u32 = 256;
/// The rings are of an eighth.
const SIZE: usize = 32;
const HOT: u32 = 200;
const ALL: [Ring; 3] = [Ring::BulkRead, Ring::BulkWrite, Ring::Vacuum];

/// A pool full of pages, of which the first are used again and again while others come and go; and
/// a file ten times as large.
fn hot(policy: Kind) -> World {
    let world = World::new(policy, FRAMES, 10 * FRAMES);
    let uses = |block| drop(world.session.page(world.file, block).unwrap());
    for round in 0..8 {
        (0..HOT).for_each(uses);
        (0..HOT).for_each(uses);
        let others = 1000 + round * (FRAMES - HOT);
        (others..others + FRAMES - HOT).for_each(uses);
    }
    (0..HOT).for_each(uses);
    assert_eq!((world.pool.resident().len(), hot_ones(&world)), (FRAMES as usize, HOT as usize));
    world
}

fn hot_ones(world: &World) -> usize {
    world.pool.resident().iter().filter(|(_, block)| *block < HOT).count()
}

#[test]
fn a_scan_with_a_ring_leaves_what_others_use_and_a_plain_one_does_not() {
    for policy in Kind::ALL {
        for ring in ALL {
            let world = hot(policy);
            let bulk = world.session.with_strategy(ring);
            let pages = bulk.stream(world.file, HOT..10 * FRAMES, StreamOptions::default());
            assert!(pages.map(|page| value(&page.unwrap())).eq(u64::from(HOT)..2560));
            let left = hot_ones(&world);
            assert!(left * 100 >= HOT as usize * 95, "{policy:?}, {ring:?}: {left}");
            let stats = world.pool.stats();
            assert!(stats.recycled > 2200 && stats.recycled <= stats.evictions, "{stats:?}");
        }
    }
    let world = hot(Kind::Clock5);
    assert!(world.scan(HOT, StreamOptions::default()).iter().all(|page| page.is_ok()));
    assert!(hot_ones(&world) < HOT as usize / 2, "{}", hot_ones(&world));
}

#[test]
fn a_ring_takes_no_more_frames_than_it_has() {
    for (ring, page) in ALL.into_iter().flat_map(|ring| [(ring, false), (ring, true)]) {
        let world = World::new(Kind::Probation, FRAMES, 2000);
        let bulk = world.session.with_strategy(ring);
        if page {
            for block in 0..2000 {
                // More than one use by the same one is no other's.
                (0..3).for_each(|_| drop(bulk.page(world.file, block).unwrap()));
            }
        } else {
            assert_eq!(bulk.prewarm(world.file, 0..2000, Prewarm::Buffer).unwrap(), 2000);
        }
        let frames: HashSet<_> = world.pool.resident().into_iter().collect();
        assert_eq!(frames.len(), SIZE, "{ring:?}");
        assert!(frames.iter().all(|(_, block)| *block >= 2000 - SIZE as u32));
        assert_eq!(world.pool.stats().recycled, 2000 - SIZE as u64);
    }
}

/// Of large pools a ring has what PostgreSQL gives it.
#[test]
fn a_ring_is_as_large_as_it_is_said() {
    let world = World::new(Kind::Clock5, 20_000, 7000);
    let world_of = |ring: Ring| {
        world.session.evict_all().unwrap();
        let bulk = world.session.with_strategy(ring);
        bulk.prewarm(world.file, 0..7000, Prewarm::Buffer).unwrap();
        world.pool.resident().len()
    };
    assert_eq!(ALL.map(world_of), [256, 20_000 / 8, 2048]);
}

#[test]
fn a_frame_that_somebody_wants_is_left() {
    for ring in ALL {
        let world = World::new(Kind::Clock5, FRAMES, 600);
        let other = world.pool.session().unwrap();
        let bulk = world.session.with_strategy(ring);
        bulk.prewarm(world.file, 0..SIZE as u32, Prewarm::Buffer).unwrap();
        // One is pinned, one was used by another one, one gave way.
        let pinned = other.page(world.file, 3).unwrap();
        drop(other.page(world.file, 5).unwrap());
        bulk.prewarm(world.file, 100..600, Prewarm::Buffer).unwrap();
        let resident = world.pool.resident();
        let has = |block| resident.iter().any(|(_, at)| *at == block);
        assert!(has(3) && has(5) && !has(4) && !has(6), "{ring:?}");
        assert_eq!(resident.len(), SIZE + 2);
        assert_eq!(value(&pinned), 3);
        drop(pinned);
        // Another page has come to a frame of the ring: it is not the ring's.
        world.session.evict_all().unwrap();
        for block in 0..FRAMES {
            drop(other.page(world.file, block).unwrap());
        }
        let before = world.pool.stats().recycled;
        bulk.prewarm(world.file, 500..500 + SIZE as u32, Prewarm::Buffer).unwrap();
        assert_eq!(world.pool.stats().recycled, before);
        drop(bulk);
        world.check_frames();
    }
}

#[test]
fn what_was_changed_is_written_or_left() {
    let body = |block: u32| {
        let mut body = vec![0; PAGE as usize - HEADER_BYTES];
        body[..8].copy_from_slice(&u64::from(block + 7).to_le_bytes());
        body
    };
    for ring in ALL {
        let world = World::new(Kind::Clock5, FRAMES, 200);
        let bulk = world.session.with_strategy(ring);
        let before = world.pool.stats();
        for block in 0..200 {
            let page = bulk.overwrite(world.file, block, &body(block)).unwrap();
            assert_eq!(value(&page), u64::from(block) + 7);
        }
        let (stats, resident) = (world.pool.stats(), world.pool.resident().len());
        let written = if ring == Ring::BulkRead { 0 } else { 200 - SIZE };
        assert_eq!(stats.writes - before.writes, written as u64, "{ring:?}");
        assert_eq!(resident, 200 - written);
        assert_eq!(stats.reads, before.reads);
        // What cannot be written is left, too, and told when there is no frame at all.
        if ring != Ring::BulkRead {
            world.faults().writes.store(u32::MAX, Relaxed);
            for block in 0..SIZE as u32 {
                drop(bulk.page(world.file, block).unwrap());
            }
            assert_eq!(world.pool.summary().unwrap().dirty, SIZE as u32);
            world.faults().none();
        }
        drop(bulk);
        world.session.flush(world.file).unwrap();
        world.session.evict_all().unwrap();
        for block in 0..200 {
            assert_eq!(
                value(&world.session.page(world.file, block).unwrap()),
                u64::from(block) + 7
            );
        }
    }
}

#[test]
fn a_body_of_another_length_is_told() {
    let world = World::new(Kind::Clock5, FRAMES, 20);
    let bulk = world.session.with_strategy(Ring::BulkWrite);
    let got = bulk.overwrite(world.file, 3, &[0; 100]);
    assert!(matches!(got, Err(PageError::OutOfPage { .. })), "{got:?}");
    let got = bulk.page(world.file, 20);
    assert!(matches!(got, Err(PageError::PastEnd { .. })), "{got:?}");
}

#[derive(Clone, Debug)]
struct Step {
    /// Through which ring; 3: none.
    ring: usize,
    first: u32,
    count: u32,
    /// What is written into each of these pages, where it is.
    value: Option<u32>,
    fails: u32,
    resize: Option<u32>,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..100_u32, 1..40_u32);
    let value = prop::option::of(any::<u32>());
    let resize = prop::option::weighted(0.1, 32..100_u32);
    (0..4_usize, range, value, 0..3_u32, resize).prop_map(
        |(ring, (first, count), value, fails, resize)| Step {
            ring,
            first,
            count,
            value,
            fails: if fails == 2 { 1 } else { 0 },
            resize,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(128)))]

    #[test]
    fn pages_hold_what_was_written_last(
        is_clock in any::<bool>(),
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let policy = if is_clock { Kind::Clock5 } else { Kind::Probation };
        let world = World::new(policy, 100, 140);
        let mut holds: Vec<u64> = (0..140).collect();
        let other = world.pool.session().unwrap();
        let sessions = [&world.session, &world.session, &other];
        let bulks = [0, 1, 2].map(|nth| sessions[nth].with_strategy(ALL[nth]));
        for step in steps {
            world.faults().writes.store(step.fails, Relaxed);
            if let Some(frames) = step.resize {
                _ = world.session.resize(frames);
            }
            let blocks = step.first..step.first + step.count;
            let pages: Box<dyn Iterator<Item = _>> = match bulks.get(step.ring) {
                Some(bulk) => Box::new(bulk.stream(world.file, blocks.clone(), full())),
                None => Box::new(other.stream(world.file, blocks.clone(), full())),
            };
            for (block, page) in blocks.zip(pages) {
                let page = page.unwrap();
                prop_assert_eq!(value(&page), holds[block as usize]);
                if let Some(value) = step.value {
                    holds[block as usize] = value.into();
                    write(&page, value.into());
                }
            }
        }
        world.faults().none();
        drop(bulks);
        world.session.flush(world.file).unwrap();
        world.session.evict_all().unwrap();
        let got = world.scan(0, full());
        prop_assert!(got.into_iter().map(Result::unwrap).eq(holds.iter().copied()));
    }
}
