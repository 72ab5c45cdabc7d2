//! Starting one worker process.
use crate::child::Child;
use crate::handover::Handover;
use crate::spec::{NAME_BYTES_MAX, Output, Program, WorkerSpec};
use shm_core::process::ProcessId;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use thiserror::Error;

/// Why a worker could not be started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The name is empty, too long, or holds a NUL.
    #[error("worker name {0:?}: give it 1 to {NAME_BYTES_MAX} bytes without a NUL")]
    Name(String),
    /// The system does not start the program.
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
    /// This process is a fork of the one that started the supervisor.
    #[error("this process is a fork of the leader; start a supervisor of its own")]
    Forked,
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
        _ => "try the program by hand",
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), SpawnError> {
    let good = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains('\0');
    if good { Ok(()) } else { Err(SpawnError::Name(name.to_string())) }
}

/// Starts `spec` for the `attempt`th time.
pub(crate) fn start(
    spec: &WorkerSpec,
    attempt: u32,
    leader: ProcessId,
) -> Result<Child, SpawnError> {
    let mut command = program(&spec.program);
    let failed = |source, command: &Command| {
        let program = PathBuf::from(command.get_program());
        SpawnError::Start { program, source }
    };
    describe(&mut command, spec, attempt, leader).map_err(|error| failed(error, &command))?;
    let mut child = command.spawn().map_err(|error| failed(error, &command))?;
    Child::watch(child.id()).map_err(|error| {
        // Both fail only when the child is gone already.
        let _ = child.kill();
        let _ = child.wait();
        SpawnError::Watch(error)
    })
}

fn describe(
    command: &mut Command,
    spec: &WorkerSpec,
    attempt: u32,
    leader: ProcessId,
) -> io::Result<()> {
    let fds: Vec<RawFd> = spec.inherit.fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let (name, argument) = (spec.name.clone(), spec.argument);
    let handover = Handover { leader, name, argument, attempt, fds };
    command
        .args(&spec.args)
        .envs(spec.inherit.env.iter().cloned())
        .envs(spec.env.iter().cloned())
        .envs(handover.to_env())
        .stdin(Stdio::null())
        .stdout(stdio(&spec.stdout)?)
        .stderr(stdio(&spec.stderr)?)
        // The terminal sends Ctrl-C to the leader's group; the leader ends its workers.
        .process_group(0);
    prepare_child(command, handover.fds);
    Ok(())
}

fn program(program: &Program) -> Command {
    match program {
        Program::Path(path) => Command::new(path),
        Program::This => {
            // The link is the running executable itself, not the file that now has its name.
            let mut command = Command::new("/proc/self/exe");
            if let Some(own) = std::env::args_os().next() {
                command.arg0(own);
            }
            command
        }
    }
}

fn stdio(output: &Output) -> io::Result<Stdio> {
    Ok(match output {
        Output::Inherit => Stdio::inherit(),
        Output::Null => Stdio::null(),
        Output::To(fd) => fd.try_clone()?.into(),
    })
}

/// What the child does between `fork` and `exec`: it makes `fds` survive, here and not in the
/// leader, so that no other program started meanwhile gets them; and it drops what it would
/// otherwise inherit of the leader's treatment of signals.
fn prepare_child(command: &mut Command, fds: Vec<RawFd>) {
    let prepare = move || {
        for fd in &fds {
            // SAFETY: a plain system call.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        sane_signals()
    };
    // SAFETY: `prepare` makes system calls only, each async-signal-safe; it neither allocates nor
    // takes a lock.
    unsafe { command.pre_exec(prepare) };
}

fn sane_signals() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGCHLD] {
        // SAFETY: the default action runs no code of ours.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `none` is writable, and of the type asked for.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: `none` was filled just now; the old mask is not asked for.
    match unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
