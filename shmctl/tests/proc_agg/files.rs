//! The file changes while workers read it: the answer is right, or one line says what happened.

use crate::scene::{Ended, Scene, table};
use rustix::process::Signal;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::SystemTime;

const ROWS: u32 = 40_000;

/// Does something to the file as workers read it, and kills one of them, whose successor opens the
/// file anew.
fn meanwhile(change: impl Fn(&Path)) -> (Ended, Ended) {
    let mut scene = Scene::new("posix");
    let words = scene.table(ROWS);
    let plain = scene.plain(&words);
    let words = words + " --workers 2 --chunk-size 30";
    // A file of this very moment could be changed without another time in its metadata.
    let path = scene.path("table.csv");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let mut leader = scene.start(&words);
    let workers = scene.await_workers(&mut leader, 2);
    change(&path);
    workers[0].signal(Signal::KILL);
    let ended = leader.wait();
    scene.assert_nothing_left();
    (ended, plain)
}

#[track_caller]
fn is_noticed(change: impl Fn(&Path)) {
    let (ended, _) = meanwhile(change);
    ended.assert_refused(&["table.csv: changed while it was read", "try again"]);
}

#[test]
fn a_file_cut_short_is_noticed() {
    is_noticed(|path| OpenOptions::new().write(true).open(path).unwrap().set_len(1000).unwrap());
    is_noticed(|path| OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap());
}

#[test]
fn a_file_written_anew_is_noticed() {
    is_noticed(|path| fs::write(path, table(ROWS).replace("1,", "2,")).unwrap());
    is_noticed(|path| fs::write(path, "nonsense \"\n".repeat(100_000)).unwrap());
}

#[test]
fn a_file_appended_to_is_noticed() {
    is_noticed(|path| fs::write(path, table(ROWS + 1)).unwrap());
}

/// The first workers have it open; the one that comes later does not find it.
#[test]
fn a_file_removed_is_noticed_or_read_to_its_end() {
    let (ended, plain) = meanwhile(|path| fs::remove_file(path).unwrap());
    match ended.status.code() {
        Some(0) => ended.assert_agrees(&plain),
        _ => ended.assert_refused(&["table.csv: cannot be read", "No such file"]),
    }
}

#[test]
fn a_file_replaced_is_noticed_or_read_to_its_end() {
    let (ended, plain) = meanwhile(|path| {
        let other = path.with_extension("new");
        fs::write(&other, table(10)).unwrap();
        fs::rename(&other, path).unwrap();
    });
    match ended.status.code() {
        Some(0) => ended.assert_agrees(&plain),
        _ => ended.assert_refused(&["table.csv: changed while it was read"]),
    }
}
