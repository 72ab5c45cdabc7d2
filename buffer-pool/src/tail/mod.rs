//! The end of a log, in shared memory: records that are in their order, and not in the log's file
//! yet.
//!
//! ```text
//!  lanes, one a thread                      slots, in the order of the log
//!  p3, thread 0  [ a c  …            ]      … | written | p3 | p7 | p3 | nobody's …
//!  p7, thread 0  [ b  …              ]                    a    b    c
//!                                           the file: … a b c
//! ```
//!
//! A thread writes its record into a lane of its own, whole but for where it will stand in the log.
//! Then it takes the next slot, in one word that names it: from then on the record is in the log,
//! behind those of the slots before. Nobody has to wait for anybody to do so, and nobody has to
//! copy it anywhere: who writes out looks up in the slots whose record comes next, and takes it
//! from that one's lane. So a death leaves no hole in the log, at whatever instruction, and no void
//! to fill: where the slot is taken the record is whole.
//!
//! # The protocol
//!
//! Slots have numbers that count on, for 2^40 laps; slot `n` is the `n mod slots`-th word, in lap
//! `n / slots`.
//!
//! | slot | becomes | by whom | when |
//! | --- | --- | --- | --- |
//! | free(lap) | taken(lap, p) | p | its record is whole, and its row says slot, end and place of it |
//! | taken(lap, p) | ready(lap, p) | p | the slot says where the record ends |
//! | taken(lap, p), ready(lap, p) | free(lap + 1) | who writes out | the record is in the file |
//!
//! | who takes a slot | dies after it: the record is |
//! | --- | --- |
//! | (A) record into the lane | not in the log |
//! | (B) number, end and place into the row | not in the log |
//! | (C) slot → taken | in the log |
//! | (D) end into the slot; slot → ready | in the log |
//!
//! Slots are taken in their order, for (B) needs to know where the record before ends: that says
//! the slot before where it is ready, and the row of the one who has it where it is taken. A row
//! says it for as long as the slot is taken: its thread goes on to another record after (D) only. A
//! number that is read while the slot stays the same is the slot's: whoever overwrites it has had
//! the slot change before. Where the slot before is free again it says still where its record
//! ended. Several may want the same slot at once; one has it, and each of the others the next one
//! or a later one. So nobody waits: each failure is another one's record.
//!
//! | who writes out, having the mutex | dies after it |
//! | --- | --- |
//! | (E) copies the records behind `written`, slot by slot | nothing has happened |
//! | (F) writes them into the file, at the place that they have in the log, for good | the next one writes the same bytes there again |
//! | (G) `written` ← where they end | they are in the file; the next one frees the slots |
//! | (H) of each: `taken` of the row ← its number; slot → free, of the next lap | the same |
//! | (I) `cursor` of the row ← where it ends in the lane | the lane seems fuller than it is |
//! | (J) `done` ← the next slot | the next one looks at all slots |
//!
//! The bytes of a lane behind its cursor are not overwritten; its thread raises the cursor itself
//! where `written` tells that all of its records are in the file. Who writes out finds a record at
//! the cursor, or behind others that stand before it in the log: of (I) that was missed.
//!
//! A thread's successor in the row does (D) of the dead one's last record before it writes into the
//! row: else nobody would know any more where that ends.
//!
//! Whether one who is dead took the slot that its row names: where the slot names the row it did;
//! else `taken` of the row tells, for (H) writes it before the slot is another's ([`has_taken`]).
//! The thread that has the row next asks the same, to know where the lane goes on.
//!
//! # Deaths
//!
//! | dead | it leaves | put right |
//! | --- | --- | --- |
//! | who makes a record | bytes in its lane | whoever has the lane next overwrites them |
//! | who has taken a slot | a record in the log | – |
//! | who writes out | the mutex | the next one is told, and goes on as the table says |
//!
//! One that is stopped hinders others only while it writes out. Its lane is its own.
//!
//! # Lies
//!
//! A record is checked as it is taken from its lane: one that is not there, or damaged, becomes a
//! record that says nothing, of the length that its slot says; so whatever somebody writes into
//! lanes, the file is whole. Who scribbles on slots or rows can have the log come to an end, for
//! all: [`RecordError::Corrupt`]. Who scribbles on another's `cursor`, or on `written`, can have it
//! overwrite what is in no file yet, as it could do itself: that becomes records that say nothing.
//!
//! [`has_taken`]: Tail::has_taken
mod lane;
mod shared;
mod user;
mod word;
mod writer;

pub use lane::{HEADER as RECORD_HEADER, Said, length_of, parse};
pub use user::{Record, RecordError, User};
pub use writer::Writer;

use lane::Lane;
use shared::{Head, Place, Row};
use shm_core::BadPtr;
use shm_core::bytes::{WORD_BYTES, Word};
use shm_core::lock::mutex::{LockError, Mutex, MutexError};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::Forked;
use shm_core::sync::Ordering;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;
use word::{COUNTS_END, ROWS_MAX, Slot, State};

/// So often a slot may change under us: among honest processes each is another one's success.
const ROUNDS_MAX: u32 = 1 << 20;

/// A place in a log: so many bytes come before it. Where a record begins it is the record's name,
/// its log sequence number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Lsn {
    /// As PostgreSQL shows its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:08X}", self.0 >> 32, self.0 as u32)
    }
}

/// How many of what there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Seats of the [table of participants](shm_core::participants::Table).
    pub seats: u32,
    /// Threads of a process, of a lane each.
    pub threads: u32,
    /// Slots: so many records can wait to be written out.
    pub slots: u32,
    /// Bytes of a lane: a multiple of 8. The longest record takes all of them.
    pub lane_bytes: u32,
}

/// Why a tail could not be made or attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TailError {
    /// No tail has this shape.
    #[error(
        "no log has {slots} slots and lanes of {lane_bytes} bytes for {rows} threads: it has a \
         slot at least, lanes of a multiple of 8 bytes, from 64 on, and at most {ROWS_MAX} \
         threads"
    )]
    Shape {
        /// How many slots were asked for.
        slots: u32,
        /// And bytes of a lane.
        lane_bytes: u32,
        /// And threads, in all.
        rows: u64,
    },
    /// It does not fit where it is to be.
    #[error(transparent)]
    BadPtr(#[from] BadPtr),
    /// There is no mutex where its mutex should be.
    #[error(transparent)]
    Mutex(#[from] MutexError),
}

/// Why a thread could not have its lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// The tail was made for fewer.
    #[error(
        "the log has lanes for {seats} participants of {threads} threads each, and none for \
         thread {thread} of the one in seat {seat}"
    )]
    NoRow {
        /// The participant's seat.
        seat: u32,
        /// Which of its threads.
        thread: u32,
        /// How many seats there are.
        seats: u32,
        /// How many lanes each has.
        threads: u32,
    },
    /// The member's process is the caller's parent.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// Why the caller does not write out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriterError {
    /// The deadline passed, and another one writes out.
    #[error("another process was writing out until the deadline")]
    TimedOut,
    /// Nonsense in shared memory; or this thread writes out already.
    #[error("the words of the log's mutex were overwritten, or this thread has it already")]
    Corrupt,
    /// The seat is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// The end of a log. Clones are the same.
///
/// ```
/// use buffer_pool::tail::{Lsn, Shape, Tail};
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::Table;
///
/// // In real life all of it lies in one shared mapping.
/// let mapping = Mapping::heap(Table::bytes_for(4) as usize);
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 4) }?;
/// let shape = Shape { seats: 4, threads: 1, slots: 16, lane_bytes: 1 << 10 };
/// let mapping = Mapping::heap(Tail::bytes_for(shape) as usize);
/// // SAFETY: as above.
/// unsafe { Tail::create(&mapping, 0, shape, Lsn(4096)) }?;
/// let tail = Tail::attach(&mapping, 0, shape, 7)?;
/// let (me, peer) = (table.join()?, table.join()?);
///
/// let mut user = tail.user(&me, 0)?;
/// let record = user.record(&[b"e4"])?.take_in().map_err(|(_, error)| error)?;
/// tail.user(&peer, 0)?.record(&[b"e5"])?.take_in().map_err(|(_, error)| error)?;
/// assert_eq!(record, Lsn(4096)..Lsn(4096 + 24));
///
/// let (mut bytes, mut writer) = (Vec::new(), tail.writer(&me, None)?);
/// assert_eq!(writer.gather(usize::MAX, &mut bytes)?, Lsn(4096)..Lsn(4096 + 48));
/// // Here they go into a file.
/// writer.wrote();
/// assert_eq!(tail.written(), Lsn(4096 + 48));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Tail {
    head: Mapped<Head>,
    mutex: Mutex,
    places: MappedSlice<Place>,
    rows: MappedSlice<Row>,
    /// The lanes' bytes, one lane after the other.
    lanes: MappedSlice<Word>,
    seats: u32,
    threads: u32,
    lane_bytes: u64,
    /// The log's number, which is in its records' checksums.
    log: u64,
}

/// What is known of where a record ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// There.
    At(Lsn),
    /// It was written out, and its slot is another's.
    Passed,
    /// There is none.
    NotYet,
}

impl Tail {
    /// Bytes that it takes, at an offset that is a multiple of 64.
    pub const fn bytes_for(shape: Shape) -> u64 {
        shape.lanes_at() + shape.rows() * shape.lane_size()
    }

    /// Makes it at `offset` of `mapping`: empty, of a log that ends at `start` so far.
    ///
    /// # Errors
    /// [`TailError`].
    ///
    /// # Safety
    /// Nobody else accesses these bytes until they have been published.
    pub unsafe fn create(
        mapping: &Arc<Mapping>,
        offset: u64,
        shape: Shape,
        start: Lsn,
    ) -> Result<(), TailError> {
        shape.check()?;
        let region = mapping.region();
        // The first lap is lap 1.
        // SAFETY: the caller's promise, here and below.
        unsafe { region.place(offset, Head::new(u64::from(shape.slots), start.0)) }?;
        // SAFETY: as above.
        unsafe { Mutex::create(mapping, offset + shape.mutex_at()) }?;
        for index in 0..u64::from(shape.slots) {
            let at = offset + shape.places_at() + index * size_of::<Place>() as u64;
            // SAFETY: as above.
            unsafe { region.place(at, Place::new(start.0)) }?;
        }
        for index in 0..shape.rows() {
            let at = offset + shape.rows_at() + index * size_of::<Row>() as u64;
            // SAFETY: as above.
            unsafe { region.place(at, Row::new()) }?;
        }
        // Any bytes are a word but in a model.
        if cfg!(any(shm_loom, shm_explore)) {
            for word in 0..shape.rows() * shape.lane_words() {
                let at = offset + shape.lanes_at() + word * size_of::<Word>() as u64;
                // SAFETY: as above.
                unsafe { region.place(at, Word::new()) }?;
            }
        }
        Ok(())
    }

    /// The one at `offset` of `mapping`, of the log that has this number.
    ///
    /// # Errors
    /// [`TailError`].
    pub fn attach(
        mapping: &Arc<Mapping>,
        offset: u64,
        shape: Shape,
        log: u64,
    ) -> Result<Tail, TailError> {
        shape.check()?;
        let (slots, words) = (u64::from(shape.slots), shape.rows() * shape.lane_words());
        Ok(Tail {
            head: Mapped::new(mapping, offset)?,
            mutex: Mutex::attach(mapping, offset + shape.mutex_at())?,
            places: MappedSlice::new(mapping, offset + shape.places_at(), slots)?,
            rows: MappedSlice::new(mapping, offset + shape.rows_at(), shape.rows())?,
            lanes: MappedSlice::new(mapping, offset + shape.lanes_at(), words)?,
            seats: shape.seats,
            threads: shape.threads,
            lane_bytes: u64::from(shape.lane_bytes),
            log,
        })
    }

    /// How long a record can be, its header included.
    pub fn record_max(&self) -> usize {
        self.lane_bytes as usize
    }

    /// Where what was written out ends: what the writers had done before is seen.
    pub fn written(&self) -> Lsn {
        // Pairs with the Release in `Writer::wrote`.
        Lsn(self.head.written.load(Ordering::Acquire))
    }

    /// The right to write out, once nobody else has it.
    ///
    /// # Errors
    /// [`WriterError`].
    ///
    /// # If a process dies here
    /// The next one goes on where it was.
    pub fn writer<'t>(
        &'t self,
        member: &'t Member,
        deadline: Option<Instant>,
    ) -> Result<Writer<'t>, WriterError> {
        let locked = match deadline {
            Some(end) => self.mutex.lock_until(member, end),
            None => self.mutex.lock(member),
        };
        let guard = match locked {
            Err(LockError::Poisoned { .. }) => self.mutex.recover(member),
            locked => locked,
        };
        match guard {
            Ok(guard) => Ok(Writer::new(self, member, guard)),
            // Whatever it left the next one does again.
            Err(LockError::Abandoned(abandoned)) => {
                Ok(Writer::new(self, member, abandoned.recover()))
            }
            Err(LockError::TimedOut) => Err(WriterError::TimedOut),
            Err(LockError::Forked(forked)) => Err(forked.into()),
            Err(_) => Err(WriterError::Corrupt),
        }
    }

    /// Gives up what `gone` had: the right to write out. Its records are in the log.
    ///
    /// # If a process dies here
    /// The next one to clean up, or to write out, does the rest.
    pub fn clean_up(&self, gone: ParticipantId) {
        self.mutex.clean_up(gone);
    }

    /// Whether the record is in the log that the thread of this row made, or was about to make, at
    /// this [place](Record::place). For who knows that the thread is at no other one: it is dead,
    /// and nobody has its row yet; or asks itself.
    pub fn has_taken(&self, row: u32, place: u64) -> bool {
        self.row(row).is_some_and(|words| place < self.head_of(row, words).0)
    }

    /// Where the lane goes on behind the records that are in the log, and where in the log these
    /// have ended at last; and which slot the last of them has, if it may not say so yet.
    fn head_of(&self, row: u32, words: &Row) -> (u64, Lsn, Option<u64>) {
        // Relaxed, all: the proof of the death, or the seat's hand-over.
        let number = words.number.load(Ordering::Relaxed);
        let (head, end, number) = match self.is_taken(row, words, number) {
            true => (&words.behind, &words.end, Some(number)),
            false => (&words.head, &words.begin, None),
        };
        let [head, end] = [head, end].map(|word| word.load(Ordering::Relaxed));
        // Of a liar it may be any.
        ((head % COUNTS_END) & !7, Lsn(end), number)
    }

    /// Whether the thread of this row took the slot that its row names.
    fn is_taken(&self, row: u32, words: &Row, number: u64) -> bool {
        if number == 0 {
            return false;
        }
        let (place, lap) = self.place(number);
        // Pairs with the Release in `Writer::wrote`: `taken`.
        let seen = Slot::from_bits(place.word.load(Ordering::Acquire));
        seen.row_in(lap) == Some(row) || words.taken.load(Ordering::Relaxed) == number
    }

    /// The slot after the last one that was taken: it may be taken by now.
    fn search(&self) -> u64 {
        let slots = self.slots();
        let after = |(index, place): (u64, &Place)| {
            let seen = Slot::from_bits(place.word.load(Ordering::Relaxed));
            let is_free = seen.state() == Some(State::Free);
            let lap = if is_free { seen.lap().saturating_sub(1) } else { seen.lap() };
            word::number(lap, slots, index) + 1
        };
        (0..).zip(self.places.iter()).map(after).max().unwrap_or(0)
    }

    /// The slot of this number, and its lap.
    fn place(&self, number: u64) -> (&Place, u64) {
        let slots = self.slots();
        (&self.places[(number % slots) as usize], number / slots)
    }

    fn slots(&self) -> u64 {
        self.places.len() as u64
    }

    fn row(&self, row: u32) -> Option<&Row> {
        self.rows.get(row as usize)
    }

    /// Of a row that there is.
    fn lane(&self, row: u32) -> Lane<'_> {
        let words = self.lane_bytes as usize / WORD_BYTES;
        let first = row as usize * words;
        Lane { words: &self.lanes[first..first + words] }
    }
}

impl Shape {
    fn check(self) -> Result<(), TailError> {
        let Shape { slots, lane_bytes, .. } = self;
        let rows = self.rows();
        let least = if cfg!(any(shm_loom, shm_explore)) { 24 } else { 64 };
        let are_lanes = lane_bytes.is_multiple_of(8) && (least..1 << 31).contains(&lane_bytes);
        let is_one = slots >= 1 && are_lanes && rows <= u64::from(ROWS_MAX);
        if is_one { Ok(()) } else { Err(TailError::Shape { slots, lane_bytes, rows }) }
    }

    const fn rows(self) -> u64 {
        self.seats as u64 * self.threads as u64
    }

    const fn lane_words(self) -> u64 {
        self.lane_bytes as u64 / WORD_BYTES as u64
    }

    /// A model's words are larger.
    const fn lane_size(self) -> u64 {
        self.lane_words() * size_of::<Word>() as u64
    }

    const fn mutex_at(self) -> u64 {
        (size_of::<Head>() as u64).next_multiple_of(64)
    }

    const fn places_at(self) -> u64 {
        (self.mutex_at() + Mutex::BYTES).next_multiple_of(64)
    }

    const fn rows_at(self) -> u64 {
        self.places_at() + self.slots as u64 * size_of::<Place>() as u64
    }

    const fn lanes_at(self) -> u64 {
        self.rows_at() + self.rows() * size_of::<Row>() as u64
    }
}
