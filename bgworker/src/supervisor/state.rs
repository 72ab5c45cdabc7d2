//! The workers, and what becomes of each. Whoever calls holds the supervisor's lock.
use super::events::{Event, Events};
use super::{State, SupervisorConfig, WorkerId, WorkerInfo};
use crate::child::{Child, Exit};
use crate::spawn::{self, Exec, Forking, SpawnError};
use crate::spec::WorkerSpec;
use rustix::process::Signal;
use shm_core::process::ProcessId;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};

#[derive(Debug)]
pub(super) struct Workers {
    leader: ProcessId,
    start_timeout: Duration,
    slots: BTreeMap<WorkerId, Slot>,
    next: u64,
    closed: bool,
    /// First starts that failed, until whoever asked for the worker takes the reason.
    refused: BTreeMap<WorkerId, SpawnError>,
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
    Starting(Start),
    Running(Run),
    Waiting { until: Option<Instant> },
    Stopped,
}

/// A process on its way to its program.
#[derive(Debug)]
struct Start {
    forking: Forking,
    until: Option<Instant>,
    stopping: bool,
    /// It has failed, has been killed for it, and is not dead yet.
    failed: Option<io::Error>,
}

#[derive(Debug)]
struct Run {
    child: Arc<Child>,
    since: Instant,
    stopping: bool,
    kill_at: Option<Instant>,
}

impl Workers {
    pub(super) fn new(leader: ProcessId, config: SupervisorConfig) -> Workers {
        Workers {
            leader,
            start_timeout: config.start_timeout,
            slots: BTreeMap::new(),
            next: 1,
            closed: false,
            refused: BTreeMap::new(),
            events: Events::new(config.events_max),
        }
    }

    /// Begins to start a worker: [`first_start_of`](Workers::first_start_of) tells how that ends.
    pub(super) fn spawn(&mut self, spec: WorkerSpec) -> Result<WorkerId, SpawnError> {
        if self.closed {
            return Err(SpawnError::ShutDown);
        }
        spawn::check_name(&spec.name)?;
        let worker = WorkerId(self.next);
        let mut slot = Slot::new(worker, spec);
        slot.start(self.leader, self.start_timeout)?;
        self.next += 1;
        self.slots.insert(worker, slot);
        Ok(worker)
    }

    /// `None`: it is on its way.
    pub(super) fn first_start_of(&mut self, worker: WorkerId) -> Option<Result<(), SpawnError>> {
        if let Some(error) = self.refused.remove(&worker) {
            return Some(Err(error));
        }
        let starting = self.slots.get(&worker).is_some_and(Slot::is_starting_first);
        (!starting).then_some(Ok(()))
    }

    pub(super) fn kill(&self, worker: WorkerId) -> bool {
        let child = self.slots.get(&worker).and_then(Slot::child);
        child.is_some_and(|child| child.signal(Signal::KILL))
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

    /// What to wait for: a descriptor becomes readable when something happened to its worker.
    pub(super) fn awaited(&self) -> Vec<(WorkerId, Arc<OwnedFd>)> {
        let slots = self.slots.values();
        slots.filter_map(|slot| Some((slot.worker, Arc::clone(slot.awaited()?)))).collect()
    }

    /// When [`on_time`](Workers::on_time) has something to do.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.slots.values().filter_map(Slot::next_time).min()
    }

    /// Does what is due: firm ends, and restarts.
    pub(super) fn on_time(&mut self, now: Instant) {
        for slot in self.slots.values_mut() {
            if slot.next_time().is_some_and(|time| time <= now) {
                slot.on_time(self.leader, self.start_timeout, &mut self.events);
            }
        }
    }

    /// Takes note of a start, of its failure, or of a death.
    pub(super) fn on_ready(&mut self, worker: WorkerId) {
        let Some(slot) = self.slots.get_mut(&worker) else { return };
        if let Some(error) = slot.on_ready(&mut self.events) {
            self.slots.remove(&worker);
            self.refused.insert(worker, error);
        }
    }
}

impl Slot {
    fn new(worker: WorkerId, spec: WorkerSpec) -> Slot {
        let (attempts, restarts_in_a_row, last_exit) = (0, 0, None);
        Slot { worker, spec, phase: Phase::Stopped, attempts, restarts_in_a_row, last_exit }
    }

    fn start(&mut self, leader: ProcessId, timeout: Duration) -> Result<(), SpawnError> {
        self.attempts = self.attempts.saturating_add(1);
        let forking = spawn::fork(&self.spec, self.attempts, leader)?;
        let until = Instant::now().checked_add(timeout);
        self.phase = Phase::Starting(Start { forking, until, stopping: false, failed: None });
        Ok(())
    }

    fn stop(&mut self, grace: Duration) -> bool {
        match &mut self.phase {
            Phase::Starting(start) => start.stop(),
            Phase::Running(run) => run.stop(grace),
            Phase::Waiting { .. } => self.phase = Phase::Stopped,
            Phase::Stopped => return false,
        }
        true
    }

    fn on_time(&mut self, leader: ProcessId, timeout: Duration, events: &mut Events) {
        match &mut self.phase {
            Phase::Starting(start) => start.fail(io::ErrorKind::TimedOut.into()),
            Phase::Running(run) => {
                let pid = run.child.id().pid();
                warn!(worker = self.spec.name, pid, "worker did not stop and is killed");
                run.kill();
            }
            Phase::Waiting { .. } => {
                if let Err(error) = self.start(leader, timeout) {
                    self.on_refused_restart(error, events);
                }
            }
            Phase::Stopped => {}
        }
    }

    fn on_refused_restart(&mut self, error: SpawnError, events: &mut Events) {
        let retry_in = self.plan_restart();
        warn!(worker = self.spec.name, %error, ?retry_in, "worker could not be restarted");
        events.push(Event::SpawnFailed { worker: self.worker, error, retry_in });
        if retry_in.is_none() {
            self.give_up(events);
        }
    }

    /// An error: it has never been a worker.
    fn on_ready(&mut self, events: &mut Events) -> Option<SpawnError> {
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Starting(start) if start.failed.is_none() => self.on_exec(start, events),
            Phase::Starting(start) => return self.on_failed_start(start, events),
            Phase::Running(run) => self.on_death(run, events),
            other => self.phase = other,
        }
        None
    }

    fn on_exec(&mut self, mut start: Start, events: &mut Events) {
        self.phase = match start.forking.look() {
            Exec::Pending => Phase::Starting(start),
            Exec::Refused(error) => {
                start.fail(error);
                Phase::Starting(start)
            }
            Exec::Done => {
                let child = start.forking.child;
                let (worker, process, attempt) = (self.worker, child.id(), self.attempts);
                info!(worker = self.spec.name, pid = process.pid(), attempt, "worker has started");
                events.push(Event::Started { worker, process, attempt });
                let (since, stopping) = (Instant::now(), start.stopping);
                Phase::Running(Run { child, since, stopping, kill_at: None })
            }
        };
    }

    /// The process may be dead; only then is there nothing left of it.
    fn on_failed_start(&mut self, mut start: Start, events: &mut Events) -> Option<SpawnError> {
        if start.forking.child.take_exit().is_none() {
            self.phase = Phase::Starting(start);
            return None;
        }
        let error = start.forking.failed(start.failed.take()?);
        if self.attempts == 1 {
            return Some(error);
        }
        if !start.stopping {
            self.on_refused_restart(error, events);
        }
        None
    }

    fn on_death(&mut self, run: Run, events: &mut Events) {
        let Some(how) = run.child.take_exit() else {
            self.phase = Phase::Running(run);
            return;
        };
        let (process, lasted) = (run.child.id(), run.since.elapsed());
        let wanted = !run.stopping && self.spec.restart.wanted_after(how);
        self.last_exit = Some(how);
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

    fn child(&self) -> Option<&Arc<Child>> {
        match &self.phase {
            Phase::Starting(start) => Some(&start.forking.child),
            Phase::Running(run) => Some(&run.child),
            Phase::Waiting { .. } | Phase::Stopped => None,
        }
    }

    fn awaited(&self) -> Option<&Arc<OwnedFd>> {
        match &self.phase {
            Phase::Starting(start) if start.failed.is_none() => Some(&start.forking.exec),
            _ => self.child().map(|child| child.death()),
        }
    }

    fn is_starting_first(&self) -> bool {
        matches!(self.phase, Phase::Starting(_)) && self.attempts == 1
    }

    fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Stopped)
    }

    fn next_time(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Starting(start) => start.until,
            Phase::Running(run) => run.kill_at,
            Phase::Waiting { until } => *until,
            Phase::Stopped => None,
        }
    }

    fn info(&self) -> WorkerInfo {
        let state = match &self.phase {
            Phase::Running(run) if run.stopping => State::Stopping(run.child.id()),
            Phase::Running(run) => State::Started(run.child.id()),
            Phase::Starting(_) | Phase::Waiting { .. } => State::NotYetStarted,
            Phase::Stopped => State::Stopped,
        };
        let (id, name, argument) = (self.worker, self.spec.name.clone(), self.spec.argument);
        let (attempts, last_exit) = (self.attempts, self.last_exit);
        WorkerInfo { id, name, argument, state, attempts, last_exit }
    }
}

impl Start {
    /// Not gently: until its program begins it is a copy of the leader, with the leader's handlers.
    fn stop(&mut self) {
        self.stopping = true;
        self.forking.child.signal(Signal::KILL);
    }

    fn fail(&mut self, error: io::Error) {
        self.until = None;
        self.failed = Some(error);
        self.forking.child.signal(Signal::KILL);
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
