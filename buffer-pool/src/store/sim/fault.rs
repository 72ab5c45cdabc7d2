//! What can be told to fail.
use super::chance::mix;
use std::io;

/// Calls of a store and of its files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// [`Store::open`](crate::store::Store::open).
    Open,
    /// [`Store::remove`](crate::store::Store::remove).
    Remove,
    /// [`Store::rename`](crate::store::Store::rename).
    Rename,
    /// [`Store::list`](crate::store::Store::list).
    List,
    /// [`Store::sync_name`](crate::store::Store::sync_name).
    SyncName,
    /// [`PageFile::read`](crate::store::PageFile::read), into one place or several.
    Read,
    /// [`PageFile::write`](crate::store::PageFile::write).
    Write,
    /// [`PageFile::extend`](crate::store::PageFile::extend).
    Extend,
    /// [`PageFile::truncate`](crate::store::PageFile::truncate).
    Truncate,
    /// [`PageFile::sync`](crate::store::PageFile::sync).
    Sync,
}

impl Call {
    pub(super) const COUNT: usize = Call::Sync as usize + 1;
}

/// Which of the calls of a kind, counted from 0 on since power was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// The one of this number.
    At(u64),
    /// This one and all later ones.
    From(u64),
    /// One of so many, by chance: the same ones for the same seed.
    OneIn {
        /// So many.
        calls: u64,
        /// Which.
        seed: u64,
    },
}

/// What the system says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    NoSpace,
}

/// A call that fails.
///
/// A sync that fails leaves what it should have made durable as if it were: later ones succeed, and
/// it is gone when power is lost. So it is with Linux.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which kind of calls.
    pub call: Call,
    /// Which of them.
    pub when: When,
    /// How.
    pub failure: Failure,
    /// Whether a part of it was done: of what was to be read into one place, written or made longer
    /// the beginning, of what was to be synced some sectors. Others fail without having done
    /// anything.
    pub in_part: bool,
}

impl Fault {
    /// Whether it is for call number `count` of its kind.
    pub(super) fn is_due(&self, call: Call, count: u64) -> bool {
        let is_due = match self.when {
            When::At(at) => count == at,
            When::From(from) => count >= from,
            When::OneIn { calls, seed } => mix(seed, count).is_multiple_of(calls.max(1)),
        };
        self.call == call && is_due
    }

    pub(super) fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(match self.failure {
            Failure::Io => libc::EIO,
            Failure::NoSpace => libc::ENOSPC,
        })
    }

    /// How much of so many bytes is done before: not all.
    pub(super) fn part_of(&self, len: u64, serial: u64) -> u64 {
        if self.in_part { mix(serial, len) % len.max(1) } else { 0 }
    }
}
