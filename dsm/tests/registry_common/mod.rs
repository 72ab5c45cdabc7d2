//! A registry, and segments that are two words each: which of them are pinned, and whether they are
//! whole. For the models and the explorer.
#![allow(dead_code)] // each test uses its part

use dsm::SegmentHandle;
use dsm::registry::{Claim, Entry, Found, Hand, Kind, Name, Registry, Step};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{Member, Table, Watch};
use shm_core::process::Liveness;
use shm_core::sync::{AtomicU64, Ordering};
use std::sync::Arc;

pub(crate) const SEATS: u32 = 4;
/// Each process makes its own, by its number.
pub(crate) const SEGMENTS: usize = 5;
const WHOLE: u64 = 7;

/// What the segments are, all zero at first.
#[repr(C)]
pub(crate) struct System {
    pub(crate) pinned: [AtomicU64; SEGMENTS],
    whole: [AtomicU64; SEGMENTS],
}
shm_core::shm_sync!(System { pinned, whole });

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) table: Table,
    pub(crate) registry: Registry,
    pub(crate) system: Mapped<System>,
}

pub(crate) fn entry(name: &str) -> Entry {
    Entry { name: Name::new(name).unwrap(), kind: Kind::Segment, size: 64, fingerprint: 3 }
}

pub(crate) fn handle(segment: u32) -> SegmentHandle {
    SegmentHandle::from_bits(1 << 24 | u64::from(segment)).unwrap()
}

/// What came of asking for a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    /// It leads to this segment.
    Found(SegmentHandle),
    /// The caller has made it.
    Made(SegmentHandle),
    /// There is no room, or somebody scribbles.
    Nothing,
}

impl World {
    pub(crate) fn new(names: u32) -> World {
        World::over(&Mapping::heap(World::bytes_for(names) as usize), names)
    }

    pub(crate) fn bytes_for(names: u32) -> u64 {
        Table::bytes_for(SEATS) + Registry::bytes_for(names) + size_of::<System>() as u64
    }

    pub(crate) fn over(mapping: &Arc<Mapping>, names: u32) -> World {
        let rows_at = Table::bytes_for(SEATS);
        let system_at = rows_at + Registry::bytes_for(names);
        // SAFETY: nobody else has the mapping yet.
        let table = unsafe { Table::create(mapping, 0, SEATS) }.unwrap();
        // SAFETY: as above; the table ends before.
        let registry = unsafe { Registry::create(mapping, rows_at, names) }.unwrap();
        let words = || std::array::from_fn(|_| AtomicU64::new(0));
        let system = System { pinned: words(), whole: words() };
        // SAFETY: as above; the rows end before.
        let system = unsafe { Mapped::place(mapping, system_at, system) }.unwrap();
        World { table, registry, system }
    }

    pub(crate) fn unpin(&self, handle: SegmentHandle) {
        let segment = (handle.to_bits() & 0xff_ffff) as usize;
        if let Some(pinned) = self.system.pinned.get(segment) {
            pinned.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn with_hand<R>(&self, me: &Member, act: impl FnOnce(&Hand<'_>) -> R) -> R {
        act(&Hand {
            me: me.id(),
            is_dead: &|id| self.table.liveness(id) == Liveness::Dead,
            unpin: &|handle| self.unpin(handle),
        })
    }

    pub(crate) fn step(&self, me: &Member, name: &str) -> Step {
        self.with_hand(me, |hand| self.registry.step(hand, &entry(name)))
    }

    pub(crate) fn remove(&self, me: &Member, name: &str) -> bool {
        let name = Name::new(name).unwrap();
        self.with_hand(me, |hand| self.registry.remove(hand, &name))
    }

    /// Makes segment `number`, pins it, and shows it.
    pub(crate) fn make(&self, claim: Claim, number: u32) -> Asked {
        let (made, system) = (handle(number), &self.system);
        system.whole[number as usize].store(WHOLE, Ordering::Relaxed);
        claim.set_segment(made);
        system.pinned[number as usize].store(1, Ordering::Relaxed);
        if claim.publish() { Asked::Made(made) } else { Asked::Nothing }
    }

    /// Whether what was found is whole.
    pub(crate) fn look_at(&self, found: &Found) -> Asked {
        let Some(handle) = found.handle else { return Asked::Nothing };
        let segment = (handle.to_bits() & 0xff_ffff) as usize;
        let whole = self.system.whole.get(segment).map(|whole| whole.load(Ordering::Relaxed));
        if whole == Some(WHOLE) { Asked::Found(handle) } else { Asked::Nothing }
    }

    /// Asks until there is an answer, and sleeps while somebody else is at it.
    pub(crate) fn ask(&self, me: &Arc<Member>, name: &str, number: u32) -> Asked {
        loop {
            match self.step(me, name) {
                Step::Ready(found) => return self.look_at(&found),
                Step::Mine(claim) => return self.make(claim, number),
                Step::Busy(found) => {
                    let owner = found.owner().filter(|owner| *owner != me.id());
                    let watch: Option<Watch> = owner.map(|owner| me.watch(owner));
                    self.registry.wait(&found, watch.as_ref(), None);
                }
                Step::Full | Step::Restless => return Asked::Nothing,
            }
        }
    }

    pub(crate) fn reap(&self) {
        self.table.reap(|dead| self.registry.reap(dead, &|handle| self.unpin(handle)));
    }

    /// How many segments are pinned, and how many names there are.
    pub(crate) fn count(&self) -> (usize, usize) {
        let pinned = self.system.pinned.iter();
        let pinned = pinned.filter(|pinned| pinned.load(Ordering::Relaxed) != 0).count();
        (pinned, self.registry.entries().len())
    }
}
