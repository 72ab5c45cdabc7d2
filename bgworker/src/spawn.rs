//! Starting one worker process, without waiting for it.
//!
//! `Command::spawn` waits until the child executes its program, for ever if the child is stopped
//! before, and does not say which process it waits for. Here `fork` says so at once, and what
//! becomes of the `exec` is told by a pipe that the supervisor polls: see [`Exec`].
use crate::child::Child;
use crate::handover::Handover;
use crate::image::Image;
use crate::spec::{NAME_BYTES_MAX, WorkerSpec};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use shm_core::process::{Forked, ProcessId};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// Why a worker could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The name is empty, too long, or holds a NUL.
    #[error("worker name {0:?}: give it 1 to {NAME_BYTES_MAX} bytes without a NUL")]
    Name(String),
    /// The system does not start the program, or not in time (`TimedOut`).
    #[error("cannot start worker program {}: {source}; {}", program.display(), remedy(source))]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system does not let us watch the worker, which has been ended again.
    #[error(
        "cannot watch the worker: {0}; needed: Linux 5.4, /proc, a free descriptor (ulimit -n)"
    )]
    Watch(io::Error),
    /// The supervisor has been shut down.
    #[error("the supervisor has been shut down")]
    ShutDown,
    /// This process is a fork of the leader.
    #[error(transparent)]
    Forked(#[from] Forked),
}

fn remedy(error: &io::Error) -> &'static str {
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
        return "raise the limit on open files (ulimit -n)";
    }
    match error.kind() {
        io::ErrorKind::NotFound => "give the path of a program that exists",
        io::ErrorKind::PermissionDenied => "the file must be executable by this user",
        io::ErrorKind::WouldBlock => "raise the limit on processes (ulimit -u, cgroup pids.max)",
        io::ErrorKind::ArgumentListTooLong => "shorten the arguments and the environment",
        io::ErrorKind::InvalidInput => "arguments and environment must not hold a NUL",
        io::ErrorKind::TimedOut => "look for what stops it or keeps its file from being read",
        _ => "try the program by hand",
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), SpawnError> {
    let good = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains('\0');
    if good { Ok(()) } else { Err(SpawnError::Name(name.to_string())) }
}

/// A process forked for a worker, which has not begun its program yet, as far as we know.
#[derive(Debug)]
pub(crate) struct Forking {
    pub(crate) child: Arc<Child>,
    pub(crate) exec: Arc<OwnedFd>,
    program: PathBuf,
}

/// What became of the `exec`.
#[derive(Debug)]
pub(crate) enum Exec {
    Pending,
    /// The program runs; or the process died on the way to it, which its exit status will tell.
    Done,
    Refused(io::Error),
}

impl Forking {
    /// Reads the pipe, of which the process alone has the other end: an `exec` closes it, and so
    /// does a death; a refusal is written to it.
    pub(crate) fn look(&self) -> Exec {
        let mut errno = [0; 4];
        match rustix::io::read(&*self.exec, &mut errno) {
            Ok(0) => Exec::Done,
            Ok(_) => Exec::Refused(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
            Err(_) => Exec::Pending,
        }
    }

    pub(crate) fn failed(self, source: io::Error) -> SpawnError {
        SpawnError::Start { program: self.program, source }
    }
}

/// Forks a process for `spec`, for the `attempt`th time. Does not wait for it.
pub(crate) fn fork(
    spec: &WorkerSpec,
    attempt: u32,
    leader: ProcessId,
) -> Result<Forking, SpawnError> {
    let program = crate::image::program_path(&spec.program);
    let fds: Vec<RawFd> = spec.inherit.fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let (name, argument) = (spec.name.clone(), spec.argument);
    let handover = Handover { leader, name, argument, attempt, fds };
    let prepared = Image::new(spec, &program, handover)
        .and_then(|image| Ok((image, pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?)));
    let (image, (exec, refusal)) = match prepared {
        Ok(prepared) => prepared,
        Err(source) => return Err(SpawnError::Start { program, source }),
    };
    // SAFETY: until it ends or executes its program, the child only runs `Image::become_it`, which
    // makes system calls and neither allocates nor takes a lock.
    match unsafe { libc::fork() } {
        -1 => Err(SpawnError::Start { program, source: io::Error::last_os_error() }),
        0 => image.become_it(&refusal),
        pid => {
            // Held by us any longer, it would hide the child's end.
            drop(refusal);
            let child = watch(pid)?;
            Ok(Forking { child: Arc::new(child), exec: Arc::new(exec), program })
        }
    }
}

fn watch(pid: i32) -> Result<Child, SpawnError> {
    Child::watch(pid.cast_unsigned()).map_err(|error| {
        if let Some(pid) = Pid::from_raw(pid) {
            // Both fail only when the child is gone already.
            let _ = kill_process(pid, Signal::KILL);
            while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
        }
        SpawnError::Watch(error)
    })
}
