//! `Strangers` under the explorer: one receives from two that it does not trust, each of which may
//! die, stand still or lie anywhere in its lane. All that was acknowledged is received, in order;
//! each sender has one end; nobody is held up by another one's lies.
//!
//! Senders are processes 1 and 2, who receives is process 3.
#![cfg(shm_explore)]
use shm_mq::fan_in::{Strange, Strangers, StrangersError, Why};
use shm_mq::spsc::SendError;
use shm_mq::spsc::explored::Hostiles;
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_after_a_lie};
use std::time::Instant;

const RECEIVER: u32 = 3;
/// What the receiver says of a record: 100 for each sender, and the record's number; of an end
/// these, and how.
const ENDED: u64 = 90;

fn lanes(lines: u64) -> [Hostiles; 2] {
    [(); 2].map(|()| Hostiles::new(lines).unwrap())
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("strangers", name).alone_at_most(3000).states_at_most(45_000)
}

/// Sends so many records, and says each that was taken.
fn sends(lanes: &[Hostiles; 2], number: usize, records: u8) -> Process<'_> {
    Process::new("sender", move |me: &Me| {
        let mut sender = lanes[number].sender(RECEIVER);
        for record in 0..records {
            match sender.send(&[record]) {
                Ok(()) => me.say(record.into()),
                Err(SendError::PeerDied | SendError::Detached) => return,
                Err(SendError::Corrupt) => return assert!(is_after_a_lie(), "nobody lied"),
                Err(other) => panic!("{other}"),
            }
        }
    })
}

fn strangers(lanes: &[Hostiles; 2]) -> Strangers<u64> {
    let mut strangers = Strangers::new();
    for (number, lane) in (0..).zip(lanes) {
        strangers.admit(number, lane.receiver(number as u32 + 1));
    }
    strangers
}

fn said_of(event: &Strange<'_, u64>) -> u64 {
    match event {
        Strange::Record(from, record) => {
            let is_true = **record == [record.number() as u8];
            assert!(is_true || is_after_a_lie(), "torn, lost or twice");
            *from * 100 + record.number()
        }
        Strange::End { from, why, received } => {
            assert!(*why != Why::Corrupt || is_after_a_lie(), "nobody lied");
            assert!(*received < 10 || is_after_a_lie());
            *from * 100 + ENDED + u64::from(*why == Why::Left)
        }
    }
}

/// Receives until nobody is left, and says what.
fn receives(lanes: &[Hostiles; 2]) -> Process<'_> {
    Process::new("receiver", move |me: &Me| {
        let mut strangers = strangers(lanes);
        // A liar may send without end.
        for _ in 0..12 {
            match strangers.recv() {
                Ok(event) => {
                    me.say(said_of(&event));
                    me.got_on();
                }
                Err(end) => return assert_eq!(end, StrangersError::Nobody),
            }
        }
    })
}

/// What was taken was received, in order, and then came the end, once.
fn nothing_is_lost(records: [u8; 2], end: &End<'_>) {
    if end.is_after_a_lie() || end.is_dead(2) {
        return;
    }
    for (number, records) in records.into_iter().enumerate() {
        let its = |said: &&u64| **said / 100 == number as u64;
        let received: Vec<u64> = end.said(2).iter().filter(its).map(|said| said % 100).collect();
        let (last, received) = received.split_last().expect("it has an end");
        assert!(received.iter().copied().eq(0..received.len() as u64), "{end:?}");
        assert!(received.len() >= end.said(number).len(), "a record is lost: {end:?}");
        if !end.is_dead(number) {
            assert_eq!((received.len(), *last), (records.into(), ENDED + 1), "a record is lost");
        }
    }
}

fn explores(name: &str, records: [u8; 2], deaths: u32, lies: u32, preemptions: u32) {
    let lanes = lanes(2);
    let scenario = scenario(name).deaths(deaths).lies(lies).preemptions_at_most(preemptions);
    let processes = [sends(&lanes, 0, records[0]), sends(&lanes, 1, records[1]), receives(&lanes)];
    let scenario = processes.into_iter().fold(scenario, |scenario, process| {
        scenario.process(if deaths > 0 { process.mortal() } else { process })
    });
    let scenario = scenario.check(|end| nothing_is_lost(records, end));
    // One that was told that nobody sleeps wakes nobody.
    let scenario = if lies > 0 {
        scenario.may_all_wait(|end| assert!(end.is_after_a_lie()))
    } else {
        scenario
    };
    scenario.explore();
}

#[test]
fn each_may_die_anywhere() {
    explores("a record each, two die", [1, 1], 2, 0, 2);
    explores("two records and one, one dies", [2, 1], 1, 0, 2);
}

#[test]
fn a_lie_does_no_harm() {
    explores("a record each, one lie", [1, 1], 0, 1, 1);
    explores("a record each, a death and a lie", [1, 1], 1, 1, 0);
}

/// With a deadline it ends, whoever stands still.
#[test]
fn a_wait_with_a_deadline_ends() {
    let (lanes, past) = (lanes(2), Instant::now());
    let takes = Process::new("receiver", |me: &Me| {
        let mut strangers = strangers(&lanes);
        for _ in 0..3 {
            match strangers.recv_deadline(past) {
                Ok(event) => me.say(said_of(&event)),
                Err(StrangersError::TimedOut | StrangersError::Nobody) => {}
                Err(other) => panic!("{other}"),
            }
        }
    });
    let scenario = scenario("a deadline").deaths(1).preemptions_at_most(2);
    let scenario = scenario.process(sends(&lanes, 0, 1).mortal());
    scenario.process(sends(&lanes, 1, 1)).process(takes).explore();
}

/// Planted bug: who takes one sender's silence for the end of all loses the other one's record.
#[test]
fn finds_a_silence_taken_for_the_end() {
    finds("has an end", || {
        let (lanes, past) = (lanes(2), Instant::now());
        let hasty = Process::new("receiver", |me: &Me| {
            let mut strangers = strangers(&lanes);
            while let Ok(event) = strangers.recv_deadline(past) {
                me.say(said_of(&event));
            }
        });
        let (one, other) = (sends(&lanes, 0, 1), sends(&lanes, 1, 1));
        let scenario = scenario("planted").process(one).process(other).process(hasty);
        scenario.check(|end| nothing_is_lost([1, 1], end)).explore()
    });
}
