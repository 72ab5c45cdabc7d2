//! A fan-in of senders that are not trusted, and trust nobody.
//!
//! ```text
//!  sender p ──► hostile queue of p's own ──┐
//!                                          ├──► receiver: a record of each in turn, and after the
//!  sender q ──► hostile queue of q's own ──┘    last one of a sender its end
//! ```
//!
//! A lane is a hostile queue of [`spsc`](crate::spsc): two mappings, one writer each, and a socket.
//! So nothing that one sender writes is another one's to read, and a sender need not know that its
//! receiver has others. There are no bits: nobody could be let to write them. The receiver looks at
//! the next header of each lane, a line that it has in its cache until the sender writes it, and
//! sleeps on all sockets at once.
//!
//! **States** of a lane, which the receiver alone has: admitted; ended, once its end is told. It is
//! dropped then, with all that was mapped for it.
//!
//! | the sender | the receiver |
//! | --- | --- |
//! | lies in its lane | is told `Corrupt` of that one; the others go on |
//! | sends all the time | has one record of it, and then one of each other lane in which there is something |
//! | rings all the time, or says that it sleeps | wakes up, and pays for rings, in vain: processor time |
//! | sends nothing | waits for the others |
//! | leaves | finds its last record, and then `Left`, in the next call in which nothing else is there |
//! | dies, or hangs up | finds its last record, and then `Died`: at once if asleep, else once the tour comes to its lane: one lane for each call that finds nothing else, and for every 256 records |
//!
//! If the receiver dies, each sender has `PeerDied`; nothing else is left of it.
use super::Why;
use crate::spsc::{Receiver, Record, RecvError};
use crate::wait::look_until;
use crate::waitset::Source;
use shm_core::process::ForkGuard;
use shm_core::sealed::{Doorbell, Heard};
use shm_core::trust::Hostile;
use std::fmt;
use std::time::Instant;

const IS_MODEL: bool = cfg!(any(shm_loom, shm_explore));
/// After so many records we look whether one sender is gone.
const TOUR_EVERY: u32 = if IS_MODEL { 2 } else { 256 };

/// Why nothing was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StrangersError {
    /// The deadline passed.
    #[error("the deadline passed before a record came")]
    TimedOut,
    /// All senders that were admitted have ended: nothing can come.
    #[error("there is no sender")]
    Nobody,
    /// They were admitted by the process that this one was forked from.
    #[error("the senders were admitted by the process that this one was forked from")]
    Forked,
}

/// The receiving end of many hostile queues: one thread at a time. `K` is what the caller knows a
/// sender by.
///
/// ```
/// use shm_core::trust::Hostile;
/// use shm_mq::fan_in::{Strange, Strangers, Why};
/// use shm_mq::spsc::{ConnectError, Limits, Receiver, Sender};
/// use std::os::unix::net::UnixStream;
///
/// let mut strangers = Strangers::new();
/// for name in ["p", "q"] {
///     let (ours, theirs) = UnixStream::pair()?;
///     let sender = std::thread::spawn(move || {
///         let mut sender = Sender::<Hostile>::connect(theirs, 4096, 0, None)?;
///         sender.send(name.as_bytes()).expect("there is room");
///         Ok::<_, ConnectError>(())
///     });
///     // It may keep us waiting, up to a deadline: not the thread that receives from others.
///     strangers.admit(name, Receiver::<Hostile>::connect(ours, Limits::default(), 0, None)?);
///     sender.join().expect("no panic")?;
/// }
/// let mut records = 0;
/// while let Ok(event) = strangers.recv() {
///     match event {
///         Strange::Record(from, record) => {
///             assert_eq!(*record, *from.as_bytes());
///             records += 1;
///         }
///         Strange::End { why, received, .. } => assert_eq!((why, received), (Why::Left, 1)),
///     }
/// }
/// assert_eq!(records, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # If a process dies here
/// Its senders learn of it as soon as they wait for room.
pub struct Strangers<K> {
    lanes: Vec<Lane<K>>,
    /// Whose turn it is.
    next: usize,
    /// Where the tour is, and records since its last step.
    tour: usize,
    since_tour: u32,
    fork: ForkGuard,
}

struct Lane<K> {
    key: K,
    end: Receiver<Hostile>,
}

/// What comes from strangers.
pub enum Strange<'r, K> {
    /// A record, and whose it is. Dropping it releases it.
    Record(&'r K, Record<'r, Hostile>),
    /// A sender sends no more, and all it sent has been received.
    End {
        /// Whose.
        from: K,
        /// How it ended.
        why: Why,
        /// How many of its records were received.
        received: u64,
    },
}

/// What has come from strangers, let go of: see [`Strange::into_owned`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StrangeArrival<K> {
    /// A record.
    Record {
        /// Whose.
        from: K,
        /// How many of its were before it.
        number: u64,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A sender sends no more, and all it sent has been received.
    End {
        /// Whose.
        from: K,
        /// How it ended.
        why: Why,
        /// How many of its records were received.
        received: u64,
    },
}

impl<K: Clone> Strange<'_, K> {
    /// The same, of which nothing lies in a queue: a record is released.
    pub fn into_owned(self) -> StrangeArrival<K> {
        match self {
            Strange::Record(from, record) => StrangeArrival::Record {
                from: from.clone(),
                number: record.number(),
                bytes: record.to_vec(),
            },
            Strange::End { from, why, received } => StrangeArrival::End { from, why, received },
        }
    }
}

/// What a look at a lane has found.
#[derive(Clone, Copy)]
enum Found {
    /// A record of so many bytes.
    Record(usize),
    End(Why),
}

impl<K> Default for Strangers<K> {
    fn default() -> Strangers<K> {
        Strangers::new()
    }
}

impl<K> Strangers<K> {
    /// Nobody is admitted yet.
    pub fn new() -> Strangers<K> {
        Strangers { lanes: Vec::new(), next: 0, tour: 0, since_tour: 0, fork: ForkGuard::new() }
    }

    /// From now on receives from this sender too.
    pub fn admit(&mut self, key: K, end: Receiver<Hostile>) {
        self.lanes.push(Lane { key, end });
    }

    /// How many were admitted, and have not ended.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// The next record, or the end of a sender, if there is one now.
    ///
    /// # Errors
    /// [`StrangersError::Forked`].
    pub fn try_recv(&mut self) -> Result<Option<Strange<'_, K>>, StrangersError> {
        let found = match self.find()? {
            Some(found) => Some(found),
            None => self.step_of_tour(),
        };
        Ok(found.map(|(number, found)| self.event(number, found)))
    }

    /// The next record, or the end of a sender, waiting as long as it takes.
    ///
    /// # Errors
    /// [`StrangersError::Nobody`], [`StrangersError::Forked`].
    pub fn recv(&mut self) -> Result<Strange<'_, K>, StrangersError> {
        self.recv_until(None)
    }

    /// As [`recv`](Strangers::recv), until `deadline`.
    ///
    /// # Errors
    /// [`StrangersError`].
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Strange<'_, K>, StrangersError> {
        self.recv_until(Some(deadline))
    }

    fn recv_until(&mut self, end: Option<Instant>) -> Result<Strange<'_, K>, StrangersError> {
        let (number, found) = match self.find()? {
            Some(found) => found,
            None => self.wait(end)?,
        };
        Ok(self.event(number, found))
    }

    fn event(&mut self, number: usize, found: Found) -> Strange<'_, K> {
        match found {
            Found::Record(len) => {
                self.next = number + 1;
                self.since_tour += 1;
                let Lane { key, end } = &mut self.lanes[number];
                Strange::Record(key, end.record(len))
            }
            Found::End(why) => {
                let Lane { key, end } = self.lanes.remove(number);
                // Whose turn it is stays so.
                self.next -= usize::from(number < self.next);
                Strange::End { from: key, why, received: end.received() }
            }
        }
    }

    /// Looks at each lane once, from the one on whose turn it is.
    fn find(&mut self) -> Result<Option<(usize, Found)>, StrangersError> {
        self.fork.check().map_err(|_| StrangersError::Forked)?;
        if self.since_tour >= TOUR_EVERY
            && let Some((number, end @ Found::End(_))) = self.step_of_tour()
        {
            return Ok(Some((number, end)));
        }
        let first = if self.next < self.lanes.len() { self.next } else { 0 };
        for number in (first..self.lanes.len()).chain(0..first) {
            if let Some(found) = self.lanes[number].look() {
                return Ok(Some((number, found)));
            }
        }
        Ok(None)
    }

    /// Asks of one sender whether it is gone.
    fn step_of_tour(&mut self) -> Option<(usize, Found)> {
        self.since_tour = 0;
        let number = if self.tour < self.lanes.len() { self.tour } else { 0 };
        self.tour = number + 1;
        Some((number, self.lanes.get_mut(number)?.look_closer()?))
    }

    #[cold]
    fn wait(&mut self, deadline: Option<Instant>) -> Result<(usize, Found), StrangersError> {
        let look = |strangers: &mut Self, _| match strangers.is_empty() {
            true => Some(Err(StrangersError::Nobody)),
            false => strangers.find().transpose(),
        };
        look_until(self, |strangers| strangers, deadline, look)
            .unwrap_or(Err(StrangersError::TimedOut))
    }
}

/// Ready where [`try_recv`](Strangers::try_recv) gives a record, or an end, or an error. While
/// nobody is admitted it is not.
impl<K> Source for Strangers<K> {
    fn is_ready(&mut self) -> bool {
        !matches!(self.find(), Ok(None)) || self.step_of_tour().is_some()
    }

    fn is_ready_at_last(&mut self) -> bool {
        // Of ends the sleep tells.
        !matches!(self.find(), Ok(None))
    }

    fn announce(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.end.wire_mut().announce());
    }

    fn doorbells<'s>(&'s self, to: &mut Vec<&'s Doorbell>) {
        self.lanes.iter().for_each(|lane| lane.end.wire().doorbells(to));
    }

    fn heard(&mut self, which: usize, heard: Heard) {
        if heard == Heard::Gone
            && let Some(lane) = self.lanes.get_mut(which)
        {
            // The next look finds it.
            lane.end.wire_mut().gone();
        }
    }

    fn woken(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.end.wire_mut().woken());
    }
}

impl<K> Lane<K> {
    fn look(&mut self) -> Option<Found> {
        match self.end.find() {
            Ok(None) if self.end.wire().may_have_ended() => self.look_closer(),
            found => Lane::<K>::found(found),
        }
    }

    fn look_closer(&mut self) -> Option<Found> {
        Lane::<K>::found(self.end.find_before_the_end())
    }

    fn found(found: Result<Option<usize>, RecvError>) -> Option<Found> {
        match found {
            Ok(len) => len.map(Found::Record),
            Err(RecvError::Detached) => Some(Found::End(Why::Left)),
            Err(RecvError::PeerDied) => Some(Found::End(Why::Died)),
            Err(RecvError::Corrupt) => Some(Found::End(Why::Corrupt)),
            // No look ends like that, in the process that admitted it.
            Err(RecvError::TimedOut | RecvError::Forked) => None,
        }
    }
}

impl<K: fmt::Debug> fmt::Debug for Strangers<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lanes.iter().map(|lane| &lane.key)).finish()
    }
}

impl<K: fmt::Debug> fmt::Debug for Strange<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Strange::Record(from, record) => {
                f.debug_tuple("Record").field(from).field(record).finish()
            }
            Strange::End { from, why, received } => {
                let mut f = f.debug_struct("End");
                f.field("from", from).field("why", why).field("received", received).finish()
            }
        }
    }
}
