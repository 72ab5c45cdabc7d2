//! Backends between processes, some of which die: descriptors handed over and inherited; makers
//! and removers killed at, and stopped at, every system call; and processes under each limit that
//! the system sets, which get an error that names it and leave nothing behind.
#[path = "proc_backend/limits.rs"]
mod limits;
#[path = "proc_backend/trace.rs"]
mod trace;

use dsm::backend::{self, Backend, BackendError, Object, Place, memfd};
use shm_testkit::child::{self, Child, Setup};
use shm_testkit::unique::{TempDir, Unique};
use shm_testkit::watchdog::within;
use std::fs;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use trace::Traced;

const LIMIT: Duration = Duration::from_secs(120);
const SIZE: u64 = 64 << 10;

shm_testkit::children! {
    takes_a_descriptor, takes_an_inherited_descriptor, works, reads_its_environment,
}

fn word(object: &Object) -> &AtomicU64 {
    object.mapping().region().share(8).unwrap()
}

fn descriptor(number: &str) -> OwnedFd {
    // SAFETY: inherited under this number, and this process has no other use for it.
    unsafe { OwnedFd::from_raw_fd(number.parse().unwrap()) }
}

/// Adds one to what the parent wrote.
fn answer(object: &Object) {
    word(object).fetch_add(1, Ordering::Relaxed);
}

fn takes_a_descriptor(args: &[String]) {
    let socket = UnixStream::from(descriptor(&args[0]));
    answer(&memfd::open_fd(memfd::receive_fd(&socket).unwrap()).unwrap());
    let left = memfd::receive_fd(&socket).unwrap_err();
    assert!(matches!(left, BackendError::NoDescriptor), "{left}");
}

fn takes_an_inherited_descriptor(args: &[String]) {
    let object = memfd::open_fd(descriptor(&args[0])).unwrap();
    let flags = rustix::io::fcntl_getfd(object.fd().unwrap()).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "grandchildren do not get it");
    answer(&object);
}

#[test]
fn a_memfd_sent_over_a_socket_is_shared() {
    within(LIMIT, || {
        let object = backend::create(&Place::new(Backend::Memfd), "sent", SIZE).unwrap();
        word(&object).store(41, Ordering::Relaxed);
        let (here, there) = UnixStream::pair().unwrap();
        let (number, fds) = (there.as_raw_fd().to_string(), [there.as_fd()]);
        let setup = Setup { args: &[&number], fds: &fds, ..Setup::default() };
        let mut child = Child::spawn_with("takes_a_descriptor", setup);
        drop(there);
        memfd::send_fd(&here, &object).unwrap();
        drop(here);
        child.wait(LIMIT).assert_success();
        assert_eq!(word(&object).load(Ordering::Relaxed), 42);
    });
}

#[test]
fn only_a_memfd_is_sent_and_only_to_who_is_there() {
    let test = Unique::new("sent");
    let (here, there) = UnixStream::pair().unwrap();
    let named = backend::create(&Place::new(Backend::Posix), test.name(), SIZE).unwrap();
    let refused = memfd::send_fd(&here, &named).unwrap_err();
    assert!(matches!(refused, BackendError::Unsupported { .. }), "{refused}");
    assert!(named.remove_exact().unwrap());
    // A child of another test may hold a copy between its fork and its exec: closing is not enough.
    there.shutdown(Shutdown::Both).unwrap();
    let nameless = backend::create(&Place::new(Backend::Memfd), "sent", SIZE).unwrap();
    let gone = memfd::send_fd(&here, &nameless).unwrap_err();
    assert!(matches!(gone, BackendError::Os { call: "sendmsg", .. }), "{gone}");
    test.assert_nothing_left(Duration::ZERO);
}

#[test]
fn an_inherited_memfd_is_shared() {
    within(LIMIT, || {
        let object = backend::create(&Place::new(Backend::Memfd), "inherited", SIZE).unwrap();
        word(&object).store(6, Ordering::Relaxed);
        let fd = object.fd().unwrap();
        let (number, fds) = (fd.as_raw_fd().to_string(), [fd]);
        let setup = Setup { args: &[&number], fds: &fds, ..Setup::default() };
        Child::spawn_with("takes_an_inherited_descriptor", setup).wait(LIMIT).assert_success();
        assert_eq!(word(&object).load(Ordering::Relaxed), 7);
    });
}

fn reads_its_environment(args: &[String]) {
    let read = Backend::from_env().map_or_else(|error| error.to_string(), |b| b.to_string());
    assert_eq!(read, args[0]);
}

#[test]
fn the_environment_chooses_the_backend() {
    let unknown = "unknown backend `windows`: use posix, sysv, mmap, memfd, portable or none";
    for (value, read) in [("sysv", "sysv"), ("none", "none"), ("windows", unknown)] {
        let env = &[(backend::BACKEND_VARIABLE, value)];
        let setup = Setup { args: &[read], env, ..Setup::default() };
        Child::spawn_with("reads_its_environment", setup).wait(LIMIT).assert_success();
    }
}

/// The child's half of the tests below: does one verb to `name`, when told.
fn works(args: &[String]) {
    let [backend, directory, name, verb] = args else { panic!("{args:?}") };
    let place = Place { directory: directory.into(), ..Place::new(backend.parse().unwrap()) };
    let found = backend::open(&place, name).unwrap();
    child::tell_parent("ready");
    child::parent_says();
    match verb.as_str() {
        "create" => drop(backend::create(&place, name, SIZE).unwrap()),
        "open_or_create" => drop(backend::open_or_create(&place, name, SIZE).unwrap()),
        "remove" => drop(backend::remove(&place, name).unwrap()),
        // Somebody else may have removed it while this process was stopped.
        "remove_exact" => drop(found.expect("made by the parent").remove_exact().unwrap()),
        verb => panic!("{verb}"),
    }
}

/// A place of the backend, and a name in it.
struct Scene {
    place: Place,
    test: Unique,
    directory: TempDir,
}

impl Scene {
    fn new(backend: Backend, hint: &str) -> Scene {
        let directory = TempDir::new(hint);
        let mut test = Unique::new(hint);
        test.watch_directory(directory.path());
        Scene {
            place: Place { directory: directory.path().to_owned(), ..Place::new(backend) },
            test,
            directory,
        }
    }

    /// A child that stands before `verb`.
    fn start(&self, verb: &str) -> Traced {
        let (backend, directory) = (self.place.backend.name(), self.directory.path());
        let args = [backend, &directory.to_string_lossy(), self.test.name(), verb];
        Traced::start(Child::spawn("works", &args))
    }

    fn create(&self) -> Object {
        backend::create(&self.place, self.test.name(), SIZE).unwrap()
    }

    fn open(&self) -> Option<Object> {
        backend::open(&self.place, self.test.name()).unwrap()
    }

    /// Whoever comes next finds a whole object or none, gets one, and can remove it.
    fn survivors_go_on(&self) {
        if let Some(object) = self.open() {
            assert_eq!((object.len(), word(&object).load(Ordering::Relaxed)), (SIZE, 0));
        }
        let object = backend::open_or_create(&self.place, self.test.name(), SIZE).unwrap();
        assert_eq!((object.len(), word(&object).load(Ordering::Relaxed)), (SIZE, 0));
        assert!(backend::remove(&self.place, self.test.name()).unwrap());
        assert!(self.open().is_none());
        self.test.assert_nothing_left(Duration::ZERO);
    }
}

#[test]
fn a_kill_at_any_system_call_leaves_a_whole_object_or_none() {
    for backend in [Backend::Posix, Backend::Sysv, Backend::Mmap] {
        for verb in ["create", "open_or_create", "remove", "remove_exact"] {
            let scene = Scene::new(backend, "killed");
            let kills = within(LIMIT, || kill_everywhere(&scene, verb));
            println!("{backend} {verb}: {kills} kills");
            assert!(kills > 10);
        }
    }
}

fn kill_everywhere(scene: &Scene, verb: &str) -> usize {
    for point in 1.. {
        if verb.starts_with("remove") {
            drop(scene.create());
        }
        let mut traced = scene.start(verb);
        let ended = (0..point).any(|_| !traced.step());
        traced.child.kill();
        if !ended {
            traced.child.wait(LIMIT);
        }
        scene.survivors_go_on();
        if ended {
            return point - 1;
        }
    }
    unreachable!("the child ends")
}

#[test]
fn a_remover_stopped_anywhere_removes_no_successor() {
    for backend in [Backend::Posix, Backend::Sysv, Backend::Mmap] {
        let scene = Scene::new(backend, "stopped");
        let (stops, successors) = within(LIMIT, || stop_everywhere(&scene));
        println!("{backend}: {successors} successors in {stops} stops");
        assert!(successors > 10, "else nothing was tried");
    }
}

/// A remover stops at each point; meanwhile its object is removed by somebody else, where it does
/// not hold the lock, and a new one gets the name. Then it goes on.
fn stop_everywhere(scene: &Scene) -> (usize, usize) {
    let mut successors = 0;
    for point in 1.. {
        let first = scene.create();
        let traced = scene.start("remove_exact");
        let ended = (0..point).any(|_| !traced.step());
        if ended {
            assert!(!first.remove_exact().unwrap());
            return (point - 1, successors);
        }
        let second = (!is_locked(scene)).then(|| {
            first.remove_exact().unwrap();
            scene.create()
        });
        traced.let_go().wait(LIMIT).assert_success();
        match second {
            Some(second) => {
                successors += 1;
                assert!(second.remove_exact().unwrap(), "point {point}: removed by the other");
            }
            None => assert!(!first.remove_exact().unwrap()),
        }
        assert!(scene.open().is_none());
    }
    unreachable!("the child ends")
}

fn is_locked(scene: &Scene) -> bool {
    use rustix::fs::{FlockOperation, flock};
    let directory = match scene.place.backend {
        Backend::Posix => Path::new(backend::POSIX_DIRECTORY),
        _ => scene.directory.path(),
    };
    fs::File::open(directory.join(scene.test.name()))
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
}
