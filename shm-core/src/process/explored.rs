//! The processes of an exploration: numbered from 1, and dead when the explorer says so. See
//! [`shm_testkit::explore::kernel`].
pub(super) use super::unforked::Mark;
pub use super::unforked::{generation, thread};
use super::{Liveness, Namespaces, OpenError, ProcessId};
use shm_testkit::explore::kernel;
use std::io;
use std::time::Instant;

fn named(pid: u32) -> io::Result<ProcessId> {
    ProcessId::new(pid, u64::from(pid) + 100).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

pub(super) fn me() -> io::Result<ProcessId> {
    named(kernel::pid())
}

pub(super) fn of(pid: u32) -> io::Result<ProcessId> {
    named(pid)
}

pub(super) fn namespaces() -> io::Result<Namespaces> {
    Ok(Namespaces { pid: 1, time: 1 })
}

/// Another start time than that of whoever has the pid: the process meant is dead.
pub(super) fn liveness(process: ProcessId) -> Liveness {
    let lives = !kernel::is_dead(process.pid());
    match process.start_ticks() {
        _ if !lives => Liveness::Dead,
        0 => Liveness::Unknown,
        start if start == u64::from(process.pid()) + 100 => Liveness::Alive,
        _ => Liveness::Dead,
    }
}

/// An explored process.
#[derive(Debug)]
pub struct ProcessHandle {
    process: ProcessId,
}

impl ProcessHandle {
    /// As the system's.
    ///
    /// # Errors
    /// [`OpenError::Dead`].
    pub fn open(process: ProcessId) -> Result<ProcessHandle, OpenError> {
        match liveness(process) {
            Liveness::Dead => Err(OpenError::Dead(process)),
            _ => Ok(ProcessHandle { process }),
        }
    }

    /// Which process this is.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Whether it has ended.
    pub fn is_dead(&self) -> bool {
        liveness(self.process) == Liveness::Dead
    }

    /// Sleeps until it has ended, or, where there is a deadline, for some time.
    pub fn wait_dead(&self, deadline: Option<Instant>) -> bool {
        kernel::sleep_until_dead(self.process.pid(), deadline.is_some());
        self.is_dead()
    }
}
