//! The cleanup lock: who has it has the page alone, pins included; those who are at the page delay
//! it, and the dead do not; of several who want it each has it in turn; and what was found under a
//! share is still there for as long as the page is pinned.
#![cfg(not(any(shm_loom, shm_explore)))]
mod pool_common;

use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{
    Cleanup, FileOptions, Page, PageError, PageView, Pool, PoolConfig, PoolOptions, Session,
};
use dsm::backend::Backend;
use dsm::{Domain, DomainConfig};
use pool_common::{Memory, small};
use shm_core::mapping::Mapping;
use shm_testkit::child::{Child, in_a_fork, parent_says, tell_parent};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_millis(50);
const KEY: FileKey = FileKey { id: 1, fork: 0 };
/// How often each of those who count counts.
const COUNTS: u64 = 100;

shm_testkit::children! { uses }

/// A pool that other processes find by its name, over a file of some blocks.
struct Scene {
    pool: Pool,
    domain: Domain,
    directory: TempDir,
    unique: Unique,
}

fn domain(name: &str) -> Domain {
    let backend = Some(Backend::Posix);
    Domain::open(DomainConfig { backend, ..DomainConfig::new(name) }).unwrap()
}

fn open(domain: &Domain, patience: Duration) -> Pool {
    let options = PoolOptions { patience: Some(patience), ..PoolOptions::default() };
    let config = PoolConfig { processes: 6, ..small() };
    Pool::named(domain, "pool", &config, options).unwrap()
}

impl Scene {
    fn new(hint: &str, patience: Duration) -> Scene {
        let (unique, directory) = (Unique::new(hint), TempDir::new(hint));
        let domain = domain(unique.name());
        let pool = open(&domain, patience);
        register(&pool.session().unwrap(), &directory.path().join("file"), 20);
        Scene { pool, domain, directory, unique }
    }

    fn child(&self, what: &str) -> Child {
        Child::spawn("uses", &[self.unique.name(), what])
    }

    fn end(self) {
        let Scene { pool, domain, directory, unique } = self;
        drop(pool);
        domain.remove_named("pool").unwrap();
        domain.destroy().unwrap();
        drop(directory);
        unique.assert_nothing_left(LIMIT);
    }
}

fn register(session: &Session, path: &Path, blocks: u32) -> FileNumber {
    let options = FileOptions { create: true, blocks_max: Some(40) };
    let file = session.register(KEY, path, &options).unwrap();
    session.extend(file, blocks).unwrap();
    file
}

fn first(session: &Session) -> Page<'_> {
    session.page(session.pool().find_file(KEY).unwrap(), 0).unwrap()
}

fn value(view: PageView<'_>) -> u64 {
    view.u64(HEADER_BYTES).unwrap()
}

fn write(page: &mut Cleanup<'_>, value: u64) {
    page.write(&[(HEADER_BYTES, &value.to_le_bytes())]).unwrap();
}

fn is_timed_out<T>(got: Result<T, PageError>) -> bool {
    matches!(got, Err(PageError::TimedOut))
}

/// Another process that is at the first page, as it was told.
fn uses(args: &[String]) {
    let pool = open(&domain(&args[0]), LIMIT);
    let session = pool.session().unwrap();
    if args[1] == "counts" {
        return count(&session);
    }
    let page = first(&session);
    let share = (args[1] == "shares").then(|| page.share().unwrap());
    let held = (args[1] == "changes").then(|| page.exclusive().unwrap());
    tell_parent("there");
    // One that is to be killed is told nothing.
    assert_eq!(parent_says(), "go");
    thread::sleep(SHORT);
    drop((share, held));
    let mut exclusive = page.exclusive().unwrap();
    exclusive.write(&[(HEADER_BYTES, &7_u64.to_le_bytes())]).unwrap();
}

fn count(session: &Session) {
    tell_parent("there");
    assert_eq!(parent_says(), "go");
    for _ in 0..COUNTS {
        let mut page = first(session).cleanup().unwrap();
        let before = value(page.view());
        if before.is_multiple_of(16) {
            thread::yield_now();
        }
        write(&mut page, before + 1);
    }
}

#[test]
fn who_is_at_the_page_delays_it() {
    for what in ["pins", "shares", "changes"] {
        within(LIMIT, || {
            let scene = Scene::new("cleanup-waits", LIMIT);
            let session = scene.pool.session().unwrap();
            let mut child = scene.child(what);
            assert_eq!(child.hear(LIMIT), "there");
            let page = first(&session).try_cleanup().unwrap().unwrap_err();
            drop(page);
            let hasty = open(&scene.domain, SHORT);
            assert!(is_timed_out(first(&hasty.session().unwrap()).cleanup()));
            drop(hasty);
            child.say("go");
            let mut page = first(&session).cleanup().unwrap();
            assert_eq!(value(page.view()), 7, "it has let go of the page before");
            write(&mut page, 8);
            drop(page);
            child.wait(LIMIT).assert_success();
            assert_eq!(first(&session).read(value).unwrap(), 8);
            drop(session);
            scene.end();
        });
    }
}

#[test]
fn the_dead_do_not_delay_it() {
    for what in ["pins", "shares", "changes"] {
        for waits in [false, true] {
            within(LIMIT, || {
                let scene = Scene::new("cleanup-dead", LIMIT);
                let session = scene.pool.session().unwrap();
                let mut child = scene.child(what);
                assert_eq!(child.hear(LIMIT), "there");
                let mut page = thread::scope(|scope| {
                    let kills = scope.spawn(|| {
                        thread::sleep(if waits { 4 * SHORT } else { Duration::ZERO });
                        child.kill();
                        child.wait(LIMIT)
                    });
                    if !waits {
                        kills.join().unwrap();
                    }
                    first(&session).cleanup().unwrap()
                });
                write(&mut page, 8);
                let page = page.into_page().try_cleanup().unwrap().unwrap();
                assert_eq!(value(page.view()), 8);
                drop(page);
                drop(session);
                scene.end();
            });
        }
    }
}

#[test]
fn all_who_want_it_have_it_in_turn() {
    within(LIMIT, || {
        let scene = Scene::new("cleanup-turns", LIMIT);
        let session = scene.pool.session().unwrap();
        let mut children = [(); 3].map(|()| scene.child("counts"));
        children.iter_mut().for_each(|child| assert_eq!(child.hear(LIMIT), "there"));
        children.iter_mut().for_each(|child| child.say("go"));
        children.iter_mut().for_each(|child| child.wait(LIMIT).assert_success());
        assert_eq!(first(&session).read(value).unwrap(), 3 * COUNTS);
        drop(session);
        scene.end();
    });
}

/// A pool of this process, for several sessions.
fn alone(patience: Duration) -> Pool {
    let config = PoolConfig { sessions: 8, ..small() };
    let mapping = Mapping::heap(Pool::bytes_for(&config).unwrap() as usize);
    let options = PoolOptions {
        store: Arc::new(Memory::default()),
        patience: Some(patience),
        ..PoolOptions::default()
    };
    let pool = Pool::open(&mapping, &config, options).unwrap();
    register(&pool.session().unwrap(), Path::new("/file"), 20);
    pool
}

#[test]
fn a_page_that_is_pinned_twice_is_not_waited_for() {
    let pool = alone(SHORT);
    let (session, other) = (pool.session().unwrap(), pool.session().unwrap());
    let second = first(&session);
    drop(first(&session).try_cleanup().unwrap().unwrap_err());
    assert!(matches!(first(&session).cleanup(), Err(PageError::PinnedTwice)));
    drop(second);
    // Another session of this process is somebody else.
    let second = first(&other);
    drop(first(&session).try_cleanup().unwrap().unwrap_err());
    assert!(is_timed_out(first(&session).cleanup()));
    drop(second);
    let page = first(&session).try_cleanup().unwrap().unwrap();
    assert!(is_timed_out(first(&other).share()));
    assert!(is_timed_out(first(&other).cleanup()));
    drop(first(&other).try_cleanup().unwrap().unwrap_err());
    let page = page.into_page();
    drop(first(&other).share().unwrap());
    drop(page);
    drop(first(&other).cleanup().unwrap());
}

#[test]
fn a_page_that_has_left_meanwhile_is_read_in_again() {
    let pool = alone(LIMIT);
    let (session, other) = (pool.session().unwrap(), pool.session().unwrap());
    write(&mut first(&session).cleanup().unwrap(), 5);
    let pinned = first(&other);
    thread::scope(|scope| {
        let pool = &pool;
        let waits = scope.spawn(move || {
            let session = pool.session().unwrap();
            value(first(&session).cleanup().unwrap().view())
        });
        thread::sleep(SHORT);
        drop(pinned);
        // Until the other one has it: it may have been the faster one.
        other.evict_all().unwrap();
        assert_eq!(waits.join().unwrap(), 5);
    });
}

#[test]
fn a_forked_child_cleans_up_nothing() {
    let pool = alone(LIMIT);
    let session = pool.session().unwrap();
    let mut pages = Some((first(&session), session.page(pool.find_file(KEY).unwrap(), 1).unwrap()));
    assert!(in_a_fork(|| {
        let (one, other) = pages.take().unwrap();
        matches!(one.cleanup(), Err(PageError::Forked(_)))
            && matches!(other.try_cleanup(), Err(PageError::Forked(_)))
    }));
    let (one, other) = pages.unwrap();
    drop((one.cleanup().unwrap(), other.try_cleanup().unwrap().unwrap()));
}

/// Items are moved about and their old places overwritten, as readers find one under a share, and
/// come back to it by the pin alone.
#[test]
fn what_was_found_stays_as_long_as_the_page_is_pinned() {
    const PLACES: [u64; 3] = [64, 256, 512];
    const ITEM: u64 = 0x0123_4567_89ab_cdef;
    let pool = alone(LIMIT);
    let (is_over, visits) = (AtomicBool::new(false), AtomicU64::new(0));
    let move_to = |page: &mut Cleanup<'_>, place: u64| {
        let old = value(page.view()) as usize;
        let (new, item) = (place.to_le_bytes(), ITEM.to_le_bytes());
        let zeroes = [(old, [0; 8].as_slice())];
        let moves = [(place as usize, item.as_slice()), (HEADER_BYTES, new.as_slice())];
        page.write(if old == 0 { &[] } else { &zeroes }).unwrap();
        page.write(&moves).unwrap();
    };
    let visit = || {
        let session = pool.session().unwrap();
        while !is_over.load(Relaxed) {
            let page = first(&session);
            let place = value(page.share().unwrap().view()) as usize;
            for _ in 0..4 {
                assert_eq!(page.read(|view| view.u64(place)).unwrap(), Some(ITEM), "at {place}");
                thread::yield_now();
            }
            drop(page);
            visits.fetch_add(1, Relaxed);
            // Who cleans up has a chance.
            thread::sleep(Duration::from_micros(300));
        }
    };
    let cleaner = pool.session().unwrap();
    move_to(&mut first(&cleaner).cleanup().unwrap(), PLACES[2]);
    within(LIMIT, || {
        thread::scope(|scope| {
            let readers = [(); 2].map(|()| scope.spawn(visit));
            for round in 0..300 {
                let place = PLACES[round % 3];
                match first(&cleaner).try_cleanup().unwrap() {
                    Ok(mut page) => move_to(&mut page, place),
                    Err(page) => move_to(&mut page.cleanup().unwrap(), place),
                }
            }
            // They may have come to nothing yet.
            while visits.load(Relaxed) == 0 {
                thread::yield_now();
            }
            is_over.store(true, Relaxed);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
    });
}
