//! The parent's half: a child process that is stopped, killed, talked to, and never left over.
use super::{FLAG, inside};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{self as process, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long the kernel may take to stop a process before that is a failure.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What a child gets besides its function.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup<'a> {
    /// The function's arguments.
    pub args: &'a [&'a str],
    /// Environment variables, besides those of the parent.
    pub env: &'a [(&'a str, &'a str)],
    /// Open files that the child inherits under the same number.
    pub fds: &'a [BorrowedFd<'a>],
}

/// How a child ended.
#[derive(Clone, Debug)]
pub struct Exit {
    status: ExitStatus,
    /// All it wrote to standard error.
    pub stderr: String,
}

impl Exit {
    /// Its exit code, if it exited: 0 after a return, 101 after a panic.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that killed it, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Nothing, where it exited with 0.
    ///
    /// # Panics
    /// Where it did not; the message shows what it wrote to standard error.
    #[track_caller]
    pub fn assert_success(&self) {
        assert!(self.status.success(), "child: {}\n{}", self.status, self.stderr);
    }
}

/// A child process that runs one function of this binary. Killed and reaped when dropped.
///
/// It dies with the *thread* that started it (`PR_SET_PDEATHSIG`), so that none outlives its test:
/// start it on the thread that needs it longest.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: std::process::Child,
    pidfd: OwnedFd,
    to: ChildStdin,
    from: ChildStdout,
    /// Read from the child and not yet taken by `hear`.
    heard: Vec<u8>,
    /// A file in memory, so that no thread need drain a pipe and a grandchild cannot hold it open.
    stderr: File,
    exit: Option<Exit>,
}

/// The command that runs the child function `name`: for code that starts processes by itself.
///
/// ```
/// fn greets(_: &[String]) {
///     println!("hello");
/// }
/// shm_testkit::children! { greets }
///
/// let output = shm_testkit::child::command("greets", &[]).output().unwrap();
/// assert_eq!(output.stdout, b"hello\n");
/// ```
///
/// # Panics
/// Where no, or more than one, [`children!`](crate::children) names the function.
#[track_caller]
pub fn command(name: &str, args: &[&str]) -> Command {
    let (count, all) = inside::declared(name);
    assert_eq!(count, 1, "children! must name `{name}` once in this binary; it names: {all}");
    // Not `current_exe`: the file may have been rebuilt under a running test.
    let mut command = Command::new("/proc/self/exe");
    command.arg(format!("{FLAG}{name}")).args(args);
    command
}

impl Child {
    /// Starts the function `name` with `args` in a process of its own.
    ///
    /// # Panics
    /// Where no, or more than one, [`children!`](crate::children) names the function, or no process
    /// can be started.
    #[track_caller]
    pub fn spawn(name: &str, args: &[&str]) -> Child {
        Child::spawn_with(name, Setup { args, ..Setup::default() })
    }

    /// As [`spawn`](Child::spawn), with an environment and open files.
    ///
    /// # Panics
    /// As [`spawn`](Child::spawn).
    #[track_caller]
    pub fn spawn_with(name: &str, setup: Setup<'_>) -> Child {
        start(name, setup).unwrap_or_else(|error| panic!("cannot start child `{name}`: {error}"))
    }

    /// Its process id. Names no other process before [`wait`](Child::wait) has returned.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends SIGKILL; no matter if it has ended. [`wait`](Child::wait) tells when it is dead.
    pub fn kill(&mut self) {
        let _ = process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Stops it (SIGSTOP); when this returns, none of its threads runs.
    ///
    /// # Panics
    /// Where it has ended.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::STOP);
        let deadline = Instant::now() + STOP_LIMIT;
        let what = WaitIdOptions::STOPPED
            | WaitIdOptions::EXITED
            | WaitIdOptions::NOHANG
            | WaitIdOptions::NOWAIT;
        loop {
            match process::waitid(WaitId::PidFd(self.pidfd.as_fd()), what) {
                Ok(Some(status)) if status.stopped() => return,
                Ok(None) | Err(Errno::INTR) if Instant::now() < deadline => {}
                other => self.fail(&format!("cannot be stopped: {other:?}")),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on after [`stop`](Child::stop).
    ///
    /// # Panics
    /// Where it has ended.
    #[track_caller]
    pub fn cont(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Sends one line to [`parent_says`](super::parent_says).
    ///
    /// # Panics
    /// Where the line is not one line, or the child is gone.
    #[track_caller]
    pub fn say(&mut self, line: &str) {
        assert!(!line.contains('\n'), "one line at a time: {line:?}");
        if let Err(error) = writeln!(self.to, "{line}") {
            self.fail(&format!("does not listen to {line:?}: {error}"));
        }
    }

    /// Waits for the next line of [`tell_parent`](super::tell_parent).
    ///
    /// # Panics
    /// Where none comes within `limit`, or the child has ended.
    #[track_caller]
    pub fn hear(&mut self, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return String::from_utf8_lossy(&line[..end]).into_owned();
            }
            match self.read_more(deadline) {
                Ok(true) => {}
                Ok(false) => self.fail("ended without another line"),
                Err(error) => self.fail(&format!("said nothing in {limit:?}: {error}")),
            }
        }
    }

    /// Waits until it has ended, and reaps it.
    ///
    /// # Panics
    /// Where it still runs after `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> Exit {
        if let Some(exit) = &self.exit {
            return exit.clone();
        }
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        if let Err(error) = poll_until(&mut ended, Instant::now() + limit) {
            self.fail(&format!("still runs after {limit:?}: {error}"));
        }
        match self.process.wait() {
            Ok(status) => self.exit.insert(Exit { status, stderr: read_all(&self.stderr) }).clone(),
            Err(error) => self.fail(&format!("cannot be reaped: {error}")),
        }
    }

    /// Reads what the child wrote; `false` where it has ended and there is no more.
    fn read_more(&mut self, deadline: Instant) -> io::Result<bool> {
        let mut events =
            [PollFd::new(&self.from, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
        poll_until(&mut events, deadline)?;
        if events[0].revents().is_empty() {
            return Ok(false);
        }
        let mut bytes = [0; 4096];
        let count = self.from.read(&mut bytes)?;
        self.heard.extend_from_slice(&bytes[..count]);
        Ok(count > 0)
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        if let Err(error) = process::pidfd_send_signal(&self.pidfd, signal) {
            self.fail(&format!("cannot be sent {signal:?}: {error}"));
        }
    }

    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        let (name, pid, unheard) = (&self.name, self.pid(), String::from_utf8_lossy(&self.heard));
        let stderr = read_all(&self.stderr);
        panic!("child `{name}` ({pid}) {what}\nunfinished line: {unheard:?}\nstderr:\n{stderr}")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("stderr of child `{}`:\n{}", self.name, read_all(&self.stderr));
        }
    }
}

fn start(name: &str, setup: Setup<'_>) -> io::Result<Child> {
    let stderr = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    let inherited: Vec<RawFd> = setup.fds.iter().map(AsRawFd::as_raw_fd).collect();
    let parent = process::getpid();
    let mut command = command(name, setup.args);
    command.envs(setup.env.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr.try_clone()?);
    let prepare = move || {
        process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if process::getppid() != Some(parent) {
            return Err(Errno::CHILD.into()); // The parent died before the call above.
        }
        for fd in &inherited {
            // SAFETY: `start` borrows it, so it is open here too, in a copy of the process.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only: no allocation, no lock.
    unsafe { command.pre_exec(prepare) };
    let mut process = command.spawn()?;
    let pidfd = process::pidfd_open(process::Pid::from_child(&process), PidfdFlags::empty());
    let (pidfd, to, from) = match (pidfd, process.stdin.take(), process.stdout.take()) {
        (Ok(pidfd), Some(to), Some(from)) => (pidfd, to, from),
        (pidfd, ..) => {
            process.kill()?;
            process.wait()?;
            return Err(pidfd.err().unwrap_or(Errno::BADF).into());
        }
    };
    let (name, heard) = (name.to_owned(), Vec::new());
    Ok(Child { name, process, pidfd, to, from, heard, stderr, exit: None })
}

/// Waits until one of `events` has happened.
fn poll_until(events: &mut [PollFd<'_>], deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(events, Some(&timeout)) {
            Ok(0) => return Err(Errno::TIMEDOUT.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// All of `file` from its start, wherever a writer stands.
fn read_all(file: &File) -> String {
    let len = file.metadata().map_or(0, |metadata| metadata.len() as usize);
    let mut bytes = vec![0; len];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(cannot be read: {error})"),
    }
}
