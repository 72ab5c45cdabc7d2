//! Files in memory, which fail when they are told to, and a pool over them.
#![allow(dead_code, reason = "each test takes what it needs")]

pub(crate) mod numbered;
pub(crate) mod segment;
pub(crate) mod slow;
pub(crate) mod whole;

use buffer_pool::pool::{Pool, PoolConfig, PoolOptions};
use buffer_pool::store::{PageFile, Store};
use shm_core::mapping::Mapping;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How many of the next calls fail; and what else goes on.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) opens: AtomicU32,
    pub(crate) reads: AtomicU32,
    pub(crate) writes: AtomicU32,
    pub(crate) extends: AtomicU32,
    pub(crate) truncates: AtomicU32,
    pub(crate) syncs: AtomicU32,
    pub(crate) names: AtomicU32,
    /// Whether files are opened to be read only.
    pub(crate) is_read_only: AtomicBool,
    /// What was written since was lost so often: each who had the file open is told once.
    pub(crate) losses: AtomicU32,
    /// A read takes so many milliseconds.
    pub(crate) slow: AtomicU32,
    /// How often was read.
    pub(crate) count: AtomicU32,
    /// A read that has the byte before this one fails; 0: none.
    pub(crate) bad: AtomicU64,
    /// What is read at once is cut off behind so many bytes, but where this is 0.
    pub(crate) at_once: AtomicUsize,
    /// What was said to be read soon: where, and so many bytes.
    pub(crate) hints: Mutex<Vec<(u64, u64)>>,
    /// How often a name was synced.
    pub(crate) named: AtomicU32,
}

impl Faults {
    pub(crate) fn none(&self) {
        let Faults { opens, reads, writes, extends, truncates, syncs, names, .. } = self;
        let words = [opens, reads, writes, extends, truncates, syncs, names];
        words.iter().for_each(|word| word.store(0, Relaxed));
        self.bad.store(0, Relaxed);
    }

    /// What comes before the bytes of a read.
    fn read(&self, at: u64, len: usize) -> io::Result<()> {
        self.count.fetch_add(1, Relaxed);
        std::thread::sleep(Duration::from_millis(self.slow.load(Relaxed).into()));
        fails(&self.reads)?;
        let bad = self.bad.load(Relaxed);
        let is_bad = bad > at && bad - 1 < at + len as u64;
        if is_bad { Err(io::Error::other("a bad block")) } else { Ok(()) }
    }
}

fn fails(word: &AtomicU32) -> io::Result<()> {
    let fails = word.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
    if fails { Err(io::Error::other("told to fail")) } else { Ok(()) }
}

/// Files in memory, by their paths.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    files: Mutex<HashMap<PathBuf, Arc<Mutex<Vec<u8>>>>>,
    pub(crate) faults: Arc<Faults>,
}

impl Memory {
    pub(crate) fn bytes_of(&self, path: &Path) -> Arc<Mutex<Vec<u8>>> {
        self.files.lock().unwrap().entry(path.to_owned()).or_default().clone()
    }
}

impl Store for Memory {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn PageFile>> {
        fails(&self.faults.opens)?;
        let is_there = self.files.lock().unwrap().contains_key(path);
        if !is_there && !create {
            return Err(io::ErrorKind::NotFound.into());
        }
        let is_read_only = self.faults.is_read_only.load(Relaxed);
        let (bytes, faults) = (self.bytes_of(path), self.faults.clone());
        let told = AtomicU32::new(faults.losses.load(Relaxed));
        Ok(Arc::new(InMemory { bytes, faults, told, is_read_only }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.files.lock().unwrap().remove(path);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let files = self.files.lock().unwrap();
        let inside = files.keys().filter(|path| path.parent() == Some(directory));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_owned())).collect())
    }

    fn sync_name(&self, _path: &Path) -> io::Result<()> {
        self.faults.named.fetch_add(1, Relaxed);
        fails(&self.faults.names)
    }
}

#[derive(Debug)]
struct InMemory {
    bytes: Arc<Mutex<Vec<u8>>>,
    faults: Arc<Faults>,
    /// How many of the losses.
    told: AtomicU32,
    is_read_only: bool,
}

impl PageFile for InMemory {
    fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    unsafe fn read(&self, at: u64, into: NonNull<u8>, len: usize) -> io::Result<usize> {
        self.faults.read(at, len)?;
        let bytes = self.bytes.lock().unwrap();
        let rest = bytes.get(at as usize..).unwrap_or_default();
        let len = len.min(rest.len());
        // SAFETY: good for so many bytes by the caller's promise.
        unsafe { into.as_ptr().copy_from_nonoverlapping(rest.as_ptr(), len) };
        Ok(len)
    }

    unsafe fn read_vectored(&self, at: u64, into: &[NonNull<[u8]>]) -> io::Result<usize> {
        self.faults.read(at, into.iter().map(|place| place.len()).sum())?;
        let bytes = self.bytes.lock().unwrap();
        let rest = bytes.get(at as usize..).unwrap_or_default();
        let at_once = Some(self.faults.at_once.load(Relaxed)).filter(|most| *most > 0);
        let mut rest = &rest[..rest.len().min(at_once.unwrap_or(usize::MAX))];
        let mut have = 0;
        for place in into {
            let (now, later) = rest.split_at(place.len().min(rest.len()));
            // SAFETY: good for so many bytes by the caller's promise.
            unsafe {
                place.cast::<u8>().as_ptr().copy_from_nonoverlapping(now.as_ptr(), now.len())
            };
            (rest, have) = (later, have + now.len());
        }
        Ok(have)
    }

    fn write(&self, at: u64, from: &[u8]) -> io::Result<()> {
        fails(&self.faults.writes)?;
        let mut bytes = self.bytes.lock().unwrap();
        let end = at as usize + from.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[at as usize..end].copy_from_slice(from);
        Ok(())
    }

    fn extend(&self, _from: u64, to: u64) -> io::Result<()> {
        fails(&self.faults.extends)?;
        let mut bytes = self.bytes.lock().unwrap();
        if bytes.len() < to as usize {
            bytes.resize(to as usize, 0);
        }
        Ok(())
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        fails(&self.faults.truncates)?;
        if self.is_read_only {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.bytes.lock().unwrap().truncate(size as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let losses = self.faults.losses.load(Relaxed);
        if self.told.swap(losses, Relaxed) != losses {
            return Err(io::Error::other("some of it was lost"));
        }
        fails(&self.faults.syncs)
    }

    fn write_back(&self, _at: u64, _len: u64) {}

    fn prefetch(&self, at: u64, len: u64) {
        self.faults.hints.lock().unwrap().push((at, len));
    }
}

/// The smallest pool there is: 16 frames, of pages of 1 KiB.
pub(crate) fn small() -> PoolConfig {
    PoolConfig {
        page_bytes: 1024,
        frames: 16,
        frames_max: 24,
        processes: 4,
        sessions: 2,
        files: 4,
        entries: 1024,
        ..PoolConfig::new(1 << 20)
    }
}

pub(crate) fn pool_of(config: &PoolConfig, store: Arc<dyn Store>) -> Pool {
    let mapping = Mapping::heap(Pool::bytes_for(config).unwrap() as usize);
    let options =
        PoolOptions { store, patience: Some(Duration::from_millis(50)), ..PoolOptions::default() };
    Pool::open(&mapping, config, options).unwrap()
}
