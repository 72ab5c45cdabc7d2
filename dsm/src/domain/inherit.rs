//! Handing the domain to other processes: to children by inheritance, to anyone by socket.
use super::config::DomainConfig;
use super::error::{HandOverError, OpenError};
use super::open::enter_existing;
use super::{Domain, open};
use crate::backend::{Backend, Rights, memfd};
use crate::handle::SegmentHandle;
use rustix::fs::fstat;
use rustix::io::{FdFlags, fcntl_setfd};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

const DOMAIN: &str = "SHM_DOMAIN";
const BACKEND: &str = "SHM_DOMAIN_BACKEND";
const DIRECTORY: &str = "SHM_DOMAIN_DIRECTORY";
/// The group that shares the domain; empty for a private one.
const GROUP: &str = "SHM_DOMAIN_GROUP";
/// Which domain of that name: in hexadecimal digits.
const NONCE: &str = "SHM_DOMAIN_NONCE";
/// `memfd` only: the descriptor of the control segment, then `,HANDLE:` and that of each segment. A
/// descriptor is `NUMBER:DEVICE:INODE`.
const DESCRIPTORS: &str = "SHM_DOMAIN_FDS";

/// What a child process needs to come into the domain by [`Domain::from_env`].
///
/// ```
/// use dsm::{Domain, DomainConfig};
/// use std::process::Command;
/// # let name = format!("doc-inherit-{}", std::process::id());
/// let domain = Domain::open(DomainConfig::new(&name))?;
/// let mut command = Command::new("true"); // a program that calls `Domain::from_env`
/// domain.inheritance()?.apply(&mut command);
/// assert!(command.status()?.success());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Inheritance {
    /// Environment variables for the child.
    pub env: Vec<(OsString, OsString)>,
    /// Descriptors that the child must have under the same numbers, open across `exec`. None but
    /// for `memfd`.
    pub fds: Vec<OwnedFd>,
}

impl Inheritance {
    /// Gives it to the children that `command` starts.
    pub fn apply(self, command: &mut Command) {
        command.envs(self.env);
        let fds = self.fds;
        if fds.is_empty() {
            return;
        }
        let keep_open = move || {
            for fd in &fds {
                fcntl_setfd(fd, FdFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls and nothing else: it takes no lock, no memory.
        unsafe { command.pre_exec(keep_open) };
    }
}

impl Domain {
    /// What to give a child process so that it comes into this domain, with the segments that are
    /// alive now. (Later ones it finds by handle; with `memfd`, hand them over: [`Domain::send`].)
    ///
    /// # Errors
    /// Where a descriptor cannot be copied; where the domain has lost its name, so that no child
    /// would find it ([`OpenError::Unnamed`], as the error's inner one).
    pub fn inheritance(&self) -> std::io::Result<Inheritance> {
        self.presence.member.check_fork().map_err(std::io::Error::other)?;
        if !self.is_named().map_err(std::io::Error::other)? {
            let name = self.name().to_owned();
            return Err(std::io::Error::other(OpenError::Unnamed { name }));
        }
        let place = &self.presence.system.place;
        let group = place.rights.group().map_or(String::new(), |group| group.to_string());
        let mut env: Vec<(OsString, OsString)> = vec![
            (DOMAIN.into(), self.name().into()),
            (BACKEND.into(), place.backend.name().into()),
            (DIRECTORY.into(), place.directory.clone().into()),
            (GROUP.into(), group.into()),
            (NONCE.into(), format!("{:x}", self.presence.system.nonce).into()),
        ];
        let mut fds = Vec::new();
        if let Some(control) = self.presence.system.object.fd() {
            let control = control.try_clone_to_owned()?;
            let mut list = describe(&control)?;
            fds.push(control);
            for (handle, fd) in self.presence.descriptors()? {
                list.push_str(&format!(",{handle}:{}", describe(&fd)?));
                fds.push(fd);
            }
            env.push((DESCRIPTORS.into(), list.into()));
        }
        Ok(Inheritance { env, fds })
    }

    /// Comes into the domain that this process was started for ([`Domain::inheritance`]).
    ///
    /// With `memfd`, a process can do so once: it takes the inherited descriptors into its care.
    ///
    /// # Errors
    /// [`OpenError::Environment`] where it was started for none, or the domain is gone, or has lost
    /// its name to another one; otherwise
    /// as [`Domain::open`].
    pub fn from_env() -> Result<Domain, OpenError> {
        let name = variable(DOMAIN)?.ok_or(problem(DOMAIN, "is not set"))?;
        let backend = variable(BACKEND)?.ok_or(problem(BACKEND, "is not set"))?;
        let backend: Backend = backend.parse()?;
        let directory = std::env::var_os(DIRECTORY).map(PathBuf::from);
        let group = variable(GROUP)?.filter(|group| !group.is_empty());
        let group = group.map(|group| group.parse()).transpose();
        let group = group.map_err(|_| problem(GROUP, "is no number of a group"))?;
        let rights = group.map_or(Rights::PRIVATE, Rights::shared);
        let config = DomainConfig {
            backend: Some(backend),
            directory,
            mode: rights.mode(),
            group: rights.group(),
            ..DomainConfig::new(name)
        };
        let nonce = variable(NONCE)?.map(|nonce| u64::from_str_radix(&nonce, 16)).transpose();
        let nonce = nonce.map_err(|_| problem(NONCE, "is no hexadecimal number"))?;
        let gone = problem(DOMAIN, "names a domain that is gone");
        if backend != Backend::Memfd {
            let domain = open::open_existing(&config)?.map(Domain::new).ok_or(gone)?;
            let is_other = nonce.is_some_and(|nonce| nonce != domain.presence.system.nonce);
            let other = problem(DOMAIN, "names another domain by now, for the first lost its name");
            return if is_other { Err(other) } else { Ok(domain) };
        }
        let list = variable(DESCRIPTORS)?.ok_or(problem(DESCRIPTORS, "is not set"))?;
        // Afterwards the numbers stand for other descriptors, which are not ours to close.
        static TAKEN: OnceLock<()> = OnceLock::new();
        TAKEN.set(()).map_err(|()| problem(DESCRIPTORS, "has served this process already"))?;
        let (control, segments) = list.split_once(',').unwrap_or((&list, ""));
        let object = memfd::open_fd(take(control)?)?;
        let presence = enter_existing(object, &config)?.ok_or(gone)?;
        for entry in segments.split(',').filter(|entry| !entry.is_empty()) {
            let (handle, fd) = entry.split_once(':').ok_or(malformed())?;
            let handle: SegmentHandle = handle.parse().map_err(|_| malformed())?;
            presence.learn(handle, take(fd)?);
        }
        Ok(Domain::new(presence))
    }

    /// Hands a segment that is attached here to the process at the other end, which calls
    /// [`Domain::receive`] on this domain. Needed with `memfd`; elsewhere the handle is enough.
    ///
    /// # Errors
    /// [`HandOverError`].
    pub fn send(&self, socket: &UnixStream, handle: SegmentHandle) -> Result<(), HandOverError> {
        self.presence.member.check_fork()?;
        let mut to = socket;
        let bits = handle.to_bits().to_le_bytes();
        if self.backend() != Backend::Memfd {
            return Ok(to.write_all(&bits)?);
        }
        let fd = self.presence.descriptor(handle)?.ok_or(HandOverError::NotAttached(handle))?;
        let object = memfd::open_fd(fd)?;
        to.write_all(&bits)?;
        Ok(memfd::send_fd(socket, &object)?)
    }

    /// Takes what [`Domain::send`] sent: a handle, for [`Domain::attach`].
    ///
    /// # Errors
    /// [`HandOverError`].
    pub fn receive(&self, socket: &UnixStream) -> Result<SegmentHandle, HandOverError> {
        self.presence.member.check_fork()?;
        let (mut from, mut bits) = (socket, [0; 8]);
        from.read_exact(&mut bits)?;
        let handle = SegmentHandle::from_bits(u64::from_le_bytes(bits));
        let nonsense = || std::io::Error::new(std::io::ErrorKind::InvalidData, "no handle");
        let handle = handle.ok_or_else(nonsense)?;
        if self.backend() == Backend::Memfd {
            self.presence.learn(handle, memfd::receive_fd(socket)?);
        }
        Ok(handle)
    }
}

fn problem(variable: &'static str, problem: &'static str) -> OpenError {
    OpenError::Environment { variable, problem }
}

fn malformed() -> OpenError {
    problem(DESCRIPTORS, "is malformed")
}

fn variable(name: &'static str) -> Result<Option<String>, OpenError> {
    let text = std::env::var_os(name).map(OsString::into_string).transpose();
    text.map_err(|_| problem(name, "is not text"))
}

/// A descriptor's number, and what makes sure that it is the one.
fn describe(fd: &OwnedFd) -> std::io::Result<String> {
    let stat = fstat(fd)?;
    Ok(format!("{}:{}:{}", fd.as_raw_fd(), stat.st_dev, stat.st_ino))
}

/// Takes an inherited descriptor into our care: a copy that is closed on exec, and the number
/// itself is closed. Only where it is the one described, for the variable may have come further
/// than the descriptors, and the number may stand for another one.
fn take(described: &str) -> Result<OwnedFd, OpenError> {
    let gone = || problem(DESCRIPTORS, "names descriptors that this process does not have");
    let (number, _) = described.split_once(':').ok_or(malformed())?;
    let number: RawFd = number.parse().map_err(|_| malformed())?;
    if number < 0 {
        return Err(malformed());
    }
    // SAFETY: borrowed for the next three calls, which fail where it is not open.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    let copy = inherited.try_clone_to_owned().map_err(|_| gone())?;
    let stat = fstat(&copy).map_err(|_| gone())?;
    if described != format!("{number}:{}:{}", stat.st_dev, stat.st_ino) {
        return Err(gone());
    }
    // SAFETY: it was made for us, by the parent that named it, and leads to what he named; nobody
    // else in this process knows of it.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
    Ok(copy)
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;
    use crate::backend::{self, Place};
    use std::os::fd::IntoRawFd;

    fn memfd() -> OwnedFd {
        let object = backend::create(&Place::new(Backend::Memfd), "taken", 1).unwrap();
        object.fd().unwrap().try_clone_to_owned().unwrap()
    }

    #[test]
    fn only_the_descriptor_described_is_taken() {
        let (ours, other) = (memfd(), memfd());
        let described = describe(&ours).unwrap();
        let (_, object) = described.split_once(':').unwrap();
        let elsewhere = format!("{}:{object}", other.as_raw_fd());
        assert!(take(&elsewhere).is_err(), "another sealed memfd of this process");
        assert!(fstat(&other).is_ok(), "it is open still");
        for nonsense in ["", "-1:0:0", "x:0:0", &ours.as_raw_fd().to_string()] {
            assert!(take(nonsense).is_err(), "{nonsense}");
        }
        let number = ours.into_raw_fd();
        let taken = take(&described).unwrap();
        assert_ne!(taken.as_raw_fd(), number);
        assert!(describe(&taken).unwrap().ends_with(object));
    }
}
