//! A task that receives from another process, beside what else a runtime does:
//! `cargo run -p shm-mq --features async --example 10_tokio`
use dsm::{Domain, DomainConfig, Segment};
use shm_mq::futures::{Async, Reactor};
use shm_mq::spsc::{Queue, Receiver};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::{env, error::Error, io, process, thread, time::Duration};
use tokio::io::{Interest, unix::AsyncFd};

const RING_BYTES: u64 = 1024;

/// How tokio waits for a descriptor.
struct Tokio(AsyncFd<OwnedFd>);

impl Reactor for Tokio {
    fn register(bell: OwnedFd) -> io::Result<Tokio> {
        // SAFETY: an `OwnedFd` is one descriptor, open for as long as it lives.
        let bell = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) };
        Ok(Tokio(bell?))
    }

    fn poll_readable(
        &mut self,
        cx: &mut Context<'_>,
        look: &mut dyn FnMut() -> io::Result<()>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready_mut(cx))?;
            if let Ok(end) = guard.try_io(|_| look()) {
                return Poll::Ready(end);
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    if let [_, domain, segment] = &env::args().collect::<Vec<_>>()[..] {
        let domain = Domain::open(DomainConfig::new(domain))?;
        let segment = domain.attach(segment.parse()?)?.ok_or("the segment has gone")?;
        return report(&domain, &segment);
    }
    let name = format!("weather-{}", process::id());
    let domain = Domain::open(DomainConfig::new(&name))?;
    let segment = domain.create_segment(Queue::bytes_for(RING_BYTES))?;
    // SAFETY: nobody else has the segment's handle yet.
    let queue = unsafe { Queue::create(segment.mapping(), 0, RING_BYTES, 0) }?;
    let receiver = queue.receiver(domain.member())?;
    let arguments = [name, segment.handle().to_string()];
    let mut station = process::Command::new(env::current_exe()?).args(arguments).spawn()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(listen(receiver))?;
    station.wait()?;
    Ok(())
}

async fn listen(receiver: Receiver) -> Result<(), Box<dyn Error>> {
    let mut receiver: Async<_, Tokio> = Async::new(receiver)?;
    let clock = tokio::spawn(async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            println!("the clock ticks");
        }
    });
    loop {
        match receiver.recv().await {
            Ok(report) => println!("{}", String::from_utf8_lossy(&report)),
            Err(end) => break println!("{end}"),
        }
    }
    Ok(clock.await?)
}

/// Sends four reports, and is no more.
fn report(domain: &Domain, segment: &Segment) -> Result<(), Box<dyn Error>> {
    let queue = Queue::attach(segment.mapping(), 0, 0)?;
    let mut sender = queue.sender(domain.member())?;
    for weather in ["sun", "clouds", "rain", "a storm"] {
        thread::sleep(Duration::from_millis(30));
        sender.send(weather.as_bytes())?;
    }
    process::abort();
}
