//! What looks like a death and is none; and deaths of unusual kinds.
use crate::participants_common::{Child, WATCHDOG, World, world};
use crate::{Suspect, in_a_child, member, sleeps_for_ever, with_and_without_pidfd};
use shm_core::process::{Liveness, ProcessId};
use shm_core::sync::Ordering;
use shm_testkit::depth::is_deep;
use shm_testkit::fault::NotRun;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

in_a_child! {
    a_stopped_process_is_alive,
    a_traced_process_that_stands_still_is_alive,
    a_frozen_process_is_alive,
    a_process_whose_first_thread_has_ended_is_alive,
    a_process_whose_other_thread_execs_is_alive,
    a_process_that_waits_for_a_vfork_is_alive,
    a_zombie_stays_dead,
}

fn a_stopped_process_is_alive(_: &[String]) {
    let long = Duration::from_secs(if is_deep() { 130 } else { 2 });
    with_and_without_pidfd(|| {
        let world = world(4);
        let mut child = member(&world, sleeps_for_ever);
        let suspect = Suspect::known(&world, 0);
        child.signal(libc::SIGSTOP);
        let (began, mut looks) = (Instant::now(), 0);
        while began.elapsed() < long {
            suspect.assert_lives(&world, "stopped");
            looks += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        child.signal(libc::SIGCONT);
        suspect.assert_lives(&world, "continued");
        child.kill();
        suspect.assert_dies(&world, "killed");
        eprintln!("stopped for {long:?}: alive at each of {looks} looks");
    });
}

/// `ptrace`, with no data.
pub(crate) fn ptrace(request: libc::c_uint, child: &Child, data: libc::c_int) -> bool {
    // SAFETY: these requests take a number, and access none of our memory.
    unsafe { libc::ptrace(request, child.pid as libc::pid_t, 0, data) == 0 }
}

/// Waits for a stop of a traced child: its status.
pub(crate) fn stop_of(child: &Child) -> i32 {
    let mut status = 0;
    // SAFETY: our own child, and a place for its status.
    let waited = unsafe { libc::waitpid(child.pid as libc::pid_t, &mut status, libc::__WALL) };
    assert_eq!(waited, child.pid as libc::pid_t);
    status
}

fn a_traced_process_that_stands_still_is_alive(_: &[String]) {
    with_and_without_pidfd(|| {
        let world = world(4);
        let mut child = member(&world, sleeps_for_ever);
        let suspect = Suspect::known(&world, 0);
        if !ptrace(libc::PTRACE_SEIZE, &child, 0) {
            return eprintln!("{}", NotRun::last("tracing a child"));
        }
        assert!(ptrace(libc::PTRACE_INTERRUPT, &child, 0));
        assert!(libc::WIFSTOPPED(stop_of(&child)));
        for _ in 0..100 {
            suspect.assert_lives(&world, "traced");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill();
        suspect.assert_dies(&world, "killed in a trace");
    });
}

/// A control group to freeze processes in: where to put their pids, and how to freeze and thaw.
struct Freezer {
    directory: PathBuf,
    switch: PathBuf,
    words: [&'static str; 2],
}

impl Freezer {
    /// One of each kind that there is.
    fn all() -> Vec<Freezer> {
        let name = shm_testkit::unique::name("freezer");
        let kinds = [
            ("/sys/fs/cgroup", "cgroup.freeze", ["1", "0"]),
            ("/sys/fs/cgroup/unified", "cgroup.freeze", ["1", "0"]),
            ("/sys/fs/cgroup/freezer", "freezer.state", ["FROZEN", "THAWED"]),
        ];
        let made = kinds.into_iter().filter_map(|(root, switch, words)| {
            let directory = Path::new(root).join(&name);
            fs::create_dir(&directory).ok()?;
            let switch = directory.join(switch);
            let freezer = Freezer { directory, switch, words };
            freezer.switch.exists().then_some(freezer)
        });
        made.collect()
    }

    fn freeze(&self, child: &Child) -> std::io::Result<()> {
        fs::write(self.directory.join("cgroup.procs"), child.pid.to_string())?;
        fs::write(&self.switch, self.words[0])
    }

    fn thaw(&self) {
        fs::write(&self.switch, self.words[1]).unwrap();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // Its last process may be on its way out.
        let deadline = Instant::now() + WATCHDOG;
        while fs::remove_dir(&self.directory).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn a_frozen_process_is_alive(_: &[String]) {
    with_and_without_pidfd(|| {
        let freezers = Freezer::all();
        if freezers.is_empty() {
            eprintln!("{}", NotRun::last("a control group of one's own"));
        }
        freezers.iter().for_each(freeze_one);
    });
}

fn freeze_one(freezer: &Freezer) {
    let world = world(4);
    let mut child = member(&world, sleeps_for_ever);
    let suspect = Suspect::known(&world, 0);
    if let Err(error) = freezer.freeze(&child) {
        return eprintln!("{}", NotRun::new("freezing", error));
    }
    // With version 1 of control groups a frozen process does not even die of SIGKILL.
    let killed = freezer.words[0] == "FROZEN";
    if killed {
        child.signal(libc::SIGKILL);
    }
    for _ in 0..50 {
        suspect.assert_lives(&world, "frozen");
        std::thread::sleep(Duration::from_millis(2));
    }
    freezer.thaw();
    if !killed {
        child.signal(libc::SIGKILL);
    }
    child.wait();
    suspect.assert_dies(&world, "thawed and killed");
    eprintln!("frozen, SIGKILL sent meanwhile: {killed}: alive at each of 50 looks");
}

fn state_of(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat[stat.rfind(')').unwrap() + 2..].chars().next().unwrap()
}

/// /proc shows a zombie; but another thread runs, and stores.
fn a_process_whose_first_thread_has_ended_is_alive(_: &[String]) {
    with_and_without_pidfd(|| {
        let world = world(4);
        let mut child = member(&world, || {
            let board = world.board.clone();
            std::thread::spawn(move || {
                loop {
                    board.words[1].fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            // SAFETY: ends this thread, and not the process, which has another.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
        let suspect = Suspect::known(&world, 0);
        let deadline = Instant::now() + WATCHDOG;
        while state_of(child.pid) != 'Z' {
            assert!(Instant::now() < deadline, "its first thread has not ended");
            std::thread::sleep(Duration::from_millis(1));
        }
        let before = world.word(1);
        for _ in 0..200 {
            suspect.assert_lives(&world, "without its first thread");
            assert_eq!(suspect.process.liveness(), Liveness::Alive);
            std::thread::sleep(Duration::from_millis(1));
        }
        let stores = world.word(1) - before;
        assert!(stores > 0, "else nothing was shown");
        child.kill();
        suspect.assert_dies(&world, "killed without its first thread");
        eprintln!("a process that /proc calls a zombie: {stores} stores while it was alive");
    });
}

/// The thread that calls `exec` becomes the first thread, and the old one is thrown away.
fn a_process_whose_other_thread_execs_is_alive(_: &[String]) {
    with_and_without_pidfd(|| {
        let (mut looks, rounds) = (0_u64, 40);
        for _ in 0..rounds {
            let world = world(4);
            let mut child = member(&world, exec_by_another_thread);
            let suspect = Suspect::known(&world, 0);
            let comm = format!("/proc/{}/comm", child.pid);
            let mut after = 0;
            while after < 20 {
                suspect.assert_lives(&world, "while it calls exec");
                assert_ne!(suspect.process.liveness(), Liveness::Dead);
                looks += 1;
                after += u32::from(fs::read_to_string(&comm).is_ok_and(|name| name == "sleep\n"));
            }
            child.kill();
            suspect.assert_dies(&world, "killed after exec");
        }
        eprintln!("{rounds} times exec by another thread: alive at each of {looks} looks");
    });
}

fn exec_by_another_thread() {
    std::thread::spawn(|| {
        let (program, minute) = (c"/bin/sleep", c"60");
        let arguments = [program.as_ptr(), minute.as_ptr(), std::ptr::null()];
        // SAFETY: strings that live, and a null at the end.
        unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) };
    });
    sleeps_for_ever();
}

/// It sleeps so deep that no signal but SIGKILL reaches it.
fn a_process_that_waits_for_a_vfork_is_alive(_: &[String]) {
    with_and_without_pidfd(|| {
        let world = world(4);
        let mut child = member(&world, || vforks(&world));
        let suspect = Suspect::known(&world, 0);
        world.await_word(1, |word| word == 1);
        let deadline = Instant::now() + WATCHDOG;
        while state_of(child.pid) != 'D' {
            assert!(Instant::now() < deadline, "it does not wait for its child");
        }
        for _ in 0..50 {
            suspect.assert_lives(&world, "in vfork");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill();
        suspect.assert_dies(&world, "killed in vfork");
    });
}

/// A child that shares the memory, for a second, and then ends; and the next.
fn vforks(world: &World) -> ! {
    const STACK: usize = 64 << 10;
    extern "C" fn child(word: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the word that `vforks` gave, which outlives this process.
        let word = unsafe { &*word.cast::<shm_core::sync::AtomicU32>() };
        word.store(1, Ordering::Relaxed);
        let second = libc::timespec { tv_sec: 1, tv_nsec: 0 };
        // SAFETY: reads one time.
        unsafe { libc::nanosleep(&second, std::ptr::null_mut()) };
        0
    }
    let mut stack = vec![0_u8; STACK];
    let top = stack.as_mut_ptr().wrapping_add(STACK).map_addr(|address| address & !15);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let word = std::ptr::from_ref(&world.board.words[1]).cast_mut().cast();
    loop {
        // SAFETY: a stack of its own, on which `child` makes system calls only; we wait meanwhile.
        let pid = unsafe { libc::clone(child, top.cast(), flags, word) };
        assert!(pid > 0, "clone: {}", std::io::Error::last_os_error());
        // SAFETY: our own child, whose status nobody asks for.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    }
}

fn a_zombie_stays_dead(_: &[String]) {
    with_and_without_pidfd(|| {
        let world = world(4);
        let mut child = member(&world, || ());
        let process = ProcessId::of(child.pid).unwrap();
        let deadline = Instant::now() + WATCHDOG;
        while state_of(child.pid) != 'Z' || process.liveness() != Liveness::Dead {
            assert!(Instant::now() < deadline, "a zombie is not dead");
        }
        for _ in 0..100 {
            assert_eq!(process.liveness(), Liveness::Dead, "nobody has taken notice of it");
        }
        assert_eq!(world.table.reap(|_| ()), 1);
        child.wait();
        assert_eq!(process.liveness(), Liveness::Dead, "somebody has");
    });
}
