//! Limits of the calling process.
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;

/// What can be limited (`setrlimit`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The highest descriptor, plus one: `RLIMIT_NOFILE`.
    Descriptors,
    /// Bytes of address space: `RLIMIT_AS`.
    AddressSpace,
    /// Bytes of a file that is written; who goes over it gets SIGXFSZ: `RLIMIT_FSIZE`.
    FileSize,
    /// Threads and processes of the user, which does not bind root: `RLIMIT_NPROC`.
    Threads,
}

impl Limit {
    fn resource(self) -> Resource {
        match self {
            Limit::Descriptors => Resource::Nofile,
            Limit::AddressSpace => Resource::As,
            Limit::FileSize => Resource::Fsize,
            Limit::Threads => Resource::Nproc,
        }
    }

    /// What this process uses of it now, to be limited to a little more: for descriptors the lowest
    /// free number, for address space its size, for the others 0.
    ///
    /// # Panics
    /// Where the system does not tell.
    ///
    /// ```
    /// use shm_testkit::fault::Limit;
    /// assert!(Limit::Descriptors.used() >= 3);
    /// assert!(Limit::AddressSpace.used() > 4096);
    /// ```
    pub fn used(self) -> u64 {
        match self {
            Limit::Descriptors => {
                use std::os::fd::AsRawFd;
                fs::File::open("/").expect("the root directory").as_raw_fd() as u64
            }
            Limit::AddressSpace => {
                let statm = fs::read_to_string("/proc/self/statm").expect("/proc/self/statm");
                let pages = statm.split(' ').next().and_then(|pages| pages.parse::<u64>().ok());
                pages.expect("a number of pages") * rustix::param::page_size() as u64
            }
            Limit::FileSize | Limit::Threads => 0,
        }
    }
}

/// Limits this process, and the children that it will have, to `value`. [`unlimited`] takes it
/// back.
///
/// ```
/// use shm_testkit::child::Child;
/// use shm_testkit::fault::{Limit, limit, unlimited};
///
/// fn runs_out(_: &[String]) {
///     limit(Limit::Descriptors, Limit::Descriptors.used());
///     assert!(std::fs::File::open("/").is_err());
///     unlimited(Limit::Descriptors);
///     assert!(std::fs::File::open("/").is_ok());
/// }
/// shm_testkit::children! { runs_out }
/// Child::spawn("runs_out", &[]).wait(std::time::Duration::from_secs(60)).assert_success();
/// ```
///
/// # Panics
/// Where `value` is above what the process may have.
#[track_caller]
pub fn limit(what: Limit, value: u64) {
    let maximum = getrlimit(what.resource()).maximum;
    let set = setrlimit(what.resource(), Rlimit { current: Some(value), maximum });
    assert!(set.is_ok(), "{what:?} limited to {value}: {set:?}");
}

/// Gives back what [`limit`] took: as much as the process may have.
///
/// # Panics
/// Never: a process may have its maximum.
#[track_caller]
pub fn unlimited(what: Limit) {
    let maximum = getrlimit(what.resource()).maximum;
    let set = setrlimit(what.resource(), Rlimit { current: maximum, maximum });
    assert!(set.is_ok(), "{what:?}: {set:?}");
}
