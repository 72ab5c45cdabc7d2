//! The receiver's half.
use super::level::{Level, Link};
use super::lines::{Header, Lines, Place, words_for};
use super::role::{Peer, Side, take};
use super::shared::{Seat, Shared, Told};
use super::{AttachError, Queue};
use crate::hand_back::HandBack;
use crate::stream::OneMapping;
use crate::wait::{Missing, look_until, sleeps_by};
use crate::waitset::Source;
use shm_core::bytes::View;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::Member;
use shm_core::process::ForkGuard;
use shm_core::trust::Crashing;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

/// Why no record was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The deadline passed.
    #[error("the deadline passed before a record came")]
    TimedOut,
    /// The sender has left, nobody has come in its place, and all that was sent has been received.
    #[error("the sender has detached")]
    Detached,
    /// The sender's process has died, and all it sent has been received. Its successor goes on. Or
    /// a hostile one has died or hung up, and has none.
    #[error("the sender's process has died")]
    PeerDied,
    /// The sender wrote nonsense into shared memory. The handle is of no further use.
    #[error("the queue is corrupt: a record's header makes no sense")]
    Corrupt,
    /// The handle belongs to the process that this one was forked from.
    #[error("the receiver was attached by the process that this one was forked from")]
    Forked,
}

impl From<Missing> for RecvError {
    fn from(missing: Missing) -> RecvError {
        match missing {
            Missing::TimedOut => RecvError::TimedOut,
            Missing::Detached => RecvError::Detached,
            Missing::Died => RecvError::PeerDied,
        }
    }
}

/// The receiving end of a [`Queue`]: one thread at a time.
///
/// It can move to another thread, but not be shared:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<shm_mq::spsc::Receiver>();
/// ```
///
/// # If a process dies here
/// What it has not released stays in the queue: who takes the role next receives it, that which it
/// was about to release included. [`received`](Receiver::received) says how many it had released.
pub struct Receiver<T: Level = Crashing> {
    pub(super) lines: Lines<T>,
    /// A record, where it is not lent where it lies.
    pub(super) copy: Vec<u8>,
    pub(super) cursor: Cursor<T>,
}

/// How far the receiver is. Apart from the bytes, which a [`Record`] borrows beside it.
pub(super) struct Cursor<T: Level> {
    pub(super) link: T::Link,
    fork: ForkGuard,
    /// Words of the ring.
    count: u64,
    record_bytes_max: usize,
    /// Where the next record is, and its number.
    place: Place,
    records: u64,
    told: Told,
    /// The position when the sender was woken last, if it slept.
    woken: u64,
    pub(super) is_corrupt: bool,
    hand_back: HandBack<T>,
    not_sync: PhantomData<Cell<()>>,
}

impl Receiver {
    /// Takes the receiver's role in the queue at `offset` of `mapping`, whose records are what
    /// `fingerprint` says.
    ///
    /// # Errors
    /// [`AttachError`].
    ///
    /// # If a process dies here
    /// It has the role or not; if it has, the next one takes it over.
    pub fn attach(
        m: &Arc<Mapping>,
        offset: u64,
        fingerprint: u64,
        me: &Arc<Member>,
    ) -> Result<Receiver, AttachError> {
        Queue::attach(m, offset, fingerprint)?.receiver(me)
    }
}

impl<T: OneMapping> Receiver<T> {
    pub(super) fn open(
        shared: &Mapped<Shared>,
        lines: Lines<T>,
        me: &Arc<Member>,
    ) -> Result<Receiver<T>, AttachError> {
        me.check_fork()?;
        take(&shared.receiver, me, me.id(), Seat::Open)?;
        let peer = Peer::new(shared, Side::Receiver, me.clone());
        let Some(told) = shared.released.last() else {
            // Nobody is to wait for who has no handle.
            peer.leave();
            return Err(AttachError::Corrupt);
        };
        Ok(Receiver::go_on(lines, peer, told))
    }

    /// For who has the role by now.
    pub(super) fn go_on(lines: Lines<T>, peer: Peer, told: Told) -> Receiver<T> {
        peer.wake();
        Receiver::new(lines, peer, told)
    }

    /// Waits until a sender has attached.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`], [`RecvError::PeerDied`].
    pub fn wait_for_peer(&mut self, deadline: Option<Instant>) -> Result<(), RecvError> {
        Ok(self.cursor.link.wait_until_open(deadline)?)
    }
}

impl<T: Level> Receiver<T> {
    /// A receiver that goes on behind what was `told`.
    pub(super) fn new(lines: Lines<T>, link: T::Link, told: Told) -> Receiver<T> {
        let count = lines.count();
        let cursor = Cursor {
            record_bytes_max: lines.record_bytes_max().min(link.message_bytes_max()),
            link,
            fork: ForkGuard::new(),
            count,
            place: Place::at(told.position, count),
            records: told.records,
            told,
            woken: told.position,
            is_corrupt: false,
            hand_back: lines.hand_back(),
            not_sync: PhantomData,
        };
        Receiver { lines, copy: Vec::new(), cursor }
    }

    /// The longest record, in bytes.
    pub fn record_bytes_max(&self) -> usize {
        self.cursor.record_bytes_max
    }

    /// Records that receivers of this queue ever released. Of a receiver that takes over from a
    /// dead one: up to here its predecessor has them.
    pub fn received(&self) -> u64 {
        self.cursor.records
    }

    /// The next record if there is one now.
    ///
    /// # Errors
    /// [`RecvError`], but not [`TimedOut`](RecvError::TimedOut), and the sender's end only once
    /// all is received.
    ///
    /// # If a process dies here
    /// The record is the successor's.
    #[inline(always)]
    pub fn try_recv(&mut self) -> Result<Option<Record<'_, T>>, RecvError> {
        match self.find()? {
            Some(len) => Ok(Some(self.record(len))),
            None => self.find_before_the_end().map(|len| len.map(|len| self.record(len))),
        }
    }

    /// The next record, waiting as long as it takes.
    ///
    /// It keeps the receiver borrowed, for the sender gets the room back when it is dropped.
    ///
    /// # Errors
    /// [`RecvError`], but not [`TimedOut`](RecvError::TimedOut).
    ///
    /// # If a process dies here
    /// The record is the successor's.
    #[inline(always)]
    pub fn recv(&mut self) -> Result<Record<'_, T>, RecvError> {
        self.recv_until(None)
    }

    /// As [`recv`](Receiver::recv), until `deadline`.
    ///
    /// # Errors
    /// [`RecvError`].
    ///
    /// # If a process dies here
    /// The record is the successor's.
    #[inline(always)]
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Record<'_, T>, RecvError> {
        self.recv_until(Some(deadline))
    }

    #[inline(always)]
    fn recv_until(&mut self, deadline: Option<Instant>) -> Result<Record<'_, T>, RecvError> {
        let len = match self.find()? {
            Some(len) => len,
            None => self.wait(deadline)?,
        };
        Ok(self.record(len))
    }

    #[cold]
    fn wait(&mut self, deadline: Option<Instant>) -> Result<usize, RecvError> {
        let look = |receiver: &mut Self, _| receiver.find_before_the_end().transpose();
        look_until(self, |receiver| &mut receiver.cursor.link, deadline, look)
            .unwrap_or(Err(RecvError::TimedOut))
    }

    /// Looks at the sender, and then once more for a record: it may have published one before its
    /// end.
    #[cold]
    pub(crate) fn find_before_the_end(&mut self) -> Result<Option<usize>, RecvError> {
        self.cursor.wake();
        let gone = self.cursor.link.gone();
        match (self.find()?, gone) {
            (None, Some(gone)) => Err(gone.into()),
            (found, _) => Ok(found),
        }
    }

    /// The length of the next record, if it is there.
    #[inline(always)]
    pub(crate) fn find(&mut self) -> Result<Option<usize>, RecvError> {
        let cursor = &mut self.cursor;
        cursor.usable()?;
        let (number, mut steps) = (cursor.records as u32, 0);
        loop {
            let to_end = cursor.place.to_end(cursor.count);
            match self.lines.look(cursor.place) {
                Header::Nothing => return Ok(None),
                Header::Record { number: its, len }
                    if its == number
                        && len <= cursor.record_bytes_max
                        && words_for(len) <= to_end =>
                {
                    return Ok(Some(len));
                }
                Header::NextLine { number: its } if its == number && steps == 0 => {
                    steps = 1;
                    cursor.place = cursor.place.plus(cursor.place.to_next_line(), cursor.count);
                }
                Header::AtTheBeginning { number: its }
                    if its == number && steps == 0 && to_end < cursor.count =>
                {
                    steps = 1;
                    cursor.place = cursor.place.plus(to_end, cursor.count);
                }
                _ => {
                    cursor.is_corrupt = true;
                    return Err(RecvError::Corrupt);
                }
            }
        }
    }

    /// The record that `find` has found.
    #[inline(always)]
    pub(crate) fn record(&mut self, len: usize) -> Record<'_, T> {
        let place = self.cursor.place;
        let bytes = if T::IN_PLACE {
            // SAFETY: the record is ours until `Held` releases it, after the view.
            unsafe { self.lines.view(place, len) }
        } else {
            self.copy.clear();
            // SAFETY: the record is ours.
            unsafe { self.lines.append(place, len, &mut self.copy) };
            View::from(self.copy.as_slice())
        };
        Record { bytes, held: Held { cursor: &mut self.cursor, len } }
    }
}

/// Ready where [`try_recv`](Receiver::try_recv) gives a record, or an error.
impl<T: Level> Source for Receiver<T> {
    fn is_ready(&mut self) -> bool {
        let found = match self.find() {
            Ok(None) => self.find_before_the_end(),
            found => found,
        };
        !matches!(found, Ok(None))
    }

    sleeps_by!(cursor.link);
}

impl<T: Level> Cursor<T> {
    #[inline(always)]
    fn usable(&self) -> Result<(), RecvError> {
        if self.fork.check().is_err() {
            return Err(RecvError::Forked);
        }
        if self.is_corrupt { Err(RecvError::Corrupt) } else { Ok(()) }
    }

    /// Gives the words of the record at `place` back.
    #[inline(always)]
    fn release(&mut self, len: usize) {
        // SAFETY: the record is ours, and nobody looks at it any more.
        unsafe { self.hand_back.before(self.place.first_word(), len) };
        self.place = self.place.plus(words_for(len), self.count);
        self.records = self.records.wrapping_add(1);
        let (position, records) = (self.place.position, self.records);
        self.link.tell_released(&mut self.told, position, records);
        if position.wrapping_sub(self.woken) > self.count / 4 {
            self.wake();
        } else {
            self.link.wake_seen();
        }
    }

    /// Wakes the sender, if it sleeps and something was released since the last time.
    #[inline(always)]
    pub(super) fn wake(&mut self) {
        if self.woken != self.told.position {
            self.woken = self.told.position;
            self.link.wake();
        }
    }
}

impl<T: OneMapping> Cursor<T> {
    /// The sender is no more, and nobody comes before this is done: the next one begins with record
    /// 0, where nothing is.
    pub(super) fn begin(&mut self, lines: &Lines<T>) {
        // A round on: no mark has this position, but a liar's. Far from where positions begin anew,
        // for a liar may have brought it there.
        let position = self.place.position.wrapping_add(self.count) & (u64::MAX >> 1);
        let place = Place::at(position, self.count);
        lines.end_at(place);
        let shared = self.link.shared();
        shared.sent.begin(place.position);
        shared.released.tell(&mut self.told, place.position, 0);
        // And nothing is left of what a liar wrote to the other mark.
        shared.released.begin(place.position);
        (self.place, self.records, self.woken) = (place, 0, place.position);
        self.is_corrupt = false;
    }
}

impl<T: Level> Drop for Cursor<T> {
    /// Gives the role back.
    ///
    /// # If a process dies here
    /// As if it had died before.
    fn drop(&mut self) {
        if self.fork.check().is_ok() {
            self.link.leave();
        }
    }
}

impl<T: Level> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (records, position) = (self.cursor.records, self.cursor.place.position);
        f.debug_struct("Receiver").field("received", &records).field("position", &position).finish()
    }
}

/// A received record: its bytes, in the ring or in the receiver's private buffer.
///
/// Dropping it releases it.
pub struct Record<'r, T: Level = Crashing> {
    bytes: View<'r>,
    /// Dropped after the bytes.
    held: Held<'r, T>,
}

impl<T: Level> Record<'_, T> {
    /// How many records were before it.
    pub fn number(&self) -> u64 {
        self.held.cursor.records
    }

    /// Leaves the record for the next receive.
    pub fn put_back(self) {
        // What releases it is `Held`; a view holds nothing.
        std::mem::forget(self);
    }
}

impl<T: Level> Deref for Record<'_, T> {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: Level> fmt::Debug for Record<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Record").field(&&self.bytes[..]).finish()
    }
}

/// Releases the record at its end.
struct Held<'r, T: Level> {
    cursor: &'r mut Cursor<T>,
    len: usize,
}

impl<T: Level> Drop for Held<'_, T> {
    /// # If a process dies here
    /// The record is released, or the successor's.
    #[inline(always)]
    fn drop(&mut self) {
        // To a forked child it was never given: its parent still reads these bytes.
        if self.cursor.fork.check().is_ok() {
            self.cursor.release(self.len);
        }
    }
}
