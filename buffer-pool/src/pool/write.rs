//! Writing pages to their files.
use super::PageError;
use super::session::{PageBuffer, Session};
use super::stats::Count;
use crate::checksum;
use crate::files::FileNumber;
use crate::frames::{Find, PageId};
use crate::pages::ShareExclusive;
use std::path::PathBuf;

impl Session {
    /// Writes the dirty pages of `file` to it, in the order of their blocks; how many they were.
    /// What was changed before the call is in the file when it returns: with the system, that is,
    /// and not on the disk yet: see [`sync`](Session::sync).
    ///
    /// # Errors
    /// The first [`PageError`]; the others were tried, and what was not written is dirty still.
    ///
    /// # If a process dies here
    /// Some pages are written; the rest is dirty still.
    pub fn flush(&self, file: FileNumber) -> Result<u64, PageError> {
        self.inner.check_fork()?;
        self.inner.files.length(file).map_err(|_| PageError::NoSuchFile(file))?;
        let (mut written, mut failed) = (0, None);
        for block in self.dirty_blocks(file) {
            match self.flush_block(file, block) {
                Ok(was_dirty) => written += u64::from(was_dirty),
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
        failed.map_or(Ok(written), Err)
    }

    /// As [`flush`](Session::flush); and all that was ever written to the file is on the disk when
    /// it returns, whoever wrote it.
    ///
    /// # Errors
    /// Those of [`flush`](Session::flush). [`PageError::File`] where the system could not write
    /// what it had: the pages of the file that are in the pool are dirty again, and what is not may
    /// be lost.
    ///
    /// # If a process dies here
    /// As in [`flush`](Session::flush).
    pub fn sync(&self, file: FileNumber) -> Result<u64, PageError> {
        let unsynced = &self.inner.open_files;
        if unsynced.is_unsynced(file) {
            // It failed, and not all pages could be marked then.
            self.dirty_again(file)?;
            unsynced.set_unsynced(file, false);
        }
        let failures = self.failures_before(file);
        let written = self.flush(file)?;
        self.count(Count::Syncs);
        let (files, store) = (&self.inner.files, &*self.inner.options.store);
        let (synced, failures) = unsynced.sync(files, file, store, failures)?;
        self.was_told(file, failures);
        if let Err(source) = synced {
            let is_marked = self.dirty_again(file).is_ok();
            unsynced.set_unsynced(file, !is_marked);
            return Err(PageError::File { path: self.path_of(file), what: "sync", source });
        }
        Ok(written)
    }

    /// The blocks of a file whose pages are dirty, in order.
    fn dirty_blocks(&self, file: FileNumber) -> Vec<u32> {
        let (frames, pages) = (self.user.frames(), &self.inner.pages);
        let dirty = (0..frames.count()).filter(|frame| pages.is_dirty(*frame));
        let of_file = dirty.filter_map(|frame| frames.page_in(frame));
        let of_file = of_file.filter(|page| FileNumber::of(*page) == file);
        let mut blocks: Vec<u32> = of_file.map(PageId::block).collect();
        blocks.sort_unstable();
        blocks
    }

    /// Writes one page, where it is in the pool and dirty: whether it was.
    fn flush_block(&self, file: FileNumber, block: u32) -> Result<bool, PageError> {
        let Some(page) = file.page(block) else { return Ok(false) };
        let deadline = self.inner.deadline();
        loop {
            match self.find(page)? {
                Find::Pinned(pin) => {
                    let held = self.pages.share_exclusive(pin.frame(), deadline)?;
                    return self.write_out(held, page, &mut self.reserve().page);
                }
                // Who reads it in may have thrown it out before, and not have written it yet.
                Find::Loading { frame } => {
                    // Of a dead one, who was about to read it: then it is in no frame.
                    if self.user.take_over(page, frame)?.is_none() {
                        self.user.wait(frame, deadline)?;
                    }
                }
                Find::Absent => return Ok(false),
            }
        }
    }

    /// For who throws a page out: whether its file has it. What hinders the writing is left in
    /// `failed`.
    pub(super) fn is_written(
        &self,
        frame: u32,
        page: PageId,
        buffer: &mut PageBuffer,
        failed: &mut Option<PageError>,
    ) -> bool {
        // Nobody has it pinned: so nobody changes it, and what was changed is seen.
        if !self.inner.pages.is_dirty(frame) {
            return true;
        }
        let written = match self.pages.try_share_exclusive(frame) {
            Ok(Some(held)) => self.write_out(held, page, buffer),
            Ok(None) => return false,
            Err(error) => Err(error.into()),
        };
        match written {
            // Nobody wants it any more.
            Ok(_) | Err(PageError::NoSuchFile(_)) => true,
            Err(error) => {
                *failed = Some(error);
                false
            }
        }
    }

    /// Writes the page to its file, where it is dirty: whether it was.
    pub(super) fn write_out(
        &self,
        mut held: ShareExclusive<'_>,
        page: PageId,
        buffer: &mut PageBuffer,
    ) -> Result<bool, PageError> {
        if !held.is_dirty() {
            return Ok(false);
        }
        let written = self.write_to_file(&held, page, buffer.bytes());
        self.count(if written.is_ok() { Count::Writes } else { Count::WriteErrors });
        written?;
        held.mark_clean()?;
        Ok(true)
    }

    fn write_to_file(
        &self,
        held: &ShareExclusive<'_>,
        page: PageId,
        bytes: &mut [u8],
    ) -> Result<(), PageError> {
        let (number, block) = (FileNumber::of(page), page.block());
        let file = self.inner.open_file(number)?;
        if file.is_read_only() {
            return Err(PageError::ReadOnly(self.path_of(number)));
        }
        held.copy_out(0, bytes);
        checksum::seal(block, bytes);
        let written = file.write(u64::from(block) * bytes.len() as u64, bytes);
        written.map_err(|source| PageError::Write { path: self.path_of(number), block, source })
    }

    /// Marks all pages of a file that are in the pool. Some may be marked where it fails.
    fn dirty_again(&self, file: FileNumber) -> Result<(), PageError> {
        let frames = self.user.frames();
        let of_file = |page: &PageId| FileNumber::of(*page) == file;
        for page in (0..frames.count()).filter_map(|frame| frames.page_in(frame)).filter(of_file) {
            if let Find::Pinned(pin) = self.find(page)? {
                let deadline = self.inner.deadline();
                self.pages.share_exclusive(pin.frame(), deadline)?.mark_dirty()?;
            }
        }
        Ok(())
    }

    pub(super) fn path_of(&self, file: FileNumber) -> PathBuf {
        self.inner.files.info(file).map(|info| info.path).unwrap_or_default()
    }
}
