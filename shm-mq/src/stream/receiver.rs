//! The receiver's half.
use super::frame::{Header, frame_bytes, payload_distance};
use super::level::{Level, Link, OneMapping};
use super::peer::{Peer, Side};
use super::ring::{Place, Ring, checked_distance};
use super::shared::Shared;
use super::{AttachError, Stream};
use crate::hand_back::HandBack;
use crate::wait::{Missing, look_until, sleeps_by};
use crate::waitset::Source;
use shm_core::bytes::View;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::Member;
use shm_core::poison;
use shm_core::process::{ForkGuard, ProcessId};
use shm_core::trust::Crashing;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The private buffer begins with so many bytes and grows by powers of two.
const ASSEMBLY_BYTES_MIN: usize = 8192;

/// Why no message was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// No whole message is there now.
    #[error("no message is there now")]
    WouldBlock,
    /// The deadline passed.
    #[error("the deadline passed before a message came")]
    TimedOut,
    /// The sender has left, and all it sent has been received.
    #[error("the sender has detached")]
    Detached,
    /// The sender's process has died, or a hostile one has hung up, and all it sent has been
    /// received.
    #[error("the sender's process has died")]
    PeerDied,
    /// The sender wrote nonsense into shared memory. The stream is of no further use.
    #[error("the stream is corrupt: the sender's position or a frame makes no sense")]
    Corrupt,
    /// There is no memory for the private buffer. The message stays where it is: try again later.
    #[error("no memory for a private buffer of {bytes} bytes")]
    NoMemory {
        /// The size that the buffer was to have.
        bytes: usize,
    },
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

/// The receiving end of a [`Stream`]: one thread at a time.
///
/// It can move to another thread, but not be shared:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<shm_mq::stream::Receiver>();
/// ```
///
/// # If a process dies here
/// The sender learns of it as soon as it waits for room. Messages in the ring die with the stream.
#[derive(Debug)]
pub struct Receiver<T: Level = Crashing> {
    ring: Ring<T>,
    /// A message that does not lie in the ring in one piece, as far as it has come.
    assembly: Vec<u8>,
    cursor: Cursor<T>,
}

/// How far the receiver is. Apart from the bytes, which a [`Message`] borrows beside it.
#[derive(Debug)]
struct Cursor<T: Level> {
    ring_bytes: u64,
    /// Of no size but under a sanitizer.
    owned: poison::Ring,
    hand_back: HandBack<T>,
    link: T::Link,
    fork: ForkGuard,
    /// The next frame. The truth; `given_back` is what the sender has been told.
    place: Place,
    given_back: u64,
    /// The sender's position when last looked at.
    written: u64,
    next: Option<Next>,
    /// The assembly holds the beginning of a message.
    is_partial: bool,
    is_corrupt: bool,
    not_sync: PhantomData<Cell<()>>,
}

/// The message to hand out next.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// All of the frame at the cursor's place.
    InRing { len: usize },
    /// In the assembly; its frames are consumed.
    Assembled,
}

impl Receiver {
    /// Takes the receiver's role in the stream at `offset` of `mapping`, for good.
    ///
    /// # Errors
    /// [`AttachError`]; in particular where another participant, or another handle of this process,
    /// has the role.
    ///
    /// # If a process dies here
    /// The role has named its owner or nobody. The sender learns of the owner's death.
    pub fn attach(
        m: &Arc<Mapping>,
        offset: u64,
        me: &Arc<Member>,
    ) -> Result<Receiver, AttachError> {
        Stream::attach(m, offset)?.receiver(me)
    }
}

impl<T: OneMapping> Receiver<T> {
    pub(super) fn open(
        shared: Mapped<Shared>,
        ring: Ring<T>,
        me: &Arc<Member>,
    ) -> Result<Receiver<T>, AttachError> {
        me.check_fork()?;
        shared.open(Side::Receiver, me.id())?;
        Ok(Receiver::new(ring, Peer::new(shared, Side::Receiver, me.clone())))
    }

    /// Says which process will attach as the sender: if it dies before, waits end with
    /// [`RecvError::PeerDied`], until another one is expected.
    pub fn expect_peer(&mut self, process: ProcessId) {
        self.cursor.link.expect(process);
    }

    /// Waits until the sender has attached.
    ///
    /// One that has come and gone is [`RecvError::Detached`], or [`RecvError::PeerDied`], although
    /// messages of its may wait to be received: they still can be.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`], [`RecvError::Detached`], [`RecvError::PeerDied`].
    pub fn wait_for_peer(&mut self, deadline: Option<Instant>) -> Result<(), RecvError> {
        Ok(self.cursor.link.wait_until_open(deadline)?)
    }
}

impl<T: Level> Receiver<T> {
    pub(super) fn new(ring: Ring<T>, link: T::Link) -> Receiver<T> {
        let cursor = Cursor {
            ring_bytes: ring.bytes(),
            owned: ring.owned(),
            hand_back: ring.hand_back(),
            link,
            fork: ForkGuard::new(),
            place: Place::default(),
            given_back: 0,
            written: 0,
            next: None,
            is_partial: false,
            is_corrupt: false,
            not_sync: PhantomData,
        };
        Receiver { ring, assembly: Vec::new(), cursor }
    }

    /// Receives the next message, waiting as long as it takes.
    ///
    /// The message is not copied where it lies in the ring in one piece. It keeps the receiver
    /// borrowed, for the sender gets the bytes back when it is dropped:
    ///
    /// ```compile_fail
    /// fn two(receiver: &mut shm_mq::stream::Receiver) {
    ///     let first = receiver.recv().unwrap();
    ///     let second = receiver.recv().unwrap();
    ///     println!("{first:?} {second:?}");
    /// }
    /// ```
    ///
    /// # Errors
    /// [`RecvError`], but not [`WouldBlock`](RecvError::WouldBlock) and
    /// [`TimedOut`](RecvError::TimedOut).
    ///
    /// # If a process dies here
    /// See [`Receiver`].
    #[inline]
    pub fn recv(&mut self) -> Result<Message<'_, T>, RecvError> {
        self.receive(None)
    }

    /// As [`recv`](Receiver::recv), until `deadline`.
    ///
    /// # Errors
    /// As [`recv`](Receiver::recv), and [`RecvError::TimedOut`].
    #[inline]
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Message<'_, T>, RecvError> {
        self.receive(Some(deadline))
    }

    /// As [`recv`](Receiver::recv), for at most `timeout`: without a limit where the clock does not
    /// reach so far.
    ///
    /// # Errors
    /// As [`recv_deadline`](Receiver::recv_deadline).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Message<'_, T>, RecvError> {
        self.receive(Instant::now().checked_add(timeout))
    }

    /// Receives the next message if it is there now.
    ///
    /// # Errors
    /// [`RecvError::WouldBlock`], and as [`recv`](Receiver::recv).
    #[inline]
    pub fn try_recv(&mut self) -> Result<Message<'_, T>, RecvError> {
        if !self.find()? {
            self.find_again()?;
        }
        Ok(self.message())
    }

    /// Receives the next message into `out`, in place of what is in it.
    ///
    /// # Errors
    /// As [`recv`](Receiver::recv); `out` is untouched then.
    pub fn recv_into(&mut self, out: &mut Vec<u8>) -> Result<(), RecvError> {
        let message = self.recv()?;
        out.clear();
        out.extend_from_slice(&message);
        Ok(())
    }

    /// Bytes of ring that hold published frames this receiver has not consumed.
    ///
    /// # Errors
    /// [`RecvError::Corrupt`], [`RecvError::Forked`].
    pub fn occupied_bytes(&mut self) -> Result<u64, RecvError> {
        self.cursor.usable()?;
        self.cursor.refresh()?;
        Ok(self.cursor.available())
    }

    /// Bytes of the private buffer, which only grows: 0 until a message did not lie in one piece.
    pub fn buffer_bytes(&self) -> usize {
        self.assembly.capacity()
    }

    #[inline]
    fn receive(&mut self, deadline: Option<Instant>) -> Result<Message<'_, T>, RecvError> {
        if !self.find()? {
            self.find_slowly(deadline)?;
        }
        Ok(self.message())
    }

    #[cold]
    fn find_slowly(&mut self, deadline: Option<Instant>) -> Result<(), RecvError> {
        let look = |receiver: &mut Self, _| match receiver.find_again() {
            Err(RecvError::WouldBlock) => None,
            end => Some(end),
        };
        look_until(self, |receiver| &mut receiver.cursor.link, deadline, look)
            .unwrap_or(Err(RecvError::TimedOut))
    }

    /// Looks at the sender's position, and if that does not help, at the sender.
    fn find_again(&mut self) -> Result<(), RecvError> {
        self.cursor.refresh()?;
        if self.find()? {
            return Ok(());
        }
        self.cursor.give_back();
        let Some(gone) = self.cursor.link.gone() else { return Err(RecvError::WouldBlock) };
        // Look once more: it may have published something between our look and its end.
        self.cursor.refresh()?;
        if self.find()? { Ok(()) } else { Err(gone.into()) }
    }

    /// Finds the next message among the frames known to be published.
    #[inline]
    fn find(&mut self) -> Result<bool, RecvError> {
        self.cursor.usable()?;
        if self.cursor.next.is_some() {
            return Ok(true);
        }
        while self.cursor.available() > 0 {
            // SAFETY: a frame begins at `place`, which is published and not given back.
            let word = unsafe { self.ring.header(self.cursor.place) };
            let header = Header::from_word(word);
            if frame_bytes(header.len()) > self.cursor.available() {
                return Err(self.cursor.corrupt());
            }
            let whole = header.is_first() && header.is_last();
            if T::IN_PLACE
                && whole
                && self.ring.is_contiguous(self.cursor.payload(header.len()), header.len())
            {
                self.cursor.is_partial = false;
                self.cursor.next = Some(Next::InRing { len: header.len() });
                return Ok(true);
            }
            if self.assemble(header)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Consumes a frame, which is all available, into the assembly: `true` where it ends a message.
    fn assemble(&mut self, header: Header) -> Result<bool, RecvError> {
        let (len, cursor) = (header.len(), &mut self.cursor);
        if header.is_first() {
            self.assembly.clear();
            cursor.is_partial = false;
        } else if !cursor.is_partial || len == 0 {
            return Err(cursor.corrupt());
        }
        let total = self.assembly.len() + len;
        if total > cursor.link.message_bytes_max() {
            return Err(cursor.corrupt());
        }
        if total > self.assembly.capacity() {
            let capacity = total.next_power_of_two().max(ASSEMBLY_BYTES_MIN);
            let more = capacity - self.assembly.len();
            let had = self.assembly.try_reserve_exact(more);
            had.map_err(|_| RecvError::NoMemory { bytes: capacity })?;
        }
        // SAFETY: the whole frame is published and not given back.
        unsafe { self.ring.append(cursor.payload(len), len, &mut self.assembly) };
        cursor.consume(len);
        cursor.is_partial = !header.is_last();
        if header.is_last() {
            cursor.next = Some(Next::Assembled);
        }
        Ok(header.is_last())
    }

    /// The message that `find` has found.
    #[inline]
    fn message(&mut self) -> Message<'_, T> {
        let bytes = match self.cursor.next {
            Some(Next::InRing { len }) => {
                // SAFETY: the frame stays ours until `Held` gives it back, after the view.
                unsafe { self.ring.view(self.cursor.payload(len), len) }
            }
            _ => View::from(self.assembly.as_slice()),
        };
        Message { bytes, _held: Held { cursor: &mut self.cursor } }
    }
}

/// Ready where [`try_recv`](Receiver::try_recv) gives a message, or another error than
/// [`WouldBlock`](RecvError::WouldBlock).
impl<T: Level> Source for Receiver<T> {
    fn is_ready(&mut self) -> bool {
        let found = match self.find() {
            Ok(false) => self.find_again(),
            found => found.map(drop),
        };
        found != Err(RecvError::WouldBlock)
    }

    sleeps_by!(cursor.link);
}

impl<T: Level> Cursor<T> {
    /// Bytes of frames known to be published and not consumed.
    #[inline]
    fn available(&self) -> u64 {
        self.written.wrapping_sub(self.place.position)
    }

    /// Where the bytes of the frame at `place` begin.
    #[inline]
    fn payload(&self, len: usize) -> Place {
        self.place.plus(payload_distance(len), self.ring_bytes)
    }

    /// Steps over the frame at `place`. The sender is told once more than a quarter of the ring is
    /// consumed.
    #[inline]
    fn consume(&mut self, len: usize) {
        // SAFETY: the frame is ours, and nobody looks at it any more.
        unsafe { self.hand_back.before(self.payload(len).word(), len) };
        self.place = self.place.plus(frame_bytes(len), self.ring_bytes);
        if self.place.position.wrapping_sub(self.given_back) > self.ring_bytes / 4 {
            self.give_back();
        }
    }

    /// Tells the sender what has been consumed, and wakes it if it sleeps.
    #[inline]
    fn give_back(&mut self) {
        if self.given_back != self.place.position {
            let len = self.place.position.wrapping_sub(self.given_back);
            self.owned.give_back(self.given_back, len);
            self.given_back = self.place.position;
            self.link.tell_read(self.given_back);
            self.link.wake_sender();
        }
    }

    /// Looks at the sender's position: a claim, at most one ring ahead of what was given back.
    fn refresh(&mut self) -> Result<(), RecvError> {
        let written = self.link.written();
        let free = self.ring_bytes - self.written.wrapping_sub(self.given_back);
        if checked_distance(written, self.written, free).is_none() {
            return Err(self.corrupt());
        }
        self.owned.take(self.written, written.wrapping_sub(self.written));
        self.written = written;
        Ok(())
    }

    #[cold]
    fn corrupt(&mut self) -> RecvError {
        self.is_corrupt = true;
        RecvError::Corrupt
    }

    #[inline]
    fn usable(&self) -> Result<(), RecvError> {
        if self.is_corrupt {
            return Err(RecvError::Corrupt);
        }
        if self.fork.check().is_err() {
            return Err(RecvError::Forked);
        }
        Ok(())
    }
}

impl<T: Level> Drop for Cursor<T> {
    /// Tells the sender that nobody will receive any more.
    fn drop(&mut self) {
        if self.fork.check().is_ok() {
            self.link.leave();
        }
    }
}

/// A received message: its bytes, in the ring or in the receiver's private buffer.
///
/// Dropping it consumes it.
pub struct Message<'a, T: Level = Crashing> {
    bytes: View<'a>,
    /// Dropped after the bytes.
    _held: Held<'a, T>,
}

impl<T: Level> Message<'_, T> {
    /// Leaves the message for the next receive.
    pub fn put_back(self) {
        // What consumes a message is `Held`; a view holds nothing.
        std::mem::forget(self);
    }
}

impl<T: Level> Deref for Message<'_, T> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: Level> fmt::Debug for Message<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Message").field(&&self.bytes[..]).finish()
    }
}

/// Consumes the message at its end.
struct Held<'a, T: Level> {
    cursor: &'a mut Cursor<T>,
}

impl<T: Level> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // To a forked child it was never given: its parent still reads these bytes.
        if self.cursor.fork.check().is_err() {
            return;
        }
        if let Some(Next::InRing { len }) = self.cursor.next.take() {
            self.cursor.consume(len);
        }
    }
}
