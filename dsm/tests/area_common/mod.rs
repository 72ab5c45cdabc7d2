//! An area whose memory comes and goes, and a system that gives it: a word for each chunk.
#![allow(dead_code)] // each test uses its part

use dsm::area::{Area, AreaConfig, AreaPtr, Memory, Support};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::participants::Member;
use shm_core::sync::{AtomicU64, Ordering};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

pub(crate) const CHUNKS_MAX: usize = 8;

/// What the system knows.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct System {
    /// Whether there is memory behind the pages of each chunk.
    pub(crate) there: [AtomicU64; CHUNKS_MAX],
    /// So many times there is none.
    pub(crate) refusals: AtomicU64,
}
shm_core::shm_sync!(System { there, refusals });

/// The same, as one process has it.
#[derive(Debug)]
pub(crate) struct Chunks {
    pub(crate) system: Mapped<System>,
    /// Where the first chunk begins, and how long each is.
    extent: OnceLock<(u64, u64)>,
}

impl Chunks {
    pub(crate) const BYTES: u64 = (size_of::<System>() as u64).next_multiple_of(128);

    /// Knows of nothing that is there.
    pub(crate) fn create(mapping: &Arc<Mapping>, at: u64) {
        let there = std::array::from_fn(|_| AtomicU64::new(0));
        let system = System { there, refusals: AtomicU64::new(0) };
        // SAFETY: the test has the mapping for itself.
        unsafe { Mapped::place(mapping, at, system) }.unwrap();
    }

    pub(crate) fn attach(mapping: &Arc<Mapping>, at: u64) -> Arc<Chunks> {
        let system = Mapped::new(mapping, at).unwrap();
        Arc::new(Chunks { system, extent: OnceLock::new() })
    }

    /// The chunks among these bytes.
    fn chunks(&self, bytes: Range<u64>) -> Range<usize> {
        let Some((first, len)) = self.extent.get() else { return 0..0 };
        match bytes.start.checked_sub(*first) {
            Some(start) => {
                let end = (bytes.end - first).div_ceil(*len);
                (start / len) as usize..end as usize
            }
            // Of the page map, or of the descriptors.
            None => 0..0,
        }
    }

    /// Whether the memory of a block is there.
    pub(crate) fn is_there(&self, area: &Area, block: AreaPtr) -> bool {
        let offset = block.to_bits() & ((1 << 40) - 1);
        let _ = area;
        let chunk = self.chunks(offset..offset + 1).start;
        self.system.there[chunk].load(Ordering::Relaxed) == 1
    }

    pub(crate) fn count(&self) -> usize {
        self.system.there.iter().filter(|word| word.load(Ordering::Relaxed) == 1).count()
    }
}

impl Memory for Chunks {
    fn populate(&self, bytes: Range<u64>) -> bool {
        let chunks = self.chunks(bytes);
        let refusals = self.system.refusals.load(Ordering::Relaxed);
        if !chunks.is_empty() && refusals > 0 {
            self.system.refusals.store(refusals - 1, Ordering::Relaxed);
            // As the system does: some of it is there by then.
            self.system.there[chunks.start].store(1, Ordering::Relaxed);
            return false;
        }
        chunks.for_each(|chunk| self.system.there[chunk].store(1, Ordering::Relaxed));
        true
    }

    fn punch(&self, bytes: Range<u64>) -> bool {
        self.chunks(bytes).for_each(|chunk| self.system.there[chunk].store(0, Ordering::Relaxed));
        true
    }
}

fn support(chunks: &Arc<Chunks>, member: Option<&Arc<Member>>) -> Support {
    let memory: Arc<dyn Memory> = chunks.clone();
    Support { memory: Some(memory), census: member.cloned(), handle: None }
}

/// Makes an area whose chunks `system_at` counts.
pub(crate) fn create(
    mapping: &Arc<Mapping>,
    system_at: u64,
    area_at: u64,
    config: &AreaConfig,
) -> (Area, Arc<Chunks>) {
    Chunks::create(mapping, system_at);
    let chunks = Chunks::attach(mapping, system_at);
    // SAFETY: nobody else has the mapping yet.
    let area = unsafe { Area::create_over(mapping, area_at, config, support(&chunks, None)) };
    drop(area.unwrap());
    attach(mapping, system_at, area_at, None)
}

/// The same area, in the hands of a member who knows the dead.
pub(crate) fn attach(
    mapping: &Arc<Mapping>,
    system_at: u64,
    area_at: u64,
    member: Option<&Arc<Member>>,
) -> (Area, Arc<Chunks>) {
    let chunks = Chunks::attach(mapping, system_at);
    let area = Area::attach_over(mapping, area_at, support(&chunks, member)).unwrap();
    let first = area.chunk_bytes(0);
    chunks.extent.set((first.start, first.end - first.start)).unwrap();
    (area, chunks)
}
