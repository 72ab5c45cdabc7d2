//! A subscriber's half.
use super::cells::{Cells, Place};
use super::rows::{is_open, leave_row, strike_row, take_row};
use super::shared::{Mark, Row};
use super::{Broadcast, LOOKED_EVERY, Lapped, STOPPED_EVERY, SubscribeError, Subscription};
use crate::spsc::{Seat, gone};
use crate::stream::OneMapping;
use crate::wait::{Missing, look_until, sleeps_by};
use crate::waitset::Source;
use shm_core::bytes::View;
use shm_core::event::EventCount;
use shm_core::participants::{Member, Watch};
use shm_core::process::ForkGuard;
use shm_core::sync::Ordering;
use shm_core::trust::Crashing;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who finds no record asks so seldom whether there is one all the same: its publisher's line is
/// left alone by who keeps up. Often, in models.
const ASKED_EVERY: u32 = if cfg!(any(shm_loom, shm_explore)) { 2 } else { 16 };

/// Why a subscriber has no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The deadline passed.
    #[error("the deadline passed before a record came")]
    TimedOut,
    /// Of a lossy broadcast: so many records were written over before they were read here. The next
    /// receive goes on behind them.
    #[error("{records} records were missed")]
    Missed {
        /// Exactly how many, since the last record that was received or reported as missed.
        records: u64,
    },
    /// The publisher has left, nobody has come in its place, and all it published has been
    /// received.
    #[error("the publisher has left")]
    Detached,
    /// The publisher's process has died, and all it published has been received. Its successor goes
    /// on; a stranger has none.
    #[error("the publisher's process has died")]
    PublisherDied,
    /// Another process wrote nonsense into shared memory. The handle is of no further use.
    #[error("the broadcast is corrupt")]
    Corrupt,
    /// The handle belongs to the process that this one was forked from.
    #[error("the subscriber was made by the process that this one was forked from")]
    Forked,
}

impl From<Missing> for RecvError {
    fn from(missing: Missing) -> RecvError {
        match missing {
            Missing::TimedOut => RecvError::TimedOut,
            Missing::Detached => RecvError::Detached,
            Missing::Died => RecvError::PublisherDied,
        }
    }
}

/// Who receives all records of a [`Broadcast`], from where it began: one thread at a time.
///
/// It can move to another thread, but not be shared:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<shm_mq::broadcast::Subscriber>();
/// ```
///
/// # If a process dies here
/// Its row is freed by who finds it in the way, or looks for the dead. A restarted process
/// subscribes anew.
pub struct Subscriber<T: OneMapping = Crashing> {
    cells: Cells<T>,
    /// A record, where it is not lent where it lies.
    copy: Vec<u8>,
    cursor: Cursor<T>,
}

/// How far a subscriber is. Apart from the bytes, which a [`Record`] borrows beside it.
struct Cursor<T: OneMapping> {
    broadcast: Broadcast<T>,
    /// Which row is ours.
    row: usize,
    member: Arc<Member>,
    fork: ForkGuard,
    /// The publisher, as we have last looked for it.
    watch: Option<Watch>,
    lapped: Lapped,
    /// The record that is read next.
    place: Place,
    missed: u64,
    /// The number when the publisher was woken last, if it slept.
    woken: u64,
    /// Looks that found no record.
    in_vain: u32,
    is_corrupt: bool,
    not_sync: PhantomData<Cell<()>>,
}

impl<T: OneMapping> Subscriber<T> {
    pub(super) fn open(
        broadcast: &Broadcast<T>,
        me: &Arc<Member>,
        subscription: Subscription,
    ) -> Result<Subscriber<T>, SubscribeError> {
        me.check_fork().map_err(|_| SubscribeError::Forked)?;
        let (row, number) = take_row(broadcast, me, subscription.start)?;
        let cursor = Cursor {
            broadcast: broadcast.clone(),
            row,
            member: me.clone(),
            fork: ForkGuard::new(),
            watch: None,
            lapped: subscription.lapped,
            place: Place::of(number, broadcast.cells.count()),
            missed: 0,
            woken: number,
            in_vain: 0,
            is_corrupt: false,
            not_sync: PhantomData,
        };
        Ok(Subscriber { cells: broadcast.cells.clone(), copy: Vec::new(), cursor })
    }

    /// The number of the record that is received next, unless it is missed: each that was published
    /// has one, from 0 on.
    pub fn position(&self) -> u64 {
        self.cursor.place.number
    }

    /// Records that it was told to have missed.
    pub fn missed(&self) -> u64 {
        self.cursor.missed
    }

    /// Records that were published, and that it has not received yet, as far as can be seen.
    pub fn lag(&self) -> u64 {
        let published = self.cursor.broadcast.published().unwrap_or(0);
        published.saturating_sub(self.cursor.place.number)
    }

    /// The next record if there is one now.
    ///
    /// # Errors
    /// [`RecvError`], but not [`TimedOut`](RecvError::TimedOut), and the publisher's end only once
    /// all is received.
    ///
    /// # If a process dies here
    /// Its row is freed, and holds nobody back.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<Record<'_, T>>, RecvError> {
        match self.find()? {
            Some(len) => Ok(Some(self.record(len))),
            None => self.find_before_the_end().map(|len| len.map(|len| self.record(len))),
        }
    }

    /// The next record, waiting until `deadline`, or as long as it takes.
    ///
    /// It keeps the subscriber borrowed: a lossless publisher does not get the cell back before it
    /// is dropped.
    ///
    /// # Errors
    /// [`RecvError`].
    ///
    /// # If a process dies here
    /// As in [`try_recv`](Subscriber::try_recv).
    #[inline]
    pub fn recv(&mut self, deadline: Option<Instant>) -> Result<Record<'_, T>, RecvError> {
        let len = match self.find()? {
            Some(len) => len,
            None => self.wait(deadline)?,
        };
        Ok(self.record(len))
    }

    /// Waits until a publisher is there.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`], [`RecvError::Corrupt`], [`RecvError::Forked`];
    /// [`RecvError::PublisherDied`] where one is dead that nobody has come after.
    pub fn wait_for_publisher(&mut self, deadline: Option<Instant>) -> Result<(), RecvError> {
        self.cursor.usable()?;
        let look = |cursor: &mut Cursor<T>, _| match cursor.gone() {
            None if cursor.has_publisher() => Some(Ok(())),
            // Somebody may come after it.
            None | Some(Missing::Detached) => None,
            Some(gone) => Some(Err(gone.into())),
        };
        look_until(&mut self.cursor, |cursor| cursor, deadline, look)
            .unwrap_or(Err(RecvError::TimedOut))
    }

    #[cold]
    fn wait(&mut self, deadline: Option<Instant>) -> Result<usize, RecvError> {
        let look = |subscriber: &mut Self, _| subscriber.find_before_the_end().transpose();
        look_until(self, |subscriber| &mut subscriber.cursor, deadline, look)
            .unwrap_or(Err(RecvError::TimedOut))
    }

    /// Looks at the publisher, and then once more for a record: it may have published one before
    /// its end.
    #[cold]
    fn find_before_the_end(&mut self) -> Result<Option<usize>, RecvError> {
        let end = self.cursor.end();
        match (self.find()?, end) {
            (None, Some(end)) => Err(end),
            (found, _) => Ok(found),
        }
    }

    /// The length of the next record, if it is there. Where it is not lent, it has been copied.
    #[inline]
    fn find(&mut self) -> Result<Option<usize>, RecvError> {
        self.cursor.usable()?;
        let at = self.cursor.place;
        let mark = self.cells.look(at);
        if mark == Mark::there(at.number) {
            self.read(at).map(Some)
        } else if mark.bits() <= Mark::writing(at.number).bits() {
            Ok(None)
        } else {
            Err(self.lapped())
        }
    }

    /// Copies the record that is there, or leaves it where it lies.
    #[inline]
    fn read(&mut self, at: Place) -> Result<usize, RecvError> {
        let len = self.cells.len(at);
        if self.cells.is_in_place() {
            return len.ok_or_else(|| self.cursor.corrupt());
        }
        if let Some(len) = len {
            self.cells.copy(at, len, &mut self.copy);
        }
        if !self.cells.is_still_there(at) {
            return Err(self.lapped());
        }
        len.ok_or_else(|| self.cursor.corrupt())
    }

    /// Another record is in our cell than the one that was to be read: goes on with one that may
    /// still be there, and says how many are missed.
    #[cold]
    fn lapped(&mut self) -> RecvError {
        let cursor = &mut self.cursor;
        let (at, count) = (cursor.place, self.cells.count());
        let published = || cursor.broadcast.published();
        let to = self.cells.after_lap(at, cursor.lapped, published);
        let (Some(to), true) = (to, self.cells.is_lossy()) else { return cursor.corrupt() };
        let records = to - at.number;
        cursor.missed = cursor.missed.saturating_add(records);
        cursor.place = Place::of(to, count);
        cursor.row().missed.store(cursor.missed, Ordering::Relaxed);
        cursor.row().position.store(to, Ordering::Relaxed);
        RecvError::Missed { records }
    }

    /// The record that `find` has found.
    #[inline]
    fn record(&mut self, len: usize) -> Record<'_, T> {
        let bytes = if self.cells.is_in_place() {
            // SAFETY: our row says that we read it until `Held` says otherwise, after the view.
            unsafe { self.cells.view(self.cursor.place, len) }
        } else {
            View::from(&self.copy[..len])
        };
        Record { bytes, held: Held { cursor: &mut self.cursor } }
    }
}

/// Ready where [`try_recv`](Subscriber::try_recv) gives a record, or an error: that some were
/// missed, too.
impl<T: OneMapping> Source for Subscriber<T> {
    fn is_ready(&mut self) -> bool {
        // Whether we were lapped is for `try_recv` to find out, and to say.
        self.cursor.usable().is_err() || self.cursor.has_come() || self.cursor.is_ready()
    }

    sleeps_by!(cursor);
}

impl<T: OneMapping> Cursor<T> {
    #[inline]
    fn row(&self) -> &Row {
        &self.broadcast.rows[self.row]
    }

    #[inline]
    fn usable(&self) -> Result<(), RecvError> {
        if self.fork.check().is_err() {
            return Err(RecvError::Forked);
        }
        if self.is_corrupt { Err(RecvError::Corrupt) } else { Ok(()) }
    }

    #[cold]
    fn corrupt(&mut self) -> RecvError {
        self.is_corrupt = true;
        strike_row(&self.broadcast.shared, self.row(), self.member.id());
        RecvError::Corrupt
    }

    /// Whether the record at `place` is there, or was.
    fn has_come(&self) -> bool {
        self.broadcast.cells.look(self.place).bits() > Mark::writing(self.place.number).bits()
    }

    /// Why none comes, for who has found no record. One may have come before the end: look again.
    #[cold]
    fn end(&mut self) -> Option<RecvError> {
        self.wake();
        if !is_open(self.row(), self.member.id()) || self.is_withheld() {
            return Some(self.corrupt());
        }
        self.gone().map(RecvError::from)
    }

    /// Whether the record was published, and somebody has scribbled over its mark: else who waits
    /// for it, and a lossless publisher that waits for him, would wait for ever.
    fn is_withheld(&mut self) -> bool {
        self.in_vain = self.in_vain.wrapping_add(1);
        self.in_vain.is_multiple_of(ASKED_EVERY)
            && self.broadcast.published().is_none_or(|published| published > self.place.number)
            && !self.has_come()
    }

    fn gone(&mut self) -> Option<Missing> {
        gone(&self.broadcast.shared.publisher, &self.member, &mut self.watch)
    }

    fn has_publisher(&self) -> bool {
        let bits = self.broadcast.shared.publisher.load(Ordering::Relaxed);
        matches!(Seat::from_bits(bits), Seat::Open(_))
    }

    /// Says that the record at `place` has been read.
    #[inline]
    fn release(&mut self) {
        let cells = &self.broadcast.cells;
        self.place = self.place.next(cells.count());
        let is_lossy = cells.is_lossy();
        let number = self.place.number;
        // Pairs with the Acquire in `look_at_rows`: our last look at the records before.
        self.row().position.store(number, Ordering::Release);
        if !is_lossy {
            // Without a fence: it may miss one that falls asleep now, which looks again soon.
            self.broadcast.shared.left.notify_seen();
        }
    }

    /// Wakes a lossless publisher, if it sleeps and something was read since the last time.
    #[inline]
    fn wake(&mut self) {
        if !self.broadcast.cells.is_lossy() && self.woken != self.place.number {
            self.woken = self.place.number;
            self.broadcast.shared.left.notify();
        }
    }

    /// The publisher, to sleep on its life.
    fn living(&self) -> Option<&Watch> {
        self.watch.as_ref().filter(|watch| !watch.is_dead())
    }
}

/// Ready once the publisher is gone.
impl<T: OneMapping> Source for Cursor<T> {
    fn is_ready(&mut self) -> bool {
        self.end().is_some()
    }

    fn bed(&self) -> Option<&EventCount> {
        Some(&self.broadcast.shared.arrived)
    }

    fn peers<'s>(&'s self, to: &mut Vec<&'s Watch>) {
        to.extend(self.living());
    }

    fn sleep_max(&self) -> Option<Duration> {
        match self.living() {
            // Nobody has the role: there is no life word to sleep on.
            None => Some(LOOKED_EVERY),
            // A model has no clock.
            Some(_) if cfg!(any(shm_loom, shm_explore)) => None,
            // It may stand still between a record and its wake-up.
            Some(_) => Some(STOPPED_EVERY),
        }
    }
}

impl<T: OneMapping> Drop for Cursor<T> {
    /// Gives the row back.
    ///
    /// # If a process dies here
    /// The row is free, or is freed by who finds it in the way.
    fn drop(&mut self) {
        if self.fork.check().is_ok() {
            leave_row(&self.broadcast.shared, self.row(), self.member.id());
        }
    }
}

impl<T: OneMapping> fmt::Debug for Subscriber<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, missed) = (self.position(), self.missed());
        f.debug_struct("Subscriber").field("position", &position).field("missed", &missed).finish()
    }
}

/// A received record: its bytes, in their cell or in the subscriber's private buffer.
///
/// Dropping it says that it has been read.
pub struct Record<'r, T: OneMapping = Crashing> {
    bytes: View<'r>,
    /// Dropped after the bytes.
    held: Held<'r, T>,
}

impl<T: OneMapping> Record<'_, T> {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.held.cursor.place.number
    }

    /// Leaves the record for the next receive. One of a lossy broadcast may be gone by then.
    pub fn put_back(self) {
        // What says that it was read is `Held`; a view holds nothing.
        std::mem::forget(self);
    }

    /// Lets go of it: what is left is in private memory.
    pub fn into_owned(self) -> Arrival {
        Arrival::Record { number: self.number(), bytes: self.to_vec() }
    }
}

/// What a task receives of a broadcast.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// A [`Record`] that was let go of.
    Record {
        /// Its number.
        number: u64,
        /// The record.
        bytes: Vec<u8>,
    },
    /// So many were [missed](RecvError::Missed).
    Missed {
        /// Exactly how many.
        records: u64,
    },
}

impl<T: OneMapping> Deref for Record<'_, T> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: OneMapping> fmt::Debug for Record<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Record").field(&&self.bytes[..]).finish()
    }
}

/// Says that the record has been read, at its end.
struct Held<'r, T: OneMapping> {
    cursor: &'r mut Cursor<T>,
}

impl<T: OneMapping> Drop for Held<'_, T> {
    /// # If a process dies here
    /// The row says the one or the other, and is freed.
    #[inline]
    fn drop(&mut self) {
        // To a forked child it was never given: its parent still reads these bytes.
        if self.cursor.fork.check().is_ok() {
            self.cursor.release();
        }
    }
}
