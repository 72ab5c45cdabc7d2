//! Guarded blocks as mappings, for the hostile tests.
#![allow(dead_code, reason = "each test file uses its part")]
use shm_core::mapping::Mapping;
use shm_testkit::liar::{Edge, Guarded};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No call of these tests takes so long unless it hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The block as a mapping, which keeps it.
pub(crate) fn mapping(block: &Guarded) -> Arc<Mapping> {
    let kept = block.clone();
    // SAFETY: the block is aligned to 64 bytes, lives as long as `kept`, and no reference leads to
    // it; those who lie to it have a mapping of their own.
    unsafe { Mapping::from_raw(block.base(), block.len(), Box::new(|_, _| drop(kept))) }
}

/// A block that holds `image`, flush with one of its guard pages, and its mapping.
pub(crate) fn guarded(image: &[u8], seed: u64) -> (Guarded, Arc<Mapping>) {
    let block = Guarded::holding(image, Edge::of(seed));
    let mapping = mapping(&block);
    (block, mapping)
}

/// A deadline near enough for thousands of them.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_micros(300)
}
