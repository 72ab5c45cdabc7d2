//! A pool's workers, as processes that a supervisor starts, kills and stops:
//!
//! 1. A background writer writes pages out while clients only change them. Killed amid that, again
//!    and again, it is started again, no client notices, and no change is lost.
//! 2. Told to stop, each leaves at once, however long it would rest.
//! 3. A pool is as warm after all processes have ended as it was before, as far as the files are
//!    still there. A dump that is damaged is done without, and replaced.
//! 4. At any time there is a whole dump, whoever is killed; and one who was told to stop before it
//!    had loaded a dump leaves that one.
#![cfg(not(any(shm_loom, shm_explore)))]
mod pool_common;

use bgworker::{
    Event, Exit, Output, Pacing, Program, Restart, Supervisor, SupervisorConfig, Worker, WorkerId,
    WorkerInfo, WorkerSpec,
};
use buffer_pool::HEADER_BYTES;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{
    FileOptions, Pool, PoolConfig, PoolOptions, Prewarm, Session, WriterOptions,
};
use buffer_pool::workers::{Autoprewarm, BackgroundWriter, autoprewarm, background_writer};
use dsm::{Domain, DomainConfig};
use pool_common::{Memory, pool_of, small};
use rustix::process::{Signal, getpid, kill_process};
use shm_testkit::child::{self, Child};
use shm_testkit::random;
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const PAGE: usize = 1024;
const FRAMES: u32 = 64;
const BLOCKS: u32 = 300;
const CLIENTS: u32 = 3;
const KILLS: u32 = 40;
const HOUR: Duration = Duration::from_secs(3600);

shm_testkit::children! { writer, prewarm, client, leader, writes_in_vain }

fn here() -> Worker {
    let worker = Worker::from_env().unwrap().expect("a worker");
    // Nobody waits for one that was started again.
    let _ = writeln!(std::io::stdout(), "here");
    worker
}

fn writer(args: &[String]) {
    background_writer(&here(), &arguments(args)).unwrap();
}

fn prewarm(args: &[String]) {
    autoprewarm(&here(), &arguments(args)).unwrap();
}

fn arguments(args: &[String]) -> Vec<OsString> {
    args.iter().map(OsString::from).collect()
}

/// Counts in pages of its own until it is told to stop, and then says how far it has come.
fn client(args: &[String]) {
    let (worker, domain) = (here(), Domain::from_env().unwrap());
    let pool = Pool::find_named(&domain, "pages", PoolOptions::default()).unwrap();
    let session = pool.session().unwrap();
    let file = pool.find_file(key(1)).unwrap();
    let mut counts = vec![0; BLOCKS as usize];
    let mut state = worker.argument() + 1;
    while !worker.should_stop() {
        let nth = random::next(&mut state) as u32 % (BLOCKS / CLIENTS);
        let block = nth * CLIENTS + worker.argument() as u32;
        let count = &mut counts[block as usize];
        let bytes = u64::to_le_bytes(*count + 1).repeat((PAGE - HEADER_BYTES) / 8);
        let page = session.page(file, block).unwrap();
        page.exclusive().unwrap().write(&[(HEADER_BYTES, &bytes)]).unwrap();
        *count += 1;
    }
    let lines: Vec<String> = counts.iter().map(u64::to_string).collect();
    fs::write(&args[0], lines.join("\n")).unwrap();
}

fn key(id: u64) -> FileKey {
    FileKey { id, fork: 0 }
}

/// A leader with a pool over files of a directory.
struct World {
    supervisor: Supervisor,
    files: Vec<FileNumber>,
    session: Session,
    pool: Pool,
    domain: Domain,
    unique: Unique,
    directory: Arc<TempDir>,
}

impl World {
    fn new(frames: u32) -> World {
        World::over(Arc::new(TempDir::new("workers")), frames)
    }

    /// Nothing is left of the one before, but its directory.
    fn over(directory: Arc<TempDir>, frames: u32) -> World {
        let unique = Unique::new("workers");
        let domain = Domain::open(DomainConfig::new(unique.name())).unwrap();
        let blocks = frames.max(BLOCKS);
        let config = PoolConfig {
            frames,
            frames_max: frames,
            processes: 16,
            entries: 4 * u64::from(blocks),
            ..small()
        };
        let pool = Pool::named(&domain, "pages", &config, PoolOptions::default()).unwrap();
        let session = pool.session().unwrap();
        let file = |id: u64| {
            let options = FileOptions { create: true, blocks_max: Some(blocks) };
            let path = directory.path().join(id.to_string());
            let file = session.register(key(id), &path, &options).unwrap();
            let missing = blocks - pool.file(file).unwrap().blocks;
            session.extend(file, missing).unwrap();
            file
        };
        let files = (1..=3).map(file).collect();
        let supervisor = Supervisor::start(SupervisorConfig::default()).unwrap();
        World { supervisor, files, session, pool, domain, unique, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts a worker, and waits until it can be told to stop.
    fn spawn(&self, function: &str, argument: u64, args: Vec<OsString>) -> WorkerId {
        let (reader, to) = std::io::pipe().unwrap();
        let command = child::command(function, &[]);
        let first = command.get_args().map(OsString::from);
        let worker = self.supervisor.spawn(WorkerSpec {
            argument,
            args: first.chain(args).collect(),
            inherit: self.domain.inheritance().unwrap().into(),
            restart: Restart::OnFailure(Pacing::at_once(KILLS)),
            stdout: Output::To(Arc::new(to.into())),
            ..WorkerSpec::new(function, Program::This)
        });
        let mut here = [0; 5];
        within(LIMIT, || File::from(OwnedFd::from(reader)).read_exact(&mut here)).unwrap();
        worker.unwrap()
    }

    fn writer(&self, delay: Duration) -> WorkerId {
        let options = WriterOptions { delay, pages_max: 1000, multiplier: 10.0 };
        self.spawn("writer", 0, BackgroundWriter { pool: "pages".into(), options }.args())
    }

    fn prewarm(&self, interval: Duration) -> WorkerId {
        let dump = self.path("dump");
        self.spawn("prewarm", 0, Autoprewarm { pool: "pages".into(), dump, interval }.args())
    }

    fn clients(&self) -> Vec<WorkerId> {
        let said = |who| vec![self.path(&format!("said-{who}")).into()];
        (0..CLIENTS).map(|who| self.spawn("client", who.into(), said(who))).collect()
    }

    /// Kills a worker, and waits until it is there again.
    fn kill(&self, worker: WorkerId) {
        assert!(self.supervisor.kill(worker));
        let killed = Exit::Signal(libc::SIGKILL);
        assert_eq!(self.end_of(worker), killed);
        self.next(|event| matches!(event, Event::Started { worker: it, .. } if *it == worker));
    }

    /// Tells it to stop: how it ended.
    fn stop(&self, worker: WorkerId) -> Exit {
        assert!(self.supervisor.stop(worker, 2 * LIMIT));
        self.end_of(worker)
    }

    fn end_of(&self, worker: WorkerId) -> Exit {
        let ended =
            |event: &Event| matches!(event, Event::Ended { worker: it, .. } if *it == worker);
        match self.next(ended) {
            Event::Ended { how, .. } => how,
            event => panic!("{event:?}"),
        }
    }

    fn next(&self, wanted: impl Fn(&Event) -> bool) -> Event {
        let deadline = Some(Instant::now() + LIMIT);
        let events = std::iter::from_fn(|| self.supervisor.next_event(deadline));
        events.into_iter().find(wanted).expect("it happens in time")
    }

    fn info(&self, worker: WorkerId) -> WorkerInfo {
        self.supervisor.workers().into_iter().find(|info| info.id == worker).unwrap()
    }

    /// Has the clients end: each has lived all the time, and what it did is in the file.
    fn check(&self, clients: &[WorkerId]) {
        for client in clients {
            assert_eq!((self.stop(*client), self.info(*client).attempts), (Exit::Code(0), 1));
        }
        self.session.sync(self.files[0]).unwrap();
        let said = (0..CLIENTS).map(|who| numbers(&self.path(&format!("said-{who}"))));
        let said: Vec<_> = said.collect();
        let file = fs::read(self.path("1")).unwrap();
        assert_eq!(file.len(), BLOCKS as usize * PAGE);
        for (block, page) in file.chunks(PAGE).enumerate() {
            let count = said[block % said.len()][block];
            let expected = count.to_le_bytes().repeat((PAGE - HEADER_BYTES) / 8);
            assert!(page[HEADER_BYTES..] == expected, "block {block} of {count} changes");
        }
        self.pool.reap();
        assert_eq!(self.pool.summary().unwrap().pinned, 0);
    }

    /// Ends all that there is of the pool.
    fn end(self) -> Arc<TempDir> {
        let World { supervisor, session, pool, domain, unique, directory, .. } = self;
        assert!(supervisor.shutdown(LIMIT).iter().all(|info| info.last_exit.is_some()));
        drop((session, pool));
        domain.remove_named("pages").unwrap();
        drop(domain);
        unique.assert_nothing_left(LIMIT);
        directory
    }
}

fn numbers(path: &Path) -> Vec<u64> {
    fs::read_to_string(path).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

/// How many pages a whole dump has.
fn pages_of(dump: &Path) -> usize {
    let text = fs::read_to_string(dump).unwrap();
    let (count, pages) = text.split_once('\n').unwrap();
    assert!(pages.is_empty() || pages.ends_with('\n'), "{text}");
    assert_eq!(pages.lines().count().to_string(), count);
    pages.lines().count()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn pages_are_written_while_clients_only_change_them() {
    let world = World::new(FRAMES);
    let writer = world.writer(Duration::from_millis(1));
    let clients = world.clients();
    until("pages are written", || world.pool.stats().cleaned > 2000);
    assert_eq!((world.stop(writer), world.info(writer).attempts), (Exit::Code(0), 1));
    world.check(&clients);
    world.end();
}

#[test]
fn a_writer_that_is_killed_is_there_again_and_nothing_is_lost() {
    let world = World::new(FRAMES);
    let writer = world.writer(Duration::from_micros(10));
    let (clients, mut state) = (world.clients(), 9);
    for nth in 1..=KILLS {
        let before = world.pool.stats().cleaned;
        until("it works", || world.pool.stats().cleaned > before);
        std::thread::sleep(Duration::from_micros(random::next(&mut state) % 3000));
        world.kill(writer);
        assert_eq!(world.info(writer).attempts, nth + 1);
    }
    world.check(&clients);
    world.end();
}

#[test]
fn who_is_told_to_stop_leaves_at_once() {
    let world = World::new(FRAMES);
    let starts: [&dyn Fn() -> WorkerId; 3] =
        [&|| world.writer(HOUR), &|| world.prewarm(HOUR), &|| world.prewarm(Duration::ZERO)];
    for start in starts {
        for wait_ms in [0, 10, 100] {
            let worker = start();
            std::thread::sleep(Duration::from_millis(wait_ms));
            assert_eq!((world.stop(worker), world.info(worker).attempts), (Exit::Code(0), 1));
        }
    }
    assert_eq!(pages_of(&world.path("dump")), 0);
    world.end();
}

/// A writer and, beside it, one who changes pages: none can be written until the writer has tried.
fn writes_in_vain(_: &[String]) {
    let worker = here();
    let store = Arc::new(Memory::default());
    let pool = pool_of(&small(), store.clone());
    let options = WriterOptions { delay: Duration::from_millis(1), ..WriterOptions::default() };
    let writer = BackgroundWriter { pool: "none".into(), options };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let session = pool.session().unwrap();
            let options = FileOptions { create: true, blocks_max: Some(64) };
            let file = session.register(key(1), Path::new("/file"), &options).unwrap();
            session.extend(file, 40).unwrap();
            let mut blocks = (0..40).cycle();
            let mut change_until = |is_so: &dyn Fn() -> bool| {
                until("the writer works", || {
                    // No page leaves its frame where none can be written.
                    if let Ok(page) = session.page(file, blocks.next().unwrap()) {
                        page.exclusive().unwrap().write(&[(40, b"new")]).unwrap();
                    }
                    is_so()
                });
            };
            store.faults.writes.store(u32::MAX, Relaxed);
            change_until(&|| pool.stats().write_errors > session.stats().write_errors);
            store.faults.none();
            change_until(&|| pool.stats().cleaned > 0);
            kill_process(getpid(), Signal::TERM).unwrap();
        });
        writer.run(&worker, &pool).unwrap();
    });
}

#[test]
fn a_page_that_cannot_be_written_does_not_end_the_writer() {
    let world = World::new(FRAMES);
    let worker = world.spawn("writes_in_vain", 0, Vec::new());
    assert_eq!((world.end_of(worker), world.info(worker).attempts), (Exit::Code(0), 1));
    world.end();
}

#[test]
fn a_pool_is_as_warm_as_before_all_ended() {
    let world = World::new(FRAMES);
    let worker = world.prewarm(HOUR);
    for (file, blocks) in world.files.iter().zip([5..25, 0..3, 290..300]) {
        world.session.prewarm(*file, blocks, Prewarm::Buffer).unwrap();
    }
    let resident = world.pool.resident();
    assert_eq!(resident.len(), 33);
    assert_eq!(world.stop(worker), Exit::Code(0));
    assert_eq!(pages_of(&world.path("dump")), 33);
    let directory = world.end();

    let world = World::over(directory, FRAMES);
    assert_eq!(world.pool.resident(), []);
    world.prewarm(HOUR);
    until("the pool is warm", || world.pool.resident() == resident);
    let before = world.pool.stats();
    for (FileKey { id, .. }, block) in resident {
        drop(world.session.page(world.files[id as usize - 1], block).unwrap());
    }
    let stats = world.pool.stats();
    assert_eq!((stats.reads, stats.hits), (before.reads, before.hits + 33));
    world.end();
}

#[test]
fn what_is_not_there_any_more_is_left_out() {
    let world = World::new(FRAMES);
    world.files.iter().for_each(|file| {
        world.session.prewarm(*file, 0..10, Prewarm::Buffer).unwrap();
    });
    world.pool.dump(&world.path("dump")).unwrap();
    world.session.truncate(world.files[1], 4).unwrap();
    world.session.forget(world.files[2]).unwrap();
    world.session.evict_all().unwrap();
    let worker = world.prewarm(HOUR);
    until("the pool is warm", || world.pool.resident().len() == 14);
    assert_eq!(world.stop(worker), Exit::Code(0));
    assert_eq!(pages_of(&world.path("dump")), 14);
    world.end();
}

#[test]
fn a_damaged_dump_is_done_without_and_replaced() {
    let world = World::new(FRAMES);
    world.session.prewarm(world.files[0], 0..7, Prewarm::Buffer).unwrap();
    let dump = world.path("dump");
    for damaged in ["", "3\n1,0,8\n1,0,9\n", "no dump\n"] {
        fs::write(&dump, damaged).unwrap();
        let worker = world.prewarm(HOUR);
        assert_eq!((world.stop(worker), world.info(worker).attempts), (Exit::Code(0), 1));
        assert_eq!((pages_of(&dump), world.pool.resident().len()), (7, 7));
    }
    world.end();
}

#[test]
fn there_is_a_whole_dump_whoever_is_killed() {
    let world = World::new(FRAMES);
    world.session.prewarm(world.files[0], 0..50, Prewarm::Buffer).unwrap();
    let dump = world.path("dump");
    let (worker, mut state) = (world.prewarm(Duration::from_millis(1)), 5);
    until("there is a dump", || dump.exists());
    for _ in 0..KILLS {
        let before = fs::metadata(&dump).unwrap().modified().unwrap();
        until("it dumps", || fs::metadata(&dump).unwrap().modified().unwrap() != before);
        std::thread::sleep(Duration::from_micros(random::next(&mut state) % 2000));
        world.kill(worker);
        assert_eq!(pages_of(&dump), 50);
    }
    // The last one is not killed.
    let before = fs::metadata(&dump).unwrap().modified().unwrap();
    until("it dumps", || fs::metadata(&dump).unwrap().modified().unwrap() != before);
    assert_eq!(world.stop(worker), Exit::Code(0));
    let entries = fs::read_dir(world.directory.path()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["1", "2", "3", "dump"], "nothing is left beside it");
    world.end();
}

#[test]
fn who_is_stopped_while_it_loads_leaves_the_dump() {
    const MANY: u32 = 4096;
    let world = World::new(MANY);
    world.session.prewarm(world.files[0], 0..MANY, Prewarm::Buffer).unwrap();
    let dump = world.path("dump");
    world.pool.dump(&dump).unwrap();
    let mut cut_short = 0;
    for wait_ms in [0, 0, 0, 1, 2, 5, 10] {
        world.session.evict_all().unwrap();
        let worker = world.prewarm(HOUR);
        std::thread::sleep(Duration::from_millis(wait_ms));
        assert_eq!(world.stop(worker), Exit::Code(0));
        cut_short += u32::from(world.pool.resident().len() < MANY as usize);
        assert_eq!(pages_of(&dump), MANY as usize);
    }
    assert!(cut_short > 0, "loading was always done");
    world.end();
}

#[test]
fn who_is_killed_while_it_loads_goes_on() {
    const MANY: u32 = 4096;
    let world = World::new(MANY);
    world.session.prewarm(world.files[0], 0..MANY, Prewarm::Buffer).unwrap();
    world.pool.dump(&world.path("dump")).unwrap();
    let mut cut_short = 0;
    for wait_ms in [0, 0, 0, 1, 2, 5, 10] {
        world.session.evict_all().unwrap();
        let worker = world.prewarm(HOUR);
        std::thread::sleep(Duration::from_millis(wait_ms));
        world.kill(worker);
        cut_short += u32::from(world.pool.resident().len() < MANY as usize);
        until("the pool is warm", || world.pool.resident().len() == MANY as usize);
        // The signal may come before it heeds it.
        world.stop(worker);
    }
    assert!(cut_short > 0, "loading was always done");
    world.end();
}

/// Has a pool prewarmed, and dies.
fn leader(args: &[String]) {
    let world = World::over(Arc::new(TempDir::new("leader")), FRAMES);
    fs::write(&args[0], "0\n").unwrap();
    let prewarm = Autoprewarm { interval: HOUR, ..Autoprewarm::new("pages", &args[0]) };
    let worker = world.spawn("prewarm", 0, prewarm.args());
    world.session.prewarm(world.files[0], 0..7, Prewarm::Buffer).unwrap();
    let Event::Started { process, .. } = world.next(|_| true) else { panic!("{worker:?}") };
    child::tell_parent(&process.pid().to_string());
    child::tell_parent(world.unique.name());
    child::tell_parent(world.directory.path().to_str().unwrap());
    child::parent_says();
}

#[test]
fn who_loses_its_leader_leaves_the_dump() {
    let directory = TempDir::new("leaderless");
    let dump = directory.path().join("dump");
    let mut leader = Child::spawn("leader", &[dump.to_str().unwrap()]);
    let process = format!("/proc/{}", leader.hear(LIMIT));
    let (domain, files) = (leader.hear(LIMIT), leader.hear(LIMIT));
    leader.kill();
    until("it leaves", || !Path::new(&process).exists());
    assert_eq!(pages_of(&dump), 0);
    fs::remove_dir_all(files).unwrap();
    Domain::open(DomainConfig::new(domain)).unwrap().remove_named("pages").unwrap();
}
