//! One sleep for all: two cooks, a clock and the doorbell, a file descriptor:
//! `cargo run -p shm-mq --example 8_wait_set`
use dsm::{Domain, DomainConfig, Segment};
use shm_mq::spsc::Queue;
use shm_mq::waitset::{Descriptor, Interest, Interval, Source, WaitSet};
use std::io::{Read, Write};
use std::os::{fd::AsFd, unix::net::UnixStream};
use std::{env, error::Error, process, thread, time::Duration};

const RING_BYTES: u64 = 1024;
const QUEUE_BYTES: u64 = Queue::bytes_for(RING_BYTES).next_multiple_of(64);

fn main() -> Result<(), Box<dyn Error>> {
    if let [_, domain, segment, cook] = &env::args().collect::<Vec<_>>()[..] {
        let domain = Domain::open(DomainConfig::new(domain))?;
        let segment = domain.attach(segment.parse()?)?.ok_or("the segment has gone")?;
        return work(&domain, &segment, cook.parse()?);
    }
    let name = format!("kitchen-{}", process::id());
    let domain = Domain::open(DomainConfig::new(&name))?;
    let segment = domain.create_segment(2 * QUEUE_BYTES)?;
    let mut cooks = Vec::new();
    for number in 0..2 {
        let place = number * QUEUE_BYTES;
        // SAFETY: nobody else has the segment's handle yet.
        let queue = unsafe { Queue::create(segment.mapping(), place, RING_BYTES, 0) }?;
        cooks.push((number, queue.receiver(domain.member())?));
    }
    let cook = |number: u64| {
        let arguments = [name.clone(), segment.handle().to_string(), number.to_string()];
        process::Command::new(env::current_exe()?).args(arguments).spawn()
    };
    let mut children = [cook(0)?, cook(1)?];

    let (mut bell, mut button) = UnixStream::pair()?;
    let mut clock = Interval::every(Duration::from_millis(100));
    const CLOCK: u64 = 10;
    const BELL: u64 = 11;
    let mut set = WaitSet::new();
    while !cooks.is_empty() {
        let mut door = Descriptor::new(bell.as_fd(), Interest::Readable);
        let mut sources: Vec<(u64, &mut dyn Source)> = Vec::new();
        for (number, receiver) in &mut cooks {
            sources.push((*number, receiver));
        }
        sources.push((CLOCK, &mut clock));
        sources.push((BELL, &mut door));
        let ready = set.wait(&mut sources, None)?;
        if ready.contains(&CLOCK) && clock.passed() > 0 {
            println!("the clock ticks, and somebody rings");
            button.write_all(b"!")?;
        }
        if ready.contains(&BELL) {
            bell.read_exact(&mut [0])?;
            println!("the door");
        }
        cooks.retain_mut(|(number, receiver)| {
            loop {
                match receiver.try_recv() {
                    Ok(Some(dish)) => println!("cook {number}: {}", String::from_utf8_lossy(&dish)),
                    Ok(None) => break true,
                    Err(end) => {
                        println!("cook {number}: {end}");
                        break false;
                    }
                }
            }
        });
    }
    for child in &mut children {
        child.wait()?;
    }
    Ok(())
}

/// Cooks three dishes; cook number 1 does not survive the second.
fn work(domain: &Domain, segment: &Segment, cook: u64) -> Result<(), Box<dyn Error>> {
    let queue = Queue::attach(segment.mapping(), cook * QUEUE_BYTES, 0)?;
    let mut sender = queue.sender(domain.member())?;
    for dish in ["soup", "fish", "cheese"] {
        thread::sleep(Duration::from_millis(80));
        if cook == 1 && dish == "cheese" {
            process::abort();
        }
        sender.send(dish.as_bytes())?;
    }
    Ok(())
}
