//! `EventCount`: no wake-up is lost, whichever of the two sides dies where.
#![cfg(all(shm_loom, not(shm_shuttle)))]
use shm_core::event::EventCount;
use shm_core::futex::Futex;
use shm_core::mapping::{Mapped, Mapping};
use shm_core::sync::{AtomicU32, Ordering};
use shm_testkit::model::{self, Deaths};

struct Shared {
    event: EventCount,
    life: Futex,
    full: AtomicU32,
}
// SAFETY: modelled atomics.
unsafe impl shm_core::ShmSync for Shared {}

const HOLDER: u32 = 7;
const FUTEX_WAITERS: u32 = 0x8000_0000;
/// Held, and the kernel is to wake who sleeps on it.
const HELD: u32 = FUTEX_WAITERS | HOLDER;

fn shared() -> Mapped<Shared> {
    let mapping = Mapping::heap(4096);
    let value =
        Shared { event: EventCount::new(), life: Futex::new(HELD), full: AtomicU32::new(0) };
    // SAFETY: nobody else has the mapping yet.
    unsafe { Mapped::place(&mapping, 0, value) }.unwrap()
}

/// A notifier that may die at any access; a sleeper that waits for it and for its life word.
fn scenario(fuel: u32, deaths: &Deaths) {
    let shared = shared();
    let (theirs, deaths) = (shared.clone(), deaths.clone());
    let notifier = model::thread::spawn(move || {
        let end = model::mortal(fuel, || {
            theirs.full.store(1, Ordering::Relaxed);
            theirs.event.notify();
        });
        if end.is_none() {
            deaths.died();
        }
        theirs.life.mark_owner_died(HOLDER);
    });
    loop {
        let ticket = shared.event.prepare();
        if shared.full.load(Ordering::Relaxed) == 1 {
            break;
        }
        let life = shared.life.load(Ordering::Relaxed);
        if life != HELD {
            break;
        }
        shared.event.wait_any(ticket, &[(&shared.life, HELD)], None);
    }
    notifier.join().unwrap();
}

/// A sleeper that may die at any access, beside one that lives and trusts the wake-up alone.
fn a_sleeper_dies(fuel: u32, deaths: &Deaths) {
    let shared = shared();
    let (theirs, deaths) = (shared.clone(), deaths.clone());
    let mortal = model::thread::spawn(move || {
        if model::mortal(fuel, || sleep(&theirs)).is_none() {
            deaths.died();
        }
    });
    let theirs = shared.clone();
    let notifier = model::thread::spawn(move || {
        theirs.full.store(1, Ordering::Relaxed);
        theirs.event.notify();
    });
    sleep(&shared);
    mortal.join().unwrap();
    notifier.join().unwrap();
}

fn sleep(shared: &Shared) {
    loop {
        let ticket = shared.event.prepare();
        if shared.full.load(Ordering::Relaxed) == 1 {
            break;
        }
        shared.event.wait(ticket, None);
    }
}

/// Nobody dies, and the sleeper trusts the wake-up alone.
fn alone() {
    let shared = shared();
    let theirs = shared.clone();
    let notifier = model::thread::spawn(move || {
        theirs.full.store(1, Ordering::Relaxed);
        theirs.event.notify();
    });
    sleep(&shared);
    notifier.join().unwrap();
}

#[test]
fn a_notifier_may_die_anywhere() {
    let tried = model::every_death(scenario);
    println!("event: {tried:?}");
    assert!(tried.deaths > 0);
}

#[test]
fn a_sleeper_may_die_anywhere() {
    let tried = model::every_death(a_sleeper_dies);
    println!("event, sleeper: {tried:?}");
    assert!(tried.deaths > 0);
}

#[test]
fn both_fences_matter() {
    let found = model::every_ordering_matters(&["src/event.rs"], || {
        model::check(alone);
    });
    assert_eq!(found, 4, "each as AcqRel, and taken away");
}

/// Planted bug: the sleeper looks first and announces itself afterwards.
#[test]
fn finds_a_sleeper_that_does_not_look_again() {
    model::finds("deadlock", || {
        model::check(|| {
            let shared = shared();
            let theirs = shared.clone();
            let notifier = model::thread::spawn(move || {
                theirs.full.store(1, Ordering::Relaxed);
                theirs.event.notify();
            });
            while shared.full.load(Ordering::Relaxed) == 0 {
                let ticket = shared.event.prepare();
                shared.event.wait(ticket, None);
            }
            notifier.join().unwrap();
        });
    });
}

/// One notifier may die; the sleeper waits for the other one, which lives, and for nobody's life.
fn one_of_two_notifiers_dies(fuel: u32, deaths: &Deaths) {
    let shared = shared();
    let (first, second, deaths) = (shared.clone(), shared.clone(), deaths.clone());
    let mortal = model::thread::spawn(move || {
        if model::mortal(fuel, || first.event.notify()).is_none() {
            deaths.died();
        }
    });
    let living = model::thread::spawn(move || {
        second.full.store(1, Ordering::Relaxed);
        second.event.notify();
    });
    sleep(&shared);
    mortal.join().unwrap();
    living.join().unwrap();
}

#[test]
fn a_dead_notifier_does_not_swallow_the_next_ones_wake_up() {
    let tried = model::every_death(one_of_two_notifiers_dies);
    println!("event, two notifiers: {tried:?}");
    assert!(tried.deaths > 0);
}
