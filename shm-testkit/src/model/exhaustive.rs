//! Every interleaving within a preemption bound, every death.
use super::death::Deaths;
use super::run::{Tried, is_deep};
use super::runtime;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The preemption bound of ordinary runs; `SHM_DEEP=1` raises it to 3.
pub fn preemption_bound() -> usize {
    if is_deep() { 3 } else { 2 }
}

/// Explores every interleaving of `scenario` at the [`preemption_bound`].
///
/// # Panics
/// Where an execution panics, deadlocks or breaks causality.
pub fn check(scenario: impl Fn() + Send + Sync + 'static) -> Tried {
    check_bounded(Some(preemption_bound()), scenario)
}

/// Explores `scenario` with at most `bound` preemptions an execution (`None`: any number).
///
/// # Panics
/// Where an execution panics, deadlocks or breaks causality.
pub fn check_bounded(bound: Option<usize>, scenario: impl Fn() + Send + Sync + 'static) -> Tried {
    let executions = Arc::new(AtomicU64::new(0));
    let counter = executions.clone();
    let mut builder = runtime::model::Builder::new();
    builder.preemption_bound = bound;
    builder.max_branches = 100_000;
    builder.check(move || {
        counter.fetch_add(1, Relaxed);
        scenario();
    });
    Tried { executions: executions.load(Relaxed), ..Tried::default() }
}

/// Runs `scenario(fuel, deaths)` for fuel 0, 1, 2, … until no execution runs out of it.
///
/// # Panics
/// Where an execution does.
pub fn every_death(scenario: impl Fn(u32, &Deaths) + Clone + Send + Sync + 'static) -> Tried {
    every_death_bounded(Some(preemption_bound()), scenario)
}

/// The same, with at most `bound` preemptions an execution (`None`: any number).
///
/// # Panics
/// Where an execution does.
pub fn every_death_bounded(
    bound: Option<usize>,
    scenario: impl Fn(u32, &Deaths) + Clone + Send + Sync + 'static,
) -> Tried {
    let mut tried = Tried::default();
    for fuel in 0.. {
        let deaths = Deaths::default();
        let (run, seen) = (scenario.clone(), deaths.clone());
        tried.executions += check_bounded(bound, move || run(fuel, &seen)).executions;
        let died = deaths.count();
        tried.deaths += died;
        if died == 0 {
            break;
        }
        tried.kill_points += 1;
    }
    tried
}
