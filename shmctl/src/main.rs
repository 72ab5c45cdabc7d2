//! Shared-memory domains from the command line.
fn main() {}
