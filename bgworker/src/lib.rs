//! Worker processes: started, watched, restarted, and told when their leader dies.
//!
//! A leader makes a [`Supervisor`] and starts workers with it: processes that run the same
//! executable or another one. It hands each a name, a number and what it needs to find the shared
//! memory ([`Inheritance`]). A worker calls [`Worker::from_env`] first thing in `main`.
//!
//! ```
//! use bgworker::{Exit, Pacing, Program, Restart, State, Supervisor, SupervisorConfig, WorkerSpec};
//! use std::time::Duration;
//!
//! let supervisor = Supervisor::start(SupervisorConfig::default())?;
//! for index in 0..3 {
//!     supervisor.spawn(WorkerSpec {
//!         argument: index,
//!         restart: Restart::OnFailure(Pacing::default()),
//!         args: vec!["60".into()],
//!         ..WorkerSpec::new(format!("sleeper {index}"), Program::Path("sleep".into()))
//!     })?;
//! }
//! let ends = supervisor.shutdown(Duration::from_secs(5));
//! assert!(ends.iter().all(|worker| worker.state == State::Stopped));
//! assert!(ends.iter().all(|worker| worker.last_exit == Some(Exit::Signal(15))));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Who dies, and what follows
//!
//! | who | what follows |
//! | --- | --- |
//! | a worker, in any way | the supervisor wakes at once (pidfd), takes the exit status, so that no zombie is left, and restarts it by its policy; the others go on |
//! | a worker stopped (`SIGSTOP`) or hung | it is no death; [`stop`](Supervisor::stop), [`shutdown`](Supervisor::shutdown) and dropping the supervisor kill it |
//! | a worker stopped before its program began | only who called [`spawn`](Supervisor::spawn) for it waits; after [`start_timeout`](SupervisorConfig::start_timeout) it is killed and has failed to start |
//! | the leader, in any way | each worker's watching thread wakes at once (pidfd); [`LEAVE_GRACE`] later the worker is gone, even from a busy loop; one that was stopped is continued by the kernel (`PR_SET_PDEATHSIG`) so that it can leave |
//! | the leader, before its worker looked for it | [`Worker::from_env`] finds a dead process, or another one that was given its pid (start time), and ends the process |
//! | the thread that called [`spawn`](Supervisor::spawn) | nothing; this is why `PR_SET_PDEATHSIG` only continues workers and does not end them: it fires when the *thread* dies that forked, not at all if it died before the call, and it can only send a signal |
//! | a process that a worker started | the worker's affair; and it outlives the worker |
//!
//! Workers are in process groups of their own: Ctrl-C reaches the leader alone, which then ends its
//! workers. Dead processes' traces in shared memory are not cleaned here but by who shares it
//! (`reap` of the domain); [`Event::Ended`] is the moment to do it.
//!
//! Workers that are ready to be started: those of `buffer_pool::workers`, for a pool of pages.
//!
//! Needs Linux 5.4 (pidfd) and `/proc`. The leader should neither ignore `SIGCHLD` nor wait for any
//! child (`waitpid(-1)`): deaths would be noticed all the same, but not how the workers ended.

// Lowest first; each uses only those above it.

// Work in numbered pieces, each done once, whoever dies.
pub mod cursor;

mod child; // a child process, held until its exit status is taken

mod spec; // what the leader says of a worker

mod handover; // how that gets there

mod image; // what a forked child executes

mod spawn; // starting one process

mod supervisor; // the leader's side

mod worker; // the worker's side

pub use child::Exit;
pub use shm_core::process::ProcessId;
pub use spawn::SpawnError;
pub use spec::{Inheritance, NAME_BYTES_MAX, Output, Pacing, Program, Restart, WorkerSpec};
pub use supervisor::{Event, State, Supervisor, SupervisorConfig, WorkerId, WorkerInfo};
pub use worker::{LEADER_DIED, LEAVE_GRACE, WhenLeaderDies, Worker, WorkerError};
