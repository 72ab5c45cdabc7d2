//! A queue whose two sides do not trust each other: one writer a mapping, and a socket, as
//! [`hostile`](crate::hostile) says.
//!
//! ```text
//!   the sender's memory                        the receiver's memory
//!   +------+-----------------+                 +------+----------+
//!   | Half | ring of records |                 | Half | released |
//!   +------+-----------------+                 +------+----------+
//! ```
//!
//! Headers, records, lines and verbs are those of every queue, and so a record still costs the
//! transfer of its lines: its header tells that it is there. Bytes move as relaxed words, from and
//! to private memory. Nobody takes a role over: the queue ends with either side, and nobody says
//! how far he is for a successor.
//!
//! | dies after | the other side |
//! | --- | --- |
//! | writing bytes, the end, or headers behind one that is not published | sees nothing of them |
//! | (receiver) reading a record, before it is released | sees less room |
//!
//! | the peer | achieves |
//! | --- | --- |
//! | writes a header with another number, of a length beyond the longest record or the ring's end, or one that leads to a second place | `Corrupt`, for good |
//! | writes a header back and forth | the same, or nothing if we did not look between |
//! | writes a record again while, or after, it is received | some bytes it chose, once: header and bytes are loaded once, and checked and lent is that copy |
//! | claims records it has not written | as that |
//! | releases what is not published, or says that it has released less than it said | `Corrupt`, for good |
use super::level::{Level, Link};
use super::lines::{LINE_BYTES, LINES_MIN, Lines};
use super::receiver::Receiver;
use super::sender::Sender;
use super::shared::Told;
use crate::hostile::{ConnectError, HALF_BYTES, Kind, Limits, Meeting, Wire};
use crate::wait::Missing;
use shm_core::trust::Hostile;
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// "shmqsnd", "shmqrcv", version 1.
const RECORDS: Kind = Kind {
    sender: u64::from_be_bytes(*b"shmqsnd\x01"),
    receiver: u64::from_be_bytes(*b"shmqrcv\x01"),
    ring_unit: LINE_BYTES,
    ring_min: LINES_MIN * LINE_BYTES,
    message_bytes_max: usize::MAX,
};

impl Level for Hostile {
    type Link = Wire;
}

impl Link for Wire {
    fn message_bytes_max(&self) -> usize {
        self.message_bytes_max()
    }

    #[inline]
    fn released(&self) -> u64 {
        self.position()
    }

    fn tell_sent(&self, _: &mut Told, _: u64, _: u64) {}

    #[inline]
    fn tell_released(&self, told: &mut Told, position: u64, records: u64) {
        self.tell(position);
        (told.position, told.records) = (position, records);
    }

    #[inline]
    fn known_gone(&mut self) -> Option<Missing> {
        self.known_gone()
    }

    #[inline]
    fn has_dropped_us(&self) -> bool {
        false
    }

    fn gone(&mut self) -> Option<Missing> {
        self.gone()
    }

    #[inline]
    fn wake(&mut self) {
        self.wake();
    }

    /// Also who falls asleep at this moment: it has no clock to look again by.
    #[inline]
    fn wake_seen(&mut self) {
        self.wake();
    }

    fn leave(&mut self) {
        self.leave();
    }
}

impl Sender<Hostile> {
    /// Meets the receiver at the other end of `socket`, which calls
    /// [`Receiver::connect`](Receiver::connect), and becomes its sender. `ring_bytes` is rounded
    /// down to a multiple of 64; the records are what `fingerprint` says (0: bytes), and the
    /// receiver is to know the same.
    ///
    /// Of the socket, and of what the peer gets, the same is true as of
    /// [`stream`'s](crate::stream::Sender::connect).
    ///
    /// ```
    /// use shm_core::trust::Hostile;
    /// use shm_mq::spsc::{ConnectError, Limits, Receiver, Sender};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (ours, theirs) = UnixStream::pair()?;
    /// let peer = std::thread::spawn(move || {
    ///     let mut receiver = Receiver::<Hostile>::connect(theirs, Limits::default(), 0, None)?;
    ///     let record = receiver.recv().map(|record| record.to_vec());
    ///     // It stays until the sender knows.
    ///     Ok::<_, ConnectError>((record, receiver))
    /// });
    /// let mut sender = Sender::<Hostile>::connect(ours, 4096, 0, None)?;
    /// sender.send(b"no offence")?;
    /// let (record, _receiver) = peer.join().expect("no panic")?;
    /// assert_eq!(record?, b"no offence");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # If a process dies here
    /// The other side has [`ExchangeError::PeerDied`](shm_core::sealed::ExchangeError::PeerDied),
    /// or a queue whose peer has died.
    pub fn connect(
        socket: UnixStream,
        ring_bytes: u64,
        fingerprint: u64,
        deadline: Option<Instant>,
    ) -> Result<Sender<Hostile>, ConnectError> {
        let meeting = Meeting { kind: &RECORDS, fingerprint, deadline };
        let (own, ring_bytes) = meeting.sender_memory(ring_bytes)?;
        // SAFETY: our own memory, which nobody has yet.
        let lines = unsafe { Lines::create(own.mapping(), HALF_BYTES, ring_bytes / LINE_BYTES) }?;
        Ok(Sender::new(lines, meeting.meet_receiver(socket, &own, ring_bytes)?))
    }
}

impl Receiver<Hostile> {
    /// Meets the sender at the other end of `socket`, which calls
    /// [`Sender::connect`](Sender::connect), and becomes its receiver.
    ///
    /// Of the socket the same is true as there. So much private memory is set aside as the longest
    /// record takes: half a ring, and no more than the limit.
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # If a process dies here
    /// The other side has [`ExchangeError::PeerDied`](shm_core::sealed::ExchangeError::PeerDied),
    /// or a queue whose peer has died.
    pub fn connect(
        socket: UnixStream,
        limits: Limits,
        fingerprint: u64,
        deadline: Option<Instant>,
    ) -> Result<Receiver<Hostile>, ConnectError> {
        let meeting = Meeting { kind: &RECORDS, fingerprint, deadline };
        let (memory, ring_bytes, wire) = meeting.meet_sender(socket, limits)?;
        let words = ring_bytes / size_of::<u64>() as u64;
        // SAFETY: a receiver's ring is only loaded from, word by word, at the level `Hostile`.
        let words = unsafe { memory.share_slice(HALF_BYTES, words) };
        let lines = Lines::of(words.map_err(|_| ConnectError::Corrupt)?);
        let mut receiver = Receiver::new(lines, wire, Told::default());
        let bytes = receiver.record_bytes_max();
        let had = receiver.copy.try_reserve_exact(bytes);
        had.map_err(|_| ConnectError::NoMemory { bytes })?;
        Ok(receiver)
    }
}

impl Receiver<Hostile> {
    /// Its sender, and the words between the two.
    pub(crate) fn wire(&self) -> &Wire {
        &self.cursor.link
    }

    /// To ask it, and to sleep.
    pub(crate) fn wire_mut(&mut self) -> &mut Wire {
        &mut self.cursor.link
    }
}

/// What models need.
#[cfg(shm_loom)]
pub(super) mod modelled {
    use super::*;
    use crate::hostile::modelled::{Ends, meet};
    use shm_core::BadPtr;

    /// A queue whose two sides have met.
    ///
    /// # Errors
    /// [`BadPtr`] where `lines` is no size.
    pub fn hostile(lines: u64) -> Result<Ends<Sender<Hostile>, Receiver<Hostile>>, BadPtr> {
        let mapped = Lines::<Hostile>::mapped_bytes(lines);
        let (memory, ends) = meet(&RECORDS, mapped, usize::MAX)?;
        // SAFETY: our own memory, which nobody has yet.
        let lines = unsafe { Lines::create(&memory, HALF_BYTES, lines) }?;
        Ok(Ends {
            sender: Sender::new(lines.clone(), ends.sender),
            sender_held: ends.sender_held,
            receiver: Receiver::new(lines, ends.receiver, Told::default()),
            receiver_held: ends.receiver_held,
        })
    }
}

/// What explorations need.
#[cfg(shm_explore)]
pub(super) mod explored {
    use super::*;
    use crate::hostile::explored::Met;
    use shm_core::BadPtr;

    /// A queue whose two sides have met, each of which takes its end.
    #[derive(Debug)]
    pub struct Hostiles {
        met: Met,
        lines: Lines<Hostile>,
    }

    impl Hostiles {
        /// With a ring of so many lines.
        ///
        /// # Errors
        /// [`BadPtr`] where `lines` is no size.
        pub fn new(lines: u64) -> Result<Hostiles, BadPtr> {
            let met = Met::new(&RECORDS, Lines::<Hostile>::mapped_bytes(lines))?;
            // SAFETY: our own memory, which nobody has yet.
            let lines = unsafe { Lines::create(&met.memory, HALF_BYTES, lines) }?;
            Ok(Hostiles { met, lines })
        }

        /// The sender; the receiver is process `peer`.
        pub fn sender(&self, peer: u32) -> Sender<Hostile> {
            Sender::new(self.lines.clone(), self.met.wire(0, peer))
        }

        /// The receiver; the sender is process `peer`.
        pub fn receiver(&self, peer: u32) -> Receiver<Hostile> {
            Receiver::new(self.lines.clone(), self.met.wire(1, peer), Told::default())
        }
    }
}
