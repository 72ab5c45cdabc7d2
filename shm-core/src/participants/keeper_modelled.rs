//! A model's keepers: the life word holds the pid, and [`process_ends`] is the kernel.
use super::Table;
use super::shared::Slot;
use crate::mapping::MappedSlice;
use crate::process::{self, ProcessId};
use crate::sync::Ordering;
use std::io;

pub(super) struct Keeper;

impl Keeper {
    pub(super) fn hold(slots: &MappedSlice<Slot>, index: usize) -> io::Result<Option<Keeper>> {
        let life = &slots[index].life;
        // Pairs with the Acquire in `Watch::arm`: a reader of the new holder sees that the old one left.
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
