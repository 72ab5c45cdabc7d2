//! A process is killed at each instruction of what a session does with a pool: whoever comes next
//! finds every page whole, as it was before or as it was made, and what was acknowledged made; and
//! it can have every frame, latch and file number. The files are in memory, behind the pool's own.
//! The survivors go on before anything was reaped; but where who reaps is killed, too.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;
mod pool_common;
#[path = "crash_pool/world.rs"]
mod world;

use buffer_pool::pool::{PageError, Prewarm, Session};
use crash_common::{said, words_from};
use pool_common::segment::at_write;
use pool_common::whole::{value, whole, write};
use shm_core::participants::Table;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::time::Duration;
use world::{
    ABSENT, BLOCKS, FRAMES, FRAMES_MAX, PATIENCE, Process, Scene, State, World, as_it_was, config,
    key, old, register,
};

/// In the notes: how many steps were acknowledged.
const DONE: usize = 0;
/// A bystander waits so long for one that is stopped.
const MOMENT: Duration = Duration::from_millis(5);
/// Points of a mode in a deep run.
const DEEP: usize = 1000;
const BYSTANDER_MAX: usize = 500_000;

/// What who is to die has before.
enum Has {
    Nothing,
    Session,
    Two,
}

/// What a process does with the pool.
struct Uses {
    name: &'static str,
    operations: &'static [&'static str],
    scene: Scene,
    has: Has,
    /// What the file is like after each step; at first it is as it was.
    steps: fn() -> Vec<State>,
    /// Whether it is so on the disk, too, after the first step.
    is_synced: bool,
    /// Whether it moves a session: what libc copies that with hangs on where it lies.
    moves: bool,
    operate: fn(&World, &mut Option<Process>, &Notes),
}

impl Scenario for Uses {
    type World = World;
    /// It leaves at the end; who opens the pool has nothing at first.
    type Doomed = Option<Process>;

    fn name(&self) -> String {
        format!("pool, {}", self.name)
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> World {
        World::new(self.scene)
    }

    fn prepare(&self, world: &World, _: &Notes) -> Option<Process> {
        let mut process = world.enter(PATIENCE).unwrap();
        match self.has {
            Has::Nothing => return None,
            Has::Session => {}
            Has::Two => process.other = Some(process.pool.session().unwrap()),
        }
        Some(process)
    }

    fn operate(&self, world: &World, process: &mut Option<Process>, notes: &Notes) {
        (self.operate)(world, process, notes);
    }

    /// Without the head and the table, which name processes.
    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, 128 + Table::bytes_for(config().processes))
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let done = notes.get(DONE) as usize;
        if let Some(file) = world.pool.find_file(key(1)) {
            world.session.flush(file).map_err(said)?;
        }
        if self.is_synced && done > 0 && world.on_disk() != as_it_was() {
            return Err(format!("what was flushed is {:?}", world.on_disk()));
        }
        let (mut may_be, state) = (vec![Some(as_it_was())], world.state()?);
        may_be.extend((self.steps)());
        let may_be = &may_be[done..(done + 2).min(may_be.len())];
        if !may_be.contains(&state) {
            return Err(format!("after {done} steps it is {state:?}, not {may_be:?}"));
        }
        world.pool.reap();
        world.resize()?;
        world.fill()?;
        if world.state()? != state {
            return Err(format!("{state:?} has become {:?}", world.state()));
        }
        world.another()?;
        world.fill()?;
        world.change_all()
    }

    /// Another participant has what the one that is stopped has not, and comes back from the rest.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let process = world.enter(MOMENT);
        Some(Box::new(move || {
            let Process { session, pool, .. } = process?;
            for block in [0, 5, ABSENT] {
                match session.page(world.file, block).and_then(|page| page.read(whole)) {
                    Ok(None) => return Err("half of a change".to_owned()),
                    Ok(_) | Err(PageError::TimedOut) => {}
                    // It is cut off, or forgotten.
                    Err(PageError::PastEnd { .. } | PageError::NoSuchFile(_)) => {}
                    Err(error) => return Err(said(error)),
                }
            }
            session.page(world.spare, 0).map(drop).map_err(said)?;
            if pool.reap() > 0 { Err("it is not dead".to_owned()) } else { Ok(()) }
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.pool.reap();
            Ok(())
        }))
    }

    fn forked(&self, world: &World, process: &mut Option<Process>) -> Result<(), String> {
        let Some(Process { pool, session, .. }) = process else { return Ok(()) };
        let page = session.page(world.file, 0).is_err();
        let refused = [
            ("page", page),
            ("read", session.read(world.file, 0, whole).is_err()),
            ("flush", session.flush(world.file).is_err()),
            ("sync", session.sync(world.file).is_err()),
            ("extend", session.extend(world.file, 1).is_err()),
            ("truncate", session.truncate(world.file, 1).is_err()),
            ("forget", session.forget(world.file).is_err()),
            ("register", register(session, 2).is_err()),
            ("session", pool.session().is_err()),
        ];
        match refused.iter().find(|(_, refused)| !refused) {
            Some((call, _)) => Err(format!("may `{call}` in its parent's name")),
            None => Ok(()),
        }
    }
}

fn session(process: &Option<Process>) -> &Session {
    &process.as_ref().expect("it was prepared").session
}

fn nothing() -> Vec<State> {
    vec![Some(as_it_was())]
}

const USES: Uses = Uses {
    name: "",
    operations: &[],
    scene: Scene::Clean,
    has: Has::Session,
    steps: nothing,
    is_synced: false,
    moves: false,
    operate: |_, _, _| (),
};

/// At every instruction it is killed, and so is who cleans up after it.
fn dies(scenario: &Uses) {
    let run = || {
        let astray = if scenario.moves { 500 } else { 0 };
        Run::new(scenario).deep_at_most(DEEP).allow_missed(astray).allow_drifted(astray)
    };
    run().points(30).kill().passes();
    run().points(10).nested().passes();
}

/// It is stopped, and made to fork, too.
fn passes(scenario: &Uses) {
    dies(scenario);
    let stopped = Run::new(scenario).points(8).deep_at_most(DEEP / 25);
    stopped.bystander_at_most(BYSTANDER_MAX).stop().passes();
    Run::new(scenario).points(8).deep_at_most(DEEP / 25).fork().passes();
}

/// Has the absent page.
fn reads_absent(world: &World, process: &mut Option<Process>, notes: &Notes) {
    let page = session(process).page(world.file, ABSENT).unwrap();
    assert_eq!(value(&page), Ok(old(ABSENT)));
    notes.count(DONE);
}

#[test]
fn who_reads_a_page_into_a_vacant_frame_may_die_anywhere() {
    dies(&Uses {
        name: "page, into a vacant frame",
        operations: &["buffer_pool::pool::Session::page"],
        scene: Scene::Empty,
        operate: reads_absent,
        ..USES
    });
}

#[test]
fn who_evicts_a_clean_page_may_die_anywhere() {
    dies(&Uses {
        name: "page, for a clean one",
        operations: &["buffer_pool::pool::Session::page"],
        operate: reads_absent,
        ..USES
    });
}

#[test]
fn who_evicts_a_dirty_page_may_die_anywhere() {
    passes(&Uses {
        name: "page, for a dirty one",
        operations: &["buffer_pool::pool::Session::page"],
        scene: Scene::Dirty,
        operate: reads_absent,
        ..USES
    });
}

#[test]
fn who_takes_a_page_over_may_die_anywhere() {
    passes(&Uses {
        name: "page, taken over",
        operations: &["buffer_pool::pool::Session::page"],
        scene: Scene::DeadLoader,
        operate: reads_absent,
        ..USES
    });
}

/// Two pages by one read, over two that were changed.
#[test]
fn who_reads_neighbours_may_die_anywhere() {
    passes(&Uses {
        name: "prewarm, two by one read",
        operations: &["buffer_pool::pool::Session::page"],
        scene: Scene::Dirty,
        operate: |world, process, notes| {
            let blocks = session(process).prewarm(world.file, ABSENT..BLOCKS, Prewarm::Buffer);
            assert_eq!(blocks.unwrap(), 2);
            notes.count(DONE);
        },
        ..USES
    });
}

/// Another session of the process reads the page in while this one writes a victim out.
#[test]
fn who_has_put_a_frame_by_may_die_anywhere() {
    dies(&Uses {
        name: "page, a frame put by",
        operations: &["buffer_pool::pool::Session::page", "buffer_pool::pool::Session::drop"],
        scene: Scene::Dirty,
        has: Has::Two,
        moves: true,
        operate: |world, process, notes| {
            let (other, file) = (process.as_mut().unwrap().other.take().unwrap(), world.file);
            at_write(move || drop(other.page(file, ABSENT).unwrap()));
            reads_absent(world, process, notes);
            drop(process.take());
        },
        ..USES
    });
}

#[test]
fn who_changes_a_page_may_die_anywhere() {
    passes(&Uses {
        name: "write",
        operations: &["buffer_pool::pool::Page::exclusive", "buffer_pool::pool::Exclusive::write"],
        scene: Scene::Clean,
        steps: || {
            let with = |value| {
                let mut state = as_it_was();
                state[3] = value;
                Some(state)
            };
            vec![with(1000), with(2000)]
        },
        operate: |world, process, notes| {
            let page = session(process).page(world.file, 3).unwrap();
            for value in [1000, 2000] {
                write(&page, value).unwrap();
                notes.count(DONE);
            }
        },
        ..USES
    });
}

#[test]
fn who_flushes_may_die_anywhere() {
    passes(&Uses {
        name: "flush",
        operations: &["buffer_pool::pool::Session::flush"],
        scene: Scene::Dirty,
        is_synced: true,
        operate: |world, process, notes| {
            // A bystander may have written some.
            assert!(session(process).flush(world.file).unwrap() > 10);
            notes.count(DONE);
        },
        ..USES
    });
}

#[test]
fn who_syncs_may_die_anywhere() {
    dies(&Uses {
        name: "sync",
        operations: &["buffer_pool::pool::Session::sync"],
        scene: Scene::Dirty,
        is_synced: true,
        operate: |world, process, notes| {
            session(process).sync(world.file).unwrap();
            notes.count(DONE);
        },
        ..USES
    });
}

#[test]
fn who_extends_a_file_may_die_anywhere() {
    dies(&Uses {
        name: "extend",
        operations: &["buffer_pool::pool::Session::extend"],
        steps: || vec![Some(as_it_was().into_iter().chain([0, 0]).collect())],
        operate: |world, process, notes| {
            assert_eq!(session(process).extend(world.file, 2).unwrap(), BLOCKS);
            notes.count(DONE);
        },
        ..USES
    });
}

#[test]
fn who_cuts_a_file_off_may_die_anywhere() {
    passes(&Uses {
        name: "truncate",
        operations: &["buffer_pool::pool::Session::truncate"],
        scene: Scene::Dirty,
        steps: || vec![Some(as_it_was()[..14].to_vec())],
        operate: |world, process, notes| {
            session(process).truncate(world.file, 14).unwrap();
            notes.count(DONE);
        },
        ..USES
    });
}

#[test]
fn who_forgets_a_file_may_die_anywhere() {
    dies(&Uses {
        name: "forget",
        operations: &["buffer_pool::pool::Session::forget"],
        scene: Scene::Dirty,
        steps: || vec![None],
        operate: |world, process, notes| {
            session(process).forget(world.file).unwrap();
            notes.count(DONE);
        },
        ..USES
    });
}

#[test]
fn who_makes_the_pool_larger_may_die_anywhere() {
    dies(&Uses {
        name: "resize, larger",
        operations: &["buffer_pool::pool::Session::resize"],
        scene: Scene::Dirty,
        operate: |_, process, notes| {
            session(process).resize(FRAMES_MAX).unwrap();
            notes.count(DONE);
        },
        ..USES
    });
}

#[test]
fn who_makes_the_pool_smaller_may_die_anywhere() {
    dies(&Uses {
        name: "resize, smaller",
        operations: &["buffer_pool::pool::Session::resize"],
        scene: Scene::Large,
        operate: |_, process, notes| {
            assert_eq!(session(process).resize(FRAMES).unwrap().in_use, 0);
            notes.count(DONE);
        },
        ..USES
    });
}

#[test]
fn who_registers_a_file_may_die_anywhere() {
    dies(&Uses {
        name: "register",
        operations: &["buffer_pool::pool::Session::register"],
        operate: |_, process, notes| {
            register(session(process), 2).unwrap();
            notes.count(DONE);
        },
        ..USES
    });
}

#[test]
fn who_begins_or_ends_a_session_may_die_anywhere() {
    dies(&Uses {
        name: "session",
        operations: &["buffer_pool::pool::Pool::session", "buffer_pool::pool::Session::drop"],
        moves: true,
        operate: |_, process, notes| {
            drop(process.as_ref().unwrap().pool.session().unwrap());
            notes.count(DONE);
        },
        ..USES
    });
}

/// It reads in `/proc` who it is, in a text that is not always of one length.
#[test]
fn who_opens_the_pool_may_die_anywhere() {
    let scenario = Uses {
        name: "open",
        has: Has::Nothing,
        operations: &["buffer_pool::pool::Pool::open"],
        operate: |world, process, notes| {
            *process = Some(world.enter(PATIENCE).unwrap());
            notes.count(DONE);
        },
        ..USES
    };
    let opens = || Run::new(&scenario).deep_at_most(DEEP).allow_missed(500).allow_drifted(50);
    opens().points(30).kill().passes();
    opens().points(10).nested().passes();
}

/// It asks the kernel about the dead one.
#[test]
fn who_reaps_may_die_anywhere() {
    let scenario = Uses {
        name: "reap",
        operations: &["buffer_pool::pool::Pool::reap"],
        scene: Scene::DeadUser,
        operate: |_, process, notes| {
            process.as_ref().unwrap().pool.reap();
            notes.count(DONE);
        },
        ..USES
    };
    dies(&scenario);
}

/// Planted bug: one that says that a page is changed before it is.
#[test]
fn finds_a_change_that_is_lost() {
    let scenario = Uses {
        name: "planted loss",
        steps: || {
            let mut state = as_it_was();
            state[3] = 1000;
            vec![Some(state)]
        },
        operate: |world, process, notes| {
            let page = session(process).page(world.file, 3).unwrap();
            notes.count(DONE);
            write(&page, 1000).unwrap();
        },
        ..USES
    };
    Run::new(&scenario).points(40).deep_at_most(40).kill().finds("after 1 steps");
}

/// Planted bug: a pin that nobody lets go of.
#[test]
fn a_frame_that_is_lost_is_missed() {
    let world = World::new(Scene::Clean);
    assert_eq!(world.fill(), Ok(()));
    std::mem::forget(world.session.page(world.file, 3).unwrap());
    assert!(world.fill().is_err_and(|why| why.contains("a frame is lost")));
}
