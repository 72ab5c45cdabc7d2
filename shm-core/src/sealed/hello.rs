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
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, IoSlice, ioctl_fionread};
use rustix::net::sockopt::{set_socket_oobinline, set_socket_passcred};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Whether descriptors may come with a socket's bytes: Linux 6.16, for all but SPARC and PA-RISC.
const SO_PASSRIGHTS: libc::c_int = 83;
/// Whether a pidfd of the sender comes with each message: Linux 6.5, likewise.
const SO_PASSPIDFD: libc::c_int = 76;
/// What it comes as: a descriptor, or the negative number of an error.
const SCM_PIDFD: libc::c_int = 4;

/// The most descriptors that one message can have (`SCM_MAX_FD`).
const FDS_MAX: usize = 253;

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
    #[error("the peer has died or hung up")]
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
/// connected or accepted it, or has it from somebody it trusts. A peer that has our end too can make
/// our calls wait for it. And our copies of the *other* end are to be closed: as long as we have
/// one, nobody is seen to hang up.
///
/// What the peer gets of us it may keep: `own`, for as long as it lives, also where this fails.
///
/// # Errors
/// [`ExchangeError`]. The socket is closed then, by a thread where the peer left something in it.
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
    // From now on the kernel lets no descriptors through; where it does not know how, those that
    // come are thrown away with the bytes.
    set_option(socket, SO_PASSRIGHTS, false);
    hear_no_more(socket)?;
    Ok((memory, peer))
}

/// What came with the first message.
struct Hello {
    word: [u8; 8],
    count: usize,
    is_truncated: bool,
    fds: Vec<OwnedFd>,
    pid: Option<Pid>,
    pidfd: Option<Result<OwnedFd, Errno>>,
}

impl Drop for Hello {
    /// What was refused may take its time to be closed.
    fn drop(&mut self) {
        if !self.fds.is_empty() {
            bury(std::mem::take(&mut self.fds));
        }
    }
}

fn look(hello: &mut Hello, wanted: Wanted) -> Result<Foreign, ExchangeError> {
    let found = u64::from_ne_bytes(hello.word);
    if hello.count != hello.word.len() || found != wanted.theirs {
        return Err(ExchangeError::NotUnderstood { found });
    }
    match &hello.fds[..] {
        [fd] if !hello.is_truncated => {
            let memory = Foreign::map(fd, wanted.bytes_min, wanted.bytes_max)?;
            // It is memory: closing it blocks nobody.
            hello.fds.clear();
            Ok(memory)
        }
        _ => Err(ExchangeError::Descriptors),
    }
}

/// A pidfd of the process that said hello, if that can be had.
///
/// The kernel's own, which came with the hello, is of that process and no other. By its number, on
/// kernels before 6.5, it may be a stranger's that got the number since: then the socket alone tells
/// that the peer has gone.
fn who_said(hello: &mut Hello) -> Result<Option<OwnedFd>, ExchangeError> {
    let by_pid = |pid| pidfd_open(pid, PidfdFlags::empty());
    match hello.pidfd.take().or_else(|| hello.pid.map(by_pid)) {
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
    let mut found = 0;
    for _ in 0..MORE_MAX {
        match receive(socket) {
            Ok(more) if !more.fds.is_empty() || more.is_truncated => {
                return Err(ExchangeError::Descriptors);
            }
            Ok(more) if more.count > 0 => found = u64::from_ne_bytes(more.word),
            Err(Errno::INTR) => {}
            // It is empty. If the peer has gone, the bell says so.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
    Err(ExchangeError::NotUnderstood { found })
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
    loop {
        match receive(socket) {
            Ok(hello) if hello.count == 0 => return Err(ExchangeError::PeerDied),
            Ok(hello) => return Ok(hello),
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

/// Room for all that can come: the sender's credentials, descriptors, its pidfd, and a few bytes
/// (`SCM_INQ`). A descriptor that found no room would be closed by the kernel, in our call, and
/// that may take as long as the peer likes. Where *we* may not open so many, it is.
const CONTROL_WORDS: usize = {
    let [ucred, fds, fd] =
        [size_of::<libc::ucred>(), FDS_MAX * size_of::<RawFd>(), size_of::<RawFd>()];
    (cmsg_space(ucred) + cmsg_space(fds) + 2 * cmsg_space(fd)) / size_of::<u64>()
};

const fn cmsg_space(bytes: usize) -> usize {
    // SAFETY: it only computes.
    unsafe { libc::CMSG_SPACE(bytes as u32) as usize }
}

/// Takes one message, without waiting.
///
/// Not by rustix: the pid of a process that is in another pid namespace is 0, and its type for
/// pids has no 0.
fn receive(socket: &UnixStream) -> Result<Hello, Errno> {
    let mut word = [0; 8];
    let mut control = [0_u64; CONTROL_WORDS];
    let mut bytes = libc::iovec { iov_base: word.as_mut_ptr().cast(), iov_len: word.len() };
    // SAFETY: zeros are an empty message header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut bytes;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points to places that live, with their true sizes.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    if count < 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    let is_truncated = message.msg_flags & libc::MSG_CTRUNC != 0;
    let (count, fds) = (count as usize, Vec::new());
    let mut hello = Hello { word, count, is_truncated, fds, pid: None, pidfd: None };
    // SAFETY: the kernel has filled the header and what it points to.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !next.is_null() {
        // SAFETY: a header inside `control`, aligned like it.
        let header = unsafe { next.read() };
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(next) };
        // SAFETY: only computes.
        let len = header.cmsg_len as usize - unsafe { libc::CMSG_LEN(0) } as usize;
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => take_fds(data, len, &mut hello.fds),
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if len >= size_of::<libc::ucred>() => {
                // SAFETY: so many bytes of it are there.
                let who = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                hello.pid = Pid::from_raw(who.pid);
            }
            (libc::SOL_SOCKET, SCM_PIDFD) if len >= size_of::<RawFd>() => {
                // SAFETY: so many bytes of it are there.
                let number = unsafe { data.cast::<RawFd>().read_unaligned() };
                hello.pidfd = Some(pidfd(number));
            }
            _ => {}
        }
        // SAFETY: as for the first.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Ok(hello)
}

/// Takes charge of descriptors that the kernel has just opened for us.
fn take_fds(data: *const u8, len: usize, fds: &mut Vec<OwnedFd>) {
    // SAFETY: so many bytes are there.
    let bytes = unsafe { std::slice::from_raw_parts(data, len) };
    let (numbers, _) = bytes.as_chunks();
    for number in numbers {
        // SAFETY: it was opened for us, and nobody else knows of it.
        fds.push(unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*number)) });
    }
}

/// A pidfd that the kernel has just opened for us, or why it could not.
fn pidfd(number: RawFd) -> Result<OwnedFd, Errno> {
    if number < 0 {
        return Err(Errno::from_raw_os_error(number.saturating_neg()));
    }
    // SAFETY: it was opened for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes a socket in which descriptors may lie that nobody took: they are closed with it.
fn let_go(socket: UnixStream) {
    set_option(&socket, SO_PASSRIGHTS, false);
    if !ioctl_fionread(&socket).is_ok_and(|bytes| bytes == 0) {
        bury(socket);
    }
}

/// Closes files of a peer's choosing, which may block: it is nobody's business but a thread's.
fn bury(files: impl Send + 'static) {
    // Where there is no thread to be had they are closed here.
    let _ = std::thread::Builder::new().name("closes".into()).spawn(move || drop(files));
}

/// Switches an option that older kernels, and other systems, do not know.
fn set_option(socket: &UnixStream, option: libc::c_int, is_on: bool) {
    let value = libc::c_int::from(is_on);
    // SAFETY: an option's value and its size.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}
