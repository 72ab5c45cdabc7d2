//! Which frame of a pool is to give up its page.
//!
//! ```text
//!             hit(frame)              victims(batch)            admit(frame, tag)
//!                 │                    │          │                │          │ a ghost
//!   use bytes  ███████████████████◄── hand        │                ▼          │
//!              one a frame, counts     ▲       head ◄─── ring ◄── tail        │
//!                                      └── used ──┘ └─ not used: a ghost ─────┘
//! ```
//!
//! A policy knows frames, by number, and pages, by tag; it knows nothing of files, of what is
//! pinned or of bytes. [`Kind::Clock5`] is PostgreSQL's clock sweep. [`Kind::Probation`] has a
//! small ring before the clock, where a page waits for its second use: most pages are used once, or
//! by one operation several times in a row, and leave without having cost another page its place.
//!
//! **It is advice.** No frame is anybody's because of a word in here: the caller asks the pool
//! whether a frame may be evicted (`may_evict`), which is where claims name their owner. So a death
//! at any instruction, and any nonsense in any of these words, costs some hits and nothing else:
//! calls are bounded by private numbers, frames are smaller than [`Policy::frames`], none is twice
//! in a batch, and a frame that fell out of the ring comes back under the hand. The cases are
//! numbered in `ring.rs`. For the same reason all accesses are relaxed.
//!
//! Frames that hold no page are asked for first ([`Policy::vacant`]), and victims when there are
//! none.

mod batch;
mod ghosts;
mod ring;
mod shared;
mod sweep;
mod uses;
mod vacant;

pub use batch::{BATCH_MAX, Batch};

use ghosts::Ghosts;
use ring::{Ring, slots_for};
use shared::{FRAMES_A_WORD, Place, Shared, Use, UseSet};
use shm_core::layout::{Plan, TooLarge};
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;
use sweep::Claim;
use uses::Uses;
use vacant::Vacant;

/// At most so many frames under one policy: 8 TiB of pages of 8 KiB.
pub const FRAMES_MAX: u32 = 1 << 30;

/// Which policy: the choice is stored in shared memory, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Kind {
    /// PostgreSQL's clock sweep: a new page counts 1, a use one more up to 5, the hand takes one
    /// away, and takes the first frame it finds at 0.
    Clock5 = 1,
    /// A clock behind a probation ring of a tenth of the frames.
    #[default]
    Probation = 2,
}

impl Kind {
    /// All there are.
    pub const ALL: [Kind; 2] = [Kind::Clock5, Kind::Probation];

    /// As the command line and reports call it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Clock5 => "clock5",
            Kind::Probation => "probation",
        }
    }

    pub(crate) const fn bits(self) -> u32 {
        self as u32
    }

    /// The policy of this number; `None` where there is no such policy.
    pub(crate) fn from_bits(bits: u32) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.bits() == bits)
    }

    /// Uses of a frame under the clock count up to here.
    const fn count_max(self) -> u8 {
        match self {
            Kind::Clock5 => 5,
            Kind::Probation => 3,
        }
    }

    /// What a use makes of the byte of a frame; `None` where it makes nothing.
    fn used(self, byte: Use) -> Option<Use> {
        match (self, byte.place()) {
            (Kind::Probation, Place::Young) => None,
            (Kind::Probation, Place::Old) => (byte.count() == 0).then_some(byte.with_count(1)),
            _ => (byte.count() < self.count_max()).then_some(Use::main(byte.count() + 1)),
        }
    }
}

/// Why a policy could not be made or attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// None, or more than [`FRAMES_MAX`].
    #[error("a policy is for 1 to {FRAMES_MAX} frames, not for {frames}")]
    BadFrames {
        /// Frames asked for.
        frames: u32,
    },
    /// The memory does not hold a policy here.
    #[error("no replacement policy here: {0}")]
    BadPlace(#[from] shm_core::BadPtr),
    /// The words in shared memory are not those of a policy.
    #[error("the memory at this offset holds no replacement policy")]
    NotAPolicy,
}

/// No frame may be evicted: every one was refused, a whole pool of them in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every frame of the pool is in use: unpin some, or make the pool larger")]
pub struct NoUnpinned;

/// How far the hand has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hand {
    /// The frame that is taken next.
    pub frame: u32,
    /// Passes over the whole pool that are complete.
    pub passes: u64,
}

/// A replacement policy in shared memory, as one thread uses it.
///
/// ```
/// use buffer_pool::policy::{Batch, Kind, Policy};
/// use shm_core::mapping::Mapping;
///
/// let mapping = Mapping::heap(Policy::bytes_for(Kind::Clock5, 3)?.try_into()?);
/// // SAFETY: nobody else has the mapping.
/// let mut policy = unsafe { Policy::create(&mapping, 0, Kind::Clock5, 3) }?;
/// for frame in 0..3 {
///     policy.admit(frame, 100 + u64::from(frame));
/// }
/// policy.hit(0);
/// let mut batch = Batch::new(1);
/// policy.victims(&mut batch, |frame| Some(100 + u64::from(frame)))?;
/// assert_eq!(batch.frames(), [1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Policy {
    kind: Kind,
    frames: u32,
    shared: Mapped<Shared>,
    uses: Uses,
    /// Those of which a use makes nothing.
    kept: UseSet,
    ring: Option<Ring>,
    vacant: Vacant,
    /// Of the hand's way; private.
    claim: Claim,
}

/// Where the parts are, from the beginning of a policy.
struct Parts {
    shared: u64,
    uses: u64,
    words: u64,
    slots: u64,
    ghosts: u64,
    vacant: u64,
    /// Words of vacant frames.
    vacant_words: u64,
    /// Slots, and ghosts.
    each: u64,
    total: Result<u64, TooLarge>,
}

impl Parts {
    const fn of(kind: Kind, frames: u32) -> Parts {
        let mut plan = Plan::new();
        let words = frames.div_ceil(FRAMES_A_WORD) as u64;
        let each = slots_for(kind, frames);
        let shared = plan.add::<Shared>();
        let uses = plan.array::<AtomicU64>(words);
        plan.bytes(0, 64);
        let slots = plan.array::<AtomicU32>(each);
        let ghosts = plan.array::<AtomicU32>(each);
        plan.bytes(0, 64);
        let vacant_words = frames.div_ceil(vacant::FRAMES_A_WORD) as u64;
        let vacant = plan.array::<AtomicU64>(vacant_words);
        let total = plan.total();
        Parts { shared, uses, words, slots, ghosts, vacant, vacant_words, each, total }
    }
}

impl Policy {
    /// Bytes that a policy for `frames` frames takes.
    ///
    /// # Errors
    /// [`PolicyError::BadFrames`].
    pub const fn bytes_for(kind: Kind, frames: u32) -> Result<u64, PolicyError> {
        if frames == 0 || frames > FRAMES_MAX {
            return Err(PolicyError::BadFrames { frames });
        }
        match Parts::of(kind, frames).total {
            Ok(total) => Ok(total),
            Err(TooLarge) => Err(PolicyError::BadFrames { frames }),
        }
    }

    /// Makes a policy for `frames` frames, none of which was ever used, at `offset`, which is a
    /// multiple of 128.
    ///
    /// # Errors
    /// [`PolicyError::BadFrames`], [`PolicyError::BadPlace`].
    ///
    /// # Safety
    /// Nobody else accesses [`bytes_for`](Policy::bytes_for) bytes at `offset` until the caller
    /// publishes the place.
    ///
    /// # If a process dies here
    /// The place was not published; whoever owns the memory makes the policy again.
    pub unsafe fn create(
        mapping: &Arc<Mapping>,
        offset: u64,
        kind: Kind,
        frames: u32,
    ) -> Result<Policy, PolicyError> {
        let region = mapping.region().sub(offset, Policy::bytes_for(kind, frames)?)?;
        let parts = Parts::of(kind, frames);
        for word in 0..parts.words {
            let at = parts.uses + word * size_of::<AtomicU64>() as u64;
            // SAFETY: exclusive by the caller's promise.
            unsafe { region.place(at, AtomicU64::new(0))? };
        }
        for word in 0..2 * parts.each {
            let at = parts.slots + word * size_of::<AtomicU32>() as u64;
            // SAFETY: exclusive by the caller's promise.
            unsafe { region.place(at, AtomicU32::new(0))? };
        }
        for word in 0..parts.vacant_words {
            let at = parts.vacant + word * size_of::<AtomicU64>() as u64;
            // SAFETY: exclusive by the caller's promise.
            unsafe { region.place(at, AtomicU64::new(vacant::all_of(word, frames)))? };
        }
        // SAFETY: exclusive by the caller's promise.
        unsafe { region.place(parts.shared, Shared::new(kind, frames))? };
        Policy::attach(mapping, offset)
    }

    /// Attaches to the policy at `offset`. Each thread attaches for itself.
    ///
    /// # Errors
    /// [`PolicyError::NotAPolicy`], [`PolicyError::BadPlace`].
    pub fn attach(mapping: &Arc<Mapping>, offset: u64) -> Result<Policy, PolicyError> {
        let shared = Mapped::<Shared>::new(mapping, offset)?;
        let (kind, frames) = shared.checked().ok_or(PolicyError::NotAPolicy)?;
        let parts = Parts::of(kind, frames);
        let at = |part: u64| offset.saturating_add(part);
        let words = MappedSlice::new(mapping, at(parts.uses), parts.words)?;
        let ring = match kind {
            Kind::Clock5 => None,
            Kind::Probation => {
                let slots = MappedSlice::new(mapping, at(parts.slots), parts.each)?;
                let entries = MappedSlice::new(mapping, at(parts.ghosts), parts.each)?;
                let ghosts = Ghosts::new(entries, u64::from(frames));
                Some(Ring::new(slots, ghosts, frames))
            }
        };
        let vacant = MappedSlice::new(mapping, at(parts.vacant), parts.vacant_words)?;
        let (uses, vacant) = (Uses { words }, Vacant { words: vacant });
        let kept = UseSet::of(|byte| kind.used(byte).is_none());
        Ok(Policy { kind, frames, shared, uses, kept, ring, vacant, claim: Claim::default() })
    }

    /// Which one it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Frames that it looks after, numbered from 0.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// So many frames, the first ones, are looked for victims in: all of them until somebody has
    /// [set](Policy::set_limit) it.
    pub fn limit(&self) -> u32 {
        self.shared.limit.load(Ordering::Relaxed).clamp(1, self.frames)
    }

    /// From now on victims are looked for in the first `frames` frames, of one at least.
    ///
    /// # If a process dies here
    /// It is set or it is not.
    pub fn set_limit(&self, frames: u32) {
        self.shared.limit.store(frames, Ordering::Relaxed);
    }

    /// The page in `frame` is used. A frame that there is not is no matter.
    ///
    /// A page that is used all the time costs a load of a byte, and no store.
    ///
    /// # If a process dies here
    /// The use counts or it does not.
    #[inline]
    pub fn hit(&self, frame: u32) {
        let Some(byte) = self.uses.get(frame) else { return };
        if !self.kept.contains(byte) {
            self.count(frame);
        }
    }

    #[cold]
    fn count(&self, frame: u32) {
        self.uses.change(frame, |byte| self.kind.used(byte));
    }

    /// The page in `frame` is used by one who uses many and comes back to few: it counts where none
    /// did, and the page does not pass its probation by it.
    ///
    /// # If a process dies here
    /// The use counts or it does not.
    pub fn hit_aside(&self, frame: u32) {
        let is_unused = |byte: Use| byte.place() == Place::Main && byte.count() == 0;
        if self.uses.get(frame).is_some_and(is_unused) {
            self.uses.change(frame, |byte| is_unused(byte).then_some(Use::main(1)));
        }
    }

    /// The page of this tag has come to `frame`, and is used. A frame that there is not is no
    /// matter.
    ///
    /// # If a process dies here
    /// The frame is in the ring, or under the hand as one that nobody has used; see `ring.rs`.
    pub fn admit(&self, frame: u32, tag: u64) {
        match &self.ring {
            _ if frame >= self.frames => {}
            None => self.uses.set(frame, Use::main(1)),
            Some(ring) => ring.admit(&self.shared, &self.uses, frame, tag, self.limit()),
        }
    }

    /// A page has come to `frame` for one use, perhaps: it stands under the clock with that one,
    /// and no page of the probation ring leaves earlier for it.
    ///
    /// # If a process dies here
    /// The use counts or it does not.
    pub fn admit_aside(&self, frame: u32) {
        self.keep(frame);
    }

    /// A frame that was to be a victim, and turned out to be in use.
    ///
    /// # If a process dies here
    /// The use counts or it does not.
    pub fn keep(&self, frame: u32) {
        if frame < self.frames {
            self.uses.set(frame, Use::main(1));
        }
    }

    /// A frame that may have no page: claim it, and look whether it has. `None` where there seems
    /// to be none. In the beginning all have none.
    ///
    /// # If a process dies here
    /// The frame is found by the hand, or put back by who cleans up.
    #[inline]
    pub fn vacant(&self) -> Option<u32> {
        self.vacant.take(&self.shared).filter(|frame| *frame < self.frames)
    }

    /// The frame has no page (any more), and is nobody's. One that has is no matter.
    ///
    /// # If a process dies here
    /// As in [`vacant`](Policy::vacant).
    pub fn vacate(&self, frame: u32) {
        if frame < self.frames {
            self.vacant.put(&self.shared, frame);
        }
    }

    /// Fills `batch`, which it empties first, with frames whose pages should go. `may_evict` says
    /// whether a frame's page may be evicted, and if so the page's tag; it is asked about each
    /// frame that is due, is free to claim it, and is not asked again about one that it let go.
    ///
    /// The batch may hold fewer than it has room for, but at least one: a pass of the hand after
    /// the first victim is enough.
    ///
    /// # Errors
    /// [`NoUnpinned`] where there is none.
    ///
    /// # If a process dies here
    /// Some frames are passed over once; some, on their way out of the ring, are found by the hand
    /// three passes later. What `may_evict` has claimed is the pool's to find.
    pub fn victims(
        &mut self,
        batch: &mut Batch,
        mut may_evict: impl FnMut(u32) -> Option<u64>,
    ) -> Result<(), NoUnpinned> {
        batch.clear();
        if let Some(ring) = &self.ring {
            let share = ring::share_of(self.limit());
            ring.leave(&self.shared, &self.uses, share, batch, &mut may_evict);
        }
        self.sweep(batch, &mut may_evict);
        if let Some(ring) = &self.ring
            && batch.frames().is_empty()
        {
            ring.leave(&self.shared, &self.uses, 0, batch, &mut may_evict);
        }
        if batch.frames().is_empty() { Err(NoUnpinned) } else { Ok(()) }
    }

    /// The frames that leave the ring next, the first one first; none without a ring. A hint.
    pub fn next_of_ring(&self) -> impl Iterator<Item = u32> + '_ {
        self.ring.iter().flat_map(|ring| ring.next(&self.shared))
    }

    /// Where the hand is.
    pub fn hand(&self) -> Hand {
        let hand = self.shared.hand.load(Ordering::Relaxed);
        let frames = u64::from(self.limit());
        Hand { frame: (hand % frames) as u32, passes: hand / frames }
    }

    /// The use count of `frame`, where it stands under the clock; `None` where it is in the ring,
    /// or is none of this policy's.
    pub fn use_count(&self, frame: u32) -> Option<u8> {
        let byte = self.uses.get(frame)?;
        let is_main = self.ring.is_none() || byte.place() == Place::Main;
        is_main.then(|| byte.count().min(self.kind.count_max()))
    }

    /// How many frames stand at each use count, those of the ring aside, who come last.
    pub fn use_counts(&self) -> [u32; 7] {
        let mut counts = [0; 7];
        for frame in 0..self.frames {
            counts[usize::from(self.use_count(frame).unwrap_or(6))] += 1;
        }
        counts
    }

    /// After so many passes of one call something is victim or refused, but for others' uses:
    /// each takes a frame down by one, or meets it once more.
    const fn passes_max(&self) -> u64 {
        let ring = if self.ring.is_some() { shared::MEETINGS_MAX as u64 + 1 } else { 0 };
        self.kind.count_max() as u64 + ring + 2
    }
}
