//! The worker's side.
use crate::handover::{BadVariable, Handover};
use shm_core::event::EventCount;
use shm_core::process::{OpenError, ProcessHandle, ProcessId};
use shm_core::sync::{AtomicU32, Ordering};
use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// The exit code of a worker that ended because its leader died.
pub const LEADER_DIED: i32 = 3;

/// How long a worker whose leader died may take to leave by itself.
pub const LEAVE_GRACE: Duration = Duration::from_millis(250);

/// What a worker does when its leader dies.
pub enum WhenLeaderDies {
    /// [`Worker::should_stop`] turns true; after [`LEAVE_GRACE`] the process ends with exit code
    /// [`LEADER_DIED`], whatever its threads are doing. No destructor runs: it is a death like any
    /// other, which those who are left can deal with.
    Leave,
    /// [`Worker::should_stop`] turns true and this is called, on the thread that watches. The
    /// process lives on when it returns; a panic ends it, as above.
    Call(Box<dyn FnOnce() + Send>),
}

impl fmt::Debug for WhenLeaderDies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WhenLeaderDies::Leave => "Leave",
            WhenLeaderDies::Call(_) => "Call",
        })
    }
}

/// Why a process that was started as a worker cannot be one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// A variable that the supervisor sets is missing or makes no sense.
    #[error(
        "{0} is not as a supervisor sets it; remove the BGWORKER_ variables, or start a worker"
    )]
    Variable(&'static str),
    /// The variables are those of a parent or ancestor, which is a worker.
    #[error(
        "not a child of the leader (pid {}) but started by its worker {name:?}; \
         remove the BGWORKER_ variables, or let the worker's program exec this one",
        leader.pid()
    )]
    NotAChild {
        /// Whose variables they are.
        name: String,
        /// That worker's leader.
        leader: ProcessId,
    },
    /// A descriptor that should have been inherited is not open.
    #[error("inherited descriptor {0} is not open; the worker's program must not close it")]
    Descriptor(RawFd),
    /// The system does not let us watch the leader, or the signals.
    #[error("cannot watch the leader: {0}; needed: Linux 5.4, /proc, free descriptors (ulimit -n)")]
    Watch(#[from] io::Error),
}

impl From<BadVariable> for WorkerError {
    fn from(BadVariable(name): BadVariable) -> WorkerError {
        WorkerError::Variable(name)
    }
}

/// This process as a worker: what its leader said of it, and whether it should stop.
///
/// A thread, `shm-leader`, sleeps until the leader dies.
#[derive(Debug)]
pub struct Worker {
    handover: Handover,
    notices: Arc<Notices>,
}

/// What has been seen. Written by the watching thread and by the signal's handler.
#[derive(Debug)]
struct Notices {
    seen: AtomicU32,
    event: EventCount,
}

const SIGTERM_CAME: u32 = 1;
const LEADER_GONE: u32 = 2;

impl Worker {
    /// This process as a worker; `None` if no supervisor started it. Call it first in `main`.
    ///
    /// If the leader dies, the process ends: see [`WhenLeaderDies::Leave`].
    ///
    /// ```
    /// // A program that is its own worker.
    /// match bgworker::Worker::from_env()? {
    ///     Some(worker) => println!("{} works on part {}", worker.name(), worker.argument()),
    ///     None => println!("the leader starts workers"),
    /// }
    /// # Ok::<(), bgworker::WorkerError>(())
    /// ```
    ///
    /// # Errors
    /// See [`WorkerError`].
    ///
    /// # If a process dies here
    /// The leader, however early: this call finds it dead by its start time, and ends the process.
    pub fn from_env() -> Result<Option<Worker>, WorkerError> {
        Worker::from_env_or(WhenLeaderDies::Leave)
    }

    /// As [`from_env`](Worker::from_env), with another thing to do when the leader dies.
    ///
    /// # Errors
    /// See [`WorkerError`].
    ///
    /// # If a process dies here
    /// A leader found dead is treated as one that dies just after.
    pub fn from_env_or(when: WhenLeaderDies) -> Result<Option<Worker>, WorkerError> {
        let Some(handover) = Handover::from_env(|name| std::env::var_os(name))? else {
            return Ok(None);
        };
        // In this order: if the leader is alive now, it was when we asked for our parent.
        let parent = std::os::unix::process::parent_id();
        let leader = match ProcessHandle::open(handover.leader) {
            Ok(leader) => Some(leader),
            Err(OpenError::Dead(_)) => None,
            Err(OpenError::Unknown(_, error)) => return Err(error.into()),
        };
        if leader.is_some() && parent != handover.leader.pid() {
            let Handover { name, leader, .. } = handover;
            return Err(WorkerError::NotAChild { name, leader });
        }
        if leader.is_none() && matches!(when, WhenLeaderDies::Leave) {
            leave();
        }
        keep_private(&handover.fds)?;
        name_process(&handover.name);
        let notices = Arc::new(Notices { seen: AtomicU32::new(0), event: EventCount::new() });
        heed_sigterm(Arc::clone(&notices))?;
        let thread = std::thread::Builder::new().name("shm-leader".into());
        let seen = Arc::clone(&notices);
        thread.spawn(move || watch(leader, &seen, when))?;
        Ok(Some(Worker { handover, notices }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.handover.name
    }

    /// The number its leader gave it.
    pub fn argument(&self) -> u64 {
        self.handover.argument
    }

    /// 1 for the first process of this worker, one more after each restart.
    pub fn attempt(&self) -> u32 {
        self.handover.attempt
    }

    /// The process that started it.
    pub fn leader(&self) -> ProcessId {
        self.handover.leader
    }

    /// Whether it was told to stop (`SIGTERM`), or the leader is gone.
    pub fn should_stop(&self) -> bool {
        self.notices.seen() != 0
    }

    /// Whether the leader is dead.
    pub fn leader_is_gone(&self) -> bool {
        self.notices.seen() & LEADER_GONE != 0
    }

    /// Sleeps until it [should stop](Worker::should_stop), or until `deadline`; returns which.
    pub fn wait_until_stop(&self, deadline: Option<Instant>) -> bool {
        loop {
            let ticket = self.notices.event.prepare();
            if self.should_stop() {
                return true;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return false;
            }
            self.notices.event.wait(ticket, deadline);
        }
    }

    /// Notified when it [should stop](Worker::should_stop): for who sleeps on other events, too.
    ///
    /// ```
    /// use bgworker::Worker;
    /// use shm_core::event::EventCount;
    /// use shm_core::participants::Sleeper;
    ///
    /// /// Sleeps until it should stop, or somebody notifies `work`.
    /// fn sleep(worker: &Worker, work: &EventCount) {
    ///     let stop = worker.stop_event();
    ///     let events = [(stop, stop.prepare()), (work, work.prepare())];
    ///     // Here it would look for work, too.
    ///     if worker.should_stop() {
    ///         return;
    ///     }
    ///     if let Some(night) = Sleeper::new().lie_down(&events, &[]) {
    ///         night.sleep(None);
    ///     }
    /// }
    /// ```
    pub fn stop_event(&self) -> &EventCount {
        &self.notices.event
    }
}

impl Notices {
    fn seen(&self) -> u32 {
        // Pairs with the Release in `note`: what was done before.
        self.seen.load(Ordering::Acquire)
    }

    fn note(&self, what: u32) {
        // Pairs with the Acquire in `seen`.
        self.seen.fetch_or(what, Ordering::Release);
        self.event.notify();
    }
}

/// From now on `notices` hears of `SIGTERM`.
fn heed_sigterm(notices: Arc<Notices>) -> io::Result<()> {
    let handler = move || notices.note(SIGTERM_CAME);
    // SAFETY: `note` does atomic operations and a futex call: it neither locks nor allocates.
    unsafe { signal_hook::low_level::register(libc::SIGTERM, handler) }?;
    Ok(())
}

/// The watching thread. `None`: the leader is dead.
fn watch(leader: Option<ProcessHandle>, notices: &Notices, when: WhenLeaderDies) {
    if let Some(leader) = leader {
        leader.wait_dead(None);
    }
    notices.note(LEADER_GONE);
    // Nothing is logged before the end: with the leader gone, a write to it may block for ever.
    match when {
        WhenLeaderDies::Leave => std::thread::sleep(LEAVE_GRACE),
        WhenLeaderDies::Call(call) => {
            if catch_unwind(AssertUnwindSafe(call)).is_ok() {
                return;
            }
        }
    }
    leave();
}

/// Ends the process at once. `exit` would run destructors of statics under the feet of threads that
/// still use them.
fn leave() -> ! {
    // SAFETY: ends the process; nothing of it runs after.
    unsafe { libc::_exit(LEADER_DIED) }
}

/// Descriptors meant for this worker are not for what it starts.
fn keep_private(fds: &[RawFd]) -> Result<(), WorkerError> {
    for fd in fds {
        // SAFETY: a plain system call; a number that is no descriptor is an error.
        if unsafe { libc::fcntl(*fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(WorkerError::Descriptor(*fd));
        }
    }
    Ok(())
}

/// For `ps` and `top`, which show the main thread's name.
fn name_process(name: &str) {
    let main_thread = rustix::thread::gettid() == rustix::process::getpid();
    if let (true, Ok(name)) = (main_thread, CString::new(name)) {
        // Only a courtesy.
        let _ = rustix::thread::set_name(&name);
    }
}
