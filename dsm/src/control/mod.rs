//! The segment table: which segments there are, and who is attached to each.
//!
//! ```text
//!   handle = slot + generation
//!               │
//!   slots:   [ state, size ][ state, size ][ … ]    free → creating → alive → moribund → free
//!   sets:    [ 0110… ][ 0001… ][ … ]                one bit a participant: attached
//!            └── piece 0 ──┘└── piece 1 ──┘└ … ┘    each with memory behind it once it is needed
//! ```
//!
//! A segment lives while anyone is attached, or while it is pinned. Attachments are a set, not a
//! count: what a dead process held is known, and taking it back twice does no harm.
//!
//! **Attach** sets its bit and then moves the epoch in the state word. **Detach** clears its bit
//! and then looks, as *the last one out* (`destroy_if_last`): load the word, scan the set,
//! and if nobody is in it change exactly that word to moribund. Why nobody acknowledged is ever
//! left without a segment: take an attacher A and a destroyer D.
//!
//! 1. A moved the epoch before D loaded the word. Then D sees A's bit, and does not destroy.
//! 2. A moved it after D loaded the word and before D's change. Then D's change fails; it looks
//!    again.
//! 3. A tries to move it after D's change. Then A fails, takes its bit back, and says that the
//!    segment is gone.
//!
//! Why nothing is left over: the load of the word in `destroy_if_last` is a read-modify-write, so
//! of two that clear their bits one comes second, and sees both clear. The same holds for the bit
//! that a failing attacher has set for a moment on the *next* segment in the slot: whoever clears a
//! bit, for whatever reason, looks whether he is the last.
//!
//! What a death leaves, and what its reaper does in its name (`Actor::clean_up`):
//!
//! | dead in | it leaves | the reaper |
//! | --- | --- | --- |
//! | create, after claiming | `creating`, named; perhaps an object | makes it moribund, removes the object, frees the slot |
//! | create, alive | its bit | clears it, looks whether it was the last |
//! | attach | its bit | the same |
//! | detach, after clearing | an empty set on an alive segment | looks whether anyone is in it: in every slot |
//! | destroying | `moribund`, named; perhaps an object | as in create |
//! | destroying, and the object would not go | `moribund`, named | as in create. Who lives tries again, with his own and, by a compare-and-swap to his name, with those of whom no reaper remembers any more (`Actor::retry`) |
//! | unpin | an unpinned segment, perhaps with an empty set | looks |
//! | reaping | any of the above, in the first one's name | is followed by another, who does it all again |
//!
//! The table has addresses for all its segments from the start, and memory for one piece of them;
//! the others get theirs when they are needed (`grow.rs`).
//!
//! The domain itself is a slot of its own: who is in the domain is attached to it, the last one out
//! takes it away as it would a segment, and it stays as long as a pinned segment does. A pin cannot
//! come up meanwhile: who pins is in the domain.
//!
//! One participant is one bit: the threads of a process share it. So a process lets one thread at a
//! time act on a slot (the domain keeps a lock of its own memory for that).
mod grow;
mod life;
mod ready;
mod reap;
mod shared;
mod word;

use crate::handle::SegmentHandle;
pub(crate) use shared::FINGERPRINT;
use shared::{Head, Slot};
use shm_core::BadPtr;
use shm_core::mapping::{Mapped, MappedSlice, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering};
use std::sync::Arc;
// private: what this process knows of the table.
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use word::Word;

pub use life::{Actor, PinError};
pub(crate) use ready::{CHUNK, READY, READY_MAX};

/// What stands behind the slots: the operating system's objects. Tests put their own there.
pub trait Objects {
    /// Removes the object behind `handle`, which may be gone already. Called by one process at a
    /// time, and perhaps by [`remove_domain`](Objects::remove_domain) beside it. `false` where it
    /// is still there: then this is to be called again.
    fn remove(&self, handle: SegmentHandle) -> bool;

    /// Removes what the table stands in, and whatever it still lists: nobody is in the domain any
    /// more, and nobody will be. It may list a segment that the reaper of one who never came in
    /// found without users, and is removing.
    fn remove_domain(&self);

    /// Puts memory behind the pages of a chunk of [ready](Actor::claim_ready) slots, and leaves
    /// what is there as it is. `false` where there is none to be had.
    fn fill(&self, _chunk: u32) -> bool {
        true
    }

    /// Takes the memory away from the pages of a chunk. `false` where it is still there.
    fn empty(&self, _chunk: u32) -> bool {
        false
    }
}

/// The segment table. Clones are the same table.
#[derive(Clone, Debug)]
pub struct Control {
    table: Arc<Views>,
}

/// What this process knows of the table.
#[derive(Debug)]
struct Views {
    head: Mapped<Head>,
    domain: Piece,
    pieces: Box<[Piece]>,
    /// Slots in a piece, as a power of two; in all of them.
    shift: u32,
    segments: usize,
    /// So many of the first slots have a page each.
    ready: u32,
    /// Words in each set.
    words: usize,
    /// Places in each set; what is set beyond, nobody could ever clear.
    places: u32,
    /// The domain is in its slot for good: whoever finds another generation there came too late.
    domain_generation: u32,
    /// Pieces that this process knows to have memory behind them. Not shared, and it only grows.
    reached: AtomicUsize,
    /// Where in the mapping each piece begins, and the last ends.
    starts: Box<[u64]>,
}

/// In a slot's size: the segment can grow, and that is the most it can have, its head included.
/// (No object is so large that it needs this bit.)
pub(crate) const GROWABLE: u64 = 1 << 63;
/// The same: its object has a hole, and whoever uses it knows where there is memory.
pub(crate) const SPARSE: u64 = 1 << 62;

/// One segment, as somebody saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Its name in the domain.
    pub handle: SegmentHandle,
    /// Its size in bytes; of one that can grow, and of an area's, that of its object, which has a
    /// hole.
    pub size: u64,
    /// Whether it can grow.
    pub growable: bool,
    /// Whether it stays when nobody is attached.
    pub pinned: bool,
    /// The participant slots of those attached.
    pub attached: Vec<u32>,
}

/// One piece of the table: so many slots, and behind them their sets.
#[derive(Debug)]
struct Piece {
    slots: MappedSlice<Slot>,
    sets: MappedSlice<AtomicU64>,
}

/// Pieces that a table has at most.
const PIECES_MAX: u32 = 64;
/// Slots that a piece has at least. In the models, where each slot counts, one.
const PIECE_SLOTS_MIN: u32 = if cfg!(any(shm_loom, shm_explore)) { 1 } else { 64 };

/// Where the parts of a table of so many segments and participants lie.
struct Shape {
    offset: u64,
    segments: u64,
    words: u64,
    /// Slots in each piece but the last, as a power of two.
    shift: u32,
}

impl Shape {
    fn at(offset: u64, segments: u32, participants: u32) -> Shape {
        let words = u64::from(participants.div_ceil(64));
        let slots = segments.div_ceil(PIECES_MAX).max(PIECE_SLOTS_MIN).next_power_of_two();
        Shape { offset, segments: u64::from(segments), words, shift: slots.ilog2() }
    }

    fn pieces(&self) -> u64 {
        self.segments.div_ceil(1 << self.shift)
    }

    /// The domain's own slot, behind the head; its set follows.
    fn domain(&self) -> u64 {
        self.offset + size_of::<Head>() as u64
    }

    /// Where piece `nth` begins, and all before it ends.
    fn piece(&self, nth: u64) -> u64 {
        let set = self.words * size_of::<AtomicU64>() as u64;
        let slot = size_of::<Slot>() as u64 + set;
        let first = (self.domain() + slot).next_multiple_of(64);
        first + (nth << self.shift).min(self.segments) * slot
    }

    fn slots_in(&self, nth: u64) -> u64 {
        (self.segments - (nth << self.shift)).min(1 << self.shift)
    }

    /// `count` slots at `offset` of `mapping`, and their sets.
    fn map(&self, mapping: &Arc<Mapping>, offset: u64, count: u64) -> Result<Piece, BadPtr> {
        let sets = offset + count * size_of::<Slot>() as u64;
        Ok(Piece {
            slots: MappedSlice::new(mapping, offset, count)?,
            sets: MappedSlice::new(mapping, sets, count * self.words)?,
        })
    }

    /// Makes them, in state `word`.
    ///
    /// # Safety
    /// Nobody else accesses these bytes.
    unsafe fn place(
        &self,
        mapping: &Mapping,
        offset: u64,
        count: u64,
        word: Word,
    ) -> Result<(), BadPtr> {
        let sets = offset + count * size_of::<Slot>() as u64;
        for index in 0..count {
            let slot = Slot { state: AtomicU64::new(word.0), size: AtomicU64::new(0) };
            let at = offset + index * size_of::<Slot>() as u64;
            // SAFETY: the caller's promise.
            unsafe { mapping.region().place(at, slot) }?;
        }
        for index in 0..count * self.words {
            let at = sets + index * size_of::<AtomicU64>() as u64;
            // SAFETY: the caller's promise.
            unsafe { mapping.region().place(at, AtomicU64::new(0)) }?;
        }
        Ok(())
    }
}

impl Control {
    /// Bytes that a table takes: of addresses. What of them needs memory at first, says
    /// [`bytes_at_first`](Control::bytes_at_first).
    pub fn bytes_for(segments: u32, participants: u32) -> u64 {
        let shape = Shape::at(0, segments, participants);
        shape.piece(shape.pieces())
    }

    /// Bytes at the beginning of a table that there must be memory behind when it is made. The rest
    /// need not have any before somebody [grows](Control::grow) it.
    pub fn bytes_at_first(segments: u32, participants: u32) -> u64 {
        Shape::at(0, segments, participants).piece(1)
    }

    /// Makes a table without segments at `offset` of `mapping`, which is zero. The generations
    /// start at `generation` (not 0), so that the handles of an earlier domain of the same name
    /// find nothing in this one.
    ///
    /// # Errors
    /// [`BadPtr`] where it does not fit or `offset` is not aligned.
    ///
    /// # Safety
    /// Nobody else accesses these bytes until they have been published.
    pub unsafe fn create(
        mapping: &Arc<Mapping>,
        offset: u64,
        segments: u32,
        participants: u32,
        generation: u32,
    ) -> Result<Control, BadPtr> {
        let shape = Shape::at(offset, segments, participants);
        mapping.region().range(offset, shape.piece(shape.pieces()) - offset)?;
        // SAFETY: the caller's promise.
        unsafe { mapping.region().place(offset, Head::new(1)) }?;
        let free = Word::free(generation);
        // SAFETY: the caller's promise.
        unsafe { shape.place(mapping, shape.domain(), 1, free.alive()) }?;
        // SAFETY: the caller's promise.
        unsafe { shape.place(mapping, shape.piece(0), shape.slots_in(0), free) }?;
        // New memory is zero, but a model's atomics have to be made.
        for nth in (1..shape.pieces()).filter(|_| cfg!(shm_loom)) {
            // SAFETY: the caller's promise.
            unsafe { shape.place(mapping, shape.piece(nth), shape.slots_in(nth), Word(0)) }?;
        }
        Control::attach(mapping, offset, segments, participants)
    }

    /// The table that somebody made at `offset` of `mapping`, of the same size.
    ///
    /// # Errors
    /// [`BadPtr`] where it does not fit or `offset` is not aligned.
    pub fn attach(
        mapping: &Arc<Mapping>,
        offset: u64,
        segments: u32,
        participants: u32,
    ) -> Result<Control, BadPtr> {
        Control::attach_ready(mapping, offset, segments, participants, 0)
    }

    /// As [`attach`](Control::attach), where the first slots have a page each: `ready` of them, or
    /// as many as [can have](Control::ready_of).
    ///
    /// # Errors
    /// As in `attach`.
    pub fn attach_ready(
        mapping: &Arc<Mapping>,
        offset: u64,
        segments: u32,
        participants: u32,
        ready: u32,
    ) -> Result<Control, BadPtr> {
        let shape = Shape::at(offset, segments, participants);
        let domain = shape.map(mapping, shape.domain(), 1)?;
        let pieces = (0..shape.pieces())
            .map(|nth| shape.map(mapping, shape.piece(nth), shape.slots_in(nth)))
            .collect::<Result<_, _>>()?;
        let word = Word(domain.slots[0].state.load(Ordering::Relaxed));
        let views = Views {
            domain_generation: word.generation(),
            head: Mapped::new(mapping, offset)?,
            domain,
            pieces,
            shift: shape.shift,
            segments: segments as usize,
            ready: Control::ready_of(segments, ready),
            words: shape.words as usize,
            places: participants,
            reached: AtomicUsize::new(1),
            starts: (0..=shape.pieces()).map(|nth| shape.piece(nth)).collect(),
        };
        Ok(Control { table: Arc::new(views) })
    }

    /// The table as seen and changed by `me`, a participant of this process.
    pub fn actor<'a, O: Objects>(&'a self, me: ParticipantId, objects: &'a O) -> Actor<'a, O> {
        Actor::new(self, me, objects)
    }

    /// Whether the segment is there: not being created, not being destroyed, not gone.
    pub fn is_alive(&self, handle: SegmentHandle) -> bool {
        self.slot(handle).is_some_and(|slot| {
            Word(slot.state.load(Ordering::Relaxed)).is_alive_as(handle.generation())
        })
    }

    /// All segments that are alive.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        (0..self.known()).filter_map(|index| self.info(index)).collect()
    }

    /// Whether the domain is there: nobody has closed it. Once closed, it stays so.
    pub fn is_open(&self) -> bool {
        let word = self.at(self.segment_slots()).state.load(Ordering::Relaxed);
        Word(word).is_alive_as(self.table.domain_generation)
    }

    /// The participant slots of those in the domain.
    pub fn present(&self) -> Vec<u32> {
        self.attached(self.segment_slots()).collect()
    }

    /// Segments whose objects may exist, whatever their state: what to remove with the domain.
    pub fn leftovers(&self) -> Vec<SegmentHandle> {
        let words =
            self.slots().map(|(index, slot)| (index, Word(slot.state.load(Ordering::Relaxed))));
        words
            .filter(|(_, word)| !word.is_free() && word.generation() != 0)
            .map(|(index, word)| SegmentHandle::new(index as u32, word.generation()))
            .collect()
    }

    /// Whether the creator of the segment in this slot has said that it made an object. For who
    /// owns the slot.
    pub(crate) fn is_made(&self, handle: SegmentHandle) -> bool {
        self.slot(handle).is_some_and(|slot| slot.size.load(Ordering::Relaxed) != 0)
    }

    /// Slots but the domain's, which is the last.
    fn segment_slots(&self) -> usize {
        self.table.segments
    }

    /// Whether nobody is attached; and for the domain, whether no pinned segment keeps it.
    fn is_unused(&self, index: usize) -> bool {
        let is_pinned = |slot: &Slot| {
            let word = Word(slot.state.load(Ordering::Relaxed));
            word.is_alive() && word.is_pinned()
        };
        let is_domain = index == self.segment_slots();
        // In this order: who has left may have pinned a segment in a piece that is new.
        self.is_empty(index) && !(is_domain && self.slots().any(|(_, slot)| is_pinned(slot)))
    }

    /// Whether the set is empty.
    fn is_empty(&self, index: usize) -> bool {
        let mut places = self.table.places;
        self.set(index).iter().all(|bits| {
            let here = places.min(64);
            places -= here;
            // Pairs with the Release in `Actor::clear`: he has unmapped it.
            here == 0 || bits.load(Ordering::Acquire) << (64 - here) == 0
        })
    }

    fn info(&self, index: usize) -> Option<SegmentInfo> {
        let slot = self.at(index);
        let word = Word(slot.state.load(Ordering::Relaxed));
        let size = slot.size.load(Ordering::Relaxed);
        (word.is_alive() && word.generation() != 0).then(|| SegmentInfo {
            handle: SegmentHandle::new(index as u32, word.generation()),
            size: size & !(GROWABLE | READY | SPARSE),
            growable: size & GROWABLE != 0,
            pinned: word.is_pinned(),
            attached: self.attached(index).collect(),
        })
    }

    /// The participant slots in the set.
    fn attached(&self, index: usize) -> impl Iterator<Item = u32> {
        self.set(index).iter().enumerate().flat_map(|(word, bits)| {
            // Pairs with the Release in `Actor::clear`: he has unmapped it.
            let bits = bits.load(Ordering::Acquire);
            let places = (0..64).filter(move |bit| bits >> bit & 1 == 1);
            let places = places.map(move |bit| word as u32 * 64 + bit);
            places.filter(|place| *place < self.table.places)
        })
    }

    fn set(&self, index: usize) -> &[AtomicU64] {
        let (piece, index) = self.find(index);
        &piece.sets[index * self.table.words..(index + 1) * self.table.words]
    }

    /// The slot of a segment, which the domain's is not.
    fn slot(&self, handle: SegmentHandle) -> Option<&Slot> {
        let index = handle.slot() as usize;
        let is_there = index < self.table.segments
            && (index >> self.table.shift < self.table.reached.load(Relaxed)
                || index < self.known());
        is_there.then(|| self.at(index))
    }

    /// The slot `index` of those known, or the domain's.
    fn at(&self, index: usize) -> &Slot {
        let (piece, index) = self.find(index);
        &piece.slots[index]
    }

    fn find(&self, index: usize) -> (&Piece, usize) {
        if index == self.table.segments {
            return (&self.table.domain, 0);
        }
        (&self.table.pieces[index >> self.table.shift], index & ((1 << self.table.shift) - 1))
    }

    /// The segments' slots that there is memory for.
    fn slots(&self) -> impl Iterator<Item = (usize, &Slot)> {
        (0..self.known()).map(|index| (index, self.at(index)))
    }
}
