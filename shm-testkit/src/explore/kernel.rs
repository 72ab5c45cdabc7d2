//! What the operating system does for the explored processes: who sleeps on which word, which life
//! words it marks at a death, and who is dead.
//!
//! All of it is part of the state. A sleeper wakes by a wake-up on one of its words, by its time
//! running out where it has a limit, and never by accident: that would hide a lost wake-up.
use super::atomic::AtomicU32;
use super::run::{self, Access, Stop, with};
use std::panic::Location;

/// A word of a robust futex: who holds it, whether anybody sleeps on it, and the mark of a death.
pub const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// The kernel has seen its holder's end.
pub const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
/// Somebody sleeps on it.
pub const FUTEX_WAITERS: u32 = 0x8000_0000;

/// Why a sleep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slept {
    /// Woken, or what it slept on had changed already.
    Woken,
    /// Its time ran out.
    TimedOut,
}

pub(super) const WOKEN: u64 = 0;
pub(super) const TIMED_OUT: u64 = 1;

/// What a process sleeps on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Bed {
    /// By address.
    words: Vec<usize>,
    /// Until one of these processes is dead.
    deaths: Vec<u32>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Sleeper {
    pub(super) pid: u32,
    pub(super) bed: Bed,
    pub(super) timed: bool,
}

/// The kernel's part of a state.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Kernel {
    /// In the order in which they went to sleep.
    pub(super) sleepers: Vec<Sleeper>,
    /// Life words and their holders: marked when those die.
    pub(super) held: Vec<(u32, usize)>,
    /// Processes that live or are dying. Everybody else is dead.
    pub(super) living: Vec<u32>,
}

impl Kernel {
    pub(super) fn sleeper(&self, pid: u32) -> Option<&Sleeper> {
        self.sleepers.iter().find(|sleeper| sleeper.pid == pid)
    }

    pub(super) fn is_dead(&self, pid: u32) -> bool {
        pid != BUILDER && !self.living.contains(&pid)
    }

    /// Who sleeps on the word at `address`.
    pub(super) fn on(&self, address: usize) -> Vec<u32> {
        let here = |s: &&Sleeper| s.bed.words.contains(&address);
        self.sleepers.iter().filter(here).map(|sleeper| sleeper.pid).collect()
    }

    pub(super) fn wake(&mut self, pid: u32) {
        self.sleepers.retain(|sleeper| sleeper.pid != pid);
    }

    /// The death of `pid` is certain from now on: who waited for it wakes.
    pub(super) fn bury(&mut self, pid: u32) -> Vec<u32> {
        self.living.retain(|other| *other != pid);
        self.held.retain(|(holder, _)| *holder != pid);
        self.wake(pid);
        let waited = |s: &&Sleeper| s.bed.deaths.contains(&pid);
        let woken: Vec<u32> = self.sleepers.iter().filter(waited).map(|s| s.pid).collect();
        woken.iter().for_each(|pid| self.wake(*pid));
        woken
    }
}

/// Who builds the memory before an exploration begins, and is no part of it.
pub const BUILDER: u32 = 1000;

/// The calling process's number: 1 for the first of a scenario, and so on.
pub fn pid() -> u32 {
    with(|current| current.pid)
}

/// While a scenario's memory is built: what follows is done as process `pid`, which the scenario
/// will have.
///
/// # Panics
/// Inside of an explored process.
pub fn become_process(pid: u32) {
    assert!(!run::is_exploring(), "a process stays who it is");
    with(|current| current.pid = pid);
}

/// While a scenario's memory is built: process `pid`, which the scenario will not have, dies. What
/// it held is marked.
///
/// # Panics
/// Inside of an explored process.
pub fn end_process(pid: u32) {
    assert!(!run::is_exploring(), "a process dies by the explorer's hand");
    let words: Vec<usize> = with(|current| {
        let (dead, held) = std::mem::take(&mut current.kernel.held)
            .into_iter()
            .partition::<Vec<_>, _>(|(holder, _)| *holder == pid);
        current.kernel.held = held;
        dead.into_iter().map(|(_, word)| word).collect()
    });
    for word in words {
        // Nobody sleeps yet.
        mark(word, pid);
    }
    with(|current| current.ended.push(pid));
}

/// What the kernel writes into the life word at `address` when its holder ends; whether it wakes
/// one of those who sleep on it. Where the word was cleared just before, it wakes one too.
pub(super) fn mark(address: usize, holder: u32) -> bool {
    // SAFETY: registered by `hold` from a reference into an arena that lives.
    let word = unsafe { std::sync::atomic::AtomicU32::from_ptr(address as *mut u32) };
    let now = word.load(std::sync::atomic::Ordering::Relaxed);
    if now & FUTEX_TID_MASK != holder {
        return now == 0;
    }
    let waiters = now & FUTEX_WAITERS;
    word.store(waiters | FUTEX_OWNER_DIED, std::sync::atomic::Ordering::Relaxed);
    waiters != 0
}

/// Whether that process is certainly dead. A number that nobody has is a dead one's.
#[track_caller]
pub fn is_dead(pid: u32) -> bool {
    let answer = || u64::from(with(|current| current.is_dead(pid)));
    run::kernel_access("is it dead", pid as usize, Location::caller(), answer) != Some(0)
}

/// Has the kernel mark `word` when this process dies.
pub fn hold(word: &AtomicU32) {
    let address = std::ptr::from_ref(word).expose_provenance();
    run::unseen(|current| current.kernel.held.push((current.pid, address)));
}

/// The thread that holds `word` writes its process's number into it: `false` where it has ended,
/// and its word was marked. The threads of a killed process end one by one.
#[track_caller]
pub fn take(word: &AtomicU32) -> bool {
    let (address, from) = (std::ptr::from_ref(word).addr(), Location::caller());
    let access = Access { op: "take", address, width: size_of::<u32>(), may_lie: false, from };
    let taken = run::access(&access, |_| {
        let (pid, lives) =
            with(|current| (current.pid, current.kernel.held.contains(&(current.pid, address))));
        if lives {
            word.poke(pid);
        }
        lives.into()
    });
    taken != Some(0)
}

/// Takes [`hold`] back.
pub fn let_go(word: &AtomicU32) {
    let address = std::ptr::from_ref(word).addr();
    run::unseen(|current| {
        let mine = (current.pid, address);
        current.kernel.held.retain(|held| *held != mine);
    });
}

/// Sleeps while each word is as expected, until one of them is woken, or for some time if `timed`.
///
/// Comparing and going to sleep is one step.
///
/// # Panics
/// Outside of an exploration, where it would sleep: nobody would wake it.
#[track_caller]
pub fn sleep(words: &[(&AtomicU32, u32)], timed: bool) -> Slept {
    sleep_on(words, &[], timed)
}

/// As [`sleep`], and until one of `pids` is dead.
///
/// # Panics
/// As [`sleep`].
#[track_caller]
pub fn sleep_beside(pids: &[u32], words: &[(&AtomicU32, u32)], timed: bool) -> Slept {
    sleep_on(words, pids, timed)
}

/// Sleeps until `pid` is dead, or for some time if `timed`.
///
/// # Panics
/// As [`sleep`].
#[track_caller]
pub fn sleep_until_dead(pid: u32, timed: bool) -> Slept {
    sleep_on(&[], &[pid], timed)
}

#[track_caller]
fn sleep_on(words: &[(&AtomicU32, u32)], deaths: &[u32], timed: bool) -> Slept {
    let beds = words.iter().map(|(word, _)| std::ptr::from_ref(*word).addr()).collect();
    let lives = || deaths.iter().all(|pid| with(|current| !current.is_dead(*pid)));
    let as_expected = || words.iter().all(|(word, expected)| word.peek() == *expected) && lives();
    let bed = Bed { words: beds, deaths: deaths.to_vec() };
    go_to_bed(bed, timed, Location::caller(), as_expected)
}

fn go_to_bed(
    bed: Bed,
    timed: bool,
    at: &'static Location<'static>,
    is_asleep: impl Fn() -> bool,
) -> Slept {
    let mut sleeps = false;
    let answer = run::kernel_access("sleep", timed.into(), at, || {
        sleeps = is_asleep();
        if sleeps && timed && with(|current| current.may_time_out()) { TIMED_OUT } else { WOKEN }
    });
    match answer {
        Some(TIMED_OUT) => return Slept::TimedOut,
        Some(_) if sleeps => {}
        _ => return Slept::Woken,
    }
    if !run::is_exploring() {
        assert!(timed, "nobody would wake who sleeps outside of an exploration");
        return Slept::TimedOut;
    }
    with(|current| {
        current.log.pop();
        current.kernel.sleepers.push(Sleeper { pid: current.pid, bed, timed });
    });
    run::stop(Stop::Sleeps);
    Slept::Woken
}

/// Wakes up to `count` of those who sleep on `word`. Where there are more, each choice is a branch:
/// a kernel wakes in the order of priorities, which are not ours to know.
#[track_caller]
pub fn wake(word: &AtomicU32, count: u32) {
    let address = std::ptr::from_ref(word).addr();
    run::kernel_access("wake", address, Location::caller(), || {
        with(|current| {
            let asleep = current.kernel.on(address);
            let first = if asleep.len() > count as usize {
                current.alternatives.choices = asleep.len();
                current.choice
            } else {
                0
            };
            for pid in asleep.iter().cycle().skip(first).take(asleep.len().min(count as usize)) {
                current.kernel.wake(*pid);
                current.woken.push(*pid);
            }
        });
        0
    });
}
