//! A store that loses power: for tests of programs that rely on what is durable.
//!
//! What is done to its files can be seen at once, by all processes, and is on the disk when it was
//! synced. [`SimDisk::lose_power`] leaves what was on the disk, and of the rest what chance has it:
//! each sector, each file's length and each name for itself. So writes are torn and come in any
//! order, as they do where a machine stops.
//!
//! Any process may be killed at any instruction, also within a call: what it called is then done or
//! not, and of a call that lengthens a file and writes it is also done the first. The others go on.
//!
//! ```text
//!   names                              one text: the durable names, and what became of them since
//!   7.shown   7.disk   7.journal       file number 7: what can be seen, what was synced, and the
//!                                      sectors that were written since
//!   state                              counts; who has it locked has all of the above
//! ```
//!
//! All are plain files of one directory (in memory best: nothing is ever really synced). The lock
//! is the kernel's, which takes it back where its holder dies. It is of a descriptor that each call
//! opens, so that a fork shares it with nobody. But who forks while another thread of it is in a
//! call, and is killed then, leaves the lock to its child.

// What can be told to fail.
mod fault;

// Numbers by chance, and what chance leaves.
mod chance;

// The lock, and the counts under it.
mod state;

// Which names there are, and which are durable.
mod names;

// One file: what can be seen, what is on the disk, and the journal between them.
mod image;

// A file, opened.
mod file;

#[cfg(test)]
mod tests;

pub use chance::Loss;
pub use fault::{Call, Failure, Fault, When};
pub use state::Stopped;

use super::{PageFile, Store};
use chance::Chance;
use file::SimFile;
use image::Image;
use names::{Change, Names};
use state::Locked;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

/// How a [`SimDisk`] is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimOptions {
    /// Bytes of a sector, which is written wholly or not at all.
    pub sector_bytes: u64,
    /// What fails, the first that applies to a call.
    pub faults: Vec<Fault>,
    /// Whether what was synced is no more durable than before. A test that does not find this does
    /// not find anything.
    pub lies: bool,
    /// Stops the world at this one of the [changes](SimDisk::changes): it is not done, and all that
    /// anybody calls from then on fails with [`Stopped`], until power was lost.
    pub stop_at: Option<u64>,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions { sector_bytes: 512, faults: Vec::new(), lies: false, stop_at: None }
    }
}

/// A disk that is not there when power is lost, but for what was synced. All processes that have
/// the directory have the same one, each with faults of its own.
///
/// Paths are compared as they are written, and every directory is there. A file has 4 GiB at most,
/// and one that was removed takes its room until power is lost.
///
/// ```
/// use buffer_pool::store::Store;
/// use buffer_pool::store::sim::{Loss, SimDisk, SimOptions};
/// use std::path::Path;
///
/// let dir = tempfile::tempdir()?;
/// let disk = SimDisk::new(dir.path(), SimOptions::default())?;
/// let file = disk.open(Path::new("/file"), true)?;
/// disk.sync_name(Path::new("/file"))?;
/// file.write(0, b"this")?;
/// file.sync()?;
/// file.write(0, b"that")?;
/// disk.lose_power(Loss::All)?;
/// assert_eq!(disk.bytes_of(Path::new("/file"))?, b"this");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SimDisk {
    dir: PathBuf,
    options: Arc<SimOptions>,
}

impl SimDisk {
    /// The disk in directory `dir`, which is made where it is not there.
    ///
    /// # Errors
    /// Those of the system. `InvalidInput` where the disk was made with sectors of another size, or
    /// that is no power of two.
    pub fn new(dir: &Path, options: SimOptions) -> io::Result<SimDisk> {
        fs::create_dir_all(dir)?;
        let disk = SimDisk { dir: dir.to_owned(), options: Arc::new(options) };
        disk.lock()?.has_sectors_of(disk.options.sector_bytes)?;
        Ok(disk)
    }

    /// How many calls so far would have changed something, since power was lost: the next one is
    /// number so many, of all processes'.
    ///
    /// # Errors
    /// Those of the system.
    pub fn changes(&self) -> io::Result<u64> {
        Ok(self.lock()?.changes())
    }

    /// How many calls of this kind there were, since power was lost, of all processes'.
    ///
    /// # Errors
    /// Those of the system.
    pub fn calls(&self, call: Call) -> io::Result<u64> {
        Ok(self.lock()?.calls(call))
    }

    /// Leaves what was durable, and of what was not as `loss` says; the same loss of the same state
    /// leaves the same. Nobody uses it meanwhile, and files that are open fail (`ESTALE`).
    ///
    /// # Errors
    /// Those of the system; it is to be called again then.
    pub fn lose_power(&self, loss: Loss) -> io::Result<()> {
        let mut locked = self.lock()?;
        let mut names = Names::read(&self.dir)?;
        let mut pending = names.pending();
        for file in names.files() {
            pending.extend(self.image(file)?.pending()?);
        }
        pending.sort_unstable();
        names.settle(&mut Chance::new(loss, 0, &pending));
        names.write(&self.dir)?;
        let left = names.files();
        for file in &left {
            let image = self.image(*file)?;
            image.settle(&mut Chance::new(loss, *file, &pending))?;
            image.show_disk()?;
        }
        for file in self.numbers()?.difference(&left) {
            Image::remove(&self.dir, *file)?;
        }
        locked.begin_anew()
    }

    /// Turns over one bit of the byte at `at`, on the disk; whoever reads it sees that where
    /// nothing was written there that is not durable yet.
    ///
    /// # Errors
    /// Those of the system. `InvalidInput` where the file on the disk has no such byte.
    pub fn flip(&self, path: &Path, at: u64, bit: u32) -> io::Result<()> {
        let _locked = self.lock()?;
        self.image(self.number_of(path)?)?.flip(at, bit)
    }

    /// What can be seen of a file. Counts as no call, and cannot be stopped.
    ///
    /// # Errors
    /// Those of the system.
    pub fn bytes_of(&self, path: &Path) -> io::Result<Vec<u8>> {
        let _locked = self.lock()?;
        self.image(self.number_of(path)?)?.bytes()
    }

    fn lock(&self) -> io::Result<Locked> {
        Locked::new(&self.dir)
    }

    fn image(&self, file: u64) -> io::Result<Image> {
        Image::open(&self.dir, file, self.options.sector_bytes)
    }

    fn number_of(&self, path: &Path) -> io::Result<u64> {
        let shown = Names::read(&self.dir)?.shown();
        shown.get(path).copied().ok_or(io::ErrorKind::NotFound.into())
    }

    /// Of all files, also those that have no name any more, or not yet.
    fn numbers(&self) -> io::Result<BTreeSet<u64>> {
        let mut numbers = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".journal"));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        Ok(numbers)
    }

    /// Makes a change of names, which fails where it is told to.
    fn change(&self, call: Call, change: impl FnOnce(u64) -> Change) -> io::Result<()> {
        let mut locked = self.lock()?;
        let fault = locked.enter(call, &self.options)?;
        let serial = locked.change(&self.options)?;
        fault.map_or(Ok(()), |fault| Err(fault.error()))?;
        let mut names = Names::read(&self.dir)?;
        names.change(change(serial))?;
        names.write(&self.dir)
    }
}

impl Store for SimDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn PageFile>> {
        let mut locked = self.lock()?;
        let fault = locked.enter(Call::Open, &self.options)?;
        fault.map_or(Ok(()), |fault| Err(fault.error()))?;
        let file = match self.number_of(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                let serial = locked.change(&self.options)?;
                let file = locked.next_file()?;
                Image::make(&self.dir, file)?;
                let mut names = Names::read(&self.dir)?;
                names.change(Change::Make { serial, file, path: path.to_owned() })?;
                names.write(&self.dir)?;
                file
            }
            number => number?,
        };
        let image = self.image(file)?;
        Ok(Arc::new(SimFile::new(self.clone(), image, locked.age())))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(Call::Remove, |serial| Change::Remove { serial, path: path.to_owned() })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let [from, to] = [from, to].map(Path::to_owned);
        self.change(Call::Rename, |serial| Change::Rename { serial, from, to })
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let mut locked = self.lock()?;
        let fault = locked.enter(Call::List, &self.options)?;
        fault.map_or(Ok(()), |fault| Err(fault.error()))?;
        let shown = Names::read(&self.dir)?.shown();
        let inside = shown.into_keys().filter(|path| path.parent() == Some(directory));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_owned())).collect())
    }

    fn sync_name(&self, path: &Path) -> io::Result<()> {
        let mut locked = self.lock()?;
        let fault = locked.enter(Call::SyncName, &self.options)?;
        locked.change(&self.options)?;
        fault.map_or(Ok(()), |fault| Err(fault.error()))?;
        if self.options.lies {
            return Ok(());
        }
        let mut names = Names::read(&self.dir)?;
        names.sync(path.parent());
        names.write(&self.dir)
    }
}
