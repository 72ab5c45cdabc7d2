//! Growable segments between real processes: growth is seen by all who are attached, a process that
//! is killed at it hinders nobody, a full file system is an error and no SIGBUS, and what is given
//! back is the system's again.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::backend::Backend::{Memfd, Mmap, Posix, Sysv};
use dsm::backend::{Backend, BackendError};
use dsm::{CreateError, Domain, DomainConfig, GrowError, Segment, SegmentOptions};
use shm_core::mapping::Mapping;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::{self, Child, Setup, in_a_fork};
use shm_testkit::fault::{mount_empty, trial};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);
const PAGE: u64 = 4096;
const MAX: u64 = 256 * PAGE;
const ELASTIC: [Backend; 3] = [Posix, Mmap, Memfd];

shm_testkit::children! { follows, storms, fills_up }

struct Bench {
    unique: Unique,
    config: DomainConfig,
    _directory: TempDir,
}

impl Bench {
    fn new(backend: Backend, hint: &str) -> Bench {
        let (directory, mut unique) = (TempDir::new(hint), Unique::new(hint));
        unique.watch_directory(directory.path());
        let config = DomainConfig {
            backend: Some(backend),
            directory: Some(directory.path().to_owned()),
            participants_max: 8,
            segments_max: Some(8),
            ..DomainConfig::new(unique.name())
        };
        Bench { unique, config, _directory: directory }
    }

    fn open(&self) -> Domain {
        Domain::open(self.config.clone()).unwrap()
    }

    fn spawn_in(&mut self, domain: &Domain, function: &str, segment: &Segment) -> Child {
        let inheritance = domain.inheritance().unwrap();
        let env: Vec<(&str, &str)> = inheritance
            .env
            .iter()
            .map(|(name, value)| (name.to_str().unwrap(), value.to_str().unwrap()))
            .collect();
        let fds: Vec<_> = inheritance.fds.iter().map(AsFd::as_fd).collect();
        let args = [&*segment.handle().to_string()];
        let child = Child::spawn_with(function, Setup { args: &args, env: &env, fds: &fds });
        self.unique.watch_process(child.pid());
        child
    }
}

fn growable(max: u64) -> SegmentOptions {
    SegmentOptions::growable(max)
}

/// The last word of each page.
fn words(mapping: &Mapping) -> impl Iterator<Item = &AtomicU64> {
    let region = mapping.region();
    (1..=region.len() as u64 / PAGE).map(move |page| region.share(page * PAGE - 8).unwrap())
}

fn sum(mapping: &Mapping) -> u64 {
    words(mapping).map(|word| word.load(Ordering::Relaxed)).sum()
}

fn fill(mapping: &Mapping, value: u64) {
    words(mapping).for_each(|word| word.store(value, Ordering::Relaxed));
}

/// Tells what there is when asked, and grows it itself when told.
fn follows(args: &[String]) {
    let domain = Domain::from_env().unwrap();
    let segment = domain.attach(args[0].parse().unwrap()).unwrap().expect("it is there");
    loop {
        let line = child::parent_says();
        match line.split_once(' ') {
            Some(("grow", bytes)) => drop(segment.grow(bytes.parse().unwrap()).unwrap()),
            Some(("fill", value)) => fill(&segment.current().unwrap(), value.parse().unwrap()),
            _ if line == "look" => {}
            _ => return,
        }
        let current = segment.current().unwrap();
        child::tell_parent(&format!("{} {}", current.len(), sum(&current)));
    }
}

/// Makes it longer and shorter, until killed; what is there is used.
fn storms(args: &[String]) {
    let domain = Domain::from_env().unwrap();
    let segment = domain.attach(args[0].parse().unwrap()).unwrap().expect("it is there");
    child::tell_parent("there");
    let mut state = u64::from(std::process::id());
    loop {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let pages = 1 + (state >> 33) % (MAX / PAGE);
        let changed = match state >> 62 {
            0 => segment.shrink(pages * PAGE),
            _ => segment.grow(pages * PAGE),
        };
        match changed {
            Ok(_) | Err(GrowError::Busy { .. }) => fill(&segment.current().unwrap(), 1),
            Err(other) => panic!("{other}"),
        }
    }
}

fn ask(child: &mut Child, what: &str) -> String {
    child.say(what);
    child.hear(LIMIT)
}

#[test]
fn growth_is_seen_by_all() {
    for backend in ELASTIC {
        let mut bench = Bench::new(backend, "grows");
        within(LIMIT, || {
            let domain = bench.open();
            let segment = domain.create_segment_with(PAGE, growable(MAX)).unwrap();
            assert_eq!((segment.len(), segment.max_len()), (PAGE, MAX));
            let info = &domain.segments()[0];
            assert!(info.growable && info.size == MAX + PAGE);
            let mut other = bench.spawn_in(&domain, "follows", &segment);
            assert_eq!(ask(&mut other, "look"), format!("{PAGE} 0"));
            fill(segment.mapping(), 1);
            assert_eq!(segment.grow(10 * PAGE - 1).unwrap(), 10 * PAGE);
            assert_eq!(ask(&mut other, "look"), format!("{} 1", 10 * PAGE));
            assert_eq!(ask(&mut other, "fill 3"), format!("{} 30", 10 * PAGE));
            let current = segment.current().unwrap();
            assert_eq!(sum(&current), 30);
            let (was, is) = (segment.region().base(), current.region().base());
            assert_eq!(was, is, "it does not move");

            assert_eq!(ask(&mut other, &format!("grow {MAX}")), format!("{MAX} 30"));
            assert_eq!(segment.grow(PAGE).unwrap(), MAX, "it is as long as that");
            assert_eq!(segment.shrink(2 * PAGE).unwrap(), 2 * PAGE);
            assert_eq!(ask(&mut other, "look"), format!("{} 6", 2 * PAGE));
            assert_eq!(sum(&current), 6, "who looks late sees zeroes");
            assert_eq!(segment.grow(3 * PAGE).unwrap(), 3 * PAGE);
            assert_eq!(sum(&segment.current().unwrap()), 6, "new pages are zero");
            for bytes in [0, MAX + 1, u64::MAX] {
                let refused = segment.grow(bytes).unwrap_err();
                assert!(matches!(refused, GrowError::Length { max: MAX, .. }), "{refused}");
            }
            segment.check().unwrap();
            drop((segment, domain));
            other.say("leave");
            other.wait(LIMIT).assert_success();
        });
        bench.unique.assert_nothing_left(Duration::from_secs(5));
    }
}

#[test]
fn a_reader_sees_it_grow() {
    let bench = Bench::new(Mmap, "reads");
    let (domain, other) = (bench.open(), bench.open());
    let segment = domain.create_segment_with(PAGE, growable(MAX)).unwrap();
    let reader = other.attach_read_only(segment.handle()).unwrap().unwrap();
    assert_eq!((reader.len(), reader.view().load_u64(PAGE).is_ok()), (PAGE, false));
    segment.grow(2 * PAGE).unwrap();
    fill(&segment.current().unwrap(), 5);
    assert_eq!((reader.len(), reader.view().load_u64(2 * PAGE - 8)), (2 * PAGE, Ok(5)));
    reader.check().unwrap();
    drop(reader);
    // Attached anew, and again while its memory is used.
    let again = other.attach(segment.handle()).unwrap().unwrap();
    let memory = again.current().unwrap();
    drop(again);
    let again = other.find_mapping(segment.handle()).unwrap();
    again.grow(MAX).unwrap();
    assert_eq!((memory.len() as u64, again.max_len()), (2 * PAGE, MAX));
    // Who overwrites its head is found out, not believed.
    let file = std::fs::File::options();
    let ending = format!(".{}", segment.handle());
    let path = bench.unique.left().into_iter().find(|path| path.ends_with(&ending)).unwrap();
    let file = file.clone().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 8], 8).unwrap();
    assert!(matches!(segment.current(), Err(GrowError::Corrupt { value: u64::MAX })));
    assert!(matches!(segment.grow(PAGE), Err(GrowError::Corrupt { .. })));
    let third = bench.open();
    let refused = third.attach(segment.handle()).unwrap_err();
    assert!(matches!(refused, dsm::AttachError::Corrupt(_)), "{refused}");
}

#[test]
fn what_cannot_grow_says_so() {
    let bench = Bench::new(Posix, "fixed");
    let domain = bench.open();
    let segment = domain.create_segment(PAGE).unwrap();
    assert!(matches!(segment.grow(2 * PAGE), Err(GrowError::Fixed)));
    assert!(matches!(segment.shrink(PAGE), Err(GrowError::Fixed)));
    assert_eq!((segment.current().unwrap().len() as u64, segment.max_len()), (PAGE, PAGE));
    for (size, max) in [(0, MAX), (MAX + 1, MAX), (PAGE, u64::MAX), (PAGE, 1 << 46)] {
        let refused = domain.create_segment_with(size, growable(max)).unwrap_err();
        assert!(matches!(refused, CreateError::Backend(_)), "{size} of {max}: {refused}");
    }
    drop((segment, domain));
    bench.unique.assert_nothing_left(Duration::ZERO);

    let config = DomainConfig { backend: Some(Sysv), ..bench.config.clone() };
    let domain = Domain::open(config).unwrap();
    let refused = domain.create_segment_with(PAGE, growable(MAX)).unwrap_err();
    let is_told =
        matches!(refused, CreateError::Backend(BackendError::Unsupported { backend: Sysv, .. }));
    assert!(is_told, "{refused}");
}

/// Two storm, and are killed all the time.
#[test]
fn who_is_killed_at_it_hinders_nobody() {
    for backend in [Posix, Memfd] {
        let mut bench = Bench::new(backend, "storm");
        within(2 * LIMIT, || {
            let domain = bench.open();
            let segment = domain.create_segment_with(PAGE, growable(MAX)).unwrap();
            let end = Instant::now() + Duration::from_millis(1200);
            let mut kills = 0;
            while Instant::now() < end {
                let children = [(); 2].map(|()| bench.spawn_in(&domain, "storms", &segment));
                for mut child in children {
                    assert_eq!(child.hear(LIMIT), "there");
                    std::thread::sleep(Duration::from_millis(1 + kills % 7));
                    child.kill();
                    assert_eq!(child.wait(LIMIT).signal(), Some(9));
                    kills += 1;
                }
            }
            println!("{backend}: {kills} kills");
            segment.grow(MAX).unwrap();
            fill(&segment.current().unwrap(), 1);
            assert_eq!(segment.shrink(PAGE).unwrap(), PAGE);
            domain.reap();
            assert_eq!(domain.segments()[0].attached.len(), 1);
        });
        bench.unique.assert_nothing_left(Duration::from_secs(5));
    }
}

#[test]
fn a_full_file_system_is_an_error() {
    for backend in [Posix, Mmap] {
        Child::spawn("fills_up", &[backend.name()]).wait(LIMIT).assert_success();
    }
}

/// Two segments in a file system of 64 pages; both want all of it, at once.
fn fills_up(args: &[String]) {
    let backend = args[0].parse().unwrap();
    let ended = trial(LIMIT, || {
        let bench = Bench::new(backend, "full");
        let directory = match backend {
            Posix => dsm::backend::POSIX_DIRECTORY.into(),
            _ => bench.config.directory.clone().unwrap(),
        };
        if let Err(not_run) = mount_empty("tmpfs", &directory, 0, "size=256k") {
            return eprintln!("{not_run}");
        }
        let domain = bench.open();
        let make = || domain.create_segment_with(PAGE, growable(MAX)).unwrap();
        let (one, other) = (make(), make());
        let grow_all = |segment: &Segment| {
            let mut len = PAGE;
            let error = loop {
                match segment.grow(len + 3 * PAGE) {
                    Ok(now) => len = now,
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, GrowError::Backend(BackendError::NoSpace { .. })), "{error}");
            fill(&segment.current().unwrap(), 1);
            len
        };
        let (mine, theirs) = std::thread::scope(|scope| {
            let other = scope.spawn(|| grow_all(&other));
            (grow_all(&one), other.join().unwrap())
        });
        assert!(mine + theirs > 20 * PAGE, "{mine} and {theirs}");
        assert_eq!(one.current().unwrap().len() as u64, mine);
        // At once too much: nothing of it is taken.
        assert!(one.grow(MAX).is_err());
        // What one gives back is there for the other.
        one.shrink(PAGE).unwrap();
        assert!(other.grow(theirs + mine - PAGE).is_ok());
        fill(&other.current().unwrap(), 2);
        drop((one, other, domain));
        bench.unique.assert_nothing_left(Duration::ZERO);
    });
    assert!(ended.is_success(), "{backend}: {:?}\n{}", ended.failure(), ended.stderr);
}

#[test]
fn a_fork_is_nobody() {
    let bench = Bench::new(Memfd, "fork");
    let domain = bench.open();
    let segment = domain.create_segment_with(PAGE, growable(MAX)).unwrap();
    assert!(in_a_fork(|| {
        let refused = [segment.grow(2 * PAGE), segment.shrink(PAGE)];
        refused.iter().all(|told| matches!(told, Err(GrowError::Forked(_))))
    }));
}
