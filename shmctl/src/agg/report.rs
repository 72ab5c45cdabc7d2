//! The report: a table for people, JSON for programs.
//!
//! The JSON form is one object:
//!
//! ```json
//! {
//!   "verified": true,
//!   "kills": 5,
//!   "rows": 1000000,
//!   "groups": 10,
//!   "shared_groups": 0,
//!   "workers": 2,
//!   "backend": "posix",
//!   "seconds": 0.25,
//!   "rows_per_second": 4000000,
//!   "plain_seconds": 0.45,
//!   "segments": [{"name": "shmkit-agg-17", "bytes": 1048576}],
//!   "result": [
//!     {"group": {"bid": "1"}, "count": 100000, "sum": {"abalance": "-1234.50"}}
//!   ]
//! }
//! ```
//!
//! - `verified` is null where no plain pass was asked for, and `plain_seconds` with it;
//! - `shared_groups` came together in shared memory, the others as messages (`--groups`);
//! - a plain pass alone has 0 `workers`, no `segments`, and a null `backend`;
//! - `result` has all groups, sorted by their columns, numbers before texts. Cells that were
//!   grouped by are strings, as in the file. `sum`, `min`, `max` and `avg` stand there if they were
//!   asked for: per column a string, as a JSON number would lose digits in most readers, or null
//!   where the group has no number.

use super::error::AggError;
use super::groups::Group;
use super::job::{Job, Outcome, SegmentUse};
use super::options::Options;
use super::query::{Kind, Query};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::io::{self, Write};
use std::time::Duration;

/// Groups in the table, if not all are asked for.
const SHOWN_GROUPS: usize = 100;

/// Characters of a cell in the table.
const SHOWN_CHARS: usize = 60;

/// What is reported.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// What was done.
    pub job: &'a Job,
    /// What came of it.
    pub outcome: &'a Outcome,
    /// How it compares with a plain pass, if there was one.
    pub verdict: Option<&'a Verdict>,
}

/// A comparison with the plain pass.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The first group that differs.
    pub difference: Option<String>,
    /// How long the plain pass took.
    pub plain: Duration,
}

/// Prints the report on standard output. That nobody reads it to its end is no error.
///
/// # Errors
/// [`AggError::Output`] where it cannot be written.
pub fn print(report: &Report<'_>, options: &Options) -> Result<(), AggError> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = match options.json {
        true => report.write_json(&mut out),
        false => report.write_table(&mut out, options.all),
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(AggError::Output(error)),
        _ => Ok(()),
    }
}

impl Report<'_> {
    fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        let Outcome { groups, workers, backend, kills, shared_groups, segments, .. } = self.outcome;
        let query = self.job.plan().query();
        let sorted = groups.sorted();
        let json = Json {
            verified: self.verdict.map(|verdict| verdict.difference.is_none()),
            kills: *kills,
            rows: groups.rows(),
            groups: groups.len(),
            shared_groups: *shared_groups,
            workers: *workers,
            backend: backend.map(|backend| backend.to_string()),
            seconds: self.outcome.elapsed.as_secs_f64(),
            rows_per_second: self.per_second(groups.rows()).round(),
            plain_seconds: self.verdict.map(|verdict| verdict.plain.as_secs_f64()),
            segments,
            result: sorted.iter().map(|(key, group)| Row { query, key, group }).collect(),
        };
        serde_json::to_writer(&mut *out, &json)?;
        writeln!(out)
    }

    fn write_table(&self, out: &mut impl Write, all: bool) -> io::Result<()> {
        let query = self.job.plan().query();
        let sorted = self.outcome.groups.sorted();
        let shown = if all { sorted.len() } else { sorted.len().min(SHOWN_GROUPS) };
        if shown > 0 {
            writeln!(out, "{}", table(query, &sorted[..shown]))?;
        }
        if shown < sorted.len() {
            writeln!(out, "and {} more groups; --all shows them", sorted.len() - shown)?;
        }
        self.write_summary(out)
    }

    fn write_summary(&self, out: &mut impl Write) -> io::Result<()> {
        let Outcome { groups, workers, backend, kills, shared_groups, segments, elapsed } =
            self.outcome;
        let (millions, megabytes) =
            (self.per_second(groups.rows()) / 1e6, self.per_second(self.job.bytes()) / 1e6);
        writeln!(
            out,
            "{} rows in {} groups, {:.3} s: {millions:.2} million rows/s, {megabytes:.0} MB/s",
            groups.rows(),
            groups.len(),
            elapsed.as_secs_f64(),
        )?;
        match backend {
            Some(backend) => writeln!(out, "{workers} workers, {kills} killed, backend {backend}")?,
            None => writeln!(out, "plain pass in one process")?,
        }
        if *shared_groups > 0 {
            writeln!(out, "{shared_groups} groups came together in shared memory")?;
        }
        for segment in segments {
            writeln!(
                out,
                "segment {}: {} KiB",
                shown(&segment.name),
                segment.bytes.div_ceil(1024)
            )?;
        }
        let Some(verdict) = self.verdict else { return Ok(()) };
        let same = if verdict.difference.is_none() { "the same answer" } else { "ANOTHER ANSWER" };
        writeln!(out, "plain pass: {same} in {:.3} s", verdict.plain.as_secs_f64())
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.outcome.elapsed.as_secs_f64().max(1e-9)
    }
}

fn table(query: &Query, groups: &[(Vec<&str>, &Group)]) -> Table {
    let keys = query.group_by().iter().map(|column| shown(&query.columns()[*column]));
    let results = query.aggregates().iter().map(|aggregate| {
        format!("{}({})", aggregate.kind, shown(query.tallied_name(aggregate.tally)))
    });
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(keys.chain(["count".to_owned()]).chain(results).collect::<Vec<_>>());
    for (key, group) in groups {
        let results = query.aggregates().iter().map(|aggregate| {
            group.tallies[aggregate.tally].result(aggregate.kind).unwrap_or_default()
        });
        let cells = key.iter().map(|cell| shown(cell)).chain([group.rows.to_string()]);
        table.add_row(cells.chain(results).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut().skip(query.group_by().len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A text from a file, fit for a terminal: without control characters, and not too long.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for char in text.chars().take(SHOWN_CHARS) {
        match char.is_control() {
            true => shown.extend(char.escape_default()),
            false => shown.push(char),
        }
    }
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}

#[derive(serde::Serialize)]
struct Json<'a> {
    verified: Option<bool>,
    kills: u64,
    rows: u64,
    groups: usize,
    shared_groups: u64,
    workers: u32,
    backend: Option<String>,
    seconds: f64,
    rows_per_second: f64,
    plain_seconds: Option<f64>,
    segments: &'a [SegmentUse],
    result: Vec<Row<'a>>,
}

struct Row<'a> {
    query: &'a Query,
    key: &'a [&'a str],
    group: &'a Group,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_map(None)?;
        let names = self.query.group_by().iter().map(|column| &self.query.columns()[*column]);
        row.serialize_entry("group", &Pairs(|| names.clone().zip(self.key)))?;
        row.serialize_entry("count", &self.group.rows)?;
        for kind in Kind::ALL {
            let asked = self.query.aggregates().iter().filter(move |one| one.kind == kind);
            let results = asked.map(|one| {
                (self.query.tallied_name(one.tally), self.group.tallies[one.tally].result(kind))
            });
            if results.clone().next().is_some() {
                row.serialize_entry(&kind, &Pairs(|| results.clone()))?;
            }
        }
        row.end()
    }
}

/// Pairs as one JSON object, in their order.
struct Pairs<F>(F);

impl<F, I, K, V> Serialize for Pairs<F>
where
    F: Fn() -> I,
    I: Iterator<Item = (K, V)>,
    K: Serialize,
    V: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map((self.0)())
    }
}
