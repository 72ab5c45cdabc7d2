//! Whether the names by which a domain and its segments are found still lead to them.
//!
//! Anybody who may write the directory can take a name away: a person with `rm`, and
//! `systemd-logind`, which at the end of a user's last session removes everything of his in
//! `/dev/shm` and of System V (`RemoveIPC`). What is mapped stays mapped; those inside go on among
//! themselves with what they have. But the next to open the name makes *another* domain, and then
//! two have one name. So:
//!
//! - members are told when they ask ([`Domain::is_named`], [`Domain::names`]);
//! - no process makes or enters a second domain of that name as long as it is in the first
//!   ([`OpenError::Unnamed`](super::OpenError::Unnamed)), nor sends children into it
//!   ([`Domain::inheritance`]), nor comes into another one than that it was started for
//!   ([`Domain::from_env`]);
//! - who attaches to a segment without a name is told so
//!   ([`AttachError::Missing`](super::AttachError::Missing)).
use super::Domain;
use super::system::{System, control_name};
use crate::backend::{self, Backend, BackendError, Identity, Place};
use crate::handle::SegmentHandle;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameState {
    /// What it was given to; or there is none to lose (`memfd`).
    Ours,
    /// Nothing: somebody removed it.
    Gone,
    /// Something else: it was removed, and somebody has it anew.
    Taken,
}

/// The names of a domain and its segments, at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Names {
    /// The domain's. Where it is not [`Ours`](NameState::Ours), whoever opens the domain now comes
    /// into another one, whose creator removes the names of our segments (`posix`, `mmap`).
    pub domain: NameState,
    /// Segments that are alive and whose names are gone: nobody can attach to them any more.
    pub lost: Vec<SegmentHandle>,
}

impl Domain {
    /// Whether who opens this domain's name now comes into this domain. `false` where its name was
    /// removed, by hand or when its user logged out (`RemoveIPC`), whoever has the name since.
    ///
    /// Asks the system, by two or three calls. With `portable`, whether there is anything.
    ///
    /// ```
    /// # let name = format!("doc-named-{}", std::process::id());
    /// let domain = dsm::Domain::open(dsm::DomainConfig::new(&name))?;
    /// assert!(domain.is_named()?);
    /// std::fs::remove_file(format!("/dev/shm/shm.{name}.control"))?;
    /// assert!(!domain.is_named()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BackendError`] where the system does not tell.
    pub fn is_named(&self) -> Result<bool, BackendError> {
        Ok(self.presence.system.name_state()? == NameState::Ours)
    }

    /// As [`is_named`](Domain::is_named), and which segments have lost theirs.
    ///
    /// # Errors
    /// [`BackendError`] where the system does not tell.
    pub fn names(&self) -> Result<Names, BackendError> {
        let system = &self.presence.system;
        let domain = system.name_state()?;
        let mut lost = Vec::new();
        for segment in self.segments() {
            // One that went meanwhile has not lost its name.
            if system.segment_state(segment.handle)? == NameState::Gone
                && system.control.is_alive(segment.handle)
            {
                lost.push(segment.handle);
            }
        }
        Ok(Names { domain, lost })
    }
}

impl System {
    pub(super) fn name_state(&self) -> Result<NameState, BackendError> {
        let found = identify(&self.place, &control_name(&self.domain))?;
        Ok(match found {
            _ if self.place.backend == Backend::Memfd => NameState::Ours,
            Some(identity) if identity == self.object.identity() => NameState::Ours,
            Some(_) => NameState::Taken,
            None => NameState::Gone,
        })
    }

    /// A segment's name is given to no other.
    fn segment_state(&self, handle: SegmentHandle) -> Result<NameState, BackendError> {
        let found = identify(&self.place, &self.segment_name(handle))?;
        let is_there = self.place.backend == Backend::Memfd || found.is_some();
        Ok(if is_there { NameState::Ours } else { NameState::Gone })
    }
}

fn identify(place: &Place, name: &str) -> Result<Option<Identity>, BackendError> {
    match place.backend {
        Backend::Memfd => Ok(None),
        _ => backend::identify(place, name),
    }
}

/// The named domains that this process is in. Held for a few instructions, never over a call.
static HERE: Mutex<Vec<Here>> = Mutex::new(Vec::new());

struct Here {
    backend: Backend,
    directory: PathBuf,
    name: String,
    identity: Identity,
    /// A forked child's copy is about its parent.
    pid: u32,
}

/// This process's being in a domain, for as long as this lives.
pub(super) struct Ticket {
    name: String,
    identity: Identity,
}

impl Ticket {
    pub(super) fn new(system: &System) -> Ticket {
        let (place, name) = (&system.place, system.domain.clone());
        let identity = system.object.identity();
        if place.backend != Backend::Memfd
            && let Some(mut here) = here()
        {
            here.push(Here {
                backend: place.backend,
                directory: place.directory.clone(),
                name: name.clone(),
                identity,
                pid: std::process::id(),
            });
        }
        Ticket { name, identity }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(mut here) = here() else { return };
        let found = here.iter().position(|it| {
            it.pid == std::process::id() && it.name == self.name && it.identity == self.identity
        });
        if let Some(found) = found {
            here.swap_remove(found);
        }
    }
}

/// Whether this process is in a domain of this name and place that is another than `found`.
pub(super) fn is_in_another(place: &Place, name: &str, found: Option<Identity>) -> bool {
    here().is_some_and(|here| {
        let mut same_name = here.iter().filter(|it| {
            let is_mine = it.pid == std::process::id() && it.name == name;
            is_mine && it.backend == place.backend && it.directory == place.directory
        });
        same_name.any(|it| Some(it.identity) != found)
    })
}

/// `None` where a thread of our parent had the lock when we were forked: then nothing is known.
fn here() -> Option<MutexGuard<'static, Vec<Here>>> {
    const ROUNDS_MAX: u32 = 100;
    for _ in 0..ROUNDS_MAX {
        match HERE.try_lock() {
            Ok(here) => return Some(here),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    None
}
