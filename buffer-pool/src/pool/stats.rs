//! What the sessions of a pool have done: each counts in a row of its own.
use super::shared::{COUNTS, Counts};
use shm_core::mapping::Mapped;
use shm_core::sync::Ordering;

/// What a session counts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    Hits,
    Reads,
    ReadErrors,
    Writes,
    WriteErrors,
    Evictions,
    Extended,
    Syncs,
    TakenOver,
    Waits,
    Cleaned,
    CleanedEnough,
    ReadCalls,
    Hints,
    Recycled,
}

/// What sessions have done with a pool, since it was made: those of all processes, the dead and the
/// gone as well.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct PoolStats {
    /// Pages that were found in the pool.
    pub hits: u64,
    /// Pages that were read in.
    pub reads: u64,
    /// Pages that could not be read, or were damaged.
    pub read_errors: u64,
    /// Pages that were written to their files.
    pub writes: u64,
    /// Pages that could not be written.
    pub write_errors: u64,
    /// Pages that gave way to others.
    pub evictions: u64,
    /// Blocks by which files were lengthened.
    pub extended: u64,
    /// Times that a file was synced.
    pub syncs: u64,
    /// Pages whose reading was taken over from a dead process.
    pub taken_over: u64,
    /// Times that somebody waited for a page that another was reading.
    pub waits: u64,
    /// Pages that were written before their frames were wanted, of `writes`.
    pub cleaned: u64,
    /// Times that a [`Writer`](super::Writer) stopped because it had written as many as it may.
    pub cleaned_enough: u64,
    /// Times that a file was read for `reads` and `read_errors`: one reads several neighbours.
    pub read_calls: u64,
    /// Times that the system was told what would be read.
    pub hints: u64,
    /// Pages that gave way to others of the same [ring](super::Bulk), of `evictions`.
    pub recycled: u64,
}

impl PoolStats {
    /// Of the pages that were asked for, the share that was there: 0 to 1, and 0 where none was
    /// asked for.
    pub fn hit_ratio(&self) -> f64 {
        let asked = self.hits as f64 + self.reads as f64;
        if asked == 0.0 { 0.0 } else { self.hits as f64 / asked }
    }

    fn of(counts: &[u64; COUNTS]) -> PoolStats {
        let of = |count: Count| counts[count as usize];
        PoolStats {
            hits: of(Count::Hits),
            reads: of(Count::Reads),
            read_errors: of(Count::ReadErrors),
            writes: of(Count::Writes),
            write_errors: of(Count::WriteErrors),
            evictions: of(Count::Evictions),
            extended: of(Count::Extended),
            syncs: of(Count::Syncs),
            taken_over: of(Count::TakenOver),
            waits: of(Count::Waits),
            cleaned: of(Count::Cleaned),
            cleaned_enough: of(Count::CleanedEnough),
            read_calls: of(Count::ReadCalls),
            hints: of(Count::Hints),
            recycled: of(Count::Recycled),
        }
    }
}

/// One session's row.
#[derive(Debug)]
pub(super) struct Tally {
    row: Mapped<Counts>,
}

impl Tally {
    pub(super) fn new(row: Mapped<Counts>) -> Tally {
        Tally { row }
    }

    pub(super) fn stats(&self) -> PoolStats {
        sum(std::slice::from_ref(&self.row))
    }

    #[inline]
    pub(super) fn add(&self, count: Count, more: u64) {
        let word = &self.row.counts[count as usize];
        // Relaxed: nobody else writes it, and it orders nothing.
        word.store(word.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }
}

/// The sum of all rows.
pub(super) fn sum(rows: &[Counts]) -> PoolStats {
    let mut sums = [0_u64; COUNTS];
    for row in rows {
        for (sum, word) in sums.iter_mut().zip(&row.counts) {
            *sum = sum.wrapping_add(word.load(Ordering::Relaxed));
        }
    }
    PoolStats::of(&sums)
}
