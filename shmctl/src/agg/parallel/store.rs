//! The groups of a job in a shared hash of the domain: see [`shares`](super::shares).
//!
//! It has a name, by which workers find it, for as long as the job runs; its segment is not pinned,
//! so that it goes with its last user, whoever dies. A name whose job is over (its leader was
//! killed) is removed by the next run.
use super::board::internal;
use super::shares::{self, Owner};
use crate::agg::error::AggError;
use crate::agg::groups::{Groups, Shape};
use crate::agg::job::SegmentUse;
use bgworker::cursor::WorkCursor;
use dsm::hash::{HashError, SIZE_MAX, Size, Walk};
use dsm::{Domain, HashHandle, HashSpec, NamedError, SegmentHandle, SharedHash};
use std::convert::Infallible;
use std::fmt;

/// Others may have changed a group's value under us so often.
const ROUNDS_MAX: u32 = 1 << 20;

/// Entries between two looks at the signals.
const LOOK_EVERY: u32 = 4096;

/// Of the values' form: its version, and the shape of the groups.
fn fingerprint(shape: Shape) -> u64 {
    shm_core::layout::combine(&[1, shape.keys as u64, shape.tallies as u64])
}

/// Names of stores begin so; the handle of the job's segment follows.
const NAME: &str = "shmctl-agg.";

/// Why a store cannot be used.
#[derive(Debug)]
pub(super) enum StoreError {
    /// For want of memory, descriptors or rights; the text says of what.
    Refused(String),
    /// It fails as it should not.
    Failed(AggError),
}

impl StoreError {
    fn refused(error: impl fmt::Display) -> StoreError {
        StoreError::Refused(error.to_string())
    }
}

impl From<HashError> for StoreError {
    fn from(error: HashError) -> StoreError {
        match error {
            HashError::OutOfMemory { .. }
            | HashError::Full
            | HashError::RowsTaken { .. }
            | HashError::Busy
            | HashError::KeyLength { .. }
            | HashError::ValueLength { .. } => StoreError::refused(error),
            error => StoreError::Failed(internal(error)),
        }
    }
}

impl From<NamedError<Infallible>> for StoreError {
    fn from(error: NamedError<Infallible>) -> StoreError {
        StoreError::refused(error)
    }
}

/// What a store is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    /// The segment of the job.
    pub(super) segment: SegmentHandle,
    pub(super) shape: Shape,
    pub(super) workers: u32,
    /// The most memory.
    pub(super) max_bytes: u64,
}

impl Job {
    fn name(&self) -> String {
        format!("{NAME}{}", self.segment)
    }

    fn spec(&self) -> HashSpec {
        HashSpec {
            // The leader, the workers, and dead ones that nobody has reaped yet.
            threads: 2 * self.workers + 2,
            threads_of_process: 1,
            max_bytes: self.max_bytes,
            fingerprint: fingerprint(self.shape),
            ..HashSpec::new(Size::UpTo(SIZE_MAX), Size::UpTo(SIZE_MAX))
        }
    }
}

/// The groups of a job, as one process has them.
#[derive(Debug)]
pub(super) struct Store {
    hash: HashHandle,
    shape: Shape,
    /// For the value that is to be.
    value: Vec<u8>,
}

impl Store {
    /// Makes the store of a job. Leader only.
    pub(super) fn make(domain: &Domain, job: &Job) -> Result<Store, StoreError> {
        let hash = domain.named_hash(&job.name(), &job.spec())?;
        // The leader has it as long as anybody needs it.
        let _ = domain.unpin(hash.handle());
        Store::join(&hash, job.shape)
    }

    /// The store that the leader made, in the segment `at`.
    pub(super) fn attach(
        domain: &Domain,
        job: &Job,
        at: SegmentHandle,
    ) -> Result<Store, StoreError> {
        let hash = domain.named_hash(&job.name(), &job.spec())?;
        if hash.handle() != at {
            // Its leader is dead, and we have made another one.
            let _ = domain.remove_named(&job.name());
            return Err(StoreError::Failed(internal("the groups of the job are gone")));
        }
        Store::join(&hash, job.shape)
    }

    fn join(hash: &SharedHash, shape: Shape) -> Result<Store, StoreError> {
        Ok(Store { hash: hash.join()?, shape, value: Vec::new() })
    }

    /// Removes the name. Leader only, when no worker needs it any more.
    pub(super) fn remove(domain: &Domain, job: &Job) {
        let _ = domain.remove_named(&job.name());
    }

    /// Where it is.
    pub(super) fn handle(&self) -> SegmentHandle {
        self.hash.shared().handle()
    }

    /// The memory that it has.
    pub(super) fn segment(&self) -> SegmentUse {
        let bytes = self.hash.shared().area().stats().there;
        SegmentUse { name: self.handle().to_string(), bytes }
    }

    /// Takes back what dead workers had of it.
    pub(super) fn reap(&self) {
        self.hash.shared().reap();
    }

    /// Adds the shares of a chunk: they count once the caller has committed the chunk, and never
    /// where this fails and the chunk's groups go another way.
    ///
    /// # If a process dies here
    /// See [`shares`].
    pub(super) fn add(
        &mut self,
        cursor: &WorkCursor,
        owner: Owner,
        groups: &Groups,
    ) -> Result<(), StoreError> {
        for (key, group) in groups.iter() {
            self.add_share(key, |shape, had, value| {
                shares::fold(shape, had, |chunk| cursor.state(chunk), (owner, group), value)
            })?;
        }
        Ok(())
    }

    fn add_share(
        &mut self,
        key: &[u8],
        fold: impl Fn(Shape, &[u8], &mut Vec<u8>) -> Result<(), crate::agg::wire::Corrupt>,
    ) -> Result<(), StoreError> {
        let failed = |error: crate::agg::wire::Corrupt| StoreError::Failed(error.into());
        for _ in 0..ROUNDS_MAX {
            let had = self.hash.find(key)?.map(|found| found.to_vec());
            fold(self.shape, had.as_deref().unwrap_or_default(), &mut self.value)
                .map_err(failed)?;
            let is_done = match had {
                None => self.hash.insert(key, &self.value)?,
                Some(had) => self.hash.compare_update(key, &had, &self.value)?,
            };
            if is_done {
                return Ok(());
            }
        }
        Err(HashError::Busy.into())
    }

    /// Adds to `answer` what counts, and says how many groups that were. Every chunk is complete.
    pub(super) fn collect(
        &mut self,
        cursor: &WorkCursor,
        answer: &mut Groups,
        interrupted: impl Fn() -> Result<(), AggError>,
    ) -> Result<u64, AggError> {
        let (mut walk, mut count, mut seen) = (Walk::new(), 0, 0_u32);
        while let Some((key, value)) = walk.next(&mut self.hash).map_err(internal)? {
            seen = seen.wrapping_add(1);
            if seen.is_multiple_of(LOOK_EVERY) {
                interrupted()?;
            }
            let total = shares::total(self.shape, &value, |chunk| cursor.state(chunk))?;
            let Some(group) = total else { continue };
            let too_many = |_| internal("more rows than can be counted, or a key that is no text");
            answer.merge_group(&key, group).map_err(too_many)?;
            count += 1;
        }
        Ok(count)
    }
}

/// Removes the names of stores whose jobs are over.
pub(super) fn tidy(domain: &Domain) {
    // In this order: a job's segment is there before the name is.
    let names = domain.named();
    let segments = domain.segments();
    for entry in names {
        let job = entry.name.strip_prefix(NAME).and_then(|job| job.parse::<SegmentHandle>().ok());
        let Some(job) = job else { continue };
        if !segments.iter().any(|segment| segment.handle == job) {
            let _ = domain.remove_named(&entry.name);
        }
    }
}
