//! `Run`: a scenario, how deep, and what is tolerated.
use super::Scenario;
use super::dog::Dog;
use super::hunt::Hunt;
use super::page::Page;
use super::report::{Depth, Report};
use super::trace::Trace;
use super::tracee;
use std::time::{Duration, Instant};

const POINTS: &str = "SHM_KILL_POINTS";
const DEEP: &str = "SHM_DEEP";

/// Takes a [`Scenario`] through its deaths.
#[derive(Debug)]
#[must_use = "nothing is run before a mode is called"]
pub struct Run<'s, S> {
    scenario: &'s S,
    points: usize,
    missed: usize,
    drifted: usize,
    bystander: usize,
    patience: Duration,
}

impl<'s, S: Scenario> Run<'s, S> {
    /// Up to 2,000 points a mode, nothing missed, nothing drifted.
    pub fn new(scenario: &'s S) -> Run<'s, S> {
        let patience = Duration::from_secs(30);
        Run { scenario, points: 2000, missed: 0, drifted: 0, bystander: 20_000, patience }
    }

    /// How many points are tried of an operation with more instructions: those around each change
    /// of the shared bytes and around each system call, and a sample of the others. In the
    /// environment, `SHM_KILL_POINTS` lowers it and `SHM_DEEP=1` makes it infinite; `usize::MAX` is
    /// every instruction whatever stands there.
    pub fn points(mut self, points: usize) -> Run<'s, S> {
        self.points = points;
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
        self.in_mode("kill", |hunt, trace, wanted| hunt.kill(trace, wanted))
    }

    /// Stops the process at each instruction: the [bystander](Scenario::bystander) must come to its
    /// end, and where the shared bytes are new, in a bounded number of instructions. Then the
    /// process is killed (at even instructions) or goes on (at odd ones).
    pub fn stop(self) -> Report {
        self.in_mode("stop", |hunt, trace, wanted| hunt.stop(trace, wanted))
    }

    /// Kills the process wherever the shared bytes are new, and then who
    /// [recovers](Scenario::recover) wherever they are; with `SHM_DEEP=1`, at each instruction.
    pub fn nested(self) -> Report {
        self.in_mode("nested", |hunt, trace, wanted| hunt.nested(trace, wanted))
    }

    /// Makes the process fork at each instruction. What its child [does](Scenario::forked) with the
    /// handles must change nothing; the process itself goes on.
    pub fn fork(self) -> Report {
        self.in_mode("fork", |hunt, trace, wanted| hunt.fork(trace, wanted))
    }

    /// Runs one mode, if the machine lets it.
    fn in_mode(
        self,
        mode: &'static str,
        work: impl FnOnce(&mut Hunt<'_, S>, &Trace, usize),
    ) -> Report {
        let began = Instant::now();
        let dog = Dog::new(self.patience);
        let mut hunt = Hunt {
            scenario: self.scenario,
            report: self.empty_report(mode),
            page: Page::new(),
            helpers_page: Page::new(),
            dog: &dog,
            bystander_max: self.bystander,
        };
        hunt.report.not_run = tracee::refusal(&dog);
        if hunt.report.not_run.is_none() {
            hunt.live_on();
            if let Some(trace) = hunt.trace() {
                hunt.report.instructions = trace.steps.len();
                hunt.report.images = trace.images();
                work(&mut hunt, &trace, self.points_wanted());
            }
        }
        hunt.report.took = began.elapsed();
        hunt.report.publish();
        hunt.report
    }

    pub(super) fn points_wanted(&self) -> usize {
        let is_deep = std::env::var_os(DEEP).is_some_and(|deep| deep == "1");
        if is_deep || self.points == usize::MAX {
            return usize::MAX;
        }
        let told = std::env::var(POINTS).ok().and_then(|points| points.parse().ok());
        self.points.min(told.unwrap_or(usize::MAX))
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
            missed: 0,
            drifted: 0,
            missed_max: self.missed,
            drifted_max: self.drifted,
            bystander: 0,
            findings: Vec::new(),
            took: Duration::ZERO,
        }
    }
}
