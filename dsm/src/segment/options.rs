//! What is chosen when a segment is created.

/// How to make a segment ([`Domain::create_segment_with`](crate::Domain::create_segment_with)).
///
/// ```
/// use dsm::SegmentOptions;
/// assert_eq!(SegmentOptions::growable(1 << 30).max_bytes, Some(1 << 30));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentOptions {
    /// The most bytes it can ever have, for one that is to grow ([`Segment::grow`]): so much of the
    /// address space is reserved by each process that attaches, and no memory. `None`: its size is
    /// final. Only `posix`, `mmap` and `memfd` can grow.
    ///
    /// [`Segment::grow`]: crate::Segment::grow
    pub max_bytes: Option<u64>,
}

impl SegmentOptions {
    /// One that can grow to `max_bytes`.
    pub fn growable(max_bytes: u64) -> SegmentOptions {
        SegmentOptions { max_bytes: Some(max_bytes) }
    }
}
