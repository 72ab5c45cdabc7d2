//! From a file to memory that is really there.
use super::{Backend, BackendError, POSIX_DIRECTORY, Place};
use rustix::fs::{
    FallocateFlags, OFlags, fallocate, fcntl_getfl, fcntl_setfl, fstat, fstatvfs, ftruncate,
    statvfs,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use shm_core::Region;
use shm_core::mapping::Mapping;
use std::fs;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex};

/// Reserved by one system call at first; less where signals interrupt it.
const CHUNK_MAX: u64 = 16 << 20;
/// Written by one system call where the file system cannot reserve.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// For whom and where memory is made: what an error has to tell.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) name: &'a str,
    /// The directory, or "memory".
    pub(super) location: &'a str,
}

impl Subject<'_> {
    pub(super) fn error(&self, call: &'static str, errno: Errno) -> BackendError {
        BackendError::from_errno(call, self.name, errno)
    }

    pub(super) fn no_space(&self, size: u64, free: Option<u64>) -> BackendError {
        BackendError::NoSpace { location: self.location.to_owned(), size, free }
    }
}

/// How much memory an object takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes, in whole pages.
    pub(crate) len: u64,
    /// With memory behind them from the start: whole pages from the beginning, or all. Behind the
    /// others [`populate`] puts it.
    pub(crate) filled: u64,
}

impl Extent {
    pub(crate) fn whole(len: u64) -> Extent {
        Extent { len, filled: len }
    }
}

/// Makes the file as long as `extent` says, with memory where it says.
pub(super) fn reserve_extent(
    fd: BorrowedFd<'_>,
    extent: Extent,
    subject: Subject<'_>,
) -> Result<(), BackendError> {
    check_file_limit(extent.len, subject)?;
    reserve(fd, extent.filled, subject)?;
    if extent.filled == extent.len {
        return Ok(());
    }
    retry_on_intr(|| ftruncate(fd, extent.len)).map_err(|errno| match errno {
        Errno::FBIG | Errno::INVAL => too_long(subject),
        errno => subject.error("ftruncate", errno),
    })
}

/// Has the system put memory behind mapped pages where there is none yet; what is there stays as it
/// is. Where that fails with `EFAULT`, there is none and none to be had: touching it would send
/// SIGBUS.
fn touch(base: *mut u8, len: u64) -> Result<(), Errno> {
    in_chunks(len, |offset, len| {
        let page = base.wrapping_add(offset as usize).cast();
        // SAFETY: inside a mapping that the caller holds; the contents stay as they are.
        unsafe { madvise(page, len as usize, Advice::LinuxPopulateWrite) }
    })
}

/// As [`touch`], all pages with bytes of `mapping` from `from` to `to`.
pub(crate) fn touch_range(mapping: &Mapping, from: u64, to: u64) -> Result<(), Errno> {
    if cfg!(any(shm_loom, shm_explore, miri)) {
        // Memory there is the model's own, and all there.
        return Ok(());
    }
    let base = mapping.region().base().as_ptr();
    let page = rustix::param::page_size() as u64;
    let (from, to) = (from / page * page, to.min(mapping.len() as u64));
    touch(base.wrapping_add(from as usize), to.saturating_sub(from))
}

/// Whether [`touch`] works here (Linux 5.14).
pub(crate) fn can_populate() -> bool {
    let page = rustix::param::page_size();
    let here = ptr::from_ref(&page).cast::<u8>();
    let here = here.wrapping_sub(here.addr() % page).cast_mut();
    // SAFETY: a page of this thread's stack; its contents stay as they are.
    unsafe { madvise(here.cast(), page, Advice::LinuxPopulateWrite) }.is_ok()
}

/// Makes the file at least `size` bytes long, with memory or disk blocks behind each of them.
///
/// Idempotent, and never overwrites: any number of processes may do it to one file, at once, or
/// one where another was killed, and even while the file is in use.
pub(super) fn reserve(
    fd: BorrowedFd<'_>,
    size: u64,
    subject: Subject<'_>,
) -> Result<(), BackendError> {
    check_file_limit(size, subject)?;
    check_room(fd, size, subject)?;
    let allocate = |offset, len| fallocate(fd, FallocateFlags::empty(), offset, len);
    let reserved = match in_chunks(size, allocate) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => append_zeroes(fd, size),
        other => other,
    };
    reserved.map_err(|errno| not_reserved(fd, size, errno, subject))
}

/// Asked first, because going over it means SIGXFSZ, which kills.
fn check_file_limit(size: u64, subject: Subject<'_>) -> Result<(), BackendError> {
    if limit_of(libc::RLIMIT_FSIZE).is_some_and(|limit| size > limit) {
        return Err(BackendError::LimitReached {
            name: subject.name.to_owned(),
            limit: "RLIMIT_FSIZE",
            remedy: "raise it with `ulimit -f`, or ask for less",
        });
    }
    Ok(())
}

fn not_reserved(fd: BorrowedFd<'_>, size: u64, errno: Errno, subject: Subject<'_>) -> BackendError {
    match errno {
        Errno::NOSPC | Errno::DQUOT => subject.no_space(size, free_bytes(fd)),
        Errno::FBIG => too_long(subject),
        errno => subject.error("fallocate", errno),
    }
}

fn too_long(subject: Subject<'_>) -> BackendError {
    BackendError::LimitReached {
        name: subject.name.to_owned(),
        limit: "of the file system on the size of a file",
        remedy: "ask for less, or choose another directory or backend",
    }
}

/// Where `bytes` of `mapping` are mapped, and how many; `None` for none, or for some outside.
fn range_of(mapping: &Mapping, bytes: Range<u64>) -> Option<(*mut u8, u64)> {
    let len = bytes.end.checked_sub(bytes.start).filter(|len| *len > 0)?;
    let base = mapping.region().range(bytes.start, len).ok()?;
    Some((base.as_ptr(), len))
}

/// Puts memory behind mapped pages of a file's hole.
pub(crate) fn populate(
    mapping: &Mapping,
    bytes: Range<u64>,
    place: &Place,
) -> Result<(), BackendError> {
    let Some((base, len)) = range_of(mapping, bytes) else { return Ok(()) };
    let subject = Subject { name: "growable", location: &location(place) };
    match free_at(place) {
        // Refused before it takes all there is, from everybody, and then fails.
        Some(free) if free < len => return Err(subject.no_space(len, Some(free))),
        _ => {}
    }
    touch(base, len).map_err(|errno| match errno {
        Errno::NOMEM | Errno::FAULT => subject.no_space(len, free_at(place)),
        Errno::INVAL => BackendError::Unsupported {
            backend: place.backend,
            reason: "growing needs Linux 5.14 (MADV_POPULATE_WRITE)",
        },
        errno => subject.error("madvise", errno),
    })
}

/// Takes the memory away from mapped pages: they are a hole of the file again.
pub(crate) fn punch(
    mapping: &Mapping,
    bytes: Range<u64>,
    place: &Place,
) -> Result<(), BackendError> {
    let Some((base, len)) = range_of(mapping, bytes) else { return Ok(()) };
    let punch = || {
        // SAFETY: inside a mapping that the caller holds, and that others share: they know.
        unsafe { madvise(base.cast(), len as usize, Advice::LinuxRemove) }
    };
    retry_on_intr(punch).map_err(|errno| match errno {
        Errno::OPNOTSUPP | Errno::INVAL | Errno::ACCESS => BackendError::Unsupported {
            backend: place.backend,
            reason: "no hole can be made in this file (MADV_REMOVE): its file system cannot, or \
                     this process locks what it maps (`mlockall`)",
        },
        errno => Subject { name: "growable", location: &location(place) }.error("madvise", errno),
    })
}

pub(super) fn location(place: &Place) -> String {
    match place.backend {
        Backend::Posix => POSIX_DIRECTORY.to_owned(),
        Backend::Mmap => place.directory.display().to_string(),
        _ => "memory".to_owned(),
    }
}

fn free_at(place: &Place) -> Option<u64> {
    match place.backend {
        Backend::Posix | Backend::Mmap => match retry_on_intr(|| statvfs(location(place))) {
            Ok(fs) if fs.f_blocks > 0 => Some(fs.f_bfree.saturating_mul(fs.f_frsize)),
            _ => available_memory(),
        },
        _ => available_memory(),
    }
}

/// A limit of this process; `None` where there is none, and in a sandbox that does not tell.
/// (rustix takes for granted that it is told.)
pub(super) fn limit_of(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: writes one pair of limits.
    let told = unsafe { libc::getrlimit(resource, &mut limit) } == 0;
    (told && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Refuses what cannot succeed before it takes all there is, from everybody, and then fails.
fn check_room(fd: BorrowedFd<'_>, size: u64, subject: Subject<'_>) -> Result<(), BackendError> {
    let stat = fstat(fd).map_err(|errno| subject.error("fstat", errno))?;
    let missing = size.saturating_sub(stat.st_blocks as u64 * 512);
    match free_bytes(fd) {
        Some(free) if free < missing => Err(subject.no_space(size, Some(free))),
        _ => Ok(()),
    }
}

/// Free bytes of the file system; of the machine's memory where the file system has no limit.
fn free_bytes(fd: BorrowedFd<'_>) -> Option<u64> {
    match retry_on_intr(|| fstatvfs(fd)) {
        Ok(fs) if fs.f_blocks > 0 => Some(fs.f_bfree.saturating_mul(fs.f_frsize)),
        _ => available_memory(),
    }
}

/// Memory that could be had without the out-of-memory killer, swap included.
pub(super) fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kibibytes("MemAvailable:")? + kibibytes("SwapFree:")?) * 1024)
}

/// In chunks, since on many kernels an interrupted call undoes what it did: under a storm of
/// signals the chunks shrink until one gets through.
fn in_chunks(
    size: u64,
    mut reserve: impl FnMut(u64, u64) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let page = rustix::param::page_size() as u64;
    let (mut offset, mut chunk) = (0, CHUNK_MAX);
    while offset < size {
        let len = chunk.min(size - offset);
        match reserve(offset, len) {
            Ok(()) => offset += len,
            Err(Errno::INTR) => chunk = (chunk / 2).max(page),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// For file systems that cannot reserve. Appending never touches bytes that are there; two
/// processes at it at once make the file at most one chunk longer than asked for.
fn append_zeroes(fd: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
    fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::APPEND)?;
    while let missing @ 1.. = size.saturating_sub(fstat(fd)?.st_size as u64) {
        let len = missing.min(ZEROES.len() as u64) as usize;
        match rustix::io::write(fd, &ZEROES[..len]) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Maps the first `len` bytes, shared, readable and writable.
pub(super) fn map(
    fd: impl AsFd,
    len: u64,
    subject: Subject<'_>,
) -> Result<Arc<Mapping>, BackendError> {
    let (base, len) = map_with(fd, len, ProtFlags::READ | ProtFlags::WRITE, subject)?;
    // SAFETY: a fresh mapping of `len` bytes, page-aligned, that nobody else in this process knows.
    Ok(unsafe { Mapping::from_raw(base, len, Box::new(unmap)) })
}

/// Maps the first `len` bytes, shared, readable only: for a [`ReadOnly`](super::ReadOnly).
pub(super) fn map_read_only(
    fd: impl AsFd,
    len: u64,
    subject: Subject<'_>,
) -> Result<Arc<Mapping>, BackendError> {
    let (base, len) = map_with(fd, len, ProtFlags::READ, subject)?;
    // SAFETY: as in `map`; being only readable it does not come into safe hands: `ReadOnly` and
    // `ReadOnlySegment` give views of it.
    Ok(unsafe { Mapping::from_raw(base, len, Box::new(unmap)) })
}

fn map_with(
    fd: impl AsFd,
    len: u64,
    protection: ProtFlags,
    subject: Subject<'_>,
) -> Result<(NonNull<u8>, usize), BackendError> {
    let len = usize::try_from(len).map_err(|_| BackendError::BadSize { size: len })?;
    // SAFETY: no address is asked for, so nothing that is mapped is touched.
    let base = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, fd, 0) }
        .map_err(|errno| not_mapped(errno, subject))?;
    let base = NonNull::new(base.cast::<u8>()).expect("the kernel does not choose address 0");
    Ok((base, len))
}

/// Whether the last page of a mapping is still there: who cuts a file off cuts its end off. An
/// error where the system cannot tell (before Linux 5.14).
pub(crate) fn is_whole(mapped: Region<'_>) -> Result<bool, Errno> {
    let page = rustix::param::page_size();
    let last = mapped.len().saturating_sub(1) / page * page;
    let last = mapped.base().as_ptr().wrapping_add(last);
    let look = || {
        // SAFETY: a page of a mapping that the caller holds; its contents stay as they are.
        unsafe { madvise(last.cast(), page, Advice::LinuxPopulateRead) }
    };
    match retry_on_intr(look) {
        Ok(()) => Ok(true),
        // Touching it would send SIGBUS.
        Err(Errno::FAULT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn not_mapped(errno: Errno, subject: Subject<'_>) -> BackendError {
    match errno {
        Errno::AGAIN => BackendError::LimitReached {
            name: subject.name.to_owned(),
            limit: "RLIMIT_MEMLOCK",
            remedy: "raise it with `ulimit -l`: this process locks what it maps (`mlockall`)",
        },
        Errno::NODEV => BackendError::BadDirectory {
            directory: subject.location.to_owned(),
            reason: "is in a file system whose files cannot be mapped",
        },
        errno => subject.error("mmap", errno),
    }
}

/// Mappings that nobody uses and that the kernel, short of memory of its own, did not take back:
/// address and length. Tried again with each that follows.
static KEPT: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

fn unmap(base: NonNull<u8>, len: usize) {
    let address = base.as_ptr().expose_provenance();
    // A forked child does not wait for a lock that a thread of its parent had.
    let Ok(mut kept) = KEPT.try_lock() else {
        give_back(address, len);
        return;
    };
    kept.push((address, len));
    kept.retain(|(address, len)| !give_back(*address, *len));
    if !kept.is_empty() {
        tracing::warn!(mappings = kept.len(), "the system does not unmap shared memory now");
    }
}

/// Whether it is unmapped.
fn give_back(address: usize, len: usize) -> bool {
    // SAFETY: a mapping made in `map`; its last view is gone.
    unsafe { munmap(ptr::with_exposed_provenance_mut(address), len) }.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn under_a_storm_of_signals_each_byte_is_reserved_once() {
        let (size, mut end, mut calls) = ((40 << 20) + 4096, 0, 0);
        let reserved = in_chunks(size, |offset, len| {
            calls += 1;
            if len > 1 << 20 {
                return Err(Errno::INTR);
            }
            assert_eq!(offset, end);
            end += len;
            Ok(())
        });
        assert_eq!((reserved, end), (Ok(()), size));
        assert!(calls < 60, "{calls}");
    }

    #[test]
    fn any_other_error_ends_it() {
        assert_eq!(in_chunks(4096, |_, _| Err(Errno::NOSPC)), Err(Errno::NOSPC));
    }
}
