//! Linux: `/proc`, pidfds, and a page that the kernel wipes in a forked child.
use super::{Liveness, Namespaces, OpenError, ProcessId};
use crate::sync::{AtomicU64, Ordering};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};
use std::cell::Cell;
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// How long to sleep between two looks, where the system does not let us wait.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What we want from `/proc/PID/stat`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    pid: u32,
    state: u8,
    threads: u32,
    start_ticks: u64,
}

impl Stat {
    fn read(path: &str) -> io::Result<Stat> {
        Stat::parse(&std::fs::read(path)?).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not as documented"))
        })
    }

    fn of(pid: u32) -> io::Result<Stat> {
        Stat::read(&format!("/proc/{pid}/stat"))
    }

    /// `pid (comm) state ppid …`: comm is the process's own choice and may hold spaces, parentheses
    /// and bytes that are no UTF-8, so we count fields from the last parenthesis. proc_pid_stat(5).
    fn parse(text: &[u8]) -> Option<Stat> {
        let close = text.iter().rposition(|b| *b == b')')?;
        let pid = text.split(|b| *b == b' ').next()?;
        let mut rest = std::str::from_utf8(&text[close + 1..]).ok()?.split_ascii_whitespace();
        Some(Stat {
            pid: std::str::from_utf8(pid).ok()?.parse().ok()?,
            state: *rest.next()?.as_bytes().first()?, // field 3
            threads: rest.nth(16)?.parse().ok()?,     // field 20
            start_ticks: rest.nth(1)?.parse().ok()?,  // field 22
        })
    }

    /// Where nothing but its entry is left: it cannot run again.
    fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }
}

/// Ours, unless `/proc` was mounted in another pid namespace: there `self` has another number.
fn my_stat() -> io::Result<Stat> {
    let stat = Stat::read("/proc/self/stat")?;
    if stat.pid == std::process::id() {
        return Ok(stat);
    }
    let text = "/proc shows the pids of another namespace; mount a proc file system of this one";
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}

/// Read once per process, where the system can wipe a page on fork: `/proc` may be out of reach
/// for a moment, or for good, later.
pub(super) fn me() -> io::Result<ProcessId> {
    let known = wiped_on_fork().map(|page| &page.me);
    if let Some(me) = known.and_then(|me| ProcessId::from_bits(me.load(Ordering::Relaxed))) {
        return Ok(me);
    }
    let stat = my_stat()?;
    let me = ProcessId::new(stat.pid, stat.start_ticks).ok_or(io::ErrorKind::InvalidData)?;
    if let Some(known) = known {
        // Whoever else is here finds the same.
        known.store(me.to_bits(), Ordering::Relaxed);
    }
    Ok(me)
}

pub(super) fn of(pid: u32) -> io::Result<ProcessId> {
    let start = Stat::of(pid)?.start_ticks;
    ProcessId::new(pid, start).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

pub(super) fn namespaces() -> io::Result<Namespaces> {
    my_stat()?;
    let pid = std::fs::metadata("/proc/self/ns/pid")?.ino();
    let time = time_namespace(std::fs::metadata("/proc/self/ns/time"))?;
    Ok(Namespaces { pid, time })
}

/// 0 where the kernel has no time namespaces.
fn time_namespace(about: io::Result<Metadata>) -> io::Result<u64> {
    match about {
        Ok(about) => Ok(about.ino()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e),
    }
}

pub(super) fn liveness(process: ProcessId) -> Liveness {
    match ProcessHandle::open(process) {
        Ok(_) => Liveness::Alive,
        Err(OpenError::Dead(_)) => Liveness::Dead,
        Err(OpenError::Unknown(..)) => stat_liveness(process).unwrap_or(Liveness::Unknown),
    }
}

/// Whether some process has this pid; `None` where we are not told.
fn pid_is_taken(pid: Pid) -> Option<bool> {
    match test_kill_process(pid) {
        Ok(()) | Err(Errno::PERM) => Some(true),
        Err(Errno::SRCH) => Some(false),
        Err(_) => None,
    }
}

/// Whether it has ended, told without a pidfd. `false` says nothing.
fn is_gone(process: ProcessId) -> bool {
    let taken = Pid::from_raw(process.pid() as i32).and_then(pid_is_taken);
    taken == Some(false) || stat_liveness(process) == Some(Liveness::Dead)
}

/// What `/proc` says about the process: for when a pidfd is not to be had (`EMFILE`, `ENOSYS`).
fn stat_liveness(process: ProcessId) -> Option<Liveness> {
    let stat = Stat::of(process.pid()).ok()?;
    my_stat().ok()?;
    if process.start_ticks() == 0 {
        return None;
    }
    let gone = stat.start_ticks != process.start_ticks()
        || stat.is_zombie() && {
            // A thread that calls `exec` becomes the process, and its first thread is thrown away:
            // who looks at that very moment may see what was thrown away. Whoever looks again does
            // not.
            Stat::of(process.pid()).ok()?.is_zombie()
        };
    Some(if gone { Liveness::Dead } else { Liveness::Alive })
}

/// A process held by a pidfd, so that its pid cannot come to mean another one. Costs one fd.
///
/// Poll its [`fd`](AsFd) to learn of the death together with other things: readable means dead.
#[derive(Debug)]
pub struct ProcessHandle {
    fd: OwnedFd,
    process: ProcessId,
}

impl ProcessHandle {
    /// Takes hold of a living process.
    ///
    /// # Errors
    /// [`OpenError::Dead`] is a proof; [`OpenError::Unknown`] says nothing about the process.
    pub fn open(process: ProcessId) -> Result<ProcessHandle, OpenError> {
        let unknown = |e: io::Error| OpenError::Unknown(process, e);
        let Some(pid) = Pid::from_raw(process.pid() as i32) else {
            return Err(unknown(io::ErrorKind::InvalidInput.into()));
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            // EINVAL and ENOENT: a thread has the number, so no process has it.
            Err(_) if pid_is_taken(pid) == Some(false) => return Err(OpenError::Dead(process)),
            Err(e) => return Err(unknown(e.into())),
        };
        let handle = ProcessHandle { fd, process };
        // Whoever has the pid is dead: then so is our process, which had it and could not lose it
        // otherwise.
        match handle.poll_now() {
            Ok(true) => return Err(OpenError::Dead(process)),
            Ok(false) => {}
            Err(e) => return Err(unknown(e.into())),
        }
        // The pidfd was opened first, and our process had started before that. Hence, if the pid
        // has our start time even now, the pidfd is our process's; if it has another, ours is gone.
        match Stat::of(process.pid()) {
            Ok(_) if process.start_ticks() == 0 => {
                Err(unknown(io::Error::other("its start time was not known")))
            }
            Ok(stat) if stat.start_ticks == process.start_ticks() => Ok(handle),
            Ok(_) => match my_stat() {
                Ok(_) => Err(OpenError::Dead(process)),
                Err(e) => Err(unknown(e)),
            },
            Err(_) if handle.is_dead() => Err(OpenError::Dead(process)),
            Err(e) => Err(unknown(e)),
        }
    }

    /// Which process this is.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Whether it has ended. One system call, unless that is refused.
    pub fn is_dead(&self) -> bool {
        self.poll_now().unwrap_or_else(|_| is_gone(self.process))
    }

    /// Sleeps until it has ended or `deadline`; whether it has ended.
    pub fn wait_dead(&self, deadline: Option<Instant>) -> bool {
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            match self.poll(left) {
                Ok(true) => return true,
                Ok(false) | Err(Errno::INTR) => {}
                // Forbidden, or no memory: then by looking.
                Err(_) if is_gone(self.process) => return true,
                Err(_) => std::thread::sleep(LOOK_AGAIN),
            }
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
        }
    }

    fn poll_now(&self) -> Result<bool, Errno> {
        retry_on_intr(|| self.poll(Some(Duration::ZERO)))
    }

    /// Readable: the last thread of the process has passed its last instruction.
    fn poll(&self, timeout: Option<Duration>) -> Result<bool, Errno> {
        let timeout = timeout.and_then(|t| rustix::event::Timespec::try_from(t).ok());
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        Ok(poll(&mut fds, timeout.as_ref())? > 0)
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What reads 0 in a forked child.
struct Wiped {
    token: AtomicU64,
    me: AtomicU64,
}

/// The address of a page with a [`Wiped`]; 0: not made yet.
static WIPED: AtomicU64 = AtomicU64::new(0);
/// In place of an address: this system cannot wipe a page on fork.
const CANNOT_WIPE: u64 = 1;
/// The last token given out. A child goes on from its parent's, so that it meets a new one.
static TOKENS: AtomicU64 = AtomicU64::new(0);

/// A number that is another one in a forked child than in its parent, and never 0.
///
/// No lock is taken: a child forked in the middle of another thread's call is not stuck with it.
#[inline]
pub fn generation() -> u64 {
    let Some(Wiped { token, .. }) = wiped_on_fork() else {
        return u64::from(std::process::id());
    };
    match token.load(Ordering::Relaxed) {
        0 => new_token(token),
        token => token,
    }
}

/// A [`generation`], and the word that holds it for as long as nobody forks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    generation: u64,
    word: &'static AtomicU64,
}

impl Mark {
    pub(super) fn new() -> Mark {
        /// Where no page can be wiped: no generation.
        static NONE: AtomicU64 = AtomicU64::new(0);
        Mark { generation: generation(), word: wiped_on_fork().map_or(&NONE, |it| &it.token) }
    }

    /// Whether this is the process that made it.
    #[inline]
    pub(super) fn is_ours(&self) -> bool {
        self.word.load(Ordering::Relaxed) == self.generation || self.is_ours_all_the_same()
    }

    #[cold]
    fn is_ours_all_the_same(&self) -> bool {
        self.generation == generation()
    }
}

thread_local! {
    /// The [`generation`] in which it was asked for, and the number.
    static THREAD: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
}

/// The calling thread's number (`gettid`), below 2^22: no other thread that lives has it. Asked for
/// once per thread and process.
#[inline]
pub fn thread() -> u32 {
    match THREAD.get() {
        (known_in, number) if known_in == generation() => number,
        _ => ask_thread(),
    }
}

#[cold]
fn ask_thread() -> u32 {
    let number = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
    THREAD.set((generation(), number));
    number
}

#[inline]
fn wiped_on_fork() -> Option<&'static Wiped> {
    // Pairs with the Release in `make_page`: the mapping before its address.
    match WIPED.load(Ordering::Acquire) {
        CANNOT_WIPE => None,
        0 => {
            make_page();
            wiped_on_fork()
        }
        address => {
            let page = std::ptr::with_exposed_provenance::<Wiped>(address as usize);
            // SAFETY: `make_page` mapped it for ever and published it with Release.
            Some(unsafe { &*page })
        }
    }
}

#[cold]
fn new_token(word: &AtomicU64) -> u64 {
    let token = TOKENS.fetch_add(1, Ordering::Relaxed) + 1;
    match word.compare_exchange(0, token, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => token,
        Err(theirs) => theirs,
    }
}

#[cold]
fn make_page() {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    let len = rustix::param::page_size();
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping, wherever the kernel likes.
    let page = unsafe { mmap_anonymous(std::ptr::null_mut(), len, access, flags) };
    let made = page.ok().filter(|page| {
        // SAFETY: the page just mapped.
        unsafe { madvise(*page, len, Advice::LinuxWipeOnFork) }.is_ok()
    });
    let address = made.map_or(CANNOT_WIPE, |page| page.expose_provenance() as u64);
    // Pairs with the Acquire in `wiped_on_fork`: the mapping before its address.
    let won = WIPED.compare_exchange(0, address, Ordering::Release, Ordering::Relaxed).is_ok();
    if let (Ok(page), true) = (page, made.is_none() || !won) {
        // SAFETY: our page, which nobody else has heard of.
        let _ = unsafe { munmap(page, len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_with_a_thread_left_may_run_and_one_alone_may_not() {
        let zombie = |state, threads| Stat { pid: 1, state, threads, start_ticks: 1 }.is_zombie();
        assert!(zombie(b'Z', 1) && zombie(b'X', 0));
        assert!(!zombie(b'Z', 2) && !zombie(b'S', 1));
    }

    #[test]
    fn a_time_namespace_that_is_hidden_is_not_none() {
        let got = |kind: io::ErrorKind| time_namespace(Err(kind.into())).ok();
        assert_eq!(got(io::ErrorKind::NotFound), Some(0), "a kernel without");
        assert_eq!(got(io::ErrorKind::PermissionDenied), None);
        let about = std::fs::metadata(".").unwrap();
        let number = about.ino();
        assert_eq!(time_namespace(Ok(about)).ok(), Some(number));
    }

    #[test]
    fn our_own_pid_is_taken() {
        assert_eq!(pid_is_taken(rustix::process::getpid()), Some(true));
    }

    #[test]
    fn a_token_is_newer_than_all_before() {
        let before = TOKENS.load(Ordering::Relaxed);
        assert!(new_token(&AtomicU64::new(0)) > before);
        assert_eq!(new_token(&AtomicU64::new(7)), 7, "another thread was first");
    }

    #[test]
    fn parses_any_command_name() {
        let tail = b" S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 3 0 99887766 21\n";
        for comm in ["cat", "a b", ")", ") R 1 (", "\u{e9}) Z 0"] {
            let text = [format!("4242 ({comm})").as_bytes(), tail].concat();
            let stat = Stat { pid: 4242, state: b'S', threads: 3, start_ticks: 99_887_766 };
            assert_eq!(Stat::parse(&text), Some(stat), "{comm}");
        }
        let raw = [b"7 (\xff\xfe)".as_slice(), tail].concat();
        assert_eq!(Stat::parse(&raw).map(|s| s.pid), Some(7));
        for bad in ["", "1", "1 (a", "1 (a)", "1 (a) S 2 3", "x (a) S"] {
            assert_eq!(Stat::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn without_a_pidfd_proc_tells_the_living_from_the_dead() {
        assert_eq!(stat_liveness(ProcessId::me()), Some(Liveness::Alive));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        let handle = ProcessHandle::open(process);
        if let Ok(handle) = &handle {
            assert!(handle.wait_dead(Some(Instant::now() + Duration::from_secs(60))));
        }
        assert_eq!(stat_liveness(process), Some(Liveness::Dead), "a zombie");
        child.wait().unwrap();
        assert_eq!(stat_liveness(process), None, "nothing to be seen");
        assert_eq!(process.liveness(), Liveness::Dead, "and no such pid");
    }

    /// A process that was killed after it was taken hold of, and waited for.
    fn ended() -> ProcessHandle {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let handle = ProcessHandle::open(ProcessId::of(child.id()).unwrap()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        handle
    }

    fn asks_about_lives_without_poll(_: &[String]) {
        let (Ok(me), soon) = (ProcessHandle::open(ProcessId::me()), Duration::from_millis(30))
        else {
            return eprintln!("not run: no pidfds");
        };
        let (dead, minute) = (ended(), Duration::from_secs(60));
        assert!(!is_gone(me.process()) && is_gone(dead.process()));
        let calls = [
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll,
            libc::SYS_ppoll,
        ];
        if let Err(not_run) = shm_testkit::fault::forbid(&calls, libc::EPERM) {
            return eprintln!("{not_run}");
        }
        assert!(me.poll_now().is_err());
        assert!(!me.is_dead() && !me.wait_dead(Some(Instant::now() + soon)));
        assert!(dead.is_dead() && dead.wait_dead(Some(Instant::now() + minute)));
    }
    shm_testkit::children! { asks_about_lives_without_poll }

    #[test]
    fn where_waiting_is_refused_it_is_told_by_looking() {
        let mut child = shm_testkit::child::Child::spawn("asks_about_lives_without_poll", &[]);
        let exit = child.wait(Duration::from_secs(120));
        exit.assert_success();
        print!("{}", exit.stderr);
    }
}
