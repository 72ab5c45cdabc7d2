//! The claim word: what a slot is, and for whom.
use crate::process::ProcessId;

/// state 2 bits | pid 22 | start time 40. All zero: free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Claim(u64);

/// What a slot is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seat {
    /// By nobody.
    Free,
    /// A process is about to be a member.
    Joining,
    /// A member.
    Live,
    /// The process named cleans up after a dead one.
    Reaping,
}

impl Claim {
    pub(super) const FREE: Claim = Claim(0);

    pub(super) fn new(seat: Seat, process: ProcessId) -> Claim {
        Claim((seat as u64) << ProcessId::BITS | process.to_bits())
    }

    pub(super) fn from_bits(bits: u64) -> Claim {
        Claim(bits)
    }

    pub(super) fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) fn seat(self) -> Seat {
        match self.0 >> ProcessId::BITS {
            0 => Seat::Free,
            1 => Seat::Joining,
            2 => Seat::Live,
            _ => Seat::Reaping,
        }
    }

    /// Who has the slot. `None` where it is free, and where somebody wrote nonsense.
    pub(super) fn process(self) -> Option<ProcessId> {
        if self.seat() == Seat::Free {
            return None;
        }
        ProcessId::from_bits(self.0 & ((1 << ProcessId::BITS) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_and_for_whom() {
        let process = ProcessId::new((1 << 22) - 1, (1 << 40) - 1).unwrap();
        for seat in [Seat::Joining, Seat::Live, Seat::Reaping] {
            let claim = Claim::from_bits(Claim::new(seat, process).to_bits());
            assert_eq!((claim.seat(), claim.process()), (seat, Some(process)));
        }
        assert_eq!((Claim::FREE.seat(), Claim::FREE.process()), (Seat::Free, None));
        assert_eq!(Claim::from_bits(process.to_bits()).process(), None, "nonsense");
        assert_eq!(Claim::from_bits(2 << 62 | 99).process(), None, "live, but pid 0");
    }
}
