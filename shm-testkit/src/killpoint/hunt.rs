//! `Hunt`: a run under way. What every mode is made of.
use super::dog::Dog;
use super::machine::mark;
use super::page::Page;
use super::report::{FINDINGS_MAX, Finding, Report};
use super::trace::{INSTRUCTIONS_MAX, Reached, Trace};
use super::tracee::{self, Stop, Tracee, panic_message, tell_end};
use super::{End, Scenario, Work};
use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

/// How often a point is tried; the last time by single steps only, which no other thread of the
/// child can disturb.
pub(super) const TRIES: usize = 3;
/// Farther than this nobody is stepped.
const STEPPED_MAX: usize = 4000;

/// Fewer points than this are few; then no more instructions are stepped for them.
pub(super) const FEW_WANTED: usize = 100;
pub(super) const STEPPED_FEW: usize = 20_000;
/// One that makes no more system calls is stepped all the same.
const CALLS_FEW: usize = 4;

/// Index of an instruction, and where it stands.
pub(super) type At = (usize, u64);

/// A child besides the one that performs the operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Helper {
    Bystander,
    Recoverer,
}

/// A run under way.
pub(super) struct Hunt<'d, S> {
    pub(super) scenario: &'d S,
    pub(super) report: Report,
    pub(super) page: Page,
    pub(super) helpers_page: Page,
    pub(super) dog: &'d Dog,
    pub(super) bystander_max: usize,
    /// So many points are tried where fewer are wanted.
    pub(super) few: usize,
    /// Where everything is wanted, an operation of no more instructions is tried at each.
    pub(super) each_max: usize,
    /// Instructions of bystanders that may still be counted.
    pub(super) to_count: usize,
    /// Who recovers is traced by its system calls.
    pub(super) recovery_by_calls: bool,
}

impl<'d, S: Scenario> Hunt<'d, S> {
    /// Brings a process to a point: its world, and the process itself, which stands there. If it
    /// cannot be brought there, that is counted.
    pub(super) fn bring(&mut self, trace: &Trace, index: usize) -> Option<(S::World, Tracee<'d>)> {
        if self.report.findings.len() >= FINDINGS_MAX {
            return None;
        }
        for nth in 1..=TRIES {
            self.watch(&format!("on the way to instruction {index}"));
            let (world, mut tracee) = match self.start() {
                Ok(both) => both,
                Err(what) => {
                    self.found(what, Some(trace.at(index)));
                    return None;
                }
            };
            match trace.reach(&mut tracee, index, only_step(nth, index)) {
                Reached::Here => {
                    let image = self.image(&world);
                    self.report.compare(trace, index, image);
                    return Some((world, tracee));
                }
                Reached::Ended(_) if self.dog.has_bitten() => {
                    self.found("it hangs before it comes here".into(), Some(trace.at(index)));
                    return None;
                }
                Reached::Missed | Reached::Ended(_) => {}
            }
        }
        self.report.miss(trace, index);
        None
    }

    /// A new world, and a process in it at its first mark.
    pub(super) fn start(&mut self) -> Result<(S::World, Tracee<'d>), String> {
        self.page.clear();
        let (scenario, world, page) = (self.scenario, self.scenario.world(), &self.page);
        let tracee = Tracee::start(self.dog, page, &mut || {
            let mut doomed = scenario.prepare(&world, &page.notes);
            let context = ForkContext { scenario, world: &world, doomed: &raw mut doomed, page };
            context.announce();
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
    pub(super) fn live_on(&mut self) {
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
    pub(super) fn finish(&mut self, world: S::World, mut tracee: Tracee<'_>, at: Option<At>) {
        match tracee.resume() {
            Stop::Ended(0) => self.check(world, End::Finished, at),
            Stop::Ended(status) => {
                self.found(format!("after the operation it {}", self.tell_end(status)), at);
            }
            Stop::Trap => self.found("it traps after the operation".into(), at),
        }
    }

    /// The operation, step by step; if it is long and few points are `wanted`, from system call to
    /// system call, if it makes some.
    pub(super) fn trace(&mut self, wanted: usize) -> Option<Trace> {
        if wanted < FEW_WANTED {
            let calls =
                self.record_one(|hunt, tracee, world| hunt.record_calls(tracee, world))??;
            if calls.calls() > CALLS_FEW {
                let stepped = |hunt: &Self, tracee: &mut Tracee<'_>, world: &S::World| {
                    hunt.record(tracee, world, STEPPED_FEW)
                };
                return self.record_one(stepped)?.or(Some(calls));
            }
        }
        let recorded =
            self.record_one(|hunt, tracee, world| hunt.record(tracee, world, INSTRUCTIONS_MAX))?;
        if recorded.is_none() {
            self.found("it takes more than a million instructions".into(), None);
        }
        recorded
    }

    /// Has a new process traced by `record`; the outer option: whether it came to an end.
    fn record_one(
        &mut self,
        record: impl FnOnce(&Self, &mut Tracee<'_>, &S::World) -> Result<Trace, Option<i32>>,
    ) -> Option<Option<Trace>> {
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
        match record(self, &mut tracee, &world) {
            Ok(trace) => Some(Some(trace)),
            Err(None) => {
                // What it has left behind is cleaned up after.
                tracee.kill();
                self.check(world, End::Killed, None);
                Some(None)
            }
            Err(Some(status)) => {
                self.found(format!("being traced it {}", self.tell_end(status)), None);
                None
            }
        }
    }

    /// # Errors
    /// As those of [`Trace::record`].
    pub(super) fn record(
        &self,
        tracee: &mut Tracee<'_>,
        world: &S::World,
        most: usize,
    ) -> Result<Trace, Option<i32>> {
        Trace::record(tracee, most, || self.traced_image(world))
    }

    /// # Errors
    /// As those of [`Trace::record_calls`].
    pub(super) fn record_calls(
        &self,
        tracee: &mut Tracee<'_>,
        world: &S::World,
    ) -> Result<Trace, Option<i32>> {
        Trace::record_calls(tracee, || self.traced_image(world)).map_err(Some)
    }

    fn traced_image(&self, world: &S::World) -> u64 {
        self.dog.pat();
        self.image(world)
    }

    /// A helper at its first mark.
    ///
    /// # Errors
    /// How it ended before.
    pub(super) fn help(&mut self, who: Helper, world: &S::World) -> Result<Tracee<'d>, String> {
        self.helpers_page.clear();
        let scenario = self.scenario;
        let tracee = Tracee::start(self.dog, &self.helpers_page, &mut || {
            let work: Option<Work<'_>> = match who {
                Helper::Bystander => scenario.bystander(world),
                Helper::Recoverer => scenario.recover(world),
            };
            let work = work.ok_or("the scenario has none")?;
            mark();
            let end = work();
            mark();
            end
        });
        tracee.map_err(|end| if self.dog.has_bitten() { "hangs".to_owned() } else { end })
    }

    /// Lets a helper go on from its second mark to its end.
    ///
    /// # Errors
    /// How it ended, where it did not succeed.
    pub(super) fn let_helper_end(&self, mut helper: Tracee<'_>) -> Result<(), String> {
        match helper.resume() {
            Stop::Ended(0) => Ok(()),
            Stop::Ended(status) => Err(self.tell_helpers_end(status)),
            Stop::Trap => Err("traps after its work".to_owned()),
        }
    }

    pub(super) fn tell_helpers_end(&self, status: i32) -> String {
        if self.dog.has_bitten() {
            "hangs".to_owned()
        } else {
            tell_end(status, &self.helpers_page)
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
    pub(super) fn check(&mut self, world: S::World, end: End, at: Option<At>) {
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

    pub(super) fn found(&mut self, what: String, at: Option<At>) {
        self.report.findings.push(Finding { at, what });
    }
}

/// Whether the `nth` try to reach `index` is made without breakpoints.
pub(super) fn only_step(nth: usize, index: usize) -> bool {
    nth == TRIES && index <= STEPPED_MAX
}

/// What a forked child of the process finds, in its copy of the memory.
struct ForkContext<'a, S: Scenario> {
    scenario: &'a S,
    world: &'a S::World,
    doomed: *mut S::Doomed,
    page: &'a Page,
}

impl<S: Scenario> ForkContext<'_, S> {
    /// Tells the tracer where it is.
    fn announce(&self) {
        let entry = forked::<S> as extern "C" fn(*const ForkContext<'_, S>) -> !;
        self.page.fork_entry.store(entry as usize as u64, Ordering::Relaxed);
        let argument = std::ptr::from_ref(self) as u64;
        self.page.fork_argument.store(argument, Ordering::Relaxed);
    }
}

/// Where such a child begins.
extern "C" fn forked<S: Scenario>(context: *const ForkContext<'_, S>) -> ! {
    tracee::die_with_parent();
    // SAFETY: on the stack of `Hunt::start`, which this process has a copy of and never leaves.
    let context = unsafe { &*context };
    tracee::end_with(context.page, &mut || {
        // SAFETY: as above. Who else has a reference to it is a thread that this copy is without.
        let doomed = unsafe { &mut *context.doomed };
        context.scenario.forked(context.world, doomed)
    })
}
