//! What a model of shared memory needs beyond loom: death at any access, a kernel that notices it,
//! and a proof that each ordering matters.
//!
//! A modelled process is a loom thread whose body runs inside [`mortal`]: after `fuel` accesses it
//! unwinds, and from then on nothing it does has an effect, destructors included, as after SIGKILL.
//! [`every_death`] sweeps the fuel from 0 until no schedule runs out of it.
//! [`every_ordering_matters`] reruns a model once per ordering site with that site weakened, and
//! reports the sites whose weakening no run noticed.
use core::cell::{Cell, RefCell};
use core::panic::Location;
use core::sync::atomic::Ordering;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Once};

/// The preemption bound of ordinary runs; `SHM_DEEP=1` raises it to 3.
pub fn preemption_bound() -> usize {
    if std::env::var_os("SHM_DEEP").is_some_and(|v| v == "1") { 3 } else { 2 }
}

/// What an access of the running process may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// It takes place.
    Happens,
    /// The process is dead and unwinding: nothing takes place.
    Dropped,
}

/// Payload of the unwind that stands for SIGKILL.
struct Died;

const IMMORTAL: u32 = u32::MAX;

loom::thread_local! {
    static FUEL: Cell<u32> = Cell::new(IMMORTAL);
    static DEAD: Cell<bool> = Cell::new(false);
}

pub(crate) fn is_dead() -> bool {
    DEAD.with(Cell::get)
}

/// One access of the running process: spends fuel, or dies.
pub(crate) fn step() -> Effect {
    if is_dead() {
        return Effect::Dropped;
    }
    match FUEL.with(Cell::get) {
        IMMORTAL => Effect::Happens,
        0 => {
            DEAD.with(|dead| dead.set(true));
            resume_unwind(Box::new(Died))
        }
        left => {
            FUEL.with(|fuel| fuel.set(left - 1));
            Effect::Happens
        }
    }
}

/// Runs `process` with `fuel` accesses to live; `None` where it died.
///
/// Destructors run by the unwind have no effect on modelled memory. What the kernel does at a death
/// (marking a life word) is the caller's next line.
pub fn mortal<R>(fuel: u32, process: impl FnOnce() -> R) -> Option<R> {
    FUEL.with(|f| f.set(fuel));
    let end = catch_unwind(AssertUnwindSafe(process));
    FUEL.with(|f| f.set(IMMORTAL));
    DEAD.with(|dead| dead.set(false));
    match end {
        Ok(value) => Some(value),
        Err(payload) if payload.is::<Died>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// How many executions a model took, and in how many of them a process died.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    /// Executions that loom explored.
    pub executions: u64,
    /// Of them, those in which [`Deaths::died`] was called.
    pub deaths: u64,
    /// Fuel values swept.
    pub kill_points: u32,
}

/// Counts deaths across the executions of one sweep.
#[derive(Clone, Default)]
pub struct Deaths(Arc<AtomicU64>);

impl Deaths {
    /// Notes that the mortal process of this execution died.
    pub fn died(&self) {
        self.0.fetch_add(1, Relaxed);
    }
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
        let died = deaths.0.load(Relaxed);
        tried.deaths += died;
        if died == 0 {
            break;
        }
        tried.kill_points += 1;
    }
    tried
}

/// One ordering argument in the code under test.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Site {
    file: &'static str,
    line: u32,
    column: u32,
    /// 0, or 1 for the failure ordering of a compare-and-swap.
    argument: u8,
}

#[derive(Default)]
struct Sites {
    /// Sites met, and the name of the ordering written there.
    met: BTreeMap<Site, &'static str>,
    weakened: Option<(Site, Option<Ordering>)>,
}

// loom runs all threads of a model on the calling one, so these belong to one test.
thread_local! {
    static SITES: RefCell<Option<Sites>> = const { RefCell::new(None) };
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn name(order: Ordering) -> &'static str {
    match order {
        Ordering::Relaxed => "Relaxed",
        Ordering::Acquire => "Acquire",
        Ordering::Release => "Release",
        Ordering::AcqRel => "AcqRel",
        _ => "SeqCst",
    }
}

/// The weaker orderings to try in place of one; `None` takes a fence away.
fn weaker(order: &str, fence: bool) -> Vec<Option<Ordering>> {
    match (order, fence) {
        ("AcqRel", _) => vec![Some(Ordering::Acquire), Some(Ordering::Release)],
        ("SeqCst", true) => vec![Some(Ordering::AcqRel), None],
        (_, true) => vec![None],
        (_, false) => vec![Some(Ordering::Relaxed)],
    }
}

const FENCE: u8 = 2;

fn look_up(site: Site, order: Ordering) -> Option<Ordering> {
    SITES.with_borrow_mut(|sites| {
        let Some(sites) = sites.as_mut() else { return Some(order) };
        if order != Ordering::Relaxed {
            sites.met.insert(site, name(order));
        }
        match sites.weakened {
            Some((weak, instead)) if weak == site => instead,
            _ => Some(order),
        }
    })
}

pub(crate) fn order(at: &'static Location<'static>, argument: u8, order: Ordering) -> Ordering {
    let site = Site { file: at.file(), line: at.line(), column: at.column(), argument };
    look_up(site, order).unwrap_or(Ordering::Relaxed)
}

pub(crate) fn fence_order(at: &'static Location<'static>, order: Ordering) -> Option<Ordering> {
    let site = Site { file: at.file(), line: at.line(), column: at.column(), argument: FENCE };
    look_up(site, order)
}

/// Runs `model` once as written; then, for each ordering met in a file whose path contains one of
/// `files`, once with that ordering weakened, and expects a failure each time.
///
/// `model` calls [`check`] or [`every_death`]. An `AcqRel` is tried as `Acquire` and as `Release`,
/// a fence is taken away, a `SeqCst` one also tried as `AcqRel`, anything else becomes `Relaxed`.
/// Any failure counts, as the model passes as written; it is printed. Returns the number of
/// weakenings found.
///
/// # Panics
/// Where the model fails as written, where no site was met, and where a weakening goes unnoticed.
pub fn every_ordering_matters(files: &[&str], model: impl Fn()) -> usize {
    SITES.set(Some(Sites::default()));
    model();
    let met = SITES.take().map(|s| s.met).unwrap_or_default();
    let met: Vec<_> =
        met.into_iter().filter(|(s, _)| files.iter().any(|f| s.file.contains(f))).collect();
    assert!(!met.is_empty(), "no ordering site met in {files:?}");
    let (mut found, mut unnoticed) = (0, Vec::new());
    for (site, order) in met {
        for instead in weaker(order, site.argument == FENCE) {
            SITES.set(Some(Sites { met: BTreeMap::new(), weakened: Some((site, instead)) }));
            let noticed = failure(&model);
            SITES.set(None);
            let to = instead.map_or("nothing", name);
            let which = if site.argument == 1 { " (failure ordering)" } else { "" };
            let Site { file, line, column, .. } = site;
            let change = format!("{file}:{line}:{column} {order} -> {to}{which}");
            match noticed {
                Some(why) => {
                    found += 1;
                    println!("{change}: {}", in_short(&why));
                }
                None => unnoticed.push(change),
            }
        }
    }
    println!("orderings weakened and found out: {found}");
    assert!(unnoticed.is_empty(), "no run noticed:\n  {}", unnoticed.join("\n  "));
    found
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

/// What `model` panics with, which is not printed; `None` where it passes.
fn failure(model: impl Fn()) -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let end = catch_unwind(AssertUnwindSafe(model));
    QUIET.set(false);
    let payload = end.err()?;
    let message = payload.downcast_ref::<String>().cloned();
    let message = message.or_else(|| payload.downcast_ref::<&str>().map(|text| text.to_string()));
    Some(message.unwrap_or_default())
}

/// The first line of a panic's message that says something.
fn in_short(message: &str) -> &str {
    message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no message")
}
