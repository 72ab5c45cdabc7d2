//! Files of a [`Segment`] whose reads take a while, and are counted.
use super::segment::Segment;
use buffer_pool::store::{PageFile, Store};
use shm_testkit::killpoint::SharedMemory;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Files whose reads take a while, and are counted: in the first eight bytes of the memory.
#[derive(Debug)]
pub(crate) struct Slow {
    pub(crate) memory: SharedMemory,
    pub(crate) files: Segment,
    /// From this byte on.
    pub(crate) from: u64,
    pub(crate) takes: Duration,
}

#[derive(Debug)]
struct SlowFile {
    memory: SharedMemory,
    file: Arc<dyn PageFile>,
    from: u64,
    takes: Duration,
}

pub(crate) fn reads(memory: &SharedMemory) -> &AtomicU64 {
    // SAFETY: inside the memory, aligned, and only ever an atomic.
    unsafe { memory.base().cast().as_ref() }
}

impl Store for Slow {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn PageFile>> {
        let (memory, file) = (self.memory.clone(), self.files.open(path, create)?);
        Ok(Arc::new(SlowFile { memory, file, from: self.from, takes: self.takes }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        self.files.list(directory)
    }
}

impl PageFile for SlowFile {
    fn is_read_only(&self) -> bool {
        self.file.is_read_only()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    unsafe fn read(&self, at: u64, into: NonNull<u8>, len: usize) -> io::Result<usize> {
        reads(&self.memory).fetch_add(1, Relaxed);
        if at >= self.from {
            std::thread::sleep(self.takes);
        }
        // SAFETY: as promised to us.
        unsafe { self.file.read(at, into, len) }
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write(at, bytes)
    }

    fn extend(&self, from: u64, to: u64) -> io::Result<()> {
        self.file.extend(from, to)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.truncate(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write_back(&self, _at: u64, _len: u64) {}

    fn prefetch(&self, _at: u64, _len: u64) {}
}
