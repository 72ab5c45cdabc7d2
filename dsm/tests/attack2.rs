//! attack2: each test states what should hold; those that fail are findings.
#![cfg(not(shm_loom))]
use dsm::backend::{self, Backend, Place};
use dsm::{AttachError, Domain, DomainConfig};
use shm_testkit::unique::TempDir;
use std::sync::atomic::{AtomicU32, AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn config(dir: &TempDir, name: &str) -> DomainConfig {
    DomainConfig {
        backend: Some(Backend::Mmap),
        directory: Some(dir.path().to_owned()),
        ..DomainConfig::new(name)
    }
}
fn files(dir: &TempDir) -> Vec<String> {
    let mut all: Vec<_> = std::fs::read_dir(dir.path()).unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

/// A creator of a small domain is killed after its control segment got its name, before the header.
#[test]
fn a_killed_creator_of_a_smaller_domain_does_not_block_the_name() {
    let dir = TempDir::new("small");
    backend::create(&Place::mmap(dir.path()), "shm.small.control", 4096).unwrap();
    for _ in 0..3 {
        if let Err(error) = Domain::open(config(&dir, "small")) {
            panic!("{error}; left: {:?}", files(&dir));
        }
    }
}

/// The last one out of a segment has no descriptor free.
#[test]
fn a_process_out_of_descriptors_leaks_no_segment() {
    let dir = TempDir::new("emfile");
    let domain = Domain::open(config(&dir, "emfile")).unwrap();
    let segment = domain.create_segment(1).unwrap();
    let mut hogs = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hogs.push(file);
    }
    drop(segment);
    drop(hogs);
    let during = files(&dir);
    println!("with the domain open: {during:?}; alive: {}", domain.segments().len());
    drop(domain);
    assert_eq!(files(&dir), [""; 0], "left after the domain");
}

/// A remover is stopped between flock and unlink of a closed control segment.
#[test]
fn a_stopped_remover_does_not_hang_those_who_open() {
    let dir = TempDir::new("stopped");
    let path = dir.path().join("shm.stopped.control");
    let domain = Domain::open(config(&dir, "stopped")).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.lock().unwrap(); // the stopped one's; the domain below closes and cannot be removed
    drop(domain);
    let begin = Instant::now();
    let settings = DomainConfig { open_timeout: Duration::from_secs(1), ..config(&dir, "stopped") };
    let (done, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(Domain::open(settings).map(drop).map_err(|e| e.to_string())));
    let got = hear.recv_timeout(Duration::from_secs(15));
    println!("{got:?} after {:?}", begin.elapsed());
    assert!(got.is_ok(), "open hangs {:?} beyond its time-out of 1 s", begin.elapsed());
}

/// A worker calls `from_env` twice.
#[test]
fn from_env_twice_closes_nothing_of_ours() {
    use std::os::fd::{AsRawFd, IntoRawFd};
    let memfd = DomainConfig { backend: Some(Backend::Memfd), ..DomainConfig::new("twice") };
    let leader = Domain::open(memfd).unwrap();
    let inheritance = leader.inheritance().unwrap();
    // As a child has it: the variables and the descriptors.
    for (name, value) in &inheritance.env {
        // SAFETY: this test alone reads or writes these.
        unsafe { std::env::set_var(name, value) };
    }
    let number = inheritance.fds[0].as_raw_fd();
    for fd in inheritance.fds { let _ = fd.into_raw_fd(); }
    let worker = Domain::from_env().unwrap();
    // Something of ours gets the number: a memfd made by another part of this program.
    let other = backend::create(&Place::new(Backend::Memfd), "other", 4096).unwrap();
    println!("control had number {number}, ours has {}", other.fd().unwrap().as_raw_fd());
    let again = Domain::from_env().map(drop).map_err(|e| e.to_string());
    println!("{again:?}");
    // SAFETY: asks about a number.
    let open = unsafe { libc::fcntl(other.fd().unwrap().as_raw_fd(), libc::F_GETFD) } >= 0;
    let ok = open;
    std::mem::forget(other);
    drop(worker);
    assert!(ok, "from_env closed a descriptor that belongs to somebody else");
}

/// Two threads of one domain look for a mapping or make it, and let it go.
#[test]
fn find_or_attach_in_two_threads_finds_or_attaches() {
    let dir = TempDir::new("threads");
    let (domain, other) = (Domain::open(config(&dir, "t")).unwrap(), Domain::open(config(&dir, "t")).unwrap());
    let segment = other.create_segment(64 << 20).unwrap();
    let handle = segment.handle();
    let (stop, wrong, right) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(found) = domain.find_mapping(handle) { drop(found); continue; }
                    match domain.attach(handle) {
                        Ok(Some(s)) => { right.fetch_add(1, Ordering::Relaxed); drop(s); }
                        Ok(None) => panic!("gone"),
                        // What the message says: use find_mapping.
                        Err(AttachError::AlreadyAttached(_)) => {
                            if domain.find_mapping(handle).is_none() { wrong.fetch_add(1, Ordering::Relaxed); }
                        }
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
    });
    println!("attached {right:?}; refused as attached, and not to be found: {wrong:?}");
    assert_eq!(wrong.into_inner(), 0);
}

/// A mapping without a `Segment`, and two threads that attach again: one attachment.
#[test]
fn one_mapping_has_one_attachment() {
    let dir = TempDir::new("att");
    let domain = Domain::open(config(&dir, "a")).unwrap();
    let (mut doubles, calls) = (0, AtomicU32::new(0));
    for _ in 0..20_000 {
        let segment = domain.create_segment(1).unwrap();
        let (handle, memory) = (segment.handle(), segment.mapping().clone());
        drop(segment);
        let go = std::sync::Barrier::new(2);
        let attach = || { go.wait(); domain.attach(handle) };
        let (a, b) = std::thread::scope(|s| { let t = s.spawn(attach); (attach(), t.join().unwrap()) });
        if matches!((&a, &b), (Ok(Some(_)), Ok(Some(_)))) { doubles += 1; }
        drop((a, b, memory));
        if doubles > 0 { break; }
    }
    let _ = calls;
    assert_eq!(doubles, 0, "attached twice");
}

/// A forked child drops its copies: nothing stays mapped, pinned mappings included.
#[test]
fn a_forked_child_unmaps_what_it_drops() {
    let dir = TempDir::new("fork");
    let domain = Domain::open(config(&dir, "fork")).unwrap();
    let segment = domain.create_segment(1).unwrap();
    segment.pin_mapping();
    // SAFETY: the child drops, reads a file and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        drop(segment);
        drop(domain);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let left = maps.lines().filter(|l| l.contains("shm.fork.")).count();
        // SAFETY: ends the child.
        unsafe { libc::_exit(left as i32) };
    }
    let mut status = 0;
    // SAFETY: our child.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(libc::WEXITSTATUS(status), 0, "mappings left in the child");
}

/// A process that changes its directory after opening.
#[test]
fn a_relative_directory_is_where_it_was_when_opened() {
    let dir = TempDir::new("cwd");
    let before = std::env::current_dir().unwrap();
    std::env::set_current_dir(dir.path()).unwrap();
    let relative = DomainConfig { directory: Some(".".into()), ..config(&dir, "cwd") };
    let domain = Domain::open(relative).unwrap();
    let segment = domain.create_segment(1).unwrap();
    std::env::set_current_dir(before).unwrap();
    drop((segment, domain));
    assert_eq!(files(&dir), [""; 0]);
}

/// A file system without nameless files: what a killed creator left is removed with the domain.
#[test]
fn a_temporary_name_of_a_killed_creator_goes_with_the_domain() {
    let dir = TempDir::new("temp");
    let domain = Domain::open(config(&dir, "temp")).unwrap();
    let segment = domain.create_segment(1).unwrap();
    let name = files(&dir).into_iter().find(|n| !n.ends_with("control")).unwrap();
    // What `Entry::other_name` makes, of a process that is dead now, for the next segment.
    let temporary = format!("{name}.999999-0");
    std::fs::write(dir.path().join(&temporary), [0; 4096]).unwrap();
    drop((segment, domain));
    assert_eq!(files(&dir), [""; 0]);
}
