//! System calls, and the errors that each can give.
//!
//! Only errors that the kernel documents, or gives where memory, descriptors, permissions or the
//! hardware fail it. That a call fails which cannot (`getpid`, giving back a lock) is no test of
//! anybody.
use libc::{
    EACCES, EAGAIN, EBUSY, ECONNRESET, EDQUOT, EFAULT, EFBIG, EINTR, EINVAL, EIO, ELOOP, EMFILE,
    EMLINK, ENFILE, ENOBUFS, ENODEV, ENOENT, ENOLCK, ENOMEM, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM,
    EPIPE, EROFS, ETIMEDOUT, EXDEV, c_long,
};
use std::fmt;

/// One system call: its number and its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Of `libc::SYS_…`.
    pub number: c_long,
    /// As the kernel got them.
    pub arguments: [u64; 6],
}

/// What a call is named, and how it may fail.
struct Kind {
    number: c_long,
    name: &'static str,
    errnos: &'static [i32],
}

const fn kind(number: c_long, name: &'static str, errnos: &'static [i32]) -> Kind {
    Kind { number, name, errnos }
}

/// Those that cannot fail, or whose failure says nothing (`futex` has its own rules), have none.
const KINDS: &[Kind] = &[
    kind(libc::SYS_openat, "openat", &[EMFILE, ENFILE, ENOMEM, EACCES, EPERM, EIO, EINTR, ELOOP]),
    kind(libc::SYS_close, "close", &[EIO, EINTR]),
    kind(libc::SYS_read, "read", &[EIO, EINTR, ENOMEM]),
    kind(libc::SYS_pread64, "pread64", &[EIO, EINTR, ENOMEM]),
    kind(libc::SYS_write, "write", &[ENOSPC, EDQUOT, EIO, EINTR, EFBIG, EPIPE]),
    kind(libc::SYS_lseek, "lseek", &[]),
    kind(libc::SYS_fstat, "fstat", &[EIO, ENOMEM, EACCES]),
    kind(libc::SYS_newfstatat, "newfstatat", &[EACCES, EIO, ENOMEM, ELOOP]),
    kind(libc::SYS_statx, "statx", &[EACCES, EIO, ENOMEM, EPERM, ENOSYS]),
    kind(libc::SYS_readlinkat, "readlinkat", &[EACCES, EIO, ENOMEM]),
    kind(libc::SYS_getdents64, "getdents64", &[EIO, ENOMEM]),
    kind(libc::SYS_getcwd, "getcwd", &[ENOENT, ENOMEM]),
    kind(libc::SYS_fstatfs, "fstatfs", &[EIO, EINTR, ENOMEM, ENOSYS]),
    kind(libc::SYS_fcntl, "fcntl", &[EMFILE, EPERM, EBUSY]),
    kind(libc::SYS_flock, "flock", &[EINTR, ENOLCK]),
    kind(libc::SYS_ftruncate, "ftruncate", &[EINTR, EFBIG, EIO, EPERM, ENOSPC]),
    kind(libc::SYS_fallocate, "fallocate", FALLOCATE),
    kind(libc::SYS_linkat, "linkat", LINKAT),
    kind(libc::SYS_renameat2, "renameat2", LINKAT),
    kind(libc::SYS_unlinkat, "unlinkat", UNLINKAT),
    kind(libc::SYS_memfd_create, "memfd_create", MEMFD),
    kind(libc::SYS_mmap, "mmap", &[ENOMEM, EAGAIN, EPERM, EACCES, ENODEV]),
    kind(libc::SYS_munmap, "munmap", &[ENOMEM]),
    kind(libc::SYS_mprotect, "mprotect", &[ENOMEM]),
    kind(libc::SYS_brk, "brk", &[ENOMEM]),
    kind(libc::SYS_madvise, "madvise", &[ENOMEM, EAGAIN, EFAULT, EINVAL, EIO]),
    kind(libc::SYS_shmget, "shmget", &[ENOSPC, ENOMEM, EACCES, EPERM, EINVAL, ENFILE, ENOSYS]),
    kind(libc::SYS_shmat, "shmat", &[ENOMEM, EACCES]),
    // The kernel does not tell where it lacks memory to unmap.
    kind(libc::SYS_shmdt, "shmdt", &[]),
    kind(libc::SYS_shmctl, "shmctl", &[EACCES, EPERM, ENOMEM]),
    kind(libc::SYS_clone3, "clone3", &[EAGAIN, ENOMEM, EPERM, ENOSYS]),
    kind(libc::SYS_clone, "clone", &[EAGAIN, ENOMEM, EPERM]),
    kind(libc::SYS_set_robust_list, "set_robust_list", &[ENOSYS, EPERM]),
    kind(libc::SYS_futex, "futex", &[]),
    kind(libc::SYS_futex_waitv, "futex_waitv", &[ENOSYS, EINTR, EAGAIN, ENOMEM, EPERM]),
    kind(libc::SYS_pidfd_open, "pidfd_open", &[EMFILE, ENFILE, ENOMEM, ENODEV, EPERM, ENOSYS]),
    kind(libc::SYS_pidfd_send_signal, "pidfd_send_signal", &[EPERM, ENOSYS]),
    kind(libc::SYS_ppoll, "ppoll", &[EINTR, ENOMEM]),
    kind(libc::SYS_kill, "kill", &[EPERM]),
    kind(libc::SYS_prlimit64, "prlimit64", &[]),
    // Where it is missing, the standard library opens a file once and for all.
    kind(libc::SYS_getrandom, "getrandom", &[EINTR]),
    kind(libc::SYS_sendmsg, "sendmsg", &[EPIPE, ECONNRESET, ENOBUFS, ENOMEM, EINTR]),
    kind(libc::SYS_recvmsg, "recvmsg", &[ECONNRESET, ENOMEM, EINTR]),
    kind(libc::SYS_sendto, "sendto", &[EPIPE, ECONNRESET, ENOBUFS, ENOMEM, EINTR]),
    kind(libc::SYS_recvfrom, "recvfrom", &[ECONNRESET, ENOMEM, EINTR]),
    kind(libc::SYS_getpid, "getpid", &[]),
    kind(libc::SYS_gettid, "gettid", &[]),
    kind(libc::SYS_geteuid, "geteuid", &[]),
    kind(libc::SYS_getegid, "getegid", &[]),
    kind(libc::SYS_fchown, "fchown", &[EPERM, EIO, ENOSPC, EDQUOT]),
    kind(libc::SYS_fchmod, "fchmod", &[EPERM, EIO, ENOSPC, EDQUOT]),
    kind(libc::SYS_prctl, "prctl", &[EPERM]),
    // The C library decided at its start that it has it, and aborts.
    kind(libc::SYS_rseq, "rseq", &[]),
    kind(libc::SYS_rt_sigprocmask, "rt_sigprocmask", &[]),
    kind(libc::SYS_sigaltstack, "sigaltstack", &[]),
    kind(libc::SYS_sched_yield, "sched_yield", &[]),
    kind(libc::SYS_sched_getaffinity, "sched_getaffinity", &[ENOSYS]),
    kind(libc::SYS_clock_nanosleep, "clock_nanosleep", &[EINTR]),
    kind(libc::SYS_exit, "exit", &[]),
    kind(libc::SYS_exit_group, "exit_group", &[]),
    kind(libc::SYS_tgkill, "tgkill", &[]),
];

const FALLOCATE: &[i32] = &[ENOSPC, EDQUOT, EINTR, EIO, EFBIG, EOPNOTSUPP, ENOSYS, EPERM, ENOMEM];
const LINKAT: &[i32] = &[ENOENT, EACCES, EPERM, ENOSPC, EDQUOT, EROFS, EIO, ENOMEM, EMLINK, EXDEV];
const UNLINKAT: &[i32] = &[EACCES, EPERM, EBUSY, EROFS, EIO, ENOMEM];
const MEMFD: &[i32] = &[EMFILE, ENFILE, ENOMEM, EPERM, EACCES, ENOSYS, EINVAL];
/// Where a file may be made.
const OPEN_TO_MAKE: &[i32] =
    &[EMFILE, ENFILE, ENOMEM, EACCES, EPERM, EIO, EINTR, ENOSPC, EDQUOT, EROFS, EOPNOTSUPP, EINVAL];
/// For what the table does not know.
const ANY: &[i32] = &[EPERM, ENOMEM, EIO, ENOSYS];

/// What a signal may interrupt (signal(7)).
const INTERRUPTIBLE: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_fstatfs,
    libc::SYS_flock,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_futex_waitv,
    libc::SYS_ppoll,
    libc::SYS_getrandom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_clock_nanosleep,
];

impl Call {
    /// The errors that this call can give; none where it cannot fail.
    pub fn errnos(&self) -> &'static [i32] {
        match self.number {
            libc::SYS_futex if self.is_futex_wait() => &[EINTR, EAGAIN],
            libc::SYS_openat if self.makes_a_file() => OPEN_TO_MAKE,
            number => KINDS.iter().find(|kind| kind.number == number).map_or(ANY, |k| k.errnos),
        }
    }

    /// Whether a signal may interrupt it.
    pub(super) fn is_interruptible(&self) -> bool {
        self.is_futex_wait() || INTERRUPTIBLE.contains(&self.number)
    }

    /// A call that does its work even where it reports an error.
    pub(super) fn is_made_in_any_case(&self) -> bool {
        self.number == libc::SYS_close
    }

    /// Private memory, of which Rust's allocator has to have some: without it the process aborts.
    pub(super) fn is_the_allocators(&self) -> bool {
        let flags = self.arguments[3];
        let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        match self.number {
            libc::SYS_brk => true,
            libc::SYS_mmap => flags & private == private,
            libc::SYS_mprotect | libc::SYS_munmap | libc::SYS_mremap => true,
            _ => false,
        }
    }

    fn is_futex_wait(&self) -> bool {
        let verb = self.arguments[1] as i32 & libc::FUTEX_CMD_MASK;
        self.number == libc::SYS_futex
            && (verb == libc::FUTEX_WAIT || verb == libc::FUTEX_WAIT_BITSET)
    }

    fn makes_a_file(&self) -> bool {
        let flags = self.arguments[2] as i32;
        flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match KINDS.iter().find(|kind| kind.number == self.number) {
            Some(kind) => f.write_str(kind.name),
            None => write!(f, "call {}", self.number),
        }
    }
}

/// The name of an error, for people.
///
/// ```
/// assert_eq!(shm_testkit::fault::errno_name(libc::ENOSPC), "ENOSPC");
/// assert_eq!(shm_testkit::fault::errno_name(12345), "errno 12345");
/// ```
pub fn errno_name(errno: i32) -> String {
    const NAMES: &[(i32, &str)] = &[
        (EACCES, "EACCES"),
        (EAGAIN, "EAGAIN"),
        (EBUSY, "EBUSY"),
        (ECONNRESET, "ECONNRESET"),
        (EDQUOT, "EDQUOT"),
        (EFAULT, "EFAULT"),
        (EFBIG, "EFBIG"),
        (EINTR, "EINTR"),
        (EINVAL, "EINVAL"),
        (EIO, "EIO"),
        (ELOOP, "ELOOP"),
        (EMFILE, "EMFILE"),
        (EMLINK, "EMLINK"),
        (ENFILE, "ENFILE"),
        (ENOBUFS, "ENOBUFS"),
        (ENODEV, "ENODEV"),
        (ENOENT, "ENOENT"),
        (ENOLCK, "ENOLCK"),
        (ENOMEM, "ENOMEM"),
        (ENOSPC, "ENOSPC"),
        (ENOSYS, "ENOSYS"),
        (EOPNOTSUPP, "EOPNOTSUPP"),
        (EPERM, "EPERM"),
        (EPIPE, "EPIPE"),
        (EROFS, "EROFS"),
        (ETIMEDOUT, "ETIMEDOUT"),
        (EXDEV, "EXDEV"),
    ];
    let known = NAMES.iter().find(|(number, _)| *number == errno);
    known.map_or_else(|| format!("errno {errno}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: c_long, arguments: [u64; 6]) -> Call {
        Call { number, arguments }
    }

    #[test]
    fn what_cannot_fail_is_not_made_to() {
        let wake = call(libc::SYS_futex, [0, libc::FUTEX_WAKE as u64, 1, 0, 0, 0]);
        assert_eq!(wake.errnos(), [0; 0]);
        let private = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u64;
        let wait = call(libc::SYS_futex, [0, private, 0, 0, 0, 0]);
        assert_eq!(wait.errnos(), [EINTR, EAGAIN]);
        assert_eq!(call(libc::SYS_getpid, [0; 6]).errnos(), [0; 0]);
        assert_eq!(call(9999, [0; 6]).errnos(), ANY);
    }

    #[test]
    fn only_who_makes_a_file_finds_no_room() {
        let open = |flags: i32| call(libc::SYS_openat, [0, 0, flags as u64, 0, 0, 0]);
        assert!(!open(libc::O_RDWR).errnos().contains(&ENOSPC));
        assert!(!open(libc::O_DIRECTORY).errnos().contains(&ENOSPC));
        assert!(open(libc::O_CREAT).errnos().contains(&ENOSPC));
        assert!(open(libc::O_TMPFILE).errnos().contains(&ENOSPC));
    }

    #[test]
    fn no_call_is_listed_twice() {
        for (at, kind) in KINDS.iter().enumerate() {
            let twice = KINDS[at + 1..].iter().any(|other| other.number == kind.number);
            assert!(!twice, "{}", kind.name);
            assert!(kind.errnos.iter().all(|errno| !errno_name(*errno).starts_with("errno")));
        }
    }
}
