//! The hostile queue of records under the explorer: either side dies anywhere, and the other one
//! gets all that was acknowledged, learns the reason, and goes on; and a side that is lied to, in
//! any word that the other one writes, has a value or an error, in bounded time.
//!
//! Process 1 is the sender, process 2 the receiver.
#![cfg(shm_explore)]
use shm_mq::spsc::explored::Hostiles;
use shm_mq::spsc::{RecvError, SendError};
use shm_testkit::explore::{End, Me, Process, Scenario, finds, is_after_a_lie, is_deep};
use std::time::Instant;

const SENDER: u32 = 1;
const RECEIVER: u32 = 2;
/// A receiver's last word: it was told of the sender's death, or that it has left.
const DIED: u64 = 100;
const LEFT: u64 = 101;

fn scenario<'a>(name: &str) -> Scenario<'a> {
    let states = if is_deep() { 300_000 } else { 100_000 };
    Scenario::new("hostile spsc", name).alone_at_most(2000).states_at_most(states)
}

/// Sends so many records, and says each that was taken.
fn sends(queue: &Hostiles, records: u8) -> Process<'_> {
    Process::new("sender", move |me: &Me| {
        let mut sender = queue.sender(RECEIVER);
        for number in 0..records {
            match sender.send(&[number + 1]) {
                Ok(()) => me.say(number.into()),
                Err(SendError::PeerDied | SendError::Detached) => return,
                Err(SendError::Corrupt) => return assert!(is_after_a_lie(), "nobody lied"),
                Err(other) => panic!("{other}"),
            }
        }
    })
}

/// Receives until the end, and says each, and how it ended.
fn receives(queue: &Hostiles) -> Process<'_> {
    Process::new("receiver", move |me: &Me| {
        let mut receiver = queue.receiver(SENDER);
        // A liar may send without end.
        for _ in 0..5 {
            let number = receiver.received();
            match receiver.recv() {
                Ok(record) => {
                    let is_true = *record == [number as u8 + 1];
                    assert!(is_true || is_after_a_lie(), "torn, lost or twice");
                }
                Err(RecvError::PeerDied) => return me.say(DIED),
                Err(RecvError::Detached) => return me.say(LEFT),
                Err(RecvError::Corrupt) => return assert!(is_after_a_lie(), "nobody lied"),
                Err(other) => panic!("{other}"),
            }
            me.say(number);
        }
    })
}

/// What was taken was received by one who lived, who knows how the sender ended.
fn nothing_is_lost(records: u8, end: &End<'_>) {
    if end.is_after_a_lie() || end.is_dead(1) {
        return;
    }
    let (sent, received) = (end.said(0), end.said(1));
    let (last, numbers) = received.split_last().expect("it says how it ended");
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{received:?}");
    assert!(numbers.len() >= sent.len(), "a record is lost: {sent:?}, {received:?}");
    if !end.is_dead(0) {
        assert_eq!((numbers.len(), *last), (records.into(), LEFT), "a record is lost");
    }
}

fn explores(name: &str, lines: u64, records: u8, deaths: u32, lies: u32) {
    let queue = Hostiles::new(lines).unwrap();
    let check = |end: &End<'_>| nothing_is_lost(records, end);
    let scenario = scenario(name).deaths(deaths).lies(lies);
    let (sends, receives) = (sends(&queue, records), receives(&queue));
    let scenario = if deaths > 0 {
        scenario.process(sends.mortal()).process(receives.mortal())
    } else {
        scenario.process(sends).process(receives)
    };
    let scenario = scenario.check(check);
    // One that was told that nobody sleeps wakes nobody.
    let scenario = if lies > 0 {
        scenario.may_all_wait(|end| assert!(end.is_after_a_lie()))
    } else {
        scenario
    };
    scenario.explore();
}

#[test]
fn either_may_die_anywhere() {
    explores("three records through two lines, both may die", 2, 3, 2, 0);
}

/// One that takes a silence for the sender's end: the check notices.
#[test]
fn finds_a_silence_taken_for_the_end() {
    finds("a record is lost", || {
        let (queue, past) = (Hostiles::new(2).unwrap(), Instant::now());
        let hasty = Process::new("receiver", |me: &Me| {
            let mut receiver = queue.receiver(SENDER);
            while let Ok(record) = receiver.recv_deadline(past) {
                me.say(u64::from(record[0]) - 1);
            }
            me.say(LEFT);
        });
        let check = |end: &End<'_>| nothing_is_lost(1, end);
        scenario("planted").process(sends(&queue, 1)).process(hasty).check(check).explore()
    });
}

#[test]
fn a_lie_does_no_harm() {
    explores("two records through two lines, one lie", 2, 2, 0, 1);
}

#[test]
fn a_liar_may_die() {
    explores("two records through four lines, a death and a lie", 4, 2, 1, 1);
}

#[test]
fn calls_with_a_limit_end() {
    let (queue, past) = (Hostiles::new(2).unwrap(), Instant::now());
    let sends = Process::new("sender", |me: &Me| {
        let mut sender = queue.sender(RECEIVER);
        for number in [1, 2] {
            match sender.send_deadline(&[number], past) {
                Ok(()) => me.say(number.into()),
                Err(SendError::TimedOut) if number == 2 => {}
                Err(SendError::Detached | SendError::PeerDied) => return,
                Err(other) => panic!("{other}"),
            }
        }
    });
    let takes = Process::new("receiver", |me: &Me| {
        let mut receiver = queue.receiver(SENDER);
        for _ in 0..2 {
            match receiver.recv_deadline(past) {
                Ok(record) => me.say(record[0].into()),
                Err(RecvError::TimedOut | RecvError::Detached | RecvError::PeerDied) => {}
                Err(other) => panic!("{other}"),
            }
        }
    });
    let scenario = scenario("calls with a limit").deaths(1);
    let order = |end: &End<'_>| assert!(end.said(1).is_sorted_by(|a, b| a < b), "{end:?}");
    scenario.process(sends.mortal()).process(takes.mortal()).check(order).explore();
}
