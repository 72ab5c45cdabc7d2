//! `shmctl agg`: a grouped aggregate over a CSV file.
//!
//! Modules, lowest first; each uses only those above it (but that errors of a scan name what a
//! window met).

// Taking bytes apart that another process wrote.
pub mod wire;

// What is asked, resolved against a header.
pub mod query;

// Exact decimal numbers.
pub mod decimal;

// Count, sum, least and greatest of one column in one group.
pub mod tally;

// Groups and their tallies: filled, merged, sent.
pub mod groups;

// What every worker must know, as bytes for a segment.
pub mod plan;

// A file read front to back.
mod window;

// Records in any CSV.
mod quoted;

// The inner loop: one chunk of the file into groups.
pub mod scan;

// How a file is cut.
pub mod chunks;

// What can go wrong, in one line each.
pub mod error;

// Signals that ask us to stop.
pub mod interrupt;

// A bar for people who watch.
pub mod progress;

// One aggregation of one file: what leader, worker and plain pass share.
pub mod job;

// The plain pass: one process, front to back.
pub mod plain;

// The file that is used when none is named.
pub mod accounts;

// The command line.
pub mod options;

// A table for people, JSON for programs.
pub mod report;

// The parallel run: leader, workers, and a segment between them.
pub mod parallel;

pub use error::AggError;
pub use options::Options;

use interrupt::Interrupt;
use job::{Job, Outcome};
use progress::Progress;
use report::{Report, Verdict};

/// Does what the command line asks for, and prints the report.
///
/// # Errors
/// [`AggError`], whose text is one line for the user and which knows its exit code.
pub fn run(options: &Options) -> Result<(), AggError> {
    let interrupt = Interrupt::catch()
        .map_err(|error| AggError::Internal(format!("signals cannot be caught: {error}")))?;
    let path = match &options.file {
        Some(path) => path.clone(),
        None => {
            let directory = options.data_dir.clone().unwrap_or_else(std::env::temp_dir);
            accounts::ensure(&directory, options.scale, options.quiet, &interrupt)?
        }
    };
    let mut job = Job::open(&options.source(path), &options.request())?;
    let outcome = match options.plain {
        true => plain(&job, options, "aggregating", &interrupt)?,
        false => {
            let progress = progress("aggregating", &job, options);
            parallel::run(&mut job, options, &progress, &interrupt)?
        }
    };
    let verdict = match options.verify {
        true => Some(verify(&job, &outcome, options, &interrupt)?),
        false => None,
    };
    let report = Report { job: &job, outcome: &outcome, verdict: verdict.as_ref() };
    report::print(&report, options)?;
    match verdict.and_then(|verdict| verdict.difference) {
        Some(group) => Err(AggError::Differs { group }),
        None => Ok(()),
    }
}

fn plain(
    job: &Job,
    options: &Options,
    what: &'static str,
    interrupt: &Interrupt,
) -> Result<Outcome, AggError> {
    plain::run(job, &progress(what, job, options), interrupt)
}

fn progress(what: &'static str, job: &Job, options: &Options) -> Progress {
    match options.quiet {
        true => Progress::hidden(),
        false => Progress::on_terminal(what, job.bytes()),
    }
}

/// Compares an answer with that of a plain pass over the same file.
fn verify(
    job: &Job,
    outcome: &Outcome,
    options: &Options,
    interrupt: &Interrupt,
) -> Result<Verdict, AggError> {
    let plain = plain(job, options, "verifying", interrupt)?;
    let difference = outcome.groups.first_difference(&plain.groups);
    Ok(Verdict { difference, plain: plain.elapsed })
}
