//! Pages of one pattern, and such as somebody left in the midst of a change, for their tests.
#![allow(dead_code, reason = "each test file uses its part")]
use buffer_pool::latch::Latches;
use buffer_pool::pages::{Exclusive, Page, Shape};
use shm_core::bytes::{Word, relaxed};
use shm_core::mapping::Mapping;
use shm_core::sync::{AtomicU64, Ordering::Relaxed};

pub(crate) const PAGE_BYTES: usize = 1024;
/// The latch of a frame, and its version in it.
const LATCH_BYTES: u64 = 64;
const VERSION_AT: u64 = 8;

/// Where a pattern is in a page: at words and across them, at both ends.
pub(crate) const PLACES: [std::ops::Range<usize>; 4] = [0..8, 13..35, 504..520, 1021..1024];

pub(crate) const fn shape(frames: u32, seats: u32, threads: u32) -> Shape {
    Shape { frames, seats, threads, page_bytes: PAGE_BYTES as u32 }
}

/// The value of a page that is whole: the same at all places.
pub(crate) fn value(page: &[u8]) -> Option<u8> {
    let mut bytes = PLACES.iter().flat_map(|place| &page[place.clone()]);
    let first = *bytes.next()?;
    bytes.all(|byte| *byte == first).then_some(first)
}

pub(crate) fn copy(page: &Page<'_>) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    page.copy_out(0, &mut bytes);
    bytes
}

/// Writes `value` at all places at once.
pub(crate) fn write(page: &mut Exclusive<'_>, value: u8) {
    let bytes = [value; PAGE_BYTES];
    let ranges = PLACES.map(|place| (place.start, &bytes[place]));
    page.write(&ranges).unwrap();
}

/// Has the last change of a page, whose latch is held still, be one that has not come to its end:
/// only words that `is_written` picks are written, and the others are as `before`.
pub(crate) fn tear(
    mapping: &Mapping,
    (pages_at, shape): (u64, Shape),
    frame: u32,
    before: &[u8],
    is_written: impl Fn(usize) -> bool,
) {
    let (region, frame) = (mapping.region(), u64::from(frame));
    let page_at = pages_at + frame * PAGE_BYTES as u64;
    let page: &[Word] = region.share_slice(page_at, before.len() as u64 / 8).unwrap();
    for (at, eight) in before.chunks_exact(8).enumerate().filter(|(at, _)| !is_written(*at)) {
        relaxed::copy_in(page, at * 8, eight);
    }
    let latches_at = pages_at + u64::from(shape.frames) * PAGE_BYTES as u64;
    let version_at = latches_at + frame * LATCH_BYTES + VERSION_AT;
    let version: &AtomicU64 = region.share(version_at).unwrap();
    version.store(version.load(Relaxed) - 1, Relaxed);
    assert_eq!(size_of_latches(shape, 2) - size_of_latches(shape, 1), LATCH_BYTES);
}

fn size_of_latches(Shape { seats, threads, .. }: Shape, frames: u32) -> u64 {
    Latches::bytes_for(buffer_pool::latch::Shape { frames, seats, threads })
}
