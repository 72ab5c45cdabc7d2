//! The sender's half.
use super::frame::{Header, fragment_bytes_max, frame_bytes, payload_distance};
use super::level::{Level, Link, OneMapping};
use super::peer::{Peer, Side};
use super::ring::{Place, Ring, WORD, checked_distance};
use super::shared::Shared;
use super::{AttachError, Stream};
use crate::wait::{Missing, has_passed, look_until, sleeps_by};
use crate::waitset::Source;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::Member;
use shm_core::process::{ForkGuard, ProcessId};
use shm_core::trust::Crashing;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a message was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// There is no room now. Nothing of the message is in the stream, unless a [`Sending`] says so.
    #[error("the ring has no room for the message now")]
    WouldBlock,
    /// The deadline passed. The receiver will not see the message.
    #[error("the deadline passed before the ring had room for the message")]
    TimedOut,
    /// The receiver has left. This and everything after it will not be received.
    #[error("the receiver has detached")]
    Detached,
    /// The receiver's process has died, or a hostile one has hung up.
    #[error("the receiver's process has died")]
    PeerDied,
    /// The receiver wrote nonsense into shared memory. The stream is of no further use.
    #[error("the stream is corrupt: the receiver's position makes no sense")]
    Corrupt,
    /// No stream carries a message of more than 1 GiB - 1, and a hostile one none that is longer
    /// than its receiver takes.
    #[error("a message of {len} bytes is too long: see MESSAGE_BYTES_MAX and the receiver's limit")]
    TooLong {
        /// Bytes of the message.
        len: usize,
    },
    /// The message can never lie in this ring as a whole: send it with a blocking call or with
    /// [`Sender::start`].
    #[error("the ring holds messages of at most {largest} bytes as a whole")]
    TooLarge {
        /// The longest message that fits, in bytes.
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

/// What is left to send of one message.
pub(super) struct Outgoing<'m> {
    piece: &'m [u8],
    pieces: &'m [&'m [u8]],
    pub(super) left: usize,
    begun: bool,
}

impl<'m> Outgoing<'m> {
    #[inline]
    pub(super) fn new(
        piece: &'m [u8],
        pieces: &'m [&'m [u8]],
        bytes_max: usize,
    ) -> Result<Outgoing<'m>, SendError> {
        let len = pieces.iter().fold(piece.len(), |sum, piece| sum.saturating_add(piece.len()));
        if len > bytes_max {
            return Err(SendError::TooLong { len });
        }
        Ok(Outgoing { piece, pieces, left: len, begun: false })
    }

    fn is_done(&self) -> bool {
        self.begun && self.left == 0
    }

    /// At most `count` bytes from what is left.
    #[inline]
    fn take(&mut self, count: usize) -> &'m [u8] {
        if self.piece.is_empty()
            && let [piece, pieces @ ..] = self.pieces
        {
            (self.piece, self.pieces) = (piece, pieces);
        }
        let (now, later) = self.piece.split_at(count.min(self.piece.len()));
        self.piece = later;
        self.left -= now.len();
        now
    }
}

/// The sending end of a [`Stream`]: one thread at a time.
///
/// A message that fits the ring as a whole costs one copy, and a system call only when the receiver
/// sleeps. A longer one goes in fragments of about a quarter of the ring, so that the receiver
/// takes one while the next is written.
///
/// It can move to another thread, but not be shared:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<shm_mq::stream::Sender>();
/// ```
///
/// # If a process dies here
/// The receiver reads all messages that were published as a whole, and learns of the death. Pushed
/// messages that were not published yet, and the beginning of a longer one, are lost with the
/// sender.
#[derive(Debug)]
pub struct Sender<T: Level = Crashing> {
    ring: Ring<T>,
    link: T::Link,
    fork: ForkGuard,
    /// Where the next frame goes. The truth; `published` is what the receiver has been told.
    place: Place,
    published: u64,
    /// The receiver's position when last looked at.
    read: u64,
    is_corrupt: bool,
    not_sync: PhantomData<Cell<()>>,
}

impl Sender {
    /// Takes the sender's role in the stream at `offset` of `mapping`, for good.
    ///
    /// # Errors
    /// [`AttachError`]; in particular where another participant, or another handle of this process,
    /// has the role.
    ///
    /// # If a process dies here
    /// The role has named its owner or nobody. The receiver learns of the owner's death.
    pub fn attach(m: &Arc<Mapping>, offset: u64, me: &Arc<Member>) -> Result<Sender, AttachError> {
        Stream::attach(m, offset)?.sender(me)
    }
}

impl<T: OneMapping> Sender<T> {
    pub(super) fn open(
        shared: Mapped<Shared>,
        ring: Ring<T>,
        me: &Arc<Member>,
    ) -> Result<Sender<T>, AttachError> {
        me.check_fork()?;
        shared.open(Side::Sender, me.id())?;
        Ok(Sender::new(ring, Peer::new(shared, Side::Sender, me.clone())))
    }

    /// Says which process will attach as the receiver: if it dies before, waits end with
    /// [`SendError::PeerDied`], until another one is expected.
    pub fn expect_peer(&mut self, process: ProcessId) {
        self.link.expect(process);
    }

    /// Waits until the receiver has attached.
    ///
    /// # Errors
    /// [`SendError::TimedOut`], [`SendError::Detached`], [`SendError::PeerDied`].
    pub fn wait_for_peer(&mut self, deadline: Option<Instant>) -> Result<(), SendError> {
        Ok(self.link.wait_until_open(deadline)?)
    }
}

impl<T: Level> Sender<T> {
    pub(super) fn new(ring: Ring<T>, link: T::Link) -> Sender<T> {
        Sender {
            ring,
            link,
            fork: ForkGuard::new(),
            place: Place::default(),
            published: 0,
            read: 0,
            is_corrupt: false,
            not_sync: PhantomData,
        }
    }

    /// Sends a message and publishes it, waiting for room as long as it takes.
    ///
    /// It says `Ok` once the ring holds the (rest of the) message, which a receiver that dies or
    /// detaches afterwards will not read.
    ///
    /// # Errors
    /// [`SendError`], but not [`WouldBlock`](SendError::WouldBlock) and
    /// [`TooLarge`](SendError::TooLarge).
    ///
    /// # If a process dies here
    /// See [`Sender`].
    #[inline]
    pub fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        let message = self.outgoing(message, &[])?;
        self.put(message, None)?;
        self.finish()
    }

    /// As [`send`](Sender::send), until `deadline`. A message cut off by it is discarded by the
    /// receiver, and the stream goes on.
    ///
    /// # Errors
    /// As [`send`](Sender::send), and [`SendError::TimedOut`].
    pub fn send_deadline(&mut self, message: &[u8], deadline: Instant) -> Result<(), SendError> {
        let message = self.outgoing(message, &[])?;
        self.put(message, Some(deadline))?;
        self.finish()
    }

    /// As [`send_deadline`](Sender::send_deadline), `timeout` from now: without a limit where the
    /// clock does not reach so far.
    ///
    /// # Errors
    /// As [`send_deadline`](Sender::send_deadline).
    pub fn send_timeout(&mut self, message: &[u8], timeout: Duration) -> Result<(), SendError> {
        let deadline = Instant::now().checked_add(timeout);
        let message = self.outgoing(message, &[])?;
        self.put(message, deadline)?;
        self.finish()
    }

    /// Sends the concatenation of `pieces` as one message.
    ///
    /// # Errors
    /// As [`send`](Sender::send).
    pub fn send_vectored(&mut self, pieces: &[&[u8]]) -> Result<(), SendError> {
        let message = self.outgoing(&[], pieces)?;
        self.put(message, None)?;
        self.finish()
    }

    /// Sends a message lazily: the receiver may not see it before more than a quarter of the ring
    /// is pending, the ring is full, this sender waits or goes, or [`flush`](Sender::flush) is
    /// called.
    ///
    /// # Errors
    /// As [`send`](Sender::send).
    ///
    /// # If a process dies here
    /// What was not published yet is lost with it.
    #[inline]
    pub fn push(&mut self, message: &[u8]) -> Result<(), SendError> {
        let message = self.outgoing(message, &[])?;
        self.put(message, None)?;
        if self.place.position.wrapping_sub(self.published) > self.ring.bytes() / 4 {
            self.publish();
        }
        Ok(())
    }

    /// Publishes what [`push`](Sender::push) left pending.
    ///
    /// # Errors
    /// [`SendError::Detached`], [`SendError::Corrupt`], [`SendError::Forked`].
    pub fn flush(&mut self) -> Result<(), SendError> {
        self.usable()?;
        self.finish()
    }

    /// Sends a message and publishes it if the ring has room for all of it now.
    ///
    /// # Errors
    /// [`SendError::WouldBlock`], which leaves nothing of it behind, and [`SendError::TooLarge`]
    /// where waiting will not help; otherwise as [`send`](Sender::send).
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.usable()?;
        let mut outgoing = self.outgoing(message, &[])?;
        let want = frame_bytes(message.len());
        if want > self.ring.bytes() {
            return Err(SendError::TooLarge { largest: fragment_bytes_max(self.ring.bytes()) });
        }
        if !self.has_room(want)? {
            return Err(self.would_block());
        }
        self.write_frame(&mut outgoing, want);
        self.finish()
    }

    /// Begins to send a message of any length without waiting: see [`Sending::poll`].
    ///
    /// # Errors
    /// [`SendError::TooLong`], [`SendError::Detached`], [`SendError::Corrupt`],
    /// [`SendError::Forked`].
    pub fn start<'a>(&'a mut self, message: &'a [u8]) -> Result<Sending<'a, T>, SendError> {
        self.usable()?;
        let outgoing = self.outgoing(message, &[])?;
        Ok(Sending { outgoing, sender: self })
    }

    /// As [`start`](Sender::start), for the concatenation of `pieces`.
    ///
    /// # Errors
    /// As [`start`](Sender::start).
    pub fn start_vectored<'a>(
        &'a mut self,
        pieces: &'a [&'a [u8]],
    ) -> Result<Sending<'a, T>, SendError> {
        self.usable()?;
        let outgoing = self.outgoing(&[], pieces)?;
        Ok(Sending { outgoing, sender: self })
    }

    /// Bytes of ring that are free now. A message of `len` bytes takes
    /// [`frame_bytes(len)`](frame_bytes).
    ///
    /// # Errors
    /// [`SendError::Detached`], [`SendError::Corrupt`], [`SendError::Forked`].
    pub fn free_space(&mut self) -> Result<u64, SendError> {
        self.usable()?;
        self.refresh()?;
        Ok(self.free())
    }

    /// Room for a message of `len` bytes, to wait for in a [`WaitSet`](crate::waitset::WaitSet).
    pub fn space(&mut self, len: usize) -> Space<'_, T> {
        Space { sender: self, len }
    }

    #[inline]
    fn outgoing<'m>(
        &self,
        piece: &'m [u8],
        pieces: &'m [&'m [u8]],
    ) -> Result<Outgoing<'m>, SendError> {
        Outgoing::new(piece, pieces, self.link.message_bytes_max())
    }

    /// Writes a message, waiting if need be; not yet published where it fitted at once.
    #[inline]
    fn put(&mut self, mut message: Outgoing<'_>, end: Option<Instant>) -> Result<(), SendError> {
        self.usable()?;
        if frame_bytes(message.left) <= self.free() {
            self.write_frame(&mut message, self.free());
            return Ok(());
        }
        self.put_slowly(message, end)
    }

    /// An error here may leave a message without its end: the next one abandons it, being `FIRST`.
    #[cold]
    fn put_slowly(
        &mut self,
        mut message: Outgoing<'_>,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        let look = |sender: &mut Self, _| match sender.advance(&mut message, deadline) {
            Err(SendError::WouldBlock) => None,
            end => Some(end),
        };
        look_until(self, |sender| &mut sender.link, deadline, look)
            .unwrap_or(Err(SendError::TimedOut))
    }

    /// Writes and publishes what there is room for, a [piece](Sender::piece) at a time.
    ///
    /// The deadline counts between fragments, lest a quick receiver keep a long message going.
    pub(super) fn advance(
        &mut self,
        message: &mut Outgoing<'_>,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        self.usable()?;
        while !message.is_done() {
            if message.begun && has_passed(deadline) {
                return Err(SendError::TimedOut);
            }
            let piece = self.piece(message.left);
            if !self.has_room(piece)? {
                return Err(self.would_block());
            }
            // In one piece, if that goes after all: what is begun is put together anyway.
            let whole = frame_bytes(message.left);
            let fits = !message.begun && whole <= self.free();
            self.write_frame(message, if fits { whole } else { piece });
            self.publish();
        }
        self.attached()
    }

    /// Bytes of ring that the next frame takes, of a message that has `left` bytes to go and does
    /// not fit what is free: all of it, or a bit more than a quarter of the ring, which the
    /// receiver gives back as soon as it has it.
    fn piece(&self, left: usize) -> u64 {
        let (ring, whole) = (self.ring.bytes(), frame_bytes(left));
        let half = (ring / 2).next_multiple_of(WORD);
        if whole <= half { whole } else { half.min((ring / 4).next_multiple_of(WORD) + WORD) }
    }

    /// Why there is no room. Everything pending is published first, so that the receiver makes
    /// some.
    fn would_block(&mut self) -> SendError {
        self.publish();
        self.link.gone().map_or(SendError::WouldBlock, SendError::from)
    }

    /// Writes one frame of at most `room` bytes, which are free, with as much of `message` as goes
    /// into it.
    #[inline]
    fn write_frame(&mut self, message: &mut Outgoing<'_>, room: u64) {
        let ring = self.ring.bytes();
        let len = message.left.min(fragment_bytes_max(room));
        let header = Header::new(len, !message.begun, len == message.left);
        message.begun = true;
        self.ring.owned().take(self.place.position, frame_bytes(len));
        // SAFETY: `free` bytes from `place` on were given back or never used; this is the sender.
        unsafe { self.ring.set_header(self.place, header.to_word()) };
        let mut at = self.place.plus(payload_distance(len), ring);
        let mut left = len;
        while left > 0 {
            let bytes = message.take(left);
            // SAFETY: as above; the frame fits into the free bytes.
            unsafe { self.ring.write(at, bytes) };
            at = at.plus(bytes.len() as u64, ring);
            left -= bytes.len();
        }
        self.place = self.place.plus(frame_bytes(len), ring);
    }

    /// Shows the receiver all frames written so far, and wakes it if it sleeps.
    #[inline]
    fn publish(&mut self) {
        if self.published != self.place.position {
            self.tell();
            self.link.wake_receiver();
        }
    }

    #[inline]
    fn tell(&mut self) {
        self.published = self.place.position;
        self.link.tell_written(self.published);
    }

    /// Publishes; a message that went into a stream whose receiver has left counts as not sent.
    #[inline]
    fn finish(&mut self) -> Result<(), SendError> {
        self.publish();
        self.attached()
    }

    #[inline]
    fn free(&self) -> u64 {
        self.ring.bytes() - self.place.position.wrapping_sub(self.read)
    }

    /// Whether `want` bytes are free, asking the receiver's position only if need be.
    fn has_room(&mut self, want: u64) -> Result<bool, SendError> {
        if self.free() < want {
            self.refresh()?;
        }
        Ok(self.free() >= want)
    }

    /// Looks at the receiver's position: a claim, which must lie between its last and what was
    /// published.
    fn refresh(&mut self) -> Result<(), SendError> {
        let read = self.link.read();
        let readable = self.published.wrapping_sub(self.read);
        if checked_distance(read, self.read, readable).is_none() {
            self.is_corrupt = true;
            return Err(SendError::Corrupt);
        }
        self.read = read;
        Ok(())
    }

    #[inline]
    fn usable(&mut self) -> Result<(), SendError> {
        if self.is_corrupt {
            return Err(SendError::Corrupt);
        }
        if self.fork.check().is_err() {
            return Err(SendError::Forked);
        }
        self.attached()
    }

    #[inline]
    fn attached(&mut self) -> Result<(), SendError> {
        self.link.known_gone().map_or(Ok(()), |gone| Err(gone.into()))
    }
}

impl<T: Level> Drop for Sender<T> {
    /// Publishes what is pending and tells the receiver that nothing follows.
    fn drop(&mut self) {
        if self.fork.check().is_ok() {
            self.tell();
            self.link.leave();
        }
    }
}

/// A message under way, made by [`Sender::start`]: it keeps its place between calls.
///
/// Dropping it before it is done cancels the message: the receiver discards what it has of it, and
/// the stream goes on.
#[must_use = "nothing is sent before `poll`"]
pub struct Sending<'a, T: Level = Crashing> {
    outgoing: Outgoing<'a>,
    sender: &'a mut Sender<T>,
}

impl<T: Level> Sending<'_, T> {
    /// Writes and publishes as much as there is room for: `Ok` once all of it is.
    ///
    /// # Errors
    /// [`SendError::WouldBlock`]: call again; otherwise as [`Sender::send`].
    pub fn poll(&mut self) -> Result<(), SendError> {
        self.sender.advance(&mut self.outgoing, None)
    }

    /// Bytes of the message that are not in the ring yet.
    pub fn remaining(&self) -> usize {
        self.outgoing.left
    }
}

/// Ready where [`try_send`](Sender::try_send) takes a message of so many bytes, or, of one longer
/// than the ring, [`Sending::poll`] goes on; and where that is an error. Made by [`Sender::space`].
#[derive(Debug)]
pub struct Space<'s, T: Level = Crashing> {
    sender: &'s mut Sender<T>,
    len: usize,
}

impl<T: Level> Source for Space<'_, T> {
    fn is_ready(&mut self) -> bool {
        let sender = &mut *self.sender;
        let ring = sender.ring.bytes();
        let whole = frame_bytes(self.len);
        let want = if whole > ring { sender.piece(self.len) } else { whole };
        match sender.usable().and_then(|()| sender.has_room(want)) {
            Ok(false) => sender.would_block() != SendError::WouldBlock,
            _ => true,
        }
    }

    sleeps_by!(sender.link);
}
