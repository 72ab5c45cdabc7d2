//! Real processes at one hash in an area, killed and stopped again and again: what was acknowledged
//! is there, the others go on, and in the end no block is lost.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::area::{Area, AreaConfig};
use dsm::backend::Backend;
use dsm::hash::{Hash, HashConfig, HashError, MemberGround, Size, Walk};
use dsm::{Domain, DomainConfig, Segment};
use shm_core::hazard::Hazards;
use shm_core::mapping::{Mapped, MappedSlice};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::{self, Child};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const TIME: Duration = Duration::from_secs(2);
const SEATS: u32 = 16;
const WORKERS: u64 = 3;
const AREA_BYTES: u64 = 32 << 20;
/// Keys of one worker: enough for several tables.
const KEYS: u64 = 1 << 16;

/// Where everything is in the segment, and how this process sees it.
struct Place {
    table: Table,
    hazards: Hazards,
    area: Area,
    name: Mapped<AtomicU64>,
    /// Of each worker: how many keys it has inserted, and been told so; how many deleted.
    said: MappedSlice<AtomicU64>,
    _segment: Segment,
}

const HAZARDS_AT: u64 = Table::bytes_for(SEATS).next_multiple_of(128);
const NAME_AT: u64 = (HAZARDS_AT + Hazards::bytes_for(SEATS, 2)).next_multiple_of(128);
const SAID_AT: u64 = NAME_AT + 128;
const AREA_AT: u64 = (SAID_AT + 16 * WORKERS).next_multiple_of(4096);

fn area_config() -> AreaConfig {
    AreaConfig::new(AREA_BYTES)
}

impl Place {
    fn bytes() -> u64 {
        AREA_AT + Area::bytes_for(&area_config())
    }

    fn make(segment: Segment) -> Place {
        let mapping = segment.mapping();
        // SAFETY: nobody has been told of the segment yet.
        unsafe { Table::create(mapping, 0, SEATS) }.unwrap();
        // SAFETY: as above.
        unsafe { Hazards::create(mapping, HAZARDS_AT, SEATS, 2) }.unwrap();
        // SAFETY: as above.
        unsafe { Area::create_in_place(mapping, AREA_AT, &area_config()) }.unwrap();
        Place::attach(segment)
    }

    fn attach(segment: Segment) -> Place {
        let mapping = segment.mapping();
        Place {
            table: Table::attach(mapping, 0).unwrap(),
            hazards: Hazards::attach(mapping, HAZARDS_AT).unwrap(),
            area: Area::attach_in_place(mapping, AREA_AT).unwrap(),
            name: Mapped::new(mapping, NAME_AT).unwrap(),
            said: MappedSlice::new(mapping, SAID_AT, 2 * WORKERS).unwrap(),
            _segment: segment,
        }
    }

    fn ground(&self, member: &Arc<Member>) -> MemberGround {
        MemberGround::new(&self.area, &self.hazards.row(member).unwrap()).unwrap()
    }

    fn hash(&self, member: &Arc<Member>) -> Hash<MemberGround> {
        let name = self.name.load(Ordering::Acquire);
        Hash::attach(self.ground(member), name, &config()).unwrap()
    }

    /// Takes back what the dead had.
    fn reap(&self, hash: &mut Hash<MemberGround>) -> usize {
        self.table.reap(|dead| {
            self.area.reap(dead);
            hash.reap(dead.to_bits()).unwrap();
            self.hazards.clear_row(dead);
        })
    }
}

fn config() -> HashConfig {
    HashConfig { threads: 8, ..HashConfig::new(Size::Fixed(8), Size::UpTo(40)) }
}

fn again<R>(mut call: impl FnMut() -> Result<R, HashError>) -> R {
    let start = Instant::now();
    loop {
        match call() {
            Err(HashError::Busy) if start.elapsed() < LIMIT => std::thread::yield_now(),
            end => return end.unwrap(),
        }
    }
}

fn key(worker: u64, number: u64) -> [u8; 8] {
    ((worker << 32) | (number % KEYS)).to_le_bytes()
}

fn value(number: u64) -> Vec<u8> {
    vec![number as u8; 8 + number as usize % 30]
}

/// Inserts keys in their order and deletes them in the same order, more of the one or the other by
/// turns, until it is killed.
fn works(args: &[String]) {
    let domain = Domain::open(config_of(args)).unwrap();
    let segment = domain.attach(args[2].parse().unwrap()).unwrap().expect("it is there");
    let worker: u64 = args[3].parse().unwrap();
    let place = Place::attach(segment);
    let member = place.table.join().unwrap();
    let mut hash = place.hash(&member);
    let (inserted, deleted) =
        (&place.said[2 * worker as usize], &place.said[2 * worker as usize + 1]);
    child::tell_parent("works");
    loop {
        let (next, first) = (inserted.load(Ordering::Relaxed), deleted.load(Ordering::Relaxed));
        let many = 500 + next / 4000 % 4 * 1500;
        if next - first < many {
            // A predecessor may have died after the insertion and before it said so.
            again(|| hash.upsert(&key(worker, next), &value(next)));
            inserted.store(next + 1, Ordering::Release);
        } else {
            again(|| hash.delete(&key(worker, first)));
            deleted.store(first + 1, Ordering::Release);
        }
        if next % 16 == 0 {
            let mine = key(worker, first.max(next.saturating_sub(100)) + 1);
            again(|| hash.find(&mine).map(|found| found.map(|found| found.to_vec())));
        }
    }
}

shm_testkit::children! { works }

fn config_of(args: &[String]) -> DomainConfig {
    DomainConfig {
        backend: Some(Backend::Mmap),
        directory: Some(args[1].clone().into()),
        ..DomainConfig::new(&args[0])
    }
}

fn spawn(args: &[String], worker: u64) -> Child {
    let worker = worker.to_string();
    let args: Vec<&str> = args.iter().map(|arg| &**arg).chain([&*worker]).collect();
    let mut child = Child::spawn("works", &args);
    assert_eq!(child.hear(LIMIT), "works");
    child
}

#[test]
fn workers_are_killed_and_lose_nothing_that_was_acknowledged() {
    within(LIMIT, || {
        let (directory, mut unique) = (TempDir::new("hash"), Unique::new("hash"));
        unique.watch_directory(directory.path());
        let path = directory.path().to_str().unwrap().to_owned();
        let args = vec![unique.name().to_owned(), path];
        let domain = Domain::open(config_of(&args)).unwrap();
        let segment = domain.create_segment(Place::bytes()).unwrap();
        let args = [&args[..], &[segment.handle().to_string()]].concat();
        let place = Place::make(segment);
        let member = place.table.join().unwrap();
        let hash = Hash::create(place.ground(&member), &place.name, &config()).unwrap();
        let kills = chaos(&place, hash, &args);
        println!("{kills} workers killed");
        assert!(kills > 3);
    });
}

/// Kills workers, or stops them for a while, and starts others; then looks at everything.
fn chaos(place: &Place, mut hash: Hash<MemberGround>, args: &[String]) -> u64 {
    let mut children: Vec<Child> = (0..WORKERS).map(|worker| spawn(args, worker)).collect();
    let (start, mut kills) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        let worker = kills % WORKERS;
        let child = &mut children[worker as usize];
        if kills % 2 == 0 {
            // One that stands still keeps nobody.
            child.stop();
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill();
        child.wait(LIMIT);
        kills += 1;
        assert_eq!(place.reap(&mut hash), 1);
        std::thread::sleep(Duration::from_millis(30));
        children[worker as usize] = spawn(args, worker);
    }
    for child in &mut children {
        child.kill();
        child.wait(LIMIT);
    }
    assert_eq!(place.reap(&mut hash), WORKERS as usize);
    check(place, &mut hash);
    kills
}

fn check(place: &Place, hash: &mut Hash<MemberGround>) {
    let mut least = 0;
    for worker in 0..WORKERS {
        let said = |at: u64| place.said[(2 * worker + at) as usize].load(Ordering::Acquire);
        let (inserted, deleted) = (said(0), said(1));
        // The last one of each kind may have been done, and not said.
        for number in deleted + 1..inserted {
            let found = hash.find(&key(worker, number)).unwrap().map(|found| found.to_vec());
            assert_eq!(found, Some(value(number)), "key {number} of {worker}");
            least += 1;
        }
        println!("worker {worker}: {inserted} inserted, {deleted} deleted");
        assert!(inserted > 100);
    }
    let mut walk = Walk::new();
    let mut walked = 0;
    while walk.next(hash).unwrap().is_some() {
        walked += 1;
    }
    let report = hash.verify().unwrap();
    assert_eq!(report.faults, Vec::<String>::new());
    assert_eq!(walked, report.entries);
    assert!((least..=least + 2 * WORKERS).contains(&walked), "{least} known, {walked} there");
    let area = place.area.verify();
    assert!(area.is_clean(), "{area:?}");
    let mut live = Vec::new();
    place.area.for_each_block(|ptr, _| live.push(block_of(ptr.to_bits())));
    live.sort_unstable();
    assert_eq!(report.blocks, live, "leaked, or lost");
}

fn block_of(name: u64) -> u64 {
    (name & ((1 << 50) - 1)) >> 3
}
