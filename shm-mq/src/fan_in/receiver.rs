//! The receiver.
use super::lane::{Found, Lane};
use super::{BITS, FanIn};
use crate::spsc::{self, leave_seat};
use crate::stream::OneMapping;
use crate::wait::look_until;
use crate::waitset::Source;
use shm_core::event::EventCount;
use shm_core::participants::{Member, ParticipantId, Watch};
use shm_core::process::ForkGuard;
use shm_core::sync::Ordering;
use shm_core::trust::Crashing;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

const IS_MODEL: bool = cfg!(any(shm_loom, shm_explore));
/// After so many looks at a busy lane in which there was nothing we look closer: whether its sender
/// has gone, and whether its bit is to be cleared.
const IDLE_MAX: u32 = if IS_MODEL { 1 } else { 64 };
/// So many bits of a word are left set, be the lanes idle: to look at so few costs less than that
/// their senders set them anew.
const KEPT: u32 = if IS_MODEL { 1 } else { 4 };
/// After so many events we look at one lane of which nobody says that it is busy.
const TOUR_EVERY: u32 = 256;
/// Where there are free lanes one may join and die whom we never saw: we sleep so long at most.
const TOUR_EVERY_TIME: Duration = Duration::from_millis(200);

/// Why nothing was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The deadline passed.
    #[error("the deadline passed before a record came")]
    TimedOut,
    /// The handle belongs to the process that this one was forked from.
    #[error("the receiver was attached by the process that this one was forked from")]
    Forked,
}

/// How a sender ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// It has left.
    Left,
    /// Its process has died.
    Died,
    /// Nonsense is in its lane. It may live; what it sends is received no more.
    Corrupt,
}

/// The receiving end of a [`FanIn`]: one thread at a time.
///
/// It can move to another thread, but not be shared:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<shm_mq::fan_in::Receiver>();
/// ```
///
/// # If a process dies here
/// What it has not released stays in its lane, and of what end it has not let go the lane still
/// tells: who takes the role next is given both.
pub struct Receiver<T: OneMapping = Crashing> {
    fan_in: FanIn<T>,
    member: Arc<Member>,
    fork: ForkGuard,
    lanes: Vec<Lane<T>>,
    /// Whose turn it is.
    next: usize,
    /// Where the tour is.
    tour: usize,
    /// Events since its last step.
    since_tour: u32,
    /// What a look has found that was only a look: the next call is given it.
    seen: Option<(usize, Found)>,
}

impl<T: OneMapping> Receiver<T> {
    /// For `me`, who has the role.
    pub(super) fn new(fan_in: FanIn<T>, me: Arc<Member>) -> Receiver<T> {
        let lane = |number: usize| Lane::new(&fan_in.lanes[number], fan_in.bell(number), &me);
        let lanes: Vec<_> = (0..fan_in.lanes.len()).map(lane).collect();
        // Our predecessor may have cleared a bit, and died before it looked.
        lanes.iter().for_each(|lane| lane.bell.set());
        Receiver {
            fan_in,
            member: me,
            fork: ForkGuard::new(),
            lanes,
            next: 0,
            tour: 0,
            since_tour: 0,
            seen: None,
        }
    }

    /// The fan-in that it receives from.
    pub fn fan_in(&self) -> &FanIn<T> {
        &self.fan_in
    }

    /// The next record, or the end of a sender, if there is one now.
    ///
    /// Of the senders that have something each has its turn. That one has died is told once the
    /// tour comes to its lane: after as many calls as there are lanes, or, while others are busy,
    /// up to 256 events for each of them. So is a record whose sender died, or was stopped, before
    /// it could say that its lane is busy.
    ///
    /// # Errors
    /// [`RecvError::Forked`].
    ///
    /// # If a process dies here
    /// The record, or the end, is the successor's.
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<Event<'_, T>>, RecvError> {
        let found = match self.find()? {
            Some(found) => Some(found),
            None => self.find_more(),
        };
        Ok(found.map(|(number, found)| self.event(number, found)))
    }

    /// The next record, or the end of a sender, waiting as long as it takes.
    ///
    /// # Errors
    /// [`RecvError::Forked`].
    ///
    /// # If a process dies here
    /// As in [`try_recv`](Receiver::try_recv).
    #[inline]
    pub fn recv(&mut self) -> Result<Event<'_, T>, RecvError> {
        self.recv_until(None)
    }

    /// As [`recv`](Receiver::recv), until `deadline`.
    ///
    /// # Errors
    /// [`RecvError`].
    ///
    /// # If a process dies here
    /// As in [`try_recv`](Receiver::try_recv).
    #[inline]
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Event<'_, T>, RecvError> {
        self.recv_until(Some(deadline))
    }

    /// Gives to `each` what there is now, at most so many; how many there were.
    ///
    /// # Errors
    /// [`RecvError::Forked`].
    ///
    /// # If a process dies here
    /// The event that `each` had is the successor's, and those that it had not.
    pub fn drain(
        &mut self,
        most: usize,
        mut each: impl FnMut(Event<'_, T>),
    ) -> Result<usize, RecvError> {
        for count in 0..most {
            match self.try_recv()? {
                Some(event) => each(event),
                None => return Ok(count),
            }
        }
        Ok(most)
    }

    #[inline]
    fn recv_until(&mut self, deadline: Option<Instant>) -> Result<Event<'_, T>, RecvError> {
        let (number, found) = match self.find()? {
            Some(found) => found,
            None => self.wait(deadline)?,
        };
        Ok(self.event(number, found))
    }

    #[inline]
    fn event(&mut self, number: usize, found: Found) -> Event<'_, T> {
        self.since_tour += 1;
        let (lane, number) = (&mut self.lanes[number], number as u32);
        let Found { sender, end, len } = found;
        match end {
            None => Event::Record(Record { record: lane.end.record(len), sender, lane: number }),
            Some(why) => Event::End(End { lane, number, sender, why, fork: self.fork }),
        }
    }

    /// The next one has its turn. What the tour finds while others are busy is out of turn.
    #[inline]
    fn in_turn(&mut self, number: usize, found: Found) -> (usize, Found) {
        self.next = if number + 1 == self.lanes.len() { 0 } else { number + 1 };
        (number, found)
    }

    /// Looks at the lanes that are said to be busy, from the one on whose turn it is.
    #[inline]
    fn find(&mut self) -> Result<Option<(usize, Found)>, RecvError> {
        self.fork.check().map_err(|_| RecvError::Forked)?;
        if self.seen.is_some() {
            return Ok(self.seen.take());
        }
        if self.since_tour >= TOUR_EVERY
            && let Some(found) = self.step_of_tour()
        {
            return Ok(Some(found));
        }
        let words = self.lanes.len().div_ceil(BITS);
        let (mut word, from) = (self.next / BITS, u64::MAX << (self.next % BITS));
        for step in 0..=words {
            let busy = self.fan_in.shared.busy[word].load(Ordering::Relaxed);
            let mut bits = match step {
                0 => busy & from,
                // Of the first one those that are before.
                _ if step == words => busy & !from,
                _ => busy,
            };
            while bits != 0 {
                let number = word * BITS + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if let Some(found) = self.look(number) {
                    return Ok(Some(self.in_turn(number, found)));
                }
            }
            word = if word + 1 == words { 0 } else { word + 1 };
        }
        Ok(None)
    }

    #[inline]
    fn look(&mut self, number: usize) -> Option<Found> {
        // A liar sets bits of lanes that are not there.
        let lane = self.lanes.get_mut(number)?;
        let found = lane.look();
        if found.is_none() {
            lane.idle += 1;
            if lane.idle >= IDLE_MAX {
                return self.rest(number);
            }
        }
        found
    }

    /// Nothing was in this lane for some time.
    #[cold]
    fn rest(&mut self, number: usize) -> Option<Found> {
        let found = self.look_closer(number);
        let busy = self.fan_in.shared.busy[number / BITS].load(Ordering::Relaxed);
        let lane = &mut self.lanes[number];
        if found.is_some() || !(lane.is_free() || busy.count_ones() > KEPT) {
            return found;
        }
        lane.bell.hush();
        self.look_closer(number)
    }

    fn look_closer(&mut self, number: usize) -> Option<Found> {
        let lane = &mut self.lanes[number];
        lane.idle = 0;
        let found = lane.look_closer();
        // More may be behind it.
        if found.is_some() && !lane.bell.is_set() {
            lane.bell.set();
        }
        found
    }

    /// Looks closer at one lane that may be said to be idle, and is not.
    #[cold]
    fn step_of_tour(&mut self) -> Option<(usize, Found)> {
        self.since_tour = 0;
        let number = self.tour;
        self.tour = if number + 1 == self.lanes.len() { 0 } else { number + 1 };
        self.look_closer(number).map(|found| (number, found))
    }

    /// Nothing is in the lanes that are said to be busy: looks who has left, and at one more.
    #[cold]
    fn find_more(&mut self) -> Option<(usize, Found)> {
        let mut from = 0;
        while let Some(number) = self.next_busy(from) {
            let Some(lane) = self.lanes.get_mut(number) else { break };
            lane.end.wake_sender();
            if lane.has_left()
                && let Some(found) = self.look_closer(number)
            {
                return Some(self.in_turn(number, found));
            }
            from = number + 1;
        }
        let (number, found) = self.step_of_tour()?;
        Some(self.in_turn(number, found))
    }

    /// The first lane from this one on that is said to be busy.
    fn next_busy(&self, from: usize) -> Option<usize> {
        let (first, rest) = (from / BITS, u64::MAX << (from % BITS));
        (first..self.lanes.len().div_ceil(BITS)).find_map(|word| {
            let busy = self.fan_in.shared.busy[word].load(Ordering::Relaxed);
            let bits = if word == first { busy & rest } else { busy };
            (bits != 0).then(|| word * BITS + bits.trailing_zeros() as usize)
        })
    }

    /// Looks closer at all lanes.
    #[cold]
    fn find_anywhere(&mut self) -> Option<(usize, Found)> {
        let mut lanes = 0..self.lanes.len();
        let (number, found) = lanes.find_map(|number| Some((number, self.look_closer(number)?)))?;
        Some(self.in_turn(number, found))
    }

    #[cold]
    fn wait(&mut self, deadline: Option<Instant>) -> Result<(usize, Found), RecvError> {
        let look = |receiver: &mut Self, is_last| match receiver.find() {
            Ok(None) if is_last => receiver.find_anywhere().map(Ok),
            Ok(None) => receiver.find_more().map(Ok),
            found => found.transpose(),
        };
        look_until(self, |receiver| receiver, deadline, look).unwrap_or(Err(RecvError::TimedOut))
    }

    fn watches(&self) -> impl Iterator<Item = &Watch> {
        self.lanes.iter().filter_map(Lane::watch)
    }

    /// Whether there is something for the next call, which is given what was seen.
    fn sees(&mut self, look_further: fn(&mut Self) -> Option<(usize, Found)>) -> bool {
        match self.find() {
            Ok(found) => self.seen = found.or_else(|| look_further(self)),
            Err(_) => return true,
        }
        self.seen.is_some()
    }
}

/// Ready where [`try_recv`](Receiver::try_recv) gives a record, an end, or an error.
impl<T: OneMapping> Source for Receiver<T> {
    fn is_ready(&mut self) -> bool {
        self.sees(Self::find_more)
    }

    fn is_ready_at_last(&mut self) -> bool {
        self.sees(Self::find_anywhere)
    }

    fn bed(&self) -> Option<&EventCount> {
        Some(&self.fan_in.shared.arrived)
    }

    fn peers<'s>(&'s self, to: &mut Vec<&'s Watch>) {
        to.extend(self.watches());
    }

    fn sleep_max(&self) -> Option<Duration> {
        let is_full = self.watches().count() == self.lanes.len();
        (!is_full).then_some(TOUR_EVERY_TIME)
    }
}

impl<T: OneMapping> Drop for Receiver<T> {
    /// Gives the role back.
    ///
    /// # If a process dies here
    /// As if it had died before.
    fn drop(&mut self) {
        if self.fork.check().is_ok() {
            leave_seat(&self.fan_in.shared.receiver, self.member.id());
            self.fan_in.wake_senders();
        }
    }
}

impl<T: OneMapping> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lanes = self.lanes.len();
        f.debug_struct("Receiver").field("lanes", &lanes).finish_non_exhaustive()
    }
}

/// What a receiver is given.
#[derive(Debug)]
pub enum Event<'r, T: OneMapping = Crashing> {
    /// A record.
    Record(Record<'r, T>),
    /// A sender sends no more, and all it sent has been received.
    End(End<'r, T>),
}

impl<T: OneMapping> Event<'_, T> {
    /// Whose it is.
    pub fn sender(&self) -> ParticipantId {
        match self {
            Event::Record(record) => record.sender(),
            Event::End(end) => end.sender(),
        }
    }

    /// In which lane: one participant may have several.
    pub fn lane(&self) -> u32 {
        match self {
            Event::Record(record) => record.lane(),
            Event::End(end) => end.lane(),
        }
    }

    /// Leaves it where it was, for a later receive: others have their turn before.
    pub fn put_back(self) {
        match self {
            Event::Record(record) => record.put_back(),
            Event::End(end) => end.put_back(),
        }
    }

    /// Lets go of it: what is left is in private memory.
    pub fn into_owned(self) -> Arrival {
        let (sender, lane) = (self.sender(), self.lane());
        match self {
            Event::Record(record) => {
                Arrival::Record { sender, lane, number: record.number(), bytes: record.to_vec() }
            }
            Event::End(end) => {
                Arrival::End { sender, lane, received: end.received(), why: end.why() }
            }
        }
    }
}

/// An [`Event`] that the receiver has let go of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// A [`Record`].
    Record {
        /// Who sent it.
        sender: ParticipantId,
        /// In which lane.
        lane: u32,
        /// How many records of its sender's were before it.
        number: u64,
        /// The record.
        bytes: Vec<u8>,
    },
    /// An [`End`].
    End {
        /// Who has ended.
        sender: ParticipantId,
        /// In which lane.
        lane: u32,
        /// How many of its records were received: see [`End::received`].
        received: u64,
        /// How.
        why: Why,
    },
}

/// A received record: its bytes, in the ring or in the receiver's private buffer.
///
/// Dropping it releases it.
pub struct Record<'r, T: OneMapping = Crashing> {
    record: spsc::Record<'r, T>,
    sender: ParticipantId,
    lane: u32,
}

impl<T: OneMapping> Record<'_, T> {
    /// Who sent it.
    pub fn sender(&self) -> ParticipantId {
        self.sender
    }

    /// In which lane: one participant may have several.
    pub fn lane(&self) -> u32 {
        self.lane
    }

    /// How many records of its sender's were before it.
    pub fn number(&self) -> u64 {
        self.record.number()
    }

    /// Leaves the record in its lane, for a later receive: others have their turn before.
    pub fn put_back(self) {
        self.record.put_back();
    }
}

impl<T: OneMapping> Deref for Record<'_, T> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.record
    }
}

impl<T: OneMapping> fmt::Debug for Record<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Record");
        f.field("sender", &self.sender).field("lane", &self.lane);
        f.field("bytes", &&self.record[..]).finish()
    }
}

/// The end of a sender. Dropping it frees the lane: nobody is told again.
pub struct End<'r, T: OneMapping = Crashing> {
    lane: &'r mut Lane<T>,
    number: u32,
    sender: ParticipantId,
    why: Why,
    fork: ForkGuard,
}

impl<T: OneMapping> End<'_, T> {
    /// Who has ended.
    pub fn sender(&self) -> ParticipantId {
        self.sender
    }

    /// How.
    pub fn why(&self) -> Why {
        self.why
    }

    /// In which lane: one participant may have several.
    pub fn lane(&self) -> u32 {
        self.number
    }

    /// How many of its records were received. Where another receiver was told before, and died
    /// letting go of it, this may be 0.
    pub fn received(&self) -> u64 {
        self.lane.end.received()
    }

    /// Leaves it in its lane, for a later receive.
    pub fn put_back(self) {
        // What lets go of it is `drop`; all it has is borrowed.
        std::mem::forget(self);
    }
}

impl<T: OneMapping> Drop for End<'_, T> {
    /// # If a process dies here
    /// The lane is free, or the successor is told of the end.
    fn drop(&mut self) {
        // To a forked child it was never told.
        if self.fork.check().is_ok() {
            self.lane.finish(self.sender, self.why);
        }
    }
}

impl<T: OneMapping> fmt::Debug for End<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("End");
        f.field("sender", &self.sender).field("why", &self.why).field("lane", &self.number).finish()
    }
}
