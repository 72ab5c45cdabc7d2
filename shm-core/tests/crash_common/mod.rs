//! What the crash tests share.
#![allow(dead_code)] // each test uses its part

use shm_core::mapping::Mapping;
use shm_core::participants::{Member, Table};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::killpoint::{End, Heap, Notes, Run, Scenario, SharedMemory};
use std::sync::Arc;

#[global_allocator]
static HEAP: Heap = Heap;

/// Memory that forked children share, and a mapping of it.
pub(crate) fn shared(bytes: u64) -> (SharedMemory, Arc<Mapping>) {
    let memory = SharedMemory::new(bytes as usize);
    let (base, len, keep) = (memory.base(), memory.len(), memory.clone());
    // SAFETY: whole pages, mapped until the last clone goes; the other one only copies words.
    let mapping = unsafe { Mapping::from_raw(base, len, Box::new(move |_, _| drop(keep))) };
    (memory, mapping)
}

/// Every word of `mapping` from `offset` on.
pub(crate) fn words_from(mapping: &Mapping, offset: u64) -> Vec<u8> {
    let region = mapping.region();
    let count = (region.len() as u64 - offset) / 8;
    let words: &[AtomicU64] = region.share_slice(offset, count).unwrap();
    words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect()
}

/// `bytes` without those of `ranges`: words that name processes.
pub(crate) fn without(mut bytes: Vec<u8>, ranges: &[std::ops::Range<usize>]) -> Vec<u8> {
    for range in ranges {
        bytes[range.clone()].fill(0);
    }
    bytes
}

/// All shared bytes, of a table of so many seats and what stands behind it, but for who is who:
/// pids, start times and thread ids.
pub(crate) fn image(memory: &SharedMemory, seats: u32) -> Vec<u8> {
    let mut bytes = memory.copy();
    for seat in 0..seats {
        let at = Table::bytes_for(seat) as usize;
        // The seat's state stands in the topmost bits.
        bytes[at..at + 7].fill(0);
        bytes[at + 7] &= 0xc0;
        bytes[at + 12..at + 16].fill(0);
    }
    bytes
}

/// The dead one's seat is found and freed, and no more; then all of so many but one are free.
pub(crate) fn nothing_leaks(me: &Member, seats: u32, end: End) -> Result<(), String> {
    let (reaped, dead) = (me.table().reap(|_| ()), usize::from(end == End::Killed));
    // Of a helper that reaped first, or was killed too, nothing is left either.
    if reaped > dead {
        return Err(format!("{reaped} seats were reaped after {end:?}"));
    }
    let seats: Result<Vec<_>, _> = (1..seats).map(|_| me.table().join()).collect();
    seats.map(drop).map_err(|error| format!("a seat leaked: {error}"))
}

/// What a check that failed says of it.
pub(crate) fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The maker of something that nobody has been told of: who owns the memory makes it again.
pub(crate) struct Makes {
    pub(crate) name: &'static str,
    pub(crate) operations: &'static [&'static str],
    /// Where it is made.
    pub(crate) at: u64,
    pub(crate) make: fn(&Arc<Mapping>),
    /// Whether what stands there, made before the death or after it, is new.
    pub(crate) check: fn(&Arc<Mapping>) -> Result<(), String>,
}

impl Makes {
    const MADE: usize = 0;

    pub(crate) fn may_die_anywhere(&self) {
        Run::new(self).kill().passes();
    }
}

impl Scenario for Makes {
    type World = Arc<Mapping>;
    type Doomed = ();

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        self.operations
    }

    fn world(&self) -> Arc<Mapping> {
        shared(4096).1
    }

    fn prepare(&self, _: &Arc<Mapping>, _: &Notes) {}

    fn operate(&self, mapping: &Arc<Mapping>, (): &mut (), notes: &Notes) {
        (self.make)(mapping);
        notes.set(Makes::MADE, 1);
    }

    fn image(&self, mapping: &Arc<Mapping>) -> Vec<u8> {
        words_from(mapping, self.at)
    }

    fn check(&self, mapping: Arc<Mapping>, notes: &Notes, _: End) -> Result<(), String> {
        if notes.get(Makes::MADE) == 0 {
            (self.make)(&mapping);
        }
        (self.check)(&mapping)
    }
}
