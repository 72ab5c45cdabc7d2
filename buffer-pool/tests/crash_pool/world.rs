//! A pool over files in memory, what is in its frames at first, and what who comes next may ask.
use crate::crash_common::{said, shared};
use crate::pool_common::segment::{Segment, at_read};
use crate::pool_common::small;
use crate::pool_common::whole::{value, write};
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{FileError, FileOptions, Pool, PoolConfig, PoolOptions, Session};
use dsm::area::Memory;
use shm_core::mapping::Mapping;
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::SharedMemory;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const PAGE: usize = 1024;
pub(crate) const FRAMES: u32 = 16;
pub(crate) const FRAMES_MAX: u32 = 24;
/// Of the file that it is about, and of the one that fills all frames.
pub(crate) const BLOCKS: u32 = 20;
const SPARE: u32 = 16;
/// What stands in pages that were changed since, or should never be seen.
const OLDER: u64 = 500;
/// A block that no scene has in a frame.
pub(crate) const ABSENT: u32 = 18;
/// Who waits so long for the dead hangs on them.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn config() -> PoolConfig {
    PoolConfig { entries: 256, ..small() }
}

/// What is in each page of the file; `None`: there is no such file.
pub(crate) type State = Option<Vec<u64>>;

/// How it is before the operation.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Scene {
    /// No page is in a frame; and the frames had pages that were changed, and are gone.
    Empty,
    /// In each frame is a page that is as in its file.
    Clean,
    /// In each frame is a page that was changed.
    Dirty,
    /// As `Clean`, and one has died as it read the absent page in.
    DeadLoader,
    /// As `Dirty`, and one has died as it did so with pages pinned, shared and taken.
    DeadUser,
    /// As `Dirty`, in all frames that there can be.
    Large,
}

impl Scene {
    /// Whether the frames have what the file has not.
    fn changes(self) -> bool {
        matches!(self, Scene::Dirty | Scene::DeadUser | Scene::Large)
    }
}

pub(crate) struct World {
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) store: Segment,
    pub(crate) behind: Arc<Behind>,
    /// So many KiB of memory there are at first.
    pub(crate) kib: usize,
    pub(crate) pool: Pool,
    pub(crate) session: Session,
    pub(crate) file: FileNumber,
    pub(crate) spare: FileNumber,
}

/// One who uses the pool, in a process of its own.
pub(crate) struct Process {
    pub(crate) pool: Pool,
    pub(crate) session: Session,
    /// Of another thread, until it is taken.
    pub(crate) other: Option<Session>,
}

pub(crate) fn path(file: u64) -> String {
    format!("/{file}")
}

pub(crate) fn key(file: u64) -> FileKey {
    FileKey { id: file, fork: 0 }
}

pub(crate) fn register(session: &Session, file: u64) -> Result<FileNumber, FileError> {
    let options = FileOptions { create: true, blocks_max: Some(32) };
    session.register(key(file), Path::new(&path(file)), &options)
}

/// What is in block `block` before the operation.
pub(crate) fn old(block: u32) -> u64 {
    u64::from(block) + 1
}

pub(crate) fn as_it_was() -> Vec<u64> {
    (0..BLOCKS).map(old).collect()
}

impl World {
    pub(crate) fn new(scene: Scene) -> World {
        let files_at = (Pool::bytes_for(&config()).unwrap() as usize).next_multiple_of(64);
        let (memory, mapping) = shared((files_at + Segment::BYTES) as u64);
        let store = Segment::new(&memory, files_at);
        let behind = Arc::new(Behind { memory, known: SharedMemory::new(mapping.len()) });
        let pool = open(&mapping, &store, &behind, PATIENCE).unwrap();
        let kib = behind.kib();
        let session = pool.session().unwrap();
        let [spare, file] = [0, 1].map(|file| register(&session, file).unwrap());
        session.extend(spare, SPARE).unwrap();
        session.extend(file, BLOCKS).unwrap();
        for block in 0..BLOCKS {
            let value = if scene.changes() && block < FRAMES { OLDER } else { old(block) };
            write(&session.page(file, block).unwrap(), value).unwrap();
        }
        let mut world = World { mapping, store, behind, kib, pool, session, file, spare };
        world.session.flush(file).unwrap();
        world.forget();
        world.set(scene);
        assert!(world.session.page_if_here(world.file, ABSENT).unwrap().is_none());
        world
    }

    /// Its pages are in no frame.
    fn forget(&mut self) {
        self.session.forget(self.file).unwrap();
        self.file = register(&self.session, 1).unwrap();
    }

    fn set(&mut self, scene: Scene) {
        if scene == Scene::Large {
            self.session.resize(FRAMES_MAX).unwrap();
            for block in 0..FRAMES_MAX - FRAMES {
                write(&self.session.page(self.spare, block).unwrap(), OLDER).unwrap();
            }
        }
        for block in 0..FRAMES {
            let page = self.session.page(self.file, block).unwrap();
            match scene {
                Scene::Clean | Scene::DeadLoader => (),
                Scene::Dirty | Scene::DeadUser | Scene::Large => write(&page, old(block)).unwrap(),
                Scene::Empty => write(&page, OLDER).unwrap(),
            }
        }
        match scene {
            Scene::Clean | Scene::Dirty | Scene::Large => (),
            Scene::Empty => self.forget(),
            Scene::DeadLoader => self.die(|_| ()),
            Scene::DeadUser => self.die(|process| {
                let page = |block| process.session.page(self.file, block).unwrap();
                let pages: &[_; 3] = Box::leak(Box::new([0, 1, 2].map(page)));
                std::mem::forget((pages[1].share().unwrap(), pages[2].exclusive().unwrap()));
            }),
        }
    }

    /// One does this, and dies as it reads the absent page in.
    fn die(&self, work: impl FnOnce(&'static Process)) {
        assert!(in_a_fork(|| {
            let process = Box::leak(Box::new(self.enter(PATIENCE).unwrap()));
            work(process);
            // SAFETY: ends the process.
            at_read(|| unsafe { libc::_exit(0) });
            let _ = process.session.page(self.file, ABSENT);
            false
        }));
    }

    pub(crate) fn enter(&self, patience: Duration) -> Result<Process, String> {
        let pool = open(&self.mapping, &self.store, &self.behind, patience)?;
        let (session, other) = (pool.session().map_err(said)?, None);
        Ok(Process { pool, session, other })
    }

    /// What the file holds, as the pool has it.
    pub(crate) fn state(&self) -> Result<State, String> {
        let Some(file) = self.pool.find_file(key(1)) else { return Ok(None) };
        let Some(info) = self.pool.file(file) else { return Ok(None) };
        let value = |block| value(&self.session.page(file, block).map_err(said)?);
        (0..info.blocks).map(value).collect::<Result<_, _>>().map(Some)
    }

    /// What the file holds, as the system has it.
    pub(crate) fn on_disk(&self) -> Vec<u64> {
        let bytes = self.store.bytes_of(Path::new(&path(1)));
        let word =
            |page: &[u8], at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        let value = |page: &[u8]| (word(page, 16) == word(page, 1016)).then(|| word(page, 16));
        bytes.chunks(PAGE).map(|page| value(page).unwrap_or(u64::MAX)).collect()
    }

    /// It can be as small as it was, and as large as may be, and has the memory for that.
    pub(crate) fn resize(&self) -> Result<(), String> {
        for frames in [FRAMES, FRAMES_MAX, FRAMES] {
            let resized = self.session.resize(frames).map_err(said)?;
            let (has, needs) = (self.behind.kib(), self.kib + (frames - FRAMES) as usize);
            if has != needs || resized.in_use > 0 {
                return Err(format!("{resized:?}, and {has} KiB of memory for {needs}"));
            }
        }
        Ok(())
    }

    /// Each frame can have a page at the same time as all others, and nobody else has one pinned.
    pub(crate) fn fill(&self) -> Result<(), String> {
        let other = self.pool.session().map_err(said)?;
        let page = |block: u32| {
            let session = if block < SPARE / 2 { &self.session } else { &other };
            session.page(self.spare, block)
        };
        let pages: Result<Vec<_>, _> = (0..SPARE).map(page).collect();
        let pages = pages.map_err(|error| format!("a frame is lost: {error}"))?;
        drop(pages);
        let summary = self.pool.summary().map_err(said)?;
        match (summary.used, summary.pinned) {
            (FRAMES, 0) => Ok(()),
            _ => Err(format!("{summary:?}")),
        }
    }

    /// Another process uses the pool in each way, and dies.
    pub(crate) fn another(&self) -> Result<(), String> {
        let works = in_a_fork(|| {
            let process = std::mem::ManuallyDrop::new(self.enter(PATIENCE).unwrap());
            let session = &process.session;
            let number = register(session, 2).unwrap();
            let first = session.extend(number, 2).unwrap();
            write(&session.page(number, first + 1).unwrap(), 5).unwrap();
            session.sync(number).unwrap();
            session.truncate(number, first + 1).unwrap();
            session.forget(number).unwrap();
            if let Some(file) = process.pool.find_file(key(1)) {
                let first = session.extend(file, 2).unwrap();
                for block in first..first + 2 {
                    assert_eq!(value(&session.page(file, block).unwrap()), Ok(0));
                }
                session.truncate(file, first).unwrap();
            }
            true
        });
        match (works, self.pool.reap()) {
            (true, 1) => Ok(()),
            (true, dead) => Err(format!("{dead} died, not the other one")),
            (false, _) => Err("another process cannot use the pool".to_owned()),
        }
    }

    /// Every page can be changed by whoever wants it.
    pub(crate) fn change_all(&self) -> Result<(), String> {
        let Some(file) = self.pool.find_file(key(1)) else { return Ok(()) };
        let blocks = self.pool.file(file).map_or(0, |info| info.blocks);
        for block in 0..blocks {
            let page = self.session.page(file, block).map_err(said)?;
            write(&page, 7).map_err(said)?;
            if value(&page)? != 7 {
                return Err("a change that was not made".to_owned());
            }
        }
        self.session.sync(file).map_err(said)?;
        let on_disk = self.on_disk();
        let is_there = on_disk.iter().take(blocks as usize).all(|value| *value == 7);
        if is_there { Ok(()) } else { Err(format!("after a sync the file has {on_disk:?}")) }
    }
}

pub(crate) fn open(
    mapping: &Arc<Mapping>,
    store: &Segment,
    behind: &Arc<Behind>,
    patience: Duration,
) -> Result<Pool, String> {
    let options = PoolOptions {
        store: Arc::new(store.clone()),
        patience: Some(patience),
        memory: Some(behind.clone()),
    };
    Pool::open(mapping, &config(), options).map_err(said)
}

/// The memory behind a pool, which says of each KiB whether it is there.
#[derive(Debug)]
pub(crate) struct Behind {
    memory: SharedMemory,
    known: SharedMemory,
}

impl Behind {
    /// Says so of these bytes; of one of the system's pages it may be part.
    fn say(&self, bytes: Range<u64>, is_there: bool) {
        for kib in self.known(bytes) {
            kib.store(is_there, Relaxed);
        }
    }

    fn known(&self, bytes: Range<u64>) -> &[AtomicBool] {
        // SAFETY: all zero at first, never anything but such bytes, and mapped as long as self.
        let known = unsafe {
            std::slice::from_raw_parts(self.known.base().as_ptr().cast(), self.known.len())
        };
        &known[bytes.start as usize / PAGE..bytes.end as usize / PAGE]
    }

    /// How many KiB are there.
    fn kib(&self) -> usize {
        let all = self.known(0..self.memory.len() as u64);
        all.iter().filter(|kib| kib.load(Relaxed)).count()
    }
}

impl Memory for Behind {
    fn populate(&self, bytes: Range<u64>) -> bool {
        self.say(bytes, true);
        true
    }

    /// Who reads there afterwards reads zeroes.
    fn punch(&self, bytes: Range<u64>) -> bool {
        // SAFETY: inside the memory.
        let first = unsafe { self.memory.base().add(bytes.start as usize) };
        // SAFETY: bytes of the memory that the caller has to itself.
        unsafe { first.write_bytes(0, (bytes.end - bytes.start) as usize) };
        self.say(bytes, false);
        true
    }
}
