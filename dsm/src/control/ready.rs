//! Ready segments: the first slots of the table have a page of memory each, in the control segment
//! itself, and a segment that fits into one lies there. So it takes no object of the system.
//!
//! Whoever owns the slot owns its page, and whoever is attached to the segment may use it: what a
//! death leaves, the slot's states already tell. A page is zeroed by who creates a segment in it,
//! so nobody owes that to the next.
//!
//! Pages get their memory by the *chunk* of 16, when one is needed, and give it back when all 16
//! have not been used for a while. A bit in `Head::filled` says which chunks have memory. It
//! changes only in the hands of who owns slots of the chunk (CREATING, in its name):
//!
//! | step | of filling | of emptying |
//! | --- | --- | --- |
//! | 1 | owns one slot of the chunk | owns all slots of the chunk |
//! | 2 | the system puts memory behind its pages | the bit is cleared |
//! | 3 | the bit is set | the system takes the memory |
//! | 4 | goes on with its segment | frees the slots |
//!
//! As long as one owns a slot nobody else owns all of them, so from then on a chunk that has its
//! bit keeps its memory. A death leaves slots that the reaper frees, and at worst memory without
//! its bit, which the next one puts there again: that changes nothing. Who is stopped keeps his
//! slots; the others have the other chunks.
use super::life::Actor;
use super::shared::Slot;
use super::{Control, Objects, Shape};
use crate::handle::SegmentHandle;
use shm_core::sync::Ordering;

/// In a slot's size: the segment lies in the slot's page of the control segment.
pub(crate) const READY: u64 = 1 << 61;
/// Pages that get their memory together. In the models, where each slot counts, two.
pub(crate) const CHUNK: u32 = if cfg!(any(shm_loom, shm_explore)) { 2 } else { 16 };
/// As many as there are bits for chunks.
pub(crate) const READY_MAX: u32 = 64 * CHUNK;

impl Control {
    /// How many slots of a table for so many segments have a page, where `asked` are to have one:
    /// whole chunks, in the first piece.
    pub fn ready_of(segments: u32, asked: u32) -> u32 {
        // A model's pieces have one slot.
        let is_model = cfg!(any(shm_loom, shm_explore));
        let in_first_piece = Shape::at(0, segments, 1).slots_in(0) as u32;
        asked.min(if is_model { segments } else { in_first_piece }).min(READY_MAX) / CHUNK * CHUNK
    }

    /// How many slots have a page.
    pub fn ready(&self) -> u32 {
        self.table.ready
    }

    /// Whether the segment in this slot lies in the slot's page. For who owns the slot, or is
    /// attached to the segment.
    pub(crate) fn is_ready(&self, handle: SegmentHandle) -> bool {
        let says_so = |slot: &Slot| slot.size.load(Ordering::Relaxed) & READY != 0;
        handle.slot() < self.table.ready && self.slot(handle).is_some_and(says_so)
    }

    fn chunks(&self) -> impl Iterator<Item = u32> {
        0..self.table.ready / CHUNK
    }
}

impl<O: Objects> Actor<'_, O> {
    /// Takes a free slot that has a page, with memory behind it and somebody's bytes in it: zero
    /// it, then [`publish`](Actor::publish). `None` where there is none, or no memory: make an
    /// object.
    ///
    /// # If a process dies here
    /// As in [`claim`](Actor::claim); a chunk may have its memory early.
    pub fn claim_ready(&self) -> Option<SegmentHandle> {
        let head = &self.control.table.head;
        let (next, filled) =
            (head.next.load(Ordering::Relaxed), head.filled.load(Ordering::Relaxed));
        let next = (next % u64::from(self.control.table.ready.max(1))) as u32;
        let (here, has_memory) = (next / CHUNK, |chunk: u32| filled >> chunk & 1 == 1);
        // Warm pages first.
        let with = self.control.chunks().filter(|chunk| *chunk != here && has_memory(*chunk));
        let without = self.control.chunks().filter(|chunk| *chunk != here && !has_memory(*chunk));
        let first = (self.control.table.ready > 0).then_some(here);
        let claimed = first.into_iter().chain(with).chain(without).find_map(|chunk| {
            let begin = chunk * CHUNK;
            let turn = if chunk == here { next - begin } else { 0 };
            (0..CHUNK).find_map(|nth| self.claim_page(begin + (turn + nth) % CHUNK))
        })?;
        let (chunk, slot) = (claimed.slot() / CHUNK, claimed.slot());
        // Round and round in the chunk, so that a handle comes back late and a page is still warm.
        let after = chunk * CHUNK + (slot + 1) % CHUNK;
        head.next.store(u64::from(after), Ordering::Relaxed);
        if self.fill(chunk) {
            return Some(claimed);
        }
        self.abandon(claimed);
        None
    }

    /// Gives the system the memory of the chunks that nobody has used since the last call, but for
    /// the first `kept`. Returns how many pages that are.
    ///
    /// # If a process dies here
    /// The slots that it has stay `creating` in its name; the reaper frees them.
    pub fn empty_unused(&self, kept: u32) -> u32 {
        let head = &self.control.table.head;
        let idle = head.filled.load(Ordering::Relaxed) & !head.used.swap(0, Ordering::Relaxed);
        let chunks =
            self.control.chunks().skip(kept as usize).filter(|chunk| idle >> chunk & 1 == 1);
        chunks.filter(|chunk| self.empty(*chunk)).count() as u32 * CHUNK
    }

    fn claim_page(&self, index: u32) -> Option<SegmentHandle> {
        let handle = self.claim_at(index as usize)?;
        // Its reaper then looks for no object.
        self.made(handle, READY);
        Some(handle)
    }

    /// Sees to it that there is memory behind the chunk, of which this participant owns a slot.
    fn fill(&self, chunk: u32) -> bool {
        let (head, bit) = (&self.control.table.head, 1 << chunk);
        if head.used.load(Ordering::Relaxed) & bit == 0 {
            head.used.fetch_or(bit, Ordering::Relaxed);
        }
        // Pairs with the Release below. Who cleared it did so before he freed the slot we own.
        if head.filled.load(Ordering::Acquire) & bit != 0 {
            return true;
        }
        let filled = self.objects.fill(chunk);
        if filled {
            // Pairs with the Acquire above: the memory is there.
            head.filled.fetch_or(bit, Ordering::Release);
        }
        filled
    }

    fn empty(&self, chunk: u32) -> bool {
        let (head, bit) = (&self.control.table.head, 1 << chunk);
        let begin = chunk * CHUNK;
        let mine: Vec<_> = (begin..begin + CHUNK).map_while(|at| self.claim_page(at)).collect();
        let all = mine.len() == CHUNK as usize;
        if all {
            head.filled.fetch_and(!bit, Ordering::Relaxed);
            if !self.objects.empty(chunk) {
                // Pairs with the Acquire in `fill`: it is there still.
                head.filled.fetch_or(bit, Ordering::Release);
            }
        }
        mine.into_iter().for_each(|handle| self.abandon(handle));
        all
    }
}
