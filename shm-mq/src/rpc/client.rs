//! Asking.
use super::call::Call;
use super::shared::{Kind, Lane, Slot, State, Turn, leave_seat, take_seat};
use super::{Rpc, Verdicts, due_at};
use crate::lent::Lent;
use crate::stream::OneMapping;
use shm_core::backoff::Backoff;
use shm_core::event::Ticket;
use shm_core::participants::{self, Member, ParticipantId, Watch};
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

impl<T: OneMapping> OwnLane<T> {
    pub(super) fn shared(&self) -> &Lane {
        &self.rpc.lanes[self.number]
    }

    /// The watch over a server: one for all calls, so that the kernel is not asked each time.
    fn watch(&self, server: ParticipantId) -> Arc<Watch> {
        let mut met = self.met.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(watch) = met.iter().find(|watch| watch.peer() == server) {
            return watch.clone();
        }
        if met.len() > 2 * super::SERVERS_MAX {
            met.clear();
        }
        let watch = Arc::new(self.member.watch(server));
        met.push(watch.clone());
        watch
    }

    /// Whether a server is dead. All it did is seen then.
    pub(super) fn is_dead(&self, server: ParticipantId) -> bool {
        self.watch(server).is_dead()
    }

    /// Whether any server lives.
    pub(super) fn has_server(&self) -> bool {
        self.rpc.shared.servers().any(|server| !self.is_dead(server))
    }

    /// Sleeps until somebody rings, a server dies, or `until`: the server that is named, or any.
    /// May also not sleep at all.
    pub(super) fn sleep(
        &self,
        ticket: Ticket,
        server: Option<ParticipantId>,
        until: Option<Instant>,
    ) {
        let watches = match server {
            Some(server) => vec![self.watch(server)],
            None => match self.watch_all() {
                Some(watches) => watches,
                None => return,
            },
        };
        let watches: Vec<&Watch> = watches.iter().map(|watch| &**watch).collect();
        participants::wait(&self.shared().bell, ticket, &watches, until);
    }

    /// The watches over all servers. `None` where one of them has died, who has no seat any more
    /// then: it may have taken a call before, so look again.
    fn watch_all(&self) -> Option<Vec<Arc<Watch>>> {
        let mut has_died = false;
        let watches = self.rpc.shared.servers().map(|server| {
            let watch = self.watch(server);
            if watch.is_dead() {
                has_died = true;
                self.rpc.shared.servers.iter().for_each(|word| {
                    leave_seat(word, server);
                });
            }
            watch
        });
        let watches = watches.collect();
        (!has_died).then_some(watches)
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
        let draft = self.waits(deadline, || self.reserve(request.len()).transpose());
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
        let is_there = || match self.lane.member.check_fork() {
            Ok(()) => self.lane.has_server().then_some(Ok(())),
            Err(_) => Some(Err(AskError::Forked)),
        };
        self.waits(deadline, is_there).unwrap_or(Err(AskError::TimedOut))
    }

    /// Looks again and again, until there is something or the deadline has passed.
    fn waits<R>(&self, deadline: Option<Instant>, look: impl Fn() -> Option<R>) -> Option<R> {
        let (mut backoff, mut ticket, mut is_over) = (Backoff::new(), None, false);
        loop {
            let found = look();
            if found.is_some() || is_over {
                return found;
            }
            if let Some(ticket) = ticket.take() {
                self.lane.sleep(ticket, None, deadline);
                is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                backoff.reset();
            } else if !backoff.snooze() {
                ticket = Some(self.lane.shared().bell.prepare());
            }
        }
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
        if rpc.shared.servers().next().is_none() {
            return Err(AskError::NoServer);
        }
        let Some((number, writing)) = self.take_slot().or_else(|| {
            let mut dead = Verdicts::new(lane.member.table());
            let reaped = |number: &usize| rpc.reap_slot(*number, &mut dead);
            let count = rpc.slots_of(lane.number).filter(reaped).count();
            (count > 0).then(|| self.take_slot())?
        }) else {
            return Ok(None);
        };
        // SAFETY: the slot is ours until the draft is gone.
        let bytes = unsafe { Lent::new(rpc.words_of(number).0, len, T::IN_PLACE) };
        Ok(Some(Draft { bytes, len, due: 0, ours: Ours { lane, number, writing } }))
    }

    /// Takes the first free slot, to be written.
    fn take_slot(&self) -> Option<(usize, State)> {
        let OwnLane { rpc, number, member, .. } = &*self.lane;
        rpc.slots_of(*number).find_map(|number| {
            let slot = &rpc.slots[number];
            let state = State::from_bits(slot.state.load(Ordering::Relaxed));
            if state.kind() != Kind::Free {
                return None;
            }
            // Pairs with the Acquire in `Server::look`: what was asked before this call was begun.
            let turn = rpc.shared.turn.fetch_add(1, Ordering::Release);
            let writing = State::written(Turn::of(turn as u32), member.id());
            slot.begins(state, writing).then_some((number, writing))
        })
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
    len: usize,
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
        let Draft { bytes, len, due, ours } = self;
        let (lane, rpc, slot) = (ours.lane, &ours.lane.rpc, ours.slot());
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
        // Pairs with the Acquire in `Server::oldest`: the state.
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
        f.debug_struct("Draft").field("len", &self.len).finish_non_exhaustive()
    }
}
