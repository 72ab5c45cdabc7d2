//! A broadcast that lies, before a process attaches and while it is used: each call ends, with a
//! value or with an error of its own; nonsense stays `Corrupt`; no record is longer than its cell,
//! or changes once it was received; and nothing but the broadcast's bytes is touched. One
//! subscriber that lies harms nobody but himself; a lie that keeps somebody from a record for good
//! is found out; and who sleeps looks for itself, where nobody wakes it.
#![cfg(not(any(shm_loom, shm_explore)))]
mod broadcast_common;
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;

use broadcast_common::LIMIT;
use hostile_common::{Victim, guarded, members, soon};
use shm_core::mapping::Mapping;
use shm_core::participants::Member;
use shm_core::sync::{AtomicU64, Ordering};
use shm_core::trust::{Buggy, Crashing};
use shm_mq::broadcast::{
    AttachError, Broadcast, BroadcastConfig, Kind, Lapped, PublishError, Publisher, Record,
    RecvError, Start, SubscribeError, Subscriber, Subscription,
};
use shm_mq::stream::OneMapping;
use shm_testkit::liar::Trials;
use shm_testkit::random::text;
use shm_testkit::watchdog::within;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROWS: u32 = 2;
const RECORD_BYTES: usize = 40;
const CELLS: u32 = 3;

fn config(kind: Kind) -> BroadcastConfig {
    BroadcastConfig { kind, ..BroadcastConfig::lossy(CELLS, RECORD_BYTES as u64, ROWS) }
}

fn bytes(kind: Kind) -> usize {
    Broadcast::bytes_for(&config(kind)) as usize
}

const SUBSCRIPTIONS: [Subscription; 3] = [
    Subscription { start: Start::Oldest, lapped: Lapped::Oldest },
    Subscription { start: Start::Newest, lapped: Lapped::Newest },
    Subscription { start: Start::Next, lapped: Lapped::Oldest },
];

/// What a broadcast holds in the course of its life.
fn images(kind: Kind, members: &[Arc<Member>; 2]) -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&vec![0; bytes(kind)], 0);
    // SAFETY: nobody else has the mapping.
    let broadcast = unsafe { Broadcast::create(&mapping, 0, &config(kind)) }.unwrap();
    let mut images = vec![block.outside().read()];
    broadcast.set_publisher(&members[1], members[0].id()).unwrap();
    let mut publisher = broadcast.publisher(&members[0]).unwrap();
    let mut subscriber = broadcast.subscribe(&members[1], SUBSCRIPTIONS[0]).unwrap();
    for number in 0..7 {
        assert!(publisher.try_publish(&text(number, 5 * number as usize)).unwrap());
        images.push(block.outside().read());
        if kind == Kind::Lossless || number == 5 {
            let _ = subscriber.try_recv();
            images.push(block.outside().read());
        }
    }
    drop(publisher);
    images.push(block.outside().read());
    images
}

fn values(members: &[Arc<Member>; 2]) -> Vec<u64> {
    let ids = members.iter().map(|member| u64::from(member.id().to_bits()));
    let states = ids.flat_map(|id| (1..5).map(move |state: u64| state << 32 | id));
    let marks = (0..9_u64).flat_map(|number| [2 * number + 1, 2 * number + 2]);
    let mut values: Vec<u64> = states.chain(marks).collect();
    values.extend([0, 40, 41, 1 << 31, 1 << 62, (1 << 62) + 1, 1 << 63, u64::MAX - 1, u64::MAX]);
    values
}

fn look<T: OneMapping>(trials: &Trials, seed: u64, record: &Record<'_, T>) {
    trials.check(seed, "a record", record.len() <= RECORD_BYTES, "longer than its cell");
    if !T::IN_PLACE {
        let kept = record.to_vec();
        trials.check(seed, "a record", **record == kept[..], "changes while it is looked at");
    }
}

fn publish<T: OneMapping>(trials: &Trials, seed: u64, publisher: &mut Publisher<T>) {
    for round in 0..3_usize {
        let tried =
            trials.call(seed, "try_publish", || publisher.try_publish(&vec![7; round * 20]));
        let is_right = !matches!(tried, Some(Err(PublishError::TimedOut | PublishError::Forked)));
        trials.check(seed, "try_publish", is_right, "an error it has not");
        let published = trials.call(seed, "publish", || publisher.publish(b"soon", Some(soon())));
        let is_right = !matches!(published, Some(Err(PublishError::Forked)));
        trials.check(seed, "publish", is_right, "an error it has not");
        trials.call(seed, "reserve", || {
            if let Ok(Some(draft)) = publisher.reserve(9) {
                draft.commit();
            }
        });
        trials.call(seed, "withdraw", || publisher.reserve(9).map(|draft| draft.is_some()));
    }
}

fn receive<T: OneMapping>(trials: &Trials, seed: u64, subscriber: &mut Subscriber<T>) {
    let mut is_corrupt = false;
    for round in 0..4 {
        let got = trials.call(seed, "receive", || {
            let got = if round % 2 == 0 {
                subscriber.try_recv()
            } else {
                subscriber.recv(Some(soon())).map(Some)
            };
            got.map(|record| {
                let Some(record) = record else { return };
                look(trials, seed, &record);
                if round == 1 {
                    record.put_back();
                }
            })
        });
        let now = matches!(got, Some(Err(RecvError::Corrupt)));
        trials.check(seed, "receive", now || !is_corrupt, "works after nonsense");
        let is_forked = matches!(got, Some(Err(RecvError::Forked)));
        trials.check(seed, "receive", !is_forked, "an error it has not");
        is_corrupt = now;
        trials.call(seed, "lag", || (subscriber.lag(), subscriber.missed()));
    }
    trials.call(seed, "wait_for_publisher", || subscriber.wait_for_publisher(Some(soon())));
}

/// Every call there is; whether there was a broadcast.
fn use_it<T: OneMapping>(
    trials: &Trials,
    seed: u64,
    mapping: &Arc<Mapping>,
    members: &[Arc<Member>; 2],
) -> bool {
    let attached = trials.call(seed, "attach", || Broadcast::attach(mapping, 0, 0));
    let broadcast = match attached {
        Some(Ok(broadcast)) => broadcast.with_peers::<T>(),
        Some(Err(AttachError::Place(_))) => {
            trials.check(seed, "attach", false, "says that the place is wrong");
            return false;
        }
        _ => return false,
    };
    let subscription = SUBSCRIPTIONS[seed as usize % 3];
    let early = trials.call(seed, "subscribe", || broadcast.subscribe(&members[1], subscription));
    let mut early = early.and_then(Result::ok);
    let publisher = trials.call(seed, "publisher", || broadcast.publisher(&members[0]));
    let mut publisher = publisher.and_then(Result::ok);
    for _ in 0..2 {
        if let Some(publisher) = &mut publisher {
            publish(trials, seed, publisher);
        }
        if let Some(early) = &mut early {
            receive(trials, seed, early);
        }
    }
    let late = trials.call(seed, "subscribe", || broadcast.subscribe(&members[1], subscription));
    if let Some(Ok(mut late)) = late {
        receive(trials, seed, &mut late);
    }
    trials.call(seed, "reap", || broadcast.reap(&members[0]));
    trials.call(seed, "set_publisher", || broadcast.set_publisher(&members[0], members[1].id()));
    let status = trials.call(seed, "status", || broadcast.status());
    let is_bounded = status.is_none_or(|status| status.subscribers.len() <= ROWS as usize);
    trials.check(seed, "status", is_bounded, "more subscribers than rows");
    if let Some(mut latest) = broadcast.latest() {
        trials.call(seed, "latest", || {
            let read = latest.read();
            let is_short =
                read.is_ok_and(|value| value.is_none_or(|it| it.1.len() <= RECORD_BYTES));
            trials.check(seed, "latest", is_short || read.is_err(), "longer than its cell");
        });
    }
    true
}

fn lied_to<T: OneMapping>(kind: Kind, name: &'static str, meanwhile: Option<&'static str>) {
    let members = members();
    let use_it = |trials: &Trials, seed, mapping: &Arc<Mapping>| {
        use_it::<T>(trials, seed, mapping, &members)
    };
    let victim =
        Victim { images: images(kind, &members), values: values(&members), use_it: &use_it };
    victim.is_lied_to(name, 300, 50);
    if let Some(name) = meanwhile {
        victim.is_lied_to_meanwhile(name, 16, 1);
    }
}

#[test]
fn a_lossless_one_that_lies_is_used_or_refused() {
    lied_to::<Buggy>(
        Kind::Lossless,
        "lossless broadcast, before",
        Some("lossless broadcast, meanwhile"),
    );
}

#[test]
fn a_lossy_one_that_lies_is_used_or_refused() {
    lied_to::<Buggy>(Kind::Lossy, "lossy broadcast, before", Some("lossy broadcast, meanwhile"));
}

#[test]
fn among_crashing_peers_what_was_lied_before_is_found() {
    lied_to::<Crashing>(Kind::Lossless, "lossless broadcast, crashing peers", None);
}

/// Where the position of the first row is.
const POSITION_AT: u64 = 384 + 8;

/// One of two subscribers of a lossless broadcast has a row that lies; what the publisher and the
/// other one come to.
fn one_lies(lie: u64) -> (u64, Result<u64, RecvError>) {
    let members = members();
    let kind = Kind::Lossless;
    let mapping = Mapping::heap(bytes(kind));
    // SAFETY: nobody else has the mapping.
    let broadcast = unsafe { Broadcast::create(&mapping, 0, &config(kind)) }.unwrap();
    let broadcast = broadcast.with_peers::<Buggy>();
    let mut publisher = broadcast.publisher(&members[0]).unwrap();
    let mut liar = broadcast.subscribe(&members[0], Subscription::default()).unwrap();
    let mut honest = broadcast.subscribe(&members[1], Subscription::default()).unwrap();
    let row: &AtomicU64 = mapping.region().share(POSITION_AT).unwrap();
    let mut published = 0;
    for number in 0..20_u64 {
        row.store(lie, Ordering::Relaxed);
        if publisher.try_publish(&number.to_ne_bytes()).unwrap() {
            published += 1;
            assert_eq!(**honest.recv(None).as_ref().unwrap(), number.to_ne_bytes());
        }
    }
    let is_struck = broadcast.status().subscribers.iter().any(|subscriber| subscriber.is_struck);
    assert_eq!(is_struck, lie > published);
    let mut received = 0_u64;
    let end = loop {
        match liar.try_recv() {
            Ok(Some(record)) => assert_eq!(*record, received.to_ne_bytes()),
            Ok(None) => break Ok(received),
            Err(error) => break Err(error),
        }
        received += 1;
    };
    drop(liar);
    assert_eq!(broadcast.status().subscribers.len(), 1, "its row is free");
    (published, end)
}

#[test]
fn a_subscriber_that_lies_holds_the_publisher_back_or_is_struck() {
    // It has read what was never published.
    assert_eq!(one_lies(1000), (20, Err(RecvError::Corrupt)));
    assert_eq!(one_lies(u64::MAX), (20, Err(RecvError::Corrupt)));
    // It has not read: no other than a slow one.
    assert_eq!(one_lies(0), (u64::from(CELLS), Ok(u64::from(CELLS))));
}

/// Where `horizon` is, and the mark of the first cell.
const HORIZON_AT: u64 = 136;
const CELLS_AT: u64 = 384 + ROWS as u64 * 128;

/// A publisher, and a subscriber from the first record on.
struct Pair {
    mapping: Arc<Mapping>,
    broadcast: Broadcast<Buggy>,
    members: [Arc<Member>; 2],
    publisher: Publisher<Buggy>,
    subscriber: Subscriber<Buggy>,
}

impl Pair {
    fn of(kind: Kind) -> Pair {
        let (members, mapping) = (members(), Mapping::heap(bytes(kind)));
        // SAFETY: nobody else has the mapping.
        let broadcast = unsafe { Broadcast::create(&mapping, 0, &config(kind)) }.unwrap();
        let broadcast = broadcast.with_peers::<Buggy>();
        let publisher = broadcast.publisher(&members[0]).unwrap();
        let subscriber = broadcast.subscribe(&members[1], Subscription::default()).unwrap();
        Pair { mapping, broadcast, members, publisher, subscriber }
    }

    fn lie(&self, at: u64, lie: u64) {
        let word: &AtomicU64 = self.mapping.region().share(at).unwrap();
        word.store(lie, Ordering::Relaxed);
    }
}

#[test]
fn a_mark_from_the_far_future_is_not_counted_as_missed() {
    let mut pair = Pair::of(Kind::Lossy);
    assert!(pair.publisher.try_publish(b"0").unwrap());
    // Record 3 << 40 of three cells would be in the first of them.
    pair.lie(CELLS_AT, 2 * (3 << 40) + 2);
    assert_eq!(pair.subscriber.try_recv().unwrap_err(), RecvError::Corrupt);
    assert_eq!(pair.subscriber.missed(), 0);
}

#[test]
fn a_record_whose_mark_is_gone_holds_nobody_up() {
    let mut pair = Pair::of(Kind::Lossless);
    for number in 0..u64::from(CELLS) {
        assert!(pair.publisher.try_publish(&number.to_ne_bytes()).unwrap());
    }
    pair.lie(CELLS_AT, 0);
    assert!(!pair.publisher.try_publish(b"next").unwrap(), "it has not read");
    let end = loop {
        match pair.subscriber.try_recv() {
            Ok(None) => {}
            other => break other.map(drop).unwrap_err(),
        }
    };
    assert_eq!(end, RecvError::Corrupt);
    // It has its handle still, and reads no more.
    assert!(pair.publisher.try_publish(b"next").unwrap());
    assert_eq!(pair.subscriber.recv(None).unwrap_err(), RecvError::Corrupt);
}

#[test]
fn who_waits_for_a_record_whose_mark_is_gone_is_told() {
    let mut pair = Pair::of(Kind::Lossless);
    assert!(pair.publisher.try_publish(b"0").unwrap());
    pair.lie(CELLS_AT, 0);
    let waits = move || pair.subscriber.recv(None).map(drop).unwrap_err();
    assert_eq!(within(LIMIT, waits), RecvError::Corrupt);
}

#[test]
fn a_horizon_out_of_sight_lasts_until_the_next_publisher() {
    let Pair { mapping, broadcast, members, mut publisher, subscriber } = Pair::of(Kind::Lossless);
    drop(subscriber);
    assert!(publisher.try_publish(b"0").unwrap());
    drop(publisher);
    let subscribe = || broadcast.subscribe(&members[1], Subscription::default()).map(drop);
    let word: &AtomicU64 = mapping.region().share(HORIZON_AT).unwrap();
    word.store(1 << 61, Ordering::Relaxed);
    assert_eq!(subscribe(), Err(SubscribeError::Corrupt));
    let _next = broadcast.publisher(&members[0]).unwrap();
    assert_eq!(subscribe(), Ok(()));
}

/// As where the publisher is stopped between a record and its wake-up.
#[test]
fn who_sleeps_looks_for_a_record_that_it_was_not_woken_for() {
    let mut pair = Pair::of(Kind::Lossy);
    let mapping = pair.mapping.clone();
    let comes = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        let mark: &AtomicU64 = mapping.region().share(CELLS_AT).unwrap();
        // Record 0 is there, of no bytes.
        mark.store(2, Ordering::Release);
    });
    let deadline = Instant::now() + LIMIT;
    assert_eq!(**pair.subscriber.recv(Some(deadline)).as_ref().unwrap(), *b"");
    comes.join().unwrap();
}
