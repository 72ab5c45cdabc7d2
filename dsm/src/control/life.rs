//! The life of a segment: create, attach, detach, pin, and the last one out.
use super::shared::Slot;
use super::word::Word;
use super::{Control, Objects};
use crate::handle::SegmentHandle;
use shm_core::participants::ParticipantId;
use shm_core::process::Forked;
use shm_core::sync::Ordering;

/// Rounds in which a word may change under us before we give up. Among honest processes each
/// round that fails is another one's success, and nobody loses so many in a row; but one that
/// overwrites the word without end shall not hold us up without end.
const ROUNDS_MAX: u32 = 1 << 20;

/// Why a segment could not be pinned or unpinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// There is no such segment, or no longer.
    #[error("no segment has the handle {0}")]
    Unknown(SegmentHandle),
    /// Pinned twice.
    #[error("segment {0} is pinned already")]
    AlreadyPinned(SegmentHandle),
    /// Unpinned without being pinned.
    #[error("segment {0} is not pinned")]
    NotPinned(SegmentHandle),
    /// Another process overwrites the control segment all the time.
    #[error("the control segment is corrupt: slot of segment {0}")]
    Corrupt(SegmentHandle),
    /// In a forked child.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// A participant at the table: its own verbs, on the segments that it shares with others.
///
/// One thread of the process at a time acts on a slot.
#[derive(Debug)]
pub struct Actor<'a, O> {
    pub(super) control: &'a Control,
    pub(super) me: ParticipantId,
    pub(super) objects: &'a O,
}

/// Every change of a state word: who makes one sees all that was done before each earlier one, and
/// shows what he did himself (sizes, bits, objects made and removed).
#[inline]
pub(super) fn change(slot: &Slot, from: Word, to: Word) -> Result<(), Word> {
    // Pairs with itself and with `now`.
    let (ok, err) = (Ordering::AcqRel, Ordering::Relaxed);
    slot.state.compare_exchange(from.0, to.0, ok, err).map(drop).map_err(Word)
}

/// The word as it is now, and this reader in line with everyone who changes it or looks at it so.
#[inline]
pub(super) fn now(slot: &Slot) -> Word {
    // Pairs with itself and with `change`.
    Word(slot.state.fetch_add(0, Ordering::AcqRel))
}

/// Gives a slot back that `mine` says is ours, without an object behind it.
fn free(slot: &Slot, mine: Word) {
    slot.size.store(0, Ordering::Relaxed);
    // It fails only where another process has overwritten our claim.
    let _ = change(slot, mine, mine.freed());
}

impl<'a, O: Objects> Actor<'a, O> {
    pub(super) fn new(control: &'a Control, me: ParticipantId, objects: &'a O) -> Actor<'a, O> {
        Actor { control, me, objects }
    }

    /// Takes a free slot to create a segment in: its handle, or `None` where all that there is
    /// memory for are taken: reap, or [`grow`](Control::grow).
    /// Next: make the object, then [`publish`](Actor::publish), or [`abandon`](Actor::abandon).
    ///
    /// # If a process dies here
    /// The slot stays `creating` in its name; the reaper removes the object and frees the slot.
    pub fn claim(&self) -> Option<SegmentHandle> {
        let (count, ready) = (self.control.known(), self.control.table.ready as usize);
        let first = self.control.table.head.hint.load(Ordering::Relaxed) as usize % count.max(1);
        let first = first.max(ready.min(count));
        // Those that have a page last.
        (first..count).chain(ready..first).chain(0..ready.min(count)).find_map(|index| {
            let claimed = self.claim_at(index)?;
            // Round and round, so that a handle comes back as late as possible.
            self.control.table.head.hint.store(index as u64 + 1, Ordering::Relaxed);
            Some(claimed)
        })
    }

    /// Takes the slot `index` if it is free.
    pub(super) fn claim_at(&self, index: usize) -> Option<SegmentHandle> {
        let slot = self.control.at(index);
        let found = Word(slot.state.load(Ordering::Relaxed));
        let word = found.or_first(self.control.table.domain_generation);
        if !word.is_free() || word.generation() == 0 {
            return None;
        }
        change(slot, found, word.creating(self.me.to_bits())).ok()?;
        Some(SegmentHandle::new(index as u32, word.generation()))
    }

    /// Says that there is an object of `size` bytes behind a claimed slot: until then its reaper
    /// takes what bears the segment's name for what it may well be, somebody else's.
    ///
    /// # If a process dies here
    /// As in `claim`.
    pub fn made(&self, handle: SegmentHandle, size: u64) {
        if let Some(slot) = self.control.slot(handle) {
            slot.size.store(size, Ordering::Relaxed);
        }
    }

    /// Shows the segment of `size` bytes to all, with its creator attached.
    /// `false` where another process has overwritten our claim.
    ///
    /// # If a process dies here
    /// As in `claim`, or as one that is attached.
    pub fn publish(&self, handle: SegmentHandle, size: u64) -> bool {
        let Some(slot) = self.control.slot(handle) else { return false };
        slot.size.store(size, Ordering::Relaxed);
        self.set(handle.slot() as usize);
        let free = Word::free(handle.generation());
        change(slot, free.creating(self.me.to_bits()), free.alive()).is_ok()
    }

    /// Gives a claimed slot back. What object there was, the creator has removed.
    ///
    /// # If a process dies here
    /// As in `claim`.
    pub fn abandon(&self, handle: SegmentHandle) {
        let Some(slot) = self.control.slot(handle) else { return };
        let claimed = Word::free(handle.generation()).creating(self.me.to_bits());
        free(slot, claimed);
    }

    /// Gives a claimed slot back whose object, if there is one, the creator could not remove: it is
    /// removed now, or later ([`retry`](Actor::retry)).
    ///
    /// # If a process dies here
    /// As in `claim`.
    pub fn give_up(&self, handle: SegmentHandle) {
        if self.control.slot(handle).is_some() {
            self.finish_own(handle.slot() as usize);
        }
    }

    /// Attaches to the segment: its size, or `None` where it is gone.
    ///
    /// # If a process dies here
    /// Its bit stays, until the reaper clears it and looks whether it was the last.
    pub fn attach(&self, handle: SegmentHandle) -> Option<u64> {
        let slot = self.control.slot(handle)?;
        let attached = self.attach_at(handle.slot() as usize, handle.generation());
        attached.then(|| slot.size.load(Ordering::Relaxed))
    }

    /// Comes into the domain. `false` where its last one out has closed it: make another.
    /// [`clean_up`](Actor::clean_up) leaves again.
    ///
    /// # If a process dies here
    /// As in `attach`.
    pub fn enter(&self) -> bool {
        self.attach_at(self.control.segment_slots(), self.control.table.domain_generation)
    }

    fn attach_at(&self, index: usize, generation: u32) -> bool {
        let slot = self.control.at(index);
        let mut word = Word(slot.state.load(Ordering::Relaxed));
        if !word.is_alive_as(generation) {
            return false;
        }
        self.set(index);
        for _ in 0..ROUNDS_MAX {
            if !word.is_alive_as(generation) {
                break;
            }
            match change(slot, word, word.next_epoch()) {
                Ok(()) => return true,
                Err(now) => word = now,
            }
        }
        // The slot may have its next segment by now, whose last one saw our bit and left it to us.
        self.clear(index);
        self.destroy_if_last(index);
        false
    }

    /// Ends this participant's attachment; the last one destroys the segment. Unmap it before.
    ///
    /// # If a process dies here
    /// The reaper finishes.
    pub fn detach(&self, handle: SegmentHandle) {
        if self.control.slot(handle).is_some() {
            self.clear(handle.slot() as usize);
            self.destroy_if_last(handle.slot() as usize);
        }
    }

    /// Takes the pin away, and the segment if nobody is attached.
    ///
    /// # Errors
    /// [`PinError`].
    ///
    /// # If a process dies here
    /// The reaper looks whether anyone is attached.
    pub fn unpin(&self, handle: SegmentHandle) -> Result<(), PinError> {
        self.control.re_pin(handle, |word| match word.is_pinned() {
            true => Ok(word.unpinned()),
            false => Err(PinError::NotPinned(handle)),
        })?;
        self.destroy_if_last(handle.slot() as usize);
        Ok(())
    }

    /// Destroys the segment in the slot if it is alive, unpinned, and nobody is attached.
    pub(super) fn destroy_if_last(&self, index: usize) {
        let slot = self.control.at(index);
        for _ in 0..ROUNDS_MAX {
            let word = now(slot);
            if !word.is_alive() || word.is_pinned() || word.generation() == 0 {
                return;
            }
            if !self.control.is_unused(index) {
                return;
            }
            if change(slot, word, word.moribund(self.me.to_bits())).is_ok() {
                return self.finish(index, word.generation());
            }
        }
    }

    /// The slot is moribund in my name: object away, slot free. Where the object will not go, the
    /// slot stays as it is, and names me, until I or my reaper try again, or whoever finds me gone.
    pub(super) fn finish(&self, index: usize, generation: u32) {
        let mine = Word::free(generation).moribund(self.me.to_bits());
        if index == self.control.segment_slots() {
            self.objects.remove_domain();
        } else if !self.objects.remove(SegmentHandle::new(index as u32, generation)) {
            return;
        }
        free(self.control.at(index), mine);
    }

    fn set(&self, index: usize) {
        let bit = self.me.slot();
        let word = &self.control.set(index)[bit as usize / 64];
        word.fetch_or(1 << (bit % 64), Ordering::Relaxed);
    }

    pub(super) fn clear(&self, index: usize) {
        let bit = self.me.slot();
        let word = &self.control.set(index)[bit as usize / 64];
        // Pairs with the Acquire in `Control::attached`: he has unmapped it.
        word.fetch_and(!(1 << (bit % 64)), Ordering::Release);
    }
}

impl Control {
    /// Keeps the segment when nobody is attached. For who is in the domain.
    ///
    /// # Errors
    /// [`PinError`].
    ///
    /// # If a process dies here
    /// It is pinned or it is not.
    pub fn pin(&self, handle: SegmentHandle) -> Result<(), PinError> {
        self.re_pin(handle, |word| match word.is_pinned() {
            true => Err(PinError::AlreadyPinned(handle)),
            false => Ok(word.pinned()),
        })
    }

    /// Closes the domain if nobody is in it: for who found no seat. `true` where he is to remove
    /// it.
    ///
    /// # If a process dies here
    /// It is closed or it is not. Who comes to a closed one removes it.
    pub fn close_if_empty(&self) -> bool {
        let index = self.segment_slots();
        let slot = self.at(index);
        for _ in 0..ROUNDS_MAX {
            let word = now(slot);
            if !word.is_alive_as(self.table.domain_generation) || !self.is_unused(index) {
                return false;
            }
            if change(slot, word, word.freed()).is_ok() {
                return true;
            }
        }
        false
    }

    fn re_pin(
        &self,
        handle: SegmentHandle,
        next: impl Fn(Word) -> Result<Word, PinError>,
    ) -> Result<(), PinError> {
        let slot = self.slot(handle).ok_or(PinError::Unknown(handle))?;
        let mut word = Word(slot.state.load(Ordering::Relaxed));
        for _ in 0..ROUNDS_MAX {
            if !word.is_alive_as(handle.generation()) {
                return Err(PinError::Unknown(handle));
            }
            match change(slot, word, next(word)?) {
                Ok(()) => return Ok(()),
                Err(now) => word = now,
            }
        }
        Err(PinError::Corrupt(handle))
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;
    use shm_core::mapping::Mapping;

    #[test]
    fn a_word_that_never_stays_is_given_up() {
        let mapping = Mapping::heap(Control::bytes_for(1, 1) as usize);
        // SAFETY: nobody else has the mapping.
        let control = unsafe { Control::create(&mapping, 0, 1, 1, 1) }.unwrap();
        let (slot, alive) = (control.at(0), Word::free(1).alive());
        slot.state.store(alive.0, Ordering::Relaxed);
        let handle = SegmentHandle::new(0, 1);
        let moved = control.re_pin(handle, |word| {
            slot.state.store(word.next_epoch().0, Ordering::Relaxed);
            Ok(word.pinned())
        });
        assert_eq!(moved, Err(PinError::Corrupt(handle)));
    }
}
