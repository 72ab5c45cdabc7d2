//! Every way through a scenario, each state once, depth first.
use super::arena::Arenas;
use super::kernel::{self, Kernel, TIMED_OUT, WOKEN};
use super::run::{self, Alternatives, Me, Start, Stop, Stopped, Vain, WORD};
use super::scenario::{Check, End, EndOf, Explored, Scenario};
use super::state::{Life, Seen, State};
use super::trace::{self, Event};
use crate::depth::is_deep;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Once;

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Edge {
    /// A process makes one access. `choice`: which sleeper it wakes. `lie`: which one it is told.
    Step { process: usize, choice: usize, lie: Option<usize> },
    /// A sleep with a limit ends.
    Timeout { process: usize },
    /// A process is killed.
    Kill { process: usize },
    /// The kernel marks one of a dying process's life words. `choice`: which sleeper it wakes.
    Mark { process: usize, word: usize, choice: usize },
    /// It is certainly dead from now on.
    Bury { process: usize },
}

/// A state on the present way, how it was come to, and where one can go from it.
struct Visit {
    state: State,
    event: Option<(usize, Event)>,
    edges: Vec<Edge>,
}

/// What a process did.
struct Ran {
    stop: Option<Stop>,
    alternatives: Alternatives,
    events: Vec<Event>,
}

/// What a process failed of.
struct Failed {
    what: String,
    ran: Ran,
}

const OUTSIDE: &str = "accesses what is no part of the memory";

/// Why an exploration fails.
pub(super) struct Finding {
    what: String,
    schedule: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; the schedule:{}", self.what, self.schedule)
    }
}

pub(super) struct Search<'s, 'a> {
    scenario: &'s Scenario<'a>,
    arenas: Arenas,
    seen: Seen,
    way: Vec<Visit>,
    explored: Explored,
    memory: RefCell<Vec<u8>>,
    states_max: u64,
    /// See `Current::loud`.
    loud: Rc<Vec<bool>>,
    /// A word that was taken for quiet has changed: all begins anew.
    was_wrong: bool,
}

impl<'s, 'a> Search<'s, 'a> {
    pub(super) fn new(scenario: &'s Scenario<'a>) -> Search<'s, 'a> {
        Search {
            scenario,
            arenas: Arenas::of_this_thread(),
            seen: Seen::default(),
            way: Vec::new(),
            explored: Explored::default(),
            memory: RefCell::default(),
            states_max: scenario.states_max * if is_deep() { 10 } else { 1 },
            loud: Rc::default(),
            was_wrong: false,
        }
    }

    pub(super) fn run(mut self) -> (Explored, Option<Finding>) {
        let beginning = self.beginning();
        let builder = run::with(|current| (current.pid, current.kernel.clone()));
        self.loud = Rc::new(vec![false; beginning.memory.len() / WORD]);
        let finding = loop {
            run::with(|current| current.loud = self.loud.clone());
            let finding = self.search(beginning.clone()).err();
            if finding.is_some() || !self.was_wrong {
                break finding;
            }
            (self.seen, self.explored) = (Seen::default(), Explored::default());
            self.way.clear();
            self.was_wrong = false;
        };
        // All is as it was, for the next scenario on the same memory.
        run::leave(|current| (current.pid, current.kernel) = builder);
        self.arenas.restore(&beginning.memory);
        (self.explored, finding)
    }

    fn beginning(&self) -> State {
        let mut memory = Vec::new();
        self.arenas.save(&mut memory);
        let count = self.scenario.processes.len();
        let living = (1..=count as u32 + 1).collect();
        let inside = |held: &&(u32, usize)| self.arenas.offset(held.1, 4).is_some();
        let held = run::with(|current| {
            current.arenas = self.arenas.clone();
            current.kernel.held.iter().filter(inside).copied().collect()
        });
        State {
            memory: Rc::new(memory),
            kernel: Rc::new(Kernel { sleepers: Vec::new(), held, living }),
            processes: (0..count).map(|_| Rc::default()).collect(),
            deaths_left: self.scenario.deaths,
            lies_left: self.scenario.lies,
            lied: false,
            turn: self.scenario.preemptions_max().map(|most| (0, most)),
        }
    }

    fn search(&mut self, beginning: State) -> Result<(), Finding> {
        self.seen.is_new(&beginning);
        for process in 0..self.scenario.processes.len() {
            self.alone(&beginning, process, None)?;
        }
        self.visit(beginning, None)?;
        while let Some(visit) = self.way.last_mut() {
            let Some(edge) = visit.edges.pop() else {
                self.way.pop();
                continue;
            };
            let before = visit.state.clone();
            let (after, event) = self.take(&before, edge)?;
            if self.was_wrong {
                return Ok(());
            }
            self.explored.steps += 1;
            if !self.seen.is_new(&after) {
                continue;
            }
            if self.seen.count() > self.states_max {
                self.explored.capped = true;
                return Ok(());
            }
            self.all_alone(&before, &after, edge, event)?;
            self.visit(after, Some(event))?;
        }
        Ok(())
    }

    /// A new state: where it ends, and where it goes on.
    fn visit(&mut self, state: State, event: Option<(usize, Event)>) -> Result<(), Finding> {
        self.explored.states += 1;
        let mut edges = Vec::new();
        self.fates(&state, &mut edges);
        let fates = edges.len();
        self.steps(&state, event.map(|(process, _)| process), &mut edges);
        let is_over = edges.len() == fates;
        let waits = state.processes.iter().any(|p| p.life != Life::Dead && !p.has_ended);
        self.way.push(Visit { state, event, edges });
        self.explored.deepest = self.explored.deepest.max(self.way.len() as u64 - 1);
        let state = &self.way[self.way.len() - 1].state;
        match (is_over, waits) {
            (false, _) => Ok(()),
            (true, false) => {
                self.explored.ends += 1;
                self.check(state, &self.scenario.check)
            }
            (true, true) if state.lied => {
                self.explored.waits_after_lies += 1;
                Ok(())
            }
            (true, true) => match &self.scenario.waiting {
                Some(check) => {
                    self.explored.waits += 1;
                    self.check(state, check)
                }
                None => Err(self.everybody_waits()),
            },
        }
    }

    /// Who can be killed.
    fn fates(&self, state: &State, edges: &mut Vec<Edge>) {
        if state.deaths_left == 0 {
            return;
        }
        for (process, position) in state.processes.iter().enumerate() {
            if position.life == Life::Lives && self.scenario.processes[process].mortal {
                edges.push(Edge::Kill { process });
            }
        }
    }

    /// What can happen by itself; who acted last comes last, and so is tried first: that keeps
    /// schedules readable.
    fn steps(&self, state: &State, last: Option<usize>, edges: &mut Vec<Edge>) {
        let count = state.processes.len();
        let first = last.map_or(0, |last| last + 1);
        for process in (first..count).chain(0..first.min(count)) {
            let position = &state.processes[process];
            if position.life == Life::Dead {
                continue;
            }
            let pid = process as u32 + 1;
            if position.life == Life::Dying {
                let held = state.kernel.held.iter().enumerate();
                let mine = held.filter(|(_, (holder, _))| *holder == pid);
                let before = edges.len();
                edges.extend(mine.map(|(word, _)| Edge::Mark { process, word, choice: 0 }));
                if edges.len() == before {
                    edges.push(Edge::Bury { process });
                }
                if !self.scenario.lingers {
                    continue;
                }
            }
            if position.has_ended || position.yields {
                continue;
            }
            match state.kernel.sleeper(pid) {
                None if !state.may_act(process) => {}
                None => edges.push(Edge::Step { process, choice: 0, lie: None }),
                Some(s) if s.timed && !position.vain.timed_out => {
                    edges.push(Edge::Timeout { process });
                }
                Some(_) => {}
            }
        }
    }

    fn take(&mut self, before: &State, edge: Edge) -> Result<(State, (usize, Event)), Finding> {
        let mut state = before.clone();
        let (process, event) = match edge {
            Edge::Step { process, choice, lie } => {
                (process, self.step(&mut state, process, choice, lie)?)
            }
            Edge::Timeout { process } => {
                let position = Rc::make_mut(&mut state.processes[process]);
                position.log.push(TIMED_OUT);
                position.vain.timed_out = true;
                Rc::make_mut(&mut state.kernel).wake(process as u32 + 1);
                (process, Event::fate("its sleep times out"))
            }
            Edge::Kill { process } => {
                self.explored.deaths += 1;
                state.deaths_left -= 1;
                Rc::make_mut(&mut state.processes[process]).life = Life::Dying;
                (process, Event::fate("is killed"))
            }
            Edge::Mark { process, word, choice } => {
                self.mark(&mut state, process, word, choice);
                (process, Event::fate("a life word of it is marked"))
            }
            Edge::Bury { process } => {
                Rc::make_mut(&mut state.processes[process]).life = Life::Dead;
                let woken = Rc::make_mut(&mut state.kernel).bury(process as u32 + 1);
                wake(&mut state, &woken);
                tell_the_others(&mut state, process);
                (process, Event::fate("is dead"))
            }
        };
        Ok((state, (process, event)))
    }

    fn step(
        &mut self,
        state: &mut State,
        process: usize,
        choice: usize,
        lie: Option<usize>,
    ) -> Result<Event, Finding> {
        let memory = state.memory.clone();
        state.give_turn(process);
        let ran = self.process(state, process, 1, (choice, lie), false);
        let ran = ran.map_err(|failed| self.finding(failed, process, None))?;
        if lie.is_some() {
            self.explored.lies += 1;
            state.lies_left -= 1;
            state.lied = true;
        }
        if *memory != *state.memory {
            self.hear(&memory, &state.memory);
            tell_the_others(state, process);
        }
        // The other ways in which this access can go are known now.
        if choice == 0 && lie.is_none() {
            let others = (1..ran.alternatives.choices).map(|choice| Edge::Step {
                process,
                choice,
                lie: None,
            });
            let lies = if state.lies_left > 0 { ran.alternatives.lies } else { 0 };
            let lies = (0..lies).map(|lie| Edge::Step { process, choice: 0, lie: Some(lie) });
            let at = self.way.len() - 1;
            // Before all others in the list: behind them in time.
            self.way[at].edges.splice(0..0, others.chain(lies));
        }
        let step = ran.events.iter().find(|event| !event.quiet).or(ran.events.first());
        Ok(step.copied().unwrap_or(Event::fate("goes on")))
    }

    fn mark(&mut self, state: &mut State, process: usize, word: usize, choice: usize) {
        let kernel = Rc::make_mut(&mut state.kernel);
        let (holder, address) = kernel.held.remove(word);
        self.arenas.restore(&state.memory);
        if kernel::mark(address, holder) {
            let asleep = kernel.on(address);
            if let Some(pid) = asleep.get(choice) {
                kernel.wake(*pid);
                wake(state, &[*pid]);
            }
            if choice == 0 {
                let at = self.way.len() - 1;
                let others = (1..asleep.len()).map(|choice| Edge::Mark { process, word, choice });
                self.way[at].edges.extend(others);
            }
        }
        let memory = state.memory.clone();
        self.keep_memory(state);
        self.hear(&memory, &state.memory);
        tell_the_others(state, process);
    }

    /// Notes which words have changed. Where one of them was taken for quiet, loads of it were made
    /// too early.
    fn hear(&mut self, before: &[u8], after: &[u8]) {
        let words = before.chunks(WORD).zip(after.chunks(WORD)).enumerate();
        for (word, _) in words.filter(|(_, (before, after))| before != after) {
            if !self.loud[word] {
                Rc::make_mut(&mut self.loud)[word] = true;
                self.was_wrong = self.scenario.lies == 0;
            }
        }
    }

    /// Copies what the arenas hold now into `state`, if it is something else.
    fn keep_memory(&self, state: &mut State) {
        let mut memory = self.memory.borrow_mut();
        self.arenas.save(&mut memory);
        if *memory != *state.memory {
            state.memory = Rc::new(memory.clone());
        }
    }

    /// Runs a process from its state on for at most `spare` accesses.
    fn process(
        &self,
        state: &mut State,
        process: usize,
        spare: u32,
        (choice, lie): (usize, Option<usize>),
        alone: bool,
    ) -> Result<Ran, Failed> {
        self.arenas.restore(&state.memory);
        let position = Rc::make_mut(&mut state.processes[process]);
        let before = position.said[..position.settled].to_vec();
        let pid = process as u32 + 1;
        run::enter(Start {
            pid,
            log: std::mem::take(&mut position.log),
            said: before.clone(),
            vain: position.vain,
            kernel: &state.kernel,
            spare,
            // A lie may be told at any load.
            skips_quiet: state.lies_left == 0 && self.scenario.lies == 0,
            lied: state.lied,
            alone,
            choice,
            lie,
        });
        let action = &self.scenario.processes[process].actions[position.action];
        let end = quietly(|| action(&Me { pid, before }));
        let (ran, woken) = run::leave(|current| {
            position.log = std::mem::take(&mut current.log);
            position.said = std::mem::take(&mut current.said);
            position.vain = current.vain;
            if current.kernel != *state.kernel {
                state.kernel = Rc::new(current.kernel.clone());
            }
            let events = std::mem::take(&mut current.events);
            let (stop, alternatives) = (current.stop, current.alternatives);
            (Ran { stop, alternatives, events }, std::mem::take(&mut current.woken))
        });
        match (end, ran.stop) {
            (Ok(()), None) => {
                position.action += 1;
                position.settled = position.said.len();
                position.log.clear();
                position.vain = Vain::default();
                let actions = self.scenario.processes[process].actions.len();
                position.has_ended = position.action == actions;
            }
            (_, Some(Stop::Stays)) => {
                (position.settled, position.has_ended) = (position.said.len(), true);
                position.log.clear();
                position.vain = Vain::default();
            }
            (_, Some(Stop::Outside)) => return Err(Failed { what: OUTSIDE.to_owned(), ran }),
            (_, Some(stop)) => position.yields = stop == Stop::Yields,
            (Err(what), None) => return Err(Failed { what, ran }),
        }
        wake(state, &woken);
        self.keep_memory(state);
        Ok(ran)
    }

    /// After an edge: whoever might now be unable to end alone. Who has just acted without being
    /// lied to is on the way that was tried before; and where nothing has changed for the others,
    /// nothing has changed in what they would do.
    fn all_alone(
        &mut self,
        before: &State,
        after: &State,
        edge: Edge,
        event: (usize, Event),
    ) -> Result<(), Finding> {
        let changed = before.memory != after.memory || before.kernel != after.kernel;
        for process in 0..after.processes.len() {
            let is_tried = match edge {
                Edge::Step { process: actor, choice: 0, lie: None } => actor == process,
                Edge::Kill { .. } => true,
                _ => false,
            };
            let position = &after.processes[process];
            let went_on = !Rc::ptr_eq(position, &before.processes[process]);
            if !is_tried && (changed || went_on) {
                self.alone(after, process, Some(event))?;
            }
        }
        Ok(())
    }

    /// Runs one process to its action's end while all others stand still.
    fn alone(
        &mut self,
        state: &State,
        process: usize,
        event: Option<(usize, Event)>,
    ) -> Result<(), Finding> {
        if !state.can_step(process) {
            return Ok(());
        }
        self.explored.solos += 1;
        let mut scratch = state.clone();
        let most = self.scenario.alone_max;
        let ran = self.process(&mut scratch, process, most, (0, None), true);
        let ran = ran.map_err(|failed| self.finding(failed, process, event))?;
        let what = match ran.stop {
            Some(Stop::Spent) => format!("cannot end alone within {most} accesses"),
            Some(Stop::Sleeps | Stop::Yields) if !self.scenario.processes[process].may_wait => {
                "cannot end alone: it waits for somebody".to_owned()
            }
            _ => return Ok(()),
        };
        Err(self.finding(Failed { what, ran }, process, event))
    }

    /// Runs a check as one more process.
    fn check(&self, state: &State, check: &Check<'_>) -> Result<(), Finding> {
        if state.lied {
            return Ok(());
        }
        let processes = state.processes.iter().map(|position| EndOf {
            said: &position.said,
            dead: position.life == Life::Dead,
            finished: position.has_ended,
        });
        let deaths = self.scenario.deaths - state.deaths_left;
        let end = End { processes: processes.collect(), deaths, lied: state.lied };
        self.arenas.restore(&state.memory);
        run::enter(Start {
            pid: state.processes.len() as u32 + 1,
            log: Vec::new(),
            said: Vec::new(),
            vain: Vain::default(),
            kernel: &state.kernel,
            spare: self.scenario.alone_max,
            skips_quiet: false,
            lied: state.lied,
            alone: true,
            choice: 0,
            lie: None,
        });
        let failed = quietly(|| check(&end)).err();
        let ran = run::leave(|current| Ran {
            stop: current.stop,
            alternatives: Alternatives::default(),
            events: std::mem::take(&mut current.events),
        });
        let most = self.scenario.alone_max;
        let what = match (ran.stop, failed) {
            (None, None) => return Ok(()),
            (None, Some(why)) => why,
            (Some(Stop::Outside), _) => OUTSIDE.to_owned(),
            (Some(Stop::Spent), _) => format!("cannot end within {most} accesses"),
            (Some(_), _) => "waits for nobody".to_owned(),
        };
        Err(self.finding(Failed { what, ran }, state.processes.len(), None))
    }

    fn name(&self, process: usize) -> &str {
        self.scenario.processes.get(process).map_or("the check", |process| process.name.as_str())
    }

    /// As `name`, and which of those who are called so.
    fn numbered(&self, process: usize) -> String {
        match self.scenario.processes.get(process) {
            Some(known) => format!("{} {}", process + 1, known.name),
            None => "the check".to_owned(),
        }
    }

    /// `last` happened behind the present way, and then the process did what it did.
    fn finding(&self, failed: Failed, process: usize, last: Option<(usize, Event)>) -> Finding {
        let Failed { what, ran } = failed;
        let then = ran.events.iter().map(|event| (process, *event));
        let what = format!("{}: {what}", self.name(process));
        Finding { what, schedule: self.schedule(last.into_iter().chain(then)) }
    }

    fn everybody_waits(&self) -> Finding {
        let processes = self.way.last().map(|visit| visit.state.processes.as_slice());
        let processes = processes.unwrap_or_default().iter().enumerate();
        let waiting = processes.filter(|(_, p)| p.life != Life::Dead && !p.has_ended);
        let names: Vec<&str> = waiting.map(|(process, _)| self.name(process)).collect();
        let what = format!("everybody waits: {}", names.join(", "));
        Finding { what, schedule: self.schedule(std::iter::empty()) }
    }

    /// The present way, and what came then.
    fn schedule(&self, then: impl Iterator<Item = (usize, Event)>) -> String {
        let way = self.way.iter().filter_map(|visit| visit.event).chain(then);
        trace::schedule(way.map(|(process, event)| (self.numbered(process), event)))
    }
}

/// Those whose sleep has ended know it.
fn wake(state: &mut State, pids: &[u32]) {
    for pid in pids {
        if let Some(position) = state.processes.get_mut(*pid as usize - 1) {
            Rc::make_mut(position).log.push(WOKEN);
        }
    }
}

/// Who waits for something to change looks again.
fn tell_the_others(state: &mut State, actor: usize) {
    for (process, position) in state.processes.iter_mut().enumerate() {
        if process != actor && position.is_news_to() {
            Rc::make_mut(position).news();
        }
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `f`; what it panics with, and where, which is not printed. A stop is a panic without words.
pub(super) fn quietly<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                PLACE.set(place);
            } else {
                loud(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let end = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(outer);
    end.map_err(|payload| {
        if payload.is::<Stopped>() {
            return String::new();
        }
        let message = payload.downcast_ref::<String>().cloned();
        let message = message.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
        format!("panics: {} ({})", message.unwrap_or_default(), PLACE.take())
    })
}
