//! `HazardRow`: this process's row, and the `Protector`s of its threads.
use super::Hazards;
use super::shared::{GROUP_SLOTS, GROUPS_MAX, Group, Holder};
use super::slot::Slot;
use crate::mapping::Mapped;
use crate::participants::Member;
use crate::process::{ForkGuard, Forked};
use crate::sync::{AtomicU64, Ordering};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard};

/// No slot is given out.
const ALL_FREE: u32 = (1 << GROUP_SLOTS) - 1;

/// Why a process could not have its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// The member's process is the caller's parent.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The member sits in another table, or somebody wrote nonsense.
    #[error("there are hazard rows for {seats} participants, and this one has seat {seat}")]
    Seat {
        /// The member's.
        seat: u32,
        /// How many there are.
        seats: u32,
    },
    /// This member has its row already.
    #[error("this participant has taken its hazard row already: clone that one")]
    Taken,
}

/// Why a thread could not have a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtectorError {
    /// The row is the caller's parent's.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// All groups are in use by threads of this process.
    #[error(
        "all {groups} hazard groups of this process are in use; let a thread drop its protector, \
         or make rows of more groups (at most {GROUPS_MAX})"
    )]
    Exhausted {
        /// How many there are.
        groups: u32,
    },
}

/// A member's row: its threads share clones of it. The member stays seated for as long.
#[derive(Clone, Debug)]
pub struct HazardRow {
    row: Arc<Row>,
}

pub(super) struct Row {
    hazards: Hazards,
    member: Arc<Member>,
    pool: Mutex<Pool>,
}

/// Which groups are given out. Private memory: no other process is asked.
struct Pool {
    taken: [u64; GROUPS_MAX as usize / 64],
    /// The first so many have been in use: what the holder's word says.
    used: u32,
}

impl Hazards {
    /// The row of `member`, which has one at a time.
    ///
    /// # Errors
    /// [`RowError`].
    ///
    /// # If a process dies here
    /// The row may say that it was the dead one's, and protects nothing; its reaper clears it.
    pub fn row(&self, member: &Arc<Member>) -> Result<HazardRow, RowError> {
        member.check_fork()?;
        let (id, seats) = (member.id(), self.seats());
        let seat = id.slot();
        let no_seat = RowError::Seat { seat, seats };
        let holder = self.holders.get(seat as usize).ok_or(no_seat)?;
        let before = holder.load(Ordering::Relaxed);
        let mine = Holder::new(id, 0).to_bits();
        // The seat is ours, so whoever else is named has no right to it; only our own threads may
        // get in between. Relaxed: as a read-modify-write it hands on what the last user released.
        let (ok, err) = (Ordering::Relaxed, Ordering::Relaxed);
        if Holder::from_bits(before).is(id)
            || holder.compare_exchange(before, mine, ok, err).is_err()
        {
            return Err(RowError::Taken);
        }
        if before != Holder::NOBODY.to_bits() {
            self.row_groups(seat).iter().for_each(Group::clear);
        }
        Ok(HazardRow {
            row: Arc::new(Row {
                hazards: self.clone(),
                member: member.clone(),
                pool: Mutex::new(Pool { taken: [0; GROUPS_MAX as usize / 64], used: 0 }),
            }),
        })
    }
}

impl HazardRow {
    /// A group of slots for one thread. Keep it: it is taken from a pool behind a lock.
    ///
    /// # Errors
    /// [`ProtectorError`].
    ///
    /// # If a process dies here
    /// The row says that one more group of it is in use, and that one is empty.
    pub fn protector(&self) -> Result<Protector, ProtectorError> {
        let row = &self.row;
        // Before the lock, which a thread may have held when our parent forked.
        row.member.check_fork()?;
        let groups = row.hazards.groups_a_seat;
        let index = row.take_group().ok_or(ProtectorError::Exhausted { groups })?;
        let seat = u64::from(row.member.id().slot());
        let number = seat * u64::from(groups) + u64::from(index);
        let at = row.hazards.groups_at + number * size_of::<Group>() as u64;
        let group = Mapped::new(row.hazards.groups.mapping(), at);
        let group = group.unwrap_or_else(|_| unreachable!("the rows were checked when attached"));
        Ok(Protector {
            group,
            guard: ForkGuard::new(),
            free: Cell::new(ALL_FREE),
            index,
            row: row.clone(),
            one_thread: PhantomData,
        })
    }

    /// The member whose row it is.
    pub fn member(&self) -> &Arc<Member> {
        &self.row.member
    }

    /// The rows it is one of.
    pub fn hazards(&self) -> &Hazards {
        &self.row.hazards
    }
}

impl Row {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn holder(&self) -> Option<&AtomicU64> {
        self.hazards.holders.get(self.member.id().slot() as usize)
    }

    /// The first free group, once the row's word says that it is in use.
    fn take_group(&self) -> Option<u32> {
        let mut pool = self.pool();
        let free = |index: &u32| pool.taken[*index as usize / 64] >> (index % 64) & 1 == 0;
        let index = (0..self.hazards.groups_a_seat).find(free)?;
        if index >= pool.used {
            pool.used = index + 1;
            let used = Holder::new(self.member.id(), pool.used).to_bits();
            // Pairs with the Acquire in `each_announced`: what earlier users of the row read in
            // groups that are not looked at any more.
            self.holder()?.store(used, Ordering::Release);
        }
        pool.taken[index as usize / 64] |= 1 << (index % 64);
        Some(index)
    }

    fn give_back(&self, index: u32) {
        self.pool().taken[index as usize / 64] &= !(1 << (index % 64));
    }
}

impl Drop for Row {
    /// # If a process dies here
    /// The row is still the dead one's, and empty.
    fn drop(&mut self) {
        if self.member.check_fork().is_ok()
            && let Some(holder) = self.holder()
        {
            // Pairs with the Acquire in `each_announced`: what we read, before our row is not
            // looked at.
            holder.store(Holder::NOBODY.to_bits(), Ordering::Release);
        }
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("member", &self.member).finish_non_exhaustive()
    }
}

/// A thread's group of [`GROUP_SLOTS`] slots. It may move to another thread, as a whole.
///
/// ```compile_fail,E0277
/// fn is_sync<T: Sync>() {}
/// is_sync::<shm_core::hazard::Protector>();
/// ```
#[derive(Debug)]
pub struct Protector {
    group: Mapped<Group>,
    pub(super) guard: ForkGuard,
    /// One bit a slot that is not given out.
    free: Cell<u32>,
    index: u32,
    row: Arc<Row>,
    one_thread: PhantomData<Cell<()>>,
}

impl Protector {
    /// A slot that is not in use; `None` where all [`GROUP_SLOTS`] are. It announces nothing yet.
    #[inline]
    pub fn slot(&self) -> Option<Slot<'_>> {
        let free = NonZeroU32::new(self.free.get())?;
        // All but the lowest.
        self.free.set(free.get() & (free.get() - 1));
        Some(Slot::new(self, free.trailing_zeros() as usize))
    }

    /// Whether this is the process that made it.
    ///
    /// # Errors
    /// [`Forked`] in a forked child.
    #[inline]
    pub fn check_fork(&self) -> Result<(), Forked> {
        self.guard.check()
    }

    /// The row it is of.
    pub fn row(&self) -> HazardRow {
        HazardRow { row: self.row.clone() }
    }

    #[cfg(shm_loom)]
    pub(super) fn is_unfenced(&self) -> bool {
        self.row.hazards.is_unfenced
    }

    pub(super) fn hazards(&self) -> &Hazards {
        &self.row.hazards
    }

    /// How many of the slots announce `value`.
    pub(super) fn count(&self, value: u64) -> usize {
        // Relaxed: only this thread writes them.
        self.group.slots.iter().filter(|slot| slot.load(Ordering::Relaxed) == value).count()
    }

    #[inline]
    pub(super) fn word(&self, index: usize) -> &AtomicU64 {
        &self.group.slots[index % GROUP_SLOTS]
    }

    #[inline]
    pub(super) fn take_back(&self, index: usize) {
        self.free.set(self.free.get() | 1 << index);
    }
}

impl Drop for Protector {
    /// # If a process dies here
    /// The group may have announcements of slots that were never dropped; its reaper clears them.
    fn drop(&mut self) {
        if self.guard.check().is_err() {
            return;
        }
        // Of slots that were forgotten; the others have cleared theirs.
        if self.free.get() != ALL_FREE {
            self.group.clear();
        }
        self.row.give_back(self.index);
    }
}
