//! The one shim between our algorithms and the atomics that run them.
//!
//! In production these are core's atomics, nothing added. Under `--cfg shm_loom` they are loom's,
//! with two repairs (a shadow access per word, and a table of ordering sites) and with death: see
//! `sync::model`. Under `--cfg shm_explore` each access passes the explorer's hook:
//! `sync::explored`. No other module of this crate, or of one above it, names `core::sync::atomic`.

#[cfg(not(any(shm_loom, shm_explore)))]
mod real;
#[cfg(not(any(shm_loom, shm_explore)))]
pub use real::*;

#[cfg(shm_explore)]
mod explored;
#[cfg(shm_explore)]
pub use explored::*;

#[cfg(shm_loom)]
pub mod model;
#[cfg(shm_loom)]
mod modelled;
#[cfg(shm_loom)]
pub use modelled::*;

pub use core::sync::atomic::Ordering;
