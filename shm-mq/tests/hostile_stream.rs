//! A liar owns what the other side of a stream writes, and puts arbitrary words into it: before a
//! call and *while* calls run. At each level every call ends, in time, with a value or with an
//! error; nonsense is `Corrupt` for good; nothing that cannot be framed is received; and nothing
//! outside the mapping is touched: it stands between pages that nobody may touch.
//!
//! | level | before | while | the liar |
//! | --- | --- | --- | --- |
//! | crashing | yes | not promised | – |
//! | buggy | yes | yes | a thread that writes any word of the stream |
//! | hostile | yes | yes | the other end: its own memory, its socket |
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;
#[path = "hostile_stream/liar.rs"]
mod liar;
#[path = "../../shm-core/tests/sealed_common/mod.rs"]
mod sealed_common;
use common::LIMIT;
use liar::*;
use proptest::prelude::*;
use rustix::mm::{MprotectFlags, mprotect};
use rustix::net::{SendFlags, send};
use shm_core::mapping::Mapped;
use shm_core::sealed::ExchangeError;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_core::trust::{Buggy, Crashing, Hostile};
use shm_mq::stream::{
    ConnectError, Level, OneMapping, Receiver, RecvError, SendError, Sender, frame_bytes,
};
use shm_testkit::child::Child;
use shm_testkit::depth::{cases, is_deep};
use shm_testkit::random::next;
use shm_testkit::watchdog::within;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_micros(200);
/// How long the liar lies to one kind of victim.
fn run() -> Duration {
    if is_deep() { Duration::from_secs(30) } else { Duration::from_millis(1500) }
}

// ---- Before a call: any bytes in the ring are what a plain reading of them says. ----

/// What a receiver makes of `ring`, of which `published` bytes are: messages, and the end.
fn plain_reading(ring: &[u8], published: u64) -> (Vec<Vec<u8>>, RecvError) {
    let (mut at, mut messages, mut partial) = (0, Vec::new(), None::<Vec<u8>>);
    while at < published {
        let header = u32::from_le_bytes(ring[at as usize..][..4].try_into().unwrap());
        let len = (header & (LAST - 1)) as usize;
        if frame_bytes(len) > published - at {
            return (messages, RecvError::Corrupt);
        }
        let from = at as usize + if len <= 4 { 4 } else { 8 };
        let mut message = match (header & FIRST != 0, partial.take()) {
            (true, _) => Vec::new(),
            (false, Some(begun)) if len > 0 => begun,
            _ => return (messages, RecvError::Corrupt),
        };
        message.extend_from_slice(&ring[from..from + len]);
        if header & LAST != 0 {
            messages.push(message)
        } else {
            partial = Some(message)
        }
        at += frame_bytes(len);
    }
    (messages, RecvError::WouldBlock)
}

fn header() -> impl Strategy<Value = u64> {
    let flags =
        prop_oneof![6 => Just(FIRST | LAST), 2 => Just(FIRST), 2 => Just(LAST), 1 => Just(0)];
    let len = prop_oneof![6 => 0..5_u32, 3 => 5..40_u32, 1 => Just(LAST - 1)];
    (flags, len, any::<u32>())
        .prop_map(|(flags, len, upper)| u64::from(flags | len) | u64::from(upper) << 32)
}

fn ring() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(prop_oneof![8 => header(), 1 => any::<u64>()], 8..=32).prop_map(
        |mut words| {
            words.truncate(words.len() / 8 * 8);
            words
        },
    )
}

fn receive_all<T: Level>(mut receiver: Receiver<T>) -> (Vec<Vec<u8>>, RecvError) {
    let mut messages = Vec::new();
    loop {
        match receiver.try_recv() {
            Ok(message) => messages.push(message.to_vec()),
            Err(end) => return (messages, end),
        }
    }
}

fn reading_of<T: OneMapping>(ring: &[u64], published: u64) -> (Vec<Vec<u8>>, RecvError) {
    let world = world(ring.len() as u64 * 8);
    for (word, value) in world.words[HEAD_WORDS..].iter().zip(ring) {
        word.store(*value, Ordering::Relaxed);
    }
    world.words[POSITION].store(published, Ordering::Relaxed);
    receive_all(world.stream.with_peers::<T>().receiver(&world.me).unwrap())
}

fn hostile_reading_of(ring: &[u64], published: u64) -> (Vec<Vec<u8>>, RecvError) {
    let (receiver, liar) = victim_receiver(ring.len() as u64 * 8);
    for (word, value) in liar.words[HEAD_WORDS..].iter().zip(ring) {
        word.store(*value, Ordering::Relaxed);
    }
    liar.words[POSITION].store(published, Ordering::Relaxed);
    receive_all(receiver)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn any_words_in_a_ring_are_read_as_a_plain_reading_does(
        ring in ring(),
        part in 0..=100_u64,
    ) {
        let bytes: Vec<u8> = ring.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let published = ring.len() as u64 * part / 100 * 8;
        let expected = plain_reading(&bytes, published);
        prop_assert_eq!(&reading_of::<Crashing>(&ring, published), &expected);
        prop_assert_eq!(&reading_of::<Buggy>(&ring, published), &expected);
        prop_assert_eq!(&hostile_reading_of(&ring, published), &expected);
    }

    #[test]
    fn any_position_is_taken_or_corrupt(position in any::<u64>(), ring_words in 1..=8_u64) {
        let ring_bytes = ring_words * 64;
        let world = world(ring_bytes);
        world.words[POSITION].store(position, Ordering::Relaxed);
        world.words[READ].store(position, Ordering::Relaxed);
        let receiver = world.stream.clone().with_peers::<Buggy>().receiver(&world.me).unwrap();
        let mut sender = world.stream.with_peers::<Buggy>().sender(&world.me).unwrap();
        let sane = position <= ring_bytes && position.is_multiple_of(8);
        // Words of zeros are rests without a beginning.
        let end = if position == 0 { RecvError::WouldBlock } else { RecvError::Corrupt };
        prop_assert_eq!(receive_all(receiver), (vec![], end));
        // Nothing was sent: nothing can have been read.
        let free = sender.free_space();
        let why = if position == 0 { SendError::Detached } else { SendError::Corrupt };
        let expected = Err(why);
        prop_assert!(free == expected || free == Err(SendError::Detached), "{free:?} {sane}");
    }
}

// ---- While calls run. ----

/// How calls ended.
#[derive(Default, Debug)]
struct Count {
    streams: u64,
    calls: u64,
    values: u64,
    corrupt: u64,
    gone: u64,
    in_vain: u64,
}

impl Count {
    fn received<T: Level>(
        &mut self,
        end: Result<shm_mq::stream::Message<'_, T>, RecvError>,
        longest: usize,
    ) -> Option<RecvError> {
        self.calls += 1;
        match end {
            Ok(message) => {
                assert!(message.len() <= longest, "a message of {} bytes", message.len());
                self.values += 1;
                None
            }
            Err(end) => self.failed_to_receive(end),
        }
    }

    fn failed_to_receive(&mut self, end: RecvError) -> Option<RecvError> {
        match end {
            RecvError::WouldBlock | RecvError::TimedOut => self.in_vain += 1,
            RecvError::Corrupt => self.corrupt += 1,
            RecvError::Detached | RecvError::PeerDied => self.gone += 1,
            other => panic!("{other}"),
        }
        (!matches!(end, RecvError::WouldBlock | RecvError::TimedOut)).then_some(end)
    }

    fn sent(&mut self, end: Result<(), SendError>) -> Option<SendError> {
        self.calls += 1;
        match end {
            Ok(()) => {
                self.values += 1;
                return None;
            }
            Err(SendError::WouldBlock | SendError::TimedOut | SendError::TooLarge { .. }) => {
                self.in_vain += 1;
                return None;
            }
            Err(SendError::TooLong { .. }) => {
                self.in_vain += 1;
                return None;
            }
            Err(SendError::Corrupt) => self.corrupt += 1,
            Err(SendError::Detached | SendError::PeerDied) => self.gone += 1,
            Err(other) => panic!("{other}"),
        }
        end.err()
    }
}

/// Calls the receiver in every way there is, until it says that the stream is of no more use.
fn receive<T: Level>(
    receiver: &mut Receiver<T>,
    longest: usize,
    seed: &mut u64,
    count: &mut Count,
) {
    count.streams += 1;
    for _ in 0..2000 {
        let end = match next(seed) % 8 {
            0..=2 => count.received(receiver.try_recv(), longest),
            3 | 4 => count.received(receiver.recv_timeout(SHORT), longest),
            5 => count.received(receiver.recv_deadline(Instant::now()), longest),
            6 => receiver.occupied_bytes().err().and_then(|end| count.failed_to_receive(end)),
            _ => {
                if let Ok(message) = receiver.try_recv() {
                    let before = message.to_vec();
                    assert_eq!(*message, *before, "it is ours");
                    message.put_back();
                }
                None
            }
        };
        if end == Some(RecvError::Corrupt) {
            assert_eq!(receiver.try_recv().unwrap_err(), RecvError::Corrupt, "it stays so");
            assert_eq!(receiver.recv().unwrap_err(), RecvError::Corrupt, "for who waits too");
        }
        if end.is_some() {
            return;
        }
    }
}

/// Calls the sender in every way there is, likewise.
fn send_any<T: Level>(sender: &mut Sender<T>, ring: u64, seed: &mut u64, count: &mut Count) {
    count.streams += 1;
    let bytes = vec![0xA5; 4 * ring as usize];
    for _ in 0..2000 {
        let len = match next(seed) % 4 {
            0 => next(seed) % (4 * ring),
            _ => next(seed) % 20,
        };
        let message = &bytes[..len as usize];
        let end = match next(seed) % 7 {
            0 | 1 => sender.try_send(message),
            2 | 3 => sender.send_timeout(message, SHORT),
            4 => match sender.start(message) {
                Ok(mut sending) => sending.poll(),
                Err(end) => Err(end),
            },
            5 => sender.flush(),
            _ => sender.free_space().map(|free| assert!(free <= ring)),
        };
        let end = count.sent(end);
        if end == Some(SendError::Corrupt) {
            let stays = sender.try_send(b"");
            assert!(matches!(stays, Err(SendError::Corrupt)), "it stays so: {stays:?}");
            assert!(sender.send(b"").is_err(), "for who waits too");
        }
        if end.is_some() {
            return;
        }
    }
}

fn seed() -> u64 {
    let seed = u64::from(std::process::id()) << 32 | 0xbad;
    println!("seed {seed}");
    seed
}

/// Touches the byte behind a guarded stream, or the one before it.
fn touches_outside(args: &[String]) {
    let world = world(64);
    let region = world.stream.mapping().region();
    let base = region.base().as_ptr();
    let at =
        if args[0] == "behind" { base.wrapping_add(region.len()) } else { base.wrapping_sub(4096) };
    // SAFETY: none: this is the planted bug, and the end of this process.
    println!("{}", unsafe { at.read_volatile() });
}
shm_testkit::children! { touches_outside }

#[test]
fn finds_an_access_outside() {
    for place in ["behind", "before"] {
        let exit = Child::spawn("touches_outside", &[place]).wait(LIMIT);
        // Under AddressSanitizer the signal is told, and the process exits.
        let sanitized = exit.stderr.contains("AddressSanitizer: SEGV");
        assert!(exit.signal() == Some(libc::SIGSEGV) || sanitized, "{place}: {exit:?}");
    }
}

/// Checks a length, loads it once more, and uses that one: what it uses, once it is wrong.
fn loads_twice(words: &[AtomicU64], ring: u64) -> u64 {
    let length = || words[HEAD_WORDS].load(Ordering::Relaxed) & u64::from(LAST - 1);
    loop {
        if length() <= ring {
            let used = length();
            if used > ring {
                return used;
            }
        }
    }
}

#[test]
fn finds_a_length_that_is_loaded_twice() {
    let world = world(64);
    let lies = while_lying(&world.lies(64, POSITION, READ), seed(), || {
        let used = loads_twice(&world.words, 64);
        println!("a fragment of {used} bytes in a ring of 64");
    });
    println!("found after {lies} lies");
}

/// Has `lies_to` one victim after the other, each with a ring of another size, be lied to for a
/// while; both a value and a lie that was found out came of it.
fn for_a_while(rings: [u64; 3], mut lies_to: impl FnMut(u64, &mut u64, &mut Count) -> u64) {
    let (mut seed, mut count, mut lies) = (seed(), Count::default(), 0);
    let end = Instant::now() + run();
    while Instant::now() < end {
        for ring in rings {
            lies += lies_to(ring, &mut seed, &mut count);
        }
    }
    println!("{lies} lies, {count:?}");
    assert!(count.values > 0 && count.corrupt > 0, "{count:?}");
}

#[test]
fn a_buggy_sender_harms_no_receiver() {
    for_a_while([64, 256, 1024], |ring, seed, count| {
        let world = world(ring);
        let stream = world.stream.clone().with_peers::<Buggy>();
        let _sender = stream.sender(&world.me).unwrap();
        let mut receiver = stream.receiver(&world.me).unwrap();
        while_lying(&world.lies(ring, POSITION, READ), *seed, || {
            // No fragments are lost on the way, but the liar may send them without end.
            receive(&mut receiver, usize::MAX, seed, count);
        })
    });
}

#[test]
fn a_buggy_receiver_harms_no_sender() {
    for_a_while([64, 256, 1024], |ring, seed, count| {
        let world = world(ring);
        let stream = world.stream.clone().with_peers::<Buggy>();
        let _receiver = stream.receiver(&world.me).unwrap();
        let mut sender = stream.sender(&world.me).unwrap();
        while_lying(&world.lies(ring, READ, POSITION), *seed, || {
            send_any(&mut sender, ring, seed, count);
        })
    });
}

// ---- A hostile peer: what docs/layout.md says is all it needs to know. ----

#[test]
fn a_hostile_sender_harms_no_receiver() {
    for_a_while([64, 256, 4096 - 384], |ring, seed, count| {
        let (mut receiver, liar) = victim_receiver(ring);
        if next(seed).is_multiple_of(2) {
            // It may fill the bell beforehand, or leave it alone.
            while send(liar.bell.as_fd(), &[1; 512], SendFlags::DONTWAIT).is_ok() {}
        }
        let pace = liar.pace();
        while_lying(&liar.lies(ring, &pace, true), *seed, || {
            receive(&mut receiver, LIMITS.message_bytes_max, seed, count);
            assert!(receiver.buffer_bytes() <= 2 * LIMITS.message_bytes_max.max(8192));
        })
    });
}

#[test]
fn a_hostile_receiver_harms_no_sender() {
    for_a_while([64, 256, 4096 - 384], |ring, seed, count| {
        let (mut sender, liar) = victim_sender(ring, u64::MAX);
        let pace = liar.pace();
        while_lying(&liar.lies(ring, &pace, false), *seed, || {
            send_any(&mut sender, ring, seed, count);
        })
    });
}

#[test]
fn memory_that_begins_with_nonsense_is_refused() {
    let connect = |magic, ring_bytes, real: u64| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let lying = std::thread::spawn(move || {
            let (own, words) = half(magic, real, 0);
            words[RING_BYTES].store(ring_bytes, Ordering::Relaxed);
            liar(theirs, &own, words, SENDER, RECEIVER)
        });
        let end = Receiver::<Hostile>::connect(ours, LIMITS, None).err();
        drop(lying.join().unwrap());
        end
    };
    assert_eq!(connect(SENDER, 64, 64), None);
    assert_eq!(connect(RECEIVER, 64, 64), Some(ConnectError::Corrupt), "it said something else");
    for ring_bytes in [0, 7, 65, 4096, (1 << 16) + 8, 1 << 63, u64::MAX, u64::MAX - 7] {
        assert_eq!(connect(SENDER, ring_bytes, 64), Some(ConnectError::Corrupt), "{ring_bytes}");
    }
    let huge = connect(SENDER, 64, 1 << 17);
    assert!(matches!(huge, Some(ConnectError::Exchange(_))), "more than it lets map: {huge:?}");
}

#[test]
fn memory_may_end_with_the_least_of_rings() {
    let connect = |bytes: u64| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut words = vec![0_u64; bytes as usize / 8];
        (words[0], words[RING_BYTES]) = (SENDER, 8);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let fd = sealed_common::holding(&bytes, sealed_common::ALL);
        sealed_common::say(&theirs, &SENDER.to_ne_bytes(), &[fd.as_fd()]).unwrap();
        Receiver::<Hostile>::connect(ours, LIMITS, None).err()
    };
    assert_eq!(connect(HEAD_WORDS as u64 * 8 + 8), None);
    let end = connect(HEAD_WORDS as u64 * 8);
    assert!(matches!(end, Some(ConnectError::Exchange(ExchangeError::Memory(_)))), "{end:?}");
}

#[test]
fn a_ring_of_odd_bytes_is_one_of_whole_words() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer = std::thread::spawn(|| Receiver::<Hostile>::connect(theirs, LIMITS, None));
    let mut sender = Sender::<Hostile>::connect(ours, 4097, None).unwrap();
    let mut receiver = peer.join().unwrap().unwrap();
    assert_eq!(sender.free_space(), Ok(4096));
    sender.send(b"whole").unwrap();
    assert_eq!(*receiver.recv().unwrap(), *b"whole");
}

#[test]
fn a_ring_size_that_changes_later_is_not_looked_at_again() {
    let (mut receiver, liar) = victim_receiver(64);
    liar.words[RING_BYTES].store(1 << 40, Ordering::Relaxed);
    liar.words[HEAD_WORDS].store(u64::from(FIRST | LAST | 1) | 7 << 32, Ordering::Relaxed);
    liar.words[POSITION].store(8, Ordering::Release);
    assert_eq!(*receiver.recv().unwrap(), [7]);
    liar.words[POSITION].store(80, Ordering::Relaxed);
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::Corrupt);
}

#[test]
fn what_was_received_does_not_change_any_more() {
    let (mut receiver, liar) = victim_receiver(64);
    liar.words[HEAD_WORDS].store(u64::from(FIRST | LAST | 16), Ordering::Relaxed);
    liar.words[HEAD_WORDS + 1].store(1, Ordering::Relaxed);
    liar.words[HEAD_WORDS + 2].store(2, Ordering::Relaxed);
    liar.words[POSITION].store(24, Ordering::Release);
    let message = receiver.recv().unwrap();
    let before = message.to_vec();
    for word in &liar.words[..] {
        word.store(u64::MAX, Ordering::Relaxed);
    }
    assert_eq!(*message, *before);
}

#[test]
fn positions_that_go_back_and_forth_are_corrupt() {
    let (mut sender, liar) = victim_sender(64, 1000);
    for _ in 0..4 {
        sender.send(&[1; 8]).unwrap();
    }
    let go = |sender: &mut Sender<Hostile>, position| {
        liar.words[POSITION].store(position, Ordering::Release);
        sender.free_space()
    };
    assert_eq!(go(&mut sender, 32), Ok(32));
    assert_eq!(go(&mut sender, 64), Ok(64));
    assert_eq!(go(&mut sender, 48), Err(SendError::Corrupt));
    assert_eq!(go(&mut sender, 64), Err(SendError::Corrupt), "it stays so");
}

#[test]
fn a_limit_of_nonsense_limits_what_is_sent_and_no_more() {
    for (limit, sent) in [(0, 0), (5, 5), (u64::MAX, 2000)] {
        let (mut sender, _liar) = victim_sender(4096 - 384, limit);
        sender.send(&vec![1; sent]).unwrap();
        if limit < 2000 {
            let end = sender.send(&vec![1; sent + 1]);
            assert_eq!(end, Err(SendError::TooLong { len: sent + 1 }));
        }
    }
}

#[test]
fn fragments_without_end_are_corrupt_at_the_receivers_limit() {
    let (mut receiver, liar) = victim_receiver(1024);
    let mut position = 0;
    let end = within(LIMIT, || {
        loop {
            let first = if position == 0 { FIRST } else { 0 };
            let at = HEAD_WORDS + (position % 1024) as usize / 8;
            liar.words[at].store(u64::from(first | 504), Ordering::Relaxed);
            position += 512;
            liar.words[POSITION].store(position, Ordering::Release);
            match receiver.try_recv() {
                Err(RecvError::WouldBlock) => {}
                other => return other.map(|message| message.len()),
            }
        }
    });
    assert_eq!(end, Err(RecvError::Corrupt));
    assert_eq!(position, 512 * (5000 / 504 + 1));
    assert!(receiver.buffer_bytes() <= 2 * 8192);
}

#[test]
fn who_is_not_rung_for_or_too_often_keeps_the_deadline() {
    let (mut receiver, liar) = victim_receiver(64);
    let wait = Duration::from_millis(30);
    assert_eq!(within(LIMIT, || receiver.recv_timeout(wait).unwrap_err()), RecvError::TimedOut);
    let stop = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while stop.load(Ordering::Relaxed) == 0 {
                let _ = send(liar.bell.as_fd(), &[1; 64], SendFlags::DONTWAIT);
            }
        });
        let _stops = Stops(&stop);
        let end = within(LIMIT, || receiver.recv_timeout(wait).unwrap_err());
        assert_eq!(end, RecvError::TimedOut);
    });
}

#[test]
fn who_is_rung_for_without_a_reason_waits_on() {
    let (mut receiver, liar) = victim_receiver(64);
    assert!(liar.bell.ring());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            liar.words[HEAD_WORDS].store(u64::from(FIRST | LAST), Ordering::Relaxed);
            liar.words[POSITION].store(8, Ordering::Release);
            assert!(liar.bell.ring());
        });
        let message = within(LIMIT, || receiver.recv_timeout(LIMIT).map(|message| message.len()));
        assert_eq!(message, Ok(0));
    });
}

#[test]
fn who_is_late_empties_no_full_bell() {
    let (mut receiver, liar) = victim_receiver(64);
    let fill = || {
        std::iter::repeat_with(|| send(liar.bell.as_fd(), &[1; 512], SendFlags::DONTWAIT))
            .take_while(Result::is_ok)
            .count()
    };
    let full = fill();
    let end = within(LIMIT, || receiver.recv_deadline(Instant::now()).unwrap_err());
    assert_eq!(end, RecvError::TimedOut);
    let again = fill();
    assert!(again < full, "{again} of {full}: it was woken again and again behind its deadline");
}

#[test]
fn who_says_that_it_sleeps_costs_a_ring_and_blocks_nobody() {
    let (mut sender, liar) = victim_sender(1024, 1000);
    within(LIMIT, || {
        for number in 1..2000 {
            // A new sleep each time, and nobody empties the bell.
            liar.words[ASLEEP].store(number, Ordering::Relaxed);
            sender.send(b"").unwrap();
            liar.words[POSITION].store(number * 8, Ordering::Release);
        }
    });
}

#[test]
fn who_leaves_by_word_has_left_and_who_hangs_up_has_died() {
    let (mut receiver, liar) = victim_receiver(64);
    liar.words[STATE].store(2, Ordering::Relaxed);
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::Detached);
    liar.words[STATE].store(1, Ordering::Relaxed);
    assert_eq!(receiver.try_recv().unwrap_err(), RecvError::Detached, "it stays so");
    let (mut sender, liar) = victim_sender(64, 1000);
    sender.send(&[0; 56]).unwrap();
    drop(liar);
    assert_eq!(within(LIMIT, || sender.send(b"")), Err(SendError::PeerDied));
}

#[test]
fn a_peer_cannot_write_what_we_made() {
    let (mut sender, liar) = victim_sender(64, 1000);
    sender.send(b"true").unwrap();
    // SAFETY: only loads are made through it.
    let seen = unsafe { liar.theirs.share::<AtomicU64>(HEAD_WORDS as u64 * 8) }.unwrap();
    let word: &Mapped<AtomicU64> = &seen;
    let header = u64::from(FIRST | LAST | 4) | u64::from(u32::from_le_bytes(*b"true")) << 32;
    assert_eq!(word.load(Ordering::Relaxed), header);
    let flags = MprotectFlags::READ | MprotectFlags::WRITE;
    let base = seen.mapping().region().base().as_ptr();
    // SAFETY: it fails, and changes nothing.
    let end = unsafe { mprotect(base.cast(), 4096, flags) };
    assert_eq!(end, Err(rustix::io::Errno::ACCESS));
}
