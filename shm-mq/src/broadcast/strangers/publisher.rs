//! A publisher that trusts nobody, and its subscribers as it sees them.
use super::super::cells::{Cells, Place, mapped_bytes};
use super::super::{BroadcastConfig, CreateError, Kind, LOOKED_EVERY, PublishError};
use super::{CAST, begun, model_unwinds};
use crate::fan_in::Why;
use crate::hostile::{ConnectError, DETACHED, HALF_BYTES, Half, Meeting, Wire};
use crate::wait::{Missing, look_until};
use crate::waitset::Source;
use shm_core::event::announced;
use shm_core::mapping::Mapped;
use shm_core::process::ForkGuard;
use shm_core::sealed::{Doorbell, Own};
use shm_core::sync::Ordering;
use shm_core::trust::Hostile;
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

const IS_MODEL: bool = cfg!(any(shm_loom, shm_explore));
/// After so many records we look whether one subscriber is gone.
const TOUR_EVERY: u32 = if IS_MODEL { 2 } else { 256 };

/// The publishing end of a broadcast among strangers: one thread at a time. `K` is what the caller
/// knows a subscriber by.
///
/// ```
/// use shm_mq::broadcast::{BroadcastConfig, ConnectError, Limits, RecvError};
/// use shm_mq::broadcast::{Start, StrangePublisher, StrangeSubscriber, Subscription};
/// use std::os::unix::net::UnixStream;
///
/// let config = BroadcastConfig::lossy(64, 40, 8);
/// let (mut publisher, invitation) = StrangePublisher::new(&config)?;
/// let mut subscribers = Vec::new();
/// for name in ["p", "q"] {
///     let (ours, theirs) = UnixStream::pair()?;
///     subscribers.push(std::thread::spawn(move || {
///         let how = Subscription { start: Start::Oldest, ..Subscription::default() };
///         let limits = Limits::default();
///         let mut subscriber = StrangeSubscriber::connect(theirs, limits, how, 0, None)?;
///         assert_eq!(subscriber.recv(), Ok((0, &b"to all"[..])));
///         assert_eq!(subscriber.recv(), Err(RecvError::Detached));
///         Ok::<_, ConnectError>(())
///     }));
///     // It may keep us waiting, up to a deadline: not the thread that publishes.
///     let guest = invitation.meet(ours, None)?;
///     assert!(publisher.admit(name, guest).is_ok());
/// }
/// assert!(publisher.try_publish(b"to all")?);
/// drop(publisher);
/// for subscriber in subscribers {
///     subscriber.join().expect("no panic")?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It can move to another thread, but not be shared:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<shm_mq::broadcast::StrangePublisher<u32>>();
/// ```
///
/// # If a process dies here
/// Each subscriber receives what was published, and then learns of the death. Nobody takes over.
pub struct StrangePublisher<K> {
    /// Written by us, never read back.
    half: Mapped<Half>,
    cells: Cells<Hostile>,
    kind: Kind,
    subscribers_max: usize,
    subscribers: Vec<Admitted<K>>,
    /// Of those that are not told of yet.
    ends: VecDeque<Ended<K>>,
    /// Where the next record goes.
    place: Place,
    /// Records before this number go to cells that all have read.
    limit: u64,
    /// Who holds us back, as we have last looked.
    slowest: Option<usize>,
    /// Sleeps announced so far; each has a number of its own.
    sleeps: u64,
    /// Where the tour is, and records since its last step.
    tour: usize,
    since_tour: u32,
    fork: ForkGuard,
    not_sync: PhantomData<Cell<()>>,
}

struct Admitted<K> {
    key: K,
    wire: Wire,
    /// Its word, as we saw it last: see [`begun`].
    said: u64,
}

/// A word that says what it cannot.
#[derive(Debug)]
struct Lie;

/// How a subscriber ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended<K> {
    /// Whose end it is.
    pub key: K,
    /// How it ended.
    pub why: Why,
    /// The record that it would have read next, as it said: what is before was read or missed. 0
    /// where it had not begun.
    pub position: u64,
}

/// With which a [`StrangePublisher`] is met: for the threads that do.
#[derive(Clone)]
pub struct Invitation {
    memory: Arc<Memory>,
}

struct Memory {
    own: Own,
    half: Mapped<Half>,
    fingerprint: u64,
    fork: ForkGuard,
}

/// A subscriber that was met: for [`StrangePublisher::admit`]. Before that nobody wakes it, and
/// where it is dropped, it is hung up on.
#[derive(Debug)]
pub struct Guest {
    wire: Wire,
    /// Of the publisher that it is to be admitted by.
    half: Mapped<Half>,
}

impl Guest {
    pub(super) fn new(wire: Wire, half: Mapped<Half>) -> Guest {
        Guest { wire, half }
    }
}

impl Invitation {
    /// Meets the subscriber at the other end of `socket`, which calls
    /// [`StrangeSubscriber::connect`](super::StrangeSubscriber::connect). Any number of threads may
    /// do so at a time, each with its own.
    ///
    /// Of the socket, and of what the peer gets, the same is true as of
    /// [`stream`'s](crate::stream::Sender::connect): it may keep our memory, and so read what is
    /// published, also if it is never admitted.
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # If a process dies here
    /// The subscriber has [`ExchangeError::PeerDied`](shm_core::sealed::ExchangeError), or learns
    /// that its publisher has died.
    pub fn meet(
        &self,
        socket: UnixStream,
        deadline: Option<Instant>,
    ) -> Result<Guest, ConnectError> {
        let Memory { own, half, fingerprint, fork } = &*self.memory;
        // The subscriber would wait for the child's death, and not for the publisher's.
        fork.check().map_err(|_| ConnectError::Forked)?;
        let meeting = Meeting { kind: &CAST, fingerprint: *fingerprint, deadline };
        Ok(Guest::new(meeting.meet_one(socket, own, half.clone())?, half.clone()))
    }
}

impl<K> StrangePublisher<K> {
    /// Makes a publisher of such records, for at most as many subscribers at a time as `config`
    /// says, and what they are invited with.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn new(config: &BroadcastConfig) -> Result<(StrangePublisher<K>, Invitation), CreateError> {
        config.check()?;
        let (count, longest) = (config.cells.into(), config.record_bytes);
        let (bytes, fingerprint) = (mapped_bytes(config), config.fingerprint);
        let meeting = Meeting { kind: &CAST, fingerprint, deadline: None };
        let own = Own::create("shm-mq-publisher", HALF_BYTES.saturating_add(bytes))?;
        let half = meeting.sender_half(&own, bytes, longest)?;
        // SAFETY: our own memory, which nobody has yet.
        unsafe { Cells::<Hostile>::create(own.mapping(), HALF_BYTES, config) }?;
        let cells = Cells::attach(own.mapping(), HALF_BYTES, Kind::Lossy, count, longest)?;
        let publisher = StrangePublisher::of(half.clone(), cells, config);
        let memory = Memory { own, half, fingerprint, fork: ForkGuard::new() };
        Ok((publisher, Invitation { memory: Arc::new(memory) }))
    }

    pub(super) fn of(half: Mapped<Half>, cells: Cells<Hostile>, config: &BroadcastConfig) -> Self {
        let is_lossy = config.kind == Kind::Lossy;
        StrangePublisher {
            half,
            cells,
            kind: config.kind,
            subscribers_max: config.subscribers as usize,
            subscribers: Vec::new(),
            ends: VecDeque::new(),
            place: Place::default(),
            limit: if is_lossy { u64::MAX } else { 0 },
            slowest: None,
            sleeps: 0,
            tour: 0,
            since_tour: 0,
            fork: ForkGuard::new(),
            not_sync: PhantomData,
        }
    }

    /// From now on wakes this subscriber too, and, where nothing is to be lost, waits for it from
    /// when it says where it begins: [`lags`](StrangePublisher::lags) tells who has.
    ///
    /// # Errors
    /// Both are given back where there are as many subscribers as there can be, none of whom has
    /// ended, and in a forked child.
    ///
    /// # Panics
    /// If it was met for another publisher.
    ///
    /// # If a process dies here
    /// The subscriber learns of the death, be it admitted or not.
    pub fn admit(&mut self, key: K, guest: Guest) -> Result<(), (K, Guest)> {
        assert!(std::ptr::eq(&*guest.half, &*self.half), "the guest is another publisher's");
        if self.fork.check().is_err() {
            return Err((key, guest));
        }
        if self.subscribers.len() >= self.subscribers_max {
            self.bury();
        }
        if self.subscribers.len() >= self.subscribers_max {
            return Err((key, guest));
        }
        self.subscribers.push(Admitted { key, wire: guest.wire, said: 0 });
        // It may be behind where we wanted to go without another look.
        self.limit = self.limit_at_most(self.place.number);
        // And asleep, since before a record that it was not woken for: whose fence is behind us.
        self.wake_one(self.subscribers.len() - 1);
        Ok(())
    }

    /// How many subscribers were admitted, and have not been found to have ended.
    pub fn len(&self) -> usize {
        self.subscribers.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }

    /// Who waits for whom.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Records that were published: the number of the next one.
    pub fn published(&self) -> u64 {
        self.place.number
    }

    /// The longest record, in bytes.
    pub fn record_bytes(&self) -> usize {
        self.cells.record_bytes()
    }

    /// Publishes a record; `false` where a subscriber of a lossless broadcast has not read the one
    /// that is in its cell, and lives. Those of a lossy one never hold it back.
    ///
    /// # Errors
    /// [`PublishError::TooLong`], [`PublishError::Forked`].
    ///
    /// # If a process dies here
    /// The record is there as a whole, for all, or not at all.
    #[inline]
    pub fn try_publish(&mut self, record: &[u8]) -> Result<bool, PublishError> {
        self.check(record.len())?;
        let has_room = self.has_room();
        if has_room {
            self.put(record);
        }
        Ok(has_room)
    }

    /// Publishes a record, waiting until `deadline`, or as long as it takes, for who has not read
    /// the one whose cell it needs. Where strangers are waited for, have a deadline, and
    /// [expel](StrangePublisher::expel) who is too slow.
    ///
    /// # Errors
    /// [`PublishError`].
    ///
    /// # If a process dies here
    /// As in [`try_publish`](StrangePublisher::try_publish).
    #[inline]
    pub fn publish(
        &mut self,
        record: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), PublishError> {
        self.check(record.len())?;
        if !self.has_room() {
            self.wait_for_room(deadline)?;
        }
        self.put(record);
        Ok(())
    }

    /// The next end of a subscriber that is not told of yet: it has left, died, or lied, and is not
    /// one any more. It asks the kernel of each of them, unless some end is known.
    ///
    /// Publishing finds ends too, of those who are in the way, and, seldom, of one of the others.
    ///
    /// # If a process dies here
    /// Those who live learn of the death.
    pub fn next_end(&mut self) -> Option<Ended<K>> {
        if self.ends.is_empty() && self.fork.check().is_ok() {
            self.bury();
        }
        self.ends.pop_front()
    }

    /// How many records each subscriber lags behind, as it says. Who has not said yet where it
    /// begins is left out, and who lies.
    pub fn lags(&self) -> impl Iterator<Item = (&K, u64)> {
        let published = self.published();
        self.subscribers.iter().filter_map(move |at| Some((&at.key, at.lag(published)?)))
    }

    /// Hangs up on each subscriber of whom `is_to_go` says so, given its key, and how many records
    /// it lags behind, 0 where [`lags`](StrangePublisher::lags) leaves it out: who they were.
    /// `next_end` does not tell of them.
    ///
    /// Who is expelled is waited for no more, and woken no more. What was handed over
    /// it keeps: it finds records in it, if it looks, and is told to have missed others, and then
    /// that its publisher is gone.
    ///
    /// # If a process dies here
    /// All learn of the death, also who is not expelled yet.
    pub fn expel(&mut self, mut is_to_go: impl FnMut(&K, u64) -> bool) -> Vec<K> {
        let (mut gone, published) = (Vec::new(), self.published());
        if self.fork.check().is_err() {
            return gone;
        }
        for index in (0..self.subscribers.len()).rev() {
            let subscriber = &self.subscribers[index];
            if is_to_go(&subscriber.key, subscriber.lag(published).unwrap_or(0)) {
                gone.push(self.take(index).key);
            }
        }
        gone
    }

    #[inline]
    fn check(&self, len: usize) -> Result<(), PublishError> {
        if self.fork.check().is_err() {
            return Err(PublishError::Forked);
        }
        let largest = self.cells.record_bytes();
        if len > largest { Err(PublishError::TooLong { len, largest }) } else { Ok(()) }
    }

    #[inline]
    fn put(&mut self, record: &[u8]) {
        let at = self.place;
        self.cells.begin(at);
        // SAFETY: nobody else can write, and all others look as who may be lapped.
        unsafe { self.cells.write(at, record) };
        self.cells.publish(at, record.len());
        self.place = at.next(self.cells.count());
        // Pairs with the fence in the subscriber's `Wire::position`: the records before.
        self.half.position.store(self.place.number, Ordering::Release);
        self.wake_all();
        self.since_tour += 1;
        if self.since_tour >= TOUR_EVERY {
            self.step_of_tour();
        }
    }

    /// Wakes who sleeps.
    #[inline]
    fn wake_all(&mut self) {
        // The fence of all `Announcement`s, also where nobody is there: our number before the mark
        // of the next record, for who is lapped by it and asks how many there are.
        announced();
        for index in (0..self.subscribers.len()).rev() {
            self.wake_one(index);
        }
    }

    /// Wakes this one, behind the fence.
    #[inline]
    fn wake_one(&mut self, index: usize) {
        if !self.subscribers[index].wire.wake_one() {
            self.let_go(index);
        }
    }

    /// It hears no bell any more: it is dead to us, also where it is not.
    #[cold]
    fn let_go(&mut self, index: usize) {
        if !self.look_for_end(index) {
            self.end(index, Why::Died);
        }
    }

    /// Looks for the ends of all.
    #[cold]
    fn bury(&mut self) {
        for index in (0..self.subscribers.len()).rev() {
            self.look_for_end(index);
        }
    }

    /// Asks of one subscriber whether it is gone.
    #[cold]
    fn step_of_tour(&mut self) {
        self.since_tour = 0;
        self.tour = if self.tour < self.subscribers.len() { self.tour } else { 0 };
        if self.tour < self.subscribers.len() && !self.look_for_end(self.tour) {
            self.tour += 1;
        }
    }

    /// Whether this subscriber has ended, or lies: then it is one no more.
    fn look_for_end(&mut self, index: usize) -> bool {
        let published = self.published();
        let subscriber = &mut self.subscribers[index];
        // Its end first: then its last position.
        let gone = subscriber.wire.gone();
        let why = match (subscriber.look(published), gone) {
            (Err(Lie), _) => Why::Corrupt,
            (Ok(_), Some(Missing::Detached)) => Why::Left,
            (Ok(_), Some(_)) => Why::Died,
            (Ok(_), None) => return false,
        };
        self.end(index, why);
        true
    }

    fn end(&mut self, index: usize, why: Why) {
        let subscriber = self.take(index);
        let position = subscriber.position().unwrap_or(0);
        self.ends.push_back(Ended { key: subscriber.key, why, position });
    }

    fn take(&mut self, index: usize) -> Admitted<K> {
        self.slowest = None;
        // It held us back, or not: look.
        self.limit = self.limit_at_most(self.place.number);
        self.subscribers.remove(index)
    }

    /// Until we have looked at all again we go no further than this, if we wait for anybody.
    fn limit_at_most(&self, number: u64) -> u64 {
        if self.kind == Kind::Lossy { u64::MAX } else { number }
    }

    #[inline]
    fn has_room(&mut self) -> bool {
        self.place.number < self.limit || self.look_for_room()
    }

    /// Looks how far the subscribers are, past those who lie or are gone: whether there is room.
    #[cold]
    fn look_for_room(&mut self) -> bool {
        // In each round but the last somebody is one no more.
        for _ in 0..=self.subscribers.len() {
            match self.look_at_all() {
                Ok(None) => return true,
                Ok(Some(slowest)) if !self.look_for_end(slowest) => return false,
                Ok(Some(_)) => {}
                Err(liar) => self.end(liar, Why::Corrupt),
            }
        }
        false
    }

    /// Sets how far we may go, and who is slowest: that one, if it leaves no room; or who lies.
    fn look_at_all(&mut self) -> Result<Option<usize>, usize> {
        let (number, count) = (self.place.number, self.cells.count());
        (self.limit, self.slowest) = (number + count, None);
        for (index, subscriber) in self.subscribers.iter_mut().enumerate() {
            let position = subscriber.look(number).map_err(|Lie| index)?;
            // Who has not begun holds nobody back.
            let Some(position) = position else { continue };
            // Who is too far back has begun with what was written over meanwhile, or lies: there is
            // no room until it goes on.
            let end = position.max(number.saturating_sub(count)) + count;
            if end < self.limit {
                (self.limit, self.slowest) = (end, Some(index));
            }
        }
        Ok(self.slowest.filter(|_| self.limit == number))
    }

    #[cold]
    fn wait_for_room(&mut self, deadline: Option<Instant>) -> Result<(), PublishError> {
        let look = |publisher: &mut Self, _| publisher.has_room().then_some(());
        look_until(self, |publisher| publisher, deadline, look).ok_or(PublishError::TimedOut)
    }
}

impl<K> Admitted<K> {
    /// Looks which record it reads next, `None` where it has not begun.
    fn look(&mut self, published: u64) -> Result<Option<u64>, Lie> {
        let said = self.wire.position();
        if !(self.said..=begun(published)).contains(&said) {
            return Err(Lie);
        }
        self.said = said;
        Ok(self.position())
    }

    /// As of our last look.
    fn position(&self) -> Option<u64> {
        self.said.checked_sub(1)
    }

    /// How far it is behind so many, as it says now; `None` where it has not begun, or lies.
    fn lag(&self, published: u64) -> Option<u64> {
        let said = self.wire.position();
        if said == 0 { None } else { begun(published).checked_sub(said) }
    }
}

/// Ready where there is room. Sleeps on the bell of who is slowest, before which there is none: it
/// wakes us for what it reads when it finds no more, or was given half of all anew.
impl<K> Source for StrangePublisher<K> {
    fn is_ready(&mut self) -> bool {
        self.has_room()
    }

    fn announce(&mut self) {
        self.sleeps += 1;
        self.half.asleep.announce(self.sleeps);
    }

    fn doorbells<'s>(&'s self, to: &mut Vec<&'s Doorbell>) {
        let slowest = self.slowest.and_then(|index| self.subscribers.get(index));
        to.extend(slowest.map(|slowest| slowest.wire.bell()));
    }

    fn sleep_max(&self) -> Option<Duration> {
        (!IS_MODEL).then_some(LOOKED_EVERY)
    }

    fn woken(&mut self) {
        self.half.asleep.withdraw();
    }
}

impl<K> Drop for StrangePublisher<K> {
    /// Says that it leaves.
    ///
    /// # If a process dies here
    /// Subscribers learn of the one end or the other, once they have received all.
    fn drop(&mut self) {
        if self.fork.check().is_ok() && !model_unwinds() {
            // Also for who is met, and was not admitted. Pairs with the fence in the subscriber's
            // `Wire::gone`: the last record.
            self.half.state.store(DETACHED, Ordering::Release);
            self.subscribers.iter_mut().for_each(|subscriber| subscriber.wire.leave());
        }
    }
}

impl<K: fmt::Debug> fmt::Debug for StrangePublisher<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("StrangePublisher");
        let keys: Vec<&K> = self.subscribers.iter().map(|subscriber| &subscriber.key).collect();
        f.field("published", &self.published()).field("subscribers", &keys).finish()
    }
}

impl fmt::Debug for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invitation").finish_non_exhaustive()
    }
}
