//! The plain pass: one process, front to back. What the parallel run is measured against, in speed
//! and in its answer.

use super::error::AggError;
use super::interrupt::Interrupt;
use super::job::{Job, Outcome};
use super::progress::Progress;
use super::scan::{Chunk, Scan};
use std::time::Instant;

/// Bytes between two looks at the clock and the signals.
const STRIDE_BYTES: u64 = 4 << 20;

/// Answers the job in this process alone. Each stride ends where the next record begins, so
/// quotes need no second pass.
///
/// # Errors
/// [`AggError`] for the first row of the file that is at fault; where the file cannot be read or
/// changes; or where a signal asks to stop.
pub fn run(job: &Job, progress: &Progress, interrupt: &Interrupt) -> Result<Outcome, AggError> {
    let began = Instant::now();
    let mut groups = job.no_groups();
    let mut scanner = job.scanner();
    let mut start = job.plan().header_end();
    while start < job.plan().file_bytes() {
        interrupt.check()?;
        let chunk = Chunk { start, end: start.saturating_add(STRIDE_BYTES), exact: true };
        match scanner.scan(chunk, &mut groups).map_err(|error| job.scan_error(error))? {
            Scan::Done(stats) => {
                progress.advance(stats.next - start);
                start = stats.next;
            }
            Scan::Quoted => unreachable!("only a scan by line gives up"),
        }
    }
    job.check_unchanged()?;
    Ok(Outcome {
        groups,
        elapsed: began.elapsed(),
        workers: 0,
        backend: None,
        kills: 0,
        shared_groups: 0,
        segments: Vec::new(),
    })
}
