//! `Hazards`: one process's view of all rows.
use super::fence;
use super::shared::{GROUPS_MAX, Group, Head, Holder};
use crate::mapping::{Mapped, MappedSlice, Mapping};
use crate::participants::{ParticipantId, SLOTS_MAX};
use crate::sync::{AtomicU64, Ordering};
use relptr::BadPtr;
use std::sync::Arc;

/// The rows of all participants, seen by one process. See the [module](super).
///
/// ```
/// use shm_core::hazard::Hazards;
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::Table;
/// use shm_core::sync::{AtomicU64, Ordering};
///
/// // In real life both lie in one shared mapping.
/// let (seats, groups) = (4, 2);
/// let mapping = Mapping::heap(Table::bytes_for(seats) as usize);
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, seats) }.unwrap();
/// let mapping = Mapping::heap(Hazards::bytes_for(seats, groups) as usize);
/// // SAFETY: nobody else has the mapping.
/// let hazards = unsafe { Hazards::create(&mapping, 0, seats, groups) }.unwrap();
///
/// let row = hazards.row(&table.join().unwrap()).unwrap();
/// let protector = row.protector().unwrap(); // one a thread
/// let head = AtomicU64::new(4711); // where a thing is found
///
/// let mut slot = protector.slot().unwrap();
/// let thing = slot.protect_word(&head, |word| word).unwrap();
///
/// head.store(0, Ordering::Release); // taken out
/// assert!(hazards.snapshot().contains(thing), "not to be freed yet");
/// slot.clear();
/// assert!(!hazards.snapshot().contains(thing));
/// ```
#[derive(Clone, Debug)]
pub struct Hazards {
    pub(super) holders: MappedSlice<AtomicU64>,
    pub(super) groups: MappedSlice<Group>,
    /// Where the first group lies in the mapping.
    pub(super) groups_at: u64,
    pub(super) groups_a_seat: u32,
    #[cfg(shm_loom)]
    pub(super) is_unfenced: bool,
}

/// Why there are no rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HazardsError {
    /// Not between 1 and [`SLOTS_MAX`].
    #[error("hazard rows are for 1 to {SLOTS_MAX} participants, not {0}")]
    Seats(u32),
    /// Not between 1 and [`GROUPS_MAX`].
    #[error("a hazard row has 1 to {GROUPS_MAX} groups, not {0}")]
    Groups(u32),
    /// They do not fit into the mapping.
    #[error("the hazard rows do not lie in the mapping: {0}")]
    Place(#[from] BadPtr),
    /// The words in shared memory are not those of hazard rows.
    #[error("the memory at this offset holds no hazard rows, or those of another version")]
    NotHazards,
}

const fn groups_at(seats: u32) -> u64 {
    let holders = seats as u64 * size_of::<AtomicU64>() as u64;
    (size_of::<Head>() as u64 + holders).next_multiple_of(align_of::<Group>() as u64)
}

impl Hazards {
    /// Size of the rows of `seats` participants, each of `groups` groups, for laying out a segment.
    ///
    /// A row of so many groups serves so many threads of its process at a time.
    pub const fn bytes_for(seats: u32, groups: u32) -> u64 {
        let all = (seats as u64).saturating_mul(groups as u64);
        groups_at(seats).saturating_add(all.saturating_mul(size_of::<Group>() as u64))
    }

    /// Writes empty rows at `offset` of `mapping`, a multiple of 64.
    ///
    /// # Errors
    /// [`HazardsError`]. The mapping is as it was, or has a part of the rows in it.
    ///
    /// # Safety
    /// Nobody else accesses these bytes until the caller has published the rows.
    ///
    /// # If a process dies here
    /// The rows are not published, and their creator's successor writes them again.
    pub unsafe fn create(
        mapping: &Arc<Mapping>,
        offset: u64,
        seats: u32,
        groups: u32,
    ) -> Result<Hazards, HazardsError> {
        check(seats, groups)?;
        mapping.region().sub(offset, Hazards::bytes_for(seats, groups))?;
        for seat in 0..u64::from(seats) {
            let at = offset + size_of::<Head>() as u64 + seat * size_of::<AtomicU64>() as u64;
            let nobody = AtomicU64::new(Holder::NOBODY.to_bits());
            // SAFETY: the caller's promise.
            unsafe { Mapped::place(mapping, at, nobody) }?;
        }
        for group in 0..u64::from(seats) * u64::from(groups) {
            let at = offset + groups_at(seats) + group * size_of::<Group>() as u64;
            // SAFETY: the caller's promise.
            unsafe { Mapped::place(mapping, at, Group::new()) }?;
        }
        // SAFETY: the caller's promise.
        unsafe { Mapped::place(mapping, offset, Head::new(seats, groups)) }?;
        Hazards::attach(mapping, offset)
    }

    /// The rows at `offset` of `mapping`.
    ///
    /// # Errors
    /// [`HazardsError`] where there are no rows.
    pub fn attach(mapping: &Arc<Mapping>, offset: u64) -> Result<Hazards, HazardsError> {
        let head = Mapped::<Head>::new(mapping, offset)?;
        let (seats, groups) = head.read().ok_or(HazardsError::NotHazards)?;
        check(seats, groups)?;
        mapping.region().sub(offset, Hazards::bytes_for(seats, groups))?;
        fence::prepare();
        let (holders_at, groups_at) =
            (offset + size_of::<Head>() as u64, offset + groups_at(seats));
        let all = u64::from(seats) * u64::from(groups);
        Ok(Hazards {
            holders: MappedSlice::new(mapping, holders_at, u64::from(seats))?,
            groups: MappedSlice::new(mapping, groups_at, all)?,
            groups_at,
            groups_a_seat: groups,
            #[cfg(shm_loom)]
            is_unfenced: false,
        })
    }

    /// For a model of what readers see of a thing that is new, where nobody frees any: their
    /// announcements have no fence, which in loom orders more than it has to.
    #[cfg(shm_loom)]
    pub fn unfenced(self) -> Hazards {
        Hazards { is_unfenced: true, ..self }
    }

    /// Participants that have a row: those in slots below this number.
    pub fn seats(&self) -> u32 {
        self.holders.len() as u32
    }

    /// Groups a row: so many threads of a process may protect things at a time.
    pub fn groups(&self) -> u32 {
        self.groups_a_seat
    }

    /// Whose a seat's row is, living or dead; `None` where it is nobody's.
    pub fn holder(&self, seat: u32) -> Option<ParticipantId> {
        // Relaxed: the proof of a death orders what the dead one did.
        let holder = self.holders.get(seat as usize)?.load(Ordering::Relaxed);
        ParticipantId::from_bits(holder as u32)
    }

    /// Clears the row of a participant that is dead: what it protected is protected no more. A row
    /// that is nobody's, or another's who has the seat now, stays as it is.
    ///
    /// To be called in the `cleanup` of [`Table::reap`](crate::participants::Table::reap) and
    /// [`Table::join_with`](crate::participants::Table::join_with), where the death is proven and
    /// the seat nobody else's. It may be called again.
    ///
    /// # If a process dies here
    /// The row is cleared in part, and the next reaper clears it from the beginning.
    pub fn clear_row(&self, dead: ParticipantId) {
        let seat = dead.slot();
        let Some(holder) = self.holders.get(seat as usize) else { return };
        // Relaxed: the proof of the death orders what the dead one did.
        let before = holder.load(Ordering::Relaxed);
        if !Holder::from_bits(before).is(dead) {
            return;
        }
        self.row_groups(seat).iter().for_each(Group::clear);
        // Pairs with the Acquire in `each_announced`: what the dead one read, before its row is not
        // looked at.
        let (ok, err) = (Ordering::Release, Ordering::Relaxed);
        // Where it fails another reaper was here before.
        let _ = holder.compare_exchange(before, Holder::NOBODY.to_bits(), ok, err);
    }

    /// The groups of a seat that is there.
    pub(super) fn row_groups(&self, seat: u32) -> &[Group] {
        let count = self.groups_a_seat as usize;
        let first = seat as usize * count;
        &self.groups[first..first + count]
    }
}

fn check(seats: u32, groups: u32) -> Result<(), HazardsError> {
    if !(1..=SLOTS_MAX).contains(&seats) {
        return Err(HazardsError::Seats(seats));
    }
    if !(1..=GROUPS_MAX).contains(&groups) {
        return Err(HazardsError::Groups(groups));
    }
    Ok(())
}
