//! Several processes count words in one hash, which each of them finds by its name. One is killed
//! on the way, and nothing that it counted is lost.
//!
//! `cargo run -p dsm --example 3_named_hash`
use dsm::hash::Size;
use dsm::{Domain, DomainConfig, HashHandle, HashSpec, SharedHash};
use std::error::Error;
use std::process::Command;

const TEXT: &str = "the fox and the hound and the hare";

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(role) => worker(&role),
        None => leader(),
    }
}

/// The same call in every process: whoever comes first makes it.
fn words(domain: &Domain) -> Result<SharedHash, Box<dyn Error>> {
    Ok(domain.named_hash("words", &HashSpec::new(Size::UpTo(32), Size::Fixed(8)))?)
}

fn leader() -> Result<(), Box<dyn Error>> {
    let domain = Domain::open(DomainConfig::new(format!("example-{}", std::process::id())))?;
    let words = words(&domain)?;
    let start = |role: &str| -> Result<_, Box<dyn Error>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role);
        domain.inheritance()?.apply(&mut command);
        Ok(command.spawn()?)
    };
    let mut workers = [start("counts")?, start("counts")?, start("is killed")?];
    for worker in &mut workers {
        println!("a worker: {}", worker.wait()?);
    }
    println!("reaped {} process", words.reap());
    let hash = &mut words.join()?;
    for word in ["the", "and", "fox"] {
        println!("{word}: {}", count(hash, word)?);
    }
    domain.remove_named("words")?;
    Ok(())
}

fn worker(role: &str) -> Result<(), Box<dyn Error>> {
    let domain = Domain::from_env()?;
    let hash = &mut words(&domain)?.join()?;
    for word in TEXT.split(' ') {
        add_one(hash, word)?;
    }
    if role == "is killed" {
        std::process::abort();
    }
    Ok(())
}

fn count(hash: &mut HashHandle, word: &str) -> Result<u64, Box<dyn Error>> {
    let mut bytes = [0; 8];
    hash.get(word.as_bytes(), &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Whoever changes the count between our look and our change makes us look again.
fn add_one(hash: &mut HashHandle, word: &str) -> Result<(), Box<dyn Error>> {
    let key = word.as_bytes();
    loop {
        let had = count(hash, word)?;
        let next = (had + 1).to_le_bytes();
        let is_done = match had {
            0 => hash.insert(key, &next)?,
            had => hash.compare_update(key, &had.to_le_bytes(), &next)?,
        };
        if is_done {
            return Ok(());
        }
    }
}
