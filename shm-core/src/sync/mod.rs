//! The one shim between our algorithms and the atomics that run them.
//!
//! In production these are core's atomics, nothing added. Under `--cfg shm_loom` they are those of
//! `shm_testkit::model`: loom's, with two repairs (a shadow access per word, and a table of
//! ordering sites) and with death. No other module of this crate, or of one above it, names
//! `core::sync::atomic`.

#[cfg(not(shm_loom))]
mod real;
#[cfg(not(shm_loom))]
pub use real::*;

#[cfg(shm_loom)]
pub use shm_testkit::model::{AtomicU32, AtomicU64, fence, spin_loop, yield_now};

pub use core::sync::atomic::Ordering;
