//! What is chosen when a domain is opened.
use super::error::OpenError;
use super::shared::Sizes;
use crate::backend::{Backend, HugePages, Place, Rights};
use crate::control::Control;
use shm_core::participants::{SLOTS_MAX, Waiting};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest name of a domain, in bytes.
pub const NAME_LEN_MAX: usize = 48;
/// Most segments a domain can be made for.
pub const SEGMENTS_MAX: u32 = 1 << 20;

const PARTICIPANTS_DEFAULT: u32 = 128;
const SEGMENTS_DEFAULT: u32 = 1 << 16;
const READY_DEFAULT: u32 = 512;
const OPEN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// Which domain, and how to make it if it is not there. Sizes matter to its creator only: who comes
/// later gets the domain as it is.
///
/// ```
/// use dsm::DomainConfig;
/// use dsm::backend::Backend;
/// let config = DomainConfig { backend: Some(Backend::Memfd), ..DomainConfig::new("pool") };
/// assert_eq!(config.participants_max, 128);
/// ```
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// 1 to 48 letters, digits, `-` and `_`.
    pub name: String,
    /// The kind of shared memory. `None`: what `DYNAMIC_SHARED_MEMORY_TYPE` says, or `posix`.
    pub backend: Option<Backend>,
    /// The directory of `mmap`'s files. `None`: the system's for temporary files.
    pub directory: Option<PathBuf>,
    /// Who may come in, and use the segments: 0o600, this user, or 0o660, `group` too. Whoever
    /// makes the domain gives it and all its objects exactly this mode, whatever the umask says;
    /// who finds it with more, or as a user's who is not to make it, is refused. (`memfd`: whoever
    /// is given the descriptor. `portable`: as the umask says.)
    pub mode: u32,
    /// The group for mode 0o660; this process is in it. `None`: its effective one.
    pub group: Option<u32>,
    /// Room for so many processes at a time, at most 1024.
    pub participants_max: u32,
    /// Room for so many segments at a time, at most 1,048,576. `None`: 65,536. Their table takes
    /// memory as it grows.
    pub segments_max: Option<u32>,
    /// Segments of up to a page (4 KiB) that are made without a call of the system, in memory of
    /// the domain itself: at most so many at a time, and at most 1024. They take memory as they are
    /// needed, 16 pages at a time, and what was not used between two calls of
    /// [`Domain::reap`](crate::Domain::reap) is given back.
    pub ready_max: u32,
    /// Which pages this process asks for, for the segments that it creates and attaches to.
    pub huge_pages: HugePages,
    /// Whether it makes the page tables' entries for them at once, so that no first touch takes a
    /// page fault.
    pub prefault: bool,
    /// How long to wait for a process that is making or removing the domain and neither finishes
    /// nor dies.
    pub open_timeout: Duration,
    /// How to wait for peers. `None`: as `SHM_WAITING` says, or the best that the system can.
    pub waiting: Option<Waiting>,
}

impl DomainConfig {
    /// The domain `name`, and defaults.
    pub fn new(name: impl Into<String>) -> DomainConfig {
        DomainConfig {
            name: name.into(),
            backend: None,
            directory: None,
            mode: Rights::PRIVATE.mode(),
            group: None,
            participants_max: PARTICIPANTS_DEFAULT,
            segments_max: None,
            ready_max: READY_DEFAULT,
            huge_pages: HugePages::Unasked,
            prefault: false,
            open_timeout: OPEN_TIMEOUT_DEFAULT,
            waiting: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if !(1..=NAME_LEN_MAX).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            return Err(OpenError::Name { name: self.name.clone() });
        }
        self.rights()?;
        if !(1..=SLOTS_MAX).contains(&self.participants_max) {
            return Err(OpenError::Participants { asked: self.participants_max });
        }
        if !(1..=SEGMENTS_MAX).contains(&self.segments()) {
            return Err(OpenError::Segments { asked: self.segments() });
        }
        Ok(())
    }

    fn rights(&self) -> Result<Rights, OpenError> {
        let mode = self.mode;
        Rights::from_mode(mode, self.group).ok_or(OpenError::Mode { mode })
    }

    fn segments(&self) -> u32 {
        self.segments_max.unwrap_or(SEGMENTS_DEFAULT)
    }

    /// Of a domain that this makes; `sparse`: its memory can come and go.
    pub(super) fn sizes(&self, nonce: u64, sparse: bool) -> Sizes {
        let (participants, segments) = (self.participants_max, self.segments());
        let ready = Control::ready_of(segments, if sparse { self.ready_max } else { 0 });
        Sizes { nonce, participants, segments, ready }
    }

    pub(super) fn deadline(&self) -> Instant {
        /// As good as for ever, and an `Instant` can hold it.
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        Instant::now() + self.open_timeout.min(YEAR)
    }

    pub(super) fn place(&self) -> Result<Place, OpenError> {
        let backend = self.backend.map_or_else(Backend::from_env, Ok)?;
        let place = Place::new(backend);
        let directory = self.directory.clone().unwrap_or(place.directory);
        // The process may change its directory. Only an empty path and no directory at all fail.
        let directory = std::path::absolute(&directory).unwrap_or(directory);
        Ok(Place { backend, directory, rights: self.rights()? })
    }
}
