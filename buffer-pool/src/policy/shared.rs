//! The words of a policy.
use super::Kind;
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use shm_core::{Reserved, shm_sync};

const MAGIC: u64 = u64::from_le_bytes(*b"shmkplc2");

/// The head of a policy. Behind it stand the use bytes, the slots of the ring and the ghosts.
///
/// | field | written by | read by | order, staleness |
/// | --- | --- | --- | --- |
/// | `magic`, `kind`, `frames` | who creates it, before the place is published | all, once, at attach | checked there, private from then on |
/// | `hand` | who sweeps: takes the next 64 frames by one addition | who sweeps; people | Relaxed; any number is a position |
/// | `tail` | who admits a page to the ring: takes a ticket by one addition | who looks for victims | Relaxed; may be stale, then the ring seems shorter |
/// | `head` | who looks for victims: takes tickets by compare-and-swap | who looks for victims, who asks a ghost | Relaxed; nonsense is put right by the next who looks |
/// | `vacant`: the first word of vacant frames that may have one | who takes one, who puts one back | who takes one | Relaxed; may be stale, then a frame waits for the hand |
/// | `limit` | who resizes the pool | who looks for victims, who admits | Relaxed; advice: the pool asks again |
/// | vacant frames, a bit each | who takes one, who puts one back, by one read-modify-write | who takes one | Relaxed; advice: who takes one claims it, and looks whether it has a page |
/// | use bytes, 8 a word | by compare-and-swap of the word: who hits, sweeps, admits | all | Relaxed; advice: see [`Use`] |
/// | slots of the ring: frame + 1, or 0 | who has the ticket | who has the ticket of that slot half a ring, or a ring, later | Relaxed; advice: a frame is in the ring if its use byte says so |
/// | ghosts: mark and age | who evicts from the ring, the last one wins | who admits | Relaxed; advice |
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Shared {
    magic: AtomicU64,
    kind: AtomicU32,
    frames: AtomicU32,
    pub(super) vacant: AtomicU64,
    pub(super) limit: AtomicU32,
    spare: AtomicU32,
    reserved: Reserved<12>,
    pub(super) hand: AtomicU64,
    reserved_hand: Reserved<15>,
    pub(super) tail: AtomicU64,
    reserved_tail: Reserved<15>,
    pub(super) head: AtomicU64,
    reserved_head: Reserved<15>,
}

#[cfg(not(shm_loom))]
const _: () = {
    assert!(size_of::<Shared>() == 512);
    assert!(core::mem::offset_of!(Shared, hand) == 128);
    assert!(core::mem::offset_of!(Shared, tail) == 256);
    assert!(core::mem::offset_of!(Shared, head) == 384);
};

shm_sync!(Shared {
    magic,
    kind,
    frames,
    vacant,
    limit,
    spare,
    reserved,
    hand,
    reserved_hand,
    tail,
    reserved_tail,
    head,
    reserved_head
});

impl Shared {
    pub(super) fn new(kind: Kind, frames: u32) -> Shared {
        Shared {
            magic: AtomicU64::new(MAGIC),
            kind: AtomicU32::new(kind.bits()),
            frames: AtomicU32::new(frames),
            vacant: AtomicU64::new(0),
            limit: AtomicU32::new(frames),
            spare: AtomicU32::new(0),
            reserved: Reserved::new(),
            hand: AtomicU64::new(0),
            reserved_hand: Reserved::new(),
            tail: AtomicU64::new(0),
            reserved_tail: Reserved::new(),
            head: AtomicU64::new(0),
            reserved_head: Reserved::new(),
        }
    }

    /// What it was made for; `None` where that is nonsense.
    pub(super) fn checked(&self) -> Option<(Kind, u32)> {
        let kind = Kind::from_bits(self.kind.load(Ordering::Relaxed))?;
        let frames = self.frames.load(Ordering::Relaxed);
        let is_ours = self.magic.load(Ordering::Relaxed) == MAGIC;
        (is_ours && (1..=super::FRAMES_MAX).contains(&frames)).then_some((kind, frames))
    }
}

/// The use byte of a frame: bits 0..3 how often it was used of late, bits 3..5 where it stands,
/// bits 5..7 how often the hand has met it while it was in the ring.
///
/// ```text
///   MAIN ──admit──► YOUNG ──half a ring of others later──► OLD ──leaves the ring──► MAIN
/// ```
///
/// Any byte has a meaning: counts above the greatest are the greatest, and a place that there is
/// not is `MAIN`. A zero is a frame of the main clock that nobody has used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Use(u8);

/// Where a frame stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Under the hand of the clock.
    Main,
    /// In the half of the ring where uses do not count.
    Young,
    /// In the other half.
    Old,
}

/// The hand meets a frame of the ring so often, and then takes it for lost.
pub(super) const MEETINGS_MAX: u8 = 3;

const COUNT: u8 = 0b111;
const PLACE: u32 = 3;
const MEETINGS: u32 = 5;

impl Use {
    /// A frame of the main clock, used `count` times.
    pub(super) const fn main(count: u8) -> Use {
        Use(count & COUNT)
    }

    pub(super) const YOUNG: Use = Use(1 << PLACE);
    pub(super) const OLD: Use = Use(2 << PLACE);

    /// A byte that may be anybody's.
    pub(super) const fn from_bits(bits: u8) -> Use {
        Use(bits)
    }

    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    pub(super) const fn count(self) -> u8 {
        self.0 & COUNT
    }

    pub(super) const fn place(self) -> Place {
        match self.0 >> PLACE & 0b11 {
            1 => Place::Young,
            2 => Place::Old,
            _ => Place::Main,
        }
    }

    /// Met by the hand once more, in the ring; lost, and so under the hand, if that was too often.
    pub(super) const fn met(self) -> Use {
        match self.0 >> MEETINGS & 0b11 {
            MEETINGS_MAX => Use::main(0),
            meetings => Use(self.0 & (COUNT | 0b11 << PLACE) | (meetings + 1) << MEETINGS),
        }
    }

    pub(super) const fn with_count(self, count: u8) -> Use {
        Use(self.0 & !COUNT | count & COUNT)
    }
}

/// Some of all use bytes: asked quickly.
#[derive(Debug)]
pub(super) struct UseSet([bool; 256]);

impl UseSet {
    /// Those that `is_in` says.
    pub(super) fn of(is_in: impl Fn(Use) -> bool) -> UseSet {
        UseSet(std::array::from_fn(|bits| is_in(Use::from_bits(bits as u8))))
    }

    #[inline]
    pub(super) const fn contains(&self, byte: Use) -> bool {
        self.0[byte.0 as usize]
    }
}

/// Frames to a word of use bytes.
pub(super) const FRAMES_A_WORD: u32 = 8;

/// The use byte of the `index`th frame of a word.
pub(super) const fn byte_of(word: u64, index: u32) -> Use {
    Use::from_bits((word >> (8 * index)) as u8)
}

/// `word` with another byte for its `index`th frame.
pub(super) const fn with_byte(word: u64, index: u32, byte: Use) -> u64 {
    word & !(0xff << (8 * index)) | (byte.bits() as u64) << (8 * index)
}

#[cfg(test)]
#[cfg(not(any(shm_loom, shm_explore)))]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_meaning() {
        for bits in 0..=u8::MAX {
            let byte = Use::from_bits(bits);
            assert!(byte.count() <= 7);
            let mut met = byte;
            for _ in 0..=MEETINGS_MAX {
                assert!([byte.place(), Place::Main].contains(&met.place()), "{bits:#b}");
                met = met.met();
            }
            assert_eq!(met.place(), Place::Main, "{bits:#b}");
            assert_eq!(byte.with_count(3).count(), 3);
            assert_eq!(byte.with_count(3).place(), byte.place());
        }
    }

    #[test]
    fn a_set_has_what_it_was_made_of() {
        let is_in = |byte: Use| byte.count() == 3 || byte.place() == Place::Old;
        let set = UseSet::of(is_in);
        let all = (0..=u8::MAX).map(Use::from_bits);
        assert!(all.into_iter().all(|byte| set.contains(byte) == is_in(byte)));
    }

    #[test]
    fn a_byte_leaves_its_neighbours_alone() {
        let word = 0x8877_6655_4433_2211;
        assert_eq!(byte_of(word, 0).bits(), 0x11);
        assert_eq!(byte_of(word, 7).bits(), 0x88);
        assert_eq!(with_byte(word, 7, Use::main(5)), 0x0577_6655_4433_2211);
        assert_eq!(with_byte(word, 2, Use::OLD), 0x8877_6655_4410_2211);
    }
}
