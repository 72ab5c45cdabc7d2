//! `shmctl pool evict`, `prewarm`, `dump` and `load`: pages thrown out and read in, while others
//! use the pool.
//!
//! The JSON forms are one object each:
//!
//! ```json
//! {"evicted": 40, "flushed": 3, "skipped": 1}
//! {"blocks": 100}
//! {"pages": 16384}
//! {"loaded": 16000, "resident": 100, "unknown": 0, "past_end": 20, "failed": 0, "left": 264}
//! ```
use super::attach::{Attached, Where};
use super::error::PoolError;
use super::print::print;
use buffer_pool::files::{FileKey, FileNumber};
use buffer_pool::pool::{FrameError, Pool, Prewarm};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// What is thrown out.
#[derive(Debug, clap::Args)]
pub struct Evict {
    /// Which pool
    #[command(flatten)]
    pub place: Where,
    /// Which of its pages
    #[command(flatten)]
    pub pages: Pages,
}

/// Which pages.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Pages {
    /// The page in this frame
    #[arg(long, value_name = "N")]
    pub frame: Option<u32>,
    /// All pages of the file of this key
    #[arg(long, value_name = "ID[,FORK]", value_parser = key)]
    pub file: Option<FileKey>,
    /// All pages
    #[arg(long)]
    pub all: bool,
}

/// What is warmed up.
#[derive(Debug, clap::Args)]
pub struct Warm {
    /// Which pool
    #[command(flatten)]
    pub place: Where,
    /// Key of the file
    #[arg(long, value_name = "ID[,FORK]", value_parser = key)]
    pub file: FileKey,
    /// How far: tell the system that they will be read, read them past the pool, or into it
    #[arg(long, value_enum, default_value_t = Mode::Buffer)]
    pub mode: Mode,
    /// The first block
    #[arg(long, value_name = "BLOCK", default_value_t = 0)]
    pub first: u32,
    /// The last block [default: the file's last]
    #[arg(long, value_name = "BLOCK")]
    pub last: Option<u32>,
}

/// How far blocks are warmed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The system is told that they will be read
    Prefetch,
    /// They are read, and thrown away
    Read,
    /// They are read into the pool
    Buffer,
}

/// A list of pages, in a file.
#[derive(Debug, clap::Args)]
pub struct DumpFile {
    /// Which pool
    #[command(flatten)]
    pub place: Where,
    /// The file with the list
    pub path: PathBuf,
}

/// `shmctl pool evict`.
pub(super) fn evict(options: &Evict) -> Result<(), PoolError> {
    #[derive(Serialize)]
    struct Report {
        evicted: u64,
        flushed: u64,
        skipped: u64,
    }
    let Attached { pool, .. } = &options.place.attach()?;
    let session = pool.session()?;
    let evicted = match options.pages {
        Pages { frame: Some(frame), .. } => {
            session.evict_frame(frame).map_err(|error| match error {
                FrameError::Page(error) => PoolError::Page(error),
                error => PoolError::Usage(format!("--frame {frame}: {error}")),
            })?
        }
        Pages { file: Some(key), .. } => session.evict_file(number_of(pool, key)?)?,
        _ => session.evict_all()?,
    };
    let report =
        Report { evicted: evicted.evicted, flushed: evicted.flushed, skipped: evicted.skipped };
    print(&report, options.place.json, |Report { evicted, flushed, skipped }, out| {
        writeln!(
            out,
            "{evicted} pages evicted; {flushed} written first; {skipped} in use, and kept"
        )
    })
}

/// `shmctl pool prewarm`.
pub(super) fn prewarm(options: &Warm) -> Result<(), PoolError> {
    #[derive(Serialize)]
    struct Report {
        blocks: u64,
    }
    let Attached { pool, .. } = &options.place.attach()?;
    let number = number_of(pool, options.file)?;
    let blocks = pool.file(number).map_or(0, |info| info.blocks);
    let (first, end) = (options.first, options.last.map_or(blocks, |last| last.saturating_add(1)));
    if first > end || end > blocks {
        return Err(PoolError::Usage(format!(
            "--first {first} --last {}: the file has {blocks} blocks, numbered from 0",
            end.saturating_sub(1)
        )));
    }
    let how = match options.mode {
        Mode::Prefetch => Prewarm::Prefetch,
        Mode::Read => Prewarm::Read,
        Mode::Buffer => Prewarm::Buffer,
    };
    let report = Report { blocks: pool.session()?.prewarm(number, first..end, how)? };
    print(&report, options.place.json, |Report { blocks }, out| {
        writeln!(out, "{blocks} blocks warmed up")
    })
}

/// `shmctl pool dump`.
pub(super) fn dump(options: &DumpFile) -> Result<(), PoolError> {
    #[derive(Serialize)]
    struct Report {
        pages: u64,
    }
    let report = Report { pages: options.place.attach()?.pool.dump(&options.path)? };
    print(&report, options.place.json, |Report { pages }, out| {
        writeln!(out, "{pages} pages written down")
    })
}

/// `shmctl pool load`.
pub(super) fn load(options: &DumpFile) -> Result<(), PoolError> {
    #[derive(Serialize)]
    struct Report {
        loaded: u64,
        resident: u64,
        unknown: u64,
        past_end: u64,
        failed: u64,
        left: u64,
    }
    let Attached { pool, .. } = &options.place.attach()?;
    let loaded = pool.session()?.load(&options.path)?;
    let report = Report {
        loaded: loaded.loaded,
        resident: loaded.resident,
        unknown: loaded.unknown,
        past_end: loaded.past_end,
        failed: loaded.failed,
        left: loaded.left,
    };
    print(&report, options.place.json, |report, out| {
        let Report { loaded, resident, unknown, past_end, failed, left } = report;
        writeln!(out, "{loaded} pages read in, {resident} were there")?;
        writeln!(out, "skipped: {unknown} of unknown files, {past_end} past the ends of theirs")?;
        writeln!(out, "failed: {failed}")?;
        match left {
            0 => Ok(()),
            left => writeln!(out, "left, as no frame was vacant any more: {left}"),
        }
    })
}

fn number_of(pool: &Pool, key: FileKey) -> Result<FileNumber, PoolError> {
    pool.find_file(key).ok_or(PoolError::NoSuchFile(key))
}

/// A file's key, as `ID` or `ID,FORK`.
fn key(text: &str) -> Result<FileKey, String> {
    let (id, fork) = text.split_once(',').unwrap_or((text, "0"));
    let key = id.parse().ok().zip(fork.parse().ok()).map(|(id, fork)| FileKey { id, fork });
    key.ok_or_else(|| "give ID or ID,FORK, such as 16384 or 16384,1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_files() {
        assert_eq!(key("16384"), Ok(FileKey { id: 16384, fork: 0 }));
        assert_eq!(key("7,255"), Ok(FileKey { id: 7, fork: 255 }));
        for bad in ["", ",", "7,", ",1", "7,256", "-1", "7,1,2", "seven"] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }
}
