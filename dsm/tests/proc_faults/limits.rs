//! A whole life in a domain (open, create, share, leave) under each limit, in a file system that
//! has next to no room, and in sandboxes that forbid a call.
use crate::on_each_backend;
use crate::scene::{SIZE, Scene, inherit, sweep_up_after};
use dsm::backend::{self, Backend};
use dsm::{Domain, Segment};
use shm_core::sync::{AtomicU64, Ordering};
use shm_testkit::fault::{Footprint, Limit, NotRun, forbid, limit, mount_empty, trial, unlimited};
use shm_testkit::unique::TempDir;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

on_each_backend! {
    descriptors_run_out, the_address_space_runs_out, files_may_not_grow, no_thread_is_to_be_had,
    the_file_system_is_full, the_table_finds_no_room, calls_are_forbidden,
}

const PATIENCE: Duration = Duration::from_secs(60);

fn backend(args: &[String]) -> Backend {
    args[0].parse().unwrap()
}

/// Opens a domain, creates a segment and writes to all of it; and a second seat does the like.
fn live(scene: &Scene) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let domain = Domain::open(scene.config.clone()).map_err(|e| text(&e))?;
    let segment = domain.create_segment(SIZE).map_err(|e| text(&e))?;
    fill(&segment);
    let inheritance = domain.inheritance().map_err(|e| text(&e))?;
    drop(inheritance);
    if scene.config.backend != Some(Backend::Memfd) {
        let other = Domain::open(scene.config.clone()).map_err(|e| text(&e))?;
        let attached = other.attach(segment.handle()).map_err(|e| text(&e))?;
        fill(&attached.expect("it is there"));
    }
    domain.reap();
    Ok(())
}

/// Touches each page.
fn fill(segment: &Segment) {
    let words = segment.region().share_slice::<AtomicU64>(0, segment.len() / 8).unwrap();
    words.iter().for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
}

/// Grants more and more until a whole life succeeds; before that each is refused, and leaves
/// nothing. How many were refused.
fn until_it_lives(
    backend: Backend,
    what: &str,
    grants: impl Iterator<Item = u64>,
    grant: impl Fn(u64),
    take_back: impl Fn(),
) {
    let (mut refused, mut starved) = (0, 0);
    for amount in grants {
        let ended = trial(PATIENCE, || {
            let scene = Scene::new(backend);
            // What a process does once is done.
            let before = Footprint::now();
            grant(amount);
            let lived = live(&scene);
            take_back();
            if let Err(error) = &lived {
                assert!(error.len() > 30, "says too little: {error}");
                eprintln!("refused: {error}");
            }
            Scene::settle();
            before.assert_same();
            scene.survivors_go_on();
        });
        // No Rust program goes on without memory for its allocator, nor the C library without some
        // for its own; that is not ours to mend.
        let last_words = ["memory allocation of", "Fatal glibc error"];
        if last_words.iter().any(|words| ended.stderr.contains(words)) {
            starved += 1;
            sweep_up_after(&ended);
            continue;
        }
        let failure = ended.failure();
        assert!(failure.is_none(), "{backend}, {what} {amount}: {failure:?}\n{}", ended.stderr);
        if !ended.stderr.contains("refused: ") {
            let alone = format!("{starved} ended by the allocator");
            return eprintln!("{backend}: {what}: {refused} refused, {alone}, lives with {amount}");
        }
        refused += 1;
    }
    panic!("{backend}: it never lives");
}

fn descriptors_run_out(args: &[String]) {
    let grant = |more| limit(Limit::Descriptors, Limit::Descriptors.used() + more);
    let take_back = || unlimited(Limit::Descriptors);
    until_it_lives(backend(args), "descriptors", 0..100, grant, take_back);
}

fn the_address_space_runs_out(args: &[String]) {
    let grant = |more| limit(Limit::AddressSpace, Limit::AddressSpace.used() + more);
    let take_back = || unlimited(Limit::AddressSpace);
    let steps = (0..4000).map(|step| step * 4096);
    until_it_lives(backend(args), "bytes of address space", steps, grant, take_back);
}

fn files_may_not_grow(args: &[String]) {
    let backend = backend(args);
    let grant = |size| limit(Limit::FileSize, size);
    let sizes = (0..100).map(|pages| pages * 2048);
    until_it_lives(backend, "bytes in a file", sizes, grant, || unlimited(Limit::FileSize));
}

/// A limit on threads does not bind root, so that root becomes somebody else first.
fn no_thread_is_to_be_had(args: &[String]) {
    let backend = backend(args);
    let directory = TempDir::new("nproc");
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let ended = trial(PATIENCE, || {
        if rustix::process::geteuid().is_root() {
            // SAFETY: no pointers; this process has one thread.
            let became = unsafe { libc::setresuid(54321, 54321, 54321) };
            assert_eq!(became, 0, "{}", std::io::Error::last_os_error());
            // SAFETY: no pointers. What changes its user hides from /proc until it says otherwise.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
        }
        // SAFETY: no other thread reads the environment.
        unsafe { std::env::set_var("TMPDIR", directory.path()) };
        let (scene, before) = (Scene::new(backend), Footprint::now());
        limit(Limit::Threads, 1);
        let refused = live(&scene).unwrap_err();
        unlimited(Limit::Threads);
        assert!(refused.contains("RLIMIT_NPROC"), "{refused}");
        Scene::settle();
        before.assert_same();
        scene.survivors_go_on();
    });
    assert!(ended.is_success(), "{:?}\n{}", ended.failure(), ended.stderr);
}

/// File systems of one page, two pages, and so on; of other backends, only one without limit.
fn the_file_system_is_full(args: &[String]) {
    let backend = backend(args);
    let directory = match backend {
        Backend::Posix => Path::new(backend::POSIX_DIRECTORY).to_owned(),
        Backend::Mmap => std::env::temp_dir(),
        // Not in a file system: kernel.shmall, and the machine's memory.
        _ => return,
    };
    for pages in 1.. {
        let ended = trial(PATIENCE, || {
            let options = format!("size={}k", 4 * pages);
            if let Err(not_run) = mount_empty("tmpfs", &directory, 0, &options) {
                return eprintln!("{not_run}");
            }
            let (scene, before) = (Scene::new(backend), Footprint::now());
            if let Err(error) = live(&scene) {
                let names = error.contains("no room for") || error.contains("or space");
                assert!(names, "{error}");
                eprintln!("refused: {error}");
            } else {
                fill_up(&scene);
            }
            before.assert_same();
            scene.unique.assert_nothing_left(Duration::ZERO);
        });
        eprint!("{backend}, {pages} pages: {}", ended.stderr);
        assert!(ended.is_success(), "{:?}", ended.failure());
        if !ended.stderr.contains("refused: ") {
            return;
        }
    }
}

/// As many segments as there is room for; each is there to its last byte.
fn fill_up(scene: &Scene) {
    let domain = scene.open();
    let mut segments = Vec::new();
    let error = loop {
        match domain.create_segment(SIZE) {
            Ok(segment) => segments.push(segment),
            Err(error) => break error,
        }
    };
    segments.iter().for_each(fill);
    assert!(!segments.is_empty(), "{error}");
    drop(segments.pop());
    fill(&domain.create_segment(SIZE).expect("room for one"));
    eprintln!("{} segments, then {error}", segments.len() + 1);
}

/// Segments that a table of 65,536 for four has memory for at first.
const PIECE: usize = 1024;

/// The first piece is full, and then the file system: the table cannot grow, and
/// says so; all that was there goes on, and with room again it grows.
fn the_table_finds_no_room(args: &[String]) {
    let backend = backend(args);
    let directory = match backend {
        Backend::Posix => Path::new(backend::POSIX_DIRECTORY).to_owned(),
        Backend::Mmap => std::env::temp_dir(),
        _ => return,
    };
    let ended = trial(PATIENCE, || {
        if let Err(not_run) = mount_empty("tmpfs", &directory, 0, "size=16m") {
            return eprintln!("{not_run}");
        }
        let mut scene = Scene::new(backend);
        scene.config.segments_max = Some(65_536);
        let domain = scene.open();
        let before = Footprint::now();
        // Without a mapping or descriptor.
        let pinned = || domain.create_segment(1).map(|segment| segment.pin().unwrap());
        (0..PIECE).for_each(|_| pinned().expect("room in the first piece"));
        let ballast = directory.join("ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        drop(file);
        for _ in 0..2 {
            let error = pinned().unwrap_err().to_string();
            assert!(error.contains("no room for") || error.contains("or space"), "{error}");
            eprintln!("refused: {error}");
        }
        before.assert_same();
        domain.check().unwrap();
        let segments = domain.segments();
        assert_eq!(segments.len(), PIECE);
        // There is no room for an object, but a slot that was given back can be had.
        domain.unpin(segments[7].handle).unwrap();
        pinned().expect("the room of the one before");
        std::fs::remove_file(&ballast).unwrap();
        (0..PIECE).for_each(|_| pinned().expect("room in the second piece"));
        assert_eq!(domain.segments().len(), 2 * PIECE);
        domain.destroy().unwrap();
        scene.unique.assert_nothing_left(Duration::ZERO);
    });
    eprint!("{backend}: {}", ended.stderr);
    assert!(ended.is_success(), "{:?}", ended.failure());
}

/// What sandboxes are known to forbid, or older kernels not to have.
const FORBIDDEN: &[(&str, libc::c_long)] = &[
    ("futex_waitv", libc::SYS_futex_waitv),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("set_robust_list", libc::SYS_set_robust_list),
    ("memfd_create", libc::SYS_memfd_create),
    ("fallocate", libc::SYS_fallocate),
    ("flock", libc::SYS_flock),
    ("madvise", libc::SYS_madvise),
    ("linkat", libc::SYS_linkat),
    ("clone3", libc::SYS_clone3),
    ("shmget", libc::SYS_shmget),
    ("shmat", libc::SYS_shmat),
    ("shmctl", libc::SYS_shmctl),
    ("prlimit64", libc::SYS_prlimit64),
    ("kill", libc::SYS_kill),
    ("ppoll", libc::SYS_ppoll),
];

fn calls_are_forbidden(args: &[String]) {
    let backend = backend(args);
    let (mut lives, mut refused) = (Vec::new(), Vec::new());
    for (name, call) in FORBIDDEN {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let ended = trial(PATIENCE, || without(backend, *call, errno).unwrap_or_else(skip));
            // What it could not remove for want of the call is removed by us, who have it.
            sweep_up_after(&ended);
            let failure = ended.failure();
            assert!(failure.is_none(), "{backend}, no {name}: {failure:?}\n{}", ended.stderr);
            let list = if ended.stderr.contains("refused: ") { &mut refused } else { &mut lives };
            if !list.contains(name) {
                list.push(name);
            }
        }
    }
    eprintln!("{backend}: lives without {lives:?}, refuses without {refused:?}");
    for name in ["futex_waitv", "pidfd_open", "set_robust_list", "prlimit64", "kill", "ppoll"] {
        assert!(!refused.contains(&name), "it can do without {name}");
    }
}

fn skip(not_run: NotRun) {
    eprintln!("{not_run}");
}

/// A whole life without one call.
fn without(backend: Backend, call: libc::c_long, errno: i32) -> Result<(), NotRun> {
    let (scene, before) = (Scene::new(backend), Footprint::now());
    forbid(&[call], errno)?;
    if let Err(error) = live(&scene) {
        assert!(error.len() > 30, "says too little: {error}");
        eprintln!("refused: {error}");
    }
    before.assert_same();
    let left: Vec<String> = scene.unique.left();
    let cannot_remove = call == libc::SYS_shmctl || call == libc::SYS_flock;
    assert!(left.is_empty() || cannot_remove, "left behind: {left:?}");
    Ok(())
}

/// What is inherited by a process that cannot take it is an error that says so.
#[test]
fn an_environment_of_another_process_is_refused() {
    let exit = shm_testkit::child::Child::spawn("takes_anothers_environment", &[]).wait(PATIENCE);
    exit.assert_success();
}

fn takes_anothers_environment(_: &[String]) {
    let ended = trial(PATIENCE, || {
        let scene = Scene::new(Backend::Memfd);
        let domain = scene.open();
        for number in inherit(&domain) {
            // SAFETY: ours, and nobody else knows of it.
            unsafe { libc::close(number) };
        }
        let error = Domain::from_env().unwrap_err();
        assert!(error.to_string().contains("SHM_DOMAIN_FDS"), "{error}");
    });
    assert!(ended.is_success(), "{}", ended.stderr);
}
shm_testkit::children! { takes_anothers_environment }
