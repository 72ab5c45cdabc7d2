//! A subscriber that trusts nobody.
use super::super::cells::{Cells, Place, cell_words};
use super::super::shared::{Mark, NUMBER_MAX};
use super::super::{CELLS_MAX, Kind, Lapped, RECORD_BYTES_MAX, RecvError, Start, Subscription};
use super::{CAST, begun, model_unwinds};
use crate::hostile::{ConnectError, HALF_BYTES, Limits, Meeting, Wire};
use crate::wait::{look_until, sleeps_by};
use crate::waitset::Source;
use shm_core::bytes::WORD_BYTES;
use shm_core::event::announced;
use shm_core::process::ForkGuard;
use shm_core::trust::Hostile;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Who receives what a [`StrangePublisher`](super::StrangePublisher) publishes, and trusts neither
/// it nor its other subscribers: one thread at a time.
///
/// It can move to another thread, but not be shared:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<shm_mq::broadcast::StrangeSubscriber>();
/// ```
///
/// # If a process dies here
/// The publisher learns of it when it asks, or when this one holds it back. The other subscribers
/// do not.
pub struct StrangeSubscriber {
    /// 1. They lie in memory that cannot be written: only what loads is called.
    cells: Cells<Hostile>,
    /// A record.
    copy: Vec<u8>,
    wire: Wire,
    fork: ForkGuard,
    lapped: Lapped,
    /// The record that is read next.
    place: Place,
    missed: u64,
    /// The number when the publisher was woken last, if it slept.
    woken: u64,
    is_corrupt: bool,
    not_sync: PhantomData<Cell<()>>,
}

impl StrangeSubscriber {
    /// Meets the publisher at the other end of `socket`, which calls
    /// [`Invitation::meet`](super::Invitation::meet), and becomes its subscriber. The records are
    /// what `fingerprint` says (0: bytes), and the publisher is to know the same.
    ///
    /// Of the socket the same is true as of [`stream`'s](crate::stream::Sender::connect). Of the
    /// publisher's memory so much is mapped as `limits` allow, for its cells, and so much private
    /// memory is set aside as its longest record takes.
    ///
    /// Of a lossless broadcast it misses nothing that is published after this and after it was
    /// [admitted](super::StrangePublisher::admit), unless it passes records by that are
    /// [still there](Lapped::Newest); of older ones it has what nobody has written over.
    ///
    /// # Errors
    /// [`ConnectError`]; [`NoMemory`](ConnectError::NoMemory) also where a record may be longer
    /// than `limits` allow.
    ///
    /// # If a process dies here
    /// The publisher's side has [`ExchangeError::PeerDied`](shm_core::sealed::ExchangeError), or a
    /// guest that is gone.
    pub fn connect(
        socket: UnixStream,
        limits: Limits,
        how: Subscription,
        fingerprint: u64,
        deadline: Option<Instant>,
    ) -> Result<StrangeSubscriber, ConnectError> {
        let meeting = Meeting { kind: &CAST, fingerprint, deadline };
        let (memory, bytes, wire) = meeting.meet_sender(socket, limits)?;
        // Our last look at this word: from here on it is ours.
        let longest = wire.record_bytes();
        if longest > RECORD_BYTES_MAX {
            return Err(ConnectError::Corrupt);
        }
        if longest > limits.message_bytes_max as u64 {
            return Err(ConnectError::NoMemory { bytes: longest as usize });
        }
        let (word, words) = (WORD_BYTES as u64, cell_words(longest));
        let count = bytes / (words * word);
        if count * words * word != bytes || !(1..=CELLS_MAX.into()).contains(&count) {
            return Err(ConnectError::Corrupt);
        }
        // SAFETY: they are only loaded from, word by word, by 1.
        let words = unsafe { memory.share_slice(HALF_BYTES, bytes / word) };
        let words = words.map_err(|_| ConnectError::Corrupt)?;
        let cells = Cells::of(words, Kind::Lossy, count, longest);
        let mut subscriber =
            StrangeSubscriber::begin(cells, wire, how).ok_or(ConnectError::Corrupt)?;
        let bytes = longest as usize;
        let had = subscriber.copy.try_reserve_exact(bytes);
        had.map_err(|_| ConnectError::NoMemory { bytes })?;
        Ok(subscriber)
    }

    /// Begins where `how` says; `None` where the publisher says nonsense.
    pub(super) fn begin(cells: Cells<Hostile>, wire: Wire, how: Subscription) -> Option<Self> {
        let starts = |published: u64| match how.start {
            Start::Next => published,
            Start::Newest => published.saturating_sub(1),
            Start::Oldest => cells.oldest(published),
        };
        let before = said(&wire)?;
        let first = starts(before);
        wire.tell(begun(first));
        // Pairs with that of the publisher's `wake_all`: a look of its own that does not see the
        // word is at no higher number than the one that we see behind this.
        announced();
        let number = starts(said(&wire).filter(|published| *published >= before)?);
        wire.tell(begun(number));
        let place = Place::of(number, cells.count());
        Some(StrangeSubscriber {
            cells,
            copy: Vec::new(),
            wire,
            fork: ForkGuard::new(),
            lapped: how.lapped,
            place,
            missed: 0,
            // By now it may wait for us to go on from there.
            woken: first,
            is_corrupt: false,
            not_sync: PhantomData,
        })
    }

    /// The number of the record that is received next, unless it is missed: each that was published
    /// has one, from 0 on.
    pub fn position(&self) -> u64 {
        self.place.number
    }

    /// Records that it was told to have missed.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Records that were published, as the publisher says: 0 where that is nonsense.
    pub fn published(&self) -> u64 {
        said(&self.wire).unwrap_or(0)
    }

    /// The longest record, in bytes.
    pub fn record_bytes(&self) -> usize {
        self.cells.record_bytes()
    }

    /// The next record and its number, if there is one now.
    ///
    /// # Errors
    /// [`RecvError`], but not [`TimedOut`](RecvError::TimedOut), and the publisher's end only once
    /// all is received: [`Detached`](RecvError::Detached) where it has left,
    /// [`PublisherDied`](RecvError::PublisherDied) where it has died, or has hung up, having
    /// [expelled](super::StrangePublisher::expel) us for one.
    ///
    /// # If a process dies here
    /// Nobody waits for it.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<(u64, &[u8])>, RecvError> {
        let found = match self.find()? {
            Some(len) => Some(len),
            None => self.find_before_the_end()?,
        };
        Ok(found.map(|len| self.received(len)))
    }

    /// The next record and its number, waiting as long as it takes.
    ///
    /// # Errors
    /// [`RecvError`], but not [`TimedOut`](RecvError::TimedOut).
    ///
    /// # If a process dies here
    /// As in [`try_recv`](StrangeSubscriber::try_recv).
    #[inline]
    pub fn recv(&mut self) -> Result<(u64, &[u8]), RecvError> {
        self.recv_until(None)
    }

    /// As [`recv`](StrangeSubscriber::recv), until `deadline`.
    ///
    /// # Errors
    /// [`RecvError`].
    ///
    /// # If a process dies here
    /// As in [`try_recv`](StrangeSubscriber::try_recv).
    #[inline]
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<(u64, &[u8]), RecvError> {
        self.recv_until(Some(deadline))
    }

    #[inline]
    fn recv_until(&mut self, deadline: Option<Instant>) -> Result<(u64, &[u8]), RecvError> {
        let len = match self.find()? {
            Some(len) => len,
            None => self.wait(deadline)?,
        };
        Ok(self.received(len))
    }

    #[cold]
    fn wait(&mut self, deadline: Option<Instant>) -> Result<usize, RecvError> {
        let look = |subscriber: &mut Self, _| subscriber.find_before_the_end().transpose();
        look_until(self, |subscriber| &mut subscriber.wire, deadline, look)
            .unwrap_or(Err(RecvError::TimedOut))
    }

    /// Looks at the publisher, and then once more for a record: it may have published one before
    /// its end.
    #[cold]
    fn find_before_the_end(&mut self) -> Result<Option<usize>, RecvError> {
        let end = self.end();
        match (self.find()?, end) {
            (None, Some(end)) => Err(end),
            (found, _) => Ok(found),
        }
    }

    /// Why none comes, for who has found no record. One may have come before the end: look again.
    #[cold]
    fn end(&mut self) -> Option<RecvError> {
        self.wake();
        let gone = self.wire.gone();
        // By its fence, what it says is there can be seen after this.
        let is_said = said(&self.wire).is_none_or(|published| published > self.place.number);
        if is_said && !self.has_come() {
            return Some(self.corrupt());
        }
        gone.map(RecvError::from)
    }

    /// Whether the record at `place` is there, or was.
    fn has_come(&self) -> bool {
        self.cells.look(self.place).bits() > Mark::writing(self.place.number).bits()
    }

    #[inline]
    fn usable(&self) -> Result<(), RecvError> {
        if self.fork.check().is_err() {
            return Err(RecvError::Forked);
        }
        if self.is_corrupt { Err(RecvError::Corrupt) } else { Ok(()) }
    }

    /// The length of the next record, if it is there: it has been copied.
    #[inline]
    fn find(&mut self) -> Result<Option<usize>, RecvError> {
        self.usable()?;
        let at = self.place;
        let mark = self.cells.look(at);
        if mark != Mark::there(at.number) {
            let is_to_come = mark.bits() <= Mark::writing(at.number).bits();
            return if is_to_come { Ok(None) } else { Err(self.lapped()) };
        }
        let len = self.cells.len(at);
        if let Some(len) = len {
            self.cells.copy(at, len, &mut self.copy);
        }
        if !self.cells.is_still_there(at) {
            return Err(self.lapped());
        }
        match len {
            Some(len) => Ok(Some(len)),
            None => Err(self.corrupt()),
        }
    }

    /// Another record is in our cell than the one that was to be read: goes on with one that may
    /// still be there, and says how many are missed.
    #[cold]
    fn lapped(&mut self) -> RecvError {
        let at = self.place;
        let Some(to) = self.cells.after_lap(at, self.lapped, || said(&self.wire)) else {
            return self.corrupt();
        };
        let records = to - at.number;
        self.missed = self.missed.saturating_add(records);
        self.go_to(Place::of(to, self.cells.count()));
        RecvError::Missed { records }
    }

    /// The record that `find` has copied.
    #[inline]
    fn received(&mut self, len: usize) -> (u64, &[u8]) {
        let number = self.place.number;
        self.go_to(self.place.next(self.cells.count()));
        (number, &self.copy[..len])
    }

    /// Says which record is read next: those before are read, or missed.
    #[inline]
    fn go_to(&mut self, place: Place) {
        self.place = place;
        self.wire.tell(begun(place.number));
        // It may wait for us; not for each record alone, for it takes a fence to know.
        if place.number.saturating_sub(self.woken) > self.cells.count() / 2 {
            self.wake();
        }
    }

    /// Wakes the publisher, if it sleeps and something was read since the last time.
    #[inline]
    fn wake(&mut self) {
        if self.woken != self.place.number {
            self.woken = self.place.number;
            self.wire.wake();
        }
    }

    /// Nobody is to wait for who reads no more.
    #[cold]
    fn corrupt(&mut self) -> RecvError {
        self.is_corrupt = true;
        self.wire.leave();
        RecvError::Corrupt
    }
}

/// How many records the publisher says there are; `None` where that is nonsense.
fn said(wire: &Wire) -> Option<u64> {
    Some(wire.position()).filter(|published| *published <= NUMBER_MAX)
}

/// Ready where [`try_recv`](StrangeSubscriber::try_recv) gives a record, or an error: that some
/// were missed, too.
impl Source for StrangeSubscriber {
    fn is_ready(&mut self) -> bool {
        // Whether we were lapped is for `try_recv` to find out, and to say.
        self.usable().is_err() || self.has_come() || self.end().is_some()
    }

    sleeps_by!(wire);
}

impl Drop for StrangeSubscriber {
    /// # If a process dies here
    /// The publisher is told the one or the other end.
    fn drop(&mut self) {
        if self.fork.check().is_ok() && !model_unwinds() {
            self.wire.leave();
        }
    }
}

impl fmt::Debug for StrangeSubscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, missed) = (self.position(), self.missed);
        let mut f = f.debug_struct("StrangeSubscriber");
        f.field("position", &position).field("missed", &missed).finish()
    }
}
