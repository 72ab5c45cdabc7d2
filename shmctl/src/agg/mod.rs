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

/// The parallel run: leader, workers, and a segment between them.
pub mod parallel;

pub mod accounts;

pub mod options;

pub mod report;

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
