//! Memory that its creator alone can write, and the other side's view of it.
use crate::mapping::{Mapped, MappedSlice, Mapping};
use relptr::{BadPtr, ShmSync};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
    fstatfs, memfd_create,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use rustix::process::{Resource, getrlimit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// Cannot be shortened, lengthened, written by a new mapping or a call, have holes punched into it
/// (which `FUTURE_WRITE` forbids as well), or be sealed further.
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

/// `f_type` of memory of ordinary pages; that of huge ones is another file system.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// How much of a file there is in memory: Linux 6.5. On all architectures, but for two that use
/// other numbers, and where this one is nobody's.
const SYS_CACHESTAT: libc::c_long = 451;

/// Reserved by one call at first; less where signals interrupt it.
const CHUNK_MAX: u64 = 16 << 20;

/// Why memory could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// 0 bytes, or more than an address says.
    #[error("memory of {bytes} bytes cannot be made")]
    BadSize {
        /// Bytes asked for.
        bytes: u64,
    },
    /// The limit for files applies to this memory as well.
    #[error("{bytes} bytes are over the limit for files: raise it with `ulimit -f`")]
    LimitReached {
        /// Bytes asked for.
        bytes: u64,
    },
    /// There is not so much memory.
    #[error("no memory for {bytes} bytes: free some, or raise the limit of its control group")]
    NoSpace {
        /// Bytes asked for.
        bytes: u64,
    },
    /// Linux has had this seal since 5.1.
    #[error("this kernel cannot seal memory against new writers (F_SEAL_FUTURE_WRITE)")]
    NoSuchSeal,
    /// The system refused.
    #[error("{call} failed: {errno}")]
    Os {
        /// The system call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
}

/// Why a descriptor that came from a peer was not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignError {
    /// It is a file, a socket, a device, secret memory, or anything else that has no seals.
    #[error("the descriptor is not memory that can be sealed (a memfd)")]
    NotMemory,
    /// Its owner could cut it off, or somebody else could write it.
    #[error("the memory is not sealed as it has to be: {missing:?} are missing")]
    Unsealed {
        /// Seals that it does not have.
        missing: SealFlags,
    },
    /// It is memory of another kind.
    #[error("the memory is not of ordinary pages (file system {kind:#x})")]
    OtherKind {
        /// The file system's magic number.
        kind: u64,
    },
    /// It is not as large as was agreed.
    #[error("the memory has {bytes} bytes, and {min} to {max} were expected")]
    Size {
        /// What it has.
        bytes: u64,
        /// At least.
        min: u64,
        /// At most.
        max: u64,
    },
    /// Some of it does not exist yet: we would pay for it, or die of it, when we first look.
    #[error("of the memory's {bytes} bytes only {there} exist")]
    Sparse {
        /// What there is.
        there: u64,
        /// What it has to be.
        bytes: u64,
    },
    /// Linux has had it since 5.14.
    #[error("this kernel cannot say whether memory is there (MADV_POPULATE_READ)")]
    NoPopulate,
    /// The system refused.
    #[error("{call} failed: {errno}")]
    Os {
        /// The system call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
}

/// Memory that this process writes and nobody else can.
///
/// ```
/// use shm_core::sealed::{Foreign, Own};
/// let own = Own::create("doc", 4096)?;
/// let theirs = own.fd().try_clone_to_owned()?;
/// assert_eq!(Foreign::map(&theirs, 4096, 4096)?.len(), 4096);
/// let file = std::fs::File::open("/dev/zero")?;
/// assert!(Foreign::map(&file, 4096, 4096).is_err(), "it is not sealed");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Own {
    mapping: Arc<Mapping>,
    fd: OwnedFd,
}

impl Own {
    /// Makes zeroed memory of at least `bytes`, in whole pages, all of it there; `label` shows in
    /// `/proc/PID/maps`.
    ///
    /// # Errors
    /// [`CreateError`].
    ///
    /// # If a process dies here
    /// The kernel frees it with the last who has it.
    pub fn create(label: &str, bytes: u64) -> Result<Own, CreateError> {
        let page = page_bytes();
        let len = bytes.checked_next_multiple_of(page).filter(|len| *len > 0);
        let len = len.and_then(|len| isize::try_from(len).ok()).map(|len| len as u64);
        let len = len.ok_or(CreateError::BadSize { bytes })?;
        // Asked first, because going over it means SIGXFSZ, which kills.
        if getrlimit(Resource::Fsize).current.is_some_and(|limit| len > limit) {
            return Err(CreateError::LimitReached { bytes });
        }
        let os = |call| move |errno| CreateError::Os { call, errno };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = match memfd_create(label, flags | MemfdFlags::NOEXEC_SEAL) {
            // Before Linux 6.3.
            Err(Errno::INVAL) => memfd_create(label, flags),
            made => made,
        }
        .map_err(os("memfd_create"))?;
        reserve(fd.as_fd(), len).map_err(|errno| match errno {
            Errno::NOSPC | Errno::NOMEM | Errno::DQUOT => CreateError::NoSpace { bytes },
            errno => CreateError::Os { call: "fallocate", errno },
        })?;
        let mapping = map(fd.as_fd(), len as usize, ProtFlags::READ | ProtFlags::WRITE);
        let mapping = mapping.map_err(os("mmap"))?;
        touch(&mapping, page as usize);
        // After our own writable mapping, and before anybody else has the descriptor.
        fcntl_add_seals(&fd, SEALS).map_err(|errno| match errno {
            Errno::INVAL => CreateError::NoSuchSeal,
            errno => CreateError::Os { call: "fcntl", errno },
        })?;
        Ok(Own { mapping, fd })
    }

    /// The bytes.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// What to hand over.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Bytes of a page: memory has a multiple of them.
pub fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// In chunks, since on many kernels an interrupted call undoes what it did.
fn reserve(fd: BorrowedFd<'_>, len: u64) -> Result<(), Errno> {
    let (mut offset, mut chunk) = (0, CHUNK_MAX);
    while offset < len {
        let now = chunk.min(len - offset);
        match fallocate(fd, FallocateFlags::empty(), offset, now) {
            Ok(()) => offset += now,
            Err(Errno::INTR) => chunk = (chunk / 2).max(4096),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Writes to each page, so that no message pays for the first look at one.
fn touch(mapping: &Mapping, page: usize) {
    let base = mapping.region().base();
    for offset in (0..mapping.len()).step_by(page) {
        // SAFETY: inside the mapping.
        let place = unsafe { base.add(offset) };
        // SAFETY: as above, and nobody else has it yet.
        unsafe { place.write_volatile(0) };
    }
}

/// Memory that a peer writes and this process can only read.
#[derive(Debug)]
pub struct Foreign {
    mapping: Arc<Mapping>,
}

impl Foreign {
    /// Maps what is behind `fd`, of `min` to `max` bytes, if all is as the module's table says.
    ///
    /// The descriptor is not needed afterwards.
    ///
    /// # Errors
    /// [`ForeignError`].
    pub fn map(fd: impl AsFd, min: u64, max: u64) -> Result<Foreign, ForeignError> {
        let fd = fd.as_fd();
        let os = |call| move |errno| ForeignError::Os { call, errno };
        // First: this asks no file system, and what follows only asks memory.
        let seals = fcntl_get_seals(fd).map_err(|_| ForeignError::NotMemory)?;
        if !seals.contains(SEALS) {
            return Err(ForeignError::Unsealed { missing: SEALS - seals });
        }
        let kind = retry_on_intr(|| fstatfs(fd)).map_err(os("fstatfs"))?.f_type as u64;
        if kind != TMPFS_MAGIC {
            return Err(ForeignError::OtherKind { kind });
        }
        // From here on nothing that is asked can change: it is sealed.
        let about = fstat(fd).map_err(os("fstat"))?;
        let bytes = about.st_size as u64;
        if bytes < min || bytes > max || bytes == 0 {
            return Err(ForeignError::Size { bytes, min, max });
        }
        let there = match bytes_there(fd, bytes) {
            // What lies behind its end counts as well; `populate` makes up for it, at our expense.
            Err(Errno::NOSYS) => about.st_blocks as u64 * 512,
            there => there.map_err(os("cachestat"))?,
        };
        if there < bytes {
            return Err(ForeignError::Sparse { there, bytes });
        }
        let len = usize::try_from(bytes).map_err(|_| ForeignError::Size { bytes, min, max })?;
        let mapping = map(fd, len, ProtFlags::READ).map_err(os("mmap"))?;
        populate(&mapping).map_err(|errno| match errno {
            Errno::INVAL => ForeignError::NoPopulate,
            errno => ForeignError::Os { call: "madvise", errno },
        })?;
        Ok(Foreign { mapping })
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Never: it has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.mapping.is_empty()
    }

    /// The `T` at `offset`.
    ///
    /// # Errors
    /// [`BadPtr`] where it does not lie inside.
    ///
    /// # Safety
    /// Through it, and through its [`mapping`](Mapped::mapping), only atomic loads are made, of at
    /// most 8 bytes and `Relaxed`: no other is sure to work where nothing can be written.
    pub unsafe fn share<T: ShmSync>(&self, offset: u64) -> Result<Mapped<T>, BadPtr> {
        Mapped::new(&self.mapping, offset)
    }

    /// The `count` consecutive `T`s at `offset`.
    ///
    /// # Errors
    /// [`BadPtr`] where they do not lie inside.
    ///
    /// # Safety
    /// As [`share`](Foreign::share).
    pub unsafe fn share_slice<T: ShmSync>(
        &self,
        offset: u64,
        count: u64,
    ) -> Result<MappedSlice<T>, BadPtr> {
        MappedSlice::new(&self.mapping, offset, count)
    }
}

/// How much of the first `bytes` of memory exists, in whole pages, also where it is swapped out.
///
/// Not by `SEEK_HOLE`, nor by anything else that takes a lock of the open file or of the inode: the
/// peer's threads can hold these as long as they like, by a `read` or `write` whose buffer is a
/// page that never comes (`userfaultfd`). This call takes none.
fn bytes_there(fd: BorrowedFd<'_>, bytes: u64) -> Result<u64, Errno> {
    /// As the kernel has it; `evicted` is in swap.
    #[derive(Default)]
    #[repr(C)]
    struct Stat {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    let (range, mut stat) = ([0_u64, bytes], Stat::default());
    let (from, to) = (range.as_ptr(), &raw mut stat);
    // SAFETY: two structures that live, of the sizes that the kernel expects.
    let done = unsafe { libc::syscall(SYS_CACHESTAT, fd.as_raw_fd(), from, to, 0) };
    if done != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(stat.cached.saturating_add(stat.evicted).saturating_mul(page_bytes()))
}

/// Has every page in place before we look: what would be SIGBUS later is an error here.
///
/// It waits for nobody but swap: the pages are there, and no peer keeps one locked.
fn populate(mapping: &Mapping) -> Result<(), Errno> {
    let base = mapping.region().base().as_ptr();
    // SAFETY: the mapping, whole; its contents stay what they are.
    unsafe { madvise(base.cast(), mapping.len(), Advice::LinuxPopulateRead) }
}

/// Maps `len` bytes between two pages that nobody can touch: an access outside ends this process
/// and tells nobody anything.
fn map(fd: BorrowedFd<'_>, len: usize, protection: ProtFlags) -> Result<Arc<Mapping>, Errno> {
    let page = page_bytes() as usize;
    let inside = len.checked_next_multiple_of(page).ok_or(Errno::NOMEM)?;
    let all = inside.checked_add(2 * page).ok_or(Errno::NOMEM)?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: no address is asked for, so nothing that is mapped is touched.
    let around = unsafe { mmap_anonymous(ptr::null_mut(), all, ProtFlags::empty(), flags) }?;
    // SAFETY: inside the range just mapped.
    let base = unsafe { around.byte_add(page) };
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    // SAFETY: it replaces a part of the range just mapped, of which nobody knows.
    if let Err(errno) = unsafe { mmap(base, len, protection, flags, fd, 0) } {
        // SAFETY: as above.
        let _ = unsafe { munmap(around, all) };
        return Err(errno);
    }
    let base = NonNull::new(base.cast::<u8>()).expect("the kernel does not choose address 0");
    let unmap = move |base: NonNull<u8>, _| {
        // SAFETY: where the range began.
        let around = unsafe { base.as_ptr().sub(page) };
        // SAFETY: the whole range made above; the last view of it is gone.
        if unsafe { munmap(around.cast(), all) }.is_err() {
            // The pages around may have become one with others, which to part takes memory of the
            // kernel's. They hold nothing, and stay.
            // SAFETY: as above.
            let _ = unsafe { munmap(base.as_ptr().cast(), inside) };
        }
    };
    // SAFETY: a fresh mapping of `len` bytes, page-aligned, that nobody else in this process knows;
    // one that cannot be written leaves this module by unsafe functions alone.
    Ok(unsafe { Mapping::from_raw(base, len, Box::new(unmap)) })
}
