//! A broadcast between an honest publisher and honest subscribers that trust nobody, under every
//! interleaving and with a death at every access: a subscriber learns of records from their marks,
//! in memory that it cannot write, and the publisher of room from the subscriber's word. Each
//! record arrives once, in order and whole, or is told to have been missed; nobody hangs, and each
//! side learns why the other is silent.
//!
//! What is common to hostile queues, `loom_hostile.rs` is about; what to broadcasts,
//! `loom_broadcast.rs`. A record is two words, a cell four.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_mq::broadcast::model::{Ends, Strangers};
use shm_mq::broadcast::{
    BroadcastConfig, Guest, Kind, Lapped, RecvError, Start, StrangePublisher, StrangeSubscriber,
    Subscription,
};
use shm_testkit::depth::is_deep;
use shm_testkit::model::{self, Life};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed};

const BYTES: usize = 16;
/// One less than elsewhere: more takes minutes here.
const PREEMPTIONS: usize = 1;
const HOW: Subscription = Subscription { start: Start::Oldest, lapped: Lapped::Oldest };

fn record(number: u64) -> [u8; BYTES] {
    [number as u8 + 1; BYTES]
}

/// What a subscriber came to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Tally {
    received: u64,
    missed: u64,
}

impl Tally {
    fn all(self) -> u64 {
        self.received + self.missed
    }
}

/// Receives until the end: what, and why it ended.
fn receive_all(mut subscriber: StrangeSubscriber) -> (Tally, RecvError) {
    let (mut tally, begins) = (Tally::default(), subscriber.position());
    loop {
        match subscriber.recv() {
            Ok((number, bytes)) => {
                assert_eq!(number, begins + tally.all(), "lost, or received twice");
                assert_eq!(*bytes, record(number), "torn");
                tally.received += 1;
            }
            Err(RecvError::Missed { records }) => tally.missed += records,
            Err(end) => return (tally, end),
        }
    }
}

/// What a scene is about: so many cells, records that are there before, and that are published.
#[derive(Clone, Copy)]
struct Shape {
    kind: Kind,
    cells: u32,
    earlier: u64,
    count: u64,
}

/// The one record is written over while it is read.
const OVERWRITTEN: Shape = Shape { kind: Kind::Lossy, cells: 1, earlier: 1, count: 1 };
/// A reader of the first is lapped by the last, which is in another cell.
const LAPPED: Shape = Shape { kind: Kind::Lossy, cells: 2, earlier: 1, count: 2 };
/// The second waits until the first is read.
const LOSSLESS: Shape = Shape { kind: Kind::Lossless, cells: 1, earlier: 0, count: 2 };

fn world(
    shape: Shape,
    subscribers: u32,
) -> (StrangePublisher<u32>, Vec<Ends<(), StrangeSubscriber>>) {
    let Shape { kind, cells, .. } = shape;
    let config = BroadcastConfig { kind, ..BroadcastConfig::lossy(cells, BYTES as u64, 2) };
    let (strangers, mut publisher) = Strangers::create(&config).unwrap();
    for number in 0..shape.earlier {
        assert!(publisher.try_publish(&record(number)).unwrap());
    }
    let meet = |key| {
        let Ends { sender, sender_held, receiver, receiver_held } = strangers.meet(HOW).unwrap();
        admit(&mut publisher, key, sender);
        Ends { sender: (), sender_held, receiver, receiver_held }
    };
    let subscribers = (0..subscribers).map(meet).collect();
    (publisher, subscribers)
}

fn admit(publisher: &mut StrangePublisher<u32>, key: u32, guest: Guest) {
    assert!(publisher.admit(key, guest).is_ok());
}

/// One publishes, and waits for who reads if it has to; each of the others receives all. Each may
/// die, the publisher first.
fn all_arrives(shape: Shape, lives: &[Life]) {
    let (mut publisher, subscribers) = world(shape, lives.len() as u32 - 1);
    let Shape { kind, earlier, count, .. } = shape;
    let [publishes, receive @ ..] = lives else { unreachable!() };
    let acknowledged = Arc::new(Counter::new(0));
    let (ends, counter) = (senders_held(&subscribers), acknowledged.clone());
    let publishes = publishes.clone();
    let publishing = model::thread::spawn(move || {
        let lived = publishes.run(move || {
            for number in earlier..earlier + count {
                publisher.publish(&record(number), None).unwrap();
                counter.store(number + 1, Relaxed);
            }
        });
        if lived.is_none() {
            ends.iter().for_each(|held| held.ends());
        }
        lived.is_some()
    });
    let mut receiving: Vec<_> = subscribers.into_iter().zip(receive.iter().cloned()).collect();
    let last = receiving.pop();
    let receives = |(ends, life): (Ends<(), StrangeSubscriber>, Life)| {
        let begins = ends.receiver.position();
        let received = life.run(move || receive_all(ends.receiver));
        if received.is_none() {
            ends.receiver_held.ends();
        }
        received.map(|(tally, end)| (begins, tally, end))
    };
    let threads: Vec<_> =
        receiving.into_iter().map(|one| model::thread::spawn(move || receives(one))).collect();
    let last = last.map(receives);
    let lives = publishing.join().unwrap();
    let others = threads.into_iter().map(|thread| thread.join().unwrap());
    for (begins, tally, end) in others.chain(last).flatten() {
        let found = begins + tally.all();
        assert!(kind == Kind::Lossy || tally.missed == 0, "missed of a lossless one");
        match end {
            RecvError::Detached => assert_eq!(found, earlier + count, "a record is lost"),
            RecvError::PublisherDied => {
                assert!(!lives && found >= acknowledged.load(Relaxed), "a wrong verdict");
            }
            other => panic!("{other}"),
        }
    }
}

fn senders_held(subscribers: &[Ends<(), StrangeSubscriber>]) -> Vec<shm_core::sealed::Held> {
    subscribers.iter().map(|ends| ends.sender_held.clone()).collect()
}

fn both_live() -> [Life; 2] {
    [Life::endless(), Life::endless()]
}

fn each_dies(name: &str, shape: Shape) {
    let tried =
        model::every_death_of(PREEMPTIONS, move |lives: [Life; 2]| all_arrives(shape, &lives));
    println!("strangers, {name}, each dies: {tried:?}");
}

#[test]
fn either_side_of_a_lossy_one_may_die_anywhere() {
    each_dies("lossy, one cell", OVERWRITTEN);
    if is_deep() {
        each_dies("lossy, two cells", LAPPED);
    }
}

#[test]
fn either_side_of_a_lossless_one_may_die_anywhere() {
    each_dies("lossless", LOSSLESS);
}

#[test]
fn each_sleep_is_ended_by_a_ring() {
    for (name, shape) in [("lossless", LOSSLESS), ("lapped", LAPPED)] {
        let bound = PREEMPTIONS + usize::from(is_deep());
        let tried = model::check_bounded(Some(bound), move || all_arrives(shape, &both_live()));
        println!("strangers, {name}: {tried:?}");
    }
}

/// Each of two has all records of one memory.
#[test]
fn each_of_two_has_all() {
    let lives = || [Life::endless(), Life::endless(), Life::endless()];
    let tried = model::check_bounded(Some(PREEMPTIONS), move || all_arrives(LOSSLESS, &lives()));
    println!("strangers, two subscribers: {tried:?}");
}

/// A subscriber may sleep before it is admitted, and what was published by then is not rung for: it
/// is woken when it is.
fn is_admitted_late() {
    let config = BroadcastConfig::lossy(1, BYTES as u64, 1);
    let (strangers, mut publisher) = Strangers::create(&config).unwrap();
    let Ends { sender, mut receiver, .. } = strangers.meet(HOW).unwrap();
    let publishing = model::thread::spawn(move || {
        assert!(publisher.try_publish(&record(0)).unwrap());
        admit(&mut publisher, 0, sender);
        // It stays.
        publisher
    });
    assert_eq!(receiver.recv().unwrap(), (0, &record(0)[..]));
    drop(publishing.join().unwrap());
}

#[test]
fn who_is_admitted_late_is_woken() {
    println!("strangers, admitted late: {:?}", model::check(is_admitted_late));
}

/// It is admitted before it has said where it begins, and nobody waits for it until it has: from
/// where it begins on it has all.
fn begins_late() {
    let config = BroadcastConfig::lossless(1, BYTES as u64, 1);
    let (strangers, mut publisher) = Strangers::create(&config).unwrap();
    let Ends { sender, receiver: newcomer, .. } = strangers.meet_newcomer().unwrap();
    admit(&mut publisher, 0, sender);
    let publishing = model::thread::spawn(move || {
        for number in 0..2 {
            publisher.publish(&record(number), None).unwrap();
        }
    });
    let subscriber = newcomer.begin(Subscription { start: Start::Next, ..HOW });
    let begins = subscriber.position();
    let (Tally { received, missed }, end) = receive_all(subscriber);
    assert_eq!(missed, 0, "of {begins} and more, as it has begun");
    assert_eq!((begins + received, end), (2, RecvError::Detached));
    publishing.join().unwrap();
}

#[test]
fn who_has_begun_misses_nothing() {
    let bound = PREEMPTIONS + usize::from(is_deep());
    println!("strangers, newcomer: {:?}", model::check_bounded(Some(bound), begins_late));
}

/// The shadow of a word synchronizes together with fences, and here is one behind each load: what
/// passes above has to pass without it.
#[test]
fn nothing_rests_on_the_shadow() {
    model::without_shadow(|| {
        for shape in [OVERWRITTEN, LOSSLESS] {
            let bound = PREEMPTIONS + 1;
            let tried = model::check_bounded(Some(bound), move || all_arrives(shape, &both_live()));
            println!("strangers, bare: {tried:?}");
        }
    });
}

/// What `tell` keeps before a later store, no load of loom's sees; `loom_hostile` has it. Between
/// the last record and the end is the fence of a wake-up; behind the look at the end that of the
/// look at the publisher's number.
const NOT_HERE: [&str; 4] = ["drop: ", "tell: ", "leave: ", "look: fence"];

#[test]
fn every_ordering_matters() {
    let files = ["shm-mq/src/broadcast/", "shm-mq/src/hostile/"];
    let found = model::every_ordering_matters_but(&files, &NOT_HERE, || {
        for shape in [OVERWRITTEN, LOSSLESS] {
            model::check_bounded(Some(PREEMPTIONS), move || all_arrives(shape, &both_live()));
        }
        model::check_bounded(Some(PREEMPTIONS), begins_late);
    });
    let why = "marks and number: both halves; the record's two fences; the wake-up's; who begins";
    assert_eq!(found, 10, "{why}");
}
