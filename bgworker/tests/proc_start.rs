//! Processes that are stopped between `fork` and `exec`, where they are not workers yet: whoever
//! started one gets an error, and nobody else waits for it.
//!
//! A handler of the C library stops each forked child while a switch is on.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;

use bgworker::{Event, Exit, Pacing, Program, Restart, SpawnError, State, Supervisor};
use bgworker::{SupervisorConfig, WorkerId, WorkerSpec};
use common::{WATCHDOG, end_of, next, shut_down};
use shm_testkit::child::Child;
use shm_testkit::watchdog::within;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

shm_testkit::children! {
    others_go_on, shut_down_meanwhile, run_out_of_time, run_out_of_time_again, die_on_the_way,
}

static STOP: AtomicBool = AtomicBool::new(false);
static DIE: AtomicBool = AtomicBool::new(false);

extern "C" fn in_a_forked_child() {
    let signals = [(&STOP, libc::SIGSTOP), (&DIE, libc::SIGKILL)];
    for (_, signal) in signals.iter().filter(|(switch, _)| switch.load(Relaxed)) {
        // SAFETY: a plain system call.
        unsafe { libc::raise(*signal) };
    }
}

fn handle_forks() {
    // SAFETY: the handler makes system calls only.
    assert_eq!(unsafe { libc::pthread_atfork(None, None, Some(in_a_forked_child)) }, 0);
}

/// Runs `function` as a process of its own: the handler is for all its forks.
fn alone(function: &str) {
    Child::spawn(function, &[]).wait(WATCHDOG).assert_success();
}

fn supervisor(start_timeout: Duration) -> Arc<Supervisor> {
    let config = SupervisorConfig { start_timeout, ..SupervisorConfig::default() };
    Arc::new(Supervisor::start(config).unwrap())
}

fn sleeper() -> WorkerSpec {
    let args = vec!["60".into()];
    WorkerSpec { args, ..WorkerSpec::new("sleeper", Program::Path("sleep".into())) }
}

fn no_child_is_left() {
    // SAFETY: a plain system call; the status is not asked for.
    let child = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    assert_eq!((child, errno), (-1, Some(libc::ECHILD)), "no child, alive or dead");
}

/// A worker that is stopped before its program begins, and the thread that waits for it.
fn start_stopped(
    supervisor: &Arc<Supervisor>,
) -> std::thread::JoinHandle<Result<WorkerId, SpawnError>> {
    let before = supervisor.workers().len();
    STOP.store(true, Relaxed);
    let theirs = Arc::clone(supervisor);
    let spawning = std::thread::spawn(move || theirs.spawn(sleeper()));
    within(WATCHDOG, || {
        while supervisor.workers().len() == before {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    STOP.store(false, Relaxed);
    spawning
}

#[test]
fn a_worker_stopped_before_its_program_holds_up_nobody_else() {
    alone("others_go_on");
}

fn others_go_on(_: &[String]) {
    handle_forks();
    let supervisor = supervisor(2 * WATCHDOG);
    let spawning = start_stopped(&supervisor);
    let stopped = supervisor.workers()[0].id;
    assert_eq!(supervisor.workers()[0].state, State::NotYetStarted);
    assert!(supervisor.next_event(Some(Instant::now())).is_none());

    let other = within(WATCHDOG, || supervisor.spawn(sleeper())).unwrap();
    assert!(matches!(next(&supervisor), Event::Started { worker, .. } if worker == other));
    assert!(supervisor.kill(other));
    assert!(matches!(next(&supervisor), Event::Ended { worker, .. } if worker == other));

    assert!(!spawning.is_finished() && !supervisor.forget(stopped));
    assert!(supervisor.stop(stopped, WATCHDOG), "killed: the grace is for workers");
    let ended = end_of(&supervisor, stopped);
    assert!(matches!(ended, Event::Ended { how: Exit::Signal(libc::SIGKILL), .. }));
    assert_eq!(within(WATCHDOG, || spawning.join()).unwrap().unwrap(), stopped);
    no_child_is_left();
}

#[test]
fn shutdown_ends_a_worker_stopped_before_its_program() {
    alone("shut_down_meanwhile");
}

fn shut_down_meanwhile(_: &[String]) {
    handle_forks();
    let supervisor = supervisor(2 * WATCHDOG);
    let spawning = start_stopped(&supervisor);
    let ends = shut_down(&supervisor, WATCHDOG);
    assert_eq!(ends[0].last_exit, Some(Exit::Signal(libc::SIGKILL)));
    assert!(within(WATCHDOG, || spawning.join()).unwrap().is_ok());
    no_child_is_left();
}

#[test]
fn a_worker_that_does_not_begin_in_time_is_an_error() {
    alone("run_out_of_time");
}

fn run_out_of_time(_: &[String]) {
    handle_forks();
    let supervisor = supervisor(Duration::from_millis(100));
    let spawning = start_stopped(&supervisor);
    let error = within(WATCHDOG, || spawning.join()).unwrap().unwrap_err();
    assert!(
        matches!(&error, SpawnError::Start { source, .. } if source.kind() == ErrorKind::TimedOut),
        "{error}"
    );
    assert!(supervisor.workers().is_empty());
    assert!(supervisor.next_event(Some(Instant::now())).is_none());
    no_child_is_left();
}

#[test]
fn a_restart_that_does_not_begin_in_time_is_tried_again() {
    alone("run_out_of_time_again");
}

fn run_out_of_time_again(_: &[String]) {
    handle_forks();
    let supervisor = supervisor(Duration::from_millis(100));
    let restart = Restart::OnFailure(Pacing::at_once(9));
    let worker = supervisor.spawn(WorkerSpec { restart, ..sleeper() }).unwrap();
    STOP.store(true, Relaxed);
    assert!(supervisor.kill(worker));
    let failed = |event: &Event| matches!(event, Event::SpawnFailed { retry_in: Some(_), .. });
    while !failed(&next(&supervisor)) {}
    STOP.store(false, Relaxed);
    while !matches!(next(&supervisor), Event::Started { .. }) {}
    shut_down(&supervisor, WATCHDOG / 2);
    no_child_is_left();
}

#[test]
fn a_worker_killed_before_its_program_has_started_and_ended() {
    alone("die_on_the_way");
}

fn die_on_the_way(_: &[String]) {
    handle_forks();
    let supervisor = supervisor(WATCHDOG);
    DIE.store(true, Relaxed);
    let worker = within(WATCHDOG, || supervisor.spawn(sleeper())).unwrap();
    let ended = end_of(&supervisor, worker);
    assert!(matches!(ended, Event::Ended { how: Exit::Signal(libc::SIGKILL), .. }));
    no_child_is_left();
}
