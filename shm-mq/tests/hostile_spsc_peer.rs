//! The other end of a hostile queue of records is a liar's, who knows docs/layout.md: it writes any
//! word of its memory, before a call and while calls run, tells truths in between, and does what it
//! likes with the bell. Each call ends, in time, with a value or with an error; nonsense is
//! `Corrupt` for good; what was received does not change; no record is longer than one can be.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
#[path = "hostile_stream/liar.rs"]
#[allow(dead_code, reason = "it lies about streams too")]
mod liar;
use bytemuck::{CheckedBitPattern, NoUninit};
use common::LIMIT;
use liar::{ASLEEP, HEAD_WORDS, LIMITS, Liar, POSITION, RING_BYTES, STATE, Stops, half, liar};
use proptest::prelude::*;
use rustix::net::{SendFlags, send};
use shm_core::layout::Fingerprint;
use shm_core::mapping::MappedSlice;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_core::trust::Hostile;
use shm_mq::spsc::{ConnectError, Receiver, Record, RecvError, SendError, Sender};
use shm_mq::typed::{BadRecord, Message, Plain, TypedError, TypedReceiver};
use shm_testkit::depth::{cases, is_deep};
use shm_testkit::random::next;
use shm_testkit::watchdog::within;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SENDER: u64 = 0x7368_6d71_736e_6401;
const RECEIVER: u64 = 0x7368_6d71_7263_7601;
const FINGERPRINT: usize = 4;

/// In place of a length and one.
const NEXT_LINE: u64 = 0xffff_fffe;
const AT_THE_BEGINNING: u64 = 0xffff_ffff;
/// Words of a line, and bytes of the record that fills one.
const LINE: u64 = 8;
const FULL: u64 = 56;

const SHORT: Duration = Duration::from_micros(200);
/// How long the liar lies to one kind of victim.
fn run() -> Duration {
    if is_deep() { Duration::from_secs(30) } else { Duration::from_millis(700) }
}

fn header(number: u64, len: u64) -> u64 {
    number << 32 | (len + 1)
}

fn victim_receiver(ring_bytes: u64) -> (Receiver<Hostile>, Liar) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let lying = std::thread::spawn(move || {
        let (own, words) = half(SENDER, ring_bytes, 0);
        liar(theirs, &own, words, SENDER, RECEIVER)
    });
    let receiver = Receiver::<Hostile>::connect(ours, LIMITS, 0, None).unwrap();
    (receiver, lying.join().unwrap())
}

fn victim_sender(ring_bytes: u64, limit: u64) -> (Sender<Hostile>, Liar) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let lying = std::thread::spawn(move || {
        let (own, words) = half(RECEIVER, 0, limit);
        liar(theirs, &own, words, RECEIVER, SENDER)
    });
    let sender = Sender::<Hostile>::connect(ours, ring_bytes, 0, None).unwrap();
    (sender, lying.join().unwrap())
}

/// What a receiver is told of its memory by a liar who says so.
fn refusal(magic: u64, ring_bytes: u64, fingerprint: u64, real: u64) -> Option<ConnectError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let lying = std::thread::spawn(move || {
        let (own, words) = half(magic, real, 0);
        words[RING_BYTES].store(ring_bytes, Ordering::Relaxed);
        words[FINGERPRINT].store(fingerprint, Ordering::Relaxed);
        liar(theirs, &own, words, SENDER, RECEIVER)
    });
    let end = Receiver::<Hostile>::connect(ours, LIMITS, 0, None).err();
    drop(lying.join().unwrap());
    end
}

#[test]
fn memory_that_begins_with_nonsense_is_refused() {
    assert_eq!(refusal(SENDER, 128, 0, 128), None);
    assert_eq!(refusal(RECEIVER, 128, 0, 128), Some(ConnectError::Corrupt));
    assert_eq!(refusal(liar::SENDER, 128, 0, 128), Some(ConnectError::Corrupt), "a stream");
    let others = Some(ConnectError::OtherRecords { found: 7 });
    assert_eq!(refusal(SENDER, 128, 7, 128), others);
    for ring_bytes in [0, 64, 129, 136, 4096, (1 << 16) + 64, 1 << 63, u64::MAX, u64::MAX - 63] {
        assert_eq!(refusal(SENDER, ring_bytes, 0, 128), Some(ConnectError::Corrupt));
    }
    let huge = refusal(SENDER, 128, 0, 1 << 17);
    assert!(matches!(huge, Some(ConnectError::Exchange(_))), "more than it lets map: {huge:?}");
}

#[test]
fn the_two_ends_of_a_stream_and_of_a_queue_do_not_meet() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let limits = LIMITS;
    let other = std::thread::spawn(move || {
        shm_mq::stream::Receiver::<Hostile>::connect(theirs, limits, None).err()
    });
    let end = Sender::<Hostile>::connect(ours, 128, 0, None).err();
    assert!(matches!(end, Some(ConnectError::Exchange(_))), "{end:?}");
    let end = other.join().unwrap();
    assert!(matches!(end, Some(ConnectError::Exchange(_))), "{end:?}");
}

#[test]
fn two_that_have_other_records_in_mind_do_not_meet() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer = std::thread::spawn(|| Receiver::<Hostile>::connect(theirs, LIMITS, 5, None).err());
    let end = Sender::<Hostile>::connect(ours, 128, 6, None).err();
    assert_eq!(end, Some(ConnectError::OtherRecords { found: 5 }));
    assert_eq!(peer.join().unwrap(), Some(ConnectError::OtherRecords { found: 6 }));
}

#[test]
fn a_ring_has_two_lines_and_whole_ones() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let small = Sender::<Hostile>::connect(ours.try_clone().unwrap(), 127, 0, None).err();
    assert_eq!(small, Some(ConnectError::RingTooSmall { ring_bytes: 127 }));
    let peer = std::thread::spawn(|| Receiver::<Hostile>::connect(theirs, LIMITS, 0, None));
    let sender = Sender::<Hostile>::connect(ours, 4097, 0, None).unwrap();
    let receiver = peer.join().unwrap().unwrap();
    assert_eq!((sender.record_bytes_max(), receiver.record_bytes_max()), (2040, 2040));
}

// ---- Before a call: any words in the ring are what a plain reading of them says. ----

fn plain_reading(ring: &[u64], longest: usize) -> (Vec<Vec<u8>>, Option<RecvError>) {
    let (count, mut at, mut records, mut moved) = (ring.len(), 0, Vec::new(), false);
    loop {
        let (number, low) = (ring[at] >> 32, ring[at] & 0xffff_ffff);
        let is_next = number == records.len() as u64;
        match low {
            0 => return (records, None),
            NEXT_LINE if is_next && !moved => {
                at = (at / 8 + 1) * 8 % count;
                moved = true;
            }
            AT_THE_BEGINNING if is_next && !moved && at > 0 => {
                at = 0;
                moved = true;
            }
            NEXT_LINE | AT_THE_BEGINNING => return (records, Some(RecvError::Corrupt)),
            low => {
                let len = low as usize - 1;
                let words = 1 + len.div_ceil(8);
                if !is_next || len > longest || words > count - at {
                    return (records, Some(RecvError::Corrupt));
                }
                let bytes = ring[at + 1..at + words].iter().flat_map(|word| word.to_ne_bytes());
                records.push(bytes.take(len).collect());
                at = (at + words) % count;
                moved = false;
            }
        }
    }
}

fn word() -> impl Strategy<Value = u64> {
    let len = prop_oneof![
        6 => 0..60_u64,
        1 => Just(NEXT_LINE - 1),
        1 => Just(AT_THE_BEGINNING - 1),
        1 => Just(NEXT_LINE - 2),
    ];
    prop_oneof![
        6 => (0..3_u64, len).prop_map(|(number, len)| header(number, len)),
        2 => Just(0),
        1 => any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn any_words_in_a_ring_are_read_as_a_plain_reading_does(
        lines in 2..5_usize,
        words in prop::collection::vec(word(), 32),
    ) {
        let ring = &words[..lines * 8];
        let (mut receiver, liar) = victim_receiver(ring.len() as u64 * 8);
        for (word, value) in liar.words[HEAD_WORDS..].iter().zip(ring) {
            word.store(*value, Ordering::Relaxed);
        }
        let (expected, end) = plain_reading(ring, receiver.record_bytes_max());
        for record in expected {
            prop_assert_eq!(receiver.try_recv().unwrap().unwrap().to_vec(), record);
        }
        let nothing = receiver.try_recv().map(|record| record.is_none());
        prop_assert_eq!(nothing, end.map_or(Ok(true), Err));
    }
}

// ---- While calls run. ----

/// The next pseudo-random number, of 44 bits: the low ones too.
fn draw(seed: &mut u64) -> u64 {
    next(seed).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20
}

/// How far a liar is that also tells truths.
#[derive(Default)]
struct Pace {
    position: u64,
    number: u64,
}

/// One thing that a lying sender does. Each true record fills a line.
fn lie_or_send(liar: &Liar, released: &AtomicU64, pace: &mut Pace, seed: &mut u64) {
    let ring = &liar.words[HEAD_WORDS..];
    let count = ring.len() as u64;
    let at = |position: u64| &ring[(position % count) as usize];
    match draw(seed) % 256 {
        0 => {
            let words = [0, header(pace.number, draw(seed) % 5000), NEXT_LINE, next(seed)];
            let index = draw(seed) as usize % liar.words.len();
            // That it has left would soon be all that is learned.
            if index != STATE {
                liar.words[index].store(words[draw(seed) as usize % 4], Ordering::Relaxed);
            }
        }
        1 => liar.words[ASLEEP].store(draw(seed), Ordering::Relaxed),
        2 => drop(liar.bell.ring()),
        // A word of a record that is perhaps being received.
        3..32 => {
            let index = draw(seed) % count;
            if !index.is_multiple_of(LINE) {
                at(index).store(next(seed), Ordering::Relaxed);
            }
        }
        some => {
            let used = pace.position.wrapping_sub(released.load(Ordering::Relaxed));
            if used + 2 * LINE + 1 > count {
                return std::thread::yield_now();
            }
            if some < 64 {
                at(pace.position + LINE).store(0, Ordering::Relaxed);
                let leads_on = pace.number << 32 | NEXT_LINE;
                at(pace.position).store(leads_on, Ordering::Release);
                pace.position += LINE;
            }
            at(pace.position + LINE).store(0, Ordering::Relaxed);
            let len = FULL - draw(seed) % 8;
            at(pace.position).store(header(pace.number, len), Ordering::Release);
            pace.position += LINE;
            pace.number += 1;
        }
    }
}

/// One thing that a lying receiver does.
fn lie_or_receive(liar: &Liar, ring: &[AtomicU64], pace: &mut Pace, seed: &mut u64) {
    let count = ring.len() as u64;
    let near = pace.position.wrapping_add(draw(seed) % 64);
    match draw(seed) % 256 {
        0 => {
            let lies = [near, near.wrapping_sub(99), 0, next(seed)];
            liar.words[POSITION].store(lies[draw(seed) as usize % 4], Ordering::Relaxed);
        }
        1..8 => liar.words[ASLEEP].store(draw(seed) % 9, Ordering::Relaxed),
        8 => drop(liar.bell.ring()),
        _ => {
            let at = pace.position % count;
            let header = ring[at as usize].load(Ordering::Relaxed);
            pace.position += match header & 0xffff_ffff {
                _ if header >> 32 != pace.number => return std::thread::yield_now(),
                0 => return std::thread::yield_now(),
                NEXT_LINE => LINE - at % LINE,
                AT_THE_BEGINNING => count - at,
                low => {
                    pace.number += 1;
                    1 + (low - 1).div_ceil(8)
                }
            };
            liar.words[POSITION].store(pace.position, Ordering::Release);
        }
    }
}

/// How calls ended.
#[derive(Default, Debug)]
struct Count {
    queues: u64,
    calls: u64,
    values: u64,
    corrupt: u64,
    in_vain: u64,
    lies: u64,
}

/// Runs `victim` while another thread does `lie` again and again.
fn while_lying(lie: impl Fn(&mut Pace, &mut u64) + Sync, seed: u64, victim: impl FnOnce()) -> u64 {
    let stop = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let lying = scope.spawn(|| {
            let (mut lies, mut pace, mut seed) = (0, Pace::default(), seed ^ 0xfeed);
            while stop.load(Ordering::Relaxed) == 0 {
                lie(&mut pace, &mut seed);
                lies += 1;
            }
            lies
        });
        {
            let _stops = Stops(&stop);
            within(LIMIT, victim);
        }
        lying.join().unwrap()
    })
}

/// Has `lies_to` one victim after the other for a while; both values and lies that were found out
/// came of it.
fn for_a_while(lies_to: impl Fn(u64, &mut u64, &mut Count)) {
    let (mut seed, mut count) = (u64::from(std::process::id()) << 32 | 0xbad, Count::default());
    println!("seed {seed}");
    let end = Instant::now() + run();
    while Instant::now() < end {
        for ring_bytes in [256, 1024, 8192] {
            count.queues += 1;
            lies_to(ring_bytes, &mut seed, &mut count);
        }
    }
    println!("{count:?}");
    assert!(count.values.min(count.corrupt) > 0, "{count:?}");
}

/// Calls the receiver in every way there is, until it says that the queue is of no more use.
fn receive(receiver: &mut Receiver<Hostile>, seed: &mut u64, count: &mut Count) {
    let longest = receiver.record_bytes_max();
    for _ in 0..2000 {
        count.calls += 1;
        let some = next(seed) % 8;
        let look = |record: Record<'_, Hostile>| {
            assert!(record.len() <= longest, "a record of {} bytes", record.len());
            let before = record.to_vec();
            assert_eq!(*record, *before, "it is ours");
            if some == 0 {
                record.put_back();
            }
        };
        let end = match some {
            0..=3 => receiver.try_recv().map(|record| record.map(look)),
            4 => receiver.recv_deadline(Instant::now()).map(look).map(Some),
            _ => receiver.recv_deadline(Instant::now() + SHORT).map(look).map(Some),
        };
        match end {
            Ok(None) | Err(RecvError::TimedOut) => count.in_vain += 1,
            Ok(Some(())) => count.values += 1,
            Err(RecvError::Corrupt) => {
                count.corrupt += 1;
                assert_eq!(receiver.try_recv().err(), Some(RecvError::Corrupt), "it stays so");
                assert_eq!(receiver.recv().err(), Some(RecvError::Corrupt), "for who waits too");
                return;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// Calls the sender in every way there is, likewise.
fn send_any(sender: &mut Sender<Hostile>, seed: &mut u64, count: &mut Count) {
    let longest = sender.record_bytes_max();
    let bytes = vec![0xA5; longest + 1];
    for _ in 0..2000 {
        count.calls += 1;
        let lens = [20, 20, 80, longest + 2];
        let len = next(seed) as usize % lens[next(seed) as usize % 4];
        let record = &bytes[..len];
        let end = match next(seed) % 8 {
            0 | 1 => sender.try_send(record),
            2 | 3 => sender.push(record),
            4 | 5 => sender.send_deadline(record, Instant::now() + SHORT).map(|()| true),
            6 => sender.flush().map(|()| false),
            _ => sender.reserve(len).map(|place| {
                let Some(mut place) = place else { return false };
                place.fill(0x5a);
                place.commit();
                true
            }),
        };
        match end {
            Ok(is_sent) => count.values += u64::from(is_sent),
            Err(SendError::TimedOut) => count.in_vain += 1,
            Err(SendError::TooLong { len: its, largest }) => {
                assert!(its == len && largest == longest && len > longest);
            }
            Err(SendError::Corrupt) => {
                count.corrupt += 1;
                assert_eq!(sender.try_send(b""), Err(SendError::Corrupt), "it stays so");
                assert_eq!(sender.send(b""), Err(SendError::Corrupt), "for who waits too");
                return;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_hostile_sender_harms_no_receiver() {
    for_a_while(|ring_bytes, seed, count| {
        let (mut receiver, liar) = victim_receiver(ring_bytes);
        if next(seed).is_multiple_of(2) {
            // It may fill the bell beforehand, or leave it alone.
            while send(liar.bell.as_fd(), &[1; 512], SendFlags::DONTWAIT).is_ok() {}
        }
        let released = liar.pace();
        let lie = |pace: &mut Pace, seed: &mut u64| lie_or_send(&liar, &released, pace, seed);
        count.lies += while_lying(lie, *seed, || receive(&mut receiver, seed, count));
    });
}

#[test]
fn a_hostile_receiver_harms_no_sender() {
    for_a_while(|ring_bytes, seed, count| {
        let (mut sender, liar) = victim_sender(ring_bytes, u64::MAX);
        let ring: MappedSlice<AtomicU64> = ring_of(&liar, ring_bytes);
        let lie = |pace: &mut Pace, seed: &mut u64| lie_or_receive(&liar, &ring, pace, seed);
        count.lies += while_lying(lie, *seed, || send_any(&mut sender, seed, count));
    });
}

/// The victim's ring.
fn ring_of(liar: &Liar, ring_bytes: u64) -> MappedSlice<AtomicU64> {
    // SAFETY: only loads are made through it.
    unsafe { liar.theirs.share_slice(HEAD_WORDS as u64 * 8, ring_bytes / 8) }.unwrap()
}

/// Checks a length, loads it once more, and uses that one.
#[test]
fn finds_a_length_that_is_loaded_twice() {
    let (_receiver, liar) = victim_receiver(256);
    let is_sane = || liar.words[HEAD_WORDS].load(Ordering::Relaxed) as u32 <= FULL as u32 + 1;
    let lie = |_: &mut Pace, seed: &mut u64| {
        let len = [FULL, 5000][draw(seed) as usize % 2];
        liar.words[HEAD_WORDS].store(header(0, len), Ordering::Relaxed);
    };
    let lies = while_lying(lie, 1, || while !is_sane() || is_sane() {});
    println!("found after {lies} lies");
}

// ---- One lie at a time. ----

#[test]
fn what_is_sent_lies_as_documented_and_cannot_be_written_by_the_peer() {
    let (mut sender, liar) = victim_sender(256, 1000);
    sender.send(b"true").unwrap();
    sender.send(&[7; 56]).unwrap();
    let ring = ring_of(&liar, 256);
    let said = [0, 1, 2, 8].map(|at| ring[at].load(Ordering::Relaxed));
    let bytes = u64::from(u32::from_le_bytes(*b"true"));
    assert_eq!(said, [header(0, 4), bytes, 1 << 32 | NEXT_LINE, header(1, 56)]);
    let flags = rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE;
    let base = ring.mapping().region().base().as_ptr();
    // SAFETY: it fails, and changes nothing.
    let end = unsafe { rustix::mm::mprotect(base.cast(), 4096, flags) };
    assert_eq!(end, Err(rustix::io::Errno::ACCESS));
}

#[test]
fn what_was_received_does_not_change_any_more() {
    let (mut receiver, liar) = victim_receiver(128);
    liar.words[HEAD_WORDS + 1].store(1, Ordering::Relaxed);
    liar.words[HEAD_WORDS].store(header(0, 16), Ordering::Release);
    let record = receiver.recv().unwrap();
    let before = record.to_vec();
    for word in &liar.words[..] {
        word.store(u64::MAX, Ordering::Relaxed);
    }
    assert_eq!(*record, *before);
}

#[test]
fn a_position_of_nonsense_or_an_old_one_is_corrupt() {
    for lie in [1_000, 33, u64::MAX, 1 << 63, 25] {
        // Three records of a line are published, and one is not.
        let (mut sender, liar) = victim_sender(512, 1000);
        (0..3).for_each(|_| assert_eq!(sender.try_send(&[1; 56]), Ok(true)));
        assert_eq!(sender.push(&[1; 56]), Ok(true));
        liar.words[POSITION].store(lie, Ordering::Release);
        let ends: Vec<_> = (0..9).map(|_| sender.push(&[1; 56])).collect();
        assert_eq!(ends[8], Err(SendError::Corrupt), "{lie}: {ends:?}");
        liar.words[POSITION].store(0, Ordering::Release);
        assert_eq!(sender.try_send(b""), Err(SendError::Corrupt), "it stays so");
    }
    let (mut sender, liar) = victim_sender(128, 1000);
    assert_eq!(sender.try_send(&[1; 56]), Ok(true));
    for (released, room) in [(0, Ok(false)), (8, Ok(true)), (0, Err(SendError::Corrupt))] {
        liar.words[POSITION].store(released, Ordering::Release);
        assert_eq!(sender.try_send(&[1; 56]), room, "{released}");
    }
}

#[test]
fn a_limit_of_nonsense_limits_what_is_sent_and_no_more() {
    for (limit, largest) in [(0, 0), (5, 5), (u64::MAX, 1016)] {
        let (mut sender, _liar) = victim_sender(2048, limit);
        assert_eq!(sender.try_send(&vec![1; largest]), Ok(true));
        let end = sender.try_send(&vec![1; largest + 1]);
        assert_eq!(end, Err(SendError::TooLong { len: largest + 1, largest }));
    }
}

#[test]
fn a_record_over_the_receivers_limit_is_corrupt() {
    let (mut receiver, liar) = victim_receiver(1 << 15);
    let limit = LIMITS.message_bytes_max as u64;
    assert_eq!(receiver.record_bytes_max() as u64, limit);
    liar.words[HEAD_WORDS].store(header(0, limit), Ordering::Release);
    assert_eq!(
        receiver.try_recv().map(|record| record.map(|record| record.len() as u64)),
        Ok(Some(limit))
    );
    liar.words[HEAD_WORDS + 1 + limit as usize / 8].store(header(1, limit + 1), Ordering::Release);
    assert_eq!(receiver.try_recv().err(), Some(RecvError::Corrupt));
}

#[test]
fn who_is_not_rung_for_or_without_a_reason_keeps_the_deadline() {
    let (mut receiver, liar) = victim_receiver(128);
    let wait = Duration::from_millis(30);
    let end = within(LIMIT, || receiver.recv_deadline(Instant::now() + wait).err());
    assert_eq!(end, Some(RecvError::TimedOut));
    let stop = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while stop.load(Ordering::Relaxed) == 0 {
                let _ = send(liar.bell.as_fd(), &[1; 64], SendFlags::DONTWAIT);
            }
        });
        let _stops = Stops(&stop);
        let end = within(LIMIT, || receiver.recv_deadline(Instant::now() + wait).err());
        assert_eq!(end, Some(RecvError::TimedOut));
    });
    let (mut sender, _liar) = victim_sender(128, 1000);
    let end = within(LIMIT, || {
        (0..9).find_map(|_| sender.send_deadline(&[1; 56], Instant::now() + wait).err())
    });
    assert_eq!(end, Some(SendError::TimedOut));
}

#[test]
fn who_is_rung_for_wakes_and_receives() {
    let (mut receiver, liar) = victim_receiver(128);
    assert!(liar.bell.ring());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            liar.words[HEAD_WORDS].store(header(0, 0), Ordering::Release);
            assert!(liar.bell.ring());
        });
        let len = within(LIMIT, || receiver.recv().map(|record| record.len()));
        assert_eq!(len, Ok(0));
    });
}

#[test]
fn who_says_that_it_sleeps_costs_a_ring_and_blocks_nobody() {
    let (mut sender, liar) = victim_sender(1024, 1000);
    within(LIMIT, || {
        for number in 1..1000 {
            // A new sleep each time, and nobody empties the bell.
            liar.words[ASLEEP].store(number, Ordering::Relaxed);
            assert_eq!(sender.try_send(b""), Ok(true));
            liar.words[POSITION].store(number, Ordering::Release);
        }
    });
}

#[test]
fn who_leaves_by_word_has_left_and_who_hangs_up_has_died() {
    let (mut receiver, liar) = victim_receiver(128);
    liar.words[HEAD_WORDS].store(header(0, 1), Ordering::Relaxed);
    liar.words[STATE].store(2, Ordering::Relaxed);
    assert!(receiver.try_recv().unwrap().is_some(), "it was there before");
    assert_eq!(receiver.try_recv().err(), Some(RecvError::Detached));
    liar.words[STATE].store(1, Ordering::Relaxed);
    assert_eq!(receiver.try_recv().err(), Some(RecvError::Detached), "it stays so");
    let (mut sender, liar) = victim_sender(128, 1000);
    liar.words[STATE].store(2, Ordering::Relaxed);
    assert_eq!(sender.try_send(b""), Err(SendError::Detached));
    let (mut sender, liar) = victim_sender(128, 1000);
    assert_eq!(sender.try_send(&[1; 56]), Ok(true));
    drop(liar);
    assert_eq!(within(LIMIT, || sender.send(&[1; 56])), Err(SendError::PeerDied));
    assert_eq!(sender.try_send(b""), Err(SendError::PeerDied), "it stays so");
}

#[derive(Clone, Copy, Debug, PartialEq, NoUninit, CheckedBitPattern)]
#[repr(u8)]
enum Light {
    Red,
    Green,
}

impl Message for Light {
    const FINGERPRINT: u64 = Fingerprint::new("Light", 1, 1).finish();
}

#[test]
fn a_value_of_nonsense_is_an_error_and_the_next_one_follows() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let lying = std::thread::spawn(move || {
        let (own, words) = half(SENDER, 128, 0);
        words[FINGERPRINT].store(Light::FINGERPRINT, Ordering::Relaxed);
        liar(theirs, &own, words, SENDER, RECEIVER)
    });
    let mut receiver = TypedReceiver::<Light, Plain, _>::connect(ours, LIMITS, None).unwrap();
    let liar = lying.join().unwrap();
    for (at, (len, byte)) in [(1, 2), (2, 0), (1, 1)].into_iter().enumerate() {
        liar.words[HEAD_WORDS + 2 * at + 1].store(byte, Ordering::Relaxed);
        liar.words[HEAD_WORDS + 2 * at].store(header(at as u64, len), Ordering::Release);
    }
    let length = BadRecord::Length { len: 2, expected: 1 };
    assert_eq!(receiver.try_recv(), Err(TypedError::Record(BadRecord::Bits)));
    assert_eq!(receiver.try_recv(), Err(TypedError::Record(length)));
    assert_eq!(receiver.try_recv(), Ok(Some(Light::Green)));
    assert_ne!(Light::Red, Light::Green);
}
