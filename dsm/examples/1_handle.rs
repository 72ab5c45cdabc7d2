//! Two processes share a segment. The second one knows nothing but a number.
//!
//! `cargo run -p dsm --example 1_handle` (`DYNAMIC_SHARED_MEMORY_TYPE=memfd` and others work too)
use dsm::toc::{Toc, TocPlan};
use dsm::{Domain, DomainConfig, Segment};
use shm_core::mapping::Mapped;
use shm_core::sync::{AtomicU64, Ordering};
use std::error::Error;
use std::process::Command;

const MAGIC: u64 = 0x6578_616d_706c_6531;
const KEY_COUNTER: u64 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(handle) => worker(&handle),
        None => leader(),
    }
}

fn leader() -> Result<(), Box<dyn Error>> {
    let domain = Domain::open(DomainConfig::new(format!("example-{}", std::process::id())))?;
    let plan = TocPlan::new().chunk(8).keys(1);
    let segment = domain.create_segment(plan.bytes()?)?;
    let toc = Toc::create(segment.mapping(), MAGIC, plan.entries())?;
    toc.insert(KEY_COUNTER, toc.allocate(8)?)?;

    let mut command = Command::new(std::env::current_exe()?);
    command.arg(segment.handle().to_string());
    domain.inheritance()?.apply(&mut command);
    let status = command.status()?;
    println!("{} segment {}: {}", domain.backend(), segment.handle(), status);
    println!("the counter says {}", counter(&segment)?.load(Ordering::Relaxed));
    Ok(())
}

fn worker(handle: &str) -> Result<(), Box<dyn Error>> {
    let domain = Domain::from_env()?;
    let segment = domain.attach(handle.parse()?)?.ok_or("the segment is gone")?;
    counter(&segment)?.fetch_add(42, Ordering::Relaxed);
    Ok(())
}

fn counter(segment: &Segment) -> Result<Mapped<AtomicU64>, Box<dyn Error>> {
    let toc = Toc::attach(segment.mapping(), MAGIC)?;
    let offset = toc.lookup(KEY_COUNTER)?.ok_or("no counter")?;
    Ok(Mapped::new(segment.mapping(), offset)?)
}
