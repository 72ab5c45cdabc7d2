//! One aggregation of one file: what leader, worker and plain pass share.

use super::chunks::Chunks;
use super::error::{AggError, InputProblem};
use super::groups::{Groups, Shape};
use super::interrupt::Interrupt;
use super::plan::{Layout, Plan};
use super::query::{Query, Request};
use super::quoted::QuotedReader;
use super::scan::{Fault, ScanError, Scanner};
use super::window::Window;
use dsm::backend::Backend;
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The most chunks of a job: their table stands in shared memory.
pub const CHUNKS_MAX: u64 = 1 << 20;

/// Bytes behind the header that are looked at to see whether lines are records.
const LOOKED_AT_BYTES: u64 = 1 << 20;

/// The file and how to read it.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where the file is.
    pub path: PathBuf,
    /// What separates cells.
    pub delimiter: u8,
    /// Size of a chunk in bytes; at least 1.
    pub chunk_bytes: u64,
}

/// A plan, its file, opened, and the chunks it is cut into.
#[derive(Debug)]
pub struct Job {
    plan: Plan,
    file: File,
    chunks: Chunks,
}

/// The answer and how it was come by.
#[derive(Debug)]
pub struct Outcome {
    /// The answer.
    pub groups: Groups,
    /// How long it took.
    pub elapsed: Duration,
    /// Worker processes; 0 for the plain pass.
    pub workers: u32,
    /// Kind of shared memory; none for the plain pass.
    pub backend: Option<Backend>,
    /// Workers killed on purpose.
    pub kills: u64,
    /// Groups that came together in shared memory, and not as messages.
    pub shared_groups: u64,
    /// Shared memory used.
    pub segments: Vec<SegmentUse>,
}

/// A segment that was used.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SegmentUse {
    /// Its name or number.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

impl Job {
    /// Opens the file, reads its header, and resolves the request against it.
    ///
    /// # Errors
    /// [`AggError::Input`] where the file cannot be used.
    pub fn open(source: &Source, request: &Request) -> Result<Job, AggError> {
        let wrong = |problem| AggError::Input { path: source.path.clone(), problem };
        let (path, file, metadata) = open_regular(&source.path).map_err(wrong)?;
        let (columns, header_end) =
            read_header(&file, metadata.len(), source.delimiter).map_err(wrong)?;
        let query = Query::resolve(columns, request).map_err(|error| wrong(error.into()))?;
        let Source { delimiter, chunk_bytes, .. } = *source;
        let layout = Layout { header_end, delimiter, chunk_bytes };
        let plan = Plan::new(&path, &metadata, layout, query);
        let chunks = Chunks::even(&plan);
        if chunks.count() > CHUNKS_MAX {
            let least = (plan.file_bytes() - header_end).div_ceil(CHUNKS_MAX);
            let chunks = chunks.count();
            return Err(wrong(InputProblem::TooManyChunks { chunks, max: CHUNKS_MAX, least }));
        }
        Ok(Job { plan, file, chunks })
    }

    /// The job that a leader has planned, seen by a worker: `edges` are those of exact chunks, if
    /// the leader has found them.
    ///
    /// # Errors
    /// [`AggError`] where the bytes are no plan, or the file is not the one that was planned for.
    pub fn attach(plan: &[u8], edges: Option<Vec<u64>>) -> Result<Job, AggError> {
        let plan = Plan::decode(plan)?;
        let chunks = match edges {
            None => Chunks::even(&plan),
            Some(edges) => Chunks::from_edges(&plan, edges)?,
        };
        let file = plan.open().map_err(|error| AggError::Scan { path: plan.path(), error })?;
        Ok(Job { plan, file, chunks })
    }

    /// What is to be done.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The parts of the file.
    pub fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// Bytes of records in the file.
    pub fn bytes(&self) -> u64 {
        self.plan.file_bytes() - self.plan.header_end()
    }

    /// Whether the first MiB already shows that lines are not records.
    ///
    /// # Errors
    /// [`AggError::Scan`] where the file cannot be read.
    pub fn looks_quoted(&self) -> Result<bool, AggError> {
        let start = self.plan.header_end();
        let end = (start + LOOKED_AT_BYTES).min(self.plan.file_bytes());
        self.scanner()
            .lines_are_records(start, end)
            .map(|lines| !lines)
            .map_err(|error| self.scan_error(error))
    }

    /// Cuts the file into exact chunks, by one pass over it: for files in which lines are not
    /// records.
    ///
    /// # Errors
    /// [`AggError::Scan`] for the first row that is ragged or too long, or where the file cannot
    /// be read; [`AggError::Interrupted`] where a signal asks to stop.
    pub fn cut_exactly(&mut self, interrupt: &Interrupt) -> Result<(), AggError> {
        let mut scanner = self.scanner();
        self.chunks = Chunks::exact(&self.plan, |start, end| {
            interrupt.check()?;
            scanner.next_start(start, end).map_err(|error| self.scan_error(error))
        })?;
        Ok(())
    }

    /// A scanner for the chunks.
    pub fn scanner(&self) -> Scanner<'_> {
        Scanner::new(&self.file, &self.plan)
    }

    /// An empty answer.
    pub fn no_groups(&self) -> Groups {
        Groups::new(Shape::from(self.plan.query()))
    }

    /// Whether the file is as it was when the job was opened: to be asked when all is done.
    ///
    /// # Errors
    /// [`AggError::Scan`] where it is not.
    pub fn check_unchanged(&self) -> Result<(), AggError> {
        self.plan.check_unchanged(&self.file).map_err(|error| self.scan_error(error))
    }

    /// An error of a scan with the name of the file.
    pub fn scan_error(&self, error: ScanError) -> AggError {
        AggError::Scan { path: self.plan.path(), error }
    }
}

fn open_regular(path: &Path) -> Result<(PathBuf, File, Metadata), InputProblem> {
    // Asked before opening: to open a pipe would wait for its writer.
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(InputProblem::Directory);
    }
    if !metadata.is_file() {
        return Err(InputProblem::NotAFile);
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    Ok((std::path::absolute(path)?, file, metadata))
}

/// The names of the columns, and the offset behind the header line.
fn read_header(file: &File, bytes: u64, delimiter: u8) -> Result<(Vec<String>, u64), InputProblem> {
    let mut buffer = Vec::new();
    let mut window = Window::new(file, bytes, 0, &mut buffer);
    let mut reader = QuotedReader::new(delimiter);
    let found = reader.read(&mut window, 0).map_err(|fault| match fault {
        Fault::Row(..) => InputProblem::HeaderTooLong,
        Fault::Scan(error) => InputProblem::Unreadable(std::io::Error::other(error)),
    })?;
    if !found {
        return Err(InputProblem::Empty);
    }
    // Of a carriage return and a line feed, the second may be left: a blank line, skipped later.
    let cells = reader.cells().map(|cell| std::str::from_utf8(cell).map(str::to_owned));
    let columns = cells.collect::<Result<_, _>>().map_err(|_| InputProblem::HeaderNotUtf8)?;
    Ok((columns, window.offset()))
}
