//! `work`: jobs from many producers to many workers, each done by one, whoever dies.
//!
//! ```text
//!            ┌────────────────── its producer dies ────────────────┐
//!            ▼                                                     │
//!          FREE ──► WRITING(p) ──► READY ──► DOING(w) ──► FREE     │  p, w: who may be killed
//!                       └──────────│───────────│───────────────────┘
//!                                  ▲           │ w dies, or gives it back: one attempt more
//!                                  └───────────┤
//!                                              └──► DEAD           after `attempts_max` of them
//! ```
//!
//! A job is written once, in place, in a slot; then it changes hands by one compare-and-swap of the
//! slot's state, which names the new owner. So there is no moment at which a job is nobody's and
//! cannot be found: `tail` and `head` only say where to look, and anybody sets them right. A
//! stopped process keeps its own slots, and nothing else: others pass them. Where the queue has
//! leases, whoever reaps takes its job away when the time is over (`Due` in `shared.rs`); jobs are
//! copied then, since who has lost one may still be reading it.
//!
//! Producers take the first free slot from `tail` on, workers the first ready one from `head` on,
//! so of two jobs the one that was sent before the other was begun is given out first. A job that
//! comes back is before all others.
//!
//! `head` passes a place only where nothing will be ready. It is never beyond `tail`; who sees a
//! `tail` beyond a place sees who took the slot for it, or what came later; and who takes a slot
//! for a place that `tail` has passed already, as who brings a job back, moves `head` down to it,
//! and counts, so that nobody who looked before moves it up again, or takes a later job first.
//!
//! | dies after | what there is |
//! | --- | --- |
//! | (producer) taking a slot | a slot that names the dead; [`reap`](crate::work::WorkQueue::reap) frees it |
//! | READY, before the wake-up | the job; workers look again by themselves |
//! | (worker) taking a job | a job that names the dead; `reap` brings it back, or calls it dead |
//! | (worker) FREE, before the wake-up | a free slot; producers look again by themselves |
//! | (reaper) READY, before `head` comes back | a job before `head`; the next reaper sees it |
//!
//! Who waits reaps now and then, so a death costs a bounded wait; who learns of one by other means
//! calls `reap` at once.
// Inlined, as in `spsc`.
mod priorities;
mod producer;
mod shared;
mod worker;

pub use priorities::Priorities;
pub use producer::{Draft, Producer, SendError};
pub use worker::{ClaimError, Job, Lost, Worker};

use crate::stream::OneMapping;
use shared::{Due, Front, Kind, MAGIC, Shared, Slot, State};
use shm_core::BadPtr;
use shm_core::bytes::Word;
use shm_core::futex::now_ms;
use shm_core::mapping::{Mapped, MappedRows, Mapping};
use shm_core::participants::{Member, ParticipantId};
use shm_core::process::{Forked, Liveness};
use shm_core::sync::{Ordering, prefetch_to_write};
use shm_core::trust::Crashing;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// A queue has at most so many slots.
pub const SLOTS_MAX: u32 = 1 << 20;

/// Rounds in which a word may change under us. Among honest processes each is somebody's success.
const ROUNDS_MAX: u32 = 1 << 16;

/// Slots between one that is written or taken and one that is fetched to be.
const AHEAD: u64 = 4;

/// So many slots are passed by a worker at most before `head` says so.
const PASSED: u64 = if cfg!(any(shm_loom, shm_explore)) { 2 } else { 8 };

/// Who waits looks this often whether somebody has died.
const REAPED_EVERY: Duration = Duration::from_millis(50);

/// What a queue is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkConfig {
    /// Jobs that there can be at a time: 1 to [`SLOTS_MAX`].
    pub slots: u32,
    /// The longest job, in bytes.
    pub job_bytes: u64,
    /// A job that was given to so many workers, none of which said that it is done, is dead: 1 to
    /// 255.
    pub attempts_max: u8,
    /// What the jobs are: who attaches is to know the same. 0: bytes.
    pub fingerprint: u64,
    /// A worker that has not said so many milliseconds after it took a job that it is done, or
    /// that it [needs longer](Job::extend), loses it: it comes back, with one attempt more. 0: only
    /// death takes a job away. With leases, jobs are copied.
    pub lease_ms: u64,
}

impl WorkConfig {
    /// For `slots` jobs of up to `job_bytes`, each tried three times.
    pub const fn new(slots: u32, job_bytes: u64) -> WorkConfig {
        WorkConfig { slots, job_bytes, attempts_max: 3, fingerprint: 0, lease_ms: 0 }
    }
}

/// Why a queue could not be created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// There is no such queue.
    #[error("a queue cannot be made with {what} of {value}")]
    Config {
        /// Which figure.
        what: &'static str,
        /// What it is.
        value: u64,
    },
    /// The queue does not fit there.
    #[error("the queue does not fit into the mapping")]
    Place(#[from] BadPtr),
}

/// Why a queue could not be attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The offset is outside the mapping, or odd.
    #[error("no queue can be there")]
    Place(#[from] BadPtr),
    /// Something else is there, or a queue of another version.
    #[error("no queue of this version is there (found {found:#x})")]
    NotAQueue {
        /// What stands in place of the magic number.
        found: u64,
    },
    /// Its jobs are others.
    #[error("the queue is one of other jobs (fingerprint {found:#x})")]
    OtherJobs {
        /// What its creator said of them.
        found: u64,
    },
    /// Its size makes no sense.
    #[error("the queue is corrupt")]
    Corrupt,
}

/// What a queue holds, as [`WorkQueue::status`] saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// Slots for jobs to come.
    pub free: u32,
    /// Jobs that are being written.
    pub writing: u32,
    /// Jobs that wait for a worker, or for their time.
    pub ready: u32,
    /// Jobs that a worker has.
    pub doing: u32,
    /// Jobs that were tried too often.
    pub dead: u32,
}

/// A queue of jobs in shared memory.
///
/// `T` says what its peers may do: see [`with_peers`](WorkQueue::with_peers).
#[derive(Debug)]
pub struct WorkQueue<T: OneMapping = Crashing> {
    shared: Mapped<Shared>,
    slots: MappedRows<Slot>,
    /// The bytes of each slot's job, behind it.
    words: MappedRows<Word>,
    attempts_max: u64,
    lease_ms: u64,
    job_bytes: usize,
    level: PhantomData<T>,
}

/// When there will be a job, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum NextReady {
    Now,
    /// In milliseconds of the clock.
    At(u64),
    Never,
}

/// Words of a job.
const fn words_for(job_bytes: u64) -> u64 {
    job_bytes.div_ceil(size_of::<u64>() as u64)
}

/// Bytes of a slot and of what follows it: whole cache lines.
const fn stride_for(job_bytes: u64) -> u64 {
    let bytes = size_of::<Slot>() as u64 + words_for(job_bytes) * size_of::<Word>() as u64;
    bytes.next_multiple_of(64)
}

/// When `delay` has passed, in milliseconds of the clock; 0: at once.
fn due_in(delay: Duration) -> u64 {
    match u64::try_from(delay.as_millis()) {
        _ if delay.is_zero() => 0,
        Ok(ms) => now_ms().saturating_add(ms.max(1)),
        Err(_) => u64::MAX,
    }
}

impl WorkQueue {
    /// Bytes of mapping for such a queue.
    ///
    /// ```
    /// use shm_mq::work::{WorkConfig, WorkQueue};
    /// // A slot takes 32 bytes, and whole cache lines.
    /// assert_eq!(WorkQueue::bytes_for(&WorkConfig::new(16, 32)), 384 + 16 * 64);
    /// assert_eq!(WorkQueue::bytes_for(&WorkConfig::new(16, 96)), 384 + 16 * 128);
    /// ```
    pub const fn bytes_for(config: &WorkConfig) -> u64 {
        let bytes = if config.job_bytes > JOB_BYTES_MAX { JOB_BYTES_MAX } else { config.job_bytes };
        size_of::<Shared>() as u64 + config.slots as u64 * stride_for(bytes)
    }

    /// Makes a queue at `offset` of `mapping`, a multiple of 64.
    ///
    /// ```
    /// use shm_core::{mapping::Mapping, participants::Table};
    /// use shm_mq::work::{WorkConfig, WorkQueue};
    ///
    /// let config = WorkConfig::new(16, 100);
    /// let at = Table::bytes_for(2).next_multiple_of(64);
    /// let mapping = Mapping::heap((at + WorkQueue::bytes_for(&config)) as usize);
    /// // SAFETY: nobody else has the mapping.
    /// let table = unsafe { Table::create(&mapping, 0, 2) }?;
    /// // SAFETY: as above, and the table ends before.
    /// let queue = unsafe { WorkQueue::create(&mapping, at, &config) }?;
    ///
    /// let me = table.join()?;
    /// let (mut producer, mut worker) = (queue.producer(&me)?, queue.worker(&me)?);
    /// assert!(producer.try_send(b"peel the potatoes")?);
    /// let job = worker.try_claim()?.expect("there is one");
    /// assert_eq!(*job, *b"peel the potatoes");
    /// job.ack()?;
    /// assert!(worker.try_claim()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Safety
    /// Nobody else uses these [`bytes_for`](WorkQueue::bytes_for) bytes. The offset is handed out
    /// only afterwards, in a way that orders memory: a toc entry, a segment's handle, the start of
    /// a process.
    ///
    /// # Errors
    /// [`CreateError`].
    ///
    /// # If a process dies here
    /// Nobody has the offset: the bytes are as unused as before.
    pub unsafe fn create(
        m: &Arc<Mapping>,
        offset: u64,
        config: &WorkConfig,
    ) -> Result<WorkQueue, CreateError> {
        let bad = |what, value| Err(CreateError::Config { what, value });
        match config {
            _ if !(1..=SLOTS_MAX).contains(&config.slots) => {
                return bad("slots", config.slots.into());
            }
            _ if config.job_bytes > JOB_BYTES_MAX => return bad("bytes a job", config.job_bytes),
            _ if config.attempts_max == 0 => return bad("attempts", 0),
            _ => {}
        }
        // Before anything is written.
        m.region().range(offset, WorkQueue::bytes_for(config))?;
        // SAFETY: nobody else uses these bytes, the caller says.
        unsafe { Mapped::place(m, offset, Shared::new(config)) }?;
        let slots_at = offset + size_of::<Shared>() as u64;
        for slot in 0..u64::from(config.slots) {
            let at = slots_at + slot * stride_for(config.job_bytes);
            // SAFETY: as above.
            unsafe { Mapped::place(m, at, Slot::new()) }?;
            let words_at = at + size_of::<Slot>() as u64;
            for word in 0..words_for(config.job_bytes) {
                let at = words_at + word * size_of::<Word>() as u64;
                // SAFETY: as above.
                unsafe { Mapped::place(m, at, Word::new()) }?;
            }
        }
        match WorkQueue::attach(m, offset, config.fingerprint) {
            Ok(queue) => Ok(queue),
            Err(AttachError::Place(place)) => Err(place.into()),
            Err(error) => unreachable!("it has just been made: {error}"),
        }
    }

    /// The queue at `offset` of `mapping`, whose jobs are what `fingerprint` says.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(
        m: &Arc<Mapping>,
        offset: u64,
        fingerprint: u64,
    ) -> Result<WorkQueue, AttachError> {
        let shared = Mapped::<Shared>::new(m, offset)?;
        let found = shared.magic.load(Ordering::Relaxed);
        if found != MAGIC {
            return Err(AttachError::NotAQueue { found });
        }
        let found = shared.fingerprint.load(Ordering::Relaxed);
        if found != fingerprint {
            return Err(AttachError::OtherJobs { found });
        }
        let count = shared.slots.load(Ordering::Relaxed);
        let job_bytes = shared.job_bytes.load(Ordering::Relaxed);
        let attempts_max = shared.attempts_max.load(Ordering::Relaxed);
        let is_sane = (1..=u64::from(SLOTS_MAX)).contains(&count)
            && job_bytes <= JOB_BYTES_MAX
            && (1..=u64::from(u8::MAX)).contains(&attempts_max);
        if !is_sane {
            return Err(AttachError::Corrupt);
        }
        let slots_at = offset + size_of::<Shared>() as u64;
        let stride = stride_for(job_bytes);
        let slots = MappedRows::new(m, slots_at, stride, count, 1);
        let words_at = slots_at + size_of::<Slot>() as u64;
        let words = MappedRows::new(m, words_at, stride, count, words_for(job_bytes));
        let (Ok(slots), Ok(words)) = (slots, words) else { return Err(AttachError::Corrupt) };
        Ok(WorkQueue {
            slots,
            words,
            attempts_max,
            lease_ms: shared.lease.load(Ordering::Relaxed),
            shared,
            job_bytes: job_bytes as usize,
            level: PhantomData,
        })
    }
}

/// The longest job of any queue.
pub const JOB_BYTES_MAX: u64 = 1 << 32;

impl<T: OneMapping> Clone for WorkQueue<T> {
    fn clone(&self) -> WorkQueue<T> {
        self.at_level()
    }
}

impl<T: OneMapping> WorkQueue<T> {
    fn at_level<U: OneMapping>(&self) -> WorkQueue<U> {
        WorkQueue {
            shared: self.shared.clone(),
            slots: self.slots.clone(),
            words: self.words.clone(),
            attempts_max: self.attempts_max,
            lease_ms: self.lease_ms,
            job_bytes: self.job_bytes,
            level: PhantomData,
        }
    }

    /// The same queue for who trusts its peers less, or more:
    /// [`Buggy`](shm_core::trust::Buggy) for those that may write nonsense anywhere.
    pub fn with_peers<U: OneMapping>(self) -> WorkQueue<U> {
        self.at_level()
    }

    /// The longest job, in bytes.
    pub fn job_bytes(&self) -> usize {
        self.job_bytes
    }

    /// Slots there are.
    pub fn slots(&self) -> u32 {
        self.slots.rows() as u32
    }

    /// For one thread of `me` that sends jobs.
    ///
    /// # Errors
    /// [`Forked`]: the seat is the parent's.
    pub fn producer(&self, me: &Arc<Member>) -> Result<Producer<T>, Forked> {
        me.check_fork()?;
        Ok(Producer::new(self.clone(), me.clone()))
    }

    /// For one thread of `me` that does jobs.
    ///
    /// # Errors
    /// [`Forked`]: the seat is the parent's.
    pub fn worker(&self, me: &Arc<Member>) -> Result<Worker<T>, Forked> {
        me.check_fork()?;
        Ok(Worker::new(self.clone(), me.clone()))
    }

    /// What the queue holds now: each slot looked at once, not together.
    pub fn status(&self) -> Status {
        let mut status = Status::default();
        for slot in self.each_slot() {
            let state = State::from_bits(slot.state.load(Ordering::Relaxed));
            match state.kind() {
                Some(Kind::Free) => status.free += 1,
                Some(Kind::Writing) => status.writing += 1,
                Some(Kind::Ready) => status.ready += 1,
                Some(Kind::Doing) => status.doing += 1,
                Some(Kind::Dead) => status.dead += 1,
                None => {}
            }
        }
        status
    }

    /// Takes back what the dead have: what they were writing vanishes, what they were doing is
    /// ready again, or dead, as is that whose lease has ended. How many slots.
    ///
    /// Who waits does so itself, every 50 ms; a supervisor that learns of a death calls it at once.
    ///
    /// # If a process dies here
    /// The next one to reap goes on.
    pub fn reap(&self, me: &Member) -> usize {
        let (mut reaped, mut last) = (0, None);
        let table = me.table();
        for slot in self.each_slot() {
            // Relaxed: what the dead did is seen by the proof of the death.
            let state = State::from_bits(slot.state.load(Ordering::Relaxed));
            let mut is_dead = |owner: ParticipantId| {
                if last.is_none_or(|(asked, _)| asked != owner) {
                    last = Some((owner, table.liveness(owner) == Liveness::Dead));
                }
                last.is_some_and(|(_, dead)| dead)
            };
            match (state.kind(), state.owner()) {
                (Some(Kind::Writing), Some(owner)) if is_dead(owner) => {
                    reaped += usize::from(self.free(slot, state));
                }
                (Some(Kind::Doing), Some(owner)) if is_dead(owner) => {
                    reaped += usize::from(self.bring_back(slot, state));
                }
                (Some(Kind::Doing), _) if self.lease_ends(slot, state) => {
                    reaped += usize::from(self.bring_back(slot, state));
                }
                (Some(Kind::Ready), _) => {
                    // One that somebody brought back who died at it; also where some worker has
                    // passed its slot, and `head` does not say so yet.
                    let front = Front::from_bits(self.shared.head.load(Ordering::Relaxed));
                    if slot.at.load(Ordering::Relaxed) < front.position() + PASSED {
                        self.let_it_be_seen(slot);
                    }
                }
                _ => {}
            }
        }
        reaped
    }

    /// Whether bytes are moved where they lie. Who has lost his lease may still read them.
    fn moves_in_place(&self) -> bool {
        T::IN_PLACE && self.lease_ms == 0
    }

    /// The time of a job that is being done in `state`: the end of its lease, if there are leases.
    /// It begins here where nobody has come to say so.
    #[inline(always)]
    fn begin_lease(&self, slot: &Slot, state: State) -> Due {
        let seen = slot.due.load(Ordering::Relaxed);
        if self.lease_ms == 0 || Due::from_bits(seen).of(state).is_some() {
            return Due::from_bits(seen);
        }
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        let lease = Due::new(state, now_ms().saturating_add(self.lease_ms));
        let set = slot.due.compare_exchange(seen, lease.bits(), ok, err);
        set.map_or_else(Due::from_bits, |_| lease)
    }

    /// Whether a job is still the one in this `state`, after its bytes were read.
    fn is_still(&self, slot: &Slot, state: State) -> bool {
        // Pairs with the Acquire in `Producer::reserve`: what we have read, before that is written
        // over.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        slot.state.compare_exchange(state.bits(), state.bits(), ok, err).is_ok()
    }

    /// Whether the lease of a job that is being done in `state` has ended.
    fn lease_ends(&self, slot: &Slot, state: State) -> bool {
        // In a model no time passes, or any.
        let is_over = |end| end <= now_ms() || cfg!(any(shm_loom, shm_explore));
        self.lease_ms != 0 && self.begin_lease(slot, state).of(state).is_some_and(is_over)
    }

    /// Whether a job is ready now, or when the next one is due.
    fn next_ready(&self) -> NextReady {
        let (count, tail) = (self.slots.rows() as u64, self.shared.tail.load(Ordering::Relaxed));
        let front = Front::from_bits(self.shared.head.load(Ordering::Relaxed)).position();
        // Each slot once; behind the tail, and before the last lap, all.
        let lap = tail.saturating_sub(count);
        let (mut next, mut now) = (NextReady::Never, None);
        for at in if (lap..=tail).contains(&front) { front..tail } else { lap..tail } {
            let slot = self.slot((at % count) as usize);
            // Pairs with the Releases of all who set states: when the job is due.
            let state = State::from_bits(slot.state.load(Ordering::Acquire));
            if !state.is(Kind::Ready) {
                continue;
            }
            let due = worker::due_of(slot, state);
            if due == 0 || due <= *now.get_or_insert_with(now_ms) {
                return NextReady::Now;
            }
            next = match next {
                NextReady::At(before) => NextReady::At(before.min(due)),
                _ => NextReady::At(due),
            };
        }
        next
    }

    /// Frees a slot in `state`.
    #[inline(always)]
    fn free(&self, slot: &Slot, state: State) -> bool {
        // Pairs with the Acquire of who takes it next: our last look at the bytes.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        let freed = state.freed().bits();
        let is_free = slot.state.compare_exchange(state.bits(), freed, ok, err).is_ok();
        if is_free {
            self.shared.left.notify();
        }
        is_free
    }

    /// Frees the slot of a job in `state` that its worker has done. Without leases a producer that
    /// falls asleep at this moment may be missed: it looks again soon, and so does the worker that
    /// finds no job.
    #[inline(always)]
    fn done(&self, slot: &Slot, state: State) -> bool {
        if self.lease_ms != 0 {
            return self.free(slot, state);
        }
        // Nobody else moves it while we live, but a liar.
        let is_ours = slot.state.load(Ordering::Relaxed) == state.bits();
        if is_ours {
            // Pairs with the Acquire of who takes it next: our last look at the bytes.
            slot.state.store(state.freed().bits(), Ordering::Release);
            self.shared.left.notify_seen();
        }
        is_ours
    }

    /// Makes the job of a slot that somebody was doing ready again, or dead.
    #[cold]
    fn bring_back(&self, slot: &Slot, state: State) -> bool {
        let is_last = state.attempts() + 1 >= self.attempts_max;
        let next = if is_last { state.dead() } else { state.again() };
        self.give_back(slot, state, next)
    }

    /// Makes the job of a slot that somebody was doing ready, as if it had never been tried.
    fn set_ready(&self, slot: &Slot, state: State) -> bool {
        self.give_back(slot, state, state.anew())
    }

    fn give_back(&self, slot: &Slot, state: State, next: State) -> bool {
        // Pairs with the Acquire of who takes it next: our last look at the bytes.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        let is_ours = slot.state.compare_exchange(state.bits(), next.bits(), ok, err).is_ok();
        if is_ours && next.is(Kind::Ready) {
            self.let_it_be_seen(slot);
            self.shared.arrived.notify();
        }
        is_ours
    }

    /// Brings `head` back to a job that is ready before it.
    fn let_it_be_seen(&self, slot: &Slot) {
        let at = slot.at.load(Ordering::Relaxed);
        let mut front = Front::from_bits(self.shared.head.load(Ordering::Relaxed));
        for _ in 0..ROUNDS_MAX {
            // Pairs with the Acquire in `Worker::look`: who sees the count sees the job.
            let (ok, err) = (Ordering::Release, Ordering::Relaxed);
            let back = front.back_at(at).bits();
            match self.shared.head.compare_exchange(front.bits(), back, ok, err) {
                Ok(_) => return,
                Err(now) => front = Front::from_bits(now),
            }
        }
    }

    /// The slot of a position, and then those of the next ones, without a division each.
    #[inline(always)]
    fn numbers_from(&self, at: u64) -> impl Iterator<Item = usize> {
        let (rows, mut next) = (self.slots.rows(), (at % self.slots.rows() as u64) as usize);
        std::iter::repeat_with(move || {
            let number = next;
            next = if number + 1 == rows { 0 } else { number + 1 };
            number
        })
    }

    #[inline(always)]
    fn slot(&self, number: usize) -> &Slot {
        &self.slots.row(number)[0]
    }

    fn each_slot(&self) -> impl Iterator<Item = &Slot> {
        (0..self.slots.rows()).map(|number| self.slot(number))
    }

    /// Has a slot that comes soon, and the first lines of its job, come here to be written.
    #[inline(always)]
    fn prefetch(&self, slot: usize) {
        let slot = if slot < self.slots.rows() { slot } else { slot % self.slots.rows() };
        prefetch_to_write(&self.slot(slot).state);
        // The first word of the next line.
        if let Some(word) = self.words_of(slot).get(4) {
            prefetch_to_write(word.atomic());
        }
    }

    /// The words of a slot's job.
    #[inline(always)]
    fn words_of(&self, slot: usize) -> &[Word] {
        self.words.row(slot)
    }
}
