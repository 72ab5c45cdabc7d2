//! `Run`: a scenario, how deep, and what is tolerated.
use super::Scenario;
use super::dog::Dog;
use super::hunt::{FEW_WANTED, Hunt};
use super::page::Page;
use super::report::{Depth, Report};
use super::trace::{FEW, Trace};
use super::{tracee, view};
use crate::depth::is_deep;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const POINTS: &str = "SHM_KILL_POINTS";
/// When everything is wanted, an operation of no more instructions is killed at each of them, so as
/// not to rely on neighbours being as good as one; a longer one where a death leaves something new.
const EACH_MAX: usize = 10_000;
/// Where few points are wanted, so many instructions of bystanders are counted.
const COUNTED_FEW: usize = 50_000;
/// One at a time in this process: what shares memory with a child is then the run's alone, and the
/// breakpoints of one are in no child of another's.
static RUNNING: Mutex<()> = Mutex::new(());

/// What the environment says of how many points to try.
fn told() -> Option<usize> {
    std::env::var(POINTS).ok().and_then(|points| points.parse().ok())
}

/// Waits until all other threads of this process sleep, for a second at most.
///
/// One that begins or ends holds a lock of the standard library. A child that is forked meanwhile
/// would find it held for ever, at the first thread that it starts.
fn let_threads_settle() {
    let end = Instant::now() + Duration::from_secs(1);
    // SAFETY: it has no effects.
    let me = unsafe { libc::gettid() };
    while !view::others_sleep(std::process::id().cast_signed(), me) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Keeps the calling thread, and the children that it forks, on the processor that it is on: a step
/// of a child is two switches between them, which takes many times as long from one processor to
/// another.
struct Pin {
    /// Where it might run before; `None`: it cannot be pinned here, and nothing was done.
    before: Option<CpuSet>,
}

impl Pin {
    fn new() -> Pin {
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        let before = sched_getaffinity(None);
        let before = before.and_then(|before| sched_setaffinity(None, &here).map(|()| before));
        Pin { before: before.ok() }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // An error: it stays where it is, which is only slower.
            let _ = sched_setaffinity(None, before);
        }
    }
}

/// Takes a [`Scenario`] through its deaths.
#[derive(Debug)]
#[must_use = "nothing is run before a mode is called"]
pub struct Run<'s, S> {
    scenario: &'s S,
    points: usize,
    deep: usize,
    missed: usize,
    drifted: usize,
    bystander: usize,
    each_max: usize,
    patience: Duration,
}

impl<'s, S: Scenario> Run<'s, S> {
    /// Up to 2,000 points a mode, nothing missed, nothing drifted.
    pub fn new(scenario: &'s S) -> Run<'s, S> {
        let patience = Duration::from_secs(30);
        Run {
            scenario,
            points: 2000,
            deep: usize::MAX,
            missed: 0,
            drifted: 0,
            bystander: 20_000,
            each_max: EACH_MAX,
            patience,
        }
    }

    /// How many points are tried of an operation with more instructions: those at which a death
    /// leaves something else than at the one before, and as many others as that leaves room for. In
    /// the environment, `SHM_KILL_POINTS` lowers it, and bounds the first kind too. With
    /// `SHM_DEEP=1`, or for `usize::MAX`, it is all of the first kind, whatever their number, and
    /// all others too of operations of up to 10,000 instructions. Below 100, an operation of more
    /// than 20,000 instructions is tried at its system calls only.
    pub fn points(mut self, points: usize) -> Run<'s, S> {
        self.points = points;
        self
    }

    /// Of how many instructions an operation may be that is tried at each, where everything is
    /// wanted: fewer than 10,000 for one whose points are dear.
    pub fn each_up_to(mut self, instructions: usize) -> Run<'s, S> {
        self.each_max = instructions;
        self
    }

    /// How many points are tried with `SHM_DEEP=1`, where all would take too long: a sample.
    pub fn deep_at_most(mut self, points: usize) -> Run<'s, S> {
        self.deep = points;
        self
    }

    /// How many points may not be reached, because what the operation does depends on the clock or
    /// on other threads.
    pub fn allow_missed(mut self, missed: usize) -> Run<'s, S> {
        self.missed = missed;
        self
    }

    /// At how many points the shared bytes may differ from the trace.
    pub fn allow_drifted(mut self, drifted: usize) -> Run<'s, S> {
        self.drifted = drifted;
        self
    }

    /// How long one point may take before it counts as hanging: 30 s unless told.
    pub fn patience(mut self, patience: Duration) -> Run<'s, S> {
        self.patience = patience;
        self
    }

    /// How many instructions a bystander may need: 20,000 unless told.
    pub fn bystander_at_most(mut self, instructions: usize) -> Run<'s, S> {
        self.bystander = instructions;
        self
    }

    /// Kills the process at each instruction.
    pub fn kill(self) -> Report {
        self.traced("kill", |hunt, trace, wanted| hunt.kill(trace, wanted))
    }

    /// Stops the process at each instruction: the [bystander](Scenario::bystander) must come to its
    /// end, and where a death would leave something new, in a bounded number of instructions. Then
    /// the process is killed (at even instructions) or goes on (at odd ones).
    pub fn stop(self) -> Report {
        self.traced("stop", |hunt, trace, wanted| hunt.stop(trace, wanted))
    }

    /// Kills the process wherever a death leaves something new, and then who
    /// [recovers](Scenario::recover) wherever its does.
    pub fn nested(self) -> Report {
        self.traced("nested", |hunt, trace, wanted| hunt.nested(trace, wanted))
    }

    /// Makes the process fork at each instruction. What its child [does](Scenario::forked) with the
    /// handles must change nothing; the process itself goes on.
    pub fn fork(self) -> Report {
        self.traced("fork", |hunt, trace, wanted| hunt.fork(trace, wanted))
    }

    /// Kills the process a few times while it sleeps in a system call: the first of the operation
    /// that it sleeps in for some milliseconds. If it ends only by a deadline, let that be seconds
    /// away; it is come to once.
    pub fn asleep(self) -> Report {
        self.in_mode("asleep", |hunt, _| hunt.asleep())
    }

    /// Runs a mode that needs a trace.
    fn traced(
        self,
        mode: &'static str,
        work: impl FnOnce(&mut Hunt<'_, S>, &Trace, usize),
    ) -> Report {
        self.in_mode(mode, |hunt, wanted| {
            let Some(trace) = hunt.trace(wanted) else { return };
            hunt.report.instructions = trace.steps.len();
            hunt.report.images = trace.images();
            hunt.report.worlds = trace.worlds().len();
            work(hunt, &trace, wanted);
        })
    }

    /// Runs one mode, if the machine lets it.
    fn in_mode(self, mode: &'static str, work: impl FnOnce(&mut Hunt<'_, S>, usize)) -> Report {
        let _alone = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let dog = Dog::new(self.patience);
        let_threads_settle();
        let _pin = Pin::new();
        let mut hunt = Hunt {
            scenario: self.scenario,
            report: self.empty_report(mode),
            page: Page::new(),
            helpers_page: Page::new(),
            dog: &dog,
            bystander_max: self.bystander,
            few: told().map_or(FEW, |told| told.min(FEW)),
            each_max: self.each_max,
            to_count: if self.points_wanted() < FEW_WANTED { COUNTED_FEW } else { usize::MAX },
            recovery_by_calls: false,
        };
        hunt.report.not_run = tracee::refusal(&dog);
        if hunt.report.not_run.is_none() {
            hunt.live_on();
            work(&mut hunt, self.points_wanted());
        }
        hunt.report.took = began.elapsed();
        hunt.report.publish();
        hunt.report
    }

    pub(super) fn points_wanted(&self) -> usize {
        if is_deep() || self.points == usize::MAX {
            return self.deep;
        }
        self.points.min(told().unwrap_or(usize::MAX))
    }

    fn empty_report(&self, mode: &'static str) -> Report {
        Report {
            name: self.scenario.name(),
            mode,
            operations: self.scenario.operations(),
            not_run: None,
            instructions: 0,
            points: 0,
            depth: Depth::Nothing,
            images: 0,
            worlds: 0,
            missed_max: self.missed,
            drifted_max: self.drifted,
            bystander: 0,
            astray: Vec::new(),
            findings: Vec::new(),
            took: Duration::ZERO,
        }
    }
}
