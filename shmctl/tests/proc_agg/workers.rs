//! Workers are stopped, or killed by others than their leader.

use crate::scene::{BACKENDS, LIMIT, LOOK, Scene};
use rustix::process::Signal;
use shm_testkit::watchdog::within;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough to see the workers at it.
const AT_IT: &str = " --workers 2 --chunk-size 30";

#[test]
fn a_worker_killed_from_outside_is_replaced() {
    for backend in BACKENDS {
        let mut scene = Scene::new(backend);
        let words = scene.table(40_000);
        let plain = scene.plain(&words);
        let words = words + AT_IT;
        let mut leader = scene.start(&words);
        let before = scene.await_workers(&mut leader, 2);
        before[0].signal(Signal::KILL);
        within(LIMIT, || {
            while before[0].lives() {
                sleep(LOOK);
            }
        });
        let after = scene.await_workers(&mut leader, 2);
        assert!(!after.contains(&before[0]) && after.contains(&before[1]));
        let ended = leader.wait();
        ended.assert_agrees(&plain);
        assert_eq!(ended.report()["kills"], 0, "not by the leader");
        scene.assert_nothing_left();
    }
}

#[test]
fn a_worker_stopped_for_a_while_changes_nothing() {
    for backend in BACKENDS {
        let mut scene = Scene::new(backend);
        let words = scene.table(40_000);
        let plain = scene.plain(&words);
        let words = words + AT_IT;
        let mut leader = scene.start(&words);
        let workers = scene.await_workers(&mut leader, 2);
        workers[0].stop();
        sleep(Duration::from_millis(200));
        workers[0].signal(Signal::CONT);
        leader.wait().assert_agrees(&plain);
        scene.assert_nothing_left();
    }
}

/// A stopped worker may go on any time, so nobody takes its chunk away: the job waits for that
/// chunk, and for no other, until the worker goes on or is killed.
#[test]
fn a_stopped_worker_holds_up_its_chunk_until_it_is_killed() {
    for backend in BACKENDS {
        let mut scene = Scene::new(backend);
        let words = scene.table(40_000);
        let plain = scene.plain(&words);
        let words = words + AT_IT;
        // It may have been stopped while it held none; then the job ends without it.
        let held = (0..20).any(|_| {
            let mut leader = scene.start(&words);
            let workers = scene.await_workers(&mut leader, 2);
            workers[0].stop();
            let rests = within(LIMIT, || {
                let mut since = Instant::now();
                while leader.lives() && since.elapsed() < Duration::from_millis(500) {
                    if !workers[1].sleeps() {
                        since = Instant::now();
                    }
                    sleep(LOOK);
                }
                leader.lives()
            });
            workers[0].signal(Signal::KILL);
            leader.wait().assert_agrees(&plain);
            scene.assert_nothing_left();
            rests
        });
        assert!(held, "{backend}: no job waited for its stopped worker");
    }
}

#[test]
fn a_job_whose_workers_die_again_and_again_ends_with_one_line() {
    let mut scene = Scene::new("posix");
    let words = scene.table(200_000) + " --workers 2 --chunk-size 8";
    let mut leader = scene.start(&words);
    within(LIMIT, || {
        while leader.lives() {
            scene.workers().iter().for_each(|worker| worker.signal(Signal::KILL));
            sleep(LOOK);
        }
    });
    let ended = leader.wait();
    let complaint = ended.complaint(1);
    assert!(complaint.contains("signal 9"), "{complaint}");
    scene.assert_nothing_left();
}
