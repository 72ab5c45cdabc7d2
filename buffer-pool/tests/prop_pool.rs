//! Any sequence of what two sessions do with files, through a pool far smaller than these, agrees
//! with a plain model of all pages, whatever reads, writes and syncs fail meanwhile:
//!
//! 1. A page that is read holds what was written last, wherever it was meanwhile.
//! 2. What fails changes nothing, and the next one to try succeeds where the fault is over.
//! 3. What was flushed is in the file, with its checksum.
//! 4. A file that was cut off has zeroes where it is lengthened again.
//! 5. A pool has no more pages than frames, and each of a file's pages once.
#![cfg(not(any(shm_loom, shm_explore)))]
mod pool_common;

use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::policy::Kind;
use buffer_pool::pool::{FileError, FileOptions, Page, PageError, Pool, ResizeError, Session};
use pool_common::{Memory, pool_of, small};
use proptest::prelude::*;
use shm_testkit::depth::cases;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const FILES: usize = 2;
/// Where a page's two values stand.
const PLACES: [usize; 2] = [16, 1016];
/// No session has more pins than it may.
const PINS_MAX: usize = 5;

#[derive(Clone, Debug)]
enum Step {
    Read {
        session: usize,
        file: usize,
        block: u32,
    },
    Write {
        session: usize,
        file: usize,
        block: u32,
        value: u64,
    },
    Overwrite {
        session: usize,
        file: usize,
        block: u32,
        value: u64,
    },
    Pin {
        session: usize,
        file: usize,
        block: u32,
    },
    Unpin(usize),
    Extend {
        session: usize,
        file: usize,
        count: u32,
    },
    Flush {
        session: usize,
        file: usize,
    },
    Sync {
        session: usize,
        file: usize,
    },
    Truncate {
        session: usize,
        file: usize,
        blocks: u32,
    },
    /// Forgets a file that was flushed, and registers it again.
    Forget {
        session: usize,
        file: usize,
    },
    Resize {
        session: usize,
        frames: u32,
    },
    /// Of each kind, so many of the next calls fail.
    Fail([u32; 4]),
}

fn step() -> impl Strategy<Value = Step> {
    let one = (0..2_usize, 0..FILES, 0..40_u32);
    let whole = (0..2_usize, 0..FILES);
    prop_oneof![
        8 => one.clone().prop_map(|(session, file, block)| Step::Read { session, file, block }),
        8 => (one.clone(), any::<u64>()).prop_map(|((session, file, block), value)| {
            Step::Write { session, file, block, value }
        }),
        2 => (one.clone(), any::<u64>()).prop_map(|((session, file, block), value)| {
            Step::Overwrite { session, file, block, value }
        }),
        2 => one.clone().prop_map(|(session, file, block)| Step::Pin { session, file, block }),
        2 => (0..2 * PINS_MAX).prop_map(Step::Unpin),
        2 => (whole.clone(), 1..12_u32)
            .prop_map(|((session, file), count)| Step::Extend { session, file, count }),
        1 => whole.clone().prop_map(|(session, file)| Step::Flush { session, file }),
        1 => whole.clone().prop_map(|(session, file)| Step::Sync { session, file }),
        1 => one.prop_map(|(session, file, blocks)| Step::Truncate { session, file, blocks }),
        1 => whole.prop_map(|(session, file)| Step::Forget { session, file }),
        1 => (0..2_usize, 16..=24_u32)
            .prop_map(|(session, frames)| Step::Resize { session, frames }),
        1 => prop::array::uniform4(0..3_u32).prop_map(Step::Fail),
    ]
}

/// A pool, and what its pages should hold.
struct World {
    store: Arc<Memory>,
    pool: Pool,
    numbers: [FileNumber; FILES],
    files: [Vec<[u64; 2]>; FILES],
}

fn path(file: usize) -> PathBuf {
    PathBuf::from(["/first", "/second"][file])
}

fn register(session: &Session, file: usize) -> FileNumber {
    let options = FileOptions { create: true, blocks_max: Some(64) };
    session.register(FileKey { id: file as u64, fork: 0 }, &path(file), &options).unwrap()
}

fn values(page: &Page<'_>) -> Result<[u64; 2], PageError> {
    page.read(|view| PLACES.map(|at| view.u64(at).unwrap()))
}

fn write(page: &Page<'_>, value: u64) -> Result<(), PageError> {
    let bytes = [value.to_le_bytes(), (!value).to_le_bytes()];
    page.exclusive()?.write(&[(PLACES[0], &bytes[0]), (PLACES[1], &bytes[1])])
}

/// Whether it failed because the system does, as it was told to.
fn is_told(error: &PageError) -> bool {
    matches!(error, PageError::Read { .. } | PageError::Write { .. } | PageError::File { .. })
}

impl World {
    fn new(policy: Kind) -> World {
        let store = Arc::new(Memory::default());
        let pool = pool_of(&buffer_pool::pool::PoolConfig { policy, ..small() }, store.clone());
        let session = pool.session().unwrap();
        let numbers = [0, 1].map(|file| register(&session, file));
        drop(session);
        World { store, pool, numbers, files: Default::default() }
    }

    /// What a page that was asked for is like.
    fn check<'s>(
        &self,
        got: Result<Page<'s>, PageError>,
        file: usize,
        block: u32,
        pins: usize,
    ) -> Option<Page<'s>> {
        let blocks = self.files[file].len() as u32;
        match got {
            Ok(page) => {
                assert!(block < blocks, "block {block} of {blocks}");
                Some(page)
            }
            Err(PageError::PastEnd { block: at, blocks: end, .. }) => {
                assert!(at == block && end == blocks && block >= blocks);
                None
            }
            Err(PageError::NoUnpinned) => {
                assert!(pins + 2 >= 16, "{pins} are pinned");
                None
            }
            Err(error) => {
                assert!(is_told(&error), "{error}");
                None
            }
        }
    }

    /// What the file holds is what the pages hold.
    fn check_file(&self, file: usize) {
        let bytes = self.store.bytes_of(&path(file));
        let bytes = bytes.lock().unwrap();
        assert!(bytes.len() >= self.files[file].len() * 1024);
        for (page, values) in bytes.chunks(1024).zip(&self.files[file]) {
            let at = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
            assert_eq!(PLACES.map(at), *values);
        }
    }

    /// Each page is in one frame at most.
    fn check_frames(&self) {
        let infos = self.pool.frame_infos().unwrap();
        let pages: Vec<_> = infos.iter().filter_map(|info| info.page).collect();
        let distinct: BTreeSet<_> = pages.iter().collect();
        assert_eq!(distinct.len(), pages.len());
    }
}

struct Pinned<'s> {
    page: Page<'s>,
    session: usize,
    file: usize,
}

/// One step, by the pool and by the model.
fn take<'s>(
    world: &mut World,
    sessions: &'s [Session; 2],
    pins: &mut Vec<Pinned<'s>>,
    step: &Step,
) {
    let held = pins.len();
    match *step {
        Step::Read { session, file, block } => {
            let got = sessions[session].page(world.numbers[file], block);
            if let Some(page) = world.check(got, file, block, held) {
                assert_eq!(values(&page).unwrap(), world.files[file][block as usize]);
            }
        }
        Step::Write { session, file, block, value } => {
            let got = sessions[session].page(world.numbers[file], block);
            if let Some(page) = world.check(got, file, block, held) {
                write(&page, value).unwrap();
                world.files[file][block as usize] = [value, !value];
            }
        }
        Step::Overwrite { session, file, block, value } => {
            let mut body = [0; 1024 - HEADER_BYTES];
            for (at, value) in PLACES.into_iter().zip([value, !value]) {
                body[at - HEADER_BYTES..][..8].copy_from_slice(&value.to_le_bytes());
            }
            let got = sessions[session].overwrite(world.numbers[file], block, &body);
            if world.check(got, file, block, held).is_some() {
                world.files[file][block as usize] = [value, !value];
            }
        }
        Step::Pin { session, file, block } => {
            let ours = pins.iter().filter(|pin| pin.session == session).count();
            if ours == PINS_MAX {
                return;
            }
            let got = sessions[session].page(world.numbers[file], block);
            if let Some(page) = world.check(got, file, block, held) {
                pins.push(Pinned { page, session, file });
            }
        }
        Step::Unpin(which) => {
            if which < pins.len() {
                let Pinned { page, file, .. } = pins.swap_remove(which);
                let holds = world.files[file][page.block() as usize];
                assert_eq!(values(&page).unwrap(), holds);
            }
        }
        _ => take_whole(world, sessions, pins, step),
    }
}

/// As `take`, of what is done to files and to the pool as a whole.
fn take_whole<'s>(
    world: &mut World,
    sessions: &'s [Session; 2],
    pins: &mut Vec<Pinned<'s>>,
    step: &Step,
) {
    let held = pins.len();
    match *step {
        Step::Extend { session, file, count } => {
            let blocks = world.files[file].len() as u32;
            match sessions[session].extend(world.numbers[file], count) {
                Ok(from) => {
                    assert_eq!(from, blocks);
                    world.files[file].resize((from + count) as usize, [0, 0]);
                }
                Err(FileError::Extend(_)) => assert!(blocks + count > 64),
                Err(FileError::Page(error)) => assert!(is_told(&error), "{error}"),
                Err(error) => panic!("{error}"),
            }
        }
        Step::Flush { session, file } => match sessions[session].flush(world.numbers[file]) {
            Ok(_) => world.check_file(file),
            Err(error) => assert!(is_told(&error), "{error}"),
        },
        Step::Sync { session, file } => match sessions[session].sync(world.numbers[file]) {
            Ok(_) => world.check_file(file),
            Err(error) => assert!(is_told(&error), "{error}"),
        },
        Step::Truncate { session, file, blocks } => {
            pins.retain(|pin| pin.file != file);
            match sessions[session].truncate(world.numbers[file], blocks) {
                Ok(()) => world.files[file].truncate(blocks as usize),
                Err(error) => {
                    assert!(matches!(error, FileError::Cut(_)), "{error}");
                    assert!(world.files[file].len() < blocks as usize);
                }
            }
        }
        Step::Forget { session, file } => {
            world.store.faults.none();
            pins.retain(|pin| pin.file != file);
            sessions[session].flush(world.numbers[file]).unwrap();
            sessions[session].forget(world.numbers[file]).unwrap();
            let old =
                std::mem::replace(&mut world.numbers[file], register(&sessions[session], file));
            let gone = sessions[session].page(old, 0);
            assert!(matches!(gone, Err(PageError::NoSuchFile(_))), "{gone:?}");
            // What was made longer in vain, as a fault had it, is there now.
            let len = world.store.bytes_of(&path(file)).lock().unwrap().len() / 1024;
            world.files[file].resize(len, [0, 0]);
        }
        Step::Resize { session, frames } => match sessions[session].resize(frames) {
            Ok(resized) => {
                assert_eq!((resized.frames, world.pool.frames()), (frames, frames));
                assert!(resized.in_use as usize <= held, "{resized:?}");
            }
            Err(ResizeError::Page(error)) => assert!(is_told(&error), "{error}"),
            Err(error) => panic!("{error}"),
        },
        Step::Fail([reads, writes, extends, syncs]) => {
            let faults = &world.store.faults;
            faults.reads.store(reads, Relaxed);
            faults.writes.store(writes, Relaxed);
            faults.extends.store(extends, Relaxed);
            faults.syncs.store(syncs, Relaxed);
        }
        _ => unreachable!("a step with a page"),
    }
}

/// A damaged byte of each page of a file that is not empty is found.
fn check_damage(world: &World, session: &Session, file: usize) {
    session.forget(world.numbers[file]).unwrap();
    let bytes = world.store.bytes_of(&path(file));
    bytes.lock().unwrap().chunks_mut(1024).for_each(|page| page[500] ^= 1);
    let number = register(session, file);
    for block in 0..world.files[file].len() as u32 {
        let got = session.page(number, block);
        assert!(matches!(got, Err(PageError::Checksum { .. })), "block {block}: {got:?}");
        let page = session.page_or_zero(number, block).unwrap();
        assert_eq!(values(&page).unwrap(), [0, 0]);
    }
}

fn run(policy: Kind, steps: &[Step]) {
    let mut world = World::new(policy);
    let sessions = [(); 2].map(|()| world.pool.session().unwrap());
    let mut pins = Vec::new();
    for step in steps {
        take(&mut world, &sessions, &mut pins, step);
        world.check_frames();
    }
    pins.clear();
    world.store.faults.none();
    for file in 0..FILES {
        // Where the other one met a failure this one is told of it once.
        let told = sessions[0].sync(world.numbers[file]);
        told.or_else(|_| sessions[0].sync(world.numbers[file])).unwrap();
        world.check_file(file);
        check_damage(&world, &sessions[1], file);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(256)))]

    #[test]
    fn the_pool_agrees_with_a_plain_model(
        is_clock in any::<bool>(),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        run(if is_clock { Kind::Clock5 } else { Kind::Probation }, &steps);
    }
}
