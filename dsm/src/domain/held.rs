//! What this process has of a domain's segments.
use super::error::AttachError;
use crate::control::{Control, GROWABLE, READY, SPARSE};
use crate::growth::Growth;
use crate::handle::SegmentHandle;
use crate::segment::{Attachment, elastic};
use shm_core::mapping::Mapping;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

/// What this process has of the domain.
#[derive(Default)]
pub(super) struct Mine {
    /// By slot: there from before our bit is set until after it is cleared.
    pub(super) held: HashMap<u32, Held, BySlot>,
    /// The only way to a memfd; kept for as long as the segment is alive, attached here or not.
    pub(super) descriptors: BTreeMap<SegmentHandle, OwnedFd>,
    /// Threads that wait until something is mapped or unmapped.
    pub(super) waiting: u32,
}

/// Slots are small numbers that this process and its peers give out: nothing to guard against.
pub(super) type BySlot = BuildHasherDefault<SlotHasher>;

#[derive(Default)]
pub(super) struct SlotHasher(u64);

impl Hasher for SlotHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, slot: u32) {
        // Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4).
        self.0 = (self.0 ^ u64::from(slot)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[derive(Clone)]
pub(super) struct Held {
    pub(super) handle: SegmentHandle,
    /// Dangles while it is being mapped or unmapped.
    pub(super) mapping: Weak<Mapping>,
    /// Once it was mapped.
    pub(super) attachment: Option<Arc<Attachment>>,
    /// In place of both, where it is attached read-only: nothing leads from it to a [`Segment`].
    pub(super) read_only: Weak<Mapping>,
    pub(super) kind: Kind,
}

/// What a segment's memory is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An object of one size.
    Fixed,
    /// An object with a head and a hole.
    Growable,
    /// A page of the control segment.
    Ready,
    /// An object with a hole, which is its user's affair.
    Sparse,
}

impl Kind {
    pub(super) fn of(size_word: u64) -> Kind {
        match size_word {
            _ if size_word & READY != 0 => Kind::Ready,
            _ if size_word & GROWABLE != 0 => Kind::Growable,
            _ if size_word & SPARSE != 0 => Kind::Sparse,
            _ => Kind::Fixed,
        }
    }

    /// What a slot says of an object of `len` bytes.
    pub(super) fn note(self, len: u64) -> u64 {
        match self {
            Kind::Fixed => len,
            Kind::Growable => len | GROWABLE,
            Kind::Ready => len | READY,
            Kind::Sparse => len | SPARSE,
        }
    }

    /// Whether `mapping` is what the slot says.
    pub(super) fn check(
        self,
        handle: SegmentHandle,
        mapping: &Arc<Mapping>,
        size_word: u64,
    ) -> Result<(), AttachError> {
        let (len, expected) = (mapping.len() as u64, size_word & !(GROWABLE | SPARSE));
        if len < expected {
            return Err(AttachError::Truncated { handle, len, expected });
        }
        let is_made = || self.growth(mapping).is_some_and(|growth| growth.is_made());
        let is_sane = self != Kind::Growable || is_made();
        if is_sane { Ok(()) } else { Err(AttachError::Corrupt(handle)) }
    }

    pub(super) fn growth(self, mapping: &Arc<Mapping>) -> Option<Growth> {
        if self != Kind::Growable {
            return None;
        }
        let pages_max = elastic::pages_max(mapping);
        (pages_max > 0).then(|| Growth::attach(mapping, 0, pages_max).ok()).flatten()
    }
}

impl Held {
    pub(super) fn nothing_yet(handle: SegmentHandle) -> Held {
        Held {
            handle,
            mapping: Weak::new(),
            attachment: None,
            read_only: Weak::new(),
            kind: Kind::Fixed,
        }
    }

    /// Whether a `Segment` is there.
    pub(super) fn is_attached(&self) -> bool {
        self.attachment.as_ref().is_some_and(|attachment| attachment.is_used())
    }
}

impl Mine {
    /// Closes descriptors of segments that are gone: their memory goes with the last.
    pub(super) fn sweep(&mut self, control: &Control) {
        self.descriptors.retain(|handle, _| control.is_alive(*handle));
    }
}
