//! Two processes share a pool of pages. One is killed while it changes them; the other goes on, and
//! every page is whole.
//!
//! `cargo run -p buffer-pool --example 1_pool`
#![cfg_attr(any(shm_loom, shm_explore), no_main)]
#![cfg(not(any(shm_loom, shm_explore)))]
use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{FileOptions, PageView, Pool, PoolConfig, PoolOptions, Session};
use dsm::{Domain, DomainConfig};
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Four times as many as the pool has room for.
const BLOCKS: u32 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.as_slice() {
        [_, domain, path] => worker(domain, Path::new(path)),
        _ => leader(),
    }
}

fn pool(domain: &Domain) -> Result<Pool, Box<dyn Error>> {
    let config = PoolConfig { frames: 16, frames_max: 64, ..PoolConfig::new(1 << 20) };
    Ok(Pool::named(domain, "pool", &config, PoolOptions::default())?)
}

fn register(session: &Session, path: &Path) -> Result<FileNumber, Box<dyn Error>> {
    let options = FileOptions { create: true, ..FileOptions::default() };
    Ok(session.register(FileKey { id: 1, fork: 0 }, path, &options)?)
}

fn leader() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("counts");
    let domain = Domain::open(DomainConfig::new(format!("example-{}", std::process::id())))?;
    let pool = pool(&domain)?;
    let session = pool.session()?;
    let file = register(&session, &path)?;
    session.extend(file, BLOCKS)?;

    let mut worker = Command::new(std::env::current_exe()?);
    let mut worker = worker.arg(domain.name()).arg(&path).spawn()?;
    std::thread::sleep(Duration::from_millis(100));
    worker.kill()?;
    worker.wait()?;

    let mut changes = 0;
    for block in 0..BLOCKS {
        changes += session.read(file, block, count)?.ok_or("a page that is half changed")?;
    }
    session.sync(file)?;
    println!("{changes} changes, each whole; {:?}", pool.stats());
    drop((session, pool));
    domain.remove_named("pool")?;
    Ok(())
}

/// Counts in one page after the other, until it is killed.
fn worker(domain: &str, path: &Path) -> Result<(), Box<dyn Error>> {
    let domain = Domain::open(DomainConfig::new(domain))?;
    let pool = pool(&domain)?;
    let session = pool.session()?;
    let file = register(&session, path)?;
    for block in (0..BLOCKS).cycle() {
        let page = session.page(file, block)?;
        let mut held = page.exclusive()?;
        let count = count(held.view()).ok_or("a page that is half changed")? + 1;
        // All of the page, but for what is the pool's.
        let bytes = count.to_le_bytes().repeat((held.view().len() - HEADER_BYTES) / 8);
        held.write(&[(HEADER_BYTES, &bytes)])?;
    }
    Ok(())
}

/// The number of which the page is full.
fn count(view: PageView<'_>) -> Option<u64> {
    let count = view.u64(HEADER_BYTES)?;
    let is_whole = (HEADER_BYTES..view.len()).step_by(8).all(|at| view.u64(at) == Some(count));
    is_whole.then_some(count)
}
