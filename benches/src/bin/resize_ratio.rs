//! How much a resize of the buffer pool disturbs who hits: the times of hits on one processor
//! while nobody resizes, and while the other one makes the pool twice as large, fills it, and
//! makes it as small again.
//!
//! ```sh
//! cargo build --release -p benches && target/release/resize_ratio [MIB [DIRECTORY]]
//! ```
//!
//! The pool lies in a segment of a domain, of `MIB` MiB (1024 where none is given); the files lie
//! in the system's cache. What memory the segment has is what the system says.
use benches::{Order, PAGE_BYTES, pin};
use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{FileOptions, Pool, PoolConfig, PoolOptions, Session};
use dsm::{Domain, DomainConfig};
use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const PAGE: u64 = PAGE_BYTES as u64;
const ROUNDS: usize = 5;
/// Hits while nobody resizes.
const HITS: u32 = 4_000_000;

/// How often a hit took so many nanoseconds.
struct Times {
    count: Vec<u64>,
    max: u64,
}

impl Times {
    fn new() -> Times {
        Times { count: vec![0; 1 << 16], max: 0 }
    }

    fn add(&mut self, nanoseconds: u64) {
        let last = self.count.len() as u64 - 1;
        self.count[nanoseconds.min(last) as usize] += 1;
        self.max = self.max.max(nanoseconds);
    }

    fn hits(&self) -> u64 {
        self.count.iter().sum()
    }

    fn quantile(&self, share: f64) -> u64 {
        let mut left = (self.hits() as f64 * share) as u64;
        let takes = |of: &u64| left.checked_sub(*of).map(|rest| left = rest);
        self.count.iter().map_while(takes).count() as u64
    }

    fn print(&self, what: &str) {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| self.quantile(share));
        let (hits, max) = (self.hits(), self.max);
        println!("{what:18} {hits:9} hits   p50 {p50} ns   p99 {p99}   p99.9 {p999}   max {max}");
    }
}

/// Hits pages in an order that no cache knows, until `is_done` says so.
struct Hitter<'s> {
    session: &'s Session,
    file: FileNumber,
    blocks: u32,
    order: Order,
}

impl Hitter<'_> {
    fn hit(&mut self, times: &mut Times) {
        let block = self.order.next_below(self.blocks);
        let start = Instant::now();
        let page = self.session.page(self.file, block).expect("a page");
        black_box(page.read(|view| view.u64(HEADER_BYTES)).expect("read"));
        drop(page);
        times.add(start.elapsed().as_nanos() as u64);
    }
}

/// A file of so many blocks, all zero.
fn register(session: &Session, path: &Path, id: u64, blocks: u32) -> FileNumber {
    let file = File::create(path).expect("a file");
    file.set_len(u64::from(blocks) * PAGE).expect("so long");
    let key = FileKey { id, fork: 0 };
    session.register(key, path, &FileOptions::default()).expect("registered")
}

fn read(session: &Session, file: FileNumber, blocks: u32) {
    for block in 0..blocks {
        session.page(file, block).expect("a page");
    }
}

/// MiB that the system has given to files in shared memory.
fn shared_mib() -> u64 {
    let all = std::fs::read_to_string("/proc/meminfo").expect("/proc");
    let line = all.lines().find_map(|line| line.strip_prefix("Shmem:")).expect("a line");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a figure") / 1024
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mib: u64 = arguments.next().map_or(1024, |mib| mib.parse().expect("MIB"));
    let directory = arguments.next();
    let temporary = tempfile::tempdir().expect("a directory");
    let directory = directory.as_deref().map_or(temporary.path(), Path::new);
    let frames = (mib * 1024 * 1024 / PAGE) as u32;
    let name = format!("resize-ratio-{}", std::process::id());
    let domain = Domain::open(DomainConfig::new(&name)).expect("a domain");
    let config = PoolConfig {
        frames,
        frames_max: 2 * frames,
        processes: 4,
        entries: 4 * u64::from(frames),
        ..PoolConfig::new(mib << 20)
    };
    let pool = Pool::named(&domain, "pages", &config, PoolOptions::default()).expect("a pool");
    pin(0);
    let session = pool.session().expect("a session");
    // They have their places before anything else comes.
    let hot = frames / 8 * 7;
    let file = register(&session, &directory.join("hot"), 1, hot);
    let other = register(&session, &directory.join("other"), 2, frames);
    read(&session, file, hot);
    let mut hitter = Hitter { session: &session, file, blocks: hot, order: Order::new() };
    let [mut quiet, mut meanwhile] = [Times::new(), Times::new()];
    let mut memory = Vec::new();
    for _ in 0..ROUNDS {
        (0..HITS).for_each(|_| hitter.hit(&mut quiet));
        let is_done = AtomicBool::new(false);
        let sizes = std::thread::scope(|scope| {
            let resizer = scope.spawn(|| {
                pin(1);
                let session = pool.session().expect("a session");
                session.resize(2 * frames).expect("larger");
                read(&session, other, frames);
                let large = shared_mib();
                let resized = session.resize(frames).expect("smaller");
                is_done.store(true, Ordering::Relaxed);
                assert_eq!(resized.in_use, 0, "somebody uses them");
                (large, shared_mib())
            });
            while !is_done.load(Ordering::Relaxed) {
                hitter.hit(&mut meanwhile);
            }
            resizer.join().expect("resized")
        });
        memory.push(sizes);
    }
    quiet.print("quiet");
    meanwhile.print("while it resizes");
    let ratio = meanwhile.quantile(0.99) as f64 / quiet.quantile(0.99) as f64;
    println!("p99 while it resizes / quiet: {ratio:.2}   asked: at most 2");
    println!("MiB of shared memory when it was large, and small again: {memory:?}");
    drop(session);
    drop(pool);
    domain.remove_named("pages").expect("removed");
}
