//! Asynchronous faces of the queues, for any runtime: a queue is waited for by a task in place of
//! a thread.
//!
//! ```text
//!  task ──poll──► Async ──is it ready?──► the queue         the algorithms know nothing of this
//!    ▲              │ announce, look again, arm
//!    │              ▼
//!    └──waker── reactor ◄──readable── Bell ◄── bed, life word; of a hostile queue, its socket
//! ```
//!
//! There is no thread here, and no runtime: a [`Bell`] is a file descriptor that becomes readable
//! when the queue's bed or its peer's life word changes, or the socket of a hostile queue can be
//! read, and [`Reactor`] is the few lines by which
//! a runtime waits for a descriptor. While a queue is ready nothing is armed, and no system call is
//! made.
//!
//! For tokio:
//!
//! ```
//! # use std::{io, os::fd::OwnedFd, task::{Context, Poll, ready}};
//! use shm_mq::futures::Reactor;
//! use tokio::io::{Interest, unix::AsyncFd};
//!
//! struct Tokio(AsyncFd<OwnedFd>);
//!
//! impl Reactor for Tokio {
//!     fn register(bell: OwnedFd) -> io::Result<Tokio> {
//!         // SAFETY: an `OwnedFd` is one descriptor, open for as long as it lives.
//!         let bell = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) };
//!         Ok(Tokio(bell?))
//!     }
//!
//!     fn poll_readable(
//!         &mut self,
//!         cx: &mut Context<'_>,
//!         look: &mut dyn FnMut() -> io::Result<()>,
//!     ) -> Poll<io::Result<()>> {
//!         loop {
//!             let mut guard = ready!(self.0.poll_read_ready_mut(cx))?;
//!             if let Ok(end) = guard.try_io(|_| look()) {
//!                 return Poll::Ready(end);
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! **Cancelling.** A future that is dropped has taken nothing: a record leaves the queue, and goes
//! into it, in one step after the waiting. A [`Sink`] holds at most one record that it has
//! accepted and not sent; flush it.
//!
//! **Ends.** Where the peer has left or died, all it sent is received, then comes the error, once,
//! and a [`Stream`] is over. The receivers of a [`fan_in`] go on: the ends of their senders are
//! among what they receive; that of strangers is over once none is left.
//!
//! **Hostile ends** are the same. A peer that rings all the time has its task look in vain, each
//! time behind all others of its thread.
//!
//! # If a process dies here
//! As in the calls of the queues. A task that was waiting leaves a bit in beds and life words, or
//! its announcement in a hostile queue: a wake-up in vain.
//!
//! # Limits
//!
//! A task that waits holds a place in the kernel like a sleeping thread. The kernel wakes one
//! sleeper for a death, who wakes the others: a task that is not polled any more, though it was
//! woken, may keep others waiting for a second. Messages of a `stream` that are longer than its
//! ring are [`TooLarge`](crate::stream::SendError::TooLarge) here.
use crate::wait::announce;
use crate::waitset::Source;
use crate::{broadcast, fan_in, spsc, stream};
use futures_core::Stream;
use futures_sink::Sink;
use shm_core::bell::{Bell, BellError};
use shm_core::event::Ticket;
use shm_core::participants::{Sleeper, Watch};
use shm_core::sealed::Doorbell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// A task looks so often in a row; then others have their turn. A peer that writes nonsense into
/// beds all the time keeps nobody's thread.
const LOOKS_MAX: u32 = 16;

/// How a runtime waits for a file descriptor: implemented by a few lines of the user's.
pub trait Reactor: Sized {
    /// Begins to watch `bell`, of which it owns this copy, for being readable.
    ///
    /// # Errors
    /// What the runtime says.
    fn register(bell: OwnedFd) -> io::Result<Self>;

    /// Calls `look` once the descriptor may be readable, and gives what it gives; where that is
    /// [`WouldBlock`](io::ErrorKind::WouldBlock), waits for the descriptor again, with the task's
    /// waker registered.
    fn poll_readable(
        &mut self,
        cx: &mut Context<'_>,
        look: &mut dyn FnMut() -> io::Result<()>,
    ) -> Poll<io::Result<()>>;
}

/// Why an asynchronous call ended without what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AsyncError<E> {
    /// The queue says so.
    #[error(transparent)]
    Queue(E),
    /// It cannot be waited for: the system refuses, or it is a forked child.
    #[error("the queue cannot be waited for")]
    Bell(#[from] BellError),
}

impl<E> From<io::Error> for AsyncError<E> {
    fn from(error: io::Error) -> AsyncError<E> {
        AsyncError::Bell(error.into())
    }
}

/// Receives what is its own from then on: what a [`Stream`] is made of.
pub trait Receives: Source {
    /// What it receives: a record, in private memory.
    type Item;
    /// Why it ends.
    type Error;

    /// The next one, if it is there now.
    ///
    /// # Errors
    /// The queue's.
    fn receive(&mut self) -> Result<Option<Self::Item>, Self::Error>;
}

/// Sends whole records: what a [`Sink`] is made of.
pub trait Sends {
    /// Why it ends.
    type Error;

    /// Sends a record if there is room for it now; `false` where there will be.
    ///
    /// # Errors
    /// The queue's; in particular where it is full and the receiver has gone.
    fn send_now(&mut self, record: &[u8]) -> Result<bool, Self::Error>;

    /// Room for a record of so many bytes.
    fn space_for(&mut self, len: usize) -> impl Source;
}

impl<T: spsc::Level> Receives for spsc::Receiver<T> {
    type Item = Vec<u8>;
    type Error = spsc::RecvError;

    fn receive(&mut self) -> Result<Option<Vec<u8>>, spsc::RecvError> {
        Ok(self.try_recv()?.map(|record| record.to_vec()))
    }
}

impl<T: spsc::Level> Sends for spsc::Sender<T> {
    type Error = spsc::SendError;

    fn send_now(&mut self, record: &[u8]) -> Result<bool, spsc::SendError> {
        if self.try_send(record)? {
            return Ok(true);
        }
        let end = self.end();
        // It may have made room before.
        Ok(self.try_send(record)? || end.map_or(Ok(false), Err)?)
    }

    fn space_for(&mut self, len: usize) -> impl Source {
        self.space(len)
    }
}

impl<T: stream::Level> Receives for stream::Receiver<T> {
    type Item = Vec<u8>;
    type Error = stream::RecvError;

    fn receive(&mut self) -> Result<Option<Vec<u8>>, stream::RecvError> {
        match self.try_recv() {
            Ok(message) => Ok(Some(message.to_vec())),
            Err(stream::RecvError::WouldBlock) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<T: stream::Level> Sends for stream::Sender<T> {
    type Error = stream::SendError;

    fn send_now(&mut self, message: &[u8]) -> Result<bool, stream::SendError> {
        match self.try_send(message) {
            Ok(()) => Ok(true),
            Err(stream::SendError::WouldBlock) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn space_for(&mut self, len: usize) -> impl Source {
        self.space(len)
    }
}

/// A record, or the end of a sender, of which nobody is told again then.
impl<T: stream::OneMapping> Receives for fan_in::Receiver<T> {
    type Item = fan_in::Arrival;
    type Error = fan_in::RecvError;

    fn receive(&mut self) -> Result<Option<fan_in::Arrival>, fan_in::RecvError> {
        Ok(self.try_recv()?.map(fan_in::Event::into_owned))
    }
}

/// A record, or the end of a sender. Once nobody is there who was admitted, nothing more comes.
impl<K: Clone> Receives for fan_in::Strangers<K> {
    type Item = fan_in::StrangeArrival<K>;
    type Error = fan_in::StrangersError;

    fn receive(&mut self) -> Result<Option<fan_in::StrangeArrival<K>>, fan_in::StrangersError> {
        if self.is_empty() {
            return Err(fan_in::StrangersError::Nobody);
        }
        Ok(self.try_recv()?.map(fan_in::Strange::into_owned))
    }
}

/// A record, or how many were missed.
impl<T: stream::OneMapping> Receives for broadcast::Subscriber<T> {
    type Item = broadcast::Arrival;
    type Error = broadcast::RecvError;

    fn receive(&mut self) -> Result<Option<broadcast::Arrival>, broadcast::RecvError> {
        match self.try_recv() {
            Ok(record) => Ok(record.map(broadcast::Record::into_owned)),
            Err(broadcast::RecvError::Missed { records }) => {
                Ok(Some(broadcast::Arrival::Missed { records }))
            }
            Err(error) => Err(error),
        }
    }
}

/// A record, or how many were missed.
impl Receives for broadcast::StrangeSubscriber {
    type Item = broadcast::Arrival;
    type Error = broadcast::RecvError;

    fn receive(&mut self) -> Result<Option<broadcast::Arrival>, broadcast::RecvError> {
        match self.try_recv() {
            Ok(record) => Ok(record.map(|(number, bytes)| broadcast::Arrival::Record {
                number,
                bytes: bytes.to_vec(),
            })),
            Err(broadcast::RecvError::Missed { records }) => {
                Ok(Some(broadcast::Arrival::Missed { records }))
            }
            Err(error) => Err(error),
        }
    }
}

impl<T: stream::OneMapping> Sends for broadcast::Publisher<T> {
    type Error = broadcast::PublishError;

    fn send_now(&mut self, record: &[u8]) -> Result<bool, broadcast::PublishError> {
        self.try_publish(record)
    }

    fn space_for(&mut self, _: usize) -> impl Source {
        self.space()
    }
}

/// The end of a queue that tasks wait for. Whichever it is: [`ready`](Async::ready), then its own
/// call without waiting, on [`end`](Async::end); for queues of whole records there is more.
///
/// `R` is the runtime's [`Reactor`]. To be made within the runtime, as its own descriptors are.
#[derive(Debug)]
pub struct Async<S, R> {
    waiting: Waiting<R>,
    end: S,
}

/// All but the queue.
#[derive(Debug)]
struct Waiting<R> {
    /// Gone before the bell, of whose descriptor it has a copy.
    reactor: R,
    bell: Bell,
    sleeper: Sleeper,
    is_armed: bool,
}

impl<S, R: Reactor> Async<S, R> {
    /// Lets tasks wait for `end`.
    ///
    /// # Errors
    /// [`BellError`]: there is no descriptor left, or the runtime refuses it.
    pub fn new(end: S) -> Result<Async<S, R>, BellError> {
        Async::with_bell(end, Bell::new()?)
    }

    /// As [`new`](Async::new), with this bell.
    ///
    /// # Errors
    /// As [`new`](Async::new).
    pub fn with_bell(end: S, bell: Bell) -> Result<Async<S, R>, BellError> {
        let reactor = R::register(bell.as_fd().try_clone_to_owned()?)?;
        let waiting = Waiting { reactor, bell, sleeper: Sleeper::new(), is_armed: false };
        Ok(Async { waiting, end })
    }

    /// The end itself.
    pub fn end(&mut self) -> &mut S {
        // It may sleep by itself, and take its announcement back; strangers may be admitted.
        self.waiting.is_armed = false;
        &mut self.end
    }

    /// Gives it back.
    pub fn into_end(self) -> S {
        self.end
    }
}

impl<S: Source, R: Reactor> Async<S, R> {
    /// Ready once the end is: once its call without waiting would do something, or say why not.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BellError>> {
        self.waiting.poll(&mut self.end, cx)
    }

    /// Waits until [`poll_ready`](Async::poll_ready).
    ///
    /// # Errors
    /// [`BellError`].
    pub async fn ready(&mut self) -> Result<(), BellError> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }
}

impl<R: Reactor> Waiting<R> {
    fn poll(&mut self, end: &mut dyn Source, cx: &mut Context<'_>) -> Poll<Result<(), BellError>> {
        for _ in 0..LOOKS_MAX {
            if end.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if !self.is_armed {
                let ticket = announce(end);
                if end.is_ready_at_last() {
                    return Poll::Ready(Ok(()));
                }
                self.is_armed = self.arm(end, ticket)?;
                if !self.is_armed {
                    // A peer has just died.
                    continue;
                }
            }
            let bell = &mut self.bell;
            let mut look = || match bell.take() {
                Ok(true) => Ok(()),
                Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
                Err(BellError::System(error)) => Err(error),
                Err(other) => Err(io::Error::other(other)),
            };
            ready!(self.reactor.poll_readable(cx, &mut look))?;
            self.is_armed = false;
            let mut peers = Vec::<&Watch>::new();
            end.peers(&mut peers);
            peers.iter().for_each(|peer| peer.pass_on());
            hear(end);
            end.woken();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Has the bell rung by what would wake a sleeper; `false` where a peer is dead.
    fn arm(&mut self, end: &dyn Source, ticket: Option<Ticket>) -> Result<bool, BellError> {
        let mut peers = Vec::<&Watch>::new();
        end.peers(&mut peers);
        let events: Vec<_> = end.bed().zip(ticket).into_iter().collect();
        let Some(mut night) = self.sleeper.lie_down(&events, &peers) else { return Ok(false) };
        if let Some(most) = end.sleep_max() {
            night.ends_within(most);
        }
        let mut bells = Vec::<&Doorbell>::new();
        end.doorbells(&mut bells);
        let fds: Vec<_> = bells.iter().flat_map(|bell| bell.descriptors()).collect();
        self.bell.arm_beside(night.words(), &fds, night.most())?;
        Ok(true)
    }
}

/// Throws away what has come from hostile peers, and tells the end.
fn hear(end: &mut dyn Source) {
    let mut bells = Vec::<&Doorbell>::new();
    end.doorbells(&mut bells);
    if bells.is_empty() {
        return;
    }
    let heard = Doorbell::wait_any(&bells, Some(Instant::now()));
    for (which, heard) in heard.into_iter().enumerate() {
        if let Some(heard) = heard {
            end.heard(which, heard);
        }
    }
}

impl<S: Receives, R: Reactor> Async<S, R> {
    /// The next record.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Item, AsyncError<S::Error>>> {
        for _ in 0..LOOKS_MAX {
            if let Some(record) = self.end.receive().map_err(AsyncError::Queue)? {
                return Poll::Ready(Ok(record));
            }
            ready!(self.poll_ready(cx))?;
        }
        // It says that it is ready, and is not.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The next record. Dropped before it is done, it has taken nothing.
    ///
    /// # Errors
    /// [`AsyncError`].
    pub async fn recv(&mut self) -> Result<S::Item, AsyncError<S::Error>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// All records, one after the other.
    pub fn into_stream(self) -> Records<S, R> {
        Records { from: self, is_over: false }
    }
}

impl<S: Sends, R: Reactor> Async<S, R> {
    /// Sends a record once there is room for it.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        record: &[u8],
    ) -> Poll<Result<(), AsyncError<S::Error>>> {
        for _ in 0..LOOKS_MAX {
            if self.end.send_now(record).map_err(AsyncError::Queue)? {
                return Poll::Ready(Ok(()));
            }
            ready!(self.waiting.poll(&mut self.end.space_for(record.len()), cx))?;
        }
        // There is room, and there is none.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends a record, waiting for room. Dropped before it is done, it has sent nothing.
    ///
    /// # Errors
    /// [`AsyncError`].
    pub async fn send(&mut self, record: &[u8]) -> Result<(), AsyncError<S::Error>> {
        poll_fn(|cx| self.poll_send(cx, record)).await
    }

    /// Takes records of private memory, one after the other.
    pub fn into_sink(self) -> Outbox<S, R> {
        Outbox { to: self, accepted: None }
    }
}

/// The records of a queue, until it ends: made by [`Async::into_stream`].
#[derive(Debug)]
pub struct Records<S, R> {
    from: Async<S, R>,
    is_over: bool,
}

impl<S: Receives + Unpin, R: Reactor + Unpin> Stream for Records<S, R> {
    type Item = Result<S::Item, AsyncError<S::Error>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let record = ready!(self.from.poll_recv(cx));
        self.is_over = record.is_err();
        Poll::Ready(Some(record))
    }
}

/// Takes records: made by [`Async::into_sink`].
#[derive(Debug)]
pub struct Outbox<S, R> {
    to: Async<S, R>,
    /// Not in the queue yet.
    accepted: Option<Vec<u8>>,
}

impl<S: Sends, R: Reactor> Outbox<S, R> {
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AsyncError<S::Error>>> {
        if let Some(record) = &self.accepted {
            ready!(self.to.poll_send(cx, record))?;
            self.accepted = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Sends + Unpin, R: Reactor + Unpin> Sink<Vec<u8>> for Outbox<S, R> {
    type Error = AsyncError<S::Error>;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.poll_sent(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, record: Vec<u8>) -> Result<(), Self::Error> {
        if !self.to.end.send_now(&record).map_err(AsyncError::Queue)? {
            self.accepted = Some(record);
        }
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.poll_sent(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.poll_sent(cx)
    }
}
