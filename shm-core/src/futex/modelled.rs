//! The kernel of a model: sleepers and the words they sleep on.
//!
//! A sleeper is woken only by a wake on one of its own words, never by accident: an accidental wake
//! would hide a lost one. Comparing and going to sleep is one step, as in the kernel. There is no
//! time: a sleep with a deadline gives the others a turn and ends.
use super::{Futex, Wake};
use crate::sync;
use shm_testkit::model;
use shm_testkit::model::runtime::sync::{Condvar, Mutex};
use std::time::Instant;

struct Sleeper {
    words: Vec<usize>,
    woken: bool,
}

struct Kernel {
    sleepers: Mutex<Vec<Option<Sleeper>>>,
    changed: Condvar,
}

shm_testkit::model::runtime::lazy_static! {
    static ref KERNEL: Kernel =
        Kernel { sleepers: Mutex::new(Vec::new()), changed: Condvar::new() };
}

fn address(futex: &Futex) -> usize {
    std::ptr::from_ref(futex).addr()
}

pub(super) fn wait(futex: &Futex, expected: u32, deadline: Option<Instant>) -> Wake {
    wait_any(&[(futex, expected)], deadline)
}

pub(super) fn wait_any(words: &[(&Futex, u32)], deadline: Option<Instant>) -> Wake {
    if model::step() == model::Effect::Dropped {
        return Wake::Woken;
    }
    let mut sleepers = KERNEL.sleepers.lock().unwrap();
    if words.iter().any(|(futex, expected)| futex.word.kernel_load() != *expected) {
        return Wake::Woken;
    }
    if deadline.is_some() {
        drop(sleepers);
        sync::yield_now();
        return Wake::TimedOut;
    }
    let me = sleepers.len();
    let words = words.iter().map(|(futex, _)| address(futex)).collect();
    sleepers.push(Some(Sleeper { words, woken: false }));
    while sleepers[me].as_ref().is_some_and(|s| !s.woken) {
        sleepers = KERNEL.changed.wait(sleepers).unwrap();
    }
    sleepers[me] = None;
    Wake::Woken
}

pub(super) fn wake(futex: &Futex, count: u32) {
    if model::step() == model::Effect::Dropped {
        return;
    }
    wake_by_kernel(futex, count);
}

/// A wake that the kernel does by itself, as for the life word of a dead process.
pub(super) fn wake_by_kernel(futex: &Futex, count: u32) {
    let address = address(futex);
    let mut sleepers = KERNEL.sleepers.lock().unwrap();
    let on_it = sleepers.iter_mut().flatten().filter(|s| !s.woken && s.words.contains(&address));
    for sleeper in on_it.take(count as usize) {
        sleeper.woken = true;
    }
    drop(sleepers);
    KERNEL.changed.notify_all();
}

/// A model's kernel always can.
pub fn waitv_works() -> bool {
    true
}

impl Futex {
    /// Wakes all sleepers, as the second half of a call whose step has been taken.
    pub(crate) fn wake_by_kernel(&self) {
        if !model::is_dead() {
            wake_by_kernel(self, u32::MAX);
        }
    }

    /// What the kernel does when a thread ends whose pending robust word this is: marks it and
    /// wakes one sleeper if the word says that there are any; where the word was just cleared,
    /// wakes one. Nothing where somebody other than `holder` holds it.
    pub fn mark_owner_died(&self, holder: u32) {
        const FUTEX_WAITERS: u32 = 0x8000_0000;
        const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
        const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
        loop {
            let word = self.word.kernel_load();
            if word == 0 {
                return wake_by_kernel(self, 1);
            }
            if word & FUTEX_TID_MASK != holder {
                return;
            }
            let waiters = word & FUTEX_WAITERS;
            if self.word.kernel_compare_exchange(word, waiters | FUTEX_OWNER_DIED) {
                if waiters != 0 {
                    wake_by_kernel(self, 1);
                }
                return;
            }
        }
    }
}

/// In a model no time passes.
pub fn now_ms() -> u64 {
    0
}
