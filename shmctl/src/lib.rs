//! The parts of the `shmctl` command: for its own tests, benchmarks and fuzzers.

pub mod agg;
