//! Nameless, sealed memory: gone with its last user, whatever becomes of them.
//!
//! Its one way from process to process is the file descriptor: over a Unix socket ([`send_fd`],
//! [`receive_fd`], [`open_fd`]), or inherited ([`Object::fd`]). The seals keep a peer from cutting
//! it off under our feet; [`open_fd`] maps nothing that lacks them. It is not bound by the size of
//! `/dev/shm`.
use super::huge;
use super::pages::{self, Extent, Subject};
use super::{Backend, BackendError, Identity, Object, Place, ReadOnly};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::{Errno, FdFlags, IoSlice, IoSliceMut, fcntl_setfd, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Nobody can shorten it, lengthen it, or seal it further (against writing, for one).
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The seals keep its length and leave its hole to be filled.
pub(super) fn create(place: &Place, name: &str, extent: Extent) -> Result<Object, BackendError> {
    let subject = subject(name);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => memfd_create(name, flags),
        made => made,
    }
    .map_err(|errno| match errno {
        Errno::NOSYS => BackendError::Unsupported {
            backend: Backend::Memfd,
            reason: "this system has no memfd_create: choose another backend",
        },
        errno => subject.error("memfd_create", errno),
    })?;
    pages::reserve_extent(fd.as_fd(), extent, subject)?;
    fcntl_add_seals(&fd, SEALS).map_err(|errno| subject.error("fcntl", errno))?;
    map(fd, place.clone(), name)
}

/// Of the pool's pages, of which there have to be enough.
pub(super) fn create_huge(place: &Place, name: &str, size: u64) -> Option<Object> {
    let (page, free) = huge::pool()?;
    let len = size.checked_next_multiple_of(page).filter(|len| *len > 0 && len / page <= free)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let fd = memfd_create(name, flags).ok()?;
    // Takes the pages from the pool: who comes too late gets an error here, and no SIGBUS.
    let subject = subject(name);
    pages::reserve(fd.as_fd(), len, subject).ok()?;
    fcntl_add_seals(&fd, SEALS).ok()?;
    map(fd, place.clone(), name).ok()
}

pub(super) fn open(_place: &Place, _name: &str) -> Result<Option<Object>, BackendError> {
    Err(BackendError::Unsupported {
        backend: Backend::Memfd,
        reason: "its objects have no names: hand over the file descriptor",
    })
}

pub(super) fn remove(_place: &Place, _name: &str) -> Result<bool, BackendError> {
    Ok(false)
}

/// The object behind `fd`, which came from another process.
///
/// The object keeps `fd`, from now on closed on exec.
///
/// # Errors
/// [`BackendError::Unsealed`] for anything but a memfd sealed as [`create`](super::create) does.
///
/// ```
/// use dsm::backend::{self, Backend, BackendError, Place, memfd};
/// let made = backend::create(&Place::new(Backend::Memfd), "doc", 4096)?;
/// let fd = made.fd().expect("memfd keeps it").try_clone_to_owned().expect("a descriptor");
/// assert_eq!(memfd::open_fd(fd)?.identity(), made.identity());
/// let file = std::fs::File::open("/dev/null").expect("a file");
/// assert!(matches!(memfd::open_fd(file.into()), Err(BackendError::Unsealed)));
/// # Ok::<(), BackendError>(())
/// ```
pub fn open_fd(fd: OwnedFd) -> Result<Object, BackendError> {
    check_seals(&fd)?;
    let name = "received";
    fcntl_setfd(&fd, FdFlags::CLOEXEC).map_err(|errno| subject(name).error("fcntl", errno))?;
    map(fd, Place::new(Backend::Memfd), name)
}

/// As [`open_fd`], mapped read-only; `fd` is closed.
///
/// # Errors
/// As [`open_fd`].
pub fn open_fd_read_only(fd: OwnedFd) -> Result<ReadOnly, BackendError> {
    check_seals(&fd)?;
    let name = "received";
    let (identity, len) = measure(&fd, name)?;
    let mapping = pages::map_read_only(&fd, len, subject(name))?;
    Ok(ReadOnly { mapping, identity, place: Place::new(Backend::Memfd), name: name.to_owned() })
}

fn check_seals(fd: &OwnedFd) -> Result<(), BackendError> {
    match fcntl_get_seals(fd) {
        Ok(seals) if seals.contains(SEALS) => Ok(()),
        _ => Err(BackendError::Unsealed),
    }
}

/// Hands `object` over to the process at the other end, together with one byte.
///
/// # Errors
/// [`BackendError::Unsupported`] where `object` is no memfd; [`BackendError::Os`] where the peer
/// is gone.
pub fn send_fd(socket: &UnixStream, object: &Object) -> Result<(), BackendError> {
    let Some(fd) = object.fd() else {
        return Err(BackendError::Unsupported {
            backend: object.place.backend,
            reason: "only memfd is handed over: open the others by name",
        });
    };
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let pushed = control.push(SendAncillaryMessage::ScmRights(&fds));
    debug_assert!(pushed, "the space is made for one descriptor");
    // NOSIGNAL: a peer that left is an error, not a SIGPIPE.
    let bytes = [IoSlice::new(b"F")];
    retry_on_intr(|| sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL))
        .map_err(|errno| subject(&object.name).error("sendmsg", errno))?;
    Ok(())
}

/// Takes what [`send_fd`] sent: for [`open_fd`].
///
/// # Errors
/// [`BackendError::NoDescriptor`] where the peer left, or sent something else.
pub fn receive_fd(socket: &UnixStream) -> Result<OwnedFd, BackendError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    retry_on_intr(|| {
        let bytes = &mut [IoSliceMut::new(&mut byte)];
        recvmsg(socket, bytes, &mut control, RecvFlags::CMSG_CLOEXEC)
    })
    .map_err(|errno| subject("received").error("recvmsg", errno))?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.ok_or(BackendError::NoDescriptor)
}

fn map(fd: OwnedFd, place: Place, name: &str) -> Result<Object, BackendError> {
    let (identity, len) = measure(&fd, name)?;
    let mapping = pages::map(&fd, len, subject(name))?;
    Ok(Object { mapping, identity, place, name: name.to_owned(), fd: Some(fd) })
}

fn measure(fd: &OwnedFd, name: &str) -> Result<(Identity, u64), BackendError> {
    let stat = fstat(fd).map_err(|errno| subject(name).error("fstat", errno))?;
    let (name, len) = (name.to_owned(), stat.st_size as u64);
    if len == 0 {
        return Err(BackendError::Truncated { name, len, expected: 1 });
    }
    Ok((Identity::File { device: stat.st_dev, inode: stat.st_ino }, len))
}

fn subject(name: &str) -> Subject<'_> {
    Subject { name, location: "memory" }
}
