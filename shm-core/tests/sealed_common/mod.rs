//! What the tests of `sealed` share: the other end of the socket, in the hands of a liar.
#![allow(dead_code, reason = "each test file uses its part")]
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::{Errno, IoSlice, write};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use shm_core::sealed::{Doorbell, ExchangeError, Foreign, ForeignError, Own, Wanted, exchange};
use shm_testkit::watchdog::within;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const SHORT: Duration = Duration::from_millis(30);
pub(crate) const PAGE: u64 = 4096;
pub(crate) const ALL: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

pub(crate) const OURS: u64 = 11;
pub(crate) const THEIRS: u64 = 22;
pub(crate) const WANTED: Wanted =
    Wanted { mine: OURS, theirs: THEIRS, bytes_min: 2 * PAGE, bytes_max: 4 * PAGE };

/// A hello with any bytes and any descriptors.
pub(crate) fn say(
    socket: &UnixStream,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
}

/// What the honest side answers to a hello.
pub(crate) fn answer(
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(Foreign, Doorbell), ExchangeError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    say(&theirs, bytes, fds).unwrap();
    meet(ours)
}

pub(crate) fn meet(ours: UnixStream) -> Result<(Foreign, Doorbell), ExchangeError> {
    let own = Own::create("honest", PAGE).unwrap();
    within(LIMIT, || exchange(ours, &own, WANTED, Some(Instant::now() + SHORT)))
}

pub(crate) fn hello() -> [u8; 8] {
    THEIRS.to_ne_bytes()
}

pub(crate) fn memfd(flags: MemfdFlags) -> OwnedFd {
    memfd_create("liar", MemfdFlags::ALLOW_SEALING | flags).unwrap()
}

/// Memory of `bytes`, each written, with these seals.
pub(crate) fn memory(bytes: u64, seals: SealFlags) -> OwnedFd {
    holding(&vec![1; bytes as usize], seals)
}

/// Memory that holds these bytes and no more.
pub(crate) fn holding(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let fd = memfd(MemfdFlags::empty());
    assert_eq!(write(&fd, bytes), Ok(bytes.len()));
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

/// A memfd without anything in it yet, to be spoilt and then sealed.
pub(crate) fn spoilt(spoil: impl FnOnce(&OwnedFd)) -> OwnedFd {
    let fd = memfd(MemfdFlags::empty());
    spoil(&fd);
    fcntl_add_seals(&fd, ALL).unwrap();
    fd
}

pub(crate) fn refused(fd: impl AsFd) -> ForeignError {
    match answer(&hello(), &[fd.as_fd()]) {
        Err(ExchangeError::Memory(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Whether the kernel has dropped the last reference to a pipe's writing end within the limit.
pub(crate) fn is_closed(mut reader: std::io::PipeReader) -> bool {
    use std::io::Read;
    within(LIMIT, || reader.read(&mut [0]).unwrap() == 0)
}
