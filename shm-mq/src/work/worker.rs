//! Doing jobs.
use super::shared::{Due, Front, Kind, Slot, State};
use super::{AHEAD, NextReady, PASSED, REAPED_EVERY, WorkQueue, due_in};
use crate::stream::OneMapping;
use crate::wait::look_until;
use crate::waitset::Source;
use shm_core::bytes::{View, Word, relaxed};
use shm_core::event::EventCount;
use shm_core::futex::now_ms;
use shm_core::participants::Member;
use shm_core::sync::{Ordering, prefetch_to_write};
use shm_core::trust::Crashing;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a worker has no job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The deadline passed.
    #[error("the deadline passed before there was a job")]
    TimedOut,
    /// Another process wrote nonsense: no job has such a length. It is gone.
    #[error("the queue is corrupt: a job of {len} bytes")]
    Corrupt {
        /// What its slot says.
        len: u64,
    },
    /// The handle belongs to the process that this one was forked from.
    #[error("the worker was made by the process that this one was forked from")]
    Forked,
}

/// The job is not the caller's any more: its lease has ended, or it is a forked child.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the job is not this worker's any more")]
pub struct Lost;

/// Who does jobs: one thread at a time, one job at a time. As many as you like.
///
/// # If a process dies here
/// The job that it was doing is given to another one, before all others.
pub struct Worker<T: OneMapping = Crashing> {
    queue: WorkQueue<T>,
    member: Arc<Member>,
    /// As it was when we looked at it last.
    tail: u64,
    /// What it was when we took a job last, and how far we have passed what it will pass.
    seen: Front,
    /// The slot at which the next look for dead jobs begins.
    next_dead: usize,
    /// A job, where it is not lent where it lies.
    copy: Vec<u8>,
    /// What its job is, while there is one.
    claimed: Claimed,
    not_sync: PhantomData<Cell<()>>,
}

/// What a look at the slots has found.
enum Found {
    /// Slot and state, ours from now on.
    Job(usize, State),
    Nothing,
}

/// A job that is ours, and was looked at.
#[derive(Clone, Copy)]
pub(super) struct Claimed {
    number: usize,
    state: State,
    due: Due,
    len: usize,
}

/// So often a look begins anew; each time somebody sent a job or brought one back. Then it takes
/// what it finds, be it out of its turn.
const LOOKS_MAX: u32 = 64;

/// So often a look passes each slot at most. Producers that find no free slot pass places that are
/// freed at that moment, so the tail may well be more than one lap ahead of who is not late.
const LAPS: u64 = if cfg!(shm_loom) { 1 } else { 2 };

impl<T: OneMapping> Worker<T> {
    pub(super) fn new(queue: WorkQueue<T>, member: Arc<Member>) -> Worker<T> {
        let (tail, seen, next_dead, copy) = (0, Front::from_bits(0), 0, Vec::new());
        let claimed = Claimed { number: 0, state: State::FREE, due: Due::from_bits(0), len: 0 };
        Worker { queue, member, tail, seen, next_dead, copy, claimed, not_sync: PhantomData }
    }

    /// The queue it works for.
    pub fn queue(&self) -> &WorkQueue<T> {
        &self.queue
    }

    /// The next job, if one is ready.
    ///
    /// # Errors
    /// [`ClaimError::Corrupt`], [`ClaimError::Forked`].
    ///
    /// # If a process dies here
    /// The job is ready, or names its worker, and comes back when that one is reaped.
    #[inline(always)]
    pub fn try_claim(&mut self) -> Result<Option<Job<'_, T>>, ClaimError> {
        match self.look()? {
            Some(claimed) => Ok(Some(self.job(claimed))),
            None => Ok(None),
        }
    }

    /// The next job, waiting until `deadline`, or as long as it takes.
    ///
    /// # Errors
    /// [`ClaimError`].
    ///
    /// # If a process dies here
    /// As in [`try_claim`](Worker::try_claim).
    pub fn claim(&mut self, deadline: Option<Instant>) -> Result<Job<'_, T>, ClaimError> {
        let claimed = match self.look()? {
            Some(claimed) => claimed,
            None => self.wait(deadline)?,
        };
        Ok(self.job(claimed))
    }

    #[cold]
    fn wait(&mut self, deadline: Option<Instant>) -> Result<Claimed, ClaimError> {
        let look = |worker: &mut Self, _| worker.look().transpose();
        look_until(self, |worker| worker, deadline, look).unwrap_or(Err(ClaimError::TimedOut))
    }

    /// Takes a dead job, to look at it: [`ack`](Job::ack) takes it away,
    /// [`retry`](Job::retry) lets it be tried anew, anything else leaves it dead.
    ///
    /// # Errors
    /// As [`try_claim`](Worker::try_claim).
    ///
    /// # If a process dies here
    /// The job is dead still, once its owner is reaped.
    pub fn try_claim_dead(&mut self) -> Result<Option<Job<'_, T>>, ClaimError> {
        self.member.check_fork().map_err(|_| ClaimError::Forked)?;
        for _ in 0..self.queue.slots() {
            let number = self.next_dead % self.queue.slots() as usize;
            self.next_dead = number + 1;
            let slot = self.queue.slot(number);
            // Pairs with the Releases of all who set states: the bytes.
            let state = State::from_bits(slot.state.load(Ordering::Acquire));
            if state.is(Kind::Dead)
                && let Some(state) = self.take(slot, state)
                && let Some(claimed) = self.fetch(number, state)?
            {
                return Ok(Some(self.job(claimed)));
            }
        }
        Ok(None)
    }

    #[inline(always)]
    fn take(&self, slot: &Slot, state: State) -> Option<State> {
        let doing = state.done_by(self.member.id());
        // Relaxed: the Acquire was the load's.
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        let taken = slot.state.compare_exchange(state.bits(), doing.bits(), ok, err);
        taken.is_ok().then_some(doing)
    }

    /// Looks at the job of a slot that we have taken; `None` where we have lost it already.
    #[inline(always)]
    fn fetch(&mut self, number: usize, state: State) -> Result<Option<Claimed>, ClaimError> {
        let Worker { queue, copy, .. } = self;
        let slot = queue.slot(number);
        let due = queue.begin_lease(slot, state);
        let len = slot.len.load(Ordering::Relaxed);
        if len > queue.job_bytes as u64 {
            return if queue.free(slot, state) {
                Err(ClaimError::Corrupt { len })
            } else {
                Ok(None)
            };
        }
        let len = len as usize;
        if !queue.moves_in_place() {
            copy.clear();
            copy.resize(len, 0);
            relaxed::copy_out(queue.words_of(number), 0, copy);
        }
        let is_ours = queue.lease_ms == 0 || queue.is_still(slot, state);
        Ok(is_ours.then_some(Claimed { number, state, due, len }))
    }

    /// Looks for the next job, and takes it.
    #[inline(always)]
    pub(super) fn look(&mut self) -> Result<Option<Claimed>, ClaimError> {
        self.member.check_fork().map_err(|_| ClaimError::Forked)?;
        // A lease that ends at once is another one's job.
        for _ in 0..LOOKS_MAX {
            match self.find() {
                Found::Nothing => {
                    // Who fell asleep just when a job was done, and was not seen.
                    self.queue.shared.left.notify();
                    return Ok(None);
                }
                Found::Job(number, state) => {
                    if let Some(claimed) = self.fetch(number, state)? {
                        return Ok(Some(claimed));
                    }
                }
            }
        }
        Ok(None)
    }

    #[inline(always)]
    fn find(&mut self) -> Found {
        // What lies before the tail that we saw last is as good as any, and costs less.
        let front = self.front();
        if self.first(front) == self.tail && self.has_come(self.tail) {
            self.tail += 1;
        }
        if self.first(front) < self.tail
            && let Some(Found::Job(number, state)) = self.look_until(self.tail, front, true)
        {
            return Found::Job(number, state);
        }
        let in_turn = (0..LOOKS_MAX).find_map(|_| self.look_anew(true));
        in_turn.or_else(|| self.look_anew(false)).unwrap_or(Found::Nothing)
    }

    #[inline(always)]
    fn front(&self) -> Front {
        // Pairs with the Release in `let_it_be_seen`: the jobs that were brought back.
        Front::from_bits(self.queue.shared.head.load(Ordering::Acquire))
    }

    fn look_anew(&mut self, is_in_turn: bool) -> Option<Found> {
        let front = self.front();
        // Pairs with the Release in `Producer::reserve`: which slots before it are being written.
        self.tail = self.queue.shared.tail.load(Ordering::Acquire);
        self.look_until(self.tail, front, is_in_turn)
    }

    /// Looks for a job from `head` on, and takes it; `None` where `head` has come back meanwhile,
    /// so that the job would be out of its turn.
    #[inline(always)]
    fn look_until(&mut self, tail: u64, front: Front, is_in_turn: bool) -> Option<Found> {
        let count = u64::from(self.queue.slots());
        let lap = tail.saturating_sub(LAPS * count);
        if front.position() < lap {
            if let Some(found) = self.look_back(lap, is_in_turn.then_some(front)) {
                return Some(found);
            }
            self.pass(front, lap);
        }
        // One that is behind the tail is a liar's, or the tail is older than it.
        let first =
            if front.position() > tail { lap } else { self.first(front).min(tail).max(lap) };
        let (mut passed, mut is_unbroken, mut now) = (first, true, None);
        for (at, number) in (first..tail).zip(self.queue.numbers_from(first)) {
            let slot = self.queue.slot(number);
            // To be taken: the line need not come twice.
            prefetch_to_write(&slot.state);
            // Pairs with the Releases of all who set states: the bytes, and the words beside.
            let state = State::from_bits(slot.state.load(Ordering::Acquire));
            match state.kind() {
                Some(Kind::Ready) if self.is_of_this_lap(slot, at) => {
                    let due = due_of(slot, state);
                    if due != 0 && due > *now.get_or_insert_with(now_ms) {
                        is_unbroken = false;
                    } else if is_in_turn && self.has_come_back(front) {
                        return None;
                    } else if let Some(doing) = self.take(slot, state) {
                        if tail - at > AHEAD {
                            self.queue.prefetch(number + AHEAD as usize);
                        }
                        passed += u64::from(is_unbroken);
                        if passed >= front.position() + PASSED {
                            self.pass(front, passed);
                        }
                        self.seen = front.at(passed);
                        return Some(Found::Job(number, doing));
                    }
                }
                Some(Kind::Writing) => is_unbroken = false,
                _ => {}
            }
            passed += u64::from(is_unbroken);
        }
        if passed > front.position() {
            self.pass(front, passed);
        }
        Some(Found::Nothing)
    }

    /// Whether somebody has taken the slot of this position. Then the tail is behind it, and
    /// is left to the producers, who write it all the time.
    #[inline(always)]
    fn has_come(&self, at: u64) -> bool {
        let slot = self.queue.slot((at % u64::from(self.queue.slots())) as usize);
        // Pairs with the Release in `Producer::reserve`: that the slot is being written.
        slot.at.load(Ordering::Acquire) == at
    }

    /// Where a look begins: what this worker has passed itself, and `head` does not say yet, it
    /// does not look at again, unless somebody has brought a job back since.
    #[inline(always)]
    fn first(&self, front: Front) -> u64 {
        let is_since = self.seen.times_back() == front.times_back();
        let ahead = self.seen.position().wrapping_sub(front.position());
        front.position() + if is_since && ahead <= PASSED { ahead } else { 0 }
    }

    /// Whether the job of a slot is to be taken at this position. One that was sent since we looked
    /// at the tail is looked at there; what no tail was ever behind is a liar's, and taken.
    #[inline(always)]
    fn is_of_this_lap(&self, slot: &Slot, at: u64) -> bool {
        let its = slot.at.load(Ordering::Relaxed);
        // Its producer moved the tail before the state said ready, which we have seen.
        its <= at || its >= self.queue.shared.tail.load(Ordering::Relaxed)
    }

    /// Whether somebody brought `head` back since it was `front`. By who has seen a job: he sees
    /// then what its producer had sent before, also where that lies before `front`.
    #[inline(always)]
    fn has_come_back(&self, front: Front) -> bool {
        let now = Front::from_bits(self.queue.shared.head.load(Ordering::Relaxed));
        now.times_back() != front.times_back()
    }

    /// Takes the oldest of the jobs that were brought back from before `lap`.
    #[cold]
    fn look_back(&self, lap: u64, in_turn: Option<Front>) -> Option<Found> {
        for _ in 0..self.queue.slots() {
            let ready = self.queue.each_slot().enumerate().filter_map(|(number, slot)| {
                // Pairs with the Releases of all who set states, as in `look`.
                let state = State::from_bits(slot.state.load(Ordering::Acquire));
                let (at, due) = (slot.at.load(Ordering::Relaxed), due_of(slot, state));
                let is_one = state.is(Kind::Ready) && at < lap && (due == 0 || due <= now_ms());
                is_one.then_some((at, number, state))
            });
            let (_, number, state) = ready.min_by_key(|(at, ..)| *at)?;
            if in_turn.is_some_and(|front| self.has_come_back(front)) {
                return None;
            }
            if let Some(doing) = self.take(self.queue.slot(number), state) {
                return Some(Found::Job(number, doing));
            }
        }
        None
    }

    /// Lets `head` pass slots that were looked at since it was `front`.
    #[inline(always)]
    fn pass(&self, front: Front, to: u64) {
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        let head = &self.queue.shared.head;
        // Fails where somebody brought a job back meanwhile.
        let _ = head.compare_exchange(front.bits(), front.at(to).bits(), ok, err);
    }

    #[inline(always)]
    pub(super) fn job(&mut self, claimed: Claimed) -> Job<'_, T> {
        let Claimed { number, len, .. } = claimed;
        self.claimed = claimed;
        let bytes = if self.queue.moves_in_place() {
            let words: *const [Word] = self.queue.words_of(number);
            // SAFETY: they lie in the mapping, which the worker keeps, and not in it.
            let words = unsafe { &*words };
            // SAFETY: the slot is ours until `Held` gives it back, after the view.
            unsafe { View::new(words, 0, len) }
        } else {
            let copy: *const [u8] = self.copy.as_slice();
            // SAFETY: nobody touches the copy before the next job.
            View::from(unsafe { &*copy })
        };
        Job { bytes, held: Held { worker: self } }
    }
}

/// When a job is due that is ready in this `state`; 0: at once.
#[inline(always)]
pub(super) fn due_of(slot: &Slot, state: State) -> u64 {
    Due::from_bits(slot.due.load(Ordering::Relaxed)).of(state).unwrap_or(0)
}

/// Ready where a job is, that [`try_claim`](Worker::try_claim) gives unless another worker is
/// faster.
///
/// A set that sleeps takes back what the dead have, as [`claim`](Worker::claim) does.
impl<T: OneMapping> Source for Worker<T> {
    fn is_ready(&mut self) -> bool {
        self.member.check_fork().is_err() || self.queue.next_ready() == NextReady::Now
    }

    fn bed(&self) -> Option<&EventCount> {
        Some(&self.queue.shared.arrived)
    }

    fn sleep_max(&self) -> Option<Duration> {
        Some(match self.queue.next_ready() {
            // It is due since we looked.
            NextReady::Now => Duration::ZERO,
            NextReady::At(due) => {
                Duration::from_millis(due.saturating_sub(now_ms())).min(REAPED_EVERY)
            }
            NextReady::Never => REAPED_EVERY,
        })
    }

    fn woken(&mut self) {
        self.queue.reap(&self.member);
    }
}

impl<T: OneMapping> fmt::Debug for Worker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("member", &self.member.id()).finish_non_exhaustive()
    }
}

/// A job that is this worker's. Dropped, it goes back, with one attempt more.
pub struct Job<'w, T: OneMapping = Crashing> {
    bytes: View<'w>,
    /// Dropped after the bytes.
    held: Held<'w, T>,
}

/// One word, for it is moved about.
struct Held<'w, T: OneMapping> {
    worker: &'w mut Worker<T>,
}

impl<'w, T: OneMapping> Job<'w, T> {
    /// Nobody looks at the bytes any more.
    #[inline(always)]
    fn into_held(self) -> Held<'w, T> {
        self.held
    }

    /// How many workers had it before, and did not say that it is done.
    pub fn attempts(&self) -> u32 {
        self.held.worker.claimed.state.attempts() as u32
    }

    /// It is done, and goes away.
    ///
    /// # Errors
    /// [`Lost`].
    ///
    /// # If a process dies here
    /// It is done, or it comes back.
    #[inline(always)]
    pub fn ack(self) -> Result<(), Lost> {
        let held = self.into_held();
        let is_done = held.is_ours() && held.queue().done(held.slot(), held.state());
        std::mem::forget(held);
        if is_done { Ok(()) } else { Err(Lost) }
    }

    /// It needs longer: its lease ends in `by`, where the queue has leases.
    ///
    /// # Errors
    /// [`Lost`]: the lease has ended.
    ///
    /// # If a process dies here
    /// The job comes back.
    pub fn extend(&mut self, by: Duration) -> Result<(), Lost> {
        let held = &mut self.held;
        if held.queue().lease_ms == 0 {
            return if held.is_ours() { Ok(()) } else { Err(Lost) };
        }
        let end = due_in(by);
        let is_extended = held.is_ours()
            && held.worker.claimed.due.of(held.state()).is_some_and(|end| end > now_ms())
            && held.sets_due(Due::new(held.state(), end))
            && held.queue().is_still(held.slot(), held.state());
        if is_extended { Ok(()) } else { Err(Lost) }
    }

    /// It is to be tried again, after `delay`; it is before all others then, or dead, if this was
    /// the last attempt.
    ///
    /// # Errors
    /// [`Lost`].
    ///
    /// # If a process dies here
    /// It comes back.
    pub fn nack(self, delay: Duration) -> Result<(), Lost> {
        let mut held = self.into_held();
        let due = due_in(delay);
        let is_back = held.is_ours() && {
            // Where somebody else has changed it, the state says whether the job is ours still.
            held.sets_due(Due::new(held.state().again(), due));
            held.queue().bring_back(held.slot(), held.state())
        };
        std::mem::forget(held);
        if is_back { Ok(()) } else { Err(Lost) }
    }

    /// It is to be tried as if it never had been: for dead ones that may live again.
    ///
    /// # Errors
    /// [`Lost`].
    ///
    /// # If a process dies here
    /// It is ready, or what it was.
    pub fn retry(self) -> Result<(), Lost> {
        let held = self.into_held();
        let is_back = held.is_ours() && held.queue().set_ready(held.slot(), held.state());
        std::mem::forget(held);
        if is_back { Ok(()) } else { Err(Lost) }
    }
}

impl<T: OneMapping> Held<'_, T> {
    #[inline(always)]
    fn is_ours(&self) -> bool {
        self.worker.member.check_fork().is_ok()
    }

    #[inline(always)]
    fn queue(&self) -> &WorkQueue<T> {
        &self.worker.queue
    }

    #[inline(always)]
    fn slot(&self) -> &Slot {
        self.queue().slot(self.worker.claimed.number)
    }

    #[inline(always)]
    fn state(&self) -> State {
        self.worker.claimed.state
    }

    /// Changes the slot's time, unless somebody else has: who loses his lease at this moment
    /// changes no time of the next one's.
    fn sets_due(&mut self, due: Due) -> bool {
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        let seen = self.worker.claimed.due;
        let is_set = self.slot().due.compare_exchange(seen.bits(), due.bits(), ok, err).is_ok();
        self.worker.claimed.due = if is_set { due } else { seen };
        is_set
    }
}

impl<T: OneMapping> Drop for Held<'_, T> {
    /// # If a process dies here
    /// It comes back when its owner is reaped.
    // Inlined, lest the job be kept in memory for it.
    #[inline(always)]
    fn drop(&mut self) {
        if self.is_ours() {
            self.queue().bring_back(self.slot(), self.state());
        }
    }
}

impl<T: OneMapping> Deref for Job<'_, T> {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: OneMapping> fmt::Debug for Job<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Job").field(&&self.bytes[..]).finish()
    }
}
