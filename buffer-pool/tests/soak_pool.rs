//! A soak: six processes read and change pages of files through a pool far smaller than these, one
//! is killed every few milliseconds, and another takes its place, while the pool is made larger and
//! smaller. In the end each change that was
//! acknowledged is in its page, and nothing else; no page was ever seen half changed; what was
//! synced is in the files; and no frame, pin or latch is lost.
//!
//! A page of the first two files has a count for each worker, and the sum of these in all the rest
//! of it. A worker writes down which count it is about to raise, and that it has, by a call of the
//! system, in a file that outlives it. The third file is lengthened, cut off and forgotten.
//!
//! It takes 2 s (`ci/soak.sh`: 12); `SHM_SOAK_SECONDS`, or ten minutes with `SHM_DEEP=1`, make it
//! longer. It prints the seed of what everybody does; `SHM_SEED=…` has them do it again, as far as
//! the kernel lets them.
#![cfg(not(any(shm_loom, shm_explore)))]
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::policy::Kind;
use buffer_pool::pool::{
    FileError, FileOptions, Page, PageError, PageView, Pool, PoolConfig, PoolOptions, Session,
};
use dsm::{Domain, DomainConfig, backend::Backend};
use shm_testkit::child::{self, Child};
use shm_testkit::depth::is_deep;
use shm_testkit::random::{self, Random};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const WORKERS: usize = 6;
const LIMIT: Duration = Duration::from_secs(60);
const PAGE: usize = 1024;
/// Blocks of each of the files that are counted in.
const BLOCKS: u32 = 150;
const COUNTED: usize = 2;
/// The third.
const SCRATCH: usize = COUNTED;
/// Where the counts begin, and the sum.
const COUNTS: usize = 16;
const SUM: usize = COUNTS + 8 * WORKERS;
/// How often everybody asks whether it is over.
const ROUND: u64 = 16;

shm_testkit::children! { works }

fn pool_config(seed: u64) -> PoolConfig {
    let policy = if seed.is_multiple_of(2) { Kind::Clock5 } else { Kind::Probation };
    PoolConfig {
        page_bytes: PAGE as u32,
        frames: 64,
        frames_max: 128,
        policy,
        processes: 12,
        sessions: 2,
        files: 4,
        entries: 4096,
        ..PoolConfig::new(1 << 20)
    }
}

/// What each of them has.
struct Common {
    domain: Domain,
    pool: Pool,
    directory: PathBuf,
}

impl Common {
    fn new(name: &str, directory: &Path, seed: u64) -> Common {
        let domain = Domain::open(DomainConfig {
            backend: Some(Backend::Posix),
            directory: Some(directory.to_owned()),
            ..DomainConfig::new(name)
        });
        let (domain, config) = (domain.unwrap(), pool_config(seed));
        let pool = Pool::named(&domain, "pool", &config, PoolOptions::default()).unwrap();
        Common { domain, pool, directory: directory.to_owned() }
    }

    fn register(&self, session: &Session, file: usize) -> FileNumber {
        let options = FileOptions { create: true, blocks_max: Some(1000) };
        let path = self.directory.join(format!("file-{file}"));
        session.register(FileKey { id: file as u64, fork: 0 }, &path, &options).unwrap()
    }
}

/// The counts of a page that is whole.
fn counts(view: PageView<'_>) -> Option<[u64; WORKERS]> {
    let counts = std::array::from_fn(|who| view.u64(COUNTS + 8 * who).unwrap());
    let sum: u64 = counts.iter().sum();
    let is_whole = (SUM..PAGE).step_by(8).all(|at| view.u64(at) == Some(sum));
    is_whole.then_some(counts)
}

fn counts_of(page: &Page<'_>) -> [u64; WORKERS] {
    page.read(counts).unwrap().expect("a page that is half changed")
}

/// Raises a worker's count; `say` is told of it before and after.
fn raise(page: &Page<'_>, who: usize, mut say: impl FnMut(u64, u64)) {
    let mut held = page.exclusive().unwrap();
    let mut counts = counts(held.view()).expect("a page that is half changed");
    counts[who] += 1;
    let sum: u64 = counts.iter().sum();
    let rest = sum.to_le_bytes().repeat((PAGE - SUM) / 8);
    say(0, counts[who]);
    let count = counts[who].to_le_bytes();
    held.write(&[(SUM, &rest), (COUNTS + 8 * who, &count)]).unwrap();
    say(1, counts[who]);
}

/// What one worker says: a page and its count, before and after it was raised.
struct Diary(File);

impl Diary {
    fn write(&mut self, words: [u64; 5]) {
        let line = words.map(u64::to_le_bytes).concat();
        self.0.write_all(&line).expect("the diary is written");
    }

    /// By file, block and worker: what was acknowledged, and what may have become of it instead.
    fn read(path: &Path, said: &mut BTreeMap<[u64; 3], [u64; 2]>) {
        for line in std::fs::read(path).unwrap().chunks_exact(40) {
            let word = |at: usize| u64::from_le_bytes(line[at..at + 8].try_into().unwrap());
            let (done, count) = (word(0), word(32));
            let known = said.entry([word(8), word(16), word(24)]).or_default();
            known[1] = known[1].max(count);
            if done == 1 {
                known[0] = known[0].max(count);
            }
        }
    }
}

fn diary_of(directory: &Path, life: u64) -> PathBuf {
    directory.join(format!("diary-{life}"))
}

/// Whether others had what this one wanted, or did away with it.
fn is_others_doing(error: &FileError) -> bool {
    matches!(
        error,
        FileError::Page(PageError::InUse(_) | PageError::NoSuchFile(_) | PageError::PastEnd { .. })
            | FileError::Cut(_)
            | FileError::NoSuchFile(_)
            | FileError::Extend(_)
    )
}

/// Something with the file that comes and goes.
fn scratch(common: &Common, session: &Session, random: &mut Random) {
    let file = common.register(session, SCRATCH);
    let done = match random.below(8) {
        0 => session.forget(file),
        1 | 2 => session.truncate(file, random.below(20) as u32),
        3 | 4 => session.extend(file, 1 + random.below(10) as u32).map(drop),
        _ => use_scratch(session, file, random.below(40) as u32).map_err(FileError::from),
    };
    if let Err(error) = done {
        assert!(is_others_doing(&error), "{error}");
    }
}

fn use_scratch(session: &Session, file: FileNumber, block: u32) -> Result<(), PageError> {
    let page = session.page(file, block)?;
    let mut held = page.exclusive()?;
    let word = held.view().u64(COUNTS);
    let is_whole = (COUNTS..PAGE).step_by(8).all(|at| held.view().u64(at) == word);
    assert!(is_whole, "a page that is half changed");
    let rest = (word.unwrap() + 1).to_le_bytes().repeat((PAGE - COUNTS) / 8);
    held.write(&[(COUNTS, &rest)])
}

/// Uses the pool until it is told that it is over, or killed.
fn works(args: &[String]) {
    let (who, life) = (args[2].parse::<usize>().unwrap(), args[3].parse::<u64>().unwrap());
    let (directory, seed) = (Path::new(&args[1]), args[4].parse().unwrap());
    let common = Common::new(&args[0], directory, seed);
    let session = common.pool.session().unwrap();
    let files: Vec<_> = (0..COUNTED).map(|file| common.register(&session, file)).collect();
    let diary = OpenOptions::new().create(true).append(true).open(diary_of(directory, life));
    let (mut diary, mut random) = (Diary(diary.unwrap()), Random::new(seed, life));
    let over = directory.join("over");
    child::tell_parent("begun");
    while !over.exists() {
        for _ in 0..ROUND {
            let (file, block) = (random.below(COUNTED as u64), random.below(BLOCKS.into()));
            let number = files[file as usize];
            match random.below(20) {
                0..=6 => {
                    let page = session.page(number, block as u32).unwrap();
                    raise(&page, who, |done, count| {
                        diary.write([done, file, block, who as u64, count]);
                    });
                }
                7..=11 => {
                    let seen = session.read(number, block as u32, counts).unwrap();
                    seen.expect("a page that is half changed");
                }
                12..=14 => {
                    let page = session.page(number, block as u32).unwrap();
                    let before = counts_of(&page);
                    let share = page.share().unwrap();
                    let after = counts(share.view()).expect("a page that is half changed");
                    assert!(before.iter().zip(after).all(|(before, after)| *before <= after));
                }
                15 => _ = session.flush(number).unwrap(),
                16 => _ = session.sync(number).unwrap(),
                17 if random.below(2) == 0 => _ = common.pool.reap(),
                17 => _ = session.resize(16 + random.below(113) as u32).unwrap(),
                _ => scratch(&common, &session, &mut random),
            }
        }
    }
}

fn seconds() -> u64 {
    let deep = if is_deep() { 600 } else { 2 };
    let told = std::env::var("SHM_SOAK_SECONDS").ok();
    told.map_or(deep, |told| told.parse().expect("seconds"))
}

#[test]
fn nothing_acknowledged_is_lost_and_no_page_is_torn() {
    let directory = TempDir::new("soak");
    let mut unique = Unique::new("pool");
    let length = Duration::from_secs(seconds());
    within(length + 2 * LIMIT, || {
        let seed = random::seed();
        let common = Common::new(unique.name(), directory.path(), seed);
        let session = common.pool.session().unwrap();
        for file in 0..COUNTED {
            let number = common.register(&session, file);
            assert_eq!(session.extend(number, BLOCKS).unwrap(), 0);
        }
        drop(session);
        let mut lives = 0;
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
            std::thread::sleep(Duration::from_millis(10 + random.below(30)));
            let who = random.below(WORKERS as u64) as usize;
            workers[who].kill();
            assert_eq!(workers[who].wait(LIMIT).signal(), Some(9), "it had failed");
            workers[who] = start(&mut unique, &mut lives, who);
        }
        for worker in &mut workers {
            worker.hear(LIMIT);
        }
        File::create(directory.path().join("over")).unwrap();
        for mut worker in workers {
            worker.wait(LIMIT).assert_success();
        }
        check(&common, lives);
        let Common { domain, pool, .. } = common;
        drop(pool);
        for name in domain.named() {
            domain.remove_named(&name.name).unwrap();
        }
        domain.destroy().unwrap();
    });
    unique.assert_nothing_left(Duration::ZERO);
}

fn check(common: &Common, lives: u64) {
    let mut said = BTreeMap::new();
    for life in 1..=lives {
        if diary_of(&common.directory, life).exists() {
            Diary::read(&diary_of(&common.directory, life), &mut said);
        }
    }
    common.pool.reap();
    let session = common.pool.session().unwrap();
    // As the pool has them, and then as the files have them.
    for _ in 0..2 {
        for file in 0..COUNTED {
            let number = common.register(&session, file);
            for block in 0..BLOCKS {
                let counts = counts_of(&session.page(number, block).unwrap());
                for (who, count) in counts.into_iter().enumerate() {
                    let key = [file as u64, block.into(), who as u64];
                    let may_be = said.get(&key).copied().unwrap_or_default();
                    let is_right = (may_be[0]..=may_be[1]).contains(&count);
                    assert!(is_right, "{key:?}: {count}, not {may_be:?}");
                }
            }
            session.sync(number).unwrap();
            session.forget(number).unwrap();
        }
    }
    // No frame is lost: all of them can have a page at a time.
    let number = common.register(&session, 0);
    assert_eq!(session.resize(64).unwrap().in_use, 0);
    let frames = common.pool.frames();
    (0..frames).for_each(|block| drop(session.page(number, block).unwrap()));
    let summary = common.pool.summary().unwrap();
    assert_eq!((summary.pinned, summary.dirty), (0, 0));
    assert!(summary.used + 1 >= frames, "{summary:?}");
    let acknowledged: u64 = said.values().map(|counts| counts[0]).sum();
    println!("{lives} lives, {acknowledged} changes; {:?}", common.pool.stats());
    assert!(acknowledged > 100);
}
