//! `Scenario`: which processes there are, what may happen to them, and what must hold at the end.
use super::run::Me;
use super::search::Search;
use crate::depth::is_deep;
use std::fmt;
use std::time::{Duration, Instant};

/// What must hold.
pub(super) type Check<'a> = Box<dyn Fn(&End<'_>) + 'a>;

type Action<'a> = Box<dyn Fn(&Me) + 'a>;

/// One process of a [`Scenario`].
///
/// Its actions must do the same whenever their accesses return the same: no clock, no random
/// number, no private state that outlives a call.
pub struct Process<'a> {
    pub(super) name: String,
    pub(super) actions: Vec<Action<'a>>,
    pub(super) mortal: bool,
    pub(super) may_wait: bool,
}

impl<'a> Process<'a> {
    /// A process that does `action`, and then nothing for ever. It does not die.
    pub fn new(name: &str, action: impl Fn(&Me) + 'a) -> Process<'a> {
        let actions: Vec<Action<'a>> = vec![Box::new(action)];
        Process { name: name.to_owned(), actions, mortal: false, may_wait: true }
    }

    /// One more action. It knows of the earlier ones what they have [said](Me::say), so that states
    /// which differ only in how these went are one.
    pub fn then(mut self, action: impl Fn(&Me) + 'a) -> Process<'a> {
        self.actions.push(Box::new(action));
        self
    }

    /// It may die between any two accesses, and after its last.
    pub fn mortal(self) -> Process<'a> {
        Process { mortal: true, ..self }
    }

    /// It is to finish each action without waiting for anybody, wherever the others stand still.
    pub fn never_waits(self) -> Process<'a> {
        Process { may_wait: false, ..self }
    }
}

/// How one way through a scenario ended: for the check.
#[derive(Debug)]
pub struct End<'s> {
    pub(super) processes: Vec<EndOf<'s>>,
    pub(super) deaths: u32,
    pub(super) lied: bool,
}

#[derive(Debug)]
pub(super) struct EndOf<'s> {
    pub(super) said: &'s [u64],
    pub(super) dead: bool,
    pub(super) finished: bool,
}

impl End<'_> {
    /// What the process (0 for the first) has said.
    pub fn said(&self, process: usize) -> &[u64] {
        self.processes[process].said
    }

    /// Whether it has died.
    pub fn is_dead(&self, process: usize) -> bool {
        self.processes[process].dead
    }

    /// Whether it has done all its actions. It may have died afterwards.
    pub fn has_finished(&self, process: usize) -> bool {
        self.processes[process].finished
    }

    /// How many have died.
    pub fn deaths(&self) -> u32 {
        self.deaths
    }

    /// Whether anybody was lied to.
    pub fn is_after_a_lie(&self) -> bool {
        self.lied
    }
}

/// What an exploration went through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Explored {
    /// Different states.
    pub states: u64,
    /// Ways from one state to a next.
    pub steps: u64,
    /// Of them deaths.
    pub deaths: u64,
    /// Of them accesses that were told a lie.
    pub lies: u64,
    /// States in which everybody has ended or died, all of them checked.
    pub ends: u64,
    /// States in which everybody who lives waits, which the scenario allows and has checked.
    pub waits: u64,
    /// States after a lie in which everybody who lives waits, which a liar can bring about.
    pub waits_after_lies: u64,
    /// Runs of one process alone, from a state on to its action's end.
    pub solos: u64,
    /// The longest way from the beginning.
    pub deepest: u64,
    /// Only schedules with so many interruptions at most; `None`: all.
    pub preemptions: Option<u32>,
    /// It was stopped at the greatest number of states allowed.
    pub capped: bool,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explored { states, steps, deaths, lies, ends, waits, solos, deepest, .. } = self;
        let waits = waits + self.waits_after_lies;
        write!(
            f,
            "{states} states, {steps} steps, {deaths} deaths, {lies} lies, {ends} ends, \
             {waits} where all wait, {solos} solo runs, at most {deepest} steps deep, {:.1?}",
            self.took
        )?;
        if let Some(preemptions) = self.preemptions {
            write!(f, ", at most {preemptions} interruptions")?;
        }
        if self.capped { write!(f, ", stopped there") } else { Ok(()) }
    }
}

/// A small case of a structure's use, to be explored whole. See the [module](super).
pub struct Scenario<'a> {
    structure: &'static str,
    name: String,
    pub(super) processes: Vec<Process<'a>>,
    pub(super) deaths: u32,
    pub(super) lies: u32,
    pub(super) lingers: bool,
    pub(super) alone_max: u32,
    pub(super) states_max: u64,
    preemptions: Option<u32>,
    pub(super) check: Check<'a>,
    pub(super) waiting: Option<Check<'a>>,
}

impl<'a> Scenario<'a> {
    /// A case of `structure`, whose memory lies in the [`Arena`](super::Arena)s of this thread, as
    /// it is to be at the beginning.
    pub fn new(structure: &'static str, name: &str) -> Scenario<'a> {
        Scenario {
            structure,
            name: name.to_owned(),
            processes: Vec::new(),
            deaths: 0,
            lies: 0,
            lingers: false,
            alone_max: 1000,
            states_max: 1_000_000,
            preemptions: None,
            check: Box::new(|_| ()),
            waiting: None,
        }
    }

    /// One more process: number 1 is the first.
    pub fn process(mut self, process: Process<'a>) -> Scenario<'a> {
        self.processes.push(process);
        self
    }

    /// At most so many processes die on one way.
    pub fn deaths(self, deaths: u32) -> Scenario<'a> {
        Scenario { deaths, ..self }
    }

    /// At most so many accesses on one way are told a lie. From then on nobody is to panic, to run
    /// without end, or to leave the memory; more cannot be asked, and is not.
    pub fn lies(self, lies: u32) -> Scenario<'a> {
        Scenario { lies, ..self }
    }

    /// Who dies may go on between the marking of its life words and its certain death: threads of a
    /// killed process do not end at once.
    pub fn lingering(self) -> Scenario<'a> {
        Scenario { lingers: true, ..self }
    }

    /// From each state on, each process must end its action or wait for somebody within so many
    /// accesses, if it alone runs; and so must the check. 1000 if not said.
    pub fn alone_at_most(self, accesses: u32) -> Scenario<'a> {
        Scenario { alone_max: accesses, ..self }
    }

    /// Only schedules in which a process that could go on is interrupted at most so often; with
    /// `SHM_DEEP=1` twice more. Wherever it dies or falls asleep, others go on for nothing. For
    /// what is too large to be explored whole: few mistakes need many interruptions.
    pub fn preemptions_at_most(self, preemptions: u32) -> Scenario<'a> {
        Scenario { preemptions: Some(preemptions), ..self }
    }

    pub(super) fn preemptions_max(&self) -> Option<u32> {
        self.preemptions.map(|most| most + if is_deep() { 2 } else { 0 })
    }

    /// Stops after so many states; with `SHM_DEEP=1` after ten times as many. A million if not
    /// said.
    pub fn states_at_most(self, states: u64) -> Scenario<'a> {
        Scenario { states_max: states, ..self }
    }

    /// What must hold when all have ended or died, unless somebody was lied to. It runs as one more
    /// process, the last, which does not die, and may use the structure: to recover it, say.
    pub fn check(self, check: impl Fn(&End<'_>) + 'a) -> Scenario<'a> {
        Scenario { check: Box::new(check), ..self }
    }

    /// All who live may wait, where this holds: for a message that nobody is going to send, say.
    /// Without it that is a finding. It runs as the [check](Scenario::check) does.
    pub fn may_all_wait(self, check: impl Fn(&End<'_>) + 'a) -> Scenario<'a> {
        Scenario { waiting: Some(Box::new(check)), ..self }
    }

    /// Explores it, and prints what it went through. The memory is then as it was before.
    ///
    /// # Panics
    /// At the first finding, with the schedule that led there: a process panics, or cannot end
    /// alone; all who live wait; the check fails.
    pub fn explore(self) -> Explored {
        let start = Instant::now();
        let (mut explored, finding) = Search::new(&self).run();
        (explored.took, explored.preemptions) = (start.elapsed(), self.preemptions_max());
        if let Some(finding) = finding {
            panic!("{} | {}: {finding}\nafter {explored}", self.structure, self.name);
        }
        println!("explored {} | {} | {explored}", self.structure, self.name);
        explored
    }
}

/// Explores `scenario`, which has a planted bug, and requires that the bug is what is found: that
/// the finding contains `reason`.
///
/// # Panics
/// Where nothing is found, or something else.
#[track_caller]
pub fn finds<R>(reason: &str, scenario: impl FnOnce() -> R) {
    let end = super::search::quietly(scenario);
    let Err(found) = end else { panic!("the planted bug went unnoticed") };
    let found = found.trim_start_matches("panics: ");
    assert!(found.contains(reason), "expected {reason:?}, and found {found}");
    let what: Vec<&str> = found.lines().take_while(|line| !line.starts_with("    ")).collect();
    println!("found {}", what.join(";"));
}
