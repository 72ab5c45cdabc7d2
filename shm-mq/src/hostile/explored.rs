//! What two sides of an exploration have of a hostile queue, each of which takes its own: the code
//! from the first message on, over two mappings. The hello, which only the system has, is over.
use super::shared::{HALF_BYTES, Half};
use super::{Kind, Wire};
use shm_core::BadPtr;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sealed::{Doorbell, Ears};
use std::sync::Arc;

/// Two sides that have met.
#[derive(Debug)]
pub(crate) struct Met {
    /// The sender's memory: its half, and the ring.
    pub(crate) memory: Arc<Mapping>,
    /// The sender's, and the receiver's.
    halves: [Mapped<Half>; 2],
    ears: Mapped<Ears>,
}

impl Met {
    pub(crate) fn new(kind: &Kind, ring_bytes: u64) -> Result<Met, BadPtr> {
        let memory = Mapping::heap((HALF_BYTES + ring_bytes) as usize);
        let half = Half::new(kind.sender, ring_bytes, 0, 0);
        // SAFETY: our own memory, which nobody has yet.
        let written = unsafe { Mapped::place(&memory, 0, half) }?;
        Met::with(kind, memory, written)
    }

    /// Another receiver of the same sender, which has met it too.
    pub(crate) fn beside(&self, kind: &Kind) -> Result<Met, BadPtr> {
        Met::with(kind, self.memory.clone(), self.sender_half().clone())
    }

    pub(crate) fn sender_half(&self) -> &Mapped<Half> {
        &self.halves[0]
    }

    fn with(kind: &Kind, memory: Arc<Mapping>, written: Mapped<Half>) -> Result<Met, BadPtr> {
        let half = Half::new(kind.receiver, 0, u64::MAX, 0);
        // SAFETY: as above.
        let read = unsafe { Mapped::place(&Mapping::heap(HALF_BYTES as usize), 0, half) }?;
        let ears = Mapping::heap(size_of::<Ears>());
        // SAFETY: as above.
        let ears = unsafe { Mapped::place(&ears, 0, Ears::new()) }?;
        Ok(Met { memory, halves: [written, read], ears })
    }

    /// What the sender (0) has, or the receiver (1); process `peer` is the other.
    pub(crate) fn wire(&self, me: usize, peer: u32) -> Wire {
        let [own, theirs] = [me, 1 - me].map(|side| self.halves[side].clone());
        Wire::new(own, theirs, Doorbell::of(&self.ears, me, peer), usize::MAX)
    }
}
