//! `Run`: a scenario, how deep, and what is tolerated; and the plainest mode, to kill.
use super::dog::Dog;
use super::machine::mark;
use super::page::Page;
use super::report::{FINDINGS_MAX, Finding, Report};
use super::trace::{Reached, Trace};
use super::tracee::{self, Stop, Tracee, panic_message, tell_end};
use super::{End, Scenario};
use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How often a point is tried; the last time by single steps only, which no other thread of the
/// child can disturb.
const TRIES: usize = 4;
/// Farther than this nobody is stepped.
const STEPPED_MAX: usize = 20_000;
const POINTS: &str = "SHM_KILL_POINTS";
const DEEP: &str = "SHM_DEEP";

/// Takes a [`Scenario`] through its deaths.
#[derive(Debug)]
#[must_use = "nothing is run before a mode is called"]
pub struct Run<'s, S> {
    pub(super) scenario: &'s S,
    points: usize,
    missed: usize,
    drifted: usize,
    patience: Duration,
}

impl<'s, S: Scenario> Run<'s, S> {
    /// Up to 2,000 points a mode, nothing missed, nothing drifted.
    pub fn new(scenario: &'s S) -> Run<'s, S> {
        let patience = Duration::from_secs(30);
        Run { scenario, points: 2000, missed: 0, drifted: 0, patience }
    }

    /// How many points are tried of an operation with more instructions: those around each change
    /// of the shared bytes and around each system call, and a sample of the others. In the
    /// environment, `SHM_KILL_POINTS` lowers it and `SHM_DEEP=1` makes it infinite.
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

    /// Kills the process at each instruction.
    pub fn kill(self) -> Report {
        self.in_mode("kill", |hunt, trace, points| {
            for index in points {
                hunt.try_point(trace, index, |hunt, world, tracee| {
                    tracee.kill();
                    hunt.check(world, End::Killed, Some((index, trace)));
                });
            }
        })
    }

    /// Runs one mode, if the machine lets it.
    pub(super) fn in_mode(
        self,
        mode: &'static str,
        work: impl FnOnce(&mut Hunt<'_, S>, &Trace, Vec<usize>),
    ) -> Report {
        let began = Instant::now();
        let dog = Dog::new(self.patience);
        let mut hunt = Hunt {
            scenario: self.scenario,
            report: self.empty_report(mode),
            page: Page::new(),
            dog: &dog,
        };
        hunt.report.not_run = tracee::refusal(&dog);
        if hunt.report.not_run.is_none() {
            hunt.live_on();
            if let Some(trace) = hunt.trace() {
                hunt.report.instructions = trace.steps.len();
                hunt.report.images = trace.images();
                work(&mut hunt, &trace, trace.choose(self.points_wanted()));
                let tried = hunt.report.points + hunt.report.missed;
                hunt.report.is_exhaustive = tried >= trace.steps.len();
            }
        }
        hunt.report.took = began.elapsed();
        hunt.report.publish();
        hunt.report
    }

    pub(super) fn points_wanted(&self) -> usize {
        if std::env::var_os(DEEP).is_some_and(|deep| deep == "1") {
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
            is_exhaustive: false,
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

/// A run under way.
pub(super) struct Hunt<'d, S> {
    pub(super) scenario: &'d S,
    pub(super) report: Report,
    pub(super) page: Page,
    pub(super) dog: &'d Dog,
}

impl<'d, S: Scenario> Hunt<'d, S> {
    /// Brings a process to a point and hands it over, with its world. Counts it as missed where it
    /// cannot be brought there.
    pub(super) fn try_point(
        &mut self,
        trace: &Trace,
        index: usize,
        and_then: impl FnOnce(&mut Self, S::World, Tracee<'d>),
    ) {
        if self.report.findings.len() >= FINDINGS_MAX {
            return;
        }
        for nth in 1..=TRIES {
            self.watch(&format!("on the way to instruction {index}"));
            let (world, mut tracee) = match self.start() {
                Ok(both) => both,
                Err(what) => return self.found(what, Some((index, trace))),
            };
            let only_step = nth == TRIES && index <= STEPPED_MAX;
            match trace.reach(&mut tracee, index, only_step) {
                Reached::Here => {
                    self.report.points += 1;
                    if self.image(&world) != trace.steps[index].image {
                        self.report.drifted += 1;
                    }
                    return and_then(self, world, tracee);
                }
                Reached::Ended(_) if self.dog.has_bitten() => {
                    return self
                        .found("it hangs before it comes here".into(), Some((index, trace)));
                }
                Reached::Missed | Reached::Ended(_) => {}
            }
        }
        self.report.missed += 1;
    }

    /// A new world, and a process in it at its first mark.
    pub(super) fn start(&mut self) -> Result<(S::World, Tracee<'d>), String> {
        self.page.clear();
        let (scenario, world, page) = (self.scenario, self.scenario.world(), &self.page);
        let tracee = Tracee::start(self.dog, page, &mut || {
            let mut doomed = scenario.prepare(&world, &page.notes);
            mark();
            scenario.operate(&world, &mut doomed, &page.notes);
            mark();
            drop(doomed);
            Ok(())
        });
        match tracee {
            Ok(tracee) => Ok((world, tracee)),
            Err(_) if self.dog.has_bitten() => Err("preparing, it hangs".to_owned()),
            Err(end) => Err(format!("preparing, it {end}")),
        }
    }

    /// Without any death all is well; and what the test process does once only is done.
    fn live_on(&mut self) {
        self.watch("without a death");
        let (world, mut tracee) = match self.start() {
            Ok(both) => both,
            Err(what) => return self.found(what, None),
        };
        match tracee.resume() {
            Stop::Trap => self.finish(world, tracee, None),
            Stop::Ended(status) => {
                self.found(format!("nobody died, but it {}", self.tell_end(status)), None);
            }
        }
    }

    /// Lets a process go on from its second mark to its end, and checks.
    pub(super) fn finish(
        &mut self,
        world: S::World,
        mut tracee: Tracee<'_>,
        at: Option<(usize, &Trace)>,
    ) {
        match tracee.resume() {
            Stop::Ended(0) => self.check(world, End::Finished, at),
            Stop::Ended(status) => {
                self.found(format!("after the operation it {}", self.tell_end(status)), at);
            }
            Stop::Trap => self.found("it traps after the operation".into(), at),
        }
    }

    fn trace(&mut self) -> Option<Trace> {
        if !self.report.findings.is_empty() {
            return None;
        }
        self.watch("traced");
        let (world, mut tracee) = match self.start() {
            Ok(both) => both,
            Err(what) => {
                self.found(what, None);
                return None;
            }
        };
        match Trace::record(&mut tracee, || self.image(&world)) {
            Ok(trace) => Some(trace),
            Err(Some(status)) => {
                self.found(format!("being traced it {}", self.tell_end(status)), None);
                None
            }
            Err(None) => {
                self.found("it takes more than a million instructions".into(), None);
                None
            }
        }
    }

    /// How a process has ended that should not have.
    pub(super) fn tell_end(&self, status: i32) -> String {
        if self.dog.has_bitten() { "hangs".to_owned() } else { tell_end(status, &self.page) }
    }

    /// What is shared, as one word.
    pub(super) fn image(&self, world: &S::World) -> u64 {
        let mut hash = std::hash::DefaultHasher::new();
        hash.write(&self.scenario.image(world));
        for note in self.page.notes.all() {
            hash.write_u64(note);
        }
        hash.finish()
    }

    /// Has the survivors look. A panic of theirs is a finding.
    pub(super) fn check(&mut self, world: S::World, end: End, at: Option<(usize, &Trace)>) {
        self.watch(&match at {
            Some((index, _)) => format!("what survivors do after a death at instruction {index}"),
            None => "what others do when nobody died".to_owned(),
        });
        let (scenario, notes) = (self.scenario, &self.page.notes);
        match catch_unwind(AssertUnwindSafe(|| scenario.check(world, notes, end))) {
            Ok(Ok(())) => {}
            Ok(Err(what)) => self.found(what, at),
            Err(payload) => {
                self.found(format!("the check panicked: {}", panic_message(&*payload)), at);
            }
        }
    }

    pub(super) fn watch(&self, what: &str) {
        self.dog.watch(&format!("{}, {}: {what}", self.report.name, self.report.mode));
    }

    pub(super) fn found(&mut self, what: String, at: Option<(usize, &Trace)>) {
        let at = at.map(|(index, trace)| (index, trace.steps[index].rip));
        self.report.findings.push(Finding { at, what });
    }
}
