//! Real processes in one domain, on each backend: they find segments by handle alone, are killed,
//! and leave nothing behind.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::backend::{self, Backend, Place};
use dsm::{AttachError, CreateError, DestroyError, Domain, DomainConfig, PinError, SegmentHandle};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::{self, Child, Setup};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);
const SIZE: u64 = 10_000;

/// One scenario's domain, and the proof that nothing of it is left.
struct Bench {
    unique: Unique,
    config: DomainConfig,
    _directory: TempDir,
}

impl Bench {
    fn new(backend: Backend, hint: &str) -> Bench {
        let (directory, mut unique) = (TempDir::new(hint), Unique::new(hint));
        unique.watch_directory(directory.path());
        // Another backend's would take `on_sysv`'s segments, which runs beside it, for its own.
        if backend == Backend::Sysv {
            unique.watch_process(std::process::id());
        }
        let config = DomainConfig {
            backend: Some(backend),
            directory: Some(directory.path().to_owned()),
            ..DomainConfig::new(unique.name())
        };
        Bench { unique, config, _directory: directory }
    }

    fn open(&self) -> Domain {
        Domain::open(self.config.clone()).unwrap()
    }

    fn is_named(&self) -> bool {
        self.config.backend != Some(Backend::Memfd)
    }

    /// A child that comes into `domain` by `Domain::from_env`.
    fn spawn_in(&mut self, domain: &Domain, function: &str, args: &[&str]) -> Child {
        let inheritance = domain.inheritance().unwrap();
        let text = |(name, value): &(std::ffi::OsString, std::ffi::OsString)| {
            (name.to_str().unwrap().to_owned(), value.to_str().unwrap().to_owned())
        };
        let env: Vec<_> = inheritance.env.iter().map(text).collect();
        let env: Vec<_> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
        let fds: Vec<_> = inheritance.fds.iter().map(AsFd::as_fd).collect();
        let child = Child::spawn_with(function, Setup { args, env: &env, fds: &fds });
        self.unique.watch_process(child.pid());
        child
    }

    /// A child that opens the domain by name.
    fn spawn(&mut self, function: &str) -> Child {
        let backend = self.config.backend.unwrap();
        let directory = self.config.directory.as_ref().unwrap().to_str().unwrap();
        let child = Child::spawn(function, &[&self.config.name, backend.name(), directory]);
        self.unique.watch_process(child.pid());
        child
    }

    fn assert_nothing_left(&self) {
        self.unique.assert_nothing_left(Duration::from_secs(5));
    }
}

fn config_of(args: &[String]) -> DomainConfig {
    DomainConfig {
        backend: Some(args[1].parse().unwrap()),
        directory: Some(args[2].clone().into()),
        ..DomainConfig::new(&args[0])
    }
}

fn word(mapping: &Arc<Mapping>) -> Mapped<AtomicU64> {
    Mapped::new(mapping, 0).unwrap()
}

fn kill(mut child: Child) {
    child.kill();
    assert_eq!(child.wait(LIMIT).signal(), Some(9));
}

fn handle_from(child: &mut Child) -> SegmentHandle {
    child.hear(LIMIT).parse().unwrap()
}

/// Attaches, adds one to the first word, says so, and waits to be told to go.
fn attaches(args: &[String]) {
    let domain = Domain::from_env().unwrap();
    let segment = domain.attach(args[0].parse().unwrap()).unwrap().expect("it is there");
    word(segment.mapping()).fetch_add(1, Ordering::Relaxed);
    child::tell_parent("attached");
    child::parent_says();
}

/// Creates a segment, tells its handle, and waits to be told to go.
fn creates(_: &[String]) {
    let domain = Domain::from_env().unwrap();
    let segment = domain.create_segment(SIZE).unwrap();
    child::tell_parent(&segment.handle().to_string());
    child::parent_says();
}

/// Opens the domain, creates two segments and pins the second one, then waits.
fn leads(args: &[String]) {
    let domain = Domain::open(config_of(args)).unwrap();
    let segments = [(); 2].map(|()| domain.create_segment(SIZE).unwrap());
    segments[1].pin().unwrap();
    word(segments[1].mapping()).store(77, Ordering::Relaxed);
    for segment in &segments {
        child::tell_parent(&segment.handle().to_string());
    }
    child::parent_says();
}

/// Comes, makes something, attaches to what it sees, and goes, again and again.
fn storms(args: &[String]) {
    let end = Instant::now() + Duration::from_millis(1500);
    let mut rounds = 0;
    while Instant::now() < end {
        let domain = Domain::open(config_of(args)).unwrap();
        let segment = domain.create_segment(SIZE).unwrap();
        word(segment.mapping()).store(segment.handle().to_bits(), Ordering::Relaxed);
        for info in domain.segments() {
            if let Ok(Some(other)) = domain.attach(info.handle) {
                let seen = word(other.mapping()).load(Ordering::Relaxed);
                assert!(seen == 0 || seen == info.handle.to_bits(), "another segment's memory");
            }
        }
        rounds += 1;
    }
    child::tell_parent(&rounds.to_string());
}

/// Forks, and the fork tries everything.
fn forks(_: &[String]) {
    let domain = Domain::from_env().unwrap();
    let [segment, unmapped] = [(); 2].map(|()| domain.create_segment(SIZE).unwrap());
    segment.pin_mapping();
    let memory = segment.mapping().clone();
    segment.on_detach(move |_| {
        word(&memory).fetch_add(1, Ordering::Relaxed);
    });
    let pinned = domain.create_segment(SIZE).unwrap();
    pinned.pin_mapping();
    let begins = format!("{:x}-", pinned.region().base().addr());
    // SAFETY: the child calls what takes no lock that another thread may hold, and `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let refused = domain
            .create_segment(SIZE)
            .is_err_and(|e| matches!(e, CreateError::Forked(_)))
            && domain.attach(segment.handle()).is_err_and(|e| matches!(e, AttachError::Forked(_)))
            && segment.pin().is_err_and(|e| matches!(e, PinError::Forked(_)))
            && domain.unpin(segment.handle()).is_err_and(|e| matches!(e, PinError::Forked(_)))
            && domain.find_mapping(segment.handle()).is_none()
            && domain.reap() == 0;
        drop((unmapped, segment, pinned, domain));
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or(begins.clone());
        let mapped = maps.lines().any(|line| line.starts_with(&begins));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!refused) | i32::from(mapped) << 1) };
    }
    let mut status = 0;
    // SAFETY: our own child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0, "the fork was let in (1), or still maps the segment (2)");
    assert_eq!(domain.segments().len(), 3, "the fork released what is its parent's");
    assert_eq!(domain.find_mapping(unmapped.handle()).unwrap().len(), unmapped.len());
    assert_eq!(word(segment.mapping()).load(Ordering::Relaxed), 0, "the fork ran a callback");
}

/// Comes in by the environment once more, when the inherited descriptors' numbers mean others.
fn comes_twice(_: &[String]) {
    let domain = Domain::from_env().unwrap();
    let ours = backend::create(&Place::new(Backend::Memfd), "ours", SIZE).unwrap();
    let again = Domain::from_env();
    assert_eq!(again.is_err(), domain.backend() == Backend::Memfd);
    ours.fd().unwrap().try_clone_to_owned().expect("it is ours still");
}

/// Takes a segment from the socket, and attaches.
fn receives(args: &[String]) {
    let domain = Domain::from_env().unwrap();
    let socket = UnixStream::connect(&args[0]).unwrap();
    let handle = domain.receive(&socket).unwrap();
    let segment = domain.attach(handle).unwrap().expect("it is there");
    child::tell_parent(&word(segment.mapping()).load(Ordering::Relaxed).to_string());
}

shm_testkit::children! { attaches, creates, leads, storms, forks, comes_twice, receives }

fn a_child_attaches_by_handle_alone(bench: &mut Bench) {
    let domain = bench.open();
    let segment = domain.create_segment(SIZE).unwrap();
    let handle = segment.handle();
    let mut child = bench.spawn_in(&domain, "attaches", &[&handle.to_string()]);
    assert_eq!(child.hear(LIMIT), "attached");
    assert_eq!(word(segment.mapping()).load(Ordering::Relaxed), 1);
    assert_eq!(domain.segments()[0].attached.len(), 2);
    drop(segment);
    assert_eq!(domain.segments().len(), 1, "the child is still attached");
    child.say("go");
    child.wait(LIMIT).assert_success();
    assert!(domain.segments().is_empty(), "the last one out destroys it");
    assert!(domain.attach(handle).unwrap().is_none(), "it is gone");
}

fn a_killed_attacher_is_detached(bench: &mut Bench) {
    let domain = bench.open();
    let segment = domain.create_segment(SIZE).unwrap();
    let mut child = bench.spawn_in(&domain, "attaches", &[&segment.handle().to_string()]);
    assert_eq!(child.hear(LIMIT), "attached");
    drop(segment);
    kill(child);
    assert_eq!(domain.segments().len(), 1);
    assert_eq!(domain.reap(), 1);
    assert!(domain.segments().is_empty());
    assert_eq!(domain.participants().len(), 1);
}

fn a_killed_creator_leaves_its_segment_to_the_others(bench: &mut Bench) {
    let domain = bench.open();
    let mut child = bench.spawn_in(&domain, "creates", &[]);
    let handle = handle_from(&mut child);
    let ours = if bench.is_named() { domain.attach(handle).unwrap() } else { None };
    kill(child);
    domain.reap();
    assert_eq!(domain.segments().len(), usize::from(bench.is_named()));
    drop(ours);
    assert!(domain.segments().is_empty());
}

fn the_next_one_cleans_up_after_the_last_was_killed(bench: &mut Bench) {
    if !bench.is_named() {
        return;
    }
    let mut leader = bench.spawn("leads");
    let [lost, pinned] = [(); 2].map(|()| handle_from(&mut leader));
    kill(leader);
    let domain = Domain::open_existing(bench.config.clone()).unwrap().expect("it is there");
    assert!(domain.attach(lost).unwrap().is_none());
    let segment = domain.attach(pinned).unwrap().expect("pinned");
    assert_eq!(word(segment.mapping()).load(Ordering::Relaxed), 77);
    drop((segment, domain));
    // The pin keeps the domain without anybody in it.
    let domain = Domain::open_existing(bench.config.clone()).unwrap().expect("it is there");
    domain.destroy().unwrap();
    assert!(Domain::open_existing(bench.config.clone()).unwrap().is_none());
}

fn a_domain_in_use_is_not_destroyed(bench: &mut Bench) {
    let domain = bench.open();
    let segment = domain.create_segment(SIZE).unwrap();
    segment.pin().unwrap();
    let mut child = bench.spawn_in(&domain, "attaches", &[&segment.handle().to_string()]);
    assert_eq!(child.hear(LIMIT), "attached");
    drop(segment);
    let domain = match domain.destroy() {
        Err(DestroyError::InUse { domain, by }) => {
            assert_eq!(by[0].pid(), child.pid());
            assert_eq!(by.len(), 1);
            domain
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(domain.segments().len(), 1);
    kill(child);
    domain.destroy().unwrap();
}

fn a_fork_is_nobody(bench: &mut Bench) {
    let domain = bench.open();
    let mut child = bench.spawn_in(&domain, "forks", &[]);
    child.wait(LIMIT).assert_success();
    assert!(domain.segments().is_empty());
}

fn the_environment_serves_once_and_harms_nothing_later(bench: &mut Bench) {
    let domain = bench.open();
    let mut child = bench.spawn_in(&domain, "comes_twice", &[]);
    child.wait(LIMIT).assert_success();
}

fn a_dead_ones_slot_is_found_before_full(bench: &mut Bench) {
    bench.config.segments_max = Some(2);
    let domain = bench.open();
    let mut child = bench.spawn_in(&domain, "creates", &[]);
    handle_from(&mut child);
    let _one = domain.create_segment(SIZE).unwrap();
    let full = domain.create_segment(SIZE).unwrap_err();
    assert!(matches!(full, CreateError::Full { segments: 2 }), "{full}");
    kill(child);
    drop(domain.create_segment(SIZE).unwrap());
}

/// The table begins with memory for 64; a child finds one that is in another piece.
fn more_segments_than_the_table_began_with(bench: &mut Bench) {
    const COUNT: u32 = 150;
    bench.config.segments_max = Some(COUNT);
    let domain = bench.open();
    let mut segments: Vec<_> =
        (0..COUNT).map(|_| domain.create_segment(1).expect("room for it")).collect();
    let full = domain.create_segment(1).unwrap_err();
    assert!(matches!(full, CreateError::Full { segments: COUNT }), "{full}");
    let last = segments.last().unwrap().handle();
    let mut child = bench.spawn_in(&domain, "attaches", &[&last.to_string()]);
    assert_eq!(child.hear(LIMIT), "attached");
    segments.truncate(70);
    kill(child);
    assert_eq!(domain.reap(), 1);
    assert_eq!(domain.segments().len(), 70);
    segments.extend((70..COUNT).map(|_| domain.create_segment(1).expect("room for it")));
    domain.check().unwrap();
}

fn a_segment_is_handed_over_by_socket(bench: &mut Bench) {
    let domain = bench.open();
    let directory = TempDir::new("socket");
    let path = directory.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut child = bench.spawn_in(&domain, "receives", &[path.to_str().unwrap()]);
    // Created after the child was started: it has inherited no descriptor of it.
    let segment = domain.create_segment(SIZE).unwrap();
    word(segment.mapping()).store(5, Ordering::Relaxed);
    let (socket, _) = listener.accept().unwrap();
    domain.send(&socket, segment.handle()).unwrap();
    assert_eq!(child.hear(LIMIT), "5");
    child.wait(LIMIT).assert_success();
}

/// Comes and goes race with each other and with kills: the domain is made and removed all the time.
/// A new one is zero, whatever was in the page before. When there are no more, objects are made.
fn a_ready_segment_takes_no_object(bench: &mut Bench) {
    bench.config.ready_max = 16;
    let domain = bench.open();
    let place = Place { directory: bench.config.directory.clone().unwrap(), ..place_of(bench) };
    let objects = || backend::list(&place, &format!("shm.{}.", bench.config.name)).unwrap().len();
    let before = objects();
    for round in 0..3 {
        let segments: Vec<_> = (0..16).map(|_| domain.create_segment(1).unwrap()).collect();
        assert_eq!(objects(), before, "{round}");
        for segment in &segments {
            assert_eq!(segment.len(), 4096);
            let words = segment.region().share_slice::<AtomicU64>(0, 512).unwrap();
            assert!(words.iter().all(|word| word.swap(7, Ordering::Relaxed) == 0), "{round}");
            segment.check().unwrap();
        }
        let object = domain.create_segment(1).unwrap();
        assert_eq!(
            objects() > before,
            matches!(place.backend, Backend::Posix | Backend::Mmap),
            "{round}"
        );
        drop(object);
        assert_eq!(objects(), before);
    }
}

fn a_ready_segment_is_shared_as_any(bench: &mut Bench) {
    let domain = bench.open();
    let segment = domain.create_segment(4096).unwrap();
    let handle = segment.handle();
    let mut child = bench.spawn_in(&domain, "attaches", &[&handle.to_string()]);
    assert_eq!(child.hear(LIMIT), "attached");
    assert_eq!(word(segment.mapping()).load(Ordering::Relaxed), 1);
    assert!(matches!(domain.attach(handle), Err(AttachError::AlreadyAttached(_))));
    assert!(domain.find_mapping(handle).is_some());
    drop(segment);
    let again = domain.attach(handle).unwrap().expect("the child is attached");
    assert_eq!(word(again.mapping()).load(Ordering::Relaxed), 1);
    drop(again);
    let seen = domain.attach_read_only(handle).unwrap().expect("the child is attached");
    assert_eq!((seen.len(), seen.view().load_u64(0)), (4096, Ok(1)));
    drop(seen);
    kill(child);
    domain.reap();
    assert!(domain.attach(handle).unwrap().is_none(), "the last one's death ends it");
    let (mine, theirs) = UnixStream::pair().unwrap();
    let pinned = domain.create_segment(4096).unwrap();
    pinned.pin().unwrap();
    domain.send(&mine, pinned.handle()).unwrap();
    assert_eq!(domain.receive(&theirs).unwrap(), pinned.handle());
    domain.unpin(pinned.handle()).unwrap();
}

/// What was not used between two calls of `reap`, but for 16 pages.
fn ready_memory_is_given_back(bench: &mut Bench) {
    bench.config.ready_max = 64;
    let domain = bench.open();
    let control = bench.config.directory.as_ref().unwrap();
    let control = control.join(format!("shm.{}.control", bench.config.name));
    let bytes = || std::fs::metadata(&control).map_or(0, |file| file.blocks() * 512);
    let few = bytes();
    let mut segments: Vec<_> = (0..64).map(|_| domain.create_segment(1).unwrap()).collect();
    let many = bytes();
    domain.reap();
    drop(segments.split_off(20));
    domain.reap();
    domain.reap();
    assert!(segments.iter().all(|segment| segment.check().is_ok()));
    if place_of(bench).backend == Backend::Mmap {
        assert_eq!(many - few, 64 * 4096);
        assert_eq!(many - bytes(), 32 * 4096, "two of four chunks are given back");
    }
    segments.extend((0..44).map(|_| domain.create_segment(1).unwrap()));
    let slots: std::collections::BTreeSet<_> =
        segments.iter().map(|segment| segment.handle().to_bits()).collect();
    assert_eq!(slots.len(), 64);
    for segment in segments {
        let words = segment.region().share_slice::<AtomicU64>(0, 512).unwrap();
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }
}

fn place_of(bench: &Bench) -> Place {
    Place::new(bench.config.backend.unwrap())
}

fn a_storm_leaves_nothing(bench: &mut Bench) {
    if !bench.is_named() {
        return;
    }
    let mut children: Vec<Child> = (0..3).map(|_| bench.spawn("storms")).collect();
    let mut kills = 0;
    for victim in 0..6 {
        std::thread::sleep(Duration::from_millis(60 + 17 * victim));
        kill(children.remove(0));
        kills += 1;
        children.push(bench.spawn("storms"));
    }
    let mut rounds = 0;
    for mut child in children {
        rounds += child.hear(LIMIT).parse::<u32>().unwrap();
        child.wait(LIMIT).assert_success();
    }
    println!("{}: {kills} kills, {rounds} rounds by the survivors", bench.config.backend.unwrap());
    assert!(rounds > 0);
    // Whoever was killed as the last one is cleaned up after by the next one.
    drop(bench.open());
}

type Scenario = (&'static str, fn(&mut Bench));

fn everything(backend: Backend) {
    let scenarios: [Scenario; 14] = [
        ("attach", a_child_attaches_by_handle_alone),
        ("attacher", a_killed_attacher_is_detached),
        ("creator", a_killed_creator_leaves_its_segment_to_the_others),
        ("last", the_next_one_cleans_up_after_the_last_was_killed),
        ("destroy", a_domain_in_use_is_not_destroyed),
        ("fork", a_fork_is_nobody),
        ("twice", the_environment_serves_once_and_harms_nothing_later),
        ("full", a_dead_ones_slot_is_found_before_full),
        ("grow", more_segments_than_the_table_began_with),
        ("socket", a_segment_is_handed_over_by_socket),
        ("ready", a_ready_segment_takes_no_object),
        ("ready_shared", a_ready_segment_is_shared_as_any),
        ("ready_back", ready_memory_is_given_back),
        ("storm", a_storm_leaves_nothing),
    ];
    for (name, scenario) in scenarios {
        println!("{backend}: {name}");
        let mut bench = Bench::new(backend, name);
        within(2 * LIMIT, || scenario(&mut bench));
        bench.assert_nothing_left();
    }
}

#[test]
fn on_posix() {
    everything(Backend::Posix);
}

/// The only test of this binary that makes System V segments: they have no names to tell them by.
#[test]
fn on_sysv() {
    everything(Backend::Sysv);
}

#[test]
fn on_mmap() {
    everything(Backend::Mmap);
}

#[test]
fn on_memfd() {
    everything(Backend::Memfd);
}
