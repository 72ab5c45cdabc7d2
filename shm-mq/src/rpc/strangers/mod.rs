//! Calls between clients and a server that do not trust each other.
//!
//! ```text
//!  client p ──► requests: a hostile queue of p's own ──┐
//!           ◄── answers: one that the server writes ───┤
//!                                                      ├── server: a call of each client in turn
//!  client q ──► requests                            ───┤
//!           ◄── answers                             ───┘
//! ```
//!
//! A table of calls, as of [`rpc`](crate::rpc), is written by all who use it. Strangers have none:
//! a connection is two hostile queues of [`spsc`](crate::spsc), one each way, each with a socket,
//! and there is no other word that two of them see. So nothing that one client writes is another
//! one's to read, and what is said there of each queue holds here.
//!
//! **Records.** Each begins with a header of two words, the bytes follow. A call's number is how
//! many its client asked before it; a hello's, 1, the version of all this.
//!
//! | from | number × 256 + kind | second word | bytes |
//! | --- | --- | --- | --- |
//! | server, once, first | 1: hello | calls that the client may have open | – |
//! | client | 2: asks, a number more than the last | when it is [due](StrangeClient::ask) in ms of the monotonic clock; 0: never | the request |
//! | client | 3: does not want it any more | 0 | – |
//! | server | 4: answers | 0 | the answer |
//! | server | 5: refuses | the code | the reason |
//! | server | 6: has let go of it | 0 | – |
//!
//! A call that was asked has one *last word* from the server, 4 to 6, and no second one; also where
//! the client does not want it any more. Until then it counts among those that the client has open,
//! at both ends: the client never sees fewer than the server. So one that asks more than it may is
//! a liar, and the server keeps no more of a client than so many calls: requests that wait for
//! their turn, and last words that wait for room. A client keeps what has ended until it is told.
//!
//! **States** of a call:
//!
//! | the client has it | moved on by | the server has it | moved on by |
//! | --- | --- | --- | --- |
//! | open | its end: a last word, its own clock, the server's end | waiting | its turn, or a 3: the last word waits |
//! | given up: told, or cancelled | the last word, or the server's end | taken | the answer, the refusal, or a drop |
//! | ended, not told | who asks for it | its last word waits for room | the client, which makes room |
//!
//! **Turns.** The server takes one call of each client in turn, of one client in the order in which
//! it asked. None that is past due when it looks, or of which it was told that it is cancelled.
//!
//! **Ends.** A call ends once for its client: with its answer, or with a [`StrangeError`]. The
//! server's end is found behind the last of its answers. A client's end is an
//! [event](Event::End): the calls that it had open are nobody's then.
//!
//! **Whose it is.** Connections number their clients and calls alike, so a [`CallId`] says of which
//! client it is, and a [`Request`] which server took it, both within the process. Another one says
//! [`OtherClient`](StrangeError::OtherClient), or
//! [`OtherServer`](crate::rpc::AnswerError::OtherServer), and changes nothing; but a request that
//! it was to answer is gone by that, and ends as one that is dropped. (A [`Call`](crate::rpc::Call)
//! and a [`Request`](crate::rpc::Request) of a table can be given to nobody else.)
//!
//! **Waiting.** A side sleeps by both its queues at once, and is a [`Source`]: a server is ready
//! where there is a call or an end, a client where a call has ended, or the server. That it waits
//! for what is said it always announces, that it waits for room once a look has found none.
//!
//! | dies after | the other side |
//! | --- | --- |
//! | (client) asking | takes the call, or finds the end first; its answer goes nowhere |
//! | (client) dropping its requests, before its answers | is told `Left` |
//! | (server) taking a call, or before | [`ServerDied`](StrangeError::ServerDied): it may have done all, a part, or nothing |
//! | (server) a last word, before it rang | finds it, woken by the hang-up |
//! | (server) dropping its answers, before its requests | [`Unanswered`](StrangeError::Unanswered), as where it left |
//!
//! Who is stopped is slow. No call of a server's waits for a client: a last word that finds no room
//! in the client's ring is kept, and goes there as the client reads.
//!
//! | the client | achieves |
//! | --- | --- |
//! | lies in a queue's words | what [`spsc`](crate::spsc) says of that one: at most `Corrupt`, its end |
//! | says a number out of order, another kind, a word or bytes where there are none, less than a header | `Corrupt`, its end |
//! | asks more than it may have open | the same: at most so many of its requests are kept, none longer than the server's limit |
//! | floods within that, or cancels without end | its own turn, and no more; a look reads three times as many records at most as are its calls |
//! | says any moment as due | its own call is taken, or not |
//! | cancels what has ended, or twice | nothing |
//! | reads no answers | so many last words are kept, none longer than half the server's ring; its next calls are `Corrupt`, for all of these are open |
//! | says nothing, hangs up, dies, forks | as there; its calls go |
//!
//! | the server | achieves |
//! | --- | --- |
//! | lies in a queue's words, says another kind, a code beyond 32 bits, less than a header | `Corrupt`: all open calls end so |
//! | says a last word of a call that is not open, or two | the same |
//! | says that so many calls may be open, or none | the client opens no more than it wanted; `Corrupt` from `connect` |
//! | reads nothing, answers nothing | calls that are open until their deadline, or cancelled; and slots of this connection that are in use: `None` from [`try_ask`](StrangeClient::try_ask), `TimedOut` |
//! | answers anything | that answer: bytes are a claim |
//! | hangs up one of the two queues | the server's end |
//!
//! What is not promised: that a server does what it is asked, that an answer is true, or that lies
//! cost no processor time.
mod client;
mod server;

pub use client::{CallId, StrangeClient, StrangeError};
pub use server::{Connection, Event, Request, StrangeServer, StrangeTakeError};

use crate::hostile::Limits;
use crate::spsc::{Receiver, SendError, Sender};
use crate::waitset::Source;
use shm_core::sealed::{Doorbell, Heard};
use shm_core::trust::Hostile;

/// What one side of a connection wants. Each has its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StrangeConfig {
    /// Calls that are open at a time, at most: the server's figure is told to the client, and the
    /// lesser one is true. A server's 0 counts as 1.
    pub calls: u32,
    /// The ring that this side writes: no record, nor its header of 16 bytes, is longer than half
    /// of it.
    pub ring_bytes: u64,
    /// What this side takes of the other one, which is a stranger: its ring, and the longest
    /// request or answer.
    pub limits: Limits,
    /// What requests and answers are: both sides are to say the same. 0: bytes.
    pub fingerprint: u64,
}

impl Default for StrangeConfig {
    /// 32 calls, 64 KiB of ring each way, requests and answers of up to 16 KiB. A server sets at
    /// most 1 MiB of private memory aside for one client.
    fn default() -> StrangeConfig {
        let limits = Limits { ring_bytes_max: 64 << 10, message_bytes_max: 16 << 10 };
        StrangeConfig { calls: 32, ring_bytes: 64 << 10, limits, fingerprint: 0 }
    }
}

impl StrangeConfig {
    /// The limits of the queue that it reads.
    fn queue_limits(&self) -> Limits {
        let message_bytes_max = self.limits.message_bytes_max.saturating_add(HEADER_BYTES);
        Limits { message_bytes_max, ..self.limits }
    }
}

/// One side of a connection: its ends of the two queues, to sleep by.
///
/// Asleep it says that it waits for what is said, and for room only where there was none for what
/// it has to say: the other side, which reads that, is not to ring each time.
#[derive(Debug)]
struct Ends {
    /// Dropped first: the other side learns of our end by these.
    says: Sender<Hostile>,
    hears: Receiver<Hostile>,
    is_announced: bool,
    awaits_room: bool,
    /// In a sleep we heard that the other side has hung up one of the two. What it said before is
    /// there.
    is_gone: bool,
}

impl Ends {
    fn new(says: Sender<Hostile>, hears: Receiver<Hostile>) -> Ends {
        Ends { says, hears, is_announced: false, awaits_room: false, is_gone: false }
    }

    /// Says something, if there is room. Who is about to sleep, and finds none, announces that too,
    /// and looks once more.
    fn try_send(&mut self, record: &[u8]) -> Result<bool, SendError> {
        let is_sent = self.says.try_send(record)?;
        if is_sent || !self.is_announced || self.awaits_room {
            return Ok(is_sent);
        }
        self.awaits_room = true;
        self.says.link_mut().announce();
        self.says.try_send(record)
    }
}

/// Ready where its owner's look says so.
impl Source for Ends {
    fn is_ready(&mut self) -> bool {
        self.is_gone
    }

    fn announce(&mut self) {
        (self.is_announced, self.awaits_room) = (true, false);
        self.hears.wire_mut().announce();
    }

    /// Also of a queue in which nothing is to come the end is one.
    fn doorbells<'s>(&'s self, to: &mut Vec<&'s Doorbell>) {
        to.extend([self.hears.wire().bell(), self.says.link().bell()]);
    }

    fn heard(&mut self, _: usize, heard: Heard) {
        self.is_gone |= heard == Heard::Gone;
    }

    fn woken(&mut self) {
        (self.is_announced, self.awaits_room) = (false, false);
        self.hears.wire_mut().woken();
        self.says.link_mut().woken();
    }
}

/// What a hello has in place of a call's number.
const VERSION: u64 = 1;

/// A record begins with so many.
const HEADER_BYTES: usize = 16;

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Hello = 1,
    Ask,
    Cancel,
    Answer,
    Refuse,
    LetGo,
}

/// What a record begins with: a claim, of which only the kind is known to be one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    number: u64,
    kind: Kind,
    /// Calls, when it is due, or a code.
    word: u64,
}

/// A peer has written nonsense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Nonsense;

impl Header {
    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let first = self.number << 8 | self.kind as u64;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&first.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.word.to_ne_bytes());
        bytes
    }

    /// The header of a record, and its bytes.
    fn parse(record: &[u8]) -> Result<(Header, &[u8]), Nonsense> {
        let (first, rest) = record.split_first_chunk().ok_or(Nonsense)?;
        let (second, bytes) = rest.split_first_chunk().ok_or(Nonsense)?;
        let (first, word) = (u64::from_ne_bytes(*first), u64::from_ne_bytes(*second));
        let kind = match first as u8 {
            1 => Kind::Hello,
            2 => Kind::Ask,
            3 => Kind::Cancel,
            4 => Kind::Answer,
            5 => Kind::Refuse,
            6 => Kind::LetGo,
            _ => return Err(Nonsense),
        };
        let has_bytes = matches!(kind, Kind::Ask | Kind::Answer | Kind::Refuse);
        let has_word = matches!(kind, Kind::Hello | Kind::Ask | Kind::Refuse);
        if (!has_bytes && !bytes.is_empty()) || (!has_word && word != 0) {
            return Err(Nonsense);
        }
        Ok((Header { number: first >> 8, kind, word }, bytes))
    }

    /// The whole record.
    fn record(self, bytes: &[u8]) -> Vec<u8> {
        let mut record = Vec::with_capacity(HEADER_BYTES + bytes.len());
        record.extend_from_slice(&self.to_bytes());
        record.extend_from_slice(bytes);
        record
    }
}

/// What explorations need: two sides that have met, of queues whose sides have met.
#[cfg(shm_explore)]
pub mod explored {
    use super::{Connection, StrangeClient};
    use crate::spsc::{Receiver, Sender};
    use shm_core::trust::Hostile;

    /// A client with at most so many calls.
    pub fn client(
        requests: Sender<Hostile>,
        answers: Receiver<Hostile>,
        calls: u32,
    ) -> StrangeClient {
        StrangeClient::over(requests, answers, calls)
    }

    /// The server's end of the same.
    pub fn connection(
        requests: Receiver<Hostile>,
        answers: Sender<Hostile>,
        calls: u32,
    ) -> Connection {
        Connection::over(requests, answers, calls)
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_was_said_and_all_else_is_nonsense() {
        let number = (1 << 56) - 1;
        for kind in [Kind::Hello, Kind::Ask, Kind::Cancel, Kind::Answer, Kind::Refuse, Kind::LetGo]
        {
            for (word, bytes) in [(0, &b""[..]), (7, b""), (0, b"bytes"), (u64::MAX, b"bytes")] {
                let header = Header { number, kind, word };
                let record = header.record(bytes);
                let has_bytes = matches!(kind, Kind::Ask | Kind::Answer | Kind::Refuse);
                let has_word = matches!(kind, Kind::Hello | Kind::Ask | Kind::Refuse);
                let sane = (has_bytes || bytes.is_empty()) && (has_word || word == 0);
                assert_eq!(Header::parse(&record), sane.then_some((header, bytes)).ok_or(Nonsense));
            }
        }
        let mut record = Header { number: 0, kind: Kind::Ask, word: 0 }.record(b"");
        for kind in [0, 7, 255] {
            record[..8].copy_from_slice(&u64::to_ne_bytes(kind));
            assert_eq!(Header::parse(&record), Err(Nonsense));
        }
        for len in 0..HEADER_BYTES {
            assert_eq!(Header::parse(&[2; HEADER_BYTES][..len]), Err(Nonsense));
        }
    }
}
