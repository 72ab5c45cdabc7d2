//! A feed of prices for three readers, one of which is slow and one of which crashes: `cargo run
//! -p shm-mq --example 5_feed`
use dsm::{Domain, DomainConfig, Segment};
use shm_mq::broadcast::{Broadcast, BroadcastConfig, RecvError, Start, Subscription};
use std::{env, error::Error, process, thread, time::Duration};

const CONFIG: BroadcastConfig = BroadcastConfig::lossy(8, 48, 4);
const PRICES: u32 = 40;

fn main() -> Result<(), Box<dyn Error>> {
    if let [_, domain, segment, reader] = &env::args().collect::<Vec<_>>()[..] {
        let domain = Domain::open(DomainConfig::new(domain))?;
        let segment = domain.attach(segment.parse()?)?.ok_or("the segment has gone")?;
        return read(&domain, &segment, reader);
    }
    let name = format!("feed-{}", process::id());
    let domain = Domain::open(DomainConfig::new(&name))?;
    let segment = domain.create_segment(Broadcast::bytes_for(&CONFIG))?;
    // SAFETY: nobody else has the segment's handle yet.
    let feed = unsafe { Broadcast::create(segment.mapping(), 0, &CONFIG) }?;
    let mut publisher = feed.publisher(domain.member())?;
    let handle = segment.handle().to_string();
    let reader = |kind: &str| {
        process::Command::new(env::current_exe()?).args([&name, &handle, kind] as [&str; 3]).spawn()
    };
    let readers = [reader("quick")?, reader("slow")?, reader("unlucky")?];
    while feed.status().subscribers.len() < readers.len() {
        thread::sleep(Duration::from_millis(1));
    }
    for cent in 0..PRICES {
        // Nobody holds a lossy feed back.
        assert!(publisher.try_publish(format!("coffee 3.{cent:02}").as_bytes())?);
        thread::sleep(Duration::from_millis(5));
    }
    drop(publisher);
    for mut reader in readers {
        reader.wait()?;
    }
    println!("{} prices, and {} readers left to clean up", PRICES, feed.reap(domain.member()));
    Ok(())
}

/// Reads until the publisher has left.
fn read(domain: &Domain, segment: &Segment, kind: &str) -> Result<(), Box<dyn Error>> {
    let feed = Broadcast::attach(segment.mapping(), 0, 0)?;
    let subscription = Subscription { start: Start::Oldest, ..Subscription::default() };
    let mut subscriber = feed.subscribe(domain.member(), subscription)?;
    let mut prices = 0;
    loop {
        match subscriber.recv(None) {
            Ok(price) => {
                prices += 1;
                if kind == "unlucky" && prices == 10 {
                    println!(
                        "{kind}: {} was the last thing I saw",
                        String::from_utf8_lossy(&price)
                    );
                    process::exit(1);
                }
            }
            Err(RecvError::Missed { records }) => println!("{kind}: missed {records}"),
            Err(RecvError::Detached) => break,
            Err(error) => return Err(error.into()),
        }
        if kind == "slow" {
            thread::sleep(Duration::from_millis(30));
        }
    }
    println!("{kind}: {prices} prices, {} missed", subscriber.missed());
    Ok(())
}
