//! A call that is open, or has ended.
use super::client::{Awaited, OwnLane};
use super::server::refused;
use super::shared::{Kind, Slot, State};
use super::{is_past, left_until};
use crate::lent;
use crate::stream::OneMapping;
use crate::waitset::Source;
use shm_core::bytes::View;
use shm_core::event::EventCount;
use shm_core::participants::Watch;
use shm_core::sync::Ordering;
use shm_core::trust::Crashing;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a call has no answer. Each but [`TimedOut`](CallError::TimedOut) is its end, and stays so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The wait was over before the call. It is open still.
    #[error("the call has not ended yet")]
    TimedOut,
    /// A server has refused it. [`Call::refusal`] has what it said besides.
    #[error("the server refused the call: code {code}")]
    Refused {
        /// The application's code.
        code: u32,
    },
    /// The server that had taken it has died: it may have done all of it, a part, or nothing.
    #[error("the server that had taken the call has died")]
    ServerDied,
    /// No server has taken it, and none lives.
    #[error("no server lives that could take the call")]
    NoServer,
    /// The server that had taken it gave no answer.
    #[error("the server that had taken the call let go of it")]
    Unanswered,
    /// Its deadline has passed. A server may be at it still.
    #[error("the deadline of the call has passed")]
    DeadlinePassed,
    /// Another process wrote nonsense.
    #[error("the call table is corrupt: nobody knows what became of the call")]
    Corrupt,
    /// The call is that of the process that this one was forked from.
    #[error("the call was made by the process that this one was forked from")]
    Forked,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It is there, of so many bytes, and refused where there is a code. The slot is ours still.
    Answered { state: State, len: usize, code: Option<u32> },
    /// It is not. The slot is nobody's, or a server's.
    Failed(CallError),
}

/// A call. Dropped, it is cancelled, or its answer is forgotten.
#[must_use = "a call that is dropped is cancelled"]
pub struct Call<T: OneMapping = Crashing> {
    lane: Arc<OwnLane<T>>,
    number: usize,
    asked: State,
    due: u64,
    end: Option<End>,
    /// An answer, where it is not lent where it lies.
    copy: Vec<u8>,
    /// Whom it waited for when it was polled last.
    awaited: Vec<Arc<Watch>>,
}

/// What a server has answered.
pub struct Answer<'c> {
    bytes: View<'c>,
}

impl<T: OneMapping> Call<T> {
    pub(super) fn new(lane: Arc<OwnLane<T>>, number: usize, asked: State, due: u64) -> Call<T> {
        let (end, copy, awaited) = (None, Vec::new(), Vec::new());
        Call { lane, number, asked, due, end, copy, awaited }
    }

    fn slot(&self) -> &Slot {
        &self.lane.rpc.slots[self.number]
    }

    /// The answer, if it is there.
    ///
    /// # Errors
    /// [`CallError`], but not [`TimedOut`](CallError::TimedOut).
    ///
    /// # If a process dies here
    /// The slot comes back when its owner is reaped.
    pub fn poll(&mut self) -> Result<Option<Answer<'_>>, CallError> {
        if self.has_ended() { self.answer().map(Some) } else { Ok(None) }
    }

    /// The answer, waiting until `until`, or as long as it takes.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # If a process dies here
    /// As in [`poll`](Call::poll).
    pub fn wait(&mut self, until: Option<Instant>) -> Result<Answer<'_>, CallError> {
        if self.end.is_none() {
            let due = left_until(self.due).and_then(|left| Instant::now().checked_add(left));
            let until = until.into_iter().chain(due).min();
            match self.lane.waits(until, |servers| self.look(servers)) {
                Some(end) => self.ends(end),
                None => return Err(CallError::TimedOut),
            }
        }
        self.answer()
    }

    /// What came with a [refusal](CallError::Refused); `None` where there was none.
    pub fn refusal(&mut self) -> Option<Answer<'_>> {
        match self.end {
            Some(End::Answered { len, code: Some(_), .. }) => Some(self.bytes(len)),
            _ => None,
        }
    }

    /// The end of a call that has one.
    fn answer(&mut self) -> Result<Answer<'_>, CallError> {
        match self.end {
            Some(End::Answered { len, code: None, .. }) => Ok(self.bytes(len)),
            Some(End::Answered { code: Some(code), .. }) => Err(CallError::Refused { code }),
            Some(End::Failed(error)) => Err(error),
            None => Err(CallError::TimedOut),
        }
    }

    fn bytes(&mut self, len: usize) -> Answer<'_> {
        if !T::IN_PLACE {
            return Answer { bytes: View::from(self.copy.as_slice()) };
        }
        let words = self.lane.rpc.words_of(self.number).1;
        // SAFETY: the slot is ours until the call is gone, after the view.
        Answer { bytes: unsafe { lent::view::<T>(words, len, &mut self.copy) } }
    }

    /// Whether it has ended; from then on it is known how. Otherwise it is known whom it waits for:
    /// found out in the order of [`OwnLane::waits`].
    fn has_ended(&mut self) -> bool {
        if self.end.is_some() {
            return true;
        }
        let end = self.look(None).or_else(|awaited| {
            self.awaits(awaited);
            self.look(Some(&self.awaited))
        });
        match end {
            Ok(end) => self.ends(end),
            Err(None) => {}
            Err(server) => self.awaits(server),
        }
        self.end.is_some()
    }

    fn awaits(&mut self, awaited: Awaited) {
        match awaited {
            Some(server) => self.awaited = vec![self.lane.watch(server)],
            None => self.lane.see_servers(&mut self.awaited),
        }
    }

    /// The end is this.
    fn ends(&mut self, end: End) {
        if let (false, End::Answered { len, .. }) = (T::IN_PLACE, end) {
            let words = self.lane.rpc.words_of(self.number).1;
            // SAFETY: the slot is ours.
            unsafe { lent::view::<T>(words, len, &mut self.copy) };
        }
        self.end = Some(end);
    }

    /// How it has ended, or whom it waits for. `servers`: those that live; `None`: nobody has asked
    /// whether they do.
    fn look(&self, servers: Option<&[Arc<Watch>]>) -> Result<End, Awaited> {
        if self.lane.member.check_fork().is_err() {
            return Ok(End::Failed(CallError::Forked));
        }
        // Asked, taken, ended: others move it twice at most.
        let looks = (0..3).find_map(|_| self.look_at(self.slot().state(), servers));
        looks.unwrap_or(Ok(End::Failed(CallError::Corrupt)))
    }

    /// The same of one that is in this state; `None` where another has just moved it.
    fn look_at(
        &self,
        state: State,
        servers: Option<&[Arc<Watch>]>,
    ) -> Option<Result<End, Awaited>> {
        let (rpc, number) = (&self.lane.rpc, self.number);
        let failed = |is_so: bool, why| is_so.then_some(Ok(End::Failed(why)));
        // A name that is none is nobody's.
        let is_dead = || state.owner().is_none_or(|server| self.lane.is_dead(server));
        match state.kind() {
            _ if state.turn() != self.asked.turn() => failed(true, CallError::Corrupt),
            Kind::Answered => Some(Ok(self.answered(state))),
            Kind::Asked | Kind::Taken if is_past(self.due) => {
                failed(self.gives_up(state), CallError::DeadlinePassed)
            }
            Kind::Asked if servers.is_some_and(<[_]>::is_empty) => {
                failed(rpc.frees(number, state), CallError::NoServer)
            }
            Kind::Asked => Some(Err(None)),
            Kind::Taken if servers.is_some() && is_dead() => {
                failed(rpc.dies(number, state, state.freed()), CallError::ServerDied)
            }
            Kind::Taken => Some(Err(state.owner())),
            Kind::Died => failed(rpc.frees(number, state), CallError::ServerDied),
            Kind::Dropped => failed(rpc.frees(number, state), CallError::Unanswered),
            _ => failed(true, CallError::Corrupt),
        }
    }

    /// The answer is there: a claim.
    fn answered(&self, state: State) -> End {
        let (slot, rpc) = (self.slot(), &self.lane.rpc);
        let len = slot.answer_len.load(Ordering::Relaxed);
        let code = refused(slot.refusal.load(Ordering::Relaxed));
        if len > rpc.config.answer_bytes {
            rpc.frees(self.number, state);
            return End::Failed(CallError::Corrupt);
        }
        self.lane.shared().answered.fetch_add(1, Ordering::Relaxed);
        End::Answered { state, len: len as usize, code }
    }

    /// Does not want it any more, as it is in `state`; whether that was so.
    fn gives_up(&self, state: State) -> bool {
        match state.kind() {
            Kind::Taken => self.slot().moves(state, state.turned(Kind::Cancelled)),
            _ => self.lane.rpc.frees(self.number, state),
        }
    }
}

impl<T: OneMapping> Drop for Call<T> {
    /// # If a process dies here
    /// The slot is free, or a server's, or comes back when its owner is reaped.
    fn drop(&mut self) {
        if self.lane.member.check_fork().is_err() {
            return;
        }
        match self.end {
            Some(End::Failed(_)) => {}
            Some(End::Answered { state, .. }) => {
                self.lane.rpc.frees(self.number, state);
            }
            None => {
                // Asked, taken, ended: others move it twice at most.
                for _ in 0..3 {
                    let state = self.slot().state();
                    let is_free = matches!(state.kind(), Kind::Free | Kind::Writing);
                    let is_ours = state.turn() == self.asked.turn() && !is_free;
                    if !is_ours || state.kind() == Kind::Cancelled || self.gives_up(state) {
                        return;
                    }
                }
            }
        }
    }
}

/// Ready once it has ended: [`poll`](Call::poll) tells how.
///
/// ```
/// # use shm_core::{mapping::Mapping, participants::Table};
/// # use shm_mq::rpc::{Rpc, RpcConfig};
/// use shm_mq::waitset::WaitSet;
/// # let config = RpcConfig::new(1, 2, 100, 100);
/// # let at = Table::bytes_for(2).next_multiple_of(64);
/// # let mapping = Mapping::heap((at + Rpc::bytes_for(&config)) as usize);
/// # // SAFETY: nobody else has the mapping.
/// # let table = unsafe { Table::create(&mapping, 0, 2) }?;
/// # // SAFETY: as above, and the table ends before.
/// # let rpc = unsafe { Rpc::create(&mapping, at, &config) }?;
/// # let me = table.join()?;
/// # let (mut server, client) = (rpc.server(&me)?, rpc.client(&me)?);
///
/// let [mut first, mut second] =
///     [b"peel", b"boil"].map(|dish| client.try_ask(dish).unwrap().expect("there is room"));
/// server.try_take()?.expect("there is one").answer(b"peeled")?;
/// let mut set = WaitSet::new();
/// let ended = set.wait(&mut [("peel", &mut first), ("boil", &mut second)], None)?;
/// assert_eq!(ended, ["peel"]);
/// assert_eq!(*first.poll()?.expect("it has ended"), *b"peeled");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl<T: OneMapping> Source for Call<T> {
    fn is_ready(&mut self) -> bool {
        self.has_ended()
    }

    fn bed(&self) -> Option<&EventCount> {
        Some(&self.lane.shared().bell)
    }

    fn peers<'s>(&'s self, to: &mut Vec<&'s Watch>) {
        to.extend(self.awaited.iter().map(|watch| &**watch));
    }

    fn sleep_max(&self) -> Option<Duration> {
        left_until(self.due)
    }
}

impl<T: OneMapping> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("number", &self.number).field("end", &self.end).finish()
    }
}

impl Deref for Answer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Answer").field(&&self.bytes[..]).finish()
    }
}
