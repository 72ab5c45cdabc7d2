//! Pages read in before anybody wants them: some of a file, or those that were in a pool before.
//!
//! A dump is text: how many pages there are, and a line `id,fork,block` of each, by the file's
//! [key](FileKey).
//!
//! ```text
//! 3
//! 16384,0,0
//! 16384,0,7
//! 16385,1,2
//! ```
use super::session::{PageBuffer, Session};
use super::strategy::Ring;
use super::{PageError, Pool, ReadStream, StreamOptions};
use crate::files::{FileInfo, FileKey, FileNumber};
use crate::store::{PageFile, read_whole};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use shm_core::process::Forked;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::time::UNIX_EPOCH;

/// How far blocks are warmed up.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Prewarm {
    /// The system is told that they will be read, and reads them when it likes.
    Prefetch,
    /// They are read, and thrown away: they are in the system's cache then, if it has one.
    Read,
    /// They are read into the pool.
    #[default]
    Buffer,
}

/// What became of the pages of a dump.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// They were read in.
    pub loaded: u64,
    /// They were there already.
    pub resident: u64,
    /// The pool does not know their files.
    pub unknown: u64,
    /// Their files are shorter by now.
    pub past_end: u64,
    /// They could not be had: unreadable, say, or damaged.
    pub failed: u64,
    /// They were not looked at: no frame was vacant any more, or the caller wanted no more.
    pub left: u64,
}

/// Why the pages of a pool could not be written down.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct DumpError {
    /// The file's.
    pub path: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

/// Why the pages of a dump were not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file's.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no dump, or not all of one. No page was loaded.
    #[error("{} is no dump: line {line} {problem}", path.display())]
    Damaged {
        /// The file's.
        path: PathBuf,
        /// The first line is 1.
        line: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The pool is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

impl Pool {
    /// The pages that are in the pool, by their files' keys and in their order. Others move some
    /// meanwhile.
    pub fn resident(&self) -> Vec<(FileKey, u32)> {
        let files = self.files().into_iter();
        let keys: HashMap<FileNumber, FileKey> =
            files.map(|file| (file.number, file.key)).collect();
        let frames = &self.inner.frames;
        let resident = (0..self.inner.backed()).filter_map(|frame| frames.resident_in(frame));
        let known = resident.filter_map(|page| {
            let key = keys.get(&FileNumber::of(page))?;
            Some((*key, page.block()))
        });
        let mut pages: Vec<_> = known.collect();
        pages.sort_unstable();
        // One was seen twice, as it moved.
        pages.dedup();
        pages
    }

    /// Writes down which pages are in the pool, in the file at `path`, for [`Session::load`]; how
    /// many they are. What was there before is replaced, as a whole and on the disk.
    ///
    /// # Errors
    /// [`DumpError`]: what was there before is there, or, where it was the directory that could not
    /// be synced, the new one.
    ///
    /// # If a process dies here
    /// The old file is there, or the new one; perhaps a part of the new one beside it, as
    /// `.NAME.NUMBER`, which the next dump to this path removes.
    pub fn dump(&self, path: &Path) -> Result<u64, DumpError> {
        let pages = self.resident();
        let failed = |source| DumpError { path: path.to_owned(), source };
        replace(path, |file| write_dump(&pages, file)).map_err(failed)?;
        Ok(pages.len() as u64)
    }
}

impl Session {
    /// Warms up these blocks of a file: how many they are. In a pool that is too small the last
    /// ones push the first ones out.
    ///
    /// # Errors
    /// [`PageError`]; [`PageError::PastEnd`] where the file does not have all of them.
    ///
    /// # If a process dies here
    /// As in [`page`](Session::page).
    pub fn prewarm(
        &self,
        file: FileNumber,
        blocks: Range<u32>,
        how: Prewarm,
    ) -> Result<u64, PageError> {
        self.prewarm_in(file, blocks, how, None)
    }

    pub(super) fn prewarm_in(
        &self,
        file: FileNumber,
        blocks: Range<u32>,
        how: Prewarm,
        ring: Option<&Ring>,
    ) -> Result<u64, PageError> {
        let inner = &*self.inner;
        let info = inner.files.info(file).ok_or(PageError::NoSuchFile(file))?;
        if blocks.is_empty() {
            return Ok(0);
        }
        let count = u64::from(blocks.end - blocks.start);
        let FileInfo { path, blocks: length, .. } = info;
        if blocks.end > length {
            return Err(PageError::PastEnd { path, block: blocks.end - 1, blocks: length });
        }
        match how {
            Prewarm::Prefetch => self.hint(file, blocks)?,
            Prewarm::Read => {
                let (page_bytes, step) = (inner.config.page_bytes as usize, self.combine());
                let mut buffer = PageBuffer::new(step as usize * page_bytes);
                let open = inner.open_file(file)?;
                for first in blocks.clone().step_by(step as usize) {
                    let len = step.min(blocks.end - first) as usize * page_bytes;
                    read(&*open, &path, first, &mut buffer.bytes()[..len], page_bytes)?;
                }
            }
            Prewarm::Buffer => {
                let options = StreamOptions { begins_ahead: true, ..StreamOptions::default() };
                let mut pages = ReadStream::new(self, ring, file, blocks, options);
                pages.try_for_each(|page| page.map(drop))?;
            }
        }
        Ok(count)
    }

    /// Reads the pages in that [`Pool::dump`] has written down, in the order of their files and
    /// blocks, for as long as there are vacant frames: none of them pushes another page out, but
    /// where others take the last frames at the same time.
    ///
    /// ```
    /// use buffer_pool::files::FileKey;
    /// use buffer_pool::pool::{FileOptions, Pool, PoolConfig, PoolOptions, Prewarm};
    /// use shm_core::mapping::Mapping;
    ///
    /// let directory = tempfile::tempdir()?;
    /// let config = PoolConfig { processes: 2, ..PoolConfig::new(1 << 20) };
    /// let mapping = Mapping::heap(Pool::bytes_for(&config)?.try_into()?);
    /// let pool = Pool::open(&mapping, &config, PoolOptions::default())?;
    /// let session = pool.session()?;
    /// let options = FileOptions { create: true, ..FileOptions::default() };
    /// let key = FileKey { id: 1, fork: 0 };
    /// let games = session.register(key, &directory.path().join("games"), &options)?;
    /// session.extend(games, 100)?;
    /// session.prewarm(games, 10..30, Prewarm::Buffer)?;
    ///
    /// let dump = directory.path().join("pool.blocks");
    /// assert_eq!(pool.dump(&dump)?, 20);
    /// session.evict_all()?;
    /// assert_eq!(session.load(&dump)?.loaded, 20);
    /// assert!(pool.resident().contains(&(key, 29)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`LoadError`].
    ///
    /// # If a process dies here
    /// As in [`page`](Session::page); the pages that it has loaded stay.
    pub fn load(&self, path: &Path) -> Result<Loaded, LoadError> {
        self.load_while(path, || true)
    }

    /// As [`load`](Session::load), for as long as it `goes_on`, which is asked before each page is
    /// read: those after it are left.
    ///
    /// # Errors
    /// [`LoadError`].
    ///
    /// # If a process dies here
    /// As in [`load`](Session::load).
    pub fn load_while(&self, path: &Path, goes_on: impl Fn() -> bool) -> Result<Loaded, LoadError> {
        let failed = |source| LoadError::Read { path: path.to_owned(), source };
        let dump = BufReader::new(File::open(path).map_err(failed)?);
        let mut pages = read_dump(dump).map_err(|bad| bad.of(path))?;
        pages.sort_unstable();
        pages.dedup();
        let files = self.inner.files.list().into_iter();
        let numbers: HashMap<FileKey, FileNumber> =
            files.map(|file| (file.key, file.number)).collect();
        let mut sum = Loaded::default();
        for (at, (key, block)) in pages.iter().enumerate() {
            match numbers.get(key) {
                None => sum.unknown += 1,
                Some(file) if self.is_resident(*file, *block) => sum.resident += 1,
                Some(_) if !goes_on() || !self.has_vacant() => {
                    sum.left = (pages.len() - at) as u64;
                    break;
                }
                Some(file) => match self.page(*file, *block) {
                    Ok(_) => sum.loaded += 1,
                    Err(PageError::PastEnd { .. }) => sum.past_end += 1,
                    Err(PageError::NoSuchFile(_)) => sum.unknown += 1,
                    Err(PageError::Forked(forked)) => return Err(forked.into()),
                    Err(_) => sum.failed += 1,
                },
            }
        }
        Ok(sum)
    }

    /// Whether some frame seems to have no page.
    fn has_vacant(&self) -> bool {
        let (frames, limit) = (self.user.frames(), self.inner.limit.get());
        let is_free = |frame: &u32| {
            *frame < limit && !frames.is_claimed(*frame) && frames.resident_in(*frame).is_none()
        };
        // Others may say of frames for ever that they are vacant.
        let mut vacant = std::iter::from_fn(|| self.policy.vacant()).take(frames.count() as usize);
        let found = vacant.find(is_free);
        found.inspect(|frame| self.policy.vacate(*frame)).is_some()
    }
}

/// Reads the blocks from `first` on into `bytes`.
fn read(
    file: &dyn PageFile,
    path: &Path,
    first: u32,
    bytes: &mut [u8],
    page_bytes: usize,
) -> Result<(), PageError> {
    let len = bytes.len();
    let mut read = |at: usize, len: usize| {
        let from = u64::from(first) * page_bytes as u64 + at as u64;
        let into = NonNull::from(&mut bytes[at..at + len]).cast();
        // SAFETY: bytes that are borrowed for us alone, and not used meanwhile.
        unsafe { read_whole(file, from, into, len) }
    };
    if matches!(read(0, len), Ok(0)) {
        return Ok(());
    }
    // Which of them it is.
    for (block, at) in (first..).zip((0..len).step_by(page_bytes)) {
        PageError::of_read(read(at, page_bytes), block, || path.to_owned())?;
    }
    Ok(())
}

fn write_dump(pages: &[(FileKey, u32)], file: &File) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    writeln!(out, "{}", pages.len())?;
    for (FileKey { id, fork }, block) in pages {
        writeln!(out, "{id},{fork},{block}")?;
    }
    out.flush()
}

/// Puts what `write` writes where `path` is: all of it or nothing, and for good.
fn replace(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(".");
    remove_left(directory, &beside)?;
    let (new, file) = create_locked(directory, &beside)?;
    let written = write(&file).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&new, path)) {
        // The first error is the one to be told.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

/// A new file: `beside` and a number. Who writes it has it locked for as long as it lives.
fn create_locked(directory: &Path, beside: &OsStr) -> io::Result<(PathBuf, File)> {
    loop {
        // One that comes only once: who removes it removes no later one.
        let since = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
        let number = format!("{}{since}", rustix::thread::gettid().as_raw_nonzero());
        let mut name = beside.to_owned();
        name.push(number);
        let path = directory.join(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // Before it was locked somebody took it for one that a dead one has left.
            Err(Errno::WOULDBLOCK) => {}
            Ok(()) if file.metadata()?.nlink() == 0 => {}
            // Where there are no locks nobody does.
            _ => return Ok((path, file)),
        }
    }
}

/// Removes what those have left who died replacing a file: `beside` and a number.
fn remove_left(directory: &Path, beside: &OsStr) -> io::Result<()> {
    let is_number = |rest: &[u8]| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit);
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (name, is_file) = (entry.file_name(), entry.file_type().is_ok_and(|it| it.is_file()));
        if !is_file || !name.as_bytes().strip_prefix(beside.as_bytes()).is_some_and(is_number) {
            continue;
        }
        // What cannot be opened, or has gone meanwhile, is not ours.
        let Ok(file) = OpenOptions::new().write(true).open(entry.path()) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Why some text is no dump.
#[derive(Debug)]
enum BadDump {
    Unreadable(io::Error),
    Damaged { line: u64, problem: &'static str },
}

impl BadDump {
    /// Of the file at `path`.
    fn of(self, path: &Path) -> LoadError {
        let path = path.to_owned();
        match self {
            BadDump::Unreadable(source) => LoadError::Read { path, source },
            BadDump::Damaged { line, problem } => LoadError::Damaged { path, line, problem },
        }
    }
}

/// The pages of a dump. Memory is taken for those that are there.
fn read_dump(mut dump: impl BufRead) -> Result<Vec<(FileKey, u32)>, BadDump> {
    let (mut line, mut number) = (Vec::new(), 0);
    let (mut pages, mut count) = (Vec::new(), 0_u64);
    loop {
        line.clear();
        number += 1;
        let damaged = |problem| BadDump::Damaged { line: number, problem };
        if dump.read_until(b'\n', &mut line).map_err(BadDump::Unreadable)? == 0 {
            let is_whole = number > 1 && pages.len() as u64 == count;
            return if is_whole { Ok(pages) } else { Err(damaged("is missing")) };
        }
        let text = line.strip_suffix(b"\n").ok_or(damaged("has no end"))?;
        let text = str::from_utf8(text).unwrap_or_default();
        if number == 1 {
            count = text.parse().map_err(|_| damaged("is no number of pages"))?;
        } else if number - 1 > count {
            return Err(damaged("is one too many"));
        } else {
            pages.push(page_of(text).ok_or(damaged("is no page, as id,fork,block"))?);
        }
    }
}

fn page_of(line: &str) -> Option<(FileKey, u32)> {
    let mut numbers = line.split(',');
    let (id, fork) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    let block = numbers.next()?.parse().ok()?;
    numbers.next().is_none().then_some((FileKey { id, fork }, block))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &[u8]) -> (u64, &'static str) {
        match read_dump(text).unwrap_err() {
            BadDump::Damaged { line, problem } => (line, problem),
            BadDump::Unreadable(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_dump_is_read_as_it_was_written() {
        let of = |id, fork, block| (FileKey { id, fork }, block);
        let pages = [of(0, 0, 0), of(7, 3, u32::MAX), of(u64::MAX, u8::MAX, 1)];
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dump");
        for pages in [&pages[..], &[]] {
            replace(&path, |file| write_dump(pages, file)).unwrap();
            assert_eq!(read_dump(&fs::read(&path).unwrap()[..]).unwrap(), pages);
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_cannot_be_replaced_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dump");
        fs::write(&path, "old").unwrap();
        replace(&path, |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        replace(Path::new("/"), |_| Ok(())).unwrap_err();
    }

    #[test]
    fn what_the_dead_have_left_is_removed_and_what_the_living_write_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let others = [".dump.new", ".dump.", ".dump.1x", ".dump2.1", "dump.1", ".other.1"];
        others.iter().for_each(|name| fs::write(at(name), "").unwrap());
        fs::create_dir(at(".dump.3")).unwrap();
        std::os::unix::fs::symlink(at("dump.1"), at(".dump.4")).unwrap();
        for name in [".dump.1", ".dump.99999999999"] {
            fs::write(at(name), "half").unwrap();
        }
        let (living, _locked) = create_locked(directory.path(), OsStr::new(".dump.")).unwrap();
        let living = living.file_name().unwrap().to_str().unwrap();
        replace(&at("dump"), |_| Ok(())).unwrap();
        let entries = fs::read_dir(&directory).unwrap();
        let mut left: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let mut expected: Vec<_> = [&others[..], &["dump", living, ".dump.3", ".dump.4"]].concat();
        left.sort_unstable();
        expected.sort_unstable();
        assert_eq!(left, expected);
    }

    /// Each would remove what the others write.
    #[test]
    fn many_may_replace_a_file_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dump");
        std::thread::scope(|scope| {
            for who in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let pages = [(FileKey { id: who, fork: 0 }, 7); 3];
                        replace(path, |file| write_dump(&pages, file)).unwrap();
                        let found = read_dump(&fs::read(path).unwrap()[..]).unwrap();
                        assert_eq!(found, [found[0]; 3]);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_line_is_named() {
        assert_eq!(problem(b""), (1, "is missing"));
        assert_eq!(problem(b"two\n"), (1, "is no number of pages"));
        assert_eq!(problem(b"2\n1,0,5\n"), (3, "is missing"));
        assert_eq!(problem(b"2\n1,0,5\n1,0,6"), (3, "has no end"));
        assert_eq!(problem(b"1\n1,0,5\n1,0,6\n"), (3, "is one too many"));
        for bad in ["", "1,0", "1,0,5,", "1,256,5", "1,0,-5", "1,0,4294967296", " 1,0,5"] {
            let text = format!("2\n1,0,5\n{bad}\n");
            assert_eq!(problem(text.as_bytes()), (3, "is no page, as id,fork,block"), "{bad}");
        }
        assert_eq!(problem(b"1\n\xff,0,5\n").0, 2);
    }
}
