//! `EventCount` under the explorer: no wake-up is lost, whichever of several sleepers and notifiers
//! die, and wherever.
#![cfg(shm_explore)]
use shm_core::event::EventCount;
use shm_core::futex::{Futex, Wake};
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU32, Ordering::Relaxed};
use shm_testkit::explore::kernel::{self, FUTEX_OWNER_DIED, FUTEX_WAITERS};
use shm_testkit::explore::{Process, Scenario, finds, is_deep};
use std::time::Instant;

/// All zero at first.
#[repr(C)]
struct Shared {
    event: EventCount,
    life: Futex,
    full: AtomicU32,
    spare: AtomicU32,
}
// SAFETY: atomics only.
unsafe impl shm_core::ShmSync for Shared {}

fn shared() -> Mapped<Shared> {
    Mapped::new(&Mapping::heap(size_of::<Shared>()), 0).unwrap()
}

fn scenario<'a>(name: &str) -> Scenario<'a> {
    Scenario::new("event", name)
}

/// Sleeps until `full` is at least `wanted`, and trusts the wake-up alone.
fn sleeper(shared: &Shared, wanted: u32) -> Process<'_> {
    Process::new("sleeper", move |me| {
        loop {
            let ticket = shared.event.prepare();
            if shared.full.load(Relaxed) >= wanted {
                return me.say(1);
            }
            shared.event.wait(ticket, None);
        }
    })
}

/// Changes something and says so.
fn notifier(shared: &Shared) -> Process<'_> {
    Process::new("notifier", |_| {
        shared.full.fetch_add(1, Relaxed);
        shared.event.notify();
    })
    .never_waits()
}

/// Says something without having changed anything.
fn alarmist(shared: &Shared) -> Process<'_> {
    Process::new("alarmist", |_| shared.event.notify()).never_waits().mortal()
}

#[test]
fn no_sleeper_is_forgotten_whoever_dies() {
    let shared = shared();
    let two = scenario("two sleepers, two notifiers").deaths(1);
    let two = two.process(sleeper(&shared, 2).mortal()).process(sleeper(&shared, 1).mortal());
    two.process(notifier(&shared)).process(notifier(&shared)).explore();
    let deaths = if is_deep() { 3 } else { 1 };
    let one = scenario("a sleeper, a notifier, two alarmists").deaths(deaths);
    let one = one.process(sleeper(&shared, 1).mortal()).process(notifier(&shared));
    let one = one.process(alarmist(&shared)).process(alarmist(&shared));
    one.states_at_most(if is_deep() { 2_000_000 } else { 150_000 }).explore();
}

/// The notifier may die between its change and its wake-up: who sleeps on its life word too learns
/// of it. The kernel wakes one of them, who passes it on.
#[test]
fn a_sleeper_on_a_life_word_is_not_forgotten() {
    let shared = shared();
    kernel::become_process(1);
    kernel::hold(shared.life.word());
    shared.life.word().store(1, Relaxed);
    let notifier = Process::new("notifier", |_| {
        shared.full.store(1, Relaxed);
        shared.event.notify();
    });
    let sleeper = || {
        Process::new("sleeper", |_| {
            loop {
                let ticket = shared.event.prepare();
                if shared.full.load(Relaxed) == 1 {
                    return;
                }
                let life = shared.life.load(Relaxed);
                if life & FUTEX_OWNER_DIED != 0 {
                    return shared.life.wake_all();
                }
                let armed = life | FUTEX_WAITERS;
                if shared.life.word().compare_exchange(life, armed, Relaxed, Relaxed).is_ok() {
                    shared.event.wait_any(ticket, &[(&shared.life, armed)], None);
                    shared.life.wake_all();
                }
            }
        })
    };
    let scenario = scenario("a life word").lingering().deaths(1);
    scenario.process(notifier.mortal()).process(sleeper()).process(sleeper()).explore();
}

/// A lock in one word. Its holder wakes one of those who wait.
#[test]
fn one_of_several_is_woken() {
    let shared = shared();
    let locks = || {
        Process::new("locks", |_| {
            let futex = &shared.life;
            while futex.word().swap(2, Relaxed) != 0 {
                futex.wait(2, None);
            }
            assert_eq!(shared.full.fetch_add(1, Relaxed), 0, "two hold it");
            shared.full.store(0, Relaxed);
            futex.word().store(0, Relaxed);
            futex.wake_one();
        })
    };
    scenario("a lock").process(locks()).process(locks()).process(locks()).explore();
}

/// A sleep with a limit ends by itself, and leaves nothing that hurts the others.
#[test]
fn a_sleep_that_times_out_does_no_harm() {
    let shared = shared();
    let impatient = Process::new("impatient", |me| {
        let ticket = shared.event.prepare();
        if shared.full.load(Relaxed) == 0 {
            let wake = shared.event.wait(ticket, Some(Instant::now()));
            me.say(u64::from(wake == Wake::TimedOut));
        }
    });
    let scenario = scenario("one is impatient").deaths(2);
    let scenario = scenario.process(impatient.mortal()).process(sleeper(&shared, 1));
    scenario.process(notifier(&shared)).process(alarmist(&shared)).explore();
}

#[test]
fn a_lie_does_no_harm() {
    let shared = shared();
    let lies = if is_deep() { 4 } else { 3 };
    let scenario = scenario(&format!("{lies} lies")).lies(lies);
    scenario.process(sleeper(&shared, 1)).process(notifier(&shared)).explore();
}

/// Planted bug: it announces itself after it has looked.
#[test]
fn finds_a_sleeper_that_does_not_look_again() {
    let shared = shared();
    let hasty = Process::new("sleeper", |_| {
        while shared.full.load(Relaxed) == 0 {
            let ticket = shared.event.prepare();
            shared.event.wait(ticket, None);
        }
    });
    finds("everybody waits: sleeper", || {
        scenario("hasty").process(hasty).process(notifier(&shared)).explore()
    });
}
