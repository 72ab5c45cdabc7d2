//! Two threads for a fixed time: every record arrives, in order and whole, whatever its size, the
//! ring's size and the way it was sent and received.
#![cfg(not(any(shm_loom, shm_explore)))]
mod spsc_common;
use shm_core::trust::Buggy;
use shm_mq::spsc::{Receiver, RecvError, SendError, Sender};
use shm_mq::stream::OneMapping;
use shm_testkit::random::{next, text};
use shm_testkit::watchdog::within;
use spsc_common::{LIMIT, queue};
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_millis(500);

fn random_len(largest: usize, seed: &mut u64) -> usize {
    match next(seed) % 10 {
        0 => next(seed) as usize % (largest + 1),
        1 => 0,
        _ => next(seed) as usize % (largest.min(100) + 1),
    }
}

/// Sends in every way there is until the time is over; returns how many records.
fn send_all<T: OneMapping>(mut sender: Sender<T>, mut seed: u64) -> u64 {
    let (end, largest) = (Instant::now() + RUN, sender.record_bytes_max());
    let mut number = 0;
    while Instant::now() < end {
        let record = text(number, random_len(largest, &mut seed));
        let sent = match next(&mut seed) % 5 {
            0 => sender.send(&record).map(|()| true),
            1 => sender.try_send(&record),
            2 => {
                let soon = Instant::now() + Duration::from_micros(next(&mut seed) % 50);
                sender.send_deadline(&record, soon).map(|()| true)
            }
            3 => sender.reserve(record.len()).map(|place| {
                place.is_some_and(|mut place| {
                    place.copy_from_slice(&record);
                    place.commit();
                    true
                })
            }),
            _ => sender.push(&record),
        };
        match sent {
            Ok(is_sent) => number += u64::from(is_sent),
            Err(SendError::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
        assert_eq!(sender.sent(), number);
    }
    number
}

fn receive_all<T: OneMapping>(mut receiver: Receiver<T>, mut seed: u64) -> u64 {
    let mut number = 0;
    loop {
        let got = match next(&mut seed) % 3 {
            0 => receiver.recv().map(Some),
            1 => receiver.try_recv(),
            _ => {
                let soon = Instant::now() + Duration::from_micros(next(&mut seed) % 50);
                receiver.recv_deadline(soon).map(Some)
            }
        };
        match got {
            Ok(Some(record)) => {
                assert_eq!(*record, text(number, record.len()), "record {number}");
                if next(&mut seed).is_multiple_of(16) {
                    record.put_back();
                } else {
                    number += 1;
                }
            }
            Ok(None) | Err(RecvError::TimedOut) => {}
            Err(RecvError::Detached) => return number,
            Err(error) => panic!("{error}"),
        }
    }
}

fn all_arrives<S: OneMapping, R: OneMapping>(ring_bytes: u64, seed: u64) {
    let (queue, me) = queue(ring_bytes);
    let sender = queue.clone().with_peers::<S>().sender(&me).unwrap();
    let receiver = queue.with_peers::<R>().receiver(&me).unwrap();
    within(LIMIT, move || {
        let receiving = std::thread::spawn(move || receive_all(receiver, seed ^ 0x5eed));
        let sent = send_all(sender, seed);
        assert_eq!(receiving.join().unwrap(), sent);
        assert!(sent > 0);
    });
}

#[test]
fn the_smallest_ring() {
    all_arrives::<shm_core::trust::Crashing, shm_core::trust::Crashing>(128, 1);
}

#[test]
fn a_small_ring() {
    all_arrives::<shm_core::trust::Crashing, Buggy>(7 * 64, 2);
}

#[test]
fn a_large_ring() {
    all_arrives::<Buggy, shm_core::trust::Crashing>(1 << 16, 3);
}
