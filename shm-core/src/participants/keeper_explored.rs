//! The keepers of an exploration: the life word holds the pid, and the explorer's kernel marks it
//! when that process dies, before the death is certain.
use super::shared::Slot;
use super::{ParticipantId, Table, Waiting, Watch};
use crate::mapping::MappedSlice;
use shm_testkit::explore::kernel;
use std::io;

pub(super) struct Keeper {
    slots: MappedSlice<Slot>,
    index: usize,
}

impl Keeper {
    /// As the real one: first the kernel knows the word, then the word names its holder.
    pub(super) fn hold(slots: &MappedSlice<Slot>, index: usize) -> io::Result<Option<Keeper>> {
        let life = &slots[index].life;
        kernel::hold(life.word());
        // The keeper of a process that is being killed may be gone while the caller acts on.
        let lives = kernel::take(life.word());
        Ok(lives.then(|| Keeper { slots: slots.clone(), index }))
    }

    pub(super) fn release(self) {
        kernel::let_go(self.slots[self.index].life.word());
    }
}

impl Table {
    /// A watch that no member asked for: an observer without a seat.
    pub fn watch(&self, peer: ParticipantId, waiting: Waiting) -> Watch {
        Watch::new(self, peer, waiting)
    }
}
