//! How a model is run: every interleaving, every death, planted bugs.
use super::death::Deaths;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Once};

/// The preemption bound of ordinary runs; `SHM_DEEP=1` raises it to 3.
pub fn preemption_bound() -> usize {
    if std::env::var_os("SHM_DEEP").is_some_and(|v| v == "1") { 3 } else { 2 }
}

/// How many executions a model took, and in how many of them a process died.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    /// Executions that were explored.
    pub executions: u64,
    /// Deaths in them: calls of [`Deaths::died`].
    pub deaths: u64,
    /// Fuel values swept.
    pub kill_points: u32,
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
    let mut builder = loom::model::Builder::new();
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

/// Runs `model`, which has a planted bug, and requires that the bug is what it fails of: that the
/// message of the panic contains `reason`.
///
/// `finds("found before it was written", || model_with(Bug::PublishRelaxed))`. loom's own words are
/// "deadlock" and "Causality violation".
///
/// # Panics
/// Where `model` passes, and where it fails of something else.
#[track_caller]
pub fn finds(reason: &str, model: impl Fn()) {
    let found = failure(model).expect("the planted bug went unnoticed");
    assert!(found.contains(reason), "expected {reason:?}, and it failed of {found:?}");
    println!("found: {}", in_short(&found));
}

// loom runs all threads of a model on the calling one, so this belongs to one test.
thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What `model` panics with, which is not printed; `None` where it passes.
pub(super) fn failure(model: impl Fn()) -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let end = catch_unwind(AssertUnwindSafe(model));
    QUIET.set(before);
    let payload = end.err()?;
    let message = payload.downcast_ref::<String>().cloned();
    let message = message.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string()));
    Some(message.unwrap_or_default())
}

/// The first line of a panic's message that says something.
pub(super) fn in_short(message: &str) -> &str {
    message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no message")
}
