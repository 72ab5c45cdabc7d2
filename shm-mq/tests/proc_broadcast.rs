//! A publisher and subscribers that are processes, killed at random and replaced: each subscriber
//! gets each record in its turn, or is told that it missed it; a stopped subscriber holds a
//! lossless publisher back and a killed one does not; nobody hangs. And who waits for a broadcast
//! among other things is woken.
#![cfg(not(any(shm_loom, shm_explore)))]
mod process_common;
use process_common::{FINGERPRINT, LIMIT, kill, kill_and_replace, killed_soon};
use shm_core::sync::Ordering;
use shm_mq::broadcast::{
    AttachError, Broadcast, BroadcastConfig, CreateError, Kind, Lapped, PublishError, Publisher,
    RECORD_BYTES_MAX, Record, RecvError, Start, SubscribeError, Subscriber, Subscription,
};
use shm_mq::waitset::{Alarm, Source, WaitSet};
use shm_testkit::child::{Child, tell_parent};
use shm_testkit::random::{self, text};
use shm_testkit::watchdog::within;
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_millis(900);
const ROWS: u32 = 4;
const SUBSCRIBERS: u64 = 3;
const CELLS: u32 = 24;
const RECORD_BYTES: usize = 60;

/// In its words: records that were acknowledged to publishers; received by subscribers; missed.
type World = process_common::World<Broadcast, 3>;

fn create(kind: Kind) -> World {
    World::create("broadcast", &config(kind))
}

fn config(kind: Kind) -> BroadcastConfig {
    BroadcastConfig { kind, ..BroadcastConfig::lossy(CELLS, RECORD_BYTES as u64, ROWS) }
}

fn record(number: u64) -> Vec<u8> {
    text(number + 1, (number as usize * 7) % (RECORD_BYTES + 1))
}

/// Publishes for ever, from where the last one was.
fn publishes(args: &[String]) {
    let world = World::attach(args);
    let mut publisher = world.queue.publisher(&world.me).unwrap();
    let acknowledged = world.count(0);
    assert!(publisher.published() >= acknowledged, "one is lost");
    tell_parent("there");
    loop {
        let number = publisher.published();
        publisher.publish(&record(number), None).unwrap();
        world.words[0].store(number + 1, Ordering::Relaxed);
    }
}

/// Receives for ever, from the oldest on.
fn receives(args: &[String]) {
    let world = World::attach(args);
    let subscription = Subscription { start: Start::Oldest, lapped: Lapped::Oldest };
    let mut subscriber = world.queue.subscribe(&world.me, subscription).unwrap();
    tell_parent("there");
    loop {
        let at = subscriber.position();
        let whole = |found: Record<'_>| assert_eq!(*found, record(at), "record {at}");
        match subscriber.recv(None).map(whole) {
            Ok(()) => {
                world.words[1].fetch_add(1, Ordering::Relaxed);
            }
            Err(RecvError::Missed { records }) => {
                assert_eq!(subscriber.position(), at + records);
                world.words[2].fetch_add(records, Ordering::Relaxed);
            }
            // Its successor comes.
            Err(RecvError::PublisherDied) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Lends a cell, writes half of it, and waits for its end.
fn drafts(args: &[String]) {
    let world = World::attach(args);
    let mut publisher = world.queue.publisher(&world.me).unwrap();
    assert!(publisher.try_publish(&record(0)).unwrap());
    let mut draft = publisher.reserve(RECORD_BYTES).unwrap().unwrap();
    draft[0] = 1;
    tell_parent("there");
    std::thread::sleep(LIMIT);
}

/// Subscribes, and reads nothing.
fn idles(args: &[String]) {
    let world = World::attach(args);
    let _subscriber = world.queue.subscribe(&world.me, Subscription::default()).unwrap();
    tell_parent("there");
    std::thread::sleep(LIMIT);
}

shm_testkit::children! { publishes, receives, drafts, idles }

fn all_are_killed(kind: Kind) {
    let seed = random::seed();
    let world = create(kind);
    within(LIMIT, move || {
        // The publisher is the last.
        let start = |at: usize| match at as u64 {
            SUBSCRIBERS => world.spawn_there("publishes"),
            _ => world.spawn_there("receives"),
        };
        let mut children: Vec<Child> = (0..=SUBSCRIBERS as usize).map(start).collect();
        let end = Instant::now() + RUN;
        let goes_on = |kills| Instant::now() < end || kills < 6;
        let kills = kill_and_replace(&mut children, seed, goes_on, start);
        kill(&mut children.pop().unwrap());
        // Those that live get all there is.
        let published = world.queue.status().published;
        let is_done = || {
            world.queue.reap(&world.me);
            let all = world.queue.status().subscribers;
            all.len() == SUBSCRIBERS as usize && all.iter().all(|it| it.position == published)
        };
        while !is_done() {
            std::thread::sleep(Duration::from_millis(1));
        }
        children.iter_mut().for_each(kill);
        assert_eq!(world.queue.reap(&world.me), SUBSCRIBERS as usize);
        let [acknowledged, received, missed] = [0, 1, 2].map(|word| world.count(word));
        println!(
            "{kind:?}: {published} published, {received} received, {missed} missed, {kills} kills"
        );
        assert!((acknowledged..=acknowledged + 1).contains(&published), "{acknowledged}");
        assert!(received > 100 && kills > 0, "{received} received, {kills} kills");
        assert!(kind == Kind::Lossy || missed == 0);
    });
}

#[test]
fn each_gets_all_of_a_lossless_one_though_all_are_killed() {
    all_are_killed(Kind::Lossless);
}

#[test]
fn each_gets_all_of_a_lossy_one_or_is_told_though_all_are_killed() {
    all_are_killed(Kind::Lossy);
}

fn soon(ms: u64) -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(ms))
}

fn fill(publisher: &mut Publisher) -> u64 {
    let before = publisher.published();
    while publisher.try_publish(&record(publisher.published())).unwrap() {}
    publisher.published() - before
}

#[test]
fn a_stopped_subscriber_holds_back_and_a_killed_one_does_not() {
    let world = create(Kind::Lossless);
    within(LIMIT, move || {
        let mut publisher = world.queue.publisher(&world.me).unwrap();
        let mut idles = world.spawn_there("idles");
        idles.stop();
        let mut reader = world.queue.subscribe(&world.me, Subscription::default()).unwrap();
        assert_eq!(fill(&mut publisher), u64::from(CELLS));
        // Others read, and it is still there.
        (0..CELLS)
            .for_each(|number| assert_eq!(*reader.recv(None).unwrap(), record(number.into())));
        let timed_out = publisher.publish(b"x", soon(60));
        assert_eq!(timed_out, Err(PublishError::TimedOut));
        let slow = &world.queue.status().subscribers[0];
        assert_eq!((slow.position, slow.lag), (0, u64::from(CELLS)));
        // Killed while the publisher waits for it.
        killed_soon(&mut idles, || publisher.publish(b"y", None)).unwrap();
        assert_eq!(*reader.recv(None).unwrap(), *b"y");
        assert_eq!(world.queue.status().subscribers.len(), 1);
        // Whoever goes is waited for no more, too.
        assert_eq!(fill(&mut publisher), u64::from(CELLS));
        drop(reader);
        assert!(publisher.try_publish(b"z").unwrap());
    });
}

#[test]
fn a_stopped_publisher_is_waited_for_and_a_killed_one_followed() {
    for kind in [Kind::Lossless, Kind::Lossy] {
        let world = create(kind);
        within(LIMIT, move || {
            let mut reader = world.queue.subscribe(&world.me, Subscription::default()).unwrap();
            let mut drafts = world.spawn_there("drafts");
            drafts.stop();
            // What it published is there, and what it writes is not.
            assert_eq!(*reader.recv(None).unwrap(), record(0));
            assert!(reader.try_recv().unwrap().is_none());
            assert_eq!(reader.recv(soon(30)).unwrap_err(), RecvError::TimedOut);
            let taken = world.queue.publisher(&world.me).unwrap_err();
            let AttachError::Taken { by } = taken else { panic!("{taken}") };
            assert_eq!(world.queue.status().publisher, Some(by));
            // It sleeps, and hears of the death.
            let end = killed_soon(&mut drafts, || reader.recv(None).map(drop));
            assert_eq!(end, Err(RecvError::PublisherDied));
            let mut publisher = world.queue.publisher(&world.me).unwrap();
            assert_eq!(publisher.published(), 1);
            publisher.publish(&record(1), None).unwrap();
            assert_eq!(*reader.recv(None).unwrap(), record(1));
            drop(publisher);
            assert_eq!(reader.recv(None).unwrap_err(), RecvError::Detached);
        });
    }
}

#[test]
fn bad_input_is_an_error_of_its_own() {
    let world = create(Kind::Lossy);
    let at = |offset, fingerprint| Broadcast::attach(&world.mapping, offset, fingerprint);
    assert_eq!(
        at(World::QUEUE_AT, 0).unwrap_err(),
        AttachError::OtherRecords { found: FINGERPRINT }
    );
    assert_eq!(at(World::WORDS_AT, 0).unwrap_err(), AttachError::NotABroadcast { found: 0 });
    assert!(matches!(at(3, 0), Err(AttachError::Place(_))));
    let create = |config: BroadcastConfig| {
        // SAFETY: it is refused.
        unsafe { Broadcast::create(&world.mapping, World::QUEUE_AT, &config) }.unwrap_err()
    };
    let bad = |what, value| CreateError::Config { what, value };
    assert_eq!(create(BroadcastConfig::lossy(0, 8, 1)), bad("cells", 0));
    assert_eq!(create(BroadcastConfig::lossless(1, 8, 0)), bad("subscribers", 0));
    let huge = create(BroadcastConfig::lossy(1, u64::MAX, 1));
    assert_eq!(huge, bad("bytes a record", u64::MAX));
    let large = create(BroadcastConfig::lossy(1 << 20, 1 << 20, 1));
    assert!(matches!(large, CreateError::Place(_)));
    let too_many = BroadcastConfig::lossy(u32::MAX, RECORD_BYTES_MAX, 1);
    assert_eq!(Broadcast::bytes_for(&too_many), u64::MAX);
    let mut publisher = world.queue.publisher(&world.me).unwrap();
    assert_eq!(world.queue.publisher(&world.me).unwrap_err(), AttachError::OpenAlready);
    let too_long = publisher.try_publish(&[0; RECORD_BYTES + 1]);
    let (len, largest) = (RECORD_BYTES + 1, RECORD_BYTES);
    assert_eq!(too_long, Err(PublishError::TooLong { len, largest }));
    let subscribe = || world.queue.subscribe(&world.me, Subscription::default());
    let all: Vec<_> = (0..ROWS).map(|_| subscribe().unwrap()).collect();
    assert_eq!(subscribe().unwrap_err(), SubscribeError::Full { rows: ROWS });
    drop(all);
    assert_eq!(subscribe().unwrap().recv(soon(20)).unwrap_err(), RecvError::TimedOut);
}

/// Does something soon, while the caller waits for this or an alarm that never rings.
fn woken_by(act: impl FnOnce() + Send, source: &mut dyn Source) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(15));
            act();
        });
        let mut never = Alarm::never();
        let ready = WaitSet::new().wait(&mut [(1, &mut never), (2, source)], None);
        assert_eq!(ready.unwrap(), [2]);
    });
}

fn is_ready(source: &mut dyn Source) -> bool {
    !WaitSet::new().wait(&mut [((), source)], Some(Instant::now())).unwrap().is_empty()
}

/// The next record, of which the set has said that it is there.
fn next_of(subscriber: &mut Subscriber) -> Vec<u8> {
    assert!(is_ready(subscriber));
    subscriber.try_recv().unwrap().unwrap().to_vec()
}

#[test]
fn a_set_is_woken_by_a_record_a_loss_and_a_death() {
    let world = create(Kind::Lossy);
    within(LIMIT, move || {
        let mut publisher = world.queue.publisher(&world.me).unwrap();
        let mut reader = world.queue.subscribe(&world.me, Subscription::default()).unwrap();
        assert!(!is_ready(&mut reader) && is_ready(&mut publisher.space()), "it waits for nobody");
        woken_by(|| assert!(publisher.try_publish(b"one").unwrap()), &mut reader);
        assert_eq!(next_of(&mut reader), b"one");
        for number in 0..=CELLS {
            assert!(publisher.try_publish(&record(number.into())).unwrap());
        }
        for _ in 0..2 {
            assert!(is_ready(&mut reader), "it says so, and takes nothing");
        }
        assert_eq!(reader.try_recv().unwrap_err(), RecvError::Missed { records: 1 });
        assert_eq!(next_of(&mut reader), record(1));
        (2..=CELLS).for_each(|number| assert_eq!(next_of(&mut reader), record(number.into())));
        woken_by(move || drop(publisher), &mut reader);
        assert_eq!(reader.try_recv().unwrap_err(), RecvError::Detached);
    });
    let world = create(Kind::Lossless);
    within(LIMIT, move || {
        let mut reader = world.queue.subscribe(&world.me, Subscription::default()).unwrap();
        let mut drafts = world.spawn_there("drafts");
        assert_eq!(next_of(&mut reader), record(0));
        woken_by(|| drafts.kill(), &mut reader);
        assert_eq!(reader.try_recv().unwrap_err(), RecvError::PublisherDied);
    });
}

#[test]
fn a_set_is_woken_by_room_and_by_who_dies_in_its_place() {
    let world = create(Kind::Lossless);
    within(LIMIT, move || {
        let mut publisher = world.queue.publisher(&world.me).unwrap();
        let mut idles = world.spawn_there("idles");
        let mut reader = world.queue.subscribe(&world.me, Subscription::default()).unwrap();
        assert_eq!(fill(&mut publisher), u64::from(CELLS));
        drop(reader.try_recv().unwrap().unwrap());
        assert!(!is_ready(&mut publisher.space()), "another one has not read");
        woken_by(|| idles.kill(), &mut publisher.space());
        assert_eq!(fill(&mut publisher), 1);
        woken_by(|| drop(reader.try_recv().unwrap().unwrap()), &mut publisher.space());
        assert_eq!(fill(&mut publisher), 1);
    });
}
