//! A segment that this process can only read.
use super::{CheckError, check};
use crate::backend::ReadView;
use crate::growth::Growth;
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
    pub(super) mapping: Arc<Mapping>,
    pub(super) growth: Option<Growth>,
}

impl ReadOnlySegment {
    pub(crate) fn new(
        handle: SegmentHandle,
        mapping: Arc<Mapping>,
        growth: Option<Growth>,
    ) -> ReadOnlySegment {
        ReadOnlySegment { handle, mapping, growth }
    }

    /// What other processes attach to it by.
    pub fn handle(&self) -> SegmentHandle {
        self.handle
    }

    /// Size in bytes; of one that can grow, as it is now.
    pub fn len(&self) -> u64 {
        self.extent().1
    }

    /// Never, but for a growable segment whose head another process has overwritten.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes; of one that can grow, those that are there now.
    pub fn view(&self) -> ReadView<'_> {
        let (start, len) = self.extent();
        ReadView::new(&self.mapping).sub(start, len)
    }

    /// Asks the system whether all of it is there, as [`Segment::check`](crate::Segment::check).
    ///
    /// # Errors
    /// [`CheckError`].
    pub fn check(&self) -> Result<(), CheckError> {
        check(self.view().region())
    }
}
