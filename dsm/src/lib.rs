//! Dynamic shared memory: named segments with a life cycle, over POSIX, System V, mmap and memfd.
//!
//! Modules, lowest first; each uses only those above it.

/// Where shared memory comes from: one module per kind the system offers.
pub mod backend;
/// The segment table: which segments there are, who is attached to each, and the last one out.
pub mod control;
/// `SegmentHandle`: the number by which processes tell each other about a segment.
mod handle;
/// `Toc`: a table of contents inside a segment.
pub mod toc;

pub use handle::{ParseHandleError, SegmentHandle};
