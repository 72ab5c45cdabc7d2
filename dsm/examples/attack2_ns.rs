//! attack2: `header-slow DIR` | `header DIR` | `leave-dead DIR` | `open DIR`
use dsm::backend::{self, Backend, Place};
use dsm::{Domain, DomainConfig};
use shm_core::header::{Header, Identity, Opener};
use shm_core::mapping::Mapped;
use std::time::{Duration, Instant};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let dir = args[2].clone();
    let config = DomainConfig {
        backend: Some(Backend::Mmap), directory: Some(dir.clone().into()), ..DomainConfig::new("ns")
    };
    match &*args[1] {
        what @ ("header-slow" | "header") => {
            let object = backend::open_or_create(&Place::mmap(dir), "hdr", 4096).unwrap();
            let header = Mapped::<Header>::new(object.mapping(), 0).unwrap();
            let identity = Identity::new("hdr", 1, 2, 4096);
            let opener = Opener::this_process(Instant::now() + Duration::from_secs(8));
            let slow = what == "header-slow";
            let got = header.open(&identity, &opener, || {
                println!("{what}: I alone initialise (pid {})", std::process::id());
                if slow { std::thread::sleep(Duration::from_secs(3)); println!("{what}: still initialising, writes"); }
                Ok::<(), std::io::Error>(())
            });
            println!("{what}: {got:?}");
        }
        "leave-dead" => {
            let domain = Domain::open(config).unwrap();
            println!("in: {:?}", domain.participants());
            // SAFETY: ourselves.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            std::process::abort();
        }
        "open" => match Domain::open(config) {
            Ok(domain) => println!("open: ok {:?}", domain.participants()),
            Err(error) => println!("open: ERROR {error}"),
        },
        _ => unreachable!(),
    }
}
