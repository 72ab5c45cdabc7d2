//! What is chosen when a segment is created.
use crate::backend::HugePages;
use crate::growth::page_size;

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
    /// Which pages to ask for. Who attaches asks for himself:
    /// [`DomainConfig::huge_pages`](crate::DomainConfig::huge_pages).
    pub huge_pages: HugePages,
    /// Whether to make the page tables' entries at once, so that no first touch takes a page fault
    /// in this process; its memory is there in any case. Where that cannot be, it is not done.
    pub prefault: bool,
}

impl SegmentOptions {
    /// One that can grow to `max_bytes`.
    pub fn growable(max_bytes: u64) -> SegmentOptions {
        SegmentOptions { max_bytes: Some(max_bytes), ..SegmentOptions::default() }
    }

    /// Whether a page of the control segment will do.
    pub(crate) fn fit_a_page(&self, size: u64) -> bool {
        let any_page = self.max_bytes.is_none() && self.huge_pages != HugePages::Pool;
        any_page && (1..=page_size()).contains(&size)
    }
}
