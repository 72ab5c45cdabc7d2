//! The supervisor with real worker processes: deaths are noticed, restarts follow the policy, and
//! stopping is gentle and then firm. What is left behind, and the leader's oddities, are in
//! `proc_leader.rs`.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;

use bgworker::{Event, Exit, Output, Pacing, Program, Restart, SpawnError, State, Supervisor};
use bgworker::{WhenLeaderDies, WorkerInfo, WorkerSpec};
use common::{Ready, WATCHDOG, end_of, next, ready_spec, shut_down, spec, start_ready, supervisor};
use shm_core::event::EventCount;
use shm_core::participants::Sleeper;
use shm_testkit::unique::TempDir;
use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

shm_testkit::children! { exits, sleeps_on_two }

fn exits(_: &[String]) {
    std::process::exit(common::worker(WhenLeaderDies::Leave).argument() as i32);
}

fn sleeps_on_two(_: &[String]) {
    let (worker, other) = (common::worker(WhenLeaderDies::Leave), EventCount::new());
    let stop = worker.stop_event();
    common::say_ready();
    while !worker.should_stop() {
        let events = [(stop, stop.prepare()), (&other, other.prepare())];
        if !worker.should_stop() {
            Sleeper::new().lie_down(&events, &[]).unwrap().sleep(None);
        }
    }
}

/// A worker that ends with `code`.
fn exiting(code: u64, restart: Restart) -> WorkerSpec {
    WorkerSpec { argument: code, restart, ..spec("exits") }
}

fn info_of(supervisor: &Supervisor) -> WorkerInfo {
    let [info] = supervisor.workers().try_into().expect("one worker");
    info
}

fn end(info: &WorkerInfo) -> Exit {
    assert_eq!(info.state, State::Stopped);
    info.last_exit.expect("an end")
}

#[test]
fn a_killed_worker_is_noticed_at_once() {
    let supervisor = supervisor();
    let mut took = Vec::new();
    for _ in 0..10 {
        let worker = start_ready(&supervisor, "idle");
        let killed = Instant::now();
        assert!(supervisor.kill(worker));
        let event = end_of(&supervisor, worker);
        took.push(killed.elapsed());
        assert!(matches!(event, Event::Ended { how: Exit::Signal(libc::SIGKILL), .. }));
        assert!(!supervisor.kill(worker), "the dead are not killed again");
    }
    took.sort();
    println!("from SIGKILL to the event: median {:?}, longest {:?}", took[5], took[9]);
}

#[test]
fn a_worker_that_never_restarts_runs_once() {
    let supervisor = supervisor();
    for code in [0, 9] {
        let worker = supervisor.spawn(exiting(code, Restart::Never)).unwrap();
        let started = next(&supervisor);
        assert!(matches!(started, Event::Started { worker: w, attempt: 1, .. } if w == worker));
        let Event::Ended { how, will_restart_in: None, .. } = next(&supervisor) else {
            panic!("it should end for good");
        };
        assert_eq!(how, Exit::Code(code as i32));
    }
    assert!(supervisor.workers().iter().all(|info| info.attempts == 1));
}

#[test]
fn on_failure_restarts_failures_up_to_the_limit() {
    let supervisor = supervisor();
    let restart = Restart::OnFailure(Pacing::at_once(2));
    let fine = supervisor.spawn(exiting(0, restart.clone())).unwrap();
    assert!(matches!(end_of(&supervisor, fine), Event::Ended { will_restart_in: None, .. }));

    let failing = supervisor.spawn(exiting(4, restart)).unwrap();
    for attempt in 1..=3 {
        let started = next(&supervisor);
        assert!(matches!(started, Event::Started { attempt: a, .. } if a == attempt));
        let ended = next(&supervisor);
        let Event::Ended { how: Exit::Code(4), will_restart_in, .. } = ended else {
            panic!("{ended:?}");
        };
        assert_eq!(will_restart_in, (attempt < 3).then_some(Duration::ZERO));
    }
    let last = next(&supervisor);
    assert!(matches!(last, Event::GaveUp { worker, restarts: 2 } if worker == failing));
}

#[test]
fn always_restarts_success_too_and_a_steady_run_ends_the_row() {
    let supervisor = supervisor();
    // Each run lasts longer than no time at all: the row never grows beyond its limit of one.
    let pacing = Pacing { steady_after: Duration::ZERO, ..Pacing::at_once(1) };
    let worker = supervisor.spawn(exiting(0, Restart::Always(pacing))).unwrap();
    for _ in 0..4 {
        let ended = end_of(&supervisor, worker);
        assert!(matches!(ended, Event::Ended { will_restart_in: Some(_), .. }), "{ended:?}");
    }
}

#[test]
fn restarts_wait_ever_longer() {
    let supervisor = supervisor();
    let (delay, delay_max) = (Duration::from_millis(60), Duration::from_millis(100));
    let pacing = Pacing { delay, delay_max, in_a_row_max: 2, ..Pacing::default() };
    let from = Instant::now();
    let worker = supervisor.spawn(exiting(1, Restart::OnFailure(pacing))).unwrap();
    for expected in [Some(delay), Some(delay_max), None] {
        let Event::Ended { will_restart_in, .. } = end_of(&supervisor, worker) else {
            unreachable!("end_of returns ends");
        };
        assert_eq!(will_restart_in, expected);
    }
    assert!(from.elapsed() >= delay + delay_max);
}

#[test]
fn a_worker_that_waits_for_its_restart_can_be_stopped() {
    let supervisor = supervisor();
    let pacing = Pacing { delay: Duration::MAX, delay_max: Duration::MAX, ..Pacing::default() };
    let worker = supervisor.spawn(exiting(0, Restart::Always(pacing))).unwrap();
    end_of(&supervisor, worker);
    assert_eq!(info_of(&supervisor).state, State::NotYetStarted);
    assert!(!supervisor.forget(worker), "it is not stopped");
    assert!(supervisor.stop(worker, WATCHDOG));
    assert_eq!(info_of(&supervisor).state, State::Stopped);
    assert!(!supervisor.stop(worker, WATCHDOG), "it is stopped");
    assert!(supervisor.forget(worker));
    assert!(supervisor.workers().is_empty());
}

#[test]
fn a_bad_program_is_an_error_that_says_what_to_do() {
    let supervisor = supervisor();
    let refused = |spec: WorkerSpec| supervisor.spawn(spec).unwrap_err().to_string();
    let program = |path: &str| WorkerSpec::new("bad", Program::Path(PathBuf::from(path)));

    let missing = refused(program("/no/such/program"));
    assert!(missing.contains("/no/such/program") && missing.contains("exists"), "{missing}");
    assert!(refused(program("/etc/passwd")).contains("executable"));
    let args = vec!["a\0b".into()];
    assert!(refused(WorkerSpec { args, ..program("/bin/true") }).contains("NUL"));
    let args = vec!["x".repeat(3 << 20).into()];
    assert!(refused(WorkerSpec { args, ..program("/bin/true") }).contains("shorten"));
    for name in [String::new(), "x".repeat(96), "a\0b".into()] {
        let spec = WorkerSpec { name, ..program("/bin/true") };
        assert!(matches!(supervisor.spawn(spec), Err(SpawnError::Name(_))));
    }
    assert!(supervisor.workers().is_empty());
    assert!(supervisor.next_event(Some(Instant::now())).is_none());

    shut_down(&supervisor, Duration::ZERO);
    let late = supervisor.spawn(exiting(0, Restart::Never));
    assert!(matches!(late, Err(SpawnError::ShutDown)));
}

#[test]
fn a_program_that_vanishes_is_tried_again_and_then_given_up() {
    let supervisor = supervisor();
    let directory = TempDir::new("vanishes");
    let path = directory.path().join("program");
    std::os::unix::fs::symlink("/bin/sh", &path).unwrap();
    // It runs until the pipe, which it opens by its name here, is closed.
    let (reader, writer) = std::io::pipe().unwrap();
    let pipe = format!("/proc/{}/fd/{}", std::process::id(), reader.as_raw_fd());
    let args = vec!["-c".into(), format!("read line < {pipe}; exit 1").into()];
    let restart = Restart::OnFailure(Pacing::at_once(2));
    let spec = WorkerSpec::new("vanishes", Program::Path(path.clone()));
    let worker = supervisor.spawn(WorkerSpec { restart, args, ..spec }).unwrap();
    std::fs::remove_file(&path).unwrap();
    drop(writer);
    end_of(&supervisor, worker);
    assert!(matches!(next(&supervisor), Event::SpawnFailed { retry_in: Some(_), .. }));
    assert!(matches!(next(&supervisor), Event::SpawnFailed { retry_in: None, .. }));
    assert!(matches!(next(&supervisor), Event::GaveUp { restarts: 2, .. }));
    assert_eq!(info_of(&supervisor).state, State::Stopped);
}

#[test]
fn stopping_is_gentle_first() {
    for function in ["idle", "sleeps_on_two"] {
        let (supervisor, mut ready) = (supervisor(), Ready::new());
        let restart = Restart::Always(Pacing::at_once(9));
        let spec = WorkerSpec { restart, ..ready_spec(function, &ready) };
        let worker = supervisor.spawn(spec).unwrap();
        ready.wait(1);
        assert!(matches!(info_of(&supervisor).state, State::Started(_)));
        assert!(supervisor.stop(worker, WATCHDOG));
        let ended = end_of(&supervisor, worker);
        assert!(matches!(ended, Event::Ended { how: Exit::Code(0), will_restart_in: None, .. }));
    }
}

#[test]
fn a_deaf_worker_is_killed_after_the_grace() {
    let supervisor = supervisor();
    let worker = start_ready(&supervisor, "busy");
    let (asked, grace) = (Instant::now(), Duration::from_millis(100));
    assert!(supervisor.stop(worker, WATCHDOG));
    assert!(matches!(info_of(&supervisor).state, State::Stopping(_)));
    assert!(supervisor.stop(worker, grace), "the earlier end counts");
    let ended = end_of(&supervisor, worker);
    assert!(matches!(ended, Event::Ended { how: Exit::Signal(libc::SIGKILL), .. }));
    assert!(asked.elapsed() >= grace);
    assert!(asked.elapsed() < WATCHDOG);
}

#[test]
fn shutdown_ends_the_willing_the_deaf_and_the_stopped() {
    let supervisor = supervisor();
    for function in ["idle", "busy", "idle"] {
        start_ready(&supervisor, function);
    }
    let State::Started(process) = supervisor.workers()[2].state else { panic!("not started") };
    // SAFETY: a plain system call, on our own child.
    assert_eq!(unsafe { libc::kill(process.pid() as i32, libc::SIGSTOP) }, 0);

    let stopped = shut_down(&supervisor, Duration::from_millis(500));
    let killed = Exit::Signal(libc::SIGKILL);
    assert_eq!(stopped.iter().map(end).collect::<Vec<_>>(), [Exit::Code(0), killed, killed]);
    let events = std::iter::from_fn(|| supervisor.next_event(None));
    assert_eq!(events.count(), 6, "three starts and three ends, then nothing more to wait for");
}

#[test]
fn sixty_four_workers_at_once() {
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    let from = Instant::now();
    for argument in 0..64 {
        supervisor.spawn(WorkerSpec { argument, ..ready_spec("idle", &ready) }).unwrap();
    }
    let started = from.elapsed();
    ready.wait(64);
    let ready = from.elapsed();
    let stopped = shut_down(&supervisor, WATCHDOG / 2);
    let ended = from.elapsed() - ready;
    println!("64 workers: started in {started:?}, ready after {ready:?}, ended in {ended:?}");
    assert!(stopped.iter().all(|info| end(info) == Exit::Code(0)));
    let arguments: BTreeSet<u64> = stopped.iter().map(|info| info.argument).collect();
    assert_eq!(arguments, (0..64).collect());
}

#[test]
fn a_worker_outlives_the_thread_that_started_it() {
    let supervisor = supervisor();
    let start = || start_ready(&supervisor, "idle");
    let worker = std::thread::scope(|scope| scope.spawn(start).join()).unwrap();
    assert!(matches!(next(&supervisor), Event::Started { .. }));
    let soon = Instant::now() + Duration::from_millis(100);
    assert!(supervisor.next_event(Some(soon)).is_none());
    assert!(supervisor.stop(worker, WATCHDOG));
    assert!(matches!(end_of(&supervisor, worker), Event::Ended { how: Exit::Code(0), .. }));
}

#[test]
fn output_goes_where_it_should() {
    let supervisor = supervisor();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let to = Output::To(Arc::new(writer.into()));
    let args = vec!["-c".into(), "echo out; echo err >&2; cat".into()];
    let spec = WorkerSpec::new("echo", Program::Path("sh".into()));
    let spec = WorkerSpec { args, stdout: Output::Null, stderr: to, ..spec };
    let worker = supervisor.spawn(spec).unwrap();
    // `cat` ends at once: standard input is empty.
    assert!(matches!(end_of(&supervisor, worker), Event::Ended { how: Exit::Code(0), .. }));
    assert!(supervisor.forget(worker));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "err\n");
}
