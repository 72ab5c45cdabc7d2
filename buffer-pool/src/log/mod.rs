//! A log: records of many processes, in one order, in files.
//!
//! The records that are not in the files yet are in shared memory: [`tail`](crate::tail) says how
//! they get their order. Here is how they reach the disk, and how they are read again.
//!
//! A record is in its file once somebody has [flushed](LogUser::flush) the log so far; who flushes
//! writes out what all others have made meanwhile, by one call of the system, and has it reach the
//! disk by another. Only then their lanes are free again: where the disk fails the records are in
//! memory still, and are written again, all of them, by the next to flush. (After a failed `fsync`
//! the system may take for written what it could not write.)
mod read;
mod segments;

pub use read::{LogReader, Next};

use crate::store::{Disk, Store};
use crate::tail::{Lsn, RECORD_HEADER, RecordError, Tail, User, WriterError};
use segments::Segments;
use shm_core::participants::Member;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// So many bytes are written, or read, at a time.
const CHUNK: usize = 1 << 20;

/// So often others may have taken the room that was made.
const ROUNDS_MAX: u32 = 1 << 20;

/// So many bytes may have been written behind what is on the disk: no record is longer than what is
/// written at a time.
const BEHIND_MAX: u64 = 2 * CHUNK as u64;

/// Which log it is, and where its files are: the same for all who use it.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// What its files are opened with.
    pub store: Arc<dyn Store>,
    /// Where they are.
    pub directory: PathBuf,
    /// Its number: a segment of another log is taken for no part of it.
    pub log: u64,
    /// Bytes of a segment, from 4 KiB on.
    pub segment_bytes: u64,
}

impl LogOptions {
    /// Of files of the system, with segments of 16 MiB.
    pub fn new(directory: &Path, log: u64) -> LogOptions {
        let (store, directory) = (Arc::new(Disk::default()), directory.to_path_buf());
        LogOptions { store, directory, log, segment_bytes: 16 << 20 }
    }
}

/// What failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The system could not do something with a file.
    #[error("cannot {what} {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What could not be done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A segment does not say of itself what it should.
    #[error(
        "{} is no segment of this log: it is damaged, of another log, of another length, or of \
         another version", path.display()
    )]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// There is no such segment, and there are later ones.
    #[error("{} is missing, and later segments are there", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// A record could not be made.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Somebody else writes out.
    #[error(transparent)]
    Writer(#[from] WriterError),
    /// Nobody has made such a record.
    #[error("there is no record at {0}: the log ends before it")]
    NoSuchRecord(Lsn),
}

/// A log, in the hands of one thread.
#[derive(Debug)]
pub struct LogUser {
    user: User,
    member: Arc<Member>,
    segments: Segments,
    bytes: Vec<u8>,
}

impl LogUser {
    /// Thread number `thread` of `member`'s process uses the log of this tail.
    ///
    /// # Errors
    /// [`UserError`](crate::tail::UserError).
    ///
    /// # If a process dies here
    /// As in [`Tail::user`].
    pub fn new(
        tail: &Tail,
        options: &LogOptions,
        member: &Arc<Member>,
        thread: u32,
    ) -> Result<LogUser, crate::tail::UserError> {
        let segments = Segments::new(options);
        let (user, member) = (tail.user(member, thread)?, member.clone());
        Ok(LogUser { user, member, segments, bytes: Vec::new() })
    }

    /// Makes a record that says `parts`, one after the other: where it begins and ends. Flushes
    /// where there is no room.
    ///
    /// # Errors
    /// [`LogError`]: it is not in the log.
    ///
    /// # If a process dies here
    /// It is in the log, or not.
    pub fn append(
        &mut self,
        parts: &[&[u8]],
        deadline: Option<Instant>,
    ) -> Result<Range<Lsn>, LogError> {
        let bytes = RECORD_HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
        if bytes > CHUNK {
            return Err(RecordError::TooLong { bytes, most: CHUNK }.into());
        }
        for _ in 0..ROUNDS_MAX {
            let made = self.user.record(parts);
            match made.and_then(|record| record.take_in().map_err(|(_, error)| error)) {
                Err(RecordError::Full) => self.write_out(deadline)?,
                made => return Ok(made?),
            }
            if deadline.is_some_and(|end| end <= Instant::now()) {
                return Err(WriterError::TimedOut.into());
            }
        }
        Err(RecordError::Corrupt.into())
    }

    /// Returns once the record that begins at `lsn`, and all before it, are on the disk.
    ///
    /// # Errors
    /// [`LogError`]: some of them may not be.
    ///
    /// # If a process dies here
    /// The next to flush writes the same bytes.
    pub fn flush(&mut self, lsn: Lsn, deadline: Option<Instant>) -> Result<(), LogError> {
        while self.user.tail().written() <= lsn {
            if self.write_out_behind(lsn, deadline)?.is_empty() {
                return Err(LogError::NoSuchRecord(lsn));
            }
        }
        Ok(())
    }

    /// What is on the disk ends here.
    pub fn flushed(&self) -> Lsn {
        self.user.tail().written()
    }

    fn write_out(&mut self, deadline: Option<Instant>) -> Result<(), LogError> {
        let end = self.flushed();
        self.write_out_behind(end, deadline).map(drop)
    }

    /// Writes out what there is, unless somebody has done so with what is at `lsn` meanwhile; what
    /// was written then.
    fn write_out_behind(
        &mut self,
        lsn: Lsn,
        deadline: Option<Instant>,
    ) -> Result<Range<Lsn>, LogError> {
        let LogUser { user, member, segments, bytes } = self;
        let mut writer = user.tail().writer(member, deadline)?;
        let written = writer.written();
        if written > lsn {
            return Ok(lsn..written);
        }
        bytes.clear();
        let range = writer.gather(CHUNK, bytes)?;
        segments.write(range.start, bytes)?;
        segments.sync(range.clone())?;
        writer.wrote();
        Ok(range)
    }

    /// Takes away what is before `keep`, but for segments that will be the next ones, `spare` at
    /// most; how many were taken away.
    ///
    /// # Errors
    /// [`LogError`]; some may be gone.
    ///
    /// # If a process dies here
    /// Some are gone.
    pub fn forget_before(
        &mut self,
        keep: Lsn,
        spare: u64,
        deadline: Option<Instant>,
    ) -> Result<u64, LogError> {
        let writer = self.user.tail().writer(&self.member, deadline)?;
        let end = writer.written();
        self.segments.recycle(keep.min(end), end, spare)
    }
}
