//! The inner loop: one chunk of the file, read, split into records, and added to groups.
//!
//! A chunk is a range of bytes, and the records that *begin* in it are its own; so chunks can be
//! cut anywhere, each record is counted once, and no two processes need to talk about it. Where
//! the first record of a chunk begins is found in one of two ways.
//!
//! - **By line**, as long as every line end ends a record: the file has no quote (`"`), and no
//!   carriage return but before a line feed. A scan that meets either gives up with
//!   `Scan::Quoted`, and the whole job is done again by the other way. A scan that meets an
//!   error first makes sure that nothing before its chunk could have misled it.
//! - **Exactly**: the chunk begins where a record does, known from one pass over the file from the
//!   front (`Chunks::exact`), or because the chunk before was scanned just now.
//!
//! Text without quotes is split by searching for delimiters and line ends; the rest goes through
//! `csv-core`, whose reading of CSV is the one that both ways share. Blank lines are no records.

use super::decimal::{BadNumber, Decimal};
use super::groups::{Groups, NotAdded, push_cell};
use super::plan::Plan;
use super::query::Query;
use super::quoted::QuotedReader;
pub use super::window::RECORD_BYTES_MAX;
use super::window::{Window, read_pieces};
use memchr::{memchr, memchr_iter};
use serde::{Deserialize, Serialize};
use std::fs::File;

/// A part of the file: the records that begin at `start` or later and before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// First byte.
    pub start: u64,
    /// Behind the last byte in which a record may begin.
    pub end: u64,
    /// Whether a record is known to begin at `start`.
    pub exact: bool,
}

/// How a scan ended. After anything but `Done` the groups hold a part of the chunk: drop them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// All records of the chunk are in the groups.
    Done(ChunkStats),
    /// Lines are not records in this file: only exact chunks can be scanned.
    Quoted,
}

/// What a scan did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkStats {
    /// Records added.
    pub rows: u64,
    /// Size of the chunk.
    pub bytes: u64,
    /// Where the first record behind the chunk begins, or a line end before it. Of an exact chunk
    /// only.
    pub next: u64,
}

/// Why a chunk could not be scanned. It travels from worker to leader, hence the JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ScanError {
    /// A row is at fault.
    #[error("line {line}: {problem}")]
    Row {
        /// Line on which the record begins; the header is on line 1.
        line: u64,
        /// What is wrong with it.
        problem: RowProblem,
    },
    /// The system would not read the file.
    #[error("cannot be read: {0}; check the disk it is on")]
    Read(String),
    /// The file is no longer the one that was planned for.
    #[error("changed while it was read; try again when nothing writes to it")]
    Changed,
}

impl ScanError {
    pub(crate) fn read(error: &std::io::Error) -> ScanError {
        ScanError::Read(error.to_string())
    }
}

/// What can be wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RowProblem {
    /// Another number of cells than the header.
    #[error(
        "{found} cells where the header has {expected}; \
         add or remove cells, or quote those that contain the delimiter"
    )]
    Ragged {
        /// Cells in the row.
        found: usize,
        /// Columns in the header.
        expected: usize,
    },
    /// A group cell is not text.
    #[error("the cell in column {column:?} is not UTF-8; convert the file, for example by iconv")]
    NotUtf8 {
        /// Name of the column.
        column: String,
    },
    /// A cell to be tallied is no number.
    #[error("column {column:?} holds {cell}, which is not a number such as 12 or -3.50")]
    NotANumber {
        /// Name of the column.
        column: String,
        /// The cell, quoted, escaped, and cut if it is long.
        cell: String,
    },
    /// A number has too many digits.
    #[error(
        "column {column:?} holds {cell}, which does not fit: \
         at most 18446744073709551615 before the point and 18 decimals"
    )]
    DoesNotFit {
        /// Name of the column.
        column: String,
        /// The cell, quoted, escaped, and cut if it is long.
        cell: String,
    },
    /// A record is longer than [`RECORD_BYTES_MAX`].
    #[error("a record of more than 64 MiB begins here; is a closing quote missing?")]
    TooLong,
    /// More rows than can be counted.
    #[error("too many rows")]
    TooManyRows,
}

/// An error before its line number is known.
pub(crate) enum Fault {
    /// In the record that begins at this offset.
    Row(u64, RowProblem),
    /// Elsewhere.
    Scan(ScanError),
}

impl Fault {
    pub(crate) fn too_long(offset: u64) -> Fault {
        Fault::Row(offset, RowProblem::TooLong)
    }
}

impl From<ScanError> for Fault {
    fn from(error: ScanError) -> Fault {
        Fault::Scan(error)
    }
}

/// Scans chunks of one file for one plan, with buffers that are used again.
pub struct Scanner<'a> {
    file: &'a File,
    plan: &'a Plan,
    buffer: Vec<u8>,
    /// Where the cells of a line end: room for a cell more than there should be.
    ends: Vec<usize>,
    quoted: QuotedReader,
    key: Vec<u8>,
}

impl<'a> Scanner<'a> {
    /// A scanner for the file of a plan.
    pub fn new(file: &'a File, plan: &'a Plan) -> Scanner<'a> {
        Scanner {
            file,
            plan,
            buffer: Vec::new(),
            ends: vec![0; plan.query().columns().len() + 1],
            quoted: QuotedReader::new(plan.delimiter()),
            key: Vec::new(),
        }
    }

    /// Adds the records that begin in the chunk to `groups`.
    ///
    /// # Errors
    /// [`ScanError`] for the first row of the chunk that is at fault, or where the file cannot be
    /// read.
    pub fn scan(&mut self, chunk: Chunk, groups: &mut Groups) -> Result<Scan, ScanError> {
        self.scan_into(chunk, Some(groups))
    }

    /// Where the first record behind an exact chunk begins.
    ///
    /// # Errors
    /// As for [`scan`](Self::scan), but cells are not looked at.
    pub fn next_start(&mut self, start: u64, end: u64) -> Result<u64, ScanError> {
        match self.scan_into(Chunk { start, end, exact: true }, None)? {
            Scan::Done(stats) => Ok(stats.next),
            Scan::Quoted => unreachable!("only a scan by line gives up"),
        }
    }

    fn scan_into(&mut self, chunk: Chunk, groups: Option<&mut Groups>) -> Result<Scan, ScanError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.scan_records(chunk, &mut buffer, groups);
        self.buffer = buffer;
        match result {
            Ok(scan) => Ok(scan),
            Err(Fault::Scan(error)) => Err(error),
            Err(Fault::Row(offset, problem)) => match self.line_of(offset, chunk.exact)? {
                Some(line) => Err(ScanError::Row { line, problem }),
                None => Ok(Scan::Quoted),
            },
        }
    }

    fn scan_records(
        &mut self,
        chunk: Chunk,
        buffer: &mut Vec<u8>,
        groups: Option<&mut Groups>,
    ) -> Result<Scan, Fault> {
        // The byte before says whether a line begins at `start`. Behind the header one does.
        let known = chunk.exact || chunk.start <= self.plan.header_end();
        let from = if known { chunk.start } else { chunk.start - 1 };
        let mut window = Window::new(self.file, self.plan.file_bytes(), from, buffer);
        if !known {
            window.skip_line(chunk.end)?;
        }
        let mut adder = Adder { query: self.plan.query(), groups, key: &mut self.key, rows: 0 };
        let mut lines = Lines { delimiter: self.plan.delimiter(), ends: &mut self.ends };
        while window.offset() < chunk.end {
            let complete = window.fill_lines(chunk.end)?;
            if complete == 0 {
                break;
            }
            if !lines_are_records(b'\n', &window.bytes()[..complete]) {
                if !chunk.exact {
                    return Ok(Scan::Quoted);
                }
                scan_quoted(&mut self.quoted, &mut window, chunk.end, &mut adder)?;
                break;
            }
            let used = lines.add(&window, complete, chunk.end, &mut adder)?;
            window.consume(used);
        }
        let bytes = chunk.end.saturating_sub(chunk.start);
        Ok(Scan::Done(ChunkStats { rows: adder.rows, bytes, next: window.offset() }))
    }

    /// Whether every line end between two offsets ends a record, as far as these bytes show.
    pub(crate) fn lines_are_records(&mut self, start: u64, end: u64) -> Result<bool, ScanError> {
        let mut previous = b'\n';
        let mut so_far = true;
        read_pieces(self.file, start..end, &mut self.buffer, |piece| {
            so_far = lines_are_records(previous, piece);
            previous = piece.last().copied().unwrap_or(previous);
            so_far
        })?;
        Ok(so_far)
    }

    /// The line on which the record at `offset` begins. `None` if the scan got there by line but
    /// lines are not records, so that there may be no record there at all.
    #[cold]
    fn line_of(&mut self, offset: u64, exact: bool) -> Result<Option<u64>, ScanError> {
        if !exact && !self.lines_are_records(self.plan.header_end(), offset)? {
            return Ok(None);
        }
        let mut line = 1;
        read_pieces(self.file, 0..offset, &mut self.buffer, |piece| {
            line += memchr_iter(b'\n', piece).count() as u64;
            true
        })?;
        Ok(Some(line))
    }
}

/// Whether every line end in the bytes ends a record, whatever stands before and behind them.
fn lines_are_records(previous: u8, bytes: &[u8]) -> bool {
    let bare_return = previous == b'\r' && bytes.first().is_some_and(|byte| *byte != b'\n');
    !bare_return
        && memchr(b'"', bytes).is_none()
        && memchr_iter(b'\r', bytes).all(|at| bytes.get(at + 1).is_none_or(|byte| *byte == b'\n'))
}

/// A record cut into cells: cell `i` ends at `ends[i]`, and the next begins `gap` bytes later.
#[derive(Clone, Copy)]
struct Record<'a> {
    bytes: &'a [u8],
    ends: &'a [usize],
    gap: usize,
}

impl<'a> Record<'a> {
    #[inline]
    fn cell(self, column: usize) -> &'a [u8] {
        let start = if column == 0 { 0 } else { self.ends[column - 1] + self.gap };
        &self.bytes[start..self.ends[column]]
    }
}

/// Splits lines that are records.
struct Lines<'a> {
    delimiter: u8,
    ends: &'a mut [usize],
}

impl Lines<'_> {
    /// Adds the lines that begin below `end`, of the first `complete` bytes of the window, and says
    /// how many bytes they are.
    fn add(
        &mut self,
        window: &Window<'_>,
        complete: usize,
        end: u64,
        adder: &mut Adder<'_>,
    ) -> Result<usize, Fault> {
        let lines = &window.bytes()[..complete];
        let stop = usize::try_from(end - window.offset()).unwrap_or(usize::MAX).min(complete);
        let mut at = 0;
        while at < stop {
            let rest = &lines[at..];
            let len = memchr(b'\n', rest).unwrap_or(rest.len());
            let line = rest[..len].strip_suffix(b"\r").unwrap_or(&rest[..len]);
            if !line.is_empty() {
                let found = self.split(line);
                let ends = &self.ends[..found.min(self.ends.len())];
                adder
                    .add(Record { bytes: line, ends, gap: 1 }, found)
                    .map_err(|problem| Fault::Row(window.offset() + at as u64, problem))?;
            }
            at += (len + 1).min(rest.len());
        }
        Ok(at)
    }

    /// Notes where the cells of a line end, as far as there is room, and says how many there are.
    #[inline]
    fn split(&mut self, line: &[u8]) -> usize {
        let mut found = 0;
        let mut note = |end| {
            if let Some(place) = self.ends.get_mut(found) {
                *place = end;
            }
            found += 1;
        };
        memchr_iter(self.delimiter, line).for_each(&mut note);
        note(line.len());
        found
    }
}

/// Adds the records that begin below `end`, whatever is in them. The window begins with a record.
fn scan_quoted(
    reader: &mut QuotedReader,
    window: &mut Window<'_>,
    end: u64,
    adder: &mut Adder<'_>,
) -> Result<(), Fault> {
    reader.start_within_file();
    loop {
        window.skip_line_ends(end)?;
        let offset = window.offset();
        if offset >= end || !reader.read(window, end)? {
            return Ok(());
        }
        let record = Record { bytes: reader.bytes(), ends: reader.ends(), gap: 0 };
        adder.add(record, record.ends.len()).map_err(|problem| Fault::Row(offset, problem))?;
    }
}

/// Adds records to groups, if there are any to add to.
struct Adder<'a> {
    query: &'a Query,
    groups: Option<&'a mut Groups>,
    key: &'a mut Vec<u8>,
    rows: u64,
}

impl Adder<'_> {
    #[inline]
    fn add(&mut self, record: Record<'_>, found: usize) -> Result<(), RowProblem> {
        let expected = self.query.columns().len();
        if found != expected {
            return Err(RowProblem::Ragged { found, expected });
        }
        self.rows += 1;
        let Some(groups) = &mut self.groups else { return Ok(()) };
        let key = match self.query.group_by() {
            [column] => record.cell(*column),
            columns => {
                self.key.clear();
                for (index, column) in columns.iter().enumerate() {
                    push_cell(self.key, record.cell(*column), index + 1 == columns.len());
                }
                &*self.key
            }
        };
        let tallies = groups.add_record(key).map_err(|error| not_added(error, self.query))?;
        for (tally, column) in tallies.iter_mut().zip(self.query.tallied()) {
            let cell = record.cell(*column);
            if !cell.is_empty() {
                let (number, scale) = Decimal::parse(cell)
                    .map_err(|bad| bad_number(bad, cell, *column, self.query))?;
                tally.add(number, scale);
            }
        }
        Ok(())
    }
}

#[cold]
fn not_added(error: NotAdded, query: &Query) -> RowProblem {
    match error {
        NotAdded::NotUtf8(key) => {
            RowProblem::NotUtf8 { column: query.columns()[query.group_by()[key]].clone() }
        }
        NotAdded::TooManyRows => RowProblem::TooManyRows,
    }
}

#[cold]
fn bad_number(bad: BadNumber, cell: &[u8], column: usize, query: &Query) -> RowProblem {
    const SHOWN: usize = 40;
    let column = query.columns()[column].clone();
    let Ok(text) = std::str::from_utf8(cell) else {
        return RowProblem::NotUtf8 { column };
    };
    let mut cell = format!("{:?}", text.chars().take(SHOWN).collect::<String>());
    if text.chars().nth(SHOWN).is_some() {
        cell.push_str("...");
    }
    match bad {
        BadNumber::NotANumber => RowProblem::NotANumber { column, cell },
        BadNumber::DoesNotFit => RowProblem::DoesNotFit { column, cell },
    }
}

#[cfg(test)]
mod tests;
