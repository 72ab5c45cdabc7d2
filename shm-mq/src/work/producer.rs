//! Sending jobs.
use super::shared::{Due, Kind, Slot, State};
use super::{AHEAD, REAPED_EVERY, WorkQueue, due_in};
use crate::lent::Lent;
use crate::stream::OneMapping;
use crate::wait::look_until;
use crate::waitset::Source;
use shm_core::event::EventCount;
use shm_core::participants::Member;
use shm_core::sync::Ordering;
use shm_core::trust::Crashing;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a job was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The deadline passed.
    #[error("the deadline passed before the queue had room for the job")]
    TimedOut,
    /// No job of this queue is so long.
    #[error("a job of {len} bytes is too long: this queue takes {largest}")]
    TooLong {
        /// Bytes of the job.
        len: usize,
        /// The most that it takes.
        largest: usize,
    },
    /// The handle belongs to the process that this one was forked from.
    #[error("the producer was made by the process that this one was forked from")]
    Forked,
}

/// Who sends jobs: one thread at a time. As many as you like.
///
/// # If a process dies here
/// The jobs that it sent stay. One that it was writing vanishes.
pub struct Producer<T: OneMapping = Crashing> {
    queue: WorkQueue<T>,
    member: Arc<Member>,
    not_sync: PhantomData<Cell<()>>,
}

impl<T: OneMapping> Producer<T> {
    pub(super) fn new(queue: WorkQueue<T>, member: Arc<Member>) -> Producer<T> {
        Producer { queue, member, not_sync: PhantomData }
    }

    /// The queue it sends to.
    pub fn queue(&self) -> &WorkQueue<T> {
        &self.queue
    }

    /// Sends a job if there is a free slot now; `false` where there is none.
    ///
    /// # Errors
    /// [`SendError::TooLong`], [`SendError::Forked`].
    ///
    /// # If a process dies here
    /// The job is in the queue as a whole, or not at all.
    #[inline(always)]
    pub fn try_send(&mut self, job: &[u8]) -> Result<bool, SendError> {
        let Some(mut draft) = self.reserve(job.len())? else { return Ok(false) };
        draft.copy_from_slice(job);
        draft.commit()?;
        Ok(true)
    }

    /// Sends a job, waiting for a free slot until `deadline`, or as long as it takes.
    ///
    /// # Errors
    /// [`SendError`].
    ///
    /// # If a process dies here
    /// As in [`try_send`](Producer::try_send).
    pub fn send(&mut self, job: &[u8], deadline: Option<Instant>) -> Result<(), SendError> {
        if self.try_send(job)? { Ok(()) } else { self.wait_and_send(job, deadline) }
    }

    #[cold]
    fn wait_and_send(&mut self, job: &[u8], deadline: Option<Instant>) -> Result<(), SendError> {
        let look = |producer: &mut Self, _| match producer.try_send(job) {
            Ok(false) => None,
            sent => Some(sent.map(drop)),
        };
        look_until(self, |producer| producer, deadline, look).unwrap_or(Err(SendError::TimedOut))
    }

    /// Lends a slot, to write a job of `len` bytes where it will lie; `None` where none is free.
    ///
    /// # Errors
    /// [`SendError::TooLong`], [`SendError::Forked`].
    ///
    /// # If a process dies here
    /// There is no such job; the slot comes back when its owner is reaped.
    #[inline(always)]
    pub fn reserve(&mut self, len: usize) -> Result<Option<Draft<'_, T>>, SendError> {
        if self.member.check_fork().is_err() {
            return Err(SendError::Forked);
        }
        let (queue, me) = (&self.queue, self.member.id());
        if len > queue.job_bytes {
            return Err(SendError::TooLong { len, largest: queue.job_bytes });
        }
        let count = u64::from(queue.slots());
        let tail = queue.shared.tail.load(Ordering::Relaxed);
        for (step, number) in (0..count).zip(queue.numbers_from(tail)) {
            let at = tail.wrapping_add(step);
            let slot = queue.slot(number);
            let state = State::from_bits(slot.state.load(Ordering::Relaxed));
            if !state.is(Kind::Free) {
                continue;
            }
            let writing = state.written_by(me);
            // Pairs with the Release in `WorkQueue::free`: the last look at the bytes.
            let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
            if slot.state.compare_exchange(state.bits(), writing.bits(), ok, err).is_err() {
                continue;
            }
            // Pairs with the Acquire in `Worker::look`: that the slot is being written.
            let next = queue.shared.tail.fetch_max(at.wrapping_add(1), Ordering::Release);
            // Pairs with the Acquire in `Worker::has_come`: the same. Behind the tail, lest one
            // that dies here say of the next one's place that it was taken.
            slot.at.store(at, Ordering::Release);
            if next > at {
                // Others were faster, and workers may have passed the slot when it was free.
                queue.let_it_be_seen(slot);
            }
            queue.prefetch(number + AHEAD as usize);
            // SAFETY: the slot is ours until the draft is gone.
            let bytes = unsafe { Lent::new(queue.words_of(number), len, queue.moves_in_place()) };
            let ours = Ours { queue, slot, number, state: writing, member: &self.member };
            return Ok(Some(Draft { bytes, len, ours, due: 0 }));
        }
        Ok(None)
    }
}

/// Ready where a slot is free, that [`try_send`](Producer::try_send) takes unless another producer
/// is faster.
///
/// A set that sleeps takes back what the dead have, as [`send`](Producer::send) does.
impl<T: OneMapping> Source for Producer<T> {
    fn is_ready(&mut self) -> bool {
        let is_free =
            |slot: &Slot| State::from_bits(slot.state.load(Ordering::Relaxed)).is(Kind::Free);
        self.member.check_fork().is_err() || self.queue.each_slot().any(is_free)
    }

    fn bed(&self) -> Option<&EventCount> {
        Some(&self.queue.shared.left)
    }

    fn sleep_max(&self) -> Option<Duration> {
        Some(REAPED_EVERY)
    }

    fn woken(&mut self) {
        self.queue.reap(&self.member);
    }
}

impl<T: OneMapping> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("member", &self.member.id()).finish_non_exhaustive()
    }
}

/// A job that is being written. Dropped, it is not sent.
#[must_use = "it is sent by `commit`"]
pub struct Draft<'p, T: OneMapping = Crashing> {
    bytes: Lent<'p>,
    len: usize,
    due: u64,
    /// Dropped after the bytes.
    ours: Ours<'p, T>,
}

/// A slot that is being written.
struct Ours<'p, T: OneMapping> {
    queue: &'p WorkQueue<T>,
    slot: &'p Slot,
    number: usize,
    state: State,
    member: &'p Member,
}

impl<T: OneMapping> Draft<'_, T> {
    /// It is given out to nobody before this time has passed.
    pub fn delay(mut self, by: Duration) -> Self {
        self.due = due_in(by);
        self
    }

    /// Sends the job.
    ///
    /// # Errors
    /// [`SendError::Forked`]: the slot is the parent's.
    ///
    /// # If a process dies here
    /// The job is in the queue as a whole, or not at all.
    #[inline(always)]
    pub fn commit(self) -> Result<(), SendError> {
        let Draft { bytes, len, due, ours } = self;
        // The slot is its parent's.
        if ours.member.check_fork().is_err() {
            return Err(SendError::Forked);
        }
        bytes.finish(ours.queue.words_of(ours.number));
        ours.slot.len.store(len as u64, Ordering::Relaxed);
        ours.slot.due.store(Due::new(ours.state.ready(), due).bits(), Ordering::Relaxed);
        // Pairs with the Acquire in `Worker::look`: the bytes, and the words beside.
        ours.slot.state.store(ours.state.ready().bits(), Ordering::Release);
        ours.queue.shared.arrived.notify();
        std::mem::forget(ours);
        Ok(())
    }
}

impl<T: OneMapping> Drop for Ours<'_, T> {
    /// # If a process dies here
    /// The slot is free, or comes back when its owner is reaped.
    fn drop(&mut self) {
        if self.member.check_fork().is_ok() {
            self.queue.free(self.slot, self.state);
        }
    }
}

impl<T: OneMapping> Deref for Draft<'_, T> {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: OneMapping> DerefMut for Draft<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl<T: OneMapping> fmt::Debug for Draft<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("len", &self.len).finish_non_exhaustive()
    }
}
