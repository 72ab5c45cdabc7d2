//! The buffer pool against the limit of the machine: hits on one page and on many, beside bare
//! reads of the same memory and `pread`; misses beside a loop of `pread`s.
//!
//! ```sh
//! cargo build --release -p benches && target/release/pool_ratio [ROUNDS [DIRECTORY]]
//! ```
//!
//! All are given the same blocks in the same order, round by round in turn, and each figure is the
//! median over the rounds, in nanoseconds of processor time. The file lies in the system's cache.
use benches::{median, pin, processor_seconds, two};
use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{FileOptions, Pool, PoolConfig, PoolOptions, Session};
use shm_core::mapping::Mapping;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

const PAGE: usize = 8192;
/// Pages that fit the pool: 80 MB.
const RESIDENT: u32 = 10_000;
/// Pages of a pool that is missed, and of its file.
const SMALL: u32 = 4096;
const LARGE: u32 = 10 * SMALL;
const HITS: u32 = 2_000_000;
const MISSES: u32 = 100_000;

/// Nanoseconds for each of `count` blocks below `blocks`, in an order that no cache knows.
fn each(count: u32, blocks: u32, mut with: impl FnMut(u32) -> u64) -> f64 {
    let mut state = 88_172_645_463_325_252u64;
    let (start, mut sum) = (processor_seconds(), 0u64);
    for _ in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        sum = sum.wrapping_add(with((((state >> 32) * u64::from(blocks)) >> 32) as u32));
    }
    black_box(sum);
    (processor_seconds() - start) * 1e9 / f64::from(count)
}

fn make_file(path: &Path, blocks: u32) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .expect("a file");
    let mut page = vec![0u8; PAGE];
    for block in 0..blocks {
        page[HEADER_BYTES..HEADER_BYTES + 8].copy_from_slice(&u64::from(block).to_le_bytes());
        file.write_all_at(&page, u64::from(block) * PAGE as u64).expect("written");
    }
    file
}

fn pool(frames: u32, path: &Path) -> (Pool, FileNumber) {
    let config = PoolConfig {
        frames,
        frames_max: frames,
        processes: 4,
        // The file was written without checksums, as the loop of `pread`s looks at none.
        checksums: false,
        entries: 1 << 18,
        ..PoolConfig::new(1 << 20)
    };
    let mapping = Mapping::heap(Pool::bytes_for(&config).expect("a size") as usize);
    let pool = Pool::open(&mapping, &config, PoolOptions::default()).expect("a pool");
    let session = pool.session().expect("a session");
    let key = FileKey { id: 1, fork: 0 };
    let number = session.register(key, path, &FileOptions::default()).expect("registered");
    drop(session);
    (pool, number)
}

fn hit(session: &Session, file: FileNumber, block: u32) -> u64 {
    let page = session.page(file, block).expect("a page");
    page.read(|view| view.u64(HEADER_BYTES).unwrap_or(0)).expect("read")
}

fn glance(session: &Session, file: FileNumber, block: u32) -> u64 {
    let read = session.read(file, block, |view| view.u64(HEADER_BYTES).unwrap_or(0));
    read.expect("read")
}

/// What is measured, in this order.
const NAMES: [&str; 10] = [
    "short read, one page",
    "short read, 10,000 pages",
    "hit, one page",
    "hit, one page, two at once",
    "hit, 10,000 pages",
    "hit, 10,000 pages, two at once",
    "bare read, 10,000 pages",
    "pread of 8 KiB, 10,000 pages",
    "miss, pool of a tenth",
    "pread of 8 KiB into a ring",
];

/// Two pools and their files, and the same memory without a pool.
struct Bench {
    hot: (Pool, FileNumber),
    cold: (Pool, FileNumber),
    small: File,
    large: File,
    plain: Vec<u64>,
    buffer: Vec<u8>,
    ring: Vec<u8>,
}

impl Bench {
    fn new(directory: &Path) -> Bench {
        let (small_path, large_path) = (directory.join("resident"), directory.join("large"));
        let (small, large) = (make_file(&small_path, RESIDENT), make_file(&large_path, LARGE));
        let hot = pool(RESIDENT + 64, &small_path);
        let session = hot.0.session().expect("a session");
        for block in 0..RESIDENT {
            assert_eq!(hit(&session, hot.1, block), u64::from(block));
        }
        drop(session);
        Bench {
            hot,
            cold: pool(SMALL, &large_path),
            small,
            large,
            plain: vec![1; RESIDENT as usize * PAGE / 8],
            buffer: vec![0; PAGE],
            ring: vec![0; SMALL as usize * PAGE],
        }
    }

    /// Nanoseconds of each of two who hit at once.
    fn both(&self, blocks: u32) -> f64 {
        let sum = Mutex::new(0.0);
        let one = || {
            let session = self.hot.0.session().expect("a session");
            let took = each(HITS, blocks, |block| hit(&session, self.hot.1, block));
            *sum.lock().expect("nobody panics") += took / 2.0;
        };
        two(one, one);
        sum.into_inner().expect("nobody panics")
    }

    fn round(&mut self) -> [f64; NAMES.len()] {
        let session = self.hot.0.session().expect("a session");
        let misser = self.cold.0.session().expect("a session");
        let (hot, cold) = (self.hot.1, self.cold.1);
        let plain = |block: u32| {
            let word = &self.plain[block as usize * (PAGE / 8) + HEADER_BYTES / 8];
            // SAFETY: a reference is good for a read.
            unsafe { std::ptr::from_ref(word).read_volatile() }
        };
        let at = |block: u32| u64::from(block) * PAGE as u64;
        let mut next = 0;
        [
            each(HITS, 1, |block| glance(&session, hot, block)),
            each(HITS, RESIDENT, |block| glance(&session, hot, block)),
            each(HITS, 1, |block| hit(&session, hot, block)),
            self.both(1),
            each(HITS, RESIDENT, |block| hit(&session, hot, block)),
            self.both(RESIDENT),
            each(HITS, RESIDENT, plain),
            each(MISSES, RESIDENT, |block| {
                self.small.read_exact_at(&mut self.buffer, at(block)).expect("read");
                self.buffer[HEADER_BYTES].into()
            }),
            each(MISSES, LARGE, |block| hit(&misser, cold, block)),
            each(MISSES, LARGE, |block| {
                next = (next + PAGE) % self.ring.len();
                let page = &mut self.ring[next..next + PAGE];
                self.large.read_exact_at(page, at(block)).expect("read");
                page[HEADER_BYTES].into()
            }),
        ]
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().map_or(5, |rounds| rounds.parse().expect("ROUNDS"));
    let directory = arguments.next();
    let temporary = tempfile::tempdir().expect("a directory");
    pin(0);
    let mut bench = Bench::new(directory.as_deref().map_or(temporary.path(), Path::new));
    let rounds: Vec<_> = (0..rounds).map(|_| bench.round()).collect();
    let of = |index: usize| median(rounds.iter().map(|round| round[index]).collect());
    for (index, name) in NAMES.iter().enumerate() {
        println!("{name:34} {:9.1} ns", of(index));
    }
    let ratio = |what: &str, value: f64, asked: &str| println!("{what:36} {value:6.2}   {asked}");
    println!("hits of the pool that is missed: {:.1} %", bench.cold.0.stats().hit_ratio() * 100.0);
    ratio("random short read / bare read", of(1) / of(6), "");
    ratio("random hit / bare read", of(4) / of(6), "asked: at most 1.6");
    ratio("two at once, one page", 2.0 * of(2) / of(3), "asked: at least 1.9");
    ratio("two at once, 10,000 pages", 2.0 * of(4) / of(5), "asked: at least 1.9");
    ratio("pread / random hit", of(7) / of(4), "asked: at least 4");
    ratio("preads into a ring / miss", of(9) / of(8), "asked: at least 0.8");
}
