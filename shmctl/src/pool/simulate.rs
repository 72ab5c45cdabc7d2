//! `shmctl pool simulate`: policies side by side.
//!
//! The JSON form is one object:
//!
//! ```json
//! {
//!   "trace": "tpcb.pgt", "accesses": 1000000, "pages": 22958, "frames": 2296, "batch": 1,
//!   "policies": [{"policy": "clock5", "ships": true, "hits": 909600, "hit_ratio": 90.96}]
//! }
//! ```
use super::error::PoolError;
use super::options::Simulate;
use super::print::{Out, print, table};
use super::trace;
use buffer_pool::policy::Kind;
use buffer_pool::simulate::{Outcome, Pattern, Trace, clock5, generate, lru, optimum, shipping};
use serde::Serialize;
use std::io::{self, Write};

#[derive(Serialize)]
struct Report {
    trace: String,
    accesses: u64,
    pages: u32,
    frames: u32,
    batch: u8,
    policies: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    policy: &'static str,
    /// Whether it is the code that ships, or a model.
    ships: bool,
    hits: u64,
    hit_ratio: f64,
}

impl Row {
    fn new(policy: &'static str, ships: bool, outcome: Outcome) -> Row {
        let hit_ratio = (outcome.percent() * 100.0).round() / 100.0;
        Row { policy, ships, hits: outcome.hits, hit_ratio }
    }
}

/// Runs what the options ask for, and prints the report.
pub(super) fn run(options: &Simulate) -> Result<(), PoolError> {
    let (name, trace) = the_trace(options)?;
    let frames = options.pool.frames(&trace)?;
    let kinds = Kind::ALL.into_iter().filter(|kind| options.policy.is_none_or(|one| one == *kind));
    let mut policies = vec![
        Row::new("LRU", false, lru(&trace, frames)),
        Row::new("clock5, exactly", false, clock5(&trace, frames, |_| {})),
    ];
    for kind in kinds {
        let outcome = shipping(&trace, kind, frames, options.batch.into())?;
        policies.push(Row::new(kind.name(), true, outcome));
    }
    policies.push(Row::new("optimum", false, optimum(&trace, frames)));
    let (accesses, pages) = (trace.accesses().len() as u64, trace.distinct());
    let batch = options.batch;
    let report = Report { trace: name, accesses, pages, frames, batch, policies };
    print(&report, options.json, write_table)
}

/// The trace, and what to call it.
fn the_trace(options: &Simulate) -> Result<(String, Trace), PoolError> {
    if let Some(path) = &options.trace {
        let bad = |problem| PoolError::Trace { path: path.clone(), problem };
        return Ok((path.display().to_string(), trace::read_file(path).map_err(bad)?));
    }
    let Some(pattern) = options.generate else {
        return Err(PoolError::Usage("name a trace, or --generate one".to_owned()));
    };
    let name = match pattern {
        Pattern::Uniform => "uniform".to_owned(),
        Pattern::Zipf(exponent) => format!("zipf:{exponent}"),
        Pattern::Drift => "drift".to_owned(),
        Pattern::ZipfScans => "zipf-scans".to_owned(),
    };
    Ok((name, generate(pattern, options.pages, options.accesses, options.seed)))
}

fn write_table(report: &Report, out: &mut Out) -> io::Result<()> {
    let row = |row: &Row| {
        let kind = if row.ships { "ships" } else { "model" };
        let ratio = format!("{:.2}", row.hit_ratio);
        [row.policy.to_owned(), kind.to_owned(), row.hits.to_string(), ratio]
    };
    let rows = report.policies.iter().map(row).collect();
    let Report { trace, accesses, pages, frames, .. } = report;
    writeln!(out, "{trace}: {accesses} accesses to {pages} pages, a pool of {frames}")?;
    writeln!(out, "{}", table(["policy", "", "hits", "hit ratio %"], 2, rows))
}
