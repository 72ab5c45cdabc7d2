//! Named files: the backends `posix` and `mmap`.
//!
//! On Linux `shm_open(name)` is, in glibc and musl alike, `open("/dev/shm/name")`, so `posix` is
//! `mmap` in that directory, and other programs find its objects with `shm_open`.
//!
//! **Making.** The file is made without a name (`O_TMPFILE`), reserved and mapped, and only then
//! linked to its name, which fails where the name is taken. So nobody ever sees half an object,
//! and a creator that is killed leaves nothing. On file systems without nameless files (NFS)
//! it has a temporary name instead, which a kill may leave behind; it begins with the object's own
//! name, so that [`list`] finds it.
//!
//! **Removing** exactly one object, though `unlink` knows only names: all removers hold the file's
//! `flock` from before they check that the name leads to the file until they have unlinked it.
//! Without the file's lock nobody takes its name away, and a name that is taken cannot be given to
//! another file; so what was true when checked is true when unlinked. Those who open need no lock:
//! they may map an object just before it loses its name, and so must be able to see in it that it
//! was given up (the control segment's header says so), and then open again. The lock goes when
//! its holder dies; only a holder stopped in those three calls makes others give up, with
//! [`BackendError::Busy`].
use super::pages::{self, Extent, Subject};
use super::rights::Owned;
use super::{Backend, BackendError, Identity, Object, Place, ReadOnly};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Stat, fchmod, fchown, flock,
    fstat, linkat, openat, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::getpid;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Where `shm_open` keeps its objects.
pub const POSIX_DIRECTORY: &str = "/dev/shm";

/// Before it has a name nobody else needs it: [`Entry::grant`] comes then.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Rounds in which a name may change hands under us before we say so.
const ROUNDS_MAX: u32 = 1000;
/// Milliseconds to wait for another remover.
const LOCK_WAIT_MS_MAX: u32 = 2000;

pub(super) fn create(place: &Place, name: &str, extent: Extent) -> Result<Object, BackendError> {
    let entry = Entry::new(place, name)?;
    if entry.stat()?.is_some() {
        return Err(entry.taken());
    }
    match entry.nameless()? {
        Some(fd) => entry.fill_and_link(fd, extent),
        None => entry.fill_under_other_name(extent),
    }
}

pub(super) fn open_or_create(place: &Place, name: &str, size: u64) -> Result<Object, BackendError> {
    let entry = Entry::new(place, name)?;
    for _ in 0..ROUNDS_MAX {
        if let Some(fd) = entry.open()? {
            return entry.attach(fd.as_fd(), Extent::whole(size));
        }
        match create(place, name, Extent::whole(size)) {
            Err(BackendError::AlreadyExists { .. }) => {}
            made => return made,
        }
    }
    Err(entry.busy())
}

pub(super) fn open(place: &Place, name: &str) -> Result<Option<Object>, BackendError> {
    let entry = Entry::new(place, name)?;
    match entry.open()? {
        Some(fd) => entry.attach(fd.as_fd(), Extent::whole(0)).map(Some),
        None => Ok(None),
    }
}

pub(super) fn open_read_only(place: &Place, name: &str) -> Result<Option<ReadOnly>, BackendError> {
    let entry = Entry::new(place, name)?;
    match entry.open_for(OFlags::RDONLY)? {
        Some(fd) => entry.attach_read_only(fd.as_fd()).map(Some),
        None => Ok(None),
    }
}

pub(super) fn remove(place: &Place, name: &str) -> Result<bool, BackendError> {
    let entry = Entry::new(place, name)?;
    for _ in 0..ROUNDS_MAX {
        let Some(fd) = entry.open()? else { return Ok(false) };
        if entry.unlink(fd.as_fd())? {
            return Ok(true);
        }
    }
    Err(entry.busy())
}

pub(super) fn remove_exact(
    place: &Place,
    name: &str,
    wanted: Identity,
) -> Result<bool, BackendError> {
    let entry = Entry::new(place, name)?;
    match entry.open()? {
        Some(fd) if identity(&entry.fstat(fd.as_fd())?) == wanted => entry.unlink(fd.as_fd()),
        _ => Ok(false),
    }
}

pub(super) fn identify(place: &Place, name: &str) -> Result<Option<Identity>, BackendError> {
    Ok(Entry::new(place, name)?.stat()?.map(|stat| identity(&stat)))
}

pub(super) fn list(place: &Place, prefix: &str) -> Result<Vec<String>, BackendError> {
    let entry = Entry::new(place, prefix)?;
    let failed = |errno| entry.error("getdents", errno);
    let mut names = Vec::new();
    for file in retry_on_intr(|| Dir::read_from(&entry.directory)).map_err(failed)? {
        match file.map_err(failed)?.file_name().to_str() {
            Ok(name) if name.starts_with(prefix) && !name.starts_with('.') => {
                names.push(name.to_owned());
            }
            _ => {}
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn identity(stat: &Stat) -> Identity {
    Identity::File { device: stat.st_dev, inode: stat.st_ino }
}

fn owned(stat: &Stat) -> Owned {
    Owned { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode }
}

/// A name in an open directory, whatever stands there.
struct Entry<'a> {
    place: &'a Place,
    path: &'a Path,
    directory: OwnedFd,
    name: &'a str,
}

impl<'a> Entry<'a> {
    fn new(place: &'a Place, name: &'a str) -> Result<Entry<'a>, BackendError> {
        let path = match place.backend {
            Backend::Posix => Path::new(POSIX_DIRECTORY),
            _ => place.directory.as_path(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = retry_on_intr(|| openat(CWD, path, flags, Mode::empty()));
        let directory = opened.map_err(|errno| match errno {
            Errno::NOENT => unusable(path, "does not exist"),
            Errno::NOTDIR => unusable(path, "is not a directory"),
            Errno::ACCESS => unusable(path, "is not readable"),
            errno => BackendError::from_errno("open", &path.to_string_lossy(), errno),
        })?;
        Ok(Entry { place, path, directory, name })
    }

    /// A file without a name, or `None` where the file system has none such.
    fn nameless(&self) -> Result<Option<OwnedFd>, BackendError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match retry_on_intr(|| openat(&self.directory, ".", flags, MODE)) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.not_made("open", errno)),
        }
    }

    /// Makes a new file what it is to be, and maps it.
    fn fill(&self, fd: BorrowedFd<'_>, extent: Extent) -> Result<Object, BackendError> {
        self.grant(fd)?;
        self.attach(fd, extent)
    }

    fn fill_and_link(&self, fd: OwnedFd, extent: Extent) -> Result<Object, BackendError> {
        let object = self.fill(fd.as_fd(), extent)?;
        // Links a file known by its descriptor; the direct way (AT_EMPTY_PATH) needs a privilege.
        let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
        match linkat(CWD, source, &self.directory, self.name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(object),
            Err(Errno::EXIST) => Err(self.taken()),
            Err(_) => {
                // No /proc, for one. First give back what was reserved.
                drop((object, fd));
                self.fill_under_other_name(extent)
            }
        }
    }

    fn fill_under_other_name(&self, extent: Extent) -> Result<Object, BackendError> {
        let (fd, temporary) = self.other_name()?;
        let filled = self.fill(fd.as_fd(), extent).and_then(|object| {
            self.link(&temporary)?;
            Ok(object)
        });
        // Linked or not, and gone already only if somebody cleaned up: nothing left to do then.
        let _ = unlinkat(&self.directory, &*temporary, AtFlags::empty());
        filled
    }

    fn link(&self, temporary: &str) -> Result<(), BackendError> {
        let (from, to) = (&self.directory, &self.directory);
        match linkat(from, temporary, to, self.name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            // NOENT: somebody who had the name meanwhile has cleaned up around it.
            Err(Errno::EXIST | Errno::NOENT) => Err(self.taken()),
            Err(errno) => Err(self.not_made("link", errno)),
        }
    }

    fn other_name(&self) -> Result<(OwnedFd, String), BackendError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        for round in 0..ROUNDS_MAX {
            let name = format!("{}.{}-{round}", self.name, getpid().as_raw_nonzero());
            match retry_on_intr(|| openat(&self.directory, &*name, flags, MODE)) {
                Ok(fd) => return Ok((fd, name)),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.not_made("open", errno)),
            }
        }
        Err(self.busy())
    }

    /// Gives a new file, which still lacks its name, its group and mode: so nobody ever finds it
    /// with others. The group first, lest another one have a group's rights.
    fn grant(&self, fd: BorrowedFd<'_>) -> Result<(), BackendError> {
        let rights = self.place.rights;
        if !rights.differ_from(owned(&self.fstat(fd)?)) {
            return Ok(());
        }
        if let Some(gid) = rights.group() {
            fchown(fd, None, Some(Gid::from_raw(gid)))
                .map_err(|errno| self.error("fchown", errno))?;
        }
        fchmod(fd, Mode::from_raw_mode(rights.mode())).map_err(|errno| self.error("fchmod", errno))
    }

    /// Opens what stands there, if it is a file of ours.
    fn open(&self) -> Result<Option<OwnedFd>, BackendError> {
        self.open_for(OFlags::RDWR)
    }

    fn open_for(&self, access: OFlags) -> Result<Option<OwnedFd>, BackendError> {
        // NONBLOCK: a FIFO or a device in its place must not hold us up.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match retry_on_intr(|| openat(&self.directory, self.name, flags, Mode::empty())) {
            Ok(fd) => {
                self.check(&self.fstat(fd.as_fd())?)?;
                Ok(Some(fd))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => {
                // What stands there says it better than the errno.
                self.stat()?.map_or(Ok(()), |stat| self.check(&stat))?;
                Err(self.error("open", errno))
            }
        }
    }

    fn check(&self, stat: &Stat) -> Result<(), BackendError> {
        let name = self.name.to_owned();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Err(BackendError::Symlink { name }),
            FileType::RegularFile => self.place.rights.check_owner(self.name, owned(stat)),
            _ => Err(BackendError::NotAFile { name }),
        }
    }

    /// Maps the file, made at least `least` long.
    fn attach(&self, fd: BorrowedFd<'_>, least: Extent) -> Result<Object, BackendError> {
        let mut stat = self.fstat(fd)?;
        let name = self.name.to_owned();
        let rights = self.place.rights.check_mode(self.name, owned(&stat))?;
        if (stat.st_size as u64) < least.len {
            pages::reserve_extent(fd, least, self.subject())?;
            stat = self.fstat(fd)?;
        }
        let (len, expected) = (stat.st_size as u64, least.len.max(1));
        if len < expected {
            return Err(BackendError::Truncated { name, len, expected });
        }
        let mapping = pages::map(fd, len, self.subject())?;
        let place = Place { rights, ..self.place.clone() };
        Ok(Object { mapping, identity: identity(&stat), place, name, fd: None })
    }

    /// Maps the file as it is.
    fn attach_read_only(&self, fd: BorrowedFd<'_>) -> Result<ReadOnly, BackendError> {
        let stat = self.fstat(fd)?;
        let rights = self.place.rights.check_mode(self.name, owned(&stat))?;
        let (name, len) = (self.name.to_owned(), stat.st_size as u64);
        if len == 0 {
            return Err(BackendError::Truncated { name, len, expected: 1 });
        }
        let mapping = pages::map_read_only(fd, len, self.subject())?;
        let place = Place { rights, ..self.place.clone() };
        Ok(ReadOnly { mapping, identity: identity(&stat), place, name })
    }

    /// Takes its name away from the file, if this name still leads to it (the head of this file
    /// says why that is safe).
    fn unlink(&self, fd: BorrowedFd<'_>) -> Result<bool, BackendError> {
        let _lock = self.lock(fd)?;
        let wanted = identity(&self.fstat(fd)?);
        if self.stat()?.map(|stat| identity(&stat)) != Some(wanted) {
            return Ok(false);
        }
        match unlinkat(&self.directory, self.name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // Somebody who does not lock (a person, with `rm`).
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.error("unlink", errno)),
        }
    }

    fn lock<'f>(&self, fd: BorrowedFd<'f>) -> Result<Lock<'f>, BackendError> {
        for _ in 0..LOCK_WAIT_MS_MAX {
            match flock(fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(fd)),
                Err(Errno::WOULDBLOCK) => thread::sleep(Duration::from_millis(1)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.error("flock", errno)),
            }
        }
        Err(self.busy())
    }

    fn stat(&self) -> Result<Option<Stat>, BackendError> {
        match statat(&self.directory, self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("stat", errno)),
        }
    }

    fn fstat(&self, fd: BorrowedFd<'_>) -> Result<Stat, BackendError> {
        fstat(fd).map_err(|errno| self.error("fstat", errno))
    }

    fn subject(&self) -> Subject<'a> {
        Subject { name: self.name, location: self.path.to_str().unwrap_or("its directory") }
    }

    fn error(&self, call: &'static str, errno: Errno) -> BackendError {
        self.subject().error(call, errno)
    }

    fn not_made(&self, call: &'static str, errno: Errno) -> BackendError {
        match errno {
            Errno::ACCESS | Errno::PERM | Errno::ROFS => unusable(self.path, "is not writable"),
            Errno::NOSPC | Errno::DQUOT => BackendError::LimitReached {
                name: self.name.to_owned(),
                limit: "of files (`df -i`) or space",
                remedy: "remove some, or choose another directory or backend",
            },
            errno => self.error(call, errno),
        }
    }

    fn taken(&self) -> BackendError {
        BackendError::AlreadyExists { name: self.name.to_owned() }
    }

    fn busy(&self) -> BackendError {
        BackendError::Busy { name: self.name.to_owned() }
    }
}

/// Held until dropped. Unlocked by hand, since a child forked meanwhile shares the lock.
struct Lock<'f>(BorrowedFd<'f>);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Where this fails the lock goes with the descriptor.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}

fn unusable(path: &Path, reason: &'static str) -> BackendError {
    BackendError::BadDirectory { directory: path.display().to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_testkit::unique::TempDir;

    /// The next to make a domain of that name takes it for a dead creator's.
    #[test]
    fn a_temporary_name_removed_by_others_means_look_again() {
        let directory = TempDir::new("temporary");
        let place = Place::mmap(directory.path());
        let entry = Entry::new(&place, "name").unwrap();
        let (_fd, temporary) = entry.other_name().unwrap();
        unlinkat(&entry.directory, &*temporary, AtFlags::empty()).unwrap();
        let error = entry.link(&temporary).unwrap_err();
        assert!(matches!(error, BackendError::AlreadyExists { .. }), "{error}");
    }
}
