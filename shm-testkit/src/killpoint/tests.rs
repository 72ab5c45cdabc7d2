//! The killer is let loose on scenarios of which is known what it must find.
use super::*;
use crate::child::Child;
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[global_allocator]
static HEAP: Heap = Heap;

const LIMIT: Duration = Duration::from_secs(60);

/// What a scenario does, as functions of the shared words.
struct Plan {
    name: &'static str,
    operate: fn(&[AtomicU64], &Notes),
    check: fn(&[AtomicU64], &Notes, End) -> Result<(), String>,
    bystander: Option<fn(&[AtomicU64])>,
    recover: Option<fn(&[AtomicU64])>,
    forked: fn(&[AtomicU64], bool) -> Result<(), String>,
    /// Worlds made so far.
    worlds: Cell<u64>,
}

const WORDS: usize = 32;
/// Here a world says the how many-th it is; not part of the image.
const WORLD: usize = WORDS - 1;

fn words(memory: &SharedMemory) -> &[AtomicU64] {
    let first = memory.base().cast::<AtomicU64>();
    // SAFETY: the first words of a page, mapped as long as `memory`.
    unsafe { std::ptr::NonNull::slice_from_raw_parts(first, WORDS).as_ref() }
}

impl Plan {
    fn new(
        name: &'static str,
        operate: fn(&[AtomicU64], &Notes),
        check: fn(&[AtomicU64], &Notes, End) -> Result<(), String>,
    ) -> Plan {
        let forked = |_: &[AtomicU64], _: bool| Ok(());
        Plan { name, operate, check, bystander: None, recover: None, forked, worlds: Cell::new(0) }
    }
}

impl Scenario for Plan {
    type World = SharedMemory;
    /// The process.
    type Doomed = u32;

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn operations(&self) -> &'static [&'static str] {
        &["Plan::operate", "Plan::check"]
    }

    fn world(&self) -> SharedMemory {
        let memory = SharedMemory::new(WORDS * 8);
        self.worlds.set(self.worlds.get() + 1);
        words(&memory)[WORLD].store(self.worlds.get(), Ordering::Relaxed);
        memory
    }

    fn prepare(&self, _: &SharedMemory, _: &Notes) -> u32 {
        std::process::id()
    }

    fn operate(&self, memory: &SharedMemory, _: &mut u32, notes: &Notes) {
        (self.operate)(words(memory), notes);
    }

    fn image(&self, memory: &SharedMemory) -> Vec<u8> {
        memory.copy()[..WORLD * 8].to_vec()
    }

    fn check(&self, memory: SharedMemory, notes: &Notes, end: End) -> Result<(), String> {
        (self.check)(words(&memory), notes, end)
    }

    fn bystander<'a>(&'a self, memory: &'a SharedMemory) -> Option<Work<'a>> {
        let work = self.bystander?;
        Some(Box::new(move || {
            work(words(memory));
            Ok(())
        }))
    }

    fn recover<'a>(&'a self, memory: &'a SharedMemory) -> Option<Work<'a>> {
        let work = self.recover?;
        Some(Box::new(move || {
            work(words(memory));
            Ok(())
        }))
    }

    fn forked(&self, memory: &SharedMemory, doomed: &mut u32) -> Result<(), String> {
        (self.forked)(words(memory), *doomed != std::process::id())
    }
}

fn fine(_: &[AtomicU64], _: &Notes, _: End) -> Result<(), String> {
    Ok(())
}

/// Bytes that `rep movsb` has copied, one a round.
const COPIED: u64 = 100;

fn copies(words: &[AtomicU64], notes: &Notes) {
    let (from, to) = ([0xffu8; COPIED as usize], words[0].as_ptr());
    // SAFETY: within the words, which nobody else has.
    unsafe {
        std::arch::asm!("rep movsb", inout("rcx") COPIED => _,
            inout("rsi") from.as_ptr() => _, inout("rdi") to => _);
    }
    notes.set(0, 1);
    for word in &words[20..23] {
        // SAFETY: asks for a number.
        word.store(unsafe { libc::getppid() } as u64, Ordering::Relaxed);
        notes.count(1);
    }
}

#[test]
fn what_an_operation_allocates_takes_it_no_other_way() {
    static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let operate = |words: &[AtomicU64], _: &Notes| {
        let mut blocks: Vec<Vec<u8>> = Vec::new();
        for size in 1..20 {
            blocks.push(vec![size as u8; size * size]);
            words[0].store(size as u64, Ordering::Relaxed);
            blocks.retain(|block| block.len() % 3 != 0);
        }
    };
    // The parent's heap is another one for each child.
    let plan = Plan::new("allocates", operate, |_, _, _| {
        let mut kept = KEPT.lock().unwrap();
        let nth = kept.len();
        kept.push(vec![0; nth % 50 * 40]);
        if nth.is_multiple_of(3) {
            kept[nth / 2] = Vec::new();
        }
        Ok(())
    });
    let report = Run::new(&plan).points(500).kill();
    if report.not_run.is_none() {
        assert_eq!((report.missed(), report.drifted()), (0, 0), "{report}");
    }
    report.passes();
}

#[test]
fn each_round_of_a_string_instruction_is_a_point() {
    static SEEN: [AtomicU64; COPIED as usize + 1] = [const { AtomicU64::new(0) }; 101];
    let plan = Plan::new("copies", copies, |words, notes, _| {
        let ones = |word: &AtomicU64| word.load(Ordering::Relaxed).count_ones() as usize;
        let copied = words[..13].iter().map(ones).sum::<usize>() / 8;
        SEEN[copied].fetch_add(1, Ordering::Relaxed);
        let told = words[20..23].iter().filter(|word| word.load(Ordering::Relaxed) != 0).count();
        let noted = notes.get(1) as usize;
        let is_right = (noted == told || noted + 1 == told) && (copied == 100 || told == 0);
        if is_right { Ok(()) } else { Err(format!("copied {copied}, told {told}, noted {noted}")) }
    });
    let report = Run::new(&plan).points(usize::MAX).kill();
    if report.not_run.is_none() {
        assert_eq!((report.points(), report.missed()), (report.instructions(), 0), "{report}");
        assert!(report.images() >= 100 + 7, "{report}");
        assert!(SEEN.iter().all(|seen| seen.load(Ordering::Relaxed) > 0), "{SEEN:?}");
        assert_eq!(report.depth, report::Depth::All);
    }
    report.passes();
}

#[test]
fn a_gap_between_two_stores_is_found_and_nothing_else() {
    let plan = Plan::new(
        "gap",
        |words, _| {
            words[0].store(1, Ordering::Relaxed);
            words[1].store(1, Ordering::Relaxed);
        },
        |words, _, end| {
            let pair = [0, 1].map(|at: usize| words[at].load(Ordering::Relaxed));
            assert!(end == End::Killed || pair == [1, 1]);
            if pair[0] == pair[1] { Ok(()) } else { Err(format!("torn: {pair:?}")) }
        },
    );
    let report = Run::new(&plan).kill();
    if report.not_run.is_none() {
        assert!(report.findings.iter().all(|finding| finding.what == "torn: [1, 0]"), "{report}");
        assert!(report.points() > report.findings.len() + 10, "{report}");
    }
    report.finds("torn: [1, 0]");
}

#[test]
#[should_panic(expected = "no finding says `another reason`")]
fn a_bug_that_is_found_for_another_reason_does_not_count() {
    let plan = Plan::new("reason", |_, _| {}, |_, _, _| Err("this reason".into()));
    let report = Run::new(&plan).kill();
    assert!(report.not_run.is_none(), "no finding says `another reason`: not run");
    report.finds("another reason");
}

#[test]
fn a_panic_in_the_child_or_in_the_check_is_a_finding() {
    let plan = Plan::new("panics", |_, _| panic!("planted {}", 3), fine);
    Run::new(&plan).kill().finds("nobody died, but it panicked: planted 3");
    let plan = Plan::new("panics", |_, _| {}, |_, _, _| std::panic::resume_unwind(Box::new("hm")));
    Run::new(&plan).kill().finds("the check panicked: hm");
}

#[test]
fn a_child_that_hangs_is_killed_and_is_a_finding() {
    let hangs = |words: &[AtomicU64], _: &Notes| {
        while words[0].load(Ordering::Relaxed) == 0 {
            std::thread::sleep(LIMIT);
        }
    };
    let plan = Plan::new("hangs", hangs, fine);
    let run = Run::new(&plan).patience(Duration::from_millis(200));
    run.kill().finds("nobody died, but it hangs");
}

#[test]
fn what_is_not_the_same_each_time_is_counted() {
    let plan = Plan::new(
        "moody",
        |words, _| {
            // Every third world another way, of the same length or not.
            match words[WORLD].load(Ordering::Relaxed) % 3 {
                0 => words[2].store(1, Ordering::Relaxed),
                _ => words[1].store(1, Ordering::Relaxed),
            }
            words[0].store(1, Ordering::Relaxed);
        },
        fine,
    );
    let report = Run::new(&plan).kill();
    if report.not_run.is_none() {
        assert!(report.drifted() > 0, "{report}");
        assert!(report.findings.is_empty(), "{report}");
        let passes = std::panic::AssertUnwindSafe(|| report.passes());
        assert!(std::panic::catch_unwind(passes).is_err());
    }
    Run::new(&plan).allow_missed(1000).allow_drifted(1000).kill().passes();
}

#[test]
fn a_sample_has_every_image() {
    let long = |words: &[AtomicU64], _: &Notes| {
        for round in 0..200 {
            words[5].store(round / 50, Ordering::Relaxed);
        }
    };
    let plan = Plan::new("long", long, fine);
    let run = Run::new(&plan).points(100);
    let (sampled, report) = (run.points_wanted() == 100, run.kill());
    if report.not_run.is_none() && sampled {
        assert!(report.depth == report::Depth::Worlds && report.instructions() > 1000, "{report}");
        assert!((95..=110).contains(&report.points()), "{report}");
        assert_eq!(report.images(), 4, "{report}");
    }
    report.passes();
}

/// Takes a lock, which is what nobody should do here.
fn locks(words: &[AtomicU64]) {
    while words[0].compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
    words[1].fetch_add(1, Ordering::Relaxed);
    words[0].store(0, Ordering::Relaxed);
}

#[test]
fn who_waits_for_one_that_is_stopped_is_found() {
    let locking = Plan::new("lock", |words, _| locks(words), fine);
    let stops = |plan: &Plan| Run::new(plan).patience(Duration::from_millis(300)).points(1).stop();
    let plan = Plan { bystander: Some(locks), ..locking };
    stops(&plan).finds("while it is stopped, a bystander hangs");

    // Where it is counted, it is not waited for.
    let spins = |words: &[AtomicU64]| while words[0].load(Ordering::Relaxed) == 1 {};
    let plan = Plan { bystander: Some(spins), ..plan };
    let run = Run::new(&plan).patience(Duration::from_millis(300)).points(1);
    let report = run.bystander_at_most(500).stop();
    report.finds("while it is stopped, a bystander needs more than 500 instructions");

    let helps = |words: &[AtomicU64]| {
        words[2].fetch_add(1, Ordering::Relaxed);
    };
    let check = |words: &[AtomicU64], _: &Notes, end: End| {
        let word = |at: usize| words[at].load(Ordering::Relaxed);
        let is_right = word(1) <= 1 && (end == End::Killed || (word(0), word(1)) == (0, 1));
        if is_right { Ok(()) } else { Err(format!("{} {} after {end:?}", word(0), word(1))) }
    };
    let plan = Plan { bystander: Some(helps), check, ..plan };
    let report = Run::new(&plan).points(usize::MAX).stop();
    if report.not_run.is_none() {
        assert!(report.bystander > 3 && report.bystander < 1000, "{report}");
        assert_eq!(report.points(), report.instructions(), "{report}");
    }
    report.passes();
    Run::new(&Plan::new("alone", |_, _| {}, fine)).stop().finds("the scenario has none");
}

/// Word 0 says that word 1 is to be made 1; who recovers does that, once.
fn promises(words: &[AtomicU64], _: &Notes) {
    words[0].store(1, Ordering::Relaxed);
    words[1].fetch_add(1, Ordering::Relaxed);
    words[0].store(0, Ordering::Relaxed);
}

fn was_done_once(words: &[AtomicU64], _: &Notes, _: End) -> Result<(), String> {
    let done = words[1].load(Ordering::Relaxed);
    if done <= 1 { Ok(()) } else { Err(format!("done {done} times")) }
}

#[test]
fn a_recovery_that_must_not_be_begun_again_is_found() {
    let counts = |words: &[AtomicU64]| {
        if words[0].load(Ordering::Relaxed) == 1 && words[1].load(Ordering::Relaxed) == 0 {
            words[1].fetch_add(1, Ordering::Relaxed);
        }
        words[0].store(0, Ordering::Relaxed);
    };
    let check = |words: &[AtomicU64], notes: &Notes, end: End| {
        if words[0].load(Ordering::Relaxed) == 1 {
            // The second survivor thinks that it is the first.
            words[1].fetch_add(1, Ordering::Relaxed);
        }
        was_done_once(words, notes, end)
    };
    let wrong = Plan { recover: Some(counts), ..Plan::new("recovers", promises, check) };
    let report = Run::new(&wrong).points(usize::MAX).nested();
    report.finds("done 2 times (and who recovered died at its instruction");

    let sound = Plan { check: was_done_once, ..wrong };
    let report = Run::new(&sound).points(usize::MAX).nested();
    if report.not_run.is_none() {
        // A death before, between and after three stores; and of none to two in the recovery.
        assert_eq!((report.images(), report.points()), (4, 1 + 3 + 2 + 1), "{report}");
        assert_eq!(report.depth, report::Depth::Worlds);
    }
    report.passes();
}

#[test]
fn a_forked_child_that_touches_anything_is_found() {
    static TRIED: AtomicU64 = AtomicU64::new(0);
    let refuses = |_: &[AtomicU64], is_forked: bool| {
        // Its own copy: nobody else will see it.
        TRIED.fetch_add(1, Ordering::Relaxed);
        if is_forked { Ok(()) } else { Err("takes itself for its parent".to_owned()) }
    };
    let finished = |words: &[AtomicU64], notes: &Notes, end: End| {
        assert_eq!((end, words[1].load(Ordering::Relaxed)), (End::Finished, 1));
        was_done_once(words, notes, end)
    };
    let sound = Plan { forked: refuses, ..Plan::new("forks", promises, finished) };
    let report = Run::new(&sound).points(usize::MAX).fork();
    if report.not_run.is_none() {
        assert_eq!((report.points(), report.missed()), (report.instructions(), 0), "{report}");
    }
    report.passes();
    assert_eq!(TRIED.load(Ordering::Relaxed), 0);

    let releases = |words: &[AtomicU64], _: bool| {
        words[0].store(0, Ordering::Relaxed);
        Ok(())
    };
    let report = Run::new(&Plan { forked: releases, ..sound }).fork();
    report.finds("a child that it forked has changed what is shared");
    let says = |_: &[AtomicU64], _: bool| Err("still works".to_owned());
    let plan = Plan { forked: says, ..Plan::new("forks", promises, fine) };
    Run::new(&plan).fork().finds("a child that it forked failed: still works");
    let panics = |_: &[AtomicU64], _: bool| panic!("at the disco");
    let plan = Plan { forked: panics, ..plan };
    Run::new(&plan).fork().finds("a child that it forked panicked: at the disco");
}

/// Behind each store there is a system call, and before them a long way.
fn stores_and_calls(words: &[AtomicU64], _: &Notes) {
    for _ in 0..6_000 {
        std::hint::black_box(words);
    }
    for word in &words[..6] {
        word.store(1, Ordering::Relaxed);
        // SAFETY: asks for a number.
        unsafe { libc::getppid() };
    }
}

#[test]
fn of_a_long_operation_and_few_points_the_system_calls_are_tried() {
    let plan = Plan::new("calls", stores_and_calls, |words, _, _| {
        let stored: u64 = words[..6].iter().map(|word| word.load(Ordering::Relaxed)).sum();
        if stored.is_multiple_of(6) { Ok(()) } else { Err(format!("torn: {stored}")) }
    });
    let report = Run::new(&plan).points(50).kill();
    if report.not_run.is_none() {
        // The marks, and before and behind each call: but for the last one it is torn.
        assert_eq!((report.depth, report.points()), (report::Depth::Calls, 14), "{report}");
        assert_eq!(
            (report.missed(), report.drifted(), report.findings.len()),
            (0, 0, 10),
            "{report}"
        );
    }
    report.finds("torn: 1");
}

#[test]
fn no_death_is_left_out_where_few_are_tried() {
    // Between two stores there is nothing, and before them more instructions than are all tried.
    let stores = |words: &[AtomicU64], _: &Notes| {
        for _ in 0..2_600 {
            std::hint::black_box(words);
        }
        words[0].store(1, Ordering::Relaxed);
        words[1].store(1, Ordering::Relaxed);
    };
    let plan = Plan::new("long gap", stores, |words, _, _| {
        let pair = [0, 1].map(|at: usize| words[at].load(Ordering::Relaxed));
        if pair[0] == pair[1] { Ok(()) } else { Err(format!("torn: {pair:?}")) }
    });
    let report = Run::new(&plan).points(usize::MAX).kill();
    if report.not_run.is_none() {
        assert_eq!((report.depth, report.worlds), (report::Depth::Worlds, 3), "{report}");
        assert_eq!((report.points(), report.findings.len()), (4, 1), "{report}");
    }
    report.finds("torn: [1, 0]");
}

#[test]
fn asking_for_the_time_is_one_instruction() {
    let asks = |words: &[AtomicU64], _: &Notes| {
        for word in &words[..20] {
            std::hint::black_box(std::time::Instant::now());
            word.store(1, Ordering::Relaxed);
        }
    };
    let report = Run::new(&Plan::new("clock", asks, fine)).kill();
    if report.not_run.is_none() && cfg!(target_env = "gnu") {
        assert!(!view::vdso().is_empty());
        assert_eq!((report.worlds, report.missed(), report.drifted()), (21, 0, 0), "{report}");
    }
    report.passes();
}

#[test]
fn a_death_asleep_is_a_death() {
    static ASLEEP: AtomicU64 = AtomicU64::new(0);
    let plan = Plan::new(
        "sleeps",
        |words, _| {
            words[0].store(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_secs(1));
            words[0].store(0, Ordering::Relaxed);
        },
        |words, _, end| {
            ASLEEP.fetch_add(words[0].load(Ordering::Relaxed), Ordering::Relaxed);
            let is_right = (words[0].load(Ordering::Relaxed) == 1) == (end == End::Killed);
            if is_right { Ok(()) } else { Err(format!("{end:?} elsewhere")) }
        },
    );
    let report = Run::new(&plan).asleep();
    if report.not_run.is_none() {
        assert_eq!(report.points() as u64, ASLEEP.load(Ordering::Relaxed), "{report}");
        assert!(report.points() > 2, "{report}");
    }
    report.passes();
    Run::new(&Plan::new("awake", |_, _| {}, fine)).asleep().finds("it sleeps in no system call");
}

static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(_: i32) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn signals_are_passed_on() {
    let handler = on_signal as extern "C" fn(i32) as usize;
    // SAFETY: the handler touches an atomic only, and nobody else has this signal.
    unsafe { libc::signal(libc::SIGURG, handler) };
    let plan = Plan::new(
        "signal",
        |words, _| {
            // SAFETY: a signal that is handled.
            unsafe { libc::raise(libc::SIGURG) };
            words[0].store(HANDLED.load(Ordering::Relaxed), Ordering::Relaxed);
            words[1].store(1, Ordering::Relaxed);
        },
        |words, _, _| {
            let done = words[1].load(Ordering::Relaxed) == 1;
            let handled = words[0].load(Ordering::Relaxed);
            if !done || handled == 1 { Ok(()) } else { Err(format!("handled {handled} times")) }
        },
    );
    Run::new(&plan).kill().passes();
}

fn hangs_in_the_check(_: &[String]) {
    let plan = Plan::new(
        "slow survivors",
        |words, _| words[0].store(1, Ordering::Relaxed),
        |words, _, end| {
            if end == End::Killed && words[0].load(Ordering::Relaxed) == 1 {
                std::thread::sleep(LIMIT);
            }
            Ok(())
        },
    );
    let report = Run::new(&plan).patience(Duration::from_millis(200)).kill();
    assert!(report.not_run.is_some());
    // SAFETY: ends the process, as the watchdog would have.
    unsafe { libc::abort() };
}

/// `ptrace` gives EPERM from here on.
fn forbid_ptrace() {
    let statement =
        |code: u32, k: i64| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k: k as u32 };
    let jump = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let refuse = libc::SECCOMP_RET_ERRNO as i64 | libc::EPERM as i64;
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter { jf: 1, ..statement(jump, libc::SYS_ptrace) },
        statement(libc::BPF_RET | libc::BPF_K, refuse),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW as i64),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: of this process only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: a program of four statements, which the kernel copies.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &program, 0, 0) }, 0);
}

fn runs_without_ptrace(_: &[String]) {
    forbid_ptrace();
    let report = Run::new(&Plan::new("refused", |_, _| {}, fine)).kill();
    eprintln!("{:?}, {} points", report.not_run, report.points());
    report.passes();
}
crate::children! { hangs_in_the_check, runs_without_ptrace }

#[test]
fn a_check_that_hangs_is_named() {
    let exit = Child::spawn("hangs_in_the_check", &[]).wait(LIMIT);
    assert_eq!(exit.signal(), Some(libc::SIGABRT), "{exit:?}");
    let named = "slow survivors, kill: what survivors do after a death at instruction";
    assert!(exit.stderr.contains(named) || refused(), "{exit:?}");
}

fn refused() -> bool {
    Run::new(&Plan::new("asks", |_, _| {}, fine)).kill().not_run.is_some()
}

#[test]
fn where_ptrace_is_refused_it_says_so() {
    let log = crate::unique::TempDir::new("crash-log");
    let path = log.path().join("log");
    let setup = crate::child::Setup {
        env: &[("SHM_CRASH_LOG", path.to_str().unwrap())],
        ..Default::default()
    };
    let exit = Child::spawn_with("runs_without_ptrace", setup).wait(LIMIT);
    assert_eq!(exit.code(), Some(0), "{exit:?}");
    assert!(exit.stderr.contains("may not be traced here: it was refused ptrace"), "{exit:?}");
    assert!(exit.stderr.contains("0 points"), "{exit:?}");
    let line = std::fs::read_to_string(&path).unwrap();
    assert!(line.starts_with("refused\tkill\tnot run\t0\t0"), "{line}");
    assert!(line.ends_with("\tPlan::operate,Plan::check\n"), "{line}");
}
