//! A process is killed at each instruction of taking a page for cleanup and of changing it:
//! whoever comes next finds the page as it was before or as it was made, and what was acknowledged
//! made; and has the page for cleanup itself, which the dead one's pin does not hold up.
#![cfg(not(any(shm_loom, shm_explore)))]
#[path = "../../shm-core/tests/crash_common/mod.rs"]
mod crash_common;
mod pool_common;

use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{
    Cleanup, FileOptions, Page, PageError, PageView, Pool, PoolOptions, Session,
};
use crash_common::{said, shared, words_from};
use pool_common::segment::Segment;
use pool_common::small;
use shm_core::mapping::Mapping;
use shm_core::participants::Table;
use shm_testkit::killpoint::{End, Notes, Run, Scenario, Work};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// In the notes: the value that the page was last told to have.
const TOLD: usize = 0;
/// Where a page's value stands, and where once more.
const PLACES: [usize; 2] = [HEADER_BYTES, 512];
/// Who waits so long for the dead hangs on them.
const PATIENCE: Duration = Duration::from_secs(5);
/// A bystander waits so long for one that is stopped.
const MOMENT: Duration = Duration::from_millis(5);
const BYSTANDER_MAX: usize = 500_000;

struct World {
    mapping: Arc<Mapping>,
    store: Segment,
    pool: Pool,
    session: Session,
    file: FileNumber,
}

impl World {
    fn new() -> World {
        let files_at = (Pool::bytes_for(&small()).unwrap() as usize).next_multiple_of(64);
        let (memory, mapping) = shared((files_at + Segment::BYTES) as u64);
        let store = Segment::new(&memory, files_at);
        let pool = open(&mapping, &store, PATIENCE).unwrap();
        let session = pool.session().unwrap();
        let options = FileOptions { create: true, blocks_max: Some(4) };
        let key = FileKey { id: 1, fork: 0 };
        let file = session.register(key, Path::new("/1"), &options).unwrap();
        session.extend(file, 2).unwrap();
        let world = World { mapping, store, pool, session, file };
        (0..2).for_each(|block| drop(world.session.page(file, block).unwrap()));
        world
    }

    fn page<'s>(&self, session: &'s Session) -> Result<Page<'s>, String> {
        session.page(self.file, 0).map_err(said)
    }
}

fn open(mapping: &Arc<Mapping>, store: &Segment, patience: Duration) -> Result<Pool, String> {
    let store = Arc::new(store.clone());
    let options = PoolOptions { store, patience: Some(patience), ..PoolOptions::default() };
    Pool::open(mapping, &small(), options).map_err(said)
}

/// What the page has at both places.
fn value(view: PageView<'_>) -> Result<u64, String> {
    match PLACES.map(|at| view.u64(at)) {
        [Some(one), other] if other == Some(one) => Ok(one),
        half => Err(format!("half of a change: {half:?}")),
    }
}

fn write(held: &mut Cleanup<'_>, value: u64) -> Result<(), PageError> {
    let bytes = value.to_le_bytes();
    held.write(&PLACES.map(|at| (at, bytes.as_slice())))
}

/// Takes the page without waiting, and once more.
struct CleansUp;

impl Scenario for CleansUp {
    type World = World;
    type Doomed = (Pool, Session);

    fn name(&self) -> String {
        "pool, clean up a page".to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &[
            "buffer_pool::pool::Page::try_cleanup",
            "buffer_pool::pool::Page::cleanup",
            "buffer_pool::pool::Cleanup::write",
        ]
    }

    fn world(&self) -> World {
        World::new()
    }

    fn prepare(&self, world: &World, _: &Notes) -> (Pool, Session) {
        let pool = open(&world.mapping, &world.store, PATIENCE).unwrap();
        let session = pool.session().unwrap();
        (pool, session)
    }

    fn operate(&self, world: &World, (_, session): &mut (Pool, Session), notes: &Notes) {
        let mut held = world.page(session).unwrap().try_cleanup().unwrap().unwrap();
        write(&mut held, 1).unwrap();
        notes.set(TOLD, 1);
        let mut held = held.into_page().cleanup().unwrap();
        write(&mut held, 2).unwrap();
        notes.set(TOLD, 2);
    }

    /// Without the head and the table, which name processes.
    fn image(&self, world: &World) -> Vec<u8> {
        words_from(&world.mapping, 128 + Table::bytes_for(small().processes))
    }

    fn check(&self, world: World, notes: &Notes, _: End) -> Result<(), String> {
        let mut held = world.page(&world.session)?.cleanup().map_err(said)?;
        let (found, told) = (value(held.view())?, notes.get(TOLD));
        if found != told && found != told + 1 {
            return Err(format!("{found} is there, and {told} was told"));
        }
        write(&mut held, 7).map_err(said)?;
        drop(held);
        world.pool.reap();
        let pinned = world.pool.summary().map_err(said)?.pinned;
        match (value_of(&world.page(&world.session)?), pinned) {
            (Ok(7), 0) => Ok(()),
            other => Err(format!("as nobody has it, and how often pinned: {other:?}")),
        }
    }

    /// Another process reads the page, or is told that it is kept from it; another page it has.
    fn bystander<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        let pool = open(&world.mapping, &world.store, MOMENT);
        let entered = pool.and_then(|pool| Ok((pool.session().map_err(said)?, pool)));
        Some(Box::new(move || {
            let (session, pool) = entered?;
            match world.page(&session)?.read(value) {
                Ok(value) => _ = value?,
                Err(PageError::TimedOut) => {}
                Err(error) => return Err(said(error)),
            }
            let other = session.page(world.file, 1).map_err(said)?;
            drop(other.try_cleanup().map_err(said)?.map_err(|_| "somebody else is there")?);
            if pool.reap() > 0 { Err("it is not dead".to_owned()) } else { Ok(()) }
        }))
    }

    fn recover<'a>(&'a self, world: &'a World) -> Option<Work<'a>> {
        Some(Box::new(|| {
            world.pool.reap();
            Ok(())
        }))
    }

    fn forked(&self, world: &World, (_, session): &mut (Pool, Session)) -> Result<(), String> {
        let refused = matches!(session.page(world.file, 1), Err(PageError::Forked(_)));
        if refused { Ok(()) } else { Err("pins in its parent's name".to_owned()) }
    }
}

fn value_of(page: &Page<'_>) -> Result<u64, String> {
    page.read(value).map_err(said)?
}

#[test]
fn who_cleans_up_a_page_may_die_anywhere() {
    Run::new(&CleansUp).points(60).deep_at_most(400).kill().passes();
    Run::new(&CleansUp).points(20).deep_at_most(200).nested().passes();
    let stopped = Run::new(&CleansUp).points(20).deep_at_most(100);
    stopped.bystander_at_most(BYSTANDER_MAX).stop().passes();
    Run::new(&CleansUp).points(20).deep_at_most(100).fork().passes();
}
