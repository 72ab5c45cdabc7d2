//! Huge pages and page tables: how memory that is there is mapped.
//!
//! Two kinds of huge pages, which have nothing to do with each other. *Transparent* ones the system
//! puts in place of many ordinary ones where it may and can: for `posix`, `sysv` and `memfd` as
//! `/sys/kernel/mm/transparent_hugepage/shmem_enabled` says (for a tmpfs of your own, its mount
//! option `huge=`), for files on disk where their file system can. One asks by `madvise`, may be
//! refused, and loses nothing. Those of the *pool* (`vm.nr_hugepages`) are set aside for who asks
//! for nothing else: here, `memfd`.
use super::BackendError;
use super::pages::{self, Subject};
use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{Advice, madvise};
use shm_core::Region;
use std::{fs, io};

/// Which pages to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// As the system does by itself.
    #[default]
    Unasked,
    /// Transparent ones, where the system may and can. Never fails.
    Advised,
    /// With `memfd`, and for segments of one size, those of the system's pool, and the size is
    /// rounded up to them; where there are not enough, and with other backends, as
    /// [`Advised`](HugePages::Advised). [`page_usage`](crate::Segment::page_usage) tells.
    Pool,
}

/// How a mapping of this process is mapped now, in bytes, as the system tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageUsage {
    /// What has an entry in this process's page tables, of whichever size: the first touch of
    /// anything else takes a page fault.
    pub mapped: u64,
    /// Of these, in transparent huge pages.
    pub transparent: u64,
    /// Of these, in pages of the pool.
    pub pool: u64,
}

/// Since Linux 6.1; for shared memory whatever `shmem_enabled` says, unless it forbids it.
const MADV_COLLAPSE: libc::c_int = 25;

/// Asks for transparent huge pages, now and for what is touched later. Nothing comes of it where
/// the system does not want to.
pub(crate) fn advise(memory: Region<'_>) {
    let (base, len) = (memory.base().as_ptr(), memory.len());
    // SAFETY: the whole of a mapping that the caller holds; its contents stay as they are.
    let _ = unsafe { madvise(base.cast(), len, Advice::LinuxHugepage) };
    // SAFETY: as above.
    let _ = unsafe { libc::madvise(base.cast(), len, MADV_COLLAPSE) };
}

/// Makes the page tables' entries for all of it.
pub(crate) fn prefault(memory: Region<'_>) -> Result<(), BackendError> {
    let (base, len) = (memory.base().as_ptr(), memory.len());
    let touch = || {
        // SAFETY: the whole of a mapping that the caller holds; its contents stay as they are.
        unsafe { madvise(base.cast(), len, Advice::LinuxPopulateWrite) }
    };
    let subject = Subject { name: "prefault", location: "memory" };
    retry_on_intr(touch).map_err(|errno| match errno {
        Errno::NOMEM | Errno::FAULT => subject.no_space(len as u64, pages::available_memory()),
        errno => subject.error("madvise", errno),
    })
}

/// What `/proc/self/smaps` says of the mappings in `memory`.
pub(crate) fn usage(memory: Region<'_>) -> io::Result<PageUsage> {
    let start = memory.base().addr().get();
    let text = fs::read_to_string("/proc/self/smaps")?;
    Ok(usage_in(&text, start, start + memory.len()))
}

/// The kernel splits a mapping where its parts were advised differently; and may merge others into
/// it, of which nothing is known apart.
fn usage_in(smaps: &str, start: usize, end: usize) -> PageUsage {
    let mut usage = PageUsage::default();
    let mut is_inside = false;
    for line in smaps.lines() {
        if let Some((from, to)) = range(line) {
            is_inside = from < end && to > start;
            continue;
        }
        let Some((field, bytes)) = amount(line).filter(|_| is_inside) else { continue };
        match field {
            "Rss" => usage.mapped += bytes,
            "ShmemPmdMapped" | "FilePmdMapped" | "AnonHugePages" => usage.transparent += bytes,
            "Shared_Hugetlb" | "Private_Hugetlb" => {
                usage.mapped += bytes;
                usage.pool += bytes;
            }
            _ => {}
        }
    }
    usage
}

/// `START-END perms ...`, in hexadecimal digits.
fn range(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let hex = |digits| usize::from_str_radix(digits, 16).ok();
    Some((hex(start)?, hex(end)?))
}

/// `Field:   N kB`.
fn amount(line: &str) -> Option<(&str, u64)> {
    let (field, rest) = line.split_once(':')?;
    let kibibytes: u64 = rest.trim().strip_suffix(" kB")?.parse().ok()?;
    Some((field, kibibytes * 1024))
}

/// Bytes of the pool's pages, and how many are free; `None` where there is no pool.
pub(super) fn pool() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let value = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (size, free) = (value("Hugepagesize:")? * 1024, value("HugePages_Free:")?);
    (size > 0 && free > 0).then_some((size, free))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 rw-s 00000000 00:01 7  /dev/shm/x
Size:                  8 kB
Rss:                   4 kB
ShmemPmdMapped:        0 kB
VmFlags: rd wr
3000-5000 rw-s 00000000 00:01 7  /dev/shm/x
Rss:                   8 kB
ShmemPmdMapped:        8 kB
Shared_Hugetlb:        0 kB
400000-800000 rw-s 00000000 00:0f 8  /memfd:y (deleted)
Rss:                   0 kB
Shared_Hugetlb:     2048 kB
";

    #[test]
    fn what_the_system_says_is_added_up_by_address() {
        let usage = |start, end| {
            let usage = usage_in(SMAPS, start, end);
            (usage.mapped, usage.transparent, usage.pool)
        };
        assert_eq!(usage(0x1000, 0x3000), (4096, 0, 0));
        assert_eq!(usage(0x1000, 0x5000), (12_288, 8192, 0));
        assert_eq!(usage(0x3fff, 0x4000), (8192, 8192, 0));
        assert_eq!(usage(0x400_000, 0x800_000), (2 << 20, 0, 2 << 20));
        assert_eq!(usage(0x5000, 0x400_000), (0, 0, 0));
    }
}
