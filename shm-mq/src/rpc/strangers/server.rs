//! Answering clients that are strangers.
use super::{Ends, HEADER_BYTES, Header, Kind, Nonsense, StrangeConfig, VERSION};
use crate::fan_in::Why;
use crate::hostile::ConnectError;
use crate::rpc::{AnswerError, is_past, left_until};
use crate::spsc::{Receiver, RecvError, SendError, Sender};
use crate::wait::look_until;
use crate::waitset::Source;
use shm_core::process::ForkGuard;
use shm_core::sealed::{Doorbell, ExchangeError, Heard};
use shm_core::trust::Hostile;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const IS_MODEL: bool = cfg!(any(shm_loom, shm_explore));
/// After so many calls we look whether one client is gone.
const TOUR_EVERY: u32 = if IS_MODEL { 2 } else { 256 };

/// Why no call was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StrangeTakeError {
    /// The deadline passed.
    #[error("the deadline passed before there was a request")]
    TimedOut,
    /// All clients that were admitted have ended: nothing can come.
    #[error("there is no client")]
    Nobody,
    /// They were admitted by the process that this one was forked from.
    #[error("the clients were admitted by the process that this one was forked from")]
    Forked,
}

/// A client that has been met, for [`StrangeServer::admit`].
#[derive(Debug)]
pub struct Connection {
    /// Answers, and requests.
    ends: Ends,
    calls: u32,
}

impl Connection {
    /// Meets the client at the other ends of two sockets, for requests and for answers, which calls
    /// [`StrangeClient::connect`](super::StrangeClient::connect). It may keep us waiting until
    /// `deadline`: not the thread that serves others.
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # If a process dies here
    /// The client has [`ExchangeError::PeerDied`], or a server that has died.
    pub fn connect(
        [requests, answers]: [UnixStream; 2],
        config: &StrangeConfig,
        deadline: Option<Instant>,
    ) -> Result<Connection, ConnectError> {
        let StrangeConfig { calls, ring_bytes, fingerprint, .. } = *config;
        let limits = config.queue_limits();
        let requests = Receiver::<Hostile>::connect(requests, limits, fingerprint, deadline)?;
        let mut answers = Sender::<Hostile>::connect(answers, ring_bytes, fingerprint, deadline)?;
        let calls = calls.max(1);
        let hello = Header { number: VERSION, kind: Kind::Hello, word: calls.into() };
        // The ring is empty, and the record shorter than any ring's longest.
        match answers.try_send(&hello.to_bytes()) {
            Ok(true) => Ok(Connection::over(requests, answers, calls)),
            Ok(false) | Err(SendError::Corrupt | SendError::TooLong { .. }) => {
                Err(ConnectError::Corrupt)
            }
            Err(_) => Err(ConnectError::Exchange(ExchangeError::PeerDied)),
        }
    }

    /// A client that has been greeted.
    pub(super) fn over(
        requests: Receiver<Hostile>,
        answers: Sender<Hostile>,
        calls: u32,
    ) -> Connection {
        Connection { ends: Ends::new(answers, requests), calls }
    }
}

/// Who answers many clients that it does not trust: one thread at a time. `K` is what the caller
/// knows a client by. [`StrangeClient`](super::StrangeClient) has an example.
///
/// # If a process dies here
/// The calls that it had end with [`ServerDied`](super::StrangeError::ServerDied) at once.
pub struct StrangeServer<K> {
    /// By their numbers.
    lanes: Vec<Lane<K>>,
    /// Clients admitted so far.
    admitted: u64,
    /// Whose turn it is.
    next: usize,
    /// Where the tour is, and calls since its last step.
    tour: usize,
    since_tour: u32,
    dropped: Dropped,
    fork: ForkGuard,
}

/// Calls whose request was dropped: of a client, its number.
type Dropped = Arc<Mutex<Vec<(u64, u64)>>>;

struct Lane<K> {
    number: u64,
    key: K,
    ends: Ends,
    calls: Calls,
    end: Option<Why>,
}

/// The calls of a client that it has not had our last word of.
struct Calls {
    calls_max: usize,
    /// Calls asked so far.
    asked: u64,
    waiting: VecDeque<Waiting>,
    /// And whether it does not want them any more.
    taken: BTreeMap<u64, bool>,
    /// Last words for which there was no room yet.
    unsent: VecDeque<Vec<u8>>,
}

struct Waiting {
    number: u64,
    due: u64,
    bytes: Vec<u8>,
}

/// What comes from strangers.
#[derive(Debug)]
pub enum Event<'s, K> {
    /// A call, and whose it is.
    Asked(&'s K, Request),
    /// A client is no more. Its calls are nobody's: [`is_cancelled`](StrangeServer::is_cancelled).
    End {
        /// Whose.
        client: K,
        /// How it ended.
        why: Why,
        /// How many calls it had asked.
        asked: u64,
        /// How many of these were taken, and are not answered.
        open: usize,
    },
}

/// A request, in private memory: a call that was taken. Dropped, it ends
/// [unanswered](super::StrangeError::Unanswered): the client learns it once the server looks again.
#[must_use = "a request that is dropped ends unanswered"]
pub struct Request {
    bytes: Vec<u8>,
    due: u64,
    call: TakenCall,
}

struct TakenCall {
    client: u64,
    number: u64,
    /// Of whom it was taken.
    dropped: Dropped,
    is_done: bool,
}

/// What a look has found at a client's.
#[derive(Clone, Copy)]
enum Found {
    Call,
    End(Why),
}

impl<K> Default for StrangeServer<K> {
    fn default() -> StrangeServer<K> {
        StrangeServer::new()
    }
}

impl<K> StrangeServer<K> {
    /// Nobody is admitted yet.
    pub fn new() -> StrangeServer<K> {
        StrangeServer {
            lanes: Vec::new(),
            admitted: 0,
            next: 0,
            tour: 0,
            since_tour: 0,
            dropped: Dropped::default(),
            fork: ForkGuard::new(),
        }
    }

    /// From now on takes this client's calls too.
    pub fn admit(&mut self, key: K, connection: Connection) {
        let Connection { ends, calls } = connection;
        let calls = Calls::new(calls as usize);
        let number = self.admitted;
        self.admitted += 1;
        self.lanes.push(Lane { number, key, ends, calls, end: None });
    }

    /// How many were admitted, and have not ended.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// The next call, or the end of a client, if there is one now.
    ///
    /// # Errors
    /// [`StrangeTakeError::Forked`].
    ///
    /// # If a process dies here
    /// The calls that it has end with [`ServerDied`](super::StrangeError::ServerDied).
    pub fn try_take(&mut self) -> Result<Option<Event<'_, K>>, StrangeTakeError> {
        let found = match self.find()? {
            Some(found) => Some(found),
            None => self.step_of_tour(),
        };
        Ok(found.map(|(index, found)| self.event(index, found)))
    }

    /// The next call, or the end of a client, waiting until `deadline`, or as long as it takes.
    ///
    /// # Errors
    /// [`StrangeTakeError`].
    ///
    /// # If a process dies here
    /// As in [`try_take`](StrangeServer::try_take).
    pub fn take(&mut self, deadline: Option<Instant>) -> Result<Event<'_, K>, StrangeTakeError> {
        let (index, found) = match self.find()? {
            Some(found) => found,
            None => self.wait(deadline)?,
        };
        Ok(self.event(index, found))
    }

    /// Whether nobody wants the answer any more, be it that the client has died. It stays so.
    ///
    /// # Errors
    /// [`AnswerError::OtherServer`]. The call is as it was.
    ///
    /// # If a process dies here
    /// As in [`try_take`](StrangeServer::try_take).
    pub fn is_cancelled(&mut self, request: &Request) -> Result<bool, AnswerError> {
        self.took(request)?;
        if self.fork.check().is_err() {
            return Ok(true);
        }
        let TakenCall { client, number, .. } = request.call;
        Ok(self.lane(client).is_none_or(|lane| {
            lane.look_closer();
            lane.end.is_some() || lane.calls.taken.get(&number) != Some(&false)
        }))
    }

    /// Answers. An answer for which there is no room in the client's ring is kept, and sent as soon
    /// as there is and the server looks: this never waits.
    ///
    /// # Errors
    /// [`AnswerError`]. The call has ended all the same.
    ///
    /// # If a process dies here
    /// The call is answered as a whole, or ends with
    /// [`ServerDied`](super::StrangeError::ServerDied).
    pub fn answer(&mut self, request: Request, answer: &[u8]) -> Result<(), AnswerError> {
        self.says(request, Kind::Answer, 0, answer)
    }

    /// Refuses the call, with a code of the application's and bytes that say more.
    ///
    /// # Errors
    /// [`AnswerError`]. The call has ended all the same.
    ///
    /// # If a process dies here
    /// As in [`answer`](StrangeServer::answer).
    pub fn refuse(
        &mut self,
        request: Request,
        code: u32,
        reason: &[u8],
    ) -> Result<(), AnswerError> {
        self.says(request, Kind::Refuse, code.into(), reason)
    }

    /// The last word of a call.
    fn says(
        &mut self,
        mut request: Request,
        kind: Kind,
        word: u64,
        bytes: &[u8],
    ) -> Result<(), AnswerError> {
        self.took(&request)?;
        let call = &mut request.call;
        call.is_done = true;
        self.fork.check().map_err(|_| AnswerError::Abandoned)?;
        let (client, number) = (call.client, call.number);
        let lane = self.lane(client).ok_or(AnswerError::Abandoned)?;
        lane.hears();
        let largest = lane.ends.says.record_bytes_max().saturating_sub(HEADER_BYTES);
        let said = match lane.calls.taken.remove(&number) {
            Some(false) if bytes.len() > largest => {
                Err(AnswerError::TooLong { len: bytes.len(), largest })
            }
            Some(false) => Ok(()),
            Some(true) | None => Err(AnswerError::Abandoned),
        };
        match said {
            Ok(()) => lane.calls.unsent.push_back(Header { number, kind, word }.record(bytes)),
            Err(_) => lane.calls.lets_go(number),
        }
        lane.tells();
        if lane.end.is_some() { Err(AnswerError::Abandoned) } else { said }
    }

    /// Whether the call is ours: clients and calls have the same numbers elsewhere.
    fn took(&self, request: &Request) -> Result<(), AnswerError> {
        let is_ours = Arc::ptr_eq(&request.call.dropped, &self.dropped);
        if is_ours { Ok(()) } else { Err(AnswerError::OtherServer) }
    }

    fn lane(&mut self, client: u64) -> Option<&mut Lane<K>> {
        let index = self.lanes.binary_search_by_key(&client, |lane| lane.number).ok()?;
        Some(&mut self.lanes[index])
    }

    fn event(&mut self, index: usize, found: Found) -> Event<'_, K> {
        if let Found::End(why) = found {
            let Lane { key, calls, .. } = self.lanes.remove(index);
            // It is the same one's turn as before.
            self.next -= usize::from(index < self.next);
            return Event::End { client: key, why, asked: calls.asked, open: calls.taken.len() };
        }
        self.next = index + 1;
        self.since_tour += 1;
        let dropped = self.dropped.clone();
        let Lane { number: client, key, calls, .. } = &mut self.lanes[index];
        let Waiting { number, due, bytes } = calls.waiting.pop_front().expect("a look found it");
        calls.taken.insert(number, false);
        let call = TakenCall { client: *client, number, dropped, is_done: false };
        Event::Asked(key, Request { bytes, due, call })
    }

    /// Looks at each client once, from the one on whose turn it is.
    fn find(&mut self) -> Result<Option<(usize, Found)>, StrangeTakeError> {
        self.fork.check().map_err(|_| StrangeTakeError::Forked)?;
        self.lets_go();
        if self.since_tour >= TOUR_EVERY
            && let Some((number, end @ Found::End(_))) = self.step_of_tour()
        {
            return Ok(Some((number, end)));
        }
        let first = if self.next < self.lanes.len() { self.next } else { 0 };
        for index in (first..self.lanes.len()).chain(0..first) {
            if let Some(found) = self.lanes[index].look() {
                return Ok(Some((index, found)));
            }
        }
        Ok(None)
    }

    /// Asks of one client whether it is gone.
    fn step_of_tour(&mut self) -> Option<(usize, Found)> {
        self.since_tour = 0;
        let index = if self.tour < self.lanes.len() { self.tour } else { 0 };
        self.tour = index + 1;
        let lane = self.lanes.get_mut(index)?;
        lane.look_closer();
        Some((index, lane.found()?))
    }

    /// Says the last word of calls whose request was dropped.
    fn lets_go(&mut self) {
        let dropped = std::mem::take(&mut *locked(&self.dropped));
        for (client, number) in dropped {
            if let Some(lane) = self.lane(client)
                && lane.calls.taken.remove(&number).is_some()
            {
                lane.calls.lets_go(number);
            }
        }
    }

    #[cold]
    fn wait(&mut self, deadline: Option<Instant>) -> Result<(usize, Found), StrangeTakeError> {
        let look = |server: &mut Self, _| match server.is_empty() {
            true => Some(Err(StrangeTakeError::Nobody)),
            false => server.find().transpose(),
        };
        look_until(self, |server| server, deadline, look).unwrap_or(Err(StrangeTakeError::TimedOut))
    }
}

/// Ready where [`try_take`](StrangeServer::try_take) gives a call, or an end, or an error. While
/// nobody is admitted it is not. Answers that wait for room go there by its looks, too.
impl<K> Source for StrangeServer<K> {
    fn is_ready(&mut self) -> bool {
        !matches!(self.find(), Ok(None)) || self.step_of_tour().is_some()
    }

    fn is_ready_at_last(&mut self) -> bool {
        // Of ends the sleep tells.
        !matches!(self.find(), Ok(None))
    }

    fn announce(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.ends.announce());
    }

    fn doorbells<'s>(&'s self, to: &mut Vec<&'s Doorbell>) {
        self.lanes.iter().for_each(|lane| lane.ends.doorbells(to));
    }

    /// Each lane has two.
    fn heard(&mut self, which: usize, heard: Heard) {
        if let Some(lane) = self.lanes.get_mut(which / 2) {
            lane.ends.heard(which % 2, heard);
        }
    }

    fn woken(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.ends.woken());
    }
}

impl<K> Lane<K> {
    /// What is there, having heard the client and told it what there is room for.
    fn look(&mut self) -> Option<Found> {
        self.hears();
        self.tells();
        self.found()
    }

    fn found(&mut self) -> Option<Found> {
        match self.end {
            Some(why) => Some(Found::End(why)),
            None => (!self.calls.waiting.is_empty()).then_some(Found::Call),
        }
    }

    /// Asks the kernel besides whether the client is gone.
    fn look_closer(&mut self) {
        self.hears();
        if self.end.is_none()
            && let Err(end) = self.ends.hears.find_before_the_end()
        {
            self.has_ended(end);
        }
    }

    /// Hears what the client has said since the last time: all of it unless it lies, for there are
    /// as many calls at most as it may have open, and it wants none of these, nor of those before.
    fn hears(&mut self) {
        for _ in 0..3 * self.calls.calls_max {
            if self.end.is_some() {
                return;
            }
            let requests = &mut self.ends.hears;
            let may_have_ended = self.ends.is_gone || requests.wire().says_that_it_left();
            let found = match requests.find() {
                Ok(None) if may_have_ended => requests.find_before_the_end(),
                found => found,
            };
            match found {
                Ok(Some(len)) => {
                    let record = requests.record(len);
                    if self.calls.hears(&record).is_err() {
                        self.end = Some(Why::Corrupt);
                    }
                }
                Ok(None) => break,
                Err(end) => self.has_ended(end),
            }
        }
        if self.ends.is_gone {
            // It hung up one of the two at least.
            self.end.get_or_insert(Why::Died);
        }
        self.calls.leaves_out_the_late();
    }

    /// Says last words, as far as there is room.
    fn tells(&mut self) {
        while let (None, Some(record)) = (self.end, self.calls.unsent.front()) {
            match self.ends.try_send(record) {
                Ok(true) => drop(self.calls.unsent.pop_front()),
                Ok(false) => return,
                Err(SendError::Detached) => self.end = Some(Why::Left),
                Err(SendError::PeerDied) => self.end = Some(Why::Died),
                Err(_) => self.end = Some(Why::Corrupt),
            }
        }
    }

    fn has_ended(&mut self, end: RecvError) {
        self.end = match end {
            RecvError::Detached => Some(Why::Left),
            RecvError::PeerDied => Some(Why::Died),
            RecvError::Corrupt => Some(Why::Corrupt),
            // No look ends like that, in the process that admitted it.
            RecvError::TimedOut | RecvError::Forked => None,
        };
    }
}

impl Calls {
    fn new(calls_max: usize) -> Calls {
        let (waiting, unsent) = (VecDeque::new(), VecDeque::new());
        Calls { calls_max, asked: 0, waiting, taken: BTreeMap::new(), unsent }
    }

    /// Those that have not had their last word.
    fn open(&self) -> usize {
        self.waiting.len() + self.taken.len() + self.unsent.len()
    }

    /// The client has said something.
    fn hears(&mut self, record: &[u8]) -> Result<(), Nonsense> {
        let (Header { number, kind, word }, bytes) = Header::parse(record)?;
        match kind {
            Kind::Ask if number == self.asked && self.open() < self.calls_max => {
                self.asked += 1;
                self.waiting.push_back(Waiting { number, due: word, bytes: bytes.to_vec() });
            }
            Kind::Cancel if number < self.asked => self.cancels(number),
            _ => return Err(Nonsense),
        }
        Ok(())
    }

    fn cancels(&mut self, number: u64) {
        if let Ok(index) = self.waiting.binary_search_by_key(&number, |call| call.number) {
            self.waiting.remove(index);
            self.lets_go(number);
        } else if let Some(is_cancelled) = self.taken.get_mut(&number) {
            *is_cancelled = true;
        }
    }

    /// Nobody waits for the first ones any more.
    fn leaves_out_the_late(&mut self) {
        while let Some(late) = self.waiting.front().filter(|call| is_past(call.due)) {
            let number = late.number;
            self.waiting.pop_front();
            self.lets_go(number);
        }
    }

    fn lets_go(&mut self, number: u64) {
        self.unsent.push_back(Header { number, kind: Kind::LetGo, word: 0 }.record(&[]));
    }
}

impl Request {
    /// How long its client still waits, as it says: `None` where it has not said so.
    pub fn left(&self) -> Option<Duration> {
        left_until(self.due)
    }
}

impl Deref for Request {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for TakenCall {
    fn drop(&mut self) {
        if !self.is_done {
            locked(&self.dropped).push((self.client, self.number));
        }
    }
}

fn locked(dropped: &Dropped) -> std::sync::MutexGuard<'_, Vec<(u64, u64)>> {
    dropped.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Request").field(&&self.bytes[..]).finish()
    }
}

impl<K: fmt::Debug> fmt::Debug for StrangeServer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lanes.iter().map(|lane| &lane.key)).finish()
    }
}
