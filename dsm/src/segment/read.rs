//! A segment that this process can only read.
use super::{CheckError, check};
use crate::backend::ReadView;
use crate::handle::SegmentHandle;
use shm_core::mapping::Mapping;
use std::sync::Arc;

/// A segment, attached read-only ([`Domain::attach_read_only`](crate::Domain::attach_read_only)):
/// the memory is mapped without the right to write it, and there is no way to a reference into it.
///
/// Clones are the same attachment, which ends when the last of them is dropped. It keeps the
/// segment alive as any attachment does: the others see this process among the attached.
#[derive(Clone, Debug)]
pub struct ReadOnlySegment {
    handle: SegmentHandle,
    /// Unmapping it ends the attachment. Not to come into safe hands.
    mapping: Arc<Mapping>,
}

impl ReadOnlySegment {
    pub(crate) fn new(handle: SegmentHandle, mapping: Arc<Mapping>) -> ReadOnlySegment {
        ReadOnlySegment { handle, mapping }
    }

    /// What other processes attach to it by.
    pub fn handle(&self) -> SegmentHandle {
        self.handle
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Never: a segment has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.mapping.is_empty()
    }

    /// Its bytes.
    pub fn view(&self) -> ReadView<'_> {
        ReadView::new(&self.mapping)
    }

    /// Asks the system whether all of it is there, as [`Segment::check`](crate::Segment::check).
    ///
    /// # Errors
    /// [`CheckError`].
    pub fn check(&self) -> Result<(), CheckError> {
        check(&self.mapping)
    }
}
