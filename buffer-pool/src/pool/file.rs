//! Files: registered, lengthened, cut off, dropped.
use super::PageError;
use super::session::Session;
use super::stats::Count;
use crate::files::{
    Cut, CutError, ExtendError, FileInfo, FileKey, FileNumber, Files, NoSuchFile, RegisterError,
    Registrar, RegistrarError, WaitError,
};
use crate::frames::{Find, PageId};
use crate::store::{PageFile, Store};
use shm_core::process::Forked;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

/// How to register a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileOptions {
    /// Makes it, empty, where there is none; and has its name reach the disk, whoever made it,
    /// before the pool knows it.
    pub create: bool,
    /// The most blocks that it may ever have; where it is `None`, twice as many as it has, and 4096
    /// at least. Each takes a word of the pool's [entries](super::PoolConfig::entries).
    pub blocks_max: Option<u32>,
}

/// So many blocks a file may have at least, where nothing else was said.
const BLOCKS_MAX: u32 = 1 << 12;

/// Why a file was not registered, cut off or dropped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It could not be opened, or measured.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file's.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its name could not be made to last: after a crash of the machine it might be gone.
    #[error("cannot sync the directory of {}: {source}", path.display())]
    Name {
        /// The file's.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is not of whole pages.
    #[error(
        "{} has {len} bytes, which is not a whole number of pages of {page_bytes}",
        path.display()
    )]
    Ragged {
        /// The file's.
        path: PathBuf,
        /// Its bytes.
        len: u64,
        /// Bytes of a page.
        page_bytes: u32,
    },
    /// It has too many.
    #[error("{} has {blocks} blocks, and a file may have 2^32 - 2", path.display())]
    TooLong {
        /// The file's.
        path: PathBuf,
        /// Its blocks.
        blocks: u64,
    },
    /// It is known under another key: two would have a cache of it each.
    #[error("{} is registered as {key:?} already", path.display())]
    OtherKey {
        /// The file's.
        path: PathBuf,
        /// Its key.
        key: FileKey,
    },
    /// It has no place in the pool.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// Nobody else was done with registering, forgetting or cutting off files.
    #[error(transparent)]
    Registrar(#[from] RegistrarError),
    /// It cannot be longer.
    #[error(transparent)]
    Extend(#[from] ExtendError),
    /// It cannot be cut off so.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// There is none of this number (any more).
    #[error(transparent)]
    NoSuchFile(#[from] NoSuchFile),
    /// Its pages could not be thrown out.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The pool is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// A file that is open. A number comes round, a serial does not.
#[derive(Clone, Debug)]
struct Open {
    serial: u64,
    file: Arc<dyn PageFile>,
    /// One syncs it at a time: the system tells of an error once.
    syncing: Arc<Mutex<()>>,
}

/// The files that this process has open. Those that were forgotten stay open until another one is
/// opened.
#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    by_number: RwLock<HashMap<u32, Open>>,
    /// Those that could not be synced, and of which not all pages are dirty again.
    unsynced: Mutex<HashSet<u32>>,
}

impl OpenFiles {
    pub(super) fn get(
        &self,
        files: &Files,
        number: FileNumber,
        store: &dyn Store,
    ) -> Result<Arc<dyn PageFile>, PageError> {
        Ok(self.find(files, number, store)?.file)
    }

    fn find(
        &self,
        files: &Files,
        number: FileNumber,
        store: &dyn Store,
    ) -> Result<Open, PageError> {
        let serial = files.serial(number).ok_or(PageError::NoSuchFile(number))?;
        let open = self.by_number.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.get(&number.to_bits()).filter(|open| open.serial == serial) {
            return Ok(open.clone());
        }
        drop(open);
        let info = files.info(number).ok_or(PageError::NoSuchFile(number))?;
        let file = store.open(&info.path, false);
        let file = file.map_err(|source| PageError::Open { path: info.path, source })?;
        self.put(files, number, file);
        let open = self.by_number.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&number.to_bits()).cloned().ok_or(PageError::NoSuchFile(number))
    }

    /// Has all of a file reach the disk; and how often somebody could not by then. Where that was
    /// not `failures` times, this one could not either: the system may have told the other alone.
    pub(super) fn sync(
        &self,
        files: &Files,
        number: FileNumber,
        store: &dyn Store,
        failures: u64,
    ) -> Result<(io::Result<()>, u64), PageError> {
        let Open { file, syncing, .. } = self.find(files, number, store)?;
        let _alone = syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let synced = file.sync();
        if synced.is_err() {
            files.sync_failed(number);
        }
        let by_now = files.sync_failures(number);
        let is_lost = synced.is_ok() && by_now != failures;
        let lost = || Err(io::Error::other("another one could not sync it meanwhile"));
        Ok((if is_lost { lost() } else { synced }, by_now))
    }

    pub(super) fn is_unsynced(&self, number: FileNumber) -> bool {
        let unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        unsynced.contains(&number.to_bits())
    }

    pub(super) fn set_unsynced(&self, number: FileNumber, is_unsynced: bool) {
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        if is_unsynced {
            unsynced.insert(number.to_bits());
        } else {
            unsynced.remove(&number.to_bits());
        }
    }

    /// Keeps it, and lets go of those whose numbers are nobody's any more. Of one that is open
    /// already the old descriptor stays, for it is told of what was lost since; but where that
    /// could not write.
    fn put(&self, files: &Files, number: FileNumber, file: Arc<dyn PageFile>) {
        let mut open = self.by_number.write().unwrap_or_else(PoisonError::into_inner);
        open.retain(|number, open| {
            files.serial(FileNumber::from_bits(*number)) == Some(open.serial)
        });
        let Some(serial) = files.serial(number) else { return };
        match open.get_mut(&number.to_bits()) {
            Some(open) if open.file.is_read_only() => open.file = file,
            Some(_) => {}
            None => {
                _ = {
                    let syncing = Arc::default();
                    open.insert(number.to_bits(), Open { serial, file, syncing })
                }
            }
        }
    }
}

impl Session {
    /// Makes a file known to the pool, under `key`: for all processes, which open it by the same
    /// path. Where it is known already, its number.
    ///
    /// While the pool has it nobody else writes it.
    ///
    /// # Errors
    /// [`FileError`].
    ///
    /// # If a process dies here
    /// It is known or it is not; in the second case it may have been made.
    pub fn register(
        &self,
        key: FileKey,
        path: &Path,
        options: &FileOptions,
    ) -> Result<FileNumber, FileError> {
        let inner = &*self.inner;
        let mut registrar = self.registrar(|cut| cut.is_drop())?;
        let open = |source| FileError::Open { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(open)?;
        let known = inner.files.list();
        if let Some(info) = known.iter().find(|info| info.path == path && info.key != key) {
            return Err(FileError::OtherKey { path, key: info.key });
        }
        if let Some(info) = known.into_iter().find(|info| info.key == key) {
            if info.path != path {
                return Err(RegisterError::OtherPath { key, path: info.path }.into());
            }
            // Its length is what the pool says; somebody may be making it longer.
            let file = inner.options.store.open(&path, false).map_err(open)?;
            inner.open_files.put(&inner.files, info.number, file);
            return Ok(info.number);
        }
        let file = inner.options.store.open(&path, options.create).map_err(open)?;
        let len = file.size().map_err(open)?;
        let page_bytes = inner.config.page_bytes;
        if len % u64::from(page_bytes) != 0 {
            return Err(FileError::Ragged { path, len, page_bytes });
        }
        let blocks = len / u64::from(page_bytes);
        let Some(blocks) = u32::try_from(blocks).ok().filter(|blocks| *blocks < u32::MAX) else {
            return Err(FileError::TooLong { path, blocks });
        };
        // One that died just here may have made it; nobody makes what may only be read.
        if options.create && !file.is_read_only() {
            let synced = inner.options.store.sync_name(&path);
            synced.map_err(|source| FileError::Name { path: path.clone(), source })?;
        }
        let likely = blocks.saturating_mul(2).clamp(BLOCKS_MAX, u32::MAX - 1);
        let blocks_max = options.blocks_max.unwrap_or(likely);
        let number = registrar.register(key, &path, blocks, blocks_max)?.number;
        inner.open_files.put(&inner.files, number, file);
        Ok(number)
    }

    /// Makes a file `count` blocks longer, all zero; the first of them.
    ///
    /// # Errors
    /// [`FileError::Extend`], [`PageError::File`], [`PageError::ReadOnly`]: it is as long as
    /// before.
    ///
    /// # If a process dies here
    /// It is longer or it is not; in the second case there may be zeroes behind its end.
    pub fn extend(&self, file: FileNumber, count: u32) -> Result<u32, FileError> {
        let inner = &*self.inner;
        inner.check_fork()?;
        let open = inner.open_file(file)?;
        if open.is_read_only() {
            return Err(PageError::ReadOnly(self.path_of(file)).into());
        }
        let bytes = |blocks: u32| u64::from(blocks) * u64::from(inner.config.page_bytes);
        let lengthen = |from, to| {
            open.extend(bytes(from), bytes(to)).map_err(|source| PageError::File {
                path: self.path_of(file),
                what: "lengthen",
                source,
            })
        };
        loop {
            let from = inner.files.end(file)?;
            let FileInfo { blocks_max, .. } = inner.files.info(file).ok_or(NoSuchFile(file))?;
            let to = from.blocks.saturating_add(count);
            if to > blocks_max {
                return Err(ExtendError::TooLong { blocks_max }.into());
            }
            if let Err(error) = lengthen(from.blocks, to) {
                // The system may have got half-way: it is the first error that is told.
                let _ = self.cut_off_rest(file);
                return Err(error.into());
            }
            match inner.files.extend(file, from, to) {
                Ok(()) => {
                    self.tally.add(Count::Extended, count.into());
                    return Ok(from.blocks);
                }
                Err(ExtendError::End { .. }) => {}
                Err(ExtendError::Shrinking { .. }) => self.wait_for_cut(file)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Has the file itself be as long as the pool says. Whoever extends it meanwhile begins anew.
    fn cut_off_rest(&self, file: FileNumber) -> Result<(), FileError> {
        let mut registrar = self.registrar(|_| false)?;
        let mut length = self.inner.files.length(file)?;
        loop {
            match registrar.shrink(file, length) {
                Ok(cut) => return self.finish(cut),
                // Others have cut it off since.
                Err(CutError::Length { now }) if now < length => length = now,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait_for_cut(&self, file: FileNumber) -> Result<(), FileError> {
        let inner = &*self.inner;
        match inner.files.wait_shrinking(file, &inner.member, inner.deadline()) {
            Ok(()) => Ok(()),
            Err(WaitError::Unfinished) => self.registrar(|cut| cut.number() == file).map(drop),
            Err(WaitError::TimedOut) => Err(PageError::TimedOut.into()),
            Err(WaitError::NoSuchFile(gone)) => Err(gone.into()),
            Err(WaitError::Forked(forked)) => Err(forked.into()),
        }
    }

    /// Cuts a file off behind its first `blocks` blocks: its pages behind that are thrown out, and
    /// what was changed in them is gone.
    ///
    /// # Errors
    /// [`FileError`]. [`PageError::InUse`] where somebody has one of these pages for longer than
    /// this process is [patient](super::PoolOptions::patience), or for a second: for all who look
    /// the file is short already, and whoever registers, forgets or cuts off a file next goes on.
    ///
    /// # If a process dies here
    /// The same.
    pub fn truncate(&self, file: FileNumber, blocks: u32) -> Result<(), FileError> {
        self.inner.check_fork()?;
        // Else the pool would have cut it off, and the file not.
        if self.inner.open_file(file)?.is_read_only() {
            return Err(PageError::ReadOnly(self.path_of(file)).into());
        }
        let mut registrar = self.registrar(|cut| cut.number() == file)?;
        let cut = registrar.shrink(file, blocks)?;
        self.finish(cut)
    }

    /// Has the pool forget a file: its pages are thrown out, and what was changed in them and not
    /// [flushed](Session::flush) is gone. The file itself stays.
    ///
    /// # Errors
    /// As in [`truncate`](Session::truncate).
    ///
    /// # If a process dies here
    /// As in [`truncate`](Session::truncate).
    pub fn forget(&self, file: FileNumber) -> Result<(), FileError> {
        let mut registrar = self.registrar(|cut| cut.number() == file && cut.is_drop())?;
        let cut = registrar.drop_file(file)?;
        self.finish(cut)
    }

    /// The right to register files and to cut them off. Whoever has it first finishes what others
    /// have begun. What cannot be finished is left to the next one, and hinders the caller only
    /// where it `matters`: a file that is dropped does to who registers, for it may be the same.
    pub(super) fn registrar(
        &self,
        matters: impl Fn(&Cut<'_>) -> bool,
    ) -> Result<Registrar<'_>, FileError> {
        let inner = &*self.inner;
        let mut registrar = inner.files.registrar(&inner.member, inner.deadline())?;
        for cut in registrar.unfinished() {
            let matters = matters(&cut);
            match self.finish(cut) {
                Err(error) if matters => return Err(error),
                _ => {}
            }
        }
        Ok(registrar)
    }

    /// Throws out the pages that go, and cuts the file itself off.
    fn finish(&self, cut: Cut<'_>) -> Result<(), FileError> {
        let file = cut.number();
        let deadline = self.inner.deadline_of_users();
        let goes = |page: PageId| {
            FileNumber::of(page) == file && (cut.is_drop() || cut.blocks().contains(&page.block()))
        };
        // Who loads one from now on is told that there is no such page.
        for frame in 0..self.user.frames().count() {
            while self.user.frames().is_about(frame, goes) {
                self.wait_a_moment(file, deadline)?;
            }
        }
        for block in cut.blocks() {
            self.throw_out(file, block, deadline)?;
        }
        if !cut.is_drop() {
            let bytes = u64::from(cut.blocks().start) * u64::from(self.inner.config.page_bytes);
            self.inner.open_file(file)?.truncate(bytes).map_err(|source| PageError::File {
                path: self.path_of(file),
                what: "cut off",
                source,
            })?;
        }
        Ok(cut.done()?)
    }

    /// Has one page in no frame, and not in its file.
    fn throw_out(
        &self,
        file: FileNumber,
        block: u32,
        deadline: Option<Instant>,
    ) -> Result<(), FileError> {
        let Some(page) = file.page(block) else { return Ok(()) };
        let mut was_asked = false;
        loop {
            let frame = match self.user.find(page).map_err(PageError::from)? {
                Find::Absent => return Ok(()),
                Find::Pinned(pin) => pin.frame(),
                Find::Loading { frame } => {
                    drop(self.user.take_over(page, frame).map_err(PageError::from)?);
                    frame
                }
            };
            // Somebody has it; or its frame says that it has another page, which is a lie.
            if was_asked {
                was_asked = false;
                self.wait_a_moment(file, deadline)?;
                continue;
            }
            was_asked = true;
            if let Some(free) = self.take_frame(frame, |_, found| found == page)? {
                self.give_back(free);
            }
        }
    }

    /// For who has the frame, or its page.
    fn wait_a_moment(&self, file: FileNumber, deadline: Option<Instant>) -> Result<(), FileError> {
        match self.has_moments_left(deadline) {
            true => Ok(()),
            false => Err(PageError::InUse(self.path_of(file)).into()),
        }
    }
}
