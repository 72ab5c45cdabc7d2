//! What the measurements share: two processors, and medians of rounds.
use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{FileOptions, Pool, PoolConfig, PoolOptions};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 8192;

/// A mapping with a table, a seat in it, and where the `bytes` behind it begin, which nobody has.
pub fn memory(bytes: u64) -> (Arc<Mapping>, Arc<Member>, u64) {
    let at = Table::bytes_for(4).next_multiple_of(128);
    let mapping = Mapping::heap((at + bytes) as usize);
    // SAFETY: nobody else has the mapping.
    let table = unsafe { Table::create(&mapping, 0, 4) }.expect("a table");
    let me = table.join().expect("a seat");
    (mapping, me, at)
}

/// Pins the calling thread to the `nth` of the processors that the process may use.
pub fn pin(nth: usize) {
    static ALLOWED: LazyLock<Vec<usize>> = LazyLock::new(|| {
        let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_default();
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect()
    });
    let Some(cpu) = ALLOWED.get(nth % ALLOWED.len().max(1)) else { return };
    let mut set = rustix::thread::CpuSet::new();
    set.set(*cpu);
    // Where it is not allowed, the figures say less.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// Both at once, each pinned: seconds until both have ended.
pub fn two(first: impl FnOnce() + Send, second: impl FnOnce() + Send) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            second();
        });
        pin(0);
        first();
    });
    start.elapsed().as_secs_f64()
}

/// So many who produce on one processor and one who consumes on the other: millions in a second.
pub fn many(
    producers: u64,
    count: u64,
    produce: impl Fn(u64) + Sync,
    consume: impl FnOnce() + Send,
) -> f64 {
    let seconds = two(
        || {
            std::thread::scope(|scope| {
                for _ in 0..producers {
                    scope.spawn(|| produce(count / producers));
                }
            });
        },
        consume,
    );
    count as f64 / seconds / 1e6
}

/// Measures all, round by round in turn (as many rounds as the first argument says, or 5), and
/// prints the medians. A second argument is a part of the name that begins a group: only that is
/// measured.
pub fn print(all: &[(&str, &dyn Fn() -> f64)]) {
    let rounds = std::env::args().nth(1).map_or(5, |arg| arg.parse().expect("a number"));
    let group = std::env::args().nth(2).unwrap_or_default();
    let mut is_in = false;
    let wanted = |(name, _): &&(&str, _)| {
        is_in = if name.starts_with(' ') { is_in } else { name.contains(&group) };
        is_in
    };
    let all: Vec<_> = all.iter().filter(wanted).collect();
    let mut figures = vec![Vec::new(); all.len()];
    for _ in 0..rounds {
        for (figures, (_, measure)) in figures.iter_mut().zip(&all) {
            figures.push(measure());
        }
    }
    for ((name, _), mut figures) in all.iter().zip(figures) {
        figures.sort_by(f64::total_cmp);
        println!("{name:<44} {:>9.1}", figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN));
    }
}

/// The value in the middle; no number where there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor time of this thread: what else the machine does counts less.
pub fn processor_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// Blocks in an order that no cache knows, the same each time.
pub struct Order(u64);

impl Order {
    /// From its beginning.
    pub fn new() -> Order {
        Order(88_172_645_463_325_252)
    }

    /// The next, below `blocks`.
    pub fn next_below(&mut self, blocks: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(blocks)) >> 32) as u32
    }
}

impl Default for Order {
    fn default() -> Order {
        Order::new()
    }
}

/// Nanoseconds of processor time for each of `count` blocks below `blocks`, in an order that no
/// cache knows.
pub fn each(count: u32, blocks: u32, mut with: impl FnMut(u32) -> u64) -> f64 {
    let (mut order, start, mut sum) = (Order::new(), processor_seconds(), 0u64);
    for _ in 0..count {
        sum = sum.wrapping_add(with(order.next_below(blocks)));
    }
    black_box(sum);
    (processor_seconds() - start) * 1e9 / f64::from(count)
}

/// What two threads that do so at once, each pinned, get in the mean.
pub fn both(one: impl Fn() -> f64 + Sync) -> f64 {
    let sum = Mutex::new(0.0);
    let half = || *sum.lock().expect("nobody panics") += one() / 2.0;
    two(half, half);
    sum.into_inner().expect("nobody panics")
}

/// A file of so many pages for a pool, each with its number in the user's first bytes.
pub fn make_file(path: &Path, blocks: u32) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .expect("a file");
    let mut page = vec![0u8; PAGE_BYTES];
    for block in 0..blocks {
        page[HEADER_BYTES..HEADER_BYTES + 8].copy_from_slice(&u64::from(block).to_le_bytes());
        file.write_all_at(&page, u64::from(block) * PAGE_BYTES as u64).expect("written");
    }
    file
}

/// A pool of so many frames, alone in memory of its own, and the file at `path` in it, which was
/// written without checksums.
pub fn pool(frames: u32, path: &Path) -> (Pool, FileNumber, Arc<Mapping>) {
    let config = PoolConfig {
        frames,
        frames_max: frames,
        processes: 4,
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
    (pool, number, mapping)
}
