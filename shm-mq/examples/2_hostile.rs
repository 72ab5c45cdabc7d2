//! Two processes that do not trust each other, and one message:
//! `cargo run -p shm-mq --example 2_hostile`
use shm_core::trust::Hostile;
use shm_mq::stream::{Limits, Receiver, Sender};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use std::{env, error::Error, io, process};

fn main() -> Result<(), Box<dyn Error>> {
    let soon = Some(Instant::now() + Duration::from_secs(10));
    if env::args().len() > 1 {
        // The other process: its end of the socket is its standard input.
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let mut sender = Sender::<Hostile>::connect(socket, 4096, soon)?;
        return Ok(sender.send(format!("hello from process {}", process::id()).as_bytes())?);
    }
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = process::Command::new(env::current_exe()?);
    let mut child = command.arg("sends").stdin(OwnedFd::from(theirs)).spawn()?;
    // It holds the other end; as long as we do too, its death would not be seen.
    drop(command);
    let limits = Limits { message_bytes_max: 1000, ..Limits::default() };
    let mut receiver = Receiver::<Hostile>::connect(ours, limits, soon)?;
    println!("{}", String::from_utf8_lossy(&receiver.recv()?));
    child.wait()?;
    Ok(())
}
