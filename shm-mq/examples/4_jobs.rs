//! Jobs for three workers, one of which crashes in the midst of one: `cargo run -p shm-mq
//! --example 4_jobs`
use dsm::{Domain, DomainConfig, Segment};
use shm_mq::work::{WorkConfig, WorkQueue};
use std::{env, error::Error, process, thread, time::Duration};

const CONFIG: WorkConfig = WorkConfig::new(16, 64);

fn main() -> Result<(), Box<dyn Error>> {
    if let [_, domain, segment] = &env::args().collect::<Vec<_>>()[..] {
        let domain = Domain::open(DomainConfig::new(domain))?;
        let segment = domain.attach(segment.parse()?)?.ok_or("the segment has gone")?;
        return work(&domain, &segment);
    }
    let name = format!("jobs-{}", process::id());
    let domain = Domain::open(DomainConfig::new(&name))?;
    let segment = domain.create_segment(WorkQueue::bytes_for(&CONFIG))?;
    // SAFETY: nobody else has the segment's handle yet.
    let queue = unsafe { WorkQueue::create(segment.mapping(), 0, &CONFIG) }?;
    let mut producer = queue.producer(domain.member())?;
    for dish in ["soup", "salad", "dynamite", "fish", "cheese", "coffee"] {
        producer.send(dish.as_bytes(), None)?;
    }
    let arguments = [name, segment.handle().to_string()];
    let worker = || process::Command::new(env::current_exe()?).args(&arguments).spawn();
    let workers = [worker()?, worker()?, worker()?];
    for mut worker in workers {
        worker.wait()?;
    }
    assert_eq!(queue.status().free, CONFIG.slots, "all is done");
    Ok(())
}

/// Works until the queue is empty and nobody is at work.
fn work(domain: &Domain, segment: &Segment) -> Result<(), Box<dyn Error>> {
    let queue = WorkQueue::attach(segment.mapping(), 0, 0)?;
    let mut worker = queue.worker(domain.member())?;
    loop {
        queue.reap(domain.member());
        let Some(job) = worker.try_claim()? else {
            let status = queue.status();
            if status.ready + status.doing == 0 {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        let dish = String::from_utf8_lossy(&job).into_owned();
        if dish == "dynamite" && job.attempts() == 0 {
            println!("{} cooks {dish}, and is no more", process::id());
            process::exit(1);
        }
        println!("{} cooks {dish}, attempt {}", process::id(), job.attempts() + 1);
        thread::sleep(Duration::from_millis(30));
        job.ack()?;
    }
}
