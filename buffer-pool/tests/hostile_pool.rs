//! A pool whose memory lies, in each of its parts, before it is opened, before it is used and while
//! it is used: each call ends, in time, with an answer or an error; and nothing is touched outside
//! the memory, nor any file but the pool's.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/hostile_common/mod.rs"]
mod hostile_common;
mod pool_common;

use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber, Files, Shape as FilesShape};
use buffer_pool::frames::Frames;
use buffer_pool::latch::{Latches, Shape as LatchShape};
use buffer_pool::pages::{Pages, Shape as PagesShape};
use buffer_pool::policy::Policy;
use buffer_pool::pool::{
    Cleanup, FileOptions, Page, Pool, PoolConfig, PoolOptions, Prewarm, Session, Strategy,
    StreamOptions, Writer, WriterOptions,
};
use buffer_pool::store::{PageFile, Store};
use hostile_common::{LIMIT, guarded};
use pool_common::{Memory, small};
use shm_core::hazard::Hazards;
use shm_core::participants::Table;
use shm_testkit::liar::{Liar, Random, Scribbler, Trials};
use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

const PAGE: usize = 1024;
const BLOCKS: u32 = 20;
const PATIENCE: Duration = Duration::from_micros(300);

fn config() -> PoolConfig {
    PoolConfig { entries: 128, processes: 3, files: 3, ..small() }
}

/// Files in memory, of which there are two, and those who want another.
#[derive(Debug, Default)]
struct Confined {
    files: Memory,
    astray: AtomicU32,
}

impl Store for Confined {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn PageFile>> {
        if [0, 1].iter().any(|file| path == path_of(*file)) {
            return self.files.open(path, create);
        }
        // A path that was overwritten: it may be looked for, and nothing is made there.
        self.astray.fetch_add(u32::from(create), Relaxed);
        Err(io::ErrorKind::NotFound.into())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        self.files.list(directory)
    }
}

fn path_of(file: u64) -> &'static Path {
    Path::new(["/first", "/second"][file as usize])
}

/// The parts of the pool, whose places are its own affair: here they are planned once more.
fn parts() -> Vec<(&'static str, Range<usize>)> {
    let PoolConfig { page_bytes, policy, processes, sessions, files, entries, .. } = config();
    let frames = config().frames_max;
    let pages = PagesShape { frames, seats: processes, threads: sessions, page_bytes };
    let latches = LatchShape { frames, seats: processes, threads: sessions };
    let rows = u64::from(processes * sessions);
    let all = [
        ("head", 128, 128),
        ("participants", Table::bytes_for(processes), 128),
        ("pins", Hazards::bytes_for(processes, sessions), 128),
        ("counts", rows * 128, 128),
        ("policy", Policy::bytes_for(policy, frames).unwrap(), 128),
        ("files and entries", Files::bytes_for(FilesShape { files, entries }), 128),
        ("frames", Frames::<Files>::bytes_for(frames), 64),
        ("bytes", u64::from(frames * page_bytes), 4096),
        ("latches", Latches::bytes_for(latches), 64),
        ("states, intents", Pages::bytes_for(pages), 64),
    ];
    let mut end = 0;
    let mut parts: Vec<_> = all
        .map(|(name, bytes, align)| {
            let at = u64::next_multiple_of(end, align);
            end = at + bytes;
            (name, at as usize..end as usize)
        })
        .into();
    // The last are parts of the one before them.
    let total = Pool::bytes_for(&config()).unwrap() as usize;
    let bytes_at = parts[7].1.start;
    assert_eq!((bytes_at + Pages::bytes_for(pages) as usize).next_multiple_of(4096), total);
    parts[9].1.end = total;
    parts
}

fn options(store: &Arc<Confined>) -> PoolOptions {
    PoolOptions { store: store.clone(), patience: Some(PATIENCE), ..PoolOptions::default() }
}

fn register(session: &Session, file: u64) -> Option<FileNumber> {
    let options = FileOptions { create: true, blocks_max: Some(40) };
    session.register(FileKey { id: file, fork: 0 }, path_of(file), &options).ok()
}

/// What the memory holds in the course of a pool's life.
fn images() -> Vec<Vec<u8>> {
    let (block, mapping) = guarded(&vec![0; Pool::bytes_for(&config()).unwrap() as usize], 0);
    let store = Arc::new(Confined::default());
    let pool = Pool::open(&mapping, &config(), options(&store)).unwrap();
    let mut images = vec![block.outside().read()];
    let session = pool.session().unwrap();
    let [first, second] = [0, 1].map(|file| register(&session, file).unwrap());
    assert_eq!(session.extend(first, BLOCKS).unwrap(), 0);
    assert_eq!(session.extend(second, 3).unwrap(), 0);
    let page = |block| session.page(first, block).unwrap();
    for block in 0..BLOCKS {
        page(block).exclusive().unwrap().write(&[(HEADER_BYTES, &[block as u8; 8])]).unwrap();
    }
    images.push(block.outside().read());
    let pages = [3, 4, 5].map(page);
    let (share, mut held) = (pages[0].share().unwrap(), pages[1].exclusive().unwrap());
    held.write(&[(100, &[7; 300]), (500, &[8; 100])]).unwrap();
    images.push(block.outside().read());
    drop((share, held));
    drop(pages);
    drop((session, pool));
    images.push(block.outside().read());
    images
}

fn use_page(trials: &Trials, seed: u64, page: &Page<'_>) {
    trials.call(seed, "Page::read", || page.read(|view| view.u64(HEADER_BYTES)).ok());
    trials.call(seed, "Page::copy_out", || page.copy_out(24, &mut [0; PAGE - 24]).ok());
    let share = trials.call(seed, "Page::share", || page.share().ok());
    trials.call(seed, "Share::drop", || drop(share));
    if let Some(Ok(mut held)) = trials.call(seed, "Page::exclusive", || page.exclusive()) {
        let change: [(usize, &[u8]); 2] = [(16, &[1; 500]), (900, &[2; 100])];
        trials.call(seed, "Exclusive::write", || held.write(&change).ok());
        trials.call(seed, "Exclusive::drop", || drop(held));
    }
}

/// Consumes the page.
fn clean_up(trials: &Trials, seed: u64, page: Page<'_>) {
    let Some(Ok(tried)) = trials.call(seed, "try_cleanup", || page.try_cleanup()) else { return };
    let page = tried.map_or_else(|page| page, Cleanup::into_page);
    if let Some(Ok(mut held)) = trials.call(seed, "cleanup", || page.cleanup()) {
        trials.call(seed, "Cleanup::write", || held.write(&[(40, &[3; 300])]).ok());
        trials.call(seed, "Cleanup::drop", || drop(held));
    }
}

fn use_file(trials: &Trials, seed: u64, session: &Session, file: FileNumber) {
    for block in [0, 3, 4, 7, 18, 19, 20, 39, 40, u32::MAX] {
        let page = trials.call(seed, "page", || session.page(file, block));
        if let Some(Ok(page)) = page {
            use_page(trials, seed, &page);
            clean_up(trials, seed, page);
        }
        trials.call(seed, "read", || session.read(file, block, |view| view.u8(1023)).ok());
    }
    trials.call(seed, "overwrite", || drop(session.overwrite(file, 12, &[7; PAGE - 16])));
    trials.call(seed, "page_or_zero", || drop(session.page_or_zero(file, 13)));
    trials.call(seed, "page_if_here", || drop(session.page_if_here(file, 14)));
    trials.call(seed, "flush", || session.flush(file).ok());
    trials.call(seed, "extend", || session.extend(file, 1).ok());
    trials.call(seed, "truncate", || session.truncate(file, 2).ok());
    trials.call(seed, "sync", || session.sync(file).ok());
    let options = StreamOptions { distance_max: 64, ..StreamOptions::default() };
    trials.call(seed, "stream", || session.stream(file, 0..16, options).take(16).for_each(drop));
    let bulk = session.with_strategy(Strategy::BulkWrite);
    trials.call(seed, "bulk", || bulk.stream(file, 0..16, options).take(16).for_each(drop));
    trials.call(seed, "bulk overwrite", || drop(bulk.overwrite(file, 11, &[7; PAGE - 16])));
    trials.call(seed, "prewarm", || session.prewarm(file, 0..8, Prewarm::Buffer).ok());
}

/// Not more are told to be at a frame than there are seats.
fn look_at_frames(trials: &Trials, seed: u64, pool: &Pool) {
    let infos = trials.call(seed, "frame_infos", || pool.frame_infos());
    for info in infos.and_then(Result::ok).into_iter().flatten() {
        let users = info.pinned_by.len();
        let is_right = users <= config().processes as usize && info.is_pinned == (users > 0);
        trials.check(seed, "frame_infos", is_right, "says who cannot be there");
    }
}

/// Every call there is.
fn use_pool(trials: &Trials, seed: u64, pool: &Pool) {
    trials.call(seed, "files", || (pool.stats(), pool.files()));
    trials.call(seed, "summary", || (pool.summary().ok(), pool.by_file().ok()));
    look_at_frames(trials, seed, pool);
    let Some(Ok(session)) = trials.call(seed, "session", || pool.session()) else { return };
    let registered = [0, 1].map(|file| {
        let known =
            trials.call(seed, "find_file", || pool.find_file(FileKey { id: file, fork: 0 }));
        let number = trials.call(seed, "register", || register(&session, file));
        number.flatten().or(known.flatten())
    });
    for file in registered.into_iter().flatten() {
        use_file(trials, seed, &session, file);
        trials.call(seed, "file", || pool.file(file));
    }
    if let Some(file) = registered[seed as usize % 2] {
        trials.call(seed, "forget", || session.forget(file).ok());
    }
    let mut writer = Writer::new(WriterOptions::default());
    trials.call(seed, "round", || (0..2).for_each(|_| drop(writer.round(&session))));
    trials.call(seed, "hit_ratio", || pool.stats().hit_ratio());
    trials.call(seed, "resize", || [20, 16].map(|frames| session.resize(frames).ok()));
    trials.call(seed, "reap", || pool.reap());
    trials.call(seed, "Session::drop", || drop(session));
}

/// When lies are told.
#[derive(Clone, Copy)]
enum When {
    /// Before it is opened.
    Before,
    /// When it is open.
    Once,
    /// All the time.
    Meanwhile,
}

fn is_lied_to(name: &'static str, when: When, seeds: u64) {
    let (trials, images, parts) = (Trials::new(name, LIMIT), images(), parts());
    let words = images.iter().flat_map(|image| image.chunks_exact(8));
    let words = words.map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    let mut values: Vec<u64> = words.filter(|word| *word != 0).collect();
    values.sort_unstable();
    values.dedup();
    let mut opened = 0;
    for seed in trials.seeds(seeds) {
        let image = &images[seed as usize % images.len()];
        let (part, range) = &parts[(seed as usize / images.len()) % parts.len()];
        let liar = Liar::new(seed, image).with_images(&images).with_values(&values);
        let mut liar = liar.about(range.clone());
        let (block, mapping) = guarded(image, seed);
        if matches!(when, When::Before) {
            trials.tell(&block.outside(), &mut liar, 1 + seed % 4);
        }
        let store = Arc::new(Confined::default());
        let opens = || Pool::open(&mapping, &config(), options(&store)).ok();
        if let Some(Some(pool)) = trials.call(seed, "open", opens) {
            opened += 1;
            match when {
                When::Before => use_pool(&trials, seed, &pool),
                When::Once => {
                    trials.tell(&block.outside(), &mut liar, 1 + seed % 4);
                    use_pool(&trials, seed, &pool);
                }
                When::Meanwhile => {
                    let scribbler = Scribbler::start(block.outside(), liar.restoring());
                    scribbler.meanwhile(200, || use_pool(&trials, seed, &pool));
                    trials.add(scribbler.stop());
                }
            }
            trials.call(seed, "Pool::drop", || drop(pool));
        }
        let attaches = || drop(Pool::attach(&mapping, options(&store)));
        trials.call(seed, "attach", attaches);
        trials.check(seed, part, block.is_intact(), "wrote beside its memory");
        trials.check(seed, part, store.astray.load(Relaxed) == 0, "made a file");
    }
    assert!(opened > seeds / 4, "{opened} were opened");
    trials.finish();
}

#[test]
fn a_pool_of_lies_is_opened_or_refused() {
    is_lied_to("pool, before", When::Before, 400);
}

#[test]
fn a_pool_that_was_overwritten_is_used_or_refused() {
    is_lied_to("pool, once", When::Once, 400);
}

#[test]
fn a_pool_that_changes_all_the_time_is_used_or_refused() {
    is_lied_to("pool, meanwhile", When::Meanwhile, 80);
}

/// The memory is not even nearly a pool's.
#[test]
fn nonsense_is_no_pool() {
    let trials = Trials::new("pool, nonsense", LIMIT);
    let image = &images()[1];
    let store = Arc::new(Confined::default());
    for seed in trials.seeds(100) {
        let mut random = Random::new(seed);
        let mut bytes = image.clone();
        // The magic, the version, the rest of the header, what it was made for; or all of it.
        let from = [0, 8, 16, 64][seed as usize % 4];
        let to = if seed % 8 < 4 { 100 } else { bytes.len() };
        bytes[from..to].fill_with(|| random.word() as u8);
        let (block, mapping) = guarded(&bytes, seed);
        let opened = trials.call(seed, "open", || Pool::open(&mapping, &config(), options(&store)));
        trials.check(seed, "open", matches!(opened, Some(Err(_))), "opened nonsense");
        let opened = trials.call(seed, "attach", || Pool::attach(&mapping, options(&store)));
        trials.check(seed, "attach", matches!(opened, Some(Err(_))), "attached nonsense");
        trials.check(seed, "all of it", block.is_intact(), "wrote beside its memory");
    }
    trials.finish();
}
