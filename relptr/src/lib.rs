//! Relative pointers into shared memory: checked, atomic, valid at any mapping address.
//!
//! Processes map the same memory at different addresses, so what is stored in it are distances from
//! its base. A [`Region`] is base and length; a relative pointer is a distance, which becomes an address only
//! together with a region, and only if bounds and alignment are right: what another process wrote is
//! a claim. No system call, no allocation, no `std`.
//!
//! Modules, lowest first; each uses only those above it.
#![no_std]
#![warn(missing_docs)]

/// `Region`: base, length and provenance of a piece of memory; checked doors into it.
pub mod region;

/// `Carver`: hands out a region piece by piece, at the same offsets in every process.
pub mod carve;

pub use carve::Carver;
pub use region::{BadPtr, Region, ShmSync};
