//! The leader is killed or interrupted while it works.

use crate::scene::{BACKENDS, LOOK, NAMED, Process, Scene, await_end};
use rustix::process::Signal;
use shm_testkit::depth::is_deep;
use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What the issue asks for: workers have ended so soon after their leader.
const WORKERS_END: Duration = Duration::from_secs(1);

/// A job that takes far longer than to see its workers.
fn long(scene: &Scene) -> String {
    scene.table(200_000) + " --workers 3 --chunk-size 8"
}

/// The next run in the domain, on a small file.
#[track_caller]
fn next_run_leaves_nothing(scene: &mut Scene) {
    let words = scene.table(500);
    let plain = scene.plain(&words);
    scene.run(&words).assert_agrees(&plain);
    scene.assert_nothing_left();
}

/// Not captured, so that it is seen.
fn tell(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// How long the workers outlived their leader, which was killed; `stop` one of them first.
#[track_caller]
fn outlived(scene: &mut Scene, stop: bool) -> Duration {
    let words = long(scene);
    let mut leader = scene.start(&words);
    let workers = scene.await_workers(&mut leader, 3);
    if stop {
        workers[0].stop();
    }
    let killed = Instant::now();
    leader.signal(Signal::KILL);
    await_end(&workers);
    let lasted = killed.elapsed();
    assert_eq!(leader.wait().signal(), Some(9), "killed while it worked");
    let left = scene.unique.left();
    tell(format_args!(
        "{}: workers outlived the leader by {lasted:?}, {left:?} left",
        scene.backend
    ));
    if scene.backend == "memfd" {
        assert!(left.is_empty());
    }
    next_run_leaves_nothing(scene);
    lasted
}

#[track_caller]
fn workers_end_in_time(stop: bool) {
    for backend in BACKENDS {
        let mut scene = Scene::new(backend);
        // A busy machine may be to blame once or twice.
        let in_time = (0..3).any(|_| outlived(&mut scene, stop) <= WORKERS_END);
        assert!(in_time, "{backend}: workers outlive their leader");
    }
}

#[test]
fn workers_end_within_a_second_of_their_leader() {
    workers_end_in_time(false);
}

#[test]
fn a_stopped_worker_too_ends_within_a_second_of_its_leader() {
    workers_end_in_time(true);
}

/// Stops leader and workers first, so that none of them cleans up after another.
#[track_caller]
fn kill_all(scene: &mut Scene) {
    let words = long(scene);
    let mut leader = scene.start(&words);
    let workers = scene.await_workers(&mut leader, 3);
    workers.iter().for_each(Process::stop);
    leader.signal(Signal::STOP);
    workers.iter().for_each(|worker| worker.signal(Signal::KILL));
    leader.signal(Signal::KILL);
    await_end(&workers);
    assert_eq!(leader.wait().signal(), Some(9));
}

#[test]
fn what_leader_and_workers_leave_when_all_are_killed_the_next_run_removes() {
    for backend in NAMED {
        let mut scene = Scene::new(backend);
        kill_all(&mut scene);
        assert!(scene.unique.left().len() >= 2, "{backend}: a control segment and the job's");
        next_run_leaves_nothing(&mut scene);
    }
}

#[test]
fn memfd_leaves_nothing_when_all_are_killed() {
    let mut scene = Scene::new("memfd");
    kill_all(&mut scene);
    scene.assert_nothing_left();
    next_run_leaves_nothing(&mut scene);
}

#[test]
fn a_run_on_another_backend_removes_what_was_left_too() {
    for backend in NAMED {
        let mut scene = Scene::new(backend);
        kill_all(&mut scene);
        scene.backend = "memfd";
        next_run_leaves_nothing(&mut scene);
    }
}

#[track_caller]
fn ends_by(signal: Signal, code: i32) {
    for backend in BACKENDS {
        let mut scene = Scene::new(backend);
        let words = long(&scene);
        let mut leader = scene.start(&words);
        scene.await_workers(&mut leader, 3);
        leader.signal(signal);
        let ended = leader.wait();
        assert_eq!(ended.complaint(code), "interrupted");
        assert_eq!(scene.workers(), [], "gone before their leader");
        scene.unique.assert_nothing_left(Duration::ZERO);
    }
}

#[test]
fn an_interrupt_ends_with_130_and_leaves_nothing() {
    ends_by(Signal::INT, 130);
}

#[test]
fn a_termination_ends_with_143_and_leaves_nothing() {
    ends_by(Signal::TERM, 143);
}

#[test]
fn an_interrupt_ends_a_run_whose_workers_are_stopped() {
    let mut scene = Scene::new("posix");
    let words = long(&scene);
    let mut leader = scene.start(&words);
    scene.await_workers(&mut leader, 3).iter().for_each(Process::stop);
    leader.signal(Signal::INT);
    assert_eq!(leader.wait().complaint(130), "interrupted");
    scene.assert_nothing_left();
}

#[test]
fn an_interrupt_at_any_moment_ends_with_130_and_leaves_nothing() {
    for backend in BACKENDS {
        interrupt_at_any_moment(Scene::new(backend), long);
    }
}

#[test]
fn an_interrupt_while_a_quoted_file_is_cut_ends_with_130_and_leaves_nothing() {
    let words = |scene: &Scene| {
        let path = scene.write("quoted.csv", "k,v\n".to_owned() + &"\"a\nb\",1\n".repeat(400_000));
        format!("{} --group-by k --sum v --chunk-size 8", path.display())
    };
    interrupt_at_any_moment(Scene::new("posix"), words);
}

fn interrupt_at_any_moment(mut scene: Scene, words: impl Fn(&Scene) -> String) {
    let words = words(&scene);
    for moment in (0..15).step_by(if is_deep() { 1 } else { 2 }) {
        let leader = scene.start(&words);
        sleep(LOOK * moment * moment);
        leader.signal(Signal::INT);
        let ended = leader.wait();
        // Before the signals are caught, it ends as any program does.
        if ended.signal() != Some(2) {
            assert_eq!(ended.complaint(130), "interrupted", "{moment}");
        }
        scene.assert_nothing_left();
    }
}
