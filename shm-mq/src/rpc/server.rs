//! Answering.
use super::Rpc;
use super::shared::{Kind, SERVERS_MAX, Slot, State, Turn, leave_seat, take_seat};
use super::{is_past, left_until};
use crate::lent::{self, Lent};
use crate::stream::OneMapping;
use crate::wait::{has_passed, look_until};
use crate::waitset::Source;
use shm_core::bytes::View;
use shm_core::event::EventCount;
use shm_core::participants::{Member, ParticipantId, Watch};
use shm_core::process::Forked;
use shm_core::sync::Ordering;
use shm_core::trust::Crashing;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why there is no server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// All seats are those of living servers.
    #[error("there are {SERVERS_MAX} servers already")]
    Full,
    /// The seat is that of the process that this one was forked from.
    #[error("the member is that of the process that this one was forked from")]
    Forked(#[from] Forked),
}

/// Why a server has no request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TakeError {
    /// The deadline passed.
    #[error("the deadline passed before there was a request")]
    TimedOut,
    /// A client wrote nonsense: no request has such a length. Its call has ended.
    #[error("the call table is corrupt: a request of {len} bytes")]
    Corrupt {
        /// What its slot says.
        len: u64,
    },
    /// The handle belongs to the process that this one was forked from.
    #[error("the server was made by the process that this one was forked from")]
    Forked,
}

/// Why an answer goes to nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The client does not want it any more: it dropped the call, its deadline passed, or it died
    /// and was found dead: by who reaped, or by [`is_cancelled`](Request::is_cancelled).
    #[error("the client does not want the answer any more")]
    Abandoned,
    /// No answer of this table is so long. The call has ended unanswered.
    #[error("an answer of {len} bytes is too long: this table takes {largest}")]
    TooLong {
        /// Bytes of the answer.
        len: usize,
        /// The most that it takes.
        largest: usize,
    },
    /// Among [strangers](super::strangers): another server has taken the call. Answered here, it
    /// has ended unanswered.
    #[error("another server has taken the call: that one is to answer it")]
    OtherServer,
}

/// What [`Slot::refusal`] says of a refusal with `code`.
fn refusal(code: u32) -> u64 {
    1 << 32 | u64::from(code)
}

/// The code of a refusal, if it is one.
pub(super) fn refused(word: u64) -> Option<u32> {
    (word >> 32 != 0).then_some(word as u32)
}

/// Who answers: one thread at a time, one call at a time. As many as there are seats.
///
/// It can move to another thread, but not be shared:
///
/// ```compile_fail
/// fn shared<T: Sync>() {}
/// shared::<shm_mq::rpc::Server>();
/// ```
///
/// # If a process dies here
/// The call that it had taken ends with an error at once; those that nobody has taken are the
/// other servers'.
pub struct Server<T: OneMapping = Crashing> {
    rpc: Rpc<T>,
    member: Arc<Member>,
    seat: usize,
    /// What we know of each lane.
    seen: Vec<Seen>,
    /// A request, where it is not lent where it lies.
    copy: Vec<u8>,
    not_sync: PhantomData<Cell<()>>,
}

/// What a server knows of a lane.
#[derive(Debug, Default)]
struct Seen {
    /// Whose it was, and how many calls had been asked, when there was none to take.
    nothing: Option<(u32, u64)>,
    /// Its oldest call at the last look, and how many of others this server preferred to that one.
    first: Option<State>,
    preferred: u64,
    /// Its client, once it has asked.
    client: Option<Watch>,
}

/// A call that could be taken.
#[derive(Clone, Copy)]
struct Found {
    lane: usize,
    number: usize,
    state: State,
    /// Others were preferred for so long that somebody has lied about a turn, or a state.
    is_overdue: bool,
}

/// What a look at the slots has found.
enum Looked {
    /// Slot and state, ours from now on.
    Taken(usize, State, ParticipantId),
    Nothing,
    /// There were some, and others took them each time.
    Restless,
}

/// So often a look begins anew, each time because somebody asked a call or took one. Then it takes
/// what it finds, be it out of its turn. In a model fewer ask, and a stale state costs a look.
const LOOKS_MAX: u32 = if cfg!(shm_loom) { 4 } else { 64 };

impl<T: OneMapping> Server<T> {
    pub(super) fn open(rpc: &Rpc<T>, me: &Arc<Member>) -> Result<Server<T>, ServerError> {
        me.check_fork()?;
        let take = || take_seat(rpc.shared.servers.iter(), me.id());
        let seat = take().or_else(|| {
            rpc.reap(me);
            take()
        });
        let seat = seat.ok_or(ServerError::Full)?;
        // Who sleeps until a call is taken is to watch this one too.
        rpc.ring_all();
        let seen = rpc.lanes.iter().map(|_| Seen::default()).collect();
        let (rpc, member, copy, not_sync) = (rpc.clone(), me.clone(), Vec::new(), PhantomData);
        Ok(Server { rpc, member, seat, seen, copy, not_sync })
    }

    /// The table that it answers in.
    pub fn rpc(&self) -> &Rpc<T> {
        &self.rpc
    }

    /// The next call, if there is one.
    ///
    /// # Errors
    /// [`TakeError::Corrupt`], [`TakeError::Forked`].
    ///
    /// # If a process dies here
    /// The call is the other servers', or has ended for its client.
    pub fn try_take(&mut self) -> Result<Option<Request<'_, T>>, TakeError> {
        match self.look()? {
            Looked::Taken(number, state, client) => self.request(number, state, client).map(Some),
            Looked::Nothing | Looked::Restless => Ok(None),
        }
    }

    /// The next call, waiting until `deadline`, or as long as it takes.
    ///
    /// # Errors
    /// [`TakeError`].
    ///
    /// # If a process dies here
    /// As in [`try_take`](Server::try_take).
    pub fn take(&mut self, deadline: Option<Instant>) -> Result<Request<'_, T>, TakeError> {
        let look = |server: &mut Self, _| loop {
            match server.look() {
                Ok(Looked::Taken(number, state, client)) => {
                    return Some(Ok((number, state, client)));
                }
                Ok(Looked::Restless) if !has_passed(deadline) => {}
                Ok(Looked::Nothing | Looked::Restless) => return None,
                Err(error) => return Some(Err(error)),
            }
        };
        let taken = look_until(self, |server| server, deadline, look);
        let (number, state, client) = taken.unwrap_or(Err(TakeError::TimedOut))?;
        self.request(number, state, client)
    }

    /// Looks for the call that was begun first, and takes it.
    fn look(&mut self) -> Result<Looked, TakeError> {
        self.member.check_fork().map_err(|_| TakeError::Forked)?;
        let me = self.member.id();
        for looks_left in (0..LOOKS_MAX).rev() {
            // Pairs with the Release in `OwnLane::take_slot`: what was asked before a call was
            // begun that is before this turn.
            let now = Turn::of(self.rpc.shared.turn.load(Ordering::Acquire) as u32);
            let Some(found) = self.oldest() else { return Ok(Looked::Nothing) };
            let Found { lane, number, state, is_overdue } = found;
            if !state.turn().is_before(now) && !is_overdue && looks_left > 0 {
                continue;
            }
            self.prefers(lane);
            // Who asks is named where the state says so, and nowhere else.
            let (Some(client), taken) = (state.owner(), state.given(Kind::Taken, me)) else {
                self.rpc.frees(number, state);
                continue;
            };
            if self.rpc.slots[number].moves(state, taken) {
                self.watches(lane, client);
                return Ok(Looked::Taken(number, taken, client));
            }
        }
        Ok(Looked::Restless)
    }

    /// Of all calls that could be taken, the one that was begun first.
    fn oldest(&mut self) -> Option<Found> {
        let (rpc, mut oldest) = (&self.rpc, None);
        for (lane, seen) in self.seen.iter_mut().enumerate() {
            let words = &rpc.lanes[lane];
            // Pairs with the Release in `Draft::ask`: the states of these calls, and whose the lane
            // is: the next client may come to the same count.
            let asked = words.asked.load(Ordering::Acquire);
            let calls = Some((words.owner.load(Ordering::Relaxed), asked));
            if calls == seen.nothing {
                continue;
            }
            let found = rpc.oldest_of(lane);
            let first = found.map(|(_, state)| state);
            if first != seen.first {
                (seen.first, seen.preferred) = (first, 0);
            }
            let Some((number, state)) = found else {
                seen.nothing = calls;
                continue;
            };
            let is_overdue = seen.preferred > rpc.slots.len() as u64;
            let found = Found { lane, number, state, is_overdue };
            if oldest.is_none_or(|other| found.is_before(other)) {
                oldest = Some(found);
            }
        }
        oldest
    }

    /// A call of `lane` is taken, or lost to another server, before those of the other lanes.
    ///
    /// That makes none of them overdue unless somebody lies: a server prefers each call that was
    /// begun before another once at most, and of these there are fewer than slots.
    fn prefers(&mut self, lane: usize) {
        for (other, seen) in self.seen.iter_mut().enumerate() {
            seen.preferred += u64::from(other != lane && seen.first.is_some());
        }
    }

    /// The client of `lane` is this one.
    fn watches(&mut self, lane: usize, client: ParticipantId) {
        let watched = &mut self.seen[lane].client;
        // One that was not there may have come: a liar can have written its name before.
        let is_it = |watch: &Watch| watch.peer() == client && watch.process().is_some();
        if !watched.as_ref().is_some_and(is_it) {
            *watched = Some(self.member.watch(client));
        }
    }

    fn request(
        &mut self,
        number: usize,
        state: State,
        client: ParticipantId,
    ) -> Result<Request<'_, T>, TakeError> {
        let Server { rpc, member, copy, seen, .. } = self;
        let slot = &rpc.slots[number];
        let watch = seen[number / rpc.config.calls as usize].client.as_ref();
        let due = slot.due.load(Ordering::Relaxed);
        let len = slot.request_len.load(Ordering::Relaxed);
        let held = Held { rpc, member, number, state, client, watch, due };
        if len > rpc.config.request_bytes {
            // Dropped, it ends unanswered.
            return Err(TakeError::Corrupt { len });
        }
        // SAFETY: the slot is ours until `Held` gives it back, after the view.
        let bytes = unsafe { lent::view::<T>(rpc.words_of(number).0, len as usize, copy) };
        Ok(Request { bytes, held })
    }
}

impl<T: OneMapping> Rpc<T> {
    /// Of the calls of a lane that could be taken, the one that was begun first.
    fn oldest_of(&self, lane: usize) -> Option<(usize, State)> {
        let mut oldest: Option<(usize, State)> = None;
        for number in self.slots_of(lane) {
            let (slot, state) = (&self.slots[number], self.slots[number].state());
            let is_one = state.kind() == Kind::Asked && !is_past(slot.due.load(Ordering::Relaxed));
            if is_one && oldest.is_none_or(|(_, other)| state.turn().is_before(other.turn())) {
                oldest = Some((number, state));
            }
        }
        oldest
    }
}

impl Found {
    fn is_before(self, other: Found) -> bool {
        match (self.is_overdue, other.is_overdue) {
            (true, false) => true,
            (false, true) => false,
            _ => self.state.turn().is_before(other.state.turn()),
        }
    }
}

/// Ready where a call is to be taken, that [`try_take`](Server::try_take) gives unless another
/// server is faster.
impl<T: OneMapping> Source for Server<T> {
    fn is_ready(&mut self) -> bool {
        self.member.check_fork().is_err() || self.oldest().is_some()
    }

    fn bed(&self) -> Option<&EventCount> {
        Some(&self.rpc.shared.arrived)
    }
}

impl<T: OneMapping> Drop for Server<T> {
    /// # If a process dies here
    /// The seat is free, or names it: clients take it for no server.
    fn drop(&mut self) {
        if self.member.check_fork().is_ok() {
            leave_seat(&self.rpc.shared.servers[self.seat], self.member.id());
            // Who sleeps until a call is taken may be without a server now.
            self.rpc.ring_all();
        }
    }
}

impl<T: OneMapping> fmt::Debug for Server<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("member", &self.member.id()).finish_non_exhaustive()
    }
}

/// A call that this server has taken. Dropped, it ends [unanswered](super::CallError::Unanswered).
pub struct Request<'s, T: OneMapping = Crashing> {
    bytes: View<'s>,
    /// Dropped after the bytes.
    held: Held<'s, T>,
}

/// A slot that is this server's.
struct Held<'s, T: OneMapping> {
    rpc: &'s Rpc<T>,
    member: &'s Member,
    number: usize,
    state: State,
    client: ParticipantId,
    watch: Option<&'s Watch>,
    due: u64,
}

impl<'s, T: OneMapping> Request<'s, T> {
    /// Who asks.
    pub fn client(&self) -> ParticipantId {
        self.held.client
    }

    /// How long its client still waits: `None` where it has not said so.
    pub fn left(&self) -> Option<Duration> {
        left_until(self.held.due)
    }

    /// Whether nobody wants the answer any more, be it that the client has died: a few loads. It
    /// stays so, and the answer is [`Abandoned`](AnswerError::Abandoned).
    ///
    /// # If a process dies here
    /// As before the call, or after it.
    pub fn is_cancelled(&self) -> bool {
        self.held.is_cancelled()
    }

    /// Answers.
    ///
    /// # Errors
    /// [`AnswerError`].
    ///
    /// # If a process dies here
    /// The call is answered as a whole, or ends with [`ServerDied`](super::CallError::ServerDied).
    pub fn answer(self, answer: &[u8]) -> Result<(), AnswerError> {
        let mut reply = self.reply(answer.len())?;
        reply.copy_from_slice(answer);
        reply.send()
    }

    /// Refuses the call, with a code of the application's and bytes that say more.
    ///
    /// # Errors
    /// [`AnswerError`].
    ///
    /// # If a process dies here
    /// As in [`answer`](Request::answer).
    pub fn refuse(self, code: u32, reason: &[u8]) -> Result<(), AnswerError> {
        let mut reply = self.reply(reason.len())?;
        reply.copy_from_slice(reason);
        reply.refuse(code)
    }

    /// Lends the place of an answer of `len` bytes, to be written where it will lie.
    ///
    /// # Errors
    /// [`AnswerError::TooLong`]. The call has ended unanswered.
    pub fn reply(self, len: usize) -> Result<Reply<'s, T>, AnswerError> {
        let rpc = self.held.rpc;
        let largest = rpc.config.answer_bytes as usize;
        if len > largest {
            return Err(AnswerError::TooLong { len, largest });
        }
        // SAFETY: the slot is ours until `Held` gives it back, after the draft.
        let bytes = unsafe { Lent::new(rpc.words_of(self.held.number).1, len, T::IN_PLACE) };
        Ok(Reply { bytes, request: self })
    }
}

impl<T: OneMapping> Held<'_, T> {
    fn slot(&self) -> &Slot {
        &self.rpc.slots[self.number]
    }

    fn is_ours(&self) -> bool {
        self.member.check_fork().is_ok()
    }

    /// Whether its client has not cancelled it.
    fn is_taken(&self) -> bool {
        self.slot().state.load(Ordering::Relaxed) == self.state.bits()
    }

    /// Where the client has died it is cancelled in its name, as by who reaps.
    fn is_cancelled(&self) -> bool {
        let is_taken = self.is_taken();
        let is_dead = is_taken && self.watch.is_some_and(Watch::is_dead);
        if is_dead && self.is_ours() {
            self.slot().moves(self.state, self.state.turned(Kind::Cancelled));
        }
        is_dead || !is_taken
    }

    /// Gives the slot to its client, as one of this kind, or back, where nobody wants it; whether
    /// somebody did.
    fn ends(&self, kind: Kind) -> bool {
        let is_wanted = self.slot().moves(self.state, self.state.given(kind, self.client));
        if is_wanted {
            self.rpc.lane_of(self.number).bell.notify();
        } else {
            self.lets_go();
        }
        is_wanted
    }

    /// Nobody wants it.
    fn lets_go(&self) {
        self.rpc.frees(self.number, self.state.turned(Kind::Cancelled));
    }
}

impl<T: OneMapping> Drop for Held<'_, T> {
    /// # If a process dies here
    /// The call ends without an answer, or with its server's death.
    fn drop(&mut self) {
        if self.is_ours() {
            self.ends(Kind::Dropped);
        }
    }
}

impl<T: OneMapping> Deref for Request<'_, T> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: OneMapping> fmt::Debug for Request<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Request").field(&&self.bytes[..]).finish()
    }
}

/// An answer that is being written. Dropped, the call ends unanswered.
#[must_use = "it is sent by `send`"]
pub struct Reply<'s, T: OneMapping = Crashing> {
    bytes: Lent<'s>,
    /// Dropped after the bytes.
    request: Request<'s, T>,
}

impl<'s, T: OneMapping> Reply<'s, T> {
    /// The request, and the place of its answer.
    pub fn parts(&mut self) -> (&[u8], &mut [u8]) {
        (&self.request.bytes, &mut self.bytes)
    }

    /// Answers with it.
    ///
    /// # Errors
    /// [`AnswerError::Abandoned`].
    ///
    /// # If a process dies here
    /// As in [`Request::answer`].
    pub fn send(self) -> Result<(), AnswerError> {
        self.finish(0)
    }

    /// Refuses the call with it.
    ///
    /// # Errors
    /// [`AnswerError::Abandoned`].
    ///
    /// # If a process dies here
    /// As in [`Request::answer`].
    pub fn refuse(self, code: u32) -> Result<(), AnswerError> {
        self.finish(refusal(code))
    }

    fn finish(self, refusal: u64) -> Result<(), AnswerError> {
        let Reply { bytes, request } = self;
        let (held, len) = (request.into_held(), bytes.len() as u64);
        let is_wanted = if !held.is_ours() {
            // The slot is its parent's.
            false
        } else if !held.is_taken() {
            // Cancelled; or, where its client has lied about the state, another call's by now.
            drop(bytes);
            held.lets_go();
            false
        } else {
            bytes.finish(held.rpc.words_of(held.number).1);
            held.slot().answer_len.store(len, Ordering::Relaxed);
            held.slot().refusal.store(refusal, Ordering::Relaxed);
            held.ends(Kind::Answered)
        };
        std::mem::forget(held);
        if is_wanted { Ok(()) } else { Err(AnswerError::Abandoned) }
    }
}

impl<'s, T: OneMapping> Request<'s, T> {
    /// Nobody looks at the bytes any more.
    fn into_held(self) -> Held<'s, T> {
        self.held
    }
}

impl<T: OneMapping> Deref for Reply<'_, T> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: OneMapping> DerefMut for Reply<'_, T> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl<T: OneMapping> fmt::Debug for Reply<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}
