//! Any control segment, met by one who comes into the domain by its name.
use crate::block::{overlaid, split};
use dsm::backend::{self, Backend, Place};
use dsm::{Domain, DomainConfig};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

const DIRECTORY: &str = backend::POSIX_DIRECTORY;

/// This process's domain: its name, and the control segment with one pinned segment and nobody in.
struct Scene {
    name: String,
    image: Vec<u8>,
}

static SCENE: LazyLock<Scene> = LazyLock::new(|| {
    let name = shm_testkit::unique::name("fuzz");
    let domain = Domain::open(config(&name)).expect("a domain");
    domain.create_segment(1).expect("a segment").pin().expect("alive");
    drop(domain);
    let image = fs::read(control(&name)).expect("its control segment");
    Scene { name, image }
});

fn config(name: &str) -> DomainConfig {
    DomainConfig {
        backend: Some(Backend::Posix),
        participants_max: 3,
        segments_max: Some(3),
        open_timeout: Duration::ZERO,
        ..DomainConfig::new(name)
    }
}

fn control(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("shm.{name}.control"))
}

/// Opens a domain whose control segment is valid but for the input's lies, and does everything.
pub fn domain(bytes: &[u8]) {
    let (how, bytes) = split(bytes);
    let Scene { name, image } = &*SCENE;
    remove_all(name);
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(control(name));
    file.and_then(|mut file| file.write_all(&overlaid(image, bytes))).expect("a file");
    let opened = match how & 1 {
        0 => Domain::open_existing(config(name)).ok().flatten(),
        _ => Domain::open(config(name)).ok(),
    };
    if let Some(domain) = opened {
        use_it(&domain);
        match how & 2 {
            0 => drop(domain),
            _ => drop(domain.destroy()),
        }
    }
    remove_all(name);
}

/// What lies made nobody's stays in the directory.
fn remove_all(name: &str) {
    let left = backend::list(&Place::new(Backend::Posix), &format!("shm.{name}."));
    for file in left.expect("a directory") {
        let _ = fs::remove_file(Path::new(DIRECTORY).join(file));
    }
}

fn use_it(domain: &Domain) {
    let _ = (domain.participants(), domain.reap());
    let made = domain.create_segment(5000);
    if let Ok(segment) = &made {
        assert!(segment.len() >= 5000);
        let _ = segment.pin();
        assert!(domain.find_mapping(segment.handle()).is_some());
    }
    for info in domain.segments() {
        let segment = domain.attach(info.handle);
        let _ = domain.unpin(info.handle);
        drop(segment);
    }
    drop(made);
    let _ = domain.inheritance();
}
