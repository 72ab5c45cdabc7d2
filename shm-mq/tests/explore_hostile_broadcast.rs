//! A broadcast among strangers under the explorer: any of them dies anywhere, and the others get
//! all that was acknowledged, or are told how much they missed, learn the reason, and go on; and a
//! side that is lied to, in any word that another one writes, has a value or an error, in bounded
//! time.
//!
//! Process 1 is the publisher, the others are its subscribers.
#![cfg(shm_explore)]
use shm_mq::broadcast::explored::Strangers;
use shm_mq::broadcast::{
    BroadcastConfig, Kind, Lapped, PublishError, RecvError, Start, StrangeSubscriber, Subscription,
};
use shm_mq::fan_in::Why;
use shm_mq::waitset::WaitSet;
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_after_a_lie};
use std::time::Instant;

const PUBLISHER: u32 = 1;
/// Two words, so that one can be torn.
const BYTES: usize = 16;
const HOW: Subscription = Subscription { start: Start::Oldest, lapped: Lapped::Oldest };
/// A subscriber says with which record it begins, the number of each that it received, how many it
/// missed, and how it ended.
const BEGINS: u64 = 300;
const MISSED: u64 = 100;
const DIED: u64 = 200;
const LEFT: u64 = 201;

fn record(number: u64) -> [u8; BYTES] {
    [number as u8 + 1; BYTES]
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("hostile broadcast", name).alone_at_most(2000).states_at_most(200_000)
}

fn strangers(kind: Kind, cells: u32, subscribers: u32) -> Strangers {
    let config =
        BroadcastConfig { kind, ..BroadcastConfig::lossy(cells, BYTES as u64, subscribers) };
    Strangers::new(&config).unwrap()
}

/// Publishes so many records, waiting for who has to read, and says each that was taken.
fn publishes<'a>(strangers: &'a Strangers, peers: &'a [u32], records: u64) -> Process<'a> {
    Process::new("publisher", move |me: &Me| {
        let mut publisher = strangers.publisher(peers);
        for number in 0..records {
            publisher.publish(&record(number), None).unwrap();
            me.say(number);
        }
        while let Some(end) = publisher.next_end() {
            assert!(peers.contains(&end.key), "an end of nobody's");
            assert!(end.position <= records && (end.why != Why::Corrupt || is_after_a_lie()));
        }
    })
}

type Recv = fn(&mut StrangeSubscriber) -> Result<(u64, &[u8]), RecvError>;

/// As `recv`, and waits as one of many would.
fn recv_in_a_set(subscriber: &mut StrangeSubscriber) -> Result<(u64, &[u8]), RecvError> {
    WaitSet::new().wait(&mut [((), subscriber)], None).unwrap();
    subscriber.try_recv().map(|found| found.expect("it is ready"))
}

/// Receives until the end, and says each, and how it ended.
fn receives(strangers: &Strangers, kind: Kind, number: usize, recv: Recv) -> Process<'_> {
    Process::new("subscriber", move |me: &Me| {
        let Some(mut subscriber) = strangers.subscriber(number, PUBLISHER, HOW) else {
            return assert!(is_after_a_lie(), "nobody lied");
        };
        me.say(BEGINS + subscriber.position().min(BEGINS));
        // What was published after this it may not miss of a lossless one.
        let begun = if kind == Kind::Lossless { subscriber.published() } else { u64::MAX };
        // A liar may publish without end.
        for _ in 0..5 {
            match recv(&mut subscriber) {
                Ok((number, bytes)) => {
                    let is_true = *bytes == record(number);
                    assert!(is_true || is_after_a_lie(), "torn");
                    me.say(number);
                }
                Err(RecvError::Missed { records }) => {
                    let is_old = subscriber.position() <= begun;
                    assert!(records > 0 && (is_old || is_after_a_lie()), "missed, having begun");
                    me.say(MISSED + records.min(MISSED - 1));
                }
                Err(RecvError::PublisherDied) => return me.say(DIED),
                Err(RecvError::Detached) => return me.say(LEFT),
                Err(RecvError::Corrupt) => return assert!(is_after_a_lie(), "nobody lied"),
                Err(other) => panic!("{other}"),
            }
        }
    })
}

/// What was taken was received, or missed, by each who lived, who knows how the publisher ended.
fn nothing_is_lost(records: u64, subscribers: usize, end: &End<'_>) {
    if end.is_after_a_lie() {
        return;
    }
    for subscriber in (1..=subscribers).filter(|each| !end.is_dead(*each)) {
        let (taken, said) = (end.said(0), end.said(subscriber));
        let (last, said) = said.split_last().expect("it says how it ended");
        let (begins, said) = said.split_first().expect("it says where it begins");
        let mut next = begins - BEGINS;
        for what in said {
            match *what {
                missed if missed > MISSED => next += missed - MISSED,
                number => {
                    assert_eq!(number, next, "a record is lost, or received twice");
                    next += 1;
                }
            }
        }
        assert!(next >= taken.len() as u64, "a record is lost: {taken:?}, {said:?}");
        if !end.is_dead(0) {
            assert_eq!((next, *last), (records, LEFT), "a record is lost");
        }
    }
}

fn mortal(deaths: u32, process: Process<'_>) -> Process<'_> {
    if deaths > 0 { process.mortal() } else { process }
}

struct Case {
    name: &'static str,
    kind: Kind,
    cells: u32,
    records: u64,
    subscribers: usize,
    deaths: u32,
    lies: u32,
}

impl Case {
    fn explore(&self) {
        self.explore_with(StrangeSubscriber::recv);
    }

    fn explore_with(&self, recv: Recv) {
        let Case { name, kind, cells, records, subscribers, deaths, lies } = *self;
        let strangers = strangers(kind, cells, subscribers as u32);
        let peers = &[2, 3][..subscribers];
        let check = |end: &End<'_>| nothing_is_lost(records, subscribers, end);
        let mut scenario = scenario(name).deaths(deaths).lies(lies).preemptions_at_most(1);
        scenario = scenario.process(mortal(deaths, publishes(&strangers, peers, records)));
        for number in 0..subscribers {
            scenario = scenario.process(mortal(deaths, receives(&strangers, kind, number, recv)));
        }
        scenario = scenario.check(check);
        // One that was told that nobody sleeps wakes nobody.
        if lies > 0 {
            scenario = scenario.may_all_wait(|end| assert!(end.is_after_a_lie()));
        }
        scenario.explore();
    }
}

#[test]
fn any_of_a_lossy_one_may_die_anywhere() {
    let (kind, name) = (Kind::Lossy, "lossy, three records over two cells, both may die");
    Case { name, kind, cells: 2, records: 3, subscribers: 1, deaths: 2, lies: 0 }.explore();
}

#[test]
fn any_of_a_lossless_one_may_die_anywhere() {
    let (kind, name) = (Kind::Lossless, "lossless, three records over one cell, both may die");
    Case { name, kind, cells: 1, records: 3, subscribers: 1, deaths: 2, lies: 0 }.explore();
}

#[test]
fn any_may_die_of_one_that_is_waited_for_in_a_set() {
    let (kind, name) = (Kind::Lossy, "lossy, in a set, three records over two cells, both may die");
    let case = Case { name, kind, cells: 2, records: 3, subscribers: 1, deaths: 2, lies: 0 };
    case.explore_with(recv_in_a_set);
    let (kind, name) = (Kind::Lossless, "lossless, in a set, two records over one cell, a death");
    let case = Case { name, kind, cells: 1, records: 2, subscribers: 1, deaths: 1, lies: 0 };
    case.explore_with(recv_in_a_set);
}

#[test]
fn one_of_two_may_die() {
    let (kind, name) = (Kind::Lossless, "lossless, two records over one cell, two subscribers");
    Case { name, kind, cells: 1, records: 2, subscribers: 2, deaths: 1, lies: 0 }.explore();
}

#[test]
fn a_lie_does_no_harm() {
    let (kind, name) = (Kind::Lossy, "lossy, three records over two cells, one lie");
    Case { name, kind, cells: 2, records: 3, subscribers: 1, deaths: 0, lies: 1 }.explore();
    let (kind, name) = (Kind::Lossless, "lossless, two records over one cell, one lie");
    Case { name, kind, cells: 1, records: 2, subscribers: 1, deaths: 0, lies: 1 }.explore();
}

#[test]
fn a_liar_may_die() {
    let (kind, name) = (Kind::Lossless, "lossless, two records over one cell, a death and a lie");
    Case { name, kind, cells: 1, records: 2, subscribers: 1, deaths: 1, lies: 1 }.explore();
}

/// One that stands still holds up nobody but a lossless publisher, until that expels it.
#[test]
fn calls_with_a_limit_end() {
    let (strangers, past) = (strangers(Kind::Lossless, 1, 1), Instant::now());
    let publishes = Process::new("publisher", |me: &Me| {
        let mut publisher = strangers.publisher(&[2]);
        for number in 0..2 {
            match publisher.publish(&record(number), Some(past)) {
                Ok(()) => me.say(number),
                Err(PublishError::TimedOut) => {
                    assert_eq!(number, 1);
                    publisher.expel(|_, lag| lag > 0);
                    assert!(
                        publisher.try_publish(&record(number)).unwrap() || !publisher.is_empty()
                    );
                }
                Err(other) => panic!("{other}"),
            }
        }
    });
    let takes = Process::new("subscriber", |me: &Me| {
        let mut subscriber = strangers.subscriber(0, PUBLISHER, HOW).unwrap();
        for _ in 0..2 {
            match subscriber.recv_deadline(past) {
                Ok((number, _)) => me.say(number),
                Err(RecvError::TimedOut | RecvError::Detached | RecvError::PublisherDied) => {}
                // It was expelled.
                Err(RecvError::Missed { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    });
    let order = |end: &End<'_>| assert!(end.said(1).is_sorted_by(|a, b| a < b), "{end:?}");
    let scenario = scenario("calls with a limit").deaths(1).preemptions_at_most(1);
    scenario.process(publishes.mortal()).process(takes.mortal()).check(order).explore();
}

/// One that takes a silence for the publisher's end: the check notices.
#[test]
fn finds_a_silence_taken_for_the_end() {
    finds("a record is lost", || {
        let (strangers, past) = (strangers(Kind::Lossy, 2, 1), Instant::now());
        let hasty = Process::new("subscriber", |me: &Me| {
            let mut subscriber = strangers.subscriber(0, PUBLISHER, HOW).unwrap();
            me.say(BEGINS);
            while let Ok((number, _)) = subscriber.recv_deadline(past) {
                me.say(number);
            }
            me.say(LEFT);
        });
        let check = |end: &End<'_>| nothing_is_lost(1, 1, end);
        let scenario = scenario("planted").process(publishes(&strangers, &[2], 1));
        scenario.process(hasty).check(check).explore()
    });
}
