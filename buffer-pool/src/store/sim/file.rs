//! A file, opened.
use super::SimDisk;
use super::chance::Chance;
use super::fault::{Call, Fault};
use super::image::Image;
use super::state::Locked;
use crate::store::PageFile;
use std::io;
use std::ptr::NonNull;

#[derive(Debug)]
pub(super) struct SimFile {
    disk: SimDisk,
    image: Image,
    /// Of the disk, when it was opened.
    age: u64,
}

impl SimFile {
    pub(super) fn new(disk: SimDisk, image: Image, age: u64) -> SimFile {
        SimFile { disk, image, age }
    }

    fn lock(&self) -> io::Result<Locked> {
        let locked = self.disk.lock()?;
        locked.is_going()?;
        let is_stale = locked.age() != self.age;
        if is_stale { Err(io::Error::from_raw_os_error(libc::ESTALE)) } else { Ok(locked) }
    }

    /// Begins a call that changes something: its serial, and how it fails.
    fn begin(&self, call: Call) -> io::Result<(Locked, u64, Option<Fault>)> {
        let mut locked = self.lock()?;
        let fault = locked.enter(call, &self.disk.options)?;
        let serial = locked.change(&self.disk.options)?;
        Ok((locked, serial, fault))
    }

    /// Begins to read up to `len` bytes: how many it may read, and how it fails.
    fn begin_read(&self, len: usize) -> io::Result<(Locked, usize, Option<Fault>)> {
        let mut locked = self.lock()?;
        let fault = locked.enter(Call::Read, &self.disk.options)?;
        self.image.catch_up()?;
        let part = |fault: &Fault| fault.part_of(len as u64, locked.calls(Call::Read)) as usize;
        let len = fault.as_ref().map_or(len, part);
        Ok((locked, len, fault))
    }
}

/// Bytes of a file.
const LEN_MAX: u64 = 1 << 32;

/// The end of `len` bytes at `at`.
fn end_of(at: u64, len: u64) -> io::Result<u64> {
    let end = at.checked_add(len).filter(|end| *end <= LEN_MAX);
    end.ok_or(io::Error::from_raw_os_error(libc::EFBIG))
}

fn fails(fault: Option<Fault>) -> io::Result<()> {
    fault.map_or(Ok(()), |fault| Err(fault.error()))
}

impl PageFile for SimFile {
    fn is_read_only(&self) -> bool {
        false
    }

    fn size(&self) -> io::Result<u64> {
        let _locked = self.lock()?;
        self.image.size()
    }

    unsafe fn read(&self, at: u64, into: NonNull<u8>, len: usize) -> io::Result<usize> {
        let (_locked, len, fault) = self.begin_read(len)?;
        // SAFETY: the caller's promise; it is not longer than that.
        let read = unsafe { self.image.shown().read(at, into, len) };
        fails(fault)?;
        read
    }

    unsafe fn read_vectored(&self, at: u64, into: &[NonNull<[u8]>]) -> io::Result<usize> {
        let (_locked, _, fault) = self.begin_read(0)?;
        fails(fault)?;
        // SAFETY: the caller's promise.
        unsafe { self.image.shown().read_vectored(at, into) }
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let len = bytes.len() as u64;
        end_of(at, len)?;
        let (_locked, serial, fault) = self.begin(Call::Write)?;
        let done = fault.map_or(len, |fault| fault.part_of(len, serial));
        self.image.write(serial, at, &bytes[..done as usize])?;
        fails(fault)
    }

    fn extend(&self, from: u64, to: u64) -> io::Result<()> {
        let len = to.saturating_sub(from);
        end_of(from, len)?;
        let (_locked, serial, fault) = self.begin(Call::Extend)?;
        let done = fault.map_or(len, |fault| fault.part_of(len, serial));
        self.image.lengthen(serial, from + done)?;
        fails(fault)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        let (_locked, serial, fault) = self.begin(Call::Truncate)?;
        fails(fault)?;
        self.image.shorten(serial, size)
    }

    fn sync(&self) -> io::Result<()> {
        let (_locked, serial, fault) = self.begin(Call::Sync)?;
        if let Some(fault) = fault {
            let mut chance =
                if fault.in_part { Chance::Each { seed: serial, drawn: 0 } } else { Chance::Gone };
            self.image.settle(&mut chance)?;
            return Err(fault.error());
        }
        if self.disk.options.lies { Ok(()) } else { self.image.sync() }
    }

    fn write_back(&self, _at: u64, _len: u64) {}

    fn prefetch(&self, _at: u64, _len: u64) {}
}
