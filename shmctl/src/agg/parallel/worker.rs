//! A worker process: claims chunks, scans them, sends their groups or adds them to the shared ones.
use super::board::{Board, internal};
use super::message;
use super::shares::Owner;
use super::store::{Store, StoreError};
use super::{SEGMENT_VARIABLE, environment};
use crate::agg::error::AggError;
use crate::agg::groups::{Groups, Shape};
use crate::agg::job::Job;
use crate::agg::scan::{ChunkStats, Scan, ScanError, Scanner};
use bgworker::Worker;
use bgworker::cursor::Claim;
use dsm::{Domain, SegmentHandle};
use shm_mq::stream::{SendError, Sender};

/// Does the work of `worker` until the job is over.
///
/// # Errors
/// [`AggError`], for standard error: the leader sees the exit code and starts another worker.
///
/// # If a process dies here
/// The worker: its leader takes what it had sent and gives back what it held; for what it had
/// shared see the [module](super). The leader: this
/// process ends, by its worker's watch or because its queue says so.
pub fn run(worker: &Worker) -> Result<(), AggError> {
    let domain = Domain::from_env().map_err(environment)?;
    let segment = domain.attach(handle()?).map_err(environment)?;
    let segment = segment.ok_or_else(|| internal("the job's segment is gone"))?;
    let board = Board::attach(segment.mapping())?;
    let lane = u32::try_from(worker.argument()).map_err(internal)?;
    let member = domain.member();
    let sender = board.queue(lane)?.sender(member).map_err(internal)?;
    let leader = board.queue(lane)?.status().receiver.owner;
    let leader = leader.ok_or_else(|| internal("the queue has no receiver"))?;
    let job = match Job::attach(&board.plan()?, board.edges()?) {
        // The file was removed or changed: the user's affair, so it goes the way of faults.
        Err(AggError::Scan { error, .. }) => Err(error),
        job => Ok(job?),
    };
    let scan = job.as_ref().map(|job| (job, job.scanner()));
    let watch = member.watch(leader);
    let (domain, board) = (&domain, &board);
    let mut work = Work {
        domain,
        board,
        segment: segment.handle(),
        store: None,
        refused: false,
        scan,
        sender,
        out: Vec::new(),
    };
    while !worker.should_stop() {
        match board.cursor.claim(member).map_err(internal)? {
            Claim::Finished => break,
            Claim::NothingFree if watch.is_dead() => break,
            Claim::NothingFree => _ = board.cursor.wait_for_work(&watch, None),
            Claim::Piece(chunk) => {
                if !work.chunk(chunk)? {
                    break;
                }
            }
        }
    }
    Ok(())
}

fn handle() -> Result<SegmentHandle, AggError> {
    let text = std::env::var(SEGMENT_VARIABLE).map_err(internal)?;
    text.parse().map_err(internal)
}

struct Work<'a> {
    domain: &'a Domain,
    board: &'a Board,
    segment: SegmentHandle,
    /// The shared groups, once they are and this worker has seen it.
    store: Option<Store>,
    /// They cannot be used: this worker's groups go as messages.
    refused: bool,
    /// Why there is no chunk to be had of the file, where so.
    scan: Result<(&'a Job, Scanner<'a>), &'a ScanError>,
    sender: Sender,
    out: Vec<u8>,
}

impl Work<'_> {
    /// Scans a chunk and tells the leader; `false` where nobody listens any more.
    fn chunk(&mut self, index: u64) -> Result<bool, AggError> {
        let (job, scanner) = match &mut self.scan {
            Ok((job, scanner)) => (*job, scanner),
            Err(error) => {
                message::encode_fault(index, error, &mut self.out);
                return self.send();
            }
        };
        let chunk = job.chunks().get(index);
        let chunk = chunk.ok_or_else(|| internal("the cursor has more pieces than the file"))?;
        let mut groups = job.no_groups();
        match scanner.scan(chunk, &mut groups) {
            Ok(Scan::Done(stats)) => return self.done(index, &stats, &groups, job),
            Ok(Scan::Quoted) => message::encode_quoted(&mut self.out),
            Err(error) => message::encode_fault(index, &error, &mut self.out),
        }
        self.send()
    }

    /// Shares the groups of a chunk, or sends them.
    fn done(
        &mut self,
        index: u64,
        stats: &ChunkStats,
        groups: &Groups,
        job: &Job,
    ) -> Result<bool, AggError> {
        match self.share(index, groups, Shape::from(job.plan().query())) {
            Ok(true) => message::encode_committed(index, stats, &mut self.out),
            Ok(false) => message::encode_done(index, stats, groups, &mut self.out),
            Err(StoreError::Failed(error)) => return Err(error),
            Err(StoreError::Refused(why)) => {
                // What was added of this chunk never counts: the chunk is not committed.
                (self.store, self.refused) = (None, true);
                message::encode_unshared(&why, &mut self.out);
                if !self.send()? {
                    return Ok(false);
                }
                message::encode_done(index, stats, groups, &mut self.out);
            }
        }
        self.send()
    }

    /// Adds the groups to the shared ones and commits the chunk, where groups are shared.
    fn share(&mut self, index: u64, groups: &Groups, shape: Shape) -> Result<bool, StoreError> {
        let Work { domain, board, .. } = *self;
        if self.store.is_none()
            && !self.refused
            && let Some(at) = board.groups_at()
        {
            let made_for = board.store(self.segment, shape).map_err(StoreError::Failed)?;
            self.store = Some(Store::attach(domain, &made_for, at)?);
        }
        let Some(store) = &mut self.store else { return Ok(false) };
        let member = domain.member();
        store.add(&board.cursor, Owner { worker: member.id(), chunk: index }, groups)?;
        let failed = |error: AggError| StoreError::Failed(error);
        let committed = board.cursor.commit(index, member).map_err(internal).map_err(failed)?;
        let theirs = || failed(internal("a chunk was taken away from its worker"));
        committed.then_some(true).ok_or_else(theirs)
    }

    fn send(&mut self) -> Result<bool, AggError> {
        match self.sender.send(&self.out) {
            Ok(()) => Ok(true),
            Err(SendError::Detached | SendError::PeerDied) => Ok(false),
            Err(error) => Err(internal(error)),
        }
    }
}
