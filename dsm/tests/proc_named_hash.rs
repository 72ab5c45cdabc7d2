//! Hashes and areas by name, among real processes: one makes them, whoever is killed at it; who is
//! killed while he uses them loses nothing that he was told, and is cleaned up after by the others,
//! his successor in the seat among them.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::area::AreaConfig;
use dsm::backend::Backend::{self, Mmap, Posix, Sysv};
use dsm::hash::{HashError, Size, Walk};
use dsm::registry::Kind;
use dsm::{AreaSpec, Domain, DomainConfig, HashSpec, NamedError, NamedSpec, SharedHash};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::{self, Child, in_a_fork};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::convert::Infallible;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const PROCESSES: usize = 3;

fn spec() -> HashSpec {
    let spec = HashSpec::new(Size::Fixed(8), Size::UpTo(100));
    HashSpec { max_bytes: 32 << 20, threads: 16, threads_of_process: 4, fingerprint: 7, ..spec }
}

fn config(name: &str, backend: Backend, directory: &str) -> DomainConfig {
    DomainConfig {
        backend: Some(backend),
        directory: Some(directory.into()),
        participants_max: 5,
        segments_max: Some(6),
        ..DomainConfig::new(name)
    }
}

struct Bench {
    unique: Unique,
    config: DomainConfig,
    directory: TempDir,
}

impl Bench {
    fn new(backend: Backend) -> Bench {
        let (directory, mut unique) = (TempDir::new("hashes"), Unique::new("hashes"));
        unique.watch_directory(directory.path());
        let config = config(unique.name(), backend, directory.path().to_str().unwrap());
        Bench { unique, config, directory }
    }

    fn open(&self) -> Domain {
        Domain::open(self.config.clone()).unwrap()
    }

    fn spawn(&mut self, function: &str, who: usize) -> Child {
        let backend = self.config.backend.unwrap();
        let directory = self.directory.path().to_str().unwrap();
        let args = [&self.config.name, backend.name(), directory, &who.to_string()];
        let child = Child::spawn(function, &args);
        self.unique.watch_process(child.pid());
        child
    }
}

fn open_as_told(args: &[String]) -> Domain {
    Domain::open(config(&args[0], args[1].parse().unwrap(), &args[2])).unwrap()
}

fn ask(domain: &Domain) -> SharedHash {
    domain.named_hash("shared", &spec()).unwrap()
}

shm_testkit::children! { asks, counts, never_ends }

/// Says whether it has made it, and lets go when told.
fn asks(args: &[String]) {
    let domain = open_as_told(args);
    let hash = ask(&domain);
    hash.join().unwrap().insert(&args[3].parse::<u64>().unwrap().to_le_bytes(), b"mine").unwrap();
    child::tell_parent(&hash.was_found().to_string());
    child::parent_says();
}

/// Puts ever higher counts under keys of its own until it is killed. A key's count is as long as
/// it says, so that half a value would be seen; and never gets lower.
fn counts(args: &[String]) {
    let (domain, who) = (open_as_told(args), args[3].parse::<u64>().unwrap());
    let mut hash = ask(&domain).join().unwrap();
    child::tell_parent("begun");
    for round in 0u64.. {
        let key = ((round % 500) << 8 | who).to_le_bytes();
        let before = hash.find(&key).unwrap().map_or(0, |found| check_value(&found.to_vec()));
        hash.upsert(&key, &value(before + 1)).unwrap();
        if round % 7 == 0 {
            hash.delete(&(((round / 2) % 500) << 8 | who | 1 << 40).to_le_bytes()).unwrap();
            hash.insert(&((round % 500) << 8 | who | 1 << 40).to_le_bytes(), b"").unwrap();
        }
    }
}

fn value(count: u64) -> Vec<u8> {
    let mut value = count.to_le_bytes().to_vec();
    value.resize(8 + (count % 90) as usize, count as u8);
    value
}

fn check_value(bytes: &[u8]) -> u64 {
    let count = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, value(count), "half a value");
    count
}

/// Initialises an area for ever.
fn never_ends(args: &[String]) {
    let domain = open_as_told(args);
    let spec = AreaSpec::new(AreaConfig::new(4 << 20));
    let _ = domain.named_area("area", &spec, |area| {
        area.heap(domain.member()).unwrap().alloc_to(area.root(), 100, |_| ()).unwrap();
        child::tell_parent("begun");
        std::thread::sleep(LIMIT);
        Err(())
    });
}

#[test]
fn several_ask_and_one_makes_it() {
    within(LIMIT, || {
        for backend in [Posix, Sysv] {
            let mut bench = Bench::new(backend);
            let domain = bench.open();
            let mut children: Vec<_> = (0..3).map(|who| bench.spawn("asks", who)).collect();
            let said: Vec<String> = children.iter_mut().map(|child| child.hear(LIMIT)).collect();
            assert_eq!(said.iter().filter(|said| *said == "false").count(), 1, "{said:?}");
            let mine = ask(&domain);
            assert!(mine.was_found());
            let mut hash = mine.join().unwrap();
            for who in 0..3u64 {
                assert_eq!(hash.find(&who.to_le_bytes()).unwrap().unwrap().to_vec(), b"mine");
            }
            // Whoever has it gets the same one.
            assert_eq!(ask(&domain).handle(), mine.handle());
            let [entry] = domain.named().try_into().unwrap();
            assert_eq!((entry.kind, entry.users.len()), (Kind::Hash, 4));
            for mut child in children {
                child.say("go");
                child.wait(LIMIT).assert_success();
            }
            drop((hash, mine));
            assert!(ask(&domain).was_found(), "it stays");
            domain.remove_named("shared").unwrap();
            drop(domain);
            // A fork that another test makes meanwhile has it mapped for a moment.
            bench.unique.assert_nothing_left(LIMIT / 2);
        }
    });
}

#[test]
fn nothing_is_lost_whoever_is_killed() {
    within(LIMIT, || {
        let mut bench = Bench::new(Posix);
        let domain = bench.open();
        let shared = ask(&domain);
        let start = |bench: &mut Bench, who| bench.spawn("counts", who);
        let mut children: Vec<_> = (0..PROCESSES).map(|who| start(&mut bench, who)).collect();
        let (end, mut kills, mut least) = (Instant::now() + Duration::from_secs(1), 0, [0u64; 3]);
        let mut hash = shared.join().unwrap();
        while Instant::now() < end {
            let who = kills % PROCESSES;
            children[who].hear(LIMIT);
            std::thread::sleep(Duration::from_millis(15));
            children[who].kill();
            children[who].wait(LIMIT);
            // Those who come next do the same where we do not.
            if kills % 2 == 0 {
                domain.reap();
            }
            let key = (who as u64).to_le_bytes();
            let found = hash.find(&key).unwrap().map_or(0, |found| check_value(&found.to_vec()));
            assert!(found >= least[who], "a count was lost");
            least[who] = found;
            children[who] = start(&mut bench, who);
            kills += 1;
        }
        drop(children);
        domain.reap();
        let reaped = shared.reap();
        assert_eq!(shared.reap(), 0);
        hash.settle().unwrap();
        hash.tidy().unwrap();
        let (mut walk, mut keys) = (Walk::new(), 0);
        while let Some((key, value)) = walk.next(&mut hash).unwrap() {
            if key[5] == 0 {
                check_value(&value);
            }
            keys += 1;
        }
        let stats = shared.area().stats();
        println!("{kills} killed, {reaped} reaped at the end, {keys} keys, {stats:?}");
        assert!(kills > 3 && keys > 10 && least.iter().any(|least| *least > 0));
        assert!(shared.area().verify().is_clean());
        assert_eq!(stats.heaps, 1, "ours");
        // Nothing but the entries, the table and what we have retired and not given back yet.
        assert!(stats.blocks < keys + 2000, "{stats:?}");
    });
}

#[test]
fn a_killed_maker_is_followed_by_another_and_a_kind_is_told() {
    within(LIMIT, || {
        let mut bench = Bench::new(Mmap);
        let domain = bench.open();
        let mut maker = bench.spawn("never_ends", 0);
        maker.hear(LIMIT);
        maker.kill();
        maker.wait(LIMIT);
        let spec_of_area = AreaSpec::new(AreaConfig::new(4 << 20));
        let make = |area: &dsm::area::Area| {
            let heap = area.heap(domain.member()).unwrap();
            heap.alloc_to(area.root(), 200, |_| ()).map(drop)
        };
        let named = domain.named_area("area", &spec_of_area, make).unwrap();
        assert!(!named.found && named.area.stats().blocks == 1);
        let again = domain.named_area("area", &spec_of_area, make).unwrap();
        let root = |area: &dsm::area::Area| area.root().load(Ordering::Acquire);
        assert!(again.found && root(&again.area) == root(&named.area));
        // Each kind is told, and so is another layout.
        let other = domain.named_hash("area", &spec()).unwrap_err();
        let is_kind = |found, asked| (found, asked) == (Kind::Area, Kind::Hash);
        assert!(matches!(other, NamedError::Kind { found, asked, .. } if is_kind(found, asked)));
        let segment = NamedSpec { size: 1, ..NamedSpec::default() };
        let other = domain.named_segment("area", &segment, |_| Ok::<_, Infallible>(()));
        assert!(matches!(other, Err(NamedError::Kind { .. })), "{other:?}");
        ask(&domain);
        let wider = HashSpec { value: Size::UpTo(101), ..spec() };
        let other = domain.named_hash("shared", &wider).unwrap_err();
        assert!(matches!(other, NamedError::Fingerprint { .. }), "{other}");
        let larger = HashSpec { max_bytes: 64 << 20, ..spec() };
        let other = domain.named_hash("shared", &larger).unwrap_err();
        assert!(matches!(other, NamedError::Size { .. }), "{other}");
        let small = AreaSpec::new(AreaConfig::new(0));
        let none = domain.named_area("small", &small, |_| Ok::<_, Infallible>(()));
        assert!(matches!(none, Err(NamedError::SizeZero)), "{none:?}");
        let failed = domain.named_area("failed", &spec_of_area, |_| Err("no"));
        assert!(matches!(failed, Err(NamedError::Init("no"))), "{failed:?}");
        domain.reap();
        assert_eq!(domain.segments().len(), 2, "nothing is left of it");
    });
}

/// The words before the announcements: each of them, and the name of the hash.
#[test]
fn a_head_of_nonsense_is_an_error() {
    within(LIMIT, || {
        let bench = Bench::new(Mmap);
        let (domain, other) = (bench.open(), bench.open());
        let handle = ask(&domain).handle();
        let segment = domain.find_mapping(handle).or(domain.attach(handle).unwrap()).unwrap();
        for word in 0..5 {
            let word = segment.region().share::<AtomicU64>(8 * word).unwrap();
            let held = word.load(Ordering::Relaxed);
            for lie in [0, 1, held ^ 1, held << 1, 1 << 40, u64::MAX] {
                word.store(lie, Ordering::Relaxed);
                let named = other.named_hash("shared", &spec());
                let used =
                    named.map(|shared| shared.join().map(|mut hash| hash.find(&[0; 8]).is_ok()));
                assert!(lie == held || !matches!(used, Ok(Ok(true))), "{used:?}");
            }
            word.store(held, Ordering::Relaxed);
        }
        // A seat that nobody has, and one whose claims are nonsense.
        let seat = other.member().id().slot();
        let word = segment.region().share::<AtomicU64>(128 + 8 * u64::from(seat)).unwrap();
        for lie in [1, u64::MAX, u64::from(other.member().id().to_bits())] {
            word.store(lie, Ordering::Relaxed);
            ask(&other).join().unwrap().find(&[0; 8]).unwrap();
        }
    });
}

#[test]
fn threads_are_counted_and_a_fork_is_nobody() {
    within(LIMIT, || {
        let bench = Bench::new(Mmap);
        let domain = bench.open();
        let shared = ask(&domain);
        let handles: Vec<_> = (0..4).map(|_| shared.join().unwrap()).collect();
        drop(handles);
        let hashes: Vec<_> = std::iter::from_fn(|| shared.join().ok()).take(20).collect();
        assert!((4..=5).contains(&hashes.len()), "{}", hashes.len());
        drop(hashes);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let mut hash = shared.join().unwrap();
                scope.spawn(move || hash.insert(&thread.to_le_bytes(), b"").unwrap());
            }
        });
        assert!(in_a_fork(|| {
            matches!(shared.join(), Err(HashError::Forked(_)))
                && domain.named_hash("shared", &spec()).is_err()
                && shared.reap() == 0
        }));
        drop(shared);
    });
}
