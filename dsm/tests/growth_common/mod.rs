//! A growable segment of four pages, whose memory is a word a page: 0 where there is none.
#![allow(dead_code)] // each test uses its part

use dsm::GrowError;
use dsm::backend::BackendError;
use dsm::growth::{Growth, Pages};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::ParticipantId;
use shm_core::sync::{AtomicU64, Ordering};
use std::ops::Range;
use std::sync::Arc;

pub(crate) const PAGES_MAX: u32 = 4;

/// What the system knows.
#[repr(C)]
pub(crate) struct Memory {
    /// How many bytes of each page are there, so to say.
    pub(crate) page: [AtomicU64; PAGES_MAX as usize],
    /// Whether somebody is at it.
    pub(crate) in_use: AtomicU64,
    /// How often a reservation is still to fail.
    pub(crate) refusals: AtomicU64,
}
shm_core::shm_sync!(Memory { page, in_use, refusals });

/// How far the system is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// Only what there is.
    Deaths,
    /// That nobody is at it beside another, too: a dead one would stay at it.
    AloneToo,
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) growth: Growth,
    pub(crate) memory: Mapped<Memory>,
    pub(crate) care: Care,
}

pub(crate) fn id(seat: u32) -> ParticipantId {
    ParticipantId::from_bits(seat << 22 | 1).unwrap()
}

impl World {
    pub(crate) fn new(pages: u32, care: Care) -> World {
        World::at(&Mapping::heap(64 + size_of::<Memory>()), pages, care)
    }

    pub(crate) fn at(mapping: &Arc<Mapping>, pages: u32, care: Care) -> World {
        let page = std::array::from_fn(|at| AtomicU64::new(u64::from((at as u32) < pages)));
        let (in_use, refusals) = (AtomicU64::new(0), AtomicU64::new(0));
        // SAFETY: nobody else has the mapping yet.
        let memory = unsafe { Mapped::place(mapping, 64, Memory { page, in_use, refusals }) };
        // SAFETY: as above.
        let growth = unsafe { Growth::create(mapping, 0, pages, PAGES_MAX) };
        World { growth: growth.unwrap(), memory: memory.unwrap(), care }
    }

    /// Changes the length, to `pages` exactly.
    pub(crate) fn change(
        &self,
        seat: u32,
        pages: u32,
        has_left: impl Fn(ParticipantId) -> bool + Copy,
    ) -> Result<u32, GrowError> {
        let grown = self.growth.grow(id(seat), pages, has_left, self)?;
        if grown > pages {
            return self.growth.shrink(id(seat), pages, has_left, self);
        }
        Ok(grown)
    }

    /// All pages that are said to be there are. Only where nobody shrinks.
    pub(crate) fn look(&self) -> u32 {
        let pages = self.growth.pages().unwrap();
        for page in &self.memory.page[..pages as usize] {
            assert_eq!(page.load(Ordering::Relaxed), 1, "a page that is not there");
        }
        pages
    }

    /// And no others are.
    pub(crate) fn assert_exact(&self) {
        let pages = self.look();
        for page in &self.memory.page[pages as usize..] {
            assert_eq!(page.load(Ordering::Relaxed), 0, "a page that nobody can use");
        }
    }

    fn alone(&self, work: impl FnOnce()) {
        let careful = self.care == Care::AloneToo;
        if careful {
            assert_eq!(self.memory.in_use.load(Ordering::Relaxed), 0, "two are at it");
            self.memory.in_use.store(1, Ordering::Relaxed);
        }
        work();
        if careful {
            self.memory.in_use.store(0, Ordering::Relaxed);
        }
    }

    fn set(&self, pages: Range<u32>, there: u64) {
        for page in &self.memory.page[pages.start as usize..pages.end as usize] {
            page.store(there, Ordering::Relaxed);
        }
    }
}

impl Pages for World {
    fn reserve(&self, pages: Range<u32>) -> Result<(), BackendError> {
        let refusals = self.memory.refusals.load(Ordering::Relaxed);
        if refusals > 0 {
            // As the system does: some of it is there by then.
            self.set(pages.start..pages.start + 1, 1);
            self.memory.refusals.store(refusals - 1, Ordering::Relaxed);
            return Err(BackendError::Disabled);
        }
        self.alone(|| self.set(pages, 1));
        Ok(())
    }

    fn release(&self, pages: Range<u32>) -> Result<(), BackendError> {
        self.alone(|| self.set(pages, 0));
        Ok(())
    }
}
