//! Files in memory that forked children share: what one has written is there when it has died.
//! Pages are read and written without a call of the system, and so are there in part at times.
use buffer_pool::store::{PageFile, Store};
use shm_testkit::killpoint::SharedMemory;
use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// So many files there are: `/0`, `/1` and so on.
const FILES: usize = 4;
/// So long one can be.
const FILE_BYTES: usize = 33 << 10;
/// A file's length stands in front of it, and one more; 0: there is none.
const SIZE: usize = 64 + FILE_BYTES;

type Work = RefCell<Option<Box<dyn FnOnce()>>>;

thread_local! {
    static AT_READ: Work = const { RefCell::new(None) };
    static AT_WRITE: Work = const { RefCell::new(None) };
}

/// What this thread does before it reads the next page.
pub(crate) fn at_read(work: impl FnOnce() + 'static) {
    AT_READ.set(Some(Box::new(work)));
}

/// What this thread does before it writes the next page.
pub(crate) fn at_write(work: impl FnOnce() + 'static) {
    AT_WRITE.set(Some(Box::new(work)));
}

/// The files, behind what else is in the memory.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    memory: SharedMemory,
    at: usize,
    /// Cutting a file off is one instruction, as it is where files are the system's.
    zeroes: Arc<File>,
}

impl Segment {
    pub(crate) const BYTES: usize = FILES * SIZE;

    pub(crate) fn new(memory: &SharedMemory, at: usize) -> Segment {
        assert!(at.is_multiple_of(8) && at + Segment::BYTES <= memory.len());
        let zeroes = Arc::new(File::open("/dev/zero").expect("zeroes"));
        Segment { memory: memory.clone(), at, zeroes }
    }

    fn file(&self, path: &Path) -> InSegment {
        let name = path.to_str().and_then(|path| path.strip_prefix('/'));
        let index: usize = name.and_then(|name| name.parse().ok()).expect("a number");
        assert!(index < FILES);
        InSegment { files: self.clone(), at: self.at + index * SIZE }
    }

    /// What the file at `path` holds.
    pub(crate) fn bytes_of(&self, path: &Path) -> Vec<u8> {
        let file = self.file(path);
        let mut bytes = vec![0; file.size().unwrap() as usize];
        // SAFETY: as long as the file is.
        unsafe { file.byte(0).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        bytes
    }
}

impl Store for Segment {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn PageFile>> {
        let file = self.file(path);
        if create {
            let _ = file.length().compare_exchange(0, 1, Relaxed, Relaxed);
        }
        match file.length().load(Relaxed) {
            0 => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(Arc::new(file)),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let file = self.file(path);
        file.truncate(0)?;
        match file.length().swap(0, Relaxed) {
            0 => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(()),
        }
    }

    /// A file is where its number says.
    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn list(&self, _directory: &Path) -> io::Result<Vec<OsString>> {
        let names = (0..FILES).map(|file| file.to_string());
        let is_there =
            |name: &String| self.file(Path::new(&format!("/{name}"))).length().load(Relaxed) > 0;
        Ok(names.filter(is_there).map(OsString::from).collect())
    }
}

#[derive(Debug)]
struct InSegment {
    files: Segment,
    at: usize,
}

impl InSegment {
    fn length(&self) -> &AtomicU64 {
        // SAFETY: inside the memory.
        let word = unsafe { self.files.memory.base().add(self.at) };
        // SAFETY: as above, aligned, and only ever an atomic.
        unsafe { word.cast().as_ref() }
    }

    fn byte(&self, at: u64) -> *mut u8 {
        assert!(at <= FILE_BYTES as u64);
        // SAFETY: inside the memory.
        unsafe { self.files.memory.base().as_ptr().add(self.at + 64 + at as usize) }
    }
}

impl PageFile for InSegment {
    fn is_read_only(&self) -> bool {
        false
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.length().load(Relaxed).saturating_sub(1))
    }

    unsafe fn read(&self, at: u64, into: NonNull<u8>, len: usize) -> io::Result<usize> {
        AT_READ.take().into_iter().for_each(|work| work());
        let len = len.min(self.size()?.saturating_sub(at) as usize);
        // SAFETY: inside the file, and good for so many bytes by the caller's promise.
        unsafe { into.as_ptr().copy_from_nonoverlapping(self.byte(at), len) };
        Ok(len)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        AT_WRITE.take().into_iter().for_each(|work| work());
        let end = at + bytes.len() as u64;
        assert!(end <= FILE_BYTES as u64);
        // SAFETY: inside the file's room.
        unsafe { self.byte(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        self.length().fetch_max(end + 1, Relaxed);
        Ok(())
    }

    /// What is behind the end is zero.
    fn extend(&self, _from: u64, to: u64) -> io::Result<()> {
        assert!(to <= FILE_BYTES as u64);
        self.length().fetch_max(to + 1, Relaxed);
        Ok(())
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        let len = self.size()?;
        if len > size {
            // SAFETY: inside the file, and nobody else reads or writes there.
            let rest =
                unsafe { std::slice::from_raw_parts_mut(self.byte(size), (len - size) as usize) };
            (&*self.files.zeroes).read_exact(rest)?;
            self.length().store(size + 1, Relaxed);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn write_back(&self, _at: u64, _len: u64) {}

    fn prefetch(&self, _at: u64, _len: u64) {}
}
