//! The planted ring under the explorer: without a bug nothing is found, whoever dies where; with
//! one, the bug is what is found.
#![cfg(shm_explore)]
mod planted;

use planted::{Bug, Pop, PushError, Ring};
use shm_core::mapping::Mapping;
use shm_core::process::{Liveness, ProcessHandle, ProcessId};
use shm_core::sync::yield_now;
use shm_testkit::explore::{End, Explored, Me, Process, Scenario, finds, is_deep};

fn ring(capacity: u64, bug: Bug) -> Ring {
    Ring::create(&Mapping::heap(Ring::bytes_for(capacity) as usize), capacity, bug)
}

/// Message `number` of process `pid`.
fn message(pid: u32, number: u64) -> u64 {
    u64::from(pid) * 100 + number
}

/// Sends `count` messages; says which were taken.
fn producer<'a>(ring: &'a Ring, count: u64) -> Process<'a> {
    let push = move |me: &Me, number| {
        let message = message(me.pid(), number);
        match ring.push(me.pid(), message) {
            Ok(()) => me.say(message),
            Err(PushError::Full) => {}
            Err(other) => panic!("{other:?}"),
        }
    };
    let first = Process::new("producer", move |me| push(me, 1)).mortal();
    (2..=count).fold(first, |producer, number| producer.then(move |me| push(me, number)))
}

/// Takes one message, or cleans up after a dead producer in whose turn it is.
fn pop(ring: &Ring) -> Option<u64> {
    match ring.pop() {
        Pop::Got(message) => return Some(message),
        Pop::Empty => {}
        Pop::Pending { owner, .. } => {
            let Ok(producer) = ProcessId::of(owner) else { panic!("a slot held by nobody") };
            if producer.liveness() == Liveness::Dead {
                ring.reap(owner);
            }
        }
        Pop::Corrupt => panic!("a slot holds nonsense"),
    }
    None
}

fn consumer<'a>(ring: &'a Ring, pops: u64) -> Process<'a> {
    let take = move |me: &Me| {
        if let Some(message) = pop(ring) {
            me.say(message);
        }
    };
    let first = Process::new("consumer", take).mortal();
    (1..pops).fold(first, |consumer, _| consumer.then(take))
}

/// A fresh consumer sweeps up: what was acknowledged is there once, in order, and all slots are
/// free.
fn check(ring: &Ring, capacity: u64, producers: usize, end: &End<'_>) {
    let mut got = end.said(producers).to_vec();
    for _ in 0..3 * capacity + 2 {
        got.extend(pop(ring));
    }
    let mut lost = 0;
    for producer in 0..producers {
        let pid = producer as u32 + 1;
        let mine: Vec<u64> = got.iter().copied().filter(|m| m / 100 == u64::from(pid)).collect();
        assert!(mine.is_sorted_by(|a, b| a < b), "twice or out of order: {got:?}");
        lost += end.said(producer).iter().filter(|m| !mine.contains(m)).count();
        let acked = |message: &u64| end.said(producer).contains(message);
        let unsaid = mine.iter().filter(|message| !acked(message)).count();
        assert!(unsaid <= usize::from(end.is_dead(producer)), "never sent: {got:?}");
    }
    // A consumer that dies inside `pop` may take one message with it.
    let consumer_died = end.is_dead(producers) && !end.has_finished(producers);
    assert!(lost <= usize::from(consumer_died), "lost {lost}, got {got:?}");
    for number in 0..capacity {
        assert_eq!(ring.push(77, number), Ok(()), "a slot is lost");
    }
}

/// Producers that send so many messages each, and a consumer, which leaves one.
fn explore(bug: Bug, capacity: u64, messages: &[u64], deaths: u32) -> Explored {
    let ring = ring(capacity, bug);
    let name = format!("{messages:?} messages, {capacity} slots, {deaths} deaths");
    let mut scenario = Scenario::new("planted ring", &name).deaths(deaths);
    for count in messages {
        scenario = scenario.process(producer(&ring, *count));
    }
    let pops = messages.iter().sum::<u64>() - 1;
    let scenario = scenario.process(consumer(&ring, pops)).alone_at_most(4000);
    scenario.check(|end| check(&ring, capacity, messages.len(), end)).explore()
}

#[test]
fn with_no_bug_nothing_is_found() {
    explore(Bug::None, 1, &[1, 1], 3);
    explore(Bug::None, 2, &[2, 1], 1);
    if is_deep() {
        explore(Bug::None, 2, &[2, 1], 3);
        explore(Bug::None, 2, &[1, 1, 1], 1);
    }
}

#[test]
fn finds_a_claim_before_its_owner_is_named() {
    finds("a slot is lost", || explore(Bug::AnonymousClaim, 2, &[1, 1], 1));
}

#[test]
fn finds_a_head_moved_before_its_slot_is_free() {
    finds("a slot is lost", || explore(Bug::HeadBeforeFree, 2, &[1, 1], 1));
}

#[test]
fn finds_a_tail_that_is_not_helped() {
    finds("Stuck", || explore(Bug::TailNotHelped, 2, &[2, 1], 1));
}

/// A producer that may die, a consumer that sleeps until a message comes, and somebody who cleans
/// up after the dead.
fn sleeping_consumer(bug: Bug) -> Explored {
    let ring = ring(2, bug);
    let consumer = Process::new("consumer", |me| {
        loop {
            match ring.pop_waiting(None) {
                Pop::Got(message) => return me.say(message),
                // Somebody is at it: a producer, or who cleans up after it.
                Pop::Pending { .. } => yield_now(),
                other => panic!("{other:?}"),
            }
        }
    });
    let cleaner = Process::new("cleaner", |_| {
        let producer = ProcessId::of(1).unwrap();
        while producer.liveness() != Liveness::Dead {
            ProcessHandle::open(producer).map(|handle| handle.wait_dead(None)).ok();
        }
        ring.reap(1);
    });
    let scenario = Scenario::new("planted ring", "a sleeping consumer").deaths(1);
    let scenario = scenario.process(producer(&ring, 1)).process(consumer).process(cleaner);
    let nothing_to_take = |_: &End<'_>| assert_eq!(pop(&ring), None, "nobody wakes the consumer");
    scenario.may_all_wait(nothing_to_take).explore()
}

#[test]
fn a_sleeper_is_woken_whoever_dies() {
    sleeping_consumer(Bug::None);
}

#[test]
fn finds_a_forgotten_wake_up() {
    finds("nobody wakes the consumer", || sleeping_consumer(Bug::WakeForgotten));
}

/// A producer and a consumer, each of whose loads may be a lie.
fn liars(bug: Bug, lies: u32) -> Explored {
    let ring = ring(2, bug);
    let pushes = Process::new("producer", |me| {
        let _ = ring.push(me.pid(), 7);
    });
    let pop = |_: &Me| {
        let _ = ring.pop();
    };
    let pops = Process::new("consumer", pop).then(pop);
    let scenario = Scenario::new("planted ring", &format!("{lies} lies"));
    scenario.process(pushes).process(pops).lies(lies).alone_at_most(2000).explore()
}

#[test]
fn a_lie_does_no_harm() {
    liars(Bug::None, if is_deep() { 3 } else { 2 });
}

#[test]
fn finds_a_bounds_check_left_out() {
    finds("no part of the memory", || liars(Bug::BoundsSkipped, 1));
}
