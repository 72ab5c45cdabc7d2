//! What a pool shows of itself, and what it is asked to throw out, to mark and to read in: the
//! answers say what became of the pages, and the pages are so afterwards.
#![cfg(not(any(shm_loom, shm_explore)))]
mod pool_common;

use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::latch::Mode;
use buffer_pool::policy::Kind;
use buffer_pool::pool::{
    Evicted, FileOptions, FrameError, LoadError, Loaded, Marked, PageError, Pool, PoolConfig,
    PoolOptions, Prewarm, Session,
};
use buffer_pool::store::{PageFile, Store};
use pool_common::segment::Segment;
use pool_common::{Memory, pool_of, small};
use shm_core::header::{Header, Identity, Opener};
use shm_core::mapping::{Mapped, Mapping};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::SharedMemory;
use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Where a page's value stands.
const PLACE: usize = 16;

fn clock5() -> (Arc<Memory>, Pool) {
    let store = Arc::new(Memory::default());
    (store.clone(), pool_of(&PoolConfig { policy: Kind::Clock5, ..small() }, store))
}

fn key(id: u64) -> FileKey {
    FileKey { id, fork: 0 }
}

fn path(id: u64) -> PathBuf {
    PathBuf::from(format!("/file-{id}"))
}

/// A file of this key, so many blocks long.
fn file(session: &Session, id: u64, blocks: u32) -> FileNumber {
    let options = FileOptions { create: true, blocks_max: Some(64) };
    let number = session.register(key(id), &path(id), &options).unwrap();
    session.extend(number, blocks).unwrap();
    number
}

/// Writes to the page, and says which frame it is in.
fn change(session: &Session, file: FileNumber, block: u32) -> u32 {
    let page = session.page(file, block).unwrap();
    page.exclusive().unwrap().write(&[(PLACE, b"changed!")]).unwrap();
    page.frame()
}

fn is_in_file(store: &Memory, id: u64, block: usize) -> bool {
    store.bytes_of(&path(id)).lock().unwrap()[block * 1024 + PLACE..].starts_with(b"changed!")
}

/// Evicted, flushed, skipped.
fn counts(evicted: Evicted) -> [u64; 3] {
    [evicted.evicted, evicted.flushed, evicted.skipped]
}

/// Dirtied, already, skipped.
fn marks(marked: Marked) -> [u64; 3] {
    [marked.dirtied, marked.already, marked.skipped]
}

/// Loaded, resident, unknown, past the end, left.
fn loads(loaded: Loaded) -> [u64; 5] {
    [loaded.loaded, loaded.resident, loaded.unknown, loaded.past_end, loaded.left]
}

#[test]
fn all_views_tell_the_same_pages() {
    let (_, pool) = clock5();
    let session = pool.session().unwrap();
    let (first, second) = (file(&session, 1, 4), file(&session, 2, 4));
    session.prewarm(first, 0..3, Prewarm::Buffer).unwrap();
    change(&session, first, 1);
    session.page(second, 3).unwrap();
    let pinned = session.page(second, 3).unwrap();

    let infos = pool.frame_infos().unwrap();
    assert_eq!(infos.iter().filter(|info| info.page.is_some()).count(), 4);
    let info = &infos[pinned.frame() as usize];
    assert_eq!((info.page, info.is_pinned, info.is_dirty), (Some((second, 3)), true, false));
    let me = info.pinned_by[0];
    assert_eq!((me.pid, me.is_dead, info.pinned_by.len()), (Some(std::process::id()), false, 1));
    assert!(infos.iter().all(|info| info.latch.is_none()));
    assert!(infos.iter().filter(|other| *other != info).all(|other| other.pinned_by.is_empty()));

    let summary = pool.summary().unwrap();
    assert_eq!((summary.used, summary.unused, summary.dirty, summary.pinned), (4, 12, 1, 1));
    assert_eq!((summary.use_counts, summary.use_count_mean()), ([0, 2, 2, 0, 0, 0, 0], Some(1.5)));
    let classes = pool.by_use_count().unwrap();
    assert_eq!(classes.map(|class| class.pages), summary.use_counts);
    assert_eq!(classes.map(|class| class.dirty), [0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(classes.map(|class| class.pinned), [0, 0, 1, 0, 0, 0, 0]);

    let by_file = pool.by_file().unwrap();
    let shares: Vec<_> = by_file.iter().map(|of| (of.file.key.id, of.pages.used)).collect();
    assert_eq!(shares, [(1, 3), (2, 1)]);
    assert_eq!(pool.resident(), [(key(1), 0), (key(1), 1), (key(1), 2), (key(2), 3)]);
}

/// Who is at the page: pids, and whether each is dead; and who has the latch.
type Users = (Vec<(Option<u32>, bool)>, Option<(Mode, Option<u32>, bool)>);

fn users(pool: &Pool, frame: u32) -> Users {
    let info = pool.frame_infos().unwrap().swap_remove(frame as usize);
    let pinned_by = info.pinned_by.iter().map(|user| (user.pid, user.is_dead)).collect();
    let latch = info.latch.map(|latch| (latch.mode, latch.owner.pid, latch.owner.is_dead));
    (pinned_by, latch)
}

#[test]
fn who_has_a_page_is_told() {
    let (_, pool) = clock5();
    let (session, other) = (pool.session().unwrap(), pool.session().unwrap());
    let number = file(&session, 1, 4);
    let me = Some(std::process::id());
    let pages = [&session, &session, &other].map(|session| session.page(number, 2).unwrap());
    let frame = pages[0].frame();
    assert_eq!(users(&pool, frame), (vec![(me, false)], None), "a process is told once");
    let share = pages[0].share().unwrap();
    assert_eq!(users(&pool, frame).1, None);
    drop(share);
    let exclusive = pages[1].exclusive().unwrap();
    let latch = Some((Mode::Exclusive, me, false));
    assert_eq!(users(&pool, frame), (vec![(me, false)], latch));
    drop(exclusive);
    drop(pages);
    assert_eq!(users(&pool, frame), (vec![], None));
}

/// A process that has died is told as dead, until somebody cleans up after it; then it is known by
/// its name alone, where it has left a page torn.
#[test]
fn the_dead_are_told_as_such() {
    let config = PoolConfig { policy: Kind::Clock5, ..small() };
    let files_at = (Pool::bytes_for(&config).unwrap() as usize).next_multiple_of(64);
    let memory = SharedMemory::new(files_at + Segment::BYTES);
    let (base, len, kept) = (memory.base(), memory.len(), memory.clone());
    // SAFETY: whole pages, mapped until the last clone goes; nobody else writes them.
    let mapping = unsafe { Mapping::from_raw(base, len, Box::new(move |_, _| drop(kept))) };
    let open = || {
        let store = Arc::new(Segment::new(&memory, files_at));
        Pool::open(&mapping, &config, PoolOptions { store, ..PoolOptions::default() }).unwrap()
    };
    let pool = open();
    let session = pool.session().unwrap();
    let options = FileOptions { create: true, blocks_max: Some(8) };
    let number = session.register(key(1), Path::new("/1"), &options).unwrap();
    session.extend(number, 4).unwrap();
    let mine = session.page(number, 2).unwrap();
    let (frame, me) = (mine.frame(), Some(std::process::id()));
    assert!(in_a_fork(|| {
        let session = ManuallyDrop::new(open().session().unwrap());
        let page = ManuallyDrop::new(session.page(number, 2).unwrap());
        let mut exclusive = ManuallyDrop::new(page.exclusive().unwrap());
        let pid = u64::from(std::process::id()).to_le_bytes();
        exclusive.write(&[(PLACE, &pid)]).is_ok()
    }));
    let dead = mine.read(|view| view.u64(PLACE)).unwrap().unwrap() as u32;
    let is_dead =
        (vec![(me, false), (Some(dead), true)], Some((Mode::Exclusive, Some(dead), true)));
    assert_eq!(users(&pool, frame), is_dead);

    // It has died in the midst of its change: the latch's word names it, and the version is odd.
    let owner = pool.frame_infos().unwrap()[frame as usize].latch.unwrap().owner.id;
    let words: &[AtomicU64] = mapping.region().share_slice(0, len as u64 / 8).unwrap();
    let latch = u64::from(owner.to_bits()) << 32 | 2;
    let at = words.iter().position(|word| word.load(Relaxed) == latch).unwrap();
    words[at + 1].fetch_sub(1, Relaxed);
    assert_eq!(pool.reap(), 1);
    let is_torn = (vec![(me, false)], Some((Mode::Torn, None, true)));
    assert_eq!(users(&pool, frame), is_torn);
    drop(mine.share().unwrap());
    assert_eq!(users(&pool, frame), (vec![(me, false)], None), "it is whole again");
}

#[test]
fn pages_on_probation_are_counted_last() {
    let pool = pool_of(&small(), Arc::new(Memory::default()));
    let session = pool.session().unwrap();
    session.page(file(&session, 1, 1), 0).unwrap();
    let summary = pool.summary().unwrap();
    assert_eq!((summary.use_counts, summary.use_count_mean()), ([0, 0, 0, 0, 0, 0, 1], None));
    assert_eq!(pool.by_use_count().unwrap()[6].pages, 1);
}

#[test]
fn a_frame_is_evicted_and_its_page_is_written() {
    let (store, pool) = clock5();
    let (session, other) = (pool.session().unwrap(), pool.session().unwrap());
    let number = file(&session, 1, 4);
    let frame = change(&session, number, 2);
    let pinned = other.page(number, 2).unwrap();
    assert_eq!(counts(session.evict_frame(frame).unwrap()), [0, 0, 1]);
    assert!(!is_in_file(&store, 1, 2), "a page in use is not written either");
    drop(pinned);
    assert_eq!(counts(session.evict_frame(frame).unwrap()), [1, 1, 0]);
    assert!(is_in_file(&store, 1, 2));
    assert_eq!(counts(session.evict_frame(frame).unwrap()), [0, 0, 0], "it has no page any more");
    assert!(session.page_if_here(number, 2).unwrap().is_none());
    let error = session.evict_frame(16).unwrap_err();
    assert!(matches!(error, FrameError::NoSuchFrame { frame: 16, frames: 16 }), "{error}");
    // It is found again, and every frame is good for a page.
    assert_eq!(session.prewarm(number, 0..4, Prewarm::Buffer).unwrap(), 4);
    session.extend(number, 12).unwrap();
    let pages: Vec<_> = (0..8).map(|block| session.page(number, block).unwrap()).collect();
    let more: Vec<_> = (8..16).map(|block| other.page(number, block).unwrap()).collect();
    assert_eq!((pages.len() + more.len(), pool.summary().unwrap().unused), (16, 0));
}

#[test]
fn one_file_or_all_are_evicted() {
    let (_, pool) = clock5();
    let (session, other) = (pool.session().unwrap(), pool.session().unwrap());
    let (first, second) = (file(&session, 1, 4), file(&session, 2, 4));
    for number in [first, second] {
        session.prewarm(number, 0..4, Prewarm::Buffer).unwrap();
        change(&session, number, 3);
    }
    let pinned = other.page(first, 0).unwrap();
    assert_eq!(counts(session.evict_file(first).unwrap()), [3, 1, 1]);
    assert_eq!(pool.resident().len(), 5, "those of the other file stay");
    assert_eq!(counts(session.evict_all().unwrap()), [4, 1, 1]);
    drop(pinned);
    assert_eq!(counts(session.evict_all().unwrap()), [1, 0, 0]);
    assert_eq!(pool.summary().unwrap().unused, 16);
    session.forget(second).unwrap();
    let error = session.evict_file(second).unwrap_err();
    assert!(matches!(error, PageError::NoSuchFile(_)), "{error}");
}

#[test]
fn what_cannot_be_written_stays_and_the_rest_goes() {
    let (store, pool) = clock5();
    let session = pool.session().unwrap();
    let number = file(&session, 1, 6);
    (0..6).for_each(|block| _ = change(&session, number, block));
    store.faults.writes.store(1, Relaxed);
    let error = session.evict_all().unwrap_err();
    assert!(matches!(error, PageError::Write { .. }), "{error}");
    let summary = pool.summary().unwrap();
    assert_eq!((summary.used, summary.dirty), (1, 1));
    assert_eq!(counts(session.evict_all().unwrap()), [1, 1, 0]);
    assert!((0..6).all(|block| is_in_file(&store, 1, block)));
}

#[test]
fn pages_are_marked_and_written_again() {
    let (store, pool) = clock5();
    let (session, other) = (pool.session().unwrap(), pool.session().unwrap());
    let (first, second) = (file(&session, 1, 4), file(&session, 2, 4));
    session.prewarm(second, 0..4, Prewarm::Buffer).unwrap();
    let frame = change(&session, first, 0);
    session.flush(first).unwrap();
    assert_eq!(marks(session.mark_frame_dirty(frame).unwrap()), [1, 0, 0]);
    assert_eq!(marks(session.mark_frame_dirty(frame).unwrap()), [0, 1, 0]);
    // The file loses the page, and gets it back.
    store.bytes_of(&path(1)).lock().unwrap().fill(0);
    assert_eq!((session.flush(first).unwrap(), is_in_file(&store, 1, 0)), (1, true));

    assert_eq!(marks(session.mark_file_dirty(second).unwrap()), [4, 0, 0]);
    let page = other.page(first, 0).unwrap();
    let exclusive = page.exclusive().unwrap();
    assert_eq!(marks(session.mark_all_dirty().unwrap()), [0, 4, 1]);
    drop(exclusive);
    assert_eq!(marks(session.mark_all_dirty().unwrap()), [1, 4, 0], "a pin alone does not matter");
    let error = session.mark_frame_dirty(16).unwrap_err();
    assert!(matches!(error, FrameError::NoSuchFrame { .. }), "{error}");
    let empty = pool.frame_infos().unwrap().into_iter().find(|info| info.page.is_none()).unwrap();
    assert_eq!(marks(session.mark_frame_dirty(empty.frame).unwrap()), [0, 0, 0]);
}

/// The same files, to be read only.
#[derive(Debug)]
struct Protected<T>(T);

impl Store for Protected<Arc<Memory>> {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn PageFile>> {
        Ok(Arc::new(Protected(self.0.open(path, create)?)))
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        self.0.list(directory)
    }
}

impl PageFile for Protected<Arc<dyn PageFile>> {
    fn is_read_only(&self) -> bool {
        true
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    unsafe fn read(&self, at: u64, into: NonNull<u8>, len: usize) -> io::Result<usize> {
        // SAFETY: the caller's promise.
        unsafe { self.0.read(at, into, len) }
    }

    fn write(&self, _at: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn extend(&self, _from: u64, _to: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn truncate(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn write_back(&self, _at: u64, _len: u64) {}

    fn prefetch(&self, _at: u64, _len: u64) {}
}

#[test]
fn what_could_never_be_written_is_not_marked() {
    let store = Arc::new(Memory::default());
    store.bytes_of(&path(1)).lock().unwrap().resize(2048, 0);
    let pool = pool_of(&small(), Arc::new(Protected(store)));
    let session = pool.session().unwrap();
    let options = FileOptions { create: false, blocks_max: Some(2) };
    let number = session.register(key(1), &path(1), &options).unwrap();
    session.prewarm(number, 0..2, Prewarm::Buffer).unwrap();
    let error = session.mark_all_dirty().unwrap_err();
    assert!(matches!(error, PageError::ReadOnly(_)), "{error}");
    assert_eq!(pool.summary().unwrap().dirty, 0);
    assert_eq!(counts(session.evict_all().unwrap()), [2, 0, 0]);
}

#[test]
fn blocks_are_warmed_as_far_as_asked() {
    let (store, pool) = clock5();
    let session = pool.session().unwrap();
    let number = file(&session, 1, 8);
    let warm = |blocks, how| session.prewarm(number, blocks, how);
    assert_eq!(warm(0..8, Prewarm::Prefetch).unwrap(), 8);
    assert_eq!(warm(2..5, Prewarm::Read).unwrap(), 3);
    assert_eq!(pool.resident(), [], "neither is in the pool for it");
    // All of them at once, and then the first alone.
    store.faults.reads.store(2, Relaxed);
    let error = warm(2..5, Prewarm::Read).unwrap_err();
    assert!(matches!(error, PageError::Read { block: 2, .. }), "{error}");
    assert_eq!(warm(2..5, Prewarm::Buffer).unwrap(), 3);
    assert_eq!(pool.resident(), [(key(1), 2), (key(1), 3), (key(1), 4)]);
    for how in [Prewarm::Prefetch, Prewarm::Read, Prewarm::Buffer] {
        assert_eq!(warm(8..8, how).unwrap(), 0);
        let error = warm(7..9, how).unwrap_err();
        assert!(matches!(error, PageError::PastEnd { block: 8, blocks: 8, .. }), "{error}");
    }
    // Somebody has cut the file off behind our back.
    store.bytes_of(&path(1)).lock().unwrap().truncate(6 * 1024 + 24);
    let error = warm(5..8, Prewarm::Read).unwrap_err();
    assert!(matches!(error, PageError::Short { block: 6, missing: 1000, .. }), "{error}");
}

#[test]
fn a_pool_is_as_warm_as_it_was() {
    let (_, pool) = clock5();
    let session = pool.session().unwrap();
    let (first, second) = (file(&session, 1, 8), file(&session, 2, 8));
    session.prewarm(first, 2..8, Prewarm::Buffer).unwrap();
    session.prewarm(second, 0..4, Prewarm::Buffer).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let dump = directory.path().join("pool.blocks");
    let resident = pool.resident();
    assert_eq!(pool.dump(&dump).unwrap(), 10);
    let text = fs::read_to_string(&dump).unwrap();
    assert!(text.starts_with("10\n1,0,2\n1,0,3\n") && text.ends_with("\n2,0,3\n"), "{text}");

    assert_eq!(loads(session.load(&dump).unwrap()), [0, 10, 0, 0, 0]);
    session.evict_all().unwrap();
    session.page(first, 5).unwrap();
    assert_eq!(loads(session.load(&dump).unwrap()), [9, 1, 0, 0, 0]);
    assert_eq!(pool.resident(), resident);

    session.evict_all().unwrap();
    session.truncate(first, 4).unwrap();
    session.forget(second).unwrap();
    assert_eq!(loads(session.load(&dump).unwrap()), [2, 0, 4, 4, 0]);
    let error = pool.dump(&directory.path().join("none/dump")).unwrap_err().to_string();
    assert!(error.starts_with("cannot write ") && error.contains("none/dump: "), "{error}");
}

#[test]
fn loading_pushes_nothing_out() {
    let (_, pool) = clock5();
    let session = pool.session().unwrap();
    let (first, second) = (file(&session, 1, 20), file(&session, 2, 4));
    session.prewarm(second, 0..4, Prewarm::Buffer).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let dump = directory.path().join("pool.blocks");
    // In no order, and one of them twice.
    let lines: String = (0..20).rev().map(|block| format!("1,0,{block}\n")).collect();
    fs::write(&dump, format!("21\n{lines}1,0,0\n")).unwrap();
    assert_eq!(loads(session.load(&dump).unwrap()), [12, 0, 0, 0, 8]);
    let expected = (0..12).map(|block| (key(1), block));
    let expected: Vec<_> = expected.chain((0..4).map(|block| (key(2), block))).collect();
    assert_eq!(pool.resident(), expected, "the first ones, and all that were there");
    assert_eq!(pool.stats().evictions, 0);
    drop(session.page(first, 19).unwrap());
    assert_eq!(pool.stats().evictions, 1);
}

#[test]
fn loading_can_be_ended() {
    let (_, pool) = clock5();
    let session = pool.session().unwrap();
    let first = file(&session, 1, 8);
    session.prewarm(first, 0..8, Prewarm::Buffer).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let dump = directory.path().join("pool.blocks");
    pool.dump(&dump).unwrap();
    session.evict_all().unwrap();
    let asked = Cell::new(0);
    let three = || asked.replace(asked.get() + 1) < 3;
    assert_eq!(loads(session.load_while(&dump, three).unwrap()), [3, 0, 0, 0, 5]);
    assert_eq!(loads(session.load_while(&dump, || false).unwrap()), [0, 3, 0, 0, 5]);
    assert_eq!(pool.resident(), [(key(1), 0), (key(1), 1), (key(1), 2)]);
}

#[test]
fn a_pool_that_grows_and_shrinks_is_seen_as_far_as_it_goes() {
    let (_, pool) = clock5();
    let session = pool.session().unwrap();
    let number = file(&session, 1, 40);
    let directory = tempfile::tempdir().unwrap();
    let dump = directory.path().join("pool.blocks");
    session.resize(24).unwrap();
    session.prewarm(number, 0..24, Prewarm::Buffer).unwrap();
    assert_eq!((pool.summary().unwrap().used, pool.dump(&dump).unwrap()), (24, 24));
    assert_eq!(counts(session.evict_frame(23).unwrap()), [1, 0, 0]);
    session.evict_all().unwrap();
    session.resize(16).unwrap();
    assert_eq!(loads(session.load(&dump).unwrap()), [16, 0, 0, 0, 8]);
    assert_eq!(pool.stats().evictions, 0);
    let error = session.evict_frame(16).unwrap_err();
    assert!(matches!(error, FrameError::NoSuchFrame { frames: 16, .. }), "{error}");
}

#[test]
fn a_damaged_dump_loads_nothing() {
    let (_, pool) = clock5();
    let session = pool.session().unwrap();
    file(&session, 1, 8);
    let directory = tempfile::tempdir().unwrap();
    let dump = directory.path().join("pool.blocks");
    let error = session.load(&dump).unwrap_err();
    assert!(matches!(error, LoadError::Read { .. }), "{error}");
    fs::write(&dump, "3\n1,0,0\n1,0\n1,0,2\n").unwrap();
    let error = session.load(&dump).unwrap_err();
    assert!(matches!(error, LoadError::Damaged { line: 3, .. }), "{error}");
    assert!(error.to_string().ends_with("is no dump: line 3 is no page, as id,fork,block"));
    assert_eq!(pool.resident(), []);
}

#[test]
fn to_look_for_a_pool_touches_nothing() {
    let config = small();
    let mapping = Mapping::heap(Pool::bytes_for(&config).unwrap() as usize);
    assert!(!Pool::is_in(&mapping));
    assert_eq!(Mapped::<Header>::new(&mapping, 0).unwrap().home(), 0);
    let pool = Pool::open(&mapping, &config, Default::default()).unwrap();
    assert!(Pool::is_in(&mapping));
    drop(pool);
    Mapped::<AtomicU64>::new(&mapping, 8).unwrap().store(0, Relaxed);
    assert!(!Pool::is_in(&mapping), "of its name, and not by shmkit");

    let other = Mapping::heap(4096);
    let header = Mapped::<Header>::new(&other, 0).unwrap();
    let opener = Opener::this_process(Instant::now() + Duration::from_secs(10)).unwrap();
    header.open(&Identity::new("other", 1, 1, 4096), &opener, || Ok::<_, ()>(())).unwrap();
    assert!(!Pool::is_in(&other), "by shmkit, and of another name");
    assert!(!Pool::is_in(&Mapping::heap(16)), "too short for a header");
}
