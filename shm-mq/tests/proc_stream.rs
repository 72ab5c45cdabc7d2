//! Real processes at the two ends of a stream are killed, stopped and missing: the other side gets
//! everything that was acknowledged, in order and whole, and learns the reason; nobody hangs.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
mod proc_common;
mod process_common;
use common::LIMIT;
use proc_common::*;
use shm_core::process::ProcessId;
use shm_mq::stream::{RecvError, SendError, Stream};
use shm_testkit::child::{Child, tell_parent};
use shm_testkit::random;
use shm_testkit::watchdog::within;
use std::time::Instant;

/// Counts messages in one word.
type World = process_common::World<Vec<Stream>, 1>;

fn sends(args: &[String]) {
    let world = World::attach(args);
    send_for_ever(world.sender(0), &world.words[0]);
}

fn receives(args: &[String]) {
    let world = World::attach(args);
    receive_for_ever(world.receiver(0), &world.words[0]);
}

/// Attaches as the sender, sends one message for each line from the parent, and says so.
fn sends_when_told(args: &[String]) {
    let world = World::attach(args);
    let mut sender = world.sender(0);
    tell_parent("there");
    while shm_testkit::child::parent_says() == "send" {
        sender.send(b"told").unwrap();
        tell_parent("sent");
    }
}

/// Attaches as the receiver and does nothing.
fn receives_nothing(args: &[String]) {
    let world = World::attach(args);
    let _receiver = world.receiver(0);
    tell_parent("there");
    std::thread::sleep(LIMIT);
}

/// Joins, says who it is, and does not attach.
fn only_joins(args: &[String]) {
    let world = World::attach(args);
    tell_parent(&world.me.id().to_bits().to_string());
    std::thread::sleep(LIMIT);
}

/// Ends at once.
fn does_nothing(_: &[String]) {}

shm_testkit::children! {
    sends, receives, sends_when_told, receives_nothing, only_joins, does_nothing
}

#[test]
fn what_a_killed_sender_had_sent_is_received() {
    let mut seed = random::seed();
    let mut total = 0;
    for ring_bytes in [8, 64, 256, 1024, 65536].repeat(6) {
        let world = World::create("kill", &(1, ring_bytes));
        let mut receiver = world.receiver(0);
        let mut child = world.spawn("sends", &[]);
        // It may be killed before it has attached.
        receiver.expect_peer(ProcessId::of(child.pid()).unwrap());
        total += kill_the_sender(&mut child, receiver, &world.words[0], &mut seed);
    }
    println!("messages received: {total}");
}

#[test]
fn the_sender_learns_that_the_receiver_was_killed() {
    let mut seed = random::seed();
    for ring_bytes in [8, 64, 256, 1024, 65536].repeat(3) {
        let world = World::create("kill", &(1, ring_bytes));
        let mut sender = world.sender(0);
        let mut child = world.spawn("receives", &[]);
        sender.expect_peer(ProcessId::of(child.pid()).unwrap());
        kill_the_receiver(&mut child, sender, &world.words[0], &mut seed);
    }
}

#[test]
fn a_sleeping_receiver_is_woken_by_the_senders_death() {
    let world = World::create("sleep", &(1, 1024));
    let mut receiver = world.receiver(0);
    let mut child = world.spawn_there("sends_when_told");
    kill_under_a_sleeping_receiver(&mut child, &mut receiver);
}

#[test]
fn a_sleeping_sender_is_woken_by_the_receivers_death() {
    let world = World::create("sleep", &(1, 64));
    let mut sender = world.sender(0);
    let mut child = world.spawn_there("receives_nothing");
    kill_under_a_sleeping_sender(&mut child, &mut sender);
}

#[test]
fn a_stopped_sender_is_slow_and_not_dead() {
    let world = World::create("stop", &(1, 64));
    let mut receiver = world.receiver(0);
    let mut child = world.spawn_there("sends_when_told");
    stop_the_sender(&mut child, &mut receiver);
    child.say("leave");
    assert_eq!(within(LIMIT, || receiver.recv()).unwrap_err(), RecvError::Detached);
    child.wait(LIMIT).assert_success();
}

#[test]
fn a_stopped_receiver_is_slow_and_not_dead() {
    let world = World::create("stop", &(1, 64));
    let mut sender = world.sender(0);
    let mut child = world.spawn_there("receives_nothing");
    stop_the_receiver(&mut child, &mut sender);
}

#[test]
fn an_expected_peer_that_dies_before_it_attaches_has_died() {
    let world = World::create("expect", &(1, 8));
    let (mut sender, mut receiver) =
        (world.sender(0), World::create("expect", &(1, 8)).receiver(0));
    let mut child = Child::spawn("does_nothing", &[]);
    let expected = ProcessId::of(child.pid()).unwrap();
    sender.expect_peer(expected);
    receiver.expect_peer(expected);
    child.wait(LIMIT).assert_success();
    within(LIMIT, || {
        sender.send(b"").unwrap();
        assert_eq!(sender.send(b""), Err(SendError::PeerDied));
        assert_eq!(receiver.try_recv().unwrap_err(), RecvError::PeerDied);
        assert_eq!(receiver.wait_for_peer(None), Err(RecvError::PeerDied));
        assert_eq!(receiver.recv().unwrap_err(), RecvError::PeerDied);
        // Somebody takes its place.
        sender.expect_peer(ProcessId::me());
        receiver.expect_peer(ProcessId::me());
        assert_eq!(sender.try_send(b""), Err(SendError::WouldBlock));
        assert_eq!(receiver.try_recv().unwrap_err(), RecvError::WouldBlock);
    });
}

#[test]
fn an_expected_peer_that_is_late_is_awaited() {
    let world = World::create("late", &(1, 64));
    let mut receiver = world.receiver(0);
    let deadline = Instant::now() + SHORT;
    assert_eq!(receiver.wait_for_peer(Some(deadline)), Err(RecvError::TimedOut));
    let mut child = world.spawn("sends_when_told", &[]);
    receiver.expect_peer(ProcessId::of(child.pid()).unwrap());
    within(LIMIT, || receiver.wait_for_peer(None)).unwrap();
    assert_eq!(child.hear(LIMIT), "there");
    child.say("send");
    assert_eq!(*within(LIMIT, || receiver.recv()).unwrap(), *b"told");
    child.kill();
    assert_eq!(within(LIMIT, || receiver.recv()).unwrap_err(), RecvError::PeerDied);
}

#[test]
fn a_named_sender_that_dies_before_it_attaches_has_died() {
    let world = World::create("named", &(1, 64));
    let mut receiver = world.receiver(0);
    let mut child = world.spawn("only_joins", &[]);
    let id = child.hear(LIMIT).parse().unwrap();
    let id = shm_core::participants::ParticipantId::from_bits(id).unwrap();
    world.queue[0].set_sender(id).unwrap();
    assert_eq!(receiver.recv_timeout(SHORT).unwrap_err(), RecvError::TimedOut);
    child.kill();
    assert_eq!(within(LIMIT, || receiver.recv()).unwrap_err(), RecvError::PeerDied);
}

#[test]
fn a_forked_child_is_nobody() {
    let world = World::create("fork", &(1, 64));
    fork_is_nobody(world.sender(0), world.receiver(0));
}
