//! `spsc`: records from one sender to one receiver, each whole and in place, at the cost of the
//! cache lines that it fills.
//!
//! ```text
//!            released (a word of the receiver's)             the sender's place
//!               |                                                |
//!  ring: ... ---+----------+------------------+------------------+-----+---...
//!         free  | record n | record n + 1     | record n + 2     |  0  |  free
//!               header, bytes                                    the end
//! ```
//!
//! A record is a header, of one word, and its bytes, in one piece. It begins at the next word, or
//! else at the next line, of 64 bytes, or at the beginning of the ring, of which a header tells
//! then: never does it lie in more lines than it must; one of up to 56 bytes lies in one. The
//! receiver looks at one word: the header of the record that comes next. It is 0 until the record
//! is there, for the sender, before it publishes a record, puts the end behind it (where that is
//! another line it has mostly done so with the record before). So the receiver needs no index of
//! the sender's, and a message costs the transfer of its lines; the sender looks at the receiver's
//! position only when it has used up what it saw released last.
//!
//! **Who comes after whom.** A role is given back or taken over: where its owner has died or left,
//! the next one goes on where it was. Each side says how far it is (`Progress` in `shared.rs`): the
//! receiver with each record that it releases; the sender before it uses words anew, so that its
//! successor finds the end by walking from there, from header to header.
//!
//! | dies after | what there is |
//! | --- | --- |
//! | writing bytes, the end, or headers behind one that is not published | nothing: its successor writes there |
//! | publishing, before the wake-up | the record; the receiver is woken by the death instead |
//! | publishing, before it said how far it is | the record; its successor finds it on its walk |
//! | (receiver) reading a record | the record: its successor receives it |
//! | (receiver) saying that it released it, between two stores | the one or the other |
//!
//! **Trust.** As in [`stream`](crate::stream): foreign positions and headers are checked, and
//! nonsense is a lasting `Corrupt`. Among peers that only crash, records are written and read where
//! they lie; against buggy ones they move as relaxed words, from and to private memory; against
//! hostile ones each side has a mapping that it alone can write: see `Sender::<Hostile>::connect`.
//!
//! A ring whose messages carry their own "there" is FastForward's (Giacomoni and others,
//! 2008), and Aeron's `ManyToOneRingBuffer` zeroes ahead.
// What a call takes and gives is inlined: a result that is written to memory word by word and read
// in pairs costs the processor as much as the transfer of a line.
mod bell;
mod hostile;
mod lane;
mod level;
mod lines;
mod receiver;
mod role;
mod sender;
mod shared;

pub(crate) use bell::Bell;
pub(crate) use lane::Hub;
// For the other structures that have roles.
pub(crate) use role::{gone, leave_seat, take};
pub(crate) use shared::Seat;

pub use crate::hostile::{ConnectError, Limits};
pub use level::Level;
pub use lines::LINE_BYTES;
pub use receiver::{Receiver, Record, RecvError};
pub use sender::{Reserved, SendError, Sender, Space};

use crate::stream::OneMapping;
use lines::{LINES_MIN, Lines, record_bytes_max, ring_at};
use role::Side;
use shared::{MAGIC, Shared};
use shm_core::BadPtr;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::Forked;
use shm_core::sync::Ordering;
use shm_core::trust::Crashing;
use std::sync::Arc;

/// What models need besides.
#[cfg(shm_loom)]
pub mod model {
    pub use super::hostile::modelled::hostile;
    pub use crate::hostile::modelled::Ends;
}

/// What explorations need besides.
#[cfg(shm_explore)]
pub mod explored {
    pub use super::hostile::explored::Hostiles;
}

/// Why a queue could not be created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// A ring has at least two lines.
    #[error("a ring of {ring_bytes} bytes is too small: it needs at least 128")]
    RingTooSmall {
        /// Bytes asked for.
        ring_bytes: u64,
    },
    /// The queue does not fit there.
    #[error("the queue does not fit into the mapping")]
    Place(#[from] BadPtr),
}

/// Why a queue, or a role in it, could not be attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The offset is outside the mapping, or odd.
    #[error("no queue can be there")]
    Place(#[from] BadPtr),
    /// Something else is there, or a queue of another version.
    #[error("no queue of this version is there (found {found:#x})")]
    NotAQueue {
        /// What stands in place of the magic number.
        found: u64,
    },
    /// Its records are others.
    #[error("the queue is one of other records (fingerprint {found:#x})")]
    OtherRecords {
        /// What its creator said of them.
        found: u64,
    },
    /// What the last owner of the role left behind, or the ring's size, makes no sense.
    #[error("the queue is corrupt")]
    Corrupt,
    /// Another participant has the role, and lives.
    #[error("the role belongs to {by:?}")]
    Taken {
        /// Who has it.
        by: ParticipantId,
    },
    /// This participant has the role, and a handle.
    #[error("this process has attached in this role already")]
    OpenAlready,
    /// Others changed the role's word all the time.
    #[error("the role's owner changes all the time")]
    Restless,
    /// The seat belongs to the process that this one was forked from.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// A queue in shared memory, without a role in it.
///
/// `T` says what its peers may do: see [`with_peers`](Queue::with_peers).
#[derive(Clone, Debug)]
pub struct Queue<T: OneMapping = Crashing> {
    shared: Mapped<Shared>,
    lines: Lines<T>,
}

impl Queue {
    /// Bytes of mapping for a queue with a ring of `ring_bytes`.
    ///
    /// ```
    /// assert_eq!(shm_mq::spsc::Queue::bytes_for(1024), 384 + 1024);
    /// ```
    pub const fn bytes_for(ring_bytes: u64) -> u64 {
        // What is too much stays too much, for `create` to refuse.
        ring_at(0).saturating_add(Lines::<Crashing>::mapped_bytes(ring_bytes / LINE_BYTES))
    }

    /// The longest record of a queue with a ring of `ring_bytes`, in bytes: half of it.
    ///
    /// ```
    /// assert_eq!(shm_mq::spsc::Queue::record_bytes_max(1024), 512 - 8);
    /// ```
    pub const fn record_bytes_max(ring_bytes: u64) -> u64 {
        let lines = ring_bytes / LINE_BYTES;
        if lines < LINES_MIN { 0 } else { record_bytes_max(lines) }
    }

    /// Makes a queue at `offset` of `mapping`, a multiple of 64. `ring_bytes` is rounded down to a
    /// multiple of 64. What the records are, `fingerprint` says (0: bytes): who attaches is to know
    /// the same, as [`fingerprint!`](shm_core::fingerprint) makes it of a type.
    ///
    /// ```
    /// use shm_core::{mapping::Mapping, participants::Table};
    /// use shm_mq::spsc::Queue;
    ///
    /// let at = Table::bytes_for(2).next_multiple_of(64);
    /// let mapping = Mapping::heap((at + Queue::bytes_for(1024)) as usize);
    /// // SAFETY: nobody else has the mapping.
    /// let table = unsafe { Table::create(&mapping, 0, 2) }?;
    /// // SAFETY: as above, and the table ends before.
    /// let queue = unsafe { Queue::create(&mapping, at, 1024, 0) }?;
    ///
    /// let me = table.join()?;
    /// let (mut sender, mut receiver) = (queue.sender(&me)?, queue.receiver(&me)?);
    /// assert!(sender.try_send(b"hello")?);
    /// let mut place = sender.reserve(5)?.expect("there is room");
    /// place.copy_from_slice(b"world");
    /// place.commit();
    /// assert_eq!(*receiver.recv()?, *b"hello");
    /// assert_eq!(*receiver.recv()?, *b"world");
    /// assert!(receiver.try_recv()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// Nobody else uses these [`bytes_for`](Queue::bytes_for) bytes. The offset is handed out only
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
        fingerprint: u64,
    ) -> Result<Queue, CreateError> {
        let count = ring_bytes / LINE_BYTES;
        if count < LINES_MIN {
            return Err(CreateError::RingTooSmall { ring_bytes });
        }
        // Before anything is written.
        m.region().range(offset, Queue::bytes_for(ring_bytes))?;
        // SAFETY: nobody else uses these bytes, the caller says.
        let shared = unsafe { Mapped::place(m, offset, Shared::new(count, fingerprint)) }?;
        // SAFETY: as above.
        let lines = unsafe { Lines::create(m, ring_at(offset), count) }?;
        Ok(Queue { shared, lines })
    }

    /// The queue at `offset` of `mapping`, whose records are what `fingerprint` says.
    ///
    /// # Errors
    /// [`AttachError::Place`], [`AttachError::NotAQueue`], [`AttachError::OtherRecords`],
    /// [`AttachError::Corrupt`].
    pub fn attach(m: &Arc<Mapping>, offset: u64, fingerprint: u64) -> Result<Queue, AttachError> {
        let shared = Mapped::<Shared>::new(m, offset)?;
        let found = shared.magic.load(Ordering::Relaxed);
        if found != MAGIC {
            return Err(AttachError::NotAQueue { found });
        }
        let found = shared.fingerprint.load(Ordering::Relaxed);
        if found != fingerprint {
            return Err(AttachError::OtherRecords { found });
        }
        let count = shared.lines.load(Ordering::Relaxed);
        if !(LINES_MIN..=u64::MAX / LINE_BYTES).contains(&count) {
            return Err(AttachError::Corrupt);
        }
        let lines = Lines::attach(m, ring_at(offset), count);
        Ok(Queue { shared, lines: lines.map_err(|_| AttachError::Corrupt)? })
    }
}

impl<T: OneMapping> Queue<T> {
    /// The same queue for who trusts its peers less, or more:
    /// [`Buggy`](shm_core::trust::Buggy) for those that may write nonsense anywhere.
    pub fn with_peers<U: OneMapping>(self) -> Queue<U> {
        Queue { shared: self.shared, lines: self.lines.at_level() }
    }

    /// Takes the sender's role: it is free, was given to `me`, or its owner has left or died.
    ///
    /// # Errors
    /// [`AttachError::Taken`], [`AttachError::OpenAlready`], [`AttachError::Corrupt`],
    /// [`AttachError::Forked`].
    pub fn sender(&self, me: &Arc<Member>) -> Result<Sender<T>, AttachError> {
        Sender::open(&self.shared, self.lines.clone(), me)
    }

    /// Takes the receiver's role: it is free, was given to `me`, or its owner has left or died.
    ///
    /// # Errors
    /// As [`sender`](Queue::sender).
    pub fn receiver(&self, me: &Arc<Member>) -> Result<Receiver<T>, AttachError> {
        Receiver::open(&self.shared, self.lines.clone(), me)
    }

    /// Gives the sender's role to a participant: if it dies before it comes, the receiver learns of
    /// it. `by` is who asks.
    ///
    /// # Errors
    /// [`AttachError::Taken`], [`AttachError::OpenAlready`].
    ///
    /// # If a process dies here
    /// The role is given or it is not.
    pub fn set_sender(&self, by: &Member, id: ParticipantId) -> Result<(), AttachError> {
        self.shared.give(Side::Sender, by, id)
    }

    /// Gives the receiver's role to a participant, as [`set_sender`](Queue::set_sender) does.
    ///
    /// # Errors
    /// As [`set_sender`](Queue::set_sender).
    ///
    /// # If a process dies here
    /// The role is given or it is not.
    pub fn set_receiver(&self, by: &Member, id: ParticipantId) -> Result<(), AttachError> {
        self.shared.give(Side::Receiver, by, id)
    }
}
