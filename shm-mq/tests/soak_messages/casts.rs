//! Records that each subscriber gets, or is told to have missed.
use super::{Lives, NOBODY_SENDS, ONLY_WHAT_IS_LEFT, Scene, Told, World};
use super::{message, next, read, soon};
use shm_mq::broadcast::{
    Broadcast, BroadcastConfig, PublishError, RecvError, Start, Subscriber, Subscription,
};

const BYTES: u64 = 120;
const KEPT: BroadcastConfig = BroadcastConfig::lossless(64, BYTES, 4);
const FORGOTTEN: BroadcastConfig = BroadcastConfig::lossy(256, BYTES, 4);
/// Whoever publishes writes into the words of the first life.
const PUBLISHED: u64 = 0;

pub(crate) const LOSSLESS: Scene = Scene {
    name: "broadcast, lossless",
    senders: ("publishes", 1),
    receivers: ("misses_none", 2),
    bytes: Broadcast::bytes_for(&KEPT),
    // SAFETY: nobody else has the mapping's name.
    make: |mapping, at| drop(unsafe { Broadcast::create(mapping, at, &KEPT) }.unwrap()),
    has_ledger: false,
    check,
};

pub(crate) const LOSSY: Scene = Scene {
    name: "broadcast, lossy",
    senders: ("publishes", 1),
    receivers: ("subscribes", 2),
    bytes: Broadcast::bytes_for(&FORGOTTEN),
    // SAFETY: nobody else has the mapping's name.
    make: |mapping, at| drop(unsafe { Broadcast::create(mapping, at, &FORGOTTEN) }.unwrap()),
    has_ledger: false,
    check,
};

/// Messages that were published, and that were received, by each of all subscribers.
fn check(world: &World, lives: &Lives) -> Result<[u64; 2], String> {
    let [begun, sent] = [Told::Begun, Told::Sent].map(|what| world.count(PUBLISHED, what));
    let mut received = 0;
    for life in &lives.receivers {
        let [first, used, missed] =
            [Told::First, Told::Used, Told::Missed].map(|what| world.count(*life, what));
        if used > begun || used < sent && lives.last.contains(life) {
            return Err(format!("{begun} begun, {sent} sent, {used} received"));
        }
        received += used - first - missed;
    }
    Ok([sent, received])
}

/// Goes on where its predecessor was killed.
pub(crate) fn publishes(args: &[String]) {
    let (world, _, mut seed) = World::attach(args, false);
    let broadcast = Broadcast::attach(&world.mapping, world.queue_at, 0).unwrap();
    let mut publisher = broadcast.publisher(&world.me).unwrap();
    let [begun, known] = [Told::Begun, Told::Sent].map(|what| world.count(PUBLISHED, what));
    let published = publisher.published();
    assert!((known..=begun).contains(&published), "{known}, {published}, {begun}");
    while !world.is_over(NOBODY_SENDS) {
        let number = publisher.published();
        world.set(PUBLISHED, Told::Begun, number + 1);
        let bytes = message(PUBLISHED, number);
        if next(&mut seed).is_multiple_of(32) {
            // Others than the quickest are to get some of a lossy one.
            std::thread::yield_now();
        }
        match next(&mut seed) % 3 {
            0 => drop(publisher.try_publish(&bytes).unwrap()),
            1 => match publisher.publish(&bytes, Some(soon())) {
                Ok(()) | Err(PublishError::TimedOut) => {}
                Err(error) => panic!("{error}"),
            },
            _ => {
                if let Some(mut draft) = publisher.reserve(bytes.len()).unwrap() {
                    draft.copy_from_slice(&bytes);
                    draft.commit();
                }
            }
        }
        world.set(PUBLISHED, Told::Sent, publisher.published());
    }
}

pub(crate) fn misses_none(args: &[String]) {
    let (world, life, seed) = World::attach(args, false);
    receive(&world, life, seed);
    assert_eq!(world.count(life, Told::Missed), 0, "of a lossless one");
}

pub(crate) fn subscribes(args: &[String]) {
    let (world, life, seed) = World::attach(args, false);
    receive(&world, life, seed);
}

fn receive(world: &World, life: u64, mut seed: u64) {
    let broadcast = Broadcast::attach(&world.mapping, world.queue_at, 0).unwrap();
    let start = [Start::Next, Start::Newest, Start::Oldest][next(&mut seed) as usize % 3];
    let how = Subscription { start, ..Subscription::default() };
    let mut subscriber = broadcast.subscribe(&world.me, how).unwrap();
    world.set(life, Told::First, subscriber.position());
    world.set(life, Told::Used, subscriber.position());
    while receive_one(world, life, &mut subscriber, &mut seed) {}
}

/// Whether there may be more.
fn receive_one(world: &World, life: u64, subscriber: &mut Subscriber, seed: &mut u64) -> bool {
    let is_last = world.is_over(ONLY_WHAT_IS_LEFT);
    let got = match next(seed) % 4 {
        0 => subscriber.try_recv(),
        _ => subscriber.recv(Some(soon())).map(Some),
    };
    let used = world.count(life, Told::Used);
    match got {
        Ok(Some(record)) if next(seed).is_multiple_of(16) => record.put_back(),
        Ok(Some(record)) => {
            assert_eq!(read(&record), (PUBLISHED, used));
            assert_eq!(record.number(), used);
            world.set(life, Told::Used, used + 1);
        }
        Ok(None) => {}
        Err(RecvError::Missed { records }) => {
            world.set(life, Told::Missed, world.count(life, Told::Missed) + records);
            world.set(life, Told::Used, used + records);
        }
        Err(RecvError::Corrupt | RecvError::Forked) => panic!("{got:?}"),
        Err(_) if is_last => return false,
        Err(_) => std::thread::yield_now(),
    }
    true
}
