//! Names that are taken away from under a domain, by hand or by a clean-up at a log-out: members
//! are told, go on with what they have, and nobody gets into two domains of one name.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::backend::Backend::{Memfd, Mmap, Posix, Sysv};
use dsm::backend::{Backend, POSIX_DIRECTORY};
use dsm::{AttachError, Domain, DomainConfig, NameState, OpenError, SegmentHandle};
use shm_core::mapping::Mapped;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::{self, Child, Setup};
use shm_testkit::unique::{TempDir, Unique, sysv_segments};
use shm_testkit::watchdog::within;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const SIZE: u64 = 10_000;

shm_testkit::children! { stays, makes_another, comes_too_late }

struct Bench {
    unique: Unique,
    config: DomainConfig,
    directory: TempDir,
}

impl Bench {
    fn new(backend: Backend) -> Bench {
        let (directory, mut unique) = (TempDir::new("names"), Unique::new("names"));
        unique.watch_directory(directory.path());
        // Another test's would take the System V segments of this process for its own.
        if backend == Sysv {
            unique.watch_process(std::process::id());
        }
        let config = DomainConfig {
            backend: Some(backend),
            directory: Some(directory.path().to_owned()),
            participants_max: 4,
            segments_max: Some(4),
            ready_max: 0,
            ..DomainConfig::new(unique.name())
        };
        Bench { unique, config, directory }
    }

    fn open(&self) -> Result<Domain, OpenError> {
        Domain::open(self.config.clone())
    }

    /// A child with what the domain's children inherit.
    fn spawn_in(&mut self, domain: &Domain, function: &str, args: &[&str]) -> Child {
        let inheritance = domain.inheritance().unwrap();
        let env: Vec<(&str, &str)> = inheritance
            .env
            .iter()
            .map(|(name, value)| (name.to_str().unwrap(), value.to_str().unwrap()))
            .collect();
        let fds: Vec<_> = inheritance.fds.iter().map(AsFd::as_fd).collect();
        let child = Child::spawn_with(function, Setup { args, env: &env, fds: &fds });
        self.unique.watch_process(child.pid());
        child
    }

    /// As `systemd-logind` does for a user without sessions: everything of this test's.
    fn remove_ipc(&self, creators: &[u32]) {
        let directory = match self.config.backend {
            Some(Posix) => Path::new(POSIX_DIRECTORY),
            _ => self.directory.path(),
        };
        for file in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            if file.file_name().to_string_lossy().contains(self.unique.name()) {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
        let is_theirs = |creator: u32| creators.contains(&creator);
        for segment in sysv_segments().iter().filter(|segment| is_theirs(segment.creator)) {
            // SAFETY: takes no buffer.
            unsafe { libc::shmctl(segment.id, libc::IPC_RMID, std::ptr::null_mut()) };
        }
    }
}

/// What a member knows of the names: the domain's state, and how many segments lost theirs.
fn known(domain: &Domain) -> (NameState, usize) {
    let names = domain.names().unwrap();
    assert_eq!(domain.is_named().unwrap(), names.domain == NameState::Ours);
    (names.domain, names.lost.len())
}

fn say(domain: &Domain) -> String {
    let (state, lost) = known(domain);
    format!("{state:?} {lost}")
}

/// A member with one segment of its own, which says what it knows when asked.
fn stays(args: &[String]) {
    let domain = Domain::from_env().unwrap();
    let theirs = domain.attach(args[0].parse().unwrap()).unwrap().expect("it is there");
    let mine = domain.create_segment(SIZE).unwrap();
    child::tell_parent(&mine.handle().to_string());
    while child::parent_says() == "known?" {
        Mapped::<AtomicU64>::new(theirs.mapping(), 0).unwrap().fetch_add(1, Ordering::Relaxed);
        child::tell_parent(&say(&domain));
    }
}

/// Opens the name, as a process that has nothing to do with those inside.
fn makes_another(args: &[String]) {
    let config = DomainConfig {
        backend: Some(args[1].parse().unwrap()),
        directory: Some(args[2].clone().into()),
        ready_max: 0,
        ..DomainConfig::new(&args[0])
    };
    let domain = Domain::open(config).unwrap();
    assert_eq!((domain.participants().len(), known(&domain)), (1, (NameState::Ours, 0)));
    child::tell_parent("made");
    child::parent_says();
}

/// Was started for the domain that lost its name.
fn comes_too_late(_: &[String]) {
    child::parent_says();
    let late = Domain::from_env().unwrap_err();
    let is_told =
        matches!(late, OpenError::Environment { problem, .. } if problem.contains("another"));
    assert!(is_told, "{late}");
}

fn names_are_lost(mut bench: Bench) {
    let domain = bench.open().unwrap();
    let segment = domain.create_segment(SIZE).unwrap();
    let mut member = bench.spawn_in(&domain, "stays", &[&segment.handle().to_string()]);
    let theirs: SegmentHandle = member.hear(LIMIT).parse().unwrap();
    let mut late = bench.spawn_in(&domain, "comes_too_late", &[]);
    assert_eq!(known(&domain), (NameState::Ours, 0));

    bench.remove_ipc(&[std::process::id(), member.pid()]);
    assert_eq!(known(&domain), (NameState::Gone, 2));
    member.say("known?");
    assert_eq!(member.hear(LIMIT), "Gone 2");
    // What is mapped is shared still, and a new segment is, too.
    assert_eq!(word(&segment).load(Ordering::Relaxed), 1);
    drop(domain.create_segment(SIZE).unwrap());
    let missing = domain.attach(theirs).unwrap_err();
    assert!(matches!(missing, AttachError::Missing(lost) if lost == theirs), "{missing}");
    assert_split_is_refused(&bench, &domain);

    let config = &bench.config;
    let directory = bench.directory.path().to_str().unwrap();
    let args = [&*config.name, config.backend.unwrap().name(), directory];
    let mut other = Child::spawn("makes_another", &args);
    bench.unique.watch_process(other.pid());
    assert_eq!(other.hear(LIMIT), "made");
    assert_eq!(known(&domain).0, NameState::Taken);
    member.say("known?");
    assert!(member.hear(LIMIT).starts_with("Taken"));
    assert_split_is_refused(&bench, &domain);
    late.say("come");
    late.wait(LIMIT).assert_success();

    member.say("leave");
    member.wait(LIMIT).assert_success();
    drop((segment, domain));
    // Those who left took nothing of the other's, and this process may enter it now.
    let entered = bench.open().unwrap();
    assert_eq!((entered.participants().len(), known(&entered)), (2, (NameState::Ours, 0)));
    other.say("leave");
    other.wait(LIMIT).assert_success();
    drop(entered);
    bench.unique.assert_nothing_left(Duration::from_secs(5));
}

fn word(segment: &dsm::Segment) -> Mapped<AtomicU64> {
    Mapped::new(segment.mapping(), 0).unwrap()
}

fn assert_split_is_refused(bench: &Bench, domain: &Domain) {
    let opened = bench.open().unwrap_err();
    assert!(matches!(opened, OpenError::Unnamed { .. }), "{opened}");
    let inherited = domain.inheritance().unwrap_err().to_string();
    assert!(inherited.contains("whose name somebody has removed"), "{inherited}");
}

#[test]
fn members_are_told_and_do_not_split() {
    // System V last and in the same test: its segments are told by their creator alone.
    for backend in [Posix, Mmap, Sysv] {
        within(2 * LIMIT, || names_are_lost(Bench::new(backend)));
    }
}

#[test]
fn one_segments_name_is_missed_and_no_others() {
    let bench = Bench::new(Mmap);
    let domain = bench.open().unwrap();
    let segments = [(); 2].map(|()| domain.create_segment(SIZE).unwrap());
    let lost = segments[1].handle();
    let ending = format!(".{lost}");
    for file in std::fs::read_dir(bench.directory.path()).unwrap().map(Result::unwrap) {
        if file.file_name().to_string_lossy().ends_with(&ending) {
            std::fs::remove_file(file.path()).unwrap();
        }
    }
    let names = domain.names().unwrap();
    assert_eq!((names.domain, names.lost), (NameState::Ours, vec![lost]));
}

#[test]
fn what_never_had_a_name_has_not_lost_it() {
    let bench = Bench::new(Memfd);
    let domain = bench.open().unwrap();
    let _segment = domain.create_segment(SIZE).unwrap();
    assert_eq!(known(&domain), (NameState::Ours, 0));
    assert!(bench.open().unwrap().is_named().unwrap(), "another, as always");
}
