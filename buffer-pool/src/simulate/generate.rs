//! Traces made by rule, the same ones from the same seed.
use super::Trace;

/// Which page is accessed next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pattern {
    /// Every page equally often.
    Uniform,
    /// The `n`th most popular page in proportion to `n` to the power of minus this exponent.
    Zipf(f64),
    /// The same, exponent 0.99, where which pages are popular changes all the time: while the
    /// trace lasts, each page's popularity moves on through a fifth of all pages.
    Drift,
    /// Zipf with exponent 0.99, and between times a scan of a twentieth of all pages, one after the
    /// other: a fifth of all accesses.
    ZipfScans,
}

/// A trace of so many accesses to at most so many pages.
pub fn generate(pattern: Pattern, pages: u32, accesses: u32, seed: u64) -> Trace {
    let mut random = Random::new(seed);
    let pages = pages.max(1);
    let zipf = Zipf::new(pages, if let Pattern::Zipf(by) = pattern { by } else { 0.99 });
    let places = shuffled(pages, &mut random);
    let place = |rank: u32| places[rank as usize];
    let (mut scan, mut left) = (0, 0);
    let page = |now: u32| match pattern {
        Pattern::Uniform => random.below(pages.into()) as u32,
        Pattern::Zipf(_) => place(zipf.rank(&mut random)),
        Pattern::Drift => {
            let moved = u64::from(now) * u64::from(pages) / 5 / u64::from(accesses);
            let rank = u64::from(zipf.rank(&mut random));
            place(((rank + moved) % u64::from(pages)) as u32)
        }
        Pattern::ZipfScans => {
            let long = (pages / 20).max(1);
            if left == 0 && random.below(5 * u64::from(long)) < 1 {
                (scan, left) = (random.below(pages.into()) as u32, long);
            }
            if left == 0 {
                return place(zipf.rank(&mut random));
            }
            left -= 1;
            scan = (scan + 1) % pages;
            scan
        }
    };
    Trace::new((0..accesses).map(page).collect())
}

/// The pages in any order: popular ones are no neighbours.
fn shuffled(pages: u32, random: &mut Random) -> Vec<u32> {
    let mut places: Vec<u32> = (0..pages).collect();
    for at in (1..places.len()).rev() {
        places.swap(at, random.below(at as u64 + 1) as usize);
    }
    places
}

/// Ranks from 0, each with its chance.
struct Zipf {
    /// The chance of this rank or a smaller one.
    sums: Vec<f64>,
}

impl Zipf {
    fn new(pages: u32, exponent: f64) -> Zipf {
        let chances = (1..=pages).map(|rank| f64::from(rank).powf(-exponent));
        let sums = chances.scan(0.0, |sum, chance| {
            *sum += chance;
            Some(*sum)
        });
        Zipf { sums: sums.collect() }
    }

    fn rank(&self, random: &mut Random) -> u32 {
        let whole = self.sums.last().copied().unwrap_or_default();
        let at = random.unit() * whole;
        let rank = self.sums.partition_point(|sum| *sum <= at);
        rank.min(self.sums.len() - 1) as u32
    }
}

/// SplitMix64: the same numbers from the same seed, on every machine.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Less than `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// From 0 up to 1, which it never is.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERNS: [Pattern; 4] =
        [Pattern::Uniform, Pattern::Zipf(0.99), Pattern::Drift, Pattern::ZipfScans];

    #[test]
    fn the_same_seed_makes_the_same_trace() {
        for pattern in PATTERNS {
            let [one, same, other] = [1, 1, 2].map(|seed| generate(pattern, 500, 5000, seed));
            assert!(one == same && one != other, "{pattern:?}");
            assert!(one.accesses().len() == 5000 && one.distinct() <= 500, "{pattern:?}");
        }
    }

    #[test]
    fn no_page_and_no_access_are_no_failure() {
        for pattern in PATTERNS {
            assert_eq!(generate(pattern, 0, 0, 1).distinct(), 0);
            assert_eq!(generate(pattern, 0, 9, 1).distinct(), 1);
            assert!(generate(pattern, 3, 100, 1).distinct() <= 3);
        }
    }

    #[test]
    fn the_most_popular_page_of_zipf_is_met_as_often_as_it_should_be() {
        let trace = generate(Pattern::Zipf(1.0), 1000, 100_000, 3);
        let mut counts = vec![0u32; trace.distinct() as usize];
        trace.accesses().iter().for_each(|page| counts[*page as usize] += 1);
        counts.sort_unstable_by(|one, other| other.cmp(one));
        // The thousandth harmonic number is 7.485.
        assert!((12_800..13_900).contains(&counts[0]), "{}", counts[0]);
        assert!((6_300..7_100).contains(&counts[1]), "{}", counts[1]);
    }

    #[test]
    fn a_fifth_of_zipf_with_scans_is_scans() {
        let trace = generate(Pattern::ZipfScans, 1000, 100_000, 3);
        // A new number after its predecessor, or a page after its neighbour of the scan: count runs
        // that come again in the same order.
        let mut after = vec![std::collections::BTreeMap::<u32, u32>::new(); 1000];
        for pair in trace.accesses().windows(2) {
            *after[pair[0] as usize].entry(pair[1]).or_default() += 1;
        }
        let in_order: u32 = after.iter().filter_map(|next| next.values().max()).sum();
        assert!((14_000..30_000).contains(&in_order), "{in_order}");
    }
}
