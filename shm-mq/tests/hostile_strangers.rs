//! One receiver, many senders that it does not trust, some of which lie: the honest ones' records
//! all arrive, in order; each sender has one end, which says what it did; no call is held up.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
#[path = "hostile_stream/liar.rs"]
#[allow(dead_code, reason = "it lies about streams")]
mod liar;
use common::LIMIT;
use liar::{ASLEEP, HEAD_WORDS, Liar, POSITION, STATE, Stops, half, liar};
use rustix::net::{SendFlags, send};
use shm_core::sync::{AtomicU32, Ordering};
use shm_core::trust::Hostile;
use shm_mq::fan_in::{Strange, Strangers, StrangersError, Why};
use shm_mq::spsc::{Limits, Receiver, SendError, Sender};
use shm_testkit::depth::is_deep;
use shm_testkit::random::next;
use shm_testkit::watchdog::within;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SENDER: u64 = 0x7368_6d71_736e_6401;
const RECEIVER: u64 = 0x7368_6d71_7263_7601;

fn honest(strangers: &mut Strangers<u32>, key: u32) -> Sender<Hostile> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let connect = || Receiver::<Hostile>::connect(theirs, Limits::default(), 0, None);
    let receiving = std::thread::spawn(connect);
    let sender = Sender::<Hostile>::connect(ours, 1024, 0, None).unwrap();
    strangers.admit(key, receiving.join().unwrap().unwrap());
    sender
}

fn lying(strangers: &mut Strangers<u32>, key: u32) -> Liar {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let lying = std::thread::spawn(move || {
        let (own, words) = half(SENDER, 512, 0);
        liar(theirs, &own, words, SENDER, RECEIVER)
    });
    strangers.admit(key, Receiver::<Hostile>::connect(ours, Limits::default(), 0, None).unwrap());
    lying.join().unwrap()
}

/// Lies about everything, and rings and says that it sleeps all the time.
fn tell_lies(liar: &Liar, mut seed: u64, stop: &AtomicU32) {
    while stop.load(Ordering::Relaxed) == 0 {
        // The low bits of a plain xorshift depend on those before.
        let some = next(&mut seed).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20;
        match some % 8 {
            0 => drop(liar.bell.ring()),
            1 => liar.words[ASLEEP].store(some, Ordering::Relaxed),
            2 => liar.words[POSITION].store(some, Ordering::Relaxed),
            3 => drop(send(liar.bell.as_fd(), &[1; 512], SendFlags::DONTWAIT)),
            4 if (some >> 3).is_multiple_of(8) => {
                let at = HEAD_WORDS + (some >> 20) as usize % 8;
                liar.words[at].store(next(&mut seed), Ordering::Relaxed);
            }
            _ => std::thread::yield_now(),
        }
    }
}

#[test]
fn who_lies_spoils_its_own_lane_only() {
    const RECORDS: u32 = 3000;
    let least = if is_deep() { 200 } else { 6 };
    let (mut seed, mut rounds, mut corrupt) = (u64::from(std::process::id()) << 20 | 1, 0, 0);
    println!("seed {seed}");
    // On a busy machine the others may have done before it has told a lie.
    while rounds < least || corrupt == 0 && rounds < 100 * least {
        rounds += 1;
        let mut strangers = Strangers::new();
        let senders = [0, 1].map(|key| honest(&mut strangers, key));
        let liar = lying(&mut strangers, 2);
        let (stop, lies_seed) = (AtomicU32::new(0), next(&mut seed));
        std::thread::scope(|scope| {
            let _stops = Stops(&stop);
            scope.spawn(|| tell_lies(&liar, lies_seed, &stop));
            for mut sender in senders {
                scope.spawn(move || {
                    for number in 0..RECORDS {
                        sender.send(&number.to_ne_bytes()).unwrap();
                    }
                });
            }
            let (mut records, mut ends) = ([0_u32; 3], 0);
            within(LIMIT, || {
                while ends < 2 {
                    match strangers.recv().unwrap() {
                        Strange::Record(2, _) => {}
                        Strange::Record(from, record) => {
                            let number = &mut records[*from as usize];
                            assert_eq!(*record, number.to_ne_bytes(), "of {from}");
                            *number += 1;
                        }
                        Strange::End { from: 2, why, .. } => {
                            assert_eq!(why, Why::Corrupt);
                            corrupt += 1;
                        }
                        Strange::End { from, why, received } => {
                            assert_eq!((why, received), (Why::Left, RECORDS.into()), "of {from}");
                            ends += 1;
                        }
                    }
                }
            });
            assert_eq!(records[..2], [RECORDS; 2]);
        });
    }
    println!("{corrupt} of {rounds} liars were found out");
    assert!(corrupt > 0);
}

#[test]
fn each_end_says_what_the_sender_did() {
    let mut strangers = Strangers::new();
    let (mut leaves, _silent) = (honest(&mut strangers, 0), honest(&mut strangers, 1));
    let (lies, hangs_up, says) =
        (lying(&mut strangers, 2), lying(&mut strangers, 3), lying(&mut strangers, 4));
    assert!(strangers.try_recv().unwrap().is_none());
    leaves.send(b"last").unwrap();
    drop(leaves);
    lies.words[HEAD_WORDS].store(7 << 32 | 1, Ordering::Release);
    drop(hangs_up);
    says.words[HEAD_WORDS].store(1, Ordering::Relaxed);
    says.words[STATE].store(2, Ordering::Release);
    let mut ends = [None; 5];
    let deadline = Instant::now() + Duration::from_millis(60);
    let end = within(LIMIT, || {
        loop {
            match strangers.recv_deadline(deadline) {
                Ok(Strange::Record(from, record)) => assert!(record.len() == 4 || *from == 4),
                Ok(Strange::End { from, why, received }) => {
                    assert!(ends[from as usize].replace((why, received)).is_none());
                }
                Err(end) => return end,
            }
        }
    });
    assert_eq!(end, StrangersError::TimedOut, "one is silent, and lives");
    let [left, died, corrupt] = [Why::Left, Why::Died, Why::Corrupt];
    let expected = [Some((left, 1)), None, Some((corrupt, 0)), Some((died, 0)), Some((left, 1))];
    assert_eq!(ends, expected);
    assert_eq!(strangers.len(), 1);
}

#[test]
fn who_was_found_out_learns_that_nobody_receives() {
    let mut strangers = Strangers::new();
    let mut sender = honest(&mut strangers, 0);
    drop(strangers);
    assert_eq!(sender.try_send(b"to whom?"), Err(SendError::Detached));
    let mut nobody = Strangers::<u32>::new();
    assert_eq!(within(LIMIT, || nobody.recv().err()), Some(StrangersError::Nobody));
}

#[test]
fn a_busy_sender_hides_no_death() {
    let mut strangers = Strangers::new();
    let (mut busy, dead) = (honest(&mut strangers, 0), lying(&mut strangers, 1));
    drop(dead);
    let end = (0..2000).find_map(|_| {
        busy.send(b"again").unwrap();
        match strangers.try_recv().unwrap().unwrap() {
            Strange::Record(..) => None,
            Strange::End { from, why, .. } => Some((from, why)),
        }
    });
    assert_eq!(end, Some((1, Why::Died)));
}
