//! Threads for a fixed time: each sender's records arrive, in its order and whole, and then its
//! end; many senders come and go, and none of them is starved.
#![cfg(not(any(shm_loom, shm_explore)))]
mod fan_common;
mod spsc_common;
use fan_common::fan_in;
use shm_core::participants::Member;
use shm_core::trust::{Buggy, Crashing};
use shm_mq::fan_in::{Event, FanIn, JoinError, Receiver, RecvError, SendError, Sender, Why};
use shm_mq::stream::OneMapping;
use shm_testkit::random::{next, text};
use shm_testkit::watchdog::within;
use spsc_common::LIMIT;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering}; // private: counts of one process
use std::thread;
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_millis(500);

/// Record number `number` of the one who joined as number `who`.
fn record(who: u64, number: u64) -> Vec<u8> {
    let mut record = who.to_ne_bytes().to_vec();
    record.extend(text(who << 32 | number, (number * 7919 % 90) as usize));
    record
}

/// Joins, sends some records in each of the ways, and leaves, again and again; how many records.
fn come_and_go<T: OneMapping>(
    fan_in: &FanIn<T>,
    me: &Arc<Member>,
    names: &AtomicU64,
    mut seed: u64,
) -> u64 {
    let (end, mut all) = (Instant::now() + RUN, 0);
    while Instant::now() < end {
        let mut sender = match fan_in.sender(me) {
            Ok(sender) => sender,
            Err(JoinError::AllTaken { .. }) => {
                thread::yield_now();
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let who = names.fetch_add(1, Ordering::Relaxed);
        let most = 1 << (next(&mut seed) % 12);
        while sender.sent() < most && Instant::now() < end {
            send(&mut sender, who, &mut seed);
        }
        all += sender.sent();
    }
    all
}

fn send<T: OneMapping>(sender: &mut Sender<T>, who: u64, seed: &mut u64) {
    let record = record(who, sender.sent());
    let sent = match next(seed) % 5 {
        0 => sender.send(&record).map(|()| true),
        1 => sender.try_send(&record),
        2 => {
            let soon = Instant::now() + Duration::from_micros(next(seed) % 50);
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
    if let Err(error) = sent {
        assert_eq!(error, SendError::TimedOut);
    }
}

/// Receives until so many ends were told and no sender is left; how many records.
fn receive_all<T: OneMapping>(
    mut receiver: Receiver<T>,
    is_over: &dyn Fn() -> Option<u64>,
    mut seed: u64,
) -> u64 {
    let lanes = receiver.fan_in().lanes() as usize;
    // Who is in each lane, and the number of its next record.
    let mut present: Vec<Option<(u64, u64)>> = vec![None; lanes];
    let (mut ends, mut all) = (0, 0);
    loop {
        let got = match next(&mut seed) % 3 {
            0 if is_over().is_none() => receiver.recv().map(Some),
            1 => receiver.try_recv(),
            _ => {
                let soon = Instant::now() + Duration::from_micros(next(&mut seed) % 50);
                receiver.recv_deadline(soon).map(Some)
            }
        };
        match got {
            Ok(Some(Event::Record(got))) => {
                let who = u64::from_ne_bytes(got[..8].try_into().unwrap());
                let at = &mut present[got.lane() as usize];
                let (its, number) = at.get_or_insert((who, 0));
                assert_eq!((*its, *number), (who, got.number()), "out of order, or after its end");
                assert_eq!(*got, record(who, *number));
                if next(&mut seed).is_multiple_of(16) {
                    got.put_back();
                } else {
                    *number += 1;
                    all += 1;
                }
            }
            Ok(Some(Event::End(end))) => {
                assert_eq!(end.why(), Why::Left);
                let number = present[end.lane() as usize].map_or(0, |(_, number)| number);
                assert_eq!(number, end.received());
                if next(&mut seed).is_multiple_of(4) {
                    end.put_back();
                } else {
                    present[end.lane() as usize] = None;
                    ends += 1;
                }
            }
            Ok(None) | Err(RecvError::TimedOut) => {
                if is_over() == Some(ends) {
                    return all;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn all_arrive<S: OneMapping, R: OneMapping>(lanes: u32, ring_bytes: u64, senders: u64) {
    let (fan_in, me) = fan_in(lanes, ring_bytes);
    let receiver = fan_in.clone().with_peers::<R>().receiver(&me).unwrap();
    within(LIMIT, move || {
        let (names, living) = (AtomicU64::new(0), AtomicU64::new(senders));
        let is_over = || {
            let is_over = living.load(Ordering::Acquire) == 0;
            is_over.then(|| names.load(Ordering::Relaxed))
        };
        let (sent, received) = thread::scope(|scope| {
            // One who may still wait for the last one is woken by its leaving.
            let receiving = scope.spawn(|| receive_all(receiver, &is_over, 0x5eed));
            let one = |seed| {
                let (fan_in, names, living) = (fan_in.clone().with_peers::<S>(), &names, &living);
                let me = &me;
                scope.spawn(move || {
                    let sent = come_and_go(&fan_in, me, names, seed);
                    living.fetch_sub(1, Ordering::Release);
                    // The last one leaves after that.
                    if let Ok(last) = fan_in.sender(me) {
                        names.fetch_add(1, Ordering::Relaxed);
                        drop(last);
                    }
                    sent
                })
            };
            let sending: Vec<_> = (1..=senders).map(one).collect();
            let sent: u64 = sending.into_iter().map(|thread| thread.join().unwrap()).sum();
            (sent, receiving.join().unwrap())
        });
        assert_eq!(sent, received);
        assert!(sent > 0);
        println!("{sent} records of {} who came and went", names.into_inner());
    });
}

#[test]
fn few_lanes_and_small_rings() {
    all_arrive::<Crashing, Buggy>(2, 256, 3);
}

#[test]
fn many_lanes() {
    all_arrive::<Buggy, Crashing>(70, 1 << 12, 3);
}

/// One that sends as fast as it can does not keep others waiting: between two records of a quiet
/// one come no more than a few of the busy one's once the quiet one's is there.
#[test]
fn a_busy_sender_starves_nobody() {
    let (fan_in, me) = fan_in(64, 1 << 14);
    let mut receiver = fan_in.receiver(&me).unwrap();
    let (mut busy, mut quiet) = (fan_in.sender(&me).unwrap(), fan_in.sender(&me).unwrap());
    let third = fan_in.sender(&me).unwrap();
    while busy.try_send(b"busy").unwrap() {}
    for _ in 0..20 {
        assert!(quiet.try_send(b"quiet").unwrap());
        let turns = (0..).take_while(|_| {
            let Ok(Some(Event::Record(record))) = receiver.try_recv() else { panic!("is there") };
            *record != *b"quiet"
        });
        assert!(turns.count() <= 1);
    }
    // Nor does it keep the end of another one from being told.
    drop(third);
    let turns = (0..1000).take_while(|_| {
        assert!(busy.try_send(b"busy").unwrap());
        matches!(receiver.try_recv(), Ok(Some(Event::Record(_))))
    });
    assert!(turns.count() < 200);
}

/// Of many lanes that are all full each has its turn, whatever the tour finds meanwhile.
#[test]
fn of_many_that_are_busy_none_is_starved() {
    const LANES: u32 = 400;
    let (fan_in, me) = fan_in(LANES, 512);
    let mut senders: Vec<_> = (0..LANES).map(|_| fan_in.sender(&me).unwrap()).collect();
    for sender in &mut senders {
        while sender.try_send(b"busy").unwrap() {}
    }
    let mut receiver = fan_in.receiver(&me).unwrap();
    let mut received = vec![0; LANES as usize];
    for _ in 0..3 * LANES {
        let Ok(Some(Event::Record(record))) = receiver.try_recv() else { panic!("is there") };
        received[record.lane() as usize] += 1;
    }
    assert!(received.iter().all(|count| (2..=4).contains(count)), "{received:?}");
}
