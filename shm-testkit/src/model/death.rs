//! Death at any access.
use super::runtime;
use core::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What an access of the running process may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// It takes place.
    Happens,
    /// The process is dead and unwinding: nothing takes place.
    Dropped,
}

/// Payload of the unwind that stands for SIGKILL.
struct Died;

pub(super) const IMMORTAL: u32 = u32::MAX;

runtime::thread_local! {
    static FUEL: Cell<u32> = Cell::new(IMMORTAL);
    static DEAD: Cell<bool> = Cell::new(false);
}

/// Whether the running process is dead and unwinding.
pub fn is_dead() -> bool {
    DEAD.with(Cell::get)
}

/// One access of the running process: spends fuel, or dies.
///
/// The atomics call it. Who makes a stand-in of another kind (a system call, a payload word) calls
/// it first, and does nothing where the effect is [`Effect::Dropped`].
pub fn step() -> Effect {
    if is_dead() {
        return Effect::Dropped;
    }
    match FUEL.with(Cell::get) {
        IMMORTAL => Effect::Happens,
        0 => {
            DEAD.with(|dead| dead.set(true));
            resume_unwind(Box::new(Died))
        }
        left => {
            FUEL.with(|fuel| fuel.set(left - 1));
            Effect::Happens
        }
    }
}

/// Runs `process` with `fuel` accesses to live; `None` where it died. With `u32::MAX` it lives.
///
/// Destructors run by the unwind have no effect on modelled memory. What the kernel does at a death
/// (marking a life word) is the caller's next line.
pub fn mortal<R>(fuel: u32, process: impl FnOnce() -> R) -> Option<R> {
    FUEL.with(|f| f.set(fuel));
    let end = catch_unwind(AssertUnwindSafe(process));
    FUEL.with(|f| f.set(IMMORTAL));
    DEAD.with(|dead| dead.set(false));
    match end {
        Ok(value) => Some(value),
        Err(payload) if payload.is::<Died>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// A process of a sweep that lets several die: how long it lives, and how often it has died.
#[derive(Clone, Debug)]
pub struct Life {
    pub(super) fuel: u32,
    pub(super) deaths: Deaths,
}

impl Life {
    /// One that does not end by itself.
    pub fn endless() -> Life {
        Life { fuel: IMMORTAL, deaths: Deaths::default() }
    }

    /// Runs `process`, and notes it if that dies: `None`.
    pub fn run<R>(&self, process: impl FnOnce() -> R) -> Option<R> {
        let end = mortal(self.fuel, process);
        if end.is_none() {
            self.deaths.died();
        }
        end
    }
}

/// Counts deaths across the executions of one sweep.
#[derive(Clone, Debug, Default)]
pub struct Deaths(Arc<AtomicU64>);

impl Deaths {
    /// Notes that the mortal process of this execution died.
    pub fn died(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How many have been noted.
    pub fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
