//! The leader: makes the segment, starts the workers, takes their messages, merges.
use super::board::{self, Board, internal};
use super::chaos::Chaos;
use super::lane::{self, Report};
use super::message::Message;
use super::store::{self, Store, StoreError};
use super::{SEGMENT_VARIABLE, environment, open_domain};
use crate::agg::error::AggError;
use crate::agg::groups::{Groups, Shape};
use crate::agg::interrupt::Interrupt;
use crate::agg::job::{Job, Outcome, SegmentUse};
use crate::agg::options::{AUTO_GROUPS, Options, Sharing, WORKERS_MAX};
use crate::agg::progress::Progress;
use crate::agg::scan::{ChunkStats, ScanError};
use bgworker::cursor::PieceState;
use bgworker::{
    Event, Exit, Inheritance, Output, Program, State, Supervisor, SupervisorConfig, WorkerId,
    WorkerSpec,
};
use dsm::backend::Backend;
use dsm::{Domain, Segment};
use rustix::fs::{MemfdFlags, memfd_create};
use shm_core::participants::ParticipantId;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the leader sleeps before it looks at signals and the supervisor's news.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Workers are told to stop, and killed this much later. Each looks up after its chunk.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Workers that die by themselves, before the leader gives up.
const ACCIDENTS_MAX: u64 = 16;

/// What is shown of the workers' messages.
const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// How a worker ends that lacks what another one would lack too: see [`AggError::exit_code`].
const UNUSABLE_ENVIRONMENT: Exit = Exit::Code(2);

/// Answers the job with worker processes.
///
/// # Errors
/// [`AggError`]: of the faulty rows the one in the first chunk that has any. No process, segment or
/// file is left behind.
///
/// # If a process dies here
/// A worker: see the [module](super). The leader: its workers leave, and the next run cleans up.
pub fn run(
    job: &mut Job,
    options: &Options,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<Outcome, AggError> {
    let began = Instant::now();
    let domain = open_domain(options)?;
    if job.looks_quoted()? {
        job.cut_exactly(interrupt).map_err(|error| unless_changed(job, error))?;
    }
    let mut kills = 0;
    loop {
        let mut run = Run::new(&domain, job, options, progress)?;
        let kills_left = u64::from(options.kills) - kills;
        let chaos = options.chaos.then_some(kills_left);
        let end = run.start(chaos).and_then(|()| run.finish_all(interrupt));
        kills += run.stop();
        run.pass_on_messages(&end);
        let segments = run.segments();
        drop(run);
        match end? {
            End::Answer { groups, shared_groups } => {
                job.check_unchanged()?;
                let backend = Some(domain.backend());
                let workers = workers(options);
                let elapsed = began.elapsed();
                return Ok(Outcome {
                    groups,
                    elapsed,
                    workers,
                    backend,
                    kills,
                    shared_groups,
                    segments,
                });
            }
            End::Quoted => {
                job.cut_exactly(interrupt).map_err(|error| unless_changed(job, error))?;
                progress.restart();
            }
        }
    }
}

/// Who writes to the file meanwhile is to hear of that, not of half a row.
fn unless_changed(job: &Job, fault: AggError) -> AggError {
    match fault {
        AggError::Scan { .. } => job.check_unchanged().err().unwrap_or(fault),
        fault => fault,
    }
}

fn workers(options: &Options) -> u32 {
    let processors = || std::thread::available_parallelism().map_or(1, |n| n.get());
    options.workers.unwrap_or_else(|| processors().min(WORKERS_MAX as usize) as u32)
}

/// How a run ended.
enum End {
    Answer {
        groups: Groups,
        shared_groups: u64,
    },
    /// The chunks were cut where records do not end: cut exactly and begin again.
    Quoted,
}

/// One run over the chunks of a job.
struct Run<'a> {
    domain: &'a Domain,
    job: &'a Job,
    progress: &'a Progress,
    inherit: Inheritance,
    /// What workers write to standard error.
    messages: Arc<OwnedFd>,
    me: Arc<shm_core::participants::Member>,
    supervisor: Arc<Supervisor>,
    chaos: Option<Chaos>,
    lanes: u32,
    /// The worker of each lane; the chaos thread looks too.
    workers: Arc<Mutex<Vec<WorkerId>>>,
    threads: Vec<JoinHandle<()>>,
    sender: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    tally: Tally,
    kills: u64,
    accidents: u64,
    sharing: Sharing,
    /// Not to be shared is an error.
    must_share: bool,
    store_job: store::Job,
    /// The shared groups: workers use them once the board says so.
    store: Option<Store>,
    board: Board,
    /// Dropped last: to remove it takes descriptors, and the others have some to give back.
    segment: Segment,
}

/// What has been counted so far.
struct Tally {
    groups: Groups,
    done: Vec<bool>,
    chunks: u64,
    rows: u64,
    bytes: u64,
    /// The first chunk known to be at fault.
    fault: Option<(u64, ScanError)>,
}

impl<'a> Run<'a> {
    /// A run that has not begun.
    fn new(
        domain: &'a Domain,
        job: &'a Job,
        options: &Options,
        progress: &'a Progress,
    ) -> Result<Run<'a>, AggError> {
        let (plan, edges) = (job.plan().encode(), job.chunks().edges());
        let (chunks, workers) = (job.chunks().count(), workers(options));
        let groups_bytes = options.groups_bytes(domain.backend());
        let made_for = board::Job { plan: &plan, edges, chunks, workers, groups_bytes };
        let segment = domain.create_segment(made_for.segment_bytes()?).map_err(environment)?;
        let board = Board::create(segment.mapping(), &made_for)?;
        let store_job = board.store(segment.handle(), Shape::from(job.plan().query()))?;
        let store = early_store(domain, &store_job, options.groups)?;
        let supervisor = Supervisor::start(SupervisorConfig::default()).map_err(no_thread)?;
        let (sender, reports) = mpsc::channel();
        let mut run = Run {
            domain,
            sharing: options.groups,
            must_share: options.groups == Sharing::Shared,
            store_job,
            store,
            inherit: inheritance(domain, &segment)?,
            messages: Arc::new(messages()?),
            me: domain.member().clone(),
            tally: Tally::new(job, chunks),
            lanes: workers,
            workers: Arc::default(),
            supervisor: Arc::new(supervisor),
            chaos: None,
            threads: Vec::new(),
            kills: 0,
            accidents: 0,
            job,
            progress,
            segment,
            board,
            sender,
            reports,
        };
        if run.sharing == Sharing::Shared {
            run.share();
        }
        Ok(run)
    }

    /// Has the workers share their groups from now on.
    fn share(&mut self) {
        if let Some(store) = &self.store {
            self.board.share_groups(store.handle());
        }
    }

    /// There are so many groups that they are better shared, where that can be.
    fn share_late(&mut self) {
        self.sharing = Sharing::Shared;
        if self.store.is_none() {
            self.store = Store::make(self.domain, &self.store_job).ok();
        }
        self.share();
    }

    /// Starts the workers, and who kills so many of them. To be stopped whether it succeeds or not.
    fn start(&mut self, kills: Option<u64>) -> Result<(), AggError> {
        for lane in 0..self.lanes {
            let worker = self.start_worker(lane)?;
            self.lock_workers().push(worker);
        }
        if let Some(kills) = kills {
            let chunks = self.job.chunks().count();
            let chaos = Chaos::start(kills, chunks, &self.supervisor, &self.workers);
            self.chaos = Some(chaos.map_err(no_thread)?);
        }
        Ok(())
    }

    /// Makes the lane's queue, and starts a worker on it.
    fn start_worker(&mut self, lane: u32) -> Result<WorkerId, AggError> {
        // SAFETY: nobody has been started on this lane, or its worker is gone (`Report::Ended`),
        // and this process's receiver with it.
        let stream = unsafe { self.board.make_queue(lane)? };
        let mut receiver = stream.receiver(&self.me).map_err(internal)?;
        let worker = self.supervisor.spawn(WorkerSpec {
            argument: u64::from(lane),
            stderr: Output::To(self.messages.clone()),
            inherit: self.inherit.clone(),
            ..WorkerSpec::new(format!("agg {lane}"), Program::This)
        });
        let worker = worker.map_err(environment)?;
        let started = self.supervisor.workers().into_iter().find(|info| info.id == worker);
        match started.map(|info| info.state) {
            Some(State::Started(process)) => receiver.expect_peer(process),
            // It has died already, perhaps with a chunk; what it sent of it goes with the queue.
            _ => {
                let gone = stream.status().sender.owner;
                let _ = self.sender.send(Report::Ended { lane, worker: gone });
                return Ok(worker);
            }
        }
        let shape = Shape::from(self.job.plan().query());
        let thread = lane::listen(lane, shape, stream, receiver, self.sender.clone());
        self.threads.push(thread.map_err(no_thread)?);
        Ok(worker)
    }

    /// Takes reports until every chunk is counted, or one is known to be the first at fault.
    fn finish_all(&mut self, interrupt: &Interrupt) -> Result<End, AggError> {
        while !self.tally.is_complete() {
            interrupt.check()?;
            self.hear_supervisor()?;
            match self.reports.recv_timeout(LOOK_EVERY) {
                Ok(Report::Message { worker, message }) => {
                    if !self.take(worker, message)? {
                        return Ok(End::Quoted);
                    }
                }
                Ok(Report::Ended { lane, worker }) => self.replace(lane, worker)?,
                Ok(Report::Broken(error)) => return Err(error),
                Err(_) => {}
            }
            if let Some(error) = self.tally.first_fault() {
                return Err(unless_changed(self.job, self.job.scan_error(error)));
            }
        }
        let empty = self.job.no_groups();
        let mut groups = std::mem::replace(&mut self.tally.groups, empty);
        let shared_groups = match &mut self.store {
            None => 0,
            Some(store) => {
                store.reap();
                store.collect(&self.board.cursor, &mut groups, || interrupt.check())?
            }
        };
        Ok(End::Answer { groups, shared_groups })
    }

    /// Counts a message; `false` where the chunks have to be cut anew.
    fn take(&mut self, worker: ParticipantId, message: Message) -> Result<bool, AggError> {
        match message {
            Message::Quoted => return Ok(false),
            Message::Done { chunk, stats, groups } => {
                if self.board.cursor.complete(chunk, worker) {
                    self.tally.add(chunk, &stats, groups)?;
                    self.progress.advance(stats.bytes);
                }
                if self.sharing == Sharing::Auto && self.tally.groups.len() >= AUTO_GROUPS {
                    self.share_late();
                }
            }
            Message::Committed { chunk, stats } => {
                if self.is_committed(chunk, worker) {
                    self.tally.count(chunk, &stats);
                    self.progress.advance(stats.bytes);
                }
            }
            Message::Unshared { why } if self.must_share => return Err(cannot_share(&why)),
            Message::Unshared { .. } => {}
            Message::Fault { chunk, error } => {
                if self.board.cursor.complete(chunk, worker) {
                    self.tally.fault(chunk, error);
                }
            }
        }
        let Tally { chunks, rows, bytes, .. } = self.tally;
        self.board.show_progress(chunks, rows, bytes);
        if let Some(chaos) = &mut self.chaos {
            chaos.at(chunks);
        }
        Ok(true)
    }

    /// The lane's worker is gone, and all that it had sent is counted.
    fn replace(&mut self, lane: u32, gone: Option<ParticipantId>) -> Result<(), AggError> {
        if let Some(gone) = gone {
            self.board.cursor.release(gone);
            self.count_what_was_committed(gone);
            if let Some(store) = &self.store {
                store.reap();
            }
        }
        let worker = self.start_worker(lane)?;
        self.lock_workers()[lane as usize] = worker;
        Ok(())
    }

    fn is_committed(&self, chunk: u64, worker: ParticipantId) -> bool {
        self.board.cursor.state(chunk) == Some(PieceState::Committed(worker))
    }

    /// Counts the chunks that a worker had committed when it died before it could tell.
    fn count_what_was_committed(&mut self, gone: ParticipantId) {
        for (chunk, part) in (0..).zip(self.job.chunks().iter()) {
            if !self.tally.is_done(chunk) && self.is_committed(chunk, gone) {
                let bytes = part.end.saturating_sub(part.start);
                // The rows will be counted with the groups.
                self.tally.count(chunk, &ChunkStats { rows: 0, bytes, next: 0 });
                self.progress.advance(bytes);
            }
        }
    }

    /// Learns how workers ended.
    fn hear_supervisor(&mut self) -> Result<(), AggError> {
        while let Some(event) = self.supervisor.next_event(Some(Instant::now())) {
            let Event::Ended { worker, how, .. } = event else { continue };
            self.supervisor.forget(worker);
            if self.chaos.as_ref().is_some_and(|chaos| chaos.has_killed(worker)) {
                self.kills += 1;
                self.progress.workers(self.lock_workers().len(), self.kills);
            } else {
                self.accident(how)?;
            }
        }
        Ok(())
    }

    /// A worker ended before the job did, and not by our doing: it is replaced, up to a point.
    fn accident(&mut self, how: Exit) -> Result<(), AggError> {
        self.accidents += 1;
        if how == UNUSABLE_ENVIRONMENT {
            let messages = self.messages();
            let first = messages.lines().next().unwrap_or("a worker cannot begin");
            return Err(environment(first.trim_start_matches("shmctl: ")));
        }
        if self.accidents <= ACCIDENTS_MAX {
            return Ok(());
        }
        Err(AggError::Internal(format!(
            "{} workers have ended before their job, the last one by {how}",
            self.accidents
        )))
    }

    fn messages(&self) -> String {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let len = rustix::io::pread(&self.messages, &mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    /// Shows what workers wrote, but where it is known already or of no matter any more.
    fn pass_on_messages(&self, end: &Result<End, AggError>) {
        if matches!(end, Ok(_) | Err(AggError::Internal(_) | AggError::Corrupt(_))) {
            let _ = std::io::stderr().write_all(self.messages().as_bytes());
        }
    }

    /// Ends the workers, and waits for them; how many chaos has killed.
    fn stop(&mut self) -> u64 {
        if let Some(chaos) = &mut self.chaos {
            chaos.end();
        }
        self.board.cursor.finish();
        self.supervisor.shutdown(STOP_GRACE);
        // The job is over: that a worker had no time to do its part is no accident any more.
        self.accidents = 0;
        let _ = self.hear_supervisor();
        for thread in self.threads.drain(..) {
            // A lane's thread ends when its worker is dead.
            let _ = thread.join();
        }
        self.kills
    }

    fn segments(&self) -> Vec<SegmentUse> {
        let name = self.segment.handle().to_string();
        let job = SegmentUse { name, bytes: self.segment.len() };
        [job].into_iter().chain(self.store.as_ref().map(Store::segment)).collect()
    }

    fn lock_workers(&self) -> std::sync::MutexGuard<'_, Vec<WorkerId>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if self.store.take().is_some() {
            Store::remove(self.domain, &self.store_job);
        }
    }
}

/// The store that has to be there before the workers start: where groups are to be shared from the
/// beginning, or where only children find a segment, those that are started later (`memfd`).
fn early_store(
    domain: &Domain,
    job: &store::Job,
    sharing: Sharing,
) -> Result<Option<Store>, AggError> {
    let is_due = match sharing {
        Sharing::Messages => false,
        Sharing::Shared => true,
        Sharing::Auto => domain.backend() == Backend::Memfd,
    };
    match is_due.then(|| Store::make(domain, job)).transpose() {
        Ok(store) => Ok(store),
        Err(_) if sharing == Sharing::Auto => Ok(None),
        Err(StoreError::Refused(why)) => Err(cannot_share(&why)),
        Err(StoreError::Failed(error)) => Err(error),
    }
}

/// Groups are to be shared, and cannot be.
fn cannot_share(why: &str) -> AggError {
    environment(format!(
        "the groups cannot be shared: {why}; give them more memory with --groups-memory, make room \
         for shared memory, or give --groups messages"
    ))
}

/// A file without a name: nobody has to read it for workers to get on.
fn messages() -> Result<OwnedFd, AggError> {
    memfd_create("messages", MemfdFlags::CLOEXEC).map_err(|errno| {
        let error = std::io::Error::from(errno);
        environment(format!("no file for messages: {error}; raise the limit on files (ulimit -n)"))
    })
}

fn no_thread(error: std::io::Error) -> AggError {
    environment(format!(
        "a thread cannot be started: {error}; raise the limits on processes and files (ulimit -u, \
         ulimit -n, cgroup pids.max)"
    ))
}

/// What a worker inherits: the way into the domain, and the name of the segment.
fn inheritance(domain: &Domain, segment: &Segment) -> Result<Inheritance, AggError> {
    let domain = domain.inheritance().map_err(|error| {
        environment(format!("no descriptor for the workers: {error}; raise the limit (ulimit -n)"))
    })?;
    let mut inherit = Inheritance::from(domain);
    inherit.env.push((SEGMENT_VARIABLE.into(), segment.handle().to_string().into()));
    Ok(inherit)
}

impl Tally {
    fn new(job: &Job, chunks: u64) -> Tally {
        let done = vec![false; chunks as usize];
        Tally { groups: job.no_groups(), done, chunks: 0, rows: 0, bytes: 0, fault: None }
    }

    fn is_complete(&self) -> bool {
        self.chunks == self.done.len() as u64
    }

    fn add(&mut self, chunk: u64, stats: &ChunkStats, groups: Groups) -> Result<(), AggError> {
        self.count(chunk, stats);
        self.groups.merge(groups).map_err(|_| internal("more rows than can be counted"))
    }

    fn fault(&mut self, chunk: u64, error: ScanError) {
        self.mark(chunk);
        if self.fault.as_ref().is_none_or(|(first, _)| chunk < *first) {
            self.fault = Some((chunk, error));
        }
    }

    /// A chunk that the cursor calls complete, wherever its groups are; a second time is none.
    fn count(&mut self, chunk: u64, stats: &ChunkStats) {
        if !self.is_done(chunk) {
            self.mark(chunk);
            self.rows = self.rows.saturating_add(stats.rows);
            self.bytes = self.bytes.saturating_add(stats.bytes);
        }
    }

    fn is_done(&self, chunk: u64) -> bool {
        self.done[chunk as usize]
    }

    fn mark(&mut self, chunk: u64) {
        self.done[chunk as usize] = true;
        self.chunks += 1;
    }

    /// The first fault of the file, once all chunks before it are known to have none.
    fn first_fault(&self) -> Option<ScanError> {
        let (chunk, error) = self.fault.as_ref()?;
        self.done[..*chunk as usize].iter().all(|done| *done).then(|| error.clone())
    }
}
