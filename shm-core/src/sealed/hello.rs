//! The first and only message: each side hands its memory over.
//!
//! | step | a death leaves the other side | a lie is |
//! | --- | --- | --- |
//! | own memory made and sealed | waiting, then the socket hangs up | – |
//! | hello sent: 8 bytes and one descriptor | memory that nobody will write, and the socket hangs up | any bytes, any descriptors: see below |
//! | hello received, all of it looked at | the same | `NotUnderstood`, `Descriptors` |
//! | memory checked and mapped | the same | [`ForeignError`] |
//! | further descriptors refused | the same | of no effect |
use super::doorbell::Doorbell;
use super::memory::{Foreign, ForeignError, Own};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, IoSlice};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Whether descriptors may come with a socket's bytes: Linux 6.16, for all but SPARC and PA-RISC.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Why two processes did not come together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// The deadline passed before the peer sent its hello.
    #[error("the deadline passed before the peer said hello")]
    TimedOut,
    /// The peer's process has died, or has closed its end.
    #[error("the peer's process has died")]
    PeerDied,
    /// The peer speaks of something else, or is of another version.
    #[error("the peer said something else than expected (found {found:#x})")]
    NotUnderstood {
        /// What it said, as far as 8 bytes of it came.
        found: u64,
    },
    /// Not one descriptor came with the hello.
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
/// other to begin. Our copies of the *other* end are to be closed: as long as we have one, nobody
/// is seen to hang up.
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
    let os = |call| move |errno| ExchangeError::Os { call, errno };
    // Before either hello: then the kernel puts the sender's pid to both.
    set_socket_passcred(&socket, true).map_err(os("setsockopt"))?;
    say_hello(&socket, own, wanted.mine, deadline)?;
    let mut hello = hear_hello(&socket, deadline)?;
    let memory = look(&mut hello, wanted)?;
    let peer = match hello.pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Err(Errno::SRCH)) => return Err(ExchangeError::PeerDied),
        Some(Ok(fd)) => Some(fd),
        // Not in our pid namespace, or no descriptor left: the socket tells alone.
        Some(Err(_)) | None => None,
    };
    refuse_descriptors(&socket);
    Ok((memory, Doorbell::new(socket, peer)))
}

/// What came with the first message.
struct Hello {
    word: [u8; 8],
    count: usize,
    is_truncated: bool,
    fds: Vec<OwnedFd>,
    pid: Option<Pid>,
}

impl Drop for Hello {
    /// What was refused may take its time to be closed.
    fn drop(&mut self) {
        bury(std::mem::take(&mut self.fds));
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
            Err(Errno::AGAIN) => wait_for(socket, PollFlags::OUT, deadline)?,
            Err(Errno::INTR) => {}
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
            Err(Errno::AGAIN) => wait_for(socket, PollFlags::IN, deadline)?,
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Err(ExchangeError::PeerDied),
            Err(errno) => return Err(ExchangeError::Os { call: "recvmsg", errno }),
        }
    }
}

/// Sleeps until `event`, a hang-up, or the deadline.
fn wait_for(
    socket: &UnixStream,
    event: PollFlags,
    deadline: Option<Instant>,
) -> Result<(), ExchangeError> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut [PollFd::new(socket, event)], timeout.as_ref()) {
        Ok(0) => Err(ExchangeError::TimedOut),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(ExchangeError::Os { call: "poll", errno }),
    }
}

/// Room for the sender's credentials and for one descriptor, which the kernel rounds up to two.
const CONTROL_WORDS: usize = {
    // SAFETY: it only computes.
    let ucred = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) };
    // SAFETY: as above.
    let fd = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) };
    (ucred + fd) as usize / size_of::<u64>()
};

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
    let mut hello = Hello { word, count: count as usize, is_truncated, fds: Vec::new(), pid: None };
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

/// Closes files of a peer's choosing, which may block: it is nobody's business but a thread's.
fn bury(fds: Vec<OwnedFd>) {
    if !fds.is_empty() {
        // Where there is no thread to be had they are closed here.
        let _ = std::thread::Builder::new().name("closes".into()).spawn(move || drop(fds));
    }
}

/// From now on the kernel lets no descriptors through; where it does not know how, those that come
/// are thrown away with the bytes.
fn refuse_descriptors(socket: &UnixStream) {
    let no: libc::c_int = 0;
    // SAFETY: an option's value and its size. An older kernel says that it knows none.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const no).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}
