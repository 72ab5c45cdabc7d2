//! Which process is which, whether it still lives, and whether we are still the one we were.
//!
//! Three questions, each answered by the kernel and never guessed from silence:
//!
//! - *Who?* [`ProcessId`]: pid and start time in one word, so that one compare-and-swap both takes
//!   a thing and names its owner, and a pid that was given to somebody else is not mistaken.
//! - *Is it dead?* [`ProcessId::liveness`] for one look, [`ProcessHandle`] to sleep until it is.
//! - *Am I a forked child?* [`ForkGuard`].
//!
//! A `ProcessId` has meaning within one pid namespace (the pid) and one time namespace (the start
//! time); [`Namespaces`] tells them apart.
use std::fmt;

#[cfg(not(any(shm_loom, shm_explore)))]
#[path = "linux.rs"]
mod kernel;
#[cfg(shm_loom)]
#[path = "modelled.rs"]
mod kernel;
#[cfg(shm_explore)]
#[path = "explored.rs"]
mod kernel;
#[cfg(any(shm_loom, shm_explore))]
mod unforked;

#[cfg(shm_loom)]
pub use kernel::model;
pub use kernel::{ProcessHandle, generation, thread};

const PID_BITS: u32 = 22;
const START_BITS: u32 = 40;

/// A process, exactly: its pid and when it started.
///
/// Packed into 62 bits: pid 22 | start time 40 (clock ticks since boot, 348 years of them at 100
/// Hz). A start time of 0 stands for one that could not be read; such a process is never taken for
/// dead because another one has its pid.
///
/// ```
/// use shm_core::process::{Liveness, ProcessId};
///
/// let me = ProcessId::me();
/// assert_eq!(me.pid(), std::process::id());
/// assert_eq!(me.liveness(), Liveness::Alive);
/// assert_eq!(ProcessId::from_bits(me.to_bits()), Some(me));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId(u64);

/// What the kernel says about a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// It runs, or is stopped.
    Alive,
    /// No thread of it will execute another instruction.
    Dead,
    /// The kernel does not tell us (`hidepid`, a sandbox, no `/proc`). Treat it as not dead.
    Unknown,
}

impl ProcessId {
    /// Bits that [`to_bits`](ProcessId::to_bits) may set: the two topmost are free for a state.
    pub const BITS: u32 = PID_BITS + START_BITS;

    /// The calling process. Its start time is 0 where `/proc` does not show it: what others are to
    /// clean up after its death is taken by its [`try_me`](ProcessId::try_me).
    pub fn me() -> ProcessId {
        ProcessId::try_me().unwrap_or_else(|_| {
            ProcessId::new(std::process::id(), 0).expect("the kernel's pids are below 2^22")
        })
    }

    /// The calling process, by its whole name. Read from `/proc` once; a forked child reads its
    /// own.
    ///
    /// # Errors
    /// What reading `/proc/self/stat` gives, or `Unsupported` where `/proc` counts other pids than
    /// ours.
    pub fn try_me() -> std::io::Result<ProcessId> {
        kernel::me()
    }

    /// The process that has `pid` now.
    ///
    /// # Errors
    /// What reading `/proc/PID/stat` gives: `NotFound` where there is no such process or it is
    /// hidden.
    pub fn of(pid: u32) -> std::io::Result<ProcessId> {
        kernel::of(pid)
    }

    /// A name for the process with this pid and start time; `None` for pid 0 and what does not fit.
    pub fn new(pid: u32, start_ticks: u64) -> Option<ProcessId> {
        let fits = pid != 0 && pid < 1 << PID_BITS && start_ticks < 1 << START_BITS;
        fits.then(|| ProcessId(u64::from(pid) << START_BITS | start_ticks))
    }

    /// The pid.
    pub fn pid(self) -> u32 {
        (self.0 >> START_BITS) as u32
    }

    /// When it started, in clock ticks since boot; 0 for unknown.
    pub fn start_ticks(self) -> u64 {
        self.0 & ((1 << START_BITS) - 1)
    }

    /// As one word, below 2^62.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// Reads a word that may be anybody's: `None` where it names no process.
    pub fn from_bits(bits: u64) -> Option<ProcessId> {
        let pid = u32::try_from(bits >> START_BITS).ok()?;
        ProcessId::new(pid, bits & ((1 << START_BITS) - 1))
    }

    /// Asks the kernel whether this process lives. About five system calls.
    ///
    /// A zombie is dead (no thread of it runs any more), a stopped process is alive. `Dead` is a
    /// proof: every store of that process is visible to the caller.
    pub fn liveness(self) -> Liveness {
        kernel::liveness(self)
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessId({self})")
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.pid(), self.start_ticks())
    }
}

/// Why there is no [`ProcessHandle`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The process has ended.
    #[error("process {0} has ended")]
    Dead(ProcessId),
    /// The kernel does not let us see it.
    #[error("process {0} cannot be observed: {1}")]
    Unknown(ProcessId, std::io::Error),
}

/// The namespaces in which a [`ProcessId`] has its meaning, by their inode numbers.
///
/// Another pid namespace has other pids; another time namespace reads other start times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Namespaces {
    /// Of `/proc/self/ns/pid`.
    pub pid: u64,
    /// Of `/proc/self/ns/time`; 0 on kernels without time namespaces.
    pub time: u64,
}

impl Namespaces {
    /// Those of the calling process.
    ///
    /// # Errors
    /// What looking at `/proc/self` gives, or `Unsupported` where `/proc` counts other pids than
    /// ours.
    pub fn mine() -> std::io::Result<Namespaces> {
        kernel::namespaces()
    }
}

/// Something made before a `fork` was used after it, by the child.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this handle was made before a fork and belongs to the parent process; make a new one")]
pub struct Forked;

/// Remembers which process made it.
///
/// ```
/// let guard = shm_core::process::ForkGuard::new();
/// assert!(guard.check().is_ok(), "nobody forked");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ForkGuard {
    mark: kernel::Mark,
}

impl ForkGuard {
    /// Made by the calling process.
    #[expect(clippy::new_without_default, reason = "it remembers the moment it was made")]
    pub fn new() -> ForkGuard {
        ForkGuard { mark: kernel::Mark::new() }
    }

    /// Whether the caller is the process that made it. One load where the kernel can wipe a page
    /// on fork, otherwise a system call.
    ///
    /// # Errors
    /// [`Forked`] in a forked child.
    #[inline]
    pub fn check(&self) -> Result<(), Forked> {
        if self.mark.is_ours() { Ok(()) } else { Err(Forked) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_reads_as_pid_and_start() {
        let process = ProcessId::new(4711, 88812).unwrap();
        assert_eq!(process.to_string(), "4711@88812");
        assert_eq!(format!("{process:?}"), "ProcessId(4711@88812)");
    }

    #[test]
    fn packs_and_unpacks_its_limits() {
        let last = ProcessId::new((1 << PID_BITS) - 1, (1 << START_BITS) - 1).unwrap();
        assert_eq!(last.to_bits(), (1 << ProcessId::BITS) - 1);
        assert_eq!((last.pid(), last.start_ticks()), ((1 << PID_BITS) - 1, (1 << START_BITS) - 1));
        assert_eq!(ProcessId::new(0, 5), None);
        assert_eq!(ProcessId::new(1 << PID_BITS, 5), None);
        assert_eq!(ProcessId::new(1, 1 << START_BITS), None);
        assert_eq!(ProcessId::from_bits(1 << ProcessId::BITS | last.to_bits()), None);
        assert_eq!(ProcessId::from_bits(7), None, "pid 0");
    }
}
