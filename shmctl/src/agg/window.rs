//! A file read front to back through a buffer that is used again and again.
//!
//! The file is read, never mapped: one that is cut short under us is then an error and not SIGBUS.
//! The buffer is small enough to stay in the processor's cache.

use super::scan::{Fault, ScanError};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes read at once; in tests so few that every record meets the end of a piece.
const PIECE_BYTES: usize = if cfg!(test) { 16 } else { 256 << 10 };

/// What is read beyond the end of a chunk to find the end of its last record.
const AHEAD_BYTES: u64 = if cfg!(test) { 5 } else { 4096 };

/// The longest record; more is taken for a file that is no CSV.
pub const RECORD_BYTES_MAX: usize = if cfg!(test) { 4096 } else { 64 << 20 };

/// The part of the file that is in the buffer and not yet consumed.
pub(crate) struct Window<'a> {
    file: &'a File,
    /// Nothing is read at or beyond this offset, which the file is known to reach.
    limit: u64,
    buffer: &'a mut Vec<u8>,
    from: usize,
    to: usize,
    /// Offset in the file of the first unconsumed byte.
    offset: u64,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a File, limit: u64, offset: u64, buffer: &'a mut Vec<u8>) -> Self {
        if buffer.is_empty() {
            buffer.resize(PIECE_BYTES, 0);
        }
        Window { file, limit, buffer, from: 0, to: 0, offset }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.from..self.to]
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.from += bytes;
        self.offset += bytes as u64;
    }

    /// Whether everything up to the limit has been read.
    pub(crate) fn is_last(&self) -> bool {
        self.offset + self.bytes().len() as u64 >= self.limit
    }

    /// Reads more: at least a byte, and not much beyond `end`. Not to be called when `is_last`.
    pub(crate) fn fill(&mut self, end: u64) -> Result<(), Fault> {
        let pending = self.bytes().len();
        self.buffer.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, pending);
        if pending == self.buffer.len() {
            if pending >= RECORD_BYTES_MAX {
                return Err(Fault::too_long(self.offset));
            }
            self.buffer.resize(2 * pending, 0);
        }
        let at = self.offset + pending as u64;
        let ahead = AHEAD_BYTES.max(pending as u64);
        let wanted = (end.saturating_sub(at) + ahead).min(self.limit.saturating_sub(at));
        let room = &mut self.buffer[pending..];
        let len = room.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
        self.to += read_at(self.file, &mut room[..len], at)?;
        Ok(())
    }

    /// Reads until at least one line is complete, and says how many bytes the complete lines are;
    /// 0 at the limit. The last line need not have an end.
    pub(crate) fn fill_lines(&mut self, end: u64) -> Result<usize, Fault> {
        loop {
            if let Some(last) = memchr::memrchr(b'\n', self.bytes()) {
                return Ok(last + 1);
            }
            if self.is_last() {
                return Ok(self.bytes().len());
            }
            self.fill(end)?;
        }
    }

    /// Consumes the rest of a line, or goes on to `end` if it does not end before.
    pub(crate) fn skip_line(&mut self, end: u64) -> Result<(), Fault> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', self.bytes()) {
                self.consume(at + 1);
                return Ok(());
            }
            self.consume(self.bytes().len());
            if self.offset >= end || self.is_last() {
                return Ok(());
            }
            self.fill(end)?;
        }
    }

    /// Consumes line ends, so that the window begins with a record or is empty at its limit.
    pub(crate) fn skip_line_ends(&mut self, end: u64) -> Result<(), Fault> {
        loop {
            let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
            let len = self.bytes().iter().take_while(|byte| is_line_end(byte)).count();
            self.consume(len);
            if !self.bytes().is_empty() || self.is_last() {
                return Ok(());
            }
            self.fill(end)?;
        }
    }
}

/// Reads a range of the file piece by piece, for as long as `each` wants more.
pub(crate) fn read_pieces(
    file: &File,
    range: Range<u64>,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]) -> bool,
) -> Result<(), ScanError> {
    buffer.resize(buffer.len().max(PIECE_BYTES), 0);
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(PIECE_BYTES as u64) as usize;
        let len = read_at(file, &mut buffer[..len], at)?;
        if !each(&buffer[..len]) {
            break;
        }
        at += len as u64;
    }
    Ok(())
}

/// Reads at least one byte; the file is known to have had it.
fn read_at(file: &File, room: &mut [u8], at: u64) -> Result<usize, ScanError> {
    loop {
        match file.read_at(room, at) {
            Ok(0) => return Err(ScanError::Changed),
            Ok(len) => return Ok(len),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(ScanError::read(&error)),
        }
    }
}
