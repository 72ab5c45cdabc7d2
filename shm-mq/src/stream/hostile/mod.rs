//! A stream whose two sides do not trust each other: one writer a mapping, and a socket.
//!
//! ```text
//!   the sender's memory                        the receiver's memory
//!   written by it, read-only to the other      written by it, read-only to the other
//!   +------+---------+------------------+      +------+---------+
//!   | Half | written | ring of frames   |      | Half |  read   |
//!   +------+---------+------------------+      +------+---------+
//!          both sealed; their descriptors and the bell go over one connected Unix socket
//! ```
//!
//! Positions, frames, fragments, deadlines and verbs are those of every stream; bytes move as
//! relaxed words. [`shm_core::sealed`] says how memory is handed over, and what is checked.
//!
//! **States**, of one side, as the other sees it:
//!
//! | state | moved on by | the kernel says | the other side has |
//! | --- | --- | --- | --- |
//! | connecting | its hello, whole and as expected | connected | waits in `connect`, up to its deadline |
//! | open | its `DETACHED`, or its end | connected | the stream |
//! | detached | – | hung up, soon | `Detached`, for good |
//! | dead, or hung up: no process holds its socket, or the one that said hello has ended | – | hung up, or a pidfd that is readable | `PeerDied`, for good |
//!
//! | dies after | the other side |
//! | --- | --- |
//! | making its memory, its hello not sent | `PeerDied` from `connect` |
//! | its hello, not having read ours | a stream whose peer is dead: `PeerDied` |
//! | copying bytes, before its position | sees nothing of them |
//! | its position, before it rings | is woken by the hang-up, and finds what was published |
//! | announcing a sleep | rings in vain, once |
//! | a fragment that is not the last | discards it, then `PeerDied` |
//! | `DETACHED`, before it rings | is woken by the hang-up, and finds the flag: `Detached` |
//!
//! **Lies**, and what each achieves. A liar can always say nothing, say wrong things in valid
//! messages, or end the stream; the table is about what it wants besides:
//!
//! | the peer | achieves |
//! | --- | --- |
//! | writes a position that is no multiple of 8, behind its last, or ahead of what can be | `Corrupt`, for good |
//! | moves its position back and forth | the same, or nothing if we did not look between |
//! | claims frames it has not written, or writes frames again after they were published | some bytes it chose, once: each word is loaded once, into private memory, and what is checked is that copy |
//! | writes a length beyond what is published, a rest without a beginning, an empty rest | `Corrupt` |
//! | sends fragments without end | `Corrupt` at the receiver's limit for messages; that much private memory, at most twice, is what it costs |
//! | never reads | a full ring: `TimedOut`, `WouldBlock`. `send` without a deadline waits as long as the peer lives, as it does for one that is slow |
//! | never rings | we sleep until our deadline, or its end |
//! | rings all the time, or fills the socket with anything | our sleeps end early: processor time, until the deadline. Never more than a socket's queue of memory, which is charged to the peer |
//! | lies about being asleep | one system call of ours a publication, which never blocks |
//! | says a limit for messages of 0, or of too much | we send no message longer than that, or than the longest there is |
//! | sends descriptors | nothing, or `PeerDied`, for we hang up: see [`shm_core::sealed`] |
//! | changes flags of its files, reopens or `mprotect`s what it got, holds locks of its files | nothing: as there |
//! | says `DETACHED` and goes on | `Detached`, once what was published before is received |
//! | forks, or hands its socket on, and ends | `PeerDied` by its pidfd; by the hang-up of the last holder where there is none (`exchange` says when) |
//! | hangs up without a word, and lives on | `PeerDied`: it is dead to us |
//!
//! What is not promised: that the peer's bytes are true, that it takes what we send, and what a
//! machine does that has no memory left.

#[cfg(shm_loom)]
pub(super) mod modelled;
mod shared;
mod wire;

use super::frame::MESSAGE_BYTES_MAX;
use super::receiver::Receiver;
use super::ring::{Ring, WORD};
use super::sender::Sender;
use shared::{HALF_BYTES, Half, RECEIVER, SENDER};
use shm_core::BadPtr;
use shm_core::mapping::Mapped;
use shm_core::sealed::{self, Doorbell, ExchangeError, Foreign, Own, Wanted};
use shm_core::sync::Ordering;
use shm_core::trust::Hostile;
use std::os::unix::net::UnixStream;
use std::time::Instant;
use wire::Wire;

/// Why two sides did not come together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A ring has at least 8 bytes.
    #[error("a ring of {ring_bytes} bytes is too small: it needs at least 8")]
    RingTooSmall {
        /// Bytes asked for.
        ring_bytes: u64,
    },
    /// Our own memory could not be made.
    #[error("own memory: {0}")]
    Create(#[from] sealed::CreateError),
    /// The peer did not hand over what it has to.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The peer's memory begins with nonsense.
    #[error("the peer's memory makes no sense")]
    Corrupt,
    /// Nothing has been made that does not lie in its memory.
    #[error("own memory is too small")]
    Place(#[from] BadPtr),
}

/// What a receiver lets a hostile sender have of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The largest ring: so much of the sender's memory is mapped here.
    pub ring_bytes_max: u64,
    /// The longest message: at most twice as much private memory is needed for it. The sender is
    /// told, and refuses to send longer ones.
    pub message_bytes_max: usize,
}

impl Default for Limits {
    /// A ring of 16 MiB, messages of 1 MiB.
    fn default() -> Limits {
        Limits { ring_bytes_max: 16 << 20, message_bytes_max: 1 << 20 }
    }
}

impl Sender<Hostile> {
    /// Meets the receiver at the other end of `socket`, which calls
    /// [`Receiver::connect`](Receiver::connect), and becomes its sender. `ring_bytes` is rounded
    /// down to a multiple of 8.
    ///
    /// The socket is a connected one that nobody has used yet, and the stream's alone from now on.
    /// No other process has this end of it, so this one has made the pair, connected or accepted: a
    /// peer that has it as well can make our calls wait for it. This process closes its copies of
    /// the other end: while it has one, the peer is not seen to hang up.
    ///
    /// Each call hands the peer `ring_bytes` of memory, which it may keep as long as it lives.
    ///
    /// ```
    /// use shm_core::trust::Hostile;
    /// use shm_mq::stream::{Limits, Receiver, Sender};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (ours, theirs) = UnixStream::pair()?;
    /// let peer = std::thread::spawn(move || {
    ///     let mut receiver = Receiver::<Hostile>::connect(theirs, Limits::default(), None)?;
    ///     Ok::<_, shm_mq::stream::ConnectError>(receiver.recv().map(|message| message.to_vec()))
    /// });
    /// let mut sender = Sender::<Hostile>::connect(ours, 4096, None)?;
    /// sender.send(b"no offence")?;
    /// assert_eq!(peer.join().expect("no panic")??, b"no offence");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # If a process dies here
    /// The other side has [`ExchangeError::PeerDied`], or a stream whose peer has died.
    pub fn connect(
        socket: UnixStream,
        ring_bytes: u64,
        deadline: Option<Instant>,
    ) -> Result<Sender<Hostile>, ConnectError> {
        if ring_bytes < WORD {
            return Err(ConnectError::RingTooSmall { ring_bytes });
        }
        let ring_bytes = ring_bytes - ring_bytes % WORD;
        let own = Own::create("shm-mq-sender", HALF_BYTES.saturating_add(ring_bytes))?;
        let half = place(&own, Half::new(SENDER, ring_bytes, 0))?;
        // SAFETY: our own memory, which nobody has yet.
        let ring = unsafe { Ring::create(own.mapping(), HALF_BYTES, ring_bytes) }?;
        let (mine, theirs) = (SENDER, RECEIVER);
        let wanted =
            Wanted { mine, theirs, bytes_min: HALF_BYTES, bytes_max: sealed::page_bytes() };
        let (_, theirs, bell) = meet(socket, &own, wanted, deadline)?;
        let limit = theirs.message_bytes_max.load(Ordering::Relaxed);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(MESSAGE_BYTES_MAX);
        Ok(Sender::new(ring, Wire::new(half, theirs, bell, limit)))
    }
}

impl Receiver<Hostile> {
    /// Meets the sender at the other end of `socket`, which calls
    /// [`Sender::connect`](Sender::connect), and becomes its receiver.
    ///
    /// Of the socket the same is true as there.
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # If a process dies here
    /// The other side has [`ExchangeError::PeerDied`], or a stream whose peer has died.
    pub fn connect(
        socket: UnixStream,
        limits: Limits,
        deadline: Option<Instant>,
    ) -> Result<Receiver<Hostile>, ConnectError> {
        let limit = limits.message_bytes_max.min(MESSAGE_BYTES_MAX);
        let own = Own::create("shm-mq-receiver", HALF_BYTES)?;
        let half = place(&own, Half::new(RECEIVER, 0, limit as u64))?;
        let bytes_max = HALF_BYTES.saturating_add(limits.ring_bytes_max);
        let bytes_max =
            bytes_max.checked_next_multiple_of(sealed::page_bytes()).unwrap_or(u64::MAX);
        let (mine, theirs) = (RECEIVER, SENDER);
        let wanted = Wanted { mine, theirs, bytes_min: HALF_BYTES + WORD, bytes_max };
        let (memory, theirs, bell) = meet(socket, &own, wanted, deadline)?;
        // Its last look at this word: from here on the ring's size is ours.
        let ring_bytes = theirs.ring_bytes.load(Ordering::Relaxed);
        let sane = (WORD..=limits.ring_bytes_max).contains(&ring_bytes);
        if !sane || !ring_bytes.is_multiple_of(WORD) {
            return Err(ConnectError::Corrupt);
        }
        // SAFETY: a receiver's ring is only loaded from, word by word, at the level `Hostile`.
        let words = unsafe { memory.share_slice(HALF_BYTES, ring_bytes / WORD) };
        let ring = Ring::of(words.map_err(|_| ConnectError::Corrupt)?);
        Ok(Receiver::new(ring, Wire::new(half, theirs, bell, limit)))
    }
}

fn place(own: &Own, half: Half) -> Result<Mapped<Half>, BadPtr> {
    // SAFETY: our own memory, which nobody has yet.
    unsafe { Mapped::place(own.mapping(), 0, half) }
}

/// Hands our memory over, and takes the peer's: all of it, and the words it begins with.
fn meet(
    socket: UnixStream,
    own: &Own,
    wanted: Wanted,
    deadline: Option<Instant>,
) -> Result<(Foreign, Mapped<Half>, Doorbell), ConnectError> {
    let (memory, bell) = sealed::exchange(socket, own, wanted, deadline)?;
    // SAFETY: `Wire` and `connect` make `Relaxed` loads alone, of 8 bytes or fewer.
    let theirs = unsafe { memory.share::<Half>(0) }.map_err(|_| ConnectError::Corrupt)?;
    // Ordered by the hello: it has come through the socket, and all these words were written before
    // it was sent. They are not published by one another, so that no ordering of ours could help.
    let magic = theirs.magic.load(Ordering::Relaxed);
    if magic != wanted.theirs {
        return Err(ConnectError::Corrupt);
    }
    Ok((memory, theirs, bell))
}
