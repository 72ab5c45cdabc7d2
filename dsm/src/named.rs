//! Segments, areas and hashes by name: made once in the domain, whoever dies at it.
use crate::area::{Area, AreaConfig, AreaError};
use crate::areas::{OpenAreaError, attach_area, make_area, make_segment};
use crate::control::PinError;
use crate::domain::{AttachError, CreateError, Domain};
use crate::handle::SegmentHandle;
use crate::hash::HashError;
use crate::registry::{Claim, Entry, Found, Hand, Kind, Name, NameError, Step};
use crate::segment::Segment;
use crate::shared_hash::{HashSpec, OpenHashError, SharedHash};
use shm_core::participants::{Outcome, ParticipantId};
use shm_core::process::{Forked, Liveness, ProcessId};
use std::convert::Infallible;
use std::time::Instant;

/// How often we may come too late, or be woken in vain, before we give up.
const ROUNDS_MAX: u32 = 1 << 20;

/// What somebody wants under a name.
#[derive(Clone, Copy, Default, Debug)]
pub struct NamedSpec {
    /// Bytes, more than 0. All who ask for the name ask for the same.
    pub size: u64,
    /// Where it is given, so many bytes from the beginning, and the last page, have memory behind
    /// them, and the others none until somebody puts it there: [`Domain::memory_of`]. Before that
    /// they read as zeroes, and who touches them may find no memory (SIGBUS). Where the backend has
    /// no memory that comes and goes, all of it is there.
    pub filled: Option<u64>,
    /// Of the layout of what is in it: see [`fingerprint!`](shm_core::fingerprint). All who ask for
    /// the name give the same; 0 where there is none.
    pub fingerprint: u64,
    /// How long to wait for another process that is making it; for as long as that one lives, where
    /// it is `None`.
    pub deadline: Option<Instant>,
}

/// A segment that was asked for by name.
#[derive(Debug)]
pub struct Named {
    /// The segment, initialised, attached.
    pub segment: Segment,
    /// Whether it was there: the caller has not initialised it.
    pub found: bool,
}

/// What somebody wants of an area under a name.
#[derive(Clone, Copy, Debug)]
pub struct AreaSpec {
    /// What it is made for; all who ask for the name want the same greatest size.
    pub config: AreaConfig,
    /// As in [`NamedSpec`].
    pub fingerprint: u64,
    /// As in [`NamedSpec`].
    pub deadline: Option<Instant>,
}

impl AreaSpec {
    /// For an area like this.
    pub fn new(config: AreaConfig) -> AreaSpec {
        AreaSpec { config, fingerprint: 0, deadline: None }
    }
}

/// An area that was asked for by name.
#[derive(Debug)]
pub struct NamedArea {
    /// The area, initialised.
    pub area: Area,
    /// Whether it was there: the caller has not initialised it.
    pub found: bool,
}

/// A name, as somebody saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntryInfo {
    /// The name.
    pub name: String,
    /// What it leads to.
    pub kind: Kind,
    /// The size that was asked for, in bytes.
    pub size: u64,
    /// Of the layout of what is in it.
    pub fingerprint: u64,
    /// The segment; `None` while it is being made.
    pub handle: Option<SegmentHandle>,
    /// Who is making it, by its pid and start time; `None` once it is made.
    pub maker: Option<ProcessId>,
    /// The processes that are attached to it.
    pub users: Vec<ProcessId>,
}

/// Why there is no segment of this name for the caller. `E` is what its `init` returns.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamedError<E> {
    /// It is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Of no bytes.
    #[error("what is named has at least one byte")]
    SizeZero,
    /// It was made with another size.
    #[error(
        "`{name}` was made with {found} bytes, not {asked}: all who ask for it ask for the same"
    )]
    Size {
        /// The name.
        name: Name,
        /// Its size.
        found: u64,
        /// What the caller asked for.
        asked: u64,
    },
    /// It was made for another layout.
    #[error(
        "`{name}` was made by a program with another layout (fingerprint {found:#x}, not \
         {asked:#x}): build all programs from the same version, or remove the name"
    )]
    Fingerprint {
        /// The name.
        name: Name,
        /// Its fingerprint.
        found: u64,
        /// The caller's.
        asked: u64,
    },
    /// It leads to something else than what was asked for.
    #[error("`{name}` leads to {found:?}, and not to {asked:?}")]
    Kind {
        /// The name.
        name: Name,
        /// What it leads to.
        found: Kind,
        /// What the caller asked for.
        asked: Kind,
    },
    /// Somebody was still making it at the deadline.
    #[error("`{name}` is being made by process {maker:?}, which was not done by the deadline")]
    NotReady {
        /// The name.
        name: Name,
        /// Who is making it.
        maker: Option<ProcessId>,
    },
    /// All names are taken.
    #[error("all {names} names of the domain are in use: remove some")]
    Full {
        /// How many there can be.
        names: u32,
    },
    /// The caller's `init` failed. The name is free for the next one to try.
    #[error("cannot initialise what is named: {0}")]
    Init(E),
    /// The segment could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The segment could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The segment could not be pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The area could not be made, or what is there is none.
    #[error(transparent)]
    Area(#[from] AreaError),
    /// The hash could not be made, or what is there is none.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// Somebody overwrites the control segment.
    #[error("the control segment is corrupt: the row of `{0}`")]
    Corrupt(Name),
    /// In a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// Why a name was not removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// It is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// In a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
}

impl<E> From<OpenAreaError> for NamedError<E> {
    fn from(error: OpenAreaError) -> NamedError<E> {
        match error {
            OpenAreaError::Area(error) => error.into(),
            OpenAreaError::Create(error) => error.into(),
            OpenAreaError::Attach(error) => error.into(),
        }
    }
}

impl<E> From<OpenHashError> for NamedError<E> {
    fn from(error: OpenHashError) -> NamedError<E> {
        match error {
            OpenHashError::Area(error) => error.into(),
            OpenHashError::Hash(error) => error.into(),
        }
    }
}

impl Domain {
    /// The segment of this name. Where there is none, it is made and `init` run in it, by one
    /// process in the whole domain, whoever else asks meanwhile: those wait.
    ///
    /// `init` may fail, panic, or die with its process: then the next one to ask runs its own, in a
    /// new segment. A named segment is pinned: it stays when nobody is attached, until somebody
    /// [removes](Domain::remove_named) the name. A process that has it already gets another clone.
    ///
    /// With `memfd` a process that did not make the segment needs its descriptor: see
    /// [`Inheritance`](crate::Inheritance).
    ///
    /// ```
    /// use dsm::{Domain, DomainConfig, NamedSpec};
    /// # let name = format!("doc-named-{}", std::process::id());
    /// let domain = Domain::open(DomainConfig::new(&name))?;
    /// let spec = NamedSpec { size: 4096, ..NamedSpec::default() };
    /// let make = |_: &dsm::Segment| Ok::<(), std::convert::Infallible>(());
    /// let mine = domain.named_segment("counters", &spec, make)?;
    /// assert!(!mine.found);
    /// let again = domain.named_segment("counters", &spec, make)?;
    /// assert!(again.found && again.segment.handle() == mine.segment.handle());
    /// assert!(domain.remove_named("counters")?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NamedError`]. Where it is of `init`'s making, nothing is left behind.
    ///
    /// # If a process dies here
    /// The next one to ask for the name begins anew.
    pub fn named_segment<E>(
        &self,
        name: &str,
        spec: &NamedSpec,
        init: impl FnOnce(&Segment) -> Result<(), E>,
    ) -> Result<Named, NamedError<E>> {
        let NamedSpec { size, filled, fingerprint, deadline } = *spec;
        let wanted = Entry { name: Name::new(name)?, kind: Kind::Segment, size, fingerprint };
        let make = |_: &Domain| {
            let segment = match filled {
                Some(filled) if filled < size => self.create_sparse_or_whole(filled, size)?.0,
                _ => self.create_segment(size)?,
            };
            init(&segment).map_err(NamedError::Init)?;
            Ok((segment, ()))
        };
        let (segment, made) = self.named_with(&wanted, deadline, make)?;
        Ok(Named { segment, found: made.is_none() })
    }

    /// The area of this name: as [`named_segment`](Domain::named_segment), with an [`Area`] in it.
    /// `init` may make blocks, of which the area's [root](Area::root) names the first.
    ///
    /// ```
    /// use dsm::area::AreaConfig;
    /// use dsm::{AreaSpec, Domain, DomainConfig};
    /// # let name = format!("doc-named-area-{}", std::process::id());
    /// let domain = Domain::open(DomainConfig::new(&name))?;
    /// let spec = AreaSpec::new(AreaConfig::new(1 << 30));
    /// let named = domain.named_area("strings", &spec, |area| {
    ///     let heap = area.heap(domain.member())?;
    ///     heap.alloc_to(area.root(), 4096, |_| ())?;
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// });
    /// # let named = named.map_err(|error| error.to_string())?;
    /// assert!(!named.found && named.area.stats().blocks == 1);
    /// domain.remove_named("strings")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NamedError`]. Where it is of `init`'s making, nothing is left behind.
    ///
    /// # If a process dies here
    /// The next one to ask for the name begins anew.
    pub fn named_area<E>(
        &self,
        name: &str,
        spec: &AreaSpec,
        init: impl FnOnce(&Area) -> Result<(), E>,
    ) -> Result<NamedArea, NamedError<E>> {
        let AreaSpec { config, fingerprint, deadline } = *spec;
        let size = config.max_bytes();
        let wanted = Entry { name: Name::new(name)?, kind: Kind::Area, size, fingerprint };
        let make = |domain: &Domain| {
            let (segment, config) = make_segment(domain, 0, &config)?;
            // SAFETY: nobody else knows of the segment.
            let area = unsafe { make_area(domain, &segment, 0, &config) }?;
            init(&area).map_err(NamedError::Init)?;
            Ok((segment, area))
        };
        let (segment, made) = self.named_with(&wanted, deadline, make)?;
        let found = made.is_none();
        let area = made.map_or_else(|| attach_area(self, &segment, 0), Ok)?;
        Ok(NamedArea { area, found })
    }

    /// The hash of this name: where there is none, it is made, by one process in the whole domain.
    /// All that it stands on comes with it, and a process that has it already gets another clone.
    /// It stays when nobody is attached, until somebody [removes](Domain::remove_named) the name.
    ///
    /// ```
    /// use dsm::hash::Size;
    /// use dsm::{Domain, DomainConfig, HashSpec};
    /// # let name = format!("doc-named-hash-{}", std::process::id());
    /// let domain = Domain::open(DomainConfig::new(&name))?;
    /// let spec = HashSpec::new(Size::Fixed(4), Size::UpTo(100));
    /// let games = domain.named_hash("games", &spec)?;
    ///
    /// let mut hash = games.join()?; // each thread its own
    /// hash.upsert(b"king", b"pawn to e4")?;
    /// let found = hash.find(b"king")?.expect("it is there");
    /// assert_eq!(found.to_vec(), b"pawn to e4");
    /// # drop(found);
    /// # domain.remove_named("games")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`NamedError`]. Nothing is left behind.
    ///
    /// # If a process dies here
    /// The next one to ask for the name begins anew.
    pub fn named_hash(
        &self,
        name: &str,
        spec: &HashSpec,
    ) -> Result<SharedHash, NamedError<Infallible>> {
        let (size, fingerprint) = (spec.max_bytes, spec.fingerprint());
        let wanted = Entry { name: Name::new(name)?, kind: Kind::Hash, size, fingerprint };
        let make = |domain: &Domain| Ok(SharedHash::make(domain, spec)?);
        let (segment, made) = self.named_with(&wanted, spec.deadline, make)?;
        Ok(made.map_or_else(|| SharedHash::attach(self, &segment, spec), Ok)?)
    }

    /// What a name leads to, and what its maker has made besides, if that was us.
    fn named_with<E, T>(
        &self,
        wanted: &Entry,
        deadline: Option<Instant>,
        make: impl FnOnce(&Domain) -> Result<(Segment, T), NamedError<E>>,
    ) -> Result<(Segment, Option<T>), NamedError<E>> {
        self.member().check_fork()?;
        let name = wanted.name;
        if wanted.size == 0 {
            return Err(NamedError::SizeZero);
        }
        let mut has_reaped = false;
        for _ in 0..ROUNDS_MAX {
            match self.with_hand(|hand| self.registry().step(hand, wanted)) {
                Step::Ready(found) => {
                    check(&found.entry, wanted)?;
                    if let Some(segment) = self.attach_named(&found)? {
                        return Ok((segment, None));
                    }
                    // Somebody took its pin away, and it went: the name leads nowhere.
                    self.with_hand(|hand| self.registry().remove_found(hand, &found));
                }
                Step::Busy(found) => {
                    if self.wait_for(&found, deadline) == Outcome::TimedOut {
                        let maker = found.owner().and_then(|owner| self.process_of(owner));
                        return Err(NamedError::NotReady { name, maker });
                    }
                }
                Step::Mine(claim) => {
                    let making = Making { domain: self, claim: Some(claim) };
                    let (segment, made) = make(self)?;
                    if !making.publish(&segment)? {
                        return Err(NamedError::Corrupt(name));
                    }
                    return Ok((segment, Some(made)));
                }
                Step::Full if !has_reaped => {
                    self.reap();
                    has_reaped = true;
                }
                Step::Full => return Err(NamedError::Full { names: self.registry().capacity() }),
                Step::Restless => break,
            }
        }
        Err(NamedError::Corrupt(name))
    }

    /// Takes the name away: whoever asks for it next makes it anew, at once. The segment goes when
    /// its last user does. `false` where there is no such name, or where it is still being made.
    ///
    /// # Errors
    /// [`RemoveError`].
    ///
    /// # If a process dies here
    /// The name is there or it is not; its reaper takes the segment's pin away.
    pub fn remove_named(&self, name: &str) -> Result<bool, RemoveError> {
        self.member().check_fork()?;
        let name = Name::new(name)?;
        Ok(self.with_hand(|hand| self.registry().remove(hand, &name)))
    }

    /// All names, in no order. Others make and remove some meanwhile.
    pub fn named(&self) -> Vec<EntryInfo> {
        let (people, segments) = (self.participants(), self.segments());
        let users = |handle: SegmentHandle| {
            let segment = segments.iter().find(|segment| segment.handle == handle);
            let attached = segment.map(|segment| segment.attached.as_slice()).unwrap_or_default();
            let at = |who: &&_| attached.contains(&slot_of(who));
            people.iter().filter(at).map(|who| who.process).collect()
        };
        let info = |found: Found| EntryInfo {
            name: found.entry.name.to_string(),
            kind: found.entry.kind,
            size: found.entry.size,
            fingerprint: found.entry.fingerprint,
            handle: found.handle,
            maker: found.owner().and_then(|owner| self.process_of(owner)),
            users: found.handle.map(users).unwrap_or_default(),
        };
        self.registry().entries().into_iter().map(info).collect()
    }

    fn with_hand<R>(&self, act: impl FnOnce(&Hand<'_>) -> R) -> R {
        let table = self.member().table();
        act(&Hand {
            me: self.member().id(),
            is_dead: &|id| table.liveness(id) == Liveness::Dead,
            // It may have been unpinned, or be gone, already.
            unpin: &|handle| _ = self.unpin(handle),
        })
    }

    fn process_of(&self, id: ParticipantId) -> Option<ProcessId> {
        self.participants().into_iter().find(|who| who.id == id).map(|who| who.process)
    }

    fn wait_for(&self, found: &Found, deadline: Option<Instant>) -> Outcome {
        // Another thread of ours lives as long as we do.
        let owner = found.owner().filter(|owner| *owner != self.member().id());
        let watch = owner.map(|owner| self.member().watch(owner));
        let outcome = self.registry().wait(found, watch.as_ref(), deadline);
        // Woken again and again, it would never look at the clock.
        let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
        if is_late { Outcome::TimedOut } else { outcome }
    }

    /// The segment, attached here already or not; `None` where it is gone.
    fn attach_named(&self, found: &Found) -> Result<Option<Segment>, AttachError> {
        found.handle.map_or(Ok(None), |handle| self.attach_or_find(handle))
    }
}

/// A name that is being made. Where that fails, or panics, the name is given back.
struct Making<'d> {
    domain: &'d Domain,
    claim: Option<Claim>,
}

impl Making<'_> {
    fn publish(mut self, segment: &Segment) -> Result<bool, PinError> {
        let Some(claim) = &self.claim else { return Ok(false) };
        claim.set_segment(segment.handle());
        match segment.pin() {
            // `init` has pinned it: then that pin is the name's.
            Ok(()) | Err(PinError::AlreadyPinned(_)) => {}
            Err(error) => return Err(error),
        }
        let published = self.claim.take().is_some_and(Claim::publish);
        if !published {
            let _ = self.domain.unpin(segment.handle());
        }
        Ok(published)
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take()
            && self.domain.member().check_fork().is_ok()
        {
            claim.give_up(&|handle| _ = self.domain.unpin(handle));
        }
    }
}

/// Whether what is there is what is wanted.
fn check<E>(there: &Entry, wanted: &Entry) -> Result<(), NamedError<E>> {
    let name = wanted.name;
    if there.kind != wanted.kind {
        return Err(NamedError::Kind { name, found: there.kind, asked: wanted.kind });
    }
    if there.size != wanted.size {
        return Err(NamedError::Size { name, found: there.size, asked: wanted.size });
    }
    if there.fingerprint != wanted.fingerprint {
        let (found, asked) = (there.fingerprint, wanted.fingerprint);
        return Err(NamedError::Fingerprint { name, found, asked });
    }
    Ok(())
}

fn slot_of(who: &shm_core::participants::ParticipantInfo) -> u32 {
    who.id.slot()
}
