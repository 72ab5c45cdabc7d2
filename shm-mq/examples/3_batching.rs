//! A million records in batches, written in place; the receiver is replaced half-way and goes on:
//! `cargo run --release -p shm-mq --example 3_batching`
use dsm::{Domain, DomainConfig, Segment};
use shm_mq::spsc::{Queue, Receiver, SendError, Sender};
use std::{env, error::Error, process};

const RECORDS: u64 = 1_000_000;
const RING_BYTES: u64 = 1 << 16;

fn main() -> Result<(), Box<dyn Error>> {
    if let [_, domain, segment, until] = &env::args().collect::<Vec<_>>()[..] {
        let domain = Domain::open(DomainConfig::new(domain))?;
        let segment = domain.attach(segment.parse()?)?.ok_or("the segment has gone")?;
        return receive(&domain, &segment, until.parse()?);
    }
    let name = format!("batching-{}", process::id());
    let domain = Domain::open(DomainConfig::new(&name))?;
    let segment = domain.create_segment(Queue::bytes_for(RING_BYTES))?;
    // SAFETY: nobody else has the segment's handle yet.
    unsafe { Queue::create(segment.mapping(), 0, RING_BYTES, 0) }?;
    let mut sender = Sender::attach(segment.mapping(), 0, 0, domain.member())?;
    let receive_until = |until: u64| {
        let arguments = [name.clone(), segment.handle().to_string(), until.to_string()];
        process::Command::new(env::current_exe()?).args(arguments).spawn()
    };
    let mut receiver = receive_until(RECORDS / 2)?;
    while sender.sent() < RECORDS {
        let number = sender.sent().to_le_bytes();
        // Published 64 at a time, or where there is no room.
        let end = match sender.push(&number) {
            Ok(true) if !sender.sent().is_multiple_of(64) => continue,
            Ok(true) => sender.flush(),
            Ok(false) => sender.send(&number),
            Err(error) => Err(error),
        };
        match end {
            // The first receiver has left, as it was told: the next one goes on.
            Err(SendError::Detached) => {
                receiver.wait()?;
                receiver = receive_until(RECORDS)?;
                sender.wait_for_peer(None)?;
            }
            end => end?,
        }
    }
    sender.flush()?;
    receiver.wait()?;
    Ok(())
}

/// Receives until it has all records before `until`, its predecessor's included.
fn receive(domain: &Domain, segment: &Segment, until: u64) -> Result<(), Box<dyn Error>> {
    let mut receiver = Receiver::attach(segment.mapping(), 0, 0, domain.member())?;
    let first = receiver.received();
    while receiver.received() < until {
        let expected = receiver.received();
        let number = u64::from_le_bytes((*receiver.recv()?).try_into()?);
        assert_eq!(number, expected, "in order, and none twice");
    }
    println!("process {} has received records {first} to {}", process::id(), until - 1);
    Ok(())
}
