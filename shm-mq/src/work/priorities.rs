//! Jobs of several queues, by rank.
use super::worker::{ClaimError, Job, Worker};
use crate::stream::OneMapping;
use crate::waitset::{Source, WaitSet};
use shm_core::trust::Crashing;
use std::time::Instant;

/// A worker of several queues: it does what the first one has before what the second one has, and
/// so on. One thread at a time.
///
/// Urgent jobs are those of a queue of their own: they wait for a worker, and not for other jobs.
/// Where there are always urgent ones the others wait for ever.
///
/// ```
/// use shm_core::{mapping::Mapping, participants::Table};
/// use shm_mq::work::{Priorities, WorkConfig, WorkQueue};
///
/// let config = WorkConfig::new(16, 32);
/// let (at, bytes) = (Table::bytes_for(2).next_multiple_of(64), WorkQueue::bytes_for(&config));
/// let mapping = Mapping::heap((at + 2 * bytes) as usize);
/// // SAFETY: nobody else has the mapping.
/// let me = unsafe { Table::create(&mapping, 0, 2) }?.join()?;
/// // SAFETY: as above, and the table ends before.
/// let urgent = unsafe { WorkQueue::create(&mapping, at, &config) }?;
/// // SAFETY: as above, and the other queue ends before.
/// let usual = unsafe { WorkQueue::create(&mapping, at + bytes, &config) }?;
///
/// let mut worker = Priorities::new(vec![urgent.worker(&me)?, usual.worker(&me)?]);
/// usual.producer(&me)?.try_send(b"lay the table")?;
/// urgent.producer(&me)?.try_send(b"put out the fire")?;
/// let (rank, job) = worker.claim(None)?;
/// assert_eq!((rank, &*job), (0, &b"put out the fire"[..]));
/// job.ack()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Priorities<T: OneMapping = Crashing> {
    workers: Vec<Worker<T>>,
    set: WaitSet,
}

impl<T: OneMapping> Priorities<T> {
    /// The first is the most urgent. They may be of any queues, of one twice too.
    pub fn new(workers: Vec<Worker<T>>) -> Priorities<T> {
        Priorities { workers, set: WaitSet::new() }
    }

    /// The workers, by rank.
    pub fn workers(&mut self) -> &mut [Worker<T>] {
        &mut self.workers
    }

    /// The most urgent job that is ready, and its rank.
    ///
    /// # Errors
    /// [`ClaimError::Corrupt`], [`ClaimError::Forked`].
    ///
    /// # If a process dies here
    /// As in [`Worker::try_claim`].
    pub fn try_claim(&mut self) -> Result<Option<(usize, Job<'_, T>)>, ClaimError> {
        for (rank, worker) in self.workers.iter_mut().enumerate() {
            if let Some(job) = worker.try_claim()? {
                return Ok(Some((rank, job)));
            }
        }
        Ok(None)
    }

    /// The most urgent job, waiting until `deadline`, or as long as it takes, until one is ready.
    ///
    /// # Errors
    /// [`ClaimError`]. Without a worker there is never a job: `TimedOut` at once.
    ///
    /// # If a process dies here
    /// As in [`Worker::try_claim`].
    pub fn claim(&mut self, deadline: Option<Instant>) -> Result<(usize, Job<'_, T>), ClaimError> {
        let mut is_over = self.workers.is_empty();
        let (rank, claimed) = loop {
            // Looked at, and lent after the loop.
            let mut workers = self.workers.iter_mut().enumerate();
            let found = workers.find_map(|(rank, worker)| {
                let claimed = worker.look().transpose()?;
                Some(claimed.map(|claimed| (rank, claimed)))
            });
            if let Some(found) = found {
                break found?;
            }
            if is_over {
                return Err(ClaimError::TimedOut);
            }
            let workers = self.workers.iter_mut();
            let mut sources: Vec<_> = workers.map(|it| ((), it as &mut dyn Source)).collect();
            // No error: there are beds, and no descriptors.
            is_over = self.set.wait(&mut sources, deadline).is_ok_and(|ready| ready.is_empty());
        };
        Ok((rank, self.workers[rank].job(claimed)))
    }
}
