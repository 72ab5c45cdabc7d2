//! The five cases of PostgreSQL's `test_shm_mq`, with its figures, between real processes.
//!
//! Its queue sizes include a header of 56 bytes. Each case runs twice: with the ring that is left
//! of such a queue, and with a ring of that size.
#![cfg(not(any(shm_loom, shm_explore)))]
mod process_common;
use process_common::LIMIT;
use shm_mq::stream::{RecvError, SendError, Stream};
use shm_testkit::child::Child;
use shm_testkit::random::{next, text};
use shm_testkit::watchdog::within;

type World = process_common::World<Vec<Stream>, 0>;

const POSTGRES_HEADER_BYTES: u64 = 56;

/// Receives from one queue and sends on to the next, until the first ends.
fn copies(args: &[String]) {
    let world = World::attach(args);
    let index: usize = args[1].parse().unwrap();
    let (mut from, mut to) = (world.receiver(index), world.sender(index + 1));
    loop {
        match from.recv() {
            Ok(message) => to.send(&message).unwrap(),
            Err(RecvError::Detached) => return,
            Err(error) => panic!("{error}"),
        }
    }
}
shm_testkit::children! { copies }

fn workers(world: &World, count: u64) -> Vec<Child> {
    (0..count).map(|index| world.spawn("copies", &[index])).collect()
}

/// `test_shm_mq(queue_size, message, loops, 1)`: there and back, one at a time.
fn one_at_a_time(queue_bytes: u64, message: &[u8], loops: u64) {
    for ring_bytes in [queue_bytes - POSTGRES_HEADER_BYTES, queue_bytes] {
        let world = World::create("pg", &(2, ring_bytes & !7));
        let mut workers = workers(&world, 1);
        let (mut to, mut from) = (world.sender(0), world.receiver(1));
        within(LIMIT, || {
            for _ in 0..loops {
                to.send(message).unwrap();
                assert_eq!(*from.recv().unwrap(), *message);
            }
        });
        drop(to);
        workers.iter_mut().for_each(|worker| worker.wait(LIMIT).assert_success());
        assert_eq!(from.recv().unwrap_err(), RecvError::Detached);
    }
}

/// `test_shm_mq_pipelined(queue_size, message, loops, workers)`: never waits, verifies each.
fn pipelined(queue_bytes: u64, message: &[u8], loops: u64, count: u64) {
    for ring_bytes in [queue_bytes - POSTGRES_HEADER_BYTES, queue_bytes] {
        let world = World::create("pg", &(count + 1, ring_bytes & !7));
        let mut workers = workers(&world, count);
        let (mut to, mut from) = (world.sender(0), world.receiver(count as usize));
        let (mut sent, mut received) = (0, 0);
        within(LIMIT, || {
            while sent < loops {
                let mut sending = to.start(message).unwrap();
                loop {
                    let end = sending.poll();
                    let got = from.try_recv().map(|got| assert!(*got == *message));
                    received += u64::from(got.is_ok());
                    match (end, got) {
                        (Ok(()), _) => break,
                        (Err(SendError::WouldBlock), Ok(())) => {}
                        (Err(SendError::WouldBlock), Err(RecvError::WouldBlock)) => {
                            std::thread::yield_now();
                        }
                        other => panic!("{other:?}"),
                    }
                }
                sent += 1;
            }
            while received < sent {
                assert!(*from.recv().unwrap() == *message);
                received += 1;
            }
        });
        drop(to);
        workers.iter_mut().for_each(|worker| worker.wait(LIMIT).assert_success());
        assert_eq!(from.recv().unwrap_err(), RecvError::Detached);
    }
}

/// Random text of `min` to `max` bytes.
fn random_text(min: u64, max: u64) -> Vec<u8> {
    let mut seed = u64::from(std::process::id()) << 20 | min | 1;
    println!("seed {seed}");
    let len = min + next(&mut seed) % (max - min + 1);
    text(seed, len as usize).into_iter().map(|byte| 32 + byte % 95).collect()
}

#[test]
fn empty_messages() {
    one_at_a_time(1024, b"", 2000);
}

#[test]
fn messages_of_one_byte() {
    one_at_a_time(1024, b"a", 2001);
}

#[test]
fn messages_of_100_to_1000_bytes() {
    one_at_a_time(32768, &random_text(100, 1000), 10_000);
}

#[test]
fn messages_longer_than_the_ring() {
    one_at_a_time(100, &random_text(100, 300), 10_000);
}

#[test]
fn large_messages_through_three_workers() {
    pipelined(16384, &text(5, 270_000), 200, 3);
}
