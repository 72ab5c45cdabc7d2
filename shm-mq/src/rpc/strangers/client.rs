//! Asking a server that is a stranger.
use super::{Ends, HEADER_BYTES, Header, Kind, Nonsense, StrangeConfig, VERSION};
use crate::hostile::ConnectError;
use crate::rpc::{AskError, due_at};
use crate::spsc::{Receiver, RecvError, SendError, Sender};
use crate::wait::{has_passed, look_until};
use crate::waitset::Source;
use shm_core::process::ForkGuard;
use shm_core::sealed::{Doorbell, ExchangeError, Heard};
use shm_core::trust::Hostile;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::unix::net::UnixStream;
// private: clients are told apart within this process.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Clients that this process has made.
static CLIENTS: AtomicU64 = AtomicU64::new(0);

/// Why a call has no answer. Each but [`TimedOut`](StrangeError::TimedOut) is its end.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StrangeError {
    /// The wait was over before the call. It is open still.
    #[error("the call has not ended yet")]
    TimedOut,
    /// The server has refused it.
    #[error("the server refused the call: code {code}")]
    Refused {
        /// The application's code.
        code: u32,
        /// What it said besides.
        reason: Vec<u8>,
    },
    /// The server has died, or hung up: it may have done all of it, a part, or nothing.
    #[error("the server has died")]
    ServerDied,
    /// The server has let go of it, or has left: the same.
    #[error("the server let go of the call")]
    Unanswered,
    /// Its deadline has passed, by our clock. The server may be at it still.
    #[error("the deadline of the call has passed")]
    DeadlinePassed,
    /// The server wrote nonsense. The connection is of no further use.
    #[error("the connection is corrupt: nobody knows what became of the call")]
    Corrupt,
    /// The call is that of the process that this one was forked from.
    #[error("the call was made by the process that this one was forked from")]
    Forked,
    /// There is no such call: its end has been told, or it was cancelled.
    #[error("no such call is open")]
    NotOpen,
    /// Another client has asked it. It is as it was.
    #[error("another client has asked the call: that one knows of it")]
    OtherClient,
}

/// A call of a [`StrangeClient`]: of which one, and how many that one had asked before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId {
    client: u64,
    number: u64,
}

/// A call, and how it ended.
type Ended = (CallId, Result<Vec<u8>, StrangeError>);

/// What we know of a call that the server has not said its last word of, or that is to be told.
#[derive(Debug)]
enum Call {
    Open { due: Option<Instant> },
    GivenUp,
    Ended(Result<Vec<u8>, StrangeError>),
}

impl Call {
    fn due(&self) -> Option<Instant> {
        match self {
            Call::Open { due } => *due,
            _ => None,
        }
    }
}

/// Who calls a server that it does not trust: one thread at a time.
///
/// ```
/// use shm_mq::rpc::strangers::{Connection, Event, StrangeClient, StrangeConfig, StrangeServer};
/// use std::os::unix::net::UnixStream;
///
/// let config = StrangeConfig::default();
/// let [(requests, theirs), (answers, their_answers)] = [UnixStream::pair()?, UnixStream::pair()?];
/// let server = std::thread::spawn(move || {
///     let mut server = StrangeServer::new();
///     // It may keep us waiting, up to a deadline: not the thread that serves others.
///     server.admit("p", Connection::connect([theirs, their_answers], &config, None).unwrap());
///     while let Ok(event) = server.take(None) {
///         match event {
///             Event::Asked(_, request) => {
///                 let answer = request.to_ascii_uppercase();
///                 // If it does not want the answer any more, so be it.
///                 let _ = server.answer(request, &answer);
///             }
///             Event::End { client, .. } => assert_eq!(client, "p"),
///         }
///     }
/// });
/// let mut client = StrangeClient::connect([requests, answers], &config, None)?;
/// let [first, second] = [client.ask(b"peel", None)?, client.ask(b"boil", None)?];
/// assert_eq!(client.wait(second, None)?, b"BOIL");
/// assert_eq!(client.wait(first, None)?, b"PEEL");
/// drop(client);
/// server.join().expect("no panic");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # If a process dies here
/// Its calls are nobody's: the server is told of its end.
pub struct StrangeClient {
    /// Requests, and answers.
    ends: Ends,
    /// No other client of this process has it.
    id: u64,
    calls_max: usize,
    calls: BTreeMap<u64, Call>,
    /// Calls asked so far, and those of which the server has not said its last word.
    asked: u64,
    in_flight: usize,
    /// Calls given up, of which the server is still to be told.
    untold: VecDeque<u64>,
    /// How the connection has ended, and with it each call that is open.
    end: Option<StrangeError>,
    fork: ForkGuard,
}

impl StrangeClient {
    /// Meets the server at the other ends of two sockets, for requests and for answers, which calls
    /// [`Connection::connect`](super::Connection::connect).
    ///
    /// Of the sockets the same is true as of [`stream`'s](crate::stream::Sender::connect).
    ///
    /// # Errors
    /// [`ConnectError`].
    ///
    /// # If a process dies here
    /// The server has [`ExchangeError::PeerDied`], or a client that has died.
    pub fn connect(
        [requests, answers]: [UnixStream; 2],
        config: &StrangeConfig,
        deadline: Option<Instant>,
    ) -> Result<StrangeClient, ConnectError> {
        let StrangeConfig { calls, ring_bytes, fingerprint, .. } = *config;
        let requests = Sender::<Hostile>::connect(requests, ring_bytes, fingerprint, deadline)?;
        let limits = config.queue_limits();
        let mut answers = Receiver::<Hostile>::connect(answers, limits, fingerprint, deadline)?;
        let hello = match deadline {
            Some(deadline) => answers.recv_deadline(deadline),
            None => answers.recv(),
        };
        let hello = hello.map_err(not_met)?;
        let said = match Header::parse(&hello) {
            Ok((Header { number: VERSION, kind: Kind::Hello, word }, _)) if word > 0 => word,
            _ => return Err(ConnectError::Corrupt),
        };
        drop(hello);
        if requests.record_bytes_max() < HEADER_BYTES {
            return Err(ConnectError::Corrupt);
        }
        Ok(StrangeClient::over(requests, answers, said.min(calls.into()) as u32))
    }

    /// A client that has been greeted.
    pub(super) fn over(
        requests: Sender<Hostile>,
        answers: Receiver<Hostile>,
        calls: u32,
    ) -> StrangeClient {
        StrangeClient {
            ends: Ends::new(requests, answers),
            // Relaxed: each number is given out once, whoever sees it when.
            id: CLIENTS.fetch_add(1, Ordering::Relaxed),
            calls_max: calls as usize,
            calls: BTreeMap::new(),
            asked: 0,
            in_flight: 0,
            untold: VecDeque::new(),
            end: None,
            fork: ForkGuard::new(),
        }
    }

    /// The longest request, in bytes.
    pub fn request_bytes_max(&self) -> usize {
        self.ends.says.record_bytes_max().saturating_sub(HEADER_BYTES)
    }

    /// Calls that the server lets us ask at a time.
    pub fn calls_max(&self) -> usize {
        self.calls_max
    }

    /// Calls whose end has not been told, and that were not cancelled.
    pub fn open(&self) -> usize {
        self.calls.values().filter(|call| !matches!(call, Call::GivenUp)).count()
    }

    /// Asks, if as many calls as may be are not the server's already, and there is room for the
    /// request; `None` where there is none. A call that was given up is the server's until it has
    /// said its last word. One that has ended is not, and stays in private memory until it is told.
    ///
    /// # Errors
    /// [`AskError`], but not [`TimedOut`](AskError::TimedOut). `NoServer` where it has left, died
    /// or written nonsense.
    ///
    /// # If a process dies here
    /// The server gets the call, which is as a whole then, or does not.
    pub fn try_ask(&mut self, request: &[u8]) -> Result<Option<CallId>, AskError> {
        self.asks(request, None)
    }

    /// Asks, waiting for room until `deadline`, which is the call's own too; or as long as it
    /// takes. The server is told the deadline, by the clock of this machine, and what it makes of
    /// it is its own affair: the call ends here by then.
    ///
    /// # Errors
    /// [`AskError`].
    ///
    /// # If a process dies here
    /// As in [`try_ask`](StrangeClient::try_ask).
    pub fn ask(&mut self, request: &[u8], deadline: Option<Instant>) -> Result<CallId, AskError> {
        let look = |client: &mut StrangeClient| client.asks(request, deadline).transpose();
        self.waits(deadline, None, look).unwrap_or(Err(AskError::TimedOut))
    }

    fn asks(&mut self, request: &[u8], due: Option<Instant>) -> Result<Option<CallId>, AskError> {
        self.fork.check().map_err(|_| AskError::Forked)?;
        let largest = self.request_bytes_max();
        if request.len() > largest {
            return Err(AskError::TooLong { len: request.len(), largest });
        }
        self.hears();
        if self.end.is_some() {
            return Err(AskError::NoServer);
        }
        if self.in_flight >= self.calls_max {
            return Ok(None);
        }
        let number = self.asked;
        let header = Header { number, kind: Kind::Ask, word: due.map_or(0, due_at) };
        if !self.sends(&header.record(request)).ok_or(AskError::NoServer)? {
            return Ok(None);
        }
        self.asked += 1;
        self.in_flight += 1;
        self.calls.insert(number, Call::Open { due });
        Ok(Some(self.call(number)))
    }

    /// The answer, if it is there.
    ///
    /// # Errors
    /// [`StrangeError`], but not [`TimedOut`](StrangeError::TimedOut).
    ///
    /// # If a process dies here
    /// The server is told of the client's end.
    pub fn poll(&mut self, call: CallId) -> Result<Option<Vec<u8>>, StrangeError> {
        let number = self.number(call)?;
        self.look(number).transpose()
    }

    /// The answer, waiting until `until`, or as long as it takes.
    ///
    /// # Errors
    /// [`StrangeError`].
    ///
    /// # If a process dies here
    /// As in [`poll`](StrangeClient::poll).
    pub fn wait(&mut self, call: CallId, until: Option<Instant>) -> Result<Vec<u8>, StrangeError> {
        let number = self.number(call)?;
        let due = self.calls.get(&number).and_then(Call::due);
        let end = self.waits(until, due, |client| client.look(number));
        end.unwrap_or(Err(StrangeError::TimedOut))
    }

    /// The end of any call, waiting until `until`, or as long as it takes: of those that have
    /// ended, the one that was asked first. `None` where no call is open, or the wait is over.
    ///
    /// # If a process dies here
    /// As in [`poll`](StrangeClient::poll).
    pub fn wait_any(
        &mut self,
        until: Option<Instant>,
    ) -> Option<(CallId, Result<Vec<u8>, StrangeError>)> {
        self.waits(until, self.due(), StrangeClient::look_at_all)?
    }

    /// Does not want the call any more, nor its answer. The server is told; where there is no room
    /// for that, with the next operation. Of one that is not open there is nothing to tell.
    ///
    /// # Errors
    /// [`StrangeError::OtherClient`], [`StrangeError::Forked`].
    ///
    /// # If a process dies here
    /// As in [`poll`](StrangeClient::poll).
    pub fn cancel(&mut self, call: CallId) -> Result<(), StrangeError> {
        let number = self.number(call)?;
        self.fork.check().map_err(|_| StrangeError::Forked)?;
        match self.calls.get(&number) {
            Some(Call::Open { .. }) => self.gives_up(number),
            Some(Call::Ended(_)) => drop(self.calls.remove(&number)),
            Some(Call::GivenUp) | None => {}
        }
        self.hears();
        Ok(())
    }

    fn call(&self, number: u64) -> CallId {
        CallId { client: self.id, number }
    }

    /// The number of a call of ours.
    fn number(&self, call: CallId) -> Result<u64, StrangeError> {
        if call.client == self.id { Ok(call.number) } else { Err(StrangeError::OtherClient) }
    }

    fn gives_up(&mut self, number: u64) {
        self.calls.insert(number, Call::GivenUp);
        self.untold.push_back(number);
    }

    /// How a call has ended, after a look.
    fn look(&mut self, number: u64) -> Option<Result<Vec<u8>, StrangeError>> {
        self.hears();
        let end = self.told(number);
        if end == Some(Err(StrangeError::DeadlinePassed)) {
            self.tells();
        }
        end
    }

    /// The first one that has ended, after a look; `Some(None)` where none is open.
    fn look_at_all(&mut self) -> Option<Option<Ended>> {
        self.hears();
        if self.open() == 0 {
            return Some(None);
        }
        let is_open = |(_, call): &(&u64, &Call)| !matches!(call, Call::GivenUp);
        let open = self.calls.iter().filter(is_open);
        let open: Vec<u64> = open.map(|(number, _)| *number).collect();
        let told = |number| Some((self.call(number), self.told(number)?));
        let end = open.into_iter().find_map(told)?;
        self.tells();
        Some(Some(end))
    }

    /// How a call has ended, as far as we know; it is told by this.
    fn told(&mut self, number: u64) -> Option<Result<Vec<u8>, StrangeError>> {
        let is_ours = self.fork.check().is_ok();
        match self.calls.get(&number) {
            Some(Call::Open { .. }) if !is_ours => {
                self.calls.remove(&number);
                Some(Err(StrangeError::Forked))
            }
            Some(Call::Open { .. }) if self.end.is_some() => {
                self.calls.remove(&number);
                self.end.clone().map(Err)
            }
            Some(Call::Open { due: Some(due) }) if *due <= Instant::now() => {
                self.gives_up(number);
                Some(Err(StrangeError::DeadlinePassed))
            }
            Some(Call::Open { .. }) => None,
            Some(Call::Ended(_)) => match self.calls.remove(&number) {
                Some(Call::Ended(end)) => Some(end),
                _ => None,
            },
            Some(Call::GivenUp) | None => Some(Err(StrangeError::NotOpen)),
        }
    }

    /// Hears all that the server has said. Each record ends a call, or the connection.
    fn hears(&mut self) {
        self.tells();
        while self.end.is_none() {
            let heard = match self.ends.hears.try_recv() {
                Ok(Some(record)) => {
                    let heard = hears(&mut self.calls, &record);
                    self.in_flight -= usize::from(heard.is_ok());
                    heard
                }
                Ok(None) if self.ends.is_gone => {
                    // It hung up, and so it has left or died: what it answered before is there.
                    self.end = Some(StrangeError::ServerDied);
                    return;
                }
                Ok(None) => return,
                Err(RecvError::Forked) => return,
                Err(end) => {
                    self.end = Some(match end {
                        RecvError::Detached => StrangeError::Unanswered,
                        RecvError::PeerDied => StrangeError::ServerDied,
                        _ => StrangeError::Corrupt,
                    });
                    return;
                }
            };
            if heard.is_err() {
                self.end = Some(StrangeError::Corrupt);
            }
        }
    }

    /// Tells the server of calls that were given up, as far as there is room.
    fn tells(&mut self) {
        while let Some(number) = self.untold.front().copied() {
            let header = Header { number, kind: Kind::Cancel, word: 0 };
            // It may have ended meanwhile.
            let is_open = matches!(self.calls.get(&number), Some(Call::GivenUp));
            if is_open && self.sends(&header.to_bytes()) == Some(false) {
                return;
            }
            self.untold.pop_front();
        }
    }

    /// Sends a record; whether there was room. `None`: nobody takes it.
    fn sends(&mut self, record: &[u8]) -> Option<bool> {
        match self.ends.try_send(record) {
            Ok(is_sent) => Some(is_sent),
            Err(SendError::Corrupt) => {
                self.end.get_or_insert(StrangeError::Corrupt);
                None
            }
            // The end of the answers says how.
            Err(_) => None,
        }
    }

    /// Looks again and again, until there is something or `until` has passed. At `due` there will
    /// be something.
    fn waits<R>(
        &mut self,
        until: Option<Instant>,
        due: Option<Instant>,
        mut look: impl FnMut(&mut StrangeClient) -> Option<R>,
    ) -> Option<R> {
        let until = until.into_iter().chain(due).min();
        look_until(self, |client| &mut client.ends, until, |client, _| look(client))
    }

    /// When the first of the open calls ends by our clock.
    fn due(&self) -> Option<Instant> {
        self.calls.values().filter_map(Call::due).min()
    }
}

/// Ready where [`wait_any`](StrangeClient::wait_any) gives the end of a call at once, and once the
/// server has ended. Of room for a request it says nothing.
impl Source for StrangeClient {
    fn is_ready(&mut self) -> bool {
        self.hears();
        let has_ended = |call: &Call| matches!(call, Call::Ended(_));
        self.end.is_some()
            || self.fork.check().is_err()
            || self.calls.values().any(has_ended)
            || has_passed(self.due())
    }

    fn sleep_max(&self) -> Option<Duration> {
        self.due().map(|due| due.saturating_duration_since(Instant::now()))
    }

    fn announce(&mut self) {
        self.ends.announce();
    }

    fn doorbells<'s>(&'s self, to: &mut Vec<&'s Doorbell>) {
        self.ends.doorbells(to);
    }

    fn heard(&mut self, which: usize, heard: Heard) {
        self.ends.heard(which, heard);
    }

    fn woken(&mut self) {
        self.ends.woken();
    }
}

/// The server has said something of a call that is open.
fn hears(calls: &mut BTreeMap<u64, Call>, record: &[u8]) -> Result<(), Nonsense> {
    let (header, bytes) = Header::parse(record)?;
    let end = match header.kind {
        Kind::Answer => Ok(bytes.to_vec()),
        Kind::Refuse => {
            let code = u32::try_from(header.word).map_err(|_| Nonsense)?;
            Err(StrangeError::Refused { code, reason: bytes.to_vec() })
        }
        Kind::LetGo => Err(StrangeError::Unanswered),
        Kind::Hello | Kind::Ask | Kind::Cancel => return Err(Nonsense),
    };
    match calls.get_mut(&header.number) {
        Some(call @ Call::Open { .. }) => *call = Call::Ended(end),
        Some(Call::GivenUp) => drop(calls.remove(&header.number)),
        Some(Call::Ended(_)) | None => return Err(Nonsense),
    }
    Ok(())
}

/// There was no hello.
fn not_met(error: RecvError) -> ConnectError {
    match error {
        RecvError::TimedOut => ConnectError::Exchange(ExchangeError::TimedOut),
        RecvError::Detached | RecvError::PeerDied | RecvError::Forked => {
            ConnectError::Exchange(ExchangeError::PeerDied)
        }
        RecvError::Corrupt => ConnectError::Corrupt,
    }
}

impl fmt::Debug for StrangeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("StrangeClient");
        f.field("asked", &self.asked).field("open", &self.open()).field("end", &self.end).finish()
    }
}
