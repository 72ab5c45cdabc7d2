//! The system does not give what the job needs: exit code 2, one line that names cause and remedy,
//! and nothing left behind.

use crate::scene::{BACKENDS, Ended, LIMIT, Scene};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use shm_testkit::watchdog::within;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// A user who is nobody else.
const STRANGER: u32 = 54_321;

fn skipped(what: &str, why: &str) {
    // Not captured, so that it is seen.
    let _ = writeln!(std::io::stderr(), "SKIPPED {what}: {why}");
}

/// Sets a limit of the process that `command` starts.
fn limit(command: &mut Command, resource: Resource, limit: u64) {
    let set = move || {
        let maximum = getrlimit(resource).maximum;
        Ok(setrlimit(resource, Rlimit { current: Some(limit), maximum })?)
    };
    // SAFETY: the closure makes system calls and nothing else: it takes no lock, no memory.
    unsafe { command.pre_exec(set) };
}

/// As another user, if we may choose; whether we could.
fn as_stranger(scene: &Scene, command: &mut Command) -> bool {
    if !geteuid().is_root() {
        return true;
    }
    let public = |path| fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    public(scene.path("."));
    command.uid(STRANGER).gid(STRANGER).current_dir("/");
    let mut probe = Command::new(env!("CARGO_BIN_EXE_shmctl"));
    probe.arg("--version").uid(STRANGER).gid(STRANGER).current_dir("/").stdout(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

#[test]
fn the_backend_none_is_refused() {
    let mut scene = Scene::new("none");
    let words = scene.table(10);
    scene.run(&words).assert_refused(&["switched off", "posix, sysv, mmap or memfd"]);
    scene.assert_nothing_left();
}

#[test]
fn the_environment_chooses_the_backend_and_nonsense_is_refused() {
    let mut scene = Scene::new("mmap");
    let words = scene.table(10) + " --domain " + scene.unique.name();
    let mut with = |value: &str| {
        let mut command = scene.bare(&words);
        command.env("DYNAMIC_SHARED_MEMORY_TYPE", value);
        scene.start_command(command).wait()
    };
    assert_eq!(with("memfd").report()["backend"], "memfd");
    with("floppy").assert_refused(&["`floppy`", "use posix, sysv, mmap, memfd"]);
    with("").assert_refused(&["use posix, sysv, mmap, memfd"]);
    with("none").assert_refused(&["switched off", "DYNAMIC_SHARED_MEMORY_TYPE"]);
    scene.assert_nothing_left();
}

#[test]
fn a_domain_without_a_possible_name_is_refused() {
    let mut scene = Scene::new("posix");
    let words = scene.table(10) + " --domain ../x";
    let command = scene.bare(&words);
    scene.start_command(command).wait().assert_refused(&["\"../x\"", "use 1 to 48 letters"]);
}

#[test]
fn a_directory_that_cannot_be_used_is_refused() {
    let mut scene = Scene::new("mmap");
    let words = scene.table(10);
    fs::remove_dir(scene.path("mmap")).unwrap();
    scene.run(&words).assert_refused(&["mmap does not exist", "name another one"]);
    scene.write("mmap", "");
    scene.run(&words).assert_refused(&["mmap is not a directory", "name another one"]);
    fs::remove_file(scene.path("mmap")).unwrap();

    fs::create_dir(scene.path("mmap")).unwrap();
    fs::set_permissions(scene.path("mmap"), Permissions::from_mode(0o555)).unwrap();
    let mut command = scene.agg(&words);
    if !as_stranger(&scene, &mut command) {
        return skipped("a directory that is not writable", "no other user may run the binary");
    }
    let ended = scene.start_command(command).wait();
    ended.assert_refused(&["mmap is not writable", "name another one"]);
    scene.assert_nothing_left();
}

/// Right, or refused for the reason given; a worker that was refused after all was done may say so.
#[track_caller]
fn right_or_refused(ended: &Ended, plain: &Ended, words: &[&str]) -> bool {
    if ended.status.success() {
        let is_reason = |line: &str| words.iter().any(|word| line.contains(word));
        assert!(ended.stderr.lines().all(is_reason), "{ended:?}");
        let (status, stdout) = (ended.status, ended.stdout.clone());
        Ended { status, stdout, stderr: String::new() }.assert_agrees(plain);
        return true;
    }
    let complaint = ended.complaint(2);
    assert!(words.iter().any(|word| complaint.contains(word)), "{complaint}");
    false
}

/// Tries limits from very small ones to one that does; nothing may be left by any.
fn limits(
    backend: &'static str,
    resource: Resource,
    tried: impl IntoIterator<Item = u64>,
    words: &[&str],
) {
    let mut scene = Scene::new(backend);
    let table = scene.table(1000);
    let plain = scene.plain(&table);
    let mut right = 0;
    let mut refused = 0;
    for value in tried {
        let mut command = scene.agg(&format!("{table} --workers 4"));
        limit(&mut command, resource, value);
        let ended = scene.start_command(command).wait();
        match right_or_refused(&ended, &plain, words) {
            true => right += 1,
            false => refused += 1,
        }
        scene.assert_nothing_left();
    }
    assert!(right > 0, "{backend}: no limit was high enough");
    assert!(refused > 0 || backend == "sysv", "{backend}: no limit was too low");
}

#[test]
fn a_limit_on_file_sizes_is_an_error_or_no_matter() {
    for backend in BACKENDS {
        let sizes = [4096, 65_536, 200_000, 400_000, 800_000, 8 << 20];
        limits(backend, Resource::Fsize, sizes, &["RLIMIT_FSIZE is reached: raise it"]);
    }
}

#[test]
fn a_limit_on_open_files_is_an_error_or_no_matter() {
    for backend in BACKENDS {
        // With fewer than 8 the program itself may not start.
        limits(backend, Resource::Nofile, (8..64).step_by(2), &["ulimit -n"]);
    }
}

#[test]
fn a_limit_on_processes_is_an_error_or_no_matter() {
    if !geteuid().is_root() {
        return skipped("a limit on processes", "needs a user without other processes");
    }
    let mut scene = Scene::new("posix");
    let table = scene.table(1000);
    let plain = scene.plain(&table);
    for value in [1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 30, 100] {
        let mut command = scene.agg(&format!("{table} --workers 4"));
        if !as_stranger(&scene, &mut command) {
            return skipped("a limit on processes", "no other user may run the binary");
        }
        limit(&mut command, Resource::Nproc, value);
        let ended = scene.start_command(command).wait();
        let right = right_or_refused(&ended, &plain, &["ulimit -u", "temporarily unavailable"]);
        assert!(right || value < 100, "{value}: {ended:?}");
        scene.assert_nothing_left();
    }
}

/// In a namespace of its own, where `/dev/shm` can be as small as we like.
#[test]
fn a_full_dev_shm_is_an_error() {
    let mut scene = Scene::new("posix");
    let words = scene.table(1000);
    let plain = scene.plain(&words);
    let mut outcomes = Vec::new();
    for kibibytes in ["8", "128", "320", "512", "65536"] {
        let script = format!("mount -t tmpfs -o size={kibibytes}k tmpfs /dev/shm && exec \"$@\"");
        let inner = scene.agg(&words);
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
        command.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
        let mut probe = Command::new("unshare");
        probe.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        probe.args(["mount -t tmpfs tmpfs /dev/shm"]).stderr(Stdio::null());
        if !probe.status().is_ok_and(|status| status.success()) {
            return skipped("a full /dev/shm", "no user namespaces here");
        }
        let ended = scene.start_command(command).wait();
        outcomes.push(right_or_refused(&ended, &plain, &["no room for", "/dev/shm"]));
        scene.assert_nothing_left();
    }
    assert_eq!((outcomes[0], outcomes[4]), (false, true));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut scene = Scene::new("posix");
    let words = scene.accounts() + " --group-by aid --all";
    let mut command = scene.agg(&words);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    scene.unique.watch_process(child.id());
    drop(child.stdout.take());
    let output = within(LIMIT, || child.wait_with_output()).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    scene.assert_nothing_left();
}

#[test]
fn a_report_that_cannot_be_written_is_an_error() {
    let mut scene = Scene::new("posix");
    let words = scene.table(1000);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = scene.agg(&words).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    scene.unique.watch_process(child.id());
    let output = within(LIMIT, || child.wait_with_output()).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.starts_with("shmctl: the report cannot be written"), "{stderr}");
    scene.assert_nothing_left();
}

/// The shell closes them; descriptors 0 to 2 must not become shared memory that is written over.
#[test]
fn closed_standard_streams_change_nothing() {
    for backend in BACKENDS {
        let mut scene = Scene::new(backend);
        let words = scene.table(1000);
        let plain = scene.plain(&words);
        for (closing, has_output) in
            [("<&-", true), ("2>&-", true), (">&-", false), ("<&- >&- 2>&-", false)]
        {
            let inner = scene.agg(&words);
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exec \"$@\" {closing}"), "sh"]);
            command.arg(inner.get_program()).args(inner.get_args());
            let ended = scene.start_command(command).wait();
            match has_output {
                true => ended.assert_agrees(&plain),
                false => assert!(ended.status.success(), "{closing}: {ended:?}"),
            }
            scene.assert_nothing_left();
        }
    }
}
