//! A forked copy whose system calls are counted, and made to fail, by `ptrace`.
//!
//! The copy asks to be traced at the beginning of its operation and says by a call that means
//! nothing (`prctl` with a number of ours) when that is over. In between it stops before and after
//! each call: before it, the tracer may put the number of no call in place; after it, the error in
//! place of the answer. Threads that the operation starts are traced too, and counted each for
//! itself, for their order among each other is no one's.
use super::calls::Call;
use super::trial::{Ended, Forked};
use super::{NotRun, errno_name};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

/// No option of `prctl`, nor will it be one.
const OVER: u64 = 0x5348_4d4b;
/// The exit code of a copy that may not be traced.
const UNTRACEABLE: i32 = 111;

/// A call of an operation: of which of its threads (0 is the one that began), and the how manieth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) thread: usize,
    pub(super) call: usize,
}

/// What is to be done to the calls.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plan {
    Record,
    /// This call fails; with `on`, and all later ones of its kind.
    Fail {
        point: Point,
        expected: Call,
        errno: i32,
        on: bool,
    },
    /// Whatever can be interrupted is, so many times in a row.
    Storm {
        times: u32,
    },
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Plan::Record => write!(f, "with no fault"),
            Plan::Fail { point: Point { thread, call }, expected, errno, on } => {
                let (call, errno) = (call + 1, errno_name(*errno));
                write!(f, "call {call} of thread {thread}, {expected}, gives {errno}")?;
                if *on { write!(f, ", and so do later ones") } else { Ok(()) }
            }
            Plan::Storm { times } => write!(f, "each call is interrupted {times} times"),
        }
    }
}

/// What came of one run.
pub(super) struct Run {
    pub(super) ended: Ended,
    /// Per thread, those of the operation.
    pub(super) calls: Vec<Vec<Call>>,
    pub(super) faults: u32,
}

/// Runs `work` in a forked copy under `plan`. `work` calls [`watched`] around its operation.
pub(super) fn run(plan: Plan, limit: Duration, work: impl FnOnce()) -> Result<Run, NotRun> {
    if !cfg!(target_arch = "x86_64") {
        let error = io::ErrorKind::Unsupported.into();
        return Err(NotRun::new("replacing the answers of system calls on this machine", error));
    }
    let forked = Forked::start(limit, work);
    let mut tracer = Tracer { main: forked.pid, plan, threads: Vec::new(), faults: 0, over: false };
    let status = tracer.run()?;
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == UNTRACEABLE {
        return Err(NotRun::new("tracing a child", io::ErrorKind::PermissionDenied.into()));
    }
    let calls = tracer.threads.into_iter().map(|thread| thread.calls).collect();
    Ok(Run { ended: forked.end(status), calls, faults: tracer.faults })
}

/// In the copy: the calls of `operation` are the ones that the plan is for.
pub(super) fn watched<R>(operation: impl FnOnce() -> R) -> R {
    let none = ptr::null_mut::<u8>();
    // SAFETY: asks to be traced; touches no memory.
    if unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) } != 0 {
        // SAFETY: ends the process.
        unsafe { libc::_exit(UNTRACEABLE) };
    }
    // SAFETY: stops this process until its tracer continues it.
    unsafe { libc::raise(libc::SIGSTOP) };
    let result = operation();
    // SAFETY: no such option, so nothing happens; the tracer sees it.
    unsafe { libc::syscall(libc::SYS_prctl, OVER, 0, 0, 0, 0) };
    result
}

struct Thread {
    id: libc::pid_t,
    calls: Vec<Call>,
    /// The error to answer with at the end of the call it is in.
    answer: Option<i32>,
    /// By number of the call, how often in a row it was interrupted.
    interrupted: BTreeMap<libc::c_long, u32>,
}

struct Tracer {
    main: libc::pid_t,
    plan: Plan,
    threads: Vec<Thread>,
    faults: u32,
    over: bool,
}

impl Tracer {
    /// Until the copy has ended; its status.
    fn run(&mut self) -> Result<i32, NotRun> {
        loop {
            let mut status = 0;
            // SAFETY: a place for one status.
            let id = unsafe { libc::waitpid(-1, &mut status, libc::__WALL) };
            assert!(id > 0, "waitpid: {}", io::Error::last_os_error());
            if !libc::WIFSTOPPED(status) {
                if id == self.main {
                    return Ok(status);
                }
                continue;
            }
            let known = self.threads.iter().position(|thread| thread.id == id);
            let signal = match (libc::WSTOPSIG(status), status >> 16) {
                // Its first stop: of the copy by its own wish, of a new thread by the kernel's.
                (libc::SIGSTOP, 0) if known.is_none() => {
                    self.meet(id)?;
                    0
                }
                (signal, 0) if signal == libc::SIGTRAP | 0x80 => {
                    self.at_a_call(known.expect("a thread that has stopped before"))?;
                    0
                }
                (_, 1..) => 0,
                (signal, _) => signal,
            };
            self.resume(id, signal);
        }
    }

    fn meet(&mut self, id: libc::pid_t) -> Result<(), NotRun> {
        let thread = Thread { id, calls: Vec::new(), answer: None, interrupted: BTreeMap::new() };
        self.threads.push(thread);
        let options =
            libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
        // SAFETY: a number; touches no memory.
        match unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, id, 0, options) } {
            0 => Ok(()),
            _ => Err(NotRun::last("tracing a child")),
        }
    }

    fn resume(&self, id: libc::pid_t, signal: libc::c_int) {
        let request = if self.over { libc::PTRACE_CONT } else { libc::PTRACE_SYSCALL };
        // It may have been killed meanwhile; then `waitpid` tells.
        // SAFETY: a number; touches no memory.
        unsafe { libc::ptrace(request, id, 0, signal) };
    }

    fn at_a_call(&mut self, index: usize) -> Result<(), NotRun> {
        let id = self.threads[index].id;
        let Some(about) = call_info(id)? else { return Ok(()) };
        match about.op {
            libc::PTRACE_SYSCALL_INFO_ENTRY => {
                // SAFETY: what the kernel filled in for this kind of stop.
                let entry = unsafe { about.u.entry };
                let call = Call { number: entry.nr as libc::c_long, arguments: entry.args };
                self.before(index, call);
            }
            libc::PTRACE_SYSCALL_INFO_EXIT => {
                if let Some(errno) = self.threads[index].answer.take() {
                    registers::answer(id, errno);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn before(&mut self, index: usize, call: Call) {
        if call.number == libc::SYS_prctl && call.arguments[0] == OVER {
            self.over = true;
            return;
        }
        let number = self.threads[index].calls.len();
        self.threads[index].calls.push(call);
        let Some(errno) = self.fault(index, number, call) else { return };
        self.faults += 1;
        self.threads[index].answer = Some(errno);
        if !call.is_made_in_any_case() {
            registers::skip_call(self.threads[index].id);
        }
    }

    /// The error that this call is to give.
    fn fault(&mut self, index: usize, number: usize, call: Call) -> Option<i32> {
        match self.plan {
            Plan::Record => None,
            Plan::Fail { point, expected, errno, on } => {
                let here = Point { thread: index, call: number } == point;
                let later = on && self.faults > 0 && !call.is_the_allocators();
                let alike = call.number == expected.number && call.errnos().contains(&errno);
                ((here || later) && alike).then_some(errno)
            }
            Plan::Storm { times } => {
                let interrupted = self.threads[index].interrupted.entry(call.number).or_insert(0);
                let again = call.is_interruptible() && *interrupted < times;
                *interrupted = if again { *interrupted + 1 } else { 0 };
                again.then_some(libc::EINTR)
            }
        }
    }
}

/// Which call a stopped thread stands at; `None` where it was killed meanwhile.
fn call_info(id: libc::pid_t) -> Result<Option<libc::ptrace_syscall_info>, NotRun> {
    let mut about = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let len = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: writes at most `len` bytes.
    let got = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, id, len, about.as_mut_ptr()) };
    if got > 0 {
        // SAFETY: zeroed, then written: integers.
        return Ok(Some(unsafe { about.assume_init() }));
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::ESRCH) => Ok(None),
        _ => Err(NotRun::last("asking for a system call (before Linux 5.3)")),
    }
}

#[cfg(target_arch = "x86_64")]
mod registers {
    use std::mem::MaybeUninit;

    /// Before a call: none is made.
    pub(super) fn skip_call(id: libc::pid_t) {
        change(id, |registers| registers.orig_rax = u64::MAX);
    }

    /// After a call: it has answered `errno`.
    pub(super) fn answer(id: libc::pid_t, errno: i32) {
        change(id, |registers| registers.rax = (-i64::from(errno)) as u64);
    }

    /// Of a thread that stands still. One that was killed meanwhile has none any more.
    fn change(id: libc::pid_t, change: impl FnOnce(&mut libc::user_regs_struct)) {
        let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
        // SAFETY: writes one set of registers.
        if unsafe { libc::ptrace(libc::PTRACE_GETREGS, id, 0, registers.as_mut_ptr()) } != 0 {
            return;
        }
        // SAFETY: zeroed, then written: integers.
        let mut registers = unsafe { registers.assume_init() };
        change(&mut registers);
        // SAFETY: reads one set of registers.
        unsafe { libc::ptrace(libc::PTRACE_SETREGS, id, 0, &raw const registers) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod registers {
    pub(super) fn skip_call(_: libc::pid_t) {
        unreachable!("`run` refuses on this machine");
    }

    pub(super) fn answer(_: libc::pid_t, _: i32) {
        unreachable!("`run` refuses on this machine");
    }
}
