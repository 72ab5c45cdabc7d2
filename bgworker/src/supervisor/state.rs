//! The workers, and what becomes of each. Whoever calls holds the supervisor's lock.
use super::events::{Event, Events};
use super::{State, WorkerId, WorkerInfo};
use crate::child::{Child, Exit};
use crate::spawn::{self, SpawnError};
use crate::spec::WorkerSpec;
use rustix::process::Signal;
use shm_core::process::ProcessId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};

#[derive(Debug)]
pub(super) struct Workers {
    leader: ProcessId,
    slots: BTreeMap<WorkerId, Slot>,
    next: u64,
    closed: bool,
    pub(super) events: Events,
}

#[derive(Debug)]
struct Slot {
    worker: WorkerId,
    spec: WorkerSpec,
    phase: Phase,
    attempts: u32,
    restarts_in_a_row: u32,
    last_exit: Option<Exit>,
}

/// A moment that is `None` never comes.
#[derive(Debug)]
enum Phase {
    Running(Run),
    Waiting { until: Option<Instant> },
    Stopped,
}

#[derive(Debug)]
struct Run {
    child: Arc<Child>,
    since: Instant,
    stopping: bool,
    kill_at: Option<Instant>,
}

impl Workers {
    pub(super) fn new(leader: ProcessId, events_max: usize) -> Workers {
        let events = Events::new(events_max);
        Workers { leader, slots: BTreeMap::new(), next: 1, closed: false, events }
    }

    pub(super) fn spawn(&mut self, spec: WorkerSpec) -> Result<WorkerId, SpawnError> {
        if self.closed {
            return Err(SpawnError::ShutDown);
        }
        spawn::check_name(&spec.name)?;
        let worker = WorkerId(self.next);
        let mut slot = Slot::new(worker, spec);
        slot.start(self.leader, &mut self.events)?;
        self.next += 1;
        self.slots.insert(worker, slot);
        Ok(worker)
    }

    pub(super) fn kill(&self, worker: WorkerId) -> bool {
        self.slots
            .get(&worker)
            .and_then(Slot::run)
            .is_some_and(|run| run.child.signal(Signal::KILL))
    }

    pub(super) fn stop(&mut self, worker: WorkerId, grace: Duration) -> bool {
        self.slots.get_mut(&worker).is_some_and(|slot| slot.stop(grace))
    }

    /// Stops all workers; no other will be started.
    pub(super) fn close(&mut self, grace: Duration) {
        self.closed = true;
        for slot in self.slots.values_mut() {
            slot.stop(grace);
        }
    }

    pub(super) fn forget(&mut self, worker: WorkerId) -> bool {
        let stopped = self.slots.get(&worker).is_some_and(Slot::is_stopped);
        stopped && self.slots.remove(&worker).is_some()
    }

    pub(super) fn info(&self) -> Vec<WorkerInfo> {
        self.slots.values().map(Slot::info).collect()
    }

    /// After [`close`](Workers::close): nothing is left to do.
    pub(super) fn finished(&self) -> bool {
        self.closed && self.slots.values().all(Slot::is_stopped)
    }

    /// Whose deaths to wait for.
    pub(super) fn children(&self) -> Vec<(WorkerId, Arc<Child>)> {
        let runs = self.slots.values().filter_map(|slot| Some((slot.worker, slot.run()?)));
        runs.map(|(worker, run)| (worker, Arc::clone(&run.child))).collect()
    }

    /// When [`on_time`](Workers::on_time) has something to do.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.slots.values().filter_map(Slot::next_time).min()
    }

    /// Does what is due: firm ends, and restarts.
    pub(super) fn on_time(&mut self, now: Instant) {
        for slot in self.slots.values_mut() {
            if slot.next_time().is_some_and(|time| time <= now) {
                slot.on_time(self.leader, &mut self.events);
            }
        }
    }

    /// Takes note of a death.
    pub(super) fn on_death(&mut self, worker: WorkerId) {
        if let Some(slot) = self.slots.get_mut(&worker) {
            slot.on_death(&mut self.events);
        }
    }
}

impl Slot {
    fn new(worker: WorkerId, spec: WorkerSpec) -> Slot {
        let (attempts, restarts_in_a_row, last_exit) = (0, 0, None);
        Slot { worker, spec, phase: Phase::Stopped, attempts, restarts_in_a_row, last_exit }
    }

    fn start(&mut self, leader: ProcessId, events: &mut Events) -> Result<(), SpawnError> {
        self.attempts = self.attempts.saturating_add(1);
        let child = Arc::new(spawn::start(&self.spec, self.attempts, leader)?);
        let (worker, process, attempt) = (self.worker, child.id(), self.attempts);
        info!(worker = self.spec.name, pid = process.pid(), attempt, "worker has started");
        events.push(Event::Started { worker, process, attempt });
        self.phase =
            Phase::Running(Run { child, since: Instant::now(), stopping: false, kill_at: None });
        Ok(())
    }

    fn stop(&mut self, grace: Duration) -> bool {
        match &mut self.phase {
            Phase::Running(run) => run.stop(grace),
            Phase::Waiting { .. } => self.phase = Phase::Stopped,
            Phase::Stopped => return false,
        }
        true
    }

    fn on_time(&mut self, leader: ProcessId, events: &mut Events) {
        match &mut self.phase {
            Phase::Running(run) => {
                let pid = run.child.id().pid();
                warn!(worker = self.spec.name, pid, "worker did not stop and is killed");
                run.kill();
            }
            Phase::Waiting { .. } => self.restart(leader, events),
            Phase::Stopped => {}
        }
    }

    fn restart(&mut self, leader: ProcessId, events: &mut Events) {
        let Err(error) = self.start(leader, events) else { return };
        let retry_in = self.plan_restart();
        warn!(worker = self.spec.name, %error, ?retry_in, "worker could not be restarted");
        events.push(Event::SpawnFailed { worker: self.worker, error, retry_in });
        if retry_in.is_none() {
            self.give_up(events);
        }
    }

    fn on_death(&mut self, events: &mut Events) {
        let Phase::Running(run) = &self.phase else { return };
        let Some(how) = run.child.take_exit() else { return };
        let (process, lasted) = (run.child.id(), run.since.elapsed());
        let wanted = !run.stopping && self.spec.restart.wanted_after(how);
        self.last_exit = Some(how);
        self.phase = Phase::Stopped;
        if self.spec.restart.pacing().is_some_and(|pacing| lasted >= pacing.steady_after) {
            self.restarts_in_a_row = 0;
        }
        let will_restart_in = if wanted { self.plan_restart() } else { None };
        let (worker, pid) = (self.worker, process.pid());
        info!(worker = self.spec.name, pid, %how, ?will_restart_in, "worker has ended");
        events.push(Event::Ended { worker, process, how, will_restart_in });
        if wanted && will_restart_in.is_none() {
            self.give_up(events);
        }
    }

    /// Waits for the next attempt, or stops for good.
    fn plan_restart(&mut self) -> Option<Duration> {
        let delay = self.spec.restart.pacing()?.delay_after(self.restarts_in_a_row);
        self.phase = match delay {
            Some(delay) => Phase::Waiting { until: Instant::now().checked_add(delay) },
            None => Phase::Stopped,
        };
        self.restarts_in_a_row = self.restarts_in_a_row.saturating_add(u32::from(delay.is_some()));
        delay
    }

    fn give_up(&self, events: &mut Events) {
        let restarts = self.restarts_in_a_row;
        warn!(worker = self.spec.name, restarts, "worker is given up");
        events.push(Event::GaveUp { worker: self.worker, restarts });
    }

    fn run(&self) -> Option<&Run> {
        match &self.phase {
            Phase::Running(run) => Some(run),
            Phase::Waiting { .. } | Phase::Stopped => None,
        }
    }

    fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Stopped)
    }

    fn next_time(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Running(run) => run.kill_at,
            Phase::Waiting { until } => *until,
            Phase::Stopped => None,
        }
    }

    fn info(&self) -> WorkerInfo {
        let state = match &self.phase {
            Phase::Running(run) if run.stopping => State::Stopping(run.child.id()),
            Phase::Running(run) => State::Started(run.child.id()),
            Phase::Waiting { .. } => State::NotYetStarted,
            Phase::Stopped => State::Stopped,
        };
        let (id, name, argument) = (self.worker, self.spec.name.clone(), self.spec.argument);
        let (attempts, last_exit) = (self.attempts, self.last_exit);
        WorkerInfo { id, name, argument, state, attempts, last_exit }
    }
}

impl Run {
    /// Asked twice, the earlier end counts.
    fn stop(&mut self, grace: Duration) {
        let kill_at = Instant::now().checked_add(grace);
        self.kill_at = self.kill_at.into_iter().chain(kill_at).min();
        if !self.stopping {
            self.stopping = true;
            self.child.signal(Signal::TERM);
        }
    }

    fn kill(&mut self) {
        self.kill_at = None;
        self.child.signal(Signal::KILL);
    }
}
