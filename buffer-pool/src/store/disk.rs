//! Files of the system.
use super::{PARTS_MAX, PageFile, Store};
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

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

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn sync_name(&self, path: &Path) -> io::Result<()> {
        // Where it is a link, that may have been there before what it leads to.
        let file = match path.canonicalize() {
            // Nor is there a link to what is gone: that was in another directory.
            Err(_) if path.symlink_metadata().is_err() => std::path::absolute(path)?,
            file => file?,
        };
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
pub(super) struct OnDisk {
    pub(super) file: File,
    pub(super) is_read_only: bool,
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

#[cfg(test)]
mod tests {
    use super::*;
    use shm_testkit::unique::TempDir;

    #[test]
    fn names_are_changed_and_synced_where_they_were() {
        let (dir, disk) = (TempDir::new("names"), Disk::default());
        let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
        disk.open(&old, true).unwrap().write(0, b"old").unwrap();
        disk.open(&new, true).unwrap();
        disk.rename(&old, &new).unwrap();
        assert_eq!(fs::read(&new).unwrap(), b"old");
        assert_eq!(disk.list(dir.path()).unwrap(), ["new"]);
        disk.sync_name(&old).unwrap();
        disk.remove(&new).unwrap();
        disk.sync_name(&new).unwrap();
        assert!(disk.list(dir.path()).unwrap().is_empty());
        let nowhere = dir.path().join("none").join("file");
        assert_eq!(disk.sync_name(&nowhere).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
