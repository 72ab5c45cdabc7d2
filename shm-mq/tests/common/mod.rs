//! What the tests of `stream` share.
#![allow(dead_code, reason = "each test file uses its part")]
use dsm::backend::{self, Backend, Place};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table};
use shm_core::sync::AtomicU64;
use shm_core::trust::Hostile;
use shm_mq::stream::{Limits, OneMapping, Receiver, Sender, Stream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
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
    let at = World::at(0, ring_bytes);
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

/// A POSIX segment with a table, a word to count in, and streams, for several processes.
pub(crate) struct World {
    pub(crate) name: String,
    ring_bytes: u64,
    mapping: Arc<Mapping>,
    pub(crate) me: Arc<Member>,
    /// What a child counts.
    pub(crate) count: Mapped<AtomicU64>,
    is_owner: bool,
}

impl World {
    pub(crate) fn create(hint: &str, streams: u64, ring_bytes: u64) -> World {
        let name = shm_testkit::unique::name(hint);
        let size = World::at(streams, ring_bytes);
        let object = backend::create(&Place::new(Backend::Posix), &name, size).unwrap();
        let mapping = object.mapping().clone();
        // SAFETY: nobody else has the name.
        let table = unsafe { Table::create(&mapping, 0, SLOTS) }.unwrap();
        for index in 0..streams {
            // SAFETY: as above; the streams do not overlap.
            unsafe { Stream::create(&mapping, World::at(index, ring_bytes), ring_bytes) }.unwrap();
        }
        World::of(name, ring_bytes, mapping, &table, true)
    }

    /// In a child, which was given [`args`](World::args).
    pub(crate) fn attach(args: &[String]) -> World {
        let [name, ring_bytes, ..] = args else { panic!("{args:?}") };
        let object = backend::open(&Place::new(Backend::Posix), name).unwrap().unwrap();
        let mapping = object.mapping().clone();
        let table = Table::attach(&mapping, 0).unwrap();
        World::of(name.clone(), ring_bytes.parse().unwrap(), mapping, &table, false)
    }

    fn of(name: String, ring_bytes: u64, mapping: Arc<Mapping>, table: &Table, own: bool) -> World {
        let count = Mapped::new(&mapping, Table::bytes_for(SLOTS).next_multiple_of(64)).unwrap();
        World { name, ring_bytes, mapping, me: table.join().unwrap(), count, is_owner: own }
    }

    /// Where stream number `index` begins.
    fn at(index: u64, ring_bytes: u64) -> u64 {
        let first = Table::bytes_for(SLOTS).next_multiple_of(64) + 64;
        first + index * Stream::bytes_for(ring_bytes).next_multiple_of(64)
    }

    pub(crate) fn args(&self) -> [String; 2] {
        [self.name.clone(), self.ring_bytes.to_string()]
    }

    pub(crate) fn stream(&self, index: u64) -> Stream {
        Stream::attach(&self.mapping, World::at(index, self.ring_bytes)).unwrap()
    }

    pub(crate) fn sender(&self, index: u64) -> Sender {
        Sender::attach(&self.mapping, World::at(index, self.ring_bytes), &self.me).unwrap()
    }

    pub(crate) fn receiver(&self, index: u64) -> Receiver {
        Receiver::attach(&self.mapping, World::at(index, self.ring_bytes), &self.me).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.is_owner {
            let _ = backend::remove(&Place::new(Backend::Posix), &self.name);
        }
    }
}
