//! A segment table of one slot, and an operating system that checks what is done to its objects:
//! nobody is attached to a segment that has been destroyed, and nobody is in a domain that is no
//! more. For the models, the samples and the explorer.
#![allow(dead_code)] // each test uses its part

use dsm::SegmentHandle;
use dsm::control::{Actor, Control, Objects};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering};
use std::sync::Arc;

pub(crate) const SIZE: u64 = 4096;
const PEOPLE: usize = 5;
/// Their slots at the table of participants: neighbours sit in different words of the set, which is
/// the hard case for "the last one out".
pub(crate) const SEATS: [u32; PEOPLE] = [0, 64, 1, 65, 2];
const SOMEBODY: u32 = 66;
/// Who comes when all is over.
const LATER: usize = 4;

/// What the operating system knows: the object, and who has it mapped (as handle bits; 0 is
/// nothing).
#[repr(C)]
pub(crate) struct System {
    pub(crate) object: AtomicU64,
    pub(crate) destroyed: AtomicU64,
    pub(crate) mapped: [AtomicU64; PEOPLE],
    /// How often the domain was taken away; who is in it.
    pub(crate) domain_removed: AtomicU64,
    pub(crate) inside: [AtomicU64; PEOPLE],
    /// How often a removal is still to fail, in a world that is stubborn; whose seats were freed.
    pub(crate) refusals: AtomicU64,
    left: [AtomicU64; PEOPLE],
}
shm_core::shm_sync!(System { object, destroyed, mapped, domain_removed, inside, refusals, left });

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) system: Mapped<System>,
    pub(crate) mapping: Arc<Mapping>,
    stubborn: bool,
}

impl Objects for World {
    fn remove(&self, handle: SegmentHandle) -> bool {
        if self.stubborn {
            let refusals = self.system.refusals.load(Ordering::Relaxed);
            if refusals > 0 {
                self.system.refusals.store(refusals - 1, Ordering::Relaxed);
                return false;
            }
        }
        let handle = handle.to_bits();
        for mapped in &self.system.mapped {
            assert_ne!(mapped.load(Ordering::Relaxed), handle, "destroyed while attached");
        }
        match self.system.object.load(Ordering::Relaxed) {
            // A creator that died before it made the object, or a destroyer that died after.
            0 => {}
            object => {
                assert_eq!(object, handle, "the wrong object");
                self.system.object.store(0, Ordering::Relaxed);
                self.system.destroyed.fetch_add(1, Ordering::Relaxed);
            }
        }
        true
    }

    fn remove_domain(&self) {
        for inside in &self.system.inside {
            assert_eq!(inside.load(Ordering::Relaxed), 0, "closed with somebody in it");
        }
        assert!(self.control.segments().is_empty(), "closed with a segment in it");
        // One that the reaper of somebody who never came in is about to remove.
        for handle in self.control.leftovers() {
            assert!(self.remove(handle), "closed with an object that will not go");
        }
        let object = self.system.object.load(Ordering::Relaxed);
        assert_eq!(object, 0, "closed with an object that nobody lists");
        self.system.domain_removed.fetch_add(1, Ordering::Relaxed);
    }
}

fn participant(seat: u32) -> ParticipantId {
    ParticipantId::from_bits(seat << 22 | 1).unwrap()
}

pub(crate) fn id(who: usize) -> ParticipantId {
    participant(SEATS[who])
}

pub(crate) fn first_handle() -> SegmentHandle {
    SegmentHandle::from_bits(1 << 24).unwrap()
}

impl World {
    /// Somebody else is in the domain, who stays out of it all.
    pub(crate) fn new() -> World {
        let world = World::empty();
        assert!(world.control.actor(participant(SOMEBODY), &world).enter());
        world
    }

    /// As `new`, and so many removals will fail.
    pub(crate) fn refusing(refusals: u64) -> World {
        let world = World { stubborn: true, ..World::new() };
        world.system.refusals.store(refusals, Ordering::Relaxed);
        world
    }

    /// A domain that nobody is in.
    pub(crate) fn empty() -> World {
        let at = Control::bytes_for(1, 128).next_multiple_of(64);
        let mapping = Mapping::heap(at as usize + size_of::<System>());
        // SAFETY: nobody else has the mapping yet.
        let control = unsafe { Control::create(&mapping, 0, 1, 128, 1) }.unwrap();
        let word = || AtomicU64::new(0);
        let words = || std::array::from_fn(|_| word());
        let system = System {
            object: word(),
            destroyed: word(),
            mapped: words(),
            domain_removed: word(),
            inside: words(),
            refusals: word(),
            left: words(),
        };
        // SAFETY: nobody else has the mapping yet; the table ends before.
        let system = unsafe { Mapped::place(&mapping, at, system) }.unwrap();
        World { control, system, mapping, stubborn: false }
    }

    pub(crate) fn actor(&self, who: usize) -> Actor<'_, World> {
        self.control.actor(id(who), self)
    }

    /// Makes a segment, where the slot is free.
    pub(crate) fn create(&self, who: usize) -> Option<SegmentHandle> {
        let handle = self.actor(who).claim()?;
        self.fill(who, handle);
        Some(handle)
    }

    /// Makes the object of a claimed slot.
    pub(crate) fn fill(&self, who: usize, handle: SegmentHandle) {
        assert_eq!(
            self.system.object.load(Ordering::Relaxed),
            0,
            "the slot's last object is there"
        );
        self.system.object.store(handle.to_bits(), Ordering::Relaxed);
        // Mapped before it is published, as the real creator does.
        self.system.mapped[who].store(handle.to_bits(), Ordering::Relaxed);
        assert!(self.actor(who).publish(handle, SIZE));
    }

    pub(crate) fn attach(&self, who: usize, handle: SegmentHandle) -> bool {
        self.actor(who).attach(handle).is_some_and(|size| self.map(who, handle, size))
    }

    /// What comes after a successful attach.
    pub(crate) fn map(&self, who: usize, handle: SegmentHandle, size: u64) -> bool {
        assert_eq!(size, SIZE);
        self.system.mapped[who].store(handle.to_bits(), Ordering::Relaxed);
        let object = self.system.object.load(Ordering::Relaxed);
        assert_eq!(object, handle.to_bits(), "attached to a segment that has been destroyed");
        true
    }

    pub(crate) fn unmap(&self, who: usize) {
        self.system.mapped[who].store(0, Ordering::Relaxed);
    }

    pub(crate) fn detach(&self, who: usize, handle: SegmentHandle) {
        self.unmap(who);
        self.actor(who).detach(handle);
    }

    pub(crate) fn enter(&self, who: usize) -> bool {
        let entered = self.actor(who).enter();
        if entered {
            self.system.inside[who].store(1, Ordering::Relaxed);
            let removed = self.system.domain_removed.load(Ordering::Relaxed);
            assert_eq!(removed, 0, "came into a domain that is no more");
        }
        entered
    }

    /// Ends all that `who` has: its leaving, or what kernel and reaper do about its death.
    pub(crate) fn leave(&self, who: usize) {
        self.unmap(who);
        self.system.inside[who].store(0, Ordering::Relaxed);
        self.actor(who).clean_up();
    }

    /// Gives up `who`'s seat, after it has left or was cleaned up after.
    pub(crate) fn vacate(&self, who: usize) {
        self.system.left[who].store(1, Ordering::Release);
    }

    /// Tries to remove what others, or it itself, could not.
    pub(crate) fn retry(&self, who: usize) {
        self.actor(who).retry(|owner| self.has_left(owner));
    }

    pub(crate) fn has_left(&self, owner: ParticipantId) -> bool {
        let who = (0..PEOPLE).find(|who| id(*who) == owner);
        who.is_some_and(|who| self.system.left[who].load(Ordering::Acquire) == 1)
    }

    /// Everybody has left, or died and been reaped: nothing is there, and the slot can be had.
    /// Which generation that is.
    pub(crate) fn assert_empty(&self) -> u64 {
        assert_eq!(self.system.object.load(Ordering::Relaxed), 0, "an object is left over");
        assert!(self.control.segments().is_empty(), "a segment is left over");
        let next = self.actor(LATER).claim().expect("the slot is left over");
        let generation = next.to_bits() >> 24;
        let destroyed = self.system.destroyed.load(Ordering::Relaxed);
        assert!(destroyed < generation, "{destroyed} destroyed, and the next is {generation}");
        generation
    }

    /// The domain is gone, once everybody has left.
    pub(crate) fn assert_closed(&self) {
        assert!(self.system.domain_removed.load(Ordering::Relaxed) > 0, "the domain is left over");
        assert_eq!(self.system.object.load(Ordering::Relaxed), 0, "an object is left over");
        assert!(!self.enter(LATER), "came into a domain that is no more");
    }
}
