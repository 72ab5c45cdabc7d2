//! Scanning: what may not be freed yet.
use super::shared::Holder;
use super::{Fencing, Hazards, fence};
use crate::sync::Ordering;
use std::io;

/// This process may not have the kernel fence the readers, and so cannot tell what they protect.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot look at what others protect, for membarrier(GLOBAL_EXPEDITED) fails: {0}; \
     allow the call, or make the rows with Fencing::Own"
)]
pub struct ScanError(io::Error);

/// What was protected at some moment after the scan began.
///
/// One that no scan has filled says of everything that it is protected.
#[derive(Clone, Debug, Default)]
pub struct Protected {
    /// Sorted, no two alike.
    values: Vec<u64>,
    is_whole: bool,
}

impl Hazards {
    /// All that is protected now.
    ///
    /// Call it *after* things were taken out of all places where they can be found. Of these, what
    /// is not in the answer may be freed: nobody uses it, nor can begin to. What is in it may be
    /// free at the next scan. Costs about a microsecond, so take a batch of things out first.
    ///
    /// # Errors
    /// [`ScanError`]: nothing is known, and nothing may be freed by this process.
    ///
    /// # If a process dies here
    /// Nothing was changed.
    pub fn snapshot(&self) -> Result<Protected, ScanError> {
        let mut protected = Protected::default();
        self.snapshot_into(&mut protected)?;
        Ok(protected)
    }

    /// As [`snapshot`](Hazards::snapshot), into memory that is there already.
    ///
    /// # Errors
    /// [`ScanError`]: `protected` then says of everything that it is protected.
    ///
    /// # If a process dies here
    /// Nothing was changed.
    pub fn snapshot_into(&self, protected: &mut Protected) -> Result<(), ScanError> {
        protected.is_whole = false;
        protected.values.clear();
        fence::heavy(self.fencing).map_err(ScanError)?;
        for (seat, holder) in (0..self.seats()).zip(self.holders.iter()) {
            // Pairs with the Releases in `Row::drop`, `clear_row` and `Row::take_group`: what was
            // read under announcements that we do not look at.
            let holder = Holder::from_bits(holder.load(Ordering::Acquire));
            if holder == Holder::NOBODY {
                continue;
            }
            for group in self.row_groups(seat).iter().take(holder.groups() as usize) {
                // Pairs with the Releases in `Slot::announce`, `Slot::clear` and `Group::clear`:
                // what was read under announcements that are gone.
                let values = group.slots.iter().map(|slot| slot.load(Ordering::Acquire));
                protected.values.extend(values.filter(|value| *value != 0));
            }
        }
        protected.values.sort_unstable();
        protected.values.dedup();
        protected.is_whole = true;
        Ok(())
    }

    /// Whether this process can scan: it fails only where the rows want the kernel's barrier
    /// ([`Fencing::Kernel`]) and the process may not call it.
    pub fn can_scan(&self) -> bool {
        self.fencing == Fencing::Own || fence::heavy(self.fencing).is_ok()
    }
}

impl Protected {
    /// Whether somebody protects `value`: then it must not be freed.
    pub fn contains(&self, value: u64) -> bool {
        !self.is_whole || self.values.binary_search(&value).is_ok()
    }

    /// How many different values are protected, as far as was looked.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether nothing is protected: a scan found nothing.
    pub fn is_empty(&self) -> bool {
        self.is_whole && self.values.is_empty()
    }

    /// The values, in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.values.iter().copied()
    }
}
