//! Asking.
use super::call::Call;
use super::shared::{Kind, Lane, Slot, State, Turn, leave_seat, take_seat};
use super::{Rpc, due_at};
use crate::lent::Lent;
use crate::stream::OneMapping;
use crate::wait::look_until;
use crate::waitset::Source;
use shm_core::event::EventCount;
use shm_core::participants::{Member, ParticipantId, Watch};
use shm_core::process::Forked;
use shm_core::sync::Ordering;
use shm_core::trust::Crashing;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Why there is no client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// All lanes are those of living clients.
    #[error("the call table is for {clients} clients, and all of them are there")]
    Full {
        /// How many there can be.
        clients: u32,
    },
    /// The seat is that of the process that this one was forked from.
    #[error("the member is that of the process that this one was forked from")]
    Forked(#[from] Forked),
}

/// Why a call was not asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// There is no server.
    #[error("there is no server")]
    NoServer,
    /// The deadline passed.
    #[error("the deadline passed before one of the client's calls ended")]
    TimedOut,
    /// No request of this table is so long.
    #[error("a request of {len} bytes is too long: this table takes {largest}")]
    TooLong {
        /// Bytes of the request.
        len: usize,
        /// The most that it takes.
        largest: usize,
    },
    /// The handle belongs to the process that this one was forked from.
    #[error("the client was made by the process that this one was forked from")]
    Forked,
}

/// Who calls. The threads of a process may share one, and clones of it: together they have so many
/// calls open as a lane has slots.
///
/// # If a process dies here
/// Its calls are nobody's: servers that have one learn it, and all of it comes back by
/// [`reap`](Rpc::reap).
pub struct Client<T: OneMapping = Crashing> {
    lane: Arc<OwnLane<T>>,
}

/// A lane that is ours, for as long as a client or one of its calls is there.
pub(super) struct OwnLane<T: OneMapping> {
    pub(super) rpc: Rpc<T>,
    number: usize,
    pub(super) member: Arc<Member>,
    /// Servers that we have met.
    met: Mutex<Vec<Arc<Watch>>>,
}

/// Whom an open call waits for: the server that has it; `None`: any.
pub(super) type Awaited = Option<ParticipantId>;

impl<T: OneMapping> OwnLane<T> {
    pub(super) fn shared(&self) -> &Lane {
        &self.rpc.lanes[self.number]
    }

    /// The watch over a server: one for all calls, so that the kernel is not asked each time.
    pub(super) fn watch(&self, server: ParticipantId) -> Arc<Watch> {
        let mut met = self.met.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(watch) = met.iter().find(|watch| watch.peer() == server) {
            return watch.clone();
        }
        let watch = Arc::new(self.member.watch(server));
        // One that is not there may come yet: a liar can have written its name before.
        if watch.process().is_some() {
            if met.len() > 2 * super::SERVERS_MAX {
                met.clear();
            }
            met.push(watch.clone());
        }
        watch
    }

    /// Whether a server is dead. All it did is seen then.
    pub(super) fn is_dead(&self, server: ParticipantId) -> bool {
        self.watch(server).is_dead()
    }

    /// Whether any server lives.
    fn has_server(&self) -> bool {
        self.rpc.shared.seats().any(|(_, server)| !self.is_dead(server))
    }

    /// The servers that live. The dead lose their seats.
    pub(super) fn see_servers(&self, living: &mut Vec<Arc<Watch>>) {
        living.clear();
        for (word, server) in self.rpc.shared.seats() {
            let watch = self.watch(server);
            if watch.is_dead() {
                leave_seat(word, server);
            } else if living.iter().all(|other| other.peer() != server) {
                living.push(watch);
            }
        }
    }

    /// Looks again and again, until there is something or `until` has passed. `look` is told which
    /// servers live, or nothing, as long as it is not worth while to ask; and says what it has
    /// found, or whom it waits for.
    ///
    /// No wake-up is lost, for the last look before a sleep comes after the announcement at the
    /// bell, and after a look at the seats. What a server does afterwards wakes us, if it is:
    /// 1. one that we saw there: it rings the bell, or dies, and we sleep on its life;
    /// 2. one that had left, or was found dead: the look has found all it did;
    /// 3. one that comes later: it rings the bell before it takes a call.
    ///
    /// One that has the call when we look is slept on, wherever it sits.
    pub(super) fn waits<R>(
        &self,
        until: Option<Instant>,
        look: impl Fn(Option<&[Arc<Watch>]>) -> Result<R, Awaited>,
    ) -> Option<R> {
        let mut asleep = Asleep { lane: self, servers: Vec::new() };
        let look = |asleep: &mut Asleep<'_, T>, is_last: bool| {
            if !is_last {
                return look(None).ok();
            }
            self.see_servers(&mut asleep.servers);
            let awaited = match look(Some(&asleep.servers)) {
                Ok(found) => return Some(found),
                Err(awaited) => awaited,
            };
            if let Some(server) = awaited {
                asleep.servers = vec![self.watch(server)];
            }
            None
        };
        look_until(&mut asleep, |asleep| asleep, until, look)
    }

    /// Takes the first free slot, to be written.
    fn take_slot(&self) -> Option<(usize, State)> {
        let rpc = &self.rpc;
        rpc.slots_of(self.number).find_map(|number| {
            let slot = &rpc.slots[number];
            let state = State::from_bits(slot.state.load(Ordering::Relaxed));
            if state.kind() != Kind::Free {
                return None;
            }
            // Pairs with the Acquire in `Server::look`: what was asked before this call was begun.
            let turn = rpc.shared.turn.fetch_add(1, Ordering::Release);
            let writing = State::written(Turn::of(turn as u32), self.member.id());
            slot.begins(state, writing).then_some((number, writing))
        })
    }

    /// Takes back the slots that nobody has any more.
    #[cold]
    fn take_back(&self) {
        for number in self.rpc.slots_of(self.number) {
            let state = self.rpc.slots[number].state();
            if self.is_left(&self.rpc.slots[number], state) {
                self.rpc.frees(number, state);
            }
        }
    }

    /// Whether a slot of ours is nobody's: a dead server had it, or the last one whose lane this
    /// was, who is no more.
    fn is_left(&self, slot: &Slot, state: State) -> bool {
        let me = Some(self.member.id());
        let is_dead = || state.owner().is_none_or(|server| self.is_dead(server));
        match state.kind() {
            Kind::Free => false,
            Kind::Cancelled => is_dead(),
            // Ours ends by its call, or is cancelled.
            Kind::Taken => {
                ParticipantId::from_bits(slot.client.load(Ordering::Relaxed)) != me && is_dead()
            }
            _ => state.owner() != me,
        }
    }
}

/// Who sleeps at the bell of its lane, beside these servers.
struct Asleep<'l, T: OneMapping> {
    lane: &'l OwnLane<T>,
    servers: Vec<Arc<Watch>>,
}

/// Ready where its [look](OwnLane::waits) says so.
impl<T: OneMapping> Source for Asleep<'_, T> {
    fn is_ready(&mut self) -> bool {
        false
    }

    fn bed(&self) -> Option<&EventCount> {
        Some(&self.lane.shared().bell)
    }

    fn peers<'s>(&'s self, to: &mut Vec<&'s Watch>) {
        to.extend(self.servers.iter().map(|server| &**server));
    }
}

impl<T: OneMapping> Drop for OwnLane<T> {
    /// # If a process dies here
    /// The lane is free, or comes back when it is reaped.
    fn drop(&mut self) {
        if self.member.check_fork().is_ok() {
            leave_seat(&self.shared().owner, self.member.id());
        }
    }
}

impl<T: OneMapping> Client<T> {
    pub(super) fn open(rpc: &Rpc<T>, me: &Arc<Member>) -> Result<Client<T>, ClientError> {
        me.check_fork()?;
        let take = || take_seat(rpc.lanes.iter().map(|lane| &lane.owner), me.id());
        let number = take().or_else(|| {
            rpc.reap(me);
            take()
        });
        let number = number.ok_or(ClientError::Full { clients: rpc.config.clients })?;
        let (rpc, member, met) = (rpc.clone(), me.clone(), Mutex::default());
        Ok(Client { lane: Arc::new(OwnLane { rpc, number, member, met }) })
    }

    /// The table that it calls in.
    pub fn rpc(&self) -> &Rpc<T> {
        &self.lane.rpc
    }

    /// Asks, if one of the client's slots is free now; `None` where none is.
    ///
    /// # Errors
    /// [`AskError`], but not [`TimedOut`](AskError::TimedOut). `NoServer` where no server has a
    /// seat: a dead one may have, until somebody finds it dead.
    ///
    /// # If a process dies here
    /// A server may get the call, which is as a whole then, or may not.
    pub fn try_ask(&self, request: &[u8]) -> Result<Option<Call<T>>, AskError> {
        Ok(self.reserve(request.len())?.map(|mut draft| {
            draft.copy_from_slice(request);
            draft.ask()
        }))
    }

    /// Asks, waiting for a free slot until `deadline`, which is the call's own too; or as long as
    /// it takes.
    ///
    /// # Errors
    /// [`AskError`].
    ///
    /// # If a process dies here
    /// As in [`try_ask`](Client::try_ask).
    pub fn ask(&self, request: &[u8], deadline: Option<Instant>) -> Result<Call<T>, AskError> {
        let look = |servers: Option<&[_]>| match self.reserve(request.len()).transpose() {
            Some(draft) => Ok(draft),
            None if servers.is_some_and(<[_]>::is_empty) => Ok(Err(AskError::NoServer)),
            None => Err(None),
        };
        let draft = self.lane.waits(deadline, look);
        let mut draft = draft.unwrap_or(Err(AskError::TimedOut))?;
        draft.copy_from_slice(request);
        Ok(match deadline {
            Some(deadline) => draft.until(deadline).ask(),
            None => draft.ask(),
        })
    }

    /// Waits until there is a server.
    ///
    /// # Errors
    /// [`AskError::TimedOut`], [`AskError::Forked`].
    pub fn wait_for_server(&self, deadline: Option<Instant>) -> Result<(), AskError> {
        let look = |servers: Option<&[_]>| {
            if self.lane.member.check_fork().is_err() {
                return Ok(Err(AskError::Forked));
            }
            let is_there = servers.map_or_else(|| self.lane.has_server(), |them| !them.is_empty());
            if is_there { Ok(Ok(())) } else { Err(None) }
        };
        self.lane.waits(deadline, look).unwrap_or(Err(AskError::TimedOut))
    }

    /// Lends a slot, to write a request of `len` bytes where it will lie; `None` where none is
    /// free.
    ///
    /// # Errors
    /// As [`try_ask`](Client::try_ask).
    ///
    /// # If a process dies here
    /// There is no such call; the slot comes back when its owner is reaped.
    pub fn reserve(&self, len: usize) -> Result<Option<Draft<'_, T>>, AskError> {
        let (lane, rpc) = (&self.lane, &self.lane.rpc);
        if lane.member.check_fork().is_err() {
            return Err(AskError::Forked);
        }
        let largest = rpc.config.request_bytes as usize;
        if len > largest {
            return Err(AskError::TooLong { len, largest });
        }
        if rpc.shared.seats().next().is_none() {
            return Err(AskError::NoServer);
        }
        let slot = lane.take_slot().or_else(|| {
            lane.take_back();
            // Also where another has freed one, and has not rung.
            lane.take_slot()
        });
        let Some((number, writing)) = slot else { return Ok(None) };
        // SAFETY: the slot is ours until the draft is gone.
        let bytes = unsafe { Lent::new(rpc.words_of(number).0, len, T::IN_PLACE) };
        Ok(Some(Draft { bytes, due: 0, ours: Ours { lane, number, writing } }))
    }
}

impl<T: OneMapping> Clone for Client<T> {
    fn clone(&self) -> Client<T> {
        Client { lane: self.lane.clone() }
    }
}

impl<T: OneMapping> fmt::Debug for Client<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OwnLane { member, number, .. } = &*self.lane;
        f.debug_struct("Client").field("member", &member.id()).field("lane", number).finish()
    }
}

/// A request that is being written. Dropped, it is not asked.
#[must_use = "it is asked by `ask`"]
pub struct Draft<'c, T: OneMapping = Crashing> {
    bytes: Lent<'c>,
    due: u64,
    /// Dropped after the bytes.
    ours: Ours<'c, T>,
}

/// A slot that is being written.
struct Ours<'c, T: OneMapping> {
    lane: &'c Arc<OwnLane<T>>,
    number: usize,
    writing: State,
}

impl<T: OneMapping> Ours<'_, T> {
    fn slot(&self) -> &Slot {
        &self.lane.rpc.slots[self.number]
    }
}

impl<T: OneMapping> Draft<'_, T> {
    /// The call ends by then, and no server takes it afterwards.
    pub fn until(mut self, deadline: Instant) -> Self {
        self.due = due_at(deadline);
        self
    }

    /// Asks.
    ///
    /// # If a process dies here
    /// As in [`try_ask`](Client::try_ask).
    pub fn ask(self) -> Call<T> {
        let Draft { bytes, due, ours } = self;
        let (lane, rpc, slot, len) = (ours.lane, &ours.lane.rpc, ours.slot(), bytes.len());
        let asked = ours.writing.turned(Kind::Asked);
        let call = Call::new(lane.clone(), ours.number, asked, due);
        // The slot is its parent's: the call learns it.
        if lane.member.check_fork().is_err() {
            return call;
        }
        bytes.finish(rpc.words_of(ours.number).0);
        slot.client.store(lane.member.id().to_bits(), Ordering::Relaxed);
        slot.request_len.store(len as u64, Ordering::Relaxed);
        slot.due.store(due, Ordering::Relaxed);
        // Where somebody scribbled on the state the call finds it out.
        slot.moves(ours.writing, asked);
        // Pairs with the Acquire in `Server::oldest`: the state, and whose the lane is.
        lane.shared().asked.fetch_add(1, Ordering::Release);
        rpc.shared.arrived.notify();
        std::mem::forget(ours);
        call
    }
}

impl<T: OneMapping> Drop for Ours<'_, T> {
    /// # If a process dies here
    /// The slot is free, or comes back when its owner is reaped.
    fn drop(&mut self) {
        if self.lane.member.check_fork().is_ok() {
            self.lane.rpc.frees(self.number, self.writing);
        }
    }
}

impl<T: OneMapping> Deref for Draft<'_, T> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: OneMapping> DerefMut for Draft<'_, T> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl<T: OneMapping> fmt::Debug for Draft<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("len", &self.bytes.len()).finish_non_exhaustive()
    }
}
