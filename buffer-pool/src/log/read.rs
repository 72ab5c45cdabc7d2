//! Reading a log from its files.
use super::segments::Segments;
use super::{BEHIND_MAX, CHUNK, LogError, LogOptions};
use crate::tail::{Lsn, RECORD_HEADER, Said, length_of, parse};
use std::ops::Range;

/// The records of a log, in order, from its files.
#[derive(Debug)]
pub struct LogReader {
    segments: Segments,
    log: u64,
    /// Bytes of the log, the first of which is at `begin`.
    bytes: Vec<u8>,
    begin: Lsn,
    /// Where in `bytes` the next record is.
    at: usize,
}

/// What comes next in a log.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'r> {
    /// A record: where it begins, and what it says.
    Record(Lsn, &'r [u8]),
    /// The end of what was written: no record begins here.
    End(Lsn),
}

/// A record in the bytes that were read.
struct Found {
    /// What it says, if anything.
    said: Option<Range<usize>>,
    space: usize,
}

impl LogReader {
    /// Of the log that the options name, from `from` on: where a record begins, or the log ends.
    pub fn new(options: &LogOptions, from: Lsn) -> LogReader {
        LogReader {
            segments: Segments::new(options),
            log: options.log,
            bytes: Vec::new(),
            begin: from,
            at: 0,
        }
    }

    /// Where the next record begins.
    pub fn position(&self) -> Lsn {
        Lsn(self.begin.0 + self.at as u64)
    }

    /// The next record; those that say nothing are passed over.
    ///
    /// # Errors
    /// [`LogError`]: a segment cannot be read, or is another log's.
    pub fn next_record(&mut self) -> Result<Next<'_>, LogError> {
        loop {
            let lsn = self.position();
            let Some(Found { said, space }) = self.look(lsn)? else { return Ok(Next::End(lsn)) };
            self.at += space;
            if let Some(said) = said {
                return Ok(Next::Record(lsn, &self.bytes[said]));
            }
        }
    }

    /// Has the log end where its next record would begin, for whoever reads it from now on and who
    /// goes on with it: nothing that stands behind is ever taken for a record again. (It was
    /// written, and never on the disk as far as anybody was told; some of it may have come there.)
    /// Where it ends.
    ///
    /// For who opens the log, alone, before anybody uses it.
    ///
    /// # Errors
    /// [`LogError`]: it is to be done again.
    ///
    /// # If a process dies here
    /// It is to be done again, and the log ends where it did.
    pub fn end_here(self) -> Result<Lsn, LogError> {
        let end = self.position();
        self.segments.wipe(end..Lsn(end.0 + BEHIND_MAX))?;
        Ok(end)
    }

    /// Where in `bytes` is what the record at `lsn` says, if anything, and how many bytes it takes.
    fn look(&mut self, lsn: Lsn) -> Result<Option<Found>, LogError> {
        if !self.has(RECORD_HEADER)? {
            return Ok(None);
        }
        // What no record can be is not read.
        let length = length_of(&self.bytes[self.at..]).filter(|length| *length <= LENGTH_MAX);
        let Some(length) = length else { return Ok(None) };
        if !self.has(length)? {
            return Ok(None);
        }
        let begin = self.at + RECORD_HEADER;
        let found = parse(self.log, lsn, &self.bytes[self.at..]);
        Ok(found.map(|(said, space)| Found {
            said: match said {
                Said::Something(said) => Some(begin..begin + said.len()),
                Said::Nothing => None,
            },
            space: space as usize,
        }))
    }

    /// Reads on until so many bytes are there; whether they are.
    fn has(&mut self, len: usize) -> Result<bool, LogError> {
        if self.bytes.len() - self.at.min(self.bytes.len()) >= len {
            return Ok(true);
        }
        let gone = self.at.min(self.bytes.len());
        self.bytes.drain(..gone);
        (self.begin, self.at) = (Lsn(self.begin.0 + gone as u64), self.at - gone);
        let have = self.bytes.len();
        self.bytes.resize((self.at + len).max(CHUNK), 0);
        let from = Lsn(self.begin.0 + have as u64);
        let read = self.segments.read(from, &mut self.bytes[have..])?;
        self.bytes.truncate(have + read);
        Ok(self.bytes.len() >= self.at + len)
    }
}

/// No record is longer.
const LENGTH_MAX: usize = 1 << 28;
