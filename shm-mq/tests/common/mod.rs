//! What the tests of `stream` share.
#![allow(dead_code, reason = "each test file uses its part")]
use shm_core::mapping::Mapping;
use shm_core::participants::Table;
use shm_core::trust::Hostile;
use shm_mq::stream::{Limits, OneMapping, Receiver, Sender, Stream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// No wait of these tests takes so long unless something hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

const SLOTS: u32 = 8;

/// Both ends of a new stream, in this process.
pub(crate) fn stream(ring_bytes: u64) -> (Sender, Receiver) {
    stream_among(ring_bytes)
}

/// The same, each end at a level of its own.
pub(crate) fn stream_among<S: OneMapping, R: OneMapping>(
    ring_bytes: u64,
) -> (Sender<S>, Receiver<R>) {
    let at = Table::bytes_for(SLOTS).next_multiple_of(64);
    let mapping = Mapping::heap((at + Stream::bytes_for(ring_bytes)) as usize);
    // SAFETY: nobody else has the mapping.
    let me = unsafe { Table::create(&mapping, 0, SLOTS) }.unwrap().join().unwrap();
    // SAFETY: as above, and the table ends before.
    let stream = unsafe { Stream::create(&mapping, at, ring_bytes) }.unwrap();
    let sender = stream.clone().with_peers::<S>().sender(&me).unwrap();
    (sender, stream.with_peers::<R>().receiver(&me).unwrap())
}

/// Both ends of a new stream between those who trust each other least, in this process.
pub(crate) fn hostile_stream(ring_bytes: u64) -> (Sender<Hostile>, Receiver<Hostile>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let receiving =
        std::thread::spawn(|| Receiver::<Hostile>::connect(theirs, Limits::default(), None));
    let sender = Sender::<Hostile>::connect(ours, ring_bytes, None).unwrap();
    (sender, receiving.join().unwrap().unwrap())
}
