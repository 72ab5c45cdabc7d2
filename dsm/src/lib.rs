//! Dynamic shared memory: named segments with a life cycle, over POSIX, System V, mmap and memfd.
//!
//! Modules, lowest first; each uses only those above it.

/// Where shared memory comes from: one module per kind the system offers.
pub mod backend;
/// `Toc`: a table of contents inside a segment.
pub mod toc;
