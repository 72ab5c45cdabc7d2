//! What a pool does with bad input, with files that fail, and with many who want the same page: one
//! error each, and all goes on afterwards.
#![cfg(not(any(shm_loom, shm_explore)))]
mod pool_common;

use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{
    ConfigError, FRAMES_MIN, FileError, FileOptions, OpenError, Page, PageError, PageView, Pool,
    PoolConfig, PoolOptions, Prewarm, SESSIONS_MAX, Session, SessionError, StreamOptions,
};
use buffer_pool::store::{Disk, Store};
use pool_common::segment::Segment;
use pool_common::slow::{Slow, reads};
use pool_common::{Memory, pool_of, small};
use shm_core::mapping::Mapping;
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::SharedMemory;
use shm_testkit::unique::TempDir;
use shm_testkit::watchdog::within;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Barrier};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PAGE: usize = 1024;
const FRAMES: u32 = FRAMES_MIN;
const BLOCKS: u32 = 40;

fn path() -> &'static Path {
    Path::new("/file")
}

fn register(session: &Session, id: u64, path: &Path) -> Result<FileNumber, FileError> {
    let options = FileOptions { create: true, blocks_max: Some(64) };
    session.register(FileKey { id, fork: 0 }, path, &options)
}

/// A pool over a file in memory, of 40 blocks, of which none is in a frame.
struct World {
    store: Arc<Memory>,
    pool: Pool,
    session: Session,
    file: FileNumber,
}

impl World {
    fn new() -> World {
        World::with_patience(Duration::from_millis(50))
    }

    fn with_patience(patience: Duration) -> World {
        let store = Arc::new(Memory::default());
        let config = PoolConfig { sessions: 8, ..small() };
        let mapping = Mapping::heap(Pool::bytes_for(&config).unwrap() as usize);
        let options = PoolOptions {
            store: store.clone(),
            patience: Some(patience),
            ..PoolOptions::default()
        };
        let pool = Pool::open(&mapping, &config, options).unwrap();
        let session = pool.session().unwrap();
        let file = register(&session, 1, path()).unwrap();
        session.extend(file, BLOCKS).unwrap();
        for block in 0..BLOCKS {
            write(&session.page(file, block).unwrap(), block.into()).unwrap();
        }
        session.flush(file).unwrap();
        let mut world = World { store, pool, session, file };
        world.begin_anew();
        world
    }

    /// Has the file registered anew.
    fn begin_anew(&mut self) {
        self.session.forget(self.file).unwrap();
        self.file = register(&self.session, 1, path()).unwrap();
    }

    fn page(&self, block: u32) -> Result<Page<'_>, PageError> {
        self.session.page(self.file, block)
    }

    /// Pages of blocks from `first` on in all frames.
    fn fill(&self, first: u32) {
        (first..first + FRAMES).for_each(|block| drop(self.page(block).unwrap()));
    }
}

fn value(view: PageView<'_>) -> u64 {
    view.u64(HEADER_BYTES).unwrap()
}

fn write(page: &Page<'_>, value: u64) -> Result<(), PageError> {
    page.exclusive()?.write(&[(HEADER_BYTES, &value.to_le_bytes())])
}

macro_rules! fails {
    ($call:expr, $error:pat) => {{
        let got = $call.map(drop);
        assert!(matches!(got, Err($error)), "{} is {got:?}", stringify!($call));
    }};
}

#[test]
fn a_file_that_is_none_is_told() {
    let world = World::new();
    let (session, file) = (&world.session, world.file);
    session.forget(file).unwrap();
    for file in [file, FileNumber::from_bits(3), FileNumber::from_bits(u32::MAX)] {
        fails!(session.page(file, 0), PageError::NoSuchFile(_));
        fails!(session.overwrite(file, 0, &[7; PAGE - 16]), PageError::NoSuchFile(_));
        fails!(session.page_or_zero(file, 0), PageError::NoSuchFile(_));
        fails!(session.page_if_here(file, 0), PageError::NoSuchFile(_));
        fails!(session.read(file, 0, value), PageError::NoSuchFile(_));
        fails!(session.flush(file), PageError::NoSuchFile(_));
        fails!(session.sync(file), PageError::NoSuchFile(_));
        let none = |error| {
            use FileError::{Cut, NoSuchFile, Page};
            matches!(error, Cut(_) | NoSuchFile(_) | Page(PageError::NoSuchFile(_)))
        };
        assert!(session.extend(file, 1).is_err_and(none));
        assert!(session.truncate(file, 0).is_err_and(none));
        assert!(session.forget(file).is_err_and(none));
        assert_eq!(world.pool.file(file), None);
    }
    fails!(
        session.register(FileKey { id: 9, fork: 0 }, Path::new("/none"), &FileOptions::default()),
        FileError::Open { .. }
    );
}

#[test]
fn a_file_is_known_when_its_name_will_last() {
    let world = World::new();
    let (session, faults) = (&world.session, &world.store.faults);
    let (key, path) = (FileKey { id: 2, fork: 0 }, Path::new("/new"));
    faults.named.store(0, Relaxed);
    faults.names.store(1, Relaxed);
    fails!(register(session, 2, path), FileError::Name { .. });
    assert_eq!(world.pool.find_file(key), None);
    // It has been made by now, and is not known to last.
    let file = register(session, 2, path).unwrap();
    assert_eq!(faults.named.load(Relaxed), 2);
    // Who knows it, or makes none, need not ask.
    assert_eq!(register(session, 2, path).unwrap(), file);
    session.forget(file).unwrap();
    session.register(key, path, &FileOptions { create: false, blocks_max: Some(64) }).unwrap();
    assert_eq!(faults.named.load(Relaxed), 2);
}

/// Relative paths and links: what is synced is the directory in which the file lies.
#[test]
fn names_of_the_system_are_synced_wherever_they_are() {
    let directory = TempDir::new("names");
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir(at("other")).unwrap();
    std::os::unix::fs::symlink(at("other/file"), at("link")).unwrap();
    let disk = Disk::default();
    disk.sync_name(&at("link")).unwrap_err();
    for path in [at("file"), at("link")] {
        disk.open(&path, true).unwrap();
        disk.sync_name(&path).unwrap();
    }
    disk.sync_name(Path::new("Cargo.toml")).unwrap();
    // One that is gone, and one that was nowhere.
    disk.sync_name(&at("none")).unwrap();
    disk.sync_name(&at("none/none")).unwrap_err();
}

#[test]
fn a_block_past_the_end_and_bytes_outside_a_page_are_told() {
    let world = World::new();
    for block in [BLOCKS, BLOCKS + 1, 64, 1 << 20, u32::MAX - 1, u32::MAX] {
        fails!(world.page(block), PageError::PastEnd { blocks: BLOCKS, .. });
        fails!(world.session.read(world.file, block, value), PageError::PastEnd { .. });
    }
    let page = world.page(7).unwrap();
    for (at, len) in [(PAGE, 1), (PAGE - 1, 2), (usize::MAX, 1), (1, 2 * PAGE)] {
        fails!(page.copy_out(at, &mut vec![0; len]), PageError::OutOfPage { .. });
    }
    let mut held = page.exclusive().unwrap();
    for at in [0, HEADER_BYTES - 1, PAGE - 7, PAGE, usize::MAX] {
        fails!(held.write(&[(40, b"not this"), (at, b"nor this")]), PageError::OutOfPage { .. });
    }
    fails!(held.write(&[(40, b"x".as_slice()); 65]), PageError::TooManyRanges(65));
    let view = held.view();
    assert_eq!((view.u64(40), value(view)), (Some(0), 7));
    assert_eq!((view.u8(PAGE), view.u16(PAGE - 1), view.u64(usize::MAX)), (None, None, None));
}

#[test]
fn a_pool_that_cannot_be_is_told() {
    let with = |change: fn(&mut PoolConfig)| {
        let mut config = small();
        change(&mut config);
        Pool::bytes_for(&config)
    };
    let range = |change| {
        fails!(with(change), ConfigError::Range { .. });
    };
    for page_bytes in [0, 1000, 1025, 12 << 10] {
        let config = PoolConfig { page_bytes, ..small() };
        assert_eq!(Pool::bytes_for(&config), Err(ConfigError::PageBytes(page_bytes)));
    }
    range(|config| config.page_bytes = 512);
    range(|config| config.page_bytes = 64 << 10);
    range(|config| config.frames = FRAMES_MIN - 1);
    range(|config| config.frames = (1 << 30) + 1);
    range(|config| config.processes = 0);
    range(|config| config.processes = u32::MAX);
    range(|config| config.sessions = 0);
    range(|config| config.sessions = SESSIONS_MAX + 1);
    range(|config| config.files = 0);
    range(|config| config.files = 4097);
    range(|config| config.entries = 0);
    range(|config| config.entries = (1 << 35) + 1);
    range(|config| config.entries = u64::MAX);
    let bytes = Pool::bytes_for(&small()).unwrap() as usize;
    let mapping = Mapping::heap(bytes - 4096);
    fails!(Pool::open(&mapping, &small(), PoolOptions::default()), OpenError::TooSmall { .. });
    let mapping = Mapping::heap(bytes);
    fails!(Pool::attach(&mapping, PoolOptions::default()), OpenError::NotMade);
    let none = PoolConfig { frames: 15, ..small() };
    fails!(Pool::open(&mapping, &none, PoolOptions::default()), OpenError::Config(_));
    drop(Pool::open(&mapping, &small(), PoolOptions::default()).unwrap());
}

/// Whatever is said to be possible is.
#[test]
fn the_largest_numbers_there_may_be_are_possible() {
    let one = PoolConfig { processes: 1, ..small() };
    for config in [PoolConfig { sessions: SESSIONS_MAX, ..one }, PoolConfig { files: 4096, ..one }]
    {
        let mapping = Mapping::heap(Pool::bytes_for(&config).unwrap() as usize);
        let pool = Pool::open(&mapping, &config, PoolOptions::default()).unwrap();
        drop(pool.session().unwrap());
    }
}

#[test]
fn another_pool_than_was_made_is_told() {
    let mapping = Mapping::heap(2 * Pool::bytes_for(&small()).unwrap() as usize);
    let pool = Pool::open(&mapping, &small(), PoolOptions::default()).unwrap();
    let others = [
        PoolConfig { frames: 17, ..small() },
        PoolConfig { checksums: false, ..small() },
        PoolConfig { page_bytes: 2048, ..small() },
    ];
    for other in others {
        fails!(Pool::open(&mapping, &other, PoolOptions::default()), OpenError::OtherConfig { .. });
    }
    // A second time in the same process it is another participant.
    let again = Pool::attach(&mapping, PoolOptions::default()).unwrap();
    assert_eq!((again.config(), again.reap()), (&small(), 0));
    drop(pool);
    drop(again.session().unwrap());
}

#[test]
fn more_threads_or_processes_than_it_was_made_for_are_told() {
    let mapping = Mapping::heap(Pool::bytes_for(&small()).unwrap() as usize);
    let open = || Pool::open(&mapping, &small(), PoolOptions::default());
    let mut pools: Vec<_> = (0..4).map(|_| open().unwrap()).collect();
    fails!(open(), OpenError::Join(_));
    let mut sessions: Vec<_> = (0..2).map(|_| pools[0].session().unwrap()).collect();
    fails!(pools[0].session(), SessionError::TooMany(2));
    drop(sessions.pop());
    drop(pools[0].session().unwrap());
    drop(pools.pop());
    drop(open().unwrap());
}

#[test]
fn a_pool_all_pinned_says_so_until_a_page_is_let_go() {
    let world = World::new();
    let others = [(); 2].map(|()| world.pool.session().unwrap());
    let page = |block: u32| others[block as usize / 8].page(world.file, block).unwrap();
    let mut pages: Vec<_> = (0..FRAMES).map(page).collect();
    fails!(world.page(FRAMES), PageError::NoUnpinned);
    fails!(others[0].page(world.file, FRAMES), PageError::TooManyPins);
    assert_eq!(world.page(3).unwrap().read(value).unwrap(), 3);
    assert_eq!(world.pool.summary().unwrap().pinned, FRAMES);
    pages.remove(5);
    assert_eq!(world.page(FRAMES).unwrap().read(value).unwrap(), FRAMES.into());
    drop(pages);
    // One thread has so many pins.
    let pages: Vec<_> = (0..8).map(|block| world.page(block).unwrap()).collect();
    fails!(world.page(0), PageError::TooManyPins);
    fails!(world.page(30), PageError::TooManyPins);
    drop(pages);
    world.fill(20);
    assert_eq!(world.pool.summary().unwrap().used, FRAMES);
}

#[test]
fn a_file_that_may_only_be_read_is_read_and_nothing_else() {
    let mut world = World::new();
    world.store.faults.is_read_only.store(true, Relaxed);
    world.begin_anew();
    let (session, file) = (&world.session, world.file);
    write(&world.page(3).unwrap(), 9).unwrap();
    fails!(session.flush(file), PageError::ReadOnly(_));
    fails!(session.sync(file), PageError::ReadOnly(_));
    fails!(session.extend(file, 1), FileError::Page(PageError::ReadOnly(_)));
    fails!(session.truncate(file, 1), FileError::Page(PageError::ReadOnly(_)));
    assert_eq!(world.pool.file(file).unwrap().blocks, BLOCKS);
    (0..BLOCKS).for_each(|block| drop(world.page(block).unwrap()));
    assert_eq!(world.page(3).unwrap().read(value).unwrap(), 9, "the change is gone");
    assert_eq!(world.pool.summary().unwrap().dirty, 1);
    // Other files go on, and it may be forgotten.
    world.store.faults.is_read_only.store(false, Relaxed);
    let other = register(session, 2, Path::new("/other")).unwrap();
    session.extend(other, 1).unwrap();
    session.forget(file).unwrap();
    let file = register(session, 1, path()).unwrap();
    assert_eq!(session.read(file, 3, value).unwrap(), 3);
}

#[test]
fn a_file_that_was_cut_off_or_is_damaged_is_told() {
    let mut world = World::new();
    let bytes = world.store.bytes_of(path());
    bytes.lock().unwrap().truncate(20 * PAGE + 100);
    fails!(world.page(20), PageError::Short { block: 20, missing: 924, .. });
    fails!(world.page(39), PageError::Short { block: 39, missing: 1024, .. });
    fails!(world.session.read(world.file, 30, value), PageError::Short { .. });
    assert_eq!(world.page(19).unwrap().read(value).unwrap(), 19);
    world.session.forget(world.file).unwrap();
    fails!(
        register(&world.session, 1, path()),
        FileError::Ragged { len: 20580, page_bytes: 1024, .. }
    );
    bytes.lock().unwrap().truncate(20 * PAGE);
    world.file = register(&world.session, 1, path()).unwrap();
    for block in 3..6 {
        bytes.lock().unwrap()[block as usize * PAGE + 8 * block as usize] ^= 1;
        fails!(world.page(block), PageError::Checksum { .. });
        fails!(world.page(block), PageError::Checksum { .. });
    }
    assert_eq!(world.session.page_or_zero(world.file, 4).unwrap().read(value).unwrap(), 0);
    bytes.lock().unwrap()[3 * PAGE + 24] ^= 1;
    assert_eq!(world.page(3).unwrap().read(value).unwrap(), 3);
    // Of no block is anything left in the frames.
    (6..20).chain(0..2).for_each(|block| drop(world.page(block).unwrap()));
    assert_eq!(world.pool.summary().unwrap().pinned, 0);
}

#[test]
fn what_the_system_refuses_is_told_and_succeeds_afterwards() {
    let mut world = World::new();
    let (store, pool) = (world.store.clone(), world.pool.clone());
    let faults = &store.faults;
    faults.opens.store(1, Relaxed);
    fails!(register(&world.session, 2, Path::new("/other")), FileError::Open { .. });
    faults.extends.store(1, Relaxed);
    fails!(world.session.extend(world.file, 1), FileError::Page(PageError::File { .. }));
    assert_eq!(pool.file(world.file).unwrap().blocks, BLOCKS);
    // All pages are changed, and none can be written.
    let change = |block| write(&world.page(block).unwrap(), u64::from(block) + 100).unwrap();
    (0..FRAMES).for_each(change);
    faults.writes.store(u32::MAX, Relaxed);
    fails!(world.page(30), PageError::Write { .. });
    fails!(world.session.flush(world.file), PageError::Write { .. });
    assert_eq!(pool.summary().unwrap().dirty, FRAMES);
    faults.none();
    faults.syncs.store(1, Relaxed);
    fails!(world.session.sync(world.file), PageError::File { .. });
    assert_eq!(pool.summary().unwrap().dirty, FRAMES, "what may be lost is clean");
    assert_eq!(world.session.sync(world.file).unwrap(), FRAMES.into());
    // A cut that fails is ended by whoever comes next.
    faults.truncates.store(1, Relaxed);
    fails!(world.session.truncate(world.file, 20), FileError::Page(PageError::File { .. }));
    assert_eq!(pool.file(world.file).unwrap().blocks, 20);
    fails!(world.page(20), PageError::PastEnd { .. });
    assert_eq!(world.session.extend(world.file, 4).unwrap(), 20);
    assert_eq!(world.page(20).unwrap().read(value).unwrap(), 0);
    assert_eq!(store.bytes_of(path()).lock().unwrap().len(), 24 * PAGE);
    world.begin_anew();
    assert_eq!(world.page(3).unwrap().read(value).unwrap(), 103);
}

#[test]
fn a_cut_that_cannot_be_finished_holds_up_no_other_file() {
    let world = World::new();
    let (session, file) = (&world.session, world.file);
    // Somebody keeps a page that should go.
    let other = world.pool.session().unwrap();
    let page = other.page(file, 30).unwrap();
    fails!(session.truncate(file, 25), FileError::Page(PageError::InUse(_)));
    let second = register(session, 2, Path::new("/second")).unwrap();
    session.extend(second, 3).unwrap();
    session.truncate(second, 1).unwrap();
    session.forget(second).unwrap();
    fails!(session.extend(file, 1), FileError::Page(PageError::InUse(_)));
    drop(page);
    assert_eq!(session.extend(file, 1).unwrap(), 25);
    // The system does not cut it off, and never will.
    world.store.faults.truncates.store(u32::MAX, Relaxed);
    fails!(session.truncate(file, 20), FileError::Page(PageError::File { .. }));
    let second = register(session, 2, Path::new("/second")).unwrap();
    session.forget(second).unwrap();
    fails!(session.extend(file, 1), FileError::Page(PageError::File { .. }));
    session.forget(file).unwrap();
}

#[test]
fn a_file_of_the_system_is_made_longer_by_nothing() {
    let directory = TempDir::new("pool");
    let pool = pool_of(&small(), Arc::new(Disk::default()));
    let session = pool.session().unwrap();
    let file = register(&session, 1, &directory.path().join("file")).unwrap();
    assert_eq!(session.extend(file, 0).unwrap(), 0);
    assert_eq!(session.extend(file, 2).unwrap(), 0);
    assert_eq!(session.extend(file, 0).unwrap(), 2);
    fails!(session.extend(file, u32::MAX), FileError::Extend(_));
    write(&session.page(file, 1).unwrap(), 5).unwrap();
    session.sync(file).unwrap();
    session.truncate(file, 0).unwrap();
    assert_eq!(session.extend(file, 2).unwrap(), 0);
    assert_eq!(session.read(file, 1, value).unwrap(), 0);
    fails!(register(&session, 2, directory.path()), FileError::Open { .. });
    fails!(register(&session, 2, &directory.path().join("none/such")), FileError::Open { .. });
}

#[test]
fn a_forked_child_may_do_nothing() {
    let world = World::new();
    let page = world.page(3).unwrap();
    let mut held = Some(page.exclusive().unwrap());
    held.as_mut().unwrap().write(&[(HEADER_BYTES, &9_u64.to_le_bytes())]).unwrap();
    let mut other = Some((world.pool.clone(), world.pool.session().unwrap()));
    let (session, file) = (&world.session, world.file);
    let before = (world.pool.stats(), world.pool.files());
    assert!(in_a_fork(|| {
        fails!(session.page(file, 0), PageError::Forked(_));
        fails!(session.page(file, 3), PageError::Forked(_));
        fails!(session.overwrite(file, 0, &[7; PAGE - 16]), PageError::Forked(_));
        fails!(session.page_or_zero(file, 0), PageError::Forked(_));
        fails!(session.page_if_here(file, 0), PageError::Forked(_));
        let stream = || session.stream(file, (0..BLOCKS).rev(), StreamOptions::default());
        assert!(stream().all(|page| matches!(page, Err(PageError::Forked(_)))));
        for how in [Prewarm::Prefetch, Prewarm::Buffer] {
            fails!(session.prewarm(file, 0..BLOCKS, how), PageError::Forked(_));
        }
        fails!(session.read(file, 3, value), PageError::Forked(_));
        fails!(session.flush(file), PageError::Forked(_));
        fails!(session.sync(file), PageError::Forked(_));
        fails!(session.extend(file, 1), FileError::Forked(_));
        fails!(session.truncate(file, 1), FileError::Forked(_));
        fails!(session.forget(file), FileError::Registrar(_));
        fails!(register(session, 2, Path::new("/other")), FileError::Registrar(_));
        fails!(world.pool.session(), SessionError::Forked(_));
        fails!(page.read(value), PageError::Forked(_));
        fails!(page.share(), PageError::Forked(_));
        fails!(page.exclusive(), PageError::Forked(_));
        fails!(held.as_mut().unwrap().write(&[(40, b"child")]), PageError::Forked(_));
        // The child's copies alone.
        drop((held.take(), other.take()));
        true
    }));
    assert_eq!((world.pool.stats(), world.pool.files()), before);
    held.unwrap().write(&[(40, b"parent")]).unwrap();
    drop((page, other));
    assert_eq!(world.page(3).unwrap().read(value).unwrap(), 9);
    world.fill(20);
    world.session.sync(world.file).unwrap();
}

/// Each of so many threads has this page, at the same time.
fn all_want(world: &World, block: u32) -> Vec<Result<u64, PageError>> {
    const THREADS: usize = 6;
    let (start, pool, file) = (Barrier::new(THREADS), &world.pool, world.file);
    let wants = || {
        let session = pool.session().unwrap();
        start.wait();
        session.page(file, block).and_then(|page| page.read(value))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(wants)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn a_page_is_read_once_however_many_threads_want_it() {
    let mut world = World::with_patience(LIMIT);
    let store = world.store.clone();
    let faults = &store.faults;
    faults.slow.store(30, Relaxed);
    faults.count.store(0, Relaxed);
    for block in 0..4 {
        for got in within(LIMIT, || all_want(&world, block)) {
            assert_eq!(got.unwrap(), block.into());
        }
    }
    assert_eq!(faults.count.load(Relaxed), 4);
    // Where it fails each of them is told, and each has tried.
    faults.reads.store(6, Relaxed);
    for got in within(LIMIT, || all_want(&world, 10)) {
        fails!(got, PageError::Read { block: 10, .. });
    }
    assert_eq!((faults.count.load(Relaxed), faults.reads.load(Relaxed)), (10, 0));
    for got in within(LIMIT, || all_want(&world, 10)) {
        assert_eq!(got.unwrap(), 10);
    }
    assert_eq!(faults.count.load(Relaxed), 11);
    // Where some fail the others go on.
    faults.reads.store(2, Relaxed);
    let got = within(LIMIT, || all_want(&world, 11));
    assert_eq!(got.iter().filter(|got| got.is_err()).count(), 2);
    faults.slow.store(0, Relaxed);
    world.begin_anew();
    world.fill(0);
}

/// A fork that runs `work` and exits with 0, or dies of a panic.
fn fork(work: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child ends in `_exit`, and needs no lock of its parent's but the allocator's.
    match unsafe { libc::fork() } {
        0 => {
            let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(end.is_err())) }
        }
        pid => pid,
    }
}

fn end_of(pid: libc::pid_t) -> i32 {
    let mut status = -1;
    // SAFETY: our child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

/// A pool in memory that forked children share, over files there, and so many blocks of one of
/// them, none of which is in a frame: each says its number.
struct Shared {
    config: PoolConfig,
    mapping: Arc<Mapping>,
    files: Segment,
    count: SharedMemory,
}

impl Shared {
    fn new(config: PoolConfig, blocks: u32) -> Shared {
        let files_at = (Pool::bytes_for(&config).unwrap() as usize).next_multiple_of(64);
        let (memory, count) = (SharedMemory::new(files_at + Segment::BYTES), SharedMemory::new(64));
        let files = Segment::new(&memory, files_at);
        let (base, len, kept) = (memory.base(), memory.len(), memory.clone());
        // SAFETY: whole pages, mapped until the last clone goes; nobody else writes them.
        let mapping = unsafe { Mapping::from_raw(base, len, Box::new(move |_, _| drop(kept))) };
        let shared = Shared { config, mapping, files, count };
        let pool = shared.open(0, Duration::ZERO);
        let session = pool.session().unwrap();
        let file = register(&session, 1, Path::new("/1")).unwrap();
        session.extend(file, blocks).unwrap();
        for block in 0..blocks {
            write(&session.page(file, block).unwrap(), block.into()).unwrap();
        }
        session.flush(file).unwrap();
        session.forget(file).unwrap();
        register(&session, 1, Path::new("/1")).unwrap();
        reads(&shared.count).store(0, Relaxed);
        shared
    }

    /// As one has it whose reads from a byte on take so long.
    fn open(&self, from: u64, takes: Duration) -> Pool {
        let (memory, files) = (self.count.clone(), self.files.clone());
        let store = Arc::new(Slow { memory, files, from, takes });
        let options = PoolOptions { store, patience: Some(LIMIT), ..PoolOptions::default() };
        Pool::open(&self.mapping, &self.config, options).unwrap()
    }

    fn wait_for_reads(&self, count: u64) {
        within(LIMIT, || {
            while reads(&self.count).load(Relaxed) < count {
                std::thread::yield_now();
            }
        });
    }
}

fn file_of(pool: &Pool) -> FileNumber {
    pool.find_file(FileKey { id: 1, fork: 0 }).unwrap()
}

fn kill(pid: libc::pid_t) {
    // SAFETY: our child.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    assert_eq!(end_of(pid), libc::SIGKILL);
}

/// Processes that want a page; the first of them is killed as it reads it, or it is not.
fn read_by_processes(kills: bool) -> u64 {
    const PROCESSES: u32 = 5;
    let shared = Shared::new(PoolConfig { processes: PROCESSES + 2, ..small() }, 3);
    let wants = |takes| {
        fork(|| {
            let pool = shared.open(0, takes);
            let session = pool.session().unwrap();
            assert_eq!(session.page(file_of(&pool), 2).unwrap().read(value).unwrap(), 2);
        })
    };
    let first = wants(if kills { LIMIT } else { Duration::from_millis(300) });
    shared.wait_for_reads(1);
    let others: Vec<_> = (0..PROCESSES).map(|_| wants(Duration::from_millis(50))).collect();
    std::thread::sleep(Duration::from_millis(100));
    if kills {
        kill(first);
    } else {
        assert_eq!(end_of(first), 0);
    }
    let ends: Vec<_> = others.into_iter().map(end_of).collect();
    assert!(ends.iter().all(|end| *end == 0), "{ends:?}");
    let pool = shared.open(0, Duration::ZERO);
    pool.reap();
    let session = pool.session().unwrap();
    assert_eq!(session.page(file_of(&pool), 2).unwrap().read(value).unwrap(), 2);
    assert_eq!(pool.summary().unwrap().used, 1);
    reads(&shared.count).load(Relaxed)
}

/// One reads sixteen neighbours at once, and is killed when it has five of them. Others wait for
/// each of the pages.
#[test]
fn each_of_the_neighbours_that_a_killed_one_was_reading_is_read_anew() {
    const PROCESSES: u32 = 4;
    let config = PoolConfig { processes: PROCESSES + 2, frames: 256, frames_max: 256, ..small() };
    let shared = Shared::new(config, 20);
    let reader = fork(|| {
        let pool = shared.open(5 * PAGE as u64, LIMIT);
        let session = pool.session().unwrap();
        let _ = session.prewarm(file_of(&pool), 0..20, Prewarm::Buffer);
    });
    shared.wait_for_reads(6);
    let wants = |first: u32| {
        fork(|| {
            let pool = shared.open(0, Duration::ZERO);
            let (session, file) = (pool.session().unwrap(), file_of(&pool));
            for block in (first..20).step_by(PROCESSES as usize) {
                let page = session.page(file, block).unwrap();
                assert_eq!(page.read(value).unwrap(), block.into());
            }
        })
    };
    let others: Vec<_> = (0..PROCESSES).map(wants).collect();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(reads(&shared.count).load(Relaxed), 6, "they wait");
    kill(reader);
    let ends: Vec<_> = others.into_iter().map(end_of).collect();
    assert!(ends.iter().all(|end| *end == 0), "{ends:?}");
    let pool = shared.open(0, Duration::ZERO);
    pool.reap();
    assert_eq!(reads(&shared.count).load(Relaxed), 6 + 20);
    assert_eq!(pool.stats().taken_over, 16);
    let summary = pool.summary().unwrap();
    assert_eq!((summary.used, summary.pinned), (20, 0));
    // Its frames are anybody's.
    let session = pool.session().unwrap();
    session.evict_all().unwrap();
    assert_eq!(pool.resident(), []);
    session.prewarm(file_of(&pool), 0..20, Prewarm::Buffer).unwrap();
    assert_eq!(pool.resident().len(), 20);
}

#[test]
fn a_page_is_read_once_however_many_processes_want_it() {
    assert_eq!(read_by_processes(false), 1);
}

#[test]
fn a_page_is_read_once_more_where_its_reader_is_killed() {
    assert_eq!(read_by_processes(true), 2);
}
