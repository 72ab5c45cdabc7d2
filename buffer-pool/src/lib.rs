//! Pages of files in shared memory, used by many processes at once.
//!
//! A process opens a [`pool`] in shared memory, and each of its threads has a session, which finds
//! pages of [registered](files) files in the pool or reads them in, and changes them. Any of the
//! processes may be killed at any instruction: the others lose nothing and go on.
//!
//! Below that stands what knows which page is in which frame ([`frames`]), which files there are
//! ([`files`]), who may read or change a page ([`latch`]), the pages' bytes, which no death tears
//! for good ([`pages`]), and which pages stay: [`policy`] is the replacement, in shared memory, and
//! [`mod@simulate`] runs it over a trace of page accesses, beside plain models of what others do.
//! `shmctl pool` shows a pool, and such a run, to people. `workers` (feature `bgworker`) are
//! processes that write its pages out and warm it up.
//!
//! Modules, lowest first; each uses only those above it.

// Waiting for somebody who may die.
mod wait;

// Which page is in which frame, and who moves it.
pub mod frames;

// Which files there are, how long each is, and where the entries of its pages are.
pub mod files;

// Who may read a frame's page, write it out, or change it.
pub mod latch;

// The bytes of the frames: changed wholly or not at all, and which differ from their files.
pub mod pages;

// The end of a log: records in their order, in shared memory, and not in a file yet.
pub mod tail;

// Which frame is to give up its page: PostgreSQL's clock, or a clock behind a probation ring.
pub mod policy;

// Where pages come from and go to.
#[cfg(not(any(shm_loom, shm_explore)))]
pub mod store;

// The first bytes of a page, and the checksum in them.
#[cfg(not(any(shm_loom, shm_explore)))]
mod checksum;

// A log of many processes, in files.
#[cfg(not(any(shm_loom, shm_explore)))]
pub mod log;

// The pool: all of the above, and pages read in, changed and written to their files.
#[cfg(not(any(shm_loom, shm_explore)))]
pub mod pool;

// Worker processes of a pool: a background writer, and one who prewarms it (feature `bgworker`).
#[cfg(all(feature = "bgworker", not(any(shm_loom, shm_explore))))]
pub mod workers;

// The policies over traces, without any page, beside LRU, an exact clock and the optimum.
#[cfg(not(any(shm_loom, shm_explore)))]
pub mod simulate;

#[cfg(not(any(shm_loom, shm_explore)))]
pub use checksum::HEADER_BYTES;

/// In a model an unwind is a death, or the model has failed: destructors do nothing then.
fn model_unwinds() -> bool {
    cfg!(any(shm_loom, shm_explore)) && std::thread::panicking()
}
