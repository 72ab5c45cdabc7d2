//! System V shared memory.
//!
//! A segment is known by a 31-bit key, a hash of the name. Two names may share a key: `create`
//! then answers [`BackendError::AlreadyExists`] and the caller takes another name; who opens must
//! see in the memory that it is what was meant (headers carry a hash of the name); and `remove`
//! removes what has the key, if it is this user's.
//!
//! The system reserves nothing when a segment is made, it only counts; so every page of a new one
//! is touched at once (`MADV_POPULATE_WRITE`, about 0.4 ms a MiB), where the kernel can (5.14). A
//! creator killed before that leaves it to whoever calls `open_or_create`, or opens the domain. One
//! that fails there removes the segment if nobody has it mapped, and who found it meanwhile checks
//! that it still has its key. (Not closed: somebody maps, touches and checks it between the two
//! calls of the one who failed, and is left with a segment that nobody else finds.)
//!
//! A segment for a group begins as its owner's alone, and is given to the group by a second call:
//! between them others of the group are refused it, and a creator killed there leaves one that only
//! its owner can use. Only the owner can remove a segment, whoever may use it.
use super::pages::{self, Extent, Subject};
use super::rights::Owned;
use super::{Backend, BackendError, Identity, Object, Place, ReadOnly};
use libc::{c_int, shmid_ds};
use rustix::io::Errno;
use rustix::process::geteuid;
use shm_core::mapping::Mapping;
use shm_core::process::{Liveness, ProcessId};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::{fs, io};

const MODE: c_int = 0o600;
/// In a segment's mode: removed, and there only for those who have it mapped.
const REMOVED: u32 = 0o1000;
/// Rounds in which a name may change hands under us before we say so.
const ROUNDS_MAX: u32 = 1000;
/// One line a segment: key, id, mode, size, two pids, number of attachments, user, group, ...
const TABLE: &str = "/proc/sysvipc/shm";

/// `made` is called between the segment's beginning and its being mapped for the first time.
pub(super) fn create_noting(
    place: &Place,
    name: &str,
    extent: Extent,
    made: impl FnOnce(u64),
) -> Result<Object, BackendError> {
    let size = extent.len;
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | MODE;
    let id = get(name, size, flags).map_err(|errno| not_made(name, size, errno))?;
    made(size);
    let object = grant(place, name, id).and_then(|()| attach(place, name, id)).and_then(|object| {
        let object = object.ok_or_else(|| BackendError::Busy { name: name.to_owned() })?;
        populate(&object, extent.filled)?;
        Ok(object)
    });
    // Our own mapping is gone by now. The first error is the one to tell.
    if object.is_err() && matches!(stat(place, name, id), Ok(Some(stat)) if stat.shm_nattch == 0) {
        let _ = remove_id(place, name, id);
    }
    object
}

pub(super) fn open_or_create(place: &Place, name: &str, size: u64) -> Result<Object, BackendError> {
    for _ in 0..ROUNDS_MAX {
        if let Some(object) = open(place, name)? {
            if object.len() < size {
                let (name, len) = (name.to_owned(), object.len());
                return Err(BackendError::Truncated { name, len, expected: size });
            }
            populate(&object, size)?;
            if find(name)?.map(|id| Identity::Sysv { id }) == Some(object.identity) {
                return Ok(object);
            }
            continue;
        }
        match create_noting(place, name, Extent::whole(size), |_| ()) {
            Err(BackendError::AlreadyExists { .. }) => {}
            made => return made,
        }
    }
    Err(BackendError::Busy { name: name.to_owned() })
}

pub(super) fn open(place: &Place, name: &str) -> Result<Option<Object>, BackendError> {
    find(name)?.map_or(Ok(None), |id| attach(place, name, id))
}

pub(super) fn open_read_only(place: &Place, name: &str) -> Result<Option<ReadOnly>, BackendError> {
    let Some(id) = find(name)? else { return Ok(None) };
    let found = attach_with(place, name, id, libc::SHM_RDONLY)?;
    // It does not come into safe hands: `ReadOnly` gives views of it.
    Ok(found.map(|Object { mapping, identity, place, name, .. }| ReadOnly {
        mapping,
        identity,
        place,
        name,
    }))
}

pub(super) fn identify(name: &str) -> Result<Option<Identity>, BackendError> {
    Ok(find(name)?.map(|id| Identity::Sysv { id }))
}

pub(super) fn remove(place: &Place, name: &str) -> Result<bool, BackendError> {
    find(name)?.map_or(Ok(false), |id| remove_id(place, name, id))
}

/// Removes what a creator of ours may have left who died before it said that it had made it: a
/// segment that nobody has ever mapped, and whose creator is no more. Any other with its key is a
/// stranger's, whose name has the same hash.
pub(crate) fn remove_unused(place: &Place, name: &str) -> Result<bool, BackendError> {
    let Some(id) = find(name)? else { return Ok(false) };
    let Some(stat) = stat(place, name, id)? else { return Ok(false) };
    let was_mapped = stat.shm_nattch > 0 || stat.shm_atime != 0;
    let creator = ProcessId::new(stat.shm_cpid.cast_unsigned(), 0);
    if was_mapped || creator.is_none_or(|creator| creator.liveness() != Liveness::Dead) {
        return Ok(false);
    }
    remove_id(place, name, id)
}

/// Removes this segment: the system gives its id to no other while it is mapped.
pub(super) fn remove_id(place: &Place, name: &str, id: c_int) -> Result<bool, BackendError> {
    let Some(stat) = stat(place, name, id)? else { return Ok(false) };
    place.rights.check_owner(name, owned(&stat))?;
    if u32::from(stat.shm_perm.mode) & REMOVED != 0 {
        return Ok(false);
    }
    // SAFETY: IPC_RMID takes no buffer.
    match answer(unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) }) {
        Ok(_) => Ok(true),
        Err(Errno::INVAL | Errno::IDRM) => Ok(false),
        Err(errno) => Err(BackendError::from_errno("shmctl(IPC_RMID)", name, errno)),
    }
}

/// Removes the segments of this user that no process has mapped and that `is_ours` knows by their
/// contents; returns how many. For cleaning up after processes that left no list of their names.
///
/// Others may clean up at the same time: each then passes by what the other is looking at.
///
/// # Errors
/// [`BackendError::Os`] where the system does not show its table of segments.
///
/// # If a process dies here
/// Some of them are removed.
///
/// ```
/// // Segments of ours begin with these eight bytes; none is left behind by this example.
/// let removed = dsm::backend::sysv::remove_unattached(|mapping| {
///     let magic = mapping.region().share::<std::sync::atomic::AtomicU64>(0);
///     magic.is_ok_and(|word| word.load(std::sync::atomic::Ordering::Relaxed) == 0xd0c_d0c_d0c)
/// })?;
/// assert_eq!(removed, 0);
/// # Ok::<(), dsm::backend::BackendError>(())
/// ```
pub fn remove_unattached(is_ours: impl Fn(&Mapping) -> bool) -> Result<usize, BackendError> {
    let (place, name) = (Place::new(Backend::Sysv), TABLE);
    let mut removed = 0;
    for row in table()? {
        if row.owned.uid != geteuid().as_raw() || row.attachments > 0 {
            continue;
        }
        // What cannot be attached (gone, open to others, no memory) is not known to be ours.
        let Ok(Some(object)) = attach(&place, name, row.id) else { continue };
        if is_ours(object.mapping()) && remove_id(&place, name, row.id)? {
            removed += 1;
        }
    }
    Ok(removed)
}

/// FNV-1a, folded to 31 bits; never `IPC_PRIVATE`, which is 0.
fn key(name: &str) -> libc::key_t {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    let folded = (hash ^ (hash >> 32)) as u32 & 0x7fff_ffff;
    folded.max(1) as libc::key_t
}

fn get(name: &str, size: u64, flags: c_int) -> Result<c_int, Errno> {
    // SAFETY: no pointers.
    answer(unsafe { libc::shmget(key(name), size as usize, flags) })
}

fn find(name: &str) -> Result<Option<c_int>, BackendError> {
    match get(name, 0, 0) {
        Ok(id) => Ok(Some(id)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(not_found(name, errno)),
    }
}

/// Maps segment `id`; `None` where it is gone.
fn attach(place: &Place, name: &str, id: c_int) -> Result<Option<Object>, BackendError> {
    attach_with(place, name, id, 0)
}

fn attach_with(
    place: &Place,
    name: &str,
    id: c_int,
    flags: c_int,
) -> Result<Option<Object>, BackendError> {
    let Some(stat) = stat(place, name, id)? else { return Ok(None) };
    place.rights.check_owner(name, owned(&stat))?;
    let rights = place.rights.check_mode(name, owned(&stat))?;
    let name = name.to_owned();
    // SAFETY: no address is asked for, so nothing that is mapped is touched.
    let base = unsafe { libc::shmat(id, ptr::null(), flags) };
    let base = match NonNull::new(base.cast::<u8>()) {
        Some(base) if base.addr().get() != usize::MAX => base,
        _ => match last_errno() {
            Errno::INVAL | Errno::IDRM => return Ok(None),
            errno => return Err(BackendError::from_errno("shmat", &name, errno)),
        },
    };
    // SAFETY: a fresh mapping of that size, page-aligned, that nobody else in this process knows.
    let mapping = unsafe { Mapping::from_raw(base, stat.shm_segsz, Box::new(detach)) };
    let (identity, place) = (Identity::Sysv { id }, Place { rights, ..place.clone() });
    Ok(Some(Object { mapping, identity, place, name, fd: None }))
}

/// Gives a new segment to its group.
fn grant(place: &Place, name: &str, id: c_int) -> Result<(), BackendError> {
    let Some(gid) = place.rights.group() else { return Ok(()) };
    let Some(mut stat) = stat(place, name, id)? else { return Ok(()) };
    stat.shm_perm.gid = gid;
    stat.shm_perm.mode = place.rights.mode() as _;
    // SAFETY: IPC_SET reads one shmid_ds.
    match answer(unsafe { libc::shmctl(id, libc::IPC_SET, &mut stat) }) {
        Ok(_) | Err(Errno::INVAL | Errno::IDRM) => Ok(()),
        Err(errno) => Err(BackendError::from_errno("shmctl", name, errno)),
    }
}

fn owned(stat: &shmid_ds) -> Owned {
    let perm = &stat.shm_perm;
    Owned { uid: perm.uid, gid: perm.gid, mode: u32::from(perm.mode) }
}

fn detach(base: NonNull<u8>, _len: usize) {
    // SAFETY: the mapping made in `attach`; its last view is gone.
    let detached = answer(unsafe { libc::shmdt(base.as_ptr().cast()) });
    debug_assert_eq!(detached, Ok(0));
}

/// Puts memory behind the first `len` bytes, so that a lack of it is an error here and not a signal
/// later.
pub(super) fn populate(object: &Object, len: u64) -> Result<(), BackendError> {
    match pages::touch_range(&object.mapping, 0, len) {
        // INVAL: before Linux 5.14.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(Errno::NOMEM | Errno::FAULT) => Err(no_memory(&object.name, len)),
        Err(errno) => Err(BackendError::from_errno("madvise", &object.name, errno)),
    }
}

/// What the system knows of segment `id`; `None` where it is gone.
fn stat(place: &Place, name: &str, id: c_int) -> Result<Option<shmid_ds>, BackendError> {
    let mut stat = MaybeUninit::<shmid_ds>::zeroed();
    // SAFETY: IPC_STAT writes one shmid_ds.
    match answer(unsafe { libc::shmctl(id, libc::IPC_STAT, stat.as_mut_ptr()) }) {
        // SAFETY: zeroed, then written: integers, and any bits are an integer.
        Ok(_) => Ok(Some(unsafe { stat.assume_init() })),
        Err(Errno::INVAL | Errno::IDRM) => Ok(None),
        Err(errno) => {
            // Not ours to look at; the table tells whose it is.
            let row = table()?.into_iter().find(|row| row.id == id);
            row.map_or(Ok(()), |row| place.rights.check_owner(name, row.owned))?;
            Err(BackendError::from_errno("shmctl", name, errno))
        }
    }
}

struct Row {
    id: c_int,
    attachments: u64,
    owned: Owned,
}

fn table() -> Result<Vec<Row>, BackendError> {
    let text = fs::read_to_string(TABLE).map_err(|source| BackendError::Os {
        call: "read",
        name: TABLE.to_owned(),
        source,
    })?;
    Ok(text.lines().filter_map(row).collect())
}

/// `None` for the heading.
fn row(line: &str) -> Option<Row> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    Some(Row {
        id: columns.get(1)?.parse().ok()?,
        attachments: columns.get(6)?.parse().ok()?,
        owned: Owned {
            uid: columns.get(7)?.parse().ok()?,
            gid: columns.get(8)?.parse().ok()?,
            mode: u32::from_str_radix(columns.get(2)?, 8).ok()?,
        },
    })
}

fn not_made(name: &str, size: u64, errno: Errno) -> BackendError {
    let limit = |limit, remedy| BackendError::LimitReached { name: name.to_owned(), limit, remedy };
    match errno {
        Errno::EXIST => BackendError::AlreadyExists { name: name.to_owned() },
        Errno::INVAL => {
            limit("kernel.shmmax", "raise it with `sysctl`, ask for less, or use another backend")
        }
        Errno::NOSPC => limit(
            "kernel.shmmni or kernel.shmall",
            "remove segments (`ipcs -m`, `ipcrm`), raise it with `sysctl`, or use another backend",
        ),
        Errno::NOMEM => no_memory(name, size),
        errno => not_found(name, errno),
    }
}

fn not_found(name: &str, errno: Errno) -> BackendError {
    match errno {
        Errno::NOSYS => BackendError::Unsupported {
            backend: Backend::Sysv,
            reason: "this system has no System V shared memory: choose another backend",
        },
        errno => BackendError::from_errno("shmget", name, errno),
    }
}

fn no_memory(name: &str, size: u64) -> BackendError {
    Subject { name, location: "memory" }.no_space(size, pages::available_memory())
}

fn answer(result: c_int) -> Result<c_int, Errno> {
    if result == -1 { Err(last_errno()) } else { Ok(result) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// What a creator leaves who is killed right after `shmget`; returns how to ask for its bytes in
/// memory.
#[cfg(all(test, not(any(shm_loom, shm_explore))))]
pub(crate) fn half_made(name: &str, size: u64) -> impl Fn() -> u64 + use<> {
    let id = get(name, size, libc::IPC_CREAT | libc::IPC_EXCL | MODE).unwrap();
    move || {
        let text = fs::read_to_string(TABLE).unwrap();
        let line = text.lines().find(|line| row(line).is_some_and(|row| row.id == id)).unwrap();
        line.split_whitespace().nth(14).unwrap().parse().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_31_bits_and_never_private() {
        for i in 0..10_000 {
            assert!(key(&format!("name-{i}")) > 0);
        }
        assert_ne!(key("a"), key("b"));
    }

    #[test]
    fn a_row_of_the_table_is_read_and_its_heading_is_not() {
        let heading = "       key      shmid perms                  size  cpid  lpid nattch   uid";
        assert!(row(heading).is_none());
        let line = "  51966  7  600  4096  101  102  3  1000  1000  1000  1000  0  0  0  4096  0";
        let row = row(line).expect("a row");
        assert_eq!((row.id, row.attachments, row.owned.uid), (7, 3, 1000));
        assert_eq!((row.owned.gid, row.owned.mode), (1000, 0o600));
    }
}
