//! `shmctl pool`: buffer pools.
//!
//! Modules, lowest first; each uses only those above it.

// What can go wrong, in one line each.
mod error;

// Reports, for people and for programs.
mod print;

// Traces in files.
pub mod trace;

// The command line of `simulate`.
mod options;

// `shmctl pool simulate`: policies side by side.
mod simulate;

// A pool that others use.
mod attach;

// `shmctl pool list`, `summary`, `files`, `frames`, `stats`: what is in it.
mod show;

// `shmctl pool evict`, `prewarm`, `dump`, `load`: pages thrown out and read in.
mod act;

pub use act::{DumpFile, Evict, Mode, Pages, Warm};
pub use attach::Where;
pub use error::PoolError;
pub use options::Simulate;
pub use show::Frames;

/// Buffer pools: what is in them, and which pages stay
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Compares replacement policies on a trace of page accesses
    Simulate(Simulate),
    /// Shows the pools of a domain
    List(Where),
    /// Shows how much of a pool is used, dirty, pinned, and how often it was used
    Summary(Where),
    /// Shows how much of a pool each file has
    Files(Where),
    /// Shows which page is in which frame, and who is at it
    Frames(Frames),
    /// Shows what all processes have done with a pool
    Stats(Where),
    /// Throws pages out that nobody uses; those that are dirty are written first
    Evict(Evict),
    /// Reads blocks of a file before anybody wants them
    Prewarm(Warm),
    /// Writes down which pages are in a pool
    Dump(DumpFile),
    /// Reads the pages in that were written down, as long as frames are vacant
    Load(DumpFile),
}

/// Does what the command line asks for, and prints the report.
///
/// # Errors
/// [`PoolError`], whose text is one line for the user.
pub fn run(command: &Command) -> Result<(), PoolError> {
    match command {
        Command::Simulate(options) => simulate::run(options),
        Command::List(place) => show::list(place),
        Command::Summary(place) => show::summary(place),
        Command::Files(place) => show::files(place),
        Command::Frames(options) => show::frames(options),
        Command::Stats(place) => show::stats(place),
        Command::Evict(options) => act::evict(options),
        Command::Prewarm(options) => act::prewarm(options),
        Command::Dump(options) => act::dump(options),
        Command::Load(options) => act::load(options),
    }
}
