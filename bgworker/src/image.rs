//! What a forked child turns itself into: everything is made before the fork, for the child of a
//! process with several threads may neither allocate nor take a lock.
use crate::handover::Handover;
use crate::spec::{Output, Program, WorkerSpec};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString, c_char};
use std::fs::OpenOptions;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

unsafe extern "C" {
    /// The C library's: `execvp` takes the environment, and the `PATH` to search, from it.
    static mut environ: *const *const c_char;
}

/// The end of a process that could not execute its program; nobody sees it.
const REFUSED: i32 = 127;

pub(crate) struct Image {
    program: CString,
    args: Strings,
    env: Strings,
    /// Standard input, output and error, numbered above them; `None`: the leader's.
    stdio: [Option<OwnedFd>; 3],
    inherit: Vec<RawFd>,
}

/// Strings as C likes them: `pointers` ends with a null.
struct Strings {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

impl Strings {
    fn new(strings: Vec<CString>) -> Strings {
        let null = std::ptr::null();
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([null]).collect();
        Strings { pointers, _strings: strings }
    }
}

pub(crate) fn program_path(program: &Program) -> PathBuf {
    match program {
        Program::Path(path) => path.clone(),
        // The link is the running executable itself, not the file that now has its name.
        Program::This => PathBuf::from("/proc/self/exe"),
    }
}

impl Image {
    pub(crate) fn new(spec: &WorkerSpec, program: &Path, handover: Handover) -> io::Result<Image> {
        let own = std::env::args_os().next().filter(|_| spec.program == Program::This);
        let first = own.as_deref().unwrap_or(program.as_os_str());
        let args = std::iter::once(first).chain(spec.args.iter().map(OsString::as_os_str));
        Ok(Image {
            program: c_string(program.as_os_str())?,
            args: Strings::new(args.map(c_string).collect::<io::Result<_>>()?),
            env: Strings::new(environment(spec, &handover)?),
            stdio: [Some(nothing()?), output(&spec.stdout)?, output(&spec.stderr)?],
            inherit: handover.fds,
        })
    }

    /// In the child: executes the program, or writes the error number to `refusal` and ends.
    pub(crate) fn become_it(&self, refusal: &OwnedFd) -> ! {
        let error = match self.prepare() {
            Ok(()) => self.execute(),
            Err(error) => error,
        };
        let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
        // If nobody reads it, nobody cares.
        let _ = rustix::io::write(refusal, &errno.to_ne_bytes());
        // SAFETY: ends the process.
        unsafe { libc::_exit(REFUSED) }
    }

    /// Makes the descriptors survive, here and not in the leader, so that no other program started
    /// meanwhile gets them; and drops what it would otherwise inherit of the leader's treatment of
    /// signals.
    fn prepare(&self) -> io::Result<()> {
        for (number, fd) in (0..).zip(&self.stdio) {
            if let Some(fd) = fd {
                // SAFETY: a plain system call.
                check(unsafe { libc::dup2(fd.as_raw_fd(), number) })?;
            }
        }
        for fd in &self.inherit {
            // SAFETY: a plain system call.
            check(unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) })?;
        }
        // The terminal sends Ctrl-C to the leader's group; the leader ends its workers.
        // SAFETY: a plain system call.
        check(unsafe { libc::setpgid(0, 0) })?;
        // If the leader dies while this worker is stopped, it must run to see it. Harmless else.
        rustix::process::set_parent_process_death_signal(Some(Signal::CONT))?;
        sane_signals()
    }

    fn execute(&self) -> io::Error {
        // SAFETY: no other thread is here to look at it.
        unsafe { environ = self.env.pointers.as_ptr() };
        // SAFETY: strings that live, and a null at the end.
        unsafe { libc::execvp(self.program.as_ptr(), self.args.pointers.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// The leader's environment and what the specification adds: the later ones win.
fn environment(spec: &WorkerSpec, handover: &Handover) -> io::Result<Vec<CString>> {
    let mut env: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    env.extend(spec.inherit.env.iter().chain(&spec.env).cloned());
    env.extend(handover.to_env().map(|(name, value)| (name.into(), value.into())));
    let lines = env.into_iter().map(|(mut line, value)| {
        line.push("=");
        line.push(value);
        c_string(&line)
    });
    lines.collect()
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(io::Error::from)
}

fn nothing() -> io::Result<OwnedFd> {
    above_stdio(&OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
}

fn output(output: &Output) -> io::Result<Option<OwnedFd>> {
    match output {
        Output::Inherit => Ok(None),
        Output::Null => nothing().map(Some),
        Output::To(fd) => above_stdio(fd).map(Some),
    }
}

/// A copy, numbered 3 or more: `dup2` onto one of 0 to 2 must not hit what is still to be copied,
/// nor find it in its place already, where it would be left to be closed by `exec`.
fn above_stdio(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

fn sane_signals() -> io::Result<()> {
    // Rust's runtime ignores SIGPIPE; programs expect that it is not.
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGCHLD, libc::SIGPIPE] {
        // SAFETY: the default action runs no code of ours.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `none` is writable, and of the type asked for.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: `none` was filled just now; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) })
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
