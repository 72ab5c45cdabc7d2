//! Policies over traces of page accesses, without any page.
//!
//! [`shipping`] runs the code of [`policy`](crate::policy) itself, over frames that hold nothing;
//! [`lru`], [`clock5`] and [`optimum`] are plain models in private memory, to compare it with. All
//! tell how many accesses found their page.

// Least recently used, PostgreSQL's clock, and Belady's optimum.
mod plain;

// Traces made by rule.
mod generate;

// The code that ships.
mod shipping;

pub use generate::{Pattern, generate};
pub use plain::{clock5, lru, optimum};
pub use shipping::{shipping, victims_of};

/// Pages in the order of their accesses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    accesses: Vec<u32>,
    distinct: u32,
}

impl Trace {
    /// The trace of these accesses. Pages are numbered anew, in the order of first use.
    pub fn new(mut accesses: Vec<u32>) -> Trace {
        let mut numbers = std::collections::HashMap::new();
        for page in &mut accesses {
            let next = numbers.len() as u32;
            *page = *numbers.entry(*page).or_insert(next);
        }
        Trace { accesses, distinct: numbers.len() as u32 }
    }

    /// The accesses.
    pub fn accesses(&self) -> &[u32] {
        &self.accesses
    }

    /// How many pages there are: each access is to one of a smaller number.
    pub fn distinct(&self) -> u32 {
        self.distinct
    }

    /// A pool of so many hundredths of the pages, and of one frame at least.
    pub fn frames(&self, percent: f64) -> u32 {
        ((f64::from(self.distinct) * percent / 100.0).round() as u32).max(1)
    }
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Accesses that found their page.
    pub hits: u64,
    /// Accesses in all.
    pub accesses: u64,
}

impl Outcome {
    /// Hits in a hundred accesses; of no access, 0.
    pub fn percent(&self) -> f64 {
        if self.accesses == 0 { 0.0 } else { self.hits as f64 * 100.0 / self.accesses as f64 }
    }

    fn of(accesses: &[u32], mut hit: impl FnMut(u32) -> bool) -> Outcome {
        let hits = accesses.iter().filter(|page| hit(**page)).count() as u64;
        Outcome { hits, accesses: accesses.len() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_numbered_in_the_order_of_first_use() {
        let trace = Trace::new(vec![9, 4, 9, u32::MAX, 4]);
        assert_eq!((trace.accesses(), trace.distinct()), (&[0, 1, 0, 2, 1][..], 3));
        assert_eq!([0.0, 33.0, 100.0].map(|percent| trace.frames(percent)), [1, 1, 3]);
    }

    #[test]
    fn no_access_is_no_hit() {
        assert_eq!(Outcome::default().percent(), 0.0);
    }
}
