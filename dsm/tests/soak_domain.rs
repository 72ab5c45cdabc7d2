//! A soak: eight processes use a domain with all that is in it, one is killed every 50 ms, and
//! another takes its place. In the end every acknowledged change is there, and nothing else: no
//! block, no segment, no object, no seat is left.
//!
//! A worker writes down what it is about to change and what it has changed, by a call of the
//! system, in a file that outlives it: `about`, the call, `done`. Its keys are its own.
//!
//! It takes 2 s (`ci/soak.sh`: 12); `SHM_SOAK_SECONDS`, or ten minutes with `SHM_DEEP=1`, make it
//! longer. It prints the seed of what everybody does; `SHM_SEED=…` has them do it again, as far as
//! the kernel lets them.
#![cfg(not(any(shm_loom, shm_explore)))]
use dsm::area::{AllocOptions, Area, AreaConfig, AreaPtr};
use dsm::backend::Backend;
use dsm::hash::{Size, Walk};
use dsm::{AreaSpec, Domain, DomainConfig, HashHandle, HashSpec, NamedSpec, Segment};
use dsm::{SegmentHandle, SegmentOptions, SharedHash, hash::HashError};
use shm_core::lock::mutex::{self, Mutex};
use shm_core::lock::rwlock::{self, RwLock};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::child::{self, Child};
use shm_testkit::depth::is_deep;
use shm_testkit::random::{self, Random};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const WORKERS: usize = 8;
const LIMIT: Duration = Duration::from_secs(60);
/// Keys that one worker keeps.
const KEPT: u64 = 24;
/// Blocks that a worker's words name.
const WORDS: usize = 16;
const SEATS: u32 = 16;
/// Of the board: the mutex, what it guards, and the word that says that it is over.
const GUARDED: u64 = 64;
const OVER: u64 = 80;
/// How often somebody has attached to a segment of another one, and found it gone.
const VISITED: u64 = 88;
const GONE: u64 = 96;
/// The reader-writer lock, what it guards, and how often that was read.
const RIGHT: u64 = 128;
const WRITTEN: u64 = RIGHT + RwLock::bytes_for(SEATS);
const READ: u64 = WRITTEN + 16;
/// A segment of each worker, by its handle.
const SHARED: u64 = READ + 8;
const BOARD: u64 = SHARED + 8 * WORKERS as u64;

shm_testkit::children! { works }

fn config(name: &str, directory: &Path) -> DomainConfig {
    DomainConfig {
        backend: Some(Backend::Posix),
        directory: Some(directory.to_owned()),
        participants_max: SEATS,
        ready_max: 64,
        ..DomainConfig::new(name)
    }
}

/// What all of them have.
struct Common {
    domain: Domain,
    hash: SharedHash,
    area: Area,
    board: Segment,
    mutex: Mutex,
    right: RwLock,
}

impl Common {
    fn new(domain: Domain) -> Common {
        let spec = HashSpec::new(Size::Fixed(8), Size::UpTo(200));
        let hash =
            domain.named_hash("hash", &HashSpec { max_bytes: 512 << 20, threads: 32, ..spec });
        let spec = AreaSpec::new(AreaConfig::new(64 << 20));
        // The words that name all other blocks are one block.
        let area = domain.named_area("area", &spec, |area| {
            let bytes = (WORKERS * WORDS * 8) as u64;
            let heap = area.heap(domain.member()).map_err(|error| error.to_string())?;
            let words = AllocOptions { zeroed: true, ..AllocOptions::new(bytes) };
            let made = heap.alloc_with(area.root(), words, |_| ());
            made.map(drop).map_err(|error| error.to_string())
        });
        let area = area.unwrap().area;
        let spec = NamedSpec { size: BOARD, ..NamedSpec::default() };
        let board = domain.named_segment("board", &spec, |segment| {
            // SAFETY: nobody else has been told of it.
            unsafe { Mutex::create(segment.mapping(), 0) }.map_err(|error| error.to_string())?;
            // SAFETY: as above, and the mutex ends before.
            let made = unsafe { RwLock::create(segment.mapping(), RIGHT, SEATS) };
            made.map(drop).map_err(|error| error.to_string())
        });
        let board = board.unwrap().segment;
        let mutex = Mutex::attach(board.mapping(), 0).unwrap();
        let right = RwLock::attach(board.mapping(), RIGHT).unwrap();
        Common { hash: hash.unwrap(), area, board, mutex, right, domain }
    }

    fn word(&self, at: u64) -> &AtomicU64 {
        self.board.region().share(at).unwrap()
    }

    fn row(&self, who: usize) -> &[AtomicU64] {
        let words = AreaPtr::from_bits(self.area.root().load(Ordering::Acquire));
        let block = self.area.resolve_len(words, (WORKERS * WORDS * 8) as u64).unwrap();
        let region = self.area.mapping().region();
        let at = region.offset_of(block).unwrap() + (who * WORDS * 8) as u64;
        region.share_slice(at, WORDS as u64).unwrap()
    }

    /// Two words that are equal whenever nobody has the mutex.
    fn count(&self) {
        let me = self.domain.member();
        let _guard = match self.mutex.lock(me) {
            Ok(guard) => guard,
            Err(mutex::LockError::Abandoned(abandoned)) => {
                self.repair(GUARDED);
                abandoned.recover()
            }
            Err(other) => panic!("{other:?}"),
        };
        self.assert_equal(GUARDED);
        self.change(GUARDED);
    }

    /// Two words that are equal whenever nobody has the right to write.
    fn write(&self) {
        let me = self.domain.member();
        match self.right.write(me) {
            Ok(_right) => {
                self.assert_equal(WRITTEN);
                self.change(WRITTEN);
            }
            Err(error) => self.recover(error),
        }
    }

    /// And that do not change while somebody reads.
    fn read(&self) {
        match self.right.read(self.domain.member()) {
            Ok(_share) => {
                let before = self.assert_equal(WRITTEN);
                assert_eq!(self.assert_equal(WRITTEN), before, "somebody writes");
            }
            Err(error) => return self.recover(error),
        }
        self.word(READ).fetch_add(1, Ordering::Relaxed);
    }

    /// Another one may have recovered it before.
    fn recover(&self, error: rwlock::LockError) {
        assert!(matches!(error, rwlock::LockError::Abandoned { .. }), "{error}");
        if let Some(recovery) = self.right.recover(self.domain.member()).unwrap() {
            self.repair(WRITTEN);
            drop(recovery.done());
        }
    }

    fn assert_equal(&self, at: u64) -> u64 {
        let [one, other] = [0, 8].map(|next| self.word(at + next).load(Ordering::Relaxed));
        assert_eq!(one, other, "nobody was told");
        one
    }

    fn repair(&self, at: u64) {
        let one = self.word(at).load(Ordering::Relaxed);
        self.word(at + 8).store(one, Ordering::Relaxed);
    }

    fn change(&self, at: u64) {
        self.word(at).fetch_add(1, Ordering::Relaxed);
        self.word(at + 8).fetch_add(1, Ordering::Relaxed);
    }

    /// Segments of one's own.
    fn segments(&self, random: &mut Random) {
        let small = self.domain.create_segment(1 + random.below(8000)).unwrap();
        let growing = SegmentOptions::growable(1 << 20);
        let growing = self.domain.create_segment_with(4096, growing).unwrap();
        growing.grow(1 << 17).unwrap();
        drop(small);
        growing.shrink(8192).unwrap();
    }

    /// A segment for others, who know it by the handle on the board. It says its handle too.
    fn shares(&self, who: usize, random: &mut Random) -> Segment {
        let segment = self.domain.create_segment(8 + random.below(20_000)).unwrap();
        let handle = segment.handle().to_bits();
        segment.region().share::<AtomicU64>(0).unwrap().store(handle, Ordering::Relaxed);
        // Pairs with the Acquire in `visits`: what the segment says.
        self.word(SHARED + 8 * who as u64).store(handle, Ordering::Release);
        segment
    }

    /// Attaches to what another one shares now, or shared before it died.
    fn visits(&self, who: usize) {
        let handle = self.word(SHARED + 8 * who as u64).load(Ordering::Acquire);
        let Some(handle) = SegmentHandle::from_bits(handle) else { return };
        let segment = match self.domain.find_mapping(handle) {
            Some(segment) => Some(segment),
            None => self.domain.attach(handle).unwrap(),
        };
        let Some(segment) = segment else {
            self.word(GONE).fetch_add(1, Ordering::Relaxed);
            return;
        };
        let said = segment.region().share::<AtomicU64>(0).unwrap().load(Ordering::Relaxed);
        assert_eq!(said, handle.to_bits(), "it is another segment");
        self.word(VISITED).fetch_add(1, Ordering::Relaxed);
    }

    fn names(&self, random: &mut Random) {
        let name = format!("name-{}", random.below(3));
        let spec = NamedSpec { size: 100, ..NamedSpec::default() };
        let segment = self.domain.named_segment(&name, &spec, |_| Ok::<_, Infallible>(()));
        drop(segment.unwrap());
        self.domain.remove_named(&name).unwrap();
    }

    /// Takes back what the dead have left.
    fn reap(&self) {
        self.domain.reap();
        self.hash.reap();
        self.area.reap_all();
    }
}

/// A value says how long it is and what it is made of; 0 is no value.
fn value(count: u64) -> Vec<u8> {
    let mut value = count.to_le_bytes().to_vec();
    value.resize(8 + (count % 150) as usize, count as u8);
    value
}

/// What one worker says: a key and its value's count, before and after it was changed.
struct Diary(File);

impl Diary {
    fn change(&mut self, key: u64, count: u64, change: impl FnOnce()) {
        self.write(0, key, count);
        change();
        self.write(1, key, count);
    }

    fn write(&mut self, done: u64, key: u64, count: u64) {
        let line = [done, key, count].map(u64::to_le_bytes).concat();
        self.0.write_all(&line).expect("the diary is written");
    }

    /// By key: what was acknowledged, and what may have become of it instead.
    fn read(path: &Path) -> BTreeMap<u64, [u64; 2]> {
        let mut keys = BTreeMap::new();
        for line in std::fs::read(path).unwrap().chunks_exact(24) {
            let word = |at: usize| u64::from_le_bytes(line[at..at + 8].try_into().unwrap());
            let (done, key, count) = (word(0), word(8), word(16));
            let known: &mut [u64; 2] = keys.entry(key).or_default();
            known[1] = count;
            if done == 1 {
                known[0] = count;
            }
        }
        keys
    }
}

/// Uses everything until it is told that it is over, or killed.
fn works(args: &[String]) {
    let (who, life) = (args[2].parse::<usize>().unwrap(), args[3].parse::<u64>().unwrap());
    let directory = Path::new(&args[1]);
    let common = Common::new(Domain::open(config(&args[0], directory)).unwrap());
    let diary = OpenOptions::new().create(true).append(true).open(diary_of(directory, life));
    let mut diary = Diary(diary.unwrap());
    let mut hash = common.hash.join().unwrap();
    let heap = common.area.heap(common.domain.member()).unwrap();
    let mut random = Random::new(args[4].parse().unwrap(), life);
    let (mut made, mut counts, mut _shared) = (0, BTreeMap::new(), None);
    child::tell_parent("begun");
    while common.word(OVER).load(Ordering::Acquire) == 0 {
        match random.below(22) {
            0..=5 => {
                let key = life << 24 | made;
                made += 1;
                diary.change(key, 1, || assert!(insert(&mut hash, key, 1), "it was there"));
                counts.insert(key, 1);
                if made > KEPT {
                    let (oldest, _) = counts.pop_first().unwrap();
                    diary.change(oldest, 0, || {
                        assert!(hash.delete(&oldest.to_le_bytes()).unwrap(), "it was lost");
                    });
                }
            }
            6..=8 if !counts.is_empty() => {
                let nth = random.below(counts.len() as u64) as usize;
                let (key, had) = counts.iter_mut().nth(nth).unwrap();
                let found = hash.find(&key.to_le_bytes()).unwrap().expect("it was lost").to_vec();
                assert_eq!(found, value(*had));
                *had += 1;
                let (key, count) = (*key, *had);
                diary.change(key, count, || {
                    assert!(!hash.upsert(&key.to_le_bytes(), &value(count)).unwrap());
                });
            }
            9..=12 => {
                let word = &common.row(who)[random.below(WORDS as u64) as usize];
                if word.load(Ordering::Relaxed) == 0 {
                    heap.alloc_to(word, 1 + random.below(20_000), |_| ()).unwrap();
                } else {
                    heap.free_from(word).unwrap();
                }
            }
            13 => common.segments(&mut random),
            14 => common.names(&mut random),
            15 => _shared = Some(common.shares(who, &mut random)),
            16 | 17 => common.visits(random.below(WORKERS as u64) as usize),
            18 => common.write(),
            19 | 20 => common.read(),
            _ => common.count(),
        }
    }
}

fn insert(hash: &mut HashHandle, key: u64, count: u64) -> bool {
    loop {
        match hash.insert(&key.to_le_bytes(), &value(count)) {
            Ok(is_new) => return is_new,
            // Of a dead one that nobody has reaped yet.
            Err(HashError::Full) => assert!(hash.shared().reap() > 0, "it is full"),
            Err(other) => panic!("{other}"),
        }
    }
}

fn diary_of(directory: &Path, life: u64) -> std::path::PathBuf {
    directory.join(format!("diary-{life}"))
}

/// What is in the hash now, and whether each value is whole.
fn contents(hash: &mut HashHandle) -> BTreeMap<u64, u64> {
    let (mut walk, mut found) = (Walk::new(), BTreeMap::new());
    while let Some((key, bytes)) = walk.next(hash).unwrap() {
        let count = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(bytes, value(count), "half a value");
        let key = u64::from_le_bytes(key[..].try_into().unwrap());
        assert_eq!(found.insert(key, count), None, "a key is there twice");
    }
    found
}

/// What is wrong with what is there, by what was said of it.
fn compare(said: &BTreeMap<u64, [u64; 2]>, found: &BTreeMap<u64, u64>) -> Vec<String> {
    let there = |key| found.get(key).copied().unwrap_or(0);
    let wrong = said.iter().filter(|(key, counts)| !counts.contains(&there(key)));
    let wrong = wrong.map(|(key, counts)| format!("{key:#x}: {}, not {counts:?}", there(key)));
    let strange = found.keys().filter(|key| !said.contains_key(key));
    wrong.chain(strange.map(|key| format!("{key:#x}: nobody put it there"))).collect()
}

fn seconds() -> u64 {
    let deep = if is_deep() { 600 } else { 2 };
    let told = std::env::var("SHM_SOAK_SECONDS").ok();
    told.map_or(deep, |told| told.parse().expect("seconds"))
}

#[test]
fn nothing_is_lost_and_nothing_is_left() {
    let directory = TempDir::new("soak");
    let mut unique = Unique::new("soak");
    let length = Duration::from_secs(seconds());
    within(length + 2 * LIMIT, || {
        let common = Common::new(Domain::open(config(unique.name(), directory.path())).unwrap());
        let (mut lives, seed) = (0, random::seed());
        let start = |unique: &mut Unique, lives: &mut u64, who: usize| {
            *lives += 1;
            let (name, directory) = (unique.name().to_owned(), directory.path().to_str().unwrap());
            let args = [&name, directory, &who.to_string(), &lives.to_string(), &seed.to_string()];
            let child = Child::spawn("works", &args);
            unique.watch_process(child.pid());
            child
        };
        let mut workers: Vec<_> =
            (0..WORKERS).map(|who| start(&mut unique, &mut lives, who)).collect();
        let (end, mut random) = (Instant::now() + length, Random::new(seed, 0));
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
            let who = random.below(WORKERS as u64) as usize;
            workers[who].kill();
            assert_eq!(workers[who].wait(LIMIT).signal(), Some(9), "it had failed");
            // Its successor uses the same words.
            common.reap();
            workers[who] = start(&mut unique, &mut lives, who);
        }
        for worker in &mut workers {
            worker.hear(LIMIT);
        }
        common.word(OVER).store(1, Ordering::Release);
        for mut worker in workers {
            worker.wait(LIMIT).assert_success();
        }
        common.reap();
        check(&common, directory.path(), lives);
        let Common { domain, .. } = common;
        for name in domain.named() {
            domain.remove_named(&name.name).unwrap();
        }
        assert_eq!(domain.participants().len(), 1);
        domain.destroy().unwrap();
    });
    unique.assert_nothing_left(Duration::ZERO);
}

/// Where the block of a pointer begins, without the tag of its area.
fn block_of(name: u64) -> u64 {
    (name & ((1 << 50) - 1)) >> 3
}

fn blocks(area: &Area) -> Vec<u64> {
    let mut blocks = Vec::new();
    area.for_each_block(|ptr, _| blocks.push(block_of(ptr.to_bits())));
    sorted(blocks.into_iter())
}

fn sorted(blocks: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut blocks: Vec<_> = blocks.collect();
    blocks.sort_unstable();
    blocks
}

fn check(common: &Common, directory: &Path, lives: u64) {
    let mut hash = common.hash.join().unwrap();
    hash.settle().unwrap();
    hash.tidy().unwrap();
    let found = contents(&mut hash);
    let mut said = BTreeMap::new();
    for life in 1..=lives {
        if diary_of(directory, life).exists() {
            said.extend(Diary::read(&diary_of(directory, life)));
        }
    }
    let wrong = compare(&said, &found);
    assert!(wrong.is_empty(), "{} keys of {} are wrong: {wrong:?}", wrong.len(), said.len());
    // One that was acknowledged and is not there would be found.
    said.insert(u64::MAX, [1, 1]);
    assert_eq!(compare(&said, &found).len(), 1);
    // Blocks: those that the workers' words name, each once, that of the words, and no other; and
    // those of the hash.
    let rows = (0..WORKERS).flat_map(|who| common.row(who)).chain([common.area.root()]);
    let named = rows.map(|word| word.load(Ordering::Relaxed)).filter(|word| *word != 0);
    let named = sorted(named.map(block_of));
    assert_eq!(named, blocks(&common.area), "blocks are lost, or named and not there");
    let report = hash.verify().unwrap();
    assert_eq!((report.faults, report.entries), (Vec::new(), found.len() as u64));
    assert_eq!(report.blocks, blocks(common.hash.area()), "the hash has lost blocks");
    for area in [&common.area, common.hash.area()] {
        let report = area.verify();
        assert!(report.is_clean(), "{report:?}");
    }
    // A dead one may have left them, and nobody have come to repair what it left.
    common.count();
    common.write();
    let [counted, written] = [GUARDED, WRITTEN].map(|at| common.assert_equal(at));
    let held: BTreeSet<_> = common.domain.named().iter().filter_map(|name| name.handle).collect();
    let strange = common.domain.segments().iter().filter(|it| !held.contains(&it.handle)).count();
    assert_eq!(strange, 0, "segments are left");
    let acknowledged = said.len() - 1;
    let [read, visited, gone] =
        [READ, VISITED, GONE].map(|at| common.word(at).load(Ordering::Relaxed));
    println!("{lives} lives, {acknowledged} keys, {} there, {counted} counted", found.len());
    println!("{written} written, {read} read, {visited} visits, {gone} in vain");
    assert!(acknowledged > 100 && counted > 10 && !named.is_empty());
    assert!(written > 10 && read > 10 && visited > 10);
}
