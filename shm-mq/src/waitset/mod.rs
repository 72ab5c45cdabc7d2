//! `WaitSet`: sleeping on many queues, peers, timers and file descriptors at once.
//!
//! ```text
//!  queue ── bed ─────────┐
//!  queue ── bed, peer ───┤
//!  peer  ── life word ───┼──► one sleep ──► the keys of what is ready
//!  timer ── a time ──────┤    futex_waitv; with descriptors: poll(2) and a bell
//!  fd    ────────────────┤
//!  hostile queue ─ socket┘
//! ```
//!
//! What is slept on is a [`Source`]: the receiving end of a queue, the sending end that waits for
//! room, a [`Watch`] over a peer, an [`Alarm`] or [`Interval`], a [`Descriptor`]. It is lent to
//! [`WaitSet::wait`] for the time of the wait, with a key of the caller's choice, and the keys of
//! those that are ready come back: exactly those, level-triggered, so that what was not dealt with
//! is ready again.
//!
//! | state of a wait | moved on by | to |
//! | --- | --- | --- |
//! | looking | something that is ready; nothing, after some rounds | over; announced |
//! | announced: its bit stands in each bed, and in its own half of each hostile queue a number | something that is ready; nothing | over; asleep |
//! | asleep, on beds, life words and sockets | who fills a queue, or makes room; a death; a time; a descriptor | what it heard is thrown away, the numbers are taken back, and it is looking |
//!
//! The second look comes after the announcement, which is what makes the sleep safe: see
//! [`EventCount`](shm_core::event::EventCount). Nothing else is shared: the set puts no word of its
//! own into shared memory, and those it sleeps on are the ones that a blocking call on each queue
//! would sleep on.
//!
//! | dies | what there is |
//! | --- | --- |
//! | the waiter, anywhere | a bit in beds and life words that says "somebody sleeps": a wake-up in vain |
//! | who filled a queue, before the wake-up or the ring | what it sent; its death wakes the sleeper instead. At a queue of many to many, where nobody watches it, the next look: within 50 ms |
//! | who shall be waited for by a [`Watch`] | the sleeper is woken at once |
//!
//! A peer that is stopped holds up nobody; one that writes nonsense into beds ends sleeps early,
//! or lets them last until the deadline, as [`Sleeper`] says, and no longer. A hostile one that
//! rings all the time costs processor time, until the deadline, and makes nothing ready: what is
//! ready the queue's own look says. Its hang-up is something that is ready, behind the last record.
//!
//! # Costs
//!
//! While something is ready `wait` makes no system call, unless descriptors are in the set: then
//! one, `poll(2)`. A sleep is one, `futex_waitv`; with descriptors three: a [`Bell`] is armed and
//! silenced around `poll(2)`. To look at a hostile queue in which there is nothing is one, which
//! asks whether the peer lives; a sleep that its socket ended is two more at least, for what came
//! there. So drain a queue before you wait again.
//!
//! # Limits
//!
//! One sleep is on at most 128 words, a bed for each queue and a life word for each peer. Beyond
//! that the set sleeps on as many beds, others each time, and looks at all every 5 ms; and where
//! the kernel has no `futex_waitv`, on one.
//!
//! [`Bell`]: shm_core::bell::Bell
#[cfg_attr(any(shm_loom, shm_explore), path = "descriptors_modelled.rs")]
mod descriptors;
mod source;

pub use source::{Alarm, Descriptor, Interest, Interval, Source};

use crate::wait::{announce, has_passed};
use descriptors::Descriptors;
use shm_core::backoff::Backoff;
use shm_core::event::Ticket;
use shm_core::futex::WAIT_WORDS_MAX;
use shm_core::participants::{Sleeper, Watch};
use shm_core::sealed::{Doorbell, Heard};
use std::time::Instant;

/// Why a wait ended without an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// There is nothing that could end the wait: no source that anybody wakes, and no deadline.
    #[error("nothing can end this wait")]
    Nothing,
    /// The system refused to watch the descriptors.
    #[error("the descriptors cannot be waited for")]
    System(#[from] std::io::Error),
}

/// Sleeps on many things at once. See the [module](self).
///
/// It keeps nothing between two waits but, where descriptors were in it, a descriptor of its own.
///
/// ```
/// use shm_core::{mapping::Mapping, participants::Table};
/// use shm_mq::spsc::Queue;
/// use shm_mq::waitset::{Alarm, WaitSet};
/// use std::time::{Duration, Instant};
///
/// let at = Table::bytes_for(2).next_multiple_of(64);
/// let mapping = Mapping::heap((at + Queue::bytes_for(1024)) as usize);
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 2) }?;
/// // SAFETY: as above, and the table ends before.
/// let queue = unsafe { Queue::create(&mapping, at, 1024, 0) }?;
/// let me = table.join()?;
/// let (mut sender, mut receiver) = (queue.sender(&me)?, queue.receiver(&me)?);
///
/// let mut tea = Alarm::at(Instant::now() + Duration::from_secs(240));
/// let mut set = WaitSet::new();
/// sender.send(b"knock")?;
/// let ready = set.wait(&mut [("door", &mut receiver), ("tea", &mut tea)], None)?;
/// assert_eq!(ready, ["door"]);
/// assert_eq!(*receiver.recv()?, *b"knock");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct WaitSet {
    sleeper: Sleeper,
    /// Where the beds of the next sleep begin, if there are too many.
    turn: usize,
    descriptors: Descriptors,
}

impl WaitSet {
    /// One that has not waited yet.
    pub fn new() -> WaitSet {
        WaitSet::default()
    }

    /// The keys of the sources that are ready, waiting until one is; none where `deadline` has
    /// passed before.
    ///
    /// Whether a source is ready, its own call without waiting tells: a job may have gone to
    /// another worker meanwhile.
    ///
    /// # Errors
    /// [`WaitError`].
    ///
    /// # If a process dies here
    /// It leaves a bit in beds and in life words that says "somebody sleeps": a wake-up in vain.
    pub fn wait<K: Copy>(
        &mut self,
        sources: &mut [(K, &mut dyn Source)],
        deadline: Option<Instant>,
    ) -> Result<Vec<K>, WaitError> {
        let (mut backoff, mut is_over) = (Backoff::new(), false);
        let mut tickets: Option<Vec<Option<Ticket>>> = None;
        self.descriptors.forget();
        loop {
            let mut ready = look(sources, tickets.is_some());
            if !ready.is_empty() {
                self.descriptors.look_now(sources)?;
            }
            ready.extend(self.descriptors.ready());
            if is_over || !ready.is_empty() {
                ready.sort_unstable();
                return Ok(ready.into_iter().map(|number| sources[number].0).collect());
            }
            if let Some(tickets) = tickets.take() {
                self.sleep(sources, &tickets, deadline)?;
                for (number, which, heard) in self.descriptors.heard() {
                    sources[number].1.heard(which, heard);
                }
                sources.iter_mut().for_each(|(_, source)| source.woken());
                is_over = has_passed(deadline);
                backoff.reset();
            } else if !backoff.snooze() {
                tickets = Some(sources.iter_mut().map(|(_, source)| announce(*source)).collect());
            }
        }
    }

    /// Sleeps until one of the sources may be ready, or the deadline.
    fn sleep<K>(
        &mut self,
        sources: &[(K, &mut dyn Source)],
        tickets: &[Option<Ticket>],
        deadline: Option<Instant>,
    ) -> Result<(), WaitError> {
        let (mut events, mut peers, mut most) = (Vec::new(), Vec::<&Watch>::new(), None);
        for ((_, source), ticket) in sources.iter().zip(tickets) {
            events.extend(source.bed().zip(*ticket));
            source.peers(&mut peers);
            most = source.sleep_max().into_iter().chain(most).min();
        }
        if events.len() > WAIT_WORDS_MAX {
            let first = self.turn % events.len();
            events.rotate_left(first);
            self.turn = first + WAIT_WORDS_MAX;
        }
        let Some(mut night) = self.sleeper.lie_down(&events, &peers) else { return Ok(()) };
        if let Some(most) = most {
            night.ends_within(most);
        }
        if self.descriptors.sleep(sources, &night, deadline)? {
            return Ok(());
        }
        if night.words().is_empty() && night.end(deadline).is_none() {
            return Err(WaitError::Nothing);
        }
        night.sleep(deadline);
        Ok(())
    }
}

/// The doorbells in the set, each with the number of its source, and its own of that.
fn doorbells<'s, K>(
    sources: &'s [(K, &mut dyn Source)],
) -> (Vec<(usize, usize)>, Vec<&'s Doorbell>) {
    let (mut numbers, mut all) = (Vec::new(), Vec::new());
    for (number, (_, source)) in sources.iter().enumerate() {
        let before = all.len();
        source.doorbells(&mut all);
        numbers.extend((0..all.len() - before).map(|which| (number, which)));
    }
    (numbers, all)
}

/// What was heard of which: of none that has nothing to say.
fn told(numbers: &[(usize, usize)], heard: Vec<Option<Heard>>) -> Vec<(usize, usize, Heard)> {
    let all = numbers.iter().zip(heard);
    all.filter_map(|((number, which), heard)| Some((*number, *which, heard?))).collect()
}

/// The numbers of those that say that they are ready.
fn look<K>(sources: &mut [(K, &mut dyn Source)], is_announced: bool) -> Vec<usize> {
    let is_ready = |source: &mut dyn Source| {
        if is_announced { source.is_ready_at_last() } else { source.is_ready() }
    };
    let sources = sources.iter_mut().enumerate();
    sources.filter_map(|(number, (_, source))| is_ready(*source).then_some(number)).collect()
}
