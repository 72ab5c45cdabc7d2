//! Streams, through a pool over files in memory whose reads are counted:
//!
//! 1. Whatever the blocks, and whatever is in the pool or fails to be read: each block comes in its
//!    turn, as the page that it is or with the error that is its own.
//! 2. Neighbours are read together, and each once, however many read them.
//! 3. What does not follow is announced before it is read, and nothing else is.
//! 4. Nothing is lost of what a read has claimed that failed.
#![cfg(not(any(shm_loom, shm_explore)))]
mod pool_common;

use buffer_pool::files::FileKey;
use buffer_pool::policy::Kind;
use buffer_pool::pool::{FileOptions, PageError, Prewarm, Strategy as Ring, StreamOptions};
use buffer_pool::store::Disk;
use pool_common::numbered::{PAGE, World, config, full, path, since, value, write};
use pool_common::pool_of;
use proptest::prelude::*;
use shm_testkit::depth::cases;
use shm_testkit::unique::TempDir;
use shm_testkit::watchdog::within;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const COMBINE: u32 = 16;

#[test]
fn a_scan_of_a_cold_file_reads_sixteen_blocks_at_once() {
    for policy in Kind::ALL {
        let world = World::new(policy, 128, 1000);
        let before = world.pool.stats();
        let got = world.scan(0, StreamOptions::default());
        assert!(got.into_iter().map(Result::unwrap).eq(0..1000));
        let (hits, reads, calls) = since(world.pool.stats(), before);
        assert_eq!((hits, reads, calls), (0, 1000, world.faults().count.load(Relaxed).into()));
        assert!(calls <= 1000 / 16 + 5, "{policy:?}: {calls}");
        assert!(world.faults().hints.lock().unwrap().is_empty(), "it follows by itself");
        world.check_frames();
    }
}

#[test]
fn a_file_is_warmed_up_by_reads_of_sixteen() {
    let world = World::new(Kind::Clock5, 256, 200);
    let calls = || world.faults().count.swap(0, Relaxed);
    assert_eq!(world.session.prewarm(world.file, 0..200, Prewarm::Read).unwrap(), 200);
    assert_eq!(calls(), 13);
    assert_eq!(world.session.prewarm(world.file, 0..200, Prewarm::Buffer).unwrap(), 200);
    assert!((13..=14).contains(&calls()));
    assert_eq!(world.pool.resident().len(), 200);
    assert_eq!(world.session.prewarm(world.file, 10..30, Prewarm::Prefetch).unwrap(), 20);
    assert_eq!(world.faults().hints.lock().unwrap()[..], [(10 * PAGE, 20 * PAGE)]);
    world.faults().bad.store(77 * PAGE + 1, Relaxed);
    let got = world.session.prewarm(world.file, 0..200, Prewarm::Read);
    assert!(matches!(got, Err(PageError::Read { block: 77, .. })), "{got:?}");
}

#[test]
fn a_page_that_is_there_is_not_read_and_divides_a_run() {
    let world = World::new(Kind::Probation, 128, 48);
    for block in [5, 6, 20] {
        drop(world.session.page(world.file, block).unwrap());
    }
    let before = world.pool.stats();
    assert!(world.scan(0, full()).into_iter().map(Result::unwrap).eq(0..48));
    let (hits, reads, _) = since(world.pool.stats(), before);
    assert_eq!((hits, reads), (3, 45));
}

#[test]
fn who_has_one_pin_left_reads_neighbours() {
    let world = World::new(Kind::Clock5, 128, 200);
    let pins: Vec<_> = (0..7).map(|_| world.session.page(world.file, 0).unwrap()).collect();
    world.faults().count.store(0, Relaxed);
    assert!(world.scan(1, full()).into_iter().map(Result::unwrap).eq(1..200));
    assert!(world.faults().count.load(Relaxed) <= 14);
    let mut stream = world.session.stream(world.file, 1..3, full());
    let page = stream.next().unwrap().unwrap();
    assert!(matches!(stream.next(), Some(Err(PageError::TooManyPins))));
    drop((page, pins, stream));
    world.check_frames();
}

/// The stream's answer of one block, and that it is the only one.
fn fails_at(got: &[Result<u64, PageError>], bad: usize) -> &PageError {
    for (block, got) in got.iter().enumerate() {
        match got {
            Ok(value) => assert_eq!(*value, block as u64),
            Err(error) => assert_eq!(block, bad, "{error}"),
        }
    }
    got[bad].as_ref().unwrap_err()
}

#[test]
fn each_block_of_a_read_may_be_the_one_that_fails() {
    for bad in 0..COMBINE {
        let world = World::new(Kind::Clock5, 64, 40);
        world.faults().bad.store(u64::from(bad) * PAGE + 7, Relaxed);
        let got = world.scan(0, full());
        let error = fails_at(&got, bad as usize);
        assert!(matches!(error, PageError::Read { block, .. } if *block == bad), "{error}");
        assert_eq!(world.pool.stats().read_errors, 1);
        world.faults().none();
        assert!(world.scan(0, full()).into_iter().map(Result::unwrap).eq(0..40));
        world.check_frames();
    }
}

#[test]
fn each_block_of_a_read_may_be_damaged() {
    for bad in 0..COMBINE {
        let world = World::new(Kind::Probation, 64, 40);
        let bytes = world.store.bytes_of(path());
        let flip = || bytes.lock().unwrap()[bad as usize * PAGE as usize + 700] ^= 4;
        flip();
        let got = world.scan(0, full());
        let error = fails_at(&got, bad as usize);
        assert!(matches!(error, PageError::Checksum { block, .. } if *block == bad), "{error}");
        flip();
        assert!(world.scan(0, full()).into_iter().map(Result::unwrap).eq(0..40));
        world.check_frames();
    }
}

#[test]
fn each_block_of_a_read_may_be_where_the_file_ends() {
    for len in 0..u64::from(COMBINE) {
        let world = World::new(Kind::Clock5, 64, 20);
        let bytes = world.store.bytes_of(path());
        bytes.lock().unwrap().truncate((len * PAGE) as usize + 100);
        for (block, got) in world.scan(0, full()).into_iter().enumerate() {
            match got {
                Ok(value) => assert!(value == block as u64 && value < len),
                Err(PageError::Short { block: at, missing, .. }) => {
                    assert!(at as usize == block && block as u64 >= len);
                    assert_eq!(missing, if block as u64 == len { 924 } else { 1024 });
                }
                Err(error) => panic!("{error}"),
            }
        }
        bytes.lock().unwrap().resize(20 * PAGE as usize, 0);
        let got = world.session.page(world.file, 19).unwrap();
        assert_eq!(value(&got), 0);
    }
}

#[test]
fn a_read_that_ends_early_is_gone_on_with() {
    let world = World::new(Kind::Clock5, 64, 64);
    for at_once in [1, 1023, 1024, 1025, 5000] {
        world.faults().at_once.store(at_once, Relaxed);
        world.session.evict_all().unwrap();
        assert!(world.scan(0, full()).into_iter().map(Result::unwrap).eq(0..64));
    }
    world.check_frames();
}

#[test]
fn what_does_not_follow_is_announced_before_it_is_read() {
    let world = World::new(Kind::Clock5, 256, 2000);
    // Two neighbours each, far from the next ones.
    let blocks = || (0..100_u32).flat_map(|at| [1900 - at * 19, 1901 - at * 19]);
    let mut told = 0;
    for (nth, page) in world.session.stream(world.file, blocks(), full()).enumerate() {
        assert_eq!(value(&page.unwrap()), u64::from(blocks().nth(nth).unwrap()));
        let hints = world.faults().hints.lock().unwrap();
        told = hints.len();
        // Those that come up to a distance of 16 to begin with, and of 200 at the end.
        assert!(told + 1 >= (nth + 16).min(200) / 2 - 1, "after {nth}: {told}");
    }
    assert!((98..=100).contains(&told), "{told}");
    assert!(world.faults().hints.lock().unwrap().iter().all(|(_, len)| *len == 2 * PAGE));
    assert_eq!(world.faults().count.load(Relaxed), 100);
    assert_eq!(world.pool.stats().hints, told as u64);
    // All of it is there.
    assert!(world.session.stream(world.file, blocks(), full()).all(|page| page.is_ok()));
    assert_eq!(world.faults().hints.lock().unwrap().len(), told);
    assert_eq!(world.faults().count.load(Relaxed), 100);
}

#[test]
fn a_file_of_the_system_is_read_by_neighbours() {
    let (directory, store) = (TempDir::new("stream"), Arc::new(Disk::default()));
    let pool = pool_of(&config(Kind::Clock5, 1024), store);
    let session = pool.session().unwrap();
    let (key, path) = (FileKey { id: 1, fork: 0 }, directory.path().join("file"));
    let options = FileOptions { create: true, blocks_max: None };
    let file = session.register(key, &path, &options).unwrap();
    session.extend(file, 1000).unwrap();
    for (page, block) in session.stream(file, 0..1000, full()).zip(0..) {
        write(&page.unwrap(), block);
    }
    session.flush(file).unwrap();
    // More at once than the system takes, and a file that ends before it should.
    for combine in [1, 7, 16, 1000] {
        let options = StreamOptions { combine: Some(combine), ..full() };
        session.evict_all().unwrap();
        let before = pool.stats();
        let pages = session.stream(file, 0..1000, options);
        assert!(pages.map(|page| value(&page.unwrap())).eq(0..1000));
        let (_, reads, calls) = since(pool.stats(), before);
        assert_eq!((reads, calls), (1000, 1000_u64.div_ceil(combine.min(64).into())));
    }
    session.evict_all().unwrap();
    let file_of = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file_of.set_len(990 * PAGE + 5).unwrap();
    let got: Vec<_> = session.stream(file, 0..1000, full()).map(|page| page.is_ok()).collect();
    assert!(got.iter().enumerate().all(|(block, is_ok)| *is_ok == (block < 990)));
}

#[test]
fn what_two_threads_scan_is_read_once() {
    let world = World::new(Kind::Clock5, 512, 400);
    world.faults().slow.store(1, Relaxed);
    let (pool, file) = (&world.pool, world.file);
    let before = pool.stats();
    let scans = |from: u32| {
        let session = pool.session().unwrap();
        let pages = session.stream(file, from..400, StreamOptions::default());
        assert!(pages.map(|page| value(&page.unwrap())).eq(u64::from(from)..400));
    };
    let scans = &scans;
    within(LIMIT, || {
        std::thread::scope(|scope| {
            scope.spawn(move || scans(3));
            scans(0);
        });
    });
    assert_eq!(pool.stats().reads - before.reads, 400);
    assert_eq!(pool.stats().read_errors, 0);
}

#[test]
fn blocks_that_there_are_not_are_told() {
    let world = World::new(Kind::Clock5, 64, 30);
    let blocks = [29, 30, 31, 4, u32::MAX, 5, u32::MAX - 1, 6];
    let got: Vec<_> = world.session.stream(world.file, blocks.into_iter(), full()).collect();
    for (block, got) in blocks.into_iter().zip(&got) {
        match got {
            Ok(page) => assert!(block < 30 && value(page) == block.into()),
            Err(PageError::PastEnd { block: at, blocks: 30, .. }) => assert_eq!(*at, block),
            Err(error) => panic!("{error}"),
        }
    }
    drop(got);
    world.session.forget(world.file).unwrap();
    let got = world.session.stream(world.file, 0..2, full()).next();
    assert!(matches!(got, Some(Err(PageError::NoSuchFile(_)))), "{got:?}");
}

/// Some blocks that follow each other.
fn run() -> impl Strategy<Value = (u32, u32)> {
    (0..110_u32, 1..30_u32)
}

#[derive(Clone, Debug)]
enum Meanwhile {
    Nothing,
    Reads(u32),
    Writes(u32, u32),
    Evicts,
    Fails(u32),
    Bad(u32),
    Pauses(u32),
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    prop_oneof![
        8 => Just(Meanwhile::Nothing),
        2 => (0..100_u32).prop_map(Meanwhile::Reads),
        2 => (0..100_u32, any::<u32>()).prop_map(|(block, value)| Meanwhile::Writes(block, value)),
        1 => Just(Meanwhile::Evicts),
        1 => (0..3_u32).prop_map(Meanwhile::Fails),
        1 => (0..100_u32).prop_map(Meanwhile::Bad),
        1 => (0..100_u32).prop_map(Meanwhile::Pauses),
    ]
}

/// A stream, and another session that uses, changes and throws out the same pages meanwhile.
fn agrees(
    world: &World,
    blocks: &[u32],
    options: StreamOptions,
    strategy: Option<Ring>,
    events: &[Meanwhile],
) {
    let mut holds: Vec<u64> = (0..world.blocks.into()).collect();
    let other = world.pool.session().unwrap();
    let mut events = events.iter().cycle();
    let mut kept = None;
    let bulk = strategy.map(|strategy| world.session.with_strategy(strategy));
    let coming = blocks.iter().copied();
    let mut stream = match &bulk {
        Some(bulk) => bulk.stream(world.file, coming, options),
        None => world.session.stream(world.file, coming, options),
    };
    for &block in blocks {
        match events.next().unwrap() {
            Meanwhile::Nothing => {}
            Meanwhile::Reads(block) => drop(other.page(world.file, *block)),
            Meanwhile::Writes(block, value) => {
                if let Ok(page) = other.page(world.file, *block) {
                    holds[*block as usize] = (*value).into();
                    write(&page, holds[*block as usize]);
                }
            }
            Meanwhile::Evicts => _ = other.evict_all(),
            Meanwhile::Fails(reads) => world.faults().reads.store(*reads, Relaxed),
            Meanwhile::Bad(block) => {
                world.faults().bad.store(u64::from(*block) * PAGE + 1, Relaxed);
            }
            Meanwhile::Pauses(block) => {
                kept = world.session.page(world.file, *block).ok();
            }
        }
        match stream.next().expect("a block that comes") {
            Ok(page) => {
                assert_eq!(page.block(), block);
                assert_eq!(value(&page), holds[block as usize]);
                if block % 3 == 0 {
                    holds[block as usize] += 1000;
                    write(&page, holds[block as usize]);
                }
            }
            Err(PageError::PastEnd { block: at, .. }) => {
                assert!(at == block && block >= world.blocks);
            }
            Err(PageError::Read { block: at, .. }) => assert_eq!(at, block),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(stream.next().is_none() && stream.next().is_none());
    drop((kept, stream));
    world.faults().none();
    for (block, value) in (0..).zip(holds) {
        let page = world.session.page(world.file, block).unwrap();
        assert_eq!(self::value(&page), value);
        write(&page, block.into());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(128)))]

    #[test]
    fn a_stream_agrees_with_its_blocks(
        is_clock in any::<bool>(),
        frames in 16..100_u32,
        runs in prop::collection::vec(run(), 1..12),
        combine in prop::option::of(0..40_u32),
        distance_max in 0..80_u32,
        begins_ahead in any::<bool>(),
        strategy in prop::option::of(prop::sample::select(vec![
            Ring::BulkRead,
            Ring::BulkWrite,
            Ring::Vacuum,
        ])),
        events in prop::collection::vec(meanwhile(), 1..40),
    ) {
        let world = World::new(if is_clock { Kind::Clock5 } else { Kind::Probation }, frames, 100);
        let blocks: Vec<u32> =
            runs.into_iter().flat_map(|(first, count)| first..first + count).collect();
        let options = StreamOptions { combine, distance_max, begins_ahead };
        agrees(&world, &blocks, options, strategy, &events);
        world.check_frames();
    }
}
