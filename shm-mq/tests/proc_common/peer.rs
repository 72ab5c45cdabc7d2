//! A child process at the other end of a socket.
use dsm::backend::{self, Backend, Object, Place};
use shm_core::mapping::Mapped;
use shm_core::sync::AtomicU64;
use shm_testkit::child::{Child, Setup};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// A child's descriptor number `index` among those it was given.
pub(crate) fn given(args: &[String], index: usize) -> OwnedFd {
    // SAFETY: it was inherited for this, and is taken once.
    unsafe { OwnedFd::from_raw_fd(args[index].parse().unwrap()) }
}

/// Where a child counts what was acknowledged: a matter between the two halves of a test.
pub(crate) fn count(args: &[String]) -> Mapped<AtomicU64> {
    let object = backend::memfd::open_fd(given(args, 1)).unwrap();
    Mapped::new(object.mapping(), 0).unwrap()
}

/// A child with one end of a socket, and the other end.
pub(crate) struct Peer {
    pub(crate) child: Child,
    pub(crate) socket: Option<UnixStream>,
    counter: Object,
}

/// It is told a number besides.
pub(crate) fn spawn(function: &str, number: u64) -> Peer {
    let (ours, theirs) = UnixStream::pair().unwrap();
    Peer { socket: Some(ours), ..spawn_at(function, &theirs, number) }
}

/// A child with this end of a socket.
pub(crate) fn spawn_at(function: &str, theirs: &UnixStream, number: u64) -> Peer {
    let counter = backend::create(&Place::new(Backend::Memfd), "count", 4096).unwrap();
    let fds = [theirs.as_fd(), counter.fd().unwrap()];
    let numbers = fds.map(|fd| fd.as_raw_fd().to_string());
    let number = number.to_string();
    let args = [numbers[0].as_str(), &numbers[1], &number];
    let setup = Setup { args: &args, fds: &fds, ..Setup::default() };
    let child = Child::spawn_with(function, setup);
    Peer { child, socket: None, counter }
}

impl Peer {
    pub(crate) fn count(&self) -> Mapped<AtomicU64> {
        Mapped::new(self.counter.mapping(), 0).unwrap()
    }
}
