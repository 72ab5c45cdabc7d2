//! The number by which processes tell each other about a segment.
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// Slots are numbered in so many bits.
const SLOT_BITS: u32 = 24;
/// Generations count from 1 in so many bits, and start over at 1.
const GENERATION_BITS: u32 = 29;
/// The last generation before 1 comes again.
pub(crate) const GENERATION_MAX: u32 = (1 << GENERATION_BITS) - 1;

/// Names one segment of a domain: a slot of the control segment, and how many segments had that
/// slot before. So it leads to the slot directly, and a handle to a segment that is gone finds
/// nothing, even where another segment has moved in.
///
/// Travels as a `u64` (never 0) or as text.
///
/// ```
/// use dsm::SegmentHandle;
/// let handle = SegmentHandle::from_bits(0x100_0005).unwrap();
/// assert_eq!(handle.to_string().parse(), Ok(handle));
/// assert!(SegmentHandle::from_bits(0).is_none());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentHandle(NonZeroU64);

impl SegmentHandle {
    pub(crate) fn new(slot: u32, generation: u32) -> SegmentHandle {
        assert!(slot < 1 << SLOT_BITS, "slots are numbered in {SLOT_BITS} bits");
        assert!(0 < generation && generation <= GENERATION_MAX, "generations count from 1");
        let bits = u64::from(generation) << SLOT_BITS | u64::from(slot);
        SegmentHandle(NonZeroU64::new(bits).expect("the generation is not zero"))
    }

    pub(crate) fn slot(self) -> u32 {
        (self.0.get() & ((1 << SLOT_BITS) - 1)) as u32
    }

    pub(crate) fn generation(self) -> u32 {
        (self.0.get() >> SLOT_BITS) as u32
    }

    /// The handle as a number, never 0.
    pub fn to_bits(self) -> u64 {
        self.0.get()
    }

    /// The handle that [`to_bits`](SegmentHandle::to_bits) gave; `None` for what it never gives.
    pub fn from_bits(bits: u64) -> Option<SegmentHandle> {
        let generation = bits >> SLOT_BITS;
        let valid = 0 < generation && generation <= u64::from(GENERATION_MAX);
        NonZeroU64::new(bits).filter(|_| valid).map(SegmentHandle)
    }
}

impl fmt::Display for SegmentHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The text is not a segment handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a segment handle")]
pub struct ParseHandleError;

impl FromStr for SegmentHandle {
    type Err = ParseHandleError;

    fn from_str(text: &str) -> Result<SegmentHandle, ParseHandleError> {
        let bits = u64::from_str_radix(text, 16).map_err(|_| ParseHandleError)?;
        SegmentHandle::from_bits(bits).ok_or(ParseHandleError)
    }
}
