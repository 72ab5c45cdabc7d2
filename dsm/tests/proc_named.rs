//! Names among real processes, on each backend: of several who ask one makes it, whoever is killed
//! or stopped at it; who removes a name takes it from nobody who has the segment.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::backend::Backend;
use dsm::registry::{Kind, NameError};
use dsm::{AttachError, Domain, DomainConfig, Named, NamedError, NamedSpec, RemoveError, Segment};
use shm_core::mapping::Mapped;
use shm_core::process::Forked;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::{Child, Setup, in_a_fork};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::convert::Infallible;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const SPEC: NamedSpec = NamedSpec { size: 10_000, filled: None, fingerprint: 42, deadline: None };
const WHOLE: u64 = 0xfeed;

struct Bench {
    unique: Unique,
    config: DomainConfig,
    _directory: TempDir,
}

impl Bench {
    fn new(backend: Backend) -> Bench {
        let (directory, mut unique) = (TempDir::new("named"), Unique::new("named"));
        unique.watch_directory(directory.path());
        let config = DomainConfig {
            backend: Some(backend),
            directory: Some(directory.path().to_owned()),
            participants_max: 8,
            segments_max: Some(6),
            ..DomainConfig::new(unique.name())
        };
        Bench { unique, config, _directory: directory }
    }

    fn open(&self) -> Domain {
        Domain::open(self.config.clone()).unwrap()
    }

    fn spawn(&mut self, function: &str) -> Child {
        let backend = self.config.backend.unwrap();
        let directory = self.config.directory.as_ref().unwrap().to_str().unwrap();
        let child = Child::spawn(function, &[&self.config.name, backend.name(), directory]);
        self.unique.watch_process(child.pid());
        child
    }
}

fn open_as_told(args: &[String]) -> Domain {
    let config = DomainConfig {
        backend: Some(args[1].parse().unwrap()),
        directory: Some(args[2].clone().into()),
        participants_max: 8,
        segments_max: Some(6),
        ..DomainConfig::new(&args[0])
    };
    Domain::open(config).unwrap()
}

fn word(segment: &Segment) -> Mapped<AtomicU64> {
    Mapped::new(segment.mapping(), 0).unwrap()
}

fn make(segment: &Segment) -> Result<(), Infallible> {
    assert_eq!(word(segment).swap(WHOLE, Ordering::Relaxed), 0, "a segment that is not new");
    Ok(())
}

fn ask(domain: &Domain, name: &str) -> Named {
    let named = domain.named_segment(name, &SPEC, make).unwrap();
    assert_eq!(word(&named.segment).load(Ordering::Relaxed), WHOLE, "half a segment");
    named
}

shm_testkit::children! { asks, never_ends, inherits, inherits_too_little }

/// Asks, says what it got, and lets go when told.
fn asks(args: &[String]) {
    let domain = open_as_told(args);
    let named = ask(&domain, "shared");
    shm_testkit::child::tell_parent(&format!("{} {}", named.found, named.segment.handle()));
    shm_testkit::child::parent_says();
}

/// Initialises for ever.
fn never_ends(args: &[String]) {
    let domain = open_as_told(args);
    let _ = domain.named_segment("shared", &SPEC, |segment| {
        word(segment).store(1, Ordering::Relaxed);
        shm_testkit::child::tell_parent("begun");
        std::thread::sleep(LIMIT);
        Err(())
    });
}

/// With the descriptors of its parent.
fn inherits(_: &[String]) {
    let domain = Domain::from_env().unwrap();
    assert!(ask(&domain, "shared").found);
}

fn several_ask_and_one_makes_it(bench: &mut Bench) {
    let domain = bench.open();
    let mut children: Vec<_> = (0..4).map(|_| bench.spawn("asks")).collect();
    let said: Vec<String> = children.iter_mut().map(|child| child.hear(LIMIT)).collect();
    let mine = ask(&domain, "shared");
    let theirs = |found| format!("{found} {}", mine.segment.handle());
    assert!(mine.found);
    assert_eq!(said.iter().filter(|said| **said == theirs(false)).count(), 1, "{said:?}");
    assert_eq!(said.iter().filter(|said| **said == theirs(true)).count(), 3, "{said:?}");
    let [entry] = domain.named().try_into().unwrap();
    assert_eq!((&*entry.name, entry.kind, entry.size), ("shared", Kind::Segment, SPEC.size));
    assert_eq!((entry.handle, entry.maker), (Some(mine.segment.handle()), None));
    assert_eq!(entry.users.len(), 5, "{:?}", entry.users);
    // The name is free at once, and who has the segment keeps it.
    assert_eq!(domain.remove_named("shared"), Ok(true));
    assert_eq!(domain.remove_named("shared"), Ok(false));
    let again = ask(&domain, "shared");
    assert!(!again.found && again.segment.handle() != mine.segment.handle());
    for mut child in children {
        child.say("go");
        child.wait(LIMIT).assert_success();
    }
    let old = mine.segment.handle();
    drop(mine);
    assert!(domain.segments().iter().all(|segment| segment.handle != old), "it is gone");
    // It stays when nobody is attached, the domain with it.
    let handle = again.segment.handle();
    drop((again, domain));
    let domain = bench.open();
    let found = ask(&domain, "shared");
    assert!(found.found && found.segment.handle() == handle);
    domain.remove_named("shared").unwrap();
}

fn a_killed_maker_is_followed_by_another(bench: &mut Bench) {
    let domain = bench.open();
    let mut maker = bench.spawn("never_ends");
    assert_eq!(maker.hear(LIMIT), "begun");
    let [entry] = domain.named().try_into().unwrap();
    assert_eq!(entry.maker.map(|maker| maker.pid()), Some(maker.pid()));
    let mut waiter = bench.spawn("asks");
    std::thread::sleep(Duration::from_millis(50));
    maker.kill();
    let said = waiter.hear(LIMIT);
    assert!(said.starts_with("false "), "{said}");
    maker.wait(LIMIT);
    assert!(ask(&domain, "shared").found);
    waiter.say("go");
    waiter.wait(LIMIT).assert_success();
    domain.reap();
    assert_eq!(domain.segments().len(), 1, "of the dead one's nothing is left");
    assert_eq!(domain.remove_named("shared"), Ok(true));
    assert_eq!(domain.segments().len(), 0);
}

fn a_stopped_maker_holds_nobody_beyond_the_deadline(bench: &mut Bench) {
    let domain = bench.open();
    let mut maker = bench.spawn("never_ends");
    assert_eq!(maker.hear(LIMIT), "begun");
    maker.stop();
    let deadline = Instant::now() + Duration::from_millis(100);
    let spec = NamedSpec { deadline: Some(deadline), ..SPEC };
    match domain.named_segment("shared", &spec, make) {
        Err(NamedError::NotReady { maker: Some(who), .. }) => assert_eq!(who.pid(), maker.pid()),
        other => panic!("{other:?}"),
    }
    assert!(Instant::now() >= deadline);
    assert_eq!(domain.remove_named("shared"), Ok(false), "it is still being made");
    // Other names are none of its affair.
    assert!(!ask(&domain, "another").found);
    assert_eq!(domain.remove_named("another"), Ok(true));
    maker.kill();
    maker.wait(LIMIT);
    assert!(!ask(&domain, "shared").found);
    assert_eq!(domain.remove_named("shared"), Ok(true));
}

fn what_does_not_fit_is_an_error(bench: &mut Bench) {
    let domain = bench.open();
    let with = |name: &str, spec| domain.named_segment(name, &spec, make).map(drop).unwrap_err();
    assert!(matches!(with("", SPEC), NamedError::Name(NameError::Empty)));
    assert!(matches!(with(&"x".repeat(64), SPEC), NamedError::Name(NameError::TooLong(64))));
    assert!(matches!(with("a", NamedSpec { size: 0, ..SPEC }), NamedError::SizeZero));
    let mine = ask(&domain, "a");
    let other = NamedSpec { size: 9_999, ..SPEC };
    assert!(matches!(with("a", other), NamedError::Size { found: 10_000, asked: 9_999, .. }));
    let other = NamedSpec { fingerprint: 43, ..SPEC };
    assert!(matches!(with("a", other), NamedError::Fingerprint { found: 42, asked: 43, .. }));
    assert_eq!(domain.remove_named(""), Err(RemoveError::Name(NameError::Empty)));
    // A maker that fails, and one that panics, leave the name to the next.
    let failed = domain.named_segment("b", &SPEC, |_| Err("no"));
    assert!(matches!(failed, Err(NamedError::Init("no"))));
    let panics = std::panic::AssertUnwindSafe(|| {
        let _ = domain.named_segment("b", &SPEC, |_| -> Result<(), ()> {
            std::panic::resume_unwind(Box::new("in between"))
        });
    });
    assert!(std::panic::catch_unwind(panics).is_err());
    assert_eq!(domain.segments().len(), 1, "nothing of them is left");
    assert!(!ask(&domain, "b").found);
    // As many names as segments: then no more.
    let names: Vec<String> = (0..4).map(|number| format!("n{number}")).collect();
    let _more: Vec<_> = names.iter().map(|name| ask(&domain, name)).collect();
    assert!(matches!(with("one too many", SPEC), NamedError::Full { names: 6 }));
    // Whoever takes a name's pin away leaves a name that is made anew.
    domain.unpin(mine.segment.handle()).unwrap();
    assert!(ask(&domain, "a").found);
    drop(mine);
    assert!(!ask(&domain, "a").found);
    for name in names.iter().map(String::as_str).chain(["a", "b"]) {
        assert_eq!(domain.remove_named(name), Ok(true), "{name}");
    }
}

fn threads_of_one_process_share_it(bench: &mut Bench) {
    let domain = bench.open();
    let named: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| ask(&domain, "shared"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(named.iter().filter(|named| !named.found).count(), 1);
    assert!(named.iter().all(|one| one.segment.handle() == named[0].segment.handle()));
    domain.remove_named("shared").unwrap();
}

fn a_forked_child_asks_for_nothing(bench: &mut Bench) {
    let domain = bench.open();
    assert!(in_a_fork(|| {
        let refused =
            matches!(domain.named_segment("a", &SPEC, make), Err(NamedError::Forked(Forked)));
        refused && domain.remove_named("a") == Err(RemoveError::Forked(Forked))
    }));
}

type Scenario = (&'static str, fn(&mut Bench));

fn everything(backend: Backend) {
    let scenarios: [Scenario; 6] = [
        ("several", several_ask_and_one_makes_it),
        ("killed", a_killed_maker_is_followed_by_another),
        ("stopped", a_stopped_maker_holds_nobody_beyond_the_deadline),
        ("errors", what_does_not_fit_is_an_error),
        ("threads", threads_of_one_process_share_it),
        ("fork", a_forked_child_asks_for_nothing),
    ];
    for (name, scenario) in scenarios {
        println!("{backend}: {name}");
        let mut bench = Bench::new(backend);
        within(2 * LIMIT, || scenario(&mut bench));
        bench.unique.assert_nothing_left(Duration::from_secs(5));
    }
}

#[test]
fn on_posix() {
    everything(Backend::Posix);
}

#[test]
fn on_sysv() {
    everything(Backend::Sysv);
}

#[test]
fn on_mmap() {
    everything(Backend::Mmap);
}

/// There the segment's descriptor has to come some way, as with handles.
#[test]
fn on_memfd() {
    let bench = Bench::new(Backend::Memfd);
    let domain = bench.open();
    let inheritance = domain.inheritance().unwrap();
    let mine = ask(&domain, "shared");
    assert!(!mine.found && ask(&domain, "shared").found);
    for inheritance in [domain.inheritance().unwrap(), inheritance] {
        let text = |(name, value): &(std::ffi::OsString, std::ffi::OsString)| {
            (name.to_str().unwrap().to_owned(), value.to_str().unwrap().to_owned())
        };
        let env: Vec<_> = inheritance.env.iter().map(text).collect();
        let env: Vec<_> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
        let fds: Vec<_> = inheritance.fds.iter().map(AsFd::as_fd).collect();
        let setup = Setup { args: &[], env: &env, fds: &fds };
        let function = if fds.len() > 1 { "inherits" } else { "inherits_too_little" };
        Child::spawn_with(function, setup).wait(LIMIT).assert_success();
    }
    assert_eq!(domain.remove_named("shared"), Ok(true));
}

/// From before the segment was made.
fn inherits_too_little(_: &[String]) {
    let domain = Domain::from_env().unwrap();
    let asked = domain.named_segment("shared", &SPEC, make);
    assert!(matches!(asked, Err(NamedError::Attach(AttachError::NoDescriptor(_)))));
}
