//! A hash with all that it stands on, in one segment of a domain.
//!
//! ```text
//!   | head: place | a word a seat | announcements, a row a seat | area: the hash, its entries … |
//! ```
//!
//! A process has it as a [`SharedHash`], by [`Domain::named_hash`], and each of its threads as a
//! [`HashHandle`]. What a dead process had of the area, of the hash and of the announcements, is
//! taken back by whoever comes in, finds no room or asks for it ([`SharedHash::reap`]): the death
//! is proven by the domain's table of participants, whose seat may have another user by then.
//!
//! Who reaps a participant has the word of its seat, and so does a participant while it takes its
//! row of announcements, which may be those of a dead predecessor. So nobody's announcements are
//! cleared but a dead one's.
//!
//! | death of | leaves | repaired by |
//! | --- | --- | --- |
//! | who makes it | a segment that no name leads to | the domain's reaper |
//! | who comes in, takes a thread's handle or leaves | the word of its seat; rows | the next one to reap: [`SharedHash::reap`] |
//! | who uses it | rows, and in them what it was doing | the same |
//! | who reaps | the seat's word with its name | the next one, from the beginning, once that death is certain too |
//!
//! One who is stopped while it reaps keeps that seat's word: a new process in that seat waits for a
//! second, and is told that the hash is busy. Others go on.
mod shared;

use crate::area::{Area, AreaConfig};
use crate::areas::{OpenAreaError, attach_area, make_area, make_segment};
use crate::domain::Domain;
use crate::handle::SegmentHandle;
use crate::hash::{Guest, Hash, HashConfig, HashError, MemberGround, Size};
use crate::segment::Segment;
use shared::{Care, FINGERPRINT, Head, MAGIC};
use shm_core::hazard::{HazardRow, Hazards};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::{Member, ParticipantId, SLOTS_MAX};
use shm_core::process::Liveness;
use shm_core::sync::{AtomicU64, Ordering};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

/// How long to wait for one who reaps our seat's predecessor.
const PATIENCE: Duration = Duration::from_secs(1);

/// What somebody wants of a hash. All who ask for a name ask for the same.
///
/// ```
/// use dsm::HashSpec;
/// use dsm::hash::Size;
/// let spec = HashSpec { max_bytes: 1 << 30, ..HashSpec::new(Size::Fixed(8), Size::UpTo(100)) };
/// assert_eq!(spec.threads, 64);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct HashSpec {
    /// How long keys are.
    pub key: Size,
    /// How long values are.
    pub value: Size,
    /// How many threads use it at a time, of all processes together.
    pub threads: u32,
    /// And of each process.
    pub threads_of_process: u32,
    /// The most memory for its entries and tables, 64 GiB if not said: so much of the address space
    /// is reserved by each process. Memory comes as the hash grows, and goes when it shrinks.
    pub max_bytes: u64,
    /// Of the layout of keys and values: see [`fingerprint!`](shm_core::fingerprint). 0 where there
    /// is none.
    pub fingerprint: u64,
    /// How long to wait for another process that is making it; for as long as that one lives, where
    /// it is `None`.
    pub deadline: Option<Instant>,
}

impl HashSpec {
    /// For keys and values of these sizes, up to 64 threads, 16 of each process.
    pub fn new(key: Size, value: Size) -> HashSpec {
        HashSpec {
            key,
            value,
            threads: 64,
            threads_of_process: 16,
            max_bytes: 64 << 30,
            fingerprint: 0,
            deadline: None,
        }
    }

    fn config(&self) -> HashConfig {
        HashConfig { threads: self.threads, ..HashConfig::new(self.key, self.value) }
    }

    fn area(&self) -> AreaConfig {
        // One heap for each thread, and one for each process that reaps.
        AreaConfig::new(self.max_bytes).heaps(self.threads.saturating_mul(2).min(4096))
    }

    /// A group of announcements for each thread, and one for who reaps.
    fn groups(&self) -> u32 {
        self.threads_of_process.saturating_add(1)
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        let HashSpec { key, value, fingerprint, .. } = *self;
        shm_core::layout::combine(&[key.to_bits(), value.to_bits(), fingerprint])
    }
}

/// Where the parts are.
struct Offsets {
    seats: u64,
    hazards: u64,
    area: u64,
}

impl Offsets {
    fn of(seats: u32, groups: u32) -> Offsets {
        let seats_at = size_of::<Head>() as u64;
        let words = u64::from(seats) * size_of::<AtomicU64>() as u64;
        let hazards = (seats_at + words).next_multiple_of(128);
        let area = (hazards + Hazards::bytes_for(seats, groups)).next_multiple_of(4096);
        Offsets { seats: seats_at, hazards, area }
    }
}

/// A hash that processes of a domain share, as one of them has it: [`Domain::named_hash`]. Clones
/// are the same one.
#[derive(Clone, Debug)]
pub struct SharedHash {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    handle: SegmentHandle,
    head: Mapped<Head>,
    seats: MappedSlice<AtomicU64>,
    area: Area,
    hazards: Hazards,
    row: HazardRow,
    member: Arc<Member>,
    config: HashConfig,
    found: bool,
    /// The threads of a process are one participant.
    reaping: Mutex<()>,
}

/// A [`SharedHash`] in the hands of one thread, which is a [`Hash`](crate::hash::Hash). It may
/// wander to another thread.
pub struct HashHandle {
    hash: Hash<MemberGround>,
    shared: SharedHash,
}

impl SharedHash {
    /// Makes one, in a segment of its own.
    pub(crate) fn make(
        domain: &Domain,
        spec: &HashSpec,
    ) -> Result<(Segment, SharedHash), OpenHashError> {
        let (seats, groups) = (domain.member().table().capacity(), spec.groups());
        let at = Offsets::of(seats, groups);
        let (segment, config) = make_segment(domain, at.area, &spec.area())?;
        let mapping = segment.mapping();
        let corrupt = |_| HashError::Config { what: "threads of a process", value: groups.into() };
        for seat in 0..u64::from(seats) {
            let at = at.seats + seat * size_of::<AtomicU64>() as u64;
            // SAFETY: nobody else knows of the segment yet.
            unsafe { Mapped::place(mapping, at, AtomicU64::new(0)) }.map_err(|_| lost())?;
        }
        // SAFETY: as above.
        unsafe { Mapped::place(mapping, 0, Head::new(seats, groups)) }.map_err(|_| lost())?;
        // SAFETY: as above.
        unsafe { Hazards::create(mapping, at.hazards, seats, groups) }.map_err(corrupt)?;
        // SAFETY: as above.
        unsafe { make_area(domain, &segment, at.area, &config) }?;
        let shared = SharedHash::enter(domain, &segment, spec, false)?;
        let ground = shared.inner.ground()?;
        Hash::create(ground, &shared.inner.head.place, &shared.inner.config)?;
        Ok((segment, shared))
    }

    /// The one in a segment; this process has it once.
    pub(crate) fn attach(
        domain: &Domain,
        segment: &Segment,
        spec: &HashSpec,
    ) -> Result<SharedHash, OpenHashError> {
        let shared = SharedHash::enter(domain, segment, spec, true)?;
        shared.reap();
        Ok(shared)
    }

    fn enter(
        domain: &Domain,
        segment: &Segment,
        spec: &HashSpec,
        found: bool,
    ) -> Result<SharedHash, OpenHashError> {
        let handle = segment.handle();
        let mut here = domain.hashes().lock().unwrap_or_else(PoisonError::into_inner);
        here.retain(|(_, shared)| shared.strong_count() > 0);
        let mut ours = here.iter().filter(|(of, _)| *of == handle);
        if let Some(inner) = ours.find_map(|(_, shared)| shared.upgrade()) {
            return Ok(SharedHash { inner });
        }
        let inner = Arc::new(Inner::open(domain, segment, spec, found)?);
        here.push((handle, Arc::downgrade(&inner)));
        Ok(SharedHash { inner })
    }

    /// The hash for the calling thread.
    ///
    /// # Errors
    /// [`HashError::RowsTaken`], [`HashError::Busy`] where all threads that it was made for have
    /// one; [`HashError::Forked`].
    ///
    /// # If a process dies here
    /// What it has is taken back by the next one to reap.
    pub fn join(&self) -> Result<HashHandle, HashError> {
        self.inner.member.check_fork()?;
        let hash = self.inner.join().or_else(|error| match error {
            HashError::Busy | HashError::RowsTaken { .. } if self.reap() > 0 => self.inner.join(),
            error => Err(error),
        });
        Ok(HashHandle { hash: hash?, shared: self.clone() })
    }

    /// Finishes or undoes what dead processes were doing, and takes back what they had; how many
    /// there were. Whoever attaches, or finds no room, does so too.
    ///
    /// # If a process dies here
    /// The next one to reap begins anew.
    pub fn reap(&self) -> usize {
        if self.inner.member.check_fork().is_err() {
            return 0;
        }
        let _alone = match self.inner.reaping.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(alone)) => alone.into_inner(),
            Err(TryLockError::WouldBlock) => return 0,
        };
        self.inner.reap().unwrap_or_else(|error| {
            tracing::warn!(%error, "a hash cannot be cleaned up after the dead");
            0
        })
    }

    /// Whether it was there: made by another process, or earlier.
    pub fn was_found(&self) -> bool {
        self.inner.found
    }

    /// The segment in which it lies.
    pub fn handle(&self) -> SegmentHandle {
        self.inner.handle
    }

    /// The heap in which it lies, for statistics and limits.
    pub fn area(&self) -> &Area {
        &self.inner.area
    }
}

fn lost() -> HashError {
    HashError::Config { what: "threads", value: 0 }
}

impl Inner {
    fn open(
        domain: &Domain,
        segment: &Segment,
        spec: &HashSpec,
        found: bool,
    ) -> Result<Inner, OpenHashError> {
        let mapping: &Arc<Mapping> = segment.mapping();
        let head = Mapped::<Head>::new(mapping, 0).map_err(|_| HashError::NotAHash)?;
        // Relaxed, all: written before the segment was published.
        let [magic, layout, seats, groups] = [&head.magic, &head.layout, &head.seats, &head.groups]
            .map(|word| word.load(Ordering::Relaxed));
        if magic != MAGIC || layout != FINGERPRINT {
            return Err(HashError::NotAHash.into());
        }
        let corrupt = |what, value| HashError::Corrupt { what, value };
        if seats != u64::from(domain.member().table().capacity()) || seats > u64::from(SLOTS_MAX) {
            return Err(corrupt("the number of seats", seats).into());
        }
        let groups = u32::try_from(groups).unwrap_or(u32::MAX);
        let at = Offsets::of(seats as u32, groups.min(shm_core::hazard::GROUPS_MAX));
        let words = MappedSlice::new(mapping, at.seats, seats);
        let words = words.map_err(|_| corrupt("the number of seats", seats))?;
        let hazards = Hazards::attach(mapping, at.hazards);
        let hazards = hazards.map_err(|_| corrupt("the rows of announcements", at.hazards))?;
        if (u64::from(hazards.seats()), hazards.groups()) != (seats, groups) {
            return Err(corrupt("the number of groups", groups.into()).into());
        }
        let area = attach_area(domain, segment, at.area)?;
        let member = domain.member().clone();
        let row = take_row(&member, &words, &hazards)?;
        Ok(Inner {
            handle: segment.handle(),
            head,
            seats: words,
            area,
            hazards,
            row,
            member,
            config: spec.config(),
            found,
            reaping: Mutex::new(()),
        })
    }

    fn ground(&self) -> Result<MemberGround, HashError> {
        MemberGround::new(&self.area, &self.row)
    }

    /// What names the hash.
    fn name(&self) -> u64 {
        // Pairs with the Release of its creator's heap.
        self.head.place.load(Ordering::Acquire)
    }

    fn join(&self) -> Result<Hash<MemberGround>, HashError> {
        Hash::attach(self.ground()?, self.name(), &self.config)
    }

    /// See [`SharedHash::reap`].
    fn reap(&self) -> Result<usize, HashError> {
        let (me, table) = (self.member.id(), self.member.table());
        let guest = Guest::new(self.ground()?, self.name(), &self.config)?;
        let holders = (0..self.hazards.seats()).filter_map(|seat| self.hazards.holder(seat));
        let rows = guest.owners()?.into_iter().filter_map(ParticipantId::from_bits);
        // Relaxed: the proof of the death orders what the dead one did.
        let cares = self.seats.iter().map(|word| Care(word.load(Ordering::Relaxed)));
        let mut known: BTreeSet<ParticipantId> = holders.chain(rows).collect();
        known.extend(cares.filter_map(Care::whom));
        self.area.reap_all();
        known.retain(|id| *id != me && table.liveness(*id) == Liveness::Dead);
        let mut reaped = 0;
        for dead in known {
            let Some(word) = self.seats.get(dead.slot() as usize) else { continue };
            let Some(care) = Caring::begin(word, dead, &self.member) else { continue };
            self.area.reap(dead);
            // Somebody else is at its heaps, on which the rest depends.
            if !self.area.has_rows_of(dead) {
                guest.reap(dead.to_bits())?;
                self.hazards.clear_row(dead);
                reaped += 1;
            }
            drop(care);
        }
        Ok(reaped)
    }
}

/// This member's row of announcements, which a dead predecessor in its seat may have had.
fn take_row(
    member: &Arc<Member>,
    seats: &MappedSlice<AtomicU64>,
    hazards: &Hazards,
) -> Result<HazardRow, HashError> {
    let word = seats.get(member.id().slot() as usize).ok_or(HashError::Busy)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(_care) = Caring::begin(word, member.id(), member) {
            return hazards.row(member).map_err(|_| HashError::Busy);
        }
        if Instant::now() > deadline {
            return Err(HashError::Busy);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A seat's word that is ours.
struct Caring<'w> {
    word: &'w AtomicU64,
    care: Care,
}

impl Caring<'_> {
    /// Takes the word, unless one has it who lives.
    fn begin<'w>(word: &'w AtomicU64, whom: ParticipantId, member: &Member) -> Option<Caring<'w>> {
        let (me, table) = (member.id(), member.table());
        let held = Care(word.load(Ordering::Relaxed));
        // Ours is one that a panic of ours has left, for our threads take turns.
        let is_dead = |by| by == me || table.liveness(by) == Liveness::Dead;
        if held.0 != 0 && !held.by().is_none_or(is_dead) {
            return None;
        }
        let care = Care::new(whom, me);
        // Pairs with the Release in `drop`: what its last owner did.
        let (ok, err) = (Ordering::Acquire, Ordering::Relaxed);
        let is_ours = word.compare_exchange(held.0, care.0, ok, err).is_ok();
        is_ours.then_some(Caring { word, care })
    }
}

impl Drop for Caring<'_> {
    fn drop(&mut self) {
        // Pairs with the Acquire in `begin`: what we did. A liar's word is left alone.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        let _ = self.word.compare_exchange(self.care.0, 0, ok, err);
    }
}

/// The hashes of this process, each with the segment in which it lies.
pub(crate) type Here = Mutex<Vec<(SegmentHandle, Weak<Inner>)>>;

/// Why there is no hash for the caller.
#[derive(Debug)]
pub(crate) enum OpenHashError {
    Area(OpenAreaError),
    Hash(HashError),
}

impl<E: Into<OpenAreaError>> From<E> for OpenHashError {
    fn from(error: E) -> OpenHashError {
        OpenHashError::Area(error.into())
    }
}

impl From<HashError> for OpenHashError {
    fn from(error: HashError) -> OpenHashError {
        OpenHashError::Hash(error)
    }
}

impl HashHandle {
    /// The hash that this is of.
    pub fn shared(&self) -> &SharedHash {
        &self.shared
    }
}

impl Deref for HashHandle {
    type Target = Hash<MemberGround>;

    fn deref(&self) -> &Hash<MemberGround> {
        &self.hash
    }
}

impl DerefMut for HashHandle {
    fn deref_mut(&mut self) -> &mut Hash<MemberGround> {
        &mut self.hash
    }
}

impl fmt::Debug for HashHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hash.fmt(f)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedHash").field("handle", &self.handle).finish_non_exhaustive()
    }
}
