//! Finding a domain, or making it: race-free, whoever dies at it.
use super::config::DomainConfig;
use super::error::OpenError;
use super::names::is_in_another;
use super::presence::{Arrival, Presence};
use super::shared::Sizes;
use super::system::control_name;
use crate::backend::{self, Backend, BackendError, Identity, Object, Place, pages};
use shm_core::header::{self, Header, Opened, Opener};
use shm_core::mapping::Mapped;
use shm_core::participants::TableError;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Instant;

/// Each round somebody else makes, closes or removes the domain under us.
const ROUNDS_MAX: u32 = 100;

/// Comes into the domain; makes it if it is not there.
pub(super) fn open(config: &DomainConfig) -> Result<Presence, OpenError> {
    config.check()?;
    let place = config.place()?;
    let opener = this_process(config)?;
    let sparse = pages::can_populate();
    for round in 0..ROUNDS_MAX {
        // The first may find it closed. A slow one waits for a remover, who may be stopped.
        if round > 1 && Instant::now() >= opener.deadline {
            break;
        }
        let nonce = RandomState::new().build_hasher().finish();
        let sizes = config.sizes(nonce, sparse);
        let Some(object) = find_or_make(&place, config, &sizes, sparse)? else { continue };
        refuse_to_split(&place, config, Some(object.identity()))?;
        let opened = fill_and_open(&object, config, &opener, sizes.within(object.len()), sparse)?;
        if let Some(presence) = arrive(object, config)? {
            if opened == Opened::Created {
                presence.system.remove_orphans()?;
            }
            return Ok(presence);
        }
    }
    Err(OpenError::Busy { name: config.name.clone() })
}

/// Opens the header; where this process is the one to write what stands behind it, puts memory
/// there first, which a creator who was killed may not have done, or not for as much.
fn fill_and_open(
    object: &Object,
    config: &DomainConfig,
    opener: &Opener,
    sizes: Sizes,
    sparse: bool,
) -> Result<Opened, OpenError> {
    let mut failed = None;
    let init = || {
        let too_large = |_| TableError::Slots(sizes.participants);
        let filled = if sparse { sizes.filled() } else { sizes.total() }.map_err(too_large)?;
        object.populate(filled).map_err(|error| {
            failed = Some(error);
            TableError::Slots(sizes.participants)
        })?;
        // SAFETY: the header gives its initialiser the memory to itself.
        unsafe { sizes.write(object.mapping(), !sparse) }
    };
    let opened = open_header(object, config, opener, init);
    failed.map_or(opened, |error| Err(error.into()))
}

/// Comes into the domain if it is there.
pub(super) fn open_existing(config: &DomainConfig) -> Result<Option<Presence>, OpenError> {
    config.check()?;
    let place = config.place()?;
    let Some(object) = backend::open(&place, &control_name(&config.name))? else { return Ok(None) };
    refuse_to_split(&place, config, Some(object.identity()))?;
    enter_existing(object, config)
}

/// Comes into the domain whose control segment is `object`; `None` where it is closed, or where
/// nobody has made it: its creator was killed.
pub(super) fn enter_existing(
    object: Object,
    config: &DomainConfig,
) -> Result<Option<Presence>, OpenError> {
    let not_made = Err(TableError::Slots(0));
    match open_header(&object, config, &this_process(config)?, || not_made) {
        Err(OpenError::Header { source: header::OpenError::Init(_), .. }) => Ok(None),
        Err(error) => Err(error),
        Ok(_) => arrive(object, config),
    }
}

fn arrive(object: Object, config: &DomainConfig) -> Result<Option<Presence>, OpenError> {
    match Presence::arrive(object, config)? {
        Arrival::In(presence) => Ok(Some(*presence)),
        Arrival::Closed(system) => {
            match system.try_remove_domain() {
                // Another user's, where only he can remove it: no use in trying again.
                Err(error @ BackendError::Denied { .. }) => Err(error.into()),
                _ => Ok(None),
            }
        }
    }
}

/// The control segment; `None` where somebody was faster or it vanished: look again.
///
/// Not by `open_or_create`: that would lengthen the segment of one who wants a smaller domain.
fn find_or_make(
    place: &Place,
    config: &DomainConfig,
    sizes: &Sizes,
    sparse: bool,
) -> Result<Option<Object>, OpenError> {
    let name = control_name(&config.name);
    if place.backend != Backend::Memfd
        && let Some(object) = backend::open(place, &name)?
    {
        // The header; the rest once it is known who fills it.
        object.populate(1)?;
        return Ok(Some(object));
    }
    refuse_to_split(place, config, None)?;
    let too_large = |_| OpenError::Segments { asked: sizes.segments };
    let total = sizes.total().map_err(too_large)?;
    let filled = if sparse { sizes.filled().map_err(too_large)? } else { total };
    match backend::create_sparse(place, &name, filled, total) {
        Ok(object) => Ok(Some(object)),
        // Busy: what we made was found, used, closed and removed before we had it mapped (`sysv`).
        Err(BackendError::AlreadyExists { .. } | BackendError::Busy { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whoever is in a domain that has lost its name makes no second one of that name, and does not
/// enter one.
fn refuse_to_split(
    place: &Place,
    config: &DomainConfig,
    found: Option<Identity>,
) -> Result<(), OpenError> {
    let is_split = place.backend != Backend::Memfd && is_in_another(place, &config.name, found);
    if is_split { Err(OpenError::Unnamed { name: config.name.clone() }) } else { Ok(()) }
}

/// Asked before anything is made, since there may be no `/proc`.
fn this_process(config: &DomainConfig) -> Result<Opener, OpenError> {
    Opener::this_process(config.deadline()).map_err(|source| OpenError::Table {
        name: config.name.clone(),
        source: TableError::Proc(source),
    })
}

fn open_header(
    object: &Object,
    config: &DomainConfig,
    opener: &Opener,
    init: impl FnOnce() -> Result<(), TableError>,
) -> Result<Opened, OpenError> {
    let identity = Sizes::identity(&config.name, object.mapping());
    // A segment has at least a page, which is enough for a header.
    let header = Mapped::<Header>::new(object.mapping(), 0);
    let opened = header
        .map_err(|_| header::OpenError::NotOurs)
        .and_then(|header| header.open(&identity, opener, init));
    opened.map_err(|source| OpenError::Header { name: config.name.clone(), source })
}
