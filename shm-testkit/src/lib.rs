//! For tests of shared-memory programs: child processes, unique names, watchdogs, plain models; and
//! checkers of structures in shared memory, ours and yours: models with deaths, deaths at every
//! instruction, memory that lies, system calls that fail.
//!
//! It depends on no other crate of this workspace, so that any of them, and any user, can test
//! with it. Linux with glibc. A helper that is used wrongly, or that waits in vain, panics: that
//! fails the test, with a message which says what was awaited.
//!
//! Modules, lowest first; each uses only those above it.

// How much a run tries, and whether `SHM_DEEP=1` asks for more.
pub mod depth;

// Seeds, numbers and bytes, the same again from the same seed.
pub mod random;

// `within`: aborts the process, with a message, when something takes too long.
pub mod watchdog;

// Runs a function of the same test binary in a child process.
pub mod child;

// Under `--cfg shm_explore`: every schedule of a small case, with deaths, stops and lies.
#[cfg(shm_explore)]
pub mod explore;

// Names nobody else uses; what a test leaves behind is found and removed.
pub mod unique;

// Models too simple to be wrong, for property tests to compare with.
pub mod plain;

// System calls that fail, namespaces and limits: an operation where the system lets it down.
pub mod fault;

// Models of structures in shared memory: every interleaving, a death at any access.
#[cfg(shm_loom)]
pub mod model;

// Kills a process at every instruction of an operation, and has the survivors checked.
pub mod killpoint;

// Guard pages, lies, and the thread that tells them: is a structure safe from a bad peer?
pub mod liar;
