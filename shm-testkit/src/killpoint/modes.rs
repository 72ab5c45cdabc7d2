//! The modes: what happens to a process that has been brought to a point.
use super::hunt::{At, FEW_WANTED, Helper, Hunt, STEPPED_FEW, TRIES, only_step};
use super::report::{Depth, FINDINGS_MAX};
use super::trace::{INSTRUCTIONS_MAX, Reached, Trace, spread};
use super::tracee::{Stop, Tracee};
use super::view::View;
use super::{End, Scenario};

/// After so many deaths in an operation recovery is killed, unless everything is wanted.
const NESTED_MAX: usize = 32;
/// Points besides, where private memory matters too.
const OTHERS: usize = 300;
/// Deaths in a sleep.
const ASLEEP: usize = 5;

impl<S: Scenario> Hunt<'_, S> {
    pub(super) fn kill(&mut self, trace: &Trace, wanted: usize) {
        for index in self.choose(trace, wanted, 0) {
            if let Some((world, tracee)) = self.bring(trace, index) {
                self.report.points += 1;
                tracee.kill();
                self.check(world, End::Killed, Some(trace.at(index)));
            }
        }
    }

    pub(super) fn stop(&mut self, trace: &Trace, wanted: usize) {
        for index in self.choose(trace, wanted, OTHERS) {
            let Some((world, tracee)) = self.bring(trace, index) else { continue };
            self.report.points += 1;
            let at = trace.at(index);
            self.watch(&format!(
                "what a bystander does while one is stopped at instruction {index}"
            ));
            if let Err(what) =
                self.stand_by(&world, trace.steps[index].is_new_world && self.to_count > 0)
            {
                self.found(format!("while it is stopped, a bystander {what}"), Some(at));
            } else if index % 2 == 0 {
                tracee.kill();
                self.check(world, End::Killed, Some(at));
            } else {
                self.go_on(world, tracee, at);
            }
        }
    }

    pub(super) fn fork(&mut self, trace: &Trace, wanted: usize) {
        for index in self.choose(trace, wanted, OTHERS) {
            let Some((world, mut tracee)) = self.bring(trace, index) else { continue };
            self.report.points += 1;
            let (at, mut view) = (trace.at(index), View::new(tracee.pid()));
            self.watch(&format!("what a child does that was forked at instruction {index}"));
            if let Err(what) = tracee.fork(&self.page) {
                let what = if self.dog.has_bitten() { "hangs".to_owned() } else { what };
                self.found(format!("a child that it forked {what}"), Some(at));
            } else if view.has_changed() {
                self.found("a child that it forked has changed what is shared".into(), Some(at));
            } else {
                self.go_on(world, tracee, at);
            }
        }
    }

    pub(super) fn asleep(&mut self) {
        self.report.depth = Depth::All;
        for _ in 0..ASLEEP {
            if !self.report.findings.is_empty() {
                return;
            }
            self.watch("on the way to its sleep");
            let (world, mut tracee) = match self.start() {
                Ok(both) => both,
                Err(what) => return self.found(what, None),
            };
            if !tracee.resume_to_sleep() {
                return self.found("it sleeps in no system call".into(), None);
            }
            self.report.points += 1;
            tracee.kill();
            self.check(world, End::Killed, None);
        }
    }

    pub(super) fn nested(&mut self, trace: &Trace, wanted: usize) {
        let is_deep = wanted == usize::MAX;
        let all = trace.worlds();
        let first_deaths =
            if is_deep { all.clone() } else { spread(all.clone(), NESTED_MAX.min(wanted / 10)) };
        self.report.depth =
            if first_deaths.len() < all.len() { Depth::Sample } else { Depth::Worlds };
        let share = wanted / first_deaths.len();
        for index in first_deaths {
            let most = if wanted < FEW_WANTED { STEPPED_FEW } else { INSTRUCTIONS_MAX };
            let Some(recovery) = self.trace_recovery(trace, index, most) else { continue };
            let worlds = recovery.worlds();
            let second_deaths = spread(worlds.clone(), share);
            if second_deaths.len() < worlds.len() {
                self.report.depth = Depth::Sample;
            }
            for second in second_deaths {
                self.kill_recoverer(trace, index, &recovery, second);
            }
        }
        if trace.only_calls || self.recovery_by_calls {
            self.report.depth = Depth::Calls;
        }
        if self.report.findings.len() >= FINDINGS_MAX {
            self.report.depth = Depth::GivenUp;
        }
    }

    /// When everything is wanted of a long operation, its worlds and so many `others`.
    fn choose(&mut self, trace: &Trace, wanted: usize, others: usize) -> Vec<usize> {
        let (count, worlds) = (trace.steps.len(), trace.worlds().len());
        let points = match wanted {
            usize::MAX if count > self.each_max => trace.choose(worlds + 1 + others, self.few),
            wanted => trace.choose(wanted, self.few),
        };
        self.report.depth = match points.len() {
            _ if trace.only_calls => Depth::Calls,
            all if all == count => Depth::All,
            many if many >= worlds => Depth::Worlds,
            _ => Depth::Sample,
        };
        points
    }

    /// Another participant does its work; its instructions are counted where that may tell
    /// something new.
    fn stand_by(&mut self, world: &S::World, counted: bool) -> Result<(), String> {
        let mut bystander = self.help(Helper::Bystander, world)?;
        if counted {
            let most = self.bystander_max;
            match Trace::count(&mut bystander, most) {
                Ok(count) => {
                    self.report.bystander = self.report.bystander.max(count);
                    self.to_count = self.to_count.saturating_sub(count);
                }
                Err(Some(status)) => return Err(self.tell_helpers_end(status)),
                Err(None) => return Err(format!("needs more than {most} instructions")),
            }
        }
        if let Stop::Ended(status) = bystander.pass_mark() {
            return Err(self.tell_helpers_end(status));
        }
        self.let_helper_end(bystander)
    }

    /// The process goes on to its end, as if nothing had happened.
    fn go_on(&mut self, world: S::World, mut tracee: Tracee<'_>, at: At) {
        self.watch(&format!("going on from instruction {}", at.0));
        match tracee.pass_mark() {
            Stop::Trap => self.finish(world, tracee, Some(at)),
            Stop::Ended(status) => {
                self.found(format!("going on, it {}", self.tell_end(status)), Some(at));
            }
        }
    }

    /// What a recoverer does after a death; that it does it, and that all is well then.
    fn trace_recovery(&mut self, trace: &Trace, index: usize, most: usize) -> Option<Trace> {
        let (world, tracee) = self.bring(trace, index)?;
        tracee.kill();
        let at = Some(trace.at(index));
        self.watch(&format!("recovery, traced, after a death at instruction {index}"));
        let recorded = self.help(Helper::Recoverer, &world).and_then(|mut recoverer| {
            let recovery = match self.recovery_by_calls {
                true => self.record_calls(&mut recoverer, &world),
                false => self.record(&mut recoverer, &world, most),
            };
            let recovery = recovery.map_err(|status| match status {
                Some(status) => self.tell_helpers_end(status),
                None => "does not come to an end".to_owned(),
            })?;
            if let Stop::Ended(status) = recoverer.pass_mark() {
                return Err(self.tell_helpers_end(status));
            }
            self.let_helper_end(recoverer).map(|()| recovery)
        });
        match recorded {
            Ok(recovery) => {
                self.check(world, End::Killed, at);
                Some(recovery)
            }
            Err(_) if most == STEPPED_FEW && !self.recovery_by_calls => {
                // It is long, or whatever is wrong shows again.
                self.recovery_by_calls = true;
                self.trace_recovery(trace, index, most)
            }
            Err(what) => {
                self.found(format!("who recovers {what}"), at);
                None
            }
        }
    }

    /// One death at `index`, and one of its recoverer at `second`.
    fn kill_recoverer(&mut self, trace: &Trace, index: usize, recovery: &Trace, second: usize) {
        let at = Some(trace.at(index));
        for nth in 1..=TRIES {
            let Some((world, tracee)) = self.bring(trace, index) else { return };
            tracee.kill();
            self.watch(&format!("recovery up to its instruction {second}, after one at {index}"));
            let mut recoverer = match self.help(Helper::Recoverer, &world) {
                Ok(recoverer) => recoverer,
                Err(what) => return self.found(format!("who recovers {what}"), at),
            };
            let reached = recovery.reach(&mut recoverer, second, only_step(nth, second));
            if reached == Reached::Here {
                self.report.points += 1;
                let image = self.image(&world);
                self.report.compare(recovery, second, image);
                recoverer.kill();
                let before = self.report.findings.len();
                self.check(world, End::Killed, at);
                for finding in &mut self.report.findings[before..] {
                    finding.what +=
                        &format!(" (and who recovered died at its instruction {second})");
                }
                return;
            }
            if self.dog.has_bitten() {
                return self.found("who recovers hangs".into(), at);
            }
        }
        self.report.miss(recovery, second);
    }
}
