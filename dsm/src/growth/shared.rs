//! The head of a growable segment: its first page, before what users see.
use shm_core::participants::ParticipantId;
use shm_core::sync::AtomicU64;
use shm_core::{Reserved, shm_sync};

/// What the first eight bytes say: "shmgrow", version 1.
pub(super) const MAGIC: u64 = 0x7368_6d67_726f_7701;

/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `magic` | the creator, once | who attaches | the segment's `state` |
/// | `length` | the creator; then whoever grows or shrinks it, by compare-and-swap: see [`Length`] | all | itself |
///
/// The most it can be is no word here: each process takes it from the size of its own mapping.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Shared {
    pub(super) magic: AtomicU64,
    pub(super) length: AtomicU64,
    reserved: Reserved<6>,
}

#[cfg(not(shm_loom))]
const _: () = assert!(size_of::<Shared>() == 64);

shm_sync!(Shared { magic, length, reserved });

impl Shared {
    pub(super) fn new(pages: u32) -> Shared {
        Shared {
            magic: AtomicU64::new(MAGIC),
            length: AtomicU64::new(Length::settled(pages).0),
            reserved: Reserved::new(),
        }
    }
}

/// How long it is, and who is at changing that:
///
/// ```text
///  63                  32 31                 0
///  | owner: who is at it | pages that are there |
/// ```
///
/// Whoever the owner is, and whatever has become of him: the pages counted here are there, and
/// nobody but he touches those behind them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Length(pub(super) u64);

impl Length {
    pub(super) const fn settled(pages: u32) -> Length {
        Length(pages as u64)
    }

    pub(super) fn claimed(pages: u32, owner: ParticipantId) -> Length {
        Length(u64::from(owner.to_bits()) << 32 | u64::from(pages))
    }

    pub(super) fn pages(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn is_settled(self) -> bool {
        self.0 >> 32 == 0
    }

    /// `None` where nobody is at it; and for bits that no participant has.
    pub(super) fn owner(self) -> Option<ParticipantId> {
        ParticipantId::from_bits((self.0 >> 32) as u32)
    }
}

/// Tells this layout from others.
pub(crate) const FINGERPRINT: u64 = shm_core::layout::combine(&[shm_core::fingerprint!(Shared {
    magic: AtomicU64,
    length: AtomicU64,
    reserved: Reserved<6>,
})]);
