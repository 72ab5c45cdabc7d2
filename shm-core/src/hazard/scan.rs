//! Scanning: what may not be freed yet.
use super::shared::Holder;
use super::{Hazards, fence};
use crate::sync::Ordering;

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
    /// free at the next scan. Looks at every row in use, so take a batch of things out first.
    ///
    /// # If a process dies here
    /// Nothing was changed.
    pub fn snapshot(&self) -> Protected {
        let mut protected = Protected::default();
        self.snapshot_into(&mut protected);
        protected
    }

    /// As [`snapshot`](Hazards::snapshot), into memory that is there already.
    ///
    /// # If a process dies here
    /// Nothing was changed.
    pub fn snapshot_into(&self, protected: &mut Protected) {
        protected.values.clear();
        fence::before_scan();
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
