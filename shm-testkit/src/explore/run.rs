//! The process that runs now: answers from its log, one new access, and the unwind at the next.
use super::arena::Arenas;
use super::kernel::{self, Kernel};
use super::trace::Event;
use std::cell::RefCell;
use std::panic::{Location, resume_unwind};
use std::rc::Rc;

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Outside of an exploration: it takes place.
    Plain,
    /// In a process: it is answered from the log, or it is the new one.
    Running,
    /// In a process that is stopped and unwinds: nothing takes place, destructors included.
    Stopped,
}

/// Why a run ended before its process did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// It has had its accesses.
    Spent,
    /// It sleeps.
    Sleeps,
    /// It waits for somebody else to change something.
    Yields,
    /// It does nothing more, and keeps what it has.
    Stays,
    /// It accessed what is no part of the shared memory.
    Outside,
}

/// Payload of the unwind at a run's end.
pub(super) struct Stopped;

/// Other ways in which the last access could have gone.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Alternatives {
    /// Sleepers that a wake-up may choose between.
    pub(super) choices: usize,
    /// Lies that the access could have been told.
    pub(super) lies: usize,
}

/// Since somebody else last changed something: what the process has done in vain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Vain {
    pub(super) yielded: bool,
    pub(super) timed_out: bool,
}

/// The process that runs now, or the builder.
#[derive(Debug)]
pub(super) struct Current {
    mode: Mode,
    pub(super) pid: u32,
    pub(super) kernel: Kernel,
    pub(super) arenas: Arenas,
    /// What its accesses returned.
    pub(super) log: Vec<u64>,
    /// How much of it has been replayed.
    position: usize,
    /// Words (of 4 bytes) that somebody changes in this exploration. Loads of all others are no
    /// steps: they find the same whenever they are made.
    pub(super) loud: Rc<Vec<bool>>,
    /// Loads of quiet words that may still be made, and whether they may.
    quiet_spare: Option<u32>,
    /// New accesses it may still make.
    pub(super) spare: u32,
    /// Somebody was lied to, be it right now.
    pub(super) lied: bool,
    /// It runs alone: a sleep with a limit ends at once.
    pub(super) alone: bool,
    pub(super) vain: Vain,
    pub(super) said: Vec<u64>,
    /// Which sleeper to wake, and which lie to tell.
    pub(super) choice: usize,
    pub(super) lie: Option<usize>,
    pub(super) alternatives: Alternatives,
    pub(super) woken: Vec<u32>,
    pub(super) stop: Option<Stop>,
    /// The newest accesses, oldest first: of a step the one.
    pub(super) events: Vec<Event>,
    /// Ended by `end_process`, before an exploration.
    pub(super) ended: Vec<u32>,
}

/// Changes are noted by words of so many bytes.
pub(super) const WORD: usize = 4;
/// So many loads of quiet words a run may make: enough to end any loop that ends.
const QUIET_MAX: u32 = 10_000;

/// So many of the newest accesses are kept for a message.
const EVENTS_MAX: usize = 32;

thread_local! {
    static CURRENT: RefCell<Current> = RefCell::new(Current::builder());
}

/// What stands there, and one word that a liar may put in its place.
struct Truth {
    value: u64,
    neighbour: u64,
    width: usize,
}

impl Current {
    fn builder() -> Current {
        Current {
            mode: Mode::Plain,
            pid: kernel::BUILDER,
            kernel: Kernel::default(),
            arenas: Arenas::default(),
            log: Vec::new(),
            position: 0,
            loud: Rc::default(),
            quiet_spare: None,
            spare: 0,
            lied: false,
            alone: false,
            vain: Vain::default(),
            said: Vec::new(),
            choice: 0,
            lie: None,
            alternatives: Alternatives::default(),
            woken: Vec::new(),
            stop: None,
            events: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// The next access: where its answer comes from.
    fn turn(&mut self, op: &'static str, at: usize, from: &'static Location<'static>) -> Turn {
        if self.position < self.log.len() {
            self.position += 1;
            return Turn::Answered(self.log[self.position - 1]);
        }
        if std::thread::panicking() {
            // Its own panic: that is a finding already.
            return Turn::Dropped;
        }
        if self.spare == 0 {
            return self.halt(Stop::Spent);
        }
        self.spare -= 1;
        self.note(Event { op, at, from: Some(from), value: 0, lie: false, quiet: false });
        Turn::New(None)
    }

    fn note(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.remove(0);
        }
        self.events.push(event);
    }

    /// Whether this is a load that is no step.
    fn is_quiet(&mut self, access: &Access) -> bool {
        let Some(spare) = self.quiet_spare.filter(|spare| *spare > 0) else { return false };
        let is_load = matches!(access.op, "load" | "look again");
        let is_new = self.position == self.log.len() && !std::thread::panicking();
        let Some(at) = self.arenas.offset(access.address, access.width) else { return false };
        let mut words = at / WORD..(at + access.width).div_ceil(WORD);
        let is_quiet = is_load && is_new && !words.any(|word| self.loud[word]);
        if is_quiet {
            self.quiet_spare = Some(spare - 1);
            let (op, from) = (access.op, Some(access.from));
            self.note(Event { op, at, from, value: 0, lie: false, quiet: true });
        }
        is_quiet
    }

    fn halt(&mut self, why: Stop) -> Turn {
        self.mode = Mode::Stopped;
        self.stop = Some(why);
        Turn::Halt
    }

    /// As `turn`, for an access of memory, which may be lied to.
    fn memory_turn(&mut self, access: &Access) -> Turn {
        if self.is_quiet(access) {
            return Turn::New(None);
        }
        let turn = self.turn(access.op, access.address, access.from);
        let Turn::New(_) = turn else { return turn };
        let Some(at) = self.arenas.offset(access.address, access.width) else {
            return self.halt(Stop::Outside);
        };
        if let Some(event) = self.events.last_mut() {
            event.at = at;
        }
        if !access.may_lie {
            return turn;
        }
        let Truth { value, neighbour, width } = Truth {
            value: self.arenas.peek(at, access.width).unwrap_or(0),
            neighbour: self.arenas.peek(at + access.width, access.width).unwrap_or(0),
            width: access.width,
        };
        let lies = lies(value, neighbour, width);
        self.alternatives.lies = lies.len();
        Turn::New(self.lie.and_then(|which| lies.get(which).copied()))
    }

    fn answer(&mut self, value: u64, lie: bool) {
        self.log.push(value);
        self.position += 1;
        if let Some(event) = self.events.last_mut() {
            (event.value, event.lie) = (value, lie);
        }
    }

    /// Before an exploration everybody lives but who was ended; in it, who is in the scenario.
    pub(super) fn is_dead(&self, pid: u32) -> bool {
        match self.mode {
            Mode::Plain => self.ended.contains(&pid),
            _ => self.kernel.is_dead(pid),
        }
    }

    /// Whether a sleep with a limit ends here and now: where there is nobody else to act.
    pub(super) fn may_time_out(&mut self) -> bool {
        self.alone && !std::mem::replace(&mut self.vain.timed_out, true)
    }
}

/// What a peer might write instead: all bits off or on, off by one, another sign, another word.
fn lies(truth: u64, neighbour: u64, width: usize) -> Vec<u64> {
    let mask = u64::MAX >> (64 - 8 * width);
    let flipped = truth ^ 1 << (8 * width - 1);
    let mut all =
        vec![0, mask, truth.wrapping_add(1) & mask, truth.wrapping_sub(1) & mask, flipped];
    all.push(neighbour & mask);
    let mut lies: Vec<u64> = Vec::new();
    for lie in all {
        if lie != truth && !lies.contains(&lie) {
            lies.push(lie);
        }
    }
    lies
}

enum Turn {
    Plain,
    Answered(u64),
    /// The new one; with the lie it is told.
    New(Option<u64>),
    Dropped,
    Halt,
}

/// One access of memory by the code under test.
pub(super) struct Access {
    pub(super) op: &'static str,
    pub(super) address: usize,
    pub(super) width: usize,
    pub(super) may_lie: bool,
    pub(super) from: &'static Location<'static>,
}

/// Whether somebody was lied to: what peers promise each other need not hold any more.
pub fn is_after_a_lie() -> bool {
    with(|current| current.mode != Mode::Plain && current.lied)
}

/// The state of the running process. Not to be called from within itself.
pub(super) fn with<R>(f: impl FnOnce(&mut Current) -> R) -> R {
    CURRENT.with_borrow_mut(f)
}

/// Whether the caller is part of an exploration.
pub fn is_exploring() -> bool {
    with(|current| current.mode != Mode::Plain)
}

/// What `effect` returns, now or in an earlier run; it gets the lie that the access is told, and
/// then acts as if that had stood there. `None`: nothing takes place any more.
#[inline]
pub(super) fn access(access: &Access, effect: impl FnOnce(Option<u64>) -> u64) -> Option<u64> {
    let turn = with(|current| match current.mode {
        Mode::Plain => Turn::Plain,
        Mode::Stopped => Turn::Dropped,
        Mode::Running => current.memory_turn(access),
    });
    take(turn, effect)
}

/// The same for a call of the kernel's, which does not lie.
pub(super) fn kernel_access(
    op: &'static str,
    at: usize,
    from: &'static Location<'static>,
    effect: impl FnOnce() -> u64,
) -> Option<u64> {
    let turn = with(|current| match current.mode {
        Mode::Plain => Turn::Plain,
        Mode::Stopped => Turn::Dropped,
        Mode::Running => current.turn(op, at, from),
    });
    take(turn, |_| effect())
}

fn take(turn: Turn, effect: impl FnOnce(Option<u64>) -> u64) -> Option<u64> {
    match turn {
        Turn::Plain => Some(effect(None)),
        Turn::Answered(value) => Some(value),
        Turn::Dropped => None,
        Turn::Halt => resume_unwind(Box::new(Stopped)),
        Turn::New(lie) => {
            let value = effect(lie);
            with(|current| current.answer(value, lie.is_some()));
            Some(value)
        }
    }
}

/// Something that no other process can see: done once, with the access before it.
pub(super) fn unseen(effect: impl FnOnce(&mut Current)) {
    with(|current| match current.mode {
        Mode::Plain => effect(current),
        Mode::Stopped => {}
        Mode::Running if current.position < current.log.len() => current.position += 1,
        Mode::Running if std::thread::panicking() => {}
        Mode::Running => {
            effect(current);
            current.log.push(0);
            current.position += 1;
        }
    });
}

/// Ends the run here.
pub(super) fn stop(why: Stop) {
    with(|current| {
        current.halt(why);
    });
    resume_unwind(Box::new(Stopped));
}

/// Waits for somebody else to do something: the process goes on once, and after that not before
/// memory or the kernel's state was changed by another one. So logs stay finite.
///
/// Outside of an exploration it gives the processor away.
pub fn yield_now() {
    let waits = with(|current| match current.mode {
        Mode::Plain => {
            std::thread::yield_now();
            false
        }
        Mode::Stopped => false,
        Mode::Running if current.position < current.log.len() => {
            current.position += 1;
            false
        }
        Mode::Running if std::thread::panicking() => false,
        Mode::Running => {
            let waits = std::mem::replace(&mut current.vain.yielded, true);
            if !waits {
                current.log.push(0);
                current.position += 1;
            }
            waits
        }
    });
    if waits {
        stop(Stop::Yields);
    }
}

/// As [`yield_now`].
pub fn spin_loop() {
    yield_now();
}

/// What a process is about to do next.
pub(super) struct Start<'s> {
    pub(super) pid: u32,
    pub(super) log: Vec<u64>,
    pub(super) said: Vec<u64>,
    pub(super) vain: Vain,
    pub(super) kernel: &'s Kernel,
    pub(super) spare: u32,
    /// Quiet loads are no steps.
    pub(super) skips_quiet: bool,
    pub(super) lied: bool,
    pub(super) alone: bool,
    pub(super) choice: usize,
    pub(super) lie: Option<usize>,
}

/// Makes the calling thread a process. [`leave`] ends it.
pub(super) fn enter(start: Start<'_>) {
    with(|current| {
        current.mode = Mode::Running;
        current.pid = start.pid;
        current.kernel.clone_from(start.kernel);
        (current.log, current.said) = (start.log, start.said);
        current.position = 0;
        (current.vain, current.spare, current.alone) = (start.vain, start.spare, start.alone);
        (current.choice, current.lie) = (start.choice, start.lie);
        current.lied = start.lied || start.lie.is_some();
        current.quiet_spare = start.skips_quiet.then_some(QUIET_MAX);
        current.alternatives = Alternatives::default();
        current.stop = None;
        current.woken.clear();
        current.events.clear();
    });
}

/// Back outside of the exploration, with what `f` takes from the process that has run.
pub(super) fn leave<R>(f: impl FnOnce(&mut Current) -> R) -> R {
    with(|current| {
        current.mode = Mode::Plain;
        f(current)
    })
}

/// As if nothing had happened on this thread: its last arena is gone.
pub(super) fn reset() {
    // A thread that ends may have none any more.
    let _ = CURRENT.try_with(|current| *current.borrow_mut() = Current::builder());
}

/// What an explored process says of itself.
#[derive(Debug)]
pub struct Me {
    pub(super) pid: u32,
    pub(super) before: Vec<u64>,
}

impl Me {
    /// Its number in the scenario, from 1.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Acknowledges something, to be read in the check at the end: it counts as said when the
    /// process dies right after its last access. A later action of the same process sees it too.
    pub fn say(&self, value: u64) {
        with(|current| {
            if current.mode == Mode::Running {
                current.said.push(value);
            }
        });
    }

    /// What it did since it waited last was not in vain: it may [wait](yield_now) anew, although
    /// nobody else has changed anything. To be called as often as it gets on, which is to be
    /// bounded.
    pub fn got_on(&self) {
        with(|current| {
            if current.mode == Mode::Running && current.position == current.log.len() {
                current.vain.yielded = false;
            }
        });
    }

    /// Does nothing more for as long as it lives, and keeps what it has: destructors run without
    /// effect, as at a death.
    pub fn stay(&self) {
        if is_exploring() {
            stop(Stop::Stays);
        }
    }

    /// What its earlier actions have said.
    pub fn said(&self) -> &[u64] {
        &self.before
    }
}
