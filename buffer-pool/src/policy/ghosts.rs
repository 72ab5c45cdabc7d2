//! Ghosts: what is remembered of pages that left the ring unused.
use shm_core::mapping::MappedSlice;
use shm_core::sync::{AtomicU32, Ordering};

/// A lifetime has so many ages, or as many as it has evictions.
const AGES: u64 = 256;

/// A table of marks, looked up in one place each; who comes later takes the place.
///
/// An entry is 16 bits of the page's hash, never zero, above 16 bits of age. It is stored plainly:
/// torn it cannot be, and lost or wrong it costs a page its short cut to the main clock, or gives
/// one to a page that has not earned it.
#[derive(Clone, Debug)]
pub(super) struct Ghosts {
    entries: MappedSlice<AtomicU32>,
    /// So many evictions after its own a ghost is forgotten.
    lifetime: u64,
    /// An age is 2 to this power of evictions.
    shift: u32,
}

impl Ghosts {
    /// `entries` are a power of two.
    pub(super) fn new(entries: MappedSlice<AtomicU32>, lifetime: u64) -> Ghosts {
        let shift = (lifetime / AGES).max(1).ilog2();
        Ghosts { entries, lifetime, shift }
    }

    /// The page of this tag left the ring as the `now`th.
    pub(super) fn remember(&self, tag: u64, now: u64) {
        let (at, mark) = self.place(tag);
        self.entries[at].store(mark << 16 | u32::from(self.age(now)), Ordering::Relaxed);
    }

    /// Whether the page of this tag left not long ago. It is forgotten then: it is back.
    pub(super) fn recall(&self, tag: u64, now: u64) -> bool {
        let (at, mark) = self.place(tag);
        let entry = self.entries[at].load(Ordering::Relaxed);
        let age = self.age(now).wrapping_sub(entry as u16);
        let is_known = entry >> 16 == mark && u64::from(age) << self.shift <= self.lifetime;
        if is_known {
            self.entries[at].store(0, Ordering::Relaxed);
        }
        is_known
    }

    fn age(&self, now: u64) -> u16 {
        (now >> self.shift) as u16
    }

    /// Where the tag's entry is, and its mark.
    fn place(&self, tag: u64) -> (usize, u32) {
        let hash = mix(tag);
        let at = hash as usize & (self.entries.len() - 1);
        (at, (hash >> 48).max(1) as u32)
    }
}

/// The last step of SplitMix64: any tag, also a block number, becomes bits that look random.
fn mix(tag: u64) -> u64 {
    let hash = (tag ^ tag >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
#[cfg(not(any(shm_loom, shm_explore)))]
mod tests {
    use super::*;
    use shm_core::mapping::Mapping;

    fn ghosts(lifetime: u64) -> Ghosts {
        let entries = MappedSlice::new(&Mapping::heap(4096), 0, 1024).unwrap();
        Ghosts::new(entries, lifetime)
    }

    #[test]
    fn a_ghost_is_recalled_once() {
        let ghosts = ghosts(100);
        ghosts.remember(7, 5);
        assert!(!ghosts.recall(8, 5));
        assert!(ghosts.recall(7, 5) && !ghosts.recall(7, 5));
    }

    #[test]
    fn ghosts_are_forgotten_in_time() {
        for (lifetime, now) in [(100, 0), (100_000, 12_345), (1000, u64::MAX - 500)] {
            let ghosts = ghosts(lifetime);
            let unit = 1 << ghosts.shift;
            ghosts.remember(7, now);
            assert!(!ghosts.recall(7, now.wrapping_add(lifetime + 2 * unit)));
            assert!(ghosts.recall(7, now.wrapping_add(lifetime - unit)), "{lifetime}");
        }
    }

    #[test]
    fn nothing_is_remembered_at_first() {
        let ghosts = ghosts(10);
        assert!((0..1000).all(|tag| !ghosts.recall(tag, 0)));
    }
}
