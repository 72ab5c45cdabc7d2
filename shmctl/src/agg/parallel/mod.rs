//! The parallel run: a leader, worker processes, and a segment between them.
//!
//! ```text
//!             segment: plan | work cursor | progress | queue 0 | queue 1 | ...
//!                        |        ^  |                    |
//!   worker process 0 <---+--------+  |                    |   groups of a chunk, one message
//!       claims a chunk, scans it ----|--------------------+
//!   leader  <------------------------+--------------------+
//!       takes the message, marks the chunk done, merges the groups
//! ```
//!
//! **A chunk counts once, when it is complete.** Its groups come as one message, which the queue
//! gives out whole or not at all; the leader alone marks a chunk done, and only for the worker that
//! holds it, as it merges.
//!
//! **When a worker dies**, its queue gives out what had been sent and then says so. Only then does
//! the leader give back the chunks which the dead one held, make the queue anew, and have the
//! supervisor start another worker on it.
//!
//! **With many groups** ([`--groups`](super::options::Sharing)) a worker adds those of a chunk to a
//! hash in shared memory, and commits the chunk itself; its message says only that. What it has
//! added counts from its commit on, in all groups at once, and not at all if it dies before:
//! see `shares.rs`. At the end the leader reads what counts, and adds it to what came by messages.
//! So it makes no difference when the one way gives place to the other, or which worker cannot use
//! the hash, for want of memory for example, and sends its groups.
//!
//! **When the leader dies**, each worker's watch ends it. What the leader had made stays in the
//! domain, whose name is the same for every run of a user; so the next run, being the next to
//! enter, cleans it up.
mod board;
mod chaos;
mod lane;
mod leader;
mod message;
mod shares;
mod store;
mod worker;

pub use leader::run;
pub use worker::run as work;

use super::error::AggError;
use super::options::Options;
use dsm::backend::Backend;
use dsm::{Domain, DomainConfig, OpenError};

/// Tells a worker which segment to attach.
const SEGMENT_VARIABLE: &str = "SHMCTL_AGG_SEGMENT";

/// The backends that leave names behind when everyone dies.
const NAMED: [Backend; 3] = [Backend::Posix, Backend::Sysv, Backend::Mmap];

/// For many runs at once, each a leader, up to 64 workers and a segment.
const PARTICIPANTS: u32 = 1024;
const SEGMENTS: u32 = 256;

fn config(options: &Options, backend: Option<Backend>) -> DomainConfig {
    let users = || format!("shmctl-agg-{}", rustix::process::geteuid().as_raw());
    let name = options.domain.clone().unwrap_or_else(users);
    DomainConfig {
        backend,
        directory: options.directory.clone(),
        participants_max: PARTICIPANTS,
        segments_max: Some(SEGMENTS),
        ..DomainConfig::new(name)
    }
}

/// Enters the domain of this user's runs, having cleaned up after runs that died, on any backend.
fn open_domain(options: &Options) -> Result<Domain, AggError> {
    for backend in NAMED {
        // Entering cleans up, and the last one out removes the rest. What cannot be entered is
        // reported below if it is in our way.
        if let Ok(Some(domain)) = Domain::open_existing(config(options, Some(backend))) {
            store::tidy(&domain);
        }
    }
    let domain = Domain::open(config(options, options.backend)).map_err(|error| match error {
        OpenError::UnknownBackend(error) => AggError::Usage(error.to_string()),
        error => environment(error),
    })?;
    store::tidy(&domain);
    Ok(domain)
}

/// Memory, limits, rights: for the user to mend.
fn environment(error: impl std::fmt::Display) -> AggError {
    AggError::Environment(error.to_string())
}
