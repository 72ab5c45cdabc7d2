//! Every interleaving within a preemption bound, every death.
use super::death::{Deaths, IMMORTAL, Life};
use super::run::Tried;
use super::runtime;
use crate::depth::is_deep;
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

/// Runs `scenario(lives)` with each of its `N` processes dying in turn, at every access, while the
/// others live; with at most `bound` preemptions.
///
/// # Panics
/// Where an execution does, and where one of the processes never dies.
pub fn every_death_of<const N: usize>(
    bound: usize,
    scenario: impl Fn([Life; N]) + Clone + Send + Sync + 'static,
) -> Tried {
    let mut tried = Tried::default();
    for mortal in 0..N {
        for fuel in 0.. {
            let mut fuels = [IMMORTAL; N];
            fuels[mortal] = fuel;
            let died = live(bound, &scenario, fuels, &mut tried)[mortal];
            assert!(fuel > 0 || died > 0, "process {mortal} never dies");
            if died == 0 {
                break;
            }
        }
    }
    tried
}

/// Runs `scenario(lives)` with each two of its `N` processes dying, each at every access, with at
/// most `bound` preemptions.
///
/// # Panics
/// Where an execution does, and where one of the processes never dies.
pub fn every_two_deaths<const N: usize>(
    bound: usize,
    scenario: impl Fn([Life; N]) + Clone + Send + Sync + 'static,
) -> Tried {
    let mut tried = Tried::default();
    for (one, other) in (0..N).flat_map(|other| (0..other).map(move |one| (one, other))) {
        for first in 0.. {
            let mut one_died = false;
            for second in 0.. {
                let mut fuels = [IMMORTAL; N];
                (fuels[one], fuels[other]) = (first, second);
                let died = live(bound, &scenario, fuels, &mut tried);
                one_died |= died[one] > 0;
                assert!(second > 0 || died[other] > 0, "process {other} never dies");
                if died[other] == 0 {
                    break;
                }
            }
            if !one_died {
                break;
            }
        }
    }
    tried
}

/// How often each of the processes died.
fn live<const N: usize>(
    bound: usize,
    scenario: &(impl Fn([Life; N]) + Clone + Send + Sync + 'static),
    fuels: [u32; N],
    tried: &mut Tried,
) -> [u64; N] {
    let lives = fuels.map(|fuel| Life { fuel, deaths: Deaths::default() });
    let (run, theirs) = (scenario.clone(), lives.clone());
    tried.executions += check_bounded(Some(bound), move || run(theirs.clone())).executions;
    let died = lives.map(|life| life.deaths.count());
    tried.deaths += died.iter().sum::<u64>();
    tried.kill_points += u32::from(died.iter().any(|died| *died > 0));
    died
}
