//! The queues of `shm-mq` beside a bare cache line, a bare ring, `rtrb` and `crossbeam-queue`, in
//! one run: how long a record is under way, and how many there are in a second.
//!
//! ```sh
//! cargo build --release -p benches && target/release/queue_ratio [ROUNDS [GROUP]]
//! ```
//!
//! Two threads (of `work` also three), each on a processor of its own; payloads are written by the
//! sender and read by the receiver. Round by round in turn, medians over the rounds. Whether the
//! two processors share a core, the first line tells: some 40 ns one way then, some 170 otherwise.
use benches::{Line, line, many, memory, two};
use crossbeam_queue::ArrayQueue;
use shm_core::participants::Member;
use shm_core::sync::{AtomicU64, Ordering};
use shm_mq::fan_in::{Event, FanIn, FanInConfig};
use shm_mq::spsc::{Queue, Receiver, Sender};
use shm_mq::work::{WorkConfig, WorkQueue};
use std::hint::black_box;
use std::sync::Arc;

const PINGS: u64 = 200_000;
const RECORDS: u64 = 2_000_000;
const JOBS: u64 = 500_000;
/// Of long records: the ring, and what goes through it.
const LONG_RING: usize = 1 << 18;
const LONG_BYTES: u64 = 1 << 30;

/// Nanoseconds one way, of so many lines that go to and fro: the first word of the first one says
/// that all are there.
fn bare_ping(lines: usize) -> f64 {
    let all = |_| (0..lines).map(|_| line()).collect::<Vec<_>>();
    let [there, back] = [(); 2].map(all);
    let give = |to: &[Line], number| {
        for word in to.iter().flat_map(|line| &line.0).skip(1) {
            word.store(number, Ordering::Relaxed);
        }
        to[0].0[0].store(number, Ordering::Release);
    };
    let take = |from: &[Line], number| {
        while from[0].0[0].load(Ordering::Acquire) != number {
            std::hint::spin_loop();
        }
        let words = from.iter().flat_map(|line| &line.0);
        black_box(words.map(|word| word.load(Ordering::Relaxed)).sum::<u64>());
    };
    let seconds = two(
        || {
            for number in 1..=PINGS {
                give(&there, number);
                take(&back, number);
            }
        },
        || {
            for number in 1..=PINGS {
                take(&there, number);
                give(&back, number);
            }
        },
    );
    seconds * 1e9 / (2 * PINGS) as f64
}

/// A table, and so many queues behind it.
fn queues(count: u64, ring_bytes: u64) -> (Arc<Member>, Vec<Queue>) {
    let each = Queue::bytes_for(ring_bytes).next_multiple_of(128);
    let (mapping, me, first) = memory(count * each);
    let queue = |index| {
        // SAFETY: nobody else has the bytes; the queues do not overlap.
        unsafe { Queue::create(&mapping, first + index * each, ring_bytes, 0) }.expect("a queue")
    };
    (me, (0..count).map(queue).collect())
}

fn ends(me: &Arc<Member>, queue: &Queue) -> (Sender, Receiver) {
    (queue.sender(me).expect("free"), queue.receiver(me).expect("free"))
}

/// Reads each eighth byte.
fn read(record: &[u8]) -> u64 {
    record.iter().step_by(8).map(|byte| u64::from(*byte)).sum()
}

fn next_record(receiver: &mut Receiver) -> u64 {
    loop {
        if let Some(record) = receiver.try_recv().expect("sound") {
            return read(&record);
        }
        std::hint::spin_loop();
    }
}

/// Nanoseconds one way, of records of `bytes`.
fn ping(bytes: usize) -> f64 {
    let (me, queues) = queues(2, 1 << 14);
    let (mut there, mut theirs) = ends(&me, &queues[0]);
    let (mut back, mut ours) = ends(&me, &queues[1]);
    let record = vec![1; bytes];
    let seconds = two(
        || {
            for _ in 0..PINGS {
                assert!(there.try_send(&record).expect("sound"));
                black_box(next_record(&mut ours));
            }
        },
        || {
            for _ in 0..PINGS {
                black_box(next_record(&mut theirs));
                assert!(back.try_send(&record).expect("sound"));
            }
        },
    );
    seconds * 1e9 / (2 * PINGS) as f64
}

/// Nanoseconds one way, of records of `bytes` that nobody writes or reads: they change hands where
/// they lie.
fn ping_in_place(bytes: usize) -> f64 {
    let (me, queues) = queues(2, 4 * bytes as u64);
    let (mut there, mut theirs) = ends(&me, &queues[0]);
    let (mut back, mut ours) = ends(&me, &queues[1]);
    let give = |to: &mut Sender| to.reserve(bytes).expect("sound").expect("room").commit();
    let take = |from: &mut Receiver| {
        while from.try_recv().expect("sound").is_none() {
            std::hint::spin_loop();
        }
    };
    let seconds = two(
        || {
            for _ in 0..PINGS {
                give(&mut there);
                take(&mut ours);
            }
        },
        || {
            for _ in 0..PINGS {
                take(&mut theirs);
                give(&mut back);
            }
        },
    );
    seconds * 1e9 / (2 * PINGS) as f64
}

/// Millions of records of 64 bytes in a second, of a ring that does nothing but carry them: each
/// slot has a word that says whose turn it is, and the reader says now and then how far it is.
fn bare_ring() -> f64 {
    const SLOTS: u64 = 1024;
    let words: Vec<AtomicU64> = (0..9 * SLOTS).map(|_| AtomicU64::new(0)).collect();
    let slot = |number: u64| words[(number % SLOTS * 9) as usize..][..9].split_first().expect("9");
    let read = line();
    let seconds = two(
        || {
            let mut seen = 0;
            for number in 0..RECORDS {
                while number - seen == SLOTS {
                    seen = read.0[0].load(Ordering::Acquire);
                }
                let (turn, bytes) = slot(number);
                bytes.iter().for_each(|word| word.store(number, Ordering::Relaxed));
                turn.store(number + 1, Ordering::Release);
            }
        },
        || {
            for number in 0..RECORDS {
                let (turn, bytes) = slot(number);
                while turn.load(Ordering::Acquire) != number + 1 {
                    std::hint::spin_loop();
                }
                black_box(bytes.iter().map(|word| word.load(Ordering::Relaxed)).sum::<u64>());
                if number.is_multiple_of(32) {
                    read.0[0].store(number, Ordering::Release);
                }
            }
            read.0[0].store(RECORDS, Ordering::Release);
        },
    );
    RECORDS as f64 / seconds / 1e6
}

/// The same through `spsc`, published 32 at a time.
fn stream_of_records() -> f64 {
    let (me, queues) = queues(1, 1 << 17);
    let (mut sender, mut receiver) = ends(&me, &queues[0]);
    let record = [1; 64];
    let seconds = two(
        || {
            while sender.sent() < RECORDS {
                if !sender.push(&record).expect("sound") {
                    std::hint::spin_loop();
                } else if sender.sent().is_multiple_of(32) {
                    sender.flush().expect("sound");
                }
            }
            sender.flush().expect("sound");
        },
        || {
            for _ in 0..RECORDS {
                black_box(next_record(&mut receiver));
            }
        },
    );
    RECORDS as f64 / seconds / 1e6
}

fn stream_of_rtrb() -> f64 {
    let (mut sender, mut receiver) = rtrb::RingBuffer::<[u64; 8]>::new(1024);
    let seconds = two(
        || {
            for number in 0..RECORDS {
                while sender.push([number; 8]).is_err() {
                    std::hint::spin_loop();
                }
            }
        },
        || {
            for _ in 0..RECORDS {
                let record = loop {
                    match receiver.pop() {
                        Ok(record) => break record,
                        Err(_) => std::hint::spin_loop(),
                    }
                };
                black_box(record.iter().sum::<u64>());
            }
        },
    );
    RECORDS as f64 / seconds / 1e6
}

/// Gigabytes in a second of records of `len` bytes, in a ring of 256 KiB: each byte written, each
/// read, and nothing else done but to say so.
fn bare_bytes(len: usize) -> f64 {
    let slots = LONG_RING / len;
    let words: Vec<AtomicU64> = (0..LONG_RING / 8).map(|_| AtomicU64::new(0)).collect();
    let slot = |number: u64| {
        let first = number as usize % slots * len / 8;
        words[first..first + len / 8].as_ptr().cast::<u8>().cast_mut()
    };
    let (written, read, from) = (line(), line(), vec![1_u8; len]);
    let count = LONG_BYTES / len as u64;
    let seconds = two(
        || {
            for number in 0..count {
                while number - read.0[0].load(Ordering::Acquire) == slots as u64 {
                    std::hint::spin_loop();
                }
                // SAFETY: the slot is the writer's until `written` says otherwise.
                unsafe { slot(number).copy_from_nonoverlapping(black_box(from.as_ptr()), len) };
                written.0[0].store(number + 1, Ordering::Release);
            }
        },
        || {
            for number in 0..count {
                while written.0[0].load(Ordering::Acquire) == number {
                    std::hint::spin_loop();
                }
                // SAFETY: the slot is the reader's until `read` says otherwise.
                black_box(all_of(unsafe { std::slice::from_raw_parts(slot(number), len) }));
                read.0[0].store(number + 1, Ordering::Release);
            }
        },
    );
    LONG_BYTES as f64 / seconds / 1e9
}

/// Reads each byte.
fn all_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |all, byte| all ^ byte).into()
}

/// The same through `spsc`.
fn long_records(len: usize) -> f64 {
    let (me, queues) = queues(1, LONG_RING as u64);
    let (mut sender, mut receiver) = ends(&me, &queues[0]);
    // With its header, as long as a slot.
    let (record, count) = (vec![1; len - 8], LONG_BYTES / len as u64);
    let seconds = two(
        || {
            for _ in 0..count {
                while !sender.try_send(black_box(&record)).expect("sound") {
                    std::hint::spin_loop();
                }
            }
        },
        || {
            for _ in 0..count {
                let record = loop {
                    match receiver.try_recv().expect("sound") {
                        Some(record) => break record,
                        None => std::hint::spin_loop(),
                    }
                };
                black_box(all_of(&record));
            }
        },
    );
    LONG_BYTES as f64 / seconds / 1e9
}

/// The same through a Unix socket of the kind `SOCK_SEQPACKET`.
fn long_packets(len: usize) -> f64 {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
    let (unix, packets) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let pair = rustix::net::socketpair(unix, packets, SocketFlags::CLOEXEC, None);
    let (from, to) = pair.expect("a pair");
    let (sent, mut received) = (vec![1; len], vec![0; len]);
    let count = LONG_BYTES / len as u64;
    let seconds = two(
        || {
            for _ in 0..count {
                let sent = rustix::net::send(&from, black_box(&sent), SendFlags::empty());
                assert_eq!(sent, Ok(len));
            }
        },
        || {
            for _ in 0..count {
                let got = rustix::net::recv(&to, &mut received[..], RecvFlags::empty());
                assert_eq!(got.expect("it lives").0, len);
                black_box(all_of(&received));
            }
        },
    );
    LONG_BYTES as f64 / seconds / 1e9
}

/// Millions of jobs of so many words in a second, by so many producers and one worker.
fn jobs<const WORDS: usize>(producers: u64) -> f64 {
    let config = WorkConfig::new(256, 8 * WORDS as u64);
    let (mapping, me, at) = memory(WorkQueue::bytes_for(&config));
    // SAFETY: nobody else has the bytes.
    let queue = unsafe { WorkQueue::create(&mapping, at, &config) }.expect("a queue");
    many(
        producers,
        JOBS,
        |count| {
            let mut producer = queue.producer(&me).expect("ours");
            for _ in 0..count {
                while !producer.try_send([[1; 8]; WORDS].as_flattened()).expect("sound") {
                    std::thread::yield_now();
                }
            }
        },
        || {
            let mut worker = queue.worker(&me).expect("ours");
            for _ in 0..JOBS {
                loop {
                    if let Some(job) = worker.try_claim().expect("sound") {
                        black_box(read(&job));
                        job.ack().expect("ours");
                        break;
                    }
                    std::thread::yield_now();
                }
            }
        },
    )
}

/// The same through a lane each.
fn lanes<const WORDS: usize>(senders: u64) -> f64 {
    let config = FanInConfig::new(4, 1 << 14);
    let (mapping, me, at) = memory(FanIn::bytes_for(&config));
    // SAFETY: nobody else has the bytes.
    let fan_in = unsafe { FanIn::create(&mapping, at, &config) }.expect("a fan-in");
    many(
        senders,
        JOBS,
        |count| {
            let mut sender = fan_in.sender(&me).expect("a lane");
            for _ in 0..count {
                while !sender.try_send([[1; 8]; WORDS].as_flattened()).expect("sound") {
                    std::thread::yield_now();
                }
            }
        },
        || {
            let mut receiver = fan_in.receiver(&me).expect("ours");
            let mut left = JOBS;
            while left > 0 {
                match receiver.try_recv().expect("sound") {
                    Some(Event::Record(record)) => {
                        black_box(read(&record));
                        left -= 1;
                    }
                    Some(Event::End(_)) => {}
                    None => std::thread::yield_now(),
                }
            }
        },
    )
}

fn array_queue<const WORDS: usize>(producers: u64) -> f64 {
    let queue = ArrayQueue::<[u64; WORDS]>::new(256);
    many(
        producers,
        JOBS,
        |count| {
            for number in 0..count {
                let mut job = [number; WORDS];
                while let Err(back) = queue.push(job) {
                    job = back;
                    std::thread::yield_now();
                }
            }
        },
        || {
            for _ in 0..JOBS {
                let job = loop {
                    match queue.pop() {
                        Some(job) => break job,
                        None => std::thread::yield_now(),
                    }
                };
                black_box(job.iter().sum::<u64>());
            }
        },
    )
}

fn main() {
    benches::print(&[
        ("one way, ns: a bare line", &|| bare_ping(1)),
        ("  spsc, 8 B", &|| ping(8)),
        ("  spsc, 56 B", &|| ping(56)),
        ("  two bare lines", &|| bare_ping(2)),
        ("  spsc, 120 B", &|| ping(120)),
        ("  four bare lines", &|| bare_ping(4)),
        ("  spsc, 248 B", &|| ping(248)),
        ("  spsc, 64 KiB in place", &|| ping_in_place(1 << 16)),
        ("  spsc, 1 MiB in place", &|| ping_in_place(1 << 20)),
        ("64 B, M/s: a bare ring", &bare_ring),
        ("  spsc", &stream_of_records),
        ("  rtrb", &stream_of_rtrb),
        ("64 KiB, GB/s: a bare ring", &|| bare_bytes(1 << 16)),
        ("  spsc", &|| long_records(1 << 16)),
        ("  a SEQPACKET socket", &|| long_packets(1 << 16)),
        ("1 KiB, GB/s: a bare ring", &|| bare_bytes(1 << 10)),
        ("  spsc", &|| long_records(1 << 10)),
        ("  a SEQPACKET socket", &|| long_packets(1 << 10)),
        ("24 B, one to one, M/s: ArrayQueue", &|| array_queue::<3>(1)),
        ("  work", &|| jobs::<3>(1)),
        ("  fan_in", &|| lanes::<3>(1)),
        ("24 B, two to one, M/s: ArrayQueue", &|| array_queue::<3>(2)),
        ("  work", &|| jobs::<3>(2)),
        ("  fan_in", &|| lanes::<3>(2)),
        ("56 B, one to one, M/s: ArrayQueue", &|| array_queue::<7>(1)),
        ("  work", &|| jobs::<7>(1)),
        ("  fan_in", &|| lanes::<7>(1)),
        ("56 B, two to one, M/s: ArrayQueue", &|| array_queue::<7>(2)),
        ("  work", &|| jobs::<7>(2)),
        ("  fan_in", &|| lanes::<7>(2)),
    ]);
}
