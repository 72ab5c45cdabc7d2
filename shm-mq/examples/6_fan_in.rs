//! Three workers send what they found to their leader, one of them crashes, and the leader is told:
//! `cargo run -p shm-mq --example 6_fan_in`
use dsm::{Domain, DomainConfig, Segment};
use shm_core::participants::ParticipantId;
use shm_mq::fan_in::{Event, FanIn, FanInConfig};
use std::collections::BTreeMap;
use std::{env, error::Error, process};

const CONFIG: FanInConfig = FanInConfig::new(8, 1 << 12);
const WORKERS: u64 = 3;
const RESULTS: u64 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    if let [_, domain, segment, worker] = &env::args().collect::<Vec<_>>()[..] {
        let domain = Domain::open(DomainConfig::new(domain))?;
        let segment = domain.attach(segment.parse()?)?.ok_or("the segment has gone")?;
        return work(&domain, &segment, worker.parse()?);
    }
    let name = format!("fan-in-{}", process::id());
    let domain = Domain::open(DomainConfig::new(&name))?;
    let segment = domain.create_segment(FanIn::bytes_for(&CONFIG))?;
    // SAFETY: nobody else has the segment's handle yet.
    let fan_in = unsafe { FanIn::create(segment.mapping(), 0, &CONFIG) }?;
    let mut receiver = fan_in.receiver(domain.member())?;
    let mut workers = Vec::new();
    for worker in 0..WORKERS {
        let arguments = [name.clone(), segment.handle().to_string(), worker.to_string()];
        workers.push(process::Command::new(env::current_exe()?).args(arguments).spawn()?);
    }
    let mut sums: BTreeMap<ParticipantId, u64> = BTreeMap::new();
    let mut ended = 0;
    while ended < WORKERS {
        match receiver.recv()? {
            Event::Record(record) => {
                let result = u64::from_le_bytes((*record).try_into()?);
                *sums.entry(record.sender()).or_default() += result;
            }
            Event::End(end) => {
                let (sum, count) = (sums.get(&end.sender()).copied(), end.received());
                println!("{:?}: {count} results, sum {}", end.why(), sum.unwrap_or_default());
                ended += 1;
            }
        }
    }
    for mut worker in workers {
        worker.wait()?;
    }
    Ok(())
}

/// Sends its results; the last worker does not live to send the last one.
fn work(domain: &Domain, segment: &Segment, worker: u64) -> Result<(), Box<dyn Error>> {
    let fan_in = FanIn::attach(segment.mapping(), 0, 0)?;
    let mut sender = fan_in.sender(domain.member())?;
    for number in 0..RESULTS {
        if worker + 1 == WORKERS && number + 1 == RESULTS {
            process::abort();
        }
        sender.send(&number.to_le_bytes())?;
    }
    Ok(())
}
