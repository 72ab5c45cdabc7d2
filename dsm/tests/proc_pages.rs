//! Huge pages and prefaulting are asked for, and what came of it is told; nothing fails where the
//! system does not go along.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::backend::Backend::{Memfd, Mmap, Posix, Sysv};
use dsm::backend::{Backend, HugePages};
use dsm::{Domain, DomainConfig, Segment, SegmentOptions};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::{self, Child, Setup};
use shm_testkit::fault::{mount_empty, trial};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::os::fd::AsFd;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const SIZE: u64 = 4 << 20;
const PAGE: u64 = 4096;
const ALL: [Backend; 4] = [Posix, Mmap, Sysv, Memfd];

shm_testkit::children! { reads, has_huge_pages }

fn bench(backend: Backend) -> (DomainConfig, Unique, TempDir) {
    let (directory, mut unique) = (TempDir::new("pages"), Unique::new("pages"));
    unique.watch_directory(directory.path());
    let config = DomainConfig {
        backend: Some(backend),
        directory: Some(directory.path().to_owned()),
        ready_max: 0,
        ..DomainConfig::new(unique.name())
    };
    (config, unique, directory)
}

fn words(segment: &Segment) -> impl Iterator<Item = &AtomicU64> {
    let region = segment.region();
    (0..region.len() as u64 / PAGE).map(move |page| region.share(page * PAGE).unwrap())
}

/// All of it can be used, and was zero.
fn use_all(segment: &Segment) {
    words(segment).for_each(|word| assert_eq!(word.fetch_add(1, Ordering::Relaxed), 0));
}

#[test]
fn what_is_prefaulted_is_mapped() {
    for backend in ALL {
        within(LIMIT, || {
            let (config, unique, _directory) = bench(backend);
            let domain = Domain::open(config.clone()).unwrap();
            let options = SegmentOptions { prefault: true, ..SegmentOptions::default() };
            let segment = domain.create_segment_with(SIZE, options).unwrap();
            assert_eq!(segment.page_usage().unwrap().mapped, SIZE, "{backend}");
            use_all(&segment);
            if backend != Memfd {
                let attach = |prefault| {
                    let config = DomainConfig { prefault, ..config.clone() };
                    let other = Domain::open(config).unwrap();
                    let theirs = other.attach(segment.handle()).unwrap().unwrap();
                    (theirs.page_usage().unwrap().mapped, theirs, other)
                };
                assert_eq!(attach(true).0, SIZE);
                let (mapped, theirs, _other) = attach(false);
                assert!(mapped < SIZE, "{backend}: {mapped} without being asked");
                theirs.prefault().unwrap();
                assert_eq!(theirs.page_usage().unwrap().mapped, SIZE);
            }
            drop((segment, domain));
            unique.assert_nothing_left(Duration::ZERO);
        });
    }
}

#[test]
fn asking_for_huge_pages_never_fails() {
    for backend in ALL {
        for huge_pages in [HugePages::Advised, HugePages::Pool] {
            within(LIMIT, || {
                let (config, unique, _directory) = bench(backend);
                let config = DomainConfig { huge_pages, prefault: true, ..config };
                let domain = Domain::open(config).unwrap();
                for size in [1, SIZE] {
                    let segment = domain.create_segment(size).unwrap();
                    use_all(&segment);
                    let usage = segment.page_usage().unwrap();
                    println!("{backend}, {huge_pages:?}: {usage:?}");
                    assert_eq!(usage.mapped, segment.len());
                    assert!(usage.transparent + usage.pool <= usage.mapped);
                    assert!(usage.pool == 0 || huge_pages == HugePages::Pool && backend == Memfd);
                }
                let options = SegmentOptions { huge_pages, ..SegmentOptions::growable(SIZE) };
                if backend != Sysv {
                    let segment = domain.create_segment_with(PAGE, options).unwrap();
                    segment.grow(SIZE).unwrap();
                    segment.prefault().unwrap();
                    assert_eq!(segment.page_usage().unwrap().mapped, SIZE);
                }
                drop(domain);
                unique.assert_nothing_left(Duration::ZERO);
            });
        }
    }
}

/// A file system of our own that wants them.
#[test]
fn transparent_huge_pages_are_had_where_the_system_has_them() {
    Child::spawn("has_huge_pages", &[]).wait(LIMIT).assert_success();
}

fn has_huge_pages(_: &[String]) {
    let ended = trial(LIMIT, || {
        let (config, unique, directory) = bench(Mmap);
        if let Err(not_run) = mount_empty("tmpfs", directory.path(), 0, "size=64m,huge=advise") {
            return eprintln!("{not_run}");
        }
        let domain = Domain::open(config).unwrap();
        let options = SegmentOptions { huge_pages: HugePages::Advised, ..Default::default() };
        let segment = domain.create_segment_with(2 * SIZE, options).unwrap();
        use_all(&segment);
        let usage = segment.page_usage().unwrap();
        // How many there are is the system's affair: none may be free.
        eprintln!("{} of {} bytes in huge pages", usage.transparent, segment.len());
        drop((segment, domain));
        unique.assert_nothing_left(Duration::ZERO);
    });
    eprint!("{}", ended.stderr);
    assert!(ended.is_success(), "{:?}", ended.failure());
}

fn reads(args: &[String]) {
    let domain = Domain::from_env().unwrap();
    let segment = domain.attach(args[0].parse().unwrap()).unwrap().expect("it is there");
    let sum: u64 = words(&segment).map(|word| word.load(Ordering::Relaxed)).sum();
    segment.check().unwrap();
    child::tell_parent(&format!("{sum} {}", segment.page_usage().unwrap().pool));
}

/// Only where somebody has set some aside: this test changes no system.
#[test]
fn pages_of_the_pool_are_shared() {
    let pool = std::fs::read_to_string("/proc/meminfo").unwrap();
    let free = pool.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    if free.is_none_or(|free| free.trim().parse::<u64>().unwrap() < 2) {
        return println!("not run: no huge pages are set aside (vm.nr_hugepages)");
    }
    let (config, unique, _directory) = bench(Memfd);
    let domain = Domain::open(config).unwrap();
    let options = SegmentOptions { huge_pages: HugePages::Pool, ..Default::default() };
    let segment = domain.create_segment_with(PAGE, options).unwrap();
    let len = segment.len();
    assert!(len > PAGE, "rounded up");
    use_all(&segment);
    assert_eq!(segment.page_usage().unwrap().pool, len);
    let inheritance = domain.inheritance().unwrap();
    let env: Vec<(&str, &str)> = inheritance
        .env
        .iter()
        .map(|(name, value)| (name.to_str().unwrap(), value.to_str().unwrap()))
        .collect();
    let fds: Vec<_> = inheritance.fds.iter().map(AsFd::as_fd).collect();
    let args = [&*segment.handle().to_string()];
    let mut child = Child::spawn_with("reads", Setup { args: &args, env: &env, fds: &fds });
    assert_eq!(child.hear(LIMIT), format!("{} {len}", len / PAGE));
    child.wait(LIMIT).assert_success();
    // More than there are: ordinary ones.
    let large = domain.create_segment_with(1 << 26, options).unwrap();
    assert!(large.page_usage().unwrap().pool <= large.len());
    drop((segment, large, domain));
    unique.assert_nothing_left(Duration::ZERO);
}
