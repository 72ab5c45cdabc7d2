//! Where shared memory comes from.
//!
//! Six kinds with the same verbs (`create`, `open_or_create`, `open`, `remove`, `list`), and one
//! suite of promises for all (`tests/conformance.rs`):
//!
//! | backend | an object is | found by | goes away |
//! | --- | --- | --- | --- |
//! | `posix` | a file in `/dev/shm`, as `shm_open` makes them | name | removed, or reboot |
//! | `sysv` | a System V segment | key, a hash of the name | removed, or reboot |
//! | `mmap` | a file in a directory of your choice | name | removed |
//! | `memfd` | a sealed file without a name | file descriptor | with its last user |
//! | `portable` | what the `shared_memory` crate makes | name | removed |
//! | `none` | nothing: switched off | – | – |
//!
//! What they promise: a new object is zero, as long as was asked for (in whole pages), readable
//! and writable by this user only (or by a group, where [`Rights`] say so), and its memory is
//! *there*: a full file system is an error here and not a SIGBUS later. A file's name appears in
//! one step, with the complete object behind it. A call that fails leaves nothing behind.
//!
//! What they do not: a program of the same user can cut a file off while others have it mapped,
//! which then is a SIGBUS. Only `memfd` is safe from that. `portable` promises less (see there).
mod error;
mod file;
pub(crate) mod huge;
pub mod memfd;
mod none;
mod object;
pub(crate) mod pages;
#[cfg(feature = "portable")]
pub mod portable;
mod read;
mod rights;
pub mod sysv;

#[cfg(not(feature = "portable"))]
use none as portable;

pub use error::{BackendError, UnknownBackend};
pub use file::POSIX_DIRECTORY;
pub use huge::{HugePages, PageUsage};
pub use object::{Identity, Object};
pub use read::{ReadOnly, ReadView, open_read_only};
pub use rights::Rights;

use pages::Extent;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

#[cfg(not(target_os = "linux"))]
compile_error!("dsm needs Linux: its futexes, life words and backends are Linux's");

/// The environment variable that chooses a backend ([`Backend::from_env`]).
pub const BACKEND_VARIABLE: &str = "DYNAMIC_SHARED_MEMORY_TYPE";

/// Longest name of an object, in bytes.
pub const NAME_LEN_MAX: usize = 200;

/// A kind of shared memory. The number is stored in shared memory and never changes its meaning.
///
/// ```
/// use dsm::backend::Backend;
/// assert_eq!("sysv".parse(), Ok(Backend::Sysv));
/// assert_eq!(Backend::Memfd.to_string(), "memfd");
/// assert_eq!(Backend::from_bits(3), Some(Backend::Mmap));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Backend {
    /// `shm_open`: files in `/dev/shm`.
    #[default]
    Posix = 1,
    /// `shmget`: System V segments.
    Sysv = 2,
    /// Files in a directory of the caller's choice.
    Mmap = 3,
    /// `memfd_create`: sealed, without a name, handed over as a file descriptor.
    Memfd = 4,
    /// The `shared_memory` crate (feature `portable`).
    Portable = 5,
    /// Dynamic shared memory is switched off.
    None = 6,
}

impl Backend {
    /// Every backend, in the order of their numbers.
    pub const ALL: [Backend; 6] = [
        Backend::Posix,
        Backend::Sysv,
        Backend::Mmap,
        Backend::Memfd,
        Backend::Portable,
        Backend::None,
    ];

    /// The backend with this number, as found in shared memory.
    pub fn from_bits(bits: u8) -> Option<Backend> {
        Backend::ALL.into_iter().find(|backend| *backend as u8 == bits)
    }

    /// The name users write.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Posix => "posix",
            Backend::Sysv => "sysv",
            Backend::Mmap => "mmap",
            Backend::Memfd => "memfd",
            Backend::Portable => "portable",
            Backend::None => "none",
        }
    }

    /// Whether [`list`] finds what nobody remembers.
    pub(crate) fn can_list(self) -> bool {
        matches!(self, Backend::Posix | Backend::Mmap)
    }

    /// Whether its objects give memory back where they are.
    pub(crate) fn has_holes(self) -> bool {
        matches!(self, Backend::Posix | Backend::Mmap | Backend::Memfd)
    }

    /// What [`BACKEND_VARIABLE`] says; the default, [`Backend::Posix`], where it is not set.
    ///
    /// # Errors
    /// [`UnknownBackend`] where it is set to something else.
    pub fn from_env() -> Result<Backend, UnknownBackend> {
        match std::env::var_os(BACKEND_VARIABLE) {
            None => Ok(Backend::default()),
            Some(name) => name.to_string_lossy().parse(),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Backend, UnknownBackend> {
        Backend::ALL
            .into_iter()
            .find(|backend| backend.name() == name)
            .ok_or_else(|| UnknownBackend(name.to_owned()))
    }
}

/// A backend, where it keeps its objects, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The kind of shared memory.
    pub backend: Backend,
    /// The directory of [`Backend::Mmap`]'s files; of no meaning to the others.
    pub directory: PathBuf,
    /// Who may use them; of no meaning to [`Backend::Memfd`], whose objects are for whoever is
    /// given the file descriptor, and to [`Backend::Portable`], which cannot say it.
    pub rights: Rights,
}

impl Place {
    /// `backend`, with `mmap`'s files in the system's directory for temporary files.
    pub fn new(backend: Backend) -> Place {
        Place { backend, directory: std::env::temp_dir(), rights: Rights::PRIVATE }
    }

    /// Files in `directory`.
    pub fn mmap(directory: impl Into<PathBuf>) -> Place {
        Place { directory: directory.into(), ..Place::new(Backend::Mmap) }
    }
}

/// Makes the object `name` of `size` bytes, rounded up to whole pages: zero, and really there.
///
/// [`Backend::Memfd`] takes `name` for a label: it excludes nobody and finds nothing.
///
/// # Errors
/// [`BackendError::AlreadyExists`] where the name is taken; choose another.
/// Otherwise whatever the system lacks, with the remedy in the message. Nothing is left behind.
///
/// # If a process dies here
/// The object exists complete and zero under its name, or does not exist.
///
/// ```
/// use dsm::backend::{self, Backend, BackendError, Place};
/// let place = Place::new(Backend::Posix);
/// let name = format!("doc-create-{}", std::process::id());
/// let object = backend::create(&place, &name, 10_000)?;
/// assert!(matches!(
///     backend::create(&place, &name, 1),
///     Err(BackendError::AlreadyExists { .. })
/// ));
/// assert!(object.len() >= 10_000);
/// assert!(backend::remove(&place, &name)?);
/// # Ok::<(), BackendError>(())
/// ```
pub fn create(place: &Place, name: &str, size: u64) -> Result<Object, BackendError> {
    create_noting(place, name, size, |_| ())
}

/// As [`create`], an object of `len` bytes with a hole: memory stands behind the first `filled` of
/// them, both rounded up to whole pages. [`pages::populate`] puts it behind the others.
pub(crate) fn create_sparse(
    place: &Place,
    name: &str,
    filled: u64,
    len: u64,
) -> Result<Object, BackendError> {
    create_extent(place, name, Extent { len, filled }, |_| ())
}

/// As [`create`]; calls `made` with its size as soon as the object bears its name, where it does so
/// before it is complete (`sysv`).
pub(crate) fn create_noting(
    place: &Place,
    name: &str,
    size: u64,
    made: impl FnOnce(u64),
) -> Result<Object, BackendError> {
    create_extent(place, name, Extent::whole(size), made)
}

fn create_extent(
    place: &Place,
    name: &str,
    extent: Extent,
    made: impl FnOnce(u64),
) -> Result<Object, BackendError> {
    check_name(name)?;
    let (len, filled) = (whole_pages(extent.len)?, whole_pages(extent.filled)?);
    let extent = Extent { len, filled: filled.min(len) };
    match place.backend {
        Backend::Posix | Backend::Mmap => file::create(place, name, extent),
        Backend::Sysv => sysv::create_noting(place, name, extent, made),
        Backend::Memfd => memfd::create(place, name, extent),
        // It reserves nothing anyway.
        Backend::Portable => portable::create(place, name, len),
        Backend::None => none::create(place, name, len),
    }
}

/// As [`create`], of the system's pool of huge pages; `None` where that cannot be.
pub(crate) fn create_huge(place: &Place, name: &str, size: u64) -> Option<Object> {
    match place.backend {
        Backend::Memfd => memfd::create_huge(place, name, size),
        _ => None,
    }
}

/// The object `name`, made if it is absent: for an object with a well-known name that several
/// processes bring up together. All of them get the same one.
///
/// An object that is there already keeps its size if it is longer. A file that is shorter, as a
/// creator that was killed half-way could leave it, is filled up with zeroes.
/// [`Backend::Memfd`] finds nothing by name: this creates.
///
/// # Errors
/// [`BackendError::Symlink`], [`BackendError::NotAFile`], [`BackendError::ForeignOwner`],
/// [`BackendError::OpenToOthers`] for what is not ours to use; [`BackendError::Truncated`] for
/// what is shorter and cannot be filled up (`sysv`, `portable`); otherwise as [`create`].
///
/// # If a process dies here
/// As in [`create`]; and filling up is continued by the next caller.
pub fn open_or_create(place: &Place, name: &str, size: u64) -> Result<Object, BackendError> {
    check_name(name)?;
    let size = whole_pages(size)?;
    match place.backend {
        Backend::Posix | Backend::Mmap => file::open_or_create(place, name, size),
        Backend::Sysv => sysv::open_or_create(place, name, size),
        Backend::Memfd => memfd::create(place, name, Extent::whole(size)),
        Backend::Portable => portable::open_or_create(place, name, size),
        Backend::None => none::open_or_create(place, name, size),
    }
}

/// The object `name`, or `None` where there is none.
///
/// # Errors
/// As [`open_or_create`]; [`BackendError::Truncated`] for an object of no bytes;
/// [`BackendError::Unsupported`] for [`Backend::Memfd`], whose objects have no names.
pub fn open(place: &Place, name: &str) -> Result<Option<Object>, BackendError> {
    check_name(name)?;
    match place.backend {
        Backend::Posix | Backend::Mmap => file::open(place, name),
        Backend::Sysv => sysv::open(place, name),
        Backend::Memfd => memfd::open(place, name),
        Backend::Portable => portable::open(place, name),
        Backend::None => none::open(place, name),
    }
}

/// Which object bears `name` now, whoever's it is; `None` where there is none. Maps nothing.
pub(crate) fn identify(place: &Place, name: &str) -> Result<Option<Identity>, BackendError> {
    check_name(name)?;
    match place.backend {
        Backend::Posix | Backend::Mmap => file::identify(place, name),
        Backend::Sysv => sysv::identify(name),
        _ => Ok(open(place, name)?.map(|object| object.identity())),
    }
}

/// Removes whatever bears `name`, if it is ours; returns whether there was something.
///
/// Who has it mapped keeps it. To remove one certain object: [`Object::remove_exact`].
///
/// # Errors
/// [`BackendError::ForeignOwner`], [`BackendError::Denied`]; [`BackendError::Busy`] where a stopped
/// process stands in the middle of removing it.
///
/// # If a process dies here
/// The object is removed, or is not.
pub fn remove(place: &Place, name: &str) -> Result<bool, BackendError> {
    check_name(name)?;
    match place.backend {
        Backend::Posix | Backend::Mmap => file::remove(place, name),
        Backend::Sysv => sysv::remove(place, name),
        Backend::Memfd => memfd::remove(place, name),
        Backend::Portable => portable::remove(place, name),
        Backend::None => none::remove(place, name),
    }
}

/// The names of objects that begin with `prefix`, sorted.
///
/// Only `posix` and `mmap` can tell; the others answer with an empty list. For `sysv`, see
/// [`sysv::remove_unattached`].
///
/// # Errors
/// [`BackendError::BadDirectory`] where the directory cannot be read.
pub fn list(place: &Place, prefix: &str) -> Result<Vec<String>, BackendError> {
    if place.backend.can_list() { file::list(place, prefix) } else { Ok(Vec::new()) }
}

/// Names are plain file names, so that a name can neither leave its directory nor hide in it.
fn check_name(name: &str) -> Result<(), BackendError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let sane = (1..=NAME_LEN_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(plain);
    if sane { Ok(()) } else { Err(BackendError::BadName { name: name.to_owned() }) }
}

fn whole_pages(size: u64) -> Result<u64, BackendError> {
    let page = rustix::param::page_size() as u64;
    match size.checked_next_multiple_of(page) {
        Some(rounded) if size > 0 && rounded <= isize::MAX as u64 => Ok(rounded),
        _ => Err(BackendError::BadSize { size }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_backend_is_found_by_its_name_and_by_its_number() {
        for backend in Backend::ALL {
            assert_eq!(backend.to_string().parse(), Ok(backend));
            assert_eq!(Backend::from_bits(backend as u8), Some(backend));
        }
        assert_eq!("windows".parse::<Backend>(), Err(UnknownBackend("windows".into())));
        assert_eq!(Backend::from_bits(0), None);
        assert_eq!(Backend::from_bits(7), None);
    }

    #[test]
    fn names_are_plain_file_names() {
        for name in ["a", "shmkit.dom-1_x", &"n".repeat(NAME_LEN_MAX)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", ".x", "a/b", "/a", "a b", "a\0", "ä", &"n".repeat(201)] {
            let refused = check_name(name);
            assert!(matches!(refused, Err(BackendError::BadName { .. })), "{name}");
        }
    }

    #[test]
    fn sizes_are_whole_pages_within_the_address_space() {
        let page = rustix::param::page_size() as u64;
        assert_eq!(whole_pages(1).ok(), Some(page));
        assert_eq!(whole_pages(page).ok(), Some(page));
        assert_eq!(whole_pages(page + 1).ok(), Some(2 * page));
        for size in [0, isize::MAX as u64, u64::MAX] {
            assert!(matches!(whole_pages(size), Err(BackendError::BadSize { .. })), "{size}");
        }
    }
}
