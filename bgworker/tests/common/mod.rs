//! Child processes for the tests: the test executable itself, executed again for its ignored test
//! `child`, which calls [`child`].
use bgworker::{Event, Inheritance, Output, Program, Supervisor, SupervisorConfig, WorkerId};
use bgworker::{WhenLeaderDies, Worker, WorkerSpec};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const ARGS: [&str; 4] = ["--exact", "child", "--ignored", "--nocapture"];
pub const ROLE: &str = "BGWORKER_TEST_ROLE";
const READY: &str = "BGWORKER_TEST_READY";

/// No wait takes longer; if one does, the test fails.
pub const WATCHDOG: Duration = Duration::from_secs(30);

/// A pipe through which workers say that they have come so far.
pub struct Ready {
    reader: File,
    pub writer: Arc<OwnedFd>,
}

impl Ready {
    pub fn new() -> Ready {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        Ready { reader: File::from(OwnedFd::from(reader)), writer: Arc::new(writer.into()) }
    }

    pub fn inheritance(&self) -> Inheritance {
        let number = self.writer.as_raw_fd().to_string();
        Inheritance { env: vec![(READY.into(), number.into())], fds: vec![self.writer.clone()] }
    }

    /// Waits until `count` workers are ready.
    pub fn wait(&mut self, count: usize) {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).expect("workers that live");
    }
}

/// The descriptor through which this worker says that it is ready.
pub fn ready_fd() -> RawFd {
    std::env::var(READY).expect("an inherited pipe").parse().expect("its number")
}

pub fn say_ready() {
    // SAFETY: inherited for this purpose, and nobody else's in this process.
    let mut pipe = unsafe { File::from_raw_fd(ready_fd()) };
    pipe.write_all(b".").expect("a leader that listens");
    std::mem::forget(pipe);
}

/// A worker that plays `role`.
pub fn spec(role: &str) -> WorkerSpec {
    let env = vec![(OsString::from(ROLE), OsString::from(role))];
    let args = ARGS.map(OsString::from).to_vec();
    WorkerSpec { args, env, stdout: Output::Null, ..WorkerSpec::new(role, Program::This) }
}

pub fn ready_spec(role: &str, ready: &Ready) -> WorkerSpec {
    WorkerSpec { inherit: ready.inheritance(), ..spec(role) }
}

/// A worker that ends with this code.
pub fn exits(code: u64) -> WorkerSpec {
    WorkerSpec { argument: code, ..spec("exit") }
}

pub fn supervisor() -> Supervisor {
    Supervisor::start(SupervisorConfig::default()).expect("a supervisor")
}

pub fn next(supervisor: &Supervisor) -> Event {
    supervisor.next_event(Some(Instant::now() + WATCHDOG)).expect("an event within the watchdog")
}

/// Waits for the end of `worker`, whatever else happens.
pub fn end_of(supervisor: &Supervisor, worker: WorkerId) -> Event {
    loop {
        let event = next(supervisor);
        if matches!(event, Event::Ended { worker: ended, .. } if ended == worker) {
            return event;
        }
    }
}

/// The main function of all child processes; `more` are roles of one test file.
pub fn child(more: impl FnOnce(&str)) {
    let Ok(role) = std::env::var(ROLE) else { return };
    match role.as_str() {
        "exit" => std::process::exit(worker().argument() as i32),
        "idle" => {
            let worker = worker();
            say_ready();
            worker.wait_until_stop(None);
            std::process::exit(0);
        }
        "busy" => {
            let _worker = worker();
            say_ready();
            loop {
                std::hint::spin_loop();
            }
        }
        other => more(other),
    }
}

fn worker() -> Worker {
    Worker::from_env().expect("good variables").expect("a worker")
}

/// For roles that leave in their own way.
pub fn worker_or(when: WhenLeaderDies) -> Worker {
    Worker::from_env_or(when).expect("good variables").expect("a worker")
}
