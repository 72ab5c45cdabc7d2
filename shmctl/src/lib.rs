//! The parts of the `shmctl` command: for its own tests, benchmarks and fuzzers.

// `shmctl agg`: the main job.
pub mod agg;

// `shmctl pool`: which pages stay, and in time the pool itself.
pub mod pool;
