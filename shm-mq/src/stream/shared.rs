//! The words of a stream that lie in shared memory. The ring follows them.
use shm_core::event::EventCount;
use shm_core::sync::{AtomicU32, AtomicU64};
use shm_core::{Reserved, shm_sync};

/// "shmstrm" and the version of the layout.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"shmstrm\x01");

/// The state of a role nobody has opened yet.
pub(super) const CLOSED: u32 = 0;
/// The owner of the role has its handle.
pub(super) const OPEN: u32 = 1;
/// The handle is gone, or its owner left.
pub(super) const DETACHED: u32 = 2;

/// One of the two sides, as everybody sees it.
///
/// | word | written by | read by | ordered by |
/// | --- | --- | --- | --- |
/// | `owner` | whoever names the participant, once, from 0 | both sides | Release / Acquire: what the participant wrote to its seat before it was named |
/// | `state` | the owner: `OPEN` by one swap, `DETACHED` by one store | the other side | the sender's `DETACHED` is Release / Acquire: its last `written` |
///
/// A role is taken for good: a stream whose sender or receiver died ends with it.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Role {
    pub(super) owner: AtomicU32,
    pub(super) state: AtomicU32,
}

/// The head of a stream.
///
/// | word | written by | read by | ordered by | may be stale |
/// | --- | --- | --- | --- | --- |
/// | `magic`, `ring_bytes` | the creator, before anyone has the offset | who attaches | whatever handed the offset over | no |
/// | `sender`, `receiver` | see [`Role`] | | | |
/// | `written` | the sender | the receiver | Release / Acquire: the frames before it | yes: the receiver sees fewer frames |
/// | `arrived` | sleeping receiver, waking sender | | its own fences | |
/// | `read` | the receiver | the sender | Release / Acquire: the receiver's last look at the bytes before it | yes: the sender sees less room |
/// | `left` | sleeping sender, waking receiver | | its own fences | |
///
/// Each side keeps its own position privately and only tells it here. Positions run freely from 0
/// and are multiples of 8. The two hot words stand 128 bytes apart, and so does the ring.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Shared {
    pub(super) magic: AtomicU64,
    pub(super) ring_bytes: AtomicU64,
    pub(super) sender: Role,
    pub(super) receiver: Role,
    pad_0: Reserved<12>,
    /// Bytes ever published.
    pub(super) written: AtomicU64,
    /// The receiver sleeps here until something was published, or the sender came or went.
    pub(super) arrived: EventCount,
    pad_1: AtomicU32,
    pad_2: Reserved<14>,
    /// Bytes ever given back.
    pub(super) read: AtomicU64,
    /// The sender sleeps here until something was given back, or the receiver came or went.
    pub(super) left: EventCount,
    pad_3: AtomicU32,
    pad_4: Reserved<14>,
}

shm_sync!(Role { owner, state });
shm_sync!(Shared {
    magic,
    ring_bytes,
    sender,
    receiver,
    pad_0,
    written,
    arrived,
    pad_1,
    pad_2,
    read,
    left,
    pad_3,
    pad_4,
});

#[cfg(not(shm_loom))]
const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Shared>() == 384 && align_of::<Shared>() == 64);
    assert!(offset_of!(Shared, sender) == 16 && offset_of!(Shared, receiver) == 24);
    assert!(offset_of!(Shared, written) == 128 && offset_of!(Shared, arrived) == 136);
    assert!(offset_of!(Shared, read) == 256 && offset_of!(Shared, left) == 264);
};

impl Role {
    fn new() -> Role {
        Role { owner: AtomicU32::new(0), state: AtomicU32::new(CLOSED) }
    }
}

impl Shared {
    pub(super) fn new(ring_bytes: u64) -> Shared {
        Shared {
            magic: AtomicU64::new(MAGIC),
            ring_bytes: AtomicU64::new(ring_bytes),
            sender: Role::new(),
            receiver: Role::new(),
            pad_0: Reserved::new(),
            written: AtomicU64::new(0),
            arrived: EventCount::new(),
            pad_1: AtomicU32::new(0),
            pad_2: Reserved::new(),
            read: AtomicU64::new(0),
            left: EventCount::new(),
            pad_3: AtomicU32::new(0),
            pad_4: Reserved::new(),
        }
    }
}
