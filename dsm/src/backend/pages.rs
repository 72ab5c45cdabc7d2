//! From a file to memory that is really there.
use super::BackendError;
use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl, fcntl_setfl, fstat, fstatvfs};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{Resource, getrlimit};
use shm_core::mapping::Mapping;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

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

/// Makes the file at least `size` bytes long, with memory or disk blocks behind each of them.
///
/// Idempotent, and never overwrites: any number of processes may do it to one file, at once, or
/// one where another was killed, and even while the file is in use.
pub(super) fn reserve(
    fd: BorrowedFd<'_>,
    size: u64,
    subject: Subject<'_>,
) -> Result<(), BackendError> {
    // Asked first, because going over it means SIGXFSZ, which kills.
    if getrlimit(Resource::Fsize).current.is_some_and(|limit| size > limit) {
        return Err(BackendError::LimitReached {
            name: subject.name.to_owned(),
            limit: "RLIMIT_FSIZE",
            remedy: "raise it with `ulimit -f`, or ask for less",
        });
    }
    check_room(fd, size, subject)?;
    let allocate = |offset, len| fallocate(fd, FallocateFlags::empty(), offset, len);
    let reserved = match in_chunks(size, allocate) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => append_zeroes(fd, size),
        other => other,
    };
    reserved.map_err(|errno| match errno {
        Errno::NOSPC | Errno::DQUOT => subject.no_space(size, free_bytes(fd)),
        errno => subject.error("fallocate", errno),
    })
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
    match fstatvfs(fd) {
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
    let len = usize::try_from(len).map_err(|_| BackendError::BadSize { size: len })?;
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    // SAFETY: no address is asked for, so nothing that is mapped is touched.
    let base = unsafe { mmap(ptr::null_mut(), len, protection, flags, fd, 0) }
        .map_err(|errno| subject.error("mmap", errno))?;
    let base = NonNull::new(base.cast::<u8>()).expect("the kernel does not choose address 0");
    // SAFETY: a fresh mapping of `len` bytes, page-aligned, that nobody else in this process knows.
    Ok(unsafe { Mapping::from_raw(base, len, Box::new(unmap)) })
}

fn unmap(base: NonNull<u8>, len: usize) {
    // SAFETY: the mapping made in `map`; its last view is gone.
    let unmapped = unsafe { munmap(base.as_ptr().cast(), len) };
    debug_assert_eq!(unmapped, Ok(()));
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
