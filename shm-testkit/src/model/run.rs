//! What a run of a model tells, and holding a checker to its planted bugs.
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// How many executions a model took, and in how many of them a process died.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tried {
    /// Executions that were explored.
    pub executions: u64,
    /// Deaths in them: calls of [`Deaths::died`].
    pub deaths: u64,
    /// Fuel values swept.
    pub kill_points: u32,
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

// All threads of a model run on the calling one, so this belongs to one test.
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
