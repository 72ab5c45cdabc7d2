//! A child process of ours, held by its pidfd until its exit status has been taken.
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use shm_core::process::ProcessId;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// How a worker ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Exit {
    /// It ended by itself, with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It is dead, but somebody else took its status: the leader ignores `SIGCHLD`, or waits for
    /// any child.
    Unknown,
}

impl Exit {
    /// Whether it ended by itself with code 0.
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::Unknown => f.write_str("an unknown end"),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Child {
    id: ProcessId,
    /// Readable once the process is dead.
    pidfd: Arc<OwnedFd>,
}

impl Child {
    /// `pid` is a child nobody has waited for yet, so the number cannot mean another process.
    pub(crate) fn watch(pid: u32) -> io::Result<Child> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        let pidfd = Arc::new(pidfd_open(raw, PidfdFlags::empty())?);
        Ok(Child { id: ProcessId::of(pid)?, pidfd })
    }

    pub(crate) fn id(&self) -> ProcessId {
        self.id
    }

    /// Readable once the process is dead.
    pub(crate) fn death(&self) -> &Arc<OwnedFd> {
        &self.pidfd
    }

    /// Whether the signal was sent: not to one who is dead, or no longer ours to signal.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        pidfd_send_signal(&self.pidfd, signal).is_ok()
    }

    /// Takes the exit status, and with it the zombie. `None`: it lives.
    pub(crate) fn take_exit(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(status) => status?,
            Err(Errno::INTR) => return None,
            // Most likely ECHILD. No other error would pass by itself.
            Err(_) => return Some(Exit::Unknown),
        };
        let code = status.exit_status().map(Exit::Code);
        Some(code.or(status.terminating_signal().map(Exit::Signal)).unwrap_or(Exit::Unknown))
    }
}
