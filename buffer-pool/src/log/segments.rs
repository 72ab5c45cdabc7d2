//! The files of a log: segments of one length, one behind the other.
//!
//! ```text
//!   0000000000000000.wal  | header | records … rec|      each a part of the log's bytes, which
//!   0000000000000001.wal  | header |ord  records …|      know nothing of where a segment ends
//!   next.wal                                             one that is being made
//! ```
//!
//! A segment is made under another name, and has its own once it is whole and on the disk: so none
//! is ever found half made. It is full of zeroes, or of older records, whose LSNs are not those
//! that would stand there: neither is taken for a record.
use super::{LogError, LogOptions};
use crate::store::{PageFile, Store, read_whole};
use crate::tail::Lsn;
use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// So many bytes of a segment come before its part of the log.
const HEADER: u64 = 512;
/// What a segment begins with.
const MAGIC: u64 = u64::from_le_bytes(*b"shmkit\nW");
/// Of the format of segments and records.
const VERSION: u32 = 1;
/// So many bytes of the header say something: magic, version, length, log, number, checksum.
const SAID: usize = 40;
/// The name of one that is being made.
const NEXT: &str = "next.wal";
/// So many are kept open.
const OPEN_MAX: usize = 4;

/// The log's files, as one process has them.
#[derive(Debug)]
pub(super) struct Segments {
    store: Arc<dyn Store>,
    directory: PathBuf,
    log: u64,
    /// Bytes of a segment, its header included.
    bytes: u64,
    open: Mutex<Vec<(u64, Arc<dyn PageFile>)>>,
}

/// A part of a segment, and which bytes of the log it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    number: u64,
    /// In the segment's file.
    at: u64,
    log: Range<u64>,
}

impl Segments {
    pub(super) fn new(options: &LogOptions) -> Segments {
        let LogOptions { store, directory, log, segment_bytes } = options.clone();
        Segments { store, directory, log, bytes: segment_bytes, open: Mutex::default() }
    }

    /// So many bytes of the log are in a segment.
    fn body(&self) -> u64 {
        self.bytes - HEADER
    }

    /// These bytes of the log, segment by segment.
    fn parts(&self, range: Range<u64>) -> impl Iterator<Item = Part> {
        let (body, mut from) = (self.body(), range.start);
        std::iter::from_fn(move || {
            let number = from / body;
            let to = range.end.min((number + 1).checked_mul(body)?);
            let part = Part { number, at: HEADER + from % body, log: from..to };
            from = to;
            (!part.log.is_empty()).then_some(part)
        })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:016x}.wal"))
    }

    /// Writes these bytes of the log, which begin at `from`; makes the segments that there are not.
    /// For who alone writes out.
    pub(super) fn write(&self, from: Lsn, bytes: &[u8]) -> Result<(), LogError> {
        for part in self.parts(from.0..from.0 + bytes.len() as u64) {
            let file = self.made(part.number)?;
            let (start, end) = (part.log.start - from.0, part.log.end - from.0);
            let written = file.write(part.at, &bytes[start as usize..end as usize]);
            written.map_err(|source| self.failed(part.number, "write", source))?;
        }
        Ok(())
    }

    /// Has these bytes of the log reach the disk.
    pub(super) fn sync(&self, range: Range<Lsn>) -> Result<(), LogError> {
        for part in self.parts(range.start.0..range.end.0) {
            let synced = self.made(part.number)?.sync();
            synced.map_err(|source| self.failed(part.number, "sync", source))?;
        }
        Ok(())
    }

    /// Reads bytes of the log from `from` on; how many there were. Fewer where the next segment is
    /// not there.
    pub(super) fn read(&self, from: Lsn, into: &mut [u8]) -> Result<usize, LogError> {
        let mut have = 0;
        for part in self.parts(from.0..from.0 + into.len() as u64) {
            let Some(file) = self.opened(part.number)? else {
                // Those that are ready are behind the last one, and there is none missing.
                let is_end = self.numbers()?.into_iter().all(|number| number < part.number);
                let path = self.path(part.number);
                return if is_end { Ok(have) } else { Err(LogError::Missing { path }) };
            };
            let into = &mut into[have..have + (part.log.end - part.log.start) as usize];
            self.read_file(part.number, &*file, part.at, into)?;
            have += into.len();
        }
        Ok(have)
    }

    /// Has zeroes in these bytes of the log, on the disk, in the segments that there are.
    pub(super) fn wipe(&self, range: Range<Lsn>) -> Result<(), LogError> {
        for part in self.parts(range.start.0..range.end.0) {
            let Some(file) = self.opened(part.number)? else { break };
            let zeroes = vec![0; (part.log.end - part.log.start) as usize];
            let written = file.write(part.at, &zeroes);
            written.map_err(|source| self.failed(part.number, "write", source))?;
            file.sync().map_err(|source| self.failed(part.number, "sync", source))?;
        }
        Ok(())
    }

    /// Takes away the segments that are wholly before `keep`, or makes the next ones of them where
    /// fewer than `spare` are ready. For who alone writes out, or reads none of them.
    pub(super) fn recycle(&self, keep: Lsn, end: Lsn, spare: u64) -> Result<u64, LogError> {
        let (first, last) = (keep.0 / self.body(), end.0 / self.body());
        let mut numbers = self.numbers()?;
        numbers.sort_unstable();
        let mut ready = numbers.last().map_or(last, |number| *number).max(last);
        let mut gone = 0;
        for number in numbers.into_iter().take_while(|number| *number < first) {
            self.forget(number);
            if ready < last + spare {
                let next = self.directory.join(NEXT);
                let renamed = self.store.rename(&self.path(number), &next);
                renamed.map_err(|source| self.failed(number, "rename", source))?;
                self.make(ready + 1)?;
                ready += 1;
            } else {
                let removed = self.store.remove(&self.path(number));
                removed.map_err(|source| self.failed(number, "remove", source))?;
            }
            gone += 1;
        }
        if gone > 0 {
            let synced = self.store.sync_name(&self.path(first));
            synced.map_err(|source| self.failed(first, "sync the directory of", source))?;
        }
        Ok(gone)
    }

    /// The numbers of the segments that there are, in no order.
    pub(super) fn numbers(&self) -> Result<Vec<u64>, LogError> {
        let names = self.store.list(&self.directory);
        let names = names.map_err(|source| LogError::File {
            path: self.directory.clone(),
            what: "list",
            source,
        })?;
        Ok(names.iter().filter_map(|name| number_of(name)).collect())
    }

    /// The segment, made where it is not there.
    fn made(&self, number: u64) -> Result<Arc<dyn PageFile>, LogError> {
        match self.opened(number)? {
            Some(file) => Ok(file),
            None => self.make(number),
        }
    }

    fn opened(&self, number: u64) -> Result<Option<Arc<dyn PageFile>>, LogError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = open.iter().find(|(of, _)| *of == number) {
            return Ok(Some(file.clone()));
        }
        let file = match self.store.open(&self.path(number), false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed(number, "open", source)),
        };
        let mut said = [0; SAID];
        self.read_file(number, &*file, 0, &mut said)?;
        if said != self.said(number) {
            return Err(LogError::Foreign { path: self.path(number) });
        }
        if open.len() == OPEN_MAX {
            open.remove(0);
        }
        open.push((number, file.clone()));
        Ok(Some(file))
    }

    fn forget(&self, number: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(of, _)| *of != number);
    }

    /// Makes a segment of what is at `next.wal`, if anything is, and of zeroes.
    fn make(&self, number: u64) -> Result<Arc<dyn PageFile>, LogError> {
        let next = self.directory.join(NEXT);
        let failed = |what| move |source| self.failed(number, what, source);
        let file = self.store.open(&next, true).map_err(failed("make"))?;
        let size = file.size().map_err(failed("make"))?;
        file.extend(size.min(self.bytes), self.bytes).map_err(failed("make"))?;
        file.write(0, &self.said(number)).map_err(failed("make"))?;
        file.sync().map_err(failed("sync"))?;
        self.store.rename(&next, &self.path(number)).map_err(failed("rename"))?;
        self.store.sync_name(&self.path(number)).map_err(failed("sync the directory of"))?;
        drop(file);
        self.opened(number)?.ok_or(LogError::Foreign { path: self.path(number) })
    }

    /// What the header of a segment says.
    fn said(&self, number: u64) -> [u8; SAID] {
        let mut said = [0; SAID];
        said[..8].copy_from_slice(&MAGIC.to_le_bytes());
        said[8..12].copy_from_slice(&VERSION.to_le_bytes());
        said[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        said[24..32].copy_from_slice(&self.log.to_le_bytes());
        said[32..].copy_from_slice(&number.to_le_bytes());
        let sum = crc32c::crc32c(&said);
        said[12..16].copy_from_slice(&sum.to_le_bytes());
        said
    }

    fn read_file(
        &self,
        number: u64,
        file: &dyn PageFile,
        at: u64,
        into: &mut [u8],
    ) -> Result<(), LogError> {
        let place = NonNull::from(&mut *into).cast();
        // SAFETY: the bytes of `into`, which is ours for as long.
        let missing = unsafe { read_whole(file, at, place, into.len()) };
        match missing {
            Ok(0) => Ok(()),
            Ok(_) => Err(LogError::Foreign { path: self.path(number) }),
            Err(source) => Err(self.failed(number, "read", source)),
        }
    }

    fn failed(&self, number: u64, what: &'static str, source: io::Error) -> LogError {
        LogError::File { path: self.path(number), what, source }
    }
}

/// Of a segment's name.
fn number_of(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".wal").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}
