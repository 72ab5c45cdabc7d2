//! Pages of the two files, and who gives them.
use crate::error::Error;
use crate::format::{Nonsense, PAGE_BYTES, Page};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// One of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum File {
    Accounts,
    Pkey,
}

impl File {
    /// Both; each is at its own number.
    pub(crate) const ALL: [File; 2] = [File::Accounts, File::Pkey];

    /// Its name in the directory, and in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            File::Accounts => "accounts",
            File::Pkey => "accounts_pkey",
        }
    }

    /// Its place in [`ALL`](File::ALL).
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageId {
    pub(crate) file: File,
    pub(crate) block: u32,
}

impl PageId {
    /// What is wrong with this page.
    pub(crate) fn damaged(self, problem: Nonsense) -> Error {
        Error::Damaged { page: self, problem }
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} of {}", self.block, self.file.name())
    }
}

/// Pages that a client has used, and those that it found in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) accesses: u64,
    pub(crate) hits: u64,
}

/// Who gives pages to a client.
pub(crate) trait Pages {
    /// Uses a page once, and shows it to `look`.
    fn read<R>(&mut self, page: PageId, look: impl FnOnce(&Page) -> R) -> Result<R, Error>;

    /// What was used so far.
    fn counts(&self) -> Counts;
}

/// Pages from the files themselves: each is read each time.
pub(crate) struct Preads {
    files: [fs::File; 2],
    page: Box<Page>,
    accesses: u64,
}

impl Preads {
    pub(crate) fn open(directory: &Path) -> Result<Preads, Error> {
        let open = |file: File| {
            let path = directory.join(file.name());
            fs::File::open(&path).map_err(|problem| Error::File { path, problem })
        };
        let files = [open(File::Accounts)?, open(File::Pkey)?];
        Ok(Preads { files, page: Box::new([0; PAGE_BYTES]), accesses: 0 })
    }

    /// Bytes of a file.
    pub(crate) fn len(&self, file: File) -> io::Result<u64> {
        Ok(self.files[file.index()].metadata()?.len())
    }
}

impl Pages for Preads {
    fn read<R>(&mut self, page: PageId, look: impl FnOnce(&Page) -> R) -> Result<R, Error> {
        let at = u64::from(page.block) * PAGE_BYTES as u64;
        let done = self.files[page.file.index()].read_exact_at(&mut self.page[..], at);
        done.map_err(|problem| Error::Unreadable { page, problem })?;
        self.accesses += 1;
        Ok(look(&self.page))
    }

    fn counts(&self) -> Counts {
        Counts { accesses: self.accesses, hits: 0 }
    }
}
