//! The tools that refuse things find what is planted, for the reason it was planted for; and say
//! nothing of an operation that is right.
use shm_testkit::child::Child;
use shm_testkit::fault::{
    Footprint, Limit, Report, Sweep, forbid, limit, mount_empty, storm, trial, unlimited,
};
use shm_testkit::unique::TempDir;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// Makes a test of each function: it runs in a child process, which may fork.
macro_rules! in_a_child {
    ($($function:ident),* $(,)?) => {
        shm_testkit::children! { $($function),* }
        mod in_a_child { $(
            #[test]
            fn $function() {
                let exit = super::Child::spawn(stringify!($function), &[]).wait(super::LIMIT);
                exit.assert_success();
                print!("{}", exit.stderr);
            }
        )* }
    };
}

in_a_child! {
    a_sound_operation_passes_every_fault,
    a_leaked_descriptor_is_found,
    a_leaked_mapping_is_found,
    a_file_left_behind_is_found,
    a_panic_is_found,
    a_false_success_is_found,
    a_loop_without_end_is_found,
    an_access_to_memory_that_is_not_there_is_found,
    calls_of_a_thread_fail_too,
    an_operation_that_gives_up_in_a_storm_is_found,
    a_forbidden_call_answers_as_it_was_told,
    limits_are_set_and_given_back,
}

/// Writes a file, and reads it.
fn write(path: &Path) -> io::Result<String> {
    let mut file = File::create(path)?;
    file.write_all(b"text")?;
    drop(file);
    std::fs::read_to_string(path)
}

/// What `operation` on a path, swept, is found to do.
fn sweep(operation: impl Fn(&Path) -> io::Result<String>, limit: Duration) -> Option<Report> {
    let prepare = || (TempDir::new("fault"), Footprint::now());
    let swept = Sweep::new("planted").limit(limit).run(
        prepare,
        |(directory, _)| operation(&directory.path().join("file")),
        |(_directory, before), result| {
            before.assert_same();
            assert!(result.is_err() || result.unwrap() == "text", "a false success");
        },
    );
    swept.inspect_err(|not_run| eprintln!("{not_run}")).ok()
}

/// Something was found, of the call named, for the reason named.
#[track_caller]
fn assert_found(report: Option<Report>, call: &str, reason: &str) {
    let Some(report) = report else { return };
    eprintln!("{report}, {} findings", report.findings.len());
    let mut found = report.findings.iter();
    let found = found.any(|f| f.fault.contains(call) && f.what.contains(reason));
    assert!(found, "not found: {:#?}", report.findings);
}

fn a_sound_operation_passes_every_fault(_: &[String]) {
    let Some(report) = sweep(write, LIMIT) else { return };
    report.assert_clean();
    assert!(report.calls >= 6 && report.faults > 20 && report.refused > 10, "{report}");
    assert!(report.messages.keys().any(|message| message.contains("No space")), "{report:?}");
}

fn a_leaked_descriptor_is_found(_: &[String]) {
    let leaks = |path: &Path| {
        let fd = File::create(path)?.into_raw_fd();
        std::fs::write(path, "text")?;
        // SAFETY: our own descriptor, closed once; not where `write` failed.
        unsafe { libc::close(fd) };
        std::fs::read_to_string(path)
    };
    assert_found(sweep(leaks, LIMIT), "write, gives ENOSPC", "leaked descriptor");
}

fn a_leaked_mapping_is_found(_: &[String]) {
    let leaks = |path: &Path| {
        let (access, flags) = (libc::PROT_READ, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let text = write(path)?;
        // SAFETY: the page just mapped; not where `write` failed.
        unsafe { libc::munmap(page, 4096) };
        Ok(text)
    };
    assert_found(sweep(leaks, LIMIT), "openat, gives EMFILE", "0 bytes before, 4096 now");
}

fn a_file_left_behind_is_found(_: &[String]) {
    let prepare = || TempDir::new("fault");
    let swept = Sweep::new("leaves a file").run(
        prepare,
        |directory| write(&directory.path().join("file")),
        |directory, result| {
            let files = std::fs::read_dir(directory.path()).unwrap().count();
            assert_eq!(files, usize::from(result.is_ok()), "a file is left behind");
        },
    );
    let report = swept.inspect_err(|not_run| eprintln!("{not_run}")).ok();
    assert_found(report, "write, gives EDQUOT", "a file is left behind");
}

fn a_panic_is_found(_: &[String]) {
    let panics = |path: &Path| Ok(write(path).expect("a file can be written"));
    assert_found(sweep(panics, LIMIT), "openat, gives EACCES", "a file can be written");
}

fn a_false_success_is_found(_: &[String]) {
    let ignores = |path: &Path| {
        let mut file = File::create(path)?;
        let _ = file.write_all(b"text");
        std::fs::read_to_string(path)
    };
    assert_found(sweep(ignores, LIMIT), "write, gives EIO", "a false success");
}

fn a_loop_without_end_is_found(_: &[String]) {
    let tries_for_ever = |path: &Path| loop {
        match File::create(path) {
            Ok(_) => return write(path),
            Err(error) if error.raw_os_error() != Some(libc::EMFILE) => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let report = sweep(tries_for_ever, Duration::from_secs(1));
    assert_found(report, "openat, gives EMFILE, and so do later ones", "it hangs");
}

/// A file made longer without memory behind it.
fn an_access_to_memory_that_is_not_there_is_found(_: &[String]) {
    let directory = TempDir::new("sparse");
    if let Err(not_run) = mount_empty("tmpfs", directory.path(), 0, "size=64k") {
        return eprintln!("{not_run}");
    }
    let path = directory.path().join("file");
    let ended = trial(LIMIT, || {
        let len = 1 << 20;
        let file = File::create_new(&path).unwrap();
        file.set_len(len).unwrap();
        std::fs::write(&path, vec![1; 1 << 20]).unwrap_err();
        file.set_len(len).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let fd = file.into_raw_fd();
        // SAFETY: a new mapping.
        let memory =
            unsafe { libc::mmap(std::ptr::null_mut(), len as usize, access, flags, fd, 0) };
        // SAFETY: inside the mapping; the kernel has no page for it, which is the point.
        unsafe { memory.cast::<u8>().wrapping_add(len as usize - 1).write_volatile(1) };
    });
    assert_eq!(ended.failure().as_deref(), Some("SIGBUS: memory that is not there"));
}

fn calls_of_a_thread_fail_too(_: &[String]) {
    let in_a_thread = |path: &Path| {
        let path = path.to_owned();
        let thread = std::thread::Builder::new().spawn(move || write(&path).expect("planted"))?;
        thread.join().map_err(|_| io::Error::other("it panicked"))
    };
    let Some(report) = sweep(in_a_thread, LIMIT) else { return };
    let told = |message: &str| report.messages.get(message).expect("a message").clone();
    assert!(told("it panicked").contains("of thread 1"), "{report:?}");
    let no_thread = "Resource temporarily unavailable (os error 11)";
    assert!(told(no_thread).contains("of thread 0"), "{report:?}");
    report.assert_clean();
}

fn an_operation_that_gives_up_in_a_storm_is_found(_: &[String]) {
    let patient = |path: &mut TempDir| write(&path.path().join("file"));
    let prepare = || TempDir::new("storm");
    let stormed = storm("patient", 7, prepare, patient, |_, text| drop(text.unwrap()));
    let interruptions = match stormed {
        Ok(interruptions) => interruptions,
        Err(not_run) => return eprintln!("{not_run}"),
    };
    eprintln!("{interruptions} interruptions");
    assert!(interruptions >= 28, "{interruptions}: open, write, open, read");

    let gives_up = |_: &mut TempDir| {
        // SAFETY: a path.
        let fd = unsafe { libc::open(c"/".as_ptr(), libc::O_RDONLY) };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
    };
    let ended = trial(LIMIT, || drop(storm("impatient", 1, prepare, gives_up, |_, _| ())));
    assert!(ended.stderr.contains("Interrupted system call"), "{}", ended.stderr);
}

fn a_forbidden_call_answers_as_it_was_told(_: &[String]) {
    let calls = [libc::SYS_getcwd, libc::SYS_openat, libc::SYS_getuid];
    let ended = trial(LIMIT, || match forbid(&calls, libc::ENOSYS) {
        Ok(()) => {
            let error = File::open("/").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
            assert!(std::env::current_dir().is_err());
            assert!(std::fs::metadata("/").is_ok(), "no other call is forbidden");
        }
        Err(not_run) => eprintln!("{not_run}"),
    });
    eprint!("{}", ended.stderr);
    assert!(ended.is_success());
}

fn limits_are_set_and_given_back(_: &[String]) {
    for what in [Limit::Descriptors, Limit::AddressSpace] {
        limit(what, what.used());
        let failed = match what {
            Limit::Descriptors => File::open("/").is_err(),
            _ => {
                let (flags, access) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_READ);
                let len = 1 << 30;
                // SAFETY: a new mapping, if there is one.
                let at = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, -1, 0) };
                at == libc::MAP_FAILED
            }
        };
        unlimited(what);
        assert!(failed, "{what:?}");
        assert!(File::open("/").is_ok());
    }
}
