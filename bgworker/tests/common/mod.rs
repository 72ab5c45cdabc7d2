//! Workers for the tests: functions of the test binary, run in processes of their own.
#![allow(dead_code, reason = "each test file uses its part")]
use bgworker::{Event, Inheritance, Program, Supervisor, SupervisorConfig, WhenLeaderDies};
use bgworker::{Worker, WorkerId, WorkerInfo, WorkerSpec};
use shm_testkit::child;
use shm_testkit::watchdog::within;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No wait takes longer; if one does, the test fails.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);

const READY: &str = "BGWORKER_TEST_READY";

/// A pipe through which workers say that they have come so far.
pub(crate) struct Ready {
    reader: File,
    pub(crate) writer: Arc<OwnedFd>,
}

impl Ready {
    pub(crate) fn new() -> Ready {
        let (reader, writer) = std::io::pipe().unwrap();
        Ready { reader: File::from(OwnedFd::from(reader)), writer: Arc::new(writer.into()) }
    }

    /// Waits until `count` workers are ready.
    pub(crate) fn wait(&mut self, count: usize) {
        let mut bytes = vec![0; count];
        within(WATCHDOG, || self.reader.read_exact(&mut bytes)).unwrap();
    }
}

/// In a worker: the pipe's number.
pub(crate) fn ready_fd() -> RawFd {
    std::env::var(READY).unwrap().parse().unwrap()
}

/// In a worker, once.
pub(crate) fn say_ready() {
    // SAFETY: inherited for this purpose, and nobody else's in this process.
    let mut pipe = unsafe { File::from_raw_fd(ready_fd()) };
    pipe.write_all(b".").unwrap();
}

/// A worker that runs this function of the test binary.
pub(crate) fn spec(function: &str) -> WorkerSpec {
    let args = child::command(function, &[]).get_args().map(OsString::from).collect();
    WorkerSpec { args, ..WorkerSpec::new(function, Program::This) }
}

/// As [`spec`]; it calls [`say_ready`].
pub(crate) fn ready_spec(function: &str, ready: &Ready) -> WorkerSpec {
    let number = ready.writer.as_raw_fd().to_string();
    let env = vec![(READY.into(), number.into())];
    WorkerSpec { inherit: Inheritance { env, fds: vec![ready.writer.clone()] }, ..spec(function) }
}

pub(crate) fn supervisor() -> Supervisor {
    Supervisor::start(SupervisorConfig::default()).unwrap()
}

/// Starts a worker and waits until it is ready.
pub(crate) fn start_ready(supervisor: &Supervisor, function: &str) -> WorkerId {
    let mut ready = Ready::new();
    let worker = supervisor.spawn(ready_spec(function, &ready)).unwrap();
    ready.wait(1);
    worker
}

pub(crate) fn shut_down(supervisor: &Supervisor, grace: Duration) -> Vec<WorkerInfo> {
    within(WATCHDOG, || supervisor.shutdown(grace))
}

pub(crate) fn next(supervisor: &Supervisor) -> Event {
    supervisor.next_event(Some(Instant::now() + WATCHDOG)).expect("an event within the watchdog")
}

/// Waits for the end of `worker`, whatever else happens.
pub(crate) fn end_of(supervisor: &Supervisor, worker: WorkerId) -> Event {
    loop {
        let event = next(supervisor);
        if matches!(event, Event::Ended { worker: ended, .. } if ended == worker) {
            return event;
        }
    }
}

shm_testkit::children! { idle, busy }

fn idle(_: &[String]) {
    let worker = worker(WhenLeaderDies::Leave);
    say_ready();
    worker.wait_until_stop(None);
}

fn busy(_: &[String]) {
    let _worker = worker(WhenLeaderDies::Leave);
    say_ready();
    loop {
        std::hint::spin_loop();
    }
}

pub(crate) fn worker(when: WhenLeaderDies) -> Worker {
    Worker::from_env_or(when).unwrap().expect("a worker")
}
