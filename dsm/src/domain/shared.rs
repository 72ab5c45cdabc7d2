//! The control segment: what stands where.
use super::config::SEGMENTS_MAX;
use super::error::OpenError;
use crate::control::{Control, READY_MAX};
use crate::growth::page_size;
use crate::handle::GENERATION_MAX;
use crate::registry::{self, Registry};
use shm_core::header::{Header, Identity};
use shm_core::layout::{Plan, TooLarge, combine};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::{SLOTS_MAX, Table, TableError};
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_core::{Reserved, shm_sync};
use std::sync::Arc;

/// Raised with every change of the layout or of its meaning.
const LAYOUT_VERSION: u32 = 6;

/// What the creator chose. Written once, before the header says that the domain is ready; read once
/// by each process.
#[derive(Debug)]
#[repr(C, align(64))]
struct Settings {
    /// Part of the objects' names: tells this domain's from those of an earlier one of its name.
    nonce: AtomicU64,
    participants: AtomicU32,
    segments: AtomicU32,
    /// Of which so many have a page of the control segment each.
    ready: AtomicU64,
    reserved: Reserved<5>,
}

#[cfg(not(shm_loom))]
const _: () = assert!(size_of::<Settings>() == 64);

shm_sync!(Settings { nonce, participants, segments, ready, reserved });

const FINGERPRINT: u64 = combine(&[
    shm_core::fingerprint!(Settings {
        nonce: AtomicU64,
        participants: AtomicU32,
        segments: AtomicU32,
        ready: AtomicU64,
        reserved: Reserved<5>,
    }),
    crate::control::FINGERPRINT,
    registry::FINGERPRINT,
    crate::growth::FINGERPRINT,
    Table::bytes_for(0),
    Table::bytes_for(1),
]);

/// Sizes of a domain: this process's own copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) nonce: u64,
    pub(super) participants: u32,
    pub(super) segments: u32,
    /// Segments with a page of the control segment each.
    pub(super) ready: u32,
}

/// At most so many names; each has a segment.
const NAMES_MAX: u32 = 256;

fn names(segments: u32) -> u32 {
    segments.min(NAMES_MAX)
}

/// Header, settings, table of participants, names, the segment table, which grows, and the pages of
/// ready segments, which come and go.
struct Offsets {
    settings: u64,
    table: u64,
    registry: u64,
    control: u64,
    ready: u64,
    /// What there must be memory behind from the start.
    filled: u64,
    total: u64,
}

impl Offsets {
    fn of(sizes: &Sizes) -> Result<Offsets, TooLarge> {
        let &Sizes { participants, segments, ready, .. } = sizes;
        let mut plan = Plan::new();
        plan.add::<Header>();
        let settings = plan.add::<Settings>();
        let table = plan.bytes(Table::bytes_for(participants), 64);
        let registry = plan.bytes(Registry::bytes_for(names(segments)), 64);
        let control = plan.bytes(Control::bytes_for(segments, participants), 64);
        let filled = control.saturating_add(Control::bytes_at_first(segments, participants));
        let ready = plan.bytes(u64::from(ready) * page_size(), page_size());
        Ok(Offsets { settings, table, registry, control, ready, filled, total: plan.total()? })
    }
}

impl Sizes {
    /// Bytes of the control segment.
    pub(super) fn total(&self) -> Result<u64, TooLarge> {
        Ok(Offsets::of(self)?.total)
    }

    /// Bytes of it, from its beginning, that need memory at first.
    pub(super) fn filled(&self) -> Result<u64, TooLarge> {
        Ok(Offsets::of(self)?.filled)
    }

    /// No larger than fits into `len` bytes: a creator who was killed before he began leaves memory
    /// for the domain that he wanted, and it may be a smaller one.
    pub(super) fn within(mut self, len: u64) -> Sizes {
        let smallest = |sizes: &Sizes| sizes.participants.max(sizes.segments) == 1;
        if self.total().is_ok_and(|total| total > len) {
            self.ready = 0;
        }
        while self.total().is_ok_and(|total| total > len) && !smallest(&self) {
            // Of what takes the most.
            let table = Table::bytes_for(self.participants);
            let control = Control::bytes_for(self.segments, self.participants);
            let most = control.saturating_add(Registry::bytes_for(names(self.segments)));
            if self.segments > 1 && (most > table || self.participants == 1) {
                self.segments = self.segments.div_ceil(2);
            } else {
                self.participants = self.participants.div_ceil(2);
            }
        }
        self
    }

    /// What a control segment of the domain `name` is.
    pub(super) fn identity(name: &str, mapping: &Mapping) -> Identity {
        Identity::new(name, LAYOUT_VERSION, FINGERPRINT, mapping.len() as u64)
    }

    /// Writes everything behind the header. `whole`: there is memory for all of it.
    ///
    /// # Safety
    /// Nobody else accesses `mapping`.
    pub(super) unsafe fn write(
        &self,
        mapping: &Arc<Mapping>,
        whole: bool,
    ) -> Result<(), TableError> {
        // A plan that is too large has offsets outside every mapping.
        let offsets = Offsets::of(self);
        let offsets = offsets.map_err(|_| TableError::Slots(self.participants))?;
        let settings = Settings {
            nonce: AtomicU64::new(self.nonce),
            participants: AtomicU32::new(self.participants),
            segments: AtomicU32::new(self.segments),
            ready: AtomicU64::new(u64::from(self.ready)),
            reserved: Reserved::new(),
        };
        // SAFETY: the caller's promise.
        unsafe { mapping.region().place(offsets.settings, settings) }?;
        let (segments, participants) = (self.segments, self.participants);
        let generation = (self.nonce as u32 & GENERATION_MAX).max(1);
        // SAFETY: the caller's promise.
        let control = unsafe {
            Control::create(mapping, offsets.control, segments, participants, generation)
        }?;
        if whole {
            control.grow_to_the_end();
        }
        // SAFETY: the caller's promise.
        unsafe { Registry::create(mapping, offsets.registry, names(segments)) }?;
        // SAFETY: the caller's promise.
        unsafe { Table::create(mapping, offsets.table, participants) }?;
        Ok(())
    }

    /// Reads what the creator wrote, and finds the tables.
    pub(super) fn read(name: &str, mapping: &Arc<Mapping>) -> Result<Parts, OpenError> {
        let corrupt = |what, value| OpenError::Corrupt { name: name.to_owned(), what, value };
        let out = |_| corrupt("length", mapping.len() as u64);
        let place = |sizes: &Sizes| {
            Offsets::of(sizes).map_err(|TooLarge| corrupt("segments", u64::from(sizes.segments)))
        };
        let least = Sizes { nonce: 0, participants: 1, segments: 1, ready: 0 };
        let settings = Mapped::<Settings>::new(mapping, place(&least)?.settings).map_err(out)?;
        let nonce = settings.nonce.load(Ordering::Relaxed);
        let participants = settings.participants.load(Ordering::Relaxed);
        if !(1..=SLOTS_MAX).contains(&participants) {
            return Err(corrupt("participants", u64::from(participants)));
        }
        let segments = settings.segments.load(Ordering::Relaxed);
        if !(1..=SEGMENTS_MAX).contains(&segments) {
            return Err(corrupt("segments", u64::from(segments)));
        }
        let ready = settings.ready.load(Ordering::Relaxed);
        if ready > u64::from(READY_MAX) {
            return Err(corrupt("ready segments", ready));
        }
        let sizes = Sizes { nonce, participants, segments, ready: ready as u32 };
        let offsets = place(&sizes)?;
        let (at, ready) = (offsets.control, sizes.ready);
        let control = Control::attach_ready(mapping, at, segments, participants, ready);
        let control = control.map_err(out)?;
        let pages = u64::from(ready) * page_size();
        mapping.region().range(offsets.ready, pages).map_err(out)?;
        let registry = Registry::attach(mapping, offsets.registry, names(segments));
        let registry = registry.map_err(out)?;
        let table = Table::attach(mapping, offsets.table);
        let table = table.map_err(|source| OpenError::Table { name: name.to_owned(), source })?;
        if table.capacity() != participants {
            return Err(corrupt("table of participants", u64::from(table.capacity())));
        }
        Ok(Parts { sizes, control, registry, table, pages: offsets.ready })
    }
}

/// What stands in a control segment.
pub(super) struct Parts {
    pub(super) sizes: Sizes,
    pub(super) control: Control,
    pub(super) registry: Registry,
    pub(super) table: Table,
    /// Where the pages of ready segments begin.
    pub(super) pages: u64,
}
