//! A state: all that the rest of an exploration depends on, and its hash.
use super::kernel::{Kernel, WOKEN};
use super::run::Vain;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::rc::Rc;
use xxhash_rust::xxh3::Xxh3;

/// Memory, kernel and processes. What a step does not change is shared with the state before.
#[derive(Clone)]
pub(super) struct State {
    pub(super) memory: Rc<Vec<u8>>,
    pub(super) kernel: Rc<Kernel>,
    pub(super) processes: Vec<Rc<Position>>,
    pub(super) deaths_left: u32,
    pub(super) lies_left: u32,
    pub(super) lied: bool,
    /// Who acted last, and how often it may still be interrupted, where that is bounded.
    pub(super) turn: Option<(usize, u32)>,
}

/// Where a process is.
#[derive(Clone, Default)]
pub(super) struct Position {
    /// Which of its actions.
    pub(super) action: usize,
    /// What the accesses of that action returned.
    pub(super) log: Vec<u64>,
    /// What it has said, and how much of that in actions that are done.
    pub(super) said: Vec<u64>,
    pub(super) settled: usize,
    pub(super) life: Life,
    /// It goes on when somebody else has changed something.
    pub(super) yields: bool,
    pub(super) vain: Vain,
    pub(super) has_ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub(super) enum Life {
    #[default]
    Lives,
    /// It was killed, and the kernel marks its life words.
    Dying,
    Dead,
}

impl State {
    /// Whether the process could make its next access now.
    pub(super) fn can_step(&self, process: usize) -> bool {
        let position = &self.processes[process];
        let asleep = self.kernel.sleeper(process as u32 + 1).is_some();
        position.life == Life::Lives && !position.has_ended && !position.yields && !asleep
    }

    /// Whether `process` may act next, where interruptions are bounded.
    pub(super) fn may_act(&self, process: usize) -> bool {
        match self.turn {
            Some((last, 0)) => last == process || !self.can_step(last),
            _ => true,
        }
    }

    /// `process` acts next.
    pub(super) fn give_turn(&mut self, process: usize) {
        let Some((last, left)) = self.turn else { return };
        let interrupts = last != process && self.can_step(last);
        self.turn = Some((process, left - u32::from(interrupts)));
    }
}

impl Position {
    /// Somebody else has changed something.
    pub(super) fn news(&mut self) {
        self.vain = Vain::default();
        if std::mem::take(&mut self.yields) {
            self.log.push(WOKEN);
        }
    }

    pub(super) fn is_news_to(&self) -> bool {
        self.yields || self.vain != Vain::default()
    }
}

impl Hash for Position {
    /// What the present action has said follows from its log.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Position { action, log, said, settled, life, yields, vain, has_ended } = self;
        (action, life, yields, vain, has_ended, log).hash(hasher);
        said[..*settled].hash(hasher);
    }
}

/// States that have been visited, by their 128-bit hashes: two that share one would be taken for
/// the same, once in 10²⁴ pairs of a million states.
#[derive(Default)]
pub(super) struct Seen {
    hashes: HashSet<u128, BuildHasherDefault<AsIs>>,
}

impl Seen {
    /// Whether this is the first time.
    pub(super) fn is_new(&mut self, state: &State) -> bool {
        let mut hasher = Xxh3::new();
        let State { memory, kernel, processes, deaths_left, lies_left, lied, turn } = state;
        hasher.update(memory);
        (kernel, processes, deaths_left, lies_left, lied, turn).hash(&mut hasher);
        self.hashes.insert(hasher.digest128())
    }

    pub(super) fn count(&self) -> u64 {
        self.hashes.len() as u64
    }
}

/// A hash needs no hashing.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
