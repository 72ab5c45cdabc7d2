//! The leader's side.
//!
//! One thread, `shm-supervisor`, sleeps in `poll` on a descriptor of each worker (the pipe that
//! tells of its `exec`, then its pidfd) and on an eventfd, the bell, rung when somebody changed
//! what there is to wait for. It alone takes exit statuses and restarts; the rest is done under one
//! lock by whoever asks. Nobody waits for a process while holding the lock.
mod events;
mod state;

pub use events::Event;

use crate::child::Exit;
use crate::spawn::SpawnError;
use crate::spec::WorkerSpec;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use shm_core::process::{ForkGuard, Forked, ProcessId};
use state::Workers;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How a supervisor works.
#[derive(Clone, Debug)]
pub struct SupervisorConfig {
    /// How many events are kept for a leader that does not ask.
    pub events_max: usize,
    /// How long a new process may take until it executes its program: it is killed then, and has
    /// failed to start.
    pub start_timeout: Duration,
}

impl Default for SupervisorConfig {
    /// 1024 events, 30 s.
    fn default() -> SupervisorConfig {
        SupervisorConfig { events_max: 1024, start_timeout: Duration::from_secs(30) }
    }
}

/// One worker of one supervisor, through all its restarts. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct WorkerId(u64);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a worker is doing: PostgreSQL's states of a background worker, and one more. (Its fourth,
/// "postmaster died", is [`Worker::leader_is_gone`](crate::Worker::leader_is_gone).)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// This process runs.
    Started(ProcessId),
    /// This process was told to stop and is not dead yet.
    Stopping(ProcessId),
    /// Its process does not execute its program yet, or it waits for its next attempt.
    NotYetStarted,
    /// It is dead and will not be restarted.
    Stopped,
}

/// A worker as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkerInfo {
    /// Which worker.
    pub id: WorkerId,
    /// Its name.
    pub name: String,
    /// Its number.
    pub argument: u64,
    /// What it is doing.
    pub state: State,
    /// How often it has been started, or nearly.
    pub attempts: u32,
    /// How its latest dead process ended.
    pub last_exit: Option<Exit>,
}

/// Starts worker processes, notices their deaths at once, restarts them, and ends them.
///
/// ```
/// use bgworker::{Event, Exit, Program, Supervisor, SupervisorConfig, WorkerSpec};
///
/// let supervisor = Supervisor::start(SupervisorConfig::default())?;
/// let program = Program::Path("sh".into());
/// let args = vec!["-c".into(), "exit 7".into()];
/// let worker = supervisor.spawn(WorkerSpec { args, ..WorkerSpec::new("seven", program) })?;
///
/// let started = supervisor.next_event(None);
/// assert!(matches!(started, Some(Event::Started { worker: w, attempt: 1, .. }) if w == worker));
/// let ended = supervisor.next_event(None);
/// assert!(matches!(ended, Some(Event::Ended { how: Exit::Code(7), will_restart_in: None, .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Dropping it kills the workers that still run and waits for their ends; see
/// [`shutdown`](Supervisor::shutdown) for the gentle way. In a fork of the leader it does nothing:
/// the workers are the leader's.
///
/// # If a process dies here
/// When the leader dies, each [`Worker`](crate::Worker) sees it and leaves.
#[derive(Debug)]
pub struct Supervisor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    leader: ForkGuard,
    workers: Mutex<Workers>,
    /// Something happened to a worker.
    happened: Condvar,
    bell: OwnedFd,
}

impl Supervisor {
    /// Starts a supervisor without workers.
    ///
    /// # Errors
    /// Whatever the system says to a new thread, a new descriptor or a look at `/proc`.
    pub fn start(config: SupervisorConfig) -> io::Result<Supervisor> {
        let workers = Mutex::new(Workers::new(ProcessId::try_me()?, config));
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared =
            Arc::new(Shared { leader: ForkGuard::new(), workers, happened: Condvar::new(), bell });
        let watched = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("shm-supervisor".into());
        let thread = Some(thread.spawn(move || watched.watch())?);
        Ok(Supervisor { shared, thread })
    }

    /// Starts a worker. When it returns, the worker's process executes its program.
    ///
    /// # Errors
    /// See [`SpawnError`]; no worker is left then.
    ///
    /// # If a process dies here
    /// The worker, at any instruction of its life: [`Event::Ended`] follows. One that is stopped
    /// before its program begins is killed after [`SupervisorConfig::start_timeout`]; meanwhile
    /// all other calls go on. The leader, before the worker looked for it:
    /// [`Worker::from_env`](crate::Worker::from_env) finds it dead.
    pub fn spawn(&self, spec: WorkerSpec) -> Result<WorkerId, SpawnError> {
        let mut workers = self.shared.lock_unless_forked()?;
        let worker = workers.spawn(spec)?;
        self.shared.ring();
        loop {
            if let Some(started) = workers.first_start_of(worker) {
                return started.map(|()| worker);
            }
            workers = self.shared.wait(workers, None);
        }
    }

    /// The next thing that happened, in order; waits for it until `deadline`, if there is one.
    ///
    /// `None`: nothing happened until then, or the supervisor has been shut down and all has been
    /// told.
    pub fn next_event(&self, deadline: Option<Instant>) -> Option<Event> {
        let mut workers = self.shared.lock_unless_forked().ok()?;
        loop {
            if let Some(event) = workers.events.pop() {
                return Some(event);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) || workers.finished() {
                return None;
            }
            workers = self.shared.wait(workers, left);
        }
    }

    /// All workers, as they are now, oldest first.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.shared.lock_unless_forked().map_or(Vec::new(), |workers| workers.info())
    }

    /// Kills a worker's process with `SIGKILL`, as an accident would; its restart policy applies.
    ///
    /// False: it has no living process.
    ///
    /// # If a process dies here
    /// Only the process meant is killed: a pidfd never means one that was given the pid later.
    pub fn kill(&self, worker: WorkerId) -> bool {
        self.shared.lock_unless_forked().is_ok_and(|workers| workers.kill(worker))
    }

    /// Ends a worker for good: `SIGTERM`, and `SIGKILL` if it is not dead after `grace`, or at once
    /// if its program has not begun. Does not wait; [`Event::Ended`] tells.
    ///
    /// False: it is stopped already.
    ///
    /// # If a process dies here
    /// The worker: that was meant. The leader: the worker leaves all the same.
    pub fn stop(&self, worker: WorkerId, grace: Duration) -> bool {
        let Ok(mut workers) = self.shared.lock_unless_forked() else { return false };
        let stopped = workers.stop(worker, grace);
        self.shared.changed(workers);
        stopped
    }

    /// Forgets a stopped worker. For a leader that starts workers without end.
    ///
    /// False: it is not stopped, or not known.
    pub fn forget(&self, worker: WorkerId) -> bool {
        self.shared.lock_unless_forked().is_ok_and(|mut workers| workers.forget(worker))
    }

    /// Ends all workers, gently and after `grace` firmly, and waits until they are dead. Starts no
    /// other from now on. Returns how each ended.
    ///
    /// # If a process dies here
    /// A worker that is stopped (`SIGSTOP`) or deaf is killed. Nothing but its death is taken for
    /// its death: a worker stuck in the kernel, say on a broken disk, is waited for. If the leader
    /// dies, the workers leave.
    pub fn shutdown(&self, grace: Duration) -> Vec<WorkerInfo> {
        let Ok(mut workers) = self.shared.lock_unless_forked() else { return Vec::new() };
        workers.close(grace);
        self.shared.ring();
        while !workers.finished() {
            workers = self.shared.wait(workers, None);
        }
        workers.info()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
        // A fork has no such thread, and nothing to wait for.
        if let Some(thread) = self.thread.take().filter(|_| self.shared.leader.check().is_ok()) {
            // It can only have panicked, and said so.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The supervisor's thread.
    fn watch(&self) {
        let mut workers = self.lock();
        while !workers.finished() {
            let (awaited, next_time) = (workers.awaited(), workers.next_time());
            drop(workers);
            let ready = self.sleep(&awaited, next_time);
            workers = self.lock();
            ready.into_iter().for_each(|worker| workers.on_ready(worker));
            workers.on_time(Instant::now());
            self.happened.notify_all();
        }
    }

    /// Sleeps until a descriptor is ready, the bell rings, or `until`. Returns whose are ready.
    fn sleep(&self, awaited: &[(WorkerId, Arc<OwnedFd>)], until: Option<Instant>) -> Vec<WorkerId> {
        let mut fds = vec![PollFd::new(&self.bell, PollFlags::IN)];
        fds.extend(awaited.iter().map(|(_, fd)| PollFd::new(&**fd, PollFlags::IN)));
        sleep_until_ready(&mut fds, until);
        // An error means that nobody rang.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        let ready = fds[1..].iter().map(|fd| !fd.revents().is_empty());
        let workers = awaited.iter().map(|(worker, _)| *worker);
        workers.zip(ready).filter_map(|(worker, ready)| ready.then_some(worker)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a fork the lock may be held, for ever, by a thread that is not there.
    fn lock_unless_forked(&self) -> Result<MutexGuard<'_, Workers>, Forked> {
        self.leader.check()?;
        Ok(self.lock())
    }

    fn wait<'a>(
        &self,
        workers: MutexGuard<'a, Workers>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, Workers> {
        match timeout {
            None => self.happened.wait(workers).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                let woken = self.happened.wait_timeout(workers, timeout);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// There is something else to wait for, and perhaps an event.
    fn changed(&self, workers: MutexGuard<'_, Workers>) {
        drop(workers);
        self.ring();
        self.happened.notify_all();
    }

    fn ring(&self) {
        // An error means that the bell rings already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

/// Sleeps until one of `fds` is ready, or until `deadline`. May return early.
fn sleep_until_ready(fds: &mut [PollFd<'_>], deadline: Option<Instant>) {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    // A time longer than the clock can express is one without a limit.
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        // The kernel is short of memory; it would say so again at once.
        Err(_) => std::thread::sleep(Duration::from_millis(10)),
    }
}
