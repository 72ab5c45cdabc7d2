//! Making a file shorter, or dropping it.
use super::word::{Extent, State};
use super::{FileNumber, NoSuchFile, ROUNDS_MAX, Registrar};
use shm_core::event::announced;
use shm_core::process::Forked;
use shm_core::sync::Ordering;
use std::ops::Range;

/// Why a file is as long as it was, or a cut not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// It is shorter already.
    #[error("the file has {now} blocks, and cannot be shortened to more")]
    Length {
        /// How many.
        now: u32,
    },
    /// It is gone, or is being dropped.
    #[error(transparent)]
    NoSuchFile(#[from] NoSuchFile),
    /// The row was overwritten.
    #[error("the row of file {:#x} was overwritten", .0.to_bits())]
    Corrupt(FileNumber),
    /// The member's process is the caller's parent.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// Blocks that a file has no more, and whose pages are to leave their frames. Dropped without
/// having been [`done`](Cut::done), it is left to the next registrar.
#[derive(Debug)]
#[must_use = "dropped, the file is being cut until a registrar finishes it"]
pub struct Cut<'r> {
    registrar: &'r Registrar<'r>,
    number: FileNumber,
    extent: Extent,
    from: u32,
}

impl Registrar<'_> {
    /// Makes a file so short. From now on nobody extends it, and nobody loads one of the pages that
    /// go: evict them, shorten the file, and say that it is [`done`](Cut::done).
    ///
    /// # Errors
    /// [`CutError`]; the file is as it was.
    ///
    /// # If a process dies here
    /// The file is as long as it was; or it is shorter, and the next registrar finishes it.
    pub fn shrink(&mut self, number: FileNumber, blocks: u32) -> Result<Cut<'_>, CutError> {
        self.cuts(number, State::Shrinking, blocks)
    }

    /// Drops a file: it has no blocks any more, and is not found. Evict its pages, and say that it
    /// is [`done`](Cut::done).
    ///
    /// # Errors
    /// [`CutError`]; the file is as it was.
    ///
    /// # If a process dies here
    /// The file is as it was; or it is none any more, and the next registrar finishes it.
    pub fn drop_file(&mut self, number: FileNumber) -> Result<Cut<'_>, CutError> {
        self.cuts(number, State::Dropping, 0)
    }

    /// What registrars before have begun to cut and did not finish, dead or not: to be finished in
    /// the same way.
    pub fn unfinished(&mut self) -> Vec<Cut<'_>> {
        let rows = self.files.rows.iter().enumerate();
        rows.filter_map(|(index, row)| {
            let extent = row.extent();
            let is_cut = matches!(extent.state(), State::Shrinking | State::Dropping);
            let number = FileNumber::new(index, extent.generation());
            is_cut.then(|| self.cut(number, extent, row.cut_from.load(Ordering::Relaxed)))
        })
        .collect()
    }

    fn cuts(&self, number: FileNumber, to: State, blocks: u32) -> Result<Cut<'_>, CutError> {
        self.check_fork()?;
        for _ in 0..ROUNDS_MAX {
            let (row, seen) = self.files.look(number).ok_or(NoSuchFile(number))?;
            if !seen.is_file() {
                return Err(NoSuchFile(number).into());
            }
            if blocks > seen.blocks() {
                return Err(CutError::Length { now: seen.blocks() });
            }
            let from = match seen.state() {
                // Its pages behind may be in frames still.
                State::Shrinking => row.cut_from.load(Ordering::Relaxed),
                _ => seen.blocks(),
            };
            row.cut_from.store(from, Ordering::Relaxed);
            let cut = seen.cutting(to, blocks);
            // Pairs with the Acquire in `look`: who it is that cuts. What was done to the file is
            // seen by the look before.
            let (ok, err) = (Ordering::Release, Ordering::Relaxed);
            if row.extent.compare_exchange(seen.to_bits(), cut.to_bits(), ok, err).is_ok() {
                return Ok(self.cut(number, cut, from));
            }
        }
        Err(CutError::Corrupt(number))
    }

    /// Whose length is published, by us or by one before.
    fn cut(&self, number: FileNumber, extent: Extent, from: u32) -> Cut<'_> {
        // Pairs with the fence in `admits`: the length before the frames and the entries.
        announced();
        Cut { registrar: self, number, extent, from }
    }
}

impl Cut<'_> {
    /// Which file.
    pub fn number(&self) -> FileNumber {
        self.number
    }

    /// Whether it is dropped.
    pub fn is_drop(&self) -> bool {
        self.extent.state() == State::Dropping
    }

    /// The blocks that go. Those behind are in no frame: who makes the entry of such a one LOADING
    /// gives it up as soon as it [asks](super::Files::admits).
    pub fn blocks(&self) -> Range<u32> {
        let row = self.registrar.files.rows.get(self.number.row());
        let blocks_max = row.map_or(0, |row| row.span().blocks_max());
        self.extent.blocks()..self.from.min(blocks_max)
    }

    /// None of these blocks' pages is in a frame, and the file is as short as it should be: others
    /// may extend it. Of a file that is dropped: the number is nobody's from now on, and its
    /// entries are another file's.
    ///
    /// Each entry of these blocks was seen to say ABSENT since the cut began. Of a file that is
    /// dropped more has to be true: nobody who has asked for an entry long ago is about to make it
    /// LOADING. Look at all frames since the cut began, and wait for each that is claimed for a
    /// page of this file, or put right what its holder left, before the entries are looked at.
    /// Else one that dies could leave LOADING in another file's entry.
    ///
    /// # Errors
    /// [`CutError::Corrupt`], [`CutError::Forked`].
    ///
    /// # If a process dies here
    /// The cut is finished, or the next registrar finishes it.
    pub fn done(self) -> Result<(), CutError> {
        self.registrar.check_fork()?;
        let (files, number) = (self.registrar.files, self.number);
        let row = files.rows.get(number.row()).ok_or(CutError::Corrupt(number))?;
        let to = match self.is_drop() {
            true => self.extent.freed(),
            false => self.extent.cut(),
        };
        // Pairs with the Acquire in `look`: what we did to the file.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        let settled = row.extent.compare_exchange(self.extent.to_bits(), to.to_bits(), ok, err);
        files.head.moved.notify();
        settled.map(drop).map_err(|_| CutError::Corrupt(number))
    }
}
