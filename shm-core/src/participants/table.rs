//! `Table`: one process's view of the participants.
use super::claim::{Claim, Seat};
use super::id::{Generation, ParticipantId, SLOTS_MAX};
use super::shared::{Head, Life, Slot};
use crate::mapping::{Mapped, MappedSlice, Mapping};
use crate::process::{ForkGuard, Liveness, Namespaces, ProcessId};
use crate::sync::{Ordering, fence};
use relptr::BadPtr;
use std::io;
use std::sync::Arc;

/// The table of attached processes, seen by one of them. See the [module](super).
///
/// ```
/// use shm_core::mapping::Mapping;
/// use shm_core::participants::Table;
/// use shm_core::process::Liveness;
///
/// let mapping = Mapping::heap(Table::bytes_for(8) as usize); // a shared mapping in real life
/// // SAFETY: nobody else has the mapping.
/// let table = unsafe { Table::create(&mapping, 0, 8) }.unwrap();
/// let member = table.join().unwrap();
/// let id = member.id();
/// assert_eq!(table.liveness(id), Liveness::Alive);
/// drop(member);
/// assert_eq!(table.liveness(id), Liveness::Dead);
/// ```
#[derive(Clone, Debug)]
pub struct Table {
    slots: MappedSlice<Slot>,
    /// Where pids and start times of this table have their meaning.
    namespaces: Namespaces,
    /// Whether that is where the process lived that attached, and which process it was.
    home: bool,
    attached_by: ForkGuard,
}

/// Why a table could not be created or attached.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Not between 1 and [`SLOTS_MAX`].
    #[error("a participant table has 1 to {SLOTS_MAX} slots, not {0}")]
    Slots(u32),
    /// It does not fit into the mapping.
    #[error("the participant table does not lie in the mapping: {0}")]
    Place(#[from] BadPtr),
    /// The creator's namespaces are unknown.
    #[error(
        "cannot tell this process's namespaces from /proc: {0}; \
         mount it, or free a descriptor (ulimit -n)"
    )]
    Proc(io::Error),
}

/// One slot in use, as it was at some moment of [`Table::snapshot`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParticipantInfo {
    /// The participant; being reaped, it is the dead one.
    pub id: ParticipantId,
    /// What the slot is used for.
    pub seat: Seat,
    /// The member, or its reaper.
    pub process: ProcessId,
    /// Whether that process lives.
    pub liveness: Liveness,
    /// Whether a thread holds the life word: if not, its death is noticed by looking, ten times a
    /// second.
    pub held: bool,
}

impl Table {
    /// Size of a table, for laying out a segment.
    pub const fn bytes_for(slots: u32) -> u64 {
        size_of::<Head>() as u64 + slots as u64 * size_of::<Slot>() as u64
    }

    /// Writes an empty table at `offset` of `mapping`.
    ///
    /// # Errors
    /// [`TableError`]. The mapping is as it was, or has a part of a table in it.
    ///
    /// # Safety
    /// Nobody else accesses these bytes until the caller has published the table.
    ///
    /// # If a process dies here
    /// The table is not published, and its creator's successor writes it again.
    pub unsafe fn create(
        mapping: &Arc<Mapping>,
        offset: u64,
        slots: u32,
    ) -> Result<Table, TableError> {
        if !(1..=SLOTS_MAX).contains(&slots) {
            return Err(TableError::Slots(slots));
        }
        mapping.region().sub(offset, Table::bytes_for(slots))?;
        let home = Namespaces::mine().map_err(TableError::Proc)?;
        // SAFETY: the caller's promise.
        unsafe { Mapped::place(mapping, offset, Head::new(slots, home)) }?;
        for slot in 0..slots {
            let at = offset + Table::bytes_for(slot);
            // SAFETY: the caller's promise.
            unsafe { Mapped::place(mapping, at, Slot::new()) }?;
        }
        Table::attach(mapping, offset)
    }

    /// The table at `offset` of `mapping`.
    ///
    /// # Errors
    /// [`TableError::Slots`], [`TableError::Place`] where there is no table.
    pub fn attach(mapping: &Arc<Mapping>, offset: u64) -> Result<Table, TableError> {
        let head = Mapped::<Head>::new(mapping, offset)?;
        let count = head.slots.load(Ordering::Relaxed);
        if !(1..=SLOTS_MAX).contains(&count) {
            return Err(TableError::Slots(count));
        }
        let namespaces = Namespaces {
            pid: head.pid_namespace.load(Ordering::Relaxed),
            time: head.time_namespace.load(Ordering::Relaxed),
        };
        let first = offset + Table::bytes_for(0);
        let slots = MappedSlice::new(mapping, first, u64::from(count))?;
        let attached_by = ForkGuard::new();
        let home = Namespaces::mine().is_ok_and(|mine| mine == namespaces);
        Ok(Table { slots, namespaces, home, attached_by })
    }

    /// How many participants there can be at a time.
    pub fn capacity(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Whether `id` is still attached and its process lives.
    ///
    /// `Dead` is a proof, for a participant that died, that left, or that never was; its last words
    /// are visible to the caller.
    pub fn liveness(&self, id: ParticipantId) -> Liveness {
        let Some(slot) = self.slot(id) else { return Liveness::Dead };
        // Pairs with the fence in `Table::join_with`, before its member wrote the name that the
        // caller has read. Without it one who has just come might seem never to have been.
        fence(Ordering::Acquire);
        // Pairs with the Release in `Table::join_with`, `reap_slot` and `vacate`: who sees a later
        // claim sees that the generation has moved on.
        let claim = Claim::from_bits(slot.claim.load(Ordering::Acquire));
        if !slot.is_still(id) {
            return Liveness::Dead;
        }
        match (claim.seat(), claim.process()) {
            (Seat::Free | Seat::Reaping, _) => Liveness::Dead,
            (_, Some(process)) => self.certify(process),
            (_, None) => Liveness::Unknown,
        }
    }

    /// Whether the life word of `id` says that it lives: a few loads. The kernel marks it at a
    /// death, but may lack the chance, so now and then ask for its [`liveness`](Table::liveness)
    /// all the same; and where this says no, for that is no proof.
    pub(crate) fn looks_alive(&self, id: ParticipantId) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        // Pairs with the Release of the slot's next user (`Keeper`): who sees that one's word sees
        // that `id` has gone.
        let life = Life(slot.life.load(Ordering::Acquire));
        life.is_held() && slot.is_still(id)
    }

    /// Whether the seat of `id` has been given up: by itself, or by who cleaned up after it. Nobody
    /// acts in its name any more, and all that was done in it is visible to the caller.
    pub fn has_left(&self, id: ParticipantId) -> bool {
        self.slot(id).is_some_and(|slot| !slot.is_still(id))
    }

    /// The slots in use. Others join, leave and die meanwhile.
    pub fn snapshot(&self) -> Vec<ParticipantInfo> {
        (0..self.capacity()).filter_map(|index| self.look_at(index)).collect()
    }

    fn look_at(&self, index: u32) -> Option<ParticipantInfo> {
        let slot = &self.slots[index as usize];
        // Pairs with the Releases that `liveness` names.
        let claim = Claim::from_bits(slot.claim.load(Ordering::Acquire));
        let process = claim.process()?;
        let generation = Generation::from_word(slot.generation.load(Ordering::Relaxed));
        Some(ParticipantInfo {
            id: ParticipantId::new(index, generation),
            seat: claim.seat(),
            process,
            liveness: self.certify(process),
            held: Life(slot.life.load(Ordering::Relaxed)).is_held(),
        })
    }

    /// Whether every slot is free: nobody attached, and nobody dead to clean up after.
    pub fn is_empty(&self) -> bool {
        // Pairs with the Release in `vacate`: what they did before leaving.
        self.slots.iter().all(|s| s.claim.load(Ordering::Acquire) == Claim::FREE.to_bits())
    }

    pub(super) fn slots(&self) -> &MappedSlice<Slot> {
        &self.slots
    }

    pub(super) fn slot(&self, id: ParticipantId) -> Option<&Slot> {
        self.slots.get(id.slot() as usize)
    }

    pub(super) fn namespaces(&self) -> Namespaces {
        self.namespaces
    }

    /// The same table, for a caller who has just found that it lives where the table's pids mean
    /// something.
    pub(super) fn at_home(&self) -> Table {
        Table { home: true, attached_by: ForkGuard::new(), ..self.clone() }
    }

    /// Whether the caller lives where the pids of this table mean something: asked again after a
    /// fork, for the child may have been born into another pid namespace.
    pub(super) fn is_home(&self) -> bool {
        match self.attached_by.check() {
            Ok(()) => self.home,
            Err(_) => Namespaces::mine().is_ok_and(|mine| mine == self.namespaces),
        }
    }

    /// Whether a process named in this table lives.
    pub(super) fn certify(&self, process: ProcessId) -> Liveness {
        if self.is_home() { process.liveness() } else { Liveness::Unknown }
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;
    use shm_testkit::child::Child;
    use shm_testkit::fault::trial;
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(60);

    fn is_at_home(_: &[String]) {
        let mapping = Mapping::heap(Table::bytes_for(1) as usize);
        // SAFETY: nobody else has the mapping.
        let table = unsafe { Table::create(&mapping, 0, 1) }.unwrap();
        assert!(table.is_home());
        assert!(Table { home: false, ..table.clone() }.at_home().is_home());
        let forked = trial(LIMIT, || {
            assert!(table.attached_by.check().is_err(), "that was the parent");
            assert!(table.at_home().attached_by.check().is_ok());
        });
        assert!(forked.is_success(), "{}", forked.stderr);
    }
    shm_testkit::children! { is_at_home }

    #[test]
    fn who_has_found_itself_at_home_need_not_ask_again() {
        Child::spawn("is_at_home", &[]).wait(2 * LIMIT).assert_success();
    }
}
