//! The buffer pool against the limit of the machine: hits on one page and on many, beside bare
//! reads of the same memory and `pread`; misses beside a loop of `pread`s.
//!
//! ```sh
//! cargo build --release -p benches && target/release/pool_ratio [ROUNDS [DIRECTORY]]
//! ```
//!
//! All are given the same blocks in the same order, round by round in turn, and each figure is the
//! median over the rounds, in nanoseconds of processor time. The file lies in the system's cache.
use benches::{PAGE_BYTES, both, each, make_file, median, pin, pool};
use buffer_pool::HEADER_BYTES;
use buffer_pool::files::FileNumber;
use buffer_pool::pool::{Pool, Session};
use shm_core::mapping::Mapping;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages that fit the pool: 80 MB.
const RESIDENT: u32 = 10_000;
/// Pages of a pool that is missed, and of its file.
const SMALL: u32 = 4096;
const LARGE: u32 = 10 * SMALL;
const HITS: u32 = 2_000_000;
const MISSES: u32 = 100_000;

/// Where the user's bytes of each block are, which is in the pool and has its number in them.
fn places(pool: &Pool, file: FileNumber, mapping: &Mapping) -> Vec<usize> {
    let session = pool.session().expect("a session");
    let frames: Vec<_> = (0..RESIDENT)
        .map(|block| session.page(file, block).expect("a page").frame() as usize)
        .collect();
    let region = mapping.region();
    let words: &[AtomicU64] = region.share_slice(0, region.len() as u64 / 8).expect("words");
    let at = |first: usize, frame: usize| first + (frame * PAGE_BYTES + HEADER_BYTES) / 8;
    let is_first = |first: &usize| {
        let mut all = frames.iter().enumerate();
        all.all(|(block, frame)| {
            let word = words.get(at(*first, *frame));
            word.is_some_and(|word| word.load(Ordering::Relaxed) == block as u64)
        })
    };
    let first = (0..words.len()).step_by(8).find(is_first).expect("the pages");
    frames.iter().map(|frame| at(first, *frame)).collect()
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

/// Two pools and their files.
struct Bench {
    hot: (Pool, FileNumber, Arc<Mapping>),
    cold: (Pool, FileNumber, Arc<Mapping>),
    /// Of the blocks in the hot one.
    places: Vec<usize>,
    small: File,
    large: File,
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
        let places = places(&hot.0, hot.1, &hot.2);
        Bench {
            hot,
            places,
            cold: pool(SMALL, &large_path),
            small,
            large,
            buffer: vec![0; PAGE_BYTES],
            ring: vec![0; SMALL as usize * PAGE_BYTES],
        }
    }

    /// Of each of two who hit at once.
    fn both(&self, blocks: u32) -> f64 {
        both(|| {
            let session = self.hot.0.session().expect("a session");
            each(HITS, blocks, |block| hit(&session, self.hot.1, block))
        })
    }

    fn round(&mut self) -> [f64; NAMES.len()] {
        let session = self.hot.0.session().expect("a session");
        let misser = self.cold.0.session().expect("a session");
        let (hot, cold) = (self.hot.1, self.cold.1);
        let region = self.hot.2.region();
        let words: &[AtomicU64] = region.share_slice(0, region.len() as u64 / 8).expect("words");
        let plain = |block: u32| words[self.places[block as usize]].load(Ordering::Relaxed);
        let at = |block: u32| u64::from(block) * PAGE_BYTES as u64;
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
                next = (next + PAGE_BYTES) % self.ring.len();
                let page = &mut self.ring[next..next + PAGE_BYTES];
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
