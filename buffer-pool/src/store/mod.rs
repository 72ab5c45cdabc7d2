//! Where pages come from and go to: files, or what a test puts in their place.

// Files of the system.
mod disk;

// A store that loses power, for tests (feature `sim`).
#[cfg(feature = "sim")]
pub mod sim;

pub use disk::Disk;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

/// What a pool opens files with. A test puts its own there, with errors in it.
pub trait Store: fmt::Debug + Send + Sync {
    /// Opens the file at `path`; `create`: makes it, empty, where there is none.
    ///
    /// # Errors
    /// Those of the system.
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn PageFile>>;

    /// Takes the name away. Who has the file open has it still.
    ///
    /// # Errors
    /// Those of the system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Has the file at `from` be at `to` instead, where another one may be: at each moment, and
    /// after a crash of the machine, one of the two is there.
    ///
    /// # Errors
    /// Those of the system: nothing has changed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// The names of what is in `directory`, in no order.
    ///
    /// # Errors
    /// Those of the system.
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>>;

    /// Has what became of names in the directory of `path` reach the disk: else a file that was
    /// made may be gone after a crash of the machine, with all that was synced in it, one that was
    /// removed may be there, and one that was renamed may have its old name. `path` itself need not
    /// be there any more. Where names do not get lost, nothing.
    ///
    /// # Errors
    /// Those of the system.
    fn sync_name(&self, path: &Path) -> io::Result<()> {
        let _ = path;
        Ok(())
    }
}

/// An open file of a [`Store`]. Positions and lengths are in bytes.
pub trait PageFile: fmt::Debug + Send + Sync {
    /// Whether it can be read only.
    fn is_read_only(&self) -> bool;

    /// How long it is.
    ///
    /// # Errors
    /// Those of the system.
    fn size(&self) -> io::Result<u64>;

    /// Reads up to `len` bytes at `at`; how many it were. Fewer than that only at the end of the
    /// file, or where a signal came.
    ///
    /// When it returns, or the process has died, nothing is written to `into` any more.
    ///
    /// # Errors
    /// Those of the system; some bytes may have been read.
    ///
    /// # Safety
    /// `into` is good for writes of `len` bytes, which no reference in this process covers.
    unsafe fn read(&self, at: u64, into: NonNull<u8>, len: usize) -> io::Result<usize>;

    /// As [`read`](PageFile::read), into these places, one after the other. Fewer bytes than they
    /// have also where there are too many places; or where an error came after some of them, which
    /// is told to who reads on.
    ///
    /// # Errors
    /// As [`read`](PageFile::read).
    ///
    /// # Safety
    /// Each place is good for writes of its bytes, which no reference in this process covers.
    unsafe fn read_vectored(&self, at: u64, into: &[NonNull<[u8]>]) -> io::Result<usize> {
        let mut have = 0;
        for place in into {
            // SAFETY: the caller's promise.
            match unsafe { self.read(at + have as u64, place.cast(), place.len()) } {
                Ok(more) if more == place.len() => have += more,
                Ok(more) => return Ok(have + more),
                Err(_) if have > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(have)
    }

    /// Writes `bytes` at `at`, all of them.
    ///
    /// # Errors
    /// Those of the system; some bytes may have been written.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Puts zeroes, and space for them, between `from`, which is the end or lies before it, and
    /// `to`. What was written there meanwhile stays.
    ///
    /// # Errors
    /// Those of the system; it may be longer than before.
    fn extend(&self, from: u64, to: u64) -> io::Result<()>;

    /// Cuts it off at `size`, where it is longer.
    ///
    /// # Errors
    /// Those of the system.
    fn truncate(&self, size: u64) -> io::Result<()>;

    /// Has all that was written, by anybody, reach the disk.
    ///
    /// # Errors
    /// Those of the system: some of what was written since the last time may be lost.
    fn sync(&self) -> io::Result<()>;

    /// Suggests that the disk begin to write these bytes.
    fn write_back(&self, at: u64, len: u64);

    /// Suggests that these bytes will be read.
    fn prefetch(&self, at: u64, len: u64);
}

/// Reads `len` bytes at `at`, whatever signals come; how many of them the file does not have.
///
/// # Errors
/// As [`PageFile::read`].
///
/// # Safety
/// As [`PageFile::read`].
pub(crate) unsafe fn read_whole(
    file: &dyn PageFile,
    at: u64,
    into: NonNull<u8>,
    len: usize,
) -> io::Result<usize> {
    let mut have = 0;
    while have < len {
        // SAFETY: inside the `len` bytes.
        let rest = unsafe { into.add(have) };
        // SAFETY: the rest of these bytes, by the caller's promise.
        match unsafe { file.read(at + have as u64, rest, len - have) } {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len - have)
}

/// Into so many places the system reads at once.
pub(crate) const PARTS_MAX: usize = 64;
