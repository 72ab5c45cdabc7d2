//! `--chaos`: workers are killed at random moments, and the answer is the same.

use crate::scene::{BACKENDS, Scene, backends_of_the_dear};

#[track_caller]
fn survives(words: impl Fn(&Scene) -> String, kills: u32) {
    survives_on(&BACKENDS, words, kills);
}

fn survives_on(backends: &[&'static str], words: impl Fn(&Scene) -> String, kills: u32) {
    for backend in backends {
        let mut scene = Scene::new(backend);
        let words = format!("{} --chaos --kills {kills} --verify", words(&scene));
        let report = scene.run(&words).report();
        assert_eq!(
            (&report["verified"], &report["kills"]),
            (&true.into(), &kills.into()),
            "{backend}"
        );
        scene.assert_nothing_left();
    }
}

#[test]
fn five_kills_change_nothing() {
    survives(|scene| scene.accounts() + " --workers 2 --chunk-size 5K", 5);
}

#[test]
fn twenty_kills_change_nothing() {
    survives(|scene| scene.table(200_000) + " --workers 3 --chunk-size 200", 20);
}

#[test]
fn the_only_worker_may_be_killed_each_time() {
    survives(|scene| scene.table(100_000) + " --workers 1 --chunk-size 200", 5);
}

#[test]
fn kills_amid_messages_larger_than_their_queue_change_nothing() {
    let words = |scene: &Scene| {
        let rows: String = (0..120_000).map(|row| format!("key {row},{row}\n")).collect();
        let path = scene.write("many.csv", format!("k,v\n{rows}"));
        format!(
            "{} --group-by k --sum v --workers 2 --chunk-size 25K --groups messages",
            path.display()
        )
    };
    survives_on(backends_of_the_dear(), words, 5);
}

/// The job begins again in the middle; the kills do not.
#[test]
fn no_more_are_killed_than_asked_where_the_job_begins_again() {
    let words = |scene: &Scene| {
        let text = crate::scene::table(150_000) + &"\"1\n1\",5\n".repeat(1000);
        let path = scene.write("late.csv", text);
        format!("{} --group-by k --sum v --workers 2 --chunk-size 2000", path.display())
    };
    survives(words, 5);
}
