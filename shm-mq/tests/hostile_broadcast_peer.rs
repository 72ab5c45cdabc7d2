//! A publisher, or a subscriber, that knows docs/layout.md and lies: each lie one by one, and all
//! of them while the victim looks. The victim has records, how many it missed, or an error, in
//! bounded time; and one subscriber's lies are no other one's affair.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
#[path = "hostile_stream/liar.rs"]
#[allow(dead_code, reason = "it lies about streams")]
mod liar;
use common::LIMIT;
use liar::{ASLEEP, HEAD_WORDS, Liar, POSITION, STATE, Stops, half, liar};
use rustix::net::{SendFlags, send};
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_mq::broadcast::{
    BroadcastConfig, ConnectError, Ended, Kind, Lapped, Limits, PublishError, RecvError, Start,
    StrangePublisher, StrangeSubscriber, Subscription,
};
use shm_mq::fan_in::Why;
use shm_testkit::depth::is_deep;
use shm_testkit::random::{next, text};
use shm_testkit::watchdog::within;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const PUBLISHER: u64 = 0x7368_6d63_7075_6202;
const SUBSCRIBER: u64 = 0x7368_6d63_7375_6202;
/// Of the cells of these tests: records of up to 48 bytes.
const CELL_WORDS: usize = 8;
const CELLS: u64 = 4;
const HOW: Subscription = Subscription { start: Start::Oldest, lapped: Lapped::Oldest };

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(20)
}

/// A subscriber, and its publisher in the hands of a liar, which says so much of its memory.
fn victim(ring_bytes: u64, record_bytes: u64) -> (Result<StrangeSubscriber, ConnectError>, Liar) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let lying = std::thread::spawn(move || {
        let (own, words) = half(PUBLISHER, CELLS * 64, 0);
        words[liar::RING_BYTES].store(ring_bytes, Ordering::Relaxed);
        words[liar::MESSAGE_BYTES_MAX].store(record_bytes, Ordering::Relaxed);
        liar(theirs, &own, words, PUBLISHER, SUBSCRIBER)
    });
    let subscriber =
        within(LIMIT, || StrangeSubscriber::connect(ours, Limits::default(), HOW, 0, None));
    (subscriber, lying.join().unwrap())
}

fn writing(number: u64) -> u64 {
    2 * number + 1
}

fn there(number: u64) -> u64 {
    2 * number + 2
}

/// Says that record `number` is there, of so many bytes, and that there are so many.
fn tell(liar: &Liar, cell: usize, mark: u64, len: u64, published: u64) {
    let at = HEAD_WORDS + cell * CELL_WORDS;
    liar.words[at + 1].store(len, Ordering::Relaxed);
    liar.words[at].store(mark, Ordering::Release);
    liar.words[POSITION].store(published, Ordering::Release);
}

#[test]
fn a_memory_that_makes_no_sense_is_refused() {
    for (ring_bytes, record_bytes) in [
        (0, 48),
        (64, 49),
        (CELLS * 64, u64::MAX),
        (CELLS * 64, (1 << 32) + 1),
        (CELLS * 64 + 8, 48),
        (1 << 20, 48),
        (u64::MAX, 48),
        (3 * 64, 100),
    ] {
        let refused = victim(ring_bytes, record_bytes).0.err();
        assert_eq!(refused, Some(ConnectError::Corrupt), "{ring_bytes}, {record_bytes}");
    }
    let long = Limits::default().message_bytes_max as u64 + 1;
    let refused = victim(CELLS * 64, long).0.err();
    assert_eq!(refused, Some(ConnectError::NoMemory { bytes: long as usize }));
}

/// What the victim, which waits for record 1 of cell 1, is told by one lie.
#[test]
fn each_lie_is_told_apart() {
    let corrupt = Err(RecvError::Corrupt);
    let missed = |records| Err(RecvError::Missed { records });
    for (name, mark, len, published, expected) in [
        ("the truth", there(1), 3, 2, Ok(3)),
        ("before its number", there(1), 3, 1, Ok(3)),
        ("too long", there(1), 49, 2, corrupt),
        ("much too long", there(1), u64::MAX, 2, corrupt),
        ("a cell of another", there(3), 3, 9, corrupt),
        ("a record that is not said", there(5), 3, 4, corrupt),
        ("the far future", there((1 << 62) + 1), 3, 1 << 62, corrupt),
        ("no number", u64::MAX, 3, 2, corrupt),
        ("a number of nonsense", there(5), 3, u64::MAX, corrupt),
        ("more than there are", 0, 3, 7, corrupt),
        ("more than are whole", writing(1), 3, 2, corrupt),
        ("nothing", 0, 3, 1, Err(RecvError::TimedOut)),
        ("it is being written", writing(1), 3, 1, Err(RecvError::TimedOut)),
        ("lapped once", there(5), 3, 6, missed(1)),
        ("lapped, and more", there(5), 3, 8, missed(3)),
        ("lapped by one that is written", writing(5), 3, 5, missed(1)),
        ("lapped for ever", there(1 + 4 * 1000), 3, 1 << 62, missed((1 << 62) - 5)),
    ] {
        let (subscriber, liar) = victim(CELLS * 64, 48);
        let mut subscriber = subscriber.unwrap();
        tell(&liar, 0, there(0), 5, 1);
        assert_eq!(subscriber.recv(), Ok((0, &[0; 5][..])));
        tell(&liar, 1, mark, len, published);
        let found =
            within(LIMIT, || subscriber.recv_deadline(soon()).map(|(_, bytes)| bytes.len()));
        assert_eq!(found, expected, "{name}");
        // SAFETY: only loads are made through it.
        let said = unsafe { liar.theirs.share_slice::<AtomicU64>(0, HEAD_WORDS as u64) }.unwrap();
        if found == corrupt {
            tell(&liar, 1, there(1), 3, 2);
            assert_eq!(subscriber.try_recv(), Err(RecvError::Corrupt), "for good: {name}");
            assert_eq!(said[STATE].load(Ordering::Acquire) as u32, 2, "it has left: {name}");
        }
        assert_eq!(said[POSITION].load(Ordering::Acquire), subscriber.position() + 1);
    }
}

/// Lies about everything that a publisher says, near what could be true.
fn lie_to_subscriber(liar: &Liar, seed: &mut u64, stop: &AtomicU32) {
    let mut number = 0_u64;
    while stop.load(Ordering::Relaxed) == 0 {
        let some = next(seed).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20;
        let cell = (number % CELLS) as usize;
        let at = HEAD_WORDS + cell * CELL_WORDS;
        match some % 64 {
            0 if some.is_multiple_of(4096) => {
                let word = (some >> 12) as usize % liar.words.len();
                let lies = [0, some, u64::MAX, there(number + CELLS), 1 << 62];
                liar.words[word].store(lies[(some >> 30) as usize % 5], Ordering::Relaxed);
            }
            1 => number += some >> 8 & 7,
            2 => drop(liar.bell.ring()),
            // Not as it ought to be written: no mark before the words.
            3 => liar.words[at + 2 + (some >> 8) as usize % 6].store(some, Ordering::Relaxed),
            4 => std::thread::yield_now(),
            _ => {
                liar.words[at].store(writing(number), Ordering::Relaxed);
                tell(liar, cell, there(number), some >> 8 & 31, number + 1);
                number += 1;
                if number.is_multiple_of(3) {
                    std::thread::yield_now();
                }
            }
        }
    }
}

#[test]
fn a_publisher_that_lies_is_used_or_refused() {
    let rounds = if is_deep() { 2000 } else { 60 };
    let mut seed = u64::from(std::process::id()) << 20 | 1;
    println!("seed {seed}");
    let (mut received, mut lapped, mut corrupt) = (0, 0, 0);
    for _ in 0..rounds {
        let (subscriber, liar) = victim(CELLS * 64, 48);
        let (mut subscriber, stop) = (subscriber.unwrap(), AtomicU32::new(0));
        let mut its_seed = next(&mut seed);
        std::thread::scope(|scope| {
            let _stops = Stops(&stop);
            scope.spawn(|| lie_to_subscriber(&liar, &mut its_seed, &stop));
            within(LIMIT, || {
                let end = Instant::now() + Duration::from_millis(15);
                while Instant::now() < end {
                    let position = subscriber.position();
                    match subscriber.recv_deadline(soon()) {
                        Ok((number, bytes)) => {
                            assert!(number == position && bytes.len() <= 48);
                            received += 1;
                        }
                        Err(RecvError::Missed { records }) => {
                            assert!(records > 0);
                            assert_eq!(subscriber.position(), position + records);
                            lapped += 1;
                        }
                        Err(RecvError::TimedOut) => {}
                        Err(RecvError::Corrupt | RecvError::Detached) => {
                            corrupt += 1;
                            break;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        });
    }
    println!("liars to subscribers: {received} received, lapped {lapped} times, {corrupt} refused");
    assert!(received > 0 && lapped > 0 && corrupt > 0);
}

/// It says that it reads record `number` next.
fn reads(liar: &Liar, number: u64) {
    liar.words[POSITION].store(number + 1, Ordering::Release);
}

/// A publisher, and a subscriber of its in the hands of a liar, which is admitted as 9, and has not
/// begun.
fn lying_subscriber(kind: Kind) -> (StrangePublisher<u32>, Liar, shm_mq::broadcast::Invitation) {
    let config = BroadcastConfig { kind, ..BroadcastConfig::lossy(CELLS as u32, 48, 4) };
    let (mut publisher, invitation) = StrangePublisher::new(&config).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let lying = std::thread::spawn(move || {
        let (own, words) = half(SUBSCRIBER, 0, 48);
        liar(theirs, &own, words, SUBSCRIBER, PUBLISHER)
    });
    let guest = within(LIMIT, || invitation.meet(ours, None)).unwrap();
    assert!(publisher.admit(9, guest).is_ok());
    (publisher, lying.join().unwrap(), invitation)
}

#[test]
fn a_subscriber_that_lies_is_struck_or_waited_for() {
    let end = |why, position| Some(Ended { key: 9, why, position });
    for kind in [Kind::Lossy, Kind::Lossless] {
        // It reads what was not published.
        let (mut publisher, liar, _) = lying_subscriber(kind);
        reads(&liar, 1);
        assert_eq!(publisher.try_publish(b"0"), Ok(true), "it is found out at once, or later");
        reads(&liar, 7);
        for _ in 0..2 * CELLS {
            assert_eq!(publisher.try_publish(b"more"), Ok(true), "{kind:?}");
        }
        let found = publisher.next_end();
        if kind == Kind::Lossless {
            assert_eq!(found, end(Why::Corrupt, 0));
        } else {
            // By now that many are published: it was no lie, then.
            assert_eq!(found, None);
            reads(&liar, 1 << 40);
            assert_eq!(publisher.next_end(), end(Why::Corrupt, 7));
        }
        assert!(publisher.is_empty());
    }
    // It goes back.
    let (mut publisher, liar, _) = lying_subscriber(Kind::Lossless);
    for number in 0..CELLS {
        assert_eq!(publisher.try_publish(b"again"), Ok(true));
        reads(&liar, number + 1);
        assert_eq!(publisher.next_end(), None);
    }
    reads(&liar, 1);
    assert_eq!(publisher.next_end(), end(Why::Corrupt, CELLS));
    // It does not read.
    let (mut publisher, liar, _) = lying_subscriber(Kind::Lossless);
    reads(&liar, 0);
    for _ in 0..CELLS {
        assert_eq!(publisher.try_publish(b"unread"), Ok(true));
    }
    assert_eq!(publisher.try_publish(b"no room"), Ok(false));
    // It rings all the time, and says that it sleeps: neither keeps us beyond our deadline.
    for number in 0..100 {
        assert!(liar.bell.ring());
        liar.words[ASLEEP].store(number, Ordering::Release);
    }
    let timed_out = within(LIMIT, || publisher.publish(b"no room", Some(soon())));
    assert_eq!(timed_out, Err(PublishError::TimedOut));
    assert_eq!(publisher.lags().collect::<Vec<_>>(), [(&9, CELLS)]);
    assert_eq!(publisher.expel(|_, lag| lag < CELLS), []);
    assert_eq!(publisher.expel(|_, lag| lag >= CELLS), [9]);
    assert_eq!(publisher.try_publish(b"room"), Ok(true));
    assert_eq!(publisher.next_end(), None, "it is not told of twice");
    assert!(liar.bell.is_gone(), "it was hung up on");
    // It hangs up, and is waited for no more.
    let (mut publisher, liar, _) = lying_subscriber(Kind::Lossless);
    reads(&liar, 0);
    for _ in 0..CELLS {
        assert_eq!(publisher.try_publish(b"unread"), Ok(true));
    }
    drop(liar);
    assert_eq!(within(LIMIT, || publisher.publish(b"room", None)), Ok(()));
    assert_eq!(publisher.next_end(), end(Why::Died, 0));
}

#[test]
fn who_has_not_begun_holds_nobody_back() {
    for kind in [Kind::Lossy, Kind::Lossless] {
        let (mut publisher, liar, _) = lying_subscriber(kind);
        for _ in 0..3 * CELLS {
            assert_eq!(publisher.try_publish(b"to whom it may concern"), Ok(true));
        }
        assert_eq!((publisher.next_end(), publisher.lags().count()), (None, 0));
        assert_eq!(publisher.expel(|_, lag| lag > 0), []);
        // It begins with what has been written over, as one that is slow may: there is no room
        // until it goes on, and it does not count for more than there are cells.
        reads(&liar, 1);
        assert_eq!(publisher.lags().collect::<Vec<_>>(), [(&9, 3 * CELLS - 1)]);
        assert_eq!(publisher.try_publish(b"next"), Ok(kind == Kind::Lossy));
        reads(&liar, 3 * CELLS);
        assert_eq!(publisher.try_publish(b"next"), Ok(true));
        // It says that it has not begun, after all: a lie.
        assert_eq!(publisher.next_end(), None);
        liar.words[POSITION].store(0, Ordering::Release);
        let end = Ended { key: 9, why: Why::Corrupt, position: 3 * CELLS };
        assert_eq!(publisher.next_end(), Some(end));
    }
    let (mut publisher, liar, _) = lying_subscriber(Kind::Lossless);
    assert_eq!(publisher.try_publish(b"gone"), Ok(true));
    drop(liar);
    assert_eq!(publisher.next_end(), Some(Ended { key: 9, why: Why::Died, position: 0 }));
    let (mut publisher, _liar, _) = lying_subscriber(Kind::Lossless);
    assert_eq!(publisher.expel(|key, lag| *key == 9 && lag == 0), [9], "it can be told to go");
}

#[test]
fn who_says_that_it_sleeps_costs_a_ring_each_and_one_that_is_dead_is_found() {
    let (mut publisher, liar, _) = lying_subscriber(Kind::Lossy);
    let mut buffer_is_full = false;
    for number in 1..3000 {
        liar.words[ASLEEP].store(number, Ordering::Release);
        assert_eq!(publisher.try_publish(b"ring"), Ok(true));
        buffer_is_full |= !liar.bell.ring();
    }
    assert!(
        !buffer_is_full && publisher.len() == 1,
        "a bell that is not listened to blocks nobody"
    );
    liar.words[ASLEEP].store(1, Ordering::Release);
    drop(liar);
    assert_eq!(publisher.try_publish(b"to nobody"), Ok(true));
    assert!(publisher.is_empty(), "the bell says so");
    assert_eq!(publisher.next_end().map(|end| end.why), Some(Why::Died));
}

#[test]
fn who_is_dead_is_found_while_records_are_published() {
    let (mut publisher, liar, invitation) = lying_subscriber(Kind::Lossy);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let connect = || StrangeSubscriber::connect(theirs, Limits::default(), HOW, 0, None);
    let connecting = std::thread::spawn(connect);
    assert!(publisher.admit(1, invitation.meet(ours, None).unwrap()).is_ok());
    let _lives = connecting.join().unwrap().unwrap();
    // It neither sleeps nor is asked.
    drop(liar);
    let found = (0..2000).position(|_| {
        assert!(publisher.try_publish(b"on and on").unwrap());
        publisher.len() == 1
    });
    assert!(found.is_some_and(|records| records > 0), "within a tour: {found:?}");
    let end = publisher.next_end().map(|end| (end.key, end.why));
    assert_eq!(end, Some((9, Why::Died)));
}

/// Scribbles on all that a subscriber says, and reads as far as the others; at some record it says
/// what cannot be, or reads no more.
fn lie_to_publisher(liar: &Liar, seed: &mut u64, pace: &AtomicU64, stop: &AtomicU32) {
    let (until, last_word) = (next(seed) % 1000, [None, Some(next(seed))][next(seed) as usize & 1]);
    while pace.load(Ordering::Relaxed) < until && stop.load(Ordering::Relaxed) == 0 {
        reads(liar, pace.load(Ordering::Relaxed));
        std::thread::yield_now();
    }
    if let Some(word) = last_word {
        liar.words[POSITION].store(word, Ordering::Relaxed);
    }
    while stop.load(Ordering::Relaxed) == 0 {
        let some = next(seed).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20;
        match some % 16 {
            0 => drop(liar.bell.ring()),
            1 | 2 => liar.words[ASLEEP].store(some, Ordering::Relaxed),
            3 => drop(send(liar.bell.as_fd(), &[1; 512], SendFlags::DONTWAIT)),
            _ => std::thread::yield_now(),
        }
    }
}

#[test]
fn who_lies_spoils_nothing_for_the_others() {
    const RECORDS: u64 = 2000;
    let rounds = if is_deep() { 200 } else { 8 };
    let mut seed = u64::from(std::process::id()) << 21 | 1;
    println!("seed {seed}");
    let (mut struck, mut expelled) = (0, 0);
    for _ in 0..rounds {
        let (mut publisher, liar, invitation) = lying_subscriber(Kind::Lossless);
        let (stop, mut its_seed, pace) = (AtomicU32::new(0), next(&mut seed), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let _stops = Stops(&stop);
            scope.spawn(|| lie_to_publisher(&liar, &mut its_seed, &pace, &stop));
            for key in 0..2 {
                let (ours, theirs) = UnixStream::pair().unwrap();
                scope.spawn(move || {
                    let limits = Limits::default();
                    let subscriber = StrangeSubscriber::connect(theirs, limits, HOW, 0, None);
                    let mut subscriber = subscriber.unwrap();
                    for number in 0..RECORDS {
                        let expected = text(number, number as usize % 49);
                        assert_eq!(subscriber.recv(), Ok((number, &expected[..])));
                    }
                    assert_eq!(subscriber.recv(), Err(RecvError::Detached));
                });
                assert!(publisher.admit(key, invitation.meet(ours, None).unwrap()).is_ok());
            }
            within(LIMIT, || {
                // They are to have all.
                while publisher.lags().filter(|(key, _)| **key < 2).count() < 2 {
                    std::thread::yield_now();
                }
                for number in 0..RECORDS {
                    let record = text(number, number as usize % 49);
                    // A liar that does not read is found by policy, not by proof.
                    while publisher.publish(&record, Some(soon())).is_err() {
                        expelled += publisher.expel(|key, lag| *key == 9 && lag == CELLS).len();
                    }
                    pace.store(number + 1, Ordering::Release);
                }
                if let Some(end) = publisher.next_end() {
                    assert_eq!((end.key, end.why), (9, Why::Corrupt));
                    struck += 1;
                }
                drop(publisher);
            });
        });
    }
    println!("lies to publishers: {struck} struck, {expelled} expelled, of {rounds}");
    assert!(struck + expelled > 0);
}

#[test]
fn a_guest_that_finds_no_room_is_given_back() {
    let (mut publisher, invitation) =
        StrangePublisher::new(&BroadcastConfig::lossy(2, 8, 1)).unwrap();
    let meet = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connect = || StrangeSubscriber::connect(theirs, Limits::default(), HOW, 0, None);
        let connecting = std::thread::spawn(connect);
        (invitation.meet(ours, None).unwrap(), connecting.join().unwrap().unwrap())
    };
    let ((first, one), (second, mut two)) = (meet(), meet());
    assert!(publisher.admit("one", first).is_ok());
    let (key, second) = publisher.admit("two", second).unwrap_err();
    assert_eq!(key, "two");
    assert!(publisher.try_publish(b"both").unwrap());
    assert_eq!(two.recv(), Ok((0, &b"both"[..])), "it has the memory");
    drop(one);
    assert_eq!(publisher.next_end(), Some(Ended { key: "one", why: Why::Left, position: 0 }));
    assert!(publisher.admit(key, second).is_ok());
    // After the end there is nothing to come: who comes then is told so.
    let (third, mut three) = meet();
    drop(publisher);
    assert_eq!(three.recv(), Ok((0, &b"both"[..])));
    assert_eq!(three.recv(), Err(RecvError::Detached));
    drop(third);
}
