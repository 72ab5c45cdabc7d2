//! A control segment that lies, on each backend, to processes that come into the domain by name or
//! by inheritance, and to those that are in it: each call ends, by its deadline where it waits,
//! with an answer or an error.
//!
//! What may go wrong is what the table in `docs/crash-model.md` says of buggy peers: a domain is
//! taken for closed and removed, or a segment for unused. So each seed has a domain of its own.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::backend::{self, Backend, Place};
use dsm::{Domain, DomainConfig, SegmentHandle};
use shm_core::mapping::Mapping;
use shm_core::process::ProcessId;
use shm_testkit::child::{Child, Setup};
use shm_testkit::liar::{Liar, Outside, Scribbler, Trials};
use shm_testkit::unique::{TempDir, Unique};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// Header, settings, segment table, table of participants of a domain as small as these.
const BYTES: usize = 1024;
const OPEN_TIMEOUT: Duration = Duration::from_millis(5);

/// One seed's domain, and what may be left of it.
struct Bench {
    config: DomainConfig,
    _unique: Unique,
    _directory: TempDir,
}

impl Bench {
    fn new(backend: Backend) -> Bench {
        let (directory, mut unique) = (TempDir::new("liar"), Unique::new("liar"));
        unique.watch_directory(directory.path());
        if backend == Backend::Sysv {
            unique.watch_process(std::process::id());
        }
        let config = DomainConfig {
            backend: Some(backend),
            directory: Some(directory.path().to_owned()),
            participants_max: 4,
            segments_max: Some(4),
            open_timeout: OPEN_TIMEOUT,
            ..DomainConfig::new(unique.name())
        };
        Bench { config, _unique: unique, _directory: directory }
    }

    /// A domain with a pinned segment and another one, and its control segment.
    fn honest(&self) -> (Domain, Outside) {
        // It has done nothing yet that could take long, but on a busy machine anything does.
        let config = DomainConfig { open_timeout: LIMIT, ..self.config.clone() };
        let domain = Domain::open(config).unwrap();
        let pinned = domain.create_segment(1).unwrap();
        pinned.pin().unwrap();
        let outside = self.outside(&domain);
        (domain, outside)
    }

    /// The control segment as a stranger has it mapped.
    fn outside(&self, domain: &Domain) -> Outside {
        let object = match domain.inheritance().unwrap().fds.into_iter().next() {
            Some(fd) => backend::memfd::open_fd(fd).unwrap(),
            None => {
                let directory = self.config.directory.clone().unwrap();
                let place = Place { directory, ..Place::new(domain.backend()) };
                let name = format!("shm.{}.control", self.config.name);
                backend::open(&place, &name).unwrap().unwrap()
            }
        };
        let mapping: Arc<Mapping> = object.mapping().clone();
        // SAFETY: another mapping than the domain's, kept by `mapping`, to which no reference
        // leads.
        unsafe { Outside::from_raw(mapping.region().base(), BYTES.min(mapping.len()), mapping) }
    }
}

/// Words that mean something: states of headers, seats of the dead, of the living, and of us, state
/// words of segments.
fn values() -> Vec<u64> {
    let gone = ProcessId::new((1 << 22) - 1, 7).unwrap().to_bits();
    let seats = [gone, ProcessId::me().to_bits()].into_iter();
    let claims = seats.clone().flat_map(|who| (1..4u64).map(move |seat| seat << 62 | who));
    let headers = seats.map(|who| who << 2 | 1).chain([2, 0]);
    let segments = (0..8).map(|state| 1 << 32 | 5 << 3 | state);
    claims.chain(headers).chain(segments).chain([1 << 20, 1024, 4, 5]).collect()
}

/// About the control segment as it is now, and as it was when it was all zero.
fn liar(seed: u64, outside: &Outside) -> Liar {
    Liar::new(seed, &outside.read()).with_images(&[vec![0; BYTES]]).with_values(&values())
}

/// Every call there is on a domain, but leaving it.
fn use_it(trials: &Trials, seed: u64, domain: &Domain) {
    trials.call(seed, "participants", || domain.participants());
    trials.call(seed, "reap", || domain.reap());
    let made = trials.call(seed, "create_segment", || domain.create_segment(5000));
    if let Some(Ok(segment)) = &made {
        trials.check(seed, "create_segment", segment.len() >= 5000, "is too small");
        trials.call(seed, "pin", || segment.pin());
        trials.call(seed, "pin_mapping", || segment.pin_mapping());
        trials.call(seed, "find_mapping", || domain.find_mapping(segment.handle()));
        trials.call(seed, "unpin_mapping", || segment.unpin_mapping());
    }
    let listed = trials.call(seed, "segments", || domain.segments()).unwrap_or_default();
    let listed = listed.into_iter().map(|info| info.handle);
    let others = ["1000000", "5000001", "1fffffffffffff"];
    let others = others.iter().map(|text| text.parse::<SegmentHandle>().unwrap());
    for handle in listed.chain(others) {
        let segment = trials.call(seed, "attach", || domain.attach(handle));
        trials.call(seed, "unpin", || domain.unpin(handle));
        trials.call(seed, "detach", || drop(segment));
    }
    trials.call(seed, "detach", || drop(made));
    trials.call(seed, "inheritance", || domain.inheritance().map(drop));
}

/// Comes in, does everything, and leaves, by the one way or the other.
fn visit(trials: &Trials, seed: u64, config: &DomainConfig) -> bool {
    let opened = match seed % 3 {
        0 => trials.call(seed, "open_existing", || Domain::open_existing(config.clone())),
        _ => trials.call(seed, "open", || Domain::open(config.clone()).map(Some)),
    };
    let Some(Ok(Some(domain))) = opened else { return false };
    use_it(trials, seed, &domain);
    match seed % 2 {
        0 => drop(trials.call(seed, "destroy", || domain.destroy())),
        _ => drop(trials.call(seed, "leave", || drop(domain))),
    }
    true
}

/// Lies before one comes in by name, and then to both who are in it.
fn named(backend: Backend, seeds: u64) {
    let trials = Trials::new("domain, by name", LIMIT);
    let mut visits = 0;
    for seed in trials.seeds(seeds) {
        let bench = Bench::new(backend);
        let (domain, outside) = bench.honest();
        let mut liar = liar(seed, &outside);
        trials.tell(&outside, &mut liar, seed % 5);
        let scribbler =
            (seed % 4 == 3).then(|| Scribbler::start(outside.clone(), liar.clone().restoring()));
        visits += u32::from(visit(&trials, seed, &bench.config));
        trials.tell(&outside, &mut liar, seed % 3);
        use_it(&trials, seed, &domain);
        trials.call(seed, "leave", || drop(domain));
        trials.add(scribbler.map_or(0, Scribbler::stop));
    }
    println!("{backend}: {visits} visits");
    // Those that nobody lied to come in at least; with `memfd`, a name leads to a new domain.
    assert!(visits > 0);
    trials.finish();
}

#[test]
fn by_name_posix() {
    named(Backend::Posix, 120);
}

#[test]
fn by_name_mmap() {
    named(Backend::Mmap, 60);
}

#[test]
fn by_name_sysv() {
    named(Backend::Sysv, 60);
}

/// The child: is lied to before it comes in, or meanwhile, by its parent.
fn inherits(args: &[String]) {
    let seed: u64 = args[0].parse().unwrap();
    let trials = Trials::new("domain, by inheritance", LIMIT);
    let opened = trials.call(seed, "from_env", Domain::from_env);
    if let Some(Ok(domain)) = opened {
        for _ in 0..3 {
            use_it(&trials, seed, &domain);
        }
        trials.call(seed, "leave", || drop(domain));
    }
    trials.finish();
}
shm_testkit::children! { inherits }

fn inherited(backend: Backend, seeds: u64) {
    let trials = Trials::new("domain, by inheritance", LIMIT);
    for seed in trials.seeds(seeds) {
        let mut bench = Bench::new(backend);
        let (domain, outside) = bench.honest();
        let inheritance = domain.inheritance().unwrap();
        let text = |text: &std::ffi::OsString| text.to_str().unwrap().to_owned();
        let env: Vec<_> = inheritance.env.iter().map(|(n, v)| (text(n), text(v))).collect();
        let env: Vec<_> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
        let fds: Vec<_> = inheritance.fds.iter().map(AsFd::as_fd).collect();
        let mut liar = liar(seed, &outside);
        trials.tell(&outside, &mut liar, seed % 4);
        let scribbler = (seed % 2 == 1).then(|| Scribbler::start(outside, liar.restoring()));
        let seed_text = seed.to_string();
        let setup = Setup { args: &[&seed_text], env: &env, fds: &fds };
        let mut child = Child::spawn_with("inherits", setup);
        bench._unique.watch_process(child.pid());
        child.wait(2 * LIMIT).assert_success();
        use_it(&trials, seed, &domain);
        trials.call(seed, "leave", || drop(domain));
        trials.add(scribbler.map_or(0, Scribbler::stop));
    }
    trials.finish();
}

#[test]
fn by_inheritance_memfd() {
    inherited(Backend::Memfd, 40);
}

#[test]
fn by_inheritance_posix() {
    inherited(Backend::Posix, 20);
}
