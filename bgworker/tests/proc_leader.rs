//! The leader dies: its workers leave within a second, whatever they are doing, and however early
//! it died. Three processes deep: this test, the leader it kills, the leader's workers.
mod common;

use bgworker::{LEADER_DIED, Supervisor, WhenLeaderDies, Worker, WorkerError};
use common::{Ready, WATCHDOG, ready_spec, say_ready, supervisor};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

#[test]
#[ignore = "the child processes' main function"]
fn child() {
    common::child(|role| match role {
        "calls" => call_back(),
        "calls and panics" => panic_when_called(),
        "looks for its leader" => look_for_the_leader(),
        _ => lead(role.strip_prefix(LEADS).expect("a leader's role")),
    });
}

/// Before a leader's roles, which would else be taken for its own.
const LEADS: &str = "leads ";

/// The leader: starts a worker for each role, in `role` separated by commas, tells their pids, and
/// sleeps until it is killed.
fn lead(roles: &str) {
    let (supervisor, mut ready) = (supervisor(), Ready::new());
    for role in roles.split(',') {
        supervisor
            .spawn(ready_spec(role.trim_start_matches("stopped "), &ready))
            .expect("a worker");
        ready.wait(1);
        let pid = pid_of_latest(&supervisor);
        if role.starts_with("stopped ") {
            // SAFETY: a plain system call, on our own child.
            unsafe { libc::kill(pid, libc::SIGSTOP) };
            // Until all its threads have stopped, the kernel does not count it as stopped.
            let (id, how) = (pid as u32, libc::WSTOPPED | libc::WNOWAIT);
            // SAFETY: no result is asked for but that it has stopped.
            let stopped = unsafe { libc::waitid(libc::P_PID, id, std::ptr::null_mut(), how) };
            assert_eq!(stopped, 0);
        }
        println!("\nworker {pid}");
    }
    println!("all");
    loop {
        std::thread::park();
    }
}

fn pid_of_latest(supervisor: &Supervisor) -> i32 {
    match supervisor.workers().last().expect("a worker").state {
        bgworker::State::Started(process) => process.pid() as i32,
        other => panic!("{other:?}"),
    }
}

/// A leader process. Killed when dropped, so that no test leaves one.
struct Leader {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Leader {
    fn start(roles: &str) -> Leader {
        let own = std::env::current_exe().expect("a path");
        let mut command = Command::new(own);
        command
            .args(common::ARGS)
            .env(common::ROLE, format!("{LEADS}{roles}"))
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        Leader { child, stdout }
    }

    /// The workers, as pidfds taken while they live.
    fn workers(&mut self) -> Vec<OwnedFd> {
        let lines = (&mut self.stdout).lines().map(|line| line.expect("a line"));
        let pids = lines.take_while(|line| line != "all").filter_map(|line| {
            line.strip_prefix("worker ").map(|pid| pid.parse::<i32>().expect("a pid"))
        });
        let open = |pid| pidfd_open(Pid::from_raw(pid).expect("a pid"), PidfdFlags::empty());
        pids.map(|pid| open(pid).expect("a living worker")).collect()
    }

    fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("dead");
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until all are dead; returns after how long.
fn all_die(workers: &[OwnedFd]) -> Duration {
    let from = Instant::now();
    for worker in workers {
        let timeout = Timespec::try_from(WATCHDOG).expect("short enough");
        let died = poll(&mut [PollFd::new(worker, PollFlags::IN)], Some(&timeout));
        assert_eq!(died, Ok(1), "a worker lives on");
    }
    from.elapsed()
}

fn workers_leave(roles: &str) {
    let mut leader = Leader::start(roles);
    let workers = leader.workers();
    assert_eq!(workers.len(), roles.split(',').count());
    leader.kill();
    let took = all_die(&workers);
    println!("{roles}: gone {took:?} after the leader");
    assert!(took < Duration::from_secs(1), "{roles}: gone only after {took:?}");
}

#[test]
fn idle_workers_leave() {
    workers_leave("idle,idle,idle,idle");
}

#[test]
fn a_worker_in_a_busy_loop_leaves() {
    workers_leave("busy");
}

#[test]
fn a_stopped_worker_leaves() {
    workers_leave("stopped idle,stopped busy");
}

#[test]
fn a_callback_decides() {
    workers_leave("calls");
}

fn call_back() {
    let when = WhenLeaderDies::Call(Box::new(|| std::process::exit(0)));
    let worker = common::worker_or(when);
    say_ready();
    worker.wait_until_stop(None);
    assert!(worker.leader_is_gone());
    loop {
        std::thread::park();
    }
}

#[test]
fn a_callback_that_panics_is_no_way_to_stay() {
    workers_leave("calls and panics");
}

fn panic_when_called() {
    let _worker = common::worker_or(WhenLeaderDies::Call(Box::new(|| panic!("as planned"))));
    say_ready();
    loop {
        std::hint::spin_loop();
    }
}

/// A process that believes itself a worker of `leader`, although this test started it.
fn orphan(leader: u64) -> ExitStatus {
    let own = std::env::current_exe().expect("a path");
    let variables = [("LEADER", leader.to_string()), ("NAME", "orphan".into())];
    let more = [("ARGUMENT", "0".into()), ("ATTEMPT", "1".into()), ("FDS", String::new())];
    let variables = variables.into_iter().chain(more);
    let mut command = Command::new(own);
    command.envs(variables.map(|(name, value)| (format!("BGWORKER_{name}"), value)));
    command.args(common::ARGS).env(common::ROLE, "looks for its leader").stdout(Stdio::null());
    command.status().expect("a process")
}

/// Exit code 20: not a child of the leader.
fn look_for_the_leader() {
    match Worker::from_env() {
        Ok(worker) => panic!("a leader was found: {worker:?}"),
        Err(WorkerError::NotAChild { .. }) => std::process::exit(20),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_leader_that_died_before_its_worker_looked_is_found_dead() {
    let mut dead = Command::new("true").spawn().expect("a process");
    let id = bgworker::ProcessId::of(dead.id()).expect("not reaped yet");
    dead.wait().expect("dead");
    assert_eq!(orphan(id.to_bits()).code(), Some(LEADER_DIED));
}

#[test]
fn a_zombie_is_a_dead_leader() {
    let mut dead = Command::new("true").spawn().expect("a process");
    let id = bgworker::ProcessId::of(dead.id()).expect("not reaped yet");
    let raw = Pid::from_raw(dead.id() as i32).expect("a pid");
    all_die(&[pidfd_open(raw, PidfdFlags::empty()).expect("not reaped yet")]);
    assert_eq!(orphan(id.to_bits()).code(), Some(LEADER_DIED));
    dead.wait().expect("reaped");
}

#[test]
fn another_process_with_the_leaders_pid_is_not_the_leader() {
    let me = bgworker::ProcessId::of(std::process::id()).expect("alive");
    let earlier = bgworker::ProcessId::new(me.pid(), me.start_ticks() - 1).expect("a process");
    assert_eq!(orphan(earlier.to_bits()).code(), Some(LEADER_DIED));
}

#[test]
fn variables_of_another_leaders_worker_are_refused() {
    let init = bgworker::ProcessId::of(1).expect("alive");
    assert_eq!(orphan(init.to_bits()).code(), Some(20));
}
