//! A stream whose two sides do not trust each other: one writer a mapping, and a socket, as
//! [`hostile`](crate::hostile) says.
//!
//! Positions, frames, fragments, deadlines and verbs are those of every stream; bytes move as
//! relaxed words. The sender's half says `written`, the receiver's `read`.
//!
//! | dies after | the other side |
//! | --- | --- |
//! | copying bytes, before its position | sees nothing of them |
//! | a fragment that is not the last | discards it, then `PeerDied` |
//!
//! | the peer | achieves |
//! | --- | --- |
//! | writes a position that is no multiple of 8, behind its last, or ahead of what can be | `Corrupt`, for good |
//! | moves its position back and forth | the same, or nothing if we did not look between |
//! | claims frames it has not written, or writes frames again after they were published | some bytes it chose, once: each word is loaded once, into private memory, and what is checked is that copy |
//! | writes a length beyond what is published, a rest without a beginning, an empty rest | `Corrupt` |
//! | sends fragments without end | `Corrupt` at the receiver's limit for messages; that much private memory, at most twice, is what it costs |
use super::frame::MESSAGE_BYTES_MAX;
use super::level::{Level, Link};
use super::receiver::Receiver;
use super::ring::{Ring, WORD};
use super::sender::Sender;
use crate::hostile::{ConnectError, HALF_BYTES, Kind, Limits, Meeting, Wire};
use crate::wait::Missing;
use shm_core::trust::Hostile;
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// "shmhsnd", "shmhrcv", version 1.
const STREAM: Kind = Kind {
    sender: u64::from_be_bytes(*b"shmhsnd\x01"),
    receiver: u64::from_be_bytes(*b"shmhrcv\x01"),
    ring_unit: WORD,
    ring_min: WORD,
    message_bytes_max: MESSAGE_BYTES_MAX,
};

impl Level for Hostile {
    type Link = Wire;
}

impl Link for Wire {
    #[inline]
    fn message_bytes_max(&self) -> usize {
        self.message_bytes_max()
    }

    #[inline]
    fn written(&self) -> u64 {
        self.position()
    }

    #[inline]
    fn tell_written(&self, position: u64) {
        self.tell(position);
    }

    #[inline]
    fn read(&self) -> u64 {
        self.position()
    }

    #[inline]
    fn tell_read(&self, position: u64) {
        self.tell(position);
    }

    #[inline]
    fn wake_receiver(&mut self) {
        self.wake();
    }

    #[inline]
    fn wake_sender(&mut self) {
        self.wake();
    }

    fn leave(&mut self) {
        self.leave();
    }

    #[inline]
    fn known_gone(&mut self) -> Option<Missing> {
        self.known_gone()
    }

    fn gone(&mut self) -> Option<Missing> {
        self.gone()
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
    ///     let message = receiver.recv().map(|message| message.to_vec());
    ///     // It stays until the sender knows: where the receiver has left nothing is sent.
    ///     Ok::<_, shm_mq::stream::ConnectError>((message, receiver))
    /// });
    /// let mut sender = Sender::<Hostile>::connect(ours, 4096, None)?;
    /// sender.send(b"no offence")?;
    /// let (message, _receiver) = peer.join().expect("no panic")?;
    /// assert_eq!(message?, b"no offence");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # If a process dies here
    /// The other side has [`ExchangeError::PeerDied`](shm_core::sealed::ExchangeError::PeerDied),
    /// or a stream whose peer has died.
    pub fn connect(
        socket: UnixStream,
        ring_bytes: u64,
        deadline: Option<Instant>,
    ) -> Result<Sender<Hostile>, ConnectError> {
        let meeting = Meeting { kind: &STREAM, fingerprint: 0, deadline };
        let (own, ring_bytes) = meeting.sender_memory(ring_bytes)?;
        // SAFETY: our own memory, which nobody has yet.
        let ring = unsafe { Ring::create(own.mapping(), HALF_BYTES, ring_bytes) }?;
        Ok(Sender::new(ring, meeting.meet_receiver(socket, &own, ring_bytes)?))
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
    /// The other side has [`ExchangeError::PeerDied`](shm_core::sealed::ExchangeError::PeerDied),
    /// or a stream whose peer has died.
    pub fn connect(
        socket: UnixStream,
        limits: Limits,
        deadline: Option<Instant>,
    ) -> Result<Receiver<Hostile>, ConnectError> {
        let meeting = Meeting { kind: &STREAM, fingerprint: 0, deadline };
        let (memory, ring_bytes, wire) = meeting.meet_sender(socket, limits)?;
        // SAFETY: a receiver's ring is only loaded from, word by word, at the level `Hostile`.
        let words = unsafe { memory.share_slice(HALF_BYTES, ring_bytes / WORD) };
        let ring = Ring::of(words.map_err(|_| ConnectError::Corrupt)?);
        Ok(Receiver::new(ring, wire))
    }
}

/// What models need.
#[cfg(shm_loom)]
pub(super) mod modelled {
    use super::*;
    use crate::hostile::modelled::{Ends, meet};
    use shm_core::BadPtr;

    /// A stream whose two sides have met.
    ///
    /// # Errors
    /// [`BadPtr`] where `ring_bytes` is no size.
    pub fn hostile(ring_bytes: u64) -> Result<Ends<Sender<Hostile>, Receiver<Hostile>>, BadPtr> {
        let mapped = Ring::<Hostile>::mapped_bytes(ring_bytes);
        let (memory, ends) = meet(&STREAM, mapped, MESSAGE_BYTES_MAX)?;
        // SAFETY: our own memory, which nobody has yet.
        let ring = unsafe { Ring::create(&memory, HALF_BYTES, ring_bytes) }?;
        Ok(Ends {
            sender: Sender::new(ring.clone(), ends.sender),
            sender_held: ends.sender_held,
            receiver: Receiver::new(ring, ends.receiver),
            receiver_held: ends.receiver_held,
        })
    }
}
