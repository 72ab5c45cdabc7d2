//! Telling a pool of a file.
use super::room::first_fit;
use super::shared::{ABSENT, PATH_BYTES_MAX, Row};
use super::word::{Extent, LINE, Span, State};
use super::{FileKey, FileNumber, Files, Registrar};
use shm_core::bytes::relaxed;
use shm_core::process::Forked;
use shm_core::sync::{Ordering, fence};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Why a file was not registered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The key is another file's.
    #[error("{key:?} is {}", path.display())]
    OtherPath {
        /// Which key.
        key: FileKey,
        /// The file's path.
        path: PathBuf,
    },
    /// Nothing, or with a NUL.
    #[error("a path has at least one byte, and no NUL")]
    BadPath,
    /// More than there is room for.
    #[error("the path has {bytes} bytes: at most {max} can be remembered")]
    PathTooLong {
        /// How many it has.
        bytes: usize,
        /// How many it may have.
        max: usize,
    },
    /// No length for a file.
    #[error("a file of {blocks} blocks, at most {blocks_max}: from 1 to 2^32 - 2, and no fewer")]
    BadLength {
        /// How many there are.
        blocks: u32,
        /// How many there may be.
        blocks_max: u32,
    },
    /// There are as many files as there can be.
    #[error("there are {files} files already: drop one, or make room for more")]
    NoRow {
        /// How many.
        files: u32,
    },
    /// The entries are in use.
    #[error("the file needs {wanted} entries in one piece, and there are {free} at most")]
    NoRoom {
        /// How many it needs.
        wanted: u64,
        /// How many are free in one piece.
        free: u64,
    },
    /// The member's process is the caller's parent.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// A file that was registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registered {
    /// Its number.
    pub number: FileNumber,
    /// Somebody had registered it before: its length is what it was.
    pub found: bool,
}

impl Registrar<'_> {
    /// Registers the file at `path`, which has `blocks` blocks and may come to have `blocks_max`:
    /// so many entries are its own from now on, and are looked at. Where the key is known already
    /// it is found, and keeps its length.
    ///
    /// # Errors
    /// [`RegisterError`]; nothing is changed.
    ///
    /// # If a process dies here
    /// The file is registered, or its row is free.
    pub fn register(
        &mut self,
        key: FileKey,
        path: &Path,
        blocks: u32,
        blocks_max: u32,
    ) -> Result<Registered, RegisterError> {
        self.check_fork()?;
        check(path, blocks, blocks_max)?;
        if let Some(number) = self.files.registered(key, path)? {
            return Ok(Registered { number, found: true });
        }
        let (index, span) = self.files.place_for(blocks_max)?;
        Ok(Registered { number: self.files.make(index, span, key, path, blocks), found: false })
    }
}

fn check(path: &Path, blocks: u32, blocks_max: u32) -> Result<(), RegisterError> {
    let (path, max) = (path.as_os_str().as_bytes(), PATH_BYTES_MAX);
    if path.is_empty() || path.contains(&0) {
        return Err(RegisterError::BadPath);
    }
    if path.len() > max {
        return Err(RegisterError::PathTooLong { bytes: path.len(), max });
    }
    // A page of number 2^32 - 1 may be none.
    let is_possible = (1..u32::MAX).contains(&blocks_max) && blocks <= blocks_max;
    if is_possible { Ok(()) } else { Err(RegisterError::BadLength { blocks, blocks_max }) }
}

/// For the registrar: only it writes what it reads here.
impl Files {
    fn registered(&self, key: FileKey, path: &Path) -> Result<Option<FileNumber>, RegisterError> {
        let is_it = |row: &Row| row.extent().is_file() && row.key() == key;
        let Some(index) = self.rows.iter().position(is_it) else { return Ok(None) };
        let known = self.names[index].path();
        if known != path {
            return Err(RegisterError::OtherPath { key, path: known });
        }
        Ok(Some(FileNumber::new(index, self.rows[index].extent().generation())))
    }

    /// A free row, and free entries.
    fn place_for(&self, blocks_max: u32) -> Result<(usize, Span), RegisterError> {
        let is_free = |row: &Row| row.extent().state() == State::Free;
        let no_row = RegisterError::NoRow { files: self.shape().files };
        let index = self.rows.iter().position(is_free).ok_or(no_row)?;
        let taken = self.rows.iter().filter(|row| !is_free(row));
        let taken = taken.map(|row| row.span().lines()).collect();
        let (lines, wanted) = (self.shape().entries / LINE, Span::new(0, blocks_max).lines().end);
        let in_entries = |free| RegisterError::NoRoom { wanted: wanted * LINE, free: free * LINE };
        let first = first_fit(taken, lines, wanted).map_err(in_entries)?;
        Ok((index, Span::new(first as u32, blocks_max)))
    }

    fn make(&self, index: usize, span: Span, key: FileKey, path: &Path, blocks: u32) -> FileNumber {
        let (row, name, path) =
            (&self.rows[index], &self.names[index], path.as_os_str().as_bytes());
        let extent = Extent::file(row.extent().generation(), blocks);
        // Pairs with the fence in `read`: that the row is free before what is written to it.
        fence(Ordering::Release);
        // Relaxed: published by `extent`.
        row.span.store(span.to_bits(), Ordering::Relaxed);
        row.id.store(key.id, Ordering::Relaxed);
        row.fork.store(key.fork.into(), Ordering::Relaxed);
        let serial = self.head.serial.load(Ordering::Relaxed).wrapping_add(1);
        self.head.serial.store(serial, Ordering::Relaxed);
        row.serial.store(serial, Ordering::Relaxed);
        name.bytes.store(path.len() as u64, Ordering::Relaxed);
        relaxed::copy_in(&name.path, 0, path);
        let entries = span.entries();
        for entry in &self.entries[entries.start as usize..entries.end as usize] {
            // Where it is not so somebody wrote that; and else it is not written, which would cost
            // memory.
            if entry.load(Ordering::Relaxed) != ABSENT {
                entry.store(ABSENT, Ordering::Relaxed);
            }
        }
        // Pairs with the Acquire in `look`: the rest of the row, and the entries.
        row.extent.store(extent.to_bits(), Ordering::Release);
        FileNumber::new(index, extent.generation())
    }
}
