//! The segment of a job: what its table of contents leads to.
//!
//! | key | what | written by |
//! | --- | --- | --- |
//! | `PLAN` | the plan, as bytes | the leader, before the workers start |
//! | `EDGES` | the edges of exact chunks, if there are any | the same |
//! | `CURSOR` | the work cursor over the chunks | workers claim, the leader completes |
//! | `PROGRESS` | how far the job is | the leader |
//! | `GROUPS` | where groups are shared, if they are | the leader |
//! | `LANE + n` | the queue of worker `n` | that worker; made anew by the leader when it died |
use super::store;
use crate::agg::error::AggError;
use crate::agg::groups::Shape;
use crate::agg::options::WORKERS_MAX;
use crate::agg::wire::Corrupt;
use bgworker::cursor::WorkCursor;
use dsm::SegmentHandle;
use dsm::toc::{Toc, TocPlan};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU64, Ordering};
use shm_core::{Reserved, shm_sync};
use shm_mq::stream::Stream;
use std::sync::Arc;

/// What the table of contents must say of itself: "shmkagg" and the version of this layout.
const MAGIC: u64 = u64::from_be_bytes(*b"shmkagg\x02");

const PLAN: u64 = 1;
const EDGES: u64 = 2;
const CURSOR: u64 = 3;
const PROGRESS: u64 = 4;
const GROUPS: u64 = 5;
const LANE: u64 = 16;

/// Bytes of each worker's ring. A chunk's groups may be larger: they go in pieces then.
const RING_BYTES: u64 = 128 << 10;

/// How far the job is, for whoever looks into the segment. Written by the leader alone.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct ProgressWords {
    chunks: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
    reserved: Reserved<5>,
}

shm_sync!(ProgressWords { chunks, rows, bytes, reserved });

const _: () = assert!(size_of::<ProgressWords>() == 64);

/// Where groups are shared. Written by the leader alone, Relaxed: what `at` leads to was published
/// by the domain.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct GroupsWords {
    /// Handle of the shared hash's segment; 0: groups go as messages.
    at: AtomicU64,
    max_bytes: AtomicU64,
    workers: AtomicU64,
    reserved: Reserved<5>,
}

shm_sync!(GroupsWords { at, max_bytes, workers, reserved });

const _: () = assert!(size_of::<GroupsWords>() == 64);

/// The segment of a job, as one process has it mapped.
#[derive(Debug)]
pub(super) struct Board {
    mapping: Arc<Mapping>,
    toc: Toc,
    pub(super) cursor: WorkCursor,
    progress: Mapped<ProgressWords>,
    groups: Mapped<GroupsWords>,
}

/// What a board is made for.
pub(super) struct Job<'a> {
    pub(super) plan: &'a [u8],
    /// Edges of exact chunks; empty where chunks are even.
    pub(super) edges: &'a [u64],
    pub(super) chunks: u64,
    pub(super) workers: u32,
    /// The most memory of shared groups.
    pub(super) groups_bytes: u64,
}

impl Job<'_> {
    /// Bytes of the segment.
    pub(super) fn segment_bytes(&self) -> Result<u64, AggError> {
        let mut plan = TocPlan::default().keys(LANE + u64::from(self.workers));
        plan = plan.chunk(list_bytes(self.plan.len()));
        plan = plan.chunk(list_bytes(size_of_val(self.edges)));
        plan = plan.chunk_aligned(WorkCursor::bytes_for(self.chunks), 128);
        plan = plan.chunk(size_of::<ProgressWords>() as u64);
        plan = plan.chunk(size_of::<GroupsWords>() as u64);
        for _ in 0..self.workers {
            plan = plan.chunk_aligned(Stream::bytes_for(RING_BYTES), 128);
        }
        plan.bytes().map_err(internal)
    }
}

impl Board {
    /// Makes the board in a segment of [`Job::segment_bytes`] that nobody else knows of yet.
    pub(super) fn create(mapping: &Arc<Mapping>, job: &Job<'_>) -> Result<Board, AggError> {
        let toc = Toc::create(mapping, MAGIC, LANE + u64::from(job.workers)).map_err(internal)?;
        put_list(mapping, &toc, PLAN, job.plan)?;
        let edges: Vec<u8> = job.edges.iter().flat_map(|edge| edge.to_le_bytes()).collect();
        put_list(mapping, &toc, EDGES, &edges)?;
        let at = toc.allocate_aligned(WorkCursor::bytes_for(job.chunks), 128).map_err(internal)?;
        // SAFETY: the segment is known to nobody else.
        unsafe { WorkCursor::create(mapping, at, job.chunks) }.map_err(internal)?;
        toc.insert(CURSOR, at).map_err(internal)?;
        let at = toc.allocate(size_of::<ProgressWords>() as u64).map_err(internal)?;
        let zero = || AtomicU64::new(0);
        let words = ProgressWords {
            chunks: zero(),
            rows: zero(),
            bytes: zero(),
            reserved: Reserved::new(),
        };
        // SAFETY: as above.
        unsafe { mapping.region().place(at, words) }.map_err(internal)?;
        toc.insert(PROGRESS, at).map_err(internal)?;
        let at = toc.allocate(size_of::<GroupsWords>() as u64).map_err(internal)?;
        let words = GroupsWords {
            at: zero(),
            max_bytes: AtomicU64::new(job.groups_bytes),
            workers: AtomicU64::new(job.workers.into()),
            reserved: Reserved::new(),
        };
        // SAFETY: as above.
        unsafe { mapping.region().place(at, words) }.map_err(internal)?;
        toc.insert(GROUPS, at).map_err(internal)?;
        for lane in 0..u64::from(job.workers) {
            let bytes = Stream::bytes_for(RING_BYTES);
            let at = toc.allocate_aligned(bytes, 128).map_err(internal)?;
            toc.insert(LANE + lane, at).map_err(internal)?;
        }
        Board::attach(mapping)
    }

    /// The board that the leader made.
    pub(super) fn attach(mapping: &Arc<Mapping>) -> Result<Board, AggError> {
        let toc = Toc::attach(mapping, MAGIC).map_err(internal)?;
        let cursor = WorkCursor::attach(mapping, place(&toc, CURSOR)?).map_err(internal)?;
        let progress = Mapped::new(mapping, place(&toc, PROGRESS)?).map_err(internal)?;
        let groups = Mapped::new(mapping, place(&toc, GROUPS)?).map_err(internal)?;
        Ok(Board { mapping: mapping.clone(), toc, cursor, progress, groups })
    }

    /// The plan, as bytes.
    pub(super) fn plan(&self) -> Result<Vec<u8>, AggError> {
        self.list(PLAN)
    }

    /// The edges of exact chunks, if the chunks are such.
    pub(super) fn edges(&self) -> Result<Option<Vec<u64>>, AggError> {
        let bytes = self.list(EDGES)?;
        let edges: Vec<u64> =
            bytes.as_chunks().0.iter().map(|edge| u64::from_le_bytes(*edge)).collect();
        Ok((!edges.is_empty()).then_some(edges))
    }

    /// Makes the queue of worker `lane`, anew if there was one.
    ///
    /// # Safety
    /// No process has the queue open: its former worker is dead or has left, and the next has not
    /// been started.
    pub(super) unsafe fn make_queue(&self, lane: u32) -> Result<Stream, AggError> {
        let at = self.lane_at(lane)?;
        // SAFETY: the caller's promise.
        unsafe { Stream::create(&self.mapping, at, RING_BYTES) }.map_err(internal)
    }

    /// The queue of worker `lane`.
    pub(super) fn queue(&self, lane: u32) -> Result<Stream, AggError> {
        Stream::attach(&self.mapping, self.lane_at(lane)?).map_err(internal)
    }

    /// Shows how far the job is.
    pub(super) fn show_progress(&self, chunks: u64, rows: u64, bytes: u64) {
        let ProgressWords { chunks: c, rows: r, bytes: b, .. } = &*self.progress;
        for (word, value) in [(c, chunks), (r, rows), (b, bytes)] {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// From now on groups are shared there.
    pub(super) fn share_groups(&self, at: SegmentHandle) {
        self.groups.at.store(at.to_bits(), Ordering::Relaxed);
    }

    /// Where groups are shared, if they are.
    pub(super) fn groups_at(&self) -> Option<SegmentHandle> {
        SegmentHandle::from_bits(self.groups.at.load(Ordering::Relaxed))
    }

    /// What the store of shared groups is made for, in the job of the segment `job`.
    pub(super) fn store(&self, job: SegmentHandle, shape: Shape) -> Result<store::Job, AggError> {
        let workers = u32::try_from(self.groups.workers.load(Ordering::Relaxed));
        let workers = workers.ok().filter(|workers| i64::from(*workers) <= WORKERS_MAX);
        let workers = workers.ok_or(Corrupt("the number of workers is out of bounds"))?;
        let max_bytes = self.groups.max_bytes.load(Ordering::Relaxed);
        Ok(store::Job { segment: job, shape, workers, max_bytes })
    }

    fn lane_at(&self, lane: u32) -> Result<u64, AggError> {
        place(&self.toc, LANE + u64::from(lane))
    }

    /// A list that the leader put there before we were told of the segment.
    fn list(&self, key: u64) -> Result<Vec<u8>, AggError> {
        let (region, at) = (self.mapping.region(), place(&self.toc, key)?);
        let len = region.read::<u64>(at).map_err(internal)?;
        let bytes = relptr::RelSlice::<u8>::new(relptr::RelPtr::from_offset(at + 8), len);
        // Before the room is reserved: a length from shared memory is a claim.
        bytes.resolve(region).map_err(internal)?;
        let mut copy = vec![0; len as usize];
        bytes.copy_to(region, &mut copy).map_err(internal)?;
        Ok(copy)
    }
}

fn list_bytes(len: usize) -> u64 {
    len as u64 + 8
}

/// Bytes with their length before them.
fn put_list(mapping: &Mapping, toc: &Toc, key: u64, bytes: &[u8]) -> Result<(), AggError> {
    let at = toc.allocate(list_bytes(bytes.len())).map_err(internal)?;
    let length = mapping.region().at::<u64>(at).map_err(internal)?;
    // SAFETY: in bounds, aligned, and the segment is known to nobody else.
    unsafe { length.write(bytes.len() as u64) };
    let to = mapping.region().range(at + 8, bytes.len() as u64).map_err(internal)?;
    // SAFETY: in bounds, as above, and apart from a private slice.
    unsafe { to.copy_from_nonoverlapping(std::ptr::NonNull::from(bytes).cast(), bytes.len()) };
    toc.insert(key, at).map_err(internal)
}

fn place(toc: &Toc, key: u64) -> Result<u64, AggError> {
    let missing = || AggError::Internal(format!("the segment has no entry {key}"));
    toc.lookup(key).map_err(internal)?.ok_or_else(missing)
}

/// What should not happen in a segment of our own.
pub(super) fn internal(error: impl std::fmt::Display) -> AggError {
    AggError::Internal(error.to_string())
}
