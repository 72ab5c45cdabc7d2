//! Writing out: one process at a time brings what was taken in into the log's file.
use super::lane;
use super::shared::Place;
use super::user::RecordError;
use super::word::{self, Slot, State};
use super::{Found, Lsn, Tail};
use shm_core::lock::mutex::MutexGuard;
use shm_core::participants::Member;
use shm_core::sync::Ordering;
use std::ops::Range;

/// Who writes out. There is one at a time.
#[derive(Debug)]
#[must_use = "others cannot write out while it lives"]
pub struct Writer<'t> {
    tail: &'t Tail,
    /// The first slot that was not looked at.
    next: u64,
    /// Where its record begins.
    at: Lsn,
    /// Where the one ends that was looked at last.
    last: Option<Lsn>,
    gathered: Vec<Gathered>,
    member: &'t Member,
    _guard: MutexGuard<'t>,
}

/// A slot whose record goes into the file, or is there.
#[derive(Debug)]
struct Gathered {
    number: u64,
    row: u32,
    end: Lsn,
    /// Where the record ends in its lane, where it was found there.
    behind: Option<u64>,
}

impl<'t> Writer<'t> {
    pub(super) fn new(tail: &'t Tail, member: &'t Member, guard: MutexGuard<'t>) -> Writer<'t> {
        let at = Lsn(tail.head.written.load(Ordering::Relaxed));
        let (next, gathered) = (tail.first(), Vec::new());
        Writer { tail, next, at, last: None, gathered, member, _guard: guard }
    }

    /// Appends to `out` what was taken in and is not in the file: whole records, one at least,
    /// until they have `most` bytes. Where in the log they are; an empty range: there was none.
    ///
    /// A record that somebody has damaged in its lane is replaced by one that says nothing.
    ///
    /// # Errors
    /// [`RecordError::Corrupt`], [`RecordError::Forked`]; nothing is gathered.
    ///
    /// # If a process dies here
    /// The next writer gathers the same, and perhaps more.
    pub fn gather(&mut self, most: usize, out: &mut Vec<u8>) -> Result<Range<Lsn>, RecordError> {
        self.member.check_fork()?;
        let (next, at, last) = (self.next, self.at, self.last);
        let (count, len) = (self.gathered.len(), out.len());
        let range = self.gather_on(most, out);
        if range.is_err() {
            // Nothing of it is to be told to be in the file.
            (self.next, self.at, self.last) = (next, at, last);
            self.gathered.truncate(count);
            out.truncate(len);
        }
        range
    }

    fn gather_on(&mut self, most: usize, out: &mut Vec<u8>) -> Result<Range<Lsn>, RecordError> {
        let (tail, begin) = (self.tail, out.len());
        let first = self.at;
        // There are no more: none comes free while we look.
        for _ in 0..tail.slots() {
            if out.len() > begin && out.len() - begin >= most {
                break;
            }
            let number = self.next;
            let (place, lap) = tail.place(number);
            // Relaxed: it stays so while we look, but that it may become ready.
            let seen = Slot::from_bits(place.word.load(Ordering::Relaxed));
            let row = match seen.state().ok_or(RecordError::Corrupt)? {
                State::Taken(row) | State::Ready(row) if seen.lap() == lap => row,
                _ if seen.lap() > lap => return Err(RecordError::Corrupt),
                _ => break,
            };
            let Found::At(end) = tail.end_of(place, lap)? else {
                return Err(RecordError::Corrupt);
            };
            // Else somebody would be told that a record is in the file which is not.
            if self.last.is_some_and(|last| end <= last) {
                return Err(RecordError::Corrupt);
            }
            self.last = Some(end);
            // The first ones may be in the file already: who wrote them has died.
            let behind = if end > self.at { self.append(row, end, out)? } else { None };
            self.gathered.push(Gathered { number, row, end, behind });
            (self.next, self.at) = (number + 1, self.at.max(end));
        }
        Ok(first..self.at)
    }

    /// The record that begins where the last one ended.
    fn append(&self, row: u32, end: Lsn, out: &mut Vec<u8>) -> Result<Option<u64>, RecordError> {
        let (tail, at, space) = (self.tail, self.at, end.0 - self.at.0);
        let of_row = tail.row(row).ok_or(RecordError::Corrupt)?;
        let is_one = space % 8 == 0 && (lane::HEADER as u64..=tail.lane_bytes).contains(&space);
        if !is_one {
            return Err(RecordError::Corrupt);
        }
        // Relaxed: what the row's thread wrote it did before it took the slot.
        let from = of_row.cursor.load(Ordering::Relaxed);
        let behind = tail.lane(row).append(tail.log, at, space, from, out);
        if behind.is_none() {
            lane::append_void(tail.log, at, space, out);
        }
        Ok(behind)
    }

    /// What was gathered is in the file, for good: it can be had from nowhere else any more. A log
    /// says so once the disk has it. In a forked child nothing.
    ///
    /// # If a process dies here
    /// The next writer finishes it, or writes the same bytes once more.
    pub fn wrote(&mut self) {
        if self.member.check_fork().is_err() {
            return;
        }
        let head = &self.tail.head;
        // Pairs with the Acquires in `User::has_room`, for we look at these records no more, and in
        // `Tail::written`: the file.
        head.written.store(self.at.0, Ordering::Release);
        for of in self.gathered.drain(..) {
            let (place, lap) = self.tail.place(of.number);
            let row = self.tail.row(of.row);
            // Relaxed: the word's Release below.
            row.iter().for_each(|row| row.taken.store(of.number, Ordering::Relaxed));
            // Relaxed: as above.
            place.end.fetch_max(of.end.0, Ordering::Relaxed);
            // Pairs with the Acquires in `Tail::end_of` and `is_taken`: the end, and the row.
            place.word.store(Slot::free(lap + 1).to_bits(), Ordering::Release);
            if let (Some(row), Some(behind)) = (row, of.behind) {
                // Pairs with the Acquire in `User::has_room`: we look at it no more.
                row.cursor.fetch_max(behind, Ordering::Release);
            }
        }
        head.done.store(self.next, Ordering::Relaxed);
    }

    /// Where what is in the file ends.
    pub fn written(&self) -> Lsn {
        Lsn(self.tail.head.written.load(Ordering::Relaxed))
    }
}

impl Tail {
    /// The first slot whose record may not be in the file. Only the writer has it change.
    fn first(&self) -> u64 {
        let hint = self.head.done.load(Ordering::Relaxed);
        let lap_of = |number: u64| {
            let (place, lap) = self.place(number);
            (Slot::from_bits(place.word.load(Ordering::Relaxed)).lap(), lap)
        };
        if let Some(before) = hint.checked_sub(1) {
            let ((one, its), (other, own)) = (lap_of(before), lap_of(hint));
            if one == its + 1 && other == own {
                return hint;
            }
        }
        // One who wrote out died before it said so.
        let slots = self.slots();
        let past = |(index, place): (u64, &Place)| {
            let seen = Slot::from_bits(place.word.load(Ordering::Relaxed));
            word::number(seen.lap().saturating_sub(1), slots, index)
        };
        (0..).zip(self.places.iter()).map(past).max().map_or(0, |last| last + 1)
    }
}
