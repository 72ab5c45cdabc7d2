//! A process is killed with a segment attached. The others go on, and take back what it held.
//!
//! `cargo run -p dsm --example 2_killed`
use dsm::{Domain, DomainConfig};
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(_) => victim(),
        None => survivor(),
    }
}

fn survivor() -> Result<(), Box<dyn Error>> {
    let domain = Domain::open(DomainConfig::new(format!("example-{}", std::process::id())))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("victim").stdout(Stdio::piped());
    domain.inheritance()?.apply(&mut command);
    let mut child = command.spawn()?;
    let mut handle = String::new();
    BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut handle)?;
    println!("segment {} is attached by {} process", handle.trim(), attached(&domain));

    child.kill()?;
    child.wait()?;
    println!("killed: it still seems attached by {}", attached(&domain));
    println!("reaped {} process; segments left: {}", domain.reap(), domain.segments().len());
    Ok(())
}

fn attached(domain: &Domain) -> usize {
    domain.segments().iter().map(|segment| segment.attached.len()).sum()
}

fn victim() -> Result<(), Box<dyn Error>> {
    let domain = Domain::from_env()?;
    let segment = domain.create_segment(1 << 20)?;
    println!("{}", segment.handle());
    loop {
        std::thread::park();
    }
}
