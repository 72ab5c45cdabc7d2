//! The queues of `shm-mq` beside `rtrb` and `crossbeam-queue`, in one run: how many records there
//! are in a second. Beside a bare line, a bare ring, sockets and queues between processes they
//! stand in `benches/compare`.
//!
//! ```sh
//! cargo build --release -p benches && target/release/queue_ratio [ROUNDS [GROUP]]
//! ```
//!
//! Two threads (of `work` also three), each on a processor of its own; payloads are written by the
//! sender and read by the receiver. Round by round in turn, medians over the rounds.
use benches::{many, memory, two};
use crossbeam_queue::ArrayQueue;
use shm_mq::fan_in::{Event, FanIn, FanInConfig};
use shm_mq::spsc::{Queue, Receiver};
use shm_mq::work::{WorkConfig, WorkQueue};
use std::hint::black_box;

const RECORDS: u64 = 2_000_000;
const JOBS: u64 = 500_000;

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

/// Millions of records of 64 bytes in a second through `spsc`, published 32 at a time.
fn stream_of_records() -> f64 {
    let (mapping, me, at) = memory(Queue::bytes_for(1 << 17));
    // SAFETY: nobody else has the bytes.
    let queue = unsafe { Queue::create(&mapping, at, 1 << 17, 0) }.expect("a queue");
    let mut sender = queue.sender(&me).expect("free");
    let mut receiver = queue.receiver(&me).expect("free");
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
        ("64 B, M/s: rtrb", &stream_of_rtrb),
        ("  spsc", &stream_of_records),
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
