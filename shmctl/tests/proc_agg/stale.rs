//! Something else stands under the domain's name: its own error each, which says what to do, and it
//! is not touched.

use crate::scene::{NAMED, Process, Scene, await_end};
use dsm::backend::{self, Backend, Object, Place};
use rustix::process::{Signal, geteuid};
use shm_core::sync::{AtomicU32, AtomicU64, Ordering};
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Offset of the layout's version in the header of a control segment.
const VERSION_AT: u64 = 40;

fn control_name(scene: &Scene) -> String {
    format!("shm.{}.control", scene.unique.name())
}

fn place(scene: &Scene) -> Place {
    let backend: Backend = scene.backend.parse().unwrap();
    Place { directory: scene.path("mmap"), ..Place::new(backend) }
}

/// Where the control segment is or would be: `posix` and `mmap`.
fn control_file(scene: &Scene) -> PathBuf {
    match scene.backend {
        "posix" => PathBuf::from("/dev/shm").join(control_name(scene)),
        _ => scene.path("mmap").join(control_name(scene)),
    }
}

/// Kills a run with all its workers, and gives its control segment.
fn left_by_a_run(scene: &mut Scene) -> Object {
    let words = scene.table(100_000) + " --workers 2 --chunk-size 8";
    let mut leader = scene.start(&words);
    let workers = scene.await_workers(&mut leader, 2);
    workers.iter().for_each(Process::stop);
    leader.signal(Signal::STOP);
    workers.iter().for_each(|worker| worker.signal(Signal::KILL));
    leader.signal(Signal::KILL);
    await_end(&workers);
    assert_eq!(leader.wait().signal(), Some(9));
    backend::open(&place(scene), &control_name(scene)).unwrap().unwrap()
}

/// A run is refused with these words, again and again, and changes nothing.
#[track_caller]
fn refused(scene: &mut Scene, words: &[&str]) {
    let before = scene.unique.left();
    let table = scene.table(10);
    for _ in 0..2 {
        scene.run(&table).assert_refused(words);
    }
    assert_eq!((scene.workers(), scene.unique.left()), (vec![], before));
}

#[test]
fn garbage_is_refused() {
    for backend in NAMED {
        let mut scene = Scene::new(backend);
        let (place, name) = (place(&scene), control_name(&scene));
        scene.unique.watch_process(std::process::id());
        let object = backend::create(&place, &name, 1 << 20).unwrap();
        for at in (0..1 << 20).step_by(8) {
            let word = object.mapping().region().share::<AtomicU64>(at).unwrap();
            word.store(0xa5a5_a5a5_a5a5_a5a5, Ordering::Relaxed);
        }
        refused(&mut scene, &["was not made by shmkit", "use another name or remove it"]);
        assert!(object.remove_exact().unwrap());
    }
}

#[test]
fn another_version_is_refused() {
    for backend in NAMED {
        let mut scene = Scene::new(backend);
        let object = left_by_a_run(&mut scene);
        let version = object.mapping().region().share::<AtomicU32>(VERSION_AT).unwrap();
        let ours = version.load(Ordering::Relaxed);
        version.store(ours + 1, Ordering::Relaxed);
        let found = format!("layout has version {} and ours has {ours}", ours + 1);
        refused(&mut scene, &[&found, "use one release in all programs"]);
        version.store(ours, Ordering::Relaxed);
        drop(object);
        let table = scene.table(10);
        scene.run(&table).report();
        scene.assert_nothing_left();
    }
}

/// A segment that the table of a control segment was scribbled over: not garbage at first sight.
#[test]
fn a_control_segment_overwritten_behind_its_header_is_refused() {
    for backend in NAMED {
        let mut scene = Scene::new(backend);
        let object = left_by_a_run(&mut scene);
        let region = object.mapping().region();
        for at in (64..object.len()).step_by(8) {
            region.share::<AtomicU64>(at).unwrap().store(u64::MAX, Ordering::Relaxed);
        }
        refused(&mut scene, &["corrupt", "remove it"]);
        assert!(object.remove_exact().unwrap());
    }
}

#[test]
fn a_control_segment_of_another_length_is_refused() {
    for backend in ["posix", "mmap"] {
        let mut scene = Scene::new(backend);
        let len = left_by_a_run(&mut scene).len();
        let file = OpenOptions::new().write(true).open(control_file(&scene)).unwrap();
        file.set_len(2 * len).unwrap();
        refused(&mut scene, &["was extended", "remove it"]);
        for len in [len - 4096, 4096, 0] {
            file.set_len(len).unwrap();
            refused(&mut scene, &["cut off", "remove it"]);
        }
    }
}

#[test]
fn a_control_segment_of_another_name_is_refused() {
    for backend in ["posix", "mmap"] {
        let mut other = Scene::new(backend);
        drop(left_by_a_run(&mut other));
        let mut scene = Scene::new(backend);
        fs::copy(control_file(&other), control_file(&scene)).unwrap();
        refused(&mut scene, &["made under another name", "remove it"]);
    }
}

#[test]
fn what_is_no_file_of_ours_is_refused() {
    for backend in ["posix", "mmap"] {
        let mut scene = Scene::new(backend);
        let path = control_file(&scene);
        let target = scene.write("target", [0; 8192]);
        std::os::unix::fs::symlink(&target, &path).unwrap();
        refused(&mut scene, &["is a symbolic link", "remove it"]);
        assert_eq!(fs::read(&target).unwrap(), [0; 8192]);
        fs::remove_file(&path).unwrap();

        fs::create_dir(&path).unwrap();
        refused(&mut scene, &["is not a regular file", "remove it"]);
        fs::remove_dir(&path).unwrap();

        fs::write(&path, [0; 8192]).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        refused(&mut scene, &["has mode 644", "open to others", "change its mode or group"]);

        if geteuid().is_root() {
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            refused(&mut scene, &["belongs to user 65534", "choose another name"]);
        }
    }
}

/// Zeroes are what a creator leaves that was killed before it wrote anything.
#[test]
fn zeroes_of_any_length_are_taken_over() {
    for backend in ["posix", "mmap"] {
        let mut scene = Scene::new(backend);
        let len = left_by_a_run(&mut scene).len();
        for len in [4096, len, 2 * len] {
            let path = control_file(&scene);
            fs::write(&path, vec![0; len as usize]).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let table = scene.table(10);
            scene.run(&table).report();
            scene.assert_nothing_left();
        }
    }
}
