//! The words of the segment table in the control segment.
use shm_core::sync::AtomicU64;
use shm_core::{Reserved, shm_sync};

/// The head of the table.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `hint` | whoever claims a slot: the one after it | whoever looks for one | nothing: where to begin |
/// | `next` | whoever claims a ready slot: the one after it | whoever looks for one | nothing: where to begin |
/// | `filled` | who owns a slot of the chunk and had its pages filled: its bit; who owns all its slots and empties them: clear | who owns a slot of it; others as a hint | Release / Acquire of the bit; clear: the slots' words |
/// | `used` | who claims a ready slot: the chunk's bit; who looks for unused ones: 0 | who looks for unused ones | nothing: a policy |
/// | `pieces` | the creator; who has put memory behind one more | all | nothing: new memory is zero, which each slot's word orders by itself. It only grows; a number too high is found out by asking the system before it is believed |
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Head {
    pub(crate) hint: AtomicU64,
    pub(crate) pieces: AtomicU64,
    pub(crate) next: AtomicU64,
    pub(crate) filled: AtomicU64,
    pub(crate) used: AtomicU64,
    reserved: Reserved<3>,
}

/// One segment. All zero, as its memory is when new, it is free and has had no segment yet.
///
/// | field | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `state` | see [`Word`](super::word::Word); every change is one AcqRel compare-and-swap | all | itself |
/// | `size` | the creator, while `creating`, once it has made the object; who frees the slot (0) | who attached: bit 63 says that it can grow, bit 62 that it has a hole, bit 61 that it lies in the slot's own page; who removes the object: 0 says that its creator may not have made one | `state` |
///
/// Its attachments stand behind the slots of its piece: `words` consecutive `AtomicU64` a slot, one
/// bit a participant.
///
/// | bit | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | set | its participant, before it makes the epoch move | who looks for the last | `state` |
/// | clear | its participant, or the reaper of a dead one, after unmapping | the same | Release / Acquire of the bit |
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) state: AtomicU64,
    pub(crate) size: AtomicU64,
}

#[cfg(not(shm_loom))]
const _: () = assert!(size_of::<Head>() == 64 && size_of::<Slot>() == 16);

shm_sync!(Head { hint, pieces, next, filled, used, reserved });
shm_sync!(Slot { state, size });

impl Head {
    pub(super) fn new(pieces: u64) -> Head {
        let zero = || AtomicU64::new(0);
        Head {
            hint: zero(),
            pieces: AtomicU64::new(pieces),
            next: zero(),
            filled: zero(),
            used: zero(),
            reserved: Reserved::new(),
        }
    }
}

/// Tells this layout from others.
pub(crate) const FINGERPRINT: u64 = shm_core::layout::combine(&[
    shm_core::fingerprint!(Head {
        hint: AtomicU64,
        pieces: AtomicU64,
        next: AtomicU64,
        filled: AtomicU64,
        used: AtomicU64,
        reserved: Reserved<3>,
    }),
    shm_core::fingerprint!(Slot { state: AtomicU64, size: AtomicU64 }),
]);
