//! Two threads for a fixed time: every message arrives, in order and whole, whatever its size, the
//! ring's size and the way it was sent and received.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
use common::{LIMIT, hostile_stream, stream, stream_among};
use shm_core::trust::Buggy;
use shm_mq::stream::{Level, Receiver, RecvError, SendError, Sender};
use shm_testkit::random::{next, text};
use shm_testkit::watchdog::within;
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_millis(700);

fn random_len(ring_bytes: u64, seed: &mut u64) -> usize {
    match next(seed) % 10 {
        0 => (next(seed) % (4 * ring_bytes + 1)) as usize,
        1 => 0,
        _ => (next(seed) % (ring_bytes.min(100) + 1)) as usize,
    }
}

/// Sends in every way there is until the time is over; returns how many messages.
fn send_all<T: Level>(mut sender: Sender<T>, ring_bytes: u64, mut seed: u64) -> u64 {
    let end = Instant::now() + RUN;
    let mut number = 0;
    while Instant::now() < end {
        let message = text(number, random_len(ring_bytes, &mut seed));
        let sent = match next(&mut seed) % 6 {
            0 => sender.send(&message),
            1 => sender.try_send(&message),
            2 => sender.send_timeout(&message, Duration::from_micros(next(&mut seed) % 50)),
            3 => {
                let (one, two) = message.split_at(message.len() / 3);
                sender.send_vectored(&[one, two])
            }
            4 => {
                let mut sending = sender.start(&message).unwrap();
                (0..next(&mut seed) % 100)
                    .find_map(|_| sending.poll().ok())
                    .ok_or(SendError::WouldBlock)
            }
            _ => sender.push(&message),
        };
        match sent {
            Ok(()) => number += 1,
            Err(SendError::WouldBlock | SendError::TimedOut | SendError::TooLarge { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    number
}

fn receive_all<T: Level>(mut receiver: Receiver<T>, mut seed: u64) -> u64 {
    let mut number = 0;
    loop {
        let got = match next(&mut seed) % 3 {
            0 => receiver.recv(),
            1 => receiver.try_recv(),
            _ => receiver.recv_timeout(Duration::from_micros(next(&mut seed) % 50)),
        };
        match got {
            Ok(message) => assert_eq!(*message, *text(number, message.len()), "message {number}"),
            Err(RecvError::WouldBlock | RecvError::TimedOut) => continue,
            Err(RecvError::Detached) => return number,
            Err(error) => panic!("{error}"),
        }
        number += 1;
    }
}

/// Through a stream of each of these sizes everything arrives.
fn all_arrives<T: Level>(
    level: &str,
    ring_sizes: &[u64],
    stream: impl Fn(u64) -> (Sender<T>, Receiver<T>),
) where
    Receiver<T>: Send,
{
    let seed = u64::from(std::process::id()) << 30 | 12345;
    println!("seed {seed}");
    for &ring_bytes in ring_sizes {
        let (sender, receiver) = stream(ring_bytes);
        let receiving = std::thread::spawn(move || receive_all(receiver, seed + 1));
        let sent = within(LIMIT, || send_all(sender, ring_bytes, seed));
        let received = within(LIMIT, || receiving.join()).unwrap();
        println!("{level}, ring of {ring_bytes}: {sent} messages");
        assert_eq!(received, sent);
    }
}

#[test]
fn every_message_arrives_in_order_and_whole() {
    all_arrives("crashing", &[8, 16, 40, 256, 4096, 65536], stream);
}

#[test]
fn among_those_who_trust_nobody_too() {
    all_arrives("buggy", &[8, 256, 65536], stream_among::<Buggy, Buggy>);
    all_arrives("hostile", &[8, 256, 65536], hostile_stream);
}

#[test]
fn two_that_answer_each_other_never_sleep_for_ever() {
    answers(stream);
    answers(hostile_stream);
}

fn answers<T: Level>(stream: impl Fn(u64) -> (Sender<T>, Receiver<T>))
where
    Receiver<T>: Send,
    Sender<T>: Send,
{
    let (mut there, mut arrives) = stream(8);
    let (mut back, mut returns) = stream(8);
    let echo = std::thread::spawn(move || {
        while let Ok(message) = arrives.recv() {
            back.send(&message).unwrap();
        }
    });
    let end = Instant::now() + RUN;
    within(LIMIT, || {
        for number in 0_u64.. {
            there.send(&number.to_ne_bytes()).unwrap();
            assert_eq!(*returns.recv().unwrap(), number.to_ne_bytes());
            if Instant::now() > end {
                return println!("{number} round trips");
            }
        }
    });
    drop(there);
    within(LIMIT, || echo.join()).unwrap();
}
