//! Child processes do what `shm_testkit::child` says: threads, panics, signals, files, no orphans.
use shm_testkit::child::{self, Child, Setup};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

fn echoes(args: &[String]) {
    child::tell_parent(&args.join("+"));
    loop {
        let line = child::parent_says();
        if line == "bye" {
            return;
        }
        child::tell_parent(&format!("{line}, {line}"));
    }
}

fn counts(_: &[String]) {
    for number in 0u64.. {
        child::tell_parent(&number.to_string());
    }
}

fn panics(_: &[String]) {
    eprintln!("about to");
    panic!("planted panic");
}

fn threads(_: &[String]) {
    let sum = std::thread::spawn(|| {
        let (send, receive) = std::sync::mpsc::channel();
        for n in 1..=3 {
            let send = send.clone();
            std::thread::spawn(move || send.send(n).unwrap());
        }
        drop(send);
        receive.iter().sum::<i32>()
    });
    child::tell_parent(&sum.join().unwrap().to_string());
}

fn writes_noise(_: &[String]) {
    for _ in 0..4096 {
        eprintln!("{}", "x".repeat(99));
    }
}

fn writes_to_inherited_file(args: &[String]) {
    let fd = args[0].parse().unwrap();
    // SAFETY: the parent handed the open file over under this number, for this function alone.
    let mut file = unsafe { std::fs::File::from_raw_fd(fd) };
    write!(file, "{}", std::env::var("SHM_TESTKIT_WORD").unwrap()).unwrap();
}

fn has_a_child(_: &[String]) {
    let mut grandchild = Child::spawn("echoes", &["grandchild"]);
    assert_eq!(grandchild.hear(LIMIT), "grandchild");
    child::tell_parent(&grandchild.pid().to_string());
    child::parent_says();
}

shm_testkit::children! { echoes, counts, panics, threads, writes_noise }
shm_testkit::children! { writes_to_inherited_file, has_a_child }

fn is_there(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn wait_until_gone(pid: u32) {
    let deadline = Instant::now() + LIMIT;
    while is_there(pid) {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn parent_and_child_talk() {
    let mut child = Child::spawn("echoes", &["one", "two words"]);
    assert_eq!(child.hear(LIMIT), "one+two words");
    child.say("so");
    assert_eq!(child.hear(LIMIT), "so, so");
    child.say("bye");
    let exit = child.wait(LIMIT);
    assert_eq!((exit.code(), exit.signal(), exit.stderr.as_str()), (Some(0), None, ""));
    exit.assert_success();
    assert_eq!(child.wait(LIMIT).code(), Some(0), "asking twice is no harm");
}

#[test]
fn a_panic_is_exit_code_101_and_its_message_is_kept() {
    let exit = Child::spawn("panics", &[]).wait(LIMIT);
    assert_eq!(exit.code(), Some(101));
    assert!(exit.stderr.contains("about to") && exit.stderr.contains("planted panic"), "{exit:?}");
    assert!(std::panic::catch_unwind(|| exit.assert_success()).is_err());
}

#[test]
fn a_child_has_threads() {
    assert_eq!(Child::spawn("threads", &[]).hear(LIMIT), "6");
}

#[test]
fn a_killed_child_says_so_and_its_last_lines_can_still_be_heard() {
    let mut child = Child::spawn("counts", &[]);
    assert_eq!(child.hear(LIMIT), "0");
    child.kill();
    assert_eq!(child.wait(LIMIT).signal(), Some(libc::SIGKILL));
    let heard = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        (1..).find(|number: &u64| child.hear(LIMIT) != number.to_string())
    }));
    assert!(heard.is_err(), "the lines are in order and come to an end: {heard:?}");
}

#[test]
fn a_stopped_child_stands_still_and_goes_on() {
    let mut child = Child::spawn("counts", &[]);
    child.hear(LIMIT);
    for _ in 0..3 {
        child.stop();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap();
        assert!(stat.contains(") T "), "{stat}");
        child.cont();
        // More than a pipe holds: they cannot all have been written before the stop.
        (0..100_000).for_each(|_| drop(child.hear(LIMIT)));
    }
    child.stop();
    child.kill();
    assert_eq!(child.wait(LIMIT).signal(), Some(libc::SIGKILL));
}

#[test]
fn much_standard_error_blocks_nobody() {
    let exit = Child::spawn("writes_noise", &[]).wait(LIMIT);
    assert_eq!((exit.code(), exit.stderr.len()), (Some(0), 409_600));
}

#[test]
fn files_and_environment_are_handed_over() {
    let fd = rustix::fs::memfd_create("handed over", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let number = fd.as_raw_fd().to_string();
    let setup = Setup {
        args: &[&number],
        env: &[("SHM_TESTKIT_WORD", "through the file")],
        fds: &[fd.as_fd()],
    };
    Child::spawn_with("writes_to_inherited_file", setup).wait(LIMIT).assert_success();
    let (mut file, mut text) = (std::fs::File::from(fd), String::new());
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the file");
}

#[test]
fn a_dropped_child_is_gone() {
    let mut child = Child::spawn("echoes", &[]);
    child.hear(LIMIT);
    let pid = child.pid();
    drop(child);
    assert!(!is_there(pid));
}

#[test]
fn a_grandchild_dies_with_a_killed_child() {
    let mut child = Child::spawn("has_a_child", &[]);
    let grandchild: u32 = child.hear(LIMIT).parse().unwrap();
    assert!(is_there(grandchild));
    child.kill();
    child.wait(LIMIT);
    wait_until_gone(grandchild);
}

#[test]
fn waiting_in_vain_fails_with_what_is_known() {
    let mut child = Child::spawn("echoes", &["hello"]);
    child.hear(LIMIT);
    let short = Duration::from_millis(20);
    let message = |end: Box<dyn std::any::Any + Send>| *end.downcast::<String>().unwrap();
    let mut attempt = |what: fn(&mut Child, Duration)| {
        let end = std::panic::AssertUnwindSafe(|| what(&mut child, short));
        message(std::panic::catch_unwind(end).unwrap_err())
    };
    let said = attempt(|child, limit| drop(child.hear(limit)));
    assert!(said.contains("said nothing in 20ms"), "{said}");
    let said = attempt(|child, limit| drop(child.wait(limit)));
    assert!(said.contains("child `echoes`") && said.contains("still runs"), "{said}");
}

#[test]
#[should_panic(expected = "children! must name `nobody` once")]
fn an_undeclared_function_is_refused() {
    Child::spawn("nobody", &[]);
}
