//! Groups that come together in shared memory: the answer is that of the plain pass, whoever is
//! killed while it adds to them.

use crate::scene::{BACKENDS, LIMIT, LOOK, NAMED, Process, Scene, await_end};
use dsm::{Domain, DomainConfig};
use rustix::process::Signal;
use shm_testkit::watchdog::within;
use std::thread::sleep;

const SHARED: &str = " --groups shared --groups-memory 64M";

/// A table of so many rows, in which each group comes `times` times, far from each other.
fn many(scene: &Scene, groups: u32, times: u32) -> String {
    let row = |row: u32| format!("key {},{}.{:02}\n", row % groups, row % 1001, row % 100);
    let rows: String = (0..groups * times).map(row).collect();
    let path = scene.write("many.csv", format!("k,v\n{rows}"));
    format!("{} --group-by k --sum v --min v --max v", path.display())
}

#[test]
fn few_groups_agree() {
    for backend in BACKENDS {
        let mut scene = Scene::new(backend);
        let words = scene.table(3000);
        let plain = scene.plain(&words);
        for size in ["101", "4097", "1G"] {
            let words = format!("{words} --workers 3 --chunk-size {size} {SHARED}");
            let ended = scene.run(&words);
            ended.assert_agrees(&plain);
            assert_eq!(ended.report()["shared_groups"], 7);
            scene.assert_nothing_left();
        }
    }
}

#[test]
fn no_row_and_a_fault_are_as_in_messages() {
    let mut scene = Scene::new("posix");
    let words = scene.table(0) + SHARED;
    assert_eq!(scene.run(&words).report()["groups"], 0);
    let path = scene.write("faulty.csv", "k,v\n1,2\n1,2,3\n");
    let words = format!("{} --group-by k --sum v {SHARED}", path.display());
    scene.run(&words).assert_refused(&["line 3: 3 cells"]);
    let path = scene.write("quoted.csv", "k,v\n".to_owned() + &"\"a\nb\",1\n".repeat(3000));
    let words = format!("{} --group-by k --sum v --chunk-size 333", path.display());
    let plain = scene.plain(&words);
    scene.run(&(words + SHARED)).assert_agrees(&plain);
    scene.assert_nothing_left();
}

#[test]
fn kills_amid_shared_groups_change_nothing() {
    for backend in BACKENDS {
        let mut scene = Scene::new(backend);
        let words = many(&scene, 4000, 5) + " --workers 3 --chunk-size 2K --chaos --kills 10";
        let report = scene.run(&(words + SHARED + " --verify")).report();
        assert_eq!((&report["verified"], &report["kills"]), (&true.into(), &10.into()));
        assert_eq!(report["shared_groups"], 4000);
        scene.assert_nothing_left();
    }
}

/// So many that they begin as messages and are shared from a moment on.
#[test]
fn kills_while_a_hundred_thousand_groups_come_to_be_shared_change_nothing() {
    let mut scene = Scene::new("posix");
    let words = many(&scene, 120_000, 2) + " --workers 3 --chunk-size 100K --verify";
    let report = scene.run(&(words + " --chaos --kills 10")).report();
    assert_eq!((&report["verified"], &report["kills"]), (&true.into(), &10.into()));
    let shared = report["shared_groups"].as_u64().unwrap();
    assert!(shared > 20_000, "{shared} groups were shared");
    scene.assert_nothing_left();
}

#[test]
fn few_groups_go_as_messages_if_nothing_is_said() {
    let mut scene = Scene::new("posix");
    let words = scene.table(1000);
    for how in ["", " --groups auto", " --groups messages"] {
        assert_eq!(scene.run(&format!("{words}{how}")).report()["shared_groups"], 0);
    }
}

#[test]
fn a_memory_that_is_too_small_is_an_error() {
    for backend in BACKENDS {
        let mut scene = Scene::new(backend);
        let words = many(&scene, 20_000, 1) + " --workers 2 --groups-memory 1M --groups shared";
        let ended = scene.run(&words);
        ended.assert_refused(&["the groups cannot be shared", "--groups-memory"]);
        scene.assert_nothing_left();
    }
}

#[test]
fn where_memory_is_too_small_the_other_groups_go_as_messages_if_nothing_is_said() {
    let mut scene = Scene::new("memfd");
    let words = many(&scene, 60_000, 1) + " --workers 2 --chunk-size 80K --groups-memory 1M";
    let report = scene.run(&(words + " --verify")).report();
    assert_eq!((&report["verified"], &report["groups"]), (&true.into(), &60_000.into()));
    assert!(report["shared_groups"].as_u64().unwrap() < 30_000);
    scene.assert_nothing_left();
}

#[test]
fn a_worker_stopped_or_killed_from_outside_changes_nothing() {
    let mut scene = Scene::new("posix");
    let words = scene.table(40_000) + " --workers 2 --chunk-size 30" + SHARED;
    let plain = scene.plain(&scene.table(40_000));
    let mut leader = scene.start(&words);
    let workers = scene.await_workers(&mut leader, 2);
    workers[0].stop();
    sleep(LOOK * 50);
    workers[0].signal(Signal::CONT);
    workers[1].signal(Signal::KILL);
    leader.wait().assert_agrees(&plain);
    scene.assert_nothing_left();
}

#[test]
fn what_is_left_when_all_are_killed_the_next_run_removes() {
    for backend in NAMED {
        let mut scene = Scene::new(backend);
        killed(&mut scene);
        let words = scene.table(10);
        scene.run(&words).report();
        scene.assert_nothing_left();
    }
}

/// While somebody is in the domain it stays, and so do the names in it.
#[test]
fn a_name_whose_job_is_over_is_removed_by_the_next_run() {
    let mut scene = Scene::new("posix");
    let mut leader = scene.start(&long(&scene));
    scene.await_workers(&mut leader, 2);
    let config = DomainConfig::new(scene.unique.name());
    let domain = Domain::open_existing(config).unwrap().expect("a run is in it");
    leader.signal(Signal::KILL);
    leader.wait();
    within(LIMIT, || {
        while !scene.workers().is_empty() {
            sleep(LOOK);
        }
    });
    assert_eq!(domain.named().len(), 1, "the groups of the job");
    let words = scene.table(10) + SHARED;
    scene.run(&words).report();
    assert_eq!(domain.named(), []);
    drop(domain);
    scene.assert_nothing_left();
}

fn long(scene: &Scene) -> String {
    scene.table(200_000) + " --workers 2 --chunk-size 8" + SHARED
}

/// A run, killed with its workers, all of them first stopped.
fn killed(scene: &mut Scene) {
    let mut leader = scene.start(&long(scene));
    let workers = scene.await_workers(&mut leader, 2);
    workers.iter().for_each(Process::stop);
    leader.signal(Signal::STOP);
    workers.iter().for_each(|worker| worker.signal(Signal::KILL));
    leader.signal(Signal::KILL);
    await_end(&workers);
    assert_eq!(leader.wait().signal(), Some(9));
}
