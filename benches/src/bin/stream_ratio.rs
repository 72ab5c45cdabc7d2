//! The streams of `shm-mq` beside a bare copy, and sleepers beside a bare futex, in one run: how
//! many messages there are in a second, and how long it takes until who sleeps has one.
//!
//! ```sh
//! cargo build --release -p benches && target/release/stream_ratio [ROUNDS [GROUP]]
//! ```
//!
//! Two threads, each on a processor of its own; the receiver touches the first and the last byte.
//! Round by round in turn, medians over the rounds.
use benches::{memory, two};
use shm_core::futex::Futex;
use shm_core::sync::{AtomicU64, Ordering};
use shm_mq::spsc::Queue;
use shm_mq::stream::{Receiver, RecvError, Sender, Stream};
use std::hint::black_box;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const WAKES: u32 = 5000;
/// Long enough for a receiver to fall asleep.
const PAUSE: Duration = Duration::from_micros(100);
const OPENED: u64 = 1000;

fn stream(ring_bytes: u64) -> (Sender, Receiver) {
    let (mapping, me, at) = memory(Stream::bytes_for(ring_bytes));
    // SAFETY: nobody else has the bytes.
    let stream = unsafe { Stream::create(&mapping, at, ring_bytes) }.expect("a stream");
    (stream.sender(&me).expect("free"), stream.receiver(&me).expect("free"))
}

/// Messages of `len` bytes in a second, 256 MiB of them at most.
fn messages(ring_bytes: u64, len: usize) -> f64 {
    let count = (256 * MIB / len as u64).min(2_000_000);
    let (mut sender, mut receiver) = stream(ring_bytes);
    let message = vec![1; len];
    let seconds = two(
        || {
            for _ in 0..count {
                sender.push(black_box(&message)).expect("it lives");
            }
            drop(sender);
        },
        || {
            loop {
                match receiver.recv() {
                    Ok(message) => black_box((message.first(), message.last())),
                    Err(RecvError::Detached) => return,
                    Err(error) => panic!("{error}"),
                };
            }
        },
    );
    count as f64 / seconds
}

fn millions(ring_bytes: u64, len: usize) -> f64 {
    messages(ring_bytes, len) / 1e6
}

fn gigabytes(ring_bytes: u64, len: usize) -> f64 {
    messages(ring_bytes, len) * len as f64 / 1e9
}

/// Gigabytes in a second that one thread copies, from one buffer into a ring of 4 MiB.
fn bare_copy(len: usize) -> f64 {
    let (from, mut ring) = (vec![1_u8; len], vec![0_u8; 4 * MIB as usize]);
    let (start, rounds) = (Instant::now(), 50);
    for _ in 0..rounds {
        for to in ring.chunks_exact_mut(len) {
            to.copy_from_slice(black_box(&from));
        }
        black_box(&mut ring);
    }
    (rounds * ring.len()) as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Microseconds from a call of `give` until `take`, which has fallen asleep by then, returns: the
/// median of all.
fn asleep(mut give: impl FnMut(u32) + Send, mut take: impl FnMut(u32) + Send) -> f64 {
    let (start, given) = (Instant::now(), AtomicU64::new(0));
    let mut late = Vec::with_capacity(WAKES as usize);
    two(
        || {
            for number in 1..=WAKES {
                let pause = Instant::now();
                while pause.elapsed() < PAUSE {
                    std::hint::spin_loop();
                }
                given.store(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                give(number);
            }
        },
        || {
            for number in 1..=WAKES {
                take(number);
                // Ordered by what was taken.
                let given = given.load(Ordering::Relaxed);
                late.push((start.elapsed().as_nanos() as u64).saturating_sub(given));
            }
        },
    );
    late.sort_unstable();
    late[late.len() / 2] as f64 / 1e3
}

fn bare_wake() -> f64 {
    let futex = Futex::new(0);
    asleep(
        |number| {
            futex.word().store(number, Ordering::Release);
            futex.wake_all();
        },
        |number| {
            while futex.word().load(Ordering::Acquire) < number {
                futex.wait(number - 1, None);
            }
        },
    )
}

/// The same through a `spsc`, by a call that waits.
fn wake() -> f64 {
    let (mapping, me, at) = memory(Queue::bytes_for(4096));
    // SAFETY: nobody else has the bytes.
    let queue = unsafe { Queue::create(&mapping, at, 4096, 0) }.expect("a queue");
    let mut sender = queue.sender(&me).expect("free");
    let mut receiver = queue.receiver(&me).expect("free");
    asleep(
        |_| sender.send(b"8 bytes.").expect("it lives"),
        |_| drop(black_box(receiver.recv().expect("it lives"))),
    )
}

/// Microseconds to open a queue that exists, both ends, and to leave it.
fn open() -> f64 {
    let (mapping, me, at) = memory(Queue::bytes_for(MIB));
    // SAFETY: nobody else has the bytes.
    unsafe { Queue::create(&mapping, at, MIB, 0) }.expect("a queue");
    let start = Instant::now();
    for _ in 0..OPENED {
        let queue = Queue::attach(&mapping, at, 0).expect("it is there");
        black_box((queue.sender(&me).expect("free"), queue.receiver(&me).expect("free")));
    }
    start.elapsed().as_secs_f64() * 1e6 / OPENED as f64
}

fn main() {
    benches::print(&[
        ("4 MiB ring, M/s: 8 B", &|| millions(4 * MIB, 8)),
        ("  64 B", &|| millions(4 * MIB, 64)),
        ("  1 KiB", &|| millions(4 * MIB, 1024)),
        ("64 KiB ring, M/s: 64 B", &|| millions(MIB / 16, 64)),
        ("64 KiB, GB/s: a bare copy", &|| bare_copy(1 << 16)),
        ("  4 MiB ring", &|| gigabytes(4 * MIB, 1 << 16)),
        ("  64 KiB ring", &|| gigabytes(MIB / 16, 1 << 16)),
        ("asleep, one way, us: a bare futex", &bare_wake),
        ("  spsc", &wake),
        ("opening a spsc of 1 MiB, us", &open),
    ]);
    println!("{:<44} {:>9}", "a spsc of 1 MiB takes besides, bytes", Queue::bytes_for(MIB) - MIB);
}
