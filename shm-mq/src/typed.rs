//! Typed faces of queues of records: a value is a record, and what arrives is checked.
//!
//! A [`Code`] says how values become bytes, and which bytes are values:
//!
//! | code | values | a record is bad that |
//! | --- | --- | --- |
//! | [`Plain`] | structs and enums without padding, as `bytemuck` checks them | has another length, or bits that no value has |
//! | [`Text`] | strings | is no UTF-8 |
//! | `Postcard` | what `serde` can write and read (feature `serde`) | `postcard` cannot read as one value, to its end |
//!
//! A bad record is an error, is consumed, and harms nothing: the next one follows.
//!
//! ```
//! use bytemuck::{CheckedBitPattern, NoUninit};
//! use shm_core::{layout::Fingerprint, mapping::Mapping, participants::Table};
//! use shm_mq::typed::{Message, TypedReceiver, TypedSender};
//! use shm_mq::spsc::Queue;
//!
//! #[derive(Clone, Copy, Debug, PartialEq, NoUninit, CheckedBitPattern)]
//! #[repr(u8)]
//! enum Light {
//!     Red,
//!     Amber,
//!     Green,
//! }
//! impl Message for Light {
//!     const FINGERPRINT: u64 = Fingerprint::new("Light", 1, 1).finish();
//! }
//!
//! let at = Table::bytes_for(2).next_multiple_of(64);
//! let mapping = Mapping::heap((at + Queue::bytes_for(1024)) as usize);
//! // SAFETY: nobody else has the mapping.
//! let table = unsafe { Table::create(&mapping, 0, 2) }?;
//! // SAFETY: as above, and the table ends before.
//! let queue = unsafe { Queue::create(&mapping, at, 1024, Light::FINGERPRINT) }?;
//!
//! let me = table.join()?;
//! let mut sender = TypedSender::<Light>::attach(&mapping, at, &me)?;
//! let mut receiver = TypedReceiver::<Light>::attach(&mapping, at, &me)?;
//! sender.send(&Light::Green)?;
//! assert_eq!(receiver.recv()?, Light::Green);
//! # drop(queue);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # If a process dies here
//! As in the calls of [`spsc`].
use crate::spsc::{self, AttachError, ConnectError, Level, Limits, Queue, RecvError, SendError};
use crate::wait::sleeps_by;
use crate::waitset::Source;
use bytemuck::checked::{CheckedCastError, try_pod_read_unaligned};
use bytemuck::{CheckedBitPattern, NoUninit, PodCastError};
use shm_core::mapping::Mapping;
use shm_core::participants::Member;
use shm_core::trust::{Crashing, Hostile};
use std::fmt;
use std::marker::PhantomData;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// A type whose values are told apart from other types' by a number, so that nobody attaches to a
/// queue of something else.
pub trait Message {
    /// As [`fingerprint!`](shm_core::fingerprint) makes it of a struct.
    const FINGERPRINT: u64;
}

impl Message for String {
    const FINGERPRINT: u64 = shm_core::layout::Fingerprint::new("utf-8", 0, 1).finish();
}

/// How values of `M` become records.
pub trait Code<M> {
    /// Lends the bytes of a value.
    ///
    /// # Errors
    /// [`BadRecord`]: it cannot be written.
    fn encode<R>(message: &M, to: impl FnOnce(&[u8]) -> R) -> Result<R, BadRecord>;

    /// The value that these bytes are.
    ///
    /// # Errors
    /// [`BadRecord`]: they are none.
    fn decode(bytes: &[u8]) -> Result<M, BadRecord>;
}

/// Why a record is not a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadRecord {
    /// It has another length than all values have.
    #[error("a record of {len} bytes, where values have {expected}")]
    Length {
        /// Bytes of the record.
        len: usize,
        /// Bytes of a value.
        expected: usize,
    },
    /// No value has these bits.
    #[error("a record whose bits no value has")]
    Bits,
    /// It is not UTF-8.
    #[error("a record that is no text")]
    Text,
    /// `postcard` cannot read it, or bytes are left behind the value; or cannot write the value.
    #[error("a record that is no value of its type")]
    Postcard,
}

/// The bytes of a value as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub enum Plain {}

impl<M: CheckedBitPattern + NoUninit> Code<M> for Plain {
    fn encode<R>(message: &M, to: impl FnOnce(&[u8]) -> R) -> Result<R, BadRecord> {
        Ok(to(bytemuck::bytes_of(message)))
    }

    fn decode(bytes: &[u8]) -> Result<M, BadRecord> {
        // Copies first, and looks at the copy.
        try_pod_read_unaligned(bytes).map_err(|error| match error {
            CheckedCastError::PodCastError(PodCastError::SizeMismatch) => {
                BadRecord::Length { len: bytes.len(), expected: size_of::<M>() }
            }
            _ => BadRecord::Bits,
        })
    }
}

/// A string as its UTF-8.
#[derive(Clone, Copy, Debug)]
pub enum Text {}

impl Code<String> for Text {
    fn encode<R>(message: &String, to: impl FnOnce(&[u8]) -> R) -> Result<R, BadRecord> {
        Ok(to(message.as_bytes()))
    }

    fn decode(bytes: &[u8]) -> Result<String, BadRecord> {
        String::from_utf8(bytes.to_vec()).map_err(|_| BadRecord::Text)
    }
}

/// What `serde` makes of a value, as `postcard` writes it.
#[cfg(feature = "serde")]
#[derive(Clone, Copy, Debug)]
pub enum Postcard {}

#[cfg(feature = "serde")]
impl<M: serde::Serialize + serde::de::DeserializeOwned> Code<M> for Postcard {
    fn encode<R>(message: &M, to: impl FnOnce(&[u8]) -> R) -> Result<R, BadRecord> {
        let bytes = postcard::to_stdvec(message).map_err(|_| BadRecord::Postcard)?;
        Ok(to(&bytes))
    }

    fn decode(bytes: &[u8]) -> Result<M, BadRecord> {
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Ok(message),
            _ => Err(BadRecord::Postcard),
        }
    }
}

/// Why a value was not received, or not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypedError<E> {
    /// The queue says so.
    #[error(transparent)]
    Queue(E),
    /// A record came that is no value, and has been consumed; or the value cannot be a record.
    #[error(transparent)]
    Record(BadRecord),
}

impl<E> From<E> for TypedError<E> {
    fn from(error: E) -> TypedError<E> {
        TypedError::Queue(error)
    }
}

/// Sends values: the sending end of a [`Queue`].
pub struct TypedSender<M, C = Plain, T: Level = Crashing> {
    sender: spsc::Sender<T>,
    values: PhantomData<fn(&M, C)>,
}

impl<M: Message, C: Code<M>> TypedSender<M, C> {
    /// Takes the sender's role in the queue at `offset` of `mapping`, one of these values.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(m: &Arc<Mapping>, offset: u64, me: &Arc<Member>) -> Result<Self, AttachError> {
        Queue::attach(m, offset, M::FINGERPRINT)?.sender(me).map(TypedSender::new)
    }
}

impl<M: Message, C: Code<M>> TypedSender<M, C, Hostile> {
    /// Meets the receiver of these values at the other end of `socket`, which it does not trust:
    /// see [`spsc::Sender::connect`].
    ///
    /// ```
    /// use shm_core::trust::Hostile;
    /// use shm_mq::spsc::{ConnectError, Limits};
    /// use shm_mq::typed::{Text, TypedReceiver, TypedSender};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (ours, theirs) = UnixStream::pair()?;
    /// let peer = std::thread::spawn(move || {
    ///     let limits = Limits::default();
    ///     let mut receiver = TypedReceiver::<String, Text, _>::connect(theirs, limits, None)?;
    ///     Ok::<_, ConnectError>((receiver.recv(), receiver))
    /// });
    /// let mut sender = TypedSender::<String, Text, Hostile>::connect(ours, 4096, None)?;
    /// sender.send(&"checked when it arrives".to_owned())?;
    /// let (text, _receiver) = peer.join().expect("no panic")?;
    /// assert_eq!(text?, "checked when it arrives");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(
        socket: UnixStream,
        ring_bytes: u64,
        deadline: Option<Instant>,
    ) -> Result<Self, ConnectError> {
        spsc::Sender::<Hostile>::connect(socket, ring_bytes, M::FINGERPRINT, deadline)
            .map(TypedSender::new)
    }
}

impl<M, C: Code<M>, T: Level> TypedSender<M, C, T> {
    /// Sends values by `sender`, whose queue is known to be one of them.
    pub fn new(sender: spsc::Sender<T>) -> Self {
        TypedSender { sender, values: PhantomData }
    }

    /// Sends a value if there is room for it now; `false` where there is not.
    ///
    /// # Errors
    /// [`TypedError`].
    pub fn try_send(&mut self, message: &M) -> Result<bool, TypedError<SendError>> {
        let sent = C::encode(message, |bytes| self.sender.try_send(bytes));
        Ok(sent.map_err(TypedError::Record)??)
    }

    /// Sends a value, waiting for room as long as it takes.
    ///
    /// # Errors
    /// [`TypedError`].
    pub fn send(&mut self, message: &M) -> Result<(), TypedError<SendError>> {
        let sent = C::encode(message, |bytes| self.sender.send(bytes));
        Ok(sent.map_err(TypedError::Record)??)
    }

    /// As [`send`](TypedSender::send), until `deadline`.
    ///
    /// # Errors
    /// [`TypedError`].
    pub fn send_deadline(
        &mut self,
        message: &M,
        deadline: Instant,
    ) -> Result<(), TypedError<SendError>> {
        let sent = C::encode(message, |bytes| self.sender.send_deadline(bytes, deadline));
        Ok(sent.map_err(TypedError::Record)??)
    }

    /// The end that takes bytes.
    pub fn bytes(&mut self) -> &mut spsc::Sender<T> {
        &mut self.sender
    }
}

impl<M, C, T: Level> fmt::Debug for TypedSender<M, C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedSender").field(&self.sender).finish()
    }
}

/// Receives values: the receiving end of a [`Queue`].
pub struct TypedReceiver<M, C = Plain, T: Level = Crashing> {
    receiver: spsc::Receiver<T>,
    values: PhantomData<fn(C) -> M>,
}

impl<M: Message, C: Code<M>> TypedReceiver<M, C> {
    /// Takes the receiver's role in the queue at `offset` of `mapping`, one of these values.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(m: &Arc<Mapping>, offset: u64, me: &Arc<Member>) -> Result<Self, AttachError> {
        Queue::attach(m, offset, M::FINGERPRINT)?.receiver(me).map(TypedReceiver::new)
    }
}

impl<M: Message, C: Code<M>> TypedReceiver<M, C, Hostile> {
    /// Meets the sender of these values at the other end of `socket`, which it does not trust: see
    /// [`spsc::Receiver::connect`]. What comes is copied, and the copy is checked.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub fn connect(
        socket: UnixStream,
        limits: Limits,
        deadline: Option<Instant>,
    ) -> Result<Self, ConnectError> {
        spsc::Receiver::<Hostile>::connect(socket, limits, M::FINGERPRINT, deadline)
            .map(TypedReceiver::new)
    }
}

impl<M, C: Code<M>, T: Level> TypedReceiver<M, C, T> {
    /// Receives values by `receiver`, whose queue is known to be one of them.
    pub fn new(receiver: spsc::Receiver<T>) -> Self {
        TypedReceiver { receiver, values: PhantomData }
    }

    /// The next value if there is one now.
    ///
    /// # Errors
    /// [`TypedError`].
    pub fn try_recv(&mut self) -> Result<Option<M>, TypedError<RecvError>> {
        let Some(record) = self.receiver.try_recv()? else { return Ok(None) };
        C::decode(&record).map(Some).map_err(TypedError::Record)
    }

    /// The next value, waiting as long as it takes.
    ///
    /// # Errors
    /// [`TypedError`].
    pub fn recv(&mut self) -> Result<M, TypedError<RecvError>> {
        C::decode(&self.receiver.recv()?).map_err(TypedError::Record)
    }

    /// As [`recv`](TypedReceiver::recv), until `deadline`.
    ///
    /// # Errors
    /// [`TypedError`].
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<M, TypedError<RecvError>> {
        C::decode(&self.receiver.recv_deadline(deadline)?).map_err(TypedError::Record)
    }

    /// The end that gives bytes.
    pub fn bytes(&mut self) -> &mut spsc::Receiver<T> {
        &mut self.receiver
    }
}

/// Ready where [`try_recv`](TypedReceiver::try_recv) gives a value, or an error.
impl<M, C, T: Level> Source for TypedReceiver<M, C, T> {
    fn is_ready(&mut self) -> bool {
        self.receiver.is_ready()
    }

    sleeps_by!(receiver);
}

impl<M, C, T: Level> fmt::Debug for TypedReceiver<M, C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TypedReceiver").field(&self.receiver).finish()
    }
}
