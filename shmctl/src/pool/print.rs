//! Reports: a table for people, JSON for programs.
use super::error::PoolError;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use std::io::{self, BufWriter, StdoutLock, Write};

/// Where reports go.
pub(super) type Out = BufWriter<StdoutLock<'static>>;

/// Prints a report, as JSON or as `for_people` writes it. That nobody reads it to its end is no
/// error.
pub(super) fn print<R: Serialize>(
    report: &R,
    json: bool,
    for_people: impl FnOnce(&R, &mut Out) -> io::Result<()>,
) -> Result<(), PoolError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let written = if json { write_json(report, &mut out) } else { for_people(report, &mut out) };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(PoolError::Output(error)),
        _ => Ok(()),
    }
}

fn write_json(report: &impl Serialize, out: &mut Out) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}

/// A table whose first columns, so many, are texts, and the others numbers.
pub(super) fn table<const N: usize>(
    header: [&str; N],
    texts: usize,
    rows: Vec<[String; N]>,
) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header).add_rows(rows);
    for column in table.column_iter_mut().skip(texts) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A text from shared memory, fit for a terminal: without control characters.
pub(super) fn shown(text: &str) -> String {
    let escape = |char: char| match char.is_control() {
        true => char.escape_default().to_string(),
        false => char.to_string(),
    };
    text.chars().map(escape).collect()
}

/// In hundredths, and hundredths of these.
pub(super) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 * 10_000.0 / whole as f64).round() / 100.0 }
}
