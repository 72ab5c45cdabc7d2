//! Memory, waiting and processes: the ground that shared-memory structures stand on.
//!
//! Modules, lowest first; each uses only those above it.

// The one shim to the atomics: core's in production, loom's in models.
pub mod sync;

// Spinning, then yielding, with a bound.
pub mod backoff;

// `Futex`: a word that processes can sleep on.
pub mod futex;

// `EventCount`: sleep until something changed, wake only who sleeps.
pub mod event;

// Which process is which, and whether it lives.
pub mod process;

// `Bell`: a file descriptor that becomes readable when words change.
#[cfg(not(any(shm_loom, shm_explore)))]
pub mod bell;

// `Plan` and `fingerprint!`: where things stand in a region, and which layout it is.
pub mod layout;

// `Mapping`: memory shared with other processes; typed views that keep it mapped.
pub mod mapping;

// Bytes that are nobody's, told to AddressSanitizer in our own checks.
#[doc(hidden)]
pub mod poison;

// Payload bytes in shared memory: the copies, and the view that needs none.
pub mod bytes;

// Between processes that do not trust each other: sealed memory, one writer each, and a bell.
pub mod sealed;

// How far a peer is trusted: crashing, buggy, hostile, as types.
pub mod trust;

// `Header`: what every named piece of shared memory begins with; made exactly once.
pub mod header;

// The table of attached processes, and waiting for one that may die.
pub mod participants;

// Hazard pointers: who uses a thing says so, and who would free it looks first.
pub mod hazard;

// Locks between processes: owners are named, and a dead owner is reported.
pub mod lock;

pub use relptr::{BadPtr, Region, Reserved, ShmSync, shm_sync};
