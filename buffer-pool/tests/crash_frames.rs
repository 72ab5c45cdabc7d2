//! A process is killed at each instruction of finding, loading, evicting, taking over and reaping:
//! whoever comes next finds every page as it was last, and every frame.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;
mod frames_common;

use buffer_pool::frames::{Find, Frames, Free, PageId, User};
use crash_common::{shared, words_from};
use frames_common::{Array, page};
use shm_core::hazard::{Hazards, Protected};
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::sync::Arc;

const SEATS: u32 = 4;
const FRAMES: u32 = 2;
const PAGES: u64 = 2;
const ROWS_AT: u64 = Table::bytes_for(SEATS);
const ENTRIES_AT: u64 = ROWS_AT + Hazards::bytes_for(SEATS, 1);
const FRAMES_AT: u64 = (ENTRIES_AT + Frames::<Array>::entry_bytes_for(PAGES)).next_multiple_of(64);
/// A word a frame, for its bytes; a word a page, for the file.
const BYTES_AT: u64 = FRAMES_AT + Frames::<Array>::bytes_for(FRAMES);
const FILE_AT: u64 = BYTES_AT + FRAMES as u64 * 8;
const END_AT: u64 = FILE_AT + PAGES * 8;
/// What pages hold at first is their number; page 0 was changed to this.
const CHANGED: u64 = 100;

struct World {
    mapping: Arc<Mapping>,
    me: Arc<Member>,
}

impl World {
    /// Page 0 is in frame 0, and newer than its file.
    fn new() -> World {
        let (_, mapping) = shared(END_AT);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
        // SAFETY: as above, here and below; each part ends where the next begins.
        unsafe { Hazards::create(&mapping, ROWS_AT, SEATS, 1) }.unwrap();
        // SAFETY: as above.
        unsafe { Frames::<Array>::create_entries(&mapping, ENTRIES_AT, PAGES) }.unwrap();
        // SAFETY: as above.
        unsafe { Frames::<Array>::create(&mapping, FRAMES_AT, FRAMES) }.unwrap();
        let world = World { me: table.join().unwrap(), mapping };
        (0..PAGES).for_each(|number| world.file()[number as usize].store(number, Relaxed));
        let process = world.sit();
        assert_eq!(process.read(&world, 0, &[0]), Ok(Some(0)));
        world.bytes()[0].store(CHANGED, Relaxed);
        world
    }

    fn words(&self, at: u64, count: u64) -> &[AtomicU64] {
        self.mapping.region().share_slice(at, count).unwrap()
    }

    fn bytes(&self) -> &[AtomicU64] {
        self.words(BYTES_AT, FRAMES.into())
    }

    fn file(&self) -> &[AtomicU64] {
        self.words(FILE_AT, PAGES)
    }

    fn frames(&self) -> Frames<Array> {
        let entries = Array(MappedSlice::new(&self.mapping, ENTRIES_AT, PAGES).unwrap());
        let hazards = Hazards::attach(&self.mapping, ROWS_AT).unwrap();
        Frames::attach(&self.mapping, FRAMES_AT, FRAMES, entries, hazards).unwrap()
    }

    /// A new participant.
    fn sit(&self) -> Process {
        let member = self.me.table().join().unwrap();
        Process { user: self.frames().users(&member).unwrap().user().unwrap(), member }
    }

    fn reap(&self) -> usize {
        let frames = self.frames();
        self.me.table().reap(|dead| frames.reap(dead))
    }

    /// A participant has died as it read page 1 into frame 1, with page 0 pinned.
    fn die(&self) {
        assert!(in_a_fork(|| {
            let process = self.sit();
            let pinned = process.user.find(page(0)).unwrap();
            let free = process.free(self, &[1]).unwrap().pop().unwrap();
            std::mem::forget((free.load(page(1)).unwrap().unwrap(), pinned));
            std::mem::forget(process);
            true
        }));
    }
}

/// A participant, as it is in one process.
struct Process {
    user: User<Array>,
    member: Arc<Member>,
}

impl Process {
    /// Frames of ours; what is older in the file is written first.
    fn free(&self, world: &World, candidates: &[u32]) -> Result<Vec<Free<'_, Array>>, String> {
        let (mut protected, mut free) = (Protected::default(), Vec::new());
        let write = |frame: u32, page: PageId| {
            let value = world.bytes()[frame as usize].load(Relaxed);
            world.file()[page.block() as usize].store(value, Relaxed);
            true
        };
        let evicted = self.user.evict(candidates, &mut protected, &mut free, write);
        evicted.map_err(|error| error.to_string())?;
        Ok(free)
    }

    /// What page `number` holds, from where it is or from its file, if it can be had.
    fn read(&self, world: &World, number: u64, candidates: &[u32]) -> Result<Option<u64>, String> {
        let say = |error: &dyn std::fmt::Display| error.to_string();
        let found = self.user.find(page(number as u32)).map_err(|e| say(&e))?;
        let loading = match found {
            Find::Pinned(pin) => {
                return Ok(Some(world.bytes()[pin.frame() as usize].load(Relaxed)));
            }
            Find::Loading { frame } => {
                self.user.take_over(page(number as u32), frame).map_err(|e| say(&e))?
            }
            Find::Absent => match self.free(world, candidates)?.pop() {
                Some(free) => free.load(page(number as u32)).map_err(|e| say(&e))?.ok(),
                None => None,
            },
        };
        let Some(loading) = loading else { return Ok(None) };
        let value = world.file()[number as usize].load(Relaxed);
        world.bytes()[loading.frame() as usize].store(value, Relaxed);
        let pin = loading.publish().map_err(|e| say(&e))?.ok();
        Ok(pin.map(|pin| world.bytes()[pin.frame() as usize].load(Relaxed)))
    }

    /// Every page is what it was last, and every frame can be had.
    fn finds_all(&self, world: &World) -> Result<(), String> {
        for (number, expected) in [(0, CHANGED), (1, 1)] {
            let value = self.read(world, number, &[0, 1])?;
            if value != Some(expected) {
                return Err(format!("page {number} is {value:?}"));
            }
        }
        match self.free(world, &[0, 1])?.len() {
            2 => Ok(()),
            count => Err(format!("{count} of 2 frames can be had")),
        }
    }
}

/// What a process does with the frames.
struct AtFrames {
    name: &'static str,
    operations: &'static [&'static str],
    operate: fn(&World, &Process),
    /// Somebody has died before.
    has_dead: bool,
}

impl Scenario for AtFrames {
    type World = World;
    type Doomed = Process;

    fn name(&self) -> String {
        format!("frames, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        let world = World::new();
        if self.has_dead {
            world.die();
        }
        world
    }

    fn prepare(&self, world: &World, _: &Notes) -> Process {
        world.sit()
    }

    fn operate(&self, world: &World, process: &mut Process, _: &Notes) {
        (self.operate)(world, process);
    }

    /// Without the table, which names processes.
    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, ROWS_AT)
    }

    fn check(&self, world: World, _: &Notes, _: End) -> Result<(), String> {
        world.reap();
        world.sit().finds_all(&world)
    }

    /// Finds page 0 where it is, or reads it in.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| match world.sit().read(world, 0, &[1, 0])? {
            None | Some(CHANGED) => Ok(()),
            Some(value) => Err(format!("page 0 is {value}")),
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.reap();
            Ok(())
        }))
    }

    fn forked(&self, world: &World, process: &mut Process) -> Result<(), String> {
        let mut refused = process.user.find(page(0)).is_err();
        refused &= process.free(world, &[0]).is_err();
        refused &= process.user.take_over(page(1), 1).is_err();
        refused &= process.member.check_fork().is_err();
        if refused { Ok(()) } else { Err("a forked child may use the frames".into()) }
    }
}

fn passes(scene: &AtFrames) {
    Run::new(scene).kill().passes();
    Run::new(scene).nested().passes();
    Run::new(scene).fork().passes();
}

#[test]
fn who_finds_a_page_may_die_anywhere() {
    passes(&AtFrames {
        name: "find",
        operations: &["buffer_pool::frames::User::find"],
        operate: |world, process| {
            let _ = process.read(world, 0, &[1]);
        },
        has_dead: false,
    });
}

#[test]
fn who_evicts_and_loads_may_die_anywhere() {
    let scene = AtFrames {
        name: "evict, load, publish",
        operations: &[
            "buffer_pool::frames::User::evict",
            "buffer_pool::frames::Free::load",
            "buffer_pool::frames::Loading::publish",
        ],
        operate: |world, process| {
            let _ = process.read(world, 1, &[0]);
        },
        has_dead: false,
    };
    passes(&scene);
    Run::new(&scene).bystander_at_most(100_000).stop().passes();
}

#[test]
fn who_takes_over_may_die_anywhere() {
    passes(&AtFrames {
        name: "take_over",
        operations: &["buffer_pool::frames::User::take_over"],
        operate: |world, process| {
            let _ = process.read(world, 1, &[]);
        },
        has_dead: true,
    });
}

#[test]
fn who_reaps_may_die_anywhere() {
    passes(&AtFrames {
        name: "reap",
        operations: &["buffer_pool::frames::Frames::reap"],
        operate: |world, process| {
            world.me.table().reap(|dead| process.user.frames().reap(dead));
        },
        has_dead: true,
    });
}
