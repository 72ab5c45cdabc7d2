//! `stream`: byte messages of any size, one sender to one receiver. PostgreSQL's `shm_mq`.
//!
//! ```text
//!               read                     written              place of the sender
//!                |  place of the receiver   |                      |
//!  ring:  ...----+---------+----------------+----------------------+-----...
//!          free  | consumed| to be received | pushed, not yet      |  free
//!                | not yet |                | published            |
//!                | told    |                |                      |
//! ```
//!
//! Two positions run freely from 0: `written` is the sender's alone to write, `read` the
//! receiver's. Each side keeps its own privately and tells it now and then; it looks at the
//! other's only when its last look says "full" or "empty". So while both keep up, a batch of
//! messages costs one line transfer each way, and no system call.
//!
//! **Messages and fragments.** The sender writes frames, each one fragment of a message, and a
//! frame becomes visible whole, by one store of `written`. A message that fits the free part of
//! the ring is one frame. A longer one goes in several, of a quarter of the ring or so: thus
//! messages may be far larger than the ring, and the receiver copies one frame while the next is
//! written. The smallest ring has one word; a frame of one word carries 4 bytes.
//!
//! **Giving up half-way.** A sender that runs into its deadline, or drops a `Sending`, just goes
//! on with its next message: a fragment marked as a message's first makes the receiver discard the
//! beginning of an unfinished one. Nothing has to be written at the time, when there may be no
//! room.
//!
//! **Who is gone.** A side that has left says so in its role's state; one that died is told from
//! its life word, on which the waiting side sleeps too. Either way the receiver looks at `written`
//! once more *after* it knows, and so receives everything published before it says `Detached` or
//! `PeerDied`:
//!
//! | dies after | the other side |
//! | --- | --- |
//! | naming itself, before opening | learns of the death: a role is never taken over. (One that only left its seat has `Detached`) |
//! | copying bytes, before `written` | sees nothing of them |
//! | `written`, before the wake-up | is woken by the death instead, and finds the message |
//! | a fragment that is not the last | discards it, then `PeerDied` |
//! | `DETACHED`, before the wake-up | is woken by the death, and finds the flag: `Detached` |
//! | (receiver) consuming, before `read` | the sender sees less room, waits, and is woken by the death |
//!
//! **Trust.** How far a side trusts its peer is its type's parameter, a level of
//! [`shm_core::trust`]. Foreign positions and headers are checked at each: nonsense is a lasting
//! `Corrupt`, and nothing outside the ring is touched. Among peers that only crash, bytes are moved
//! by plain copies and received where they lie. Against buggy ones they move as relaxed words, into
//! private memory, before anything is believed of them. Against hostile ones each side has a
//! mapping that it alone can write: see `Sender::<Hostile>::connect`.

mod frame;
mod hostile;
mod level;
mod peer;
mod receiver;
mod ring;
mod sender;
mod shared;
#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests;

/// What models need besides.
#[cfg(shm_loom)]
pub mod model {
    pub use super::hostile::modelled::hostile;
    pub use crate::hostile::modelled::Ends;
}

pub use crate::hostile::{ConnectError, Limits};
pub use frame::{MESSAGE_BYTES_MAX, frame_bytes};
pub use level::{Level, OneMapping};
pub use receiver::{Message, Receiver, RecvError};
pub use sender::{SendError, Sender, Sending, Space};

use peer::Side;
use ring::{Ring, WORD};
use shared::{DETACHED, MAGIC, OPEN, Role, Shared};
use shm_core::BadPtr;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::Forked;
use shm_core::sync::Ordering;
use shm_core::trust::Crashing;
use std::sync::Arc;

/// Why a stream could not be created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// A ring has at least 8 bytes.
    #[error("a ring of {ring_bytes} bytes is too small: it needs at least 8")]
    RingTooSmall {
        /// Bytes asked for.
        ring_bytes: u64,
    },
    /// The stream does not fit there.
    #[error("the stream does not fit into the mapping")]
    Place(#[from] BadPtr),
}

/// Why a stream, or a role in it, could not be attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The offset is outside the mapping, or odd.
    #[error("no stream can be there")]
    Place(#[from] BadPtr),
    /// Something else is there, or a stream of another version.
    #[error("no stream of this version is there (found {found:#x})")]
    NotAStream {
        /// What stands in place of the magic number.
        found: u64,
    },
    /// The ring's size makes no sense.
    #[error("the stream is corrupt: a ring of {ring_bytes} bytes")]
    Corrupt {
        /// What the stream says.
        ring_bytes: u64,
    },
    /// Another participant has the role.
    #[error(transparent)]
    Taken(#[from] RoleTaken),
    /// This participant has the role, and has had a handle already.
    #[error("this process has attached in this role before")]
    OpenAlready,
    /// The seat belongs to the process that this one was forked from.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// A role is given once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the role belongs to {by:?}")]
pub struct RoleTaken {
    /// Who has it.
    pub by: Option<ParticipantId>,
}

/// One side of a stream, as [`Stream::status`] saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoleStatus {
    /// Who has the role.
    pub owner: Option<ParticipantId>,
    /// Its handle was opened.
    pub has_attached: bool,
    /// Its handle was dropped.
    pub has_detached: bool,
}

/// A stream, as [`Stream::status`] saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Size of the ring.
    pub ring_bytes: u64,
    /// Bytes ever published.
    pub written: u64,
    /// Bytes ever given back.
    pub read: u64,
    /// The sending side.
    pub sender: RoleStatus,
    /// The receiving side.
    pub receiver: RoleStatus,
}

/// A stream in shared memory, without a role in it.
///
/// `T` says what its peers may do: see [`with_peers`](Stream::with_peers).
#[derive(Clone, Debug)]
pub struct Stream<T: OneMapping = Crashing> {
    shared: Mapped<Shared>,
    ring: Ring<T>,
}

impl Stream {
    /// Bytes of mapping for a stream with a ring of `ring_bytes`.
    ///
    /// ```
    /// assert_eq!(shm_mq::stream::Stream::bytes_for(1024), 384 + 1024);
    /// ```
    pub const fn bytes_for(ring_bytes: u64) -> u64 {
        // What is too much stays too much, for `create` to refuse.
        (size_of::<Shared>() as u64).saturating_add(Ring::<Crashing>::mapped_bytes(ring_bytes))
    }

    /// Makes a stream at `offset` of `mapping`, a multiple of 64. `ring_bytes` is rounded down to a
    /// multiple of 8.
    ///
    /// ```
    /// use shm_core::{mapping::Mapping, participants::Table};
    /// use shm_mq::stream::Stream;
    ///
    /// let at = Table::bytes_for(2).next_multiple_of(64);
    /// let mapping = Mapping::heap((at + Stream::bytes_for(1024)) as usize);
    /// // SAFETY: nobody else has the mapping.
    /// let table = unsafe { Table::create(&mapping, 0, 2) }?;
    /// // SAFETY: as above, and the table ends before.
    /// let stream = unsafe { Stream::create(&mapping, at, 1024) }?;
    ///
    /// let me = table.join()?;
    /// let (mut sender, mut receiver) = (stream.sender(&me)?, stream.receiver(&me)?);
    /// sender.send(b"hello")?;
    /// assert_eq!(*receiver.recv()?, *b"hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// Nobody else uses these [`bytes_for`](Stream::bytes_for) bytes. The offset is handed out only
    /// afterwards, in a way that orders memory: a toc entry, a segment's handle, the start of a
    /// process.
    ///
    /// # Errors
    /// [`CreateError`].
    ///
    /// # If a process dies here
    /// Nobody has the offset: the bytes are as unused as before.
    pub unsafe fn create(
        m: &Arc<Mapping>,
        offset: u64,
        ring_bytes: u64,
    ) -> Result<Stream, CreateError> {
        if ring_bytes < WORD {
            return Err(CreateError::RingTooSmall { ring_bytes });
        }
        let ring_bytes = ring_bytes - ring_bytes % WORD;
        // Before anything is written.
        m.region().range(offset, Stream::bytes_for(ring_bytes))?;
        // SAFETY: nobody else uses these bytes, the caller says.
        let shared = unsafe { Mapped::place(m, offset, Shared::new(ring_bytes)) }?;
        // SAFETY: as above.
        let ring = unsafe { Ring::create(m, offset + size_of::<Shared>() as u64, ring_bytes) }?;
        Ok(Stream { shared, ring })
    }

    /// The stream at `offset` of `mapping`.
    ///
    /// # Errors
    /// [`AttachError`], but nothing about roles.
    pub fn attach(mapping: &Arc<Mapping>, offset: u64) -> Result<Stream, AttachError> {
        let shared = Mapped::<Shared>::new(mapping, offset)?;
        // Relaxed: whoever handed out the offset has ordered what `create` wrote.
        let found = shared.magic.load(Ordering::Relaxed);
        if found != MAGIC {
            return Err(AttachError::NotAStream { found });
        }
        let ring_bytes = shared.ring_bytes.load(Ordering::Relaxed);
        if ring_bytes == 0 || !ring_bytes.is_multiple_of(WORD) {
            return Err(AttachError::Corrupt { ring_bytes });
        }
        let ring = Ring::attach(mapping, offset + size_of::<Shared>() as u64, ring_bytes);
        let ring = ring.map_err(|_| AttachError::Corrupt { ring_bytes })?;
        Ok(Stream { shared, ring })
    }
}

impl<T: OneMapping> Stream<T> {
    /// The same stream, for a side whose peers are worse than [`Crashing`], or no worse.
    ///
    /// It is one side's own affair: the other may know nothing of it.
    ///
    /// ```
    /// use shm_core::{mapping::Mapping, participants::Table, trust::Buggy};
    /// use shm_mq::stream::{Receiver, Stream};
    ///
    /// let at = Table::bytes_for(2).next_multiple_of(64);
    /// let mapping = Mapping::heap((at + Stream::bytes_for(1024)) as usize);
    /// // SAFETY: nobody else has the mapping.
    /// let table = unsafe { Table::create(&mapping, 0, 2) }?;
    /// // SAFETY: as above, and the table ends before.
    /// let stream = unsafe { Stream::create(&mapping, at, 1024) }?;
    ///
    /// let me = table.join()?;
    /// let mut sender = stream.sender(&me)?;
    /// let mut receiver: Receiver<Buggy> = stream.with_peers::<Buggy>().receiver(&me)?;
    /// sender.send(b"looked at in private")?;
    /// assert_eq!(*receiver.recv()?, *b"looked at in private");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Peers that are hostile have no mapping in common with us:
    ///
    /// ```compile_fail
    /// fn hostile(stream: shm_mq::stream::Stream) {
    ///     stream.with_peers::<shm_core::trust::Hostile>();
    /// }
    /// ```
    pub fn with_peers<U: OneMapping>(self) -> Stream<U> {
        Stream { shared: self.shared, ring: self.ring.at_level() }
    }

    /// Takes the sender's role: it is free, or was given to `me` by
    /// [`set_sender`](Stream::set_sender).
    ///
    /// # Errors
    /// [`AttachError::Taken`], [`AttachError::OpenAlready`], [`AttachError::Forked`].
    pub fn sender(&self, me: &Arc<Member>) -> Result<Sender<T>, AttachError> {
        Sender::open(self.shared.clone(), self.ring.clone(), me)
    }

    /// Takes the receiver's role: it is free, or was given to `me` by
    /// [`set_receiver`](Stream::set_receiver).
    ///
    /// # Errors
    /// [`AttachError::Taken`], [`AttachError::OpenAlready`], [`AttachError::Forked`].
    pub fn receiver(&self, me: &Arc<Member>) -> Result<Receiver<T>, AttachError> {
        Receiver::open(self.shared.clone(), self.ring.clone(), me)
    }

    /// Gives the sender's role to a participant, once. From then on its death is the sender's.
    ///
    /// # Errors
    /// [`RoleTaken`], also where it is taken by the same participant.
    ///
    /// # If a process dies here
    /// The role is given or it is not; the receiver may wake later, by its own deadline.
    pub fn set_sender(&self, id: ParticipantId) -> Result<(), RoleTaken> {
        self.shared.name(Side::Sender, id)
    }

    /// Gives the receiver's role to a participant, once. From then on its death is the receiver's.
    ///
    /// # Errors
    /// [`RoleTaken`], also where it is taken by the same participant.
    ///
    /// # If a process dies here
    /// The role is given or it is not; the sender may wake later, by its own deadline.
    pub fn set_receiver(&self, id: ParticipantId) -> Result<(), RoleTaken> {
        self.shared.name(Side::Receiver, id)
    }

    /// The mapping in which it lies.
    pub fn mapping(&self) -> &Arc<Mapping> {
        self.shared.mapping()
    }

    /// What the shared words say now: claims, each loaded once, not together.
    pub fn status(&self) -> Status {
        Status {
            ring_bytes: self.ring.bytes(),
            written: self.shared.written.load(Ordering::Relaxed),
            read: self.shared.read.load(Ordering::Relaxed),
            sender: RoleStatus::of(&self.shared.sender),
            receiver: RoleStatus::of(&self.shared.receiver),
        }
    }
}

impl RoleStatus {
    fn of(role: &Role) -> RoleStatus {
        let state = role.state.load(Ordering::Relaxed);
        RoleStatus {
            owner: ParticipantId::from_bits(role.owner.load(Ordering::Relaxed)),
            has_attached: state == OPEN || state == DETACHED,
            has_detached: state == DETACHED,
        }
    }
}
