//! Memory for more slots.
//!
//! A piece of the table that nobody has needed yet is a hole in the control segment: addresses, and
//! no memory. Who finds no free slot has the system put zeroes there, which are free slots without
//! a past, and then says so in `Head::pieces`. Any number of processes may do that to one piece at
//! once, before and after one that was killed at it: memory that is there stays as it is. So there
//! is nothing to claim, nothing to undo, and nothing that a death leaves but a piece that has its
//! memory early.
//!
//! What others say in `Head::pieces` is a claim: before this process touches a piece for the first
//! time, it has the system look (the same call), and where there is no memory and none to be had,
//! the piece is not there. Where the kernel cannot put memory behind holes (before Linux 5.14), a
//! control segment has none.
use super::Control;
use crate::backend::pages;
use shm_core::sync::Ordering;
use std::io;
// private: what this process knows of the table.
use std::sync::atomic::Ordering::Relaxed;

impl Control {
    /// Gives the table one more piece of slots; `false` where it has them all. Whoever needs but a
    /// slot [reaps](super::Actor::clean_up) first.
    ///
    /// # Errors
    /// Where there is no memory for it. The table stays as it is.
    ///
    /// # If a process dies here
    /// There is a piece more, or none; the next one to need it does it again.
    pub fn grow(&self) -> io::Result<bool> {
        let pieces = self.reach();
        if pieces == self.table.pieces.len() {
            return Ok(false);
        }
        self.populate(pieces, pieces + 1)?;
        self.table.reached.fetch_max(pieces + 1, Relaxed);
        let (seen, now) = (self.table.head.pieces.load(Ordering::Relaxed), pieces as u64 + 1);
        if seen < now {
            // Where it fails another one has said so, or has gone further.
            let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
            let _ = self.table.head.pieces.compare_exchange(seen, now, ok, err);
        }
        Ok(true)
    }

    /// Says that there is memory for all slots. For who made it so, and has published nothing yet.
    pub fn grow_to_the_end(&self) {
        self.table.head.pieces.store(self.table.pieces.len() as u64, Ordering::Relaxed);
    }

    /// How much of the mapping this process knows to have memory behind it, from its beginning.
    pub(crate) fn reached_bytes(&self) -> u64 {
        // Not by asking the table, which may be cut off.
        self.table.starts[self.table.reached.load(Relaxed)]
    }

    /// Bytes of one piece.
    pub(crate) fn piece_bytes(&self) -> u64 {
        self.table.starts[1] - self.table.starts[0]
    }

    /// Slots that there is memory for, the domain's own left out.
    pub(super) fn known(&self) -> usize {
        (self.reach() << self.table.shift).min(self.table.segments)
    }

    /// Pieces that there is memory for.
    fn reach(&self) -> usize {
        let reached = self.table.reached.load(Relaxed);
        let pieces =
            self.table.head.pieces.load(Ordering::Relaxed).min(self.table.pieces.len() as u64);
        if pieces as usize <= reached { reached } else { self.reach_to(reached, pieces as usize) }
    }

    #[cold]
    fn reach_to(&self, reached: usize, pieces: usize) -> usize {
        match self.populate(reached, pieces) {
            // There is none: that would send SIGBUS.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => reached,
            // Where there is memory and the system does not tell, touching it does no harm.
            Ok(()) | Err(_) => self.table.reached.fetch_max(pieces, Relaxed).max(pieces),
        }
    }

    fn populate(&self, from: usize, to: usize) -> io::Result<()> {
        let (from, to) = (self.table.starts[from], self.table.starts[to]);
        Ok(pages::touch_range(self.table.head.mapping(), from, to)?)
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;
    use crate::SegmentHandle;
    use crate::backend::{self, Backend, Place};
    use shm_testkit::unique::TempDir;
    use std::fs::OpenOptions;

    const SEGMENTS: u32 = 4096;
    const PARTICIPANTS: u32 = 1024;

    /// A table of many pages a piece, in a file with memory for the first.
    fn table(directory: &TempDir) -> Control {
        let len = Control::bytes_for(SEGMENTS, PARTICIPANTS);
        let filled = Control::bytes_at_first(SEGMENTS, PARTICIPANTS);
        let place = Place::new(Backend::Mmap);
        let place = Place { directory: directory.path().to_owned(), ..place };
        let object = backend::create_sparse(&place, "table", filled, len).unwrap();
        // SAFETY: nobody else has the mapping.
        unsafe { Control::create(object.mapping(), 0, SEGMENTS, PARTICIPANTS, 1) }.unwrap()
    }

    fn cut(directory: &TempDir) {
        let file = OpenOptions::new().write(true).open(directory.path().join("table")).unwrap();
        file.set_len(Control::bytes_at_first(SEGMENTS, PARTICIPANTS)).unwrap();
    }

    #[test]
    fn it_grows_to_the_end_and_no_further() {
        let directory = TempDir::new("grows");
        let control = table(&directory);
        let mut pieces = 1;
        while control.grow().unwrap() {
            pieces += 1;
            assert_eq!(control.known(), (pieces << control.table.shift).min(SEGMENTS as usize));
        }
        assert_eq!((pieces, control.known()), (control.table.pieces.len(), SEGMENTS as usize));
    }

    #[test]
    fn where_no_memory_can_be_had_it_is_an_error_and_all_goes_on() {
        let directory = TempDir::new("no_more");
        let control = table(&directory);
        cut(&directory);
        let error = control.grow().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        assert_eq!(control.known(), 1 << control.table.shift);
    }

    #[test]
    fn pieces_that_are_not_there_are_not_believed_in() {
        let directory = TempDir::new("lie");
        let control = table(&directory);
        cut(&directory);
        for lie in [2, 3, u64::MAX, 0] {
            control.table.head.pieces.store(lie, Ordering::Relaxed);
            assert_eq!(control.known(), 1 << control.table.shift);
            assert!(control.segments().is_empty() && control.leftovers().is_empty());
            assert!(!control.is_alive(SegmentHandle::new(SEGMENTS - 1, 1)));
            assert!(control.grow().is_err());
        }
    }
}
