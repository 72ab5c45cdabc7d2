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
        for seat in 0..self.seats() {
            self.each_announced(seat, |_, value| protected.values.push(value));
        }
        protected.values.sort_unstable();
        protected.values.dedup();
        protected.is_whole = true;
    }

    /// What the row of `seat` announces, [whoever](Hazards::holder) has it: nothing where there is
    /// no such seat. One word after the other, while others go on: a hint, for who shows it.
    pub fn row_values(&self, seat: u32) -> impl Iterator<Item = u64> + use<> {
        let mut values = Vec::new();
        self.each_announced(seat, |_, value| values.push(value));
        values.into_iter()
    }

    /// Whether a slot other than `mine` announces `value`, or did at some moment after the call.
    pub(super) fn is_announced_beside(&self, mine: &AtomicU64, value: u64) -> bool {
        fence::before_scan();
        let mut is_beside = false;
        for seat in 0..self.seats() {
            self.each_announced(seat, |slot, seen| {
                is_beside |= seen == value && !std::ptr::eq(slot, mine);
            });
        }
        is_beside
    }

    /// Each announcement of a row, and where it stands.
    fn each_announced(&self, seat: u32, mut each: impl FnMut(&AtomicU64, u64)) {
        let Some(holder) = self.holders.get(seat as usize) else { return };
        // Pairs with the Releases in `Row::drop`, `clear_row` and `Row::take_group`: what was
        // read under announcements that we do not look at.
        let holder = Holder::from_bits(holder.load(Ordering::Acquire));
        if holder == Holder::NOBODY {
            return;
        }
        for group in self.row_groups(seat).iter().take(holder.groups() as usize) {
            for slot in &group.slots {
                // Pairs with the Releases in `Slot::announce`, `Slot::clear` and `Group::clear`:
                // what was read under announcements that are gone.
                let value = slot.load(Ordering::Acquire);
                if value != 0 {
                    each(slot, value);
                }
            }
        }
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
