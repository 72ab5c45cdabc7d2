//! Stops a child at its system calls, one after the other: where a kill can make a difference to
//! others, it falls between two of them.
use shm_testkit::child::Child;
use std::io;
use std::ptr;

/// A child traced by the thread that made this.
pub(super) struct Traced {
    pub(super) child: Child,
}

impl Traced {
    /// Traces `child`, which says that it is ready and waits for a line, and sends it the line.
    pub(super) fn start(mut child: Child) -> Traced {
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        let traced = |child: &Child, request, data: i32| {
            // SAFETY: these requests take a number, and access none of our memory.
            let done = unsafe { libc::ptrace(request, pid(child), ptr::null_mut::<u8>(), data) };
            assert_eq!(done, 0, "ptrace: {}", io::Error::last_os_error());
        };
        assert_eq!(child.hear(super::LIMIT), "ready");
        traced(&child, libc::PTRACE_SEIZE, options);
        traced(&child, libc::PTRACE_INTERRUPT, 0);
        assert!(stopped(&child), "it waits for a line");
        child.say("go");
        Traced { child }
    }

    /// Lets it run into, or out of, its next system call. `false` where it has ended instead.
    pub(super) fn step(&self) -> bool {
        self.resume(libc::PTRACE_SYSCALL);
        stopped(&self.child)
    }

    /// Lets it run on, untraced.
    pub(super) fn let_go(self) -> Child {
        self.resume(libc::PTRACE_DETACH);
        self.child
    }

    fn resume(&self, request: libc::c_uint) {
        let (pid, no_signal) = (pid(&self.child), 0);
        // SAFETY: these requests take a signal number, and access none of our memory.
        let done = unsafe { libc::ptrace(request, pid, ptr::null_mut::<u8>(), no_signal) };
        assert_eq!(done, 0, "ptrace: {}", io::Error::last_os_error());
    }
}

fn pid(child: &Child) -> libc::pid_t {
    child.pid().try_into().expect("a process id")
}

/// Waits until it stops or ends, and says whether it stopped.
fn stopped(child: &Child) -> bool {
    let mut status = 0;
    // SAFETY: waitpid writes one int.
    let waited = unsafe { libc::waitpid(pid(child), &mut status, libc::__WALL) };
    assert_eq!(waited, pid(child), "waitpid: {}", io::Error::last_os_error());
    let succeeded = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
    assert!(libc::WIFSTOPPED(status) || succeeded, "it ended with status {status:#x}");
    !succeeded
}
