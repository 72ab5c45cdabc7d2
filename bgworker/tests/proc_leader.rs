//! Leaders as processes of their own. One is killed: its workers leave within a second, whatever
//! they are doing, and however early it died. Others have odd habits: they fork, ignore signals,
//! have lost their executable; and each counts what is left behind.
#![cfg(not(any(shm_loom, shm_explore)))]
mod common;

use bgworker::{Event, Exit, LEADER_DIED, Output, Pacing, Program, Restart, SpawnError, State};
use bgworker::{Supervisor, WhenLeaderDies, Worker, WorkerError, WorkerSpec};
use common::{Ready, WATCHDOG, end_of, ready_fd, ready_spec, say_ready, start_ready, supervisor};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use shm_core::process::ProcessId;
use shm_testkit::child::{self, Child, Setup, tell_parent};
use shm_testkit::unique::TempDir;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

shm_testkit::children! {
    lead, call_back, panic_when_called, look_for_the_leader, report, leave_nothing_behind,
    fork_and_drop, ignore_sigchld, start_with_odd_signals, start_worker_when_deleted,
    start_with_odd_name,
}

/// Runs `function` as a process of its own, where it asserts what threads would disturb.
fn alone(function: &str) {
    Child::spawn(function, &[]).wait(WATCHDOG).assert_success();
}

/// A leader: starts a worker for each of `functions`, tells their pids, and waits to be killed.
/// One named `stopped …` is stopped.
fn lead(functions: &[String]) {
    let supervisor = supervisor();
    for function in functions {
        start_ready(&supervisor, function.trim_start_matches("stopped "));
        let pid = pid_of_latest(&supervisor);
        if function.starts_with("stopped ") {
            // SAFETY: a plain system call, on our own child.
            unsafe { libc::kill(pid, libc::SIGSTOP) };
        }
        tell_parent(&pid.to_string());
    }
    loop {
        std::thread::park();
    }
}

fn pid_of_latest(supervisor: &Supervisor) -> i32 {
    match supervisor.workers().last().map(|info| info.state) {
        Some(State::Started(process)) => process.pid() as i32,
        other => panic!("{other:?}"),
    }
}

fn watch(pid: i32) -> OwnedFd {
    pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).expect("not reaped yet")
}

fn wait_dead(process: &OwnedFd) {
    let timeout = Timespec::try_from(WATCHDOG).unwrap();
    let died = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout));
    assert_eq!(died, Ok(1), "it lives on");
}

fn workers_leave(functions: &[&str]) {
    let mut leader = Child::spawn("lead", functions);
    let pids = functions.iter().map(|_| leader.hear(WATCHDOG).parse().unwrap());
    let workers: Vec<OwnedFd> = pids.map(watch).collect();
    let killed = Instant::now();
    leader.kill();
    workers.iter().for_each(wait_dead);
    let took = killed.elapsed();
    println!("{functions:?}: gone {took:?} after the leader was killed");
    assert!(took < Duration::from_secs(1), "{functions:?}: gone only after {took:?}");
}

#[test]
fn idle_workers_leave() {
    workers_leave(&["idle"; 8]);
}

#[test]
fn a_worker_in_a_busy_loop_leaves() {
    workers_leave(&["busy"]);
}

#[test]
fn a_stopped_worker_leaves() {
    workers_leave(&["stopped idle", "stopped busy"]);
}

#[test]
fn a_callback_decides() {
    workers_leave(&["call_back"]);
}

fn call_back(_: &[String]) {
    let when = WhenLeaderDies::Call(Box::new(|| std::process::exit(0)));
    let worker = common::worker(when);
    say_ready();
    worker.wait_until_stop(None);
    assert!(worker.leader_is_gone());
    loop {
        std::thread::park();
    }
}

#[test]
fn a_callback_that_panics_is_no_way_to_stay() {
    workers_leave(&["panic_when_called"]);
}

fn panic_when_called(_: &[String]) {
    let _worker = common::worker(WhenLeaderDies::Call(Box::new(|| panic!("as planned"))));
    say_ready();
    loop {
        std::hint::spin_loop();
    }
}

/// The exit code of a process that believes itself a worker of `leader`, although we started it.
fn believer(leader: ProcessId) -> Option<i32> {
    let env = [
        ("BGWORKER_LEADER", &*leader.to_bits().to_string()),
        ("BGWORKER_NAME", "believer"),
        ("BGWORKER_ARGUMENT", "0"),
        ("BGWORKER_ATTEMPT", "1"),
        ("BGWORKER_FDS", ""),
    ];
    let setup = Setup { env: &env, ..Setup::default() };
    Child::spawn_with("look_for_the_leader", setup).wait(WATCHDOG).code()
}

const NOT_A_CHILD: i32 = 20;

fn look_for_the_leader(_: &[String]) {
    match Worker::from_env() {
        Err(WorkerError::NotAChild { .. }) => std::process::exit(NOT_A_CHILD),
        other => panic!("a leader was found: {other:?}"),
    }
}

#[test]
fn a_leader_that_died_before_its_worker_looked_is_found_dead() {
    let mut leader = Command::new("true").spawn().unwrap();
    let process = ProcessId::of(leader.id()).expect("not reaped yet");
    wait_dead(&watch(leader.id() as i32));
    assert_eq!(believer(process), Some(LEADER_DIED), "a zombie");
    leader.wait().unwrap();
    assert_eq!(believer(process), Some(LEADER_DIED), "gone");
}

#[test]
fn another_process_with_the_leaders_pid_is_not_the_leader() {
    let me = ProcessId::me();
    let earlier = ProcessId::new(me.pid(), me.start_ticks() - 1).unwrap();
    assert_eq!(believer(earlier), Some(LEADER_DIED));
}

#[test]
fn variables_of_another_leaders_worker_are_refused() {
    let somebody = ProcessId::of(std::os::unix::process::parent_id()).expect("alive");
    assert_eq!(believer(somebody), Some(NOT_A_CHILD));
}

/// What a leader may ignore and a worker should not.
const ODD_SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGQUIT];

/// A worker that tells what it finds about itself.
fn report(_: &[String]) {
    let worker = common::worker(WhenLeaderDies::Leave);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = |key: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(key));
        value.expect("a known line").trim().to_string()
    };
    // SAFETY: a plain system call.
    let flags = unsafe { libc::fcntl(ready_fd(), libc::F_GETFD) };
    // SAFETY: a plain system call.
    let group = unsafe { libc::getpgrp() };
    let ignored = u64::from_str_radix(&line("SigIgn:"), 16).unwrap();
    println!(
        "{} {} {} leader={} ps={} group={} cloexec={} blocked={} ignored={}",
        worker.name(),
        worker.argument(),
        worker.attempt(),
        worker.leader(),
        line("Name:"),
        i64::from(group) == i64::from(std::process::id()),
        flags == libc::FD_CLOEXEC,
        line("SigBlk:"),
        ignored & ODD_SIGNALS.iter().fold(0, |bits, signal| bits | 1 << (signal - 1)),
    );
    say_ready();
}

fn report_of(supervisor: &Supervisor) -> String {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut ready = Ready::new();
    let stdout = Output::To(Arc::new(writer.into()));
    let spec = WorkerSpec { stdout, argument: u64::MAX, ..ready_spec("report", &ready) };
    let worker = supervisor.spawn(spec).unwrap();
    ready.wait(1);
    assert!(matches!(end_of(supervisor, worker), Event::Ended { how: Exit::Code(0), .. }));
    // With the worker goes the last writer.
    assert!(supervisor.forget(worker));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

/// What it should say, whatever the leader is like.
fn good_report() -> String {
    format!(
        "report {} 1 leader={} ps=report group=true cloexec=true \
         blocked=0000000000000000 ignored=0\n",
        u64::MAX,
        ProcessId::me(),
    )
}

#[test]
fn a_worker_knows_who_it_is_and_inherits_only_what_it_should() {
    assert_eq!(report_of(&supervisor()), good_report());
}

#[test]
fn an_inherited_descriptor_is_not_leaked_to_others() {
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    supervisor.spawn(ready_spec("idle", &ready)).unwrap();
    ready.wait(1);
    // SAFETY: a plain system call.
    let flags = unsafe { libc::fcntl(ready.writer.as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags, libc::FD_CLOEXEC, "still closed in whatever else the leader starts");
}

#[test]
fn odd_signals_of_the_leader_are_not_the_workers() {
    alone("start_with_odd_signals");
}

fn start_with_odd_signals(_: &[String]) {
    for signal in ODD_SIGNALS {
        // SAFETY: no handler runs code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: an all-zero set is a set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: a set of ours.
    unsafe { libc::sigfillset(&mut set) };
    // SAFETY: a filled set of ours; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    assert_eq!(report_of(&supervisor()), good_report());
}

/// The kernel cuts a process's name after 15 bytes, be it in the middle of a character.
#[test]
fn a_leader_whose_name_is_no_text_is_found_alive() {
    alone("start_with_odd_name");
}

fn start_with_odd_name(_: &[String]) {
    std::fs::write("/proc/self/comm", "pr\u{fc}fst\u{e4}nde f\u{fc}rs".as_bytes()).unwrap();
    assert_eq!(report_of(&supervisor()), good_report());
}

#[test]
fn no_zombie_no_descriptor_and_no_thread_is_left() {
    alone("leave_nothing_behind");
}

fn leave_nothing_behind(_: &[String]) {
    let count = |path: &str| std::fs::read_dir(path).unwrap().count();
    let (fds, threads) = (count("/proc/self/fd"), count("/proc/self/task"));
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    for function in ["idle", "busy", "idle", "busy"] {
        let restart = Restart::Always(Pacing::at_once(9));
        let spec = WorkerSpec { restart, ..ready_spec(function, &ready) };
        let worker = supervisor.spawn(spec).unwrap();
        ready.wait(1);
        assert!(supervisor.kill(worker));
        ready.wait(1);
    }
    supervisor.spawn(WorkerSpec::new("no", Program::Path("/no/such".into()))).unwrap_err();
    // With all of them running.
    drop(supervisor);
    drop(ready);
    assert_eq!(count("/proc/self/fd"), fds);
    // A thread that was joined may be listed for a moment more. (A watchdog would be one itself.)
    let end = Instant::now() + WATCHDOG;
    while count("/proc/self/task") != threads && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(count("/proc/self/task"), threads);
    // SAFETY: a plain system call; the status is not asked for.
    let child = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    assert_eq!((child, errno), (-1, Some(libc::ECHILD)), "no child, alive or dead");
}

#[test]
fn a_fork_of_the_leader_leaves_the_workers_alone() {
    alone("fork_and_drop");
}

fn fork_and_drop(_: &[String]) {
    let supervisor = supervisor();
    let worker = start_ready(&supervisor, "idle");
    // SAFETY: the child only calls the supervisor, which does nothing there, and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let spec = WorkerSpec::new("no", Program::Path("true".into()));
        let refused = matches!(supervisor.spawn(spec), Err(SpawnError::Forked(_)));
        let nothing = !supervisor.kill(worker) && supervisor.workers().is_empty();
        drop(supervisor);
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!(refused && nothing))) };
    }
    let mut status = -1;
    // SAFETY: our child, and a status of ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0);
    pid_of_latest(&supervisor);
    assert_eq!(common::shut_down(&supervisor, WATCHDOG / 2)[0].last_exit, Some(Exit::Code(0)));
}

#[test]
fn a_leader_that_ignores_sigchld_still_hears_of_deaths() {
    alone("ignore_sigchld");
}

fn ignore_sigchld(_: &[String]) {
    // SAFETY: no handler runs code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let supervisor = supervisor();
    let worker = start_ready(&supervisor, "idle");
    assert!(supervisor.kill(worker));
    assert!(matches!(end_of(&supervisor, worker), Event::Ended { how: Exit::Unknown, .. }));
}

#[test]
fn this_program_starts_even_when_its_file_is_gone() {
    let directory = TempDir::new("deleted");
    let copy = directory.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let args = child::command("start_worker_when_deleted", &[]);
    let output = Command::new(&copy).args(args.get_args()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!copy.exists(), "it ran");
}

fn start_worker_when_deleted(_: &[String]) {
    std::fs::remove_file(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(report_of(&supervisor()), good_report());
}
