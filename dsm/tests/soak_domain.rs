//! A soak: eight processes do all there is to do in a domain, and every 50 ms one of them is killed
//! and another takes its place. What was acknowledged is there, and in the end nothing is left.
//!
//! A worker says what it begins and what came of it through a pipe, so the account of what was
//! acknowledged stands outside shared memory. Keys belong to lanes, and a lane has one worker at a
//! time: the account knows what each key can be, also where a worker died in the middle.
//!
//! It takes `SHM_SOAK_SECONDS`, or 600 s with `SHM_DEEP=1`, or else 3 s; `SHM_SOAK_SEED` repeats a
//! seed.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::area::{Area, AreaConfig, AreaPtr, Heap};
use dsm::backend::Backend;
use dsm::hash::{Hash, HashConfig, HashError, MemberGround, Size, Walk};
use dsm::{AttachError, Domain, DomainConfig, NamedSpec, Segment, SegmentOptions};
use shm_core::hazard::Hazards;
use shm_core::lock::mutex::{self, Mutex};
use shm_core::lock::rwlock::{self, RwLock};
use shm_core::mapping::{Mapped, MappedSlice};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::{self, Child, Setup};
use shm_testkit::unique::Unique;
use shm_testkit::watchdog::within;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{BufReader, PipeReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const BETWEEN_KILLS: Duration = Duration::from_millis(50);
/// On a slow machine the time may be over before.
const KILLS_MIN: u64 = 5;
const SEATS: u32 = 16;
const LANES: u64 = 8;
/// Keys of a lane, and words of a lane that name blocks.
const KEYS: u64 = 2000;
const WORDS: u64 = 32;
const AREA_BYTES: u64 = 32 << 20;
/// A key that no worker draws: the one whose insertion is a lie, where one is planted.
const PLANTED: u64 = KEYS;

const HAZARDS_AT: u64 = Table::bytes_for(SEATS).next_multiple_of(128);
const NAME_AT: u64 = (HAZARDS_AT + Hazards::bytes_for(SEATS, 2)).next_multiple_of(128);
const MUTEX_AT: u64 = NAME_AT + 128;
const RWLOCK_AT: u64 = (MUTEX_AT + Mutex::BYTES).next_multiple_of(128);
const WORDS_AT: u64 = (RWLOCK_AT + RwLock::bytes_for(SEATS)).next_multiple_of(128);
const AREA_AT: u64 = (WORDS_AT + 8 * (SHARED + LANES * WORDS)).next_multiple_of(4096);

/// Words before those of the lanes: the end of the soak, then two pairs that agree while nobody
/// holds their lock.
const SHARED: u64 = 8;
const STOP: usize = 0;
const BY_MUTEX: usize = 1;
const BY_RWLOCK: usize = 3;

/// Where everything is in the segment, and how this process sees it.
struct Place {
    table: Table,
    hazards: Hazards,
    area: Area,
    name: Mapped<AtomicU64>,
    mutex: Mutex,
    rwlock: RwLock,
    words: MappedSlice<AtomicU64>,
    _segment: Segment,
}

impl Place {
    fn make(domain: &Domain) -> Place {
        let area = AreaConfig::new(AREA_BYTES);
        let segment = domain.create_segment(AREA_AT + Area::bytes_for(&area)).unwrap();
        let mapping = segment.mapping();
        // SAFETY: nobody has been told of the segment yet.
        unsafe { Table::create(mapping, 0, SEATS) }.unwrap();
        // SAFETY: as above.
        unsafe { Hazards::create(mapping, HAZARDS_AT, SEATS, 2) }.unwrap();
        // SAFETY: as above.
        unsafe { Mutex::create(mapping, MUTEX_AT) }.unwrap();
        // SAFETY: as above.
        unsafe { RwLock::create(mapping, RWLOCK_AT, SEATS) }.unwrap();
        // SAFETY: as above.
        unsafe { Area::create_in_place(mapping, AREA_AT, &area) }.unwrap();
        Place::attach(segment)
    }

    fn attach(segment: Segment) -> Place {
        let mapping = segment.mapping();
        Place {
            table: Table::attach(mapping, 0).unwrap(),
            hazards: Hazards::attach(mapping, HAZARDS_AT).unwrap(),
            area: Area::attach_in_place(mapping, AREA_AT).unwrap(),
            name: Mapped::new(mapping, NAME_AT).unwrap(),
            mutex: Mutex::attach(mapping, MUTEX_AT).unwrap(),
            rwlock: RwLock::attach(mapping, RWLOCK_AT).unwrap(),
            words: MappedSlice::new(mapping, WORDS_AT, SHARED + LANES * WORDS).unwrap(),
            _segment: segment,
        }
    }

    fn ground(&self, member: &Arc<Member>) -> MemberGround {
        MemberGround::new(&self.area, &self.hazards.row(member).unwrap()).unwrap()
    }

    /// Takes back what the dead had.
    fn reap(&self, hash: &mut Hash<MemberGround>) -> usize {
        self.table.reap(|dead| {
            self.area.reap(dead);
            again(|| hash.reap(dead.to_bits()));
            self.hazards.clear_row(dead);
            self.mutex.clean_up(dead);
            self.rwlock.clean_up(dead);
        })
    }

    fn word(&self, at: usize) -> u64 {
        self.words[at].load(Ordering::Relaxed)
    }

    /// Counts one up in both words of a pair; its lock is held.
    fn count(&self, pair: usize) {
        let before = self.word(pair);
        assert_eq!(before, self.word(pair + 1), "a lock let two in");
        self.words[pair].store(before + 1, Ordering::Relaxed);
        self.words[pair + 1].store(before + 1, Ordering::Relaxed);
    }

    fn repair(&self, pair: usize) {
        self.words[pair + 1].store(self.word(pair), Ordering::Relaxed);
    }
}

fn config() -> HashConfig {
    HashConfig { threads: SEATS, ..HashConfig::new(Size::Fixed(8), Size::UpTo(100)) }
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

/// SplitMix64. (Steele, Lea, Flood, 2014.)
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn key(lane: u64, number: u64) -> [u8; 8] {
    ((lane << 32) | number).to_le_bytes()
}

/// A number, never 0, as a value of some length.
fn value(number: u64) -> Vec<u8> {
    number.to_le_bytes().into_iter().chain(vec![number as u8; number as usize % 90]).collect()
}

fn number_of(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, value(number), "a torn value");
    number
}

/// What is done with a key: as numbers in the pipe.
const INSERT: u64 = 1;
const UPSERT: u64 = 2;
const DELETE: u64 = 3;
const FIND: u64 = 4;
/// Not with a key: a turn under the mutex.
const COUNT: u64 = 5;
/// In place of an operation: the last one is done.
const DONE: u64 = 6;

const RECORD: usize = 24;

/// What an operation makes of a key's number (0 is none), and what it answers.
fn outcome(operation: u64, number: u64, before: u64) -> (u64, u64) {
    match operation {
        INSERT if before == 0 => (number, 1),
        INSERT => (before, 0),
        UPSERT => (number, u64::from(before == 0)),
        DELETE => (0, u64::from(before != 0)),
        _ => (before, before),
    }
}

/// What the keys of a lane can be, by what its workers have said.
#[derive(Default)]
struct Account {
    keys: HashMap<u64, Vec<u64>>,
    begun: Option<[u64; 3]>,
    counted: u64,
    acknowledged: u64,
    faults: Vec<String>,
}

impl Account {
    fn hear(&mut self, record: [u64; 3]) {
        if record[0] != DONE {
            self.begun = Some(record);
            return;
        }
        let Some([operation, key, number]) = self.begun.take() else { return };
        self.acknowledged += 1;
        if operation == COUNT {
            self.counted += 1;
            return;
        }
        let possible = self.keys.entry(key).or_insert_with(|| vec![0]);
        let outcomes = possible.iter().map(|before| outcome(operation, number, *before));
        let agreeing = outcomes.filter(|(_, answer)| *answer == record[1]);
        let mut after: Vec<u64> = agreeing.map(|(after, _)| after).collect();
        after.dedup();
        if after.is_empty() {
            let answer = record[1];
            self.faults.push(format!("key {key} {possible:?}: {operation} said {answer}"));
        } else {
            *possible = after;
        }
    }

    /// The worker is dead: what it had begun was done or not.
    fn end_of_worker(&mut self) {
        let Some([operation, key, number]) = self.begun.take() else { return };
        if operation != COUNT {
            let possible = self.keys.entry(key).or_insert_with(|| vec![0]);
            let after: Vec<u64> =
                possible.iter().map(|before| outcome(operation, number, *before).0).collect();
            possible.extend(after);
            possible.sort_unstable();
            possible.dedup();
        }
    }

    /// All that a worker says until it is gone.
    fn listen(mut self, pipe: PipeReader) -> Account {
        let mut pipe = BufReader::new(pipe);
        let mut record = [0; RECORD];
        while pipe.read_exact(&mut record).is_ok() {
            let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
            self.hear([word(0), word(8), word(16)]);
        }
        self.end_of_worker();
        self
    }
}

/// A worker's share.
struct Work<'a> {
    domain: &'a Domain,
    place: &'a Place,
    member: Arc<Member>,
    heap: Heap,
    hash: Hash<MemberGround>,
    random: Random,
    pipe: File,
    lane: u64,
    turns: u64,
}

impl Work<'_> {
    fn say(&mut self, record: [u64; 3]) {
        // At most PIPE_BUF bytes: all of it or nothing.
        self.pipe.write_all(&record.map(u64::to_le_bytes).concat()).unwrap();
    }

    fn step(&mut self) {
        match self.random.below(256) {
            0 => self.segment(),
            1 => self.named(),
            2 => self.growable(),
            3..16 => self.count(),
            16..32 => self.share(),
            32..96 => self.block(),
            _ => self.key(),
        }
    }

    fn key(&mut self) {
        // By turns more is inserted or deleted, so that the table grows and shrinks.
        self.turns += 1;
        let grows = (self.turns / 5000).is_multiple_of(2);
        let operation = match self.random.below(8) {
            0..2 => INSERT,
            2..4 => UPSERT,
            4 => FIND,
            5 if grows => INSERT,
            _ => DELETE,
        };
        let (number, new) = (self.random.below(KEYS), self.random.next() >> 1 | 1);
        self.say([operation, number, new]);
        let (hash, key) = (&mut self.hash, key(self.lane, number));
        let answer = match operation {
            INSERT => again(|| hash.insert(&key, &value(new))).into(),
            UPSERT => again(|| hash.upsert(&key, &value(new))).into(),
            DELETE => again(|| hash.delete(&key)).into(),
            _ => {
                again(|| hash.find(&key).map(|found| found.map_or(0, |at| number_of(&at.to_vec()))))
            }
        };
        self.say([DONE, answer, 0]);
        // Somebody else's: some value or none, but whole.
        let other = self::key(self.random.below(LANES), number);
        let hash = &mut self.hash;
        again(|| hash.find(&other).map(|found| found.map(|at| number_of(&at.to_vec()))));
    }

    /// A block comes or goes, in one of the lane's words.
    fn block(&mut self) {
        let at = SHARED + self.lane * WORDS + self.random.below(WORDS);
        let word = &self.place.words[at as usize];
        match AreaPtr::from_bits(word.load(Ordering::Acquire)) {
            none if none.to_bits() == 0 => {
                let order = self.random.below(15);
                let size = 8 + self.random.below(1 << order);
                let mark = |address: std::ptr::NonNull<u8>| {
                    // SAFETY: eight bytes at least, ours alone, at a multiple of 8.
                    unsafe { address.cast::<u64>().write(at) }
                };
                self.heap.alloc_to(word, size, mark).unwrap();
            }
            block => {
                let address = self.place.area.resolve(block).unwrap();
                // SAFETY: a block of this lane, written before its word named it.
                assert_eq!(unsafe { address.cast::<u64>().read() }, at, "somebody else's block");
                self.heap.free_from(word).unwrap();
            }
        }
    }

    fn count(&mut self) {
        self.say([COUNT, 0, 0]);
        let place = self.place;
        let guard = match place.mutex.lock(&self.member) {
            Err(mutex::LockError::Abandoned(abandoned)) => {
                place.repair(BY_MUTEX);
                abandoned.recover()
            }
            locked => locked.unwrap(),
        };
        place.count(BY_MUTEX);
        drop(guard);
        self.say([DONE, 0, 0]);
    }

    fn share(&mut self) {
        let (place, member) = (self.place, &self.member);
        let writes = self.random.below(2) == 0;
        let abandoned = if writes {
            let guard = place.rwlock.write(member);
            guard.map(|_guard| place.count(BY_RWLOCK))
        } else {
            let guard = place.rwlock.read(member);
            guard.map(|_guard| assert_eq!(place.word(BY_RWLOCK), place.word(BY_RWLOCK + 1)))
        };
        match abandoned {
            Err(rwlock::LockError::Abandoned { .. }) => {
                if let Some(recovery) = place.rwlock.recover(member).unwrap() {
                    place.repair(BY_RWLOCK);
                    drop(recovery.done());
                }
            }
            done => done.unwrap(),
        }
    }

    fn segment(&mut self) {
        let segment = self.domain.create_segment(1 + self.random.below(1 << 16)).unwrap();
        let mark: Mapped<AtomicU64> = Mapped::new(segment.mapping(), 0).unwrap();
        assert_eq!(mark.load(Ordering::Relaxed), 0, "a new segment is zero");
        mark.store(self.lane + 1, Ordering::Relaxed);
        drop(segment);
        // Somebody else's, which may be gone by then.
        let others = self.domain.segments();
        let other = others[self.random.below(others.len() as u64) as usize].handle;
        match self.domain.attach(other) {
            Ok(_) | Err(AttachError::AlreadyAttached(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn named(&mut self) {
        let name = format!("soak-{}", self.random.below(4));
        if self.random.below(4) == 0 {
            self.domain.remove_named(&name).unwrap();
            return;
        }
        let spec = NamedSpec { size: 10_000, fingerprint: 42, deadline: None };
        let init = |segment: &Segment| {
            let mark: Mapped<AtomicU64> = Mapped::new(segment.mapping(), 0).unwrap();
            mark.store(u64::MAX, Ordering::Relaxed);
            Ok::<(), Infallible>(())
        };
        let named = self.domain.named_segment(&name, &spec, init).unwrap();
        let mark: Mapped<AtomicU64> = Mapped::new(named.segment.mapping(), 0).unwrap();
        assert_eq!(mark.load(Ordering::Relaxed), u64::MAX, "found before it was made");
    }

    fn growable(&mut self) {
        if self.domain.backend() == Backend::Sysv {
            return; // there it is unsupported
        }
        let options = SegmentOptions::growable(1 << 20);
        let segment = self.domain.create_segment_with(4096, options).unwrap();
        let bytes = 4096 + self.random.below(1 << 18);
        assert!(segment.grow(bytes).unwrap() >= bytes);
        segment.shrink(4096).unwrap();
    }
}

/// Does something or other until it is killed, or told to end.
fn soaks(args: &[String]) {
    let number = |at: usize| args[at].parse::<u64>().unwrap();
    let domain = Domain::open(config_of(&args[0], args[1].parse().unwrap())).unwrap();
    let segment = domain.attach(args[2].parse().unwrap()).unwrap().expect("it is there");
    let place = Place::attach(segment);
    let member = place.table.join().unwrap();
    let hash = place.name.load(Ordering::Acquire);
    let hash = Hash::attach(place.ground(&member), hash, &config()).unwrap();
    // SAFETY: the parent has opened it for this process, and nobody else here knows of it.
    let pipe = unsafe { File::from_raw_fd(number(3) as RawFd) };
    let heap = place.area.heap(&member).unwrap();
    let (lane, random) = (number(4), Random(number(5)));
    let (domain, place, turns) = (&domain, &place, random.0 % 10_000);
    let mut work = Work { domain, place, member, heap, hash, random, pipe, lane, turns };
    if args[6] == "lies" {
        work.say([INSERT, PLANTED, 1]);
        work.say([DONE, 1, 0]);
        child::tell_parent("lied");
    }
    while place.word(STOP) == 0 {
        work.step();
    }
}

shm_testkit::children! { soaks }

fn config_of(name: &str, backend: Backend) -> DomainConfig {
    DomainConfig { backend: Some(backend), ..DomainConfig::new(name) }
}

/// A lane's worker, and who hears what it says.
struct Lane {
    child: Child,
    account: JoinHandle<Account>,
}

struct Soak {
    unique: Unique,
    domain: Domain,
    place: Place,
    hash: Hash<MemberGround>,
    random: Random,
    lies: bool,
}

impl Soak {
    fn new(backend: Backend, seed: u64, lies: bool) -> Soak {
        let mut unique = Unique::new("soak");
        unique.watch_process(std::process::id());
        let domain = Domain::open(config_of(unique.name(), backend)).unwrap();
        let place = Place::make(&domain);
        let member = place.table.join().unwrap();
        let hash = Hash::create(place.ground(&member), &place.name, &config()).unwrap();
        Soak { unique, domain, place, hash, random: Random(seed), lies }
    }

    fn start(&mut self, lane: u64, account: Account) -> Lane {
        let (reader, writer) = std::io::pipe().unwrap();
        let segment = self.place._segment.handle().to_string();
        let seed = self.random.next().to_string();
        let (pipe, number) = (writer.as_raw_fd().to_string(), lane.to_string());
        // The first one only: its successor would be caught at its word.
        let lies = if std::mem::take(&mut self.lies) { "lies" } else { "" };
        let backend = self.domain.backend();
        let args = [self.unique.name(), backend.name(), &segment, &pipe, &number, &seed, lies];
        let setup = Setup { args: &args, fds: &[writer.as_fd()], ..Setup::default() };
        let mut child = Child::spawn_with("soaks", setup);
        self.unique.watch_process(child.pid());
        drop(writer);
        let account = std::thread::spawn(move || account.listen(reader));
        if !lies.is_empty() {
            assert_eq!(child.hear(LIMIT), "lied");
        }
        Lane { child, account }
    }

    /// Kills and starts workers for so long; then the faults of what is there.
    fn run(mut self, time: Duration) -> Vec<String> {
        let mut lanes: Vec<Lane> =
            (0..LANES).map(|lane| self.start(lane, Account::default())).collect();
        let (start, mut kills) = (Instant::now(), 0);
        while start.elapsed() < time || kills < KILLS_MIN {
            std::thread::sleep(BETWEEN_KILLS);
            let at = self.random.below(LANES) as usize;
            let mut lane = lanes.swap_remove(at);
            lane.child.kill();
            let exit = lane.child.wait(LIMIT);
            assert_eq!(exit.signal(), Some(9), "it ended before: {}", exit.stderr);
            let account = lane.account.join().unwrap();
            // None, if it was killed before it took part.
            assert!(self.place.reap(&mut self.hash) <= 1);
            self.domain.reap();
            let started = self.start(at as u64, account);
            lanes.push(started);
            let last = lanes.len() - 1;
            lanes.swap(at, last);
            kills += 1;
        }
        self.place.words[STOP].store(1, Ordering::Relaxed);
        let accounts = lanes.into_iter().map(|mut lane| {
            lane.child.wait(LIMIT).assert_success();
            lane.account.join().unwrap()
        });
        let accounts: Vec<Account> = accounts.collect();
        self.check(&accounts, kills)
    }

    fn check(mut self, accounts: &[Account], kills: u64) -> Vec<String> {
        let mut faults: Vec<String> = Vec::new();
        for (lane, account) in accounts.iter().enumerate() {
            faults.extend(account.faults.iter().cloned());
            for (number, possible) in &account.keys {
                let key = key(lane as u64, *number);
                let found = self.hash.find(&key).unwrap();
                let found = found.map_or(0, |found| number_of(&found.to_vec()));
                if !possible.contains(&found) {
                    faults.push(format!("lane {lane} key {number}: {found}, not {possible:?}"));
                }
            }
        }
        let counted: u64 = accounts.iter().map(|account| account.counted).sum();
        let acknowledged: u64 = accounts.iter().map(|account| account.acknowledged).sum();
        if !(counted..=counted + kills).contains(&self.place.word(BY_MUTEX)) {
            faults.push(format!("counted {counted}, not {}", self.place.word(BY_MUTEX)));
        }
        self.check_memory(&mut faults);
        println!("{kills} kills, {acknowledged} operations acknowledged, {} faults", faults.len());
        assert!(acknowledged > 1000, "too little was done");
        let Soak { unique, domain, place, hash, .. } = self;
        drop((hash, place));
        for entry in domain.named() {
            domain.remove_named(&entry.name).unwrap();
        }
        let left = (domain.participants().len(), domain.segments().len());
        if left != (1, 0) {
            faults.push(format!("{left:?} participants and segments of the domain"));
        }
        drop(domain);
        unique.assert_nothing_left(LIMIT);
        faults
    }

    /// Every block is named by the hash or a word, and nobody but this process is there.
    fn check_memory(&mut self, faults: &mut Vec<String>) {
        let mut walk = Walk::new();
        let mut walked = 0;
        while let Some((_, value)) = walk.next(&mut self.hash).unwrap() {
            number_of(&value);
            walked += 1;
        }
        let report = self.hash.verify().unwrap();
        faults.extend(report.faults);
        if walked != report.entries {
            faults.push(format!("{walked} entries walked, of {}", report.entries));
        }
        let area = self.place.area.verify();
        if !area.is_clean() {
            faults.push(format!("{area:?}"));
        }
        let lanes = SHARED as usize..(SHARED + LANES * WORDS) as usize;
        let words = lanes.map(|at| self.place.word(at)).filter(|word| *word != 0);
        let mut known: Vec<u64> = report.blocks.into_iter().chain(words.map(block_of)).collect();
        known.sort_unstable();
        let mut live = Vec::new();
        self.place.area.for_each_block(|block, _| live.push(block_of(block.to_bits())));
        live.sort_unstable();
        if known != live {
            faults.push(format!("{} blocks known, {} there", known.len(), live.len()));
        }
        if self.place.table.snapshot().len() != 1 {
            faults.push(format!("there is somebody: {:?}", self.place.table.snapshot()));
        }
    }
}

fn block_of(name: u64) -> u64 {
    (name & ((1 << 50) - 1)) >> 3
}

fn time() -> Duration {
    let said = std::env::var("SHM_SOAK_SECONDS").ok();
    let deep = std::env::var_os("SHM_DEEP").is_some_and(|deep| deep == "1");
    let default = if deep { 600 } else { 3 };
    Duration::from_secs(said.map_or(default, |said| said.parse().unwrap()))
}

fn soak(backend: Backend, time: Duration, lies: bool) -> Vec<String> {
    let said = std::env::var("SHM_SOAK_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = said.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64
    });
    println!("{backend}: {time:?}, SHM_SOAK_SEED={seed}");
    within(time + 2 * LIMIT, || Soak::new(backend, seed, lies).run(time))
}

/// In turn, for the whole list of System V segments is looked at.
#[test]
fn nothing_is_lost_or_left_whoever_is_killed() {
    let lies = soak(Backend::Posix, Duration::from_millis(400), true);
    assert!(lies.iter().any(|fault| fault.contains(&format!("key {PLANTED}: 0"))), "{lies:?}");
    assert_eq!(lies.len(), 1, "{lies:?}");
    for backend in [Backend::Posix, Backend::Sysv] {
        assert_eq!(soak(backend, time() / 2, false), Vec::<String>::new());
    }
}
