//! A message of a peer's, with all that it may have sent along, and how to be rid of that.
//!
//! Descriptors of a peer's choosing are never closed in our calls, neither by us nor by the kernel:
//! it may take an hour (a socket that lingers), or for ever (a file of its own file system). So
//! there is room for all that can come, and a thread closes it.
use rustix::io::Errno;
use rustix::process::Pid;
use std::io;
use std::mem::size_of;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Whether descriptors may come with a socket's bytes: Linux 6.16, for all but SPARC and PA-RISC.
pub(super) const SO_PASSRIGHTS: libc::c_int = 83;
/// Whether a pidfd of the sender comes with each message: Linux 6.5, likewise.
pub(super) const SO_PASSPIDFD: libc::c_int = 76;
/// What it comes as: a descriptor, or the negative number of an error.
const SCM_PIDFD: libc::c_int = 4;

/// The most descriptors that one message can have (`SCM_MAX_FD`).
const FDS_MAX: usize = 253;

/// Messages that are looked through, in a socket that is let go, before a thread does the rest.
const LEFT_MAX: usize = 4;

/// What a message brought, apart from its bytes.
pub(super) struct Received {
    /// Of bytes; 0: the peer has hung up.
    pub(super) count: usize,
    /// Something found no room, or, of descriptors, no number.
    pub(super) is_truncated: bool,
    pub(super) fds: Vec<OwnedFd>,
    /// Of the sender.
    pub(super) pid: Option<Pid>,
    pub(super) pidfd: Option<Result<OwnedFd, Errno>>,
}

impl Received {
    /// Whether descriptors came, or would have.
    pub(super) fn has_descriptors(&self) -> bool {
        !self.fds.is_empty() || self.is_truncated
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.fds.is_empty() {
            bury(std::mem::take(&mut self.fds));
        }
    }
}

/// Closes files of a peer's choosing, which may block: it is nobody's business but a thread's.
fn bury(files: impl Send + 'static) {
    // Where there is no thread to be had they are closed here.
    let _ = std::thread::Builder::new().name("closes".into()).spawn(move || drop(files));
}

/// Closes a socket. Descriptors that nobody took from it are closed with the last of it, which is
/// then not ours to close: not a copy is buried, but the socket itself.
pub(super) fn let_go(socket: UnixStream) {
    // From here on the peer cannot put anything into it, and sees that nobody listens, also where a
    // forked child has it still.
    let _ = socket.shutdown(Shutdown::Both);
    let mut bytes = [0; 512];
    for _ in 0..LEFT_MAX {
        match receive(&socket, &mut bytes) {
            Ok(left) if left.count > 0 => {}
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return,
        }
    }
    bury(socket);
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
pub(super) fn receive(socket: &UnixStream, into: &mut [u8]) -> Result<Received, Errno> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut bytes = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
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
    let mut received = Received { count, is_truncated, fds, pid: None, pidfd: None };
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
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => take_fds(data, len, &mut received.fds),
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if len >= size_of::<libc::ucred>() => {
                // SAFETY: so many bytes of it are there.
                let who = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                received.pid = Pid::from_raw(who.pid);
            }
            (libc::SOL_SOCKET, SCM_PIDFD) if len >= size_of::<RawFd>() => {
                // SAFETY: so many bytes of it are there.
                let number = unsafe { data.cast::<RawFd>().read_unaligned() };
                received.pidfd = Some(pidfd(number));
            }
            _ => {}
        }
        // SAFETY: as for the first.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Ok(received)
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

/// Switches an option that older kernels, and other systems, do not know.
pub(super) fn set_option(socket: &UnixStream, option: libc::c_int, is_on: bool) {
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
