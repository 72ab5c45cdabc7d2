//! The command line of `shmctl agg`.

use super::accounts;
use super::job::Source;
use super::plan::is_delimiter;
use super::query::{Kind, Request};
use dsm::backend::Backend;
use std::path::PathBuf;
use std::str::FromStr;

/// The most workers.
pub const WORKERS_MAX: i64 = 64;

/// Aggregate the columns of a CSV file by groups, exactly, with several worker processes.
///
/// Numbers are decimals such as 12 or -3.50, with up to 18 decimals and a whole part up to 2^64-1.
/// An empty cell is no number and is left out, as NULL is in SQL. An average has six decimals more
/// than its numbers and is rounded half to even. Blank lines are skipped.
///
/// Without FILE, pgbench's accounts table (with pseudo-random balances) is generated once and kept,
/// and its balances are aggregated by branch.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The CSV file; its first line names the columns
    pub file: Option<PathBuf>,
    /// Columns to group by; none makes one group of all rows
    #[arg(long, value_name = "COL[,COL]")]
    pub group_by: Vec<Columns>,
    /// Columns to sum
    #[arg(long, value_name = "COL[,COL]")]
    pub sum: Vec<Columns>,
    /// Columns to find the least number of
    #[arg(long, value_name = "COL[,COL]")]
    pub min: Vec<Columns>,
    /// Columns to find the greatest number of
    #[arg(long, value_name = "COL[,COL]")]
    pub max: Vec<Columns>,
    /// Columns to average
    #[arg(long, value_name = "COL[,COL]")]
    pub avg: Vec<Columns>,
    /// What separates cells; `tab` for a tab
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = delimiter)]
    pub delimiter: u8,
    /// Worker processes, 1 to 64 [default: one per processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=WORKERS_MAX))]
    pub workers: Option<u32>,
    /// Kind of shared memory
    #[arg(long, value_name = "posix|sysv|mmap|memfd|none")]
    pub backend: Option<Backend>,
    /// Directory for shared memory of the kind mmap
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Shared-memory domain; a run cleans up after dead ones in it [default: shmctl-agg-UID]
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,
    /// Size of the part of the file that is given to a worker at a time
    #[arg(long, value_name = "BYTES", default_value = "1M", value_parser = size)]
    pub chunk_size: u64,
    /// How groups come together: `messages`, from each worker to its leader; `shared`, in a hash
    /// table in shared memory; `auto`, as messages, and shared from 100,000 groups on
    #[arg(long, value_name = "HOW", value_enum, default_value = "auto", conflicts_with = "plain")]
    pub groups: Sharing,
    /// The most memory for shared groups [default: 4G, with sysv 256M]
    #[arg(long, value_name = "BYTES", value_parser = memory, conflicts_with = "plain")]
    pub groups_memory: Option<u64>,
    /// Scale of the generated accounts: 100,000 rows each
    #[arg(
        long,
        value_name = "S",
        default_value = "10",
        conflicts_with = "file",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(accounts::SCALE_MAX))
    )]
    pub scale: u32,
    /// Directory for the generated accounts [default: the temporary directory]
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    pub data_dir: Option<PathBuf>,
    /// Kill workers at random moments while they work
    #[arg(long)]
    pub chaos: bool,
    /// How many workers to kill
    #[arg(long, value_name = "N", default_value = "5", requires = "chaos")]
    pub kills: u32,
    /// Answer in a plain single-process pass too, and compare
    #[arg(long)]
    pub verify: bool,
    /// Answer in a plain single-process pass only
    #[arg(
        long,
        conflicts_with_all = ["verify", "chaos", "workers", "backend", "directory", "domain"]
    )]
    pub plain: bool,
    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
    /// Print all groups, not only the first 100
    #[arg(long)]
    pub all: bool,
    /// Show no progress bar
    #[arg(long)]
    pub quiet: bool,
}

/// How groups come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sharing {
    /// Each worker sends those of a chunk to the leader.
    Messages,
    /// Workers add them to those of all, in shared memory.
    Shared,
    /// As messages, and shared from [`AUTO_GROUPS`] on, where there is memory for it.
    Auto,
}

/// With so many groups [`Sharing::Auto`] begins to share them.
pub const AUTO_GROUPS: usize = 100_000;

/// A list of column names: one record of CSV, so that a name with a comma can be quoted.
#[derive(Clone, Debug)]
pub struct Columns(pub Vec<String>);

impl FromStr for Columns {
    type Err = csv::Error;

    fn from_str(text: &str) -> Result<Columns, csv::Error> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
        let names = reader.records().next().transpose()?;
        Ok(Columns(names.iter().flatten().map(str::to_owned).collect()))
    }
}

impl Options {
    /// The question: that of the command line, or all there is to know of the accounts by branch.
    pub fn request(&self) -> Request {
        let names = |lists: &[Columns]| -> Vec<String> {
            lists.iter().flat_map(|list| list.0.clone()).collect()
        };
        let of = |kind: Kind| match kind {
            Kind::Sum => &self.sum,
            Kind::Min => &self.min,
            Kind::Max => &self.max,
            Kind::Avg => &self.avg,
        };
        let named = |kind| names(of(kind)).into_iter().map(move |name| (kind, name));
        let mut group_by = names(&self.group_by);
        let mut aggregates: Vec<_> = Kind::ALL.into_iter().flat_map(named).collect();
        if self.file.is_none() && group_by.is_empty() {
            group_by.push("bid".to_owned());
        }
        if self.file.is_none() && aggregates.is_empty() {
            aggregates.extend(Kind::ALL.map(|kind| (kind, "abalance".to_owned())));
        }
        Request { group_by, aggregates }
    }

    /// The most memory for shared groups. Where memory does not come as it is needed, all of it is
    /// taken at once: so there it is less unless said.
    pub fn groups_bytes(&self, backend: Backend) -> u64 {
        let usual = if backend == Backend::Sysv { 256 << 20 } else { 4 << 30 };
        self.groups_memory.unwrap_or(usual)
    }

    /// How to read the file at `path`.
    pub fn source(&self, path: PathBuf) -> Source {
        Source { path, delimiter: self.delimiter, chunk_bytes: self.chunk_size }
    }
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [byte] if is_delimiter(*byte) => Ok(*byte),
        _ => Err("give one ASCII character, but no quote and no line end, or `tab`".to_owned()),
    }
}

/// The size of a chunk.
fn size(text: &str) -> Result<u64, String> {
    let size = bytes(text).filter(|size| (1..=1 << 30).contains(size));
    size.ok_or_else(|| "give 1 to 1G bytes, such as 65536, 64K or 1M".to_owned())
}

/// The size of a memory.
fn memory(text: &str) -> Result<u64, String> {
    let size = bytes(text).filter(|size| (1 << 20..=1 << 40).contains(size));
    size.ok_or_else(|| "give 1M to 1024G bytes, such as 512M or 8G".to_owned())
}

/// Bytes, with K, M or G for powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => 0,
    };
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!((size("1"), size("64K"), size("1G")), (Ok(1), Ok(65536), Ok(1 << 30)));
        for bad in ["", "0", "K", "1KK", "2G", "-1", "1.5M", "99999999999999999999", "1T", "é"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!((memory("1M"), memory("1024G")), (Ok(1 << 20), Ok(1 << 40)));
        for bad in ["0", "1023K", "1025G", "99999999999G", "much"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_delimiter_is_one_plain_character() {
        assert_eq!((delimiter(";"), delimiter("tab")), (Ok(b';'), Ok(b'\t')));
        for bad in ["", ",,", "\"", "\n", "é"] {
            assert!(delimiter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_column_name_with_a_comma_can_be_quoted() {
        let columns: Columns = "a,\"b,c\"".parse().unwrap();
        assert_eq!(columns.0, ["a", "b,c"]);
    }
}
