//! A forked child under `ptrace`: born, stepped, run to an instruction, resumed, killed.
use super::dog::Dog;
use super::machine::{self, Kind, RAX, REFUSAL, RIP, RSP, TRAP, Target, mark};
use super::page::Page;
use super::view::View;
use super::{heap, view};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What the child is to do. It calls [`mark`] twice, and what lies between is what is traced.
pub(super) type Life<'a> = &'a mut dyn FnMut() -> Result<(), String>;

const EXIT_ERROR: i32 = 1;
const EXIT_REFUSED: i32 = 77;
const EXIT_PANIC: i32 = 101;

/// So long threads that were roused are waited for: one that spins never sleeps.
const ROUSED_MAX: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_micros(100);
/// So many looks in a row find one asleep that is.
const ASLEEP: u32 = 20;

/// A child of the calling thread, stopped, unless it has ended.
pub(super) struct Tracee<'d> {
    pid: i32,
    dog: &'d Dog,
    /// Its last status, once it has been reaped.
    ended: Option<i32>,
}

/// What a resumed child does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// At a mark, at a breakpoint, or after one instruction.
    Trap,
    /// With this status; it is reaped.
    Ended(i32),
}

impl<'d> Tracee<'d> {
    /// A child that stands at its first mark.
    ///
    /// # Errors
    /// How it ended before it came there.
    pub(super) fn start(dog: &'d Dog, page: &Page, life: Life<'_>) -> Result<Tracee<'d>, String> {
        // SAFETY: the child uses nothing that another thread may have locked, but for what the
        // scenario does; the watchdog sees to that.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            live(page, life);
        }
        assert!(pid > 0, "no child: {}", io::Error::last_os_error());
        dog.guard(pid);
        let mut tracee = Tracee { pid, dog, ended: None };
        match tracee.wait() {
            Stop::Trap => {}
            Stop::Ended(status) => return Err(tell_end(status, page)),
        }
        ptrace(libc::PTRACE_SETOPTIONS, pid, 0, libc::PTRACE_O_EXITKILL as usize)
            .map_err(|error| format!("PTRACE_SETOPTIONS: {error}"))?;
        // Threads that were made before have come to where they stay.
        tracee.wait_for_others();
        Ok(tracee)
    }

    /// It goes on, as it should.
    pub(super) fn pat(&self) {
        self.dog.pat();
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Before a system call: its number.
    pub(super) fn accumulator(&self) -> i64 {
        ptrace(libc::PTRACE_PEEKUSER, self.pid, RAX, 0).unwrap_or(-1)
    }

    /// Where it stands: the instruction that it executes next.
    pub(super) fn rip(&self) -> u64 {
        // None: it was killed by the watchdog; the next step says so.
        ptrace(libc::PTRACE_PEEKUSER, self.pid, RIP, 0).unwrap_or(0) as u64
    }

    /// Eight bytes of its memory.
    pub(super) fn peek(&self, address: u64) -> [u8; 8] {
        let word = ptrace(libc::PTRACE_PEEKTEXT, self.pid, address as usize, 0);
        word.unwrap_or(0).to_le_bytes()
    }

    /// The bytes from there on in which an instruction is.
    pub(super) fn peek_instruction(&self, address: u64) -> [u8; 16] {
        let words = [self.peek(address), self.peek(address + 8)];
        std::array::from_fn(|nth| words[nth / 8][nth % 8])
    }

    /// Whether an instruction with this target, before which it stands, may change what `view`
    /// looks at.
    pub(super) fn may_store(&self, target: Option<Target>, view: &View) -> bool {
        let stored = target.and_then(|target| Some(target.range(&self.registers().ok()?)));
        stored.is_none_or(|stored| view.overlaps(&stored))
    }

    /// Executes one instruction; of a repeated string instruction, one round. A call into the vDSO
    /// is one instruction: it stores nothing that others see, and reads the clock again and again
    /// where that is just being set, which it is at every other step.
    pub(super) fn step(&mut self) -> Stop {
        let stop = self.go(libc::PTRACE_SINGLESTEP);
        if stop != Stop::Trap || !view::vdso().contains(&self.rip()) {
            return stop;
        }
        let top = ptrace(libc::PTRACE_PEEKUSER, self.pid, RSP, 0).unwrap_or(0) as u64;
        match self.run_to(u64::from_le_bytes(self.peek(top)), 1) {
            Ok(_) => Stop::Trap,
            Err(status) => Stop::Ended(status),
        }
    }

    /// Goes on to the beginning of its next system call: its number; or to before its mark: `None`.
    ///
    /// # Errors
    /// It ended, with this status.
    pub(super) fn resume_to_call(&mut self) -> Result<Option<i64>, i32> {
        if let Stop::Ended(status) = self.go(libc::PTRACE_SYSCALL) {
            return Err(status);
        }
        let before = self.rip().wrapping_sub(1);
        if Kind::of(self.peek(before)) == Kind::Mark {
            self.set_rip(before);
            return Ok(None);
        }
        let number = ptrace(libc::PTRACE_PEEKUSER, self.pid, machine::ORIG_RAX, 0);
        Ok(Some(number.unwrap_or(-1)))
    }

    /// Does that call.
    pub(super) fn finish_call(&mut self) -> Stop {
        self.go(libc::PTRACE_SYSCALL)
    }

    /// Lets it go on, until it has slept for a while in a system call. `false`: it has stopped or
    /// ended instead.
    pub(super) fn resume_to_sleep(&mut self) -> bool {
        self.let_go(libc::PTRACE_CONT, 0);
        let mut asleep = 0;
        while asleep < ASLEEP && !self.has_news() {
            let is_asleep = view::state(self.pid, self.pid) == Some('S');
            asleep = if is_asleep { asleep + 1 } else { 0 };
            std::thread::sleep(LOOK);
        }
        asleep == ASLEEP
    }

    /// Whether it has stopped or ended, which is still to be waited for.
    fn has_news(&self) -> bool {
        let flags = libc::WEXITED | libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        let id = self.pid as libc::id_t;
        // SAFETY: fills in `info`, which is ours.
        let asked = unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), flags) };
        // SAFETY: all zero is a valid one.
        let info = unsafe { info.assume_init() };
        // SAFETY: of a child, or zero.
        asked != 0 || unsafe { info.si_pid() } != 0
    }

    /// Until its other threads sleep: in a trace, where all goes slowly, they have had the time.
    pub(super) fn wait_for_others(&self) {
        let end = Instant::now() + ROUSED_MAX;
        while !view::others_sleep(self.pid, self.pid) && Instant::now() < end {
            std::thread::sleep(LOOK);
        }
    }

    /// Goes on to the next trap or its end.
    pub(super) fn resume(&mut self) -> Stop {
        self.go(libc::PTRACE_CONT)
    }

    /// Runs at full speed to its `arrivals`-th arrival at `rip`. `Ok(false)`: it trapped elsewhere,
    /// for instance at its second mark.
    ///
    /// # Errors
    /// It ended before, with this status.
    pub(super) fn run_to(&mut self, rip: u64, arrivals: u32) -> Result<bool, i32> {
        let old = self.peek(rip);
        let mut planted = old;
        planted[0] = TRAP;
        // Where it stands is no arrival.
        if arrivals > 0
            && self.rip() == rip
            && let Stop::Ended(status) = self.step()
        {
            return Err(status);
        }
        for arrival in 1..=arrivals {
            self.poke(rip, planted);
            if let Stop::Ended(status) = self.resume() {
                return Err(status);
            }
            self.poke(rip, old);
            if self.rip() != rip + 1 {
                return Ok(false);
            }
            self.set_rip(rip);
            if arrival < arrivals
                && let Stop::Ended(status) = self.step()
            {
                return Err(status);
            }
        }
        Ok(true)
    }

    /// Goes on to its second mark, wherever it stands, or to its end.
    pub(super) fn pass_mark(&mut self) -> Stop {
        let is_there = Kind::of(self.peek(self.rip())) == Kind::Mark;
        if is_there { self.step() } else { self.resume() }
    }

    /// Makes it fork where it stands; its child calls what `page` names. Then it stands there as
    /// before.
    ///
    /// # Errors
    /// How the forked one ended, if not well.
    pub(super) fn fork(&mut self, page: &Page) -> Result<(), String> {
        let [function, argument] = [&page.fork_entry, &page.fork_argument];
        let [function, argument] = [function, argument].map(|word| word.load(Ordering::Relaxed));
        let before = self.registers()?;
        let status = page.forked_status.as_ptr() as u64;
        self.set_registers(&machine::forking(&before, function, argument, status))?;
        if let Stop::Ended(status) = self.resume() {
            return Err(format!("took it along: it {}", tell_end(status, page)));
        }
        let result = machine::result(&self.registers()?);
        self.set_registers(&before)?;
        if result < 0 {
            return Err(format!("was not born: {}", io::Error::from_raw_os_error(-result as i32)));
        }
        match page.forked_status.load(Ordering::Relaxed) as i32 {
            0 => Ok(()),
            status => Err(tell_end(status, page)),
        }
    }

    fn registers(&self) -> Result<libc::user_regs_struct, String> {
        let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
        let to = registers.as_mut_ptr() as usize;
        ptrace(libc::PTRACE_GETREGS, self.pid, 0, to).map_err(|error| error.to_string())?;
        // SAFETY: plain integers, filled in.
        Ok(unsafe { registers.assume_init() })
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) -> Result<(), String> {
        let from = std::ptr::from_ref(registers) as usize;
        let set = ptrace(libc::PTRACE_SETREGS, self.pid, 0, from);
        set.map(drop).map_err(|error| error.to_string())
    }

    /// SIGKILL, and reaped: when this returns no thread of it executes anything any more.
    pub(super) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if self.ended.is_none() {
            // SAFETY: our own child, not reaped yet.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            while let Stop::Trap = self.wait() {}
        }
    }

    fn set_rip(&self, rip: u64) {
        // An error: it was killed by the watchdog; the next step says so.
        let _ = ptrace(libc::PTRACE_POKEUSER, self.pid, RIP, rip as usize);
    }

    fn poke(&self, address: u64, bytes: [u8; 8]) {
        // An error: it was killed by the watchdog; the next step says so.
        let word = u64::from_le_bytes(bytes) as usize;
        let _ = ptrace(libc::PTRACE_POKETEXT, self.pid, address as usize, word);
    }

    fn go(&mut self, request: libc::c_uint) -> Stop {
        self.let_go(request, 0);
        self.come_back(request)
    }

    fn let_go(&self, request: libc::c_uint, signal: i32) {
        // An error: it was killed; who waits for it is told.
        let _ = ptrace(request, self.pid, 0, signal as usize);
    }

    /// Signals that are not ours are passed on.
    fn come_back(&mut self, request: libc::c_uint) -> Stop {
        loop {
            match self.wait_raw() {
                status if !libc::WIFSTOPPED(status) => return Stop::Ended(status),
                status if libc::WSTOPSIG(status) == libc::SIGTRAP => return Stop::Trap,
                status => self.let_go(request, passed_on(libc::WSTOPSIG(status))),
            }
        }
    }

    fn wait(&mut self) -> Stop {
        match self.wait_raw() {
            status if !libc::WIFSTOPPED(status) => Stop::Ended(status),
            status if libc::WSTOPSIG(status) == libc::SIGTRAP => Stop::Trap,
            status => {
                let _ = ptrace(libc::PTRACE_CONT, self.pid, 0, libc::WSTOPSIG(status) as usize);
                self.wait()
            }
        }
    }

    fn wait_raw(&mut self) -> i32 {
        if let Some(status) = self.ended {
            return status;
        }
        let mut status = 0;
        loop {
            // SAFETY: `status` is ours.
            let reaped = unsafe { libc::waitpid(self.pid, &mut status, libc::__WALL) };
            if reaped == self.pid {
                break;
            }
            let error = io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::EINTR), "lost child {}", self.pid);
        }
        if !libc::WIFSTOPPED(status) {
            self.ended = Some(status);
            self.dog.forget(self.pid);
        }
        status
    }
}

impl Drop for Tracee<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Passed on, a stop signal would stop it again and again.
fn passed_on(signal: i32) -> i32 {
    let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    if stops.contains(&signal) { 0 } else { signal }
}

/// How a child ended, in words, with what it said.
pub(super) fn tell_end(status: i32, page: &Page) -> String {
    let how = if libc::WIFSIGNALED(status) {
        format!("was ended by signal {}", libc::WTERMSIG(status))
    } else {
        match libc::WEXITSTATUS(status) {
            0 => "ended".to_owned(),
            EXIT_ERROR => "failed".to_owned(),
            EXIT_REFUSED => "was refused ptrace".to_owned(),
            EXIT_PANIC => "panicked".to_owned(),
            code => format!("exited with {code}"),
        }
    };
    let said = page.said();
    if said.is_empty() { how } else { format!("{how}: {said}") }
}

/// The child.
fn live(page: &Page, life: Life<'_>) -> ! {
    // Nobody is left behind where the test process is killed; once stopped, EXITKILL sees to that.
    die_with_parent();
    if let Err(error) = ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
        page.refused.store(error.raw_os_error().unwrap_or(0) as u64, Ordering::Relaxed);
        leave(EXIT_REFUSED);
    }
    IS_CHILD.store(true, Ordering::Relaxed);
    heap::begin();
    end_with(page, life)
}

/// Set in children: what they have to say when they panic goes to the parent by the page, for
/// output may be locked by a thread that they are without.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// Has children panic silently. In the parent, and once: a child cannot change the hook, for
/// another thread may have been in it.
fn silence_children() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let parents = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_CHILD.load(Ordering::Relaxed) {
                parents(info);
            }
        }));
    });
}

/// Does `work` and ends the process, with a code and a message that say how it went.
pub(super) fn end_with(page: &Page, work: Life<'_>) -> ! {
    let code = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            page.say(&error);
            EXIT_ERROR
        }
        Err(payload) => {
            page.say(&panic_message(&*payload));
            EXIT_PANIC
        }
    };
    leave(code)
}

pub(super) fn die_with_parent() {
    // SAFETY: changes this process only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Ends the process without running anything of its parent's.
fn leave(code: i32) -> ! {
    // SAFETY: ends this process.
    unsafe { libc::_exit(code) }
}

/// What a panic said.
pub(super) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn ptrace(request: libc::c_uint, pid: i32, address: usize, data: usize) -> io::Result<i64> {
    // SAFETY: this thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above. A word that is peeked may be -1, so only errno tells an error.
    unsafe { *errno = 0 };
    // SAFETY: reads and writes the child, and the registers that our callers point to.
    let word = unsafe { libc::ptrace(request, pid, address, data) };
    let error = io::Error::last_os_error();
    if word == -1 && error.raw_os_error() != Some(0) { Err(error) } else { Ok(word) }
}

/// Why no child can be traced here; `None` where one can.
pub(super) fn refusal(dog: &Dog) -> Option<String> {
    if let Some(why) = REFUSAL {
        return Some(why.to_owned());
    }
    silence_children();
    let page = Page::new();
    dog.watch("whether a child may be traced");
    let mut life = || {
        mark();
        mark();
        Ok(())
    };
    let mut tracee = match Tracee::start(dog, &page, &mut life) {
        Ok(tracee) => tracee,
        Err(end) => {
            let errno = page.refused.load(Ordering::Relaxed);
            let error = io::Error::from_raw_os_error(errno as i32);
            return Some(format!("a child may not be traced here: it {end} ({error})"));
        }
    };
    let before = tracee.rip();
    let steps = tracee.step() == Stop::Trap && tracee.rip() != before;
    (!steps).then(|| "a child cannot be stepped here".to_owned())
}
