//! What queues between two sides that do not trust each other have in common: one writer a mapping,
//! and a socket.
//!
//! ```text
//!   the sender's memory                        the receiver's memory
//!   written by it, read-only to the other      written by it, read-only to the other
//!   +------+----------+                        +------+----------+
//!   | Half | ring ... |                        | Half |
//!   +------+----------+                        +------+
//!          both sealed; their descriptors and the bell go over one connected Unix socket
//! ```
//!
//! A broadcast's publisher hands one memory to all its subscribers, each of whom has a socket of
//! its own, and is to it what a receiver is to a sender.
//!
//! [`shm_core::sealed`] says how memory is handed over, and what is checked. Who waits announces it
//! in its own half and sleeps on the bell: there is no futex in memory that only one side can
//! write.
//!
//! **States**, of one side, as the other sees it:
//!
//! | state | moved on by | the kernel says | the other side has |
//! | --- | --- | --- | --- |
//! | connecting | its hello, whole and as expected | connected | waits in `connect`, up to its deadline |
//! | open | its `DETACHED`, or its end | connected | the queue |
//! | detached | – | hung up, soon | `Detached`, for good |
//! | dead, or hung up: no process holds its socket, or the one that said hello has ended | – | hung up, or a pidfd that is readable | `PeerDied`, for good |
//!
//! | dies after | the other side |
//! | --- | --- |
//! | making its memory, its hello not sent | `PeerDied` from `connect` |
//! | its hello, not having read ours | a queue whose peer is dead: `PeerDied` |
//! | announcing a sleep | rings in vain, once |
//! | publishing, or giving back, before it rings | is woken by the hang-up, and finds what was published |
//! | `DETACHED`, before it rings | is woken by the hang-up, and finds the flag: `Detached` |
//!
//! **Lies**, and what each achieves. A liar can always say nothing, say wrong things in valid
//! messages, or end the queue; the table is about what it wants besides:
//!
//! | the peer | achieves |
//! | --- | --- |
//! | says another magic number, a ring of no size, other records | an error of `connect` |
//! | changes such words later | nothing: each is loaded once |
//! | never reads | a full ring: `TimedOut`, `WouldBlock`. `send` without a deadline waits as long as the peer lives, as it does for one that is slow |
//! | never rings | we sleep until our deadline, or its end |
//! | rings all the time, or fills the socket with anything | our sleeps end early: processor time, until the deadline. Never more than a socket's queue of memory, which is charged to the peer |
//! | lies about being asleep | one system call of ours a publication, which never blocks |
//! | says a limit for messages of 0, or of too much | we send no message longer than that, or than the longest there is |
//! | sends descriptors | nothing, or `PeerDied`, for we hang up: see [`shm_core::sealed`] |
//! | changes flags of its files, shortens them, punches holes, reopens or `mprotect`s what it got, holds locks of its files | nothing: as there |
//! | says `DETACHED` and goes on | `Detached`, once what was published before is received |
//! | forks, or hands its socket on, and ends | `PeerDied` by its pidfd; by the hang-up of the last holder where there is none (`exchange` says when) |
//! | hangs up without a word, and lives on | `PeerDied`: it is dead to us |
//!
//! What lies about positions and lengths achieve, each queue says.
//!
//! What is not promised: that the peer's bytes are true, that it takes what we send, and what a
//! machine does that has no memory left.

#[cfg(shm_explore)]
pub(crate) mod explored;
#[cfg(shm_loom)]
pub(crate) mod modelled;
mod shared;
mod wire;

pub(crate) use shared::{DETACHED, HALF_BYTES, Half};
pub(crate) use wire::Wire;

use shm_core::BadPtr;
use shm_core::mapping::Mapped;
use shm_core::sealed::{self, Doorbell, ExchangeError, Foreign, Own, Wanted};
use shm_core::sync::Ordering;
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Why two sides did not come together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A ring of a stream has at least 8 bytes, one of records at least 128.
    #[error("a ring of {ring_bytes} bytes is too small")]
    RingTooSmall {
        /// Bytes asked for.
        ring_bytes: u64,
    },
    /// Our own memory could not be made.
    #[error("own memory: {0}")]
    Create(#[from] sealed::CreateError),
    /// There is no private memory for the longest record.
    #[error("no memory for a record of {bytes} bytes")]
    NoMemory {
        /// Bytes of the record.
        bytes: usize,
    },
    /// The peer did not hand over what it has to.
    ///
    /// Or the system did not let us: descriptors that lie in sockets unread count against the user
    /// that sent them, in all its processes together. Beyond the limit of open files of who sends
    /// (`RLIMIT_NOFILE`), `sendmsg` fails with `ETOOMANYREFS`, unless that process has
    /// `CAP_SYS_RESOURCE` or `CAP_SYS_ADMIN`. Peers that never read their hello use it up, one
    /// each, until they read, close their end or die: that we have given up gives nothing back.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The peer's memory begins with nonsense.
    #[error("the peer's memory makes no sense")]
    Corrupt,
    /// The peer's records are others.
    #[error("the peer's records are others (fingerprint {found:#x})")]
    OtherRecords {
        /// What it said of them.
        found: u64,
    },
    /// The handle belongs to the process that this one was forked from.
    #[error("the publisher was made by the process that this one was forked from")]
    Forked,
    /// Nothing has been made that does not lie in its memory.
    #[error("own memory is too small")]
    Place(#[from] BadPtr),
}

/// What a receiver lets a hostile sender have of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The largest ring: so much of the sender's memory is mapped here.
    pub ring_bytes_max: u64,
    /// The longest message, or record: at most twice as much private memory is needed for it. The
    /// sender is told, and refuses to send longer ones; a broadcast that may have longer ones is
    /// not connected to.
    pub message_bytes_max: usize,
}

impl Default for Limits {
    /// A ring of 16 MiB, messages of 1 MiB.
    fn default() -> Limits {
        Limits { ring_bytes_max: 16 << 20, message_bytes_max: 1 << 20 }
    }
}

/// What a queue is, to who meets over it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// What the sender says first, and its memory begins with; the version of the protocol is its
    /// last byte.
    pub(crate) sender: u64,
    /// The same of the receiver.
    pub(crate) receiver: u64,
    /// A ring has a multiple of so many bytes.
    pub(crate) ring_unit: u64,
    pub(crate) ring_min: u64,
    /// The longest message there can be.
    pub(crate) message_bytes_max: usize,
}

/// What both sides know before they meet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meeting {
    pub(crate) kind: &'static Kind,
    /// What the records are; 0: bytes.
    pub(crate) fingerprint: u64,
    pub(crate) deadline: Option<Instant>,
}

impl Meeting {
    /// Makes a sender's memory, with room for a ring of `ring_bytes` or a little less: so many.
    pub(crate) fn sender_memory(&self, ring_bytes: u64) -> Result<(Own, u64), ConnectError> {
        let Kind { ring_unit, ring_min, .. } = *self.kind;
        if ring_bytes < ring_min {
            return Err(ConnectError::RingTooSmall { ring_bytes });
        }
        let ring_bytes = ring_bytes - ring_bytes % ring_unit;
        Ok((Own::create("shm-mq-sender", HALF_BYTES.saturating_add(ring_bytes))?, ring_bytes))
    }

    /// Hands a sender's memory over, with the ring in it, and takes the receiver's.
    pub(crate) fn meet_receiver(
        &self,
        socket: UnixStream,
        own: &Own,
        ring_bytes: u64,
    ) -> Result<Wire, ConnectError> {
        let half = self.sender_half(own, ring_bytes, 0)?;
        self.meet_one(socket, own, half)
    }

    /// Writes the words that a sender's memory begins with; of a broadcast with the longest record.
    pub(crate) fn sender_half(
        &self,
        own: &Own,
        ring_bytes: u64,
        record_bytes: u64,
    ) -> Result<Mapped<Half>, BadPtr> {
        place(own, Half::new(self.kind.sender, ring_bytes, record_bytes, self.fingerprint))
    }

    /// Hands a sender's memory over to one receiver, be it one of many, and takes the receiver's.
    pub(crate) fn meet_one(
        &self,
        socket: UnixStream,
        own: &Own,
        half: Mapped<Half>,
    ) -> Result<Wire, ConnectError> {
        let (mine, theirs) = (self.kind.sender, self.kind.receiver);
        let bytes_max = sealed::page_bytes();
        let wanted = Wanted { mine, theirs, bytes_min: HALF_BYTES, bytes_max };
        let (_, theirs, bell) = self.meet(socket, own, wanted)?;
        let limit = theirs.message_bytes_max.load(Ordering::Relaxed);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(Wire::new(half, theirs, bell, limit.min(self.kind.message_bytes_max)))
    }

    /// Makes a receiver's memory and hands it over, and takes the sender's: that, and how long the
    /// ring is that lies in it, behind its half.
    pub(crate) fn meet_sender(
        &self,
        socket: UnixStream,
        limits: Limits,
    ) -> Result<(Foreign, u64, Wire), ConnectError> {
        let Kind { ring_unit, ring_min, .. } = *self.kind;
        let limit = limits.message_bytes_max.min(self.kind.message_bytes_max);
        let own = Own::create("shm-mq-receiver", HALF_BYTES)?;
        let half = place(&own, Half::new(self.kind.receiver, 0, limit as u64, self.fingerprint))?;
        let bytes_max = HALF_BYTES.saturating_add(limits.ring_bytes_max);
        let bytes_max =
            bytes_max.checked_next_multiple_of(sealed::page_bytes()).unwrap_or(u64::MAX);
        let (mine, theirs) = (self.kind.receiver, self.kind.sender);
        let wanted = Wanted { mine, theirs, bytes_min: HALF_BYTES + ring_min, bytes_max };
        let (memory, theirs, bell) = self.meet(socket, &own, wanted)?;
        // Its last look at this word: from here on the ring's size is ours.
        let ring_bytes = theirs.ring_bytes.load(Ordering::Relaxed);
        let sane = (ring_min..=limits.ring_bytes_max).contains(&ring_bytes);
        if !sane || !ring_bytes.is_multiple_of(ring_unit) {
            return Err(ConnectError::Corrupt);
        }
        Ok((memory, ring_bytes, Wire::new(half, theirs, bell, limit)))
    }

    /// Hands our memory over, and takes the peer's: all of it, and the words it begins with.
    fn meet(
        &self,
        socket: UnixStream,
        own: &Own,
        wanted: Wanted,
    ) -> Result<(Foreign, Mapped<Half>, Doorbell), ConnectError> {
        let (memory, bell) = sealed::exchange(socket, own, wanted, self.deadline)?;
        // SAFETY: `Wire` and these functions make `Relaxed` loads alone, of 8 bytes or fewer.
        let theirs = unsafe { memory.share::<Half>(0) }.map_err(|_| ConnectError::Corrupt)?;
        // Ordered by the hello: it has come through the socket, and all these words were written
        // before it was sent. They are not published by one another, so that no ordering of ours
        // could help.
        let magic = theirs.magic.load(Ordering::Relaxed);
        if magic != wanted.theirs {
            return Err(ConnectError::Corrupt);
        }
        let found = theirs.fingerprint.load(Ordering::Relaxed);
        if found != self.fingerprint {
            return Err(ConnectError::OtherRecords { found });
        }
        Ok((memory, theirs, bell))
    }
}

fn place(own: &Own, half: Half) -> Result<Mapped<Half>, BadPtr> {
    // SAFETY: our own memory, which nobody has yet.
    unsafe { Mapped::place(own.mapping(), 0, half) }
}
