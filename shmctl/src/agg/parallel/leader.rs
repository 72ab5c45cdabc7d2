//! The leader: makes the segment, starts the workers, takes their messages, merges.
use super::board::{self, Board, internal};
use super::chaos::Chaos;
use super::lane::{self, Report};
use super::message::Message;
use super::{SEGMENT_VARIABLE, environment, open_domain};
use crate::agg::error::AggError;
use crate::agg::groups::{Groups, Shape};
use crate::agg::interrupt::Interrupt;
use crate::agg::job::{Job, Outcome, SegmentUse};
use crate::agg::options::{Options, WORKERS_MAX};
use crate::agg::progress::Progress;
use crate::agg::scan::{ChunkStats, ScanError};
use bgworker::{
    Event, Exit, Inheritance, Output, Program, State, Supervisor, SupervisorConfig, WorkerId,
    WorkerSpec,
};
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
        let mut run = Run::new(&domain, job, workers(options), progress)?;
        let kills_left = u64::from(options.kills) - kills;
        let chaos = options.chaos.then_some(kills_left);
        let end = run.start(chaos).and_then(|()| run.finish_all(interrupt));
        kills += run.stop();
        run.pass_on_messages(&end);
        let segments = run.segments();
        drop(run);
        match end? {
            End::Answer(groups) => {
                job.check_unchanged()?;
                let backend = Some(domain.backend());
                let workers = workers(options);
                let elapsed = began.elapsed();
                return Ok(Outcome { groups, elapsed, workers, backend, kills, segments });
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
    Answer(Groups),
    /// The chunks were cut where records do not end: cut exactly and begin again.
    Quoted,
}

/// One run over the chunks of a job.
struct Run<'a> {
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
    board: Board,
    /// Dropped last: to remove it takes descriptors, and the others have some to give back.
    segment: Segment,
}

/// What has been counted so far.
struct Tally {
    groups: Groups,
    done: Vec<bool>,
    chunks: u64,
    bytes: u64,
    /// The first chunk known to be at fault.
    fault: Option<(u64, ScanError)>,
}

impl<'a> Run<'a> {
    /// A run that has not begun.
    fn new(
        domain: &Domain,
        job: &'a Job,
        workers: u32,
        progress: &'a Progress,
    ) -> Result<Run<'a>, AggError> {
        let (plan, edges) = (job.plan().encode(), job.chunks().edges());
        let chunks = job.chunks().count();
        let made_for = board::Job { plan: &plan, edges, chunks, workers };
        let segment = domain.create_segment(made_for.segment_bytes()?).map_err(environment)?;
        let board = Board::create(segment.mapping(), &made_for)?;
        let supervisor = Supervisor::start(SupervisorConfig::default()).map_err(no_thread)?;
        let (sender, reports) = mpsc::channel();
        Ok(Run {
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
        })
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
        Ok(End::Answer(std::mem::replace(&mut self.tally.groups, empty)))
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
            }
            Message::Fault { chunk, error } => {
                if self.board.cursor.complete(chunk, worker) {
                    self.tally.fault(chunk, error);
                }
            }
        }
        let Tally { chunks, bytes, ref groups, .. } = self.tally;
        self.board.show_progress(chunks, groups.rows(), bytes);
        if let Some(chaos) = &mut self.chaos {
            chaos.at(chunks);
        }
        Ok(true)
    }

    /// The lane's worker is gone, and all that it had sent is counted.
    fn replace(&mut self, lane: u32, gone: Option<ParticipantId>) -> Result<(), AggError> {
        if let Some(gone) = gone {
            self.board.cursor.release(gone);
        }
        let worker = self.start_worker(lane)?;
        self.lock_workers()[lane as usize] = worker;
        Ok(())
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
        vec![SegmentUse { name, bytes: self.segment.len() }]
    }

    fn lock_workers(&self) -> std::sync::MutexGuard<'_, Vec<WorkerId>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        Tally { groups: job.no_groups(), done, chunks: 0, bytes: 0, fault: None }
    }

    fn is_complete(&self) -> bool {
        self.chunks == self.done.len() as u64
    }

    fn add(&mut self, chunk: u64, stats: &ChunkStats, groups: Groups) -> Result<(), AggError> {
        self.mark(chunk);
        self.bytes += stats.bytes;
        self.groups.merge(groups).map_err(|_| internal("more rows than can be counted"))
    }

    fn fault(&mut self, chunk: u64, error: ScanError) {
        self.mark(chunk);
        if self.fault.as_ref().is_none_or(|(first, _)| chunk < *first) {
            self.fault = Some((chunk, error));
        }
    }

    /// The cursor has said that the chunk is complete, which it says once.
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
