//! Where there is room for another file's entries.
use std::ops::Range;

/// The first of `wanted` lines that nobody has, one after the other, among `lines`; else how many
/// there are at most in one piece. Whatever ranges somebody wrote.
pub(super) fn first_fit(mut taken: Vec<Range<u64>>, lines: u64, wanted: u64) -> Result<u64, u64> {
    taken.sort_unstable_by_key(|range| range.start);
    taken.push(lines..lines);
    let (mut end, mut largest) = (0, 0);
    for range in taken {
        let gap = range.start.min(lines).saturating_sub(end);
        if gap >= wanted {
            return Ok(end);
        }
        (end, largest) = (range.end.max(end), gap.max(largest));
    }
    Err(largest)
}

#[cfg(all(test, not(any(shm_loom, shm_explore))))]
mod tests {
    use super::*;

    #[test]
    fn the_first_gap_that_is_large_enough_is_taken() {
        let taken = || vec![6..9, 0..2, 3..4];
        assert_eq!(first_fit(taken(), 12, 1), Ok(2));
        assert_eq!(first_fit(taken(), 12, 2), Ok(4));
        assert_eq!(first_fit(taken(), 12, 3), Ok(9));
        assert_eq!(first_fit(taken(), 12, 4), Err(3));
        assert_eq!(first_fit(Vec::new(), 12, 12), Ok(0));
        assert_eq!(first_fit(Vec::new(), 12, 13), Err(12));
    }

    #[test]
    fn ranges_that_overlap_or_lie_outside_do_no_harm() {
        let nonsense = || vec![0..9, 2..3, 4..11, u64::MAX - 1..u64::MAX, 40..50];
        assert_eq!(first_fit(nonsense(), 12, 1), Ok(11));
        assert_eq!(first_fit(nonsense(), 12, 2), Err(1));
        assert_eq!(first_fit(vec![40..50, 50..60], 12, 12), Ok(0));
    }
}
