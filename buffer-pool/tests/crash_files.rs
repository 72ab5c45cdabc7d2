//! A process is killed at each instruction of registering, extending, shortening, dropping, taking
//! over and reaping: whoever comes next finds each file whole, as it was or as it was to be, and
//! every row and entry.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;

use buffer_pool::files::{
    Cut, ExtendError, FileKey, FileNumber, Files, RegisterError, Registrar, Shape,
};
use buffer_pool::frames::Entries;
use crash_common::{said, shared, words_from};
use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering::Relaxed};
use shm_testkit::child::in_a_fork;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEATS: u32 = 4;
const FILES_AT: u64 = Table::bytes_for(SEATS).next_multiple_of(64);
const SHAPE: Shape = Shape { files: 2, entries: 16 };
/// A file has so many blocks at first, and at most so many.
const BLOCKS: u32 = 3;
const BLOCKS_MAX: u32 = 8;
/// An entry of a page that is in a frame.
const RESIDENT: u64 = 2;
/// In the notes: how many steps were acknowledged.
const DONE: usize = 0;

struct World {
    mapping: Arc<Mapping>,
    files: Files,
    me: Arc<Member>,
    /// The one file at first, whose pages are all in frames.
    number: FileNumber,
}

fn key(id: u64) -> FileKey {
    FileKey { id, fork: 7 }
}

fn path(id: u64) -> String {
    format!("base/{id}/a.file")
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(20))
}

impl World {
    fn extend(&self, to: u32) -> Result<(), ExtendError> {
        self.files.extend(self.number, self.files.end(self.number)?, to)
    }

    fn new() -> World {
        let (_, mapping) = shared(FILES_AT + Files::bytes_for(SHAPE));
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, SEATS) }.unwrap();
        // SAFETY: as above, and the table ends before.
        unsafe { Files::create(&mapping, FILES_AT, SHAPE) }.unwrap();
        let files = Files::attach(&mapping, FILES_AT).unwrap();
        let me = table.join().unwrap();
        let number = register(&mut files.registrar(&me, None).unwrap(), 1).unwrap();
        let world = World { files, me, mapping, number };
        (0..BLOCKS).for_each(|block| world.entry(number, block).unwrap().store(RESIDENT, Relaxed));
        world
    }

    fn entry(&self, number: FileNumber, block: u32) -> Option<&AtomicU64> {
        self.files.entry(number.page(block).unwrap())
    }

    /// A new participant.
    fn sit(&self) -> Arc<Member> {
        self.me.table().join_with(Default::default(), |dead| self.files.reap(dead)).unwrap()
    }

    fn reap(&self) {
        self.me.table().reap(|dead| self.files.reap(dead));
    }

    /// A registrar has died, with the file cut to one block.
    fn die(&self) {
        assert!(in_a_fork(|| {
            let member = self.sit();
            let mut registrar = self.files.registrar(&member, None).unwrap();
            drop(registrar.shrink(self.number, 1).unwrap());
            std::mem::forget(registrar);
            std::mem::forget(member);
            true
        }));
    }

    /// Has the pages that go leave, and ends the cut.
    fn finish(&self, cut: Cut<'_>) -> Result<(), String> {
        for block in cut.blocks() {
            let entry = self.entry(cut.number(), block).ok_or("a page that goes has no entry")?;
            entry.store(0, Relaxed);
        }
        cut.done().map_err(said)
    }

    fn finish_all(&self, registrar: &mut Registrar<'_>) -> Result<(), String> {
        registrar.unfinished().into_iter().try_for_each(|cut| self.finish(cut))
    }

    /// Each file that there is is whole; how many blocks file number `id` has.
    fn blocks(&self, id: u64) -> Result<Option<u32>, String> {
        for file in self.files.list() {
            let is_whole = file.path.as_os_str() == path(file.key.id).as_str()
                && file.blocks_max == BLOCKS_MAX
                && self.files.find(file.key) == Some(file.number);
            if !is_whole {
                return Err(format!("a file is not whole: {file:?}"));
            }
            let behind = (file.blocks..BLOCKS_MAX).map(|block| self.entry(file.number, block));
            if behind.flatten().any(|entry| entry.load(Relaxed) != 0) {
                return Err("a page is in a frame, and not in its file".into());
            }
        }
        let number = self.files.find(key(id));
        number.map(|number| self.files.length(number).map_err(said)).transpose()
    }

    /// Each row can be had, and each entry.
    fn loses_nothing(&self, registrar: &mut Registrar<'_>) -> Result<(), String> {
        for file in self.files.list() {
            self.finish(registrar.drop_file(file.number).map_err(said)?)?;
        }
        for id in 3..5 {
            register(registrar, id).map_err(|error| format!("a row is lost: {error}"))?;
        }
        match register(registrar, 5) {
            Err(RegisterError::NoRow { .. }) => Ok(()),
            other => Err(format!("more rows than there are: {other:?}")),
        }
    }
}

fn register(registrar: &mut Registrar<'_>, id: u64) -> Result<FileNumber, RegisterError> {
    let registered = registrar.register(key(id), path(id).as_ref(), BLOCKS, BLOCKS_MAX)?;
    Ok(registered.number)
}

/// What a process does with the files.
struct AtFiles {
    name: &'static str,
    operations: &'static [&'static str],
    /// Says of each step that it is done.
    operate: fn(&World, &Arc<Member>, &dyn Fn()),
    /// Whether files 1 and 2 may have so many blocks after so many steps were acknowledged, and
    /// what is left was finished.
    may_be: fn(u64, [Option<u32>; 2]) -> bool,
    /// A registrar has died before.
    has_dead: bool,
}

impl Scenario for AtFiles {
    type World = World;
    type Doomed = Arc<Member>;

    fn name(&self) -> String {
        format!("files, {}", self.name)
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

    fn prepare(&self, world: &World, _: &Notes) -> Arc<Member> {
        world.sit()
    }

    fn operate(&self, world: &World, member: &mut Arc<Member>, notes: &Notes) {
        (self.operate)(world, member, &|| notes.set(DONE, notes.get(DONE) + 1));
    }

    /// Without the table, which names processes.
    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, FILES_AT)
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        // Takes over from the dead, without a reaper.
        let mut registrar = world.files.registrar(&world.me, soon()).map_err(said)?;
        world.finish_all(&mut registrar)?;
        let blocks = [world.blocks(1)?, world.blocks(2)?];
        let done = notes.get(DONE);
        if !(self.may_be)(done, blocks) {
            return Err(format!("after {done} steps the files have {blocks:?} blocks"));
        }
        world.loses_nothing(&mut registrar)
    }

    /// Finds the files and looks at them; extends the first, if nobody shortens it.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.files.list();
            let Some(number) = world.files.find(key(1)) else { return Ok(()) };
            let Ok(from) = world.files.end(number) else { return Ok(()) };
            world.files.contains(number.page(0).unwrap());
            match world.files.extend(number, from, from.blocks) {
                Ok(()) | Err(ExtendError::Shrinking { .. } | ExtendError::NoSuchFile(_)) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.reap();
            let member = world.sit();
            let mut registrar = world.files.registrar(&member, soon()).map_err(said)?;
            world.finish_all(&mut registrar)
        }))
    }

    fn forked(&self, world: &World, member: &mut Arc<Member>) -> Result<(), String> {
        let mut refused = world.files.registrar(member, soon()).is_err();
        refused &= world.files.wait_shrinking(world.number, member, soon()).is_err();
        if refused { Ok(()) } else { Err("a forked child may change the files".into()) }
    }
}

fn passes(scene: &AtFiles) {
    Run::new(scene).kill().passes();
    Run::new(scene).nested().passes();
    Run::new(scene).fork().passes();
    Run::new(scene).stop().passes();
}

#[test]
fn who_registers_may_die_anywhere() {
    passes(&AtFiles {
        name: "register",
        operations: &[
            "buffer_pool::files::Files::registrar",
            "buffer_pool::files::Registrar::register",
            "buffer_pool::files::Registrar::drop",
        ],
        operate: |world, member, done| {
            let mut registrar = world.files.registrar(member, None).unwrap();
            register(&mut registrar, 2).unwrap();
            done();
            drop(registrar);
        },
        may_be: |done, [one, two]| {
            one == Some(BLOCKS) && (two == Some(BLOCKS) || done == 0 && two.is_none())
        },
        has_dead: false,
    });
}

#[test]
fn who_extends_may_die_anywhere() {
    passes(&AtFiles {
        name: "extend",
        operations: &["buffer_pool::files::Files::extend"],
        operate: |world, _, done| {
            world.extend(5).unwrap();
            done();
            world.extend(BLOCKS_MAX).unwrap();
            done();
        },
        may_be: |done, [one, two]| {
            let all = [BLOCKS, 5, BLOCKS_MAX];
            let may = all.iter().skip(done as usize).take(2);
            two.is_none() && one.is_some_and(|blocks| may.clone().any(|may| *may == blocks))
        },
        has_dead: false,
    });
}

#[test]
fn who_shortens_may_die_anywhere() {
    passes(&AtFiles {
        name: "shrink, done",
        operations: &["buffer_pool::files::Registrar::shrink", "buffer_pool::files::Cut::done"],
        operate: |world, member, done| {
            let mut registrar = world.files.registrar(member, None).unwrap();
            let cut = registrar.shrink(world.number, 1).unwrap();
            done();
            world.finish(cut).unwrap();
            done();
        },
        may_be: |done, [one, two]| {
            two.is_none() && (one == Some(1) || done == 0 && one == Some(BLOCKS))
        },
        has_dead: false,
    });
}

#[test]
fn who_drops_may_die_anywhere() {
    passes(&AtFiles {
        name: "drop, done",
        operations: &["buffer_pool::files::Registrar::drop_file", "buffer_pool::files::Cut::done"],
        operate: |world, member, done| {
            let mut registrar = world.files.registrar(member, None).unwrap();
            let cut = registrar.drop_file(world.number).unwrap();
            done();
            world.finish(cut).unwrap();
            done();
        },
        may_be: |done, [one, two]| {
            two.is_none() && (one.is_none() || done == 0 && one == Some(BLOCKS))
        },
        has_dead: false,
    });
}

/// One that finds the file cut by a dead registrar waits in vain, takes over, and extends it.
#[test]
fn who_takes_over_may_die_anywhere() {
    let scene = AtFiles {
        name: "take over",
        operations: &[
            "buffer_pool::files::Files::wait_shrinking",
            "buffer_pool::files::Files::registrar",
            "buffer_pool::files::Cut::done",
        ],
        operate: |world, member, done| {
            world.files.wait_shrinking(world.number, member, None).unwrap_err();
            let mut registrar = world.files.registrar(member, None).unwrap();
            world.finish_all(&mut registrar).unwrap();
            world.extend(BLOCKS).unwrap();
            done();
        },
        may_be: |done, [one, two]| {
            two.is_none() && (one == Some(BLOCKS) || done == 0 && one == Some(1))
        },
        has_dead: true,
    };
    Run::new(&scene).kill().passes();
    Run::new(&scene).nested().passes();
}

#[test]
fn who_reaps_may_die_anywhere() {
    let scene = AtFiles {
        name: "reap",
        operations: &["buffer_pool::files::Files::reap"],
        operate: |world, _, _| world.reap(),
        may_be: |_, blocks| blocks == [Some(1), None],
        has_dead: true,
    };
    Run::new(&scene).kill().passes();
    Run::new(&scene).nested().passes();
}
