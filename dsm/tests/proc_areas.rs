//! Areas in a domain, among real processes: they grow and shrink for all who use them, whoever is
//! killed or stopped; a full file system is an error and no SIGBUS; a limit holds.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::area::{AllocError, AllocOptions, Area, AreaConfig, AreaPtr, Heap};
use dsm::backend::Backend::{self, Memfd, Mmap, Posix, Sysv};
use dsm::{Domain, DomainConfig, SegmentHandle};
use shm_core::mapping::MappedSlice;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::{self, Child, Setup};
use shm_testkit::fault::{mount_empty, trial};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// In a block named by the root: so many words for each process.
const WORDS: usize = 64;
const PROCESSES: usize = 3;

shm_testkit::children! { churns, stops, fills_up }

struct Bench {
    unique: Unique,
    config: DomainConfig,
    _directory: TempDir,
}

impl Bench {
    fn new(backend: Backend) -> Bench {
        let (directory, mut unique) = (TempDir::new("areas"), Unique::new("areas"));
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

    fn spawn(&mut self, domain: &Domain, function: &str, area: &Area, who: usize) -> Child {
        let inheritance = domain.inheritance().unwrap();
        let text = |(name, value): &(std::ffi::OsString, std::ffi::OsString)| {
            (name.to_str().unwrap().to_owned(), value.to_str().unwrap().to_owned())
        };
        let env: Vec<(String, String)> = inheritance.env.iter().map(text).collect();
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
        let fds: Vec<_> = inheritance.fds.iter().map(AsFd::as_fd).collect();
        let args = [&*area.handle().unwrap().to_string(), &*who.to_string()];
        let child = Child::spawn_with(function, Setup { args: &args, env: &env, fds: &fds });
        self.unique.watch_process(child.pid());
        child
    }
}

/// The area that this child was started for.
fn area_as_told(args: &[String]) -> (Domain, Area, usize) {
    let domain = Domain::from_env().unwrap();
    let handle: SegmentHandle = args[0].parse().unwrap();
    let area = Area::attach(&domain, handle).unwrap().unwrap();
    (domain, area, args[1].parse().unwrap())
}

fn nothing(_: NonNull<u8>) {}

/// Makes the block of words that the root names.
fn make_words(heap: &Heap) {
    let bytes = (PROCESSES * WORDS * 8) as u64;
    heap.alloc_with(heap.area().root(), AllocOptions::new(bytes).zeroed(), nothing).unwrap();
}

/// The words of a process.
fn words(area: &Area, who: usize) -> MappedSlice<AtomicU64> {
    let block = AreaPtr::from_bits(area.root().load(Ordering::Acquire));
    let address = area.resolve_len(block, (PROCESSES * WORDS * 8) as u64).unwrap();
    let at = area.mapping().region().offset_of(address).unwrap() + (who * WORDS * 8) as u64;
    MappedSlice::new(area.mapping(), at, WORDS as u64).unwrap()
}

/// All bytes of a block say whose it is.
fn fill(address: NonNull<u8>, who: usize, size: u64) {
    // SAFETY: so many bytes, and nobody else's.
    unsafe { address.write_bytes(who as u8 + 1, size as usize) };
}

fn is_filled(area: &Area, block: u64, who: usize, size: u64) -> bool {
    let address = area.resolve_len(AreaPtr::from_bits(block), size).unwrap();
    // SAFETY: a block of ours, all of it written.
    let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr(), size as usize) };
    bytes.iter().all(|byte| *byte == who as u8 + 1)
}

fn size_of_word(at: usize) -> u64 {
    [100, 3000, 20_000, 300_000][at % 4]
}

/// Allocates, frees and gives back until it is killed.
fn churns(args: &[String]) {
    let (domain, area, who) = area_as_told(args);
    let heap = area.heap(domain.member()).unwrap();
    let words = words(&area, who);
    let mut seed = u64::from(std::process::id()) | 1;
    child::tell_parent("begun");
    loop {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = (seed >> 33) as usize % WORDS;
        let (word, size) = (&words[at], size_of_word(at));
        match word.load(Ordering::Relaxed) {
            0 => match heap.alloc_to(word, size, |address| fill(address, who, size)) {
                Ok(_) | Err(AllocError::OutOfMemory { .. } | AllocError::Limit { .. }) => {}
                Err(error) => panic!("{error}"),
            },
            block => {
                assert!(is_filled(&area, block, who, size), "somebody else wrote to it");
                heap.free_from(word).unwrap();
            }
        }
        if seed >> 58 == 0 {
            heap.trim();
        }
    }
}

/// Stops in the middle of an allocation for which the area has grown.
fn stops(args: &[String]) {
    let (domain, area, who) = area_as_told(args);
    let heap = area.heap(domain.member()).unwrap();
    let _ = heap.alloc_to(&words(&area, who)[0], 2 * MIB, |_| {
        child::tell_parent("there");
        // SAFETY: signals this process.
        assert_eq!(unsafe { libc::raise(libc::SIGSTOP) }, 0);
    });
}

/// Blocks named by words of all, and no others.
fn assert_whole(area: &Area) {
    let report = area.verify();
    assert!(report.is_clean(), "{report:?}");
    let mut named = vec![area.root().load(Ordering::Relaxed)];
    for who in 0..PROCESSES {
        named.extend(words(area, who).iter().map(|word| word.load(Ordering::Relaxed)));
    }
    named.retain(|word| *word != 0);
    named.sort_unstable();
    let mut blocks = Vec::new();
    area.for_each_block(|block, _| blocks.push(block.to_bits()));
    assert_eq!(blocks, named, "a block is lost, or is two words'");
}

#[test]
fn nothing_is_lost_whoever_is_killed() {
    within(LIMIT, || {
        for backend in [Posix, Memfd] {
            let mut bench = Bench::new(backend);
            let domain = Domain::open(bench.config.clone()).unwrap();
            let config = AreaConfig::new(64 * MIB).limit(20 * MIB).keep(0).heaps(8);
            let area = Area::create(&domain, &config).unwrap();
            let heap = area.heap(domain.member()).unwrap();
            make_words(&heap);
            let start = |bench: &mut Bench, who| bench.spawn(&domain, "churns", &area, who);
            let mut children: Vec<_> = (0..PROCESSES).map(|who| start(&mut bench, who)).collect();
            let (end, mut kills, mut most) = (Instant::now() + Duration::from_secs(1), 0, 0);
            while Instant::now() < end {
                children[kills % PROCESSES].hear(LIMIT);
                std::thread::sleep(Duration::from_millis(20));
                most = most.max(area.stats().there);
                children[kills % PROCESSES].kill();
                children[kills % PROCESSES] = start(&mut bench, kills % PROCESSES);
                kills += 1;
            }
            drop(children);
            area.reap_all();
            assert_whole(&area);
            println!("{backend}: {kills} killed, at most {most} there, {:?}", area.stats());
            assert!(most > 2 * MIB && most <= 20 * MIB, "{most}");
            for who in 0..PROCESSES {
                let words = words(&area, who);
                for word in words.iter().filter(|word| word.load(Ordering::Relaxed) != 0) {
                    heap.free_from(word).unwrap();
                }
            }
            heap.trim();
            assert_eq!(area.stats().there, MIB, "one block is left");
            heap.free_from(area.root()).unwrap();
            assert_eq!((heap.trim(), area.stats().there), (MIB, 0));
            drop((heap, area, domain));
            bench.unique.assert_nothing_left(Duration::ZERO);
        }
    });
}

#[test]
fn one_that_is_stopped_hinders_nobody() {
    within(LIMIT, || {
        let mut bench = Bench::new(Mmap);
        let domain = Domain::open(bench.config.clone()).unwrap();
        let area = Area::create(&domain, &AreaConfig::new(8 * MIB)).unwrap();
        let heap = area.heap(domain.member()).unwrap();
        make_words(&heap);
        let mut stopped = bench.spawn(&domain, "stops", &area, 1);
        assert_eq!(stopped.hear(LIMIT), "there");
        let own = words(&area, 0);
        // Another one's pages are his, dead or alive, and all others ours.
        heap.alloc_to(&own[0], 4 * MIB, nothing).unwrap();
        assert!(heap.alloc_to(&own[1], 2 * MIB, nothing).is_err());
        stopped.kill();
        stopped.wait(LIMIT);
        heap.alloc_to(&own[1], 2 * MIB, nothing).unwrap();
        assert_whole(&area);
    });
}

#[test]
fn an_area_goes_with_its_last_user_unless_it_is_pinned() {
    within(LIMIT, || {
        for backend in [Posix, Sysv] {
            let bench = Bench::new(backend);
            let domain = Domain::open(bench.config.clone()).unwrap();
            let area = Area::create(&domain, &AreaConfig::new(4 * MIB)).unwrap();
            let handle = area.handle().unwrap();
            make_words(&area.heap(domain.member()).unwrap());
            domain.find_mapping(handle).unwrap().pin().unwrap();
            drop(area);
            let area = Area::attach(&domain, handle).unwrap().unwrap();
            assert_eq!(area.stats().blocks, 1);
            let is_elastic = backend == Posix;
            assert_eq!(area.stats().there, if is_elastic { MIB } else { 4 * MIB });
            domain.unpin(handle).unwrap();
            drop(area);
            assert!(Area::attach(&domain, handle).unwrap().is_none());
        }
    });
}

#[test]
fn a_full_file_system_is_an_error() {
    Child::spawn("fills_up", &[]).wait(LIMIT).assert_success();
}

/// In a file system with room for a few chunks.
fn fills_up(_: &[String]) {
    let ended = trial(LIMIT, || {
        let directory = std::path::Path::new(dsm::backend::POSIX_DIRECTORY);
        if let Err(not_run) = mount_empty("tmpfs", directory, 0, "size=6m") {
            return eprintln!("{not_run}");
        }
        let bench = Bench::new(Posix);
        let domain = Domain::open(bench.config.clone()).unwrap();
        let area = Area::create(&domain, &AreaConfig::new(1 << 30)).unwrap();
        let heap = area.heap(domain.member()).unwrap();
        make_words(&heap);
        let own = words(&area, 0);
        let full = own.iter().find_map(|word| {
            let filled = heap.alloc_to(word, 200_000, |address| fill(address, 0, 200_000));
            filled.err()
        });
        assert_eq!(full, Some(AllocError::NoSpace { size: 200_000 }));
        // Nor does it take memory to ask whether all is there.
        domain.find_mapping(area.handle().unwrap()).unwrap().check().unwrap();
        let report = area.verify();
        assert!(report.is_clean() && report.stats.there >= 3 * MIB, "{report:?}");
        // There is room again where something is freed, and the rest goes back.
        heap.free_from(&own[0]).unwrap();
        heap.alloc_to(&own[0], 100_000, nothing).unwrap();
        let too_much = Area::create(&domain, &AreaConfig::new(64 * MIB).initial(32 * MIB));
        assert!(too_much.unwrap_err().to_string().contains("no memory"));
        own.iter().filter(|word| word.load(Ordering::Relaxed) != 0).for_each(|word| {
            heap.free_from(word).unwrap();
        });
        heap.trim();
        assert_eq!(area.stats().there, MIB);
    });
    assert!(ended.is_success(), "{:?}\n{}", ended.failure(), ended.stderr);
}
