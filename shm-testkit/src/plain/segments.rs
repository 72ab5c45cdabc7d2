//! The life cycle of segments: slots and handles, attachment sets, pins, deaths.
use std::collections::BTreeSet;

/// Who attaches. One that has died is not used again.
pub type Participant = u32;

/// Names one life of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle {
    /// Index of the slot.
    pub slot: usize,
    /// How many segments the slot had before this one.
    pub generation: u32,
}

/// What became of an attempt to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// It is attached now.
    Now,
    /// It was attached before: each participant is attached once.
    Already,
    /// There is no such segment any more.
    Gone,
}

/// Why an operation changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Every slot is taken.
    Full,
    /// There is no such segment any more.
    Gone,
    /// The participant is not attached.
    NotAttached,
    /// It is pinned already.
    Pinned,
    /// It is not pinned.
    NotPinned,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    generation: u32,
    alive: Option<Segment>,
}

#[derive(Clone, Debug)]
struct Segment {
    attached: BTreeSet<Participant>,
    pinned: bool,
}

/// A table of segments. One lives while anybody is attached or it is pinned.
///
/// ```
/// use shm_testkit::plain::{Attached, Segments};
///
/// let mut segments = Segments::new(4);
/// let handle = segments.create(1).unwrap();
/// assert_eq!(segments.attach(2, handle), Attached::Now);
/// segments.die(1);
/// assert_eq!(segments.reap(), 0, "2 is still attached");
/// assert_eq!(segments.detach(2, handle), Ok(true), "the last one out destroys it");
/// assert_eq!(segments.attach(3, handle), Attached::Gone);
/// ```
#[derive(Clone, Debug)]
pub struct Segments {
    slots: Vec<Slot>,
    dead: BTreeSet<Participant>,
}

impl Segments {
    /// A table of `slots` free slots.
    pub fn new(slots: usize) -> Segments {
        Segments { slots: vec![Slot::default(); slots], dead: BTreeSet::new() }
    }

    /// A new segment in the first free slot, to which `who` is attached.
    ///
    /// # Errors
    /// [`Refused::Full`], after reaping.
    pub fn create(&mut self, who: Participant) -> Result<Handle, Refused> {
        self.reap();
        let free = self.slots.iter_mut().enumerate().find(|(_, slot)| slot.alive.is_none());
        let (index, slot) = free.ok_or(Refused::Full)?;
        slot.alive = Some(Segment { attached: BTreeSet::from([who]), pinned: false });
        Ok(Handle { slot: index, generation: slot.generation })
    }

    /// Attaches `who`.
    pub fn attach(&mut self, who: Participant, handle: Handle) -> Attached {
        let Ok(segment) = self.find(handle) else { return Attached::Gone };
        if segment.attached.insert(who) { Attached::Now } else { Attached::Already }
    }

    /// Detaches `who`; `true` where that destroyed the segment.
    ///
    /// # Errors
    /// [`Refused::Gone`], [`Refused::NotAttached`].
    pub fn detach(&mut self, who: Participant, handle: Handle) -> Result<bool, Refused> {
        if !self.find(handle)?.attached.remove(&who) {
            return Err(Refused::NotAttached);
        }
        Ok(self.destroy_if_unused(handle))
    }

    /// Keeps the segment alive without attachments, until [`unpin`](Segments::unpin).
    ///
    /// # Errors
    /// [`Refused::Gone`], [`Refused::Pinned`].
    pub fn pin(&mut self, handle: Handle) -> Result<(), Refused> {
        let segment = self.find(handle)?;
        if std::mem::replace(&mut segment.pinned, true) { Err(Refused::Pinned) } else { Ok(()) }
    }

    /// Takes the pin away; `true` where that destroyed the segment.
    ///
    /// # Errors
    /// [`Refused::Gone`], [`Refused::NotPinned`].
    pub fn unpin(&mut self, handle: Handle) -> Result<bool, Refused> {
        if !std::mem::take(&mut self.find(handle)?.pinned) {
            return Err(Refused::NotPinned);
        }
        Ok(self.destroy_if_unused(handle))
    }

    /// Kills `who`: it stays attached until somebody reaps.
    pub fn die(&mut self, who: Participant) {
        self.dead.insert(who);
    }

    /// Detaches the dead everywhere; returns how many segments that destroyed.
    pub fn reap(&mut self) -> usize {
        let dead = std::mem::take(&mut self.dead);
        let handles = self.alive();
        for slot in &mut self.slots {
            if let Some(segment) = &mut slot.alive {
                segment.attached.retain(|who| !dead.contains(who));
            }
        }
        handles.into_iter().filter(|handle| self.destroy_if_unused(*handle)).count()
    }

    /// Who is attached, the dead that nobody has reaped yet included; nobody where it is gone.
    pub fn attached(&self, handle: Handle) -> BTreeSet<Participant> {
        let slot = self.slots.get(handle.slot).filter(|slot| slot.generation == handle.generation);
        let segment = slot.and_then(|slot| slot.alive.as_ref());
        segment.map(|segment| segment.attached.clone()).unwrap_or_default()
    }

    /// The handles of all living segments.
    pub fn alive(&self) -> Vec<Handle> {
        let alive = self.slots.iter().enumerate().filter(|(_, slot)| slot.alive.is_some());
        alive.map(|(index, slot)| Handle { slot: index, generation: slot.generation }).collect()
    }

    fn find(&mut self, handle: Handle) -> Result<&mut Segment, Refused> {
        let slot = self.slots.get_mut(handle.slot).ok_or(Refused::Gone)?;
        let current = slot.generation == handle.generation;
        slot.alive.as_mut().filter(|_| current).ok_or(Refused::Gone)
    }

    fn destroy_if_unused(&mut self, handle: Handle) -> bool {
        let unused = self.find(handle).is_ok_and(|s| s.attached.is_empty() && !s.pinned);
        if unused {
            let slot = &mut self.slots[handle.slot];
            slot.alive = None;
            slot.generation += 1;
        }
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_has_another_handle() {
        let mut segments = Segments::new(1);
        let first = segments.create(1).unwrap();
        assert_eq!(segments.create(1), Err(Refused::Full));
        assert_eq!(segments.detach(1, first), Ok(true));
        let second = segments.create(1).unwrap();
        assert_eq!((first.slot, second.slot), (0, 0));
        assert_ne!(first, second);
        assert_eq!(segments.attach(2, first), Attached::Gone);
        assert_eq!(segments.attach(1, second), Attached::Already);
        assert_eq!(segments.attached(first), BTreeSet::new());
        assert_eq!(segments.alive(), [second]);
    }

    #[test]
    fn a_pin_keeps_it_alive_once() {
        let mut segments = Segments::new(1);
        let handle = segments.create(1).unwrap();
        assert_eq!(segments.unpin(handle), Err(Refused::NotPinned));
        assert_eq!(segments.pin(handle), Ok(()));
        assert_eq!(segments.pin(handle), Err(Refused::Pinned));
        assert_eq!(segments.detach(1, handle), Ok(false));
        assert_eq!(segments.detach(1, handle), Err(Refused::NotAttached));
        assert_eq!(segments.unpin(handle), Ok(true));
        assert_eq!(segments.unpin(handle), Err(Refused::Gone));
        assert_eq!(segments.pin(handle), Err(Refused::Gone));
    }

    #[test]
    fn the_dead_are_detached_by_who_reaps() {
        let mut segments = Segments::new(2);
        let (alone, both) = (segments.create(1).unwrap(), segments.create(1).unwrap());
        assert_eq!(segments.attach(2, both), Attached::Now);
        segments.die(1);
        assert_eq!(segments.attached(alone), BTreeSet::from([1]));
        assert_eq!(segments.reap(), 1);
        assert_eq!(segments.attached(both), BTreeSet::from([2]));
        assert_eq!(segments.reap(), 0);
    }

    #[test]
    fn create_reaps_before_it_says_full() {
        let mut segments = Segments::new(1);
        let old = segments.create(1).unwrap();
        segments.die(1);
        let new = segments.create(2).unwrap();
        assert_ne!(old, new);
        assert_eq!(segments.attached(new), BTreeSet::from([2]));
    }
}
