//! `shmctl pool`: buffer pools.
//!
//! Modules, lowest first; each uses only those above it.

// What can go wrong, in one line each.
mod error;

// Traces in files.
pub mod trace;

// The command line of `simulate`.
mod options;

// `shmctl pool simulate`: policies side by side.
mod simulate;

pub use error::PoolError;
pub use options::Simulate;

/// Buffer pools: which pages stay
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Compares replacement policies on a trace of page accesses
    Simulate(Simulate),
}

/// Does what the command line asks for, and prints the report.
///
/// # Errors
/// [`PoolError`], whose text is one line for the user.
pub fn run(command: &Command) -> Result<(), PoolError> {
    match command {
        Command::Simulate(options) => simulate::run(options),
    }
}
