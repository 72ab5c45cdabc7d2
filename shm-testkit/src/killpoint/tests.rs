//! The killer is let loose on scenarios of which is known what it must find.
use super::*;
use crate::child::Child;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// What a scenario does, as functions of the shared words.
struct Plan {
    name: &'static str,
    operate: fn(&[AtomicU64], &Notes),
    check: fn(&[AtomicU64], &Notes, End) -> Result<(), String>,
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
        Plan { name, operate, check, worlds: Cell::new(0) }
    }
}

impl Scenario for Plan {
    type World = SharedMemory;
    type Doomed = ();

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

    fn prepare(&self, _: &SharedMemory, _: &Notes) {}

    fn operate(&self, memory: &SharedMemory, (): &mut (), notes: &Notes) {
        (self.operate)(words(memory), notes);
    }

    fn image(&self, memory: &SharedMemory) -> Vec<u8> {
        memory.copy()[..WORLD * 8].to_vec()
    }

    fn check(&self, memory: SharedMemory, notes: &Notes, end: End) -> Result<(), String> {
        (self.check)(words(&memory), notes, end)
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
    let report = Run::new(&plan).kill();
    if report.not_run.is_none() {
        assert_eq!((report.points(), report.missed), (report.instructions(), 0), "{report}");
        assert!(report.images() >= 100 + 7, "{report}");
        assert!(SEEN.iter().all(|seen| seen.load(Ordering::Relaxed) > 0), "{SEEN:?}");
        assert!(report.is_exhaustive);
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
        assert!(report.drifted > 0, "{report}");
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
        assert!(!report.is_exhaustive && report.instructions() > 1000, "{report}");
        assert!((95..=110).contains(&report.points()), "{report}");
        assert_eq!(report.images(), 4, "{report}");
    }
    report.passes();
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
    assert!(line.starts_with("refused\tkill\tnot-run\t0\t0"), "{line}");
    assert!(line.ends_with("\tPlan::operate,Plan::check\n"), "{line}");
}
