//! An operation, run once for each error that each of its calls can give.
use super::calls::Call;
use super::trace::{self, Plan, Point, Run};
use super::{NotRun, errno_name};
use crate::depth::is_deep;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Write as _};
use std::time::Duration;

/// Begins the line by which a copy tells its parent that its operation was refused, and why.
const REFUSED: &str = "refused: ";
const LIMIT: Duration = Duration::from_secs(60);

/// Every error at every call of an operation.
///
/// Each run is a process of its own: `prepare` sets the scene, the operation is performed with one
/// of its calls failing, and `check` looks at what came of it, with nothing failing any more; it
/// panics where that is not as it should be. It finds, besides: a panic, a signal (SIGBUS), a hang.
///
/// By default each call fails once with each of its errors, and for the first call of each kind
/// that error stays (no call of that kind works from then on). `SHM_DEEP=1`: it stays for each.
///
/// The [module](super) has an example.
#[derive(Clone, Debug)]
pub struct Sweep {
    name: String,
    deep: bool,
    limit: Duration,
    /// Try a point if its number is a multiple of this.
    stride: usize,
}

/// What a sweep has found wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which call failed, and how.
    pub fault: String,
    /// What was wrong: the hang, the signal, or the panic's message.
    pub what: String,
}

/// What a sweep has tried, and found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The operation.
    pub name: String,
    /// System calls that it makes, of all its threads.
    pub calls: usize,
    /// Runs in which one was made to fail.
    pub faults: usize,
    /// Of these, runs in which the operation said so.
    pub refused: usize,
    /// Runs in which it went another way, so that its n-th call was another one and did not fail.
    pub missed: usize,
    /// What it said, and the first fault that it said it of.
    pub messages: BTreeMap<String, String>,
    /// What was wrong.
    pub findings: Vec<Finding>,
}

impl Sweep {
    /// A sweep of the operation `name`.
    pub fn new(name: impl Into<String>) -> Sweep {
        Sweep { name: name.into(), deep: is_deep(), limit: LIMIT, stride: 1 }
    }

    /// Only every `stride`-th fault, unless `SHM_DEEP=1`.
    #[must_use]
    pub fn sampled(mut self, stride: usize) -> Sweep {
        self.stride = if self.deep { 1 } else { stride.max(1) };
        self
    }

    /// A run that takes longer (in whole seconds) hangs. By default a minute.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Sweep {
        self.limit = limit;
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// [`NotRun`] where this system does not let a process trace its child.
    ///
    /// # Panics
    /// Where the operation, with no fault, fails or does not pass the check; and as
    /// [`trial`](super::trial).
    #[track_caller]
    pub fn run<S, T, E: Display>(
        &self,
        prepare: impl Fn() -> S,
        operation: impl Fn(&mut S) -> Result<T, E>,
        check: impl Fn(S, Result<T, E>),
    ) -> Result<Report, NotRun> {
        let run = |plan| trace::run(plan, self.limit, || once(&prepare, &operation, &check));
        let plain = run(Plan::Record)?;
        let failure = plain.ended.failure().or(refusal(&plain).map(str::to_owned));
        let stderr = &plain.ended.stderr;
        assert!(failure.is_none(), "{}, with no fault: {failure:?}\n{stderr}", self.name);
        let calls = plain.calls.iter().map(Vec::len).sum();
        let mut report = Report { name: self.name.clone(), calls, ..Report::default() };
        for plan in self.plans(&plain.calls) {
            report.add(plan, &run(plan)?);
        }
        Ok(report)
    }

    fn plans(&self, calls: &[Vec<Call>]) -> Vec<Plan> {
        let mut plans = Vec::new();
        let mut kinds = BTreeSet::new();
        for (thread, calls) in calls.iter().enumerate() {
            for (call, expected) in calls.iter().copied().enumerate() {
                let point = Point { thread, call };
                let stays = kinds.insert(expected.number) || self.deep;
                for errno in expected.errnos().iter().copied() {
                    plans.push(Plan::Fail { point, expected, errno, on: false });
                    // Interruptions end; and without memory for its allocator no program goes on.
                    if stays && errno != libc::EINTR && !expected.is_the_allocators() {
                        plans.push(Plan::Fail { point, expected, errno, on: true });
                    }
                }
            }
        }
        plans.into_iter().step_by(self.stride).collect()
    }
}

/// What a copy does.
fn once<S, T, E: Display>(
    prepare: impl Fn() -> S,
    operation: impl Fn(&mut S) -> Result<T, E>,
    check: impl Fn(S, Result<T, E>),
) {
    let mut scene = prepare();
    let result = trace::watched(|| operation(&mut scene));
    let message = result.as_ref().err().map(|error| error.to_string().replace('\n', " "));
    check(scene, result);
    if let Some(message) = message {
        eprintln!("{REFUSED}{message}");
    }
}

/// What the operation said, where it failed and passed the check.
fn refusal(run: &Run) -> Option<&str> {
    run.ended.stderr.lines().rev().find_map(|line| line.strip_prefix(REFUSED))
}

impl Report {
    fn add(&mut self, plan: Plan, run: &Run) {
        self.faults += usize::from(run.faults > 0);
        self.missed += usize::from(run.faults == 0);
        if let Some(message) = refusal(run) {
            self.refused += 1;
            self.messages.entry(message.to_owned()).or_insert_with(|| plan.to_string());
        }
        if let Some(failure) = run.ended.failure() {
            let what = format!("{failure}\n{}", run.ended.stderr.trim_end());
            self.findings.push(Finding { fault: plan.to_string(), what });
        }
    }

    /// Prints the figures; nothing else, where nothing was wrong.
    ///
    /// # Panics
    /// With all findings, where something was.
    #[track_caller]
    pub fn assert_clean(&self) {
        eprintln!("{self}");
        let mut text = String::new();
        for Finding { fault, what } in &self.findings {
            let _ = write!(text, "\n--- {fault}: {what}");
        }
        assert!(self.findings.is_empty(), "{}: {} findings{text}", self.name, self.findings.len());
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { name, calls, faults, refused, missed, .. } = self;
        let done = faults - refused.min(faults);
        write!(f, "{name}: {calls} calls, {faults} faults: {refused} refused, {done} got over")?;
        if *missed > 0 {
            write!(f, ", {missed} not met")?;
        }
        Ok(())
    }
}

/// Runs an operation, as [`Sweep::run`] does, once: each call that a signal may interrupt is
/// interrupted `times` times in a row (EINTR) and then goes through. Returns how many
/// interruptions there were.
///
/// # Errors
/// As [`Sweep::run`].
///
/// # Panics
/// Where the operation fails, hangs, or does not pass the check; and as [`trial`](super::trial).
///
/// ```
/// use shm_testkit::child::Child;
/// use shm_testkit::fault::storm;
///
/// fn reads(_: &[String]) {
///     let read = |_: &mut ()| std::fs::read_to_string("/proc/self/comm");
///     match storm("read", 5, || (), read, |(), text| assert!(!text.unwrap().is_empty())) {
///         Ok(interruptions) => assert!(interruptions >= 10, "at least to open and to read"),
///         Err(not_run) => eprintln!("{not_run}"),
///     }
/// }
/// shm_testkit::children! { reads }
/// Child::spawn("reads", &[]).wait(std::time::Duration::from_secs(60)).assert_success();
/// ```
#[track_caller]
pub fn storm<S, T, E: Display>(
    name: &str,
    times: u32,
    prepare: impl Fn() -> S,
    operation: impl Fn(&mut S) -> Result<T, E>,
    check: impl Fn(S, Result<T, E>),
) -> Result<u32, NotRun> {
    let run = trace::run(Plan::Storm { times }, LIMIT, || once(&prepare, &operation, &check))?;
    let eintr = errno_name(libc::EINTR);
    let refused = refusal(&run).map(|message| format!("refused: {message}"));
    let failure = run.ended.failure().or(refused);
    let stderr = &run.ended.stderr;
    assert!(failure.is_none(), "{name}, {times} times {eintr}: {failure:?}\n{stderr}");
    Ok(run.faults)
}
