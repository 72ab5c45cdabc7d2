//! Who may read a frame's page, who may write it out, and who may change it.
//!
//! ```text
//!  latches, one cache line a frame                 rows, one cache line a thread
//!  frame 0  [ free             | version 12 ]      p3, thread 0  [ frame 1 | –       | … ]
//!  frame 1  [ SX of p7         | version 4  ]      p3, thread 1  [ –       | –       | … ]
//!  frame 2  [ X of p3          | version 9  ]      p7, thread 0  [ frame 0 | frame 1 | … ]
//!  frame 3  [ torn, left by p5 | version 31 ]
//! ```
//!
//! | mode | beside it | for |
//! | --- | --- | --- |
//! | [look](Latches::look) | all: it is told afterwards whether the page was changed meanwhile | short reads: writes nothing at all |
//! | [share](User::share) | shares and a share-exclusive | long reads: writes the thread's own cache line |
//! | [share-exclusive](User::share_exclusive), SX | shares | writing the page out, which nobody changes meanwhile |
//! | [exclusive](User::exclusive), X | looks, until it begins a [`Change`] | changing the page |
//!
//! The page is another module's affair. Where it is read by looks, its bytes move by relaxed
//! accesses both ways ([`shm_core::bytes::relaxed`]), for a look and a change overlap. A latch says
//! nothing of which page a frame has: pin the page first, or ask again after the look. Who puts
//! another page into a frame changes it, as anybody else.
//!
//! # The protocol
//!
//! The word of a latch names who has it. Its version is odd while the bytes may be in change.
//!
//! | word | becomes | by whom | when |
//! | --- | --- | --- | --- |
//! | free | SX(p), X(p) | p | it wants it |
//! | SX(p) | free, X(p) | p | it is done, or goes on to change the page |
//! | X(p), version even | free, or SX(p) that it was | p | it is done, or gives up waiting for readers |
//! | X(p), version odd | torn(p) | p | it ends its change without saying that the page is whole |
//! | SX(p); X(p), version even | free | anyone who has proved p dead | |
//! | X(p), version odd | torn(p) | anyone who has proved p dead | |
//! | torn(q) | X(p), version odd still | p | it repairs the page, as in a change of its own |
//! | any, but of one who lives | X(p), version odd | p, who has the frame to itself | it [puts another page](User::reclaim) into the frame |
//!
//! | who shares | who takes it exclusively |
//! | --- | --- |
//! | (A) writes its row | (C) word → X(me) |
//! | fence | fence |
//! | (B) looks at the word: free or SX, and it is in; else it takes its row back | (D) looks at each row, and waits until it does not name the frame, or its owner is dead |
//!
//! Of two fences one comes first: either (B) sees the claim and the reader is not in, or (D) sees
//! the row. A row that did not name the frame after (C) need not be looked at again: who writes it
//! later sees the claim. From (C) on no reader enters, so who waits in (D) waits for those who are
//! in, and not for those who come.
//!
//! | who looks | who changes |
//! | --- | --- |
//! | (E) reads the version: even | (H) version odd |
//! | (F) reads the bytes | fence |
//! | fence | (I) writes the bytes |
//! | (G) reads the version: the same | (J) version even, the next |
//!
//! Who has read in (F) what was written in (I) sees in (G) what was written in (H); who has seen
//! (J) in (E) sees the bytes of (I). The version has 64 bits: it does not come back.
//!
//! A thread that has any right to a frame asks for another one only by `try_`, or looks: it may
//! wait for itself, or for one who waits for it. In a forked child a guard protects nothing.
//!
//! # Deaths
//!
//! | dead | it leaves | put right |
//! | --- | --- | --- |
//! | who looks | nothing | – |
//! | who shares, or is about to | a word of its row, which names it and the frame | who waits for the row and proves the death empties it; or [`clean_up`](Latches::clean_up) |
//! | who has SX | SX(dead); the page is whole | who waits for it, or cleans up, frees it |
//! | who has X, or waits for readers | X(dead), version even: nothing was changed, or all of it | the same |
//! | who changes, or repairs | X(dead), version odd, bytes in part | who waits for it, or cleans up, says torn(dead); each taker is told ([`LatchError::Torn`]), until one [repairs](User::repair) |
//! | who puts it right | the same as before, or what it was to become | the next one |
//! | any of them, between a change of a word and its wake-up | sleepers | each sleeps on the life word of the one it waits for, too; and, for one that is stopped there, looks for itself once a second |
//!
//! Each repair is one compare-and-swap from a word that names the dead one, who writes no more:
//! whoever comes second, or too late, changes nothing. Who waits for a process that is stopped
//! waits until its deadline. Where that is one who wants a frame exclusively, and a reader is
//! stopped, nobody enters meanwhile; looks go on.
//!
//! The proof of a death covers what its process did: the bytes of a change move by its own stores
//! and calls, and not by a kernel's that go on behind it (a ring that others share, say).
//!
//! # Lies
//!
//! A word that says nothing is [`LatchError::Corrupt`]; one that names nobody is taken for one of a
//! dead process; one that names somebody who knows nothing of it is waited for until the deadline.
//! A version that never stays, or is odd for ever, sends readers to the rows. A peer that writes
//! latches at will can have two change a page at once, as it could change it itself.
mod exclusive;
mod guard;
mod read;
mod reclaim;
mod shared;
mod user;
mod word;

pub use guard::{Change, Exclusive, Share, ShareExclusive};
pub use user::{User, UserError};

use crate::wait::{TimedOut, Waiter};
use shared::{Latch, Row};
use shm_core::BadPtr;
use shm_core::mapping::{MappedSlice, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::process::Forked;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use word::{Shared, State, Word};

/// How many of what there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Frames, of a latch each.
    pub frames: u32,
    /// Seats of the [table of participants](shm_core::participants::Table).
    pub seats: u32,
    /// Threads of a process, of a row each.
    pub threads: u32,
}

/// How somebody has a latch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It may write the page out; readers go on.
    ShareExclusive,
    /// It has the page alone, or waits for readers to go.
    Exclusive,
    /// It ended while it changed the page: nobody has the latch.
    Torn,
}

/// Why a latch was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LatchError {
    /// The deadline passed.
    #[error("the latch was not free before the deadline")]
    TimedOut,
    /// Somebody ended while it changed the page, which may be half of each: [`User::repair`] it.
    #[error("participant {by} was changing the page when it ended: repair it, or read it again")]
    Torn {
        /// Who left it so.
        by: ParticipantId,
    },
    /// This thread has as many shares as it can.
    #[error("this thread shares as many frames as it can: let go of one")]
    TooManyShares,
    /// There is no such frame.
    #[error("there is no latch of frame {0}")]
    NoSuchFrame(u32),
    /// The word of the latch is nonsense.
    #[error("the latch was overwritten")]
    Corrupt,
    /// The seat is the parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
}

impl From<TimedOut> for LatchError {
    fn from(TimedOut: TimedOut) -> LatchError {
        LatchError::TimedOut
    }
}

/// The latches of a pool's frames, and the rows of who shares them. Clones are the same.
///
/// ```
/// use buffer_pool::latch::{Latches, Shape};
/// use shm_core::bytes::{Word, relaxed};
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::Table;
///
/// // In real life all of it lies in one shared mapping.
/// let mapping = Mapping::heap(Table::bytes_for(4) as usize);
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 4) }.unwrap();
/// let shape = Shape { frames: 2, seats: 4, threads: 1 };
/// let mapping = Mapping::heap(Latches::bytes_for(shape) as usize);
/// // SAFETY: as above.
/// unsafe { Latches::create(&mapping, 0, shape) }.unwrap();
/// let latches = Latches::attach(&mapping, 0, shape).unwrap();
/// let (frame, page) = (1, [const { Word::new() }; 2]);
///
/// let user = latches.user(&table.join().unwrap(), 0).unwrap();
/// let change = user.exclusive(frame, None).unwrap().change().unwrap();
/// relaxed::copy_in(&page, 0, b"sixteen bytes, a");
/// drop(change.done().unwrap());
///
/// let mut bytes = [0; 5];
/// user.read(frame, None, || relaxed::copy_out(&page, 8, &mut bytes)).unwrap();
/// assert_eq!(&bytes, b"bytes");
/// ```
#[derive(Clone, Debug)]
pub struct Latches {
    latches: MappedSlice<Latch>,
    rows: MappedSlice<Row>,
    /// Whose each row is.
    users: MappedSlice<AtomicU32>,
    threads: u32,
}

impl Latches {
    /// Bytes that they take, at an offset that is a multiple of 64.
    pub const fn bytes_for(shape: Shape) -> u64 {
        users_at(shape) + rows_of(shape) * size_of::<AtomicU32>() as u64
    }

    /// Makes them at `offset` of `mapping`, all free.
    ///
    /// # Errors
    /// [`BadPtr`] where they do not fit.
    ///
    /// # Safety
    /// Nobody else accesses these bytes until they have been published.
    pub unsafe fn create(mapping: &Arc<Mapping>, offset: u64, shape: Shape) -> Result<(), BadPtr> {
        let (region, rows) = (mapping.region(), rows_of(shape));
        for index in 0..u64::from(shape.frames) {
            let at = offset + index * size_of::<Latch>() as u64;
            // SAFETY: the caller's promise.
            unsafe { region.place(at, Latch::new()) }?;
        }
        for index in 0..rows {
            let at = offset + rows_at(shape) + index * size_of::<Row>() as u64;
            // SAFETY: as above.
            unsafe { region.place(at, Row::new()) }?;
            let at = offset + users_at(shape) + index * size_of::<AtomicU32>() as u64;
            // SAFETY: as above.
            unsafe { region.place(at, shared::no_user()) }?;
        }
        Ok(())
    }

    /// Those at `offset` of `mapping`.
    ///
    /// # Errors
    /// [`BadPtr`] where they do not lie in the mapping.
    pub fn attach(mapping: &Arc<Mapping>, offset: u64, shape: Shape) -> Result<Latches, BadPtr> {
        let (frames, rows) = (u64::from(shape.frames), rows_of(shape));
        Ok(Latches {
            latches: MappedSlice::new(mapping, offset, frames)?,
            rows: MappedSlice::new(mapping, offset + rows_at(shape), rows)?,
            users: MappedSlice::new(mapping, offset + users_at(shape), rows)?,
            threads: shape.threads,
        })
    }

    /// Gives up what `gone` had: its shares, and what it had alone; a page that it was changing is
    /// torn. Looks at every frame.
    ///
    /// For who cleans up after the dead ([`Table::reap`](shm_core::participants::Table::reap)), or
    /// after itself ([`Member::on_leave`](shm_core::participants::Member::on_leave)): a participant
    /// that will never act again: of a living one two could change a page at once. Without it
    /// whoever waits does the same for what it waits for.
    ///
    /// # If a process dies here
    /// Some of it is given up, and the next one to clean up does the rest.
    pub fn clean_up(&self, gone: ParticipantId) {
        for latch in self.latches.iter() {
            let word = Word::from_bits(latch.word.load(Ordering::Relaxed));
            if word.is_of(gone) {
                settle(latch, word);
            }
        }
        let first = gone.slot() as usize * self.threads as usize;
        let rows = self.users.iter().zip(self.rows.iter());
        for (user, row) in rows.skip(first).take(self.threads as usize) {
            for share in &row.shares {
                let seen = Shared::from_bits(share.load(Ordering::Relaxed));
                if seen.owner() == Some(gone) {
                    self.bury(share, seen);
                }
            }
            // Pairs with the Acquire in `shares`: what was read under its shares.
            let (ok, err) = (Ordering::Release, Ordering::Relaxed);
            // Where it fails the row is another's by now.
            let _ = user.compare_exchange(gone.to_bits(), 0, ok, err);
        }
    }

    /// Who has the latch of `frame`, living or dead; `None` where it is free, or shared at most,
    /// where it is nonsense, and where there is none. A hint, for who shows it.
    pub fn owner(&self, frame: u32) -> Option<(Mode, ParticipantId)> {
        let word = self.latches.get(frame as usize)?.word.load(Ordering::Relaxed);
        match Word::from_bits(word).state()? {
            State::Free => None,
            State::ShareExclusive(who) => Some((Mode::ShareExclusive, who)),
            State::Exclusive(who) => Some((Mode::Exclusive, who)),
            State::Torn(who) => Some((Mode::Torn, who)),
        }
    }

    #[inline]
    fn latch(&self, frame: u32) -> Result<&Latch, LatchError> {
        self.latches.get(frame as usize).ok_or(LatchError::NoSuchFrame(frame))
    }

    /// All words of all rows that somebody uses.
    fn shares(&self) -> impl Iterator<Item = &AtomicU64> {
        // Pairs with the Release in `clean_up`: what was read under shares that we do not look at.
        let in_use = |(user, _): &(&AtomicU32, &Row)| user.load(Ordering::Acquire) != 0;
        self.users.iter().zip(self.rows.iter()).filter(in_use).flat_map(|(_, row)| &row.shares)
    }

    /// A dead one's share, given up.
    #[cold]
    fn bury(&self, share: &AtomicU64, seen: Shared) {
        // Pairs with the Acquire in `sharer`: what the dead one read.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        // Where it fails somebody else did it.
        let _ = share.compare_exchange(seen.to_bits(), Shared::NOTHING.to_bits(), ok, err);
        if let Ok(latch) = self.latch(seen.frame()) {
            latch.drained.notify();
        }
    }
}

/// Waits until the latch is no longer as `owner` has it, or gives up what that one has, where it
/// is dead.
#[cold]
fn wait_for(
    waiter: &mut Waiter<'_>,
    latch: &Latch,
    seen: Word,
    owner: ParticipantId,
) -> Result<(), TimedOut> {
    if waiter.outlives(owner, &latch.word, seen.to_bits(), &latch.freed) {
        settle(latch, seen);
        return waiter.goes_on_from_the_dead();
    }
    waiter.goes_on()
}

/// What a dead one has alone, given up.
#[cold]
fn settle(latch: &Latch, word: Word) {
    let next = match word.state() {
        // Relaxed: the proof of the death has shown us what it wrote last.
        Some(State::Exclusive(dead)) if latch.version.load(Ordering::Relaxed) & 1 == 1 => {
            Word::torn(dead)
        }
        _ => Word::FREE,
    };
    // Pairs with the Acquires in `takes`, `repair` and `enters`: the last words of the dead.
    let (ok, err) = (Ordering::Release, Ordering::Relaxed);
    // Where it fails somebody else did it. Its sleepers know of the death by themselves.
    let _ = latch.word.compare_exchange(word.to_bits(), next.to_bits(), ok, err);
    latch.freed.notify();
}

const fn rows_of(shape: Shape) -> u64 {
    shape.seats as u64 * shape.threads as u64
}

const fn rows_at(shape: Shape) -> u64 {
    shape.frames as u64 * size_of::<Latch>() as u64
}

const fn users_at(shape: Shape) -> u64 {
    rows_at(shape) + rows_of(shape) * size_of::<Row>() as u64
}
