//! The leader's end of one worker's queue: a thread that takes what comes.
use super::board::internal;
use super::message::Message;
use crate::agg::error::AggError;
use crate::agg::groups::Shape;
use shm_core::participants::ParticipantId;
use shm_mq::stream::{Receiver, RecvError, Stream};
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// What a lane tells the leader.
#[derive(Debug)]
pub(super) enum Report {
    /// A message came whole.
    Message { worker: ParticipantId, message: Message },
    /// The worker is dead or has left, and everything it had sent was reported before this.
    Ended { lane: u32, worker: Option<ParticipantId> },
    /// The queue or a message in it is damaged.
    Broken(AggError),
}

/// Reports what comes through `stream` until its sender is gone.
pub(super) fn listen(
    lane: u32,
    shape: Shape,
    stream: Stream,
    receiver: Receiver,
    reports: mpsc::Sender<Report>,
) -> io::Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(format!("lane-{lane}"));
    thread.spawn(move || {
        let end = match take_all(shape, &stream, receiver, &reports) {
            Ok(()) => Report::Ended { lane, worker: stream.status().sender.owner },
            Err(error) => Report::Broken(error),
        };
        // The leader has gone on without us: it has all it wants.
        let _ = reports.send(end);
    })
}

fn take_all(
    shape: Shape,
    stream: &Stream,
    mut receiver: Receiver,
    reports: &mpsc::Sender<Report>,
) -> Result<(), AggError> {
    loop {
        let message = match receiver.recv() {
            Ok(bytes) => Message::decode(shape, &bytes)?,
            Err(RecvError::Detached | RecvError::PeerDied) => return Ok(()),
            Err(error) => return Err(internal(error)),
        };
        let worker = stream.status().sender.owner;
        let worker = worker.ok_or_else(|| internal("a message came from nobody"))?;
        if reports.send(Report::Message { worker, message }).is_err() {
            return Ok(());
        }
    }
}
