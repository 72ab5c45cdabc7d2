//! The words' values: which lap a slot is in, and who has taken it.

/// So many rows there can be.
pub(super) const ROWS_MAX: u32 = 1 << 22;

/// No count of slots or of bytes comes so far.
pub(super) const COUNTS_END: u64 = 1 << 62;

/// The number of the `index`-th of so many slots in `lap`, which may be a liar's.
pub(super) fn number(lap: u64, slots: u64, index: u64) -> u64 {
    lap.wrapping_mul(slots).wrapping_add(index) % COUNTS_END
}

/// What a slot says: the lap in bits 24–63, the row in bits 2–23, what it is in bits 0–1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot(u64);

/// What a [`Slot`] is in its lap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Nobody's yet. Where the record of the lap before ends is said still.
    Free,
    /// Of this row's record; the row says where that ends.
    Taken(u32),
    /// The same, and the slot says where it ends.
    Ready(u32),
}

impl Slot {
    pub(super) const fn free(lap: u64) -> Slot {
        Slot(lap << 24)
    }

    pub(super) fn taken(lap: u64, row: u32) -> Slot {
        Slot(lap << 24 | u64::from(row) << 2 | 1)
    }

    pub(super) fn ready(lap: u64, row: u32) -> Slot {
        Slot(lap << 24 | u64::from(row) << 2 | 2)
    }

    pub(super) const fn from_bits(bits: u64) -> Slot {
        Slot(bits)
    }

    pub(super) const fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) const fn lap(self) -> u64 {
        self.0 >> 24
    }

    /// `None` where somebody wrote nonsense.
    pub(super) fn state(self) -> Option<State> {
        let row = self.0 as u32 >> 2 & (ROWS_MAX - 1);
        match self.0 & 3 {
            0 if row == 0 => Some(State::Free),
            1 => Some(State::Taken(row)),
            2 => Some(State::Ready(row)),
            _ => None,
        }
    }

    /// Whose record it is of, where it is in this lap.
    pub(super) fn row_in(self, lap: u64) -> Option<u32> {
        match self.state() {
            Some(State::Taken(row) | State::Ready(row)) if self.lap() == lap => Some(row),
            _ => None,
        }
    }
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_on_from_lap_to_lap() {
        assert_eq!([number(0, 7, 6), number(1, 7, 0), number(3, 7, 5)], [6, 7, 26]);
        // A liar's lap among all slots that there can be.
        assert!(number(u64::MAX >> 24, u32::MAX.into(), 9) < COUNTS_END);
    }

    #[test]
    fn a_slot_says_what_it_was_made_of() {
        let laps = [0, 1, (1 << 40) - 1];
        for (lap, row) in
            laps.into_iter().flat_map(|lap| [0, 7, ROWS_MAX - 1].map(|row| (lap, row)))
        {
            let states = [
                (Slot::taken(lap, row), State::Taken(row), Some(row)),
                (Slot::ready(lap, row), State::Ready(row), Some(row)),
                (Slot::free(lap), State::Free, None),
            ];
            for (slot, state, of) in states {
                let slot = Slot::from_bits(slot.to_bits());
                assert_eq!((slot.lap(), slot.state(), slot.row_in(lap)), (lap, Some(state), of));
                assert_eq!(slot.row_in(lap + 1), None);
            }
        }
        assert_eq!((Slot::from_bits(3).state(), Slot::from_bits(4).state()), (None, None));
    }
}
