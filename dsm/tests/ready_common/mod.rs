//! A segment table of two slots with a page each, one chunk of them, and a system that knows where
//! there is memory: for the models and the explorer.
#![allow(dead_code)] // each test uses its part

use dsm::SegmentHandle;
use dsm::control::{Actor, Control, Objects};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering};
use std::sync::Arc;

const SEGMENTS: u32 = 2;
const PARTICIPANTS: u32 = 4;
const PAGE: u64 = 4096;

/// What the system knows, and what is in the pages.
#[repr(C)]
pub(crate) struct System {
    /// 1: there is memory behind the pages.
    pub(crate) memory: AtomicU64,
    pub(crate) pages: [AtomicU64; 2],
}
shm_core::shm_sync!(System { memory, pages });

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) system: Mapped<System>,
    pub(crate) mapping: Arc<Mapping>,
}

impl Objects for World {
    fn remove(&self, _: SegmentHandle) -> bool {
        true
    }

    fn remove_domain(&self) {}

    fn fill(&self, _chunk: u32) -> bool {
        self.system.memory.store(1, Ordering::Relaxed);
        true
    }

    fn empty(&self, _chunk: u32) -> bool {
        self.system.memory.store(0, Ordering::Relaxed);
        true
    }
}

pub(crate) fn id(who: u32) -> ParticipantId {
    ParticipantId::from_bits(who << 22 | 1).unwrap()
}

impl World {
    /// With `outsider` in the domain, who stays out of it.
    pub(crate) fn new(outsider: u32) -> World {
        let at = Control::bytes_for(SEGMENTS, PARTICIPANTS).next_multiple_of(64);
        let mapping = Mapping::heap(at as usize + size_of::<System>());
        // SAFETY: nobody else has the mapping yet.
        unsafe { Control::create(&mapping, 0, SEGMENTS, PARTICIPANTS, 1) }.unwrap();
        let control = Control::attach_ready(&mapping, 0, SEGMENTS, PARTICIPANTS, SEGMENTS).unwrap();
        control.grow_to_the_end();
        let word = || AtomicU64::new(0);
        let system = System { memory: word(), pages: [word(), word()] };
        // SAFETY: nobody else has the mapping yet; the table ends before.
        let system = unsafe { Mapped::place(&mapping, at, system) }.unwrap();
        let world = World { control, system, mapping };
        assert!(world.actor(outsider).enter());
        world
    }

    pub(crate) fn actor(&self, who: u32) -> Actor<'_, World> {
        self.control.actor(id(who), self)
    }

    /// Makes a segment in a page that must have memory; `None` where both are taken.
    pub(crate) fn create(&self, who: u32) -> Option<SegmentHandle> {
        let handle = self.actor(who).claim_ready()?;
        self.write(who, handle);
        assert!(self.actor(who).publish(handle, PAGE));
        Some(handle)
    }

    /// Ends it; until now the page had memory, and was nobody else's.
    pub(crate) fn destroy(&self, who: u32, handle: SegmentHandle) {
        self.assert_memory();
        let found = self.page(handle).load(Ordering::Relaxed);
        assert_eq!(found, u64::from(who) + 1, "another one's bytes are in the page");
        self.actor(who).detach(handle);
    }

    pub(crate) fn clean_up(&self, who: u32) {
        self.actor(who).clean_up();
    }

    /// Both can be had, and nothing is left over.
    pub(crate) fn assert_all_free(&self, who: u32) {
        assert!(self.control.leftovers().is_empty(), "a slot is left over");
        assert!(self.create(who).is_some() && self.create(who).is_some(), "a slot is lost");
        assert!(self.create(who).is_none());
    }

    fn write(&self, who: u32, handle: SegmentHandle) {
        self.assert_memory();
        self.page(handle).store(u64::from(who) + 1, Ordering::Relaxed);
    }

    fn assert_memory(&self) {
        assert_eq!(self.system.memory.load(Ordering::Relaxed), 1, "no memory behind the page");
    }

    fn page(&self, handle: SegmentHandle) -> &AtomicU64 {
        &self.system.pages[handle.to_bits() as usize % 2]
    }
}
