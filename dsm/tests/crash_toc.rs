//! A table of contents outlives whoever dies in making it, in taking a chunk, or in filing one: who
//! finds a key finds the whole chunk, chunks do not overlap, and whoever inserts a key that has no
//! value completes it.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use crash_common::shared;
use dsm::toc::{CHUNK_ALIGN_MAX, Toc, TocError};
use shm_core::mapping::Mapping;
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::killpoint::{End, Notes, Run, Scenario, SharedMemory, Work};
use std::sync::Arc;

const MAGIC: u64 = 0x70c;
const ENTRIES: u64 = 3;
const BYTES: u64 = 16 << 10;
const HEAD: u64 = 64 + 64;
/// What stands in a chunk that has been filed.
const WHOLE: u64 = 0xfeed;
const CHUNK: u64 = 128;

const OLD: u64 = 1;
const KEY: u64 = 2;
const LAST: u64 = 3;

/// In the notes: what the doomed one was told. An offset is never 0.
const CREATED: usize = 0;
const CHUNK_TAKEN: usize = 1;
const FILED: usize = 2;
const PAGE_TAKEN: usize = 3;

struct World {
    memory: SharedMemory,
    mapping: Arc<Mapping>,
}

impl World {
    fn empty() -> World {
        let (memory, mapping) = shared(BYTES);
        World { memory, mapping }
    }

    fn with_toc() -> World {
        let world = World::empty();
        Toc::create(&world.mapping, MAGIC, ENTRIES).unwrap();
        world.file(OLD).unwrap();
        world
    }

    fn image(&self) -> Vec<u8> {
        self.memory.copy()
    }

    fn toc(&self) -> Toc {
        Toc::attach(&self.mapping, MAGIC).unwrap()
    }

    fn word(&self, offset: u64) -> &AtomicU64 {
        self.mapping.region().share(offset).unwrap()
    }

    /// Takes a chunk, fills it, and shows it.
    fn file(&self, key: u64) -> Result<(), String> {
        let toc = self.toc();
        let chunk = toc.allocate(CHUNK).map_err(|error| format!("no chunk: {error}"))?;
        self.word(chunk).store(WHOLE, Ordering::Relaxed);
        toc.insert(key, chunk).map_err(|error| format!("cannot file {key}: {error}"))
    }

    /// Where the chunk of `key` is; it must be whole.
    fn find(&self, key: u64) -> Result<Option<u64>, String> {
        let found = self.toc().lookup(key).map_err(|error| error.to_string())?;
        match found {
            Some(chunk) if self.word(chunk).load(Ordering::Relaxed) != WHOLE => {
                Err(format!("key {key} leads to a chunk that nobody has filled"))
            }
            found => Ok(found),
        }
    }

    /// Every key is usable, and there is no room for another.
    fn fill_up(&self) -> Result<(), String> {
        for key in [OLD, KEY, LAST] {
            if self.find(key)?.is_none() {
                self.file(key)?;
            }
            let again = self.toc().insert(key, HEAD);
            if again != Err(TocError::Duplicate { key }) {
                return Err(format!("key {key}, inserted twice, gave {again:?}"));
            }
        }
        let more = self.toc().insert(LAST + 1, HEAD);
        let is_full = more == Err(TocError::EntriesFull { entries: ENTRIES });
        if is_full { Ok(()) } else { Err(format!("one key too many gave {more:?}")) }
    }

    /// All the rest is given out, in chunks that begin nowhere inside those `taken`.
    fn use_up(&self, taken: &[(u64, u64)]) -> Result<(), String> {
        let toc = self.toc();
        while let Ok(chunk) = toc.allocate(CHUNK) {
            let overlaps =
                |(start, len): &(u64, u64)| chunk < start + len && *start < chunk + CHUNK;
            if let Some(with) = taken.iter().find(|taken| overlaps(taken)) {
                return Err(format!("the chunk at {chunk} overlaps that at {with:?}"));
            }
        }
        let rest = toc.free_space().map_err(|error| error.to_string())?;
        if rest < CHUNK { Ok(()) } else { Err(format!("{rest} bytes cannot be used")) }
    }
}

/// The creator dies.
struct Create;

impl Scenario for Create {
    type World = World;
    type Doomed = ();

    fn name(&self) -> String {
        "toc, create".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["dsm::toc::Toc::create"]
    }

    fn world(&self) -> World {
        World::empty()
    }

    fn prepare(&self, _: &World, _: &Notes) {}

    fn operate(&self, world: &World, (): &mut (), notes: &Notes) {
        Toc::create(&world.mapping, MAGIC, ENTRIES).unwrap();
        notes.set(CREATED, 1);
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.image()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        match Toc::attach(&world.mapping, MAGIC) {
            Ok(toc) if toc.free_space() == Ok(BYTES - HEAD) => {}
            // Nobody can attach, so its successor makes it again.
            Err(TocError::Magic { found: 0, .. }) if notes.get(CREATED) == 0 => {
                Toc::create(&world.mapping, MAGIC, ENTRIES).map_err(|error| error.to_string())?;
            }
            other => return Err(format!("attaching gave {other:?}")),
        }
        world.fill_up()?;
        world.use_up(&[])
    }
}

/// One that takes chunks and files one dies.
struct File;

impl Scenario for File {
    type World = World;
    type Doomed = Toc;

    fn name(&self) -> String {
        "toc, file".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "dsm::toc::Toc::allocate",
            "dsm::toc::Toc::allocate_aligned",
            "dsm::toc::Toc::insert",
            "dsm::toc::Toc::lookup",
        ]
    }

    fn world(&self) -> World {
        World::with_toc()
    }

    fn prepare(&self, world: &World, _: &Notes) -> Toc {
        world.toc()
    }

    fn operate(&self, world: &World, toc: &mut Toc, notes: &Notes) {
        let chunk = toc.allocate(CHUNK).unwrap();
        notes.set(CHUNK_TAKEN, chunk);
        world.word(chunk).store(WHOLE, Ordering::Relaxed);
        // It fails where a bystander or whoever recovered has been faster; the key is there then.
        let inserted = toc.insert(KEY, chunk);
        assert!(matches!(inserted, Ok(()) | Err(TocError::Duplicate { .. })));
        notes.set(FILED, 1);
        assert!(matches!(toc.lookup(KEY), Ok(Some(_))));
        notes.set(PAGE_TAKEN, toc.allocate_aligned(CHUNK, CHUNK_ALIGN_MAX).unwrap());
    }

    fn image(&self, world: &World) -> Vec<u8> {
        world.image()
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let old = world.find(OLD)?.ok_or("the key that was there is gone")?;
        if world.find(KEY)?.is_none() && notes.get(FILED) == 1 {
            return Err("it was told that its key is filed".into());
        }
        // Whoever died may have lost what was not filed: a chunk, one of a page, and the
        // bystander's or the recoverer's.
        let free = world.toc().free_space().map_err(|error| error.to_string())?;
        let most = 3 * CHUNK + CHUNK + CHUNK_ALIGN_MAX;
        if BYTES - HEAD - free > most {
            return Err(format!("only {free} bytes are free"));
        }
        let noted = [CHUNK_TAKEN, PAGE_TAKEN].map(|note| notes.get(note));
        let noted = noted.into_iter().filter(|chunk| *chunk != 0);
        let taken: Vec<_> = noted.chain([old]).map(|chunk| (chunk, CHUNK)).collect();
        world.fill_up()?;
        world.use_up(&taken)
    }

    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| world.file(LAST)))
    }

    /// Somebody else brings up what the dead one was to bring up.
    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| if world.find(KEY)?.is_none() { world.file(KEY) } else { Ok(()) }))
    }
}

#[test]
fn a_creator_may_die_anywhere() {
    Run::new(&Create).points(400).kill().passes();
}

#[test]
fn one_that_files_may_die_anywhere() {
    Run::new(&File).points(400).kill().passes();
}

#[test]
fn one_that_files_hinders_nobody() {
    Run::new(&File).points(200).stop().passes();
}

#[test]
fn one_that_completes_a_key_may_die_too() {
    Run::new(&File).points(200).nested().passes();
}
