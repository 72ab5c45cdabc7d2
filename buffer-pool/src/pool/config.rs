//! What a pool is made for.
use crate::policy::{FRAMES_MAX, Kind};
use shm_core::participants::SLOTS_MAX;

/// At most so many threads of one process use a pool at a time.
pub const SESSIONS_MAX: u32 = shm_core::hazard::GROUPS_MAX;
/// A pool has at least so many frames.
pub const FRAMES_MIN: u32 = 16;
/// So large pages may be, in bytes.
pub const PAGE_BYTES_MAX: u32 = 32 << 10;
/// So small pages may be, in bytes.
pub const PAGE_BYTES_MIN: u32 = 1 << 10;

/// What a pool is made for. All who open it ask for the same.
///
/// ```
/// use buffer_pool::pool::PoolConfig;
/// let config = PoolConfig { processes: 8, ..PoolConfig::new(128 << 20) };
/// assert_eq!((config.frames, config.page_bytes), (16384, 8192));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolConfig {
    /// Bytes of a page: a power of two from [`PAGE_BYTES_MIN`] to [`PAGE_BYTES_MAX`].
    pub page_bytes: u32,
    /// Pages that it holds in the beginning. The memory for so many stays, also where the pool is
    /// made smaller.
    pub frames: u32,
    /// The most pages that it may ever hold ([`Session::resize`](super::Session::resize)): each
    /// process reserves so much of its address space. 200 to 210 bytes of memory each are there
    /// from the beginning, the pages themselves as far as the pool has grown.
    pub frames_max: u32,
    /// Which of them stay.
    pub policy: Kind,
    /// Processes that use it at a time.
    pub processes: u32,
    /// And threads of each.
    pub sessions: u32,
    /// Files that it has at a time.
    pub files: u32,
    /// Pages of all these files together: each takes a word of 8 bytes.
    pub entries: u64,
    /// Whether pages are read with their checksums looked at. They are always written with them.
    pub checksums: bool,
}

impl PoolConfig {
    /// A pool of so many bytes, in pages of 8 KiB, for 64 processes of 4 threads, over up to 64
    /// files that are up to 64 times as large as the pool together, or 512 MiB.
    pub fn new(bytes: u64) -> PoolConfig {
        let frames = u32::try_from(bytes >> 13).unwrap_or(u32::MAX);
        PoolConfig {
            page_bytes: 8192,
            frames,
            frames_max: frames,
            policy: Kind::default(),
            processes: 64,
            sessions: 4,
            files: 64,
            entries: (u64::from(frames) * 64).max(1 << 16),
            checksums: true,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let in_range = |what, value: u64, min: u64, max: u64| match (min..=max).contains(&value) {
            true => Ok(()),
            false => Err(ConfigError::Range { what, value, min, max }),
        };
        if !self.page_bytes.is_power_of_two() {
            return Err(ConfigError::PageBytes(self.page_bytes));
        }
        let (page_min, page_max) = (PAGE_BYTES_MIN.into(), PAGE_BYTES_MAX.into());
        in_range("bytes of a page", self.page_bytes.into(), page_min, page_max)?;
        in_range("frames", self.frames_max.into(), FRAMES_MIN.into(), FRAMES_MAX.into())?;
        let frames_max = self.frames_max.into();
        in_range("frames", self.frames.into(), FRAMES_MIN.into(), frames_max)?;
        in_range("processes", self.processes.into(), 1, SLOTS_MAX.into())?;
        in_range("threads of a process", self.sessions.into(), 1, SESSIONS_MAX.into())?;
        in_range("files", self.files.into(), 1, crate::files::FILES_MAX.into())?;
        in_range("pages of all files", self.entries, 1, 1 << 35)
    }
}

/// Why there can be no such pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not a power of two.
    #[error("pages of {0} bytes are not of a power of two of bytes")]
    PageBytes(u32),
    /// Too few or too many.
    #[error("a pool has {min} to {max} {what}, not {value}")]
    Range {
        /// Of what.
        what: &'static str,
        /// So many were asked for.
        value: u64,
        /// The fewest there may be.
        min: u64,
        /// And the most.
        max: u64,
    },
}
