//! The probation ring, where a page shows whether it is used more than once.
//!
//! ```text
//!        head           half the share                   tail
//!   … 0 │ 17   4  23   9 │  2  31   5   8 │ 0   0 …        slots: frame + 1
//!       └──── OLD ───────┴───── YOUNG ────┘
//!   leaves next                     came last
//! ```
//!
//! A page comes in at the tail, by a ticket, and its frame is `YOUNG`: uses do not count, they are
//! the same operation that comes back. When half the ring's share of other pages has come after it,
//! whoever admits the next one makes it `OLD`, and from then on a use counts. Once the ring has
//! more than its share, who looks for a victim takes the oldest ticket: used, the frame goes under
//! the hand of the main clock; not used, it is the victim, and the page leaves a ghost.
//!
//! Nobody is waited for, and nothing is undone after a death, because the slots are advice: a frame
//! is in the ring if its use byte says so, and the hand of the clock passes *all* frames. Whoever
//! dies
//!
//! 1. with a ticket of the tail, before the slot is written: the slot holds 0, or a frame that an
//!    earlier death left there. The first is skipped when its ticket leaves; the second leaves
//!    early, if it is in the ring at all. The frame that was to be admitted is `MAIN`: the hand
//!    finds it.
//! 2. after the slot, before the use byte: the ticket leads to a frame that is `MAIN`, and is
//!    skipped.
//! 3. after the use byte, before another frame was made `OLD`: uses of that one do not count. It
//!    leaves the ring as unused.
//! 4. with a ticket of the head, before or after the slot is emptied: a frame that is `YOUNG` or
//!    `OLD` and to which no ticket leads any more. The hand meets it, three times in vain, and then
//!    takes it for lost: it is `MAIN`. Until then its page is read as any other, and stays as a
//!    page of the main clock does while the ring has victims enough.
//! 5. with victims: they are `MAIN` and unused; the hand finds them, and whoever sweeps asks the
//!    pool whether they are somebody's.
//!
//! The third time the hand may be wrong, where many pages were found in ghosts and hardly one came
//! to the ring: then a page loses its probation. Slots overtaken by a liar are the same cases.
use super::ghosts::Ghosts;
use super::shared::{Place, Shared, Use};
use super::uses::Uses;
use super::{Batch, Kind};
use shm_core::mapping::MappedSlice;
use shm_core::sync::{AtomicU32, Ordering};

/// The ring's share is a tenth of the frames.
const SHARE: u32 = 10;
/// So often tickets of the head are tried for.
const TRIES: u32 = 8;
/// With this count a page begins under the main clock that was used in the ring, or was a ghost.
const PROMOTED: u8 = 0;

/// The ring, and what it remembers of those that left.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    /// As many as a power of two, and at least one a frame.
    slots: MappedSlice<AtomicU32>,
    ghosts: Ghosts,
    frames: u32,
}

impl Ring {
    pub(super) fn new(slots: MappedSlice<AtomicU32>, ghosts: Ghosts, frames: u32) -> Ring {
        Ring { slots, ghosts, frames }
    }

    /// The page of this tag has come to `frame`, one of `limit`.
    pub(super) fn admit(&self, shared: &Shared, uses: &Uses, frame: u32, tag: u64, limit: u32) {
        if self.ghosts.recall(tag, shared.head.load(Ordering::Relaxed)) {
            return uses.set(frame, Use::main(PROMOTED));
        }
        // The ticket alone says whose slot it is; what the slot says is advice.
        let ticket = shared.tail.fetch_add(1, Ordering::Relaxed);
        self.slot(ticket).store(frame + 1, Ordering::Relaxed);
        let half = share_of(limit) / 2;
        uses.set(frame, if half == 0 { Use::OLD } else { Use::YOUNG });
        if half > 0 {
            self.make_old(uses, ticket.wrapping_sub(u64::from(half)));
        }
    }

    fn make_old(&self, uses: &Uses, ticket: u64) {
        let Some(frame) = self.frame_in(self.slot(ticket)) else { return };
        uses.change(frame, |byte| (byte.place() == Place::Young).then_some(Use::OLD));
    }

    /// Takes victims from what the ring has above `share`, until `batch` is full.
    pub(super) fn leave(
        &self,
        shared: &Shared,
        uses: &Uses,
        share: u32,
        batch: &mut Batch,
        may_evict: &mut impl FnMut(u32) -> Option<u64>,
    ) {
        let mut looks = self.slots.len() as u64;
        while batch.room_left() > 0 && looks > 0 {
            let Some((first, count)) = self.claim(shared, share, batch.room_left() as u64) else {
                return;
            };
            looks = looks.saturating_sub(count);
            for nth in 0..count {
                self.leave_one(uses, first.wrapping_add(nth), batch, may_evict);
            }
        }
    }

    /// Takes up to `wanted` of the oldest tickets, and leaves `share` of them.
    fn claim(&self, shared: &Shared, share: u32, wanted: u64) -> Option<(u64, u64)> {
        let mut head = shared.head.load(Ordering::Relaxed);
        for _ in 0..TRIES {
            let tail = shared.tail.load(Ordering::Relaxed);
            let (from, count) = match tail.wrapping_sub(head) {
                inside if inside <= self.slots.len() as u64 => {
                    (head, inside.saturating_sub(u64::from(share)).min(wanted))
                }
                // Nobody honest has left it so: no more tickets are out than there are slots.
                _ => (tail.wrapping_sub(self.slots.len() as u64), 0),
            };
            let to = from.wrapping_add(count);
            if to == head {
                return None;
            }
            // The tickets are whose compare-and-swap this is. Nothing else passes with them.
            let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
            match shared.head.compare_exchange(head, to, ok, err) {
                Ok(_) if count > 0 => return Some((from, count)),
                Ok(_) => head = to,
                Err(other) => head = other,
            }
        }
        None
    }

    /// The frame of this ticket leaves the ring.
    fn leave_one(
        &self,
        uses: &Uses,
        ticket: u64,
        batch: &mut Batch,
        may_evict: &mut impl FnMut(u32) -> Option<u64>,
    ) {
        let slot = self.slot(ticket);
        let Some(frame) = self.frame_in(slot) else { return };
        slot.store(0, Ordering::Relaxed);
        let left = uses.change(frame, |byte| {
            let is_used = byte.count() > 0;
            (byte.place() != Place::Main).then_some(Use::main(if is_used { PROMOTED } else { 0 }))
        });
        let is_victim = left.is_some_and(|byte| byte.place() != Place::Main && byte.count() == 0);
        if !is_victim || batch.contains(frame) {
            return;
        }
        if let Some(tag) = may_evict(frame) {
            batch.push(frame);
            self.ghosts.remember(tag, ticket);
        }
    }

    /// The frames of its tickets, the oldest first.
    pub(super) fn next(&self, shared: &Shared) -> impl Iterator<Item = u32> + '_ {
        let head = shared.head.load(Ordering::Relaxed);
        let inside = shared.tail.load(Ordering::Relaxed).wrapping_sub(head);
        let inside = inside.min(self.slots.len() as u64);
        (0..inside).filter_map(move |nth| self.frame_in(self.slot(head.wrapping_add(nth))))
    }

    fn slot(&self, ticket: u64) -> &AtomicU32 {
        &self.slots[ticket as usize & (self.slots.len() - 1)]
    }

    /// The frame that a slot names, if there is such a frame.
    fn frame_in(&self, slot: &AtomicU32) -> Option<u32> {
        let frame = slot.load(Ordering::Relaxed).checked_sub(1)?;
        (frame < self.frames).then_some(frame)
    }
}

/// Pages that it keeps while others have none to give.
pub(super) fn share_of(frames: u32) -> u32 {
    (frames / SHARE).max(1)
}

/// Slots of a ring for so many frames, and as many ghosts.
pub(super) const fn slots_for(kind: Kind, frames: u32) -> u64 {
    match kind {
        Kind::Clock5 => 0,
        Kind::Probation => (frames as u64).next_power_of_two(),
    }
}
