//! For tests of shared-memory programs: child processes, unique names, watchdogs, plain models.
//!
//! It depends on no other crate of this workspace, so that any of them, and any user, can test
//! with it. Linux with glibc. A helper that is used wrongly, or that waits in vain, panics: that
//! fails the test, with a message which says what was awaited.
//!
//! Modules, lowest first; each uses only those above it.

// Runs a function of the same test binary in a child process.
pub mod child;

// Kills a process at every instruction of an operation, and has the survivors checked.
pub mod killpoint;

// Models of structures in shared memory: every interleaving, a death at any access.
#[cfg(shm_loom)]
pub mod model;

// Models too simple to be wrong, for property tests to compare with.
pub mod plain;

// Names nobody else uses; what a test leaves behind is found and removed.
pub mod unique;

// `within`: aborts the process, with a message, when something takes too long.
pub mod watchdog;
