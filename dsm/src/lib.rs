//! Dynamic shared memory: named segments with a life cycle, over POSIX, System V, mmap and memfd.
