//! Relative pointers into shared memory: checked, atomic, valid at any mapping address.
//!
//! Processes map the same memory at different addresses, so what is stored in it are distances from
//! its base. A [`Region`] is base and length; a [`RelPtr`] is a distance, which becomes an address
//! only together with a region, and only if bounds and alignment are right: what another process
//! wrote is a claim. No system call, no allocation, no `std`.
//!
//! Modules, lowest first; each uses only those above it.
#![no_std]
#![warn(missing_docs)]

// `ShmSync`: what may be shared by reference; `shm_sync!` checks it, `Reserved` is named padding.
pub mod share;

// `Region`: base, length and provenance of a piece of memory; checked doors into it.
pub mod region;

// `Carver`: hands out a region piece by piece, at the same offsets in every process.
pub mod carve;

// `RelPtr` and the compact `RelPtr32`: a distance from a region's base.
pub mod ptr;

// `RelSlice` and `RelStr`: a distance and a length.
pub mod slice;

// `AtomicRelPtr`, and the tagged form that is not fooled by a pointer that came back.
pub mod atomic;

pub use atomic::{AtomicRelPtr, AtomicTaggedRelPtr, TaggedRelPtr};
pub use carve::Carver;
pub use ptr::{RelPtr, RelPtr32};
pub use region::{BadPtr, Region};
pub use share::{Reserved, ShmSync};
pub use slice::{BadStr, RelSlice, RelStr};
