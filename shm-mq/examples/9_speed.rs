//! How fast a stream is between two threads of one process, which is how fast it is between two
//! processes: they share the same memory in the same way. Prints; asserts nothing.
//!
//! `cargo run --release -p shm-mq --example 9_speed`
use shm_core::mapping::Mapping;
use shm_core::participants::Table;
use shm_mq::stream::{Receiver, RecvError, Sender, Stream};
use std::error::Error;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn stream(ring_bytes: u64) -> Result<(Sender, Receiver), Box<dyn Error>> {
    let at = Table::bytes_for(2).next_multiple_of(64);
    let mapping = Mapping::heap((at + Stream::bytes_for(ring_bytes)) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 2) }?;
    // SAFETY: as above, and the table ends before.
    let stream = unsafe { Stream::create(&mapping, at, ring_bytes) }?;
    let (ours, theirs) = (table.join()?, table.join()?);
    Ok((stream.sender(&ours)?, stream.receiver(&theirs)?))
}

/// Receives until the sender has gone; returns a sum, so that the bytes are looked at.
fn receive_all(mut receiver: Receiver) -> u64 {
    let mut sum = 0;
    loop {
        match receiver.recv() {
            Ok(message) => {
                let ends = message.first().zip(message.last());
                sum += ends.map_or(0, |(first, last)| u64::from(*first) + u64::from(*last));
            }
            Err(RecvError::Detached) => return sum,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Time to pass `count` messages of `len` bytes, best of three.
fn one_way(ring: u64, len: usize, count: u64, push: bool) -> Result<Duration, Box<dyn Error>> {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let (mut sender, receiver) = stream(ring)?;
        let message = vec![1; len];
        let begin = Instant::now();
        let receiving = thread::spawn(move || receive_all(receiver));
        for _ in 0..count {
            let message = black_box(message.as_slice());
            if push { sender.push(message)? } else { sender.send(message)? }
        }
        drop(sender);
        black_box(receiving.join().expect("the receiver does not panic"));
        best = best.min(begin.elapsed());
    }
    Ok(best)
}

/// Time of one round trip of 8 bytes over two streams, mean of `count`, best of three.
fn round_trip(count: u32) -> Result<Duration, Box<dyn Error>> {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let (mut there, mut arrives) = stream(4096)?;
        let (mut back, mut returns) = stream(4096)?;
        let echo = thread::spawn(move || {
            while let Ok(message) = arrives.recv() {
                if back.send(&message).is_err() {
                    break;
                }
            }
        });
        let begin = Instant::now();
        for _ in 0..count {
            there.send(&[7; 8])?;
            black_box(returns.recv()?[0]);
        }
        best = best.min(begin.elapsed() / count);
        drop(there);
        echo.join().expect("the echo does not panic");
    }
    Ok(best)
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("{:>9} {:>9}  {:>12} {:>12} {:>10}", "ring", "message", "by", "messages/s", "MB/s");
    // Unoptimised, the figures say nothing anyway.
    let bytes: u64 = if cfg!(debug_assertions) { 20_000_000 } else { 2_000_000_000 };
    let count = |len: usize| (bytes / (len as u64 + 100)).clamp(1, 10_000_000);
    let cases =
        [(64 << 10, 8), (64 << 10, 64), (64 << 10, 1024), (4 * MIB, 64 << 10), (4 * MIB, 16 << 20)];
    for (ring, len) in cases {
        for push in [true, false] {
            let seconds = one_way(ring, len, count(len), push)?.as_secs_f64();
            let rate = count(len) as f64 / seconds;
            let by = if push { "push" } else { "send" };
            println!("{ring:>9} {len:>9}  {by:>12} {rate:>12.0} {:>10.0}", rate * len as f64 / 1e6);
        }
    }
    println!("round trip of 8 bytes: {:?}", round_trip((bytes / 20_000) as u32)?);
    Ok(())
}
