//! The one shim between our algorithms and the atomics that run them.
//!
//! In production these are core's atomics, nothing added. Under `--cfg shm_loom` they are those of
//! `shm_testkit::model`: loom's, with two repairs (a shadow access per word, and a table of
//! ordering sites) and with death. Under `--cfg shm_explore` they are those of
//! `shm_testkit::explore`, and each access is a step of the explorer's. No other module of this
//! crate, or of one above it, names `core::sync::atomic`.

#[cfg(not(any(shm_loom, shm_explore)))]
mod real;
#[cfg(not(any(shm_loom, shm_explore)))]
pub use real::*;

#[cfg(shm_explore)]
mod explored;
#[cfg(shm_explore)]
pub use explored::*;

#[cfg(shm_loom)]
pub use shm_testkit::model::{AtomicU32, AtomicU64, fence, spin_loop, yield_now};

pub use core::sync::atomic::Ordering;

/// Of models: there each access takes place in its turn.
#[cfg(any(shm_loom, shm_explore))]
#[inline]
pub fn in_program_order() {}

/// Of models: they have no caches.
#[cfg(any(shm_loom, shm_explore))]
#[inline]
pub fn prefetch(_word: &AtomicU64) {}

/// Of models: they have no caches.
#[cfg(any(shm_loom, shm_explore))]
#[inline]
pub fn prefetch_to_write(_word: &AtomicU64) {}
