//! Something tried in a process of its own, forked, and how that ended.
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// How a [`trial`] ended.
#[derive(Debug)]
pub struct Ended {
    pub(super) status: ExitStatus,
    /// What its process id was.
    pub pid: u32,
    /// All it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// Whether it came to its end.
    pub fn is_success(&self) -> bool {
        self.status.success()
    }

    /// What went wrong, in words: a hang, a signal, a panic. `None` where it came to its end.
    pub fn failure(&self) -> Option<String> {
        match (self.status.code(), self.status.signal()) {
            (Some(0), _) => None,
            (_, Some(libc::SIGALRM)) => Some("it hangs".into()),
            (_, Some(libc::SIGBUS)) => Some("SIGBUS: memory that is not there".into()),
            (_, Some(signal)) => Some(format!("killed by signal {signal}")),
            (code, None) => Some(format!("it panicked (code {code:?})")),
        }
    }
}

/// Runs `work` in a forked copy of this process; ends it by SIGALRM where it takes longer than
/// `limit` (in whole seconds, at least one).
///
/// ```
/// use shm_testkit::child::Child;
/// use shm_testkit::fault::trial;
/// use std::time::Duration;
///
/// fn tries(_: &[String]) {
///     let second = Duration::from_secs(1);
///     assert!(trial(second, || ()).is_success());
///     let ended = trial(second, || panic!("no room"));
///     assert!(ended.stderr.contains("no room"));
///     let ended = trial(second, || loop { std::thread::park() });
///     assert_eq!(ended.failure().as_deref(), Some("it hangs"));
/// }
/// shm_testkit::children! { tries }
/// Child::spawn("tries", &[]).wait(Duration::from_secs(60)).assert_success();
/// ```
///
/// # Panics
/// Where this process has other threads, whose locks a copy would inherit; or cannot fork.
#[track_caller]
pub fn trial(limit: Duration, work: impl FnOnce()) -> Ended {
    let forked = Forked::start(limit, work);
    let status = forked.wait_untraced();
    forked.end(status)
}

/// A forked copy that runs.
pub(super) struct Forked {
    pub(super) pid: libc::pid_t,
    stderr: File,
}

impl Forked {
    #[track_caller]
    pub(super) fn start(limit: Duration, work: impl FnOnce()) -> Forked {
        let is_alone = becomes_single_threaded(Duration::from_secs(1));
        assert!(is_alone, "fork from a process with one thread: a function of `children!`");
        let stderr = anonymous_file();
        // SAFETY: this is the only thread, so the copy is a whole process.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
        if pid == 0 {
            run(limit, &stderr, work);
        }
        Forked { pid, stderr }
    }

    fn wait_untraced(&self) -> i32 {
        let mut status = 0;
        // SAFETY: our own child, and a place for its status.
        let waited = unsafe { libc::waitpid(self.pid, &mut status, 0) };
        assert_eq!(waited, self.pid, "waitpid: {}", io::Error::last_os_error());
        status
    }

    pub(super) fn end(self, status: i32) -> Ended {
        let len = self.stderr.metadata().map_or(0, |about| about.len() as usize);
        let mut bytes = vec![0; len];
        let read = self.stderr.read_exact_at(&mut bytes, 0);
        assert!(read.is_ok(), "its standard error: {read:?}");
        let stderr = String::from_utf8_lossy(&bytes).into_owned();
        Ended { status: ExitStatus::from_raw(status), pid: self.pid.cast_unsigned(), stderr }
    }
}

/// Whether this process has one thread, or does within so long: a thread is listed a little longer
/// than it takes to join it, and has no locks by then.
///
/// ```
/// use shm_testkit::child::Child;
/// use shm_testkit::fault::becomes_single_threaded;
/// use std::time::Duration;
///
/// fn joins(_: &[String]) {
///     std::thread::spawn(|| ()).join().unwrap();
///     assert!(becomes_single_threaded(Duration::from_secs(30)));
///     std::thread::spawn(std::thread::park);
///     assert!(!becomes_single_threaded(Duration::from_millis(1)));
/// }
/// shm_testkit::children! { joins }
/// Child::spawn("joins", &[]).wait(Duration::from_secs(60)).assert_success();
/// ```
pub fn becomes_single_threaded(within: Duration) -> bool {
    let end = Instant::now() + within;
    let is_alone = || std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count) == 1;
    while !is_alone() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// The copy's half.
fn run(limit: Duration, stderr: &File, work: impl FnOnce()) -> ! {
    let seconds = limit.as_secs().clamp(1, 3600) as libc::c_uint;
    // SAFETY: no pointers.
    unsafe { libc::alarm(seconds) };
    // SAFETY: no pointers; dies with the process that watches it.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: two descriptors that are open.
    unsafe { libc::dup2(stderr.as_raw_fd(), 2) };
    // Without a backtrace: it would take a thousand times as long as the run.
    std::panic::set_hook(Box::new(|about| drop(writeln!(io::stderr(), "{about}"))));
    let code = if catch_unwind(AssertUnwindSafe(work)).is_ok() { 0 } else { 101 };
    // SAFETY: ends the process, without running what its parent registered for its own end.
    unsafe { libc::_exit(code) }
}

fn anonymous_file() -> File {
    // SAFETY: a name.
    let fd = unsafe { libc::memfd_create(c"stderr".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", io::Error::last_os_error());
    // SAFETY: just made, and nobody else's.
    unsafe { File::from_raw_fd(fd) }
}
