//! A model's keepers: the life word holds the pid, and [`process_ends`] is the kernel.
use super::shared::Slot;
use super::{ParticipantId, Table, Waiting, Watch};
use crate::futex::Futex;
use crate::mapping::MappedSlice;
use crate::process::{self, ProcessId};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use std::io;

pub(super) struct Keeper;

impl Keeper {
    pub(super) fn hold(slots: &MappedSlice<Slot>, index: usize) -> io::Result<Option<Keeper>> {
        let life = &slots[index].life;
        // Pairs with the Acquire in `Watch::life`: who sees the new holder sees that the old one
        // has gone.
        life.word().store(ProcessId::me().pid(), Ordering::Release);
        Ok(Some(Keeper))
    }

    pub(super) fn release(self) {}
}

/// What the kernel does when a process ends: first its threads go, and each marks what it held;
/// then it is dead.
pub fn process_ends(table: &Table, process: ProcessId) {
    for slot in table.slots().iter() {
        slot.life.mark_owner_died(process.pid());
    }
    process::model::buried(process);
}

impl Table {
    /// A watch that no member asked for: an observer without a seat.
    pub fn watch(&self, peer: ParticipantId, waiting: Waiting) -> Watch {
        Watch::new(self, peer, waiting)
    }

    /// Claim, generation and life word of a slot: planted bugs are made of these.
    pub fn words(&self, slot: usize) -> (&AtomicU64, &AtomicU32, &Futex) {
        let slot = &self.slots()[slot];
        (&slot.claim, &slot.generation, &slot.life)
    }
}
