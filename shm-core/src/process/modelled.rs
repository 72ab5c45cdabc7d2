//! The processes of a model: a loom thread is the process it says it is, and dies when told so.
pub(super) use super::unforked::Mark;
pub use super::unforked::{generation, thread};
use super::{Liveness, Namespaces, OpenError, ProcessId};
use crate::futex::Futex;
use shm_testkit::model::{is_dead, runtime};
use std::cell::Cell;
use std::io;
use std::time::Instant;

const PROCESSES: usize = 8;

runtime::lazy_static! {
    static ref DEAD: Vec<Futex> = (0..PROCESSES).map(|_| Futex::new(0)).collect();
}

runtime::thread_local! {
    static PID: Cell<u32> = Cell::new(1);
}

/// How a model says who is who, and who has died.
pub mod model {
    use super::{DEAD, PID, ProcessId, named};

    /// The calling loom thread is process `pid` (1 to 7) from now on; it was process 1.
    pub fn become_process(pid: u32) -> ProcessId {
        PID.with(|me| me.set(pid));
        named(pid)
    }

    /// The kernel has buried `process`: all it did is visible to who learns of it.
    pub fn buried(process: ProcessId) {
        let dead = &DEAD[process.pid() as usize];
        dead.word().kernel_compare_exchange(0, 1);
        dead.wake_all();
    }
}

fn named(pid: u32) -> ProcessId {
    ProcessId::new(pid, u64::from(pid) + 100).expect("a small pid")
}

pub(super) fn me() -> io::Result<ProcessId> {
    Ok(named(PID.with(Cell::get)))
}

pub(super) fn of(pid: u32) -> io::Result<ProcessId> {
    Ok(named(pid))
}

pub(super) fn namespaces() -> io::Result<Namespaces> {
    Ok(Namespaces { pid: 1, time: 1 })
}

pub(super) fn liveness(process: ProcessId) -> Liveness {
    if is_dead() {
        return Liveness::Unknown;
    }
    match DEAD[process.pid() as usize % PROCESSES].word().kernel_look() {
        0 => Liveness::Alive,
        _ => Liveness::Dead,
    }
}

/// A modelled process.
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

    /// Waits until it has ended, whatever the deadline: a model has no time.
    pub fn wait_dead(&self, _deadline: Option<Instant>) -> bool {
        DEAD[self.process.pid() as usize % PROCESSES].wait(0, None);
        self.is_dead()
    }
}
