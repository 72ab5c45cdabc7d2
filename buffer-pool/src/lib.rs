//! Pages of files in shared memory, used by many processes at once.
//!
//! What is here so far knows which page is in which frame ([`frames`]: found, pinned, read in and
//! evicted by many processes, any of which may die), who may read or change it ([`latch`]), and
//! which pages stay: [`policy`] is the replacement of a pool of frames, in shared memory, and
//! [`mod@simulate`] runs it over a trace of page accesses, beside plain models of what others do.
//! `shmctl pool simulate` shows that to people.
//! Files are neither read nor written yet.
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

// Which frame is to give up its page: PostgreSQL's clock, or a clock behind a probation ring.
pub mod policy;

// The policies over traces, without any page, beside LRU, an exact clock and the optimum.
#[cfg(not(any(shm_loom, shm_explore)))]
pub mod simulate;

/// In a model an unwind is a death, or the model has failed: destructors do nothing then.
fn model_unwinds() -> bool {
    cfg!(any(shm_loom, shm_explore)) && std::thread::panicking()
}
