//! Scanning: what may not be freed yet.
use super::shared::Holder;
use super::{Hazards, fence};
use crate::sync::{AtomicU64, Ordering};

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
        let announced = (0..self.seats()).flat_map(|seat| self.announced(seat));
        announced.for_each(|(_, value)| protected.values.push(value));
        protected.values.sort_unstable();
        protected.values.dedup();
        protected.is_whole = true;
    }

    /// What the row of `seat` announces, [whoever](Hazards::holder) has it: nothing where there is
    /// no such seat. One word after the other, while others go on: a hint, for who shows it.
    pub fn row_values(&self, seat: u32) -> impl Iterator<Item = u64> + '_ {
        self.announced(seat).map(|(_, value)| value)
    }

    /// Whether a slot other than `mine` announces `value`, or did at some moment after the call.
    pub(super) fn is_announced_beside(&self, mine: &AtomicU64, value: u64) -> bool {
        fence::before_scan();
        let mut announced = (0..self.seats()).flat_map(|seat| self.announced(seat));
        announced.any(|(slot, seen)| seen == value && !std::ptr::eq(slot, mine))
    }

    /// The announcements of a row, and where they stand.
    fn announced(&self, seat: u32) -> impl Iterator<Item = (&AtomicU64, u64)> {
        // Pairs with the Releases in `Row::drop`, `clear_row` and `Row::take_group`: what was
        // read under announcements that we do not look at.
        let holder = self.holders.get(seat as usize).map(|word| word.load(Ordering::Acquire));
        let holder = Holder::from_bits(holder.unwrap_or(Holder::NOBODY.to_bits()));
        let groups = if holder == Holder::NOBODY { &[] } else { self.row_groups(seat) };
        let slots = groups.iter().take(holder.groups() as usize).flat_map(|group| &group.slots);
        // Pairs with the Releases in `Slot::announce`, `Slot::clear` and `Group::clear`: what was
        // read under announcements that are gone.
        slots.map(|slot| (slot, slot.load(Ordering::Acquire))).filter(|(_, value)| *value != 0)
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
