//! `shmctl agg`: a grouped aggregate over a CSV file.
//!
//! Modules, lowest first; each uses only those above it (but that errors of a scan name what a
//! window met).

pub mod wire;

pub mod query;

pub mod decimal;

pub mod tally;

pub mod groups;

pub mod plan;

mod quoted;
mod window;

pub mod scan;

pub mod chunks;

pub mod error;

pub mod interrupt;

pub mod progress;

pub mod job;

pub mod plain;
