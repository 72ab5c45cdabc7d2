//! The lock, and the counts under it.
use super::SimOptions;
use super::fault::{Call, Fault};
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The world was stopped at a [change](super::SimDisk::changes), as it was told to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the world was stopped: power is about to be lost")]
pub struct Stopped;

impl Stopped {
    /// Whether an error says so.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
    }
}

/// How often power was lost.
const AGE: usize = 0;
/// The number of the file that is made next.
const NEXT: usize = 1;
const SECTOR: usize = 2;
/// Since power was lost: how many changes there were, and whether the world was stopped.
const CHANGES: usize = 3;
const STOPPED: usize = 4;
/// And how many calls of each kind.
const CALLS: usize = 5;
const WORDS: usize = CALLS + Call::COUNT;

/// All of the disk, locked. The words are written by one call of the system that does not end
/// half-way, and before what they count: a number is given once.
pub(super) struct Locked {
    file: File,
    words: [u64; WORDS],
}

impl Drop for Locked {
    fn drop(&mut self) {
        // A fork may have the descriptor, too.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

impl Locked {
    pub(super) fn new(dir: &Path) -> io::Result<Locked> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(dir.join("state"))?;
        retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
        let mut bytes = [0; WORDS * 8];
        // A disk that is made has none of them.
        file.read_at(&mut bytes, 0)?;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Ok(Locked { file, words })
    }

    fn store(&self) -> io::Result<()> {
        self.file.write_all_at(self.words.map(u64::to_le_bytes).as_flattened(), 0)
    }

    pub(super) fn has_sectors_of(&mut self, bytes: u64) -> io::Result<()> {
        if !bytes.is_power_of_two() || ![0, bytes].contains(&self.words[SECTOR]) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.words[SECTOR] = bytes;
        self.store()
    }

    pub(super) fn age(&self) -> u64 {
        self.words[AGE]
    }

    pub(super) fn changes(&self) -> u64 {
        self.words[CHANGES]
    }

    pub(super) fn calls(&self, call: Call) -> u64 {
        self.words[CALLS + call as usize]
    }

    pub(super) fn is_going(&self) -> io::Result<()> {
        if self.words[STOPPED] == 0 { Ok(()) } else { Err(io::Error::other(Stopped)) }
    }

    /// Counts a call; how it fails, where it does.
    pub(super) fn enter(&mut self, call: Call, options: &SimOptions) -> io::Result<Option<Fault>> {
        self.is_going()?;
        let count = self.calls(call);
        self.words[CALLS + call as usize] += 1;
        self.store()?;
        Ok(options.faults.iter().copied().find(|fault| fault.is_due(call, count)))
    }

    /// Counts a change; its serial.
    pub(super) fn change(&mut self, options: &SimOptions) -> io::Result<u64> {
        let serial = self.changes();
        if options.stop_at.is_some_and(|at| serial >= at) {
            self.words[STOPPED] = 1;
        } else {
            self.words[CHANGES] += 1;
        }
        self.store()?;
        self.is_going()?;
        Ok(serial)
    }

    pub(super) fn next_file(&mut self) -> io::Result<u64> {
        self.words[NEXT] += 1;
        self.store()?;
        Ok(self.words[NEXT])
    }

    /// Power was lost.
    pub(super) fn begin_anew(&mut self) -> io::Result<()> {
        self.words[AGE] += 1;
        self.words[CHANGES..].fill(0);
        self.store()
    }
}
