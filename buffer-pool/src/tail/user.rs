//! Who makes records: one thread of a process.
use super::lane::{self, HEADER, Header, Lane, space_for};
use super::shared::{Place, Row};
use super::word::{COUNTS_END, Slot, State};
use super::{Found, Lsn, ROUNDS_MAX, Tail, UserError};
use shm_core::participants::Member;
use shm_core::process::Forked;
use shm_core::sync::{Ordering, fence, in_program_order};
use std::ops::Range;
use std::sync::Arc;

/// Why a record was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// There is no room until some have been written out.
    #[error("there is no room for another record until some were written out")]
    Full,
    /// None of this length fits.
    #[error("a record of {bytes} bytes is longer than the {most} that fit")]
    TooLong {
        /// How long it would be.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
    /// Nonsense in shared memory.
    #[error("the words of the log in shared memory were overwritten")]
    Corrupt,
    /// The lane is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// So often one looks at all slots for the next that is free.
const SEARCHES_MAX: u32 = 1 << 12;

/// One thread's use of a [`Tail`]: it has its lane. The member stays seated for as long.
#[derive(Debug)]
pub struct User {
    pub(super) tail: Tail,
    pub(super) member: Arc<Member>,
    row: u32,
    /// Where its next record begins in the lane.
    head: u64,
    /// Where in the log none of its records is, from there on.
    end: u64,
}

/// A record that is in the lane, and not in the log yet.
#[derive(Debug)]
#[must_use = "it is in the log once it is taken in"]
pub struct Record<'u> {
    user: &'u mut User,
    said: usize,
    sum: u32,
}

impl Tail {
    /// For thread number `thread` of `member`'s process. No two have the same number.
    ///
    /// # Errors
    /// [`UserError`].
    ///
    /// # If a process dies here
    /// The row is as it was.
    pub fn user(&self, member: &Arc<Member>, thread: u32) -> Result<User, UserError> {
        member.check_fork()?;
        let seat = member.id().slot();
        let no_row = UserError::NoRow { seat, thread, seats: self.seats, threads: self.threads };
        if thread >= self.threads || seat >= self.seats {
            return Err(no_row);
        }
        let row = seat * self.threads + thread;
        let words = self.row(row).ok_or(no_row)?;
        let (head, end, number) = self.head_of(row, words);
        if let Some(number) = number {
            // Who died here had perhaps not said so; and the row will tell of another slot.
            let (place, lap) = self.place(number);
            place.make_ready(lap, row, end.0);
        }
        // Relaxed: for our successor only.
        words.head.store(head, Ordering::Relaxed);
        let end = end.0;
        Ok(User { tail: self.clone(), member: member.clone(), row, head, end })
    }
}

impl User {
    /// The tail that it uses.
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Which row of the tail it has.
    pub fn row(&self) -> u32 {
        self.row
    }

    /// Writes a record that says `parts`, one after the other, into the lane.
    ///
    /// # Errors
    /// [`RecordError`].
    ///
    /// # If a process dies here
    /// The log is as it was.
    pub fn record(&mut self, parts: &[&[u8]]) -> Result<Record<'_>, RecordError> {
        self.member.check_fork()?;
        let said: usize = parts.iter().map(|part| part.len()).sum();
        let (bytes, most) = (HEADER + said, self.tail.record_max());
        if bytes > most {
            return Err(RecordError::TooLong { bytes, most });
        }
        if !self.has_room(space_for(bytes as u32))? {
            return Err(RecordError::Full);
        }
        let (lane, mut at, mut sum) = (self.lane(), self.head + HEADER as u64, 0);
        for part in parts {
            lane.copy_in(at, part);
            sum = lane::sum(sum, part);
            at += part.len() as u64;
        }
        // What was there is not to come into the file.
        let zeroes = [0; 7];
        lane.copy_in(at, &zeroes[..(space_for(bytes as u32) as usize - bytes)]);
        Ok(Record { user: self, said, sum })
    }

    fn words(&self) -> &Row {
        &self.tail.rows[self.row as usize]
    }

    fn lane(&self) -> Lane<'_> {
        self.tail.lane(self.row)
    }

    fn has_room(&self, space: u64) -> Result<bool, RecordError> {
        let (cursor, lane_bytes) = (&self.words().cursor, self.lane().bytes());
        // Pairs with the Release in `Writer::wrote`: it looks at these bytes no more.
        let used = self.head.checked_sub(cursor.load(Ordering::Acquire));
        if used.ok_or(RecordError::Corrupt)?.saturating_add(space) <= lane_bytes {
            return Ok(true);
        }
        // Who wrote all of it out, and looks at it no more, may have died before it said so in the
        // row.
        if self.tail.written().0 < self.end {
            return Ok(false);
        }
        // Relaxed: who writes out our next record sees it with that one.
        cursor.fetch_max(self.head, Ordering::Relaxed);
        Ok(space <= lane_bytes)
    }
}

impl Record<'_> {
    /// Which of its thread's it is: a later one has a greater number. Of a dead one
    /// [`Tail::has_taken`] tells whether it is in the log.
    pub fn place(&self) -> u64 {
        self.user.head
    }

    /// Takes it in: it is in the log then, behind all that were taken in before, and will be
    /// written out, whoever dies. Where it begins and ends.
    ///
    /// # Errors
    /// The record, and [`RecordError::Full`], [`RecordError::Corrupt`] or [`RecordError::Forked`].
    ///
    /// # If a process dies here
    /// It is in the log or not, by one word; [`Tail::has_taken`] tells.
    pub fn take_in(mut self) -> Result<Range<Lsn>, (Self, RecordError)> {
        match self.try_take_in() {
            Ok(range) => Ok(range),
            Err(error) => Err((self, error)),
        }
    }

    fn try_take_in(&mut self) -> Result<Range<Lsn>, RecordError> {
        self.user.member.check_fork()?;
        let tail = &self.user.tail;
        // Relaxed: a hint.
        let (mut number, mut searches) = (tail.head.next.load(Ordering::Relaxed) % COUNTS_END, 0);
        for _ in 0..ROUNDS_MAX {
            match tail.ends_before(number)? {
                Found::At(at) => {
                    let (place, lap) = tail.place(number);
                    // Relaxed: it is a hint; the compare-and-swap decides.
                    let seen = Slot::from_bits(place.word.load(Ordering::Relaxed));
                    if seen.lap() < lap {
                        return Err(RecordError::Full);
                    }
                    if seen == Slot::free(lap)
                        && let Some((range, behind)) = self.takes(place, number, lap, at)
                    {
                        (self.user.head, self.user.end) = (behind, range.end.0);
                        return Ok(range);
                    }
                    number += 1;
                }
                // We were slow, a lap behind all others; or somebody wrote nonsense there.
                Found::Passed | Found::NotYet if searches < SEARCHES_MAX => {
                    (number, searches) = (tail.search(), searches + 1);
                }
                Found::Passed | Found::NotYet => break,
            }
        }
        Err(RecordError::Corrupt)
    }

    /// Takes the slot, for a record that begins at `at` then: where it is, and where it ends in the
    /// lane.
    fn takes(&self, place: &Place, number: u64, lap: u64, at: Lsn) -> Option<(Range<Lsn>, u64)> {
        let (said, sum, User { tail, row, head, .. }) = (self.said, self.sum, &*self.user);
        let header = Header::new(tail.log, at, said, sum);
        let space = space_for(header.length);
        let (end, behind) = (Lsn(at.0.checked_add(space)?), head + space);
        let words = self.user.words();
        self.user.lane().put(*head, header);
        // Relaxed, but for one: for our successor, should we die here. First what holds for our
        // last record, too; then the number, so that it takes the rest for that one's no more.
        words.begin.store(at.0, Ordering::Relaxed);
        in_program_order();
        words.number.store(number, Ordering::Relaxed);
        in_program_order();
        words.behind.store(behind, Ordering::Relaxed);
        // Pairs with the fence in `Tail::end_of`: who has read it sees our last slot as we left it.
        words.end.store(end.0, Ordering::Release);
        let (free, taken) = (Slot::free(lap).to_bits(), Slot::taken(lap, *row).to_bits());
        // Pairs with the Acquire in `Tail::end_of`: the row and the lane.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        place.word.compare_exchange(free, taken, ok, err).ok()?;
        place.make_ready(lap, *row, end.0);
        // Relaxed, both: a hint; and for our successor only.
        tail.head.next.store(number + 1, Ordering::Relaxed);
        words.head.store(behind, Ordering::Relaxed);
        Some((at..end, behind))
    }
}

impl Place {
    /// Says where the record ends that has taken it.
    fn make_ready(&self, lap: u64, row: u32, end: u64) {
        // Relaxed: below. Who reads one of a later lap wants a slot that another one has: slots are
        // taken one after the other.
        self.end.fetch_max(end, Ordering::Relaxed);
        let (taken, ready) = (Slot::taken(lap, row).to_bits(), Slot::ready(lap, row).to_bits());
        // Pairs with the Acquire in `Tail::end_of`: the end.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        // Where it fails it was written out already.
        let _ = self.word.compare_exchange(taken, ready, ok, err);
    }
}

impl Tail {
    /// Where the record before slot `number` ends.
    fn ends_before(&self, number: u64) -> Result<Found, RecordError> {
        let number = number.checked_sub(1).ok_or(RecordError::Corrupt)?;
        let (place, lap) = self.place(number);
        self.end_of(place, lap)
    }

    /// Where the record ends that the slot has in its lap.
    pub(super) fn end_of(&self, place: &Place, lap: u64) -> Result<Found, RecordError> {
        for _ in 0..ROUNDS_MAX {
            // Pairs with the Releases in `takes` and `Writer::wrote`: the row, or the end.
            let seen = Slot::from_bits(place.word.load(Ordering::Acquire));
            let state = seen.state().ok_or(RecordError::Corrupt)?;
            let end = match (state, seen.lap().wrapping_sub(lap)) {
                (State::Taken(row), 0) => {
                    let row = self.row(row).ok_or(RecordError::Corrupt)?;
                    row.end.load(Ordering::Relaxed)
                }
                (State::Ready(_), 0) | (State::Free, 1) => place.end.load(Ordering::Relaxed),
                (State::Free, 0) => return Ok(Found::NotYet),
                _ if seen.lap() < lap => return Ok(Found::NotYet),
                _ => return Ok(Found::Passed),
            };
            // Pairs with the Release in `takes`: who wrote the end of another record into its row
            // had said before that the slot is ready.
            fence(Ordering::Acquire);
            if place.word.load(Ordering::Relaxed) == seen.to_bits() {
                return Ok(Found::At(Lsn(end)));
            }
        }
        Err(RecordError::Corrupt)
    }
}
