//! `rpc`: calls from many clients to many servers, pipelined; each call ends: with its answer, or
//! with the reason why not.
//!
//! ```text
//!                       FREE ◄───────────────────────────┬──────────────┬─────────────┐
//!   c begins            │ ▲ drops its draft, or dies     │              │             │
//!                       ▼ │                              │ c drops it   │ c has seen  │
//!                   WRITING(c)                           │ or dies      │ it, or dies │
//!   c has written it    ▼                                │              │             │
//!                    ASKED(c) ───────────────────────────┘         ANSWERED(c)        │
//!   s takes it          ▼                     s answers                 ▲             │
//!                    TAKEN(s) ──────────────────────────────────────────┤             │
//!                       │ │       s drops it, or dies              DROPPED(c),        │
//!     c drops it, dies, │ └───────────────────────────────────────► DIED(c)           │
//!     or its time is up ▼                                                             │
//!                  CANCELLED(s) ── s answers, drops it or dies ───────────────────────┘
//! ```
//!
//! A request is written once, in place, in a slot; then the slot changes hands by one
//! compare-and-swap of its state, which names the new owner: the client (c), or the server (s) that
//! took it. The answer is written into the same slot, beside the request, and read there. Whom a
//! state names may be killed: the table below says what becomes of it.
//!
//! **Lanes.** Each [`Client`] has a lane of its own, of so many slots: as many calls as it may have
//! open at a time. So who opens many, or leaves them open, or lies about them, keeps no slot from
//! others; and a client sleeps where only its own calls wake it. The threads of a process may share
//! one. Calls may be waited for in any order; one that is dropped is cancelled.
//!
//! **Turns.** A call gets a number when it is begun, and servers take the call with the lowest: of
//! two calls the one that was asked before the other was begun is taken first, whoever asked them.
//! A server looks through all lanes; then, if the call it would take was begun after it began to
//! look, it looks again, for others may have been asked before. Lanes in which nothing was asked
//! since it found nothing there cost it a look at one line. Out of turn is taken what a server
//! finds after so many looks, each time because another call was begun or taken; a draft that is
//! asked after 2^28 other calls were begun, which passes for the newest; and a call to which a
//! server preferred more others than there are slots, which happens where somebody lies.
//!
//! No server that looks after a call's deadline takes it. A call is given to one server only: it is
//! never tried twice.
//!
//! **Ends.** A call ends once, with one of these:
//!
//! | it ends with | when |
//! | --- | --- |
//! | an [`Answer`] | a server has answered |
//! | [`Refused`](CallError::Refused) | a server has refused it, with a code of the application's, and bytes |
//! | [`ServerDied`](CallError::ServerDied) | the server that had taken it died before it had answered: it may have done all, a part, or nothing |
//! | [`NoServer`](CallError::NoServer) | no server has taken it, and none lives: nothing was done, and it may be asked again. Also where one is about to come, or comes just as the last one goes: [`wait_for_server`](Client::wait_for_server) first, and after this error |
//! | [`Unanswered`](CallError::Unanswered) | the server that had taken it let go of it |
//! | [`DeadlinePassed`](CallError::DeadlinePassed) | it had a deadline |
//! | [`Corrupt`](CallError::Corrupt) | somebody wrote nonsense |
//!
//! **Deaths.** Who waits for a call announces itself at its lane's bell, sees who has a seat, looks
//! at the call, and sleeps on the bell and on lives: that of the server that has the call, or those
//! of all it saw, while none has. So a death wakes it at once, and it ends the call itself. A
//! server that comes or leaves rings all bells. One that has died does not, nor does who takes its
//! seat away: who saw the seat sleeps on its life, and who did not finds what it did to the call.
//! Nobody looks now and then.
//!
//! | dies after | what there is |
//! | --- | --- |
//! | (client) taking a lane, WRITING, ASKED | slots that name the dead; [`reap`](Rpc::reap) frees them, or a server takes a call in vain |
//! | (client) ASKED, before it said so or woke a server | a call that perhaps nobody looks at: nobody waits for it |
//! | (client) while its call is TAKEN | `reap` cancels it, or the server, once it asks ([`is_cancelled`](Request::is_cancelled)): its answer is [`Abandoned`](AnswerError::Abandoned) then, and otherwise one that nobody looks at |
//! | (client) its call ANSWERED, DIED or DROPPED | a slot that names the dead; `reap` frees it |
//! | (server) taking its seat, before it rang | a seat that names the dead: as good as none |
//! | (server) leaving its seat, before it rang | no seat: who sleeps had seen it, and is woken by the death |
//! | (server) TAKEN, until its answer | a call that names the dead: its client, which is woken by the death, or `reap` ends it |
//! | (server) ANSWERED, before it rang | the answer: its client is woken by the death |
//! | (server) its call CANCELLED | a slot that names the dead; `reap` frees it, or its client, once it needs it |
//! | (reaper) a slot DIED or FREE, before it rang | the client was woken by the server's death, by which the reaper knows |
//!
//! Who finds no slot, no lane or no seat reaps before it says so; who learns of a death by other
//! means calls `reap` at once. A stopped process keeps its own slots and the calls that it has
//! taken, and nothing else.
//!
//! **Lies.** Among peers that write nonsense ([`with_peers`](Rpc::with_peers), `Buggy`) bytes move
//! as relaxed words from and to private memory; each word is loaded once and checked. What the lie
//! of one costs that writes nonsense into the words that are his to write:
//!
//! | who lies | about | costs |
//! | --- | --- | --- |
//! | a client | a request's length | its call: [`Corrupt`](TakeError::Corrupt) for the server, `Unanswered` for itself |
//! | | bytes, deadline, its name in a slot, `asked` | its own calls |
//! | | states of its slots | its own calls; servers' sleep; a slot of its lane that it gives to somebody, for the lane's next client, as long as that one lives; and where it takes one from the server that has it, and another call comes there at the moment at which the server answers, that call |
//! | | its turn, or the count of turns | others their place in the order: a server that has preferred, or tried to prefer, more calls than there are slots to one that waits takes that one next |
//! | a server | an answer's length | that call: `Corrupt` |
//! | | bytes, codes, states of what it took | that call, and for as long as a slot names one that lives, the slot |
//! | | its seat | clients believe that it lives or not: `NoServer` for calls that nobody has taken. Where it names one that is to come, that one's seat, should it take the very same word at the moment at which the name is taken out |
//! | anybody | a bell | wake-ups in vain, or none for those who sleep at that moment, up to their deadline |
//!
//! The limit is one that writes into what others own: a state that names another, another's bytes,
//! seats and lanes. That can end any call with any value, keep slots until their client leaves, and
//! have a call taken twice; it cannot make a call panic, run without end, or leave the table. A
//! client that is to be kept out of others' calls gets a table of its own; among those that trust
//! nobody, [`strangers`] call through two hostile queues each.
mod call;
mod client;
mod server;
mod shared;
pub mod strangers;

pub use call::{Answer, Call, CallError};
pub use client::{AskError, Client, ClientError, Draft};
pub use server::{AnswerError, Reply, Request, Server, ServerError, TakeError};
pub use shared::SERVERS_MAX;

use crate::lent::words_for;
use crate::stream::OneMapping;
use shared::{Kind, Lane, MAGIC, Shared, Slot, State, leave_seat};
use shm_core::BadPtr;
use shm_core::bytes::Word;
use shm_core::futex::now_ms;
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::Liveness;
use shm_core::sync::Ordering;
use shm_core::trust::Crashing;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A table has at most so many slots, of all its clients.
pub const SLOTS_MAX: u64 = 1 << 20;

/// The longest request, and the longest answer, of any table.
pub const BYTES_MAX: u64 = 1 << 32;

/// What a table is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RpcConfig {
    /// Clients that there can be at a time.
    pub clients: u32,
    /// Calls that each of them may have open at a time. Together at most [`SLOTS_MAX`].
    pub calls: u32,
    /// The longest request, in bytes.
    pub request_bytes: u64,
    /// The longest answer, in bytes.
    pub answer_bytes: u64,
    /// What requests and answers are: who attaches is to know the same. 0: bytes.
    pub fingerprint: u64,
}

impl RpcConfig {
    /// For so many clients with so many calls each.
    pub const fn new(clients: u32, calls: u32, request_bytes: u64, answer_bytes: u64) -> RpcConfig {
        RpcConfig { clients, calls, request_bytes, answer_bytes, fingerprint: 0 }
    }

    const fn slots(&self) -> u64 {
        self.clients as u64 * self.calls as u64
    }

    const fn words_a_slot(&self) -> u64 {
        words_for(at_most_all(self.request_bytes)) + words_for(at_most_all(self.answer_bytes))
    }

    fn check(&self) -> Result<(), CreateError> {
        let bad = |what, value| Err(CreateError::Config { what, value });
        match self {
            _ if self.clients == 0 => bad("clients", 0),
            _ if self.calls == 0 => bad("calls", 0),
            _ if self.slots() > SLOTS_MAX => bad("calls of all clients", self.slots()),
            _ if self.request_bytes > BYTES_MAX => bad("bytes a request", self.request_bytes),
            _ if self.answer_bytes > BYTES_MAX => bad("bytes an answer", self.answer_bytes),
            _ => Ok(()),
        }
    }
}

/// Why a table could not be created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// There is no such table.
    #[error("a call table cannot be made with {what}: {value}")]
    Config {
        /// Which figure.
        what: &'static str,
        /// What it is.
        value: u64,
    },
    /// The table does not fit there.
    #[error("the call table does not fit into the mapping")]
    Place(#[from] BadPtr),
}

/// Why a table could not be attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The offset is outside the mapping, or odd.
    #[error("no call table can be there")]
    Place(#[from] BadPtr),
    /// Something else is there, or a table of another version.
    #[error("no call table of this version is there (found {found:#x})")]
    NotATable {
        /// What stands in place of the magic number.
        found: u64,
    },
    /// Its calls are others.
    #[error("the call table is one of other calls (fingerprint {found:#x})")]
    OtherCalls {
        /// What its creator said of them.
        found: u64,
    },
    /// Its size makes no sense.
    #[error("the call table is corrupt")]
    Corrupt,
}

/// What a table holds, as [`Rpc::status`] saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// Lanes that are some client's.
    pub clients: u32,
    /// Seats that are some server's.
    pub servers: u32,
    /// Slots for calls to come.
    pub free: u32,
    /// Requests that are being written.
    pub writing: u32,
    /// Calls that wait for a server.
    pub asked: u32,
    /// Calls that a server has.
    pub taken: u32,
    /// The same, which nobody wants any more.
    pub cancelled: u32,
    /// Answers that are to be looked at, or are being looked at.
    pub answered: u32,
    /// Calls that ended without an answer, of which the client is to learn.
    pub ended: u32,
    /// Calls that were ever asked. This and the next two are counted by each for itself: one that
    /// dies at it counts one less.
    pub asked_ever: u64,
    /// Calls that ever ended with an answer, or refused.
    pub answered_ever: u64,
    /// Calls that ever ended with the death of a server.
    pub died_ever: u64,
}

/// A table of calls in shared memory.
///
/// `T` says what its peers may do: see [`with_peers`](Rpc::with_peers).
#[derive(Debug)]
pub struct Rpc<T: OneMapping = Crashing> {
    shared: Mapped<Shared>,
    lanes: MappedSlice<Lane>,
    slots: MappedSlice<Slot>,
    words: MappedSlice<Word>,
    config: RpcConfig,
    level: PhantomData<T>,
}

const fn at_most_all(bytes: u64) -> u64 {
    if bytes > BYTES_MAX { BYTES_MAX } else { bytes }
}

/// Where the parts of a table at `offset` begin: lanes, slots, words.
fn parts(offset: u64, config: &RpcConfig) -> [u64; 3] {
    let lanes_at = offset + size_of::<Shared>() as u64;
    let slots_at = lanes_at + u64::from(config.clients) * size_of::<Lane>() as u64;
    [lanes_at, slots_at, slots_at + config.slots() * size_of::<Slot>() as u64]
}

impl Rpc {
    /// Bytes of mapping for such a table.
    ///
    /// ```
    /// use shm_mq::rpc::{Rpc, RpcConfig};
    /// let config = RpcConfig::new(2, 8, 100, 1000);
    /// assert_eq!(Rpc::bytes_for(&config), 512 + 2 * 64 + 16 * (64 + 128 + 1024));
    /// ```
    pub const fn bytes_for(config: &RpcConfig) -> u64 {
        let slot = size_of::<Slot>() as u64 + config.words_a_slot() * size_of::<Word>() as u64;
        let lanes = config.clients as u64 * size_of::<Lane>() as u64;
        // Whoever asks for more than there can be is told by `create`.
        (size_of::<Shared>() as u64 + lanes).saturating_add(config.slots().saturating_mul(slot))
    }

    /// Makes a table at `offset` of `mapping`, a multiple of 64.
    ///
    /// ```
    /// use shm_core::{mapping::Mapping, participants::Table};
    /// use shm_mq::rpc::{Rpc, RpcConfig};
    ///
    /// let config = RpcConfig::new(2, 8, 100, 100);
    /// let at = Table::bytes_for(2).next_multiple_of(64);
    /// let mapping = Mapping::heap((at + Rpc::bytes_for(&config)) as usize);
    /// // SAFETY: nobody else has the mapping.
    /// let table = unsafe { Table::create(&mapping, 0, 2) }?;
    /// // SAFETY: as above, and the table ends before.
    /// let rpc = unsafe { Rpc::create(&mapping, at, &config) }?;
    ///
    /// let me = table.join()?;
    /// let (mut server, client) = (rpc.server(&me)?, rpc.client(&me)?);
    /// let mut call = client.try_ask(b"how many?")?.expect("there is room");
    /// let request = server.try_take()?.expect("there is one");
    /// assert_eq!(*request, *b"how many?");
    /// request.answer(b"seven")?;
    /// assert_eq!(*call.wait(None)?, *b"seven");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// Nobody else uses these [`bytes_for`](Rpc::bytes_for) bytes. The offset is handed out only
    /// afterwards, in a way that orders memory: a toc entry, a segment's handle, the start of a
    /// process.
    ///
    /// # Errors
    /// [`CreateError`].
    ///
    /// # If a process dies here
    /// Nobody has the offset: the bytes are as unused as before.
    pub unsafe fn create(
        m: &Arc<Mapping>,
        offset: u64,
        config: &RpcConfig,
    ) -> Result<Rpc, CreateError> {
        config.check()?;
        // Before anything is written.
        m.region().range(offset, Rpc::bytes_for(config))?;
        let [lanes_at, slots_at, words_at] = parts(offset, config);
        // SAFETY: nobody else uses these bytes, the caller says.
        unsafe { Mapped::place(m, offset, Shared::new(config)) }?;
        for lane in 0..u64::from(config.clients) {
            // SAFETY: as above.
            unsafe { Mapped::place(m, lanes_at + lane * size_of::<Lane>() as u64, Lane::new()) }?;
        }
        for slot in 0..config.slots() {
            // SAFETY: as above.
            unsafe { Mapped::place(m, slots_at + slot * size_of::<Slot>() as u64, Slot::new()) }?;
        }
        for word in 0..config.slots() * config.words_a_slot() {
            // SAFETY: as above.
            unsafe { Mapped::place(m, words_at + word * size_of::<Word>() as u64, Word::new()) }?;
        }
        match Rpc::attach(m, offset, config.fingerprint) {
            Ok(rpc) => Ok(rpc),
            Err(AttachError::Place(place)) => Err(place.into()),
            Err(error) => unreachable!("it has just been made: {error}"),
        }
    }

    /// The table at `offset` of `mapping`, whose calls are what `fingerprint` says.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(m: &Arc<Mapping>, offset: u64, fingerprint: u64) -> Result<Rpc, AttachError> {
        let shared = Mapped::<Shared>::new(m, offset)?;
        let found = shared.magic.load(Ordering::Relaxed);
        if found != MAGIC {
            return Err(AttachError::NotATable { found });
        }
        let found = shared.fingerprint.load(Ordering::Relaxed);
        if found != fingerprint {
            return Err(AttachError::OtherCalls { found });
        }
        let count = |words: u64| u32::try_from(words).map_err(|_| AttachError::Corrupt);
        let config = RpcConfig {
            clients: count(shared.clients.load(Ordering::Relaxed))?,
            calls: count(shared.calls.load(Ordering::Relaxed))?,
            request_bytes: shared.request_bytes.load(Ordering::Relaxed),
            answer_bytes: shared.answer_bytes.load(Ordering::Relaxed),
            fingerprint,
        };
        config.check().map_err(|_| AttachError::Corrupt)?;
        let corrupt = |_| AttachError::Corrupt;
        // Also where the sum would not fit into 64 bits.
        m.region().range(offset, Rpc::bytes_for(&config)).map_err(corrupt)?;
        let [lanes_at, slots_at, words_at] = parts(offset, &config);
        let words = config.slots() * config.words_a_slot();
        Ok(Rpc {
            shared,
            lanes: MappedSlice::new(m, lanes_at, config.clients.into()).map_err(corrupt)?,
            slots: MappedSlice::new(m, slots_at, config.slots()).map_err(corrupt)?,
            words: MappedSlice::new(m, words_at, words).map_err(corrupt)?,
            config,
            level: PhantomData,
        })
    }
}

impl<T: OneMapping> Clone for Rpc<T> {
    fn clone(&self) -> Rpc<T> {
        self.at_level()
    }
}

impl<T: OneMapping> Rpc<T> {
    fn at_level<U: OneMapping>(&self) -> Rpc<U> {
        Rpc {
            shared: self.shared.clone(),
            lanes: self.lanes.clone(),
            slots: self.slots.clone(),
            words: self.words.clone(),
            config: self.config,
            level: PhantomData,
        }
    }

    /// The same table for who trusts its peers less, or more:
    /// [`Buggy`](shm_core::trust::Buggy) for those that may write nonsense anywhere.
    pub fn with_peers<U: OneMapping>(self) -> Rpc<U> {
        self.at_level()
    }

    /// What it was made for.
    pub fn config(&self) -> &RpcConfig {
        &self.config
    }

    /// For who calls: a lane of its own. All clients and servers of a table of calls are members
    /// of one table of participants: one of another is dead to the rest.
    ///
    /// # Errors
    /// [`ClientError`].
    ///
    /// # If a process dies here
    /// The lane is free, or names it and comes back when it is reaped.
    pub fn client(&self, me: &Arc<Member>) -> Result<Client<T>, ClientError> {
        Client::open(self, me)
    }

    /// For one thread of `me` that answers: see [`client`](Rpc::client).
    ///
    /// # Errors
    /// [`ServerError`].
    ///
    /// # If a process dies here
    /// The seat is free, or names it: clients take it for no server.
    pub fn server(&self, me: &Arc<Member>) -> Result<Server<T>, ServerError> {
        Server::open(self, me)
    }

    /// What the table holds now: each word looked at once, not together.
    pub fn status(&self) -> Status {
        let mut status =
            Status { servers: self.shared.seats().count() as u32, ..Status::default() };
        for lane in &*self.lanes {
            status.clients += u32::from(lane.owner.load(Ordering::Relaxed) != 0);
            let add = |sum: &mut u64, word: u64| *sum = sum.wrapping_add(word);
            add(&mut status.asked_ever, lane.asked.load(Ordering::Relaxed));
            add(&mut status.answered_ever, lane.answered.load(Ordering::Relaxed));
            add(&mut status.died_ever, lane.died.load(Ordering::Relaxed));
        }
        for slot in &*self.slots {
            let count = match State::from_bits(slot.state.load(Ordering::Relaxed)).kind() {
                Kind::Free => &mut status.free,
                Kind::Writing => &mut status.writing,
                Kind::Asked => &mut status.asked,
                Kind::Taken => &mut status.taken,
                Kind::Cancelled => &mut status.cancelled,
                Kind::Answered => &mut status.answered,
                Kind::Died | Kind::Dropped => &mut status.ended,
            };
            *count += 1;
        }
        status
    }

    /// Takes back what the dead have: their seats and lanes; what a dead client wrote, asked or was
    /// to look at; what a dead server had taken, of which its client learns. How many of these.
    ///
    /// Who finds no room does so itself; a supervisor that learns of a death calls it at once.
    ///
    /// # If a process dies here
    /// The next one to reap goes on.
    pub fn reap(&self, me: &Member) -> usize {
        let mut dead = Verdicts::new(me);
        // Before the slots: who has no seat any more has left nothing in one.
        let mut left = Vec::new();
        for word in self.shared.servers.iter().chain(self.lanes.iter().map(|lane| &lane.owner)) {
            // Relaxed: what the dead one did is seen by the proof of the death.
            let id = ParticipantId::from_bits(word.load(Ordering::Relaxed));
            left.extend(id.filter(|id| dead.is(*id)).map(|id| (word, id)));
        }
        let slots = 0..self.slots.len();
        let slots = slots.filter(|number| self.reap_slot(*number, &mut dead)).count();
        let seats = left.into_iter().filter(|(word, id)| dead.is(*id) && leave_seat(word, *id));
        slots + seats.count()
    }

    /// Takes back a slot that a dead one has; whether it was one.
    fn reap_slot(&self, number: usize, dead: &mut Verdicts<'_>) -> bool {
        let slot = &self.slots[number];
        let state = slot.state();
        if state.kind() == Kind::Free {
            return false;
        }
        // Who is named by nobody's name is nobody.
        let is_dead = state.owner().is_none_or(|owner| dead.is(owner));
        if state.kind() != Kind::Taken {
            return is_dead && self.frees(number, state);
        }
        let client = ParticipantId::from_bits(slot.client.load(Ordering::Relaxed));
        match client.filter(|client| !dead.is(*client)) {
            Some(client) => is_dead && self.dies(number, state, state.given(Kind::Died, client)),
            None if is_dead => self.frees(number, state),
            None => slot.moves(state, state.turned(Kind::Cancelled)),
        }
    }

    /// Ends a call whose server is dead; whether it was open still.
    fn dies(&self, number: usize, taken: State, end: State) -> bool {
        let is_ended = self.slots[number].moves(taken, end);
        if is_ended {
            let lane = self.lane_of(number);
            lane.died.fetch_add(1, Ordering::Relaxed);
            lane.bell.notify();
        }
        is_ended
    }

    /// Frees a slot in `state`, for who waits for one; whether it was in that.
    fn frees(&self, number: usize, state: State) -> bool {
        let is_free = self.slots[number].moves(state, state.freed());
        if is_free {
            self.lane_of(number).bell.notify();
        }
        is_free
    }

    /// Tells all clients that a server has come or gone.
    fn ring_all(&self) {
        self.lanes.iter().for_each(|lane| lane.bell.notify());
    }

    fn lane_of(&self, number: usize) -> &Lane {
        &self.lanes[number / self.config.calls as usize]
    }

    /// The slots of a lane.
    fn slots_of(&self, lane: usize) -> std::ops::Range<usize> {
        let calls = self.config.calls as usize;
        lane * calls..(lane + 1) * calls
    }

    /// The words of a slot: its request's, its answer's.
    fn words_of(&self, number: usize) -> (&[Word], &[Word]) {
        let count = self.config.words_a_slot() as usize;
        let words = &self.words[number * count..(number + 1) * count];
        words.split_at(words_for(self.config.request_bytes) as usize)
    }
}

/// Whom the kernel has said to be dead, each asked for once.
struct Verdicts<'m> {
    me: &'m Member,
    known: BTreeMap<ParticipantId, bool>,
}

impl<'m> Verdicts<'m> {
    fn new(me: &'m Member) -> Verdicts<'m> {
        Verdicts { me, known: BTreeMap::new() }
    }

    fn is(&mut self, id: ParticipantId) -> bool {
        if let Some(dead) = self.known.get(&id) {
            return *dead;
        }
        // One that is not there yet may come, whose name a liar has written before: it is looked
        // for each time, without the kernel.
        let was_there = self.me.watch(id).process().is_some();
        let dead = self.me.table().liveness(id) == Liveness::Dead;
        if was_there {
            self.known.insert(id, dead);
        }
        dead
    }
}

/// What [`Slot::due`] says of a call that is to end then.
fn due_at(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut ms = u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    if ms > 0 {
        // Not before: a part of a millisecond may be over already.
        ms = ms.saturating_add(1);
    }
    now_ms().saturating_add(ms).max(1)
}

/// How long it is until then: `None` where there is no end, zero where it has passed.
fn left_until(due: u64) -> Option<Duration> {
    // A model's clock stands at 0.
    (due != 0).then(|| Duration::from_millis(due.saturating_sub(now_ms().max(1))))
}

/// Whether that moment has passed.
fn is_past(due: u64) -> bool {
    left_until(due).is_some_and(|left| left.is_zero())
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_due_before_its_deadline() {
        for micros in (0..20).map(|part| 50 * part) {
            let deadline = Instant::now() + Duration::from_micros(micros);
            let due = due_at(deadline);
            while !is_past(due) {
                std::hint::spin_loop();
            }
            assert!(Instant::now() >= deadline);
        }
        let late = due_at(Instant::now() - Duration::from_millis(1));
        assert!(is_past(late) && !is_past(0));
    }
}
