//! Dynamic shared memory: named segments with a life cycle, over POSIX, System V, mmap and memfd.
//!
//! Modules, lowest first; each uses only those above it.

/// `Toc`: a table of contents inside a segment.
pub mod toc;
