//! `ParticipantId`: a slot of the table and which of its users.
use std::fmt;
use std::num::NonZeroU32;

/// A table has at most so many slots.
pub const SLOTS_MAX: u32 = 1 << SLOT_BITS;

const SLOT_BITS: u32 = 10;
const GENERATION_BITS: u32 = 32 - SLOT_BITS;
const GENERATION_MAX: u32 = (1 << GENERATION_BITS) - 1;

/// A participant, in 32 bits that are never 0: slot 10 bits | generation 22 bits.
///
/// The generation (1 to 4,194,303, then 1 again) tells the slot's present user from earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParticipantId(NonZeroU32);

impl ParticipantId {
    pub(super) fn new(slot: u32, generation: Generation) -> ParticipantId {
        let bits = slot << GENERATION_BITS | generation.0.get();
        // A generation is not 0, so neither is this.
        ParticipantId(NonZeroU32::new(bits).unwrap_or(generation.0))
    }

    /// Its slot, below [`SLOTS_MAX`]: the bit or row that is its own in sets and tables.
    pub fn slot(self) -> u32 {
        self.0.get() >> GENERATION_BITS
    }

    /// Which user of the slot.
    pub fn generation(self) -> u32 {
        self.0.get() & GENERATION_MAX
    }

    /// As one word, not 0.
    pub fn to_bits(self) -> u32 {
        self.0.get()
    }

    /// Reads a word that may be anybody's. `None` for 0 and for generation 0; whether the
    /// participant exists is for the table to say.
    pub fn from_bits(bits: u32) -> Option<ParticipantId> {
        let id = ParticipantId(NonZeroU32::new(bits)?);
        (id.generation() != 0).then_some(id)
    }
}

impl fmt::Debug for ParticipantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParticipantId({self})")
    }
}

impl fmt::Display for ParticipantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot(), self.generation())
    }
}

/// What a slot's generation word says, whoever wrote it: 1 to 4,194,303.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Generation(NonZeroU32);

impl Generation {
    pub(super) const FIRST: Generation = Generation(NonZeroU32::MIN);

    pub(super) fn from_word(word: u32) -> Generation {
        NonZeroU32::new(word & GENERATION_MAX).map_or(Generation::FIRST, Generation)
    }

    pub(super) fn of(id: ParticipantId) -> Generation {
        Generation::from_word(id.to_bits())
    }

    pub(super) fn next(self) -> Generation {
        Generation::from_word(self.0.get() + 1)
    }

    pub(super) fn to_word(self) -> u32 {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_as_slot_and_generation() {
        assert_eq!(SLOTS_MAX, 1 << 10);
        assert_eq!(GENERATION_MAX, 4_194_303);
        let id = ParticipantId::new(3, Generation::FIRST);
        assert_eq!(
            (id.to_string(), format!("{id:?}")),
            ("3.1".into(), "ParticipantId(3.1)".into())
        );
    }

    #[test]
    fn generations_wrap_past_zero() {
        let last = Generation::from_word(GENERATION_MAX);
        assert_eq!(last.next(), Generation::FIRST);
        assert_eq!(Generation::FIRST.next().to_word(), 2);
        assert_eq!(Generation::from_word(0), Generation::FIRST, "nonsense in the word");
        assert_eq!(Generation::from_word(u32::MAX), last);
    }

    #[test]
    fn packs_and_unpacks_its_limits() {
        for slot in [0, 1, SLOTS_MAX - 1] {
            for generation in [1, 2, GENERATION_MAX] {
                let id = ParticipantId::new(slot, Generation::from_word(generation));
                assert_eq!((id.slot(), id.generation()), (slot, generation));
                assert_eq!(ParticipantId::from_bits(id.to_bits()), Some(id));
            }
        }
        assert_eq!(ParticipantId::from_bits(0), None);
        assert_eq!(ParticipantId::from_bits(3 << GENERATION_BITS), None, "generation 0");
    }
}
