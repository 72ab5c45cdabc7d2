//! Two processes and one message: `cargo run -p shm-mq --example 1_hello`
use dsm::{Domain, DomainConfig};
use shm_core::process::ProcessId;
use shm_mq::stream::{Sender, Stream};
use std::{env, error::Error, process};

fn main() -> Result<(), Box<dyn Error>> {
    if let [_, domain, segment] = &env::args().collect::<Vec<_>>()[..] {
        // The other process: it was told the domain's name and the segment's handle.
        let domain = Domain::open(DomainConfig::new(domain))?;
        let segment = domain.attach(segment.parse()?)?.ok_or("the segment has gone")?;
        let mut sender = Sender::attach(segment.mapping(), 0, domain.member())?;
        return Ok(sender.send(format!("hello from process {}", process::id()).as_bytes())?);
    }
    let name = format!("hello-{}", process::id());
    let domain = Domain::open(DomainConfig::new(&name))?;
    let segment = domain.create_segment(Stream::bytes_for(4096))?;
    // SAFETY: nobody else has the segment's handle yet.
    let stream = unsafe { Stream::create(segment.mapping(), 0, 4096) }?;
    let mut receiver = stream.receiver(domain.member())?;
    let arguments = [name, segment.handle().to_string()];
    let mut child = process::Command::new(env::current_exe()?).args(arguments).spawn()?;
    receiver.expect_peer(ProcessId::of(child.id())?);
    println!("{}", String::from_utf8_lossy(&receiver.recv()?));
    child.wait()?;
    Ok(())
}
