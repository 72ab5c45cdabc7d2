//! Relative pointers into shared memory: checked, atomic, valid at any mapping address.
//!
//! Modules, lowest first; each uses only those above it.
#![no_std]
#![warn(missing_docs)]

/// `Region`: base, length and provenance of a piece of memory; checked doors into it.
pub mod region;

pub use region::{BadPtr, Region, ShmSync};
