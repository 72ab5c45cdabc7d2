//! The parts of the `shmctl` command: for its own tests, benchmarks and fuzzers.

/// `shmctl agg`: a grouped aggregate over a CSV file.
pub mod agg;
