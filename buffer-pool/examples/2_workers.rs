//! A leader with a pool of pages, a worker that writes them out, one that keeps the pool warm, and
//! clients that count in them. The writer is killed, as an accident would, and replaced; no client
//! notices.
//!
//! `cargo run -p buffer-pool --features bgworker --example 2_workers`
#![cfg_attr(any(shm_loom, shm_explore), no_main)]
#![cfg(not(any(shm_loom, shm_explore)))]
use bgworker::{
    Event, Pacing, Program, Restart, Supervisor, SupervisorConfig, Worker, WorkerId, WorkerSpec,
};
use buffer_pool::HEADER_BYTES;
use buffer_pool::files::FileKey;
use buffer_pool::pool::{FileOptions, Pool, PoolConfig, PoolOptions, WriterOptions};
use buffer_pool::workers::{Autoprewarm, BackgroundWriter, autoprewarm, background_writer};
use dsm::{Domain, DomainConfig};
use std::error::Error;
use std::ffi::OsString;
use std::time::{Duration, Instant};

/// Four times as many as the pool has room for.
const BLOCKS: u32 = 1024;
const CLIENTS: u32 = 3;
const CHANGES: u32 = 100_000;
const GAMES: FileKey = FileKey { id: 1, fork: 0 };

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Work = fn(&Worker, &[OsString]) -> Result<()>;

/// What a worker does that has this name.
const WORKERS: [(&str, Work); 3] = [
    ("writer", |worker, args| Ok(background_writer(worker, args)?)),
    ("prewarm", |worker, args| Ok(autoprewarm(worker, args)?)),
    ("client", |worker, _| client(worker)),
];

fn main() -> Result<()> {
    let Some(worker) = Worker::from_env()? else { return lead() };
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let (_, work) =
        WORKERS.iter().find(|(name, _)| *name == worker.name()).ok_or("no such work")?;
    work(&worker, &args)
}

/// Counts in pages of its own.
fn client(worker: &Worker) -> Result<()> {
    let domain = Domain::from_env()?;
    let pool = Pool::find_named(&domain, "pages", PoolOptions::default())?;
    let session = pool.session()?;
    let games = pool.find_file(GAMES).ok_or("the leader has registered no file")?;
    for nth in 0..CHANGES {
        // One after the other, in an order of no meaning.
        let mine = u64::from(nth) * 7919 % u64::from(BLOCKS / CLIENTS);
        let block = mine as u32 * CLIENTS + worker.argument() as u32;
        let page = session.page(games, block)?;
        let mut held = page.exclusive()?;
        let count = held.view().u64(HEADER_BYTES).ok_or("a page without a count")? + 1;
        held.write(&[(HEADER_BYTES, &count.to_le_bytes())])?;
    }
    Ok(())
}

fn lead() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let domain = Domain::open(DomainConfig::new(format!("example-{}", std::process::id())))?;
    let config = PoolConfig { processes: 16, ..PoolConfig::new(2 << 20) };
    let pool = Pool::named(&domain, "pages", &config, PoolOptions::default())?;
    let session = pool.session()?;
    let options = FileOptions { create: true, ..FileOptions::default() };
    let games = session.register(GAMES, &directory.path().join("games"), &options)?;
    session.extend(games, BLOCKS)?;

    let supervisor = Supervisor::start(SupervisorConfig::default())?;
    let spawn = |name: &str, argument: u32, args: Vec<OsString>| -> Result<WorkerId> {
        Ok(supervisor.spawn(WorkerSpec {
            argument: argument.into(),
            args,
            inherit: domain.inheritance()?.into(),
            restart: Restart::OnFailure(Pacing::default()),
            ..WorkerSpec::new(name, Program::This)
        })?)
    };
    let options = WriterOptions { delay: Duration::from_millis(1), ..WriterOptions::default() };
    let writer = spawn("writer", 0, BackgroundWriter { pool: "pages".into(), options }.args())?;
    let dump = directory.path().join("dump");
    spawn("prewarm", 0, Autoprewarm::new("pages", &dump).args())?;
    let clients = (0..CLIENTS).map(|who| spawn("client", who, Vec::new()));
    let clients = clients.collect::<Result<Vec<_>>>()?;
    kill_and_watch(&pool, &supervisor, writer, &clients);

    let mut changes = 0;
    for block in 0..BLOCKS {
        let count = session.read(games, block, |view| view.u64(HEADER_BYTES))?;
        changes += count.ok_or("a page without a count")?;
    }
    session.sync(games)?;
    println!("{changes} changes; {:?}", pool.stats());
    assert_eq!(changes, u64::from(CLIENTS * CHANGES), "none is lost");
    session.evict_all()?;
    println!("a pool that begins anew is warm: {:?}", session.load(&dump)?);
    drop((session, pool));
    domain.remove_named("pages")?;
    Ok(())
}

/// Kills the writer at work, and waits until the clients have done theirs.
fn kill_and_watch(pool: &Pool, supervisor: &Supervisor, writer: WorkerId, clients: &[WorkerId]) {
    let end = Instant::now() + Duration::from_secs(30);
    while pool.stats().cleaned < 100 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("the writer has written {} pages, and is killed", pool.stats().cleaned);
    supervisor.kill(writer);
    let mut at_work = clients.len();
    while at_work > 0 {
        let Some(event) = supervisor.next_event(Some(end)) else { break };
        println!("{event:?}");
        let is_client = matches!(event, Event::Ended { worker, .. } if clients.contains(&worker));
        at_work -= usize::from(is_client);
    }
    // The last dump is written now.
    for worker in supervisor.shutdown(Duration::from_secs(5)) {
        println!("{}: {} processes, {:?}", worker.name, worker.attempts, worker.last_exit);
    }
}
