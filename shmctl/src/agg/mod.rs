//! `shmctl agg`: a grouped aggregate over a CSV file.
//!
//! Modules, lowest first; each uses only those above it (but that errors of a scan name what a
//! window met).

pub mod wire;

pub mod query;

pub mod decimal;

pub mod tally;

pub mod groups;
