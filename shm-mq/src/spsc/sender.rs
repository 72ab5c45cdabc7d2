//! The sender's half.
use super::level::{Level, Link};
use super::lines::{Header, Lines, Place, words_for};
use super::role::{Peer, Side, take};
use super::shared::{Seat, Shared, Told};
use super::{AttachError, Queue};
use crate::lent::Lent;
use crate::stream::OneMapping;
use crate::wait::{Missing, look_until, sleeps_by};
use crate::waitset::Source;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::Member;
use shm_core::process::ForkGuard;
use shm_core::trust::Crashing;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

/// Why a record was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The deadline passed.
    #[error("the deadline passed before the queue had room for the record")]
    TimedOut,
    /// The receiver has left, and nobody has come in its place.
    #[error("the receiver has detached")]
    Detached,
    /// The queue is full and the receiver's process has died. Its successor will receive what is
    /// in the queue. Or a hostile one has died or hung up, and has none.
    #[error("the queue is full, and the receiver's process has died")]
    PeerDied,
    /// The receiver wrote nonsense into shared memory; or, of many lanes, it found nonsense in ours
    /// and has dropped it. The handle is of no further use.
    #[error("the queue is corrupt: the receiver's position makes no sense, or it dropped us")]
    Corrupt,
    /// No record of this queue is so long.
    #[error("a record of {len} bytes is too long: this queue takes {largest}")]
    TooLong {
        /// Bytes of the record.
        len: usize,
        /// The most that it takes.
        largest: usize,
    },
    /// The handle belongs to the process that this one was forked from.
    #[error("the sender was attached by the process that this one was forked from")]
    Forked,
}

impl From<Missing> for SendError {
    fn from(missing: Missing) -> SendError {
        match missing {
            Missing::TimedOut => SendError::TimedOut,
            Missing::Detached => SendError::Detached,
            Missing::Died => SendError::PeerDied,
        }
    }
}

/// The sending end of a [`Queue`]: one thread at a time.
///
/// It can move to another thread, but not be shared:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<shm_mq::spsc::Sender>();
/// ```
///
/// # If a process dies here
/// What was published stays in the queue, and is received. Who takes the role next goes on behind
/// it; [`sent`](Sender::sent) says how many records there were.
pub struct Sender<T: Level = Crashing> {
    lines: Lines<T>,
    cursor: Cursor<T>,
}

/// How far the sender is. Apart from the lines, of which a [`Reserved`] borrows some beside it.
struct Cursor<T: Level> {
    link: T::Link,
    fork: ForkGuard,
    /// Words of the ring.
    count: u64,
    record_bytes_max: usize,
    /// Where the next record goes, and its number.
    place: Place,
    records: u64,
    /// The position up to which we have seen words released: as many as the ring has are ours to
    /// write from there on.
    released: u64,
    /// A beginning of a line where the end stands, if it is not behind us.
    ended: u64,
    told: Told,
    pending: Option<Pending>,
    is_corrupt: bool,
    not_sync: PhantomData<Cell<()>>,
}

/// The first record that was pushed and not published: where the receiver waits, for what, and the
/// number of records before it.
#[derive(Clone, Copy)]
struct Pending {
    at: Place,
    header: Header,
    records: u64,
}

/// Where a record goes.
#[derive(Clone, Copy)]
struct Room {
    at: Place,
    end: Place,
    /// It is not the sender's place, at which this is to tell of it.
    from: Option<Header>,
}

impl Sender {
    /// Takes the sender's role in the queue at `offset` of `mapping`, whose records are what
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
    ) -> Result<Sender, AttachError> {
        Queue::attach(m, offset, fingerprint)?.sender(me)
    }
}

impl<T: OneMapping> Sender<T> {
    pub(super) fn open(
        shared: &Mapped<Shared>,
        lines: Lines<T>,
        me: &Arc<Member>,
    ) -> Result<Sender<T>, AttachError> {
        me.check_fork()?;
        take(&shared.sender, me, me.id(), Seat::Open)?;
        let peer = Peer::new(shared, Side::Sender, me.clone());
        Sender::go_on(shared, lines, peer).ok_or(AttachError::Corrupt)
    }

    /// For who has the role by now. `None` where its predecessor left nonsense: it has the role no
    /// more.
    pub(super) fn go_on(shared: &Mapped<Shared>, lines: Lines<T>, peer: Peer) -> Option<Sender<T>> {
        let mut cursor = Cursor::new(&lines, peer);
        if shared.sent.last().and_then(|told| cursor.go_on(&lines, told)).is_none() {
            // Nobody is to wait for who has no handle.
            cursor.link.leave();
            return None;
        }
        cursor.link.wake();
        Some(Sender { lines, cursor })
    }

    /// Waits until a receiver has attached.
    ///
    /// # Errors
    /// [`SendError::TimedOut`], [`SendError::PeerDied`].
    pub fn wait_for_peer(&mut self, deadline: Option<Instant>) -> Result<(), SendError> {
        Ok(self.cursor.link.wait_until_open(deadline)?)
    }
}

impl<T: Level> Sender<T> {
    /// The first sender of a ring that nobody has used.
    pub(super) fn new(lines: Lines<T>, link: T::Link) -> Sender<T> {
        let cursor = Cursor::new(&lines, link);
        Sender { lines, cursor }
    }

    /// Its receiver, and the words between the two.
    pub(crate) fn link(&self) -> &T::Link {
        &self.cursor.link
    }

    /// To sleep.
    pub(crate) fn link_mut(&mut self) -> &mut T::Link {
        &mut self.cursor.link
    }

    /// Records that were ever published by senders of this queue, or pushed by this one. Of a
    /// sender that takes over from a dead one: up to here its predecessor's have been accepted.
    pub fn sent(&self) -> u64 {
        self.cursor.records
    }

    /// The longest record, in bytes.
    pub fn record_bytes_max(&self) -> usize {
        self.cursor.record_bytes_max
    }

    /// Sends a record if there is room for it now; `false` where there is not.
    ///
    /// # Errors
    /// [`SendError`], but not [`TimedOut`](SendError::TimedOut), and
    /// [`PeerDied`](SendError::PeerDied) only where it is known of a hostile one.
    ///
    /// # If a process dies here
    /// The record is in the queue as a whole, or not at all.
    #[inline(always)]
    pub fn try_send(&mut self, record: &[u8]) -> Result<bool, SendError> {
        let is_put = self.push(record)?;
        self.cursor.publish(&self.lines);
        Ok(is_put)
    }

    /// Sends a record, waiting for room as long as it takes.
    ///
    /// # Errors
    /// [`SendError`], but not [`TimedOut`](SendError::TimedOut).
    ///
    /// # If a process dies here
    /// As in [`try_send`](Sender::try_send).
    #[inline(always)]
    pub fn send(&mut self, record: &[u8]) -> Result<(), SendError> {
        self.send_until(record, None)
    }

    /// As [`send`](Sender::send), until `deadline`.
    ///
    /// # Errors
    /// [`SendError`].
    ///
    /// # If a process dies here
    /// As in [`try_send`](Sender::try_send).
    #[inline(always)]
    pub fn send_deadline(&mut self, record: &[u8], deadline: Instant) -> Result<(), SendError> {
        self.send_until(record, Some(deadline))
    }

    #[inline(always)]
    fn send_until(&mut self, record: &[u8], deadline: Option<Instant>) -> Result<(), SendError> {
        let room = match self.cursor.room(record.len())? {
            Some(room) => room,
            None => self.cursor.wait_for_room(&self.lines, record.len(), deadline)?,
        };
        self.put(room, record);
        self.cursor.publish(&self.lines);
        Ok(())
    }

    /// Puts a record into the queue that the receiver may not see before
    /// [`flush`](Sender::flush), the next send, or a push that finds no room: `false` then. A
    /// receiver that is woken once for many records takes them faster.
    ///
    /// # Errors
    /// As [`try_send`](Sender::try_send).
    ///
    /// # If a process dies here
    /// What was pushed and not published is lost with it.
    #[inline(always)]
    pub fn push(&mut self, record: &[u8]) -> Result<bool, SendError> {
        let Some(room) = self.cursor.room(record.len())? else {
            self.cursor.publish(&self.lines);
            return Ok(false);
        };
        self.put(room, record);
        Ok(true)
    }

    #[inline(always)]
    fn put(&mut self, room: Room, record: &[u8]) {
        // SAFETY: `room` has been released, or never used.
        unsafe { self.lines.write(room.at, record) };
        self.cursor.step(&self.lines, room, record.len());
    }

    /// Publishes what was [pushed](Sender::push).
    ///
    /// # Errors
    /// [`SendError::Forked`].
    ///
    /// # If a process dies here
    /// All of it is published, or nothing.
    #[inline(always)]
    pub fn flush(&mut self) -> Result<(), SendError> {
        self.cursor.fork.check().map_err(|_| SendError::Forked)?;
        self.cursor.publish(&self.lines);
        Ok(())
    }

    /// Lends the place of a record of `len` bytes, to be written where it lies; `None` where there
    /// is no room now.
    ///
    /// # Errors
    /// As [`try_send`](Sender::try_send).
    ///
    /// # If a process dies here
    /// There is no such record.
    #[inline(always)]
    pub fn reserve(&mut self, len: usize) -> Result<Option<Reserved<'_, T>>, SendError> {
        let Some(room) = self.cursor.room(len)? else {
            self.cursor.publish(&self.lines);
            return Ok(None);
        };
        if room.end.position != self.cursor.ended {
            // Who writes there may overwrite it, and then give the record up.
            self.cursor.ended = 0;
        }
        let bytes = if T::IN_PLACE {
            // SAFETY: `room` is ours until it is published, after the draft.
            Lent::InPlace(unsafe { self.lines.draft(room.at, len) })
        } else {
            Lent::Private(vec![0; len])
        };
        Ok(Some(Reserved { bytes, room, len, lines: &self.lines, cursor: &mut self.cursor }))
    }

    /// Room for a record of `len` bytes, to wait for in a [`WaitSet`](crate::waitset::WaitSet).
    pub fn space(&mut self, len: usize) -> Space<'_, T> {
        Space { sender: self, len }
    }

    /// Why the receiver does nothing any more, if so.
    pub(crate) fn end(&mut self) -> Option<SendError> {
        self.cursor.link.gone().map(SendError::from)
    }
}

/// Ready where [`try_send`](Sender::try_send) takes a record of so many bytes, or where waiting for
/// room is an error: made by [`Sender::space`].
#[derive(Debug)]
pub struct Space<'s, T: Level = Crashing> {
    sender: &'s mut Sender<T>,
    len: usize,
}

impl<T: Level> Source for Space<'_, T> {
    fn is_ready(&mut self) -> bool {
        let Sender { lines, cursor } = self.sender;
        if !matches!(cursor.room(self.len), Ok(None)) {
            return true;
        }
        cursor.publish(lines);
        self.sender.end().is_some()
    }

    sleeps_by!(sender.cursor.link);
}

impl<T: Level> Cursor<T> {
    fn new(lines: &Lines<T>, link: T::Link) -> Cursor<T> {
        Cursor {
            record_bytes_max: lines.record_bytes_max().min(link.message_bytes_max()),
            link,
            fork: ForkGuard::new(),
            count: lines.count(),
            place: Place::default(),
            records: 0,
            released: 0,
            ended: 0,
            told: Told::default(),
            pending: None,
            is_corrupt: false,
            not_sync: PhantomData,
        }
    }

    /// Finds out how far the last sender was: from its last word on, to the end.
    ///
    /// The words behind its last one are as it left them: it had not seen more of them released
    /// than it had then.
    fn go_on(&mut self, lines: &Lines<T>, told: Told) -> Option<()> {
        let (mut place, mut records) = (Place::at(told.position, self.count), told.records);
        // Each step is a word at least.
        for _ in 0..=self.count {
            let to_end = place.to_end(self.count);
            let distance = match lines.look(place) {
                Header::Nothing => {
                    (self.place, self.records, self.told) = (place, records, told);
                    // A ring behind us, at most.
                    self.released = place.position.wrapping_sub(self.count);
                    return self.refresh().ok();
                }
                Header::NextLine { number } if number == records as u32 => place.to_next_line(),
                Header::AtTheBeginning { number } if number == records as u32 => to_end,
                Header::Record { number, len } if number == records as u32 => {
                    records = records.wrapping_add(1);
                    Some(words_for(len)).filter(|words| *words <= to_end)?
                }
                _ => return None,
            };
            place = place.plus(distance, self.count);
        }
        None
    }

    /// Where a record of `len` bytes goes; `None` where there is no room now.
    #[inline(always)]
    fn room(&mut self, len: usize) -> Result<Option<Room>, SendError> {
        self.check(len)?;
        if let Some(room) = self.known_room(len) {
            return Ok(Some(room));
        }
        self.refresh()?;
        Ok(self.known_room(len))
    }

    #[inline(always)]
    fn check(&mut self, len: usize) -> Result<(), SendError> {
        if self.fork.check().is_err() {
            return Err(SendError::Forked);
        }
        if self.is_corrupt || self.link.has_dropped_us() {
            self.is_corrupt = true;
            return Err(SendError::Corrupt);
        }
        if len > self.record_bytes_max {
            return Err(SendError::TooLong { len, largest: self.record_bytes_max });
        }
        match self.link.known_gone() {
            Some(gone) => Err(gone.into()),
            None => Ok(()),
        }
    }

    /// As [`room`](Cursor::room), as far as we know.
    #[inline(always)]
    fn known_room(&self, len: usize) -> Option<Room> {
        let (words, number) = (words_for(len), self.records as u32);
        let mut from = None;
        let mut at = self.place;
        if !at.is_compact(words) {
            from = Some(Header::NextLine { number });
            at = at.plus(at.to_next_line(), self.count);
        }
        if words > at.to_end(self.count) {
            from = Some(Header::AtTheBeginning { number });
            at = at.plus(at.to_end(self.count), self.count);
        }
        let end = at.plus(words, self.count);
        // And a word for the end.
        let room = Room { at, end, from };
        (end.position.wrapping_sub(self.released) < self.count).then_some(room)
    }

    /// Looks how much has been released: a claim, between what was last and what is published. And
    /// says how far we are, before any of it is written anew.
    // Once a ring: its registers are not to be the common path's.
    #[inline(never)]
    fn refresh(&mut self) -> Result<(), SendError> {
        let released = self.link.released();
        let published = self.pending.map_or(self.place, |pending| pending.at).position;
        if published.wrapping_sub(released) > published.wrapping_sub(self.released) {
            self.is_corrupt = true;
            return Err(SendError::Corrupt);
        }
        self.released = released;
        self.tell();
        Ok(())
    }

    #[cold]
    fn wait_for_room(
        &mut self,
        lines: &Lines<T>,
        len: usize,
        deadline: Option<Instant>,
    ) -> Result<Room, SendError> {
        self.publish(lines);
        let look = |cursor: &mut Self, _| {
            let gone = cursor.link.gone();
            cursor.room(len).transpose().or_else(|| Some(Err(gone?.into())))
        };
        look_until(self, |cursor| &mut cursor.link, deadline, look)
            .unwrap_or(Err(SendError::TimedOut))
    }

    /// The bytes of a record have been written: it is the next one.
    #[inline(always)]
    fn step(&mut self, lines: &Lines<T>, room: Room, len: usize) {
        if room.end.position != self.ended {
            lines.end_at(room.end);
        }
        let number = self.records as u32;
        let record = Header::Record { number, len };
        let (at, header) = match room.from {
            None => (room.at, record),
            Some(further) => {
                lines.put(room.at, record);
                (self.place, further)
            }
        };
        match self.pending {
            None => self.pending = Some(Pending { at, header, records: self.records }),
            Some(_) => lines.put(at, header),
        }
        self.place = room.end;
        self.records = self.records.wrapping_add(1);
    }

    #[inline(always)]
    fn publish(&mut self, lines: &Lines<T>) {
        if let Some(pending) = self.pending.take() {
            lines.publish(pending.at, pending.header);
            self.link.wake();
            self.prepare(lines, pending);
        }
    }

    /// Puts the end to where it will be once a record has come that is as long as the last one, if
    /// that is free, or at the beginning of the next line: such a record is published then by
    /// stores to its own lines alone. And gets these.
    #[inline(always)]
    fn prepare(&mut self, lines: &Lines<T>, last: Pending) {
        let line = self.place.to_next_line();
        let words = self.place.position.wrapping_sub(last.at.position);
        let is_long = words > line && words <= self.place.to_end(self.count);
        let next = self.place.plus(if is_long { words } else { line }, self.count);
        if next.position.wrapping_sub(self.released) < self.count && next.position != self.ended {
            if is_long {
                // SAFETY: up to `next`, all has been released, or never used.
                unsafe { lines.get_ready(self.place, words) };
            }
            lines.end_at(next);
            self.ended = next.position;
        }
    }

    /// Says how far we are: where a successor looks for the end from.
    fn tell(&mut self) {
        let (place, records) = match self.pending {
            Some(pending) => (pending.at, pending.records),
            None => (self.place, self.records),
        };
        if self.told.position != place.position {
            self.link.tell_sent(&mut self.told, place.position, records);
        }
    }
}

impl<T: Level> Drop for Sender<T> {
    /// Publishes what was pushed, and gives the role back.
    ///
    /// # If a process dies here
    /// As if it had died before.
    fn drop(&mut self) {
        if self.cursor.fork.check().is_ok() {
            self.cursor.publish(&self.lines);
            if !self.cursor.is_corrupt {
                self.cursor.tell();
            }
            self.cursor.link.leave();
        }
    }
}

impl<T: Level> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (records, position) = (self.cursor.records, self.cursor.place.position);
        f.debug_struct("Sender").field("sent", &records).field("position", &position).finish()
    }
}

/// The place of a record that is not sent yet. Dropped, it is not sent.
#[must_use = "it is sent by `commit`"]
pub struct Reserved<'s, T: Level = Crashing> {
    bytes: Lent<'s>,
    room: Room,
    len: usize,
    lines: &'s Lines<T>,
    cursor: &'s mut Cursor<T>,
}

impl<T: Level> Reserved<'_, T> {
    /// Sends the record. In a forked child, which has the place of its parent, it does nothing.
    ///
    /// # If a process dies here
    /// The record is in the queue as a whole, or not at all.
    #[inline(always)]
    pub fn commit(self) {
        if self.cursor.fork.check().is_err() {
            return;
        }
        match self.bytes {
            Lent::InPlace(draft) => draft.finish(),
            // SAFETY: the room is ours.
            Lent::Private(bytes) => unsafe { self.lines.write(self.room.at, &bytes) },
        }
        self.cursor.step(self.lines, self.room, self.len);
        self.cursor.publish(self.lines);
    }
}

impl<T: Level> Deref for Reserved<'_, T> {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: Level> DerefMut for Reserved<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl<T: Level> fmt::Debug for Reserved<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserved").field("len", &self.len).finish_non_exhaustive()
    }
}
