//! What there is: found without a lock.
use super::shared::{Name, PATH_BYTES_MAX, Row};
use super::word::{Extent, Span};
use super::{FileNumber, Files};
use crate::frames::PageId;
use shm_core::bytes::relaxed;
use shm_core::event::announced;
use shm_core::sync::{Ordering, fence};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// What users call a file. Who registers the same key means the same file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileKey {
    /// Which relation, say.
    pub id: u64,
    /// Which of its files.
    pub fork: u8,
}

/// A file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// Its number.
    pub number: FileNumber,
    /// What users call it.
    pub key: FileKey,
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub blocks: u32,
    /// The most it can have.
    pub blocks_max: u32,
}

/// There is no file of this number (any more).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no file of number {:#x}: look for it by its key", .0.to_bits())]
pub struct NoSuchFile(pub FileNumber);

impl Files {
    /// The file that users call so. Looks at every row.
    pub fn find(&self, key: FileKey) -> Option<FileNumber> {
        (0..self.rows.len()).find_map(|index| {
            let (number, found) = self.read(index, |row, _, _| row.key())?;
            (found == key).then_some(number)
        })
    }

    /// What is known of a file.
    pub fn info(&self, number: FileNumber) -> Option<FileInfo> {
        self.info_at(number.row()).filter(|info| info.number == number)
    }

    /// All files. Others register and drop some meanwhile.
    pub fn list(&self) -> Vec<FileInfo> {
        (0..self.rows.len()).filter_map(|index| self.info_at(index)).collect()
    }

    /// How many blocks a file has.
    ///
    /// # Errors
    /// [`NoSuchFile`]; also while it is being dropped.
    #[inline]
    pub fn length(&self, number: FileNumber) -> Result<u32, NoSuchFile> {
        Ok(self.end(number)?.blocks)
    }

    /// Which file it is of all that were ever registered: a number that comes round is another
    /// file's then. `None` where there is no such file.
    pub fn serial(&self, number: FileNumber) -> Option<u64> {
        let (found, serial) =
            self.read(number.row(), |row, _, _| row.serial.load(Ordering::Relaxed))?;
        (found == number).then_some(serial)
    }

    /// How often somebody could not sync the file.
    pub fn sync_failures(&self, number: FileNumber) -> u64 {
        self.look(number).map_or(0, |(row, _)| row.sync_failures.load(Ordering::Relaxed))
    }

    /// The caller could not sync the file.
    ///
    /// # If a process dies here
    /// It counts or it does not.
    pub fn sync_failed(&self, number: FileNumber) {
        if let Some((row, _)) = self.look(number) {
            row.sync_failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a page is within the length of its file.
    ///
    /// Who has found and pinned a page asks afterwards: an entry that it had asked for before may
    /// be another file's by then, whose page it has pinned.
    #[inline]
    pub fn contains(&self, page: PageId) -> bool {
        self.rows.get(FileNumber::of(page).row()).is_some_and(|row| row.has(page))
    }

    /// Whether a page may be loaded. Who loads it asks twice: when the frame that it has claimed
    /// says which page it is to have, before it makes the entry LOADING; and then, before it reads
    /// a byte. Where it may not, the entry is made ABSENT again.
    ///
    /// As [`contains`](Files::contains), and whoever cuts the file from now on sees what the caller
    /// has written.
    pub fn admits(&self, page: PageId) -> bool {
        // Pairs with the fence in `cut`: the frame, or the entry, before the length.
        announced();
        self.contains(page)
    }

    /// The row of a file, which may be dropped by now.
    #[inline]
    pub(super) fn look(&self, number: FileNumber) -> Option<(&Row, Extent)> {
        let row = self.rows.get(number.row())?;
        let extent = row.look();
        extent.is_of(number).then_some((row, extent))
    }

    fn info_at(&self, index: usize) -> Option<FileInfo> {
        let (number, info) = self.read(index, |row, name, extent| {
            (row.key(), name.path(), extent.blocks(), row.span().blocks_max())
        })?;
        let (key, path, blocks, blocks_max) = info;
        Some(FileInfo { number, key, path, blocks, blocks_max })
    }

    /// What `read` reads in the row of a file, whose row it is all the time.
    pub(super) fn read<R>(
        &self,
        index: usize,
        read: impl FnOnce(&Row, &Name, Extent) -> R,
    ) -> Option<(FileNumber, R)> {
        let (row, name) = (self.rows.get(index)?, self.names.get(index)?);
        let extent = row.look();
        if !extent.is_file() {
            return None;
        }
        let number = FileNumber::new(index, extent.generation());
        let read = read(row, name, extent);
        // Pairs with the fence in `register`: who has read a word of another file's sees that this
        // one is gone.
        fence(Ordering::Acquire);
        row.extent().is_of(number).then_some((number, read))
    }
}

impl Row {
    #[inline]
    pub(super) fn look(&self) -> Extent {
        // Pairs with the Releases in `register`, `extend` and `done`: the rest of the row, the
        // entries, and the file.
        Extent::from_bits(self.extent.load(Ordering::Acquire))
    }

    /// Whether it is the row of the page's file, and that has the block.
    #[inline]
    fn has(&self, page: PageId) -> bool {
        let extent = self.look();
        extent.is_file_of(FileNumber::of(page)) && page.block() < extent.blocks()
    }

    pub(super) fn extent(&self) -> Extent {
        // Relaxed: for who has fenced, has the registrar's right, or only compares.
        Extent::from_bits(self.extent.load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn span(&self) -> Span {
        // Relaxed: `extent` was looked at, or will be once more.
        Span::from_bits(self.span.load(Ordering::Relaxed))
    }

    pub(super) fn key(&self) -> FileKey {
        // Relaxed: as above.
        let fork = self.fork.load(Ordering::Relaxed) as u8;
        FileKey { id: self.id.load(Ordering::Relaxed), fork }
    }
}

impl Name {
    pub(super) fn path(&self) -> PathBuf {
        // Relaxed: as above.
        let bytes = self.bytes.load(Ordering::Relaxed).min(PATH_BYTES_MAX as u64);
        let mut path = vec![0; bytes as usize];
        relaxed::copy_out(&self.path, 0, &mut path);
        PathBuf::from(OsString::from_vec(path))
    }
}
