//! Where pages come from and go to: files, or what a test puts in their place.
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
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

    /// Has the file's name reach the disk: else one that was made may be gone after a crash of the
    /// machine, with all that was synced in it. Where names do not get lost, nothing.
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

/// Files of the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk {
    /// Past the system's cache of pages (`O_DIRECT`): for pools that are most of the memory. Pages
    /// are of 4 KiB or more then.
    pub direct: bool,
}

impl Store for Disk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn PageFile>> {
        let flags = if self.direct { OFlags::DIRECT } else { OFlags::empty() };
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags.bits() as i32);
        let read_only = options.clone();
        match options.write(true).create(create).truncate(false).open(path) {
            Ok(file) => Ok(Arc::new(OnDisk { file, is_read_only: false })),
            Err(error) if is_protected(&error) => {
                Ok(Arc::new(OnDisk { file: read_only.open(path)?, is_read_only: true }))
            }
            Err(error) => Err(error),
        }
    }

    fn sync_name(&self, path: &Path) -> io::Result<()> {
        // Where it is a link, that may have been there before what it leads to.
        let file = path.canonicalize()?;
        let directory = file.parent().ok_or(io::ErrorKind::NotFound)?;
        match File::open(directory)?.sync_all() {
            // The file system has nothing to sync a directory with.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            synced => synced,
        }
    }
}

fn is_protected(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

#[derive(Debug)]
struct OnDisk {
    file: File,
    is_read_only: bool,
}

impl PageFile for OnDisk {
    fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    #[inline]
    unsafe fn read(&self, at: u64, into: NonNull<u8>, len: usize) -> io::Result<usize> {
        let at = i64::try_from(at).map_err(|_| io::Error::from(Errno::OVERFLOW))?;
        // SAFETY: good for `len` bytes by the caller's promise, and the descriptor is open.
        let read = unsafe { libc::pread64(self.file.as_raw_fd(), into.as_ptr().cast(), len, at) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    unsafe fn read_vectored(&self, at: u64, into: &[NonNull<[u8]>]) -> io::Result<usize> {
        let at = i64::try_from(at).map_err(|_| io::Error::from(Errno::OVERFLOW))?;
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PARTS_MAX];
        let count = into.len().min(PARTS_MAX);
        for (part, place) in parts.iter_mut().zip(into) {
            *part = libc::iovec { iov_base: place.as_ptr().cast(), iov_len: place.len() };
        }
        // SAFETY: good for these bytes by the caller's promise, and the descriptor is open.
        let read = unsafe {
            libc::preadv64(self.file.as_raw_fd(), parts.as_ptr(), count as libc::c_int, at)
        };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn extend(&self, from: u64, to: u64) -> io::Result<()> {
        let len = to.saturating_sub(from);
        // The system takes none for an error.
        if len == 0 {
            return Ok(());
        }
        Ok(retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), from, len))?)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        if self.size()? > size { self.file.set_len(size) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_back(&self, at: u64, len: u64) {
        let (Ok(at), Ok(len)) = (i64::try_from(at), i64::try_from(len)) else { return };
        // SAFETY: touches no memory of ours.
        unsafe {
            libc::sync_file_range(self.file.as_raw_fd(), at, len, libc::SYNC_FILE_RANGE_WRITE)
        };
    }

    fn prefetch(&self, at: u64, len: u64) {
        let len = std::num::NonZeroU64::new(len);
        // It is a suggestion.
        let _ = rustix::fs::fadvise(&self.file, at, len, rustix::fs::Advice::WillNeed);
    }
}
