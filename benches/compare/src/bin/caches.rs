//! Hits of the buffer pool beside those of caches within a process, and of LMDB, in one run.
//!
//! ```sh
//! cd benches/compare && cargo build --release && target/release/caches [ROUNDS [DIRECTORY]]
//! ```
//!
//! Each has 10,000 pages of 8 KiB, all of them in memory, and is asked for eight bytes of one page
//! all the time, or of any of them in an order that no cache knows; by one thread, and by two at
//! once. The caches hand out a counted reference to a page; LMDB reads in one transaction, whose
//! pages nobody changes. Round by round in turn (5 unless the argument says otherwise), medians, in
//! nanoseconds of processor time. Versions stand in `Cargo.toml`.
use benches::{PAGE_BYTES, both, each, make_file, median, pin, pool};
use buffer_pool::HEADER_BYTES;
use buffer_pool::files::FileNumber;
use buffer_pool::pool::{Pool, Session};
use heed::types::{Bytes, U32};
use heed::{Database, Env, EnvOpenOptions, WithoutTls};
use std::path::Path;
use std::sync::Arc;

const PAGES: u32 = 10_000;
const READS: u32 = 1_000_000;
const FIGURES: [&str; 4] = ["one page", "two at once", "10,000 pages", "two at once"];

/// One that has pages. Each has its number in its first bytes.
trait Pages: Sync {
    /// What a read of one of the first `blocks` pages takes, `READS` times.
    fn reads(&self, blocks: u32) -> f64;
}

type Page = Arc<[u8]>;
type Number = U32<heed::byteorder::NativeEndian>;

fn page(block: u32) -> Page {
    let mut page = vec![0; PAGE_BYTES];
    page[HEADER_BYTES..HEADER_BYTES + 8].copy_from_slice(&u64::from(block).to_le_bytes());
    page.into()
}

fn word(page: &[u8]) -> u64 {
    let bytes = &page[HEADER_BYTES..HEADER_BYTES + 8];
    u64::from_le_bytes(bytes.try_into().expect("eight"))
}

/// Pages found by their blocks, of what is theirs.
fn reads(blocks: u32, mut get: impl FnMut(u32) -> u64) -> f64 {
    (0..blocks).for_each(|block| assert_eq!(get(block), u64::from(block)));
    each(READS, blocks, get)
}

/// Ours, by a pin.
struct Pinned(Pool, FileNumber);
/// Ours, where it is only read.
struct Read(Pool, FileNumber);
struct Moka(moka::sync::Cache<u32, Page>);
struct Quick(quick_cache::sync::Cache<u32, Page>);
struct Foyer(foyer_memory::Cache<u32, Page>);
struct Lmdb(Env<WithoutTls>, Database<Number, Bytes>);

fn session(pool: &Pool) -> Session {
    pool.session().expect("a session")
}

fn lmdb(directory: &Path) -> Lmdb {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(1 << 30);
    // SAFETY: nobody else has these files.
    let env = unsafe { options.open(directory) }.expect("an environment");
    let mut writes = env.write_txn().expect("a transaction");
    let database = env.create_database(&mut writes, None).expect("a database");
    for block in 0..PAGES {
        database.put(&mut writes, &block, &*page(block)).expect("written");
    }
    writes.commit().expect("committed");
    Lmdb(env, database)
}

impl Pages for Pinned {
    fn reads(&self, blocks: u32) -> f64 {
        let session = session(&self.0);
        reads(blocks, |block| {
            let page = session.page(self.1, block).expect("a page");
            page.read(|view| view.u64(HEADER_BYTES).unwrap_or(0)).expect("read")
        })
    }
}

impl Pages for Read {
    fn reads(&self, blocks: u32) -> f64 {
        let session = session(&self.0);
        reads(blocks, |block| {
            let read = session.read(self.1, block, |view| view.u64(HEADER_BYTES).unwrap_or(0));
            read.expect("read")
        })
    }
}

impl Pages for Moka {
    fn reads(&self, blocks: u32) -> f64 {
        reads(blocks, |block| word(&self.0.get(&block).expect("a page")))
    }
}

impl Pages for Quick {
    fn reads(&self, blocks: u32) -> f64 {
        reads(blocks, |block| word(&self.0.get(&block).expect("a page")))
    }
}

impl Pages for Foyer {
    fn reads(&self, blocks: u32) -> f64 {
        reads(blocks, |block| word(self.0.get(&block).expect("a page").value()))
    }
}

impl Pages for Lmdb {
    fn reads(&self, blocks: u32) -> f64 {
        let transaction = self.0.read_txn().expect("a transaction");
        reads(blocks, |block| {
            let page = self.1.get(&transaction, &block).expect("read").expect("a page");
            word(page)
        })
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().map_or(5, |rounds| rounds.parse().expect("ROUNDS"));
    let given = arguments.next();
    let temporary = tempfile::tempdir().expect("a directory");
    let directory = given.as_deref().map_or(temporary.path(), Path::new);
    let path = directory.join("pages");
    make_file(&path, PAGES);
    let (pool, file, _) = pool(PAGES + 64, &path);
    let moka = Moka(moka::sync::Cache::new(2 * u64::from(PAGES)));
    let quick = Quick(quick_cache::sync::Cache::new(2 * PAGES as usize));
    let foyer = Foyer(foyer_memory::CacheBuilder::new(2 * PAGES as usize).build());
    for block in 0..PAGES {
        moka.0.insert(block, page(block));
        quick.0.insert(block, page(block));
        foyer.0.insert(block, page(block));
    }
    moka.0.run_pending_tasks();
    let (pinned, read, lmdb) = (Pinned(pool.clone(), file), Read(pool, file), lmdb(directory));
    let all: [(&str, &dyn Pages); 6] = [
        ("ours, pinned", &pinned),
        ("ours, read", &read),
        ("moka", &moka),
        ("quick_cache", &quick),
        ("foyer", &foyer),
        ("lmdb", &lmdb),
    ];
    let mut figures: [[Vec<f64>; FIGURES.len()]; 6] = Default::default();
    pin(0);
    for _ in 0..rounds {
        for ((_, pages), figures) in all.iter().zip(&mut figures) {
            for (blocks, figures) in [1, PAGES].iter().zip(figures.chunks_mut(2)) {
                figures[0].push(pages.reads(*blocks));
                figures[1].push(both(|| pages.reads(*blocks)));
            }
        }
    }
    println!("{:<14}{}", "ns each", FIGURES.map(|name| format!("{name:>14}")).concat());
    let medians = figures.map(|of| of.map(median));
    for ((name, _), figures) in all.iter().zip(&medians) {
        println!("{name:<14}{}", figures.map(|ns| format!("{ns:>14.1}")).concat());
    }
    let [pinned, read, others @ ..] = &medians;
    for (name, ours) in [("pinned", pinned), ("read", read)] {
        let ratios: [f64; FIGURES.len()] = std::array::from_fn(|figure| {
            let best = others.iter().map(|of| of[figure]).fold(f64::INFINITY, f64::min);
            best / ours[figure]
        });
        let ratios = ratios.map(|ratio| format!("{ratio:>14.2}")).concat();
        println!("{:<14}{ratios}   asked: at least 1.5", format!("best / {name}"));
    }
}
