//! The first and only message: each side hands its memory over.
//!
//! | step | a death leaves the other side | a lie is |
//! | --- | --- | --- |
//! | own memory made and sealed | waiting, then the socket hangs up | – |
//! | hello sent: 8 bytes and one descriptor | memory that nobody will write, and the socket hangs up | any bytes, any descriptors: see below |
//! | hello received, all of it looked at | the same | `NotUnderstood`, `Descriptors` |
//! | memory checked and mapped | the same | [`ForeignError`] |
//! | further descriptors refused | the same | `Descriptors`, of those that came before; then of no effect |
//!
//! None of this waits for the peer longer than the deadline: each call is one that takes no lock
//! which the peer's system calls can keep, provided that it does not have our end of the socket. (A
//! process that has it can sit in a `recvmsg`, or a `setsockopt`, whose buffer is a page that never
//! comes, and hold the lock that ours need.)
use super::doorbell::Doorbell;
use super::memory::{Foreign, ForeignError, Own};
use super::message::{Received, SO_PASSPIDFD, SO_PASSRIGHTS, let_go, receive, set_option};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, IoSlice};
use rustix::net::sockopt::{set_socket_oobinline, set_socket_passcred};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{PidfdFlags, pidfd_open};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Messages, of 8 bells each, that may lie in the socket behind the hello.
const MORE_MAX: usize = 64;

/// Why two processes did not come together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// The deadline passed before the peer sent its hello.
    #[error("the deadline passed before the peer said hello")]
    TimedOut,
    /// The peer's process has died, or has hung up: no process has the other end any more.
    #[error("the peer's process has died or has hung up")]
    PeerDied,
    /// The peer speaks of something else, or is of another version.
    #[error("the peer said something else than expected (found {found:#x})")]
    NotUnderstood {
        /// What it said, as far as 8 bytes of it came.
        found: u64,
    },
    /// Not one descriptor came with the hello, or more came behind it.
    #[error("the peer sent another number of descriptors than one")]
    Descriptors,
    /// The peer's memory is not what it has to be.
    #[error(transparent)]
    Memory(#[from] ForeignError),
    /// The system refused.
    #[error("{call} failed: {errno}")]
    Os {
        /// The system call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
}

/// What is said, and what is expected to be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Our hello: what we are, in which version.
    pub mine: u64,
    /// The peer's hello.
    pub theirs: u64,
    /// The peer's memory has at least so many bytes.
    pub bytes_min: u64,
    /// And at most so many.
    pub bytes_max: u64,
}

/// Hands `own` to the process at the other end of `socket`, and takes what it hands over.
///
/// Both sides call it, once, on a connected socket that has not been used; neither waits for the
/// other to begin. Our end of it is one that no other process has: this process made the pair,
/// connected or accepted it, or has it from somebody it trusts. A peer that has our end too can
/// make our calls wait for it. And our copies of the *other* end are to be closed: as long as we
/// have one, nobody is seen to hang up.
///
/// The same `own` may be handed to any number of peers, one socket each, also at the same time: all
/// can read it, and none write. What one of them does to the open file, its offset and its locks,
/// is seen by the others and by us, who use neither.
///
/// What the peer gets of us it may keep: `own`, for as long as it lives, also where this fails.
///
/// # Errors
/// [`ExchangeError`]. The socket is closed then.
///
/// # If a process dies here
/// The other side has [`ExchangeError::PeerDied`], or a peer that is gone.
pub fn exchange(
    socket: UnixStream,
    own: &Own,
    wanted: Wanted,
    deadline: Option<Instant>,
) -> Result<(Foreign, Doorbell), ExchangeError> {
    match greet(&socket, own, wanted, deadline) {
        Ok((memory, peer)) => Ok((memory, Doorbell::new(socket, peer))),
        Err(error) => {
            let_go(socket);
            Err(error)
        }
    }
}

/// The peer's memory, and a pidfd of the peer.
fn greet(
    socket: &UnixStream,
    own: &Own,
    wanted: Wanted,
    deadline: Option<Instant>,
) -> Result<(Foreign, Option<OwnedFd>), ExchangeError> {
    let os = |call| move |errno| ExchangeError::Os { call, errno };
    // Before either hello: then the kernel puts the sender's pid to both.
    set_socket_passcred(socket, true).map_err(os("setsockopt"))?;
    set_option(socket, SO_PASSPIDFD, true);
    // Whoever made the socket may have asked for it; it would take the room of what we ask for.
    set_option(socket, libc::SO_PASSSEC, false);
    // A byte out of band would be told of by each `poll`, and be received by nobody.
    set_socket_oobinline(socket, true).map_err(os("setsockopt"))?;
    say_hello(socket, own, wanted.mine, deadline)?;
    let mut hello = hear_hello(socket, deadline)?;
    let memory = look(&mut hello, wanted)?;
    let peer = who_said(&mut hello)?;
    // The bell needs no name of who rings it.
    set_option(socket, SO_PASSPIDFD, false);
    set_option(socket, libc::SO_PASSCRED, false);
    // And from now on the kernel lets no descriptors through, where it knows how.
    set_option(socket, SO_PASSRIGHTS, false);
    hear_no_more(socket)?;
    Ok((memory, peer))
}

/// The first message, and what came with it.
struct Hello {
    word: [u8; 8],
    with: Received,
}

fn look(hello: &mut Hello, wanted: Wanted) -> Result<Foreign, ExchangeError> {
    let (found, with) = (u64::from_ne_bytes(hello.word), &mut hello.with);
    if with.count != hello.word.len() || found != wanted.theirs {
        return Err(ExchangeError::NotUnderstood { found });
    }
    match &with.fds[..] {
        [fd] if !with.is_truncated => {
            let memory = Foreign::map(fd, wanted.bytes_min, wanted.bytes_max)?;
            // It is memory: closing it blocks nobody.
            with.fds.clear();
            Ok(memory)
        }
        _ => Err(ExchangeError::Descriptors),
    }
}

/// A pidfd of the process that said hello, if that can be had.
///
/// The kernel's own, which came with the hello, is of that process and no other. By its number, on
/// kernels before 6.5, it may be a stranger's that got the number since: then the socket alone
/// tells that the peer has gone.
fn who_said(hello: &mut Hello) -> Result<Option<OwnedFd>, ExchangeError> {
    let by_pid = |pid| pidfd_open(pid, PidfdFlags::empty());
    match hello.with.pidfd.take().or_else(|| hello.with.pid.map(by_pid)) {
        Some(Ok(pidfd)) => Ok(Some(pidfd)),
        // The second is what kernels before 6.16 say of one that has been waited for.
        Some(Err(Errno::SRCH | Errno::INVAL)) => Err(ExchangeError::PeerDied),
        // Not in our pid namespace, or no descriptor left: the socket tells alone.
        Some(Err(_)) | None => Ok(None),
    }
}

/// Takes what lies in the socket behind the hello: bells, which an honest peer may have rung, for
/// who waits looks first; and no descriptors, which our next look at the bell would close.
fn hear_no_more(socket: &UnixStream) -> Result<(), ExchangeError> {
    let mut word = [0; 8];
    for _ in 0..MORE_MAX {
        match receive(socket, &mut word) {
            Ok(more) if more.has_descriptors() => return Err(ExchangeError::Descriptors),
            Ok(more) if more.count > 0 => {}
            Err(Errno::INTR) => {}
            // It is empty. If the peer has gone, the bell says so.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
    Err(ExchangeError::NotUnderstood { found: u64::from_ne_bytes(word) })
}

fn say_hello(
    socket: &UnixStream,
    own: &Own,
    word: u64,
    deadline: Option<Instant>,
) -> Result<(), ExchangeError> {
    loop {
        let fds = [own.fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let pushed = control.push(SendAncillaryMessage::ScmRights(&fds));
        debug_assert!(pushed, "the space is made for one descriptor");
        let bytes = word.to_ne_bytes();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags) {
            Ok(8) => return Ok(()),
            Ok(_) => return Err(ExchangeError::Os { call: "sendmsg", errno: Errno::MSGSIZE }),
            Err(Errno::AGAIN | Errno::INTR) => wait_for(socket, PollFlags::OUT, deadline)?,
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(ExchangeError::PeerDied),
            Err(errno) => return Err(ExchangeError::Os { call: "sendmsg", errno }),
        }
    }
}

fn hear_hello(socket: &UnixStream, deadline: Option<Instant>) -> Result<Hello, ExchangeError> {
    let mut word = [0; 8];
    loop {
        match receive(socket, &mut word) {
            Ok(with) if with.count == 0 => return Err(ExchangeError::PeerDied),
            Ok(with) => return Ok(Hello { word, with }),
            Err(Errno::AGAIN | Errno::INTR) => wait_for(socket, PollFlags::IN, deadline)?,
            Err(Errno::CONNRESET) => return Err(ExchangeError::PeerDied),
            Err(errno) => return Err(ExchangeError::Os { call: "recvmsg", errno }),
        }
    }
}

/// Sleeps until `event`, a hang-up, a signal, or the deadline; for the caller to try once more.
fn wait_for(
    socket: &UnixStream,
    event: PollFlags,
    deadline: Option<Instant>,
) -> Result<(), ExchangeError> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    // Whatever `poll` would say: it may say for ever that there is something, or be interrupted.
    if left == Some(Duration::ZERO) {
        return Err(ExchangeError::TimedOut);
    }
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut [PollFd::new(socket, event)], timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(ExchangeError::Os { call: "poll", errno }),
    }
}
