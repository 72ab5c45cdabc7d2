//! The parts of the `shmctl` command: for its own tests, benchmarks and fuzzers.

// `shmctl agg`: the main job.
pub mod agg;
