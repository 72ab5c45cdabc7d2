//! Segments that another program cuts off while they are mapped: what can be told is told, and what
//! cannot be prevented is shown.
use crate::on_each_backend;
use crate::scene::{SIZE, Scene};
use dsm::backend::{Backend, POSIX_DIRECTORY};
use dsm::{AttachError, CheckError, Domain, Segment};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::fault::trial;
use std::path::PathBuf;
use std::time::Duration;

on_each_backend! { a_cut_is_told, a_cut_control_segment_is_told }

const PATIENCE: Duration = Duration::from_secs(60);

/// The files of the domain: its control segment's, or another one's.
fn file(scene: &Scene, control: bool) -> Option<PathBuf> {
    let directory = match scene.config.backend {
        Some(Backend::Posix) => POSIX_DIRECTORY.into(),
        Some(Backend::Mmap) => scene.config.directory.clone()?,
        _ => return None,
    };
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut ours = entries.filter(|path| {
        let name = path.to_string_lossy();
        name.contains(&scene.config.name) && name.ends_with(".control") == control
    });
    Some(ours.next().expect("it is there"))
}

fn cut(path: PathBuf, len: u64) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn touch_the_end(segment: &Segment) {
    let end = segment.region().share::<AtomicU64>(segment.len() - 8).unwrap();
    end.store(1, Ordering::Relaxed);
}

fn a_cut_is_told(args: &[String]) {
    let backend = args[0].parse().unwrap();
    let ended = trial(PATIENCE, || {
        let scene = Scene::new(backend);
        let (first, handle) = scene.open_pinned();
        let second = scene.second(&first);
        let segment = first.attach(handle).unwrap().unwrap();
        segment.check().unwrap();
        let Some(path) = file(&scene, false) else {
            touch_the_end(&segment);
            cannot_be_cut(&first);
            segment.check().unwrap();
            drop(segment);
            return first.unpin(handle).unwrap();
        };
        cut(path.clone(), 4096);
        let told = segment.check().unwrap_err();
        assert!(matches!(told, CheckError::CutOff { len } if len == segment.len()), "{told}");
        assert!(told.to_string().contains("make it anew"), "{told}");
        let told = second.attach(handle).unwrap_err();
        assert!(matches!(told, AttachError::Truncated { len: 4096, .. }), "{told}");
        first.check().expect("the control segment is whole");
        // Longer again: there is nothing to be told any more, but the end reads as zeroes.
        cut(path, segment.len());
        segment.check().unwrap();
        touch_the_end(&segment);
        first.unpin(handle).unwrap();
        drop(segment);
        assert!(first.segments().is_empty(), "it is detached and destroyed as any other");
        drop((first, second));
        scene.survivors_go_on();
    });
    assert!(ended.is_success(), "{backend}: {:?}\n{}", ended.failure(), ended.stderr);
    what_touching_does(backend);
}

/// Sealed; the descriptor that is handed over does not allow it.
fn cannot_be_cut(domain: &Domain) {
    for fd in domain.inheritance().unwrap().fds {
        let refused = std::fs::File::from(fd).set_len(1).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    }
}

/// The limit, as docs/crash-model.md states it: nothing but its mode keeps a file whole, and who
/// touches what is gone gets a signal.
fn what_touching_does(backend: Backend) {
    let scene = Scene::new(backend);
    let ended = trial(PATIENCE, || {
        let domain = Domain::open(scene.config.clone()).unwrap();
        let segment = domain.create_segment(SIZE).unwrap();
        if let Some(path) = file(&scene, false) {
            cut(path, 0);
        }
        touch_the_end(&segment);
    });
    let cut = matches!(backend, Backend::Posix | Backend::Mmap);
    let signal = cut.then(|| "SIGBUS: memory that is not there".to_owned());
    assert_eq!(ended.failure(), signal, "{}", ended.stderr);
    scene.survivors_go_on();
}

fn a_cut_control_segment_is_told(args: &[String]) {
    let backend = args[0].parse().unwrap();
    let ended = trial(PATIENCE, || {
        let scene = Scene::new(backend);
        let domain = scene.open();
        domain.check().unwrap();
        let Some(path) = file(&scene, true) else { return };
        let len = std::fs::metadata(&path).unwrap().len();
        assert!(len >= 4096);
        cut(path.clone(), 0);
        let told = domain.check().unwrap_err();
        assert!(matches!(told, CheckError::CutOff { .. }), "{told}");
        domain.abandon();
        let told = Domain::open(scene.config.clone()).unwrap_err().to_string();
        assert!(told.contains("cut off, remove it"), "{told}");
        std::fs::remove_file(path).unwrap();
        drop(scene.open());
        scene.unique.assert_nothing_left(Duration::ZERO);
    });
    assert!(ended.is_success(), "{backend}: {:?}\n{}", ended.failure(), ended.stderr);
}
