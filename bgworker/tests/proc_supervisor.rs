//! The supervisor with real worker processes: deaths are noticed, restarts follow the policy,
//! stopping is gentle and then firm, and nothing is left behind.
mod common;

use bgworker::{Event, Exit, Output, Pacing, Program, Restart, SpawnError, State, Supervisor};
use bgworker::{WorkerInfo, WorkerSpec};
use common::{
    Ready, WATCHDOG, end_of, exits, next, ready_fd, ready_spec, say_ready, spec, supervisor,
};
use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
#[ignore = "the child processes' main function"]
fn child() {
    common::child(|role| match role {
        "report" => report(),
        "leaves nothing" => leave_nothing_behind(),
        "forks" => fork_and_drop(),
        "ignores SIGCHLD" => ignore_sigchld(),
        "odd signals" => start_with_odd_signals(),
        "is deleted" => start_worker_when_deleted(),
        other => panic!("unknown role {other}"),
    });
}

/// Runs `role` as a process of its own, which asserts things that threads would disturb.
fn alone(role: &str) {
    let own = std::env::current_exe().expect("a path");
    run_alone(role, &own);
}

fn run_alone(role: &str, program: &std::path::Path) {
    let child = Command::new(program).args(common::ARGS).env(common::ROLE, role).output();
    let output = child.expect("a process");
    let (out, err) = (&output.stdout, &output.stderr);
    let said = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(output.status.success(), "{role}: {said}");
    assert!(said.contains("1 passed"), "{role} did not run: {said}");
}

fn info_of(supervisor: &Supervisor) -> WorkerInfo {
    let [info] = supervisor.workers().try_into().expect("one worker");
    info
}

#[test]
fn a_killed_worker_is_noticed_at_once() {
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    let mut took = Vec::new();
    for _ in 0..10 {
        let worker = supervisor.spawn(ready_spec("idle", &ready)).expect("a worker");
        ready.wait(1);
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
fn a_worker_that_may_never_restart_runs_once() {
    let supervisor = supervisor();
    for (code, how) in [(0, Exit::Code(0)), (9, Exit::Code(9))] {
        let worker = supervisor.spawn(exits(code)).expect("a worker");
        assert!(
            matches!(next(&supervisor), Event::Started { worker: w, attempt: 1, .. } if w == worker)
        );
        let ended = next(&supervisor);
        assert!(matches!(ended, Event::Ended { how: h, will_restart_in: None, .. } if h == how));
    }
    let states = supervisor.workers();
    assert!(states.iter().all(|info| info.state == State::Stopped && info.attempts == 1));
}

#[test]
fn on_failure_restarts_failures_only() {
    let supervisor = supervisor();
    let restart = Restart::OnFailure(Pacing::at_once(2));
    let worker = supervisor.spawn(WorkerSpec { restart: restart.clone(), ..exits(0) });
    let ended = end_of(&supervisor, worker.expect("a worker"));
    assert!(matches!(ended, Event::Ended { will_restart_in: None, .. }));

    let failing = supervisor.spawn(WorkerSpec { restart, ..exits(4) }).expect("a worker");
    for attempt in 1..=3 {
        let started = next(&supervisor);
        assert!(
            matches!(started, Event::Started { attempt: a, .. } if a == attempt),
            "{started:?}"
        );
        let next_in = (attempt < 3).then_some(Duration::ZERO);
        let ended = next(&supervisor);
        assert!(
            matches!(ended, Event::Ended { how: Exit::Code(4), will_restart_in, .. } if will_restart_in == next_in),
            "{ended:?}"
        );
    }
    assert!(
        matches!(next(&supervisor), Event::GaveUp { worker, restarts: 2 } if worker == failing)
    );
}

#[test]
fn always_restarts_success_too_and_a_steady_run_ends_the_row() {
    let supervisor = supervisor();
    // Each run lasts longer than no time at all: the row never grows to its limit of one.
    let pacing = Pacing { steady_after: Duration::ZERO, ..Pacing::at_once(1) };
    let restart = Restart::Always(pacing);
    let worker = supervisor.spawn(WorkerSpec { restart, ..exits(0) }).expect("a worker");
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
    let restart = Restart::OnFailure(pacing);
    let worker = supervisor.spawn(WorkerSpec { restart, ..exits(1) }).expect("a worker");
    for expected in [delay, delay_max] {
        let ended = end_of(&supervisor, worker);
        let at = Instant::now();
        assert!(matches!(ended, Event::Ended { will_restart_in: Some(d), .. } if d == expected));
        assert_eq!(info_of(&supervisor).state, State::NotYetStarted);
        assert!(matches!(next(&supervisor), Event::Started { .. }));
        // The event was seen after the wait began.
        assert!(at.elapsed() >= expected / 2, "restarted after {:?}", at.elapsed());
    }
}

#[test]
fn a_worker_that_waits_for_its_restart_can_be_stopped() {
    let supervisor = supervisor();
    let pacing = Pacing { delay: WATCHDOG, delay_max: WATCHDOG, ..Pacing::default() };
    let restart = Restart::Always(pacing);
    let worker = supervisor.spawn(WorkerSpec { restart, ..exits(0) }).expect("a worker");
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
    let refused = |spec: WorkerSpec| supervisor.spawn(spec).expect_err("not started").to_string();
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

    supervisor.shutdown(Duration::ZERO);
    assert!(matches!(supervisor.spawn(exits(0)), Err(SpawnError::ShutDown)));
}

#[test]
fn a_program_that_vanishes_is_tried_again_and_then_given_up() {
    let supervisor = supervisor();
    let path = std::env::temp_dir().join(format!("bgworker-vanishes-{}", std::process::id()));
    std::fs::copy("/bin/false", &path).expect("a copy");
    let delay = Duration::from_millis(200);
    let restart = Restart::OnFailure(Pacing {
        delay,
        delay_max: delay,
        in_a_row_max: 2,
        ..Pacing::default()
    });
    let spec = WorkerSpec::new("vanishes", Program::Path(path.clone()));
    let spawned = supervisor.spawn(WorkerSpec { restart, ..spec });
    std::fs::remove_file(&path).expect("removed");
    end_of(&supervisor, spawned.expect("a worker"));
    assert!(matches!(next(&supervisor), Event::SpawnFailed { retry_in: Some(_), .. }));
    assert!(matches!(next(&supervisor), Event::SpawnFailed { retry_in: None, .. }));
    assert!(matches!(next(&supervisor), Event::GaveUp { restarts: 2, .. }));
    assert_eq!(info_of(&supervisor).state, State::Stopped);
}

#[test]
fn stopping_is_gentle_first() {
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    let restart = Restart::Always(Pacing::at_once(9));
    let spec = WorkerSpec { restart, ..ready_spec("idle", &ready) };
    let worker = supervisor.spawn(spec).expect("a worker");
    ready.wait(1);
    assert!(matches!(info_of(&supervisor).state, State::Started(_)));
    assert!(supervisor.stop(worker, WATCHDOG));
    let ended = end_of(&supervisor, worker);
    assert!(matches!(ended, Event::Ended { how: Exit::Code(0), will_restart_in: None, .. }));
}

#[test]
fn a_deaf_worker_is_killed_after_the_grace() {
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    let worker = supervisor.spawn(ready_spec("busy", &ready)).expect("a worker");
    ready.wait(1);
    let grace = Duration::from_millis(100);
    let asked = Instant::now();
    assert!(supervisor.stop(worker, grace));
    assert!(matches!(info_of(&supervisor).state, State::Stopping(_)));
    let ended = end_of(&supervisor, worker);
    assert!(matches!(ended, Event::Ended { how: Exit::Signal(libc::SIGKILL), .. }));
    assert!(asked.elapsed() >= grace);
}

#[test]
fn shutdown_ends_the_willing_the_deaf_and_the_stopped() {
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    let mut started = Vec::new();
    for role in ["idle", "busy", "idle"] {
        supervisor.spawn(ready_spec(role, &ready)).expect("a worker");
        ready.wait(1);
        let Event::Started { process, .. } = next(&supervisor) else { panic!("not started") };
        started.push(process.pid() as i32);
    }
    // SAFETY: a plain system call, on our own child.
    assert_eq!(unsafe { libc::kill(started[2], libc::SIGSTOP) }, 0);
    let ends: Vec<_> = supervisor.shutdown(Duration::from_millis(500)).iter().map(end).collect();
    let killed = Exit::Signal(libc::SIGKILL);
    assert_eq!(ends, [Exit::Code(0), killed, killed]);
    for _ in 0..3 {
        assert!(matches!(next(&supervisor), Event::Ended { .. }));
    }
    assert!(supervisor.next_event(None).is_none(), "all has been told");
}

fn end(info: &WorkerInfo) -> Exit {
    assert_eq!(info.state, State::Stopped);
    info.last_exit.expect("an end")
}

#[test]
fn sixty_four_workers_at_once() {
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    let from = Instant::now();
    for argument in 0..64 {
        let spec = WorkerSpec { argument, ..ready_spec("idle", &ready) };
        supervisor.spawn(spec).expect("a worker");
    }
    let started = from.elapsed();
    ready.wait(64);
    let ready = from.elapsed();
    let infos = supervisor.shutdown(WATCHDOG);
    let ended = from.elapsed() - ready;
    println!("64 workers: started in {started:?}, ready after {ready:?}, ended in {ended:?}");
    assert_eq!(infos.len(), 64);
    assert!(infos.iter().all(|info| end(info) == Exit::Code(0)));
    let arguments: BTreeSet<u64> = infos.iter().map(|info| info.argument).collect();
    assert_eq!(arguments, (0..64).collect());
}

#[test]
fn a_worker_outlives_the_thread_that_started_it() {
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    let start = || supervisor.spawn(ready_spec("idle", &ready)).expect("a worker");
    let worker = std::thread::scope(|scope| scope.spawn(start).join()).expect("no panic");
    ready.wait(1);
    assert!(matches!(next(&supervisor), Event::Started { .. }));
    let soon = Instant::now() + Duration::from_millis(100);
    assert!(supervisor.next_event(Some(soon)).is_none());
    assert!(supervisor.stop(worker, WATCHDOG));
    assert!(matches!(end_of(&supervisor, worker), Event::Ended { how: Exit::Code(0), .. }));
}

/// What a worker finds about itself, in `role=report`.
fn report() {
    let worker = common::worker_or(bgworker::WhenLeaderDies::Leave);
    // SAFETY: a plain system call.
    let flags = unsafe { libc::fcntl(ready_fd(), libc::F_GETFD) };
    let comm = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = |key: &str| {
        let value = comm.lines().find_map(|line| line.strip_prefix(key)).expect("a known line");
        value.trim().to_string()
    };
    // SAFETY: a plain system call.
    let group = unsafe { libc::getpgrp() };
    println!(
        "report: {} {} {} leader={} group={} cloexec={} blocked={} ignored={}",
        worker.name(),
        worker.argument(),
        worker.attempt(),
        worker.leader().pid(),
        i64::from(group) == i64::from(std::process::id()),
        flags == libc::FD_CLOEXEC,
        line("SigBlk:"),
        line("SigIgn:"),
    );
    say_ready();
}

fn start_reporter(supervisor: &Supervisor, argument: u64) -> String {
    let mut ready = Ready::new();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let stdout = Output::To(Arc::new(OwnedFd::from(writer)));
    let spec = WorkerSpec { stdout, argument, ..ready_spec("report", &ready) };
    let worker = supervisor.spawn(spec).expect("a worker");
    ready.wait(1);
    assert!(matches!(end_of(supervisor, worker), Event::Ended { how: Exit::Code(0), .. }));
    assert!(supervisor.forget(worker));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).expect("text");
    let report = text.lines().find_map(|line| Some(line.split_once("report: ")?.1));
    report.expect("a report").to_string()
}

#[test]
fn a_worker_knows_who_it_is_and_inherits_only_what_it_should() {
    let said = start_reporter(&supervisor(), u64::MAX);
    let me = std::process::id();
    let expected = format!(
        "report {} 1 leader={me} group=true cloexec=true blocked=0000000000000000",
        u64::MAX
    );
    assert!(said.starts_with(&expected), "{said}");
}

#[test]
fn an_inherited_descriptor_is_not_leaked_to_others() {
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    supervisor.spawn(ready_spec("idle", &ready)).expect("a worker");
    ready.wait(1);
    // SAFETY: a plain system call on a descriptor that is open.
    let flags = unsafe { libc::fcntl(ready.writer.as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags, libc::FD_CLOEXEC, "still closed in whatever else the leader starts");
}

#[test]
fn odd_signals_of_the_leader_are_not_the_workers() {
    alone("odd signals");
}

fn start_with_odd_signals() {
    // SAFETY: no handler runs code of ours.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    // SAFETY: as above.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
    // SAFETY: an all-zero set is a set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: a set of ours.
    unsafe { libc::sigfillset(&mut set) };
    // SAFETY: a filled set of ours; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    let said = start_reporter(&supervisor(), 1);
    // Rust's own start-up ignores SIGPIPE (13) in each program.
    assert!(said.ends_with("blocked=0000000000000000 ignored=0000000000001000"), "{said}");
}

#[test]
fn no_zombie_and_no_descriptor_is_left() {
    alone("leaves nothing");
}

fn leave_nothing_behind() {
    let count = |path: &str| std::fs::read_dir(path).expect("/proc").count();
    let (fds, threads) = (count("/proc/self/fd"), count("/proc/self/task"));
    {
        let mut ready = Ready::new();
        let supervisor = supervisor();
        for role in ["idle", "busy", "idle", "busy"] {
            let restart = Restart::Always(Pacing::at_once(9));
            let spec = WorkerSpec { restart, ..ready_spec(role, &ready) };
            let worker = supervisor.spawn(spec).expect("a worker");
            ready.wait(1);
            supervisor.kill(worker);
            ready.wait(1);
        }
        supervisor.spawn(WorkerSpec::new("no", Program::Path("/no/such".into()))).expect_err("no");
        // Dropped with all of them running.
    }
    assert_eq!(count("/proc/self/fd"), fds);
    assert_eq!(count("/proc/self/task"), threads);
    // SAFETY: a plain system call; the status is not asked for.
    let child = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    assert_eq!((child, errno), (-1, Some(libc::ECHILD)), "no child, alive or dead");
}

#[test]
fn a_fork_of_the_leader_leaves_the_workers_alone() {
    alone("forks");
}

fn fork_and_drop() {
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    let worker = supervisor.spawn(ready_spec("idle", &ready)).expect("a worker");
    ready.wait(1);
    // SAFETY: the child only calls the supervisor, which does nothing there, and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let refused = matches!(supervisor.spawn(exits(0)), Err(SpawnError::Forked));
        let nothing = !supervisor.kill(worker) && supervisor.workers().is_empty();
        drop(supervisor);
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!(refused && nothing))) };
    }
    let mut status = -1;
    // SAFETY: our child, and a status of ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0);
    assert!(matches!(info_of(&supervisor).state, State::Started(_)));
    assert_eq!(end(&supervisor.shutdown(WATCHDOG)[0]), Exit::Code(0));
}

#[test]
fn a_leader_that_ignores_sigchld_still_hears_of_deaths() {
    alone("ignores SIGCHLD");
}

fn ignore_sigchld() {
    // SAFETY: no handler runs code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    let worker = supervisor.spawn(ready_spec("idle", &ready)).expect("a worker");
    ready.wait(1);
    assert!(supervisor.kill(worker));
    assert!(matches!(end_of(&supervisor, worker), Event::Ended { how: Exit::Unknown, .. }));
}

#[test]
fn this_program_starts_even_when_its_file_is_gone() {
    let copy = std::env::temp_dir().join(format!("bgworker-deleted-{}", std::process::id()));
    std::fs::copy(std::env::current_exe().expect("a path"), &copy).expect("a copy");
    run_alone("is deleted", &copy);
}

fn start_worker_when_deleted() {
    std::fs::remove_file(std::env::current_exe().expect("a path")).expect("removed");
    assert!(start_reporter(&supervisor(), 5).starts_with("report 5 1 "));
}
