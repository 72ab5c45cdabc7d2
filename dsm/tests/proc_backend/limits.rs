//! Each limit that the system sets, in a child process that sets it for itself.
//!
//! What a child is not allowed to set up (mounts, without privileges) is not run, and says so.
use dsm::backend::{self, Backend, BackendError, Object, Place};
use rustix::process::geteuid;
use shm_testkit::child::{self, Child};
use shm_testkit::fault::{
    Limit, NotRun, become_root_of_a_namespace, limit, mount_empty, unlimited,
};
use shm_testkit::unique::TempDir;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

const MIB: u64 = 1 << 20;
const NAMED: [Backend; 3] = [Backend::Posix, Backend::Sysv, Backend::Mmap];
const FILES: [Backend; 3] = [Backend::Posix, Backend::Mmap, Backend::Memfd];

/// Makes a test of each function: it runs in a child process, with a directory of its own.
macro_rules! in_a_child {
    ($($function:ident),* $(,)?) => {
        shm_testkit::children! { $($function),* }
        mod in_a_child { $(
            #[test]
            fn $function() {
                let directory = super::TempDir::new("limits");
                let path = directory.path().to_string_lossy();
                let mut child = super::Child::spawn(stringify!($function), &[&path]);
                let exit = child.wait(super::super::LIMIT);
                exit.assert_success();
                print!("{}", exit.stderr);
            }
        )* }
    };
}

in_a_child! {
    a_full_file_system_is_an_error_and_never_a_signal,
    a_file_system_without_inodes_left_is_an_error,
    a_read_only_directory_is_named,
    file_systems_that_cannot_reserve_are_filled_with_zeroes,
    without_proc_objects_are_made_under_another_name,
    the_limit_of_file_size_is_named_and_sends_no_signal,
    the_limit_of_address_space_is_named,
    the_limit_of_descriptors_is_named,
    the_limits_of_system_v_are_named,
    a_storm_of_signals_does_not_stop_a_creation,
}

fn place(backend: Backend, args: &[String]) -> Place {
    Place { directory: args[0].clone().into(), ..Place::new(backend) }
}

fn name() -> String {
    format!("limits-{}", std::process::id())
}

/// Both ways to make `size` bytes fail alike, and leave nothing behind.
fn refused(place: &Place, size: u64) -> BackendError {
    let error = backend::create(place, &name(), size).unwrap_err();
    let other = backend::open_or_create(place, &name(), size).unwrap_err();
    assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&other), "{error} {other}");
    eprintln!("{}: {error}", place.backend);
    error
}

fn assert_nothing_left(place: &Place) {
    if place.backend != Backend::Memfd {
        assert!(backend::open(place, &name()).unwrap().is_none());
    }
    assert_eq!(backend::list(place, &name()).unwrap(), [""; 0]);
}

fn assert_limit(error: &BackendError, expected: &str) {
    let named = matches!(error, BackendError::LimitReached { limit, .. } if *limit == expected);
    assert!(named, "{error:?} is not about {expected}");
}

fn soil(object: &Object) {
    let bytes = object.mapping().region().share_slice::<AtomicU8>(0, object.len()).unwrap();
    bytes.iter().for_each(|byte| byte.store(0xff, Ordering::Relaxed));
}

fn a_full_file_system_is_an_error_and_never_a_signal(args: &[String]) {
    for backend in [Backend::Posix, Backend::Mmap] {
        let place = place(backend, args);
        let directory = directory_of(&place);
        if !mounted("tmpfs", directory, 0, "size=1m") {
            return;
        }
        let error = refused(&place, 2 * MIB);
        assert!(error.to_string().contains(&*directory.to_string_lossy()), "{error}");
        match error {
            BackendError::NoSpace { size, free: Some(free), .. } => {
                assert!(size == 2 * MIB && (1..=MIB).contains(&free), "{size} {free}");
            }
            other => panic!("{other:?}"),
        }
        assert_nothing_left(&place);

        let object = backend::create(&place, &name(), MIB / 2).unwrap();
        let filler = fs::write(directory.join("filler"), [1; MIB as usize]);
        assert!(filler.is_err(), "it does not fit");
        // Each page is there, though no other is free.
        soil(&object);
        assert!(object.remove_exact().unwrap());
    }
}

fn a_file_system_without_inodes_left_is_an_error(args: &[String]) {
    let place = place(Backend::Mmap, args);
    if !mounted("tmpfs", &place.directory, 0, "size=1m,nr_inodes=3") {
        return;
    }
    for n in 0..2 {
        fs::write(place.directory.join(format!("filler-{n}")), "").unwrap();
    }
    assert_limit(&refused(&place, 4096), "of files (`df -i`) or space");
    assert_nothing_left(&place);
}

fn a_read_only_directory_is_named(args: &[String]) {
    let place = place(Backend::Mmap, args);
    if !mounted("tmpfs", &place.directory, libc::MS_RDONLY, "size=1m") {
        return;
    }
    let error = refused(&place, 4096);
    assert!(matches!(error, BackendError::BadDirectory { .. }), "{error:?}");
    assert_nothing_left(&place);
}

fn file_systems_that_cannot_reserve_are_filled_with_zeroes(args: &[String]) {
    let place = place(Backend::Mmap, args);
    if !mounted("ramfs", &place.directory, 0, "") {
        return;
    }
    let object = backend::create(&place, &name(), MIB + 1).unwrap();
    assert_eq!(object.len(), MIB + 4096);
    soil(&object);
    // A longer one, of what is there: nothing is overwritten.
    let longer = backend::open_or_create(&place, &name(), 2 * MIB).unwrap();
    let bytes = longer.mapping().region().share_slice::<AtomicU8>(0, longer.len()).unwrap();
    let soiled = bytes.iter().map(|byte| byte.load(Ordering::Relaxed));
    assert!(soiled.enumerate().all(|(i, byte)| (byte == 0xff) == (i < object.len() as usize)));
    assert_eq!((longer.len(), longer.identity()), (2 * MIB, object.identity()));
    assert!(object.remove_exact().unwrap());
    assert_nothing_left(&place);
}

fn without_proc_objects_are_made_under_another_name(args: &[String]) {
    let place = place(Backend::Mmap, args);
    if !mounted("tmpfs", Path::new("/proc"), 0, "") {
        return;
    }
    let object = backend::create(&place, &name(), MIB).unwrap();
    assert_eq!(backend::list(&place, &name()).unwrap(), [name()]);
    let taken = backend::create(&place, &name(), MIB).unwrap_err();
    assert!(matches!(taken, BackendError::AlreadyExists { .. }), "{taken}");
    let same = backend::open_or_create(&place, &name(), MIB).unwrap();
    assert_eq!((same.identity(), same.len()), (object.identity(), MIB));
    assert!(object.remove_exact().unwrap());
    assert_nothing_left(&place);
}

fn the_limit_of_file_size_is_named_and_sends_no_signal(args: &[String]) {
    limit(Limit::FileSize, 64 << 10);
    for backend in FILES {
        let place = place(backend, args);
        assert_limit(&refused(&place, MIB), "RLIMIT_FSIZE");
        assert_nothing_left(&place);
        let object = backend::create(&place, &name(), 64 << 10).unwrap();
        object.remove_exact().unwrap();
    }
}

fn the_limit_of_address_space_is_named(args: &[String]) {
    limit(Limit::AddressSpace, Limit::AddressSpace.used() + 16 * MIB);
    for backend in NAMED.into_iter().chain([Backend::Memfd]) {
        let place = place(backend, args);
        assert_limit(&refused(&place, 64 * MIB), "RLIMIT_AS");
        assert_nothing_left(&place);
    }
}

fn the_limit_of_descriptors_is_named(args: &[String]) {
    for backend in FILES {
        let place = place(backend, args);
        // One is enough for memfd; a file needs a second, for its directory.
        for free in [0, 1] {
            limit(Limit::Descriptors, Limit::Descriptors.used() + free);
            let made = backend::create(&place, &name(), 4096);
            unlimited(Limit::Descriptors);
            match made {
                Ok(object) => assert!(object.fd().is_some() && free == 1, "memfd needs but one"),
                Err(error) => assert_limit(&error, "RLIMIT_NOFILE"),
            }
        }
        assert_nothing_left(&place);
    }
}

fn the_limits_of_system_v_are_named(args: &[String]) {
    let place = place(Backend::Sysv, args);
    let kernel = Path::new("/proc/sys/kernel");
    let limited = become_root_of_a_namespace(libc::CLONE_NEWIPC).and_then(|()| {
        let set = fs::write(kernel.join("shmmax"), "65536");
        set.map_err(|error| NotRun::new("setting kernel.shmmax", error))
    });
    if let Err(not_run) = limited {
        return eprintln!("{not_run}");
    }
    assert_limit(&refused(&place, MIB), "kernel.shmmax");
    assert_nothing_left(&place);
    fs::write(kernel.join("shmmni"), "1").unwrap();
    let object = backend::create(&place, "the-one", 4096).unwrap();
    assert_limit(&refused(&place, 4096), "kernel.shmmni or kernel.shmall");
    assert!(object.remove_exact().unwrap());
    assert_nothing_left(&place);
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

fn a_storm_of_signals_does_not_stop_a_creation(args: &[String]) {
    // SAFETY: integers, and no restarting of interrupted calls.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as *const () as usize;
    // SAFETY: the handler touches one atomic.
    assert_eq!(unsafe { libc::sigaction(libc::SIGALRM, &action, ptr::null_mut()) }, 0);
    let each = libc::timeval { tv_sec: 0, tv_usec: 200 };
    let timer = libc::itimerval { it_interval: each, it_value: each };
    // SAFETY: reads one itimerval.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()) }, 0);
    for backend in FILES.into_iter().chain([Backend::Sysv]) {
        let place = place(backend, args);
        let object = backend::create(&place, &name(), 64 * MIB).unwrap();
        assert_eq!(object.len(), 64 * MIB);
        object.remove_exact().unwrap();
        assert_nothing_left(&place);
    }
    eprintln!("{} signals", SIGNALS.load(Ordering::Relaxed));
    assert!(SIGNALS.load(Ordering::Relaxed) > 10);
}

fn denied(args: &[String]) {
    let place = place(Backend::Mmap, args);
    let error = refused(&place, 4096);
    assert!(matches!(error, BackendError::BadDirectory { .. }), "{error:?}");
    assert_nothing_left(&place);
}
shm_testkit::children! { denied }

#[test]
fn a_directory_without_permission_to_write_is_named() {
    let directory = TempDir::new("denied");
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o555))
        .unwrap();
    let mut command = child::command("denied", &[&directory.path().to_string_lossy()]);
    if geteuid().is_root() {
        command.uid(65534);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn directory_of(place: &Place) -> &Path {
    match place.backend {
        Backend::Posix => Path::new(backend::POSIX_DIRECTORY),
        _ => &place.directory,
    }
}

/// As [`mount_empty`]; `false`, with a message, where that is not permitted.
fn mounted(kind: &str, directory: &Path, flags: libc::c_ulong, options: &str) -> bool {
    mount_empty(kind, directory, flags, options)
        .inspect_err(|not_run| eprintln!("{not_run}"))
        .is_ok()
}
