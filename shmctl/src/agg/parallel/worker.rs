//! A worker process: claims chunks, scans them, sends their groups.
use super::board::{Board, internal};
use super::message;
use super::{SEGMENT_VARIABLE, environment};
use crate::agg::error::AggError;
use crate::agg::job::Job;
use crate::agg::scan::{Scan, ScanError, Scanner};
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
/// The worker: its leader takes what it had sent and gives back what it held. The leader: this
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
    let mut work = Work { scan, sender, out: Vec::new() };
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
    /// Why there is no chunk to be had of the file, where so.
    scan: Result<(&'a Job, Scanner<'a>), &'a ScanError>,
    sender: Sender,
    out: Vec<u8>,
}

impl Work<'_> {
    /// Scans a chunk and tells the leader; `false` where nobody listens any more.
    fn chunk(&mut self, index: u64) -> Result<bool, AggError> {
        self.encode(index)?;
        match self.sender.send(&self.out) {
            Ok(()) => Ok(true),
            Err(SendError::Detached | SendError::PeerDied) => Ok(false),
            Err(error) => Err(internal(error)),
        }
    }

    /// The message on a chunk, scanned.
    fn encode(&mut self, index: u64) -> Result<(), AggError> {
        let (job, scanner) = match &mut self.scan {
            Ok((job, scanner)) => (*job, scanner),
            Err(error) => {
                message::encode_fault(index, error, &mut self.out);
                return Ok(());
            }
        };
        let chunk = job.chunks().get(index);
        let chunk = chunk.ok_or_else(|| internal("the cursor has more pieces than the file"))?;
        let mut groups = job.no_groups();
        match scanner.scan(chunk, &mut groups) {
            Ok(Scan::Done(stats)) => message::encode_done(index, &stats, &groups, &mut self.out),
            Ok(Scan::Quoted) => message::encode_quoted(&mut self.out),
            Err(error) => message::encode_fault(index, &error, &mut self.out),
        }
        Ok(())
    }
}
