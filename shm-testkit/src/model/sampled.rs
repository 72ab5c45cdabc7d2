//! Too many schedules to try them all: a sample of them, by seeds that can be tried again.
use super::death::{Deaths, IMMORTAL};
use super::run::Tried;
use super::runtime::rand::{Rng, thread_rng};
use super::runtime::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use super::runtime::{Config, FailurePersistence, Runner};
use crate::depth::is_deep;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How the schedules of a sample are chosen.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// Each step by a throw of the dice.
    Random,
    /// By priorities that change at a few random steps, so many less one (PCT). Finds with a known
    /// probability what needs so many steps in the right order.
    Priorities(usize),
}

/// Runs `scenario(deaths)` under so many schedules, twenty times as many with `SHM_DEEP=1`.
///
/// The seed is new each time, and printed; `SHM_SEED` in the environment gives it instead, and the
/// same schedules with the same [`chance`]s follow.
///
/// # Panics
/// Where a schedule does, or deadlocks. Says which, and of which seed.
pub fn sample(
    choice: Choice,
    schedules: usize,
    scenario: impl Fn(&Deaths) + Send + Sync + 'static,
) -> Tried {
    let given = std::env::var("SHM_SEED").ok();
    let seed = match &given {
        Some(seed) => seed.parse().expect("SHM_SEED is a number"),
        None => RandomState::new().build_hasher().finish(),
    };
    let schedules = if is_deep() { 20 * schedules } else { schedules };
    sample_seeded(seed, choice, schedules, scenario)
}

/// The same with a seed of the caller's.
///
/// # Panics
/// As [`sample`].
pub fn sample_seeded(
    seed: u64,
    choice: Choice,
    schedules: usize,
    scenario: impl Fn(&Deaths) + Send + Sync + 'static,
) -> Tried {
    println!("{choice:?}, {schedules} schedules, SHM_SEED={seed}");
    match choice {
        Choice::Random => run(RandomScheduler::new_from_seed(seed, schedules), scenario),
        Choice::Priorities(depth) => {
            run(PctScheduler::new_from_seed(seed, depth, schedules), scenario)
        }
    }
}

/// Runs `scenario(deaths)` under every schedule, without reduction: for the smallest of cases,
/// which take no [`chance`] and wait for nobody in a loop.
///
/// # Panics
/// Where a schedule does, or deadlocks.
pub fn every_schedule(scenario: impl Fn(&Deaths) + Send + Sync + 'static) -> Tried {
    run(DfsScheduler::new(None, false), scenario)
}

/// A throw of the dice that belongs to the schedule: below `sides`.
///
/// # Panics
/// Where `sides` is 0.
pub fn chance(sides: u32) -> u32 {
    thread_rng().gen_range(0..sides)
}

/// Fuel for a process that lives for ever half of the time, and else for fewer accesses than
/// `accesses`.
pub fn chance_of_death(accesses: u32) -> u32 {
    if chance(2) == 0 { IMMORTAL } else { chance(accesses) }
}

fn run<S: Scheduler + 'static>(
    scheduler: S,
    scenario: impl Fn(&Deaths) + Send + Sync + 'static,
) -> Tried {
    let (deaths, started) = (Deaths::default(), Arc::new(AtomicU64::new(0)));
    let (seen, counter) = (deaths.clone(), started.clone());
    let runner = Runner::new(scheduler, config());
    let end = catch_unwind(AssertUnwindSafe(|| {
        runner.run(move || {
            counter.fetch_add(1, Relaxed);
            scenario(&seen);
        })
    }));
    let executions = started.load(Relaxed);
    if let Err(failure) = end {
        println!("it failed in schedule {executions}; with the seed above it does so again");
        resume_unwind(failure);
    }
    Tried { executions, deaths: deaths.count(), kill_points: 0 }
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 256 * 1024;
    // The seed says it all in one number.
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    config
}
