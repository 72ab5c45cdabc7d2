//! Whatever the `shared_memory` crate offers on this system.
//!
//! Less is promised than by the others: memory is not reserved (a full `/dev/shm` is a SIGBUS at
//! the first touch), owner and type of what is opened are not checked, a creator killed half-way
//! leaves an object of no bytes, and to remove an object is to remove whatever bears its name.
use super::{BackendError, Identity, Object, Place, ReadOnly};
use rustix::io::Errno;
use rustix::mm::{MprotectFlags, mprotect};
use shared_memory::{Shmem, ShmemConf, ShmemError};
use shm_core::mapping::Mapping;
use std::io;
use std::ptr::NonNull;

/// Rounds in which a name may change hands under us before we say so.
const ROUNDS_MAX: u32 = 1000;

/// Moved into the mapping, and dropped with it.
struct Kept(#[expect(dead_code, reason = "kept for its drop")] Shmem);

// SAFETY: an address, a length and a descriptor, used once more: when dropped.
unsafe impl Send for Kept {}
// SAFETY: as above; shared references to it are of no use.
unsafe impl Sync for Kept {}

pub(super) fn create(place: &Place, name: &str, size: u64) -> Result<Object, BackendError> {
    let made = ShmemConf::new().os_id(name).size(size as usize).create();
    object(place, name, made.map_err(|error| refused(name, error))?)
}

pub(super) fn open_or_create(place: &Place, name: &str, size: u64) -> Result<Object, BackendError> {
    for _ in 0..ROUNDS_MAX {
        if let Some(object) = open(place, name)? {
            let (name, len) = (name.to_owned(), object.len());
            let whole = len >= size;
            return if whole {
                Ok(object)
            } else {
                Err(BackendError::Truncated { name, len, expected: size })
            };
        }
        match create(place, name, size) {
            Err(BackendError::AlreadyExists { .. }) => {}
            made => return made,
        }
    }
    Err(BackendError::Busy { name: name.to_owned() })
}

pub(super) fn open(place: &Place, name: &str) -> Result<Option<Object>, BackendError> {
    find(name)?.map(|shmem| object(place, name, shmem)).transpose()
}

/// The crate maps writable only: the right to write is given up afterwards.
pub(super) fn open_read_only(place: &Place, name: &str) -> Result<Option<ReadOnly>, BackendError> {
    let Some(Object { mapping, identity, place, name, .. }) = open(place, name)? else {
        return Ok(None);
    };
    let base = mapping.region().base().as_ptr();
    // SAFETY: the whole of a mapping that nobody else in this process knows.
    unsafe { mprotect(base.cast(), mapping.len(), MprotectFlags::READ) }
        .map_err(|errno| BackendError::from_errno("mprotect", &name, errno))?;
    Ok(Some(ReadOnly { mapping, identity, place, name }))
}

pub(super) fn remove(_place: &Place, name: &str) -> Result<bool, BackendError> {
    let Some(mut shmem) = find(name)? else { return Ok(false) };
    // The owner's drop removes the name.
    shmem.set_owner(true);
    Ok(true)
}

fn find(name: &str) -> Result<Option<Shmem>, BackendError> {
    match ShmemConf::new().os_id(name).open() {
        Ok(shmem) => Ok(Some(shmem)),
        Err(ShmemError::MapOpenFailed(code)) if code == Errno::NOENT.raw_os_error() as u32 => {
            Ok(None)
        }
        Err(error) => Err(refused(name, error)),
    }
}

fn object(place: &Place, name: &str, mut shmem: Shmem) -> Result<Object, BackendError> {
    // Else the creator's drop would remove the name.
    shmem.set_owner(false);
    let (base, len, kept) = (shmem.as_ptr(), shmem.len(), Kept(shmem));
    let base = NonNull::new(base).ok_or(BackendError::BadSize { size: len as u64 })?;
    // SAFETY: a page-aligned mapping of `len` bytes that lives until `kept` is dropped, and that
    // nobody else in this process knows.
    let mapping = unsafe { Mapping::from_raw(base, len, Box::new(move |_, _| drop(kept))) };
    let (place, name) = (place.clone(), name.to_owned());
    Ok(Object { mapping, identity: Identity::Name, place, name, fd: None })
}

fn refused(name: &str, error: ShmemError) -> BackendError {
    let code = match error {
        ShmemError::MappingIdExists => {
            return BackendError::AlreadyExists { name: name.to_owned() };
        }
        ShmemError::MapCreateFailed(code)
        | ShmemError::MapOpenFailed(code)
        | ShmemError::UnknownOsError(code) => Some(Errno::from_raw_os_error(code as i32)),
        _ => None,
    };
    match code {
        // An object of no bytes cannot be mapped.
        Some(Errno::INVAL) => {
            BackendError::Truncated { name: name.to_owned(), len: 0, expected: 1 }
        }
        Some(errno) => BackendError::from_errno("shared_memory", name, errno),
        None => {
            let (name, source) = (name.to_owned(), io::Error::other(error));
            BackendError::Os { call: "shared_memory", name, source }
        }
    }
}
