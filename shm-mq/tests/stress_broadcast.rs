//! Threads for a fixed time: publishers that follow one another, subscribers that come and go. Each
//! gets each record, in its turn and whole, or is told that it missed it; a latest value only
//! grows.
#![cfg(not(any(shm_loom, shm_explore)))]
mod broadcast_common;
use broadcast_common::{LIMIT, broadcast};
use shm_core::participants::Table;
use shm_core::trust::{Buggy, Crashing};
use shm_mq::broadcast::{
    Broadcast, BroadcastConfig, Kind, Lapped, PublishError, Record, RecvError, Start, Subscription,
};
use shm_mq::stream::OneMapping;
use shm_testkit::random::{next, text};
use shm_testkit::watchdog::within;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_millis(400);
const SUBSCRIBERS: u64 = 3;
const RECORD_BYTES: usize = 100;

struct World<T: OneMapping> {
    table: Table,
    broadcast: Broadcast<T>,
    is_over: AtomicBool,
    received: AtomicU64,
    missed: AtomicU64,
}

fn record(number: u64) -> Vec<u8> {
    text(number + 1, (number as usize * 7) % (RECORD_BYTES + 1))
}

fn soon(seed: &mut u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_micros(next(seed) % 200))
}

/// Publishes in every way there is, by one publisher after the other: how many.
fn publish<T: OneMapping>(world: &World<T>) -> u64 {
    let (mut seed, end, mut number) = (4711, Instant::now() + RUN, 0);
    while Instant::now() < end {
        let me = world.table.join().unwrap();
        let mut publisher = world.broadcast.publisher(&me).unwrap();
        assert_eq!(publisher.published(), number);
        for _ in 0..next(&mut seed) % 3000 {
            let record = record(number);
            let published = match next(&mut seed) % 3 {
                0 => publisher.try_publish(&record),
                1 => publisher.publish(&record, soon(&mut seed)).map(|()| true),
                _ => publisher.reserve(record.len()).map(|draft| {
                    draft.is_some_and(|mut draft| {
                        draft.copy_from_slice(&record);
                        draft.commit();
                        true
                    })
                }),
            };
            match published {
                Ok(is_published) => number += u64::from(is_published),
                Err(PublishError::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    world.is_over.store(true, Ordering::Release);
    number
}

/// Subscribes again and again, and receives in every way there is.
fn subscribe<T: OneMapping>(world: &World<T>, who: u64) {
    let mut seed = who + 1;
    loop {
        let is_over = world.is_over.load(Ordering::Acquire);
        let me = world.table.join().unwrap();
        let start = [Start::Next, Start::Newest, Start::Oldest][next(&mut seed) as usize % 3];
        let lapped = [Lapped::Oldest, Lapped::Newest][next(&mut seed) as usize % 2];
        let mut subscriber =
            world.broadcast.subscribe(&me, Subscription { start, lapped }).unwrap();
        for _ in 0..next(&mut seed) % 3000 {
            let at = subscriber.position();
            let got = match next(&mut seed) % 2 {
                0 => subscriber.try_recv(),
                _ => subscriber.recv(soon(&mut seed)).map(Some),
            };
            let whole = |found: Record<'_, T>| {
                assert_eq!(*found, record(at), "record {at}");
                if next(&mut seed).is_multiple_of(16) {
                    found.put_back();
                } else {
                    world.received.fetch_add(1, Ordering::Relaxed);
                }
            };
            match got.map(|found| found.map(whole)) {
                Ok(Some(())) => {}
                Err(RecvError::Missed { records }) => {
                    assert_eq!(subscriber.position(), at + records);
                    world.missed.fetch_add(records, Ordering::Relaxed);
                }
                Ok(None)
                | Err(RecvError::TimedOut | RecvError::Detached | RecvError::PublisherDied) => {}
                Err(error) => panic!("{error}"),
            }
        }
        if is_over {
            return;
        }
    }
}

fn read_latest<T: OneMapping>(world: &World<T>) {
    let Some(mut latest) = world.broadcast.latest() else { return };
    let mut least = 0;
    while !world.is_over.load(Ordering::Acquire) {
        if let Some((number, bytes)) = latest.read().ok().flatten() {
            assert!(number >= least, "{number} after {least}");
            assert_eq!(bytes, record(number));
            least = number;
        }
    }
}

fn all_get_all<T: OneMapping>(kind: Kind, cells: u32) {
    let config = BroadcastConfig { kind, ..BroadcastConfig::lossy(cells, RECORD_BYTES as u64, 4) };
    let (table, broadcast) = broadcast(&config);
    let (is_over, received, missed) = Default::default();
    let broadcast = broadcast.with_peers();
    let world: World<T> = World { table, broadcast, is_over, received, missed };
    within(LIMIT, move || {
        let published = std::thread::scope(|scope| {
            let world = &world;
            for who in 0..SUBSCRIBERS {
                scope.spawn(move || subscribe(world, who));
            }
            scope.spawn(move || read_latest(world));
            publish(world)
        });
        let (received, missed) = (world.received.into_inner(), world.missed.into_inner());
        println!("{kind:?}, {cells} cells: {published}, received {received}, missed {missed}");
        assert!(published > 100 && received > 100, "{published} published, {received} received");
        assert!(kind == Kind::Lossy || missed == 0);
    });
}

#[test]
fn of_a_lossless_one() {
    all_get_all::<Crashing>(Kind::Lossless, 1);
    all_get_all::<Crashing>(Kind::Lossless, 100);
}

#[test]
fn of_a_lossy_one() {
    all_get_all::<Crashing>(Kind::Lossy, 1);
    all_get_all::<Crashing>(Kind::Lossy, 7);
}

#[test]
fn among_buggy_peers() {
    all_get_all::<Buggy>(Kind::Lossless, 5);
    all_get_all::<Buggy>(Kind::Lossy, 5);
}
